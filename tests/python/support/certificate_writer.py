"""Writes DER and certificates, right ones and wrong ones.

By hand and not with the package's readers, so that a test can bend any byte and a mistake in a reader cannot cancel out.
Keys come from labels and signatures are deterministic: the same call, the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

# --- DER -----------------------------------------------------------------------------------------


def tlv(tag: int, content: bytes) -> bytes:
    head = tag.to_bytes((tag.bit_length() + 7) // 8)
    size = len(content)
    if size < 128:
        return head + bytes([size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return head + bytes([0x80 | len(length)]) + length + content


def seq(*items: bytes) -> bytes:
    return tlv(0x30, b"".join(items))


def set_of(*items: bytes) -> bytes:
    """The items in the order given; DER wants them sorted, devices do not always."""
    return tlv(0x31, b"".join(items))


def ctx(number: int, *items: bytes) -> bytes:
    if number < 31:
        tag = 0xA0 | number
    elif number < 128:
        tag = 0xBF00 | number
    else:
        tag = 0xBF8000 | (number >> 7) << 8 | number & 0x7F
    return tlv(tag, b"".join(items))


def integer(value: int, tag: int = 0x02) -> bytes:
    magnitude = value if value >= 0 else ~value
    return tlv(tag, value.to_bytes(magnitude.bit_length() // 8 + 1, signed=True))


def enumerated(value: int) -> bytes:
    return integer(value, 0x0A)


def octets(value: bytes) -> bytes:
    return tlv(0x04, value)


def boolean(value: bool) -> bytes:
    return tlv(0x01, b"\xff" if value else b"\x00")


NULL = tlv(0x05, b"")


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        out += bytes(reversed(groups))
    return tlv(0x06, bytes(out))


def time(value: datetime) -> bytes:
    if 1950 <= value.year < 2050:
        return tlv(0x17, value.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(0x18, value.strftime("%Y%m%d%H%M%SZ").encode())


_ATTRIBUTES = {"cn": "2.5.4.3", "serial": "2.5.4.5", "o": "2.5.4.10", "title": "2.5.4.12"}


def name(**attributes: str) -> bytes:
    return seq(*(set_of(seq(oid(_ATTRIBUTES[key]), tlv(0x0C, text.encode()))) for key, text in attributes.items()))


# --- keys ----------------------------------------------------------------------------------------


def key(label: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """A private key that anybody can compute from its label."""
    scalar = int.from_bytes(hashlib.sha256(label.encode()).digest()) >> 1
    return ec.derive_private_key(scalar, curve or ec.SECP256R1())


def spki(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def point(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def ecdsa(private: ec.EllipticCurvePrivateKey, data: bytes, digest: HashAlgorithm | None = None) -> bytes:
    return private.sign(data, ec.ECDSA(digest or SHA256(), deterministic_signing=True))


# --- certificates --------------------------------------------------------------------------------

ECDSA_SHA256, ECDSA_SHA384 = "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3"
BASIC_CONSTRAINTS, KEY_USAGE, NAME_CONSTRAINTS = "2.5.29.19", "2.5.29.15", "2.5.29.30"
KEY_DESCRIPTION = "1.3.6.1.4.1.11129.2.1.17"
APPLE_NONCE = "1.2.840.113635.100.8.2"


def extension(identifier: str, value: bytes, critical: bool = False) -> bytes:
    return seq(oid(identifier), *([boolean(True)] if critical else []), octets(value))


def basic_constraints(is_ca: bool, path_length: int | None = None) -> bytes:
    parts = [boolean(True)] if is_ca else []
    parts += [] if path_length is None else [integer(path_length)]
    return extension(BASIC_CONSTRAINTS, seq(*parts), critical=True)


def key_usage(*bits: int) -> bytes:
    value = sum(0x80 >> bit for bit in bits)
    unused = 7 - max(bits)
    return extension(KEY_USAGE, tlv(0x03, bytes([unused, value])), critical=True)


CA = (basic_constraints(True), key_usage(5))


@dataclass(frozen=True)
class Cert:
    """A certificate to be made; every field may be bent."""

    subject: bytes
    issuer: bytes
    public: bytes
    signer: ec.EllipticCurvePrivateKey
    extensions: tuple[bytes, ...] = ()
    serial: int = 1
    not_before: datetime = NOW - timedelta(days=30)
    not_after: datetime = NOW + timedelta(days=30)
    algorithm: str = ECDSA_SHA256
    parameters: bytes = b""
    outer_algorithm: bytes | None = None
    validity_tail: bytes = b""
    extensions_tail: bytes = b""
    signed_tail: bytes = b""
    tail: bytes = b""
    version: bytes = ctx(0, integer(2))
    digest: HashAlgorithm | None = None

    def der(self) -> bytes:
        algorithm = seq(oid(self.algorithm), self.parameters)
        signed = seq(
            self.version,
            integer(self.serial),
            algorithm,
            self.issuer,
            seq(time(self.not_before), time(self.not_after), self.validity_tail),
            self.subject,
            self.public,
            *([ctx(3, seq(*self.extensions), self.extensions_tail)] if self.extensions else []),
            self.signed_tail,
        )
        signature = tlv(0x03, b"\0" + ecdsa(self.signer, signed, self.digest))
        return seq(signed, self.outer_algorithm or algorithm, signature, self.tail)
