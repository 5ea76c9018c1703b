"""The models of the restore bench: a residual network of about 100 MB and linear layers of about 1 GB, fp32 for XNNPACK.

    make_models.py FOLDER

Each is exported once and locked at several sizes by the product. `rows.txt` lists what the bench measures, one line each:
label, locked fraction in percent, original, locked, patch, SHA-256 replaced, SHA-256 restored, input, sizes.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from uuid import UUID

import numpy as np
import torch
from corelocker.artifacts import Artifact, open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.locking.criteria import score
from corelocker.locking.plan import Plan, make_plan
from corelocker.locking.publish import publish
from corelocker.locking.tiers import parse_tiers
from cryptography.hazmat.primitives.asymmetric import ec
from torch import nn

PERCENT = (0.1, 0.2, 1, 5, 30)


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
        signing_key=lambda: signing_key,
        content_key=content_key,
        force=True,
    )
    with KeyBundle.open(published.bundle) as bundle:
        (section,) = bundle.sections
        opened = bundle.decrypt(section, tier_keys(content_key, bundle_id, 2)[1])
        (folder / "patch").write_bytes(opened.patch)
        return f"{folder / original.name} {folder / 'patch'} {section.replaces.hex()} {opened.puts.hex()}"


def main(folder: Path) -> None:
    rows = []
    (folder / "rows.txt").unlink(missing_ok=True)  # it is the last thing to be written
    for label, make, sizes in (("100MB", residual_network, (1, 3, 96, 96)), ("1GB", linear_layers, (1, 4096))):
        torch.manual_seed(0)
        home = folder / label
        home.mkdir(parents=True, exist_ok=True)
        original, example = home / "model.pte", torch.randn(sizes)
        (home / "input.bin").write_bytes(example.numpy().tobytes())
        if not original.exists():
            partial = home / "partial.pte"
            export(make(), example, partial)
            partial.rename(original)
        for percent in PERCENT:
            locked = lock(original, percent, home / f"{percent}")
            rows.append(f"{label} {percent} {original} {locked} {home / 'input.bin'} {','.join(map(str, sizes))}\n")
            print(f"{label}: {percent} % locked", file=sys.stderr)
    (folder / "rows.txt").write_text("".join(rows))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
