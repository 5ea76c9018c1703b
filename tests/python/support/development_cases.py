"""The cases of `development`, each with one thing bent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.development import verify_development
from corelocker.attestation.verdict import Reason, Verdict
from corelocker.bundle import jose
from corelocker.licensing.development import signed_bytes
from corelocker.licensing.evidence import (
    DevelopmentEvidence,
    Evidence,
    evidence_to_json,
)
from cryptography.hazmat.primitives.asymmetric import ec

from support.attestation_forge import (
    ANCHORS,
)
from support.certificate_writer import (
    CA,
    NOW,
    Cert,
    basic_constraints,
    ecdsa,
    key,
    key_usage,
    name,
    spki,
)

DEVELOPMENT_ROOT = key("development root")
DEVELOPMENT_KEY = key("development key")
DEVELOPMENT_ANCHORS = TrustAnchors((spki(DEVELOPMENT_ROOT),))
REQUEST_DIGEST = hashlib.sha256(b"the canonical request of an emulator").digest()


@dataclass(frozen=True)
class DevelopmentCase:
    """One development attestation, everything it is judged by, and the verdict."""

    name: str
    reason: Reason
    evidence: DevelopmentEvidence
    request_digest: bytes = REQUEST_DIGEST
    environment: str = "development"
    anchors: TrustAnchors = DEVELOPMENT_ANCHORS
    now: datetime = NOW

    def verdict(self) -> Verdict[Any]:
        return verify_development(
            self.evidence,
            request_digest=self.request_digest,
            environment=self.environment,  # type: ignore[arg-type]
            anchors=self.anchors,
            now=self.now,
        )

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "reason": self.reason,
            "attestation": evidence_to_json(self.evidence),
            "request_digest": jose.encode_base64url(self.request_digest),
            "environment": self.environment,
            "anchors": [jose.encode_base64url(item) for item in self.anchors.keys],
            "now": self.now.isoformat(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], evidence: Evidence) -> DevelopmentCase:
        assert isinstance(evidence, DevelopmentEvidence)
        return cls(
            value["name"],
            Reason(value["reason"]),
            evidence,
            jose.decode_base64url(value["request_digest"]),
            value["environment"],
            TrustAnchors(tuple(map(jose.decode_base64url, value["anchors"]))),
            datetime.fromisoformat(value["now"]),
        )


def development_evidence(
    *, private: ec.EllipticCurvePrivateKey = DEVELOPMENT_KEY, signed: bytes | None = None, **bent: Any
) -> DevelopmentEvidence:
    certificate = Cert(
        name(o="CoreLocker development", cn="emulator"),
        name(o="CoreLocker development", cn="root"),
        spki(DEVELOPMENT_KEY),
        DEVELOPMENT_ROOT,
        (basic_constraints(False), key_usage(0)),
    )
    data = signed_bytes(REQUEST_DIGEST) if signed is None else signed
    return DevelopmentEvidence(replace(certificate, **bent).der(), ecdsa(private, data))


def _dev(label: str, reason: Reason, settings: Mapping[str, Any] | None = None, **bent: Any) -> DevelopmentCase:
    return DevelopmentCase(label, reason, development_evidence(**bent), **(settings or {}))


def development_cases() -> list[DevelopmentCase]:
    other = key("somebody else")
    return [
        _dev("development", Reason.OK),
        _dev("in-production", Reason.WRONG_ENVIRONMENT, {"environment": "production"}),
        _dev("untrusted-root", Reason.UNTRUSTED_ROOT, signer=other),
        _dev("root-of-android", Reason.UNTRUSTED_ROOT, {"anchors": ANCHORS}),
        _dev("expired", Reason.CERTIFICATE_EXPIRED, {"now": NOW + timedelta(days=31)}),
        _dev("not-yet", Reason.CERTIFICATE_NOT_YET_VALID, {"now": NOW - timedelta(days=31)}),
        _dev("a-ca", Reason.LEAF_IS_CA, extensions=CA),
        _dev("on-p384", Reason.KEY_TYPE, public=spki(key("x", ec.SECP384R1()))),
        _dev("other-request", Reason.SIGNATURE, {"request_digest": bytes(32)}),
        _dev("other-key", Reason.SIGNATURE, private=other),
        _dev("without-domain", Reason.SIGNATURE, signed=REQUEST_DIGEST),
        DevelopmentCase("malformed", Reason.MALFORMED, DevelopmentEvidence(b"\x30", b"")),
        DevelopmentCase("no-signature", Reason.SIGNATURE, replace(development_evidence(), signature=b"")),
    ]
