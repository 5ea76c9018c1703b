"""Coverage-guided fuzzing of everything that reads evidence: certificates, key descriptions, App Attest objects, lists.

    .venv/bin/python tests/fuzz/fuzz_attestation.py [CORPUS] -max_len=20000 -max_total_time=600

The seeds are the committed vectors. A verdict or a typed error must come out of any bytes, and never a good verdict.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.attestation import apple_app_attest, cbor
    from corelocker.attestation.android_key import AndroidKeyPolicy, verify_android_key
    from corelocker.attestation.apple_app_attest import (
        AppAttestPolicy,
        verify_app_assertion,
        verify_app_attestation,
    )
    from corelocker.attestation.certificates import name_attributes, parse_certificate, public_key
    from corelocker.attestation.chain import TrustAnchors
    from corelocker.attestation.development import verify_development
    from corelocker.attestation.key_description import KEY_DESCRIPTION, parse_key_description
    from corelocker.attestation.play_integrity import PlayIntegrityPolicy, verify_play_integrity
    from corelocker.attestation.revocation import RevocationList
    from corelocker.attestation.verdict import Reason, Refusal
    from corelocker.bundle import jose
    from corelocker.errors import CoreLockerError
    from corelocker.licensing.evidence import (
        AndroidKeyEvidence,
        AppAssertEvidence,
        AppAttestEvidence,
        DevelopmentEvidence,
        evidence_from_json,
        evidence_to_json,
    )

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MADE = Path(__file__).resolve().parents[1] / "vectors/attestation/made"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRIVATE = ec.derive_private_key(2, ec.SECP256R1())
KEY = PRIVATE.public_key()
POINT = KEY.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
ANDROID = AndroidKeyPolicy("com.example.app", frozenset({bytes(32)}))
APPLE = AppAttestPolicy("1234567890.com.example.app", "production")
PLAY = PlayIntegrityPolicy("com.example.app", frozenset({bytes(32)}), "production")
EMPTY_LIST = RevocationList(frozenset(), NOW)
# The vectors' own roots, so that the fuzzer gets past the anchor and only the signatures stand in its way.
ANCHORS = TrustAnchors(
    tuple(
        dict.fromkeys(
            jose.decode_base64url(anchor)
            for file in ("android_key.json", "apple_app_attest.json", "development.json")
            for vector in json.loads((MADE / file).read_text())
            for anchor in vector["anchors"]
        )
    )
)


def certificate(data: bytes) -> None:
    parsed = parse_certificate(data)
    name_attributes(parsed.subject)
    public_key(parsed.spki)


def description(data: bytes) -> None:
    parse_key_description(data)


def described_leaf(data: bytes) -> None:
    extension = parse_certificate(data).extensions.get(KEY_DESCRIPTION)
    if extension is not None:
        parse_key_description(extension.value)


def chain(data: bytes) -> None:
    parts, rest = [], data
    while rest and len(parts) < 8:
        size = int.from_bytes(rest[:2])
        parts.append(rest[2 : 2 + size])
        rest = rest[2 + size :]
    verdict = verify_android_key(
        AndroidKeyEvidence(tuple(parts)),
        challenge=b"a challenge that no vector has",
        device_key=KEY,
        policy=ANDROID,
        anchors=ANCHORS,
        revocation=EMPTY_LIST,
        now=NOW,
    )
    assert verdict.reason is not Reason.OK


def attestation(data: bytes) -> None:
    verdict = verify_app_attestation(
        AppAttestEvidence(data[:32], data[32:]), client_data_hash=b"", policy=APPLE, anchors=ANCHORS, now=NOW
    )
    assert verdict.reason is not Reason.OK


def _assertion(assertion: bytes) -> Reason:
    return verify_app_assertion(
        AppAssertEvidence(hashlib.sha256(POINT).digest(), assertion),
        client_data_hash=b"",
        public_key=POINT,
        last_counter=0,
        policy=APPLE,
    ).reason


def assertion(data: bytes) -> None:
    assert _assertion(data) is not Reason.OK


def signed_assertion(data: bytes) -> None:
    """Behind a signature that is right, so that the authenticator data is read."""
    signed = hashlib.sha256(APPLE.app_id.encode()).digest() + data
    signature = PRIVATE.sign(hashlib.sha256(signed).digest(), ec.ECDSA(SHA256()))
    head = b"\xa2\x69signature\x58" + bytes([len(signature)]) + signature
    reason = _assertion(head + b"\x71authenticatorData\x59" + len(signed).to_bytes(2) + signed)
    assert reason in (Reason.OK, Reason.MALFORMED, Reason.COUNTER)


def authenticator_data(data: bytes) -> None:
    """What an attestation's data holds behind the nonce."""
    if len(data) > 37:
        header = apple_app_attest._Header(data[32], 0)
        _, _, at = apple_app_attest._credential_id(data, header)
        try:
            _, at = cbor.decode_at(data, at)
        except cbor.CborError:
            return
        apple_app_attest._distribution(data, at, header, APPLE)


def development(data: bytes) -> None:
    verdict = verify_development(
        DevelopmentEvidence(data[72:], data[:72]),
        request_digest=b"",
        environment="development",
        anchors=ANCHORS,
        now=NOW,
    )
    assert verdict.reason is not Reason.OK


def cbor_item(data: bytes) -> None:
    try:
        cbor.decode(data)
    except cbor.CborError:
        return


def revocation(data: bytes) -> None:
    RevocationList.parse(data, NOW)


def evidence_json(data: bytes) -> None:
    value = _json(data)
    if isinstance(value, dict):
        assert evidence_to_json(evidence_from_json(value)) == value


def play(data: bytes) -> None:
    value = _json(data)
    if isinstance(value, dict):
        assert verify_play_integrity(value, request_digest=b"", policy=PLAY, now=NOW).reason is not Reason.OK


TARGETS = (
    certificate,
    description,
    described_leaf,
    chain,
    attestation,
    assertion,
    signed_assertion,
    authenticator_data,
    development,
    cbor_item,
    revocation,
    evidence_json,
    play,
)


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    if not data:
        return
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except (Refusal, CoreLockerError):
        return


def write_seeds(folder: Path) -> None:
    """The committed vectors as inputs for each reader."""
    seeds: list[tuple[object, bytes]] = []
    for file in ("android_key.json", "apple_app_attest.json", "development.json"):
        for vector in json.loads((MADE / file).read_text()):
            seeds.append((evidence_json, json.dumps(vector["attestation"]).encode()))
            match evidence_from_json(vector["attestation"]):
                case AndroidKeyEvidence(certificates) if certificates:
                    seeds.append((chain, b"".join(len(item).to_bytes(2) + item for item in certificates)))
                    seeds.append((certificate, certificates[-1]))
                    seeds.append((described_leaf, certificates[0]))
                    seeds.append((revocation, json.dumps(vector["revocation"]).encode()))
                case AppAttestEvidence(key_id, data):
                    seeds += [(attestation, key_id + data), (cbor_item, data)]
                    item = cbor.decode(data) if vector["reason"] == Reason.OK else {}
                    if isinstance(item, dict) and isinstance(signed := item.get("authData"), bytes):
                        seeds.append((authenticator_data, signed))
                case AppAssertEvidence(_, data):
                    seeds += [(assertion, data), (cbor_item, data)]
                    item = cbor.decode(data) if vector["reason"] == Reason.OK else {}
                    if isinstance(item, dict) and isinstance(signed := item.get("authenticatorData"), bytes):
                        seeds.append((signed_assertion, signed[32:]))
                case DevelopmentEvidence(data, signature):
                    seeds.append((development, signature.ljust(72, b"\0") + data))
    sample = MADE.parent / "others/play/example_verdict.json"
    seeds.append((play, sample.read_bytes()))
    for index, (target, data) in enumerate(seeds):
        first = bytes([TARGETS.index(target)])  # type: ignore[arg-type]
        (folder / f"{index:04}").write_bytes(first + data)


if __name__ == "__main__":
    seeds = Path(tempfile.mkdtemp(prefix="corelocker-fuzz-"))
    write_seeds(seeds)
    # The first folder receives what the fuzzer finds, so the seeds come last.
    atheris.Setup([*sys.argv, str(seeds)], one_input)
    atheris.Fuzz()
