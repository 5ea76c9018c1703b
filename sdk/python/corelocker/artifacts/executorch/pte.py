"""ExecuTorch programs: `.pte`, and the `.ptd` files that hold weights beside them.

A `.pte` is a FlatBuffer `ET12`, an extended header `eh00` in it, and segments behind it: one with the constants of portable
kernels, one for each named datum, one for each delegate's blob. Weights are where the operators that read them say. Field
numbers are those of executorch/schema/program.fbs; nothing here needs ExecuTorch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corelocker.artifacts.elements import BFLOAT16, FLOAT16, FLOAT32, INT8, INT32, UINT8, ElementType
from corelocker.artifacts.executorch.coreml_delegate import CoreMLDelegates
from corelocker.artifacts.executorch.flatbuffer import Budget, FlatBuffer, Table
from corelocker.artifacts.executorch.portable import IntListValue, PortableMethod, Stored, TensorListValue, TensorValue
from corelocker.artifacts.executorch.walk import Walk, checked_shape
from corelocker.artifacts.executorch.xnnpack import XnnpackGraph
from corelocker.artifacts.flow import Flow, Tracer
from corelocker.artifacts.layers import MAX_RANK, Collector, Region, printable
from corelocker.artifacts.weights import Artifact, Edge, Identity, WeightTensor
from corelocker.errors import (
    FileAccessError,
    MalformedArtifactError,
    NothingToLockError,
    UnknownFormatError,
    UnsupportedLayoutError,
)
from corelocker.files import MappedFile

HEADER = 8  # where the extended header begins
DIGEST = re.compile(r"[0-9a-f]{64}$")
INT64 = ElementType("int64", 64, False)
# ScalarType
ELEMENTS = {0: UINT8, 1: INT8, 3: INT32, 4: INT64, 5: FLOAT16, 6: FLOAT32, 15: BFLOAT16}
INT, BOOL, DOUBLE, TENSOR, INT_LIST, TENSOR_LIST, OPTIONAL_TENSOR_LIST = 2, 3, 4, 5, 7, 10, 11  # KernelTypes
KERNEL_CALL, DELEGATE_CALL, MOVE_CALL = 1, 2, 3  # InstructionArguments
EXTERNAL = 1  # TensorDataLocation
SEGMENT = 1  # DataLocation


def open_pte(path: Path, data: Sequence[Path] = ()) -> Artifact:
    """Read a program and its external weights.

    Args:
        path: the `.pte`.
        data: `.ptd` files; without any, one of the same stem beside the program is used.

    Raises FileAccessError (also for external weights that are in no `.ptd`), UnknownFormatError, MalformedArtifactError,
    UnsupportedLayoutError or NothingToLockError.
    """
    file = MappedFile(path, path.name)
    budget = Budget()
    named = NamedData(file, budget)
    program = Program(file, budget, named)
    for place in data:
        named.open(place)
    collector, tracer = Collector(), Tracer(budget)
    coreml = CoreMLDelegates(file, named.find)
    for plan in program.plans:
        _Method(program, plan, named, coreml, Walk(plan.name, collector, tracer)).run()
    used = {region.file for region in named.used}
    for store in named.stores:
        if store not in used and data:
            raise MalformedArtifactError(f"{store.path}: holds no weights of {path.name}")
    return _assemble((file, *(s for s in named.stores if s in used)), collector, tracer, named, coreml)


# --- the files -------------------------------------------------------------------------------------


@dataclass
class _Named:
    region: Region
    copies: set[tuple[str, int]] = field(default_factory=set)
    length: int = 0
    covers: dict[Region, None] = field(default_factory=dict)
    is_content: bool = False


class NamedData:
    """Data that delegates and external constants find by a key.

    ExecuTorch searches the keys one by one (runtime/executor/pte_data_map.cpp, extension/flat_tensor/flat_tensor_data_map.cpp),
    so a key may be overwritten in place.
    """

    def __init__(self, program: MappedFile, budget: Budget) -> None:
        self._program = program
        self._budget = budget
        self._named: dict[str, _Named] = {}
        self.stores: list[MappedFile] = []
        self.used: dict[Region, None] = {}

    def open(self, path: Path) -> None:
        """Read a `.ptd`."""
        store = MappedFile(path, path.name)
        self.stores.append(store)
        read_flat_tensor(store, self._budget, self)

    def add(self, key: str, file: MappedFile, span: tuple[int, int], region: Region) -> None:
        """A datum of a program or of a `.ptd`; `span` is where its key stands."""
        named = self._named.setdefault(key, _Named(region))
        self._copy(named, key, file, span)

    def find(self, key: str) -> Region:
        """The bytes under a key. Raises FileAccessError when no file has them."""
        beside = self._program.path.with_suffix(".ptd")
        if key not in self._named and not self.stores and beside.exists():
            self.open(beside)
        named = self._named.get(key)
        if named is None:
            raise FileAccessError(
                f"{self._program.path}: the weights of {key[:100]!r} are in an external file that was not found",
                hint=f"Put it beside the program as {beside.name}, or name it",
            )
        self.used[named.region] = None
        return named.region

    def content(self, key: str, offset: int, length: int) -> Region:
        """The bytes under a key by which a runtime recognizes content; a copy of the key stands in the program at `offset`."""
        region = self.find(key)
        named = self._named[key]
        named.is_content = True
        named.covers[region] = None
        self._copy(named, key, self._program, (offset, length))
        return region

    def cover(self, key: str, region: Region) -> None:
        """What is recognized by `key` holds this region too."""
        if key in self._named:
            self._named[key].covers[region] = None

    def places(self, key: str) -> Iterator[int]:
        """Where the key stands in the program."""
        for name, offset in self._named[key].copies if key in self._named else ():
            if name == self._program.name:
                yield offset

    @staticmethod
    def _copy(named: _Named, key: str, file: MappedFile, span: tuple[int, int]) -> None:
        named.copies.add((file.name, span[0]))
        named.length = span[1]

    def identities(self, files: Sequence[MappedFile]) -> Iterator[Identity]:
        """One for each of `files` that holds copies of a key; those of equal bytes belong together."""
        for key, named in self._named.items():
            if not named.is_content:
                continue
            skip = named.length - 64 if DIGEST.search(key) and named.length == len(key) else 0
            covers = tuple((region.file, region.offset, region.size) for region in named.covers)
            for file in files:
                places = sorted(offset + skip for (name, offset) in named.copies if name == file.name)
                if places:
                    yield Identity(file, tuple(places), named.length - skip, covers)


def _segments(root: Table, field_: int, file: MappedFile, base: int, limit: int) -> list[Region]:
    """Segments of a program or `.ptd`, as ranges of the file."""
    regions = []
    for segment in root.tables(field_):
        offset, size = base + segment.u64(0), segment.u64(1)
        if offset + size > min(limit, len(file)):
            raise MalformedArtifactError(
                f"{file.name}: a segment ends at {offset + size}, behind the file's {len(file)} bytes"
            )
        regions.append(Region(file, offset, size))
    return regions


def _named_segments(root: Table, field_: int, file: MappedFile, segments: list[Region], named: NamedData) -> None:
    for entry in root.tables(field_):
        index = entry.u32(1)
        if index >= len(segments):
            raise MalformedArtifactError(f"{file.name}: named data in segment {index} of {len(segments)}")
        named.add(entry.text(0), file, entry.span(0), segments[index])


def read_flat_tensor(file: MappedFile, budget: Budget, named: NamedData) -> None:
    """Read a `.ptd`: FlatBuffer `FT01` with a header `FH01` (executorch/extension/flat_tensor/serialize)."""
    head = file.read(0, 48) if len(file) >= 48 else memoryview(b"")
    if bytes(head[4:8]) != b"FT01" or bytes(head[8:12]) != b"FH01":
        raise UnknownFormatError(f"{file.path}: not a .ptd file")
    offset, size, base, length = (int.from_bytes(head[at : at + 8], "little") for at in (16, 24, 32, 40))
    root = FlatBuffer(file.name, file.read(0, offset + size), 0, budget).root()
    segments = _segments(root, 1, file, base, base + length)
    _named_segments(root, 2, file, segments, named)


@dataclass(frozen=True)
class Plan:
    """One method of a program."""

    name: str
    table: Table


class Program:
    """The FlatBuffer of a `.pte` and its segments."""

    def __init__(self, file: MappedFile, budget: Budget, named: NamedData) -> None:
        self.file = file
        self.budget = budget
        size, base = len(file), 0
        if len(file) >= 32 and bytes(file.read(HEADER, 4)) == b"eh00":
            head = file.read(HEADER, 24)
            size, base = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
        buffer = FlatBuffer(file.name, file.read(0, size), 0, budget)
        if buffer.identifier != b"ET12":
            raise UnknownFormatError(f"{file.path}: not an ExecuTorch program of a known version")
        root = buffer.root()
        self.segments = _segments(root, 4, file, base, len(file))
        _named_segments(root, 7, file, self.segments, named)
        self._inline = [Region(file, *data.span(0)) for data in root.tables(3)]
        self._constants = self._read_constants(root)
        self.plans = [Plan(printable(table.text(0)) or f"method{i}", table) for i, table in enumerate(root.tables(1))]

    def _read_constants(self, root: Table) -> list[Region]:
        """Constants of portable kernels: in one segment, or in the FlatBuffer itself as older exporters have it."""
        table = root.table(5)
        offsets = table.u64s(1) if table is not None else ()
        if table is None or not offsets:
            return [Region(self.file, *buffer.span(0)) for buffer in root.tables(2)]
        if len(offsets) == 1:
            return []
        segment = self.segment(table.u32(0))
        regions = []
        for offset in offsets:
            if offset > segment.size:
                raise MalformedArtifactError(
                    f"{self.file.name}: a constant lies at {offset} of a segment of {segment.size} bytes"
                )
            regions.append(Region(self.file, segment.offset + offset, segment.size - offset))
        return regions

    def segment(self, index: int) -> Region:
        if index >= len(self.segments):
            raise MalformedArtifactError(f"{self.file.name}: there is no segment {index} of {len(self.segments)}")
        return self.segments[index]

    def constant(self, index: int) -> Region:
        if index >= len(self._constants):
            raise MalformedArtifactError(f"{self.file.name}: there is no constant {index} of {len(self._constants)}")
        return self._constants[index]

    def delegate(self, table: Table | None) -> Region:
        """The blob of a delegate: a segment, or bytes in the FlatBuffer."""
        index = table.u32(1) if table is not None else 0
        if table is not None and table.u8(0) == SEGMENT:
            return self.segment(index)
        if table is None or index >= len(self._inline):
            raise MalformedArtifactError(f"{self.file.name}: a delegate has no data")
        return self._inline[index]


# --- one method ------------------------------------------------------------------------------------


class _Method:
    """Walks the instructions of one method."""

    def __init__(self, program: Program, plan: Plan, named: NamedData, coreml: CoreMLDelegates, walk: Walk) -> None:
        self._program = program
        self._plan = plan.table
        self._named = named
        self._coreml = coreml
        self._walk = walk
        self._name = f"{program.file.name}: method {plan.name}"
        self._values = [self._value(value) for value in plan.table.tables(2)]
        self._operators = [printable(operator.text(0)) for operator in plan.table.tables(6)]
        self._delegates = list(plan.table.tables(7))
        self._portable = PortableMethod(self._name, self._values, walk)

    def _value(self, value: Table) -> Stored:
        kind, table = value.union(0)
        if table is None:
            return None
        if kind == TENSOR:
            return self._tensor(table)
        if kind == INT:
            return table.i64(0)
        if kind == BOOL:
            return table.u8(0)
        if kind == DOUBLE:
            return table.f64(0)
        if kind == INT_LIST:
            return IntListValue(table.i64s(0))
        if kind in (TENSOR_LIST, OPTIONAL_TENSOR_LIST):
            return TensorListValue(table.i32s(0))
        return None

    def _tensor(self, table: Table) -> TensorValue:
        shape = checked_shape(self._name, table.i32s(2))
        order = table.u8s(3)
        element = ELEMENTS.get(table.i8(0))
        region, place = None, None
        planned, extra = table.table(6), table.table(9)
        if planned is not None:
            place = (planned.u32(0), planned.u32(1) | planned.u32(2) << 32, element.bits if element else 0)
        elif extra is not None and extra.i8(2) == EXTERNAL:
            key = extra.text(1)
            found = self._named.find(key)
            region = Region(found.file, found.offset, found.size, key)
        elif table.u32(5):
            region = self._program.constant(table.u32(5))
        if order and sorted(order) != list(range(len(shape))):
            raise MalformedArtifactError(f"{self._name}: a tensor of shape {shape} has the axes {order[:MAX_RANK]}")
        plain = not order or order == tuple(range(len(shape)))
        return TensorValue(shape, None if plain else order, element, region, place)

    def run(self) -> None:
        for index in self._plan.i32s(3):
            self._portable.define(index, self._walk.tracer.entry(self._portable.shape(index)))
        for chain in self._plan.tables(5):
            for instruction in chain.tables(2):
                kind, table = instruction.union(0)
                if table is None:
                    continue
                if kind == KERNEL_CALL:
                    index = table.i32(0)
                    if not 0 <= index < len(self._operators):
                        raise MalformedArtifactError(f"{self._name}: there is no operator {index}")
                    self._portable.call(self._operators[index], table.i32s(1))
                elif kind == DELEGATE_CALL:
                    self._delegate(table.i32(0), table.i32s(1))
                elif kind == MOVE_CALL:
                    self._portable.define(table.i32(1), self._portable.value(table.i32(0)))
        for index in self._plan.i32s(4):
            value = self._portable.value(index)
            if isinstance(value, Flow):
                self._walk.tracer.leave(value)

    def _delegate(self, index: int, arguments: Sequence[int]) -> None:
        if not 0 <= index < len(self._delegates):
            raise MalformedArtifactError(f"{self._name}: there is no delegate {index}")
        delegate = self._delegates[index]
        backend = printable(delegate.text(0)) or "without a name"
        region = self._program.delegate(delegate.table(1))
        if backend == "XnnpackBackend":
            self._xnnpack(f"{self._name}, delegate {index}", region, arguments)
            return
        if backend == "CoreMLBackend":
            package = self._coreml.package(region, f"{self._walk.method}.coreml")
            inputs, outputs = arguments[: -package.outputs], arguments[-package.outputs :]
            known = [self._portable.operand(i, "an operand of a Core ML delegate") for i in inputs]
            layers, reason = (
                self._coreml.layers(package, known, self._walk.tracer),
                "a Core ML delegate is followed inside only",
            )
        else:
            name, reason = f"{self._walk.method}.{backend}", f"the delegate {backend} is not supported"
            self._walk.collector.refuse(name, reason)
            # Inputs come first, and each has been written.
            count = max((i + 1 for i, a in enumerate(arguments) if self._portable.is_known(a)), default=0)
            inputs, outputs = arguments[:count], arguments[count:]
            known = [self._portable.operand(i, f"an operand of {backend}") for i in inputs]
            layers = [name]
        for flow in known:
            self._walk.tracer.abandon(flow, reason)
        for i in outputs:
            self._portable.define(i, self._walk.tracer.opaque(layers, self._portable.shape(i), reason))

    def _xnnpack(self, name: str, region: Region, arguments: Sequence[int]) -> None:
        blob = region.file.read(region.offset, region.size)
        graph = XnnpackGraph(
            name, blob, region.offset, region.file, self._named.content, self._named.cover, self._program.budget
        )
        values = {}
        for place, index in enumerate(arguments):
            tensor = self._portable.tensor(index)
            if tensor is not None:
                value = self._portable.value(index)
                values[place] = value.permute(tensor.order) if tensor.order else value
        for place, flow in graph.run(self._walk, values).items():
            if not 0 <= place < len(arguments):
                raise MalformedArtifactError(f"{name}: an output has no place among {len(arguments)} arguments")
            tensor = self._portable.tensor(arguments[place])
            if tensor is not None and tensor.order and len(tensor.order) == len(flow.shape):
                flow = flow.permute([tensor.order.index(i) for i in range(len(tensor.order))])
            self._portable.define(arguments[place], flow)


# --- the artifact ----------------------------------------------------------------------------------


def _assemble(
    files: tuple[MappedFile, ...],
    collector: Collector,
    tracer: Tracer,
    named: NamedData,
    coreml: CoreMLDelegates,
) -> Artifact:
    path = files[0].path
    tensors, skipped = collector.finish()
    tensors += coreml.tensors(len(tensors))
    skipped += coreml.skipped
    if not tensors:
        refused = [*collector.refused, *coreml.skipped]
        if refused:
            raise UnsupportedLayoutError(f"{path}: {refused[0].name} cannot be locked: {refused[0].reason}")
        raise NothingToLockError(f"{path}: the program has no layer with weights")
    names = {tensor.name for tensor in tensors}
    edges, untraced = _checked_edges(tensors, tracer)
    edges.update(coreml.edges)
    untraced.update({name: reason for name, reason in coreml.untraced.items() if name in names})
    return Artifact(
        "executorch",
        path,
        files,
        tuple(tensors),
        tuple(skipped),
        (*named.identities(files), *coreml.identities(named)),
        edges,
        untraced,
        frozenset(tracer.inputs & names),
        frozenset(tracer.outputs & names),
    )


def _checked_edges(tensors: list[WeightTensor], tracer: Tracer) -> tuple[dict[str, tuple[Edge, ...]], dict[str, str]]:
    """Edges between lockable tensors that agree with their shapes, and why others are missing."""
    by_name = {tensor.name: tensor for tensor in tensors}
    untraced = {name: reason for name, reason in tracer.untraced.items() if name in by_name}
    edges: dict[str, tuple[Edge, ...]] = {}
    for name, found in tracer.edges.items():
        producer = by_name.get(name)
        if producer is None:
            continue
        kept = []
        for edge in found:
            consumer = by_name.get(edge.consumer)
            if consumer is None:
                untraced.setdefault(name, f"{edge.consumer} reads it and cannot be locked")
            elif edge.first + edge.block * producer.channels > _places(consumer):
                untraced.setdefault(name, f"{edge.consumer} reads it with another shape")
            else:
                kept.append(edge)
        if kept or name not in untraced:
            edges[name] = tuple(kept)
    return edges, untraced


def _places(consumer: WeightTensor) -> int:
    """Input channels of a layer; a depthwise layer's are its own."""
    if consumer.role == "depthwise":
        return consumer.channels
    if consumer.inputs is not None:
        return consumer.inputs.channels
    return consumer.shape[1] if consumer.role == "linear" else 1 << 32
