"""What the build steps of android_demo and ios_demo share: commands of corelocker, and the parts that both apps have."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tools/demo_model/data"
# Each new installation of an app is a new device: more of them than a customer has.
DEVICES = 1000


def corelocker(*arguments: str | Path) -> dict[str, Any]:
    """Run a command and return its JSON. Where it refuses, this ends with its error, in the form that Xcode and Gradle show."""
    command = [sys.executable, "-m", "corelocker", *map(str, arguments), "--json"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        sys.exit(f"error: corelocker {arguments[0]} failed: {run.stdout}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def own_keystore(state: Path) -> Path:
    """A keystore for trying out. A publisher's own has a passphrase (CORELOCKER_PASSPHRASE_FILE) or an HSM."""
    keystore = state / "keys.json"
    if not keystore.exists():
        state.mkdir(parents=True, exist_ok=True)
        corelocker("keystore", "init", keystore, "--kek-file", state / "keys.kek")
    return keystore


def development_service(
    folder: Path, keystore: Path, bundle: str, app: str, port: int, sold: dict[str, str], settings: str = ""
) -> Path:
    """The service.toml of a development service in `folder`; one for an older bundle is replaced.

    Args:
        folder: of the service, made where it is missing.
        keystore: that holds the bundle's content keys.
        bundle: id of the key bundle.
        app: id of the app.
        port: where the service will listen, on loopback.
        sold: which tier each product opens.
        settings: TOML to add to the configuration.
    """
    config = folder / "service.toml"
    if not config.exists() or bundle not in config.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        products = [f"--product={product}={bundle}:{tier}" for product, tier in sold.items()]
        corelocker("service", "init", folder, "--app", app, "--keystore", keystore, "--port", str(port), *products)
        with config.open("a") as file:
            file.write(f"{settings}\n[licenses]\ndevices = {DEVICES}\n")
        print(f"note: a new unlock service; start it with: corelocker service run --config {config}")
    return config


def development_identity(service: Path, name: str, app_config: Path, out: Path) -> None:
    """Write to `out` what vouches for an emulator's or a simulator's device keys to the service in the folder `service`."""
    phone = service / name
    shutil.rmtree(phone, ignore_errors=True)
    corelocker("device", "init", phone, "--config", app_config, "--root", service / "development-root-key.pem")
    shutil.copy(phone / "attestation.pem", out)


def write_pictures(images: Path, labels: Path, per_class: int) -> None:
    """Labelled test images that the network was not trained on, in the IDX form of MNIST, and their licence beside them."""
    import numpy as np

    with np.load(DATA / "fashion_test_2000.npz") as data:
        x, y = data["x"], data["y"]
    # The first of each class, the second of each class, and so on.
    ranks = np.stack([np.flatnonzero(y == label)[:per_class] for label in range(10)], axis=1).ravel()
    images.parent.mkdir(parents=True, exist_ok=True)
    images.write_bytes(struct.pack(">4I", 0x803, len(ranks), 28, 28) + x[ranks].tobytes())
    labels.write_bytes(struct.pack(">2I", 0x801, len(ranks)) + y[ranks].tobytes())
    shutil.copy(DATA / "LICENSE.fashion-mnist", images.parent / "LICENSE.fashion-mnist")
