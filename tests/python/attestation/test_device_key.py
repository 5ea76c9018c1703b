"""The proof by which a device renews a license or replaces its key: the vectors of all languages, and each binding."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corelocker.attestation.device_key import proof_secret, seal_secret, verify_device_key
from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.device_key import PROOF_INFO, SoftwareDeviceKey, prove
from corelocker.licensing.errors import EvidenceError, LicenseWrapError
from corelocker.licensing.evidence import DeviceKeyEvidence, Format, evidence_from_json, evidence_to_json
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests/vectors/device_key_proof.json").read_text("utf-8"))
SERVICE_SECRET = bytes.fromhex(VECTORS["service_secret"])
KEY = SoftwareDeviceKey(
    ec.derive_private_key(int.from_bytes(jose.decode_base64url(VECTORS["device_key"]["d"])), ec.SECP256R1())
)


def digest_of(vector: dict[str, Any]) -> bytes:
    token = renewal_token(vector["license_id"])
    members = (vector[name] for name in ("challenge", "app", "bundle", "tier"))
    return AttestedRequest(*members, KEY.public_key, token).digest(Format.DEVICE_KEY)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    assert KEY.thumbprint == VECTORS["device"]
    digest = digest_of(vector)
    assert digest.hex() == vector["digest"]
    sealed = jose.decode_base64url(vector["sealed"])
    if vector["expect"] == "license-wrap":
        with pytest.raises(LicenseWrapError):
            prove(sealed, KEY, digest)
        return
    secret = proof_secret(SERVICE_SECRET, vector["challenge"], KEY.thumbprint)
    assert secret.hex() == vector["secret"]
    evidence = evidence_from_json({"format": "device-key", "proof": vector["proof"]})
    assert isinstance(evidence, DeviceKeyEvidence)
    verdict = verify_device_key(evidence, request_digest=digest, device_key=KEY.public_key, secret=secret)
    assert verdict.reason == vector["expect"]
    if vector["expect"] == "ok":
        assert prove(sealed, KEY, digest) == evidence
        assert verdict.claims is not None
        assert verdict.claims.thumbprint == KEY.thumbprint


@pytest.mark.parametrize("vector", VECTORS["replacements"], ids=lambda vector: vector["name"])
def test_replacements(vector: dict[str, Any]) -> None:
    members = (vector[name] for name in ("challenge", "app", "bundle", "tier"))
    request = AttestedRequest(*members, jose.key_of_jwk(vector["new_device_key"]), vector["purchase_token"])
    digest = request.replacement_digest()
    assert digest.hex() == vector["digest"]
    proof = prove(jose.decode_base64url(vector["sealed"]), KEY, digest)
    assert (jose.encode_base64url(proof.proof) == vector["proof"]) == (vector["expect"] == "ok")
    secret = proof_secret(SERVICE_SECRET, vector["challenge"], KEY.thumbprint)
    assert secret.hex() == vector["secret"]
    shown = DeviceKeyEvidence(jose.decode_base64url(vector["proof"]))
    verdict = verify_device_key(shown, request_digest=digest, device_key=KEY.public_key, secret=secret)
    assert verdict.reason == vector["expect"]


def test_the_vectors_are_made_again_as_they_are(tmp_path: Path) -> None:
    maker = ROOT / "tools/vectors/make_proof_vectors.py"
    subprocess.run([sys.executable, str(maker), "--out", str(tmp_path)], check=True)
    made, kept = (folder / "device_key_proof.json" for folder in (tmp_path, ROOT / "tests/vectors"))
    assert made.read_bytes() == kept.read_bytes()


def test_what_is_sealed_opens_with_this_key_alone() -> None:
    secret = proof_secret(SERVICE_SECRET, "challenge", KEY.thumbprint)
    sealed = seal_secret(secret, KEY.public_key)
    assert len(sealed) == 113
    assert KEY.open(sealed, PROOF_INFO) == secret
    assert seal_secret(secret, KEY.public_key) != sealed
    stranger = SoftwareDeviceKey(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(LicenseWrapError):
        prove(sealed, stranger, bytes(32))


def test_a_secret_is_of_one_service_challenge_and_key() -> None:
    secrets = {
        proof_secret(service, challenge, thumbprint)
        for service in (SERVICE_SECRET, bytes(32))
        for challenge in ("a", "b")
        for thumbprint in ("x", "y")
    }
    assert len(secrets) == 8
    # The parts cannot run into each other.
    assert proof_secret(SERVICE_SECRET, "ab", "c") != proof_secret(SERVICE_SECRET, "a", "bc")


def test_the_request_names_the_device_key() -> None:
    request = AttestedRequest("c", "a", "b", "t", KEY.public_key, "p")
    other = replace(request, device_key=ec.generate_private_key(ec.SECP256R1()).public_key())
    assert request.digest(Format.DEVICE_KEY) != other.digest(Format.DEVICE_KEY)
    assert request.digest(Format.ANDROID_KEY) == other.digest(Format.ANDROID_KEY)


@pytest.mark.parametrize("value", [
    {"format": "device-key"}, {"format": "device-key", "proof": 1}, {"format": "device-key", "proof": "A="},
    {"format": "device-key", "proof": "A" * 44}, {"format": "device-key", "proof": "AA", "more": 1},
    {"format": "device_key", "proof": "AA"},
])  # fmt: skip
def test_evidence_of_another_shape(value: dict[str, object]) -> None:
    with pytest.raises(EvidenceError):
        evidence_from_json(value)


def test_evidence_survives_json() -> None:
    evidence = DeviceKeyEvidence(bytes(range(32)))
    assert evidence_from_json(evidence_to_json(evidence)) == evidence


def test_a_refusal_says_why() -> None:
    verdict = verify_device_key(
        DeviceKeyEvidence(bytes(32)), request_digest=bytes(32), device_key=KEY.public_key, secret=bytes(32)
    )
    assert (verdict.format, verdict.reason, verdict.accepted) == (Format.DEVICE_KEY, Reason.SIGNATURE, False)
