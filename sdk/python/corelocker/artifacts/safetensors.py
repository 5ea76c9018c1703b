"""safetensors checkpoints: one file, or several with an index.

Format: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, then the data, every byte of it named once
(https://github.com/huggingface/safetensors, section Format). A checkpoint has no graph: roles, the layers at the model's edges
and the BatchNorm of a convolution are found from names and shapes, and consumers cannot be followed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from corelocker.artifacts.elements import BFLOAT16, FLOAT16, FLOAT32, ElementType
from corelocker.artifacts.weights import Artifact, Kind, Part, Role, Skipped, WeightTensor
from corelocker.errors import MalformedArtifactError, NothingToLockError, UnsupportedLayoutError
from corelocker.files import MappedFile

MAX_HEADER = 100_000_000  # the reference reader's limit
FLOATS = {"F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}
BITS = {"F64": 64, "I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
        "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64,
        "F32": 32, "F16": 16, "BF16": 16}  # fmt: skip
EMBEDDING = re.compile(r"(^|[._])(embed\w*|\w*embeddings?|wte|wpe|tok\w*)([._]|$)", re.IGNORECASE)
WEIGHT = re.compile(r"(^|[._])(weight|kernel|w)$", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One tensor of the header; `offset` counts from the start of its file."""

    name: str
    file: MappedFile
    element: ElementType | None
    dtype: str
    shape: tuple[int, ...]
    offset: int


def open_safetensors(path: Path) -> Artifact:
    """Read a `.safetensors` file or the `.safetensors.index.json` of a sharded checkpoint.

    Raises MalformedArtifactError, NothingToLockError, or UnsupportedLayoutError when no tensor has a known type.
    """
    files = _shards(path) if path.name.endswith(".json") else (MappedFile(path, path.name),)
    entries: dict[str, Entry] = {}
    for file in files:
        for entry in read_header(file):
            if entry.name in entries:
                raise MalformedArtifactError(f"{path}: tensor {entry.name!r} stands in two shards")
            entries[entry.name] = entry
    tensors, skipped = _layers(entries)
    if not tensors:
        reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3])
        if any(s.reason.startswith("type") for s in skipped):
            raise UnsupportedLayoutError(f"{path}: no tensor has a type that can be locked ({reasons})")
        raise NothingToLockError(f"{path}: holds no layer with channels" + (f" ({reasons})" if reasons else ""))
    inputs, outputs = _edges(tensors)
    return Artifact(
        format="safetensors",
        path=path,
        files=files,
        tensors=tuple(tensors),
        skipped=tuple(skipped),
        untraced={t.name: "a checkpoint has no graph" for t in tensors},
        inputs=inputs,
        outputs=outputs,
    )


def _strict_json(raw: bytes | memoryview, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise MalformedArtifactError(f"{what}: a key stands twice")
        return dict(pairs)

    try:
        value = json.loads(bytes(raw).decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise MalformedArtifactError(f"{what}: not UTF-8 JSON") from None
    if not isinstance(value, dict):
        raise MalformedArtifactError(f"{what}: not a JSON object")
    return value


def _shards(path: Path) -> tuple[MappedFile, ...]:
    index = MappedFile(path, path.name)
    if len(index) > MAX_HEADER:
        raise MalformedArtifactError(f"{path}: the index is larger than {MAX_HEADER} bytes")
    names = _strict_json(index.read(0, len(index)), str(path)).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise MalformedArtifactError(f"{path}: the index has no weight_map")
    shards = []
    for name in sorted({str(v) for v in names.values()}):
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise MalformedArtifactError(f"{path}: shard {name!r} lies outside the folder")
        shards.append(MappedFile(path.parent / name, name))
    return tuple(shards)


def read_header(file: MappedFile) -> list[Entry]:
    """The tensors of one file and where they lie. Raises MalformedArtifactError."""
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER or 8 + length > len(file):
        raise MalformedArtifactError(f"{file.name}: the header says {length} bytes, the file has {len(file)}")
    header = _strict_json(file.read(8, length), file.name)
    header.pop("__metadata__", None)
    entries, ranges = [], []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        except (TypeError, KeyError, ValueError):
            raise MalformedArtifactError(f"{file.name}: the entry of {name!r} is incomplete") from None
        if not whole or dtype not in BITS:
            raise MalformedArtifactError(f"{file.name}: {name!r} has type {dtype!r} or a shape that cannot be")
        if (end - begin) * 8 != math.prod(shape) * BITS[dtype] or 8 + length + end > len(file):
            raise MalformedArtifactError(f"{file.name}: the place of {name!r} does not fit its shape or the file")
        ranges.append((begin, end))
        entries.append(Entry(name, file, FLOATS.get(dtype), dtype, tuple(shape), 8 + length + begin))
    position = 0
    for begin, end in sorted(ranges):
        if begin != position:
            raise MalformedArtifactError(f"{file.name}: the data has a hole or an overlap at {min(begin, position)}")
        position = end
    if 8 + length + position != len(file):
        raise MalformedArtifactError(f"{file.name}: {len(file) - 8 - length - position} bytes belong to no tensor")
    return entries


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts layer2 before layer10."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)|[._]", name) if p]


def _vector(entries: dict[str, Entry], name: str, channels: int, kind: Kind) -> Part | None:
    entry = entries.get(name)
    if entry is None or entry.element is None or entry.shape != (channels,):
        return None
    width = entry.element.bits // 8
    return Part(kind, entry.element, entry.file, entry.offset, channels, width, width, width)


def _is_batch_norm(entries: dict[str, Entry], module: str) -> bool:
    return all(f"{module}.{leaf}" in entries for leaf in ("weight", "running_mean", "running_var"))


def _module(name: str) -> str:
    match = WEIGHT.search(name)
    return name[: match.start()] if match else name


def _batch_norms(entries: dict[str, Entry]) -> dict[str, str]:
    """Convolution weight -> its BatchNorm module; one that two convolutions could claim is nobody's."""
    found = {}
    for name, entry in entries.items():
        if len(entry.shape) > 2 and (norm := _batch_norm_of(entries, _module(name), entry.shape[0])):
            found[name] = norm
    claims = Counter(found.values())
    return {name: norm for name, norm in found.items() if claims[norm] == 1}


def _batch_norm_of(entries: dict[str, Entry], module: str, channels: int) -> str | None:
    """The BatchNorm module that follows `module`, by the naming habits of torchvision, timm and Sequential containers."""
    parent, _, leaf = module.rpartition(".")
    prefix = f"{parent}." if parent else ""
    candidates = [
        prefix + re.sub("conv", by, leaf) for by in ("bn", "norm", "batchnorm", "batch_norm") if "conv" in leaf
    ]
    if leaf.isdigit():
        candidates.append(f"{prefix}{int(leaf) + 1}")
    candidates += [f"{module}_bn", f"{prefix}bn", f"{prefix}norm"]
    for candidate in candidates:
        if (
            candidate != module
            and _is_batch_norm(entries, candidate)
            and entries[f"{candidate}.weight"].shape == (channels,)
        ):
            return candidate
    return None


def _layers(entries: dict[str, Entry]) -> tuple[list[WeightTensor], list[Skipped]]:
    tensors: list[WeightTensor] = []
    skipped: list[Skipped] = []
    norms = _batch_norms(entries)
    for name in sorted(entries, key=natural):
        entry = entries[name]
        if len(entry.shape) < 2:
            continue  # biases, norms and counters are parts of a channel or no layer of their own
        if entry.element is None:
            skipped.append(Skipped(name, f"type {entry.dtype} cannot be locked"))
            continue
        if 0 in entry.shape or entry.shape[0] < 2 or len(entry.shape) > 5:
            skipped.append(Skipped(name, "has no channels"))
            continue
        tensors.append(_layer(entries, entry, len(tensors), norms.get(name)))
    return tensors, skipped


def _layer(entries: dict[str, Entry], entry: Entry, order: int, norm: str | None) -> WeightTensor:
    element = FLOATS[entry.dtype]
    width = element.bits // 8
    match = WEIGHT.search(entry.name)
    bias_name = entry.name[: match.start(2)] + "bias" if match else ""
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
        role = "depthwise" if shape[1] == 1 and math.prod(shape[2:]) > 1 else "conv"
    elif EMBEDDING.search(_module(entry.name)):
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

    A shape that repeats (the fused projection of every transformer block) is no edge of the model.
    """
    dense = [t for t in tensors if t.role != "depthwise"]
    shapes = Counter(t.shape for t in dense)
    produced = {t.shape[0] for t in tensors if t.role != "embedding"} | {
        t.shape[1] for t in tensors if t.role == "embedding"
    }
    maps = {t.shape[0] for t in tensors if t.role in ("conv", "depthwise")}
    read = {t.shape[1] for t in dense if t.role != "embedding"}
    flattened = {t.shape[1] for t in dense if t.role == "linear"}
    inputs, outputs = set(), set()
    for tensor in dense:
        out, width = tensor.shape[0], tensor.shape[1]
        if tensor.role == "embedding":
            inputs.add(tensor.name)
            continue
        if shapes[tensor.shape] > 1:
            continue
        if width not in produced and not (tensor.role == "linear" and any(width % m == 0 for m in maps)):
            inputs.add(tensor.name)
        if out not in read and not (tensor.role == "conv" and any(f % out == 0 for f in flattened)):
            outputs.add(tensor.name)
    if not inputs:
        inputs.add(tensors[0].name)
    if not outputs:
        outputs.add(tensors[-1].name)
    return frozenset(inputs), frozenset(outputs)
