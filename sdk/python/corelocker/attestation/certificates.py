"""X.509 chains as attestation uses them: trust anchors are public keys, the paths are short, the names are bytes.

cryptography's own path validation cannot be used: it refuses factory chains whose CAs have expired and leaves with NULL
ECDSA parameters, both of which Google accepts. Keys, curve points and signatures are cryptography's all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from corelocker.attestation.der import SEQUENCE, SET, DerError, Reader, context
from corelocker.attestation.verdict import Reason, Refusal
from corelocker.errors import ConfigError
from corelocker.licensing.evidence import MAX_CERTIFICATE, MAX_CHAIN

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_NAME_CONSTRAINTS = "2.5.29.30"
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


# --- trust anchors -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The public keys (DER SubjectPublicKeyInfo) that a chain may end in.

    Keys and not certificates: Google has issued four root certificates for one key, and chains may leave the root out.
    """

    keys: tuple[bytes, ...]

    @classmethod
    def from_pem(cls, *pems: str) -> Self:
        """The anchors in PEM certificates and PEM public keys. Raises ConfigError."""
        keys: dict[bytes, None] = {}
        for pem in pems:
            try:
                if "BEGIN CERTIFICATE" in pem:
                    public = [c.public_key() for c in x509.load_pem_x509_certificates(pem.encode())]
                else:
                    public = [load_pem_public_key(pem.encode())]  # type: ignore[list-item]
                for key in public:
                    keys[key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)] = None
            except (ValueError, UnsupportedAlgorithm) as error:
                raise ConfigError("a trust anchor is neither a PEM certificate nor a PEM public key") from error
        return cls(tuple(keys))

    def __add__(self, other: TrustAnchors) -> TrustAnchors:
        return TrustAnchors(tuple(dict.fromkeys(self.keys + other.keys)))


def fingerprint(spki: bytes) -> str:
    """The SHA-256 of a DER SubjectPublicKeyInfo, in hex."""
    return hashlib.sha256(spki).hexdigest()


# --- one certificate -----------------------------------------------------------------------------


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
_parse_issuer = lru_cache(maxsize=512)(parse_certificate)
# A few leaves: whoever verifies a chain may read it again for what it says beyond the verdict.
_parse_leaf = lru_cache(maxsize=32)(parse_certificate)


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


# --- a chain -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Path:
    """A chain that ends in a trust anchor.

    Attributes:
        certificates: the certificates below the anchor, the leaf first; at least one.
        anchor: the anchor's key, a DER SubjectPublicKeyInfo.
        anchor_name: the subject of the anchor's certificate where the chain holds it.
    """

    certificates: tuple[Certificate, ...]
    anchor: bytes
    anchor_name: bytes | None

    @property
    def leaf(self) -> Certificate:
        return self.certificates[0]

    @property
    def top(self) -> Certificate:
        """The certificate that the anchor issued."""
        return self.certificates[-1]


def parse_chain(chain: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Read the certificates of a chain, the leaf first. Refuses with MALFORMED, TOO_LARGE or CHAIN_TOO_LONG."""
    if not chain:
        raise Refusal(Reason.MALFORMED, "the chain is empty")
    if len(chain) > MAX_CHAIN:
        raise Refusal(Reason.CHAIN_TOO_LONG, "the chain has too many certificates")
    return (_parse_leaf(chain[0]), *(_parse_issuer(data) for data in chain[1:]))


def find_anchor(chain: tuple[Certificate, ...], anchors: TrustAnchors) -> Path:
    """Where the chain's last certificate holds an anchor's key, or is signed by one. Refuses with UNTRUSTED_ROOT."""
    last = chain[-1]
    if last.spki in anchors.keys and len(chain) > 1:
        return Path(chain[:-1], last.spki, last.subject)
    for key in anchors.keys:
        if _can_sign(key) and _is_signed_by(last, key):
            return Path(chain, key, None)
    raise Refusal(
        Reason.UNTRUSTED_ROOT, f"the chain ends in a root that is not trusted ({fingerprint(last.spki)[:16]})"
    )


def check_path(
    path: Path,
    now: datetime,
    *,
    expiry: bool = True,
    leaf_validity: bool = True,
    only_in_leaf: str | None = None,
    non_ca_issuer: bool = False,
) -> None:
    """Check names, signatures, CA rules and validity from the anchor down to the leaf.

    Args:
        now: the time of the check, with its zone.
        expiry: whether a CA may not be past its end; its beginning is checked in any case.
        leaf_validity: whether the leaf must be within its time.
        only_in_leaf: an extension that no certificate above the leaf may have (CHAIN_EXTENDED).
        non_ca_issuer: whether the leaf's issuer may be what `_is_marked_issuer` describes instead of a CA.
    """
    key, name = path.anchor, path.anchor_name
    for below, certificate in reversed(list(enumerate(path.certificates))):
        if name is not None and certificate.issuer != name:
            raise Refusal(Reason.CHAIN_NAMES, f"certificate {below} names another issuer than the one above it")
        if not _is_signed_by(certificate, key):
            raise Refusal(Reason.CHAIN_SIGNATURE, f"certificate {below} is not signed by the one above it")
        if below == 0:
            if _basic_constraints(certificate)[0]:
                raise Refusal(Reason.LEAF_IS_CA, "the attested key belongs to a CA")
        else:
            if only_in_leaf in certificate.extensions:
                raise Refusal(Reason.CHAIN_EXTENDED, f"certificate {below} is an attested key that issued another")
            if not (below == 1 and non_ca_issuer and _is_marked_issuer(certificate)):
                _require_ca(certificate, below)
        if (below > 0 or leaf_validity) and now < certificate.not_before:
            raise Refusal(Reason.CERTIFICATE_NOT_YET_VALID, f"certificate {below} is not valid yet")
        if (expiry if below > 0 else leaf_validity) and now > certificate.not_after:
            raise Refusal(Reason.CERTIFICATE_EXPIRED, f"certificate {below} has expired")
        for oid, extension in certificate.extensions.items():
            if extension.critical and oid not in (_BASIC_CONSTRAINTS, _KEY_USAGE):
                raise Refusal(Reason.CRITICAL_EXTENSION, f"certificate {below} has an unknown critical extension")
        key, name = certificate.spki, certificate.subject
    public_key(path.leaf.spki)


def _require_ca(certificate: Certificate, below: int) -> None:
    """A CA that may have `below` certificates under it, of which the leaf does not count (RFC 5280, 4.2.1.9)."""
    is_ca, length = _basic_constraints(certificate)
    if not is_ca or (length is not None and length < below - 1) or not _may_sign_certificates(certificate):
        raise Refusal(Reason.ISSUER_NOT_CA, f"certificate {below} may not issue the one below it")


def _basic_constraints(certificate: Certificate) -> tuple[bool, int | None]:
    """Whether the certificate is a CA's, and its path length constraint."""
    extension = certificate.extensions.get(_BASIC_CONSTRAINTS)
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


def _may_sign_certificates(certificate: Certificate) -> bool:
    extension = certificate.extensions.get(_KEY_USAGE)
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


def _is_marked_issuer(certificate: Certificate) -> bool:
    """Whether this is an attestation key of the first generation of keyboxes (2016, still in phones on sale later).

    Their certificates say CA:FALSE, yet carry name constraints, which only a CA has (RFC 5280, 4.2.1.10): Google made
    them so that they certify keys and nothing else. Callers allow this where the certificate's place in the chain
    shows that a factory CA issued it.
    """
    return _BASIC_CONSTRAINTS in certificate.extensions and _NAME_CONSTRAINTS in certificate.extensions


def _can_sign(anchor: bytes) -> bool:
    """Whether the anchor's key is of a kind whose signatures count: the software root of RSA 1024 bits is not."""
    try:
        public_key(anchor)
    except Refusal:
        return False
    return True


def _is_signed_by(certificate: Certificate, spki: bytes) -> bool:
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
