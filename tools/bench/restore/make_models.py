"""The models of the restore bench: a residual network of about 100 MB and linear layers of about 1 GB, fp32 for XNNPACK.

    make_models.py FOLDER [LABEL..]

Each is exported once. The product locks it at several sizes by value, and one more patch flips the signs of half of all
weights. `rows.txt` lists what the bench measures, one line each: label, locked fraction in percent or `signs`, original,
locked, patch, sample of the locked file, sample and SHA-256 of the restored file, input, sizes. LABELs (100MB, 1GB) limit
the models; all are made by default.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
import torch
from corelocker.artifacts import Artifact, open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.flips import Flip
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import Kind
from corelocker.bundle.sample import sample
from corelocker.locking.criteria import score
from corelocker.locking.plan import Plan
from corelocker.locking.planning import make_plan
from corelocker.locking.publish import publish
from corelocker.locking.tiers import parse_tiers
from corelocker.runs import single
from cryptography.hazmat.primitives.asymmetric import ec
from torch import nn

PERCENT = (0.2, 5, 30)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


def residual_network() -> nn.Sequential:
    """Fifty layers, 25.6 million parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if block == 0 and width > 64 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def linear_layers() -> nn.Sequential:
    """Sixteen layers of 4096 x 4096, 268 million parameters."""
    layers: list[nn.Module] = []
    for _ in range(16):
        layers += [nn.Linear(4096, 4096, bias=False), nn.ReLU()]
    return nn.Sequential(*layers)


def export(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        program = torch.export.export(model.eval(), (example,), strict=True)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with path.open("wb") as file:
        edge.to_executorch().write_to_file(file)


def plan_of_size(artifact: Artifact, percent: float) -> Plan:
    """Channels that make up `percent` of the weights' bytes. They differ in size, so their number is found by bisection."""
    tensors = {tensor.name: tensor for tensor in artifact.tensors}
    total = sum(tensor.weight.size for tensor in artifact.tensors)
    low, high = 0.0, min(4 * percent, 95.0)
    while True:
        middle = (low + high) / 2
        plan = make_plan(
            [artifact],
            parse_tiers(f"free={middle / 100:.8f},full=0"),
            score("random", b"bench", None),
            criterion="random",
            scope="global",
            fill="decoy",
            seed=b"bench",
            include_io=True,
        )
        taken = sum(tensors[n].weight.size * np.count_nonzero(t) / t.size for n, t in plan.tier_of[0].items())
        error = 100 * taken / total - percent
        if abs(error) < percent / 50 or high - low < percent / 100:
            return plan
        low, high = (low, middle) if error > 0 else (middle, high)


def lock(original: Path, percent: float, folder: Path) -> str:
    """Lock the file so that about `percent` of its bytes are gone; return what a row says of it."""
    artifact = open_artifact(original)
    plan = plan_of_size(artifact, percent)
    bundle_id, content_key = UUID(int=1), new_content_key()
    signing_key = ec.generate_private_key(ec.SECP256R1())
    published = publish(
        [artifact],
        plan,
        folder,
        model="bench",
        model_version=1,
        bundle_id=bundle_id,
        signing_key=signing_key,
        content_key=content_key,
        force=True,
    )
    with KeyBundle.open(published.bundle) as bundle:
        (section,) = bundle.sections
        opened = bundle.decrypt(section, tier_keys(content_key, bundle_id, 2)[1])
        (folder / "patch").write_bytes(opened.patch)
        digests = (section.locked_sample, opened.restored_sample, opened.file_digest)
        return describe(folder, original.name, digests)


def flip_signs(original: Path, folder: Path) -> str:
    """Flip the signs of half of all weights, picked at random; return what a row says of it."""
    restored = np.fromfile(original, np.uint8)
    artifact = open_artifact(original)
    source = np.random.default_rng(0)
    flips = [
        Flip(run, Kind.XOR_TOP, 32, source.bytes(run.size // 32) + bytes([0] * (run.size % 32 > 0)))
        for tensor in artifact.tensors
        for run in (single(tensor.weight.offset, tensor.weight.size),)
    ]
    patch = Patch.build([], restored, flips)
    locked = restored.copy()
    patch.apply(locked)
    folder.mkdir(parents=True, exist_ok=True)
    locked.tofile(folder / original.name)
    (folder / "patch").write_bytes(patch.encode())
    digests = (sample(locked, patch.table), sample(restored, patch.table), hashlib.sha256(restored).digest())
    return describe(folder, original.name, digests)


def describe(folder: Path, name: str, digests: tuple[bytes, bytes, bytes]) -> str:
    return " ".join((str(folder / name), str(folder / "patch"), *(digest.hex() for digest in digests)))


def main(folder: Path, labels: Sequence[str]) -> None:
    rows = []
    (folder / "rows.txt").unlink(missing_ok=True)  # it is the last thing to be written
    for label, make, sizes in (("100MB", residual_network, (1, 3, 96, 96)), ("1GB", linear_layers, (1, 4096))):
        if labels and label not in labels:
            continue
        torch.manual_seed(0)
        home = folder / label
        home.mkdir(parents=True, exist_ok=True)
        original, example = home / "model.pte", torch.randn(sizes)
        (home / "input.bin").write_bytes(example.numpy().tobytes())
        if not original.exists():
            partial = home / "partial.pte"
            export(make(), example, partial)
            partial.rename(original)
        states = {f"{percent}": lock(original, percent, home / f"{percent}") for percent in PERCENT}
        states["signs"] = flip_signs(original, home / "signs")
        end = f"{home / 'input.bin'} {','.join(map(str, sizes))}\n"
        rows += [f"{label} {state} {original} {locked} {end}" for state, locked in states.items()]
        print(f"{label} is made", file=sys.stderr)
    (folder / "rows.txt").write_text("".join(rows))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
