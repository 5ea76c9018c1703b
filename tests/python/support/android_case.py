"""A case of `android-key`: a chain, everything it is judged by, the verdict; and how to bend a valid one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from corelocker.attestation.android_key import AndroidKeyPolicy, verify_android_key
from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.key_description import SecurityLevel
from corelocker.attestation.revocation import RevocationList
from corelocker.attestation.verdict import Reason, Verdict
from corelocker.bundle import jose
from corelocker.licensing.evidence import (
    AndroidKeyEvidence,
    Evidence,
    evidence_to_json,
)
from cryptography.hazmat.primitives.asymmetric import ec

from support.attestation_forge import (
    ANCHORS,
    CHALLENGE,
    DEVICE_KEY,
    FACTORY_ISSUER,
    REMOTE_ISSUER,
    android_chain,
    android_policy,
    described,
    factory,
    key_description,
    leaf,
)
from support.certificate_writer import (
    ECDSA_SHA256,
    KEY_DESCRIPTION,
    NAME_CONSTRAINTS,
    NOW,
    NULL,
    Cert,
    basic_constraints,
    ctx,
    extension,
    integer,
    key,
    key_usage,
    name,
    oid,
    seq,
    spki,
    tlv,
)


def status_list(*serials: str, status: str = "REVOKED") -> bytes:
    return json.dumps({"entries": {serial: {"status": status} for serial in serials}}).encode()


CLEAN_LIST = status_list("dead")


@dataclass(frozen=True)
class AndroidCase:
    """One chain, everything it is judged by, and the verdict."""

    name: str
    reason: Reason
    chain: tuple[bytes, ...]
    challenge: bytes = CHALLENGE
    device_key: ec.EllipticCurvePublicKey = field(default_factory=DEVICE_KEY.public_key)
    policy: AndroidKeyPolicy = field(default_factory=android_policy)
    anchors: TrustAnchors = ANCHORS
    revocation: bytes | None = CLEAN_LIST
    fetched_at: datetime = NOW
    now: datetime = NOW
    integrity_token: str | None = None

    def verdict(self) -> Verdict[Any]:
        revocation = None if self.revocation is None else RevocationList.parse(self.revocation, self.fetched_at)
        return verify_android_key(
            AndroidKeyEvidence(self.chain, self.integrity_token),
            challenge=self.challenge,
            device_key=self.device_key,
            policy=self.policy,
            anchors=self.anchors,
            revocation=revocation,
            now=self.now,
        )

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "reason": self.reason,
            "attestation": evidence_to_json(AndroidKeyEvidence(self.chain, self.integrity_token)),
            "challenge": jose.encode_base64url(self.challenge),
            "device_key": jose.public_jwk(self.device_key),
            "policy": {
                **asdict(self.policy),
                "signer_digests": [digest.hex() for digest in sorted(self.policy.signer_digests)],
                "purposes": sorted(self.policy.purposes),
                "max_revocation_age": int(self.policy.max_revocation_age.total_seconds()),
            },
            "anchors": [jose.encode_base64url(item) for item in self.anchors.keys],
            "revocation": None if self.revocation is None else json.loads(self.revocation),
            "revocation_fetched_at": self.fetched_at.isoformat(),
            "now": self.now.isoformat(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], evidence: Evidence) -> AndroidCase:
        assert isinstance(evidence, AndroidKeyEvidence)
        policy = {
            **value["policy"],
            "signer_digests": frozenset(bytes.fromhex(item) for item in value["policy"]["signer_digests"]),
            "purposes": frozenset(value["policy"]["purposes"]),
            "minimum_security_level": SecurityLevel(value["policy"]["minimum_security_level"]),
            "max_revocation_age": timedelta(seconds=value["policy"]["max_revocation_age"]),
        }
        return cls(
            value["name"],
            Reason(value["reason"]),
            evidence.chain,
            jose.decode_base64url(value["challenge"]),
            jose.key_of_jwk(value["device_key"]),
            AndroidKeyPolicy(**policy),
            TrustAnchors(tuple(map(jose.decode_base64url, value["anchors"]))),
            None if value["revocation"] is None else json.dumps(value["revocation"]).encode(),
            datetime.fromisoformat(value["revocation_fetched_at"]),
            datetime.fromisoformat(value["now"]),
            evidence.integrity_token,
        )


def case(label: str, reason: Reason, chain: tuple[bytes, ...] | None = None, **settings: Any) -> AndroidCase:
    return AndroidCase(label, reason, android_chain() if chain is None else chain, **settings)


def kd(label: str, reason: Reason, policy: AndroidKeyPolicy | None = None, **bent: Any) -> AndroidCase:
    return case(label, reason, described(**bent), policy=policy or android_policy())


def damaged(label: str, description: bytes) -> AndroidCase:
    return case(f"malformed-{label}", Reason.MALFORMED, android_chain(description=description))


def leaf_case(label: str, reason: Reason, **bent: Any) -> AndroidCase:
    return case(label, reason, android_chain(**bent))


def issuer_case(label: str, reason: Reason, *extensions: bytes) -> AndroidCase:
    """A factory attestation key with these extensions."""
    return case(label, reason, android_chain(factory(extensions=extensions)))


def above(label: str, reason: Reason, *above: Cert, **settings: Any) -> AndroidCase:
    return case(label, reason, android_chain(list(above)), **settings)


def revoked(label: str, listed: str, serial: int = 0xABC, status: str = "REVOKED") -> AndroidCase:
    """A factory attestation key of this serial number, and a list with this entry."""
    chain = android_chain(factory(serial=serial))
    return case(label, Reason.CERTIFICATE_REVOKED, chain, revocation=status_list(listed, status=status))


LEAF_EXTENSIONS = (key_usage(4), extension(KEY_DESCRIPTION, key_description()))
NO_CA_BELOW = (basic_constraints(True, 0), key_usage(5))
NOT_CA_MARKED = (
    basic_constraints(False),
    key_usage(0),
    extension(NAME_CONSTRAINTS, seq(ctx(0, seq(tlv(0x82, b"invalid"))))),
)
# 1952 octets: ML-DSA-65 (FIPS 204), 2.16.840.1.101.3.4.3.18.
ML_DSA = "2.16.840.1.101.3.4.3.18"
ML_DSA_KEY = seq(seq(oid(ML_DSA)), tlv(0x03, b"\0" + hashlib.shake_128(b"ml-dsa").digest(1952)))


def rsa(bits: int) -> bytes:
    """An RSA key that nobody has the private half of."""
    modulus = int.from_bytes(hashlib.shake_128(b"n").digest(bits // 8)) | 1 << (bits - 1) | 1
    return seq(seq(oid("1.2.840.113549.1.1.1"), NULL), tlv(0x03, b"\0" + seq(integer(modulus), integer(65537))))


def extra_ca(above: list[Cert]) -> list[Cert]:
    """One CA more between the attestation key and what issued it."""
    issuer, parent, *rest = above
    middle = name(cn="one more")
    signer = issuer.signer
    extra = replace(issuer, subject=middle, public=spki(key("one more")), serial=77)
    below = replace(issuer, issuer=middle, signer=key("one more"), algorithm=ECDSA_SHA256, digest=None)
    return [below, replace(extra, signer=signer), parent, *rest]


def extended(above: list[Cert] | None = None, **first: Any) -> tuple[bytes, ...]:
    """A chain whose attested leaf (bent by `first`) issued a second leaf for a key of the attacker's choice."""
    above = factory() if above is None else above
    app_key = key("attest key of the app")
    signer = FACTORY_ISSUER if above[0].public == spki(FACTORY_ISSUER) else REMOTE_ISSUER
    attested = leaf(above[0].subject, signer, subject=name(cn="of the app"), public=spki(app_key))
    attested = replace(attested, **first)
    fake = leaf(attested.subject, app_key)
    return (fake.der(), attested.der(), *(cert.der() for cert in above))


def cut(chain: tuple[bytes, ...], index: int, data: bytes) -> tuple[bytes, ...]:
    return (*chain[:index], data, *chain[index + 1 :])
