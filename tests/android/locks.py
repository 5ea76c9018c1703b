"""Locked models of every encoding, and the content key of their bundle, for the tests of the Android library.

    locks.py FOLDER EXPORTED

Exports small models to EXPORTED, unless they are there, locks them by the signs of their weights into FOLDER, and prints one
line of JSON that says where everything is.
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
from corelocker.bundle.content_keys import new_content_key  # noqa: E402
from corelocker.locking.criteria import score  # noqa: E402
from corelocker.locking.planning import make_plan  # noqa: E402
from corelocker.locking.publish import publish  # noqa: E402
from corelocker.locking.tiers import parse_tiers  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from make_fixtures import IMAGE, SIGN_TIERS, ConvNet, Recipe, Transformer, export  # noqa: E402
from torch import nn  # noqa: E402


class HalfNet(ConvNet):
    """A ConvNet of 16-bit floats, between 32-bit inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.half()).float()


class TinyNet(nn.Module):
    """One linear layer, which loads and runs in no time: [1, 16] to [1, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


TOKENS = (1, 8, 128)
RECIPES = {
    "fp32": Recipe(ConvNet, IMAGE),
    "fp16": Recipe(HalfNet, IMAGE, xnnpack=False),
    "int8": Recipe(ConvNet, IMAGE, quantize="int8"),
    "4bit": Recipe(Transformer, TOKENS, quantize="4bit"),
    "external": Recipe(Transformer, TOKENS, external=True),
    "tiny": Recipe(TinyNet, (1, 16)),
}


def export_all(folder: Path) -> None:
    """Write NAME.pte, its input NAME.bin (float32) and, where its weights are outside, NAME.ptd for each recipe."""
    for name, recipe in RECIPES.items():
        if (folder / f"{name}.bin").exists():
            continue
        work = folder / name
        work.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            example = export(recipe, work)
        for file in work.iterdir():
            file.rename(folder / f"{name}{file.suffix}")
        work.rmdir()
        (folder / f"{name}.bin").write_bytes(example.numpy().tobytes())


def lock_all(exported: Path, folder: Path) -> dict[str, Any]:
    """One bundle for all of them; returns what the tests need to know."""
    artifacts = [open_artifact(exported / f"{name}.pte") for name in RECIPES]
    plan = make_plan(
        artifacts, parse_tiers(SIGN_TIERS, "sign"), score("l1", b"", None), criterion="l1", scope="layer",
        fill="decoy", seed=b"android", unit="sign", include_io=True,
    )  # fmt: skip
    content_key = new_content_key()
    published = publish(
        artifacts, plan, folder, model="encodings", model_version=1, bundle_id=uuid.uuid4(),
        signing_key=ec.generate_private_key(ec.SECP256R1()), content_key=content_key,
    )  # fmt: skip
    models = [
        {"name": name, "sizes": recipe.shape, "files": [f"{name}.pte"] + [f"{name}.ptd"] * recipe.external}
        for name, recipe in RECIPES.items()
    ]
    return {
        "bundle": str(published.bundle),
        "content_key": content_key.hex(),
        "tiers": len(plan.tiers),
        "locked": str(folder),
        "original": str(exported),
        "models": models,
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    export_all(Path(sys.argv[2]))
    print(json.dumps(lock_all(Path(sys.argv[2]), Path(sys.argv[1]))))
