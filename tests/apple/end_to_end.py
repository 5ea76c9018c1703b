"""Runs the Swift client against the real unlock service on this machine.

    PYTHONPATH=sdk/python:tests/python .venv/bin/python tests/apple/end_to_end.py .build/apple

Locks the demo's checkpoint and a Core ML package, and starts the service (one device a purchase; it takes App Attest of production
under a test's root) and a small control server, through which the Swift tests revoke a license and use a made-up phone's App
Attest. Then it runs the tests of `EndToEndTests.swift` in the chroot. What they need lies below the build folder.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from corelocker.bundle.keystore import Keystore
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.development import DevelopmentRoot
from corelocker.licensing.tokens import SoftwareSigner
from corelocker.purchases.grant import issue_grant
from corelocker.service import admin, setup
from corelocker.service.config_file import load_config
from corelocker.service.storage import Storage
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from forged_app_attest import APP_ID, ForgedAppAttest
from forged_app_attest import ROOT as APPLE_ROOT
from support.unlock_world import ServiceProcess

ROOT = Path(__file__).resolve().parents[2]
APP = "com.example.camera"
TIERS = "free=0.05,plus=0.01,full=0"
MODEL = "fashion_mobilenet.safetensors"
PACKAGE = "unified_palette_4bit.mlpackage"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def corelocker(*arguments: str) -> None:
    environment = os.environ | {"CORELOCKER_PASSPHRASE": "end-to-end", "PYTHONPATH": str(ROOT / "sdk/python")}
    subprocess.run([sys.executable, "-m", "corelocker", *arguments], check=True, env=environment, cwd=ROOT)


def lock(folder: Path) -> Keystore:
    """The locked checkpoint and its bundle in `folder`/dist, the Core ML package and its own in `folder`/coreml."""
    keystore = folder / "keys.json"
    corelocker("keystore", "init", str(keystore))
    model = ROOT / "tools/demo_model/data" / MODEL
    corelocker("lock", str(model), "--out", str(folder / "dist"), "--model-id", "demo", "--model-version", "3",
               "--tiers", TIERS, "--keystore", str(keystore))  # fmt: skip
    shutil.copy(model, folder / "original.safetensors")
    package = ROOT / "tests/data/coreml" / PACKAGE
    corelocker("lock", str(package), "--out", str(folder / "coreml"), "--model-id", "palette", "--model-version", "1",
               "--tiers", "free=0.5,full=0", "--keystore", str(keystore))  # fmt: skip
    shutil.copytree(package, folder / "original.mlpackage")
    return Keystore.open(keystore, b"end-to-end")


def grant(files: setup.DevelopmentFiles, order: str, until: int | None = None) -> str:
    signer = SoftwareSigner(setup.load_signing_key(files.grant_key))
    return issue_grant(signer, issuer=setup.GRANT_ISSUER, app=APP, environment="development", product="full",
                       issued_at=int(time.time()), purchase=order, until=until)  # fmt: skip


def write_app(folder: Path, files: setup.DevelopmentFiles, keystore: Keystore, service: str, control: str) -> None:
    """What the app under test is built with, and the purchases that it shows."""
    key = load_pem_public_key(files.service_key.read_bytes())
    for name, url in (("corelocker.json", service), ("unreachable.json", f"http://127.0.0.1:{free_port()}")):
        config = AppConfig(service=url, issuer=service, app=APP, environment="development", license_keys=(key,),
                           publisher=keystore.publisher)  # fmt: skip
        (folder / name).write_bytes(config.to_json())
    other = json.loads((folder / "corelocker.json").read_bytes()) | {"app": "com.example.other"}
    (folder / "other-app.json").write_text(json.dumps(other))
    root = files.development_root.read_text()
    identity = DevelopmentRoot.from_pem(root, root).issue("end-to-end", datetime.now(UTC))
    (folder / "identity.pem").write_text(identity.to_pem())
    plan = {
        "control": control,
        "order": grant(files, "order-1"),
        "revoked": grant(files, "order-2"),
        "coreml": grant(files, "order-4"),
        "apple": grant(files, "order-5"),
        "trial": grant(files, "order-3", int(time.time()) + 3600),
    }
    (folder / "plan.json").write_text(json.dumps(plan))


@contextmanager
def control_server(files: setup.DevelopmentFiles) -> Iterator[str]:
    """POST /revoke/LICENSE revokes a license, as an operator would; POST /app-attest/CALL asks a made-up phone."""
    phone = ForgedAppAttest()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b""
            if self.path.startswith("/app-attest/"):
                body = phone.answer(self.path.removeprefix("/app-attest/"))
            else:
                storage = Storage.open(load_config(files.config).database_url)
                admin.revoke_license(storage, self.path.removeprefix("/revoke/"), reason="end-to-end")
                storage.close()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def main(build: str) -> int:
    folder = ROOT / build / "end-to-end"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    keystore = lock(folder)
    port = free_port()
    files = setup.init_development(folder / "service", keystore, APP, port=port)
    (folder / "service" / "apple-root.pem").write_bytes(APPLE_ROOT)
    with files.config.open("a") as config:
        config.write("\n[licenses]\ndevices = 1\n")
        config.write(f'\n[apps.apple]\napp_id = "{APP_ID}"\nenvironment = "production"\nroots = ["apple-root.pem"]\n')
    with ServiceProcess(files.config, port) as service, control_server(files) as control:
        write_app(folder, files, keystore, service.url, control)
        environment = os.environ | {"CORELOCKER_TEST_ENVIRONMENT": f"/src/{build}/end-to-end"}
        command = ["tools/swift.sh", "swift", "test", "--scratch-path", f"{build}/debug", "-Xswiftc", "-warnings-as-errors",
                   "--filter", "EndToEndTests"]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    passed = "✔ Suite EndToEndTests passed" in done.stdout + done.stderr
    return 0 if done.returncode == 0 and passed else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
