"""Runs the pipeline of ios_demo as Xcode's build phase does, and then the app's part with what came of it.

    PYTHONPATH=sdk/python:tests/python:. .venv/bin/python tests/apple/demo_resources.py .build/apple

A device in software takes the app's corelocker.json, development identity and key bundle, and shows the service purchases as
StoreKit makes them in Xcode. Each tier's accuracy is measured on the bundled pictures, by ExecuTorch and by the evaluator of
Core ML programs.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xcode_store
import yaml
from corelocker.audit.mlprogram import MlProgramEvaluator
from corelocker.device.software import SoftwareDevice
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.development import DevelopmentKey
from support.unlock_world import ServiceProcess

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "ios_demo"
APP = "com.example.fashion"
SOLD: dict[str, str] = json.loads((DEMO / "products.json").read_bytes())
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
# What the tiers of corelocker.toml are good for, with room for another choice of decoys.
EXPECTED = {"free": (0.0, 0.35), "plus": (0.5, 0.92), "full": (0.9, 1.0)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pipeline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DEMO / "Scripts/resources.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def build(folder: Path, port: int) -> Path:
    """The app's resources, made twice: the second build locks nothing anew."""
    state, out = folder / "state", folder / "App.app"
    bundles = []
    for _ in range(2):
        run = pipeline("--configuration", "Debug", "--state", state, "--port", str(port), "--out", out)
        assert run.returncode == 0, run.stdout + run.stderr
        bundles.append((out / "Models/fashion.clkey").read_bytes())
    assert bundles[0] == bundles[1], "a build without a change locks anew"
    phase = yaml.safe_load((DEMO / "project.yml").read_text())["targets"]["FashionDemo"]["postCompileScripts"][0]
    for named in phase["outputFiles"]:
        path = out / named.removeprefix("$(TARGET_BUILD_DIR)/$(UNLOCALIZED_RESOURCES_FOLDER_PATH)/")
        assert path.exists(), f"the build phase names {named}, which the pipeline does not write"
    return out


def refuse_releases(folder: Path, out: Path) -> None:
    """A release takes the configuration of a production service, and of the publisher that has locked."""
    state, release = folder / "state", folder / "Release.app"
    common = ("--configuration", "Release", "--state", state, "--out", release, "--keystore", state / "keys.json")
    made = json.loads((out / "Models/corelocker.json").read_bytes())
    (folder / "production.json").write_text(
        json.dumps(made | {"environment": "production", "service": "https://example.com"})
    )
    (folder / "other.json").write_text(json.dumps(made | {"environment": "production", "publisher": "A" * 43}))
    for config, words in (("", "CORELOCKER_APP_CONFIG"), (out / "Models/corelocker.json", "is for development"),
                          (folder / "other.json", "another publisher")):  # fmt: skip
        run = pipeline(*common, "--app-config", config)
        assert run.returncode != 0, f"{config} is taken"
        assert words in run.stderr, run.stdout + run.stderr
    run = pipeline(*common, "--app-config", folder / "production.json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert not list(release.rglob("*.pem")), "a release holds a development identity"


def pictures(folder: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Inputs (n, 1, 28, 28) and labels (n,) as the app reads them."""
    images, labels = ((folder / name).read_bytes() for name in ("images.idx3-ubyte", "labels.idx1-ubyte"))
    y = np.frombuffer(labels[8:], np.uint8)
    return np.frombuffer(images[16:], np.uint8).reshape(len(y), 1, 28, 28).astype(np.float32) / 255, y


def accuracies(models: Path, program: bytes, weights: bytes) -> list[float]:
    """Share of the pictures that ExecuTorch and the Core ML program get right."""
    import torch
    from executorch.runtime import Runtime

    torch.set_num_threads(1)
    x, y = pictures(models.parent / "Pictures")
    loaded = Runtime.get().load_program(program)
    method = loaded.load_method("forward")
    answers = [int(method.execute([image])[0].argmax()) for image in torch.from_numpy(x).split(1)]
    evaluator = MlProgramEvaluator(models / "fashion.mlpackage", weights)
    (name,) = evaluator.inputs
    (logits,) = evaluator.batch({name: torch.from_numpy(x)}).values()
    return [float(np.mean(np.array(answers) == y)), float(np.mean(logits.argmax(1).numpy() == y))]


def expect(tier: str, measured: list[float]) -> None:
    low, high = EXPECTED[tier]
    print(f"{tier}: ExecuTorch {measured[0]:.1%}, Core ML {measured[1]:.1%} of the bundled pictures", flush=True)
    assert all(low <= value <= high for value in measured), f"{tier} is expected between {low:.0%} and {high:.0%}"


def buy_and_run(folder: Path, out: Path) -> None:
    """A device in software restores what each product unlocks."""
    models = out / "Models"
    locked = [models / "fashion.pte", models / "fashion.mlpackage" / WEIGHTS]
    expect("free", accuracies(models, *(path.read_bytes() for path in locked)))
    config = AppConfig.from_json((models / "corelocker.json").read_bytes())
    identity = DevelopmentKey.from_pem((out / "attestation.pem").read_text())
    phone = SoftwareDevice.create(folder / "phone", config, identity)
    with phone.open_bundle(models / "fashion.clkey") as bundle:
        for product, tier in SOLD.items():
            verified = phone.unlock(
                bundle, tier, {"provider": "app-store", "transaction": xcode_store.transaction(APP, product)}
            )
            assert verified.license.tier == tier
            states = []
            for path in locked:
                with phone.restore(path, bundle) as restored:
                    states.append(bytes(restored))
            expect(tier, accuracies(models, *states))


def run_the_model_layer(folder: Path, build_folder: str) -> None:
    """The tests of DemoCore that need the resources and the service, in the chroot."""
    shutil.copy(DEMO / "products.json", folder)
    transactions = {product: xcode_store.transaction(APP, product) for product in SOLD}
    transactions["refunded"] = xcode_store.transaction(APP, f"{APP}.full", originalTransactionId="9", revocationDate=1)
    (folder / "transactions.json").write_text(json.dumps(transactions))
    environment = os.environ | {"CORELOCKER_TEST_ENVIRONMENT": f"/src/{folder.relative_to(ROOT)}"}
    command = ["tools/swift.sh", "swift", "test", "--package-path", "ios_demo/DemoCore", "--scratch-path",
               f"{build_folder}/demo-core", "-Xswiftc", "-warnings-as-errors", "-Xlinker", "--allow-shlib-undefined",
               "--filter", "ServiceTests"]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    assert "Suite ServiceTests passed" in run.stdout + run.stderr


def main(build_folder: str) -> int:
    folder = ROOT / build_folder / "demo-resources"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    out = build(folder, port)
    refuse_releases(folder, out)
    with ServiceProcess(folder / "state/service/service.toml", port):
        buy_and_run(folder, out)
        run_the_model_layer(folder, build_folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
