"""The operators that are layers, for every graph in a `.pte`.

A `Walk` goes through one method in the order of computation, through portable kernels and delegates alike. What an operator
reads is a constant of the file or an activation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from corelocker.artifacts import flow as flows
from corelocker.artifacts.flow import Flow, Tracer
from corelocker.artifacts.layers import MAX_RANK, Collector, StoredConstant
from corelocker.artifacts.weights import Role
from corelocker.errors import MalformedArtifactError

Operand = StoredConstant | Flow


class Walk:
    """One method's way through the layers.

    Attributes:
        method: its name, the prefix of the names of layers that it is the first to use.
    """

    def __init__(self, method: str, collector: Collector, tracer: Tracer) -> None:
        self.method = method
        self.collector = collector
        self.tracer = tracer

    def activation(self, value: Operand, use: str) -> Flow:
        """The value as an operand. A constant has no traces; it is listed as left alone unless a layer owns it."""
        if isinstance(value, Flow):
            return self.spend(value)
        self.collector.other(f"{self.method}.constant", value, f"{use}, no layer")
        return Flow(value.shape)

    def spend(self, flow: Flow) -> Flow:
        """Count the work that an activation stands for."""
        return self.tracer.spend(flow)

    def convolution(
        self, data: Flow, axis: int, weight: Operand | None, bias: Operand | None, groups: int, shape: Sequence[int]
    ) -> Flow:
        """A convolution of any rank, transposed or not.

        Args:
            axis: where the channels are in `data` and in the result.
            weight: (out, in / groups, *kernel).
            shape: the result's.
        """
        if not isinstance(weight, StoredConstant):
            return self._moving([data, *([weight] if weight else [])], shape)
        kernel, groups = weight.shape[2:], max(1, groups)
        depthwise = groups > 1 and len(weight.shape) > 1 and weight.shape[1] == 1
        multiplier = max(1, weight.shape[0] // groups) if depthwise else 1
        bias_constant = bias if isinstance(bias, StoredConstant) else None
        if depthwise and multiplier == 1 and math.prod(kernel) == 1:
            # Exporters write a BatchNorm that follows no convolution in this way.
            for constant in (weight, bias_constant):
                if constant is not None:
                    self.collector.other(f"{self.method}.norm", constant, "a normalization that belongs to no layer")
            return self.spend(data.same(shape))
        role: Role = "depthwise" if depthwise else "conv"
        return self._layer(role, data, axis, weight, bias_constant, shape, multiplier, grouped=groups > 1)

    def linear(self, data: Flow, weight: Operand | None, bias: Operand | None, shape: Sequence[int]) -> Flow:
        """A product of the last axis of `data` with `weight` (out, in); `shape` is the result's."""
        bias_constant = bias if isinstance(bias, StoredConstant) else None
        if isinstance(weight, StoredConstant) and weight.origin is not None:
            return self.stacked(data, weight, shape)
        if not isinstance(weight, StoredConstant):
            return (
                flows.multiply(data, weight.permute((1, 0)), shape)
                if weight and len(weight.shape) == 2
                else self._moving([data], shape)
            )
        return self._layer("linear", data, -1, weight, bias_constant, shape)

    def product(self, a: Operand | None, b: Operand | None, shape: Sequence[int]) -> Flow:
        """A matrix product (..., m, k) x (..., k, n); a constant on either side is a linear layer."""
        for data, weight, axis in ((a, b, -1), (b, a, -2)):
            if isinstance(data, Flow) and isinstance(weight, StoredConstant) and len(data.shape) > 1:
                matrix = weight.matrix()
                if matrix is None or weight.origin is not None:
                    return self.stacked(data, weight, shape)
                matrix = matrix.permute((1, 0)) if axis == -1 else matrix
                return self._layer("linear", data, axis, matrix, None, shape)
        if a is None or b is None:
            return Flow(tuple(shape))
        use = "an operand of a matrix product"
        return self.spend(flows.multiply(self.activation(a, use), self.activation(b, use), shape))

    def stacked(self, data: Flow, weight: StoredConstant, shape: Sequence[int]) -> Flow:
        """A product of `data` with matrices that lie above each other in a constant, or with a part of it.

        The matrices of experts are one layer; its channels are the rows as they are stored.
        """
        reason = "it reads matrices that are stacked in one constant"
        name = self.collector.layer(self.method, "linear", (weight.origin or weight).rows())
        self.tracer.abandon(data, reason)
        if any(trace.source is None for trace in data.traces):
            self.tracer.inputs.add(name)
        return self.spend(self.tracer.opaque([name], shape, reason))

    def picked(self, stack: Operand, index: Flow, shape: Sequence[int]) -> Flow:
        """The matrices of a constant that `index` picks while the model runs, such as the experts of a token."""
        if not isinstance(stack, StoredConstant) or len(stack.shape) < 3 or stack.element is None:
            return flows.combine([self.activation(stack, "an operand of aten::index"), index.lost(flows.MIXED)], shape)
        return self.stacked(index, stack, shape)

    def add(self, a: Operand, b: Operand, shape: Sequence[int]) -> Flow:
        """A sum; a vector added to what comes out of a layer is its bias."""
        for data, bias in ((a, b), (b, a)):
            if (
                isinstance(data, Flow)
                and isinstance(bias, StoredConstant)
                and data.untouched is not None
                and data.shape == tuple(shape)
            ):
                along = [i for i, n in enumerate(bias.shape, len(data.shape) - len(bias.shape)) if n != 1]
                if len(along) == 1 and self.tracer.lies_along(data, along[0]):
                    self.collector.shift(data.untouched, bias)
        return self.spend(flows.combine([self.activation(v, "an operand of an addition") for v in (a, b)], shape))

    def embedding(self, table: Operand, index: Operand, shape: Sequence[int]) -> Flow:
        """Rows of `table` (entries, width) picked by `index`."""
        if not isinstance(table, StoredConstant) or len(table.shape) != 2:
            return self._moving([table], shape)
        name = self.collector.layer(self.method, "embedding", table)
        if isinstance(index, Flow) and any(trace.source is None for trace in index.traces):
            self.tracer.inputs.add(name)
        return self.tracer.opaque([name], shape, "its channels are entries, the next layer reads features")

    def _layer(
        self,
        role: Role,
        data: Flow,
        axis: int,
        weight: StoredConstant,
        bias: StoredConstant | None,
        shape: Sequence[int],
        multiplier: int = 1,
        *,
        grouped: bool = False,
    ) -> Flow:
        if len(weight.shape) < 2:
            weight = replace(weight, problem=weight.problem or "it has no input channels")
        name = self.collector.layer(self.method, role, weight, [("bias", bias)], grouped=grouped)
        if bias is not None:
            self.collector.other(f"{self.method}.bias", bias, "a bias that fits no layer")
        self.spend(data)
        self.tracer.consume(data, axis, name, multiplier)
        return self.tracer.produce(name, shape, axis)

    def _moving(self, operands: Sequence[Operand], shape: Sequence[int]) -> Flow:
        """A layer whose weights are computed while the model runs."""
        flow = flows.combine(
            [
                Flow((), self.activation(o, "weights that are computed at run time").lost(flows.MIXED).traces)
                for o in operands
            ],
            (),
        )
        return self.spend(flow.shaped(shape))


def checked_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a tensor in a file. Raises MalformedArtifactError for one that no tensor has."""
    if len(shape) > MAX_RANK or any(n < 0 for n in shape):
        raise MalformedArtifactError(f"{name}: a tensor has the shape {tuple(shape[:MAX_RANK])}")
    return tuple(shape)
