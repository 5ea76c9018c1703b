"""Programs that the exporters made, opened by the adapter, and the torch modules behind them."""

from __future__ import annotations

import numpy as np
import torch
from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.executorch.pte import open_pte

from support.models import nets, reference
from support.models.exports import exported
from support.models.lowering import built, run

FLOAT = [
    ("resnet", "portable"), ("resnet", "xnnpack"), ("resnet", "mixed"), ("mobilenet", "portable"), ("mobilenet", "xnnpack"),
    ("vgg", "portable"), ("vgg", "xnnpack"), ("vgg", "external"), ("vgg", "xnnpack-external"), ("transformer", "portable"),
    ("transformer", "xnnpack"), ("branches", "portable"), ("branches", "xnnpack"), ("unet", "portable"),
    ("unet", "xnnpack"), ("audio", "portable"), ("audio", "xnnpack"), ("shared", "methods-portable"),
    ("shared", "methods-xnnpack"),
]  # fmt: skip
CODED = [
    ("gated", "half"), ("gated", "int4"), ("mobilenet", "int8"), ("unet", "int8"), ("shared", "int4-per-channel"),
    ("shared", "int8-per-tensor"), ("shared", "int8-portable"), ("stack", "channels-last"), ("vgg", "coreml"),
]  # fmt: skip
UNFOLDED = ("portable", "external", "mixed", "channels-last")


def opened(name: str, variant: str) -> Artifact:
    return open_pte(exported(name, variant))


def layers_of(name: str, variant: str) -> list[reference.Layer]:
    """The torch layers in the order in which a program of all methods names them."""
    model, inputs = built(name)
    found = reference.layers(model, inputs)
    if "methods" in variant:
        other = model.other
        found.append(reference.Layer(other, other.weight.detach().numpy()))
    return found


def by_number(artifact: Artifact) -> dict[int, WeightTensor]:
    return {tensor.order: tensor for tensor in artifact.tensors}


def zeroed(artifact: Artifact, runs: list[tuple[object, object]]) -> dict[str, bytes]:
    """The files of the artifact with these runs blanked, by suffix."""
    changed = {file: bytearray(file.path.read_bytes()) for file in artifact.files}
    for file, piece in runs:
        for i in range(piece.count):
            start = piece.offset + i * piece.stride
            changed[file][start : start + piece.length] = bytes(piece.length)
    return {file.path.suffix: bytes(data) for file, data in changed.items()}


def run_files(files: dict[str, bytes], inputs: nets.Inputs, method: str = "forward") -> torch.Tensor:
    return run(files[".pte"], inputs, method, files.get(".ptd"))


def renamed(artifact: Artifact, copies: slice = slice(None)) -> dict[str, bytes]:
    """The files with other names in the place of all identities."""
    generator = np.random.default_rng(0)
    changed = {file: bytearray(file.path.read_bytes()) for file in artifact.files}
    fresh: dict[bytes, bytes] = {}
    for identity in artifact.identities:
        old = bytes(identity.file.read(identity.copies[0], identity.length))
        letters = generator.choice(list(b"0123456789abcdef"), len(old)).astype(np.uint8)
        new = fresh.setdefault(
            old, bytes(n if c in b"0123456789abcdef" else c for n, c in zip(letters, old, strict=True))
        )
        for offset in identity.copies[copies]:
            changed[identity.file][offset : offset + identity.length] = new
    return {file.path.suffix: bytes(data) for file, data in changed.items()}
