"""Who reads whose channels: one pass over an ML Program that follows each layer's output channels to the next layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from corelocker.artifacts.coreml.mil_constants import Constants
from corelocker.artifacts.coreml.mlprogram import Block, Function, Operation
from corelocker.artifacts.weights import Edge

MAX_TRAIL = 4096  # layers whose channels one value may carry, about that of a network of 2,000 residual blocks
MAX_STEPS = 20_000_000


def _names(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


# Operations whose output has, at each place along the channels, what came in at that place (broadcasting aside). A
# normalization mixes channels but keeps each at its place, so the next layer's column still belongs to it.
PLACEWISE = _names(
    """
    abs acos add asin atan atanh batch_norm cast ceil clamped_relu clip cos cosh elu equal erf exp exp2 floor
    floor_div gelu greater greater_equal identity instance_norm inverse l2_norm layer_norm leaky_relu less
    less_equal linear_activation local_response_norm log logical_and logical_not logical_or logical_xor maximum
    minimum mod mul not_equal pow prelu real_div relu relu6 round rsqrt scaled_tanh select sigmoid sigmoid_hard sign
    silu sin sinh softmax softplus softplus_parametric softsign sqrt square sub tan tanh threshold thresholded_relu
    quantize dequantize coreml_update_state
    """
)
SPATIAL = _names(
    """
    avg_pool max_pool l2_pool upsample_bilinear upsample_nearest_neighbor resize resize_bilinear
    resize_nearest_neighbor crop
    """
)
NO_DATA = frozenset(
    {"const", "shape", "read_state", "make_list", "list_length", "non_zero", "fill", "fill_like", "range_1d"}
)


@dataclass(frozen=True)
class Layer:
    """How one operation uses weights.

    Attributes:
        tensors: the weights that its data meets, one for each of `reads`; None for one that cannot be locked.
        reads: (argument, dimension of it that the weight's inputs run along; negative counts from the end).
        out: dimension of the output along which the first tensor's channels run, or None when they do not appear there.
        why: why not, where `out` is None.
        multiplier: for a depthwise layer the outputs of each input, else 0.
        norm: a normalization, which does not count as a layer between input and output.
    """

    tensors: tuple[str | None, ...]
    reads: tuple[tuple[str, int], ...]
    out: int | None
    why: str = ""
    multiplier: int = 0
    norm: bool = False


class Channels(NamedTuple):
    """The channels of `producer` in a value: channel c is the `block` places from `first + c * block` on, along `axis`."""

    producer: str
    axis: int
    block: int
    first: int


Trail = frozenset[Channels]
NOTHING: Trail = frozenset()


@dataclass
class Graph:
    """The result, over all functions."""

    edges: dict[str, set[Edge]] = field(default_factory=dict)
    untraced: dict[str, str] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)


def follow(function: Function, layers: dict[int, Layer], constants: Constants, graph: Graph) -> dict[str, Trail]:
    """Add one function's edges to the graph.

    Args:
        function: the function.
        layers: by `id` of the operation.
        constants: those of the function.

    Returns for each value whose channels it carries.
    """
    return _Follower(function, layers, constants, graph).run()


class _Follower:
    def __init__(self, function: Function, layers: dict[int, Layer], constants: Constants, graph: Graph) -> None:
        self._function = function
        self._layers = layers
        self._constants = constants
        self._graph = graph
        self._trails: dict[str, Trail] = {}
        self._shapes = {name: kind.shape for name, kind in function.inputs if kind is not None}
        self._behind_layer: set[str] = set()  # values that some layer had a part in
        self._from_input = {name for name, _ in function.inputs}
        self._visited: list[Operation] = []
        self._steps = 0

    def run(self) -> dict[str, Trail]:
        self._visit(self._function.block)
        self._find_outputs()
        return self._trails

    def _visit(self, block: Block) -> None:
        for op in block.operations:
            for inner in op.blocks:
                if any(name in self._behind_layer for name in op.reads):
                    self._behind_layer.update(inner.inputs)
                if any(name in self._from_input for name in op.reads):
                    self._from_input.update(inner.inputs)
                self._visit(inner)
            self._visited.append(op)
            for name, kind in op.outputs:
                if kind is not None:
                    self._shapes[name] = kind.shape
            if op.type in NO_DATA or op.type.startswith("constexpr_"):
                if op.type == "read_state":
                    self._from_input.update(name for name, _ in op.outputs)
                continue
            self._mark(op)
            layer = self._layers.get(id(op))
            if layer is not None and not layer.norm:
                self._through_layer(op, layer)
            else:
                self._through(op)

    def _mark(self, op: Operation) -> None:
        reads = list(op.reads) + [name for block in op.blocks for name in block.outputs]
        behind = any(name in self._behind_layer for name in reads)
        from_input = any(name in self._from_input for name in reads)
        layer = self._layers.get(id(op))
        if layer is not None and from_input and not behind:
            self._graph.inputs.update(t for t in layer.tensors if t is not None)
        outputs = [name for name, _ in op.outputs]
        if behind or (layer is not None and not layer.norm):
            self._behind_layer.update(outputs)
        if from_input:
            self._from_input.update(outputs)

    def _find_outputs(self) -> None:
        """A layer produces the model's output when a way leads there and no other layer reads its result."""
        reaches = set(self._function.block.outputs)
        before_layer: set[str] = set()
        for op in reversed(self._visited):
            results = [name for name, _ in op.outputs]
            layer = self._layers.get(id(op))
            reached = any(name in reaches for name in results)
            before = any(name in before_layer for name in results)
            if layer is not None and reached and not before:
                self._graph.outputs.update(t for t in layer.tensors if t is not None)
            reads = list(op.reads) + [name for block in op.blocks for name in block.outputs]
            if reached:
                reaches.update(reads)
            if reached and (before or (layer is not None and not layer.norm)):
                before_layer.update(reads)

    def _through_layer(self, op: Operation, layer: Layer) -> None:
        passed: set[Channels] = set()
        read = dict(layer.reads)
        for argument, group in op.arguments.items():
            for value in group:
                if not isinstance(value, str):
                    continue
                for channels in self._trails.get(value, NOTHING):
                    self._steps += 1
                    rank = len(self._shapes.get(value, ()))
                    if argument in read and channels.axis == read[argument] % max(1, rank):
                        self._read(channels, layer, argument)
                    elif op.type in ("linear", "matmul") and argument in read:
                        passed.add(channels)  # the layer mixes another dimension; the channels stay where they are
                    else:
                        self._lose(channels, f"{op.type} {_name(op)} reads its channels other than as inputs")
        first = layer.tensors[0]
        for index, (name, _) in enumerate(op.outputs):
            trail = set(passed)
            if first is not None:
                self._graph.edges.setdefault(first, set())
                if layer.out is None:
                    self._graph.untraced.setdefault(first, layer.why)
                elif index == 0:
                    trail.add(Channels(first, layer.out % max(1, len(self._shapes.get(name, ()))), 1, 0))
            self._trails[name] = frozenset(trail)
        if layer.out is None:
            for other in layer.tensors[1:]:
                if other is not None:
                    self._graph.edges.setdefault(other, set())
                    self._graph.untraced.setdefault(other, layer.why)

    def _read(self, channels: Channels, layer: Layer, argument: str) -> None:
        for (name, _), tensor in zip(layer.reads, layer.tensors, strict=False):
            if name != argument:
                continue
            if tensor is None:
                self._lose(channels, "a layer whose weights cannot be locked reads its channels")
                continue
            times = max(1, layer.multiplier)
            edge = Edge(tensor, channels.block * times, channels.first * times)
            self._graph.edges.setdefault(channels.producer, set()).add(edge)

    def _lose(self, channels: Channels, why: str) -> None:
        self._graph.untraced.setdefault(channels.producer, why)

    def _through(self, op: Operation) -> None:
        """Where the channels that an operation without weights reads are in its results."""
        results: list[set[Channels]] = [set() for _ in op.outputs]
        shared: Trail | None = None
        offset = 0
        for argument, group in op.arguments.items():
            for value in group:
                if not isinstance(value, str):
                    continue
                trail = self._trails.get(value, NOTHING)
                shape = self._shapes.get(value, ())
                if op.type == "concat" and argument == "values":
                    place = self._integer(op, "axis", 0) % max(1, len(shape))
                    shift, offset = offset, self._add(offset, shape, place)
                else:
                    place, shift = 0, 0
                if not trail:
                    continue
                self._steps += len(trail)
                if len(trail) > MAX_TRAIL or self._steps > MAX_STEPS:
                    for channels in trail:
                        self._lose(channels, f"too many layers meet at {_name(op)}")
                    continue
                if self._keeps_all(op, shape) and len(op.outputs) == 1:
                    # Most operations keep everything: share the set instead of copying it.
                    shared = trail if shared is None else shared
                    if trail is not shared:
                        results[0] |= trail
                    continue
                for channels in trail:
                    joins = op.type == "concat"
                    found = (
                        self._joined(op, channels, place, shift)
                        if joins
                        else self._moved(op, argument, channels, shape)
                    )
                    if isinstance(found, str):
                        self._lose(channels, found)
                    elif found is not None:
                        for result in results:
                            result.add(found)
        for block in op.blocks:
            self._yield(op, block, results)
        for (name, _), result in zip(op.outputs, results, strict=True):
            self._trails[name] = (shared | result if result else shared) if shared is not None else frozenset(result)

    def _yield(self, op: Operation, block: Block, results: list[set[Channels]]) -> None:
        """What the results of a nested block carry."""
        for index, name in enumerate(block.outputs):
            for channels in self._trails.get(name, NOTHING):
                if op.type == "cond" and index < len(results):
                    results[index].add(channels)
                elif op.type != "cond":
                    self._lose(channels, f"its channels pass through {op.type} {_name(op)}")

    def _keeps_all(self, op: Operation, shape: tuple[int | None, ...]) -> bool:
        if op.type not in PLACEWISE or not op.outputs:
            return False
        result = op.outputs[0][1]
        return result is not None and (result.shape == shape or op.type == "coreml_update_state")

    def _moved(
        self, op: Operation, argument: str, at: Channels, shape: tuple[int | None, ...]
    ) -> Channels | str | None:
        """The channels in the result; the reason when that is not known; None when no channel is left in it."""
        lost = f"its channels pass through {op.type} {_name(op)}"
        kind = op.outputs[0][1] if op.outputs else None
        result = kind.shape if kind is not None else ()
        rank = len(shape)
        axis = at.axis
        if axis >= rank:
            return lost
        if op.type in PLACEWISE:
            axis += len(result) - rank
            return at._replace(axis=axis) if 0 <= axis < len(result) and result[axis] == shape[at.axis] else lost
        if op.type in SPATIAL:
            return at if axis == 1 and len(result) == rank else lost
        if op.type.startswith("reduce_") or op.type == "topk":
            axes = self._integers(op, "axes", "axis")
            gone = {a % rank for a in axes} if axes is not None else set(range(rank))
            if axis in gone:
                return (
                    None if op.type != "topk" else lost
                )  # one number stands for all channels; no weight reads a single one
            keep = op.type == "topk" or len(result) == rank
            return at if keep else at._replace(axis=axis - sum(a < axis for a in gone))
        if op.type == "transpose":
            perm = self._integers(op, "perm")
            where = [p % rank for p in perm or ()]
            return at._replace(axis=where.index(axis)) if sorted(where) == list(range(rank)) else lost
        if op.type in ("reshape", "flatten2d", "expand_dims", "squeeze"):
            return _reshaped(at, shape, result) or f"{lost}, which splits them or puts other dimensions behind them"
        if op.type in ("slice_by_index", "slice_by_size"):
            stride = self._integers(op, "stride")
            mask = self._integers(op, "squeeze_mask")
            gone = {d for d, flag in enumerate(mask or ()) if flag}
            moved = axis - sum(a < axis for a in gone)
            plain = stride is None or stride[axis : axis + 1] == [1]
            same = moved < len(result) and result[moved] == shape[axis] is not None
            return at._replace(axis=moved) if axis not in gone and plain and same else lost
        if op.type == "split":
            return at if self._integer(op, "axis", 0) % rank != axis else lost
        if op.type == "pad":
            pad = self._integers(op, "pad")
            if pad is None or len(pad) % 2 or len(pad) > 2 * rank:
                return lost
            behind = axis - (rank - len(pad) // 2)
            before, after = pad[2 * behind : 2 * behind + 2] if behind >= 0 else (0, 0)
            if (before or after) and self._constants.text(op.argument("mode")) not in (None, "constant"):
                return lost
            return at._replace(first=at.first + before) if before >= 0 and after >= 0 else lost
        if op.type == "stack":
            return at._replace(axis=axis + (self._integer(op, "axis", 0) % (rank + 1) <= axis))
        if op.type == "tile":
            reps = self._integers(op, "reps")
            return at if reps is not None and len(reps) == rank and reps[axis] == 1 else lost
        if op.type == "gather" and argument == "x":
            place = self._integer(op, "axis", 0) % rank
            if place == axis:
                return lost
            return at._replace(axis=axis + (len(result) - rank if place < axis else 0))
        if op.type == "matmul":
            flipped = self._integer(op, f"transpose_{argument}", 0)
            contracted = (
                (rank - 1 if argument == "x" else rank - 2)
                if not flipped
                else (rank - 2 if argument == "x" else rank - 1)
            )
            if axis == contracted:
                return f"its channels meet other activations in matmul {_name(op)}"
            moved = axis + len(result) - rank
            if axis >= rank - 2:
                moved = len(result) - (2 if argument == "x" else 1)
            return at._replace(axis=moved) if 0 <= moved < len(result) and result[moved] == shape[axis] else lost
        if op.type in ("write_state", "cond", "while_loop") and not op.outputs:
            return None
        return lost

    def _joined(self, op: Operation, at: Channels, place: int, shift: int) -> Channels | str:
        if place != at.axis:
            return at
        if shift < 0 or self._integer(op, "interleave", 0):
            return f"its channels pass through concat {_name(op)} at a place that is not known"
        return at._replace(first=at.first + shift)

    @staticmethod
    def _add(offset: int, shape: tuple[int | None, ...], place: int) -> int:
        """Where the next input of a concat begins; negative once it is not known."""
        size = shape[place] if place < len(shape) else None
        return -1 if offset < 0 or size is None else offset + size

    def _integers(self, op: Operation, *names: str) -> list[int] | None:
        return self._constants.integers(op.argument(*names))

    def _integer(self, op: Operation, name: str, default: int) -> int:
        return self._constants.integer(op.argument(name), default)


def _reshaped(at: Channels, old: Sequence[int | None], new: Sequence[int | None]) -> Channels | None:
    """Channels after a change of shape, elements in row-major order; None where they are split or come to lie apart."""

    def size(shape: Sequence[int | None]) -> tuple[int, int]:
        product = 1
        for n in shape:
            product *= n if n is not None else 1
        return product, sum(n is None for n in shape)

    channels = old[at.axis]
    if channels is None:
        return None
    outer, inner = size(old[: at.axis]), size(old[at.axis + 1 :])
    if 0 in (outer[0], inner[0], channels):
        return None
    for axis, n in enumerate(new):
        if n is None or size(new[:axis]) != outer:
            continue
        rest = size(new[axis + 1 :])
        # n = channels x block, and what stays behind it must make up the old inner part.
        if n % channels == 0 and (n // channels * rest[0], rest[1]) == inner:
            block = n // channels
            return Channels(at.producer, axis, at.block * block, at.first * block)
    return None


def _name(op: Operation) -> str:
    return op.outputs[0][0] if op.outputs else op.type
