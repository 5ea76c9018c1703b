"""App Attest objects that real iPhones made: what the Swift client encodes of them is what the service reads and accepts."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from corelocker.attestation.anchors import APPLE_ROOTS
from corelocker.attestation.apple_app_attest import AppAttestPolicy, verify_app_assertion, verify_app_attestation
from corelocker.licensing.evidence import AppAssertEvidence, AppAttestEvidence, evidence_from_json

OTHERS = Path(__file__).resolve().parents[1] / "vectors/attestation/others/apple_appattest"


@dataclass(frozen=True)
class Recorded:
    """What a device gave.

    Attributes:
        attested, asserted: the object and its clientDataHash; Apple's guide has no assertion.
        counter: of the assertion.
    """

    key_id: bytes
    attested: tuple[bytes, bytes]
    asserted: tuple[bytes, bytes] | None
    counter: int
    policy: AppAttestPolicy
    time: datetime


def recorded() -> list[Recorded]:
    return [_guide(), _bas_d(), *map(_veehaitch, sorted((OTHERS / "veehaitch").glob("*.yaml")))]


def _guide() -> Recorded:
    params = json.loads((OTHERS / "apple_guide_2024/params.json").read_text())
    attestation = base64.b64decode((OTHERS / "apple_guide_2024/test_attestation_object.b64").read_text())
    return Recorded(
        base64.b64decode(params["keyId"]), (attestation, params["challenge"].encode()), None, 0,
        AppAttestPolicy(params["appId"], "production"), datetime.fromisoformat(params["verify_at"]),
    )  # fmt: skip


def _bas_d() -> Recorded:
    case = json.loads((OTHERS / "bas-d/case.json").read_text())

    def part(name: str, object_name: str) -> tuple[bytes, bytes]:
        data, made = (base64.urlsafe_b64decode(case[name][key] + "==") for key in ("clientData", object_name))
        return made, hashlib.sha256(data).digest()

    return Recorded(
        base64.b64decode(case["attestation"]["keyID"]), part("attestation", "attestationObject"), part("assertion", "assertion"),
        3, AppAttestPolicy(case["appId"], case["env"]), datetime.fromisoformat(case["verify_at"]),
    )  # fmt: skip


def _veehaitch(path: Path) -> Recorded:
    parts = {document["type"]: document for document in yaml.safe_load_all(path.read_text()) if document}
    attested, asserted = parts["attestation"], parts["assertion"]

    def part(document: dict[str, str], name: str) -> tuple[bytes, bytes]:
        return base64.b64decode(document[name]), base64.b64decode(document["clientDataHashSha256Base64"])

    app_id = f"{attested['teamIdentifier']}.{attested['bundleIdentifier']}"
    return Recorded(
        base64.b64decode(attested["keyIdBase64"]), part(attested, "attestationBase64"), part(asserted, "assertionBase64"),
        asserted["counter"], AppAttestPolicy(app_id, attested["environment"]),
        datetime.fromisoformat(attested["timestamp"]),
    )  # fmt: skip


def write(path: Path) -> None:
    """For the Swift tests: texts in padded base64, as Apple's API and the tests take them."""

    def texts(part: tuple[bytes, bytes] | None) -> list[str]:
        return [base64.b64encode(data).decode() for data in part or ()]

    path.write_text(json.dumps([
        {"key": base64.b64encode(r.key_id).decode(), "attested": texts(r.attested), "asserted": texts(r.asserted)}
        for r in recorded()
    ]))  # fmt: skip


def accepted(path: Path) -> bool:
    """Whether the service's verifier accepts each evidence that Swift wrote, under Apple's root and at its time."""
    written = json.loads(path.read_text())
    for number, device in enumerate(recorded()):
        evidence = written[str(number)]
        attested = evidence_from_json(evidence["attested"])
        assert isinstance(attested, AppAttestEvidence)
        verdict = verify_app_attestation(
            attested, client_data_hash=device.attested[1], policy=device.policy, anchors=APPLE_ROOTS, now=device.time
        )
        if verdict.claims is None or attested.attestation != device.attested[0]:
            return False
        if device.asserted is None:
            continue
        asserted = evidence_from_json(evidence["asserted"])
        assert isinstance(asserted, AppAssertEvidence)
        later = verify_app_assertion(
            asserted, client_data_hash=device.asserted[1], public_key=verdict.claims.public_key,
            last_counter=device.counter - 1, policy=device.policy,
        )  # fmt: skip
        if not later.accepted:
            return False
    print(f"App Attest of {len(written)} real devices: accepted as Swift encodes it")
    return True
