"""One X.509 certificate as attestation uses it: names are bytes, the key is its DER, extensions are read on demand.

cryptography's parser refuses leaves with NULL ECDSA parameters, which Google accepts. Keys, curve points and signatures
are cryptography's all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from corelocker.attestation.der import SEQUENCE, SET, DerError, Reader, context
from corelocker.attestation.verdict import Reason, Refusal
from corelocker.licensing.evidence import MAX_CERTIFICATE

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

BASIC_CONSTRAINTS = "2.5.29.19"
KEY_USAGE = "2.5.29.15"
NAME_CONSTRAINTS = "2.5.29.30"
_KEY_CERT_SIGN = 5

_ECDSA = {
    "1.2.840.10045.4.3.2": ec.ECDSA(hashes.SHA256()),
    "1.2.840.10045.4.3.3": ec.ECDSA(hashes.SHA384()),
    "1.2.840.10045.4.3.4": ec.ECDSA(hashes.SHA512()),
}
_RSA = {
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
}


def fingerprint(spki: bytes) -> str:
    """The SHA-256 of a DER SubjectPublicKeyInfo, in hex."""
    return hashlib.sha256(spki).hexdigest()


@dataclass(frozen=True, slots=True)
class Extension:
    """The extension's `critical` flag and the content of its OCTET STRING."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A version 3 certificate (RFC 5280, 4.1), its names and its key as DER."""

    signed: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    spki: bytes
    extensions: Mapping[str, Extension]
    signature_algorithm: str
    signature: bytes


def parse_certificate(data: bytes) -> Certificate:
    """Read a DER certificate. Refuses with MALFORMED or TOO_LARGE."""
    if len(data) > MAX_CERTIFICATE:
        raise Refusal(Reason.TOO_LARGE, "a certificate is too large")
    try:
        return _certificate(data)
    except DerError as error:
        raise Refusal(Reason.MALFORMED, f"a certificate is malformed: {error}") from error


def _certificate(data: bytes) -> Certificate:
    outermost = Reader(data)
    outer = outermost.inside(SEQUENCE)
    outermost.end()
    signed = outer.element(SEQUENCE)
    algorithm = outer.element(SEQUENCE)
    signature = outer.bits()
    outer.end()

    body = Reader(signed).inside(SEQUENCE)
    version = body.inside(context(0))
    if version.integer() != 2:
        raise DerError("not version 3")
    version.end()
    serial = body.integer()
    if serial < 0:
        raise DerError("a negative serial number")
    if body.element(SEQUENCE) != algorithm:
        raise DerError("two signature algorithms")
    issuer = body.element(SEQUENCE)
    validity = body.inside(SEQUENCE)
    not_before, not_after = validity.time(), validity.time()
    validity.end()
    subject = body.element(SEQUENCE)
    spki = body.element(SEQUENCE)
    extensions: dict[str, Extension] = {}
    if body.more():
        field = body.inside(context(3))
        items = field.inside(SEQUENCE)
        field.end()
        while items.more():
            item = items.inside(SEQUENCE)
            oid = item.oid()
            critical = item.tag() == 0x01 and item.boolean()
            if oid in extensions:
                raise DerError("an extension comes twice")
            extensions[oid] = Extension(critical, item.octets())
            item.end()
    body.end()
    return Certificate(
        signed, serial, issuer, subject, not_before, not_after, spki, extensions, _algorithm(algorithm), signature
    )


def _algorithm(element: bytes) -> str:
    """The object identifier of an AlgorithmIdentifier whose parameters are absent or NULL.

    NULL is wrong for ECDSA (RFC 5758, 3.2) but a generation of StrongBox chips writes it; it means nothing either way.
    """
    reader = Reader(element).inside(SEQUENCE)
    oid = reader.oid()
    if oid in _ECDSA or oid in _RSA:
        if reader.more():
            reader.null()
        reader.end()
    return oid


# Issuers are shared by many devices: they are read, and their signatures checked, once (an exception is not cached).
parse_issuer = lru_cache(maxsize=512)(parse_certificate)
# A few leaves: whoever verifies a chain may read it again for what it says beyond the verdict.
parse_leaf = lru_cache(maxsize=32)(parse_certificate)


@lru_cache(maxsize=512)
def public_key(spki: bytes) -> PublicKey:
    """The EC (P-256, P-384, P-521) or RSA (2048 bits or more) key in a SubjectPublicKeyInfo.

    Refuses every other kind with UNSUPPORTED_ALGORITHM, and with MALFORMED what is no key.
    """
    try:
        key = load_der_public_key(spki)
    except UnsupportedAlgorithm as error:
        raise Refusal(Reason.UNSUPPORTED_ALGORITHM, "a certificate holds a key of an unknown kind") from error
    except (ValueError, TypeError) as error:
        raise Refusal(Reason.MALFORMED, "a certificate holds a key that is malformed") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise Refusal(Reason.UNSUPPORTED_ALGORITHM, "a certificate holds a key of a kind that attestation does not use")


def p256_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key in a SubjectPublicKeyInfo. Refuses other keys with KEY_TYPE."""
    key = public_key(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refusal(Reason.KEY_TYPE, "the attested key is not on the curve P-256")
    return key


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """The 65 bytes (X9.62, uncompressed) of a P-256 key."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def name_attributes(name: bytes) -> list[tuple[str, str]]:
    """The (object identifier, text) pairs of a DER Name, in order. Refuses with MALFORMED."""
    return list(_parse_name(name))


@lru_cache(maxsize=512)
def _parse_name(name: bytes) -> tuple[tuple[str, str], ...]:
    pairs = []
    try:
        outer = Reader(name).inside(SEQUENCE)
        while outer.more():
            relative = outer.inside(SET)
            while relative.more():
                attribute = relative.inside(SEQUENCE)
                pairs.append((attribute.oid(), attribute.any()[1].decode("utf-8", "replace")))
    except DerError as error:
        raise Refusal(Reason.MALFORMED, f"a name is malformed: {error}") from error
    return tuple(pairs)


def is_signed_by(certificate: Certificate, spki: bytes) -> bool:
    """Whether the key signed the certificate. Refuses unknown algorithms with UNSUPPORTED_ALGORITHM."""
    if certificate.signature_algorithm not in _ECDSA and certificate.signature_algorithm not in _RSA:
        raise Refusal(Reason.UNSUPPORTED_ALGORITHM, "a certificate is signed with an unknown algorithm")
    try:
        _verify(certificate.signed, certificate.signature_algorithm, certificate.signature, spki)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=512)
def _verify(signed: bytes, algorithm: str, signature: bytes, spki: bytes) -> None:
    key = public_key(spki)
    if isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
        key.verify(signature, signed, _ECDSA[algorithm])
    elif isinstance(key, rsa.RSAPublicKey) and algorithm in _RSA:
        key.verify(signature, signed, padding.PKCS1v15(), _RSA[algorithm])
    else:
        raise InvalidSignature


def basic_constraints(certificate: Certificate) -> tuple[bool, int | None]:
    """Whether the certificate is a CA's, and its path length constraint."""
    extension = certificate.extensions.get(BASIC_CONSTRAINTS)
    return (False, None) if extension is None else _parse_basic_constraints(extension.value)


@lru_cache(maxsize=64)
def _parse_basic_constraints(value: bytes) -> tuple[bool, int | None]:
    try:
        outer = Reader(value)
        inner = outer.inside(SEQUENCE)
        outer.end()
        is_ca = inner.tag() == 0x01 and inner.boolean()
        length = inner.integer() if inner.more() else None
        inner.end()
    except DerError as error:
        raise Refusal(Reason.MALFORMED, f"basic constraints are malformed: {error}") from error
    return is_ca, length


def may_sign_certificates(certificate: Certificate) -> bool:
    extension = certificate.extensions.get(KEY_USAGE)
    return extension is None or _KEY_CERT_SIGN in _parse_key_usage(extension.value)


@lru_cache(maxsize=64)
def _parse_key_usage(value: bytes) -> frozenset[int]:
    try:
        reader = Reader(value)
        usages = reader.named_bits()
        reader.end()
    except DerError as error:
        raise Refusal(Reason.MALFORMED, f"key usage is malformed: {error}") from error
    return usages
