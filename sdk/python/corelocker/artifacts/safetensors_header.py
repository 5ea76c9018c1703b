"""The header of a safetensors file, and the shards of a checkpoint.

Format: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, then the data, every byte of it named once
(https://github.com/huggingface/safetensors, section Format). A reader of our own stands here because the base install lacks the
`safetensors` package, and because that package gives values, not the places of bytes. `tests/fuzz/fuzz_safetensors.py` fuzzes it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from corelocker.artifacts.elements import BFLOAT16, FLOAT16, FLOAT32, ElementType
from corelocker.artifacts.git_lfs import POINTER, refuse_pointer
from corelocker.errors import MalformedArtifactError, UnsupportedLayoutError
from corelocker.files import MappedFile

MAX_HEADER = 100_000_000  # the reference reader's limit
MAX_NAME = 1024  # characters; what is searched in names takes the square of their length at worst
FLOATS = {"F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}
BITS = {"F64": 64, "I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
        "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64,
        "F32": 32, "F16": 16, "BF16": 16}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the header; `offset` counts from the start of its file."""

    name: str
    file: MappedFile
    element: ElementType | None
    dtype: str
    shape: tuple[int, ...]
    offset: int


def strict_json(raw: bytes | memoryview, what: str) -> dict[str, Any]:
    """A JSON object without duplicate keys. Raises MalformedArtifactError."""

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


def open_shards(path: Path) -> tuple[MappedFile, ...]:
    """The files of a sharded checkpoint. Raises MalformedArtifactError or UnsupportedLayoutError."""
    index = MappedFile(path, path.name)
    if len(index) > MAX_HEADER:
        raise MalformedArtifactError(f"{path}: the index is larger than {MAX_HEADER} bytes")
    names = strict_json(index.read(0, len(index)), str(path)).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise MalformedArtifactError(f"{path}: the index has no weight_map")
    shards = []
    for name in sorted({str(v) for v in names.values()}):
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise MalformedArtifactError(f"{path}: shard {name!r} lies outside the folder")
        if len(relative.parts) != 1:
            raise UnsupportedLayoutError(f"{path}: shard {name!r} lies in another folder than the index")
        shards.append(MappedFile(path.parent / name, name))
        refuse_pointer(path.parent / name, shards[-1].data[: len(POINTER)].tobytes())
    return tuple(shards)


def read_header(file: MappedFile) -> list[TensorEntry]:
    """The tensors of one file and where they lie. Raises MalformedArtifactError."""
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER or 8 + length > len(file):
        raise MalformedArtifactError(f"{file.name}: the header says {length} bytes, the file has {len(file)}")
    header = strict_json(file.read(8, length), file.name)
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
        if len(name) > MAX_NAME:
            raise MalformedArtifactError(f"{file.name}: a tensor's name has {len(name)} characters")
        ranges.append((begin, end))
        entries.append(TensorEntry(name, file, FLOATS.get(dtype), dtype, tuple(shape), 8 + length + begin))
    position = 0
    for begin, end in sorted(ranges):
        if begin != position:
            raise MalformedArtifactError(f"{file.name}: the data has a hole or an overlap at {min(begin, position)}")
        position = end
    if 8 + length + position != len(file):
        raise MalformedArtifactError(f"{file.name}: {len(file) - 8 - length - position} bytes belong to no tensor")
    return entries
