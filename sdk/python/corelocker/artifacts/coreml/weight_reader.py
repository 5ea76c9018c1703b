"""From an ML Program and its weight files to weight tensors: layers, their layout, biases, normalizations and what is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from corelocker.artifacts.coreml.constant_resolver import ConstantResolver
from corelocker.artifacts.coreml.mil_constants import MilConstant, TableMemory
from corelocker.artifacts.coreml.mil_graph import ChannelGraph, LayerOperation, Trail, follow
from corelocker.artifacts.coreml.mlprogram import BlobReference, MilProgram, Operation, Value
from corelocker.artifacts.coreml.weight_bin import Blob, WeightFile
from corelocker.artifacts.coreml.weight_layout import Layout, channel_part, lay_out
from corelocker.artifacts.coreml.weight_uses import (
    NORMS,
    RECURRENT,
    BlobKey,
    WeightUse,
    all_operations,
    blob_key,
    result_name,
    weight_uses,
)
from corelocker.artifacts.weights import Edge, Kind, Part, Skipped, WeightTensor
from corelocker.errors import MalformedArtifactError


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


class WeightFiles:
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


@dataclass
class _FunctionUses:
    """The layers and normalizations of one function, in order of computation."""

    index: int
    uses: dict[int, list[WeightUse]] = field(default_factory=dict)  # by id of the operation
    norms: list[tuple[Operation, list[tuple[Kind, MilConstant]]]] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)


class WeightReader:
    """Reads a program in passes: find the layers, lay out their weights, follow the channels, attach normalizations."""

    def __init__(self, program: MilProgram, files: WeightFiles, prefix: str) -> None:
        self._program = program
        self._files = files
        self._prefix = prefix
        memory = TableMemory()
        self._constants = [
            ConstantResolver(list(all_operations(f.block)), files.blob, memory) for f in program.functions
        ]
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
        graph = ChannelGraph()
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
                parts = [
                    (k, c) for k in NORMS[op.type] if (c := constants.of(op.argument(k), result_name(op))) is not None
                ]
                found.norms.append((op, parts))
                for kind, constant in parts:
                    self._own(constant, (id(op), kind))
                continue
            uses = list(weight_uses(op, constants))
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

    def _own(self, constant: MilConstant, owner: tuple[object, str]) -> None:
        if constant.blob is not None:
            self._owners.setdefault(blob_key(constant.blob), set()).add(owner)

    def _shared(self, blob: Blob) -> bool:
        return len(self._owners.get(blob_key(blob), ())) > 1

    def _check_references(self, op: Operation) -> None:
        """Every blob that the program names is checked, whether a layer reads it or not."""
        for group in op.arguments.values():
            for value in group:
                if isinstance(value, Value) and isinstance(value.content, BlobReference):
                    self._files.blob(value.content)

    def _lay_out(self, use: WeightUse, uses: _FunctionUses) -> None:
        key = use.key
        constant = use.constant
        if key is None:
            if constant.values is not None and id(constant) not in self._refused:
                self._refuse(id(constant), use, "is stored in the program, not in the weight file")
            return
        self._used.update(blob_key(b) for b in constant.blobs())
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

    def _same_view(self, use: WeightUse, key: BlobKey) -> bool:
        """Whether a use sees the channels of a tensor as the tensor does."""
        seen = (use.constant.stored, use.constant.axes[use.out]) if use.why_not is None else None
        return seen == self._seen_as[key]

    def _add_use(self, known: WeightTensor, use: WeightUse) -> None:
        """Another operation reads the same bytes."""
        key = use.key
        assert key is not None  # noqa: S101
        if not self._same_view(use, key):
            self._note(
                Skipped(
                    known.name,
                    f"is locked, but {use.op.type} {result_name(use.op)} reads the same bytes in another layout",
                )
            )
            return
        self._tensors[key] = self._with_bias(known, use)

    def _with_bias(self, tensor: WeightTensor, use: WeightUse) -> WeightTensor:
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
        self._used.add(blob_key(bias.blob))
        if self._shared(bias.blob):
            self._note(Skipped(tensor.name, "is locked, but its bias is shared with another tensor and stays public"))
            return tensor
        part = channel_part("bias", bias.blob, bias.element, (tensor.channels,), 0)
        if isinstance(part, str) or any(p.kind == "bias" and p.extent == part.extent for p in tensor.parts[1:]):
            return tensor
        return replace(tensor, parts=(*tensor.parts, part))

    def _refuse(self, key: object, use: WeightUse, reason: str) -> None:
        self._refused[key] = Skipped(self._prefix + use.constant.name, reason)
        self._note(self._refused[key])
        self._used.update(
            blob_key(b) for b in (use.bias.blobs() if use.bias is not None else ())
        )  # it stays with its weight

    def _note(self, note: Skipped) -> None:
        if note not in self._skipped:
            self._skipped.append(note)

    # --- the graph -------------------------------------------------------------------------------

    def _layer(self, op: Operation, uses: _FunctionUses) -> LayerOperation | None:
        """How the graph sees an operation that has weights, constant and lockable or not."""
        found = uses.uses.get(id(op), [])
        constants = self._constants[uses.index]
        names = tuple(self._tensor_name(use) for use in found)
        if op.type in ("conv", "conv_transpose"):
            weight = found[0] if found else None
            groups = constants.integer(op.argument("groups"), 1)
            times = weight.constant.shape[0] // groups if weight is not None and weight.role == "depthwise" else 0
            return LayerOperation(names or (None,), (("x", 1),), 1, multiplier=times)
        if op.type == "linear":
            return LayerOperation(names or (None,), (("x", -1),), -1)
        if op.type == "matmul" and found:
            if found[0].into is None:
                return LayerOperation(names, (), None, "it reads matrices that are stacked in one constant")
            if found[0].out is not None and constants.of(op.argument("y")) is not None:
                return LayerOperation(
                    names, (("x", -2 if constants.integer(op.argument("transpose_x"), 0) else -1),), -1
                )
            return LayerOperation(names, (("y", -1 if constants.integer(op.argument("transpose_y"), 0) else -2),), -2)
        if op.type == "gather" and found:
            return LayerOperation(
                names, (), None, "its channels are the entries of a table; a layer reads all of an entry"
            )
        if op.type in RECURRENT:
            reads = [("x", -1), ("initial_h", -1), ("x", -1), ("", 0)][: len(found)]
            both = len(found) > 2
            why = "its rows are the gates of a recurrent layer, not channels of its output"
            return LayerOperation(
                names or (None,), tuple(("", 0) if both and n == "initial_h" else (n, d) for n, d in reads), None, why
            )
        if op.type in NORMS:
            return LayerOperation((), (), None, norm=True)
        return None

    def _tensor_name(self, use: WeightUse) -> str | None:
        """The tensor of a use, if that use sees its channels as the tensor does."""
        if use.key is None or use.key not in self._tensors or not self._same_view(use, use.key):
            return None
        return self._tensors[use.key].name

    def _norm(
        self,
        op: Operation,
        constants: list[tuple[Kind, MilConstant]],
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
                self._used.add(blob_key(constant.blob))
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
                name = result_name(op)
                read_by = {r for output, _ in op.outputs for r in readers.get(output, ())}
                if read_by and all(r.startswith("constexpr_") for r in read_by):
                    continue
                constant = constants.of(name)
                keys = {blob_key(b) for b in constant.blobs()} if constant is not None else set()
                if not keys or keys & self._used:
                    continue
                self._used |= keys
                by = f"is read by {', '.join(sorted(read_by))}" if read_by else "is read by no operation"
                self._skipped.append(
                    Skipped(self._prefix + name, f"{by}, which is no layer with channels" if read_by else by)
                )
