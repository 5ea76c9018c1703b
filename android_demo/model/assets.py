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
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(DEMO.parent))

from tools.demo_model.app_assets import (  # noqa: E402 - after the path
    corelocker,
    development_identity,
    development_service,
    own_keystore,
    write_pictures,
)

APP = "org.corelocker.demo"
# What an emulator calls the machine that it runs on; `corelocker service run` listens there on loopback.
EMULATOR_HOST = "10.0.2.2"
IMAGES_PER_CLASS = 20
GRANT_LIFETIME_S = 7 * 86400


def model(out: Path, state: Path) -> None:
    """fashion.pte, locked, and fashion.clkey."""
    config = DEMO / "model" / "corelocker.toml"
    corelocker("export", "--config", config, "--out", out, "--keystore", own_keystore(state), "--force")


def development(model_folder: Path, out: Path, state: Path, port: int) -> None:
    """What the emulator flavor trusts, a development key, and a grant for each tier that can be bought.

    Sets up a development service for this bundle beside the keystore.
    """
    bundle = corelocker("inspect", model_folder / "fashion.clkey")
    tiers = bundle["tiers"][1:]
    sold = {tier: tier for tier in tiers}
    service = state / "service"
    config = development_service(service, state / "keys.json", bundle["bundle"], f"{APP}.emulator", port, sold)
    app_config(model_folder, out, f"http://{EMULATOR_HOST}:{port}", config)
    development_identity(service, "emulator", out / "corelocker.json", out / "corelocker-development.pem")
    for tier in tiers:
        grant = corelocker("grant", "issue", "--config", config, "--product", tier, "--purchase", f"emulator-{tier}",
                           "--lifetime", str(GRANT_LIFETIME_S))  # fmt: skip
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
        write_pictures(asked.out / "images.idx", asked.out / "labels.idx", IMAGES_PER_CLASS)
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
