"""Constants of an ML Program: plain, quantized, palettized and pruned, and the parts of a layer that they make.

The operations `constexpr_*` that expand compressed weights are those of coremltools' iOS 16 and iOS 18 operation sets
(coremltools, `converters/mil/mil/ops/defs/iOS16/constexpr_ops.py` and `iOS18/compression.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corelocker.artifacts.coreml.mlprogram import Argument, BlobReference, Operation, Value
from corelocker.artifacts.coreml.weight_bin import Blob
from corelocker.artifacts.elements import ElementType
from corelocker.artifacts.weights import Floats, Kind, Part, Quantization, SparsePart
from corelocker.errors import MalformedArtifactError

MAX_TABLE = 1 << 21  # elements of one tensor's scales or look-up tables once they are spelled out for each channel
MAX_TABLES = 1 << 25  # elements of those of all tensors; what goes beyond is left alone
MAX_RANK = 16
MAX_CHAIN = 16  # operations between a blob and the layer that reads it
STORED_AS = {
    "fp16": "float16", "fp32": "float32", "bf16": "bfloat16", "bool": "uint8", "fp8e4m3fn": "float8e4m3fn",
    "fp8e5m2": "float8e5m2",
}  # fmt: skip
LOCKABLE = {"float16", "float32", "bfloat16", "int8", "uint8", "int4", "uint4", "uint6", "uint3", "uint2", "uint1"}


@dataclass(frozen=True)
class Constant:
    """An array that is known before run time.

    Attributes:
        name: of the value that holds it.
        shape: as its reader sees it.
        stored: shape as it lies in the file, row-major.
        axes: for each dimension of `shape` the one of `stored`, or None for one of size 1 that was put in.
        blob: where its elements lie (codes when it is quantized, the non-zero ones when it is pruned), or None.
        element: how they are stored there (iOS 16 packs small codes into a blob of bytes).
        values: the array itself when it stands in the program.
        scale, zero: (code - zero) * scale; of the rank of `stored`, a dimension divides that of `stored`.
        lut: shape (*divisors of `stored`, entries).
        mask: bool, of shape `stored`, where elements are stored.
        problem: why it cannot be locked.
    """

    name: str
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    axes: tuple[int | None, ...]
    blob: Blob | None = None
    element: ElementType | None = None
    values: npt.NDArray[Any] | None = None
    scale: Constant | None = None
    zero: Constant | None = None
    lut: Constant | None = None
    mask: npt.NDArray[np.bool_] | None = None
    problem: str | None = None

    def dense(self) -> Floats:
        """What the constant stands for, float32 of shape `stored`. Only for small ones: scales, tables."""
        with np.errstate(all="ignore"):  # a damaged scale may be anything
            return self._dense()

    def _dense(self) -> Floats:
        if math.prod(self.stored) > MAX_TABLE:
            raise MalformedArtifactError(f"{self.name}: a table of {math.prod(self.stored)} elements")
        if self.problem is not None:
            raise MalformedArtifactError(f"{self.name}: {self.problem}")
        values = np.zeros(self.stored, np.float32)
        if self.mask is not None:
            values[self.mask] = self._elements()[: np.count_nonzero(self.mask)]
        else:
            values = self._elements()[: values.size].reshape(self.stored)
        if self.lut is not None:
            table = _spread(self.lut.dense(), self.stored)
            places = np.clip(values.astype(np.int64), 0, table.shape[-1] - 1)
            values = np.take_along_axis(table, places[..., None], -1)[..., 0]
        if self.zero is not None:
            values = values - _spread(self.zero.dense(), self.stored)
        if self.scale is not None:
            values = values * _spread(self.scale.dense(), self.stored)
        if self.mask is not None:
            values = np.where(self.mask, values, 0)
        return np.asarray(values, np.float32)

    def _elements(self) -> Floats:
        """The stored elements in order, as they are."""
        if self.values is not None:
            return np.asarray(self.values, np.float32).reshape(-1)
        if self.blob is None or self.element is None:
            raise MalformedArtifactError(f"{self.name}: a constant without a value")
        raw = np.frombuffer(self.blob.read(), np.uint8)
        if self.element.bits in (3, 6):  # these fill whole bytes three at a time only
            raw = np.concatenate([raw, np.zeros(-raw.size % 3, np.uint8)])
        return np.asarray(self.element.decode(raw[None, :])[0], np.float32)

    def blobs(self) -> list[Blob]:
        """The blob of the constant and those of its scales and tables."""
        found = [self.blob] if self.blob is not None else []
        for other in (self.scale, self.zero, self.lut):
            found += other.blobs() if other is not None else []
        return found


@dataclass
class Memory:
    """What is kept of compressed constants: the unpacked masks, each once, and how much room for tables is left."""

    masks: dict[tuple[str, int], tuple[npt.NDArray[np.bool_], int]] = field(default_factory=dict)
    left: int = MAX_TABLES

    def affords(self, elements: int) -> bool:
        """Take room for a table, if there is that much."""
        if elements > min(self.left, MAX_TABLE):
            return False
        self.left -= elements
        return True

    def mask(self, mask: Constant, stored: tuple[int, ...], name: str) -> tuple[npt.NDArray[np.bool_], int]:
        """Where elements are stored, bool of shape `stored`, and how many."""
        if mask.blob is None:
            flat = np.zeros(0, np.uint8) if mask.values is None else mask.values.reshape(-1).astype(np.uint8)
            # The array itself, or (iOS 16) eight flags in each byte of it.
            return _flags(flat if mask.stored == stored else np.unpackbits(flat, bitorder="little"), stored, name)
        key = (mask.blob.file.name, mask.blob.metadata)
        if key not in self.masks:
            packed = np.frombuffer(mask.blob.read(), np.uint8)
            self.masks[key] = _flags(np.unpackbits(packed, bitorder="little"), stored, name)
        if self.masks[key][0].shape != stored:
            raise MalformedArtifactError(f"{name}: its mask has shape {self.masks[key][0].shape} elsewhere")
        return self.masks[key]


def _flags(bits: npt.NDArray[np.uint8], stored: tuple[int, ...], name: str) -> tuple[npt.NDArray[np.bool_], int]:
    count = math.prod(stored)
    if bits.size < count or min(stored, default=1) < 1:
        raise MalformedArtifactError(f"{name}: a mask of {bits.size} bits for shape {stored}")
    where = bits[:count].view(np.bool_) if bits.max(initial=0) <= 1 else bits[:count].astype(np.bool_)
    return where.reshape(stored), int(np.count_nonzero(where))


class Constants:
    """Finds the constant behind an argument of one function, through constexpr operations and changes of shape.

    Args:
        operations: all operations of the function.
        blob: gives the checked blob of a reference.
        memory: shared by all functions.
    """

    def __init__(self, operations: Sequence[Operation], blob: Callable[[BlobReference], Blob], memory: Memory) -> None:
        self.operations = operations
        self._blob = blob
        self.memory = memory
        self._made_by = {name: (op, i) for op in operations for i, (name, _) in enumerate(op.outputs)}
        self._known: dict[str, Constant | None] = {}
        self._depth = 0

    def of(self, argument: Argument | None, name: str = "") -> Constant | None:
        """The constant that the argument is, or None when it is computed at run time (or is text)."""
        if argument is None:
            return None
        if isinstance(argument, Value):
            return self._value(argument, name)
        if argument in self._known:
            return self._known[argument]
        self._depth += 1
        if self._depth > MAX_CHAIN:
            raise MalformedArtifactError(
                f"{argument}: a chain of more than {MAX_CHAIN} operations on constants, or a loop"
            )
        made = self._made_by.get(argument)
        found = self._made(*made, argument) if made is not None else None
        self._depth -= 1
        self._known[argument] = found
        return found

    def integers(self, argument: Argument | None) -> list[int] | None:
        """The numbers of a small argument (strides, axes, flags) in order; None when they are computed or not there."""
        found = self.of(argument)
        if found is None or found.blob is not None or found.values is None or found.values.dtype.kind not in "iub":
            return None
        return [int(n) for n in found.values.reshape(-1)]

    def integer(self, argument: Argument | None, default: int) -> int:
        """The first of them."""
        found = self.integers(argument)
        return found[0] if found else default

    def text(self, argument: Argument | None) -> str | None:
        """The string of an argument."""
        if isinstance(argument, str) and argument in self._made_by:
            argument = self._made_by[argument][0].argument("val")
        return argument.text if isinstance(argument, Value) else None

    def _value(self, value: Value, name: str) -> Constant | None:
        if isinstance(value.content, BlobReference):
            if value.type is None:
                raise MalformedArtifactError(f"{name}: a blob without a type")
            shape = _static(value.type.shape, name)
            blob = self._blob(value.content)
            wanted = STORED_AS.get(value.type.dtype, value.type.dtype)
            if blob.element.name != wanted or blob.count != math.prod(shape):
                raise MalformedArtifactError(
                    f"{name}: the program wants {math.prod(shape)} elements of {wanted}, "
                    f"the blob at {value.content.offset} has {blob.count} of {blob.element.name}"
                )
            return Constant(name, shape, shape, tuple(range(len(shape))), blob, blob.element)
        array = value.array()
        if array is None:
            return None
        return Constant(name, array.shape, array.shape, tuple(range(array.ndim)), values=array)

    def _made(self, op: Operation, place: int, name: str) -> Constant | None:
        if op.type == "const":
            return self.of(op.argument("val"), name) if isinstance(op.argument("val"), Value) else None
        if op.type in EXPANSIONS:
            return EXPANSIONS[op.type](self, op, name)
        if op.type in ("constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale"):
            return self._sparse_values(op, name) if place == 1 else self.of(op.argument("indices_mask", "data_mask"))
        if op.type in ("identity", "cast", "transpose", "expand_dims", "squeeze", "reshape"):
            source = self.of(op.argument("x"))
            return self._reshaped(op, source) if source is not None else None
        return None

    def _reshaped(self, op: Operation, source: Constant) -> Constant:
        """The same bytes seen in another shape; sizes other than 1 stay what they are."""
        if op.type in ("identity", "cast"):
            return source
        if op.type == "transpose":
            perm = self.integers(op.argument("perm")) or []
            order = [p % len(perm) for p in perm]
            if sorted(order) != list(range(len(source.shape))):
                return replace(source, problem="is transposed in a way that is not known")
            return replace(
                source, shape=tuple(source.shape[p] for p in order), axes=tuple(source.axes[p] for p in order)
            )
        shape = _static(op.outputs[0][1].shape, source.name) if op.outputs[0][1] is not None else ()
        real = [(n, a) for n, a in zip(source.shape, source.axes, strict=True) if n != 1]
        if [n for n in shape if n != 1] != [n for n, _ in real]:
            return replace(source, problem=f"passes through {op.type} before it is used")
        rest = iter(real)
        return replace(source, shape=shape, axes=tuple(None if n == 1 else next(rest)[1] for n in shape))

    def _affine(self, op: Operation, name: str) -> Constant | None:
        """iOS 16 constexpr_affine_dequantize: a scale and zero point for the tensor or for each index of one axis."""
        data = self._need(op, "quantized_data", name)
        rank = len(data.stored)
        place = self.integer(op.argument("axis"), 0) % max(1, rank)

        def along(other: Constant) -> Constant:
            count = math.prod(other.stored)
            if count not in (1, data.stored[place] if rank else 1):
                raise MalformedArtifactError(f"{name}: {count} scales for {data.stored} along axis {place}")
            shape = tuple(count if d == place else 1 for d in range(rank))
            return replace(other, shape=shape, stored=shape, axes=tuple(range(rank)))

        return replace(
            data, name=name, scale=along(self._need(op, "scale", name)), zero=along(self._need(op, "zero_point", name))
        )

    def _blockwise(self, op: Operation, name: str) -> Constant | None:
        """iOS 18 constexpr_blockwise_shift_scale."""
        data = self._need(op, "data", name)
        scale = _dividing(self._need(op, "scale", name), data.stored, name)
        offset = self.of(op.argument("offset"), name)
        zero = None if offset is None else _dividing(offset, data.stored, name)
        if data.scale is not None or (data.lut is not None and zero is not None):
            return replace(data, name=name, problem="is scaled twice")
        return replace(data, name=name, scale=scale, zero=zero)

    def _palettized(self, op: Operation, name: str) -> Constant | None:
        """constexpr_lut_to_dense of both operation sets."""
        indices, lut = self._need(op, "indices", name), self._need(op, "lut", name)
        shape = self.integers(op.argument("shape"))
        if shape is not None:  # iOS 16: a flat blob of packed bits and one table
            bits = max(1, math.prod(lut.stored) - 1).bit_length()
            stored = _positive(shape, name)
            size = math.prod(indices.stored)
            if (
                math.prod(lut.stored) != 1 << bits
                or bits not in (1, 2, 3, 4, 6, 8)
                or size != -(-math.prod(stored) * bits // 8)
            ):
                raise MalformedArtifactError(
                    f"{name}: {size} bytes of indices for {stored} and a table of {math.prod(lut.stored)}"
                )
            element = ElementType(f"uint{bits}", bits, False, signed=False)
            values = indices.values
            if values is not None:
                unpacked = np.unpackbits(values.astype(np.uint8), bitorder="little")[: math.prod(stored) * bits]
                values = unpacked.reshape(*stored, bits).astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))
            lut = _in_shape(lut, (*(1 for _ in stored), 1 << bits))
            axes = tuple(range(len(stored)))
            return replace(
                indices, name=name, shape=stored, stored=stored, axes=axes, element=element, values=values, lut=lut
            )
        return self._with_table(indices, lut, indices.stored, name)

    def _with_table(self, codes: Constant, lut: Constant, stored: tuple[int, ...], name: str) -> Constant:
        """Codes of shape `stored` and an iOS 18 table (*groups, entries, vector)."""
        if len(lut.stored) != len(stored) + 2 or any(g < 1 or n % g for n, g in zip(stored, lut.stored, strict=False)):
            raise MalformedArtifactError(f"{name}: a table of shape {lut.stored} for indices of shape {stored}")
        if codes.element is not None and lut.stored[-2] != 1 << codes.element.bits:
            raise MalformedArtifactError(f"{name}: a table of {lut.stored[-2]} entries for {codes.element.name}")
        if lut.stored[-1] != 1:
            return replace(
                codes, name=name, problem=f"one index stands for {lut.stored[-1]} weights (vector palettization)"
            )
        scale = None
        if lut.scale is not None and lut.zero is None and lut.scale.stored[-2:] == (1, 1):
            # Scales of channels, worked into the table's place: every entry of a group has the same, so it can stand behind.
            scale, lut = _in_shape(lut.scale, lut.scale.stored[:-2]), replace(lut, scale=None)
        return replace(codes, name=name, lut=_in_shape(lut, lut.stored[:-1]), scale=scale)

    def _pruned(self, op: Operation, name: str) -> Constant | None:
        """constexpr_sparse_to_dense of both operation sets."""
        data, mask = self._need(op, "nonzero_data", name), self._need(op, "mask", name)
        shape = self.integers(op.argument("shape"))
        stored = mask.stored if shape is None else _positive(shape, name)
        if data.problem is not None:
            return data
        if data.mask is not None:  # its own expansion has laid it out already
            if data.stored != stored:
                return replace(data, name=name, problem="is pruned twice")
            return replace(data, name=name)
        return self._spread_out(data, mask, stored, name)

    def _sparse_values(self, op: Operation, name: str) -> Constant | None:
        """The second result of constexpr_lut_to_sparse and constexpr_sparse_blockwise_shift_scale."""
        palettized = op.type == "constexpr_lut_to_sparse"
        mask = self._need(op, "indices_mask" if palettized else "data_mask", name)
        codes = self._need(op, "indices_nonzero_data" if palettized else "nonzero_data", name)
        if codes.mask is not None or codes.lut is not None or codes.scale is not None:
            return replace(codes, name=name, problem="is compressed three times")
        data = self._spread_out(codes, mask, mask.stored, name)
        if palettized:
            return self._with_table(data, self._need(op, "lut", name), mask.stored, name)
        scale = _dividing(self._need(op, "scale", name), mask.stored, name)
        offset = self.of(op.argument("offset"), name)
        return replace(data, scale=scale, zero=None if offset is None else _dividing(offset, mask.stored, name))

    def _spread_out(self, data: Constant, mask: Constant, stored: tuple[int, ...], name: str) -> Constant:
        where, count = self.memory.mask(mask, stored, name)
        if count != math.prod(data.stored):
            raise MalformedArtifactError(f"{name}: {math.prod(data.stored)} stored elements, but the mask has {count}")
        return replace(data, name=name, shape=stored, stored=stored, axes=tuple(range(len(stored))), mask=where)

    def _cast(self, op: Operation, name: str) -> Constant | None:
        """iOS 16 constexpr_cast: stored as half, used as float."""
        return replace(self._need(op, "source_val", name), name=name)

    def _need(self, op: Operation, argument: str, name: str) -> Constant:
        found = self.of(op.argument(argument), f"{name}.{argument}")
        if found is None:
            raise MalformedArtifactError(f"{name}: {op.type} without a constant {argument!r}")
        return found


EXPANSIONS: Mapping[str, Callable[[Constants, Operation, str], Constant | None]] = {
    "constexpr_affine_dequantize": Constants._affine,
    "constexpr_blockwise_shift_scale": Constants._blockwise,
    "constexpr_lut_to_dense": Constants._palettized,
    "constexpr_sparse_to_dense": Constants._pruned,
    "constexpr_cast": Constants._cast,
}


def _static(shape: tuple[int | None, ...], name: str) -> tuple[int, ...]:
    if any(n is None for n in shape) or len(shape) > MAX_RANK:
        raise MalformedArtifactError(f"{name}: a constant has a dimension that is unknown")
    return tuple(n for n in shape if n is not None)


def _positive(shape: list[int], name: str) -> tuple[int, ...]:
    if min(shape, default=1) < 1 or len(shape) > MAX_RANK:
        raise MalformedArtifactError(f"{name}: shape {shape[:MAX_RANK]}")
    return tuple(shape)


def _in_shape(constant: Constant, shape: tuple[int, ...]) -> Constant:
    """The same elements in another shape of the same size."""
    axes = tuple(range(len(shape)))
    if constant.scale is not None or constant.lut is not None or constant.mask is not None:
        return replace(constant, stored=shape, problem="is compressed in a way that is not known")
    values = None if constant.values is None else constant.values.reshape(shape)
    return replace(constant, shape=shape, stored=shape, axes=axes, values=values)


def _dividing(other: Constant, stored: tuple[int, ...], name: str) -> Constant:
    if len(other.stored) != len(stored) or any(s < 1 or n % s for n, s in zip(stored, other.stored, strict=False)):
        raise MalformedArtifactError(f"{name}: scales of shape {other.stored} for weights of shape {stored}")
    return other


def _spread(table: Floats, stored: tuple[int, ...]) -> Floats:
    """Repeat each entry over its block; dimensions behind those of `stored` stay."""
    for axis, size in enumerate(stored):
        if table.shape[axis] != size:
            table = np.repeat(table, size // table.shape[axis], axis)
    return table


def channel_part(kind: Kind, blob: Blob, element: ElementType, stored: tuple[int, ...], axis: int) -> Part | str:
    """The array seen along one of its dimensions; the reason why not when a channel's pieces begin inside a byte."""
    before, channels, behind = math.prod(stored[:axis]), stored[axis], math.prod(stored[axis + 1 :])
    if behind * element.bits % 8:
        return f"a channel has pieces of {behind} elements of {element.bits} bits, which straddle bytes"
    piece = behind * element.bits // 8
    return Part(kind, element, blob.file, blob.offset, channels, piece, piece, piece * channels, before)


def sparse_part(constant: Constant, axis: int) -> SparsePart | str:
    """The stored elements of a pruned array seen along its first dimension, or the reason why not."""
    assert constant.blob is not None  # noqa: S101
    assert constant.element is not None  # noqa: S101
    assert constant.mask is not None  # noqa: S101
    if math.prod(constant.stored[:axis]) != 1:
        return "the stored elements of a pruned channel are scattered"
    if constant.element.bits % 8:
        return f"the stored elements of a pruned channel have {constant.element.bits} bits and straddle bytes"
    mask = constant.mask.reshape(constant.stored[axis], -1)
    bounds = np.concatenate([[0], np.cumsum(mask.sum(axis=1, dtype=np.int64))])
    return SparsePart("weight", constant.element, constant.blob.file, constant.blob.offset, bounds, mask)


def table_of(constant: Constant, stored: tuple[int, ...], axis: int, memory: Memory) -> Floats | str:
    """A scale, zero point or look-up table spelled out as (channels or 1, groups[, entries]), or the reason why not.

    A channel's elements, in file order without `axis`, fall into equally long groups. Blocks that do not lie like that are
    split into smaller ones that do.
    """
    if constant.problem is not None:
        return constant.problem
    rank = len(stored)
    sizes, groups = (*stored[:axis], *stored[axis + 1 :]), (*constant.stored[:axis], *constant.stored[axis + 1 : rank])
    last = max((i for i, g in enumerate(groups) if g > 1), default=-1)
    channels = 1 if constant.stored[axis] == 1 else stored[axis]
    spelled = [n if i < last else g for i, (n, g) in enumerate(zip(sizes, groups, strict=True))]
    if not memory.affords(
        max(channels * math.prod(spelled) * math.prod(constant.stored[rank:]), math.prod(constant.stored))
    ):
        return "its scales or look-up tables are too many to be spelled out"
    table = _spread(np.moveaxis(constant.dense(), axis, 0), (channels, *spelled))
    return np.ascontiguousarray(table.reshape(channels, -1, *constant.stored[rank:]))


def owned_part(kind: Kind, constant: Constant, stored: tuple[int, ...], axis: int) -> Part | None:
    """The part that a channel owns of a scale or zero point, or None where channels share it or no blob holds it."""
    if (
        constant.blob is None
        or constant.element is None
        or constant.values is not None
        or constant.stored[axis] != stored[axis]
    ):
        return None
    if constant.scale is not None or constant.zero is not None or constant.lut is not None or constant.mask is not None:
        return None
    sizes, groups = (*stored[:axis], *stored[axis + 1 :]), (*constant.stored[:axis], *constant.stored[axis + 1 :])
    last = max((i for i, g in enumerate(groups) if g > 1), default=-1)
    if any(sizes[i] != groups[i] for i in range(last)):
        return None
    part = channel_part(kind, constant.blob, constant.element, constant.stored, axis)
    return part if isinstance(part, Part) else None


@dataclass(frozen=True)
class Layout:
    """A constant seen along its output channels: what becomes a WeightTensor."""

    weight: Part | SparsePart
    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]
    axes: tuple[int, ...]
    quantization: Quantization | None
    inputs: Part | None
    dtype: str
    notes: tuple[str, ...]


def lay_out(
    constant: Constant, out: int, order: Sequence[int], into: int | None, shared: Callable[[Blob], bool], memory: Memory
) -> Layout | str:
    """The layout of a layer's weight, or the reason why it cannot be locked.

    Args:
        constant: the weight.
        out: dimension of `constant.shape` that counts output channels.
        order: the other dimensions in logical order.
        into: dimension that counts input channels, or None where they are no regular slices.
        shared: whether a blob belongs to more than one tensor, so that no channel owns a piece of it.
        memory: what the tables take their room from.
    """
    if constant.problem is not None:
        return constant.problem
    if constant.blob is None or constant.element is None:
        return "is stored in the program, not in the weight file"
    if constant.element.name not in LOCKABLE:
        return f"type {constant.element.name} cannot be locked"
    if not constant.element.is_float and constant.scale is None and constant.lut is None:
        return "holds integers, not weights"
    if 0 in constant.stored:
        return "has no elements"
    axis = constant.axes[out]
    if axis is None:
        return "has one channel"
    element, stored = constant.element, constant.stored
    weight = (
        channel_part("weight", constant.blob, element, stored, axis)
        if constant.mask is None
        else sparse_part(constant, axis)
    )
    if isinstance(weight, str):
        return weight
    if weight.extent != (constant.blob.offset, constant.blob.size):
        raise MalformedArtifactError(f"{constant.name}: does not fill its blob")
    parts: list[Part] = []
    notes: list[str] = []
    tables: dict[str, Floats] = {}
    kinds: list[tuple[Kind, Constant | None]] = [("scale", constant.scale), ("zero_point", constant.zero)]
    for kind, other in kinds:
        if other is None:
            continue
        part = owned_part(kind, other, stored, axis) if constant.lut is None else None
        if part is not None and other.blob is not None and not shared(other.blob):
            parts.append(part)
            continue
        if other.blob is None:
            notes.append(f"its {kind} is stored in the program and stays public")
        elif part is not None:
            notes.append(f"its {kind} is shared with another tensor and stays public")
        elif other.stored[axis] != stored[axis]:
            notes.append(f"its {kind} is shared by channels and stays public")
        else:
            notes.append(f"its {kind} cannot be told apart by channel in whole bytes and stays public")
        table = table_of(other, stored, axis, memory)
        if isinstance(table, str):
            return table
        tables[kind] = table
    if constant.lut is not None:
        table = table_of(constant.lut, stored, axis, memory)
        if isinstance(table, str):
            return table
        tables["lut"] = table
    quantization = Quantization(**tables) if tables or parts or not element.is_float else None
    sizes = [n for i, n in enumerate(stored) if i != axis]
    places = [i for i in range(len(stored)) if i != axis]
    axes = []
    for dimension in order:
        place = constant.axes[dimension]
        if place is None:  # a dimension of size 1 that the file does not have goes to the end there
            sizes.append(1)
            axes.append(len(sizes) - 1)
        else:
            axes.append(places.index(place))
    left_out = [i for i in range(len(sizes)) if i not in axes]
    if any(sizes[i] != 1 for i in left_out):
        return "has dimensions that its layer does not have"
    kept = [i for i in range(len(sizes)) if i not in left_out]
    inputs = None
    if into is not None and constant.mask is None and (entry := constant.axes[into]) is not None:
        seen = channel_part("weight", constant.blob, element, stored, entry)
        inputs = seen if isinstance(seen, Part) else None
    return Layout(
        weight,
        tuple(parts),
        (constant.shape[out], *(constant.shape[d] for d in order)),
        tuple(sizes[i] for i in kept),
        tuple(kept.index(a) for a in axes),
        quantization,
        inputs,
        _description(constant, quantization, axis),
        tuple(notes),
    )


def _description(constant: Constant, quantization: Quantization | None, axis: int) -> str:
    """How the type is shown to people."""
    assert constant.element is not None  # noqa: S101
    name = constant.element.name
    if constant.lut is not None:
        tables = math.prod(constant.lut.stored[:-1])
        name += " palette" if tables == 1 else f" palette, {tables} tables"
    elif quantization is not None and constant.scale is not None:
        groups = math.prod(constant.scale.stored) // constant.scale.stored[axis]
        if groups > 1:
            name += f" group {math.prod(constant.stored) // constant.stored[axis] // groups}"
        else:
            name += " per tensor" if math.prod(constant.scale.stored) == 1 else " per channel"
    return f"{name}, pruned" if constant.mask is not None else name
