"""Who reads whose channels: one pass over an ML Program that follows each layer's output channels to the next layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from corelocker.artifacts.coreml.channel_moves import PLACEWISE, ChannelReading, Channels, moved
from corelocker.artifacts.coreml.constant_resolver import ConstantResolver
from corelocker.artifacts.coreml.mlprogram import Block, Function, Operation
from corelocker.artifacts.coreml.weight_uses import result_name
from corelocker.artifacts.weights import Edge

MAX_TRAIL = 4096  # layers whose channels one value may carry, about that of a network of 2,000 residual blocks
MAX_STEPS = 20_000_000


NO_DATA = frozenset(
    {"const", "shape", "read_state", "make_list", "list_length", "non_zero", "fill", "fill_like", "range_1d"}
)


@dataclass(frozen=True)
class LayerOperation:
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


Trail = frozenset[Channels]
NOTHING: Trail = frozenset()


@dataclass
class ChannelGraph:
    """The result, over all functions."""

    edges: dict[str, set[Edge]] = field(default_factory=dict)
    untraced: dict[str, str] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)


def follow(
    function: Function, layers: dict[int, LayerOperation], constants: ConstantResolver, graph: ChannelGraph
) -> dict[str, Trail]:
    """Add one function's edges to the graph.

    Args:
        function: the function.
        layers: by `id` of the operation.
        constants: those of the function.

    Returns for each value whose channels it carries.
    """
    return _Follower(function, layers, constants, graph).run()


class _Follower:
    def __init__(
        self, function: Function, layers: dict[int, LayerOperation], constants: ConstantResolver, graph: ChannelGraph
    ) -> None:
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

    def _through_layer(self, op: Operation, layer: LayerOperation) -> None:
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
                        self._lose(channels, f"{op.type} {result_name(op)} reads its channels other than as inputs")
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

    def _read(self, channels: Channels, layer: LayerOperation, argument: str) -> None:
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
                    place = self._constants.integer(op.argument("axis"), 0) % max(1, len(shape))
                    shift, offset = offset, self._add(offset, shape, place)
                else:
                    place, shift = 0, 0
                if not trail:
                    continue
                self._steps += len(trail)
                if len(trail) > MAX_TRAIL or self._steps > MAX_STEPS:
                    for channels in trail:
                        self._lose(channels, f"too many layers meet at {result_name(op)}")
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
                        else moved(ChannelReading(op, argument, channels, shape, self._constants))
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
                    self._lose(channels, f"its channels pass through {op.type} {result_name(op)}")

    def _keeps_all(self, op: Operation, shape: tuple[int | None, ...]) -> bool:
        if op.type not in PLACEWISE or not op.outputs:
            return False
        result = op.outputs[0][1]
        return result is not None and (result.shape == shape or op.type == "coreml_update_state")

    def _joined(self, op: Operation, at: Channels, place: int, shift: int) -> Channels | str:
        if place != at.axis:
            return at
        if shift < 0 or self._constants.integer(op.argument("interleave"), 0):
            return f"its channels pass through concat {result_name(op)} at a place that is not known"
        return at._replace(first=at.first + shift)

    @staticmethod
    def _add(offset: int, shape: tuple[int | None, ...], place: int) -> int:
        """Where the next input of a concat begins; negative once it is not known."""
        size = shape[place] if place < len(shape) else None
        return -1 if offset < 0 or size is None else offset + size
