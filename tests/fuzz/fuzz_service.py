"""Coverage-guided fuzzing of what the unlock service reads from anybody: requests, notices, and its own configuration.

    .venv/bin/python tests/fuzz/fuzz_service.py [CORPUS] -max_total_time=600

A request that can be read is also decided, by a service that nobody has proven anything to: it must be refused with a typed
error. Nothing is ever issued.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.bundle import jose
    from corelocker.bundle.content_keys import new_content_key
    from corelocker.bundle.keystore import FileKek, Kek, Keystore
    from corelocker.errors import CoreLockerError
    from corelocker.service import setup
    from corelocker.service.config_file import load_config
    from corelocker.service.core import UnlockService
    from corelocker.service.keys import open_keys
    from corelocker.service.messages import ChallengeRequest, RenewRequest, UnlockRequest
    from corelocker.service.storage import Storage

from cryptography.hazmat.primitives.asymmetric import ec

APP = "com.example.app"
FOLDER = Path(tempfile.mkdtemp(prefix="corelocker-fuzz-"))
BUNDLE = uuid.UUID(int=1)
DEVICE_KEY = jose.public_jwk(ec.derive_private_key(7, ec.SECP256R1()).public_key())


def make_service() -> UnlockService:
    """A development service that also takes App Attest and Android, with nothing sold yet."""
    FileKek.generate(FOLDER / "kek")
    publisher = Keystore.create(FOLDER / "publisher.json", Kek("file", str(FOLDER / "kek")))
    publisher.add_content_key(BUNDLE, "model", 1, ("free", "full"), new_content_key())
    files = setup.init_development(FOLDER / "service", publisher, APP)
    (FOLDER / "service" / "list.json").write_text('{"entries": {}}')
    text = files.config.read_text()
    more = f'[apps.android]\nsigner_digests = ["{"ab" * 32}"]\n[apps.apple]\napp_id = "1.{APP}"\n[apps.app_store]\n'
    text = text.replace("[apps.grant]", more + "[apps.grant]")
    text = text.replace("[http]", '[attestation]\nrevocation_list = "list.json"\n[http]')
    files.config.write_text(text)
    config = load_config(files.config)
    return UnlockService(config, Storage.open(config.database_url, migrate=True), open_keys(config.keys))


SERVICE = make_service()


def challenge_request(data: bytes) -> None:
    SERVICE.challenges.issue(ChallengeRequest.from_json(data))


def unlock_request(data: bytes) -> None:
    request = UnlockRequest.from_json(data)
    challenge = SERVICE.challenges.issue(ChallengeRequest()).challenge
    SERVICE.decisions.unlock(replace(request, challenge=challenge))
    raise AssertionError("nobody has proven anything")


def renew_request(data: bytes) -> None:
    license_id, _, body = data.partition(b"\n")
    request = RenewRequest.from_json(body)
    challenge = SERVICE.challenges.issue(ChallengeRequest()).challenge
    SERVICE.decisions.renew(license_id.decode("utf-8", "replace"), replace(request, challenge=challenge))
    raise AssertionError("nobody has a license")


def challenge_text(data: bytes) -> None:
    body = {**UNLOCK, "challenge": data.decode("utf-8", "replace")}
    SERVICE.decisions.unlock(UnlockRequest.from_json(body))
    raise AssertionError("nobody has proven anything")


def apple_notice(data: bytes) -> None:
    SERVICE.notices.app_store(APP, data)
    raise AssertionError("Apple has signed nothing")


def google_notice(data: bytes) -> None:
    authorization, _, body = data.partition(b"\n")
    SERVICE.notices.google_play(APP, authorization.decode("utf-8", "replace"), body)
    raise AssertionError("Google has sent nothing")


def configuration(data: bytes) -> None:
    path = FOLDER / "fuzzed.toml"
    path.write_bytes(data)
    load_config(path)


TARGETS = (
    challenge_request,
    unlock_request,
    renew_request,
    challenge_text,
    apple_notice,
    google_notice,
    configuration,
)


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    if not data:
        return
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except CoreLockerError:
        return


UNLOCK: dict[str, Any] = {
    "challenge": "A" * 54,
    "app": APP,
    "bundle": str(BUNDLE),
    "tier": "full",
    "device_key": DEVICE_KEY,
    "attestation": {"format": "development", "certificate": "MAA", "signature": "MAA"},
    "purchase": {"provider": "grant", "token": "e30.e30.AAAA"},
}


def write_seeds(folder: Path) -> None:
    """A request of each kind of proof and purchase, and the configuration of the service itself."""
    vectors = Path(__file__).resolve().parents[1] / "vectors/attestation/made"
    proofs: list[dict[str, Any]] = [
        UNLOCK["attestation"],
        {"format": "android-key", "chain": ["MAA", "MAA"]},
        {"format": "apple-app-attest", "key_id": "A" * 43, "attestation": "oA"},
        {"format": "apple-app-attest", "key_id": "A" * 43, "assertion": "oA"},
        {"format": "device-key", "proof": "A" * 43},
    ]
    for path in vectors.glob("a*.json"):
        for case in json.loads(path.read_text("utf-8"))[:3]:
            if isinstance(case.get("attestation"), dict):
                proofs.append(case["attestation"])
    purchases = [
        UNLOCK["purchase"],
        {"provider": "app-store", "transaction": "e30.e30.AAAA"},
        {"provider": "google-play", "kind": "product", "product": "full", "token": "token-1234"},
    ]
    seeds: list[tuple[Any, bytes]] = [
        (challenge_request, b"{}"),
        (challenge_request, json.dumps({"device_key": DEVICE_KEY}).encode()),
        (challenge_text, SERVICE.challenges.issue(ChallengeRequest()).challenge.encode()),
        (apple_notice, b'{"signedPayload": "e30.e30.AAAA"}'),
        (google_notice, b'Bearer e30.e30.AAAA\n{"message": {"data": "e30=", "messageId": "1"}}'),
        (configuration, (FOLDER / "service" / "service.toml").read_bytes()),
    ]
    for proof in proofs:
        body = json.dumps({"challenge": "A" * 54, "attestation": proof}).encode()
        seeds.append((renew_request, str(uuid.uuid4()).encode() + b"\n" + body))
        for purchase in purchases:
            seeds.append((unlock_request, json.dumps(UNLOCK | {"attestation": proof, "purchase": purchase}).encode()))
    for at, (target, data) in enumerate(seeds):
        (folder / f"{at:04}").write_bytes(bytes([TARGETS.index(target)]) + data)


if __name__ == "__main__":
    seeds = Path(tempfile.mkdtemp(prefix="corelocker-fuzz-"))
    write_seeds(seeds)
    # The first folder receives what the fuzzer finds, so the seeds come last.
    atheris.Setup([*sys.argv, str(seeds)], one_input)
    atheris.Fuzz()
