"""The portable kernels of an ExecuTorch method, as far as weights and channels go.

Kernels are called with the arguments of their ATen schema, outputs last; a kernel with one output has it twice, one with
several has a list of them behind them. A kernel that is not in the tables of `kernel_names` loses the trace of its operands, no
more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from corelocker.artifacts import flow as flows
from corelocker.artifacts.elements import UINT4_HIGH_FIRST
from corelocker.artifacts.executorch.constant_forms import common_zero, out_first
from corelocker.artifacts.executorch.kernel_names import (
    BATCH_NORMS,
    COPIES,
    FRESH,
    OTHER_NORMS,
    POINTWISE,
    REDUCERS,
    SAMPLERS,
)
from corelocker.artifacts.executorch.method_values import IntListValue, MethodValue, Shape, TensorListValue, TensorValue
from corelocker.artifacts.executorch.walk import Operand, Walk
from corelocker.artifacts.flow import Flow
from corelocker.artifacts.layers import Scales, StoredConstant
from corelocker.artifacts.weights import Kind
from corelocker.errors import MalformedArtifactError


class PortableMethod:
    """The values of one method while it is walked."""

    def __init__(self, name: str, stored: Sequence[MethodValue], walk: Walk) -> None:
        self._name = name
        self._stored = stored
        self._walk = walk
        self._known: dict[int, Operand] = {}
        self._written: dict[tuple[int, int, int], int] = {}

    # --- values ----------------------------------------------------------------------------------

    def tensor(self, index: int) -> TensorValue | None:
        """The tensor at place `index` of the values, None when something else is there."""
        if not 0 <= index < len(self._stored):
            raise MalformedArtifactError(f"{self._name}: there is no value {index}")
        value = self._stored[index]
        return value if isinstance(value, TensorValue) else None

    def value(self, index: int) -> Operand:
        """What is known of a tensor when a kernel reads it."""
        tensor = self.tensor(index)
        if tensor is None:
            return Flow(())
        if index not in self._known:
            self._known[index] = self._first(tensor)
        return self._known[index]

    def is_known(self, index: int) -> bool:
        """Whether a kernel has written the tensor, or it is a constant."""
        tensor = self.tensor(index)
        return tensor is not None and (index in self._known or tensor.region is not None)

    def _first(self, tensor: TensorValue) -> Operand:
        if tensor.region is not None:
            return StoredConstant.in_region(tensor.region, tensor.element, tensor.shape, tensor.order)
        # The memory plan lets a view share its bytes with what it views, without a kernel call.
        viewed = self._written.get(tensor.place) if tensor.place is not None else None
        if viewed is not None:
            source = self._known[viewed]
            if math.prod(source.shape) == math.prod(tensor.shape):
                return (
                    self._walk.spend(source.reshape(tensor.shape))
                    if isinstance(source, Flow)
                    else source.reshape(tensor.shape)
                )
        return Flow(tensor.shape)

    def define(self, index: int, value: Operand) -> None:
        """A kernel or delegate has written a tensor."""
        tensor = self.tensor(index)
        if tensor is None:
            return
        if isinstance(value, Flow):
            self._walk.spend(value)
        self._known[index] = value
        if tensor.place is not None and 0 not in tensor.shape:
            self._written[tensor.place] = index

    def operand(self, index: int, use: str) -> Flow:
        """An activation, or a constant that is no layer's."""
        return self._walk.activation(self.value(index), use)

    def _optional(self, index: int) -> Operand | None:
        return self.value(index) if self.tensor(index) is not None else None

    def _constant(self, index: int) -> StoredConstant | None:
        value = self._optional(index)
        return value if isinstance(value, StoredConstant) else None

    def _integer(self, index: int, default: int = 0) -> int:
        value = self._stored[index] if 0 <= index < len(self._stored) else None
        return value if isinstance(value, int) else default

    def _integers(self, index: int) -> Shape:
        """A list of integers; a single one counts as a list of one."""
        value = self._stored[index] if 0 <= index < len(self._stored) else None
        if isinstance(value, IntListValue):
            return tuple(self._integer(i) for i in value.items)
        return (value,) if isinstance(value, int) else ()

    def _tensors(self, indices: Sequence[int]) -> list[int]:
        """The tensors among values, those in lists too."""
        found: list[int] = []
        for index in indices:
            stored = self._stored[index] if 0 <= index < len(self._stored) else None
            if isinstance(stored, TensorListValue):
                self._walk.tracer.budget.spend(len(stored.items))
                found += [i for i in stored.items if i >= 0 and self.tensor(i) is not None]
            elif isinstance(stored, TensorValue):
                found.append(index)
        return found

    def shape(self, index: int) -> Shape:
        tensor = self.tensor(index)
        return tensor.shape if tensor is not None else ()

    # --- kernels ---------------------------------------------------------------------------------

    def call(self, operator: str, arguments: Sequence[int]) -> None:
        """One kernel call; `operator` has its namespace, not its overload."""
        if not arguments:
            return
        space, _, name = operator.rpartition("::")
        outs = self._tensors(arguments[-1:])
        if not outs:
            return
        inputs = arguments[:-1]
        if inputs[-1:] == arguments[-1:]:
            inputs = inputs[:-1]
        elif list(inputs[-len(outs) :]) == outs:
            inputs = inputs[: -len(outs)]
        special = SPECIAL.get(name)
        if special is not None and len(inputs) >= special[0]:
            special[1](self, inputs, outs)
        elif name in FRESH or not inputs:
            for out in outs:
                self.define(out, Flow(self.shape(out)))
        elif name in COPIES:
            self._copy(inputs, outs)
        elif name in SAMPLERS:
            self._first_out(self.operand(inputs[0], name).resized(self.shape(outs[0])), outs)
        elif name in REDUCERS:
            self._reduce(inputs, outs)
        elif name in POINTWISE:
            operands = [self.operand(i, f"an operand of {name}") for i in self._tensors(inputs)]
            self._first_out(flows.combine(operands, self.shape(outs[0])), outs)
        else:
            reason = f"the operator {space}::{name} is not followed"
            if space == "cortex_m":
                self._refuse_constants(inputs, f"weights for the Cortex-M kernel {name}, which are not supported")
            sources = [self.operand(i, f"an operand of {space}::{name}").lost(reason) for i in self._tensors(inputs)]
            mixed = flows.combine([Flow((), source.traces) for source in sources], ())
            for out in outs:
                self.define(out, mixed.shaped(self.shape(out)))

    def _refuse_constants(self, inputs: Sequence[int], reason: str) -> None:
        for constant in filter(None, map(self._constant, self._tensors(inputs))):
            self._walk.collector.other(f"{self._walk.method}.constant", constant, reason)

    def _first_out(self, result: Operand, outs: Sequence[int]) -> None:
        """The result, and statistics or indices beside it."""
        self.define(outs[0], result)
        for out in outs[1:]:
            side = (
                result.lost(flows.SIDE).shaped(self.shape(out)) if isinstance(result, Flow) else Flow(self.shape(out))
            )
            self.define(out, side)

    def _copy(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        self.define(outs[0], self.value(inputs[0]).reshape(self.shape(outs[0])))

    def _reduce(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source = self.operand(inputs[0], "an operand of a reduction")
        axes = self._integers(inputs[1]) if len(inputs) > 1 else ()
        self._first_out(source.reduce(axes or range(len(source.shape)), self.shape(outs[0])), outs)

    def _permute(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source = self.value(inputs[0])
        rank = len(source.shape)
        self.define(outs[0], source.permute([a % max(1, rank) for a in self._integers(inputs[1])]))

    def _transpose(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source = self.value(inputs[0])
        order = list(range(len(source.shape)))
        a, b = (self._integer(i) for i in inputs[1:3]) if len(inputs) > 2 else (0, 1)
        if order and -len(order) <= min(a, b) and max(a, b) < len(order):
            order[a], order[b] = order[b], order[a]
        self.define(outs[0], source.permute(order))

    def _expand(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source, shape = self.value(inputs[0]), self.shape(outs[0])
        self.define(
            outs[0], source.expand(shape) if isinstance(source, StoredConstant) else flows.combine([source], shape)
        )

    def _part_of_constant(self, index: int, outs: Sequence[int]) -> bool:
        """Whether a value is a constant; then `outs` become parts of it."""
        source = self.value(index)
        if isinstance(source, StoredConstant):
            for out in outs:
                self.define(out, source.picked(self.shape(out), "an operator takes a part of it"))
        return isinstance(source, StoredConstant)

    def _slice(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        if self._part_of_constant(inputs[0], outs):
            return
        source, shape = self.operand(inputs[0], "an operand of slice"), self.shape(outs[0])
        axis = self._integer(inputs[1]) % max(1, len(source.shape))
        start = self._integer(inputs[2])
        step = self._integer(inputs[4], 1) if len(inputs) > 4 else 1
        if start < 0 and source.shape:
            start += source.shape[axis]
        self.define(outs[0], source.slice(axis, start, step, shape))

    def _add(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        self.define(outs[0], self._walk.add(self.value(inputs[0]), self.value(inputs[1]), self.shape(outs[0])))

    def _split(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        if self._part_of_constant(inputs[0], outs):
            return
        source = self.operand(inputs[0], "an operand of split")
        axis = (self._integer(inputs[2]) if len(inputs) > 2 else 0) % max(1, len(source.shape))
        start = 0
        for out in outs:
            shape = self.shape(out)
            self.define(out, source.slice(axis, start, 1, shape))
            start += shape[axis] if axis < len(shape) else 0

    def _select(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        if self._part_of_constant(inputs[0], outs):
            return
        source = self.operand(inputs[0], "an operand of select")
        for out in outs:
            self.define(out, source.reduce([self._integer(inputs[1])], self.shape(out)))

    def _cat(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        operands = [self.operand(i, "an operand of cat") for i in self._tensors(inputs[:1])]
        shape = self.shape(outs[0])
        axis = (self._integer(inputs[1]) if len(inputs) > 1 else 0) % max(1, len(shape))
        self.define(outs[0], flows.concatenate(operands, axis, shape))

    def _pad(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source, shape = self.operand(inputs[0], "an operand of pad"), self.shape(outs[0])
        before = self._integers(inputs[1])[::2][: len(shape)]
        self.define(outs[0], source.window([*[0] * (len(shape) - len(before)), *before[::-1]], shape))

    def _batch_norm(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        kinds: tuple[Kind, ...] = ("gamma", "beta", "mean", "variance")
        vectors = [(kind, self._constant(i)) for kind, i in zip(kinds, inputs[1:5], strict=False)]
        source = self.operand(inputs[0], "an operand of a normalization")
        if source.untouched is not None:
            self._walk.collector.normalize(source.untouched, vectors)
        self._no_layer(constant for _, constant in vectors)
        self._first_out(source.same(self.shape(outs[0])), outs)

    def _norm(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        self._no_layer(self._constant(i) for i in inputs[1:])
        self._first_out(self.operand(inputs[0], "an operand of a normalization").same(self.shape(outs[0])), outs)

    def _no_layer(self, constants: Iterable[StoredConstant | None]) -> None:
        for constant in constants:
            if constant is not None:
                self._walk.collector.other(
                    f"{self._walk.method}.norm", constant, "a normalization that belongs to no layer"
                )

    def _convolution(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        weight, groups = self._optional(inputs[1]), self._integer(inputs[8], 1)
        if isinstance(weight, StoredConstant) and self._integer(inputs[6]) and len(weight.shape) > 1:
            weight = out_first(weight, max(1, groups))
        data, shape = self.operand(inputs[0], "an operand of a convolution"), self.shape(outs[0])
        axis = len(shape) - len(weight.shape) + 1 if weight is not None else 1
        self._first_out(self._walk.convolution(data, axis, weight, self._optional(inputs[2]), groups, shape), outs)

    def _linear(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        bias = self._optional(inputs[2]) if len(inputs) > 2 else None
        data = self.operand(inputs[0], "an operand of a linear layer")
        self.define(outs[0], self._walk.linear(data, self._optional(inputs[1]), bias, self.shape(outs[0])))

    def _addmm(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        bias, matrix, shape = self._optional(inputs[0]), self._optional(inputs[2]), self.shape(outs[0])
        data = self.operand(inputs[1], "an operand of a linear layer")
        if isinstance(matrix, StoredConstant) and len(matrix.shape) == 2 and isinstance(bias, StoredConstant | None):
            self.define(outs[0], self._walk.linear(data, matrix.permute((1, 0)), bias, shape))
        else:
            added = self.operand(inputs[0], "an operand of a matrix product")
            self.define(outs[0], flows.combine([added, self._walk.product(data, matrix, shape)], shape))

    def _matmul(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        a, b = (self._optional(i) for i in inputs[:2])
        self.define(outs[0], self._walk.product(a, b, self.shape(outs[0])))

    def _embedding(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        self.define(outs[0], self._walk.embedding(self.value(inputs[0]), self.value(inputs[1]), self.shape(outs[0])))

    def _index(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source, shape = self.value(inputs[0]), self.shape(outs[0])
        indices = [self.operand(i, "an operand of aten::index") for i in self._tensors(inputs[1:])]
        reason = "the operator aten::index is not followed"
        index = flows.combine([Flow((), i.lost(reason).traces) for i in indices], ())
        if isinstance(source, Flow):
            self.define(outs[0], flows.combine([Flow((), source.lost(reason).traces), index], ()).shaped(shape))
        else:
            self.define(outs[0], self._walk.picked(source, index, shape))

    def _embedding_byte(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        table = self.value(inputs[0])
        if isinstance(table, StoredConstant):
            scales = self._constant(inputs[1])
            groups = (scales.shape[0], math.prod(scales.shape[1:])) if scales is not None and scales.shape else ()
            table = self._with_scales(table, scales, self._constant(inputs[2]), 0, groups)
        self.define(outs[0], self._walk.embedding(table, self.value(inputs[5]), self.shape(outs[0])))

    def _embedding_packed(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        """Two 4-bit codes in a byte, the first in its upper half: (code - 8 - zero point) * scale."""
        table = self.value(inputs[0])
        if isinstance(table, StoredConstant) and len(table.shape) == 2 and not table.problem:
            shape = (table.shape[0], 2 * table.shape[1])
            table = StoredConstant.in_region(table.region, UINT4_HIGH_FIRST, shape)
            scales = self._constant(inputs[1])
            groups = (scales.shape[0], math.prod(scales.shape[1:])) if scales is not None and scales.shape else ()
            table = self._with_scales(table, scales, self._constant(inputs[2]), 0, groups)
            if table.scales is not None:
                table = replace(table, scales=replace(table.scales, zero=table.scales.zero + 8))
        self.define(outs[0], self._walk.embedding(table, self.value(inputs[5]), self.shape(outs[0])))

    def _embedding_two_bits(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        table = self.value(inputs[0])
        if isinstance(table, StoredConstant):
            table = replace(table, problem="a table of 2-bit codes")
        self.define(outs[0], self._walk.embedding(table, self.value(inputs[5]), self.shape(outs[0])))

    # --- quantized constants that no delegate took -------------------------------------------------

    def _dequantize_per_tensor(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source = self.value(inputs[0])
        if isinstance(source, StoredConstant):
            scale, zero = (self._stored[i] if 0 <= i < len(self._stored) else None for i in inputs[1:3])
            if isinstance(scale, int | float) and isinstance(zero, int):
                source = replace(source, scales=Scales(scale=float(scale), zero=zero))
            else:
                source = replace(source, problem="its scale is computed at run time")
        self.define(outs[0], source if isinstance(source, StoredConstant) else source.same(self.shape(outs[0])))

    def _dequantize_per_channel(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source = self.value(inputs[0])
        if isinstance(source, StoredConstant):
            axis = self._integer(inputs[3]) % max(1, len(source.shape))
            source = self._with_scales(source, self._constant(inputs[1]), self._constant(inputs[2]), axis, ())
        self.define(outs[0], source if isinstance(source, StoredConstant) else source.same(self.shape(outs[0])))

    def _dequantize_affine(self, inputs: Sequence[int], outs: Sequence[int]) -> None:
        source = self.value(inputs[0])
        if isinstance(source, StoredConstant):
            blocks = self._integers(inputs[1])
            groups = [n // max(1, b) for n, b in zip(source.shape, blocks, strict=False)]
            if len(groups) == len(source.shape) and groups and math.prod(groups) in (groups[0], math.prod(groups[:2])):
                scale = self._constant(inputs[2])
                shape = (groups[0], math.prod(groups[1:]))
                source = self._with_scales(source, scale, self._constant(inputs[3]), 0, shape)
            else:
                source = replace(source, problem="its scales are laid out in an unknown way")
        self.define(outs[0], source if isinstance(source, StoredConstant) else source.same(self.shape(outs[0])))

    def _with_scales(
        self,
        codes: StoredConstant,
        scales: StoredConstant | None,
        zeros: StoredConstant | None,
        axis: int,
        shape: Shape,
    ) -> StoredConstant:
        """Codes with a scale for each channel; their zero points must be one and the same number."""
        if scales is None:
            return replace(codes, problem="its scales are computed at run time")
        if shape and math.prod(scales.shape) != math.prod(shape):
            return replace(codes, problem="its scales do not fit its shape")
        if zeros is not None:
            self._walk.tracer.budget.spend(math.prod(zeros.shape) >> 6)
        zero = common_zero(zeros) if zeros is not None else 0
        if zero is None:
            return replace(codes, problem="its zero points differ from channel to channel")
        return replace(codes, scales=Scales(scales.reshape(shape or scales.shape), axis, zero=zero))


Kernel = Callable[[PortableMethod, Sequence[int], Sequence[int]], None]
_M = PortableMethod
# Kernel -> (arguments that it needs, what it does).
SPECIAL: dict[str, tuple[int, Kernel]] = {
    "add": (2, _M._add),
    "addmm": (3, _M._addmm),
    "bmm": (2, _M._matmul),
    "cat": (1, _M._cat),
    "constant_pad_nd": (2, _M._pad),
    "convolution": (9, _M._convolution),
    "copy": (2, lambda m, i, o: m._copy(i[1:], o)),
    "dequantize_affine": (4, _M._dequantize_affine),
    "dequantize_per_channel": (4, _M._dequantize_per_channel),
    "dequantize_per_tensor": (3, _M._dequantize_per_tensor),
    "embedding": (2, _M._embedding),
    "embedding_2bit": (6, _M._embedding_two_bits),
    "embedding_4bit": (6, _M._embedding_packed),
    "embedding_byte": (6, _M._embedding_byte),
    "index": (2, _M._index),
    "index_select": (3, _M._index),
    "expand_copy": (1, _M._expand),
    "linear": (2, _M._linear),
    "matmul": (2, _M._matmul),
    "mm": (2, _M._matmul),
    "permute_copy": (2, _M._permute),
    "select_copy": (3, _M._select),
    "slice_copy": (3, _M._slice),
    "split_copy": (2, _M._split),
    "split_with_sizes_copy": (2, _M._split),
    "t_copy": (1, _M._transpose),
    "transpose_copy": (3, _M._transpose),
    "unbind_copy": (2, _M._select),
    **dict.fromkeys(BATCH_NORMS, (5, _M._batch_norm)),
    **dict.fromkeys(OTHER_NORMS, (2, _M._norm)),
}
