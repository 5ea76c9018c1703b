"""The pipeline of the demo: exports and locks the model, and writes the app's resources. Xcode runs it as a build phase.

    python ios_demo/Scripts/resources.py --configuration Debug --out FOLDER
    python ios_demo/Scripts/resources.py --configuration Release --app-config corelocker.json --keystore keys.json --out FOLDER

It runs in the repository's root, and needs `corelocker[export,service]`. Written to FOLDER: Models (the locked models, the key
bundle, corelocker.json), Pictures (labelled images in MNIST's IDX form, with their licence), and with Debug attestation.pem.
Keys, locked models and the development service are kept in --state, by default ios_demo/.local, which git ignores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(DEMO.parent))

from tools.demo_model.app_assets import (  # noqa: E402 - after the path
    DATA,
    corelocker,
    development_identity,
    development_service,
    own_keystore,
    write_pictures,
)

APP = "com.example.fashion"
# An unqualified name, as NSAllowsLocalNetworking allows it; a simulator shares the machine's loopback.
HOST = "localhost"
MODELS = ("fashion.mlpackage", "fashion.pte", "fashion.clkey")
PICTURES_PER_CLASS = 50


def lock(state: Path, keystore: Path) -> Path:
    """The folder of the locked models and their bundle. It is made anew when what it is made of has changed.

    Every lock has a bundle and keys of its own, so a build for a phone and one for a simulator share this one.
    """
    dist = state / "dist"
    sources = [DEMO / "corelocker.toml", DATA / "fashion_mobilenet.safetensors", DATA.parent / "fashion_mobilenet.py"]
    bundle = dist / "fashion.clkey"
    if all((dist / name).exists() for name in MODELS):
        is_newest = all(path.stat().st_mtime <= bundle.stat().st_mtime for path in sources)
        publisher = corelocker("keystore", "show", keystore)["publisher"]
        if is_newest and corelocker("inspect", bundle)["publisher"] == publisher:
            return dist
    corelocker("export", "--config", DEMO / "corelocker.toml", "--out", dist, "--keystore", keystore, "--force")
    return dist


def development(dist: Path, state: Path, keystore: Path, port: int, out: Path) -> None:
    """corelocker.json and a development identity, by a service for development that is set up in `state`/service.

    It sells what products.json says, by StoreKit's transactions in Xcode. A service for an older bundle is replaced.
    """
    bundle = corelocker("inspect", dist / "fashion.clkey")["bundle"]
    service = state / "service"
    sold = json.loads((DEMO / "products.json").read_bytes())
    store = f'\n[apps.app_store]\nbundle_id = "{APP}"\nstore = "Xcode"\n'
    config = development_service(service, keystore, bundle, APP, port, sold, store)
    app_config = out / "Models/corelocker.json"
    url = f"http://{HOST}:{port}"
    corelocker("service", "app-config", "--config", config, "--service", url, "--out", app_config, "--force")
    development_identity(service, "simulator", app_config, out / "attestation.pem")


def production(dist: Path, app_config: Path, out: Path) -> None:
    """A copy of corelocker.json, once it is known to fit."""
    made = json.loads(app_config.read_bytes())
    if made["environment"] != "production":
        sys.exit(f"error: {app_config} is for {made['environment']}; a release needs that of a production service")
    if made["publisher"] != corelocker("inspect", dist / "fashion.clkey")["publisher"]:
        sys.exit(f"error: {app_config} names another publisher than the keystore that locked the models")
    shutil.copy(app_config, out / "corelocker.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the resources of the demo app.")
    parser.add_argument("--configuration", choices=("Debug", "Release"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="the app's folder of resources")
    parser.add_argument("--state", type=Path, default=DEMO / ".local", help="keys, locked models, development service")
    parser.add_argument("--port", type=int, default=8440, help="Debug: where the unlock service will listen")
    parser.add_argument("--app-config", default="", help="Release: corelocker.json of the unlock service")
    parser.add_argument("--keystore", default="", help="the publisher's keystore; by default one in --state")
    asked = parser.parse_args()
    if asked.configuration == "Release" and not (asked.app_config and asked.keystore):
        sys.exit("error: a release needs CORELOCKER_APP_CONFIG, the corelocker.json of your unlock service, and "
                 "CORELOCKER_KEYSTORE; without them, build Debug")  # fmt: skip
    keystore = Path(asked.keystore) if asked.keystore else own_keystore(asked.state)
    dist = lock(asked.state, keystore)
    models, labelled = asked.out / "Models", asked.out / "Pictures"
    for folder in (models, labelled):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    (asked.out / "attestation.pem").unlink(missing_ok=True)
    for name in MODELS:
        copy = shutil.copytree if (dist / name).is_dir() else shutil.copy
        copy(dist / name, models / name)
    if asked.configuration == "Debug":
        development(dist, asked.state, keystore, asked.port, asked.out)
    else:
        production(dist, Path(asked.app_config), models)
    write_pictures(labelled / "images.idx3-ubyte", labelled / "labels.idx1-ubyte", PICTURES_PER_CLASS)


if __name__ == "__main__":
    main()
