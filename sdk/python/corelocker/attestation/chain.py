"""X.509 chains as attestation uses them: trust anchors are public keys, the paths are short.

cryptography's own path validation cannot be used: it refuses factory chains whose CAs have expired, which Google accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from corelocker.attestation.certificates import (
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    Certificate,
    basic_constraints,
    fingerprint,
    is_signed_by,
    may_sign_certificates,
    parse_issuer,
    parse_leaf,
    public_key,
)
from corelocker.attestation.verdict import Reason, Refusal
from corelocker.errors import ConfigError
from corelocker.licensing.evidence import MAX_CHAIN


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
    return (parse_leaf(chain[0]), *(parse_issuer(data) for data in chain[1:]))


def find_anchor(chain: tuple[Certificate, ...], anchors: TrustAnchors) -> Path:
    """Where the chain's last certificate holds an anchor's key, or is signed by one. Refuses with UNTRUSTED_ROOT."""
    last = chain[-1]
    if last.spki in anchors.keys and len(chain) > 1:
        return Path(chain[:-1], last.spki, last.subject)
    for key in anchors.keys:
        if _can_sign(key) and is_signed_by(last, key):
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
        only_in_leaf: an extension that no certificate above the leaf may have (CHAIN_EXTENDED). It is looked for before
            anything else, so that the reason names the attack and not the CA rule or path length that it breaks as well.
        non_ca_issuer: whether the leaf's issuer may be what `_is_marked_issuer` describes instead of a CA.
    """
    for below, certificate in enumerate(path.certificates):
        if below > 0 and only_in_leaf in certificate.extensions:
            raise Refusal(Reason.CHAIN_EXTENDED, f"certificate {below} is an attested key that issued another")
    key, name = path.anchor, path.anchor_name
    for below, certificate in reversed(list(enumerate(path.certificates))):
        if name is not None and certificate.issuer != name:
            raise Refusal(Reason.CHAIN_NAMES, f"certificate {below} names another issuer than the one above it")
        if not is_signed_by(certificate, key):
            raise Refusal(Reason.CHAIN_SIGNATURE, f"certificate {below} is not signed by the one above it")
        if below == 0:
            if basic_constraints(certificate)[0]:
                raise Refusal(Reason.LEAF_IS_CA, "the attested key belongs to a CA")
        elif not (below == 1 and non_ca_issuer and _is_marked_issuer(certificate)):
            _require_ca(certificate, below)
        _check_validity(
            certificate, below, now, begin=below > 0 or leaf_validity, end=expiry if below else leaf_validity
        )
        for oid, extension in certificate.extensions.items():
            if extension.critical and oid not in (BASIC_CONSTRAINTS, KEY_USAGE):
                raise Refusal(Reason.CRITICAL_EXTENSION, f"certificate {below} has an unknown critical extension")
        key, name = certificate.spki, certificate.subject
    public_key(path.leaf.spki)


def _check_validity(certificate: Certificate, below: int, now: datetime, *, begin: bool, end: bool) -> None:
    if begin and now < certificate.not_before:
        raise Refusal(Reason.CERTIFICATE_NOT_YET_VALID, f"certificate {below} is not valid yet")
    if end and now > certificate.not_after:
        raise Refusal(Reason.CERTIFICATE_EXPIRED, f"certificate {below} has expired")


def _require_ca(certificate: Certificate, below: int) -> None:
    """A CA that may have `below` certificates under it, of which the leaf does not count (RFC 5280, 4.2.1.9)."""
    is_ca, length = basic_constraints(certificate)
    if not is_ca or (length is not None and length < below - 1) or not may_sign_certificates(certificate):
        raise Refusal(Reason.ISSUER_NOT_CA, f"certificate {below} may not issue the one below it")


def _is_marked_issuer(certificate: Certificate) -> bool:
    """Whether this is an attestation key of the first generation of keyboxes (2016, still in phones on sale later).

    Their certificates say CA:FALSE, yet carry name constraints, which only a CA has (RFC 5280, 4.2.1.10): Google made
    them so that they certify keys and nothing else. Callers allow this where the certificate's place in the chain
    shows that a factory CA issued it.
    """
    return BASIC_CONSTRAINTS in certificate.extensions and NAME_CONSTRAINTS in certificate.extensions


def _can_sign(anchor: bytes) -> bool:
    """Whether the anchor's key is of a kind whose signatures count: the software root of RSA 1024 bits is not."""
    try:
        public_key(anchor)
    except Refusal:
        return False
    return True
