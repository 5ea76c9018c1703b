"""Finding the constant behind an argument of an ML Program.

The operations `constexpr_*` that expand compressed weights are those of coremltools' iOS 16 and iOS 18 operation sets
(coremltools, `converters/mil/mil/ops/defs/iOS16/constexpr_ops.py` and `iOS18/compression.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from corelocker.artifacts.coreml.mil_constants import MilConstant, TableMemory
from corelocker.artifacts.coreml.mlprogram import Argument, BlobReference, Operation, Value
from corelocker.artifacts.coreml.weight_bin import Blob
from corelocker.artifacts.elements import ElementType
from corelocker.errors import MalformedArtifactError

MAX_RANK = 16
MAX_CHAIN = 16  # operations between a blob and the layer that reads it
STORED_AS = {
    "fp16": "float16", "fp32": "float32", "bf16": "bfloat16", "bool": "uint8", "fp8e4m3fn": "float8e4m3fn",
    "fp8e5m2": "float8e5m2",
}  # fmt: skip


class ConstantResolver:
    """Finds the constant behind an argument of one function, through constexpr operations and changes of shape.

    Args:
        operations: all operations of the function.
        blob: gives the checked blob of a reference.
        memory: shared by all functions.
    """

    def __init__(
        self, operations: Sequence[Operation], blob: Callable[[BlobReference], Blob], memory: TableMemory
    ) -> None:
        self.operations = operations
        self._blob = blob
        self.memory = memory
        self._made_by = {name: (op, i) for op in operations for i, (name, _) in enumerate(op.outputs)}
        self._known: dict[str, MilConstant | None] = {}
        self._depth = 0

    def of(self, argument: Argument | None, name: str = "") -> MilConstant | None:
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

    def _value(self, value: Value, name: str) -> MilConstant | None:
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
            return MilConstant(name, shape, shape, tuple(range(len(shape))), blob, blob.element)
        array = value.array()
        if array is None:
            return None
        return MilConstant(name, array.shape, array.shape, tuple(range(array.ndim)), values=array)

    def _made(self, op: Operation, place: int, name: str) -> MilConstant | None:
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

    def _reshaped(self, op: Operation, source: MilConstant) -> MilConstant:
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

    def _affine(self, op: Operation, name: str) -> MilConstant | None:
        """iOS 16 constexpr_affine_dequantize: a scale and zero point for the tensor or for each index of one axis."""
        data = self._need(op, "quantized_data", name)
        rank = len(data.stored)
        place = self.integer(op.argument("axis"), 0) % max(1, rank)

        def along(other: MilConstant) -> MilConstant:
            count = math.prod(other.stored)
            if count not in (1, data.stored[place] if rank else 1):
                raise MalformedArtifactError(f"{name}: {count} scales for {data.stored} along axis {place}")
            shape = tuple(count if d == place else 1 for d in range(rank))
            return replace(other, shape=shape, stored=shape, axes=tuple(range(rank)))

        return replace(
            data, name=name, scale=along(self._need(op, "scale", name)), zero=along(self._need(op, "zero_point", name))
        )

    def _blockwise(self, op: Operation, name: str) -> MilConstant | None:
        """iOS 18 constexpr_blockwise_shift_scale."""
        data = self._need(op, "data", name)
        scale = _dividing(self._need(op, "scale", name), data.stored, name)
        offset = self.of(op.argument("offset"), name)
        zero = None if offset is None else _dividing(offset, data.stored, name)
        if data.scale is not None or (data.lut is not None and zero is not None):
            return replace(data, name=name, problem="is scaled twice")
        return replace(data, name=name, scale=scale, zero=zero)

    def _palettized(self, op: Operation, name: str) -> MilConstant | None:
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

    def _with_table(self, codes: MilConstant, lut: MilConstant, stored: tuple[int, ...], name: str) -> MilConstant:
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

    def _pruned(self, op: Operation, name: str) -> MilConstant | None:
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

    def _sparse_values(self, op: Operation, name: str) -> MilConstant | None:
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

    def _spread_out(self, data: MilConstant, mask: MilConstant, stored: tuple[int, ...], name: str) -> MilConstant:
        where, count = self.memory.mask(mask, stored, name)
        if count != math.prod(data.stored):
            raise MalformedArtifactError(f"{name}: {math.prod(data.stored)} stored elements, but the mask has {count}")
        return replace(data, name=name, shape=stored, stored=stored, axes=tuple(range(len(stored))), mask=where)

    def _cast(self, op: Operation, name: str) -> MilConstant | None:
        """iOS 16 constexpr_cast: stored as half, used as float."""
        return replace(self._need(op, "source_val", name), name=name)

    def _need(self, op: Operation, argument: str, name: str) -> MilConstant:
        found = self.of(op.argument(argument), f"{name}.{argument}")
        if found is None:
            raise MalformedArtifactError(f"{name}: {op.type} without a constant {argument!r}")
        return found


EXPANSIONS: Mapping[str, Callable[[ConstantResolver, Operation, str], MilConstant | None]] = {
    "constexpr_affine_dequantize": ConstantResolver._affine,
    "constexpr_blockwise_shift_scale": ConstantResolver._blockwise,
    "constexpr_lut_to_dense": ConstantResolver._palettized,
    "constexpr_sparse_to_dense": ConstantResolver._pruned,
    "constexpr_cast": ConstantResolver._cast,
}


def _static(shape: tuple[int | None, ...], name: str) -> tuple[int, ...]:
    if any(n is None for n in shape) or len(shape) > MAX_RANK:
        raise MalformedArtifactError(f"{name}: a constant has a dimension that is unknown")
    return tuple(n for n in shape if n is not None)


def _positive(shape: list[int], name: str) -> tuple[int, ...]:
    if min(shape, default=1) < 1 or len(shape) > MAX_RANK:
        raise MalformedArtifactError(f"{name}: shape {shape[:MAX_RANK]}")
    return tuple(shape)


def _in_shape(constant: MilConstant, shape: tuple[int, ...]) -> MilConstant:
    """The same elements in another shape of the same size."""
    axes = tuple(range(len(shape)))
    if constant.scale is not None or constant.lut is not None or constant.mask is not None:
        return replace(constant, stored=shape, problem="is compressed in a way that is not known")
    values = None if constant.values is None else constant.values.reshape(shape)
    return replace(constant, shape=shape, stored=shape, axes=axes, values=values)


def _dividing(other: MilConstant, stored: tuple[int, ...], name: str) -> MilConstant:
    if len(other.stored) != len(stored) or any(s < 1 or n % s for n, s in zip(stored, other.stored, strict=False)):
        raise MalformedArtifactError(f"{name}: scales of shape {other.stored} for weights of shape {stored}")
    return other
