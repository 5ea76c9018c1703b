"""`development`: a key under a development root, for emulators, simulators, CI and `corelocker device`.

It proves nothing about a device; `corelocker.licensing.development` makes it and says what is signed. In production the
format does not exist: the verifier refuses it whatever the anchors are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from corelocker.attestation.certificates import name_attributes, p256_key
from corelocker.attestation.chain import TrustAnchors, check_path, find_anchor, parse_chain
from corelocker.attestation.verdict import Reason, Refusal, Verdict, require_aware
from corelocker.licensing import Environment
from corelocker.licensing.development import signed_bytes
from corelocker.licensing.evidence import DevelopmentEvidence, Format

_COMMON_NAME = "2.5.4.3"


@dataclass(frozen=True, slots=True)
class DevelopmentClaims:
    """Whose development key signed: the name that the root gave it, and its certificate's serial number."""

    name: str
    serial: int


def verify_development(
    evidence: DevelopmentEvidence,
    *,
    request_digest: bytes,
    environment: Environment,
    anchors: TrustAnchors,
    now: datetime,
) -> Verdict[DevelopmentClaims]:
    """Check a development attestation.

    Args:
        evidence: the certificate and the signature.
        request_digest: the canonical request's digest, 32 bytes; it names the device key.
        environment: the service's; only development accepts.
        anchors: the publisher's development roots.
        now: the time, with its zone.
    """
    require_aware(now)
    try:
        claims = _verify(evidence, request_digest, environment, anchors, now)
    except Refusal as refusal:
        return Verdict.refuse(Format.DEVELOPMENT, refusal)
    return Verdict.accept(Format.DEVELOPMENT, claims)


def _verify(
    evidence: DevelopmentEvidence, request_digest: bytes, environment: Environment, anchors: TrustAnchors, now: datetime
) -> DevelopmentClaims:
    if environment != "development":
        raise Refusal(Reason.WRONG_ENVIRONMENT, "development attestation is not for this environment")
    path = find_anchor(parse_chain((evidence.certificate,)), anchors)
    check_path(path, now)
    try:
        p256_key(path.leaf.spki).verify(evidence.signature, signed_bytes(request_digest), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise Refusal(Reason.SIGNATURE, "the signature is not of this request") from error
    names = [text for oid, text in name_attributes(path.leaf.subject) if oid == _COMMON_NAME]
    return DevelopmentClaims(names[0] if names else "", path.leaf.serial)
