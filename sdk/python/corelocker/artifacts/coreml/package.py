"""Core ML ML Programs as weight tensors: `.mlpackage`, compiled `.mlmodelc`, and the package inside a `.pte`.

A package holds the program as protobuf and the weights in `weights/weight.bin`; a compiled model holds the program as MIL text
and the same `weight.bin`, byte for byte. Both give the same tensors, so a patch of one serves the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from corelocker.artifacts.coreml.mil_constants import Constant, Constants, Layout, Memory, channel_part, lay_out
from corelocker.artifacts.coreml.mil_graph import Graph, Layer, Trail, follow
from corelocker.artifacts.coreml.mil_text import read_mil
from corelocker.artifacts.coreml.mlprogram import BlobReference, Block, Operation, Program, Value, read_model
from corelocker.artifacts.coreml.weight_bin import Blob, WeightFile
from corelocker.artifacts.weights import Artifact, Edge, Kind, Part, Role, Skipped, WeightTensor
from corelocker.errors import (
    FileAccessError,
    MalformedArtifactError,
    NothingToLockError,
    UnknownFormatError,
    UnsupportedLayoutError,
)
from corelocker.files import MappedFile

MAX_SPECIFICATION = 256 << 20
MAX_MANIFEST = 1 << 20
MODEL_PATH = "@model_path/"
LEAKS_NAMES = "executorch_debug_handle_mapping.json"  # written by coremltools for an exported program
NORMS: dict[str, tuple[Kind, ...]] = {
    "batch_norm": ("gamma", "beta", "mean", "variance"),
    "layer_norm": ("gamma", "beta"),
    "instance_norm": ("gamma", "beta"),
}
RECURRENT = ("lstm", "gru", "rnn")


@dataclass(frozen=True)
class ProgramWeights:
    """What an ML Program's weight file holds, as the fields of the same names of `Artifact`.

    `refused` are those of `skipped` that are weights of a layer in a layout that cannot be locked.
    """

    tensors: tuple[WeightTensor, ...]
    skipped: tuple[Skipped, ...]
    refused: tuple[Skipped, ...]
    edges: dict[str, tuple[Edge, ...]]
    untraced: dict[str, str]
    inputs: frozenset[str]
    outputs: frozenset[str]


def open_package(path: Path) -> Artifact:
    """Read an `.mlpackage`.

    Raises FileAccessError, UnknownFormatError (not an ML Program), MalformedArtifactError, UnsupportedLayoutError (it has
    weights, but none in a layout that can be locked) or NothingToLockError.
    """
    place = path / "Manifest.json"
    try:
        manifest = json.loads(_bytes(place, MAX_MANIFEST))
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise MalformedArtifactError(f"{place}: not JSON that names a root model") from None
    model = PurePosixPath("Data") / _inside(root, str(place))
    spec = _bytes(path / model, MAX_SPECIFICATION)
    return _artifact("coreml", path, model.parent, lambda: read_model(spec))


def open_compiled(path: Path) -> Artifact:
    """Read a compiled `.mlmodelc`. Raises as `open_package` does."""
    if path.is_dir() and not (path / "model.mil").exists():
        raise UnknownFormatError(f"{path}: holds no model.mil", hint="Only compiled ML Programs can be read")
    try:
        text = _bytes(path / "model.mil", MAX_SPECIFICATION).decode()
    except UnicodeDecodeError:
        raise MalformedArtifactError(f"{path / 'model.mil'}: not UTF-8 text") from None
    return _artifact("coreml-compiled", path, PurePosixPath(), lambda: read_mil(text))


def read_program(spec: memoryview, file: MappedFile, base: int, prefix: str, size: int | None = None) -> ProgramWeights:
    """The weights of a program whose weight file lies inside another file (a `.pte`).

    Args:
        spec: bytes of `model.mlmodel`.
        file: the file that holds the weight file.
        base: where in it the weight file begins; need not be aligned.
        prefix: put before every name.
        size: length of the weight file; by default it reaches to the end of `file`.

    Raises MalformedArtifactError or UnknownFormatError. Where nothing can be locked the result is empty.
    """
    return _Reader(read_model(spec), _WeightFiles(lambda name: WeightFile(file, base, size)), prefix).read()


def _artifact(form: str, path: Path, folder: PurePosixPath, program: Callable[[], Program]) -> Artifact:
    """The artifact whose weight files lie below `folder` (the `@model_path` of the program) of `path`."""
    opened: dict[str, MappedFile] = {}

    def open_file(reference: str) -> WeightFile:
        name = str(folder / _inside(reference.removeprefix(MODEL_PATH), path.name))
        if name not in opened:
            opened[name] = MappedFile(path / name, name)
        return WeightFile(opened[name])

    try:
        found = _Reader(program(), _WeightFiles(open_file), "").read()
    except (MalformedArtifactError, UnknownFormatError) as error:
        raise type(error)(f"{path}: {error}") from None
    if not any(t.role != "norm" for t in found.tensors):
        if found.refused:
            first = found.refused[0]
            raise UnsupportedLayoutError(f"{path}: {first.name} cannot be locked: {first.reason}")
        raise NothingToLockError(f"{path}: the model has no layer with weights in a weight file")
    return Artifact(
        format=form,
        path=path,
        files=tuple(opened[name] for name in sorted(opened)),
        tensors=found.tensors,
        skipped=found.skipped,
        edges=found.edges,
        untraced=found.untraced,
        inputs=found.inputs,
        outputs=found.outputs,
        strip=tuple(sorted(p.relative_to(path).as_posix() for p in path.rglob(LEAKS_NAMES))),
    )


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if len(data) > limit:
        raise MalformedArtifactError(f"{path}: larger than {limit} bytes")
    return data


def _inside(name: object, where: str) -> PurePosixPath:
    """A relative path that stays below its folder."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in str(path) or "\\" in str(path):
        raise MalformedArtifactError(f"{where}: names a file outside the model")
    return path


class _WeightFiles:
    """The weight files that a program refers to, each opened when its first blob is asked for."""

    def __init__(self, open_file: Callable[[str], WeightFile]) -> None:
        self._open = open_file
        self._files: dict[str, WeightFile] = {}

    def blob(self, reference: BlobReference) -> Blob:
        if reference.file not in self._files:
            self._files[reference.file] = self._open(reference.file)
        return self._files[reference.file].blob(reference.offset)

    def check_overlap(self) -> None:
        for file in self._files.values():
            file.check_overlap()


BlobKey = tuple[str, int]


def _key(blob: Blob) -> BlobKey:
    return blob.file.name, blob.metadata


@dataclass
class _Use:
    """One weight of one operation.

    Attributes:
        op, argument: where it is used.
        role: of the layer.
        constant: the weight.
        out, order, into: as `lay_out` takes them.
        bias: the layer's biases, if they are a constant.
        why_not: a reason known before the layout is looked at.
        key: the weight's blob, which identifies the tensor; None when it has none.
    """

    op: Operation
    role: Role
    constant: Constant
    out: int
    order: tuple[int, ...]
    into: int | None
    bias: Constant | None = None
    why_not: str | None = None

    @property
    def key(self) -> BlobKey | None:
        return _key(self.constant.blob) if self.constant.blob is not None else None


@dataclass
class _FunctionUses:
    """The layers and normalizations of one function, in order of computation."""

    index: int
    uses: dict[int, list[_Use]] = field(default_factory=dict)  # by id of the operation
    norms: list[tuple[Operation, list[tuple[Kind, Constant]]]] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)


class _Reader:
    """Reads a program in passes: find the layers, lay out their weights, follow the channels, attach normalizations."""

    def __init__(self, program: Program, files: _WeightFiles, prefix: str) -> None:
        self._program = program
        self._files = files
        self._prefix = prefix
        memory = Memory()
        self._constants = [Constants(list(_operations(f.block)), files.blob, memory) for f in program.functions]
        self._owners: dict[BlobKey, set[tuple[object, str]]] = {}
        self._tensors: dict[BlobKey, WeightTensor] = {}
        self._seen_as: dict[BlobKey, tuple[tuple[int, ...], int | None]] = {}  # stored shape, dimension of the channels
        self._places: dict[str, tuple[int, int]] = {}
        self._skipped: list[Skipped] = []
        self._refused: dict[object, Skipped] = {}
        self._used: set[BlobKey] = set()

    def read(self) -> ProgramWeights:
        for constants in self._constants:
            for op in constants.operations:
                self._check_references(op)
        self._files.check_overlap()
        functions = [self._find(index) for index in range(len(self._program.functions))]
        for uses in functions:
            for group in uses.uses.values():
                for use in group:
                    self._lay_out(use, uses)
        graph = Graph()
        norms: list[WeightTensor] = []
        for function, constants, uses in zip(self._program.functions, self._constants, functions, strict=True):
            layers = {id(op): layer for op in constants.operations if (layer := self._layer(op, uses)) is not None}
            trails = follow(function, layers, constants, graph)
            for op, parts in uses.norms:
                norms += self._norm(op, parts, trails, uses)
        self._list_others()
        tensors = sorted([*self._tensors.values(), *norms], key=lambda t: self._places[t.name])
        names = {t.name for t in tensors}
        edges = {
            name: tuple(sorted(found, key=lambda e: (self._places[e.consumer], e.first, e.block)))
            for name, found in graph.edges.items()
            if found or name not in graph.untraced
        }
        return ProgramWeights(
            tuple(replace(t, order=i) for i, t in enumerate(tensors)),
            tuple(self._skipped),
            tuple(self._refused.values()),
            {t.name: edges[t.name] for t in tensors if t.name in edges},
            {t.name: graph.untraced[t.name] for t in tensors if t.name in graph.untraced},
            frozenset(graph.inputs & names),
            frozenset(graph.outputs & names),
        )

    # --- the layers ------------------------------------------------------------------------------

    def _find(self, index: int) -> _FunctionUses:
        constants = self._constants[index]
        found = _FunctionUses(index)
        for place, op in enumerate(constants.operations):
            found.place[id(op)] = place
            if op.type in NORMS:
                parts = [(k, c) for k in NORMS[op.type] if (c := constants.of(op.argument(k), _result(op))) is not None]
                found.norms.append((op, parts))
                for kind, constant in parts:
                    self._own(constant, (id(op), kind))
                continue
            uses = list(_uses(op, constants))
            if not uses:
                continue
            found.uses[id(op)] = uses
            for use in uses:
                key = use.key
                for part, owned in (
                    ("scale", use.constant.scale),
                    ("zero_point", use.constant.zero),
                    ("bias", use.bias),
                ):
                    if owned is not None:
                        self._own(owned, (key, part))
                if use.constant.blob is not None:
                    self._own(use.constant, (key, "weight"))
        return found

    def _own(self, constant: Constant, owner: tuple[object, str]) -> None:
        if constant.blob is not None:
            self._owners.setdefault(_key(constant.blob), set()).add(owner)

    def _shared(self, blob: Blob) -> bool:
        return len(self._owners.get(_key(blob), ())) > 1

    def _check_references(self, op: Operation) -> None:
        """Every blob that the program names is checked, whether a layer reads it or not."""
        for group in op.arguments.values():
            for value in group:
                if isinstance(value, Value) and isinstance(value.content, BlobReference):
                    self._files.blob(value.content)

    def _lay_out(self, use: _Use, uses: _FunctionUses) -> None:
        key = use.key
        constant = use.constant
        if key is None:
            if constant.values is not None and id(constant) not in self._refused:
                self._refuse(id(constant), use, "is stored in the program, not in the weight file")
            return
        self._used.update(_key(b) for b in constant.blobs())
        if key in self._refused:
            return
        if key in self._tensors:
            self._add_use(self._tensors[key], use)
            return
        layout = use.why_not or lay_out(
            constant, use.out, use.order, use.into, self._shared, self._constants[uses.index].memory
        )
        if isinstance(layout, Layout) and any(kind != "weight" for _, kind in self._owners[key]):
            layout = "is used as a weight and as something else"
        if isinstance(layout, str):
            self._refuse(key, use, layout)
            return
        name = self._prefix + constant.name
        if name in self._places:
            name = f"{self._prefix}{self._program.functions[uses.index].name}/{constant.name}"
        if name in self._places:
            name = f"{name}@{key[1]}"
        self._places[name] = (uses.index, uses.place[id(use.op)])
        for note in layout.notes:
            self._skipped.append(Skipped(name, f"is locked, but {note}"))
        tensor = WeightTensor(
            name, use.role, layout.shape, layout.dtype, 0, (layout.weight, *layout.parts), layout.file_shape, layout.axes,
            layout.quantization, layout.inputs,
        )  # fmt: skip
        self._tensors[key] = self._with_bias(tensor, use)
        self._seen_as[key] = (constant.stored, constant.axes[use.out])

    def _same_view(self, use: _Use, key: BlobKey) -> bool:
        """Whether a use sees the channels of a tensor as the tensor does."""
        seen = (use.constant.stored, use.constant.axes[use.out]) if use.why_not is None else None
        return seen == self._seen_as[key]

    def _add_use(self, known: WeightTensor, use: _Use) -> None:
        """Another operation reads the same bytes."""
        key = use.key
        assert key is not None  # noqa: S101
        if not self._same_view(use, key):
            self._note(
                Skipped(
                    known.name, f"is locked, but {use.op.type} {_result(use.op)} reads the same bytes in another layout"
                )
            )
            return
        self._tensors[key] = self._with_bias(known, use)

    def _with_bias(self, tensor: WeightTensor, use: _Use) -> WeightTensor:
        bias = use.bias
        if bias is None:
            return tensor
        if (
            bias.blob is None
            or bias.element is None
            or bias.scale is not None
            or bias.lut is not None
            or bias.mask is not None
        ):
            where = "in the program" if bias.blob is None else "in compressed form"
            self._note(Skipped(tensor.name, f"is locked, but its bias is stored {where} and stays public"))
            return tensor
        if math.prod(bias.stored) != tensor.channels:
            raise MalformedArtifactError(f"{bias.name}: {math.prod(bias.stored)} biases for {tensor.channels} channels")
        self._used.add(_key(bias.blob))
        if self._shared(bias.blob):
            self._note(Skipped(tensor.name, "is locked, but its bias is shared with another tensor and stays public"))
            return tensor
        part = channel_part("bias", bias.blob, bias.element, (tensor.channels,), 0)
        if isinstance(part, str) or any(p.kind == "bias" and p.extent == part.extent for p in tensor.parts[1:]):
            return tensor
        return replace(tensor, parts=(*tensor.parts, part))

    def _refuse(self, key: object, use: _Use, reason: str) -> None:
        self._refused[key] = Skipped(self._prefix + use.constant.name, reason)
        self._note(self._refused[key])
        self._used.update(
            _key(b) for b in (use.bias.blobs() if use.bias is not None else ())
        )  # it stays with its weight

    def _note(self, note: Skipped) -> None:
        if note not in self._skipped:
            self._skipped.append(note)

    # --- the graph -------------------------------------------------------------------------------

    def _layer(self, op: Operation, uses: _FunctionUses) -> Layer | None:
        """How the graph sees an operation that has weights, constant and lockable or not."""
        found = uses.uses.get(id(op), [])
        constants = self._constants[uses.index]
        names = tuple(self._tensor_name(use) for use in found)
        if op.type in ("conv", "conv_transpose"):
            weight = found[0] if found else None
            groups = constants.integer(op.argument("groups"), 1)
            times = weight.constant.shape[0] // groups if weight is not None and weight.role == "depthwise" else 0
            return Layer(names or (None,), (("x", 1),), 1, multiplier=times)
        if op.type == "linear":
            return Layer(names or (None,), (("x", -1),), -1)
        if op.type == "matmul" and found:
            if found[0].out is not None and constants.of(op.argument("y")) is not None:
                return Layer(names, (("x", -2 if constants.integer(op.argument("transpose_x"), 0) else -1),), -1)
            return Layer(names, (("y", -1 if constants.integer(op.argument("transpose_y"), 0) else -2),), -2)
        if op.type == "gather" and found:
            return Layer(names, (), None, "its channels are the entries of a table; a layer reads all of an entry")
        if op.type in RECURRENT:
            reads = [("x", -1), ("initial_h", -1), ("x", -1), ("", 0)][: len(found)]
            both = len(found) > 2
            why = "its rows are the gates of a recurrent layer, not channels of its output"
            return Layer(
                names or (None,), tuple(("", 0) if both and n == "initial_h" else (n, d) for n, d in reads), None, why
            )
        if op.type in NORMS:
            return Layer((), (), None, norm=True)
        return None

    def _tensor_name(self, use: _Use) -> str | None:
        """The tensor of a use, if that use sees its channels as the tensor does."""
        if use.key is None or use.key not in self._tensors or not self._same_view(use, use.key):
            return None
        return self._tensors[use.key].name

    def _norm(
        self,
        op: Operation,
        constants: list[tuple[Kind, Constant]],
        trails: dict[str, Trail],
        uses: _FunctionUses,
    ) -> list[WeightTensor]:
        """Give a BatchNorm's vectors to the one layer whose channels it scales, else make a tensor of them."""
        parts: list[Part] = []
        for kind, constant in constants:
            if (
                constant.blob is None
                or constant.element is None
                or constant.scale is not None
                or constant.lut is not None
            ):
                continue
            if constant.mask is not None or not constant.element.is_float or self._shared(constant.blob):
                continue
            part = channel_part(kind, constant.blob, constant.element, (math.prod(constant.stored),), 0)
            if isinstance(part, Part):
                parts.append(part)
                self._used.add(_key(constant.blob))
        if not parts:
            return []
        data = op.argument("x")
        trail = trails.get(data, frozenset()) if isinstance(data, str) else frozenset()
        if op.type == "batch_norm" and len(trail) == 1:
            (channels,) = trail
            for key, tensor in self._tensors.items():
                if tensor.name == channels.producer and (channels.axis, channels.block, channels.first) == (1, 1, 0):
                    if any(p.channels != tensor.channels for p in parts):
                        break
                    self._tensors[key] = replace(tensor, parts=(*tensor.parts, *parts))
                    return []
        first = parts[0]
        name = self._prefix + next(c.name for k, c in constants if k == first.kind)
        if name in self._places or any(p.channels != first.channels for p in parts):
            return []
        self._places[name] = (uses.index, uses.place[id(op)])
        return [WeightTensor(name, "norm", (first.channels,), first.element.name, 0, tuple(parts), (), ())]

    # --- what is left ----------------------------------------------------------------------------

    def _list_others(self) -> None:
        """Name every constant of a weight file that belongs to no layer."""
        for constants in self._constants:
            operations = constants.operations
            readers: dict[str, set[str]] = {}
            for op in operations:
                for name in op.reads:
                    readers.setdefault(name, set()).add(op.type)
            for op in operations:
                value = op.argument("val")
                in_file = isinstance(value, Value) and isinstance(value.content, BlobReference)
                if not in_file and not op.type.startswith("constexpr_"):
                    continue
                name = _result(op)
                read_by = {r for output, _ in op.outputs for r in readers.get(output, ())}
                if read_by and all(r.startswith("constexpr_") for r in read_by):
                    continue
                constant = constants.of(name)
                keys = {_key(b) for b in constant.blobs()} if constant is not None else set()
                if not keys or keys & self._used:
                    continue
                self._used |= keys
                by = f"is read by {', '.join(sorted(read_by))}" if read_by else "is read by no operation"
                self._skipped.append(
                    Skipped(self._prefix + name, f"{by}, which is no layer with channels" if read_by else by)
                )


def _uses(op: Operation, constants: Constants) -> Iterator[_Use]:
    """The constant weights of an operation, in the order of its matrices."""
    of, name = constants.of, _result(op)
    if op.type in ("conv", "conv_transpose"):
        weight = of(op.argument("weight"), name)
        if weight is None:
            return
        rank, bias = len(weight.shape), of(op.argument("bias"), f"{name}.bias")
        groups = constants.integer(op.argument("groups"), 1)
        if weight.problem is not None:
            yield _Use(op, "conv", weight, 0, (), None, bias, weight.problem)
        elif rank < 3 or groups < 1 or weight.shape[0] % groups:
            raise MalformedArtifactError(f"{weight.name}: shape {weight.shape} with {groups} groups is no convolution")
        elif op.type == "conv" or (groups == weight.shape[0] and weight.shape[1] == 1):
            role: Role = "depthwise" if groups > 1 and weight.shape[1] == 1 else "conv"
            yield _Use(op, role, weight, 0, tuple(range(1, rank)), 1 if groups == 1 else None, bias)
        else:
            scattered = (
                "belongs to a transposed convolution with groups, whose channels are scattered" if groups > 1 else None
            )
            yield _Use(op, "conv", weight, 1, (0, *range(2, rank)), 0, bias, scattered)
    elif op.type == "linear":
        weight = of(op.argument("weight"), name)
        if weight is not None:
            yield _matrix(op, weight, of(op.argument("bias"), f"{name}.bias"))
    elif op.type == "matmul":
        x, y = of(op.argument("x"), name), of(op.argument("y"), name)
        weight = y if y is not None else x
        flag = "transpose_y" if y is not None else "transpose_x"
        if weight is None or (x is not None and y is not None) or len(weight.shape) < 2:
            return
        rank = len(weight.shape)
        rows = bool(constants.integer(op.argument(flag), 0)) == (y is not None)
        out, into = (rank - 2, rank - 1) if rows else (rank - 1, rank - 2)
        batch = "is a batch of matrices" if math.prod(weight.shape[:-2]) != 1 else None
        yield _Use(op, "linear", weight, out, (into,), into, None, weight.problem or batch)
    elif op.type == "gather":
        table = of(op.argument("x"), name)
        if table is None or table.blob is None or table.element is None or of(op.argument("indices")) is not None:
            return
        if len(table.shape) < 2 or constants.integer(op.argument("axis"), 0) % len(table.shape) != 0:
            return
        if table.element.is_float or table.scale is not None or table.lut is not None:
            yield _Use(op, "embedding", table, 0, tuple(range(1, len(table.shape))), None, None, table.problem)
    elif op.type in RECURRENT:
        for ending in ("", "_back"):
            bias = of(op.argument(f"bias{ending}"), f"{name}.bias{ending}")
            for matrix in ("weight_ih", "weight_hh"):
                weight = of(op.argument(f"{matrix}{ending}"), f"{name}.{matrix}{ending}")
                if weight is not None:
                    yield _matrix(op, weight, bias if matrix == "weight_ih" else None)


def _matrix(op: Operation, weight: Constant, bias: Constant | None) -> _Use:
    """A matrix (out, in)."""
    problem = weight.problem or (None if len(weight.shape) == 2 else f"has shape {weight.shape}, not that of a matrix")
    return _Use(op, "linear", weight, 0, (1,), 1, bias, problem)


def _operations(block: Block) -> Iterator[Operation]:
    """All operations, those of nested blocks before the one that holds them."""
    for op in block.operations:
        for inner in op.blocks:
            yield from _operations(inner)
        yield op


def _result(op: Operation) -> str:
    return op.outputs[0][0] if op.outputs else op.type
