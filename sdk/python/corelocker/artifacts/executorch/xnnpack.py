"""The graph of an XNNPACK delegate.

Its blob in a `.pte` begins with a header `XH00` that says where the FlatBuffer and the constants are; older ones are the bare
FlatBuffer. Constants are usually named data of the program, under keys that are the SHA-256 of their bytes. Field numbers are
those of executorch/backends/xnnpack/serialization/runtime_schema.fbs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from corelocker.artifacts import flow as flows
from corelocker.artifacts.elements import BFLOAT16, FLOAT16, FLOAT32, INT8, INT32, UINT4, UINT8, ElementType
from corelocker.artifacts.executorch.flatbuffer import FlatBuffer, FlatTable
from corelocker.artifacts.executorch.walk import Operand, Walk, checked_shape
from corelocker.artifacts.flow import Flow
from corelocker.artifacts.layers import Region, Scales, StoredConstant
from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import MalformedArtifactError
from corelocker.files import MappedFile

FOUR_BIT_ZERO = 8  # the runtime fixes it: XNNCompiler.cpp, defineTensor

# XNNDatatype. 4-bit codes are stored without sign.
ELEMENTS: dict[int, ElementType] = {
    1: FLOAT32,
    2: FLOAT16,
    3: INT8,
    4: UINT8,
    5: INT32,
    6: INT8,
    7: INT32,
    8: UINT4,
    10: UINT4,
    12: INT32,
    14: BFLOAT16,
}

PER_CHANNEL, PER_TENSOR, PER_GROUP = 1, 2, 4  # XNNQuantParams
EXTERNAL_INPUT, EXTERNAL_OUTPUT = 1, 2  # flags of a value
TRANSPOSED = 1  # flag of a fully connected node
NOTHING = 0xFFFFFFFF  # an identifier that names no value

# XNodeUnion, by what the operator does to its operands.
ADD, FULLY_CONNECTED, CONV, DEPTHWISE, CONV_TRANSPOSE = 1, 2, 7, 13, 39
BINARY = {8, 12, 15, 16, 26, 31}
UNARY = {3, 4, 6, 17, 18, 22, 23, 24, 25, 27, 28, 29, 30, 40, 41, 42, 43, 44, 45, 46, 47}
POOLING = {11, 14, 19}
CONCATENATE = {32, 33, 34, 38}
TRANSPOSE, RESIZE, PAD, RESHAPE, ARG_MAX, SLICE, ATTENTION, MATMUL = 5, 9, 10, 20, 21, 35, 36, 37
# Place of (input, output) of the nodes that have one input each.
IO = {
    3: (0, 1),
    25: (1, 2),
    29: (1, 2),
    5: (2, 3),
    9: (2, 3),
    10: (3, 4),
    20: (2, 3),
    35: (3, 4),
    11: (10, 11),
    14: (10, 11),
}

Lookup = Callable[[str, int, int], Region]


@dataclass(frozen=True)
class _Tensor:
    """A value of the graph: its shape, and the constant it holds or the argument of the delegate it stands for."""

    shape: tuple[int, ...]
    constant: StoredConstant | None
    external: int
    flags: int


@dataclass(frozen=True)
class _Operands:
    """The values of a graph while it is followed, by their identifiers."""

    name: str
    tensors: dict[int, _Tensor]
    walk: Walk
    values: dict[int, Operand]

    def value(self, number: int) -> Operand | None:
        """What an identifier stands for; None for the identifier of no value."""
        if number == NOTHING:
            return None
        return self.values[number] if number in self.values else Flow(self.shape(number))

    def activation(self, number: int) -> Flow:
        """The same as an operand that is no weight."""
        return self.walk.activation(self.value(number) or Flow(()), "an operand in an XNNPACK graph")

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape that the graph states. Raises MalformedArtifactError when it has no such value."""
        tensor = self.tensors.get(number)
        if tensor is None:
            raise MalformedArtifactError(f"{self.name}: there is no value {number}")
        return tensor.shape


class XnnpackGraph:
    """A delegate's graph over its constants.

    Args:
        blob: the delegate's bytes.
        base: where they begin in `file`.
        lookup: finds named data, given its key and where (offset, length) the key stands in `file`.
        extend_identity: is told that content under one key is used together with another region.
    """

    def __init__(
        self,
        name: str,
        blob: memoryview,
        base: int,
        file: MappedFile,
        lookup: Lookup,
        extend_identity: Callable[[str, Region], None],
        budget: WorkBudget,
    ) -> None:
        self._name = name
        self._file = file
        self._lookup = lookup
        self._extend_identity = extend_identity
        self._keys: dict[Region, str] = {}
        self._constants = (0, 0)
        graph, start = blob, 0
        if bytes(blob[4:8]) == b"XH00":
            if len(blob) < 30:
                raise MalformedArtifactError(f"{name}: the header is truncated")
            start, size, first = (int.from_bytes(blob[at : at + 4], "little") for at in (10, 14, 18))
            length = int.from_bytes(blob[22:30], "little")
            if start + size > len(blob) or first + length > len(blob):
                raise MalformedArtifactError(f"{name}: the header points outside the {len(blob)} bytes of the delegate")
            graph = blob[start : start + size]
            self._constants = (base + first, length)
        buffer = FlatBuffer(name, graph, base + start, budget)
        if buffer.identifier not in (b"XN00", b"XN01"):
            raise MalformedArtifactError(f"{name}: the graph is of an unknown version {buffer.identifier!r}")
        root = buffer.root()
        self._stored = [None, *map(self._data, list(root.tables(8))[1:])] if root.has(8) else self._inline(root)
        self._tensors: dict[int, _Tensor] = {}
        for value in root.tables(2):
            self._value(value)
        self._nodes = list(root.tables(1))

    def _data(self, entry: FlatTable) -> Region | None:
        """A constant: named data of the program, or bytes behind the graph."""
        key = entry.text(2)
        if key:
            region = self._lookup(key, *entry.span(2))
            self._keys[region] = key
            return region
        offset, size = entry.u64(0), entry.u64(1)
        first, length = self._constants
        if offset + size > length:
            return None
        return Region(self._file, first + offset, size)

    def _inline(self, root: FlatTable) -> list[Region | None]:
        return [Region(self._file, *buffer.span(0)) if buffer.has(0) else None for buffer in root.tables(6)]

    def _region(self, index: int) -> Region | None:
        """The bytes of constant `index`; index 0 stands for none."""
        if index == 0:
            return None
        region = self._stored[index] if index < len(self._stored) else None
        if region is None:
            raise MalformedArtifactError(f"{self._name}: there is no constant {index}")
        return region

    def _value(self, value: FlatTable) -> None:
        kind, table = value.union(0)
        tensor, quantized = (table.table(0), table) if table is not None and kind == 2 else (table, None)
        if tensor is None or kind not in (1, 2):
            raise MalformedArtifactError(f"{self._name}: a value of an unknown kind {kind}")
        shape = checked_shape(self._name, tensor.u32s(2))
        region = self._region(tensor.u32(3))
        constant = None
        if region is not None:
            constant = self._constant(region, tensor.i16(0), shape, quantized)
        self._tensors[tensor.u32(6)] = _Tensor(shape, constant, tensor.u32(4), tensor.u32(5))

    def _constant(
        self, region: Region, datatype: int, shape: tuple[int, ...], quantized: FlatTable | None
    ) -> StoredConstant:
        element = ELEMENTS.get(datatype)
        constant = StoredConstant.in_region(region, element, shape)
        if element is None:
            return replace(constant, problem=f"XNNPACK type {datatype} is not known")
        zero = 0
        if element is UINT4:
            zero = FOUR_BIT_ZERO
            if math.prod(shape[1:]) % 2:
                constant = replace(constant, problem="its 4-bit rows have an odd length")
        if quantized is None:
            return constant
        kind, table = quantized.union(1)
        if table is None:
            return replace(constant, problem="its quantization is missing")
        if kind == PER_TENSOR:
            return replace(constant, scales=Scales(scale=table.f32(0), zero=table.i32(1)))
        if kind == PER_CHANNEL:
            axis = table.i32(1)
            channels = shape[axis] if 0 <= axis < len(shape) else 0
            scales = self._scales(table, 2, (channels,), FLOAT32, region)
            return replace(constant, scales=Scales(scales, axis, zero=zero))
        if kind == PER_GROUP and len(shape) == 2 and table.i32(2) > 0:
            groups = shape[1] // table.i32(2)
            scales = self._scales(table, 4, (shape[0], groups), BFLOAT16, region)
            return replace(constant, scales=Scales(scales, 0, zero=zero))
        return replace(constant, problem="its quantization is of an unknown kind")

    def _scales(
        self, table: FlatTable, index: int, shape: tuple[int, ...], element: ElementType, codes: Region
    ) -> StoredConstant:
        """Scales in the constant whose number is field `index`, or as floats in the table itself."""
        region = self._region(table.u32(index))
        if region is None:
            offset, count = table.span(0, 4)
            region, element = Region(self._file, offset, 4 * count), FLOAT32
        # A cache of packed weights knows them by the key of the codes alone, yet they hold the scales too.
        if codes in self._keys:
            self._extend_identity(self._keys[codes], region)
        return StoredConstant.in_region(region, element, shape)

    def run(self, walk: Walk, arguments: dict[int, Operand]) -> dict[int, Flow]:
        """Follow the graph.

        Args:
            arguments: the delegate's inputs by their place among its arguments, axes as in memory.

        Returns its outputs, by their place among the arguments.
        """
        values: dict[int, Operand] = {}
        for number, tensor in self._tensors.items():
            if tensor.constant is not None:
                values[number] = tensor.constant
            elif tensor.flags & EXTERNAL_INPUT and tensor.external in arguments:
                given = arguments[tensor.external]
                values[number] = given if given.shape == tensor.shape else given.reshape(tensor.shape)
        for node in self._nodes:
            kind, table = node.union(0)
            if table is None:
                raise MalformedArtifactError(f"{self._name}: a node of kind {kind} is empty")
            self._node(walk, values, kind, table)
        return {
            tensor.external: walk.activation(values[number], "an output of a delegate")
            for number, tensor in self._tensors.items()
            if tensor.flags & EXTERNAL_OUTPUT and number in values
        }

    def _node(self, walk: Walk, values: dict[int, Operand], kind: int, table: FlatTable) -> None:
        operands = _Operands(self._name, self._tensors, walk, values)
        if kind in (CONV, DEPTHWISE, CONV_TRANSPOSE):
            self._convolution(operands, kind, table)
        elif kind == FULLY_CONNECTED:
            self._fully_connected(operands, table)
        elif kind == MATMUL:
            out = table.u32(2)
            values[out] = walk.product(operands.value(table.u32(0)), operands.value(table.u32(1)), operands.shape(out))
        elif kind == ADD:
            out = table.u32(2)
            summands = [operands.value(table.u32(field)) or Flow(()) for field in (0, 1)]
            values[out] = walk.add(summands[0], summands[1], operands.shape(out))
        elif kind in BINARY:
            out = table.u32(2)
            pair = [operands.activation(table.u32(field)) for field in (0, 1)]
            values[out] = walk.spend(flows.combine(pair, operands.shape(out)))
        elif kind in CONCATENATE:
            self._concatenation(operands, kind, table)
        elif kind == ATTENTION:
            self._attention(operands, table)
        elif kind == ARG_MAX:
            source = operands.activation(table.u32(6))
            values[table.u32(7)] = source.resized(operands.shape(table.u32(7)))
            values[table.u32(8)] = source.lost(flows.SIDE).shaped(operands.shape(table.u32(8)))
        else:
            self._simple(operands, kind, table)

    @staticmethod
    def _convolution(operands: _Operands, kind: int, table: FlatTable) -> None:
        out = table.u32(18)
        weight = operands.value(table.u32(16))
        order = (3, 0, 1, 2) if kind == DEPTHWISE else (0, 3, 1, 2)
        operands.values[out] = operands.walk.convolution(
            operands.activation(table.u32(15)),
            -1,
            weight.permute(order) if weight is not None and len(weight.shape) == 4 else weight,
            operands.value(table.u32(17)),
            table.u32(12),
            operands.shape(out),
        )

    @staticmethod
    def _fully_connected(operands: _Operands, table: FlatTable) -> None:
        out = table.u32(3)
        weight = operands.value(table.u32(1))
        if weight is not None and table.u32(4) & TRANSPOSED and len(weight.shape) == 2:
            weight = weight.permute((1, 0))
        data, bias = operands.activation(table.u32(0)), operands.value(table.u32(2))
        operands.values[out] = operands.walk.linear(data, weight, bias, operands.shape(out))

    def _concatenation(self, operands: _Operands, kind: int, table: FlatTable) -> None:
        out = table.u32(5)
        fields = (1, 2, 3, 4, 7)[: {32: 2, 33: 3, 34: 4, 38: 5}[kind]]
        parts = [operands.activation(table.u32(field)) for field in fields]
        axis, shape = table.u32(0), operands.shape(out)
        if axis >= len(shape):
            raise MalformedArtifactError(f"{self._name}: a concatenation along axis {axis} of {shape}")
        operands.values[out] = operands.walk.spend(flows.concatenate(parts, axis, shape))

    @staticmethod
    def _attention(operands: _Operands, table: FlatTable) -> None:
        out = table.u32(5)
        query, key, scale, mask = (operands.activation(table.u32(field)) for field in (0, 1, 3, 4))
        weights = flows.combine([query.lost(flows.MIXED), key.lost(flows.MIXED), scale, mask], (*query.shape[:-1], 1))
        data = operands.activation(table.u32(2))
        operands.values[out] = operands.walk.spend(flows.multiply(weights.lost(flows.MIXED), data, operands.shape(out)))

    def _simple(self, operands: _Operands, kind: int, table: FlatTable) -> None:
        """Nodes with one input and one output."""
        fields = IO.get(kind, (0, 1))
        source, out = operands.value(table.u32(fields[0])), table.u32(fields[1])
        if source is None:
            raise MalformedArtifactError(f"{self._name}: a node of kind {kind} has no input")
        if kind == TRANSPOSE:
            result: Operand = source.permute(table.u32s(1))
        elif kind == RESHAPE:
            result = source.reshape(operands.shape(out))
        else:
            data = operands.walk.activation(source, "an operand in an XNNPACK graph")
            result = self._followed(data, kind, table, operands.shape(out))
        operands.values[out] = result
        if isinstance(result, Flow):
            operands.walk.spend(result)

    @staticmethod
    def _followed(source: Flow, kind: int, table: FlatTable, shape: tuple[int, ...]) -> Flow:
        if kind in UNARY:
            return source.same(shape)
        if kind in POOLING or kind == RESIZE:
            return source.resized(shape)
        if kind == PAD:
            return source.window(table.u32s(0), shape)
        if kind == SLICE:
            return source.window([-n for n in table.u32s(1)], shape)
        return source.lost(f"an XNNPACK operator of kind {kind} is not followed").shaped(shape)
