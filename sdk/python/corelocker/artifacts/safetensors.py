"""safetensors checkpoints: one file, or several with an index.

A checkpoint has no graph: the order of the layers, their roles and the BatchNorm of a convolution come from names
(`checkpoint_names`), which layers are at the model's edges from shapes too; consumers cannot be followed.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

from corelocker.artifacts.checkpoint_names import (
    BIASES,
    EMBEDDING,
    HEAD,
    RECURRENT,
    STACKED,
    WEIGHT,
    batch_norms_of_convolutions,
    expands_codes,
    in_order_of_computation,
    module_name,
    rank_among_siblings,
)
from corelocker.artifacts.safetensors_header import BITS, FLOATS, TensorEntry, open_shards, read_header
from corelocker.artifacts.weights import Artifact, Kind, Part, Role, Skipped, WeightTensor
from corelocker.errors import MalformedArtifactError, NothingToLockError, UnsupportedLayoutError
from corelocker.files import MappedFile

PLANES = 4  # channels of an image at most


def open_safetensors(path: Path) -> Artifact:
    """Read a `.safetensors` file or the `.safetensors.index.json` of a sharded checkpoint.

    Raises MalformedArtifactError, NothingToLockError, or UnsupportedLayoutError when no tensor has a known type.
    """
    files = open_shards(path) if path.name.endswith(".json") else (MappedFile(path, path.name),)
    entries: dict[str, TensorEntry] = {}
    for file in files:
        for entry in read_header(file):
            if entry.name in entries:
                raise MalformedArtifactError(f"{path}: tensor {entry.name!r} stands in two shards")
            entries[entry.name] = entry
    tensors, skipped, stacks = _layers(entries)
    if not tensors:
        reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3])
        if any(s.reason.startswith("type") for s in skipped):
            raise UnsupportedLayoutError(f"{path}: no tensor has a type that can be locked ({reasons})")
        raise NothingToLockError(f"{path}: holds no layer with channels" + (f" ({reasons})" if reasons else ""))
    inputs, outputs = _edges([tensor for tensor in tensors if tensor.name not in stacks] or tensors)
    return Artifact(
        format="safetensors",
        path=path,
        files=files,
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        untraced={t.name: "a checkpoint has no graph" for t in tensors},
        inputs=inputs,
        outputs=outputs,
        weight_storage=sum(math.prod(e.shape) * BITS[e.dtype] // 8 for e in entries.values()),
    )


def _vector(entries: dict[str, TensorEntry], name: str, channels: int, kind: Kind) -> Part | None:
    entry = entries.get(name)
    if entry is None or entry.element is None or entry.shape != (channels,):
        return None
    width = entry.element.bits // 8
    return Part(kind, entry.element, entry.file, entry.offset, channels, width, width, width)


def _layers(entries: dict[str, TensorEntry]) -> tuple[list[WeightTensor], list[Skipped], set[str]]:
    """Layers, tensors that are left alone, and which of the layers are stacks of experts."""
    tensors: list[WeightTensor] = []
    skipped: list[Skipped] = []
    stacks: set[str] = set()
    norms = batch_norms_of_convolutions(entries)
    made: set[int] = set()  # channels of what the layers so far give
    for name in in_order_of_computation(entries):
        entry = entries[name]
        if len(entry.shape) < 2:
            continue  # biases, norms and counters are parts of a channel or no layer of their own
        if entry.element is None:
            skipped.append(Skipped(name, f"type {entry.dtype} cannot be locked"))
            continue
        if 0 in entry.shape or entry.shape[0] < 2 or len(entry.shape) > 5:
            skipped.append(Skipped(name, "has no channels"))
            continue
        if expands_codes(entries, name):
            skipped.append(Skipped(name, "scales or offsets of a quantized layer, no layer"))
            continue
        if math.prod(entry.shape[1:]) == 1 and not WEIGHT.search(name):
            skipped.append(Skipped(name, "scales of channels, no layer"))
            continue
        if len(entry.shape) == 2 and BIASES.search(name):
            skipped.append(Skipped(name, "biases of stacked layers, no layer"))
            continue
        if len(entry.shape) == 3 and STACKED.search(name):
            tensors.append(_stack(entry, len(tensors)))
            stacks.add(name)
            continue
        tensors.append(_layer(entries, entry, len(tensors), norms.get(name), made))
        made.add(entry.shape[1] if tensors[-1].role == "embedding" else tensors[-1].channels)
    return tensors, skipped, stacks


def _stack(entry: TensorEntry, order: int) -> WeightTensor:
    """The matrices of experts (experts, rows, columns) as one layer, whose channels are the rows as they are stored."""
    element = FLOATS[entry.dtype]
    rows, columns = entry.shape[0] * entry.shape[1], entry.shape[2]
    width = columns * element.bits // 8
    weight = Part("weight", element, entry.file, entry.offset, rows, width, width, width)
    return WeightTensor(entry.name, "linear", (rows, columns), element.name, order, (weight,), (columns,), (0,))


def _layer(
    entries: dict[str, TensorEntry], entry: TensorEntry, order: int, norm: str | None, made: set[int]
) -> WeightTensor:
    element = FLOATS[entry.dtype]
    width = element.bits // 8
    match = WEIGHT.search(entry.name)
    bias_name = entry.name[: match.start(2)] + "bias" if match else RECURRENT.sub(r"\1bias_\2", entry.name)
    rows, columns = entry.shape[0], math.prod(entry.shape[1:])
    bias = entries.get(bias_name)
    if len(entry.shape) == 2 and bias is not None and bias.shape == (columns,) != (rows,):
        # (in, out) as in the Conv1D of GPT-2: an output unit is a column.
        weight = Part("weight", element, entry.file, entry.offset, columns, width, width, columns * width, rows)
        inputs = Part(
            "weight", element, entry.file, entry.offset, rows, columns * width, columns * width, columns * width
        )
        shape: tuple[int, ...] = (columns, rows)
    else:
        weight = Part(
            "weight", element, entry.file, entry.offset, rows, columns * width, columns * width, columns * width
        )
        step = math.prod(entry.shape[2:]) * width
        inputs = Part("weight", element, entry.file, entry.offset, entry.shape[1], step, step, columns * width, rows)
        shape = entry.shape
    parts: list[Part] = [weight]
    if bias_part := _vector(entries, bias_name, shape[0], "bias"):
        parts.append(bias_part)
    if norm is not None:
        leaves: list[tuple[str, Kind]] = [
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "mean"),
            ("running_var", "variance"),
        ]
        for leaf, kind in leaves:
            if part := _vector(entries, f"{norm}.{leaf}", shape[0], kind):
                parts.append(part)
    role: Role = "linear"
    if len(shape) > 2:
        # A filter that sees one channel is depthwise only where a layer before makes its channels: a stem sees a gray image so.
        known = any(channels > 1 and shape[0] % channels == 0 for channels in made)
        role = "depthwise" if shape[1] == 1 and math.prod(shape[2:]) > 1 and known else "conv"
    elif EMBEDDING.search(module_name(entry.name)):
        role = "embedding"
    axes = tuple(range(len(shape) - 1))
    return WeightTensor(
        entry.name,
        role,
        shape,
        element.name,
        order,
        tuple(parts),
        shape[1:],
        axes,
        inputs=None if role == "depthwise" else inputs,
    )


def _edges(tensors: list[WeightTensor]) -> tuple[frozenset[str], frozenset[str]]:
    """Layers that read what no layer produces, and layers that produce what no layer reads.

    A shape that repeats (the fused projection of every transformer block) is no edge of the model. Concatenations and groups make
    widths that no layer has: where the first layer reads the input, others do only if they read as many channels. Heads that
    are named so are the outputs.
    """
    dense = [t for t in tensors if t.role != "depthwise"]
    shapes = Counter(t.shape for t in dense)
    produced = {t.shape[0] for t in tensors if t.role != "embedding"} | {
        t.shape[1] for t in tensors if t.role == "embedding"
    }
    maps = {t.shape[0] for t in tensors if t.role in ("conv", "depthwise")}
    read = {t.shape[1] for t in dense if t.role != "embedding"}
    flattened = {t.shape[1] for t in dense if t.role == "linear"}
    embeddings = {t.name for t in dense if t.role == "embedding"}
    layers = [t for t in dense if t.role != "embedding"]
    inputs, outputs = set(), set()
    for tensor in layers:
        out, width = tensor.shape[0], tensor.shape[1]
        image = tensor is layers[0] and tensor.role == "conv" and width <= PLANES
        if shapes[tensor.shape] > 1 and not image:
            continue
        if image or (width not in produced and not (tensor.role == "linear" and any(width % m == 0 for m in maps))):
            inputs.add(tensor.name)
        if out not in read and not (tensor.role == "conv" and any(f % out == 0 for f in flattened)):
            outputs.add(tensor.name)
    if layers and layers[0].name in inputs:
        inputs = {t.name for t in layers if t.name in inputs and t.shape[1] == layers[0].shape[1]}
    inputs |= embeddings
    if layers and layers[-1].role == "conv" and layers[-1].channels <= PLANES:
        outputs = {layers[-1].name}  # an image comes out
    outputs = _heads(layers) or outputs
    if not inputs:
        inputs.add(tensors[0].name)
    if not outputs:
        outputs |= embeddings or {tensors[-1].name}  # tied to the embedding
    return frozenset(inputs), frozenset(outputs)


def _heads(layers: list[WeightTensor]) -> set[str]:
    """The last layer of each module at the top that is named as a head; of fc1, fc2, fc3 the last."""
    paths = [t.name.split(".") for t in layers]
    levels = zip(*(path[:-2] for path in paths), strict=False)
    common = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    heads = {}
    for tensor, path in zip(layers, paths, strict=True):
        if rank_among_siblings(path[common]) == HEAD:
            heads[path[common].rstrip("0123456789_")] = tensor.name
    return set(heads.values())
