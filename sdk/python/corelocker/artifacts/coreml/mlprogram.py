"""An ML Program (Core ML's MIL dialect) as plain data, read from the protobuf `model.mlmodel`.

The wire format is protobuf's (developers.google.com/protocol-buffers/docs/encoding), the messages are coremltools'
`Model.proto` and `MIL.proto`; only the fields that say where weights lie and how data flows are read. A reader of our own
stands here because it bounds work and depth before it allocates, and because the base install needs no generated code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from corelocker.errors import MalformedArtifactError, UnknownFormatError

Array = npt.NDArray[Any]
Wire = memoryview | int
MAX_DEPTH = 32  # of blocks in blocks and of types in types; the converters produce 3
MAX_FIELDS = 1 << 23  # of the protobuf message; a model of 50,000 operations has 3 million
MAX_IMMEDIATE = 1 << 24  # elements of an array that stands in the program itself

# MIL.proto, enum DataType -> the names that MIL text uses.
DATA_TYPES = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 13: "bf16", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
    25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6",
    39: "uint3", 40: "fp8e4m3fn", 41: "fp8e5m2",
}  # fmt: skip
NUMPY_TYPES = {
    "bool": np.bool_, "fp16": np.float16, "fp32": np.float32, "fp64": np.float64, "int8": np.int8, "int16": np.int16,
    "int32": np.int32, "int64": np.int64, "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
}  # fmt: skip
SUB_BYTE = {"int4": 4, "uint4": 4, "uint6": 6, "uint3": 3, "uint2": 2, "uint1": 1}


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape of a value; None stands for a dimension that is known at run time only."""

    dtype: str
    shape: tuple[int | None, ...]

    @property
    def elements(self) -> int:
        """Number of elements of a static shape. Raises MalformedArtifactError for any other."""
        if any(n is None for n in self.shape):
            raise MalformedArtifactError("a constant has a dimension that is unknown")
        return math.prod(n for n in self.shape if n is not None)


@dataclass(frozen=True, slots=True)
class BlobReference:
    """A constant in a weight file: the offset of its metadata there."""

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class Value:
    """A constant that stands in the program, or the place of one in a weight file.

    Attributes:
        type: None for lists, tuples and dictionaries, which no weight is made of.
        content: a blob's place, strings, the bytes of the array, or (protobuf field, its bytes) of packed numbers; None
            for what is not read.
    """

    type: TensorType | None
    content: BlobReference | tuple[str, ...] | bytes | tuple[int, tuple[bytes, ...]] | Array | None

    @property
    def text(self) -> str | None:
        """The string, if it is one."""
        content = self.content
        return content[0] if isinstance(content, tuple) and content and isinstance(content[0], str) else None

    def array(self) -> Array | None:
        """The numbers as an array of the value's shape; None for strings, blobs and what is not read."""
        if (
            self.type is None
            or self.type.dtype == "string"
            or isinstance(self.content, BlobReference)
            or self.content is None
        ):
            return None
        count = self.type.elements
        if count > MAX_IMMEDIATE:
            raise MalformedArtifactError(f"the program holds an array of {count} elements")
        with np.errstate(all="ignore"):
            flat = _numbers(self.type.dtype, self.content, count)
        if flat is None:
            return None
        if count == 0:
            return flat[:0]
        if flat.size == 1 and count != 1:
            flat = np.repeat(flat, count)  # protobuf writers may state a splat once
        if flat.size != count:
            raise MalformedArtifactError(f"an array of the program has {flat.size} elements, its type says {count}")
        return flat.reshape([n for n in self.type.shape if n is not None])


Argument = str | Value


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its arguments by name (inputs and attributes alike), what it defines, and its nested blocks."""

    type: str
    arguments: dict[str, tuple[Argument, ...]]
    outputs: tuple[tuple[str, TensorType | None], ...]
    blocks: tuple[Block, ...] = ()

    def argument(self, *names: str) -> Argument | None:
        """The first argument of one of these names."""
        for name in names:
            if found := self.arguments.get(name):
                return found[0]
        return None

    @property
    def reads(self) -> Iterator[str]:
        """Names of the values that the operation reads."""
        return (a for group in self.arguments.values() for a in group if isinstance(a, str))


@dataclass(frozen=True, slots=True)
class Block:
    """Operations in order; each name is defined before it is read."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """One entry point."""

    name: str
    inputs: tuple[tuple[str, TensorType | None], ...]
    block: Block


@dataclass(frozen=True)
class MilProgram:
    """The functions in a stable order: `main` first, then by name (protobuf maps have no order)."""

    functions: tuple[Function, ...] = field(default=())

    @classmethod
    def of(cls, functions: dict[str, Function]) -> MilProgram:
        return cls(tuple(functions[name] for name in sorted(functions, key=lambda name: (name != "main", name))))


def read_model(spec: memoryview | bytes) -> MilProgram:
    """The ML Program of a `model.mlmodel`.

    Raises UnknownFormatError for another kind of model, MalformedArtifactError for anything that is no such message.
    """
    return _ModelReader().model(memoryview(spec))


class _ModelReader:
    """Walks the messages; counts their fields, so that a small file cannot become a large heap."""

    def __init__(self) -> None:
        self._fields_left = MAX_FIELDS

    def model(self, spec: memoryview) -> MilProgram:
        program: memoryview | None = None
        kind = 0
        for number, value in self._fields(spec):
            if number == 502:
                program = _message(value)
            elif number >= 200:
                kind = number
        if program is None:
            if kind in range(200, 203):
                raise UnknownFormatError("a pipeline of models", hint="Lock the models of the pipeline one by one")
            if kind:
                raise UnknownFormatError("the model is no ML Program", hint="Convert it with convert_to='mlprogram'")
            raise MalformedArtifactError("the specification holds no model")
        functions: dict[str, Function] = {}
        for number, value in self._fields(program):
            if number == 2:
                name, body = self._entry(value)
                functions[name] = self._function(name, body)
        return MilProgram.of(functions)

    def _function(self, name: str, view: memoryview) -> Function:
        inputs: list[tuple[str, TensorType | None]] = []
        blocks: dict[str, memoryview] = {}
        opset = ""
        for number, value in self._fields(view):
            if number == 1:
                inputs.append(self._named_type(value))
            elif number == 2:
                opset = _text(value)
            elif number == 3:
                key, block = self._entry(value)
                blocks[key] = block
        if opset not in blocks:
            raise MalformedArtifactError(f"function {name!r} has no block for its own operation set {opset!r}")
        return Function(name, tuple(inputs), self._block(blocks[opset], 0))

    def _block(self, view: memoryview, depth: int) -> Block:
        if depth > MAX_DEPTH:
            raise MalformedArtifactError(f"blocks are nested deeper than {MAX_DEPTH}")
        inputs: list[str] = []
        outputs: list[str] = []
        operations: list[Operation] = []
        for number, value in self._fields(view):
            if number == 1:
                inputs.append(self._named_type(value)[0])
            elif number == 2:
                outputs.append(_text(value))
            elif number == 3:
                operations.append(self._operation(_message(value), depth))
        return Block(tuple(inputs), tuple(outputs), tuple(operations))

    def _operation(self, view: memoryview, depth: int) -> Operation:
        kind = ""
        arguments: dict[str, tuple[Argument, ...]] = {}
        attributes: dict[str, tuple[Argument, ...]] = {}
        outputs: list[tuple[str, TensorType | None]] = []
        blocks: list[Block] = []
        for number, value in self._fields(view):
            if number == 1:
                kind = _text(value)
            elif number == 2:
                key, body = self._entry(value)
                arguments[key] = tuple(self._binding(v) for n, v in self._fields(body) if n == 1)
            elif number == 3:
                outputs.append(self._named_type(value))
            elif number == 4:
                blocks.append(self._block(_message(value), depth + 1))
            elif number == 5:
                key, body = self._entry(value)
                attributes[key] = (self._value(body),)
        return Operation(kind, attributes | arguments, tuple(outputs), tuple(blocks))

    def _binding(self, wire: Wire) -> Argument:
        for number, value in self._fields(_message(wire)):
            if number == 1:
                return _text(value)
            if number == 2:
                return self._value(_message(value))
        return Value(None, None)

    def _named_type(self, wire: Wire) -> tuple[str, TensorType | None]:
        name, kind = "", None
        for number, value in self._fields(_message(wire)):
            if number == 1:
                name = _text(value)
            elif number == 2:
                kind = self._value_type(_message(value), 0)
        return name, kind

    def _value_type(self, view: memoryview, depth: int) -> TensorType | None:
        """The tensor type, also when it is wrapped as a state; None for other types."""
        if depth > MAX_DEPTH:
            raise MalformedArtifactError(f"types are nested deeper than {MAX_DEPTH}")
        for number, value in self._fields(view):
            if number == 1:
                return self._tensor_type(_message(value))
            if number == 5:
                for inner, wrapped in self._fields(_message(value)):
                    if inner == 1:
                        return self._value_type(_message(wrapped), depth + 1)
        return None

    def _tensor_type(self, view: memoryview) -> TensorType:
        dtype = 0
        shape: list[int | None] = []
        for number, value in self._fields(view):
            if number == 1:
                dtype = _integer(value)
            elif number == 3:
                size: int | None = None
                for kind, body in self._fields(_message(value)):
                    if kind == 1:  # a constant dimension; protobuf leaves a size of 0 out
                        size = next((_integer(v) for n, v in self._fields(_message(body)) if n == 1), 0)
                shape.append(size)
        return TensorType(DATA_TYPES.get(dtype, f"type {dtype}"), tuple(shape))

    def _value(self, view: memoryview) -> Value:
        kind: TensorType | None = None
        content: BlobReference | tuple[str, ...] | bytes | tuple[int, tuple[bytes, ...]] | None = None
        for number, value in self._fields(view):
            if number == 2:
                kind = self._value_type(_message(value), 0)
            elif number == 3:
                for form, body in self._fields(_message(value)):
                    if form == 1:
                        content = self._tensor_value(_message(body))
            elif number == 5:
                name, offset = "", 0
                for part, body in self._fields(_message(value)):
                    if part == 1:
                        name = _text(body)
                    elif part == 2:
                        offset = _integer(body)
                content = BlobReference(name, offset)
        return Value(kind, content)

    def _tensor_value(self, view: memoryview) -> tuple[str, ...] | bytes | tuple[int, tuple[bytes, ...]] | None:
        for number, value in self._fields(view):
            values = [v for n, v in self._fields(_message(value)) if n == 1]
            if number == 4:
                return tuple(_text(v) for v in values)
            if number == 7:
                return bytes(_message(values[-1])) if values else b""
            if number in (1, 2, 3, 5, 6):
                # Packed is the rule; a writer that does not pack gives single numbers.
                width = {1: 4, 6: 8}.get(number)
                if width:
                    low = (1 << 8 * width) - 1
                    return number, tuple(
                        (v & low).to_bytes(width, "little") if isinstance(v, int) else bytes(v) for v in values
                    )
                return number, tuple(_varint_bytes(v) if isinstance(v, int) else bytes(v) for v in values)
        return None

    def _entry(self, value: Wire) -> tuple[str, memoryview]:
        """Key and message of a map entry."""
        name, body = "", memoryview(b"")
        for number, item in self._fields(_message(value)):
            if number == 1:
                name = _text(item)
            elif number == 2:
                body = _message(item)
        return name, body

    def _fields(self, view: memoryview) -> Iterator[tuple[int, Wire]]:
        """(field number, integer or bytes) of a message, in file order."""
        at, end = 0, len(view)
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise MalformedArtifactError(f"the specification has more than {MAX_FIELDS} fields")
            key, at = (view[at], at + 1) if view[at] < 128 else _varint(view, at)  # nearly always one byte
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = _varint(view, at)
                yield number, value
                continue
            if wire == 2:
                length, at = (view[at], at + 1) if at < end and view[at] < 128 else _varint(view, at)
            elif wire == 1:
                length = 8
            elif wire == 5:
                length = 4
            else:
                raise MalformedArtifactError("the specification is no protobuf message")
            if length > end - at:
                raise MalformedArtifactError("the specification is cut short")
            piece = view[at : at + length]
            at += length
            yield number, piece if wire == 2 else int.from_bytes(piece, "little")


def _numbers(
    dtype: str, content: tuple[str, ...] | bytes | tuple[int, tuple[bytes, ...]] | Array, count: int
) -> Array | None:
    """The elements in order, without a shape."""
    numpy_type = NUMPY_TYPES.get(dtype, np.int32 if dtype in SUB_BYTE else None)
    if numpy_type is None:
        return None
    if isinstance(content, np.ndarray):
        return content.astype(numpy_type)
    if isinstance(content, bytes):
        if dtype in SUB_BYTE:
            return _unpack(content, SUB_BYTE[dtype], count, signed=dtype == "int4")
        if len(content) % np.dtype(numpy_type).itemsize:
            raise MalformedArtifactError("an array of the program is cut short")
        return np.frombuffer(content, np.dtype(numpy_type).newbyteorder("<"))
    number, chunks = content
    if not isinstance(number, int):
        return None
    raw = b"".join(c for c in chunks if isinstance(c, bytes))
    if number in (1, 6):
        width = 4 if number == 1 else 8
        if len(raw) % width:
            raise MalformedArtifactError("an array of the program is cut short")
        return np.frombuffer(raw, f"<f{width}").astype(numpy_type)
    numbers: list[int] = []
    view, at = memoryview(raw), 0
    while at < len(view):
        value, at = _varint(view, at)
        numbers.append(value - (1 << 64) if value >> 63 else value)
    return np.asarray(numbers, np.int64).astype(numpy_type)


def _unpack(raw: bytes, bits: int, count: int, *, signed: bool) -> Array:
    """Elements packed from the least significant bit on -> int32 (count,)."""
    if len(raw) * 8 < bits * count:
        raise MalformedArtifactError("an array of the program is cut short")
    flat = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: bits * count].reshape(count, bits)
    codes = flat.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))
    return (codes ^ (1 << (bits - 1))) - (1 << (bits - 1)) if signed else codes


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise MalformedArtifactError("the specification is cut short")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise MalformedArtifactError("the specification holds a number of more than 64 bits")


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(value: Wire) -> memoryview:
    if isinstance(value, int):
        raise MalformedArtifactError("the specification holds a number where a message belongs")
    return value


def _integer(value: Wire) -> int:
    if not isinstance(value, int):
        raise MalformedArtifactError("the specification holds a message where a number belongs")
    return value


def _text(value: Wire) -> str:
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError:
        raise MalformedArtifactError("the specification holds a name that is not UTF-8") from None
