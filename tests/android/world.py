"""The world around a phone, for the tests of the Android library: a locked model, its key bundle, and a running unlock service.

    world.py FOLDER MODEL_FOLDER

Prints one line of JSON that says where everything is, once the service is ready. Then it does what lines of JSON on its input
ask for, and answers each with one line: {"do": "grant"} (with "lifetime", "purchase", "product" and "until" where they are
given), {"do": "revoke", "license": id}, {"do": "stop"}, {"do": "start"}, {"do": "remember", "wrapped_key": hex}. It ends with its
input, and leaves FOLDER/secrets.json, which names what no log may hold. MODEL_FOLDER keeps the exported model, which takes a
while to make.
"""

from __future__ import annotations

import json
import logging
import sys
import uuid
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/cpp"), str(ROOT / "tests/python")]

import torch  # noqa: E402 - after the path
from corelocker.artifacts import open_artifact  # noqa: E402
from corelocker.bundle.content_keys import tier_keys  # noqa: E402
from corelocker.locking.criteria import score  # noqa: E402
from corelocker.locking.planning import make_plan  # noqa: E402
from corelocker.locking.publish import publish  # noqa: E402
from corelocker.locking.tiers import parse_tiers  # noqa: E402
from make_fixtures import RECIPES, TIERS, export  # noqa: E402
from support.unlock_world import ServiceProcess, World  # noqa: E402


class ModelWorld(World):
    """A world whose locked file is an ExecuTorch program."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.model = model
        self.secrets: dict[str, str] = {}
        super().__init__(folder, f"sqlite:///{folder}/service.sqlite")

    def _lock(self, bundle: uuid.UUID, model_version: int) -> None:
        self.bundle_id = str(bundle)
        artifact = open_artifact(self.model / "model.pte")
        # The model is so small that little else than its first and last layer is left.
        plan = make_plan(
            [artifact], parse_tiers(TIERS), score("l1", b"", None),
            criterion="l1", scope="layer", fill="decoy", seed=b"android", include_io=True,
        )  # fmt: skip
        published = publish(
            [artifact], plan, self.folder / "locked", model="scanner", model_version=model_version,
            bundle_id=bundle, signing_key=self.publisher, content_key=self.content_key,
        )  # fmt: skip
        self.tiers = len(plan.tiers)
        self.bundle_path = published.bundle
        self.locked_path = published.outputs[0][0]

    def remember(self, kind: str, secret: bytes) -> None:
        """Something that no log may hold."""
        if secret.hex() not in self.secrets.values():
            self.secrets[f"{kind} {len(self.secrets)}"] = secret.hex()

    def write_secrets(self) -> None:
        for key in tier_keys(self.content_key, uuid.UUID(self.bundle_id), self.tiers)[1:]:
            self.remember("content key", key)
        about = {"secrets": self.secrets, "locked": str(self.locked_path), "original": str(self.model / "model.pte")}
        (self.folder / "secrets.json").write_text(json.dumps(about))


def exported(folder: Path) -> Path:
    """The folder with model.pte and input.bin (float32, [1, 3, 32, 32])."""
    if not (folder / "input.bin").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            example = export(RECIPES["xnnpack_fp32"], folder)
        (folder / "input.bin").write_bytes(example.numpy().tobytes())
    return folder


def serve(world: ModelWorld) -> None:
    """Answer requests until the input ends."""
    running: ServiceProcess | None = world.start()
    try:
        say(
            {
                "config": world.app_config().to_json().decode(),
                "bundle": str(world.bundle_path),
                "locked": str(world.locked_path),
                "original": str(world.model / "model.pte"),
                "input": str(world.model / "input.bin"),
                "development_key": world.attestation_key.to_pem(),
            }
        )
        for line in sys.stdin:
            asked = json.loads(line)
            match asked["do"]:
                case "grant":
                    purchase = asked.get("purchase", str(uuid.uuid4()))
                    details = {name: asked[name] for name in ("lifetime", "product", "until") if name in asked}
                    grant = world.grant(purchase, **details)
                    # Its signature is what makes it worth something.
                    world.remember("purchase token", grant.rpartition(".")[2].encode())
                    say({"grant": grant})
                case "remember":
                    world.remember("wrapped key", bytes.fromhex(asked["wrapped_key"]))
                    say({})
                case "revoke":
                    world.revoke(asked["license"])
                    say({})
                case "stop":
                    if running is not None:
                        running.stop()
                    running = None
                    say({})
                case "start":
                    running = running or world.start()
                    say({})
    finally:
        world.write_secrets()
        if running is not None:
            running.stop()


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    serve(ModelWorld(Path(sys.argv[1]), exported(Path(sys.argv[2]))))
