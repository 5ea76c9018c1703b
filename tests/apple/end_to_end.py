"""Runs the Swift client against the real unlock service on this machine, and runs the models that it restores.

    PYTHONPATH=sdk/python:tests/python:. .venv/bin/python tests/apple/end_to_end.py .build/apple

Locks the models of `locked_models.py`, and starts the service (one device a purchase; it takes App Attest of production under a
test's root), a line to it that fails when told to, and a control server. Then it runs the suites `..EndToEndTests` in the chroot,
evaluates what they restored for Core ML, and verifies what they encoded of real devices' App Attest.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import locked_models
import recorded_app_attest
import xcode_store
from control import BadLine, control
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
from support.unlock_world import ServiceProcess, free_port

ROOT = Path(__file__).resolve().parents[2]
APP = "com.example.camera"
SUITES = ("EndToEndTests", "RefusalEndToEndTests", "ModelEndToEndTests", "DeviceEndToEndTests")


class World:
    """The service's operator and the publisher's backend."""

    def __init__(self, files: setup.DevelopmentFiles) -> None:
        self._files = files

    def grant(self, order: str, members: dict[str, str] | None = None) -> bytes:
        """A grant for an order; members: `product`, by default the highest tier, and `seconds` that the right lasts."""
        members = members or {}
        signer = SoftwareSigner(setup.load_signing_key(self._files.grant_key))
        now = int(time.time())
        until = now + int(members["seconds"]) if "seconds" in members else None
        return issue_grant(signer, issuer=setup.GRANT_ISSUER, app=APP, environment="development", issued_at=now,
                           product=members.get("product", "full"), purchase=order, until=until).encode()  # fmt: skip

    def revoke(self, license_id: str, _: dict[str, str]) -> bytes:
        storage = Storage.open(load_config(self._files.config).database_url)
        admin.revoke_license(storage, license_id, reason="end-to-end")
        storage.close()
        return b""


def write_app(
    folder: Path, files: setup.DevelopmentFiles, keystore: Keystore, urls: dict[str, str], control_url: str
) -> None:
    """What the app under test is built with: its configuration for each way to the service, and an identity."""
    key = load_pem_public_key(files.service_key.read_bytes())
    for name, url in urls.items():
        config = AppConfig(service=url, issuer=urls["corelocker"], app=APP, environment="development", license_keys=(key,),
                           publisher=keystore.publisher)  # fmt: skip
        (folder / f"{name}.json").write_bytes(config.to_json())
    other = json.loads((folder / "corelocker.json").read_bytes()) | {"app": "com.example.other"}
    (folder / "other-app.json").write_text(json.dumps(other))
    root = files.development_root.read_text()
    identity = DevelopmentRoot.from_pem(root, root).issue("end-to-end", datetime.now(UTC))
    (folder / "identity.pem").write_text(identity.to_pem())
    (folder / "plan.json").write_text(json.dumps({"control": control_url}))


def executorch() -> Path:
    found = importlib.util.find_spec("executorch")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations))).resolve()


def build_runner(build: Path) -> None:
    subprocess.run(["cmake", "-S", ROOT / "tests/apple/runner", "-B", build, "-DCMAKE_BUILD_TYPE=Release",
                    f"-Dexecutorch_DIR={executorch() / 'share/cmake'}"], check=True)  # fmt: skip
    subprocess.run(["cmake", "--build", build, "--parallel", "2"], check=True)


def run_tests(folder: Path, build: str) -> bool:
    environment = os.environ | {
        "CORELOCKER_TEST_ENVIRONMENT": f"/src/{folder.relative_to(ROOT)}",
        "CORELOCKER_SWIFT_BIND": str(executorch()),
    }
    command = ["tools/swift.sh", "swift", "test", "--scratch-path", f"{build}/debug", "-Xswiftc", "-warnings-as-errors",
               "--filter", "EndToEndTests"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    passed = set(re.findall(r"✔ Suite (\w+) passed", done.stdout + done.stderr))
    return done.returncode == 0 and passed >= set(SUITES)


def check_core_ml(folder: Path, kept: Path) -> bool:
    """The accuracy that the evaluator finds with the weights that Swift restored, and without."""
    original, locked = kept / "demo/fashion.mlpackage", folder / "demo/fashion.mlpackage"
    (weights,) = locked_models.weight_files(original)
    wanted, restored = (original / weights).read_bytes(), (folder / "results/weight.bin").read_bytes()
    before = locked_models.accuracy(locked, (locked / weights).read_bytes())
    after, best = locked_models.accuracy(locked, restored), locked_models.accuracy(original, wanted)
    print(f"Core ML: {before:.1f} % locked, {after:.1f} % restored by Swift, {best:.1f} % the original")
    return restored == wanted and after == best and best > 80 and before < 40


def main(build: str) -> int:
    folder = ROOT / build / "end-to-end"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    build_runner(ROOT / build / "runner")
    shutil.copy(ROOT / build / "runner/librunner.so", folder)
    kept = locked_models.originals(ROOT / build / "models")
    keystore = locked_models.lock(folder, kept)
    shutil.copytree(kept, folder / "original")
    locked_models.write_images(folder)
    recorded_app_attest.write(folder / "recorded.json")
    (folder / "results").mkdir()
    port = free_port()
    files = setup.init_development(folder / "service", keystore, APP, port=port)
    (folder / "service" / "apple-root.pem").write_bytes(APPLE_ROOT)
    with files.config.open("a") as config:
        config.write("\n[licenses]\ndevices = 1\n")
        config.write(f'\n[apps.app_store]\nbundle_id = "{APP}"\nstore = "Xcode"\n')
        config.write(f'\n[apps.apple]\napp_id = "{APP_ID}"\nenvironment = "production"\nroots = ["apple-root.pem"]\n')
    phone, world = ForgedAppAttest(), World(files)
    with ServiceProcess(files.config, port) as service:
        line = BadLine(service.url)
        calls = {
            "grant": world.grant,
            "revoke": world.revoke,
            "transaction": lambda product, claims: xcode_store.transaction(APP, product, **claims).encode(),
            "app-attest": lambda call, _: phone.answer(call),
            "faults": lambda faults, _: line.set(faults) or b"",
        }
        with line.serving() as bad, control(calls) as control_url:
            urls = {"corelocker": service.url, "unreachable": f"http://127.0.0.1:{free_port()}", "bad-line": bad}
            write_app(folder, files, keystore, urls, control_url)
            passed = run_tests(folder, build)
    good = passed and check_core_ml(folder, kept) and recorded_app_attest.accepted(folder / "results/evidence.json")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
