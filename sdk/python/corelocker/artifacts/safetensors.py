"""safetensors checkpoints: one file, or several with an index.

Format: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, then the data, every byte of it named once
(https://github.com/huggingface/safetensors, section Format). A checkpoint has no graph, and its writers sort by name: the order of
the layers, their roles, which ones are at the model's edges and the BatchNorm of a convolution are found from the naming habits
of torchvision, timm and transformers and from shapes; consumers cannot be followed.
"""

from __future__ import annotations

import itertools
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

PLANES = 4  # channels of an image at most
MAX_HEADER = 100_000_000  # the reference reader's limit
MAX_NAME = 1024  # characters; what is searched in names takes the square of their length at worst
FLOATS = {"F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}
BITS = {"F64": 64, "I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
        "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64,
        "F32": 32, "F16": 16, "BF16": 16}  # fmt: skip
EMBEDDING = re.compile(
    r"(^|[._])(embed\w*|\w*embeddings?|wte|wpe|tok\w*|pos(ition\w*)?|\w*bias_table)([._]|$)", re.IGNORECASE
)
WEIGHT = re.compile(r"(^|[._])(weight|kernel|w)$", re.IGNORECASE)
RECURRENT = re.compile(r"(^|\.)weight_((?:ih|hh|hr)_l\d+)(?=_reverse$|$)")  # of torch.nn.LSTM and its kin
# Where a module with such a name stands among its siblings; the others stand in the middle, in the order of their numbers.
HEAD = 3
PLACES: tuple[tuple[int, re.Pattern[str]], ...] = tuple(
    (place, re.compile(f"(?:{words})$", re.IGNORECASE))
    for place, words in (
        (-3, r"\w*embed(der|dings?)?|wte|wpe|tok_\w+|pos|\w*stem\w*|conv_?[01]|conv_proj|input_\w+|to_patch\w*"),
        (-2, r"squeeze\w*|(self_?)?attn|(self_?)?attention|self|encoder"),
        (-1, r"(in_proj|q_?proj|k_?proj|v_?proj|to_[qkv]|w[qkv]|c_attn|qkv|query\w*|key|value)(_weight)?"),
        (1, r"c_proj|o_?proj|out_?proj|to_out|wo|proj|down_?proj|w2|conv_pwl|down_?sample|short_?cut|output|decoder"),
        (2, r"conv_?5|conv_?(head|last)|(head|last|final)_conv|pooler"),
        (HEAD, r"(\w+_)?(heads?|classifiers?|logits)\d*|(fc|linear|classifier|head|last)_?\w*|cls|score|predictions?"),
    )
)
TIMM = (("conv_pw", "conv_dw", "conv_pwl"), ("conv_exp", "conv_pwl"), ("conv_dw", "conv_pw"), ("conv_stem", "conv_head"),
        ("conv_stem",))  # fmt: skip  # convolutions of one module in order; their BatchNorms are bn1, bn2, bn3


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
        if len(relative.parts) != 1:
            raise UnsupportedLayoutError(f"{path}: shard {name!r} lies in another folder than the index")
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
        if len(name) > MAX_NAME:
            raise MalformedArtifactError(f"{file.name}: a tensor's name has {len(name)} characters")
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


def natural(name: str) -> list[tuple[int, int, int, str]]:
    """Sort key that puts layer2 before layer10, a stem before the stages, queries before the output that mixes them, and heads
    last (`PLACES`)."""
    key: list[tuple[int, int, int, str]] = []
    for segment in name.split("."):
        word = re.sub(r"^transition(?=\d)", "denseblock", segment)  # denseblock1, transition1, denseblock2
        word = RECURRENT.sub(_recurrent, word)
        pieces = [piece for piece in re.split(r"([0-9]+)|_", word) if piece]
        numbered = [(0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in pieces]
        if word != segment:
            numbered.append((2, 0, segment))
        key += [(_place(segment), *piece) for piece in numbered]
    return key


def _recurrent(match: re.Match[str]) -> str:
    """weight_ih_l0, weight_hh_l0, weight_ih_l1 in this order."""
    gate, layer = match[2].split("_l")
    return f"l{layer}_{('ih', 'hh', 'hr').index(gate)}"


def _place(segment: str) -> int:
    return next((place for place, words in PLACES if words.match(segment)), 0)


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
    convolutions = {name: entry for name, entry in entries.items() if len(entry.shape) > 2}
    before: set[tuple[str, str]] = set()
    for name, entry in convolutions.items():
        for norm in _named_alike(_module(name)):
            if _is_batch_norm(entries, norm) and entry.shape[1:2] == entries[f"{norm}.weight"].shape != entry.shape[:1]:
                conv, norm = _leaf(_module(name)), _leaf(norm)
                # What holds for conv1 and bn1 holds for conv2 and bn2, whose widths may not tell.
                first = _number(conv)
                before |= {(_renumbered(conv, n), _renumbered(norm, n)) for n in range(first, first + 9)}
    found = {}
    for name, entry in convolutions.items():
        if follows := _batch_norm_of(entries, _module(name), entry.shape[0], before):
            found[name] = follows
    claims = Counter(found.values())
    return {name: norm for name, norm in found.items() if claims[norm] == 1}


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def _number(name: str) -> int:
    """The number that the name ends with, or 0."""
    match = re.search(r"\d{1,6}$", name)
    return int(match[0]) if match else 0


def _renumbered(name: str, number: int) -> str:
    return re.sub(r"\d+$", str(number), name)


def _named_alike(module: str) -> list[str]:
    """conv2 -> bn2, norm2 and so on."""
    prefix, leaf = module[: len(module) - len(_leaf(module))], _leaf(module)
    if leaf == "convolution":  # transformers
        return [f"{prefix}normalization"]
    return [prefix + leaf.replace("conv", by) for by in ("bn", "norm", "batchnorm", "batch_norm") if "conv" in leaf]


def _batch_norm_of(entries: dict[str, Entry], module: str, channels: int, before: set[tuple[str, str]]) -> str | None:
    """The BatchNorm module that follows `module`, by the naming habits of torchvision, timm and Sequential containers.

    `before` holds names of convolutions and BatchNorms that come in the other order somewhere in the model, as widths tell:
    there conv1 is followed by bn2.
    """
    leaf = _leaf(module)
    prefix = module[: len(module) - len(leaf)]
    candidates = []
    for norm in _named_alike(module):
        if (leaf, _leaf(norm)) in before:
            norm = _renumbered(norm, _number(norm) + 1)
        candidates.append(norm)
    for convs in TIMM:
        if leaf in convs and all(f"{prefix}{conv}.weight" in entries for conv in convs):
            candidates.append(f"{prefix}bn{convs.index(leaf) + 1}")
    if leaf.isdigit():
        candidates.append(f"{prefix}{int(leaf) + 1}")
    candidates += [f"{module}_bn", f"{prefix}bn", f"{prefix}norm"]
    for candidate in candidates:
        if (
            candidate != module
            and (leaf, _leaf(candidate)) not in before
            and _is_batch_norm(entries, candidate)
            and entries[f"{candidate}.weight"].shape == (channels,)
        ):
            return candidate
    return None


def _layers(entries: dict[str, Entry]) -> tuple[list[WeightTensor], list[Skipped]]:
    tensors: list[WeightTensor] = []
    skipped: list[Skipped] = []
    norms = _batch_norms(entries)
    made: set[int] = set()  # channels of what the layers so far give
    for name in _ordered(entries):
        entry = entries[name]
        if len(entry.shape) < 2:
            continue  # biases, norms and counters are parts of a channel or no layer of their own
        if entry.element is None:
            skipped.append(Skipped(name, f"type {entry.dtype} cannot be locked"))
            continue
        if 0 in entry.shape or entry.shape[0] < 2 or len(entry.shape) > 5:
            skipped.append(Skipped(name, "has no channels"))
            continue
        if math.prod(entry.shape[1:]) == 1 and not WEIGHT.search(name):
            skipped.append(Skipped(name, "scales of channels, no layer"))
            continue
        tensors.append(_layer(entries, entry, len(tensors), norms.get(name), made))
        made.add(entry.shape[1] if tensors[-1].role == "embedding" else tensors[-1].channels)
    return tensors, skipped


def _ordered(entries: dict[str, Entry]) -> list[str]:
    """The names in the order of computation, as far as names tell."""

    def key(name: str) -> list[tuple[int, int, int, str]]:
        # timm's expansion comes before the depthwise layer where there is a projection behind it.
        prefix, pointwise, leaf = name.rpartition("conv_pw.")
        expands = pointwise and f"{prefix}conv_pwl.weight" in entries
        return natural(f"{prefix}conv_0.{leaf}" if expands else name)

    return sorted(entries, key=key)


def _layer(entries: dict[str, Entry], entry: Entry, order: int, norm: str | None, made: set[int]) -> WeightTensor:
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
        if _place(path[common]) == HEAD:
            heads[path[common].rstrip("0123456789_")] = tensor.name
    return set(heads.values())
