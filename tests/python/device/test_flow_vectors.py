"""The vectors of a device's talk with the service, which Kotlin and Swift run too."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.device.folder import DeviceFolder
from corelocker.device.software import SoftwareDevice
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.development import signed_bytes
from corelocker.licensing.device_clock import Reading
from corelocker.licensing.device_key import SoftwareDeviceKey
from corelocker.licensing.errors import LicensingError
from corelocker.licensing.evidence import DevelopmentEvidence, DeviceKeyEvidence, evidence_from_json
from corelocker.licensing.http_client import RetryPolicy
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from support.unlock_world import World

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests/vectors/flow.json").read_text("utf-8"))


class Script:
    """Answers the requests of a vector in their order, and keeps what the device sent."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.sent: list[tuple[str, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                place = len(outer.sent)
                outer.sent.append((self.path, body))
                answer = outer.steps[place]["answer"] if place < len(outer.steps) else None
                if answer is None:
                    self.close_connection = True
                    return
                data = answer["body"].encode()
                self.send_response(answer["status"])
                for name, value in (answer["headers"] | {"Content-Length": str(len(data))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Http(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """The device hangs up on what is too long."""

        self.http = Http(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.http.shutdown()
    script.http.server_close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    bundle = VECTORS["bundle"]
    folder = tmp_path_factory.mktemp("flow")
    made = World(
        folder, "sqlite:///x.sqlite", bundle=uuid.UUID(bundle["id"]), model_version=bundle["model_version"]
    )  # fmt: skip
    with made.bundle() as opened:
        assert list(opened.tiers) == bundle["tiers"]
    return made


def device_of(world: World, script: Script, vector: dict[str, Any], waits: list[float]) -> SoftwareDevice:
    """The device of the vectors, holding what the vector says."""
    private = int.from_bytes(jose.decode_base64url(VECTORS["device_key"]["d"]), "big")
    key = ec.derive_private_key(private, ec.SECP256R1())
    config = AppConfig.from_json(json.dumps(VECTORS["config"]).encode())
    folder = DeviceFolder(world.folder / vector["name"])
    here = replace(
        config, service=f"http://127.0.0.1:{script.port}", publisher=jose.thumbprint(world.publisher.public_key())
    )
    folder.create(here, key, world.attestation_key)
    if vector["held"] is not None:
        folder.store_license(VECTORS["bundle"]["id"], vector["held"])
    return SoftwareDevice(
        folder.path,
        read_clocks=lambda: Reading(VECTORS["now"], 1000, "boot"),
        retry=RetryPolicy(attempts=4, sleep=waits.append),
    )


def run(device: SoftwareDevice, bundle: KeyBundle, vector: dict[str, Any]) -> None:
    match vector["operation"]:
        case "unlock":
            device.unlock(bundle, vector["tier"], vector["purchase"])
        case "renew":
            device.renew(bundle)
        case "renew-by-device-key":
            device.renew(bundle, by_device_key=True)
        case other:
            pytest.fail(f"unknown operation {other}")


def check_attestation(world: World, step: dict[str, Any], attestation: dict[str, Any]) -> None:
    evidence = evidence_from_json(attestation)
    if "proof" in step:
        assert isinstance(evidence, DeviceKeyEvidence)
        assert jose.encode_base64url(evidence.proof) == step["proof"]
        return
    assert isinstance(evidence, DevelopmentEvidence)
    data = signed_bytes(bytes.fromhex(step["digest"]))
    world.attestation_key.key.public_key().verify(evidence.signature, data, ec.ECDSA(SHA256()))


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_flow(world: World, script: Script, vector: dict[str, Any]) -> None:
    waits: list[float] = []
    script.steps, script.sent = vector["steps"], []
    device = device_of(world, script, vector, waits)
    with world.bundle() as bundle:
        outcome, retry_at = "ok", None
        try:
            run(device, bundle, vector)
        except LicensingError as error:
            outcome, retry_at = error.code, getattr(error, "retry_at", None)
        assert (outcome, retry_at) == (vector["expect"], vector.get("retry_at"))
    assert [path for path, _ in script.sent] == [step["path"] for step in vector["steps"]]
    for step, (_, body) in zip(vector["steps"], script.sent, strict=True):
        if "digest" in step:
            check_attestation(world, step, body.pop("attestation"))
        assert body == step["body"]
    assert len(waits) == len(vector["waits"])
    assert all(low <= wait <= high for wait, (low, high) in zip(waits, vector["waits"], strict=True)), waits
    held = device.licenses()
    assert [entry.license_id for entry in held] == ([] if vector["holds"] is None else [vector["holds"]])
    if outcome == "ok":
        private = int.from_bytes(jose.decode_base64url(VECTORS["device_key"]["d"]), "big")
        key = SoftwareDeviceKey(ec.derive_private_key(private, ec.SECP256R1()))
        assert held[0].open(key).hex() == VECTORS["content_key"]


def test_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    script = ROOT / "tools/vectors/make_flow_vectors.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True)
    assert (tmp_path / "flow.json").read_bytes() == (ROOT / "tests/vectors/flow.json").read_bytes()
