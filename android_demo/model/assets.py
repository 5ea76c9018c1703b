"""The pipeline of the demo: each command writes a folder of assets for the app. Gradle runs them (app/build.gradle.kts).

    python android_demo/model/assets.py model --out FOLDER
    python android_demo/model/assets.py images --out FOLDER
    python android_demo/model/assets.py development --model FOLDER --out FOLDER
    python android_demo/model/assets.py production --model FOLDER --service URL --service-config FILE --out FOLDER

It runs in the repository's root, and needs `corelocker[export,service]`. Keys and the development service are kept in
--state, by default android_demo/.local, which git ignores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parents[1]
DATA = DEMO.parent / "tools" / "demo_model" / "data"
APP = "org.corelocker.demo"
# What an emulator calls the machine that it runs on; `corelocker service run` listens there on loopback.
EMULATOR_HOST = "10.0.2.2"
IMAGES_PER_CLASS = 20
# Each new installation of the app is a new device: more of them than a customer has.
DEVICES = 1000


def corelocker(*arguments: str | Path) -> dict[str, Any]:
    """Run a command and return its JSON; end with its error where it refuses."""
    command = [sys.executable, "-m", "corelocker", *map(str, arguments), "--json"]
    run = subprocess.run(command, cwd=DEMO.parent, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        sys.exit(f"assets: corelocker {arguments[0]} failed: {run.stdout}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def model(out: Path, state: Path) -> None:
    """fashion.pte, locked, and fashion.clkey. The keystore is the publisher's; a real one has a passphrase or an HSM."""
    keystore = state / "keys.json"
    if not keystore.exists():
        state.mkdir(parents=True, exist_ok=True)
        corelocker("keystore", "init", keystore, "--kek-file", state / "keys.kek")
    config = DEMO / "model" / "corelocker.toml"
    corelocker("export", "--config", config, "--out", out, "--keystore", keystore, "--force")


def images(out: Path) -> None:
    """Labelled test images that the network was not trained on, in the IDX form of MNIST, and their licence."""
    import numpy as np

    with np.load(DATA / "fashion_test_2000.npz") as data:
        x, y = data["x"], data["y"]
    # The first of each class, the second of each class, and so on.
    ranks = np.stack([np.flatnonzero(y == label)[:IMAGES_PER_CLASS] for label in range(10)], axis=1).ravel()
    out.mkdir(parents=True, exist_ok=True)
    (out / "images.idx").write_bytes(struct.pack(">4I", 0x803, len(ranks), 28, 28) + x[ranks].tobytes())
    (out / "labels.idx").write_bytes(struct.pack(">2I", 0x801, len(ranks)) + y[ranks].tobytes())
    shutil.copy(DATA / "LICENSE.fashion-mnist", out / "LICENSE.fashion-mnist")


def development(model_folder: Path, out: Path, state: Path, port: int) -> None:
    """What the emulator flavor trusts, a development key, and a grant for each tier that can be bought.

    Sets up a development service for this bundle beside the keystore; one for an older bundle is replaced.
    """
    bundle = corelocker("inspect", model_folder / "fashion.clkey")
    service, config = state / "service", state / "service" / "service.toml"
    if not config.exists() or bundle["bundle"] not in config.read_text():
        shutil.rmtree(service, ignore_errors=True)
        products = [f"--product={tier}={bundle['bundle']}:{tier}" for tier in bundle["tiers"][1:]]
        keystore = state / "keys.json"
        corelocker("service", "init", service, "--app", f"{APP}.emulator", "--keystore", keystore,
                   "--port", str(port), *products)  # fmt: skip
        with config.open("a") as settings:
            settings.write(f"\n[licenses]\ndevices = {DEVICES}\n")
        print(f"assets: a new service; start it with: corelocker service run --config {config}")
    out.mkdir(parents=True, exist_ok=True)
    app_config(model_folder, out, f"http://{EMULATOR_HOST}:{port}", config)
    phone = state / "service" / "emulator"
    shutil.rmtree(phone, ignore_errors=True)
    root = service / "development-root-key.pem"
    corelocker("device", "init", phone, "--config", out / "corelocker.json", "--root", root)
    shutil.copy(phone / "attestation.pem", out / "corelocker-development.pem")
    for tier in bundle["tiers"][1:]:
        grant = corelocker("grant", "issue", "--config", config, "--product", tier, "--purchase", f"emulator-{tier}",
                           "--lifetime", str(7 * 86400))  # fmt: skip
        (out / f"grant-{tier}.jws").write_text(grant["grant"])


def app_config(model_folder: Path, out: Path, service: str, config: Path) -> None:
    """corelocker.json, with the publisher that signed the bundle."""
    publisher = corelocker("inspect", model_folder / "fashion.clkey")["publisher"]
    out.mkdir(parents=True, exist_ok=True)
    arguments = ("--service", service, "--config", config, "--publisher", publisher, "--out", out / "corelocker.json")
    corelocker("service", "app-config", *arguments, "--force")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a folder of assets for the demo app.")
    parser.add_argument("command", choices=("model", "images", "development", "production"))
    parser.add_argument("--out", type=Path, required=True, help="the folder")
    parser.add_argument("--state", type=Path, default=DEMO / ".local", help="keys and the development service")
    parser.add_argument("--model", type=Path, help="what the command model has written")
    parser.add_argument("--port", type=int, default=8440, help="development: where the service will listen")
    parser.add_argument("--service", default="", help="production: the unlock service's URL")
    parser.add_argument("--service-config", type=Path, help="production: its service.toml")
    asked = parser.parse_args()
    if asked.command == "images":
        images(asked.out)
    elif asked.command == "model":
        model(asked.out, asked.state)
    elif asked.model is None:
        parser.error("--model is missing")
    elif asked.command == "development":
        development(asked.model, asked.out, asked.state, asked.port)
    elif not asked.service or asked.service_config is None:
        parser.error(
            "the play flavor needs your unlock service: -Pcorelocker.service=https://unlock.example.com "
            "-Pcorelocker.serviceConfig=service.toml (without one, build the emulator flavor)"
        )
    else:
        app_config(asked.model, asked.out, asked.service, asked.service_config)


if __name__ == "__main__":
    main()
