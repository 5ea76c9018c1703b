"""Where channels go in an operation of an ML Program that has no weights.

Each operation that moves channels has a function here; one that has none loses them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from corelocker.artifacts.coreml.constant_resolver import ConstantResolver
from corelocker.artifacts.coreml.mlprogram import Operation
from corelocker.artifacts.coreml.weight_uses import result_name

Shape = tuple[int | None, ...]


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


class Channels(NamedTuple):
    """The channels of `producer` in a value: channel c is the `block` places from `first + c * block` on, along `axis`."""

    producer: str
    axis: int
    block: int
    first: int


@dataclass(frozen=True)
class ChannelReading:
    """An operation that reads channels.

    Attributes:
        op: the operation.
        argument: which of its arguments carries them.
        at: where they are in it.
        shape: of the argument.
        constants: of the function.
    """

    op: Operation
    argument: str
    at: Channels
    shape: Shape
    constants: ConstantResolver

    @property
    def rank(self) -> int:
        """Dimensions of the argument."""
        return len(self.shape)

    @property
    def result(self) -> Shape:
        """Shape of the first result."""
        kind = self.op.outputs[0][1] if self.op.outputs else None
        return kind.shape if kind is not None else ()

    @property
    def lost(self) -> str:
        """The reason when the channels cannot be followed."""
        return f"its channels pass through {self.op.type} {result_name(self.op)}"

    def integers(self, *names: str) -> list[int] | None:
        """The numbers of the first argument of one of these names."""
        return self.constants.integers(self.op.argument(*names))

    def integer(self, name: str, default: int = 0) -> int:
        """The number of an argument."""
        return self.constants.integer(self.op.argument(name), default)

    def is_whole(self, axis: int) -> bool:
        """Whether `axis` of the result is as long as the dimension of the channels, and that length is known."""
        return 0 <= axis < len(self.result) and self.result[axis] == self.shape[self.at.axis] is not None


Move = Channels | str | None


def moved(reading: ChannelReading) -> Move:
    """The channels in the result; the reason when that is not known; None when no channel is left in it."""
    op, at, result = reading.op, reading.at, reading.result
    if at.axis >= reading.rank:
        return reading.lost
    if op.type in PLACEWISE:
        axis = at.axis + len(result) - reading.rank
        same = 0 <= axis < len(result) and result[axis] == reading.shape[at.axis]
        return at._replace(axis=axis) if same else reading.lost
    if op.type in SPATIAL:
        return at if at.axis == 1 and len(result) == reading.rank else reading.lost
    if op.type.startswith("reduce_"):
        return _reduced(reading)
    if op.type in ("write_state", "cond", "while_loop") and not op.outputs:
        return None
    move = MOVES.get(op.type)
    return reading.lost if move is None else move(reading)


def _reduced(reading: ChannelReading) -> Move:
    axes, at, rank = reading.integers("axes", "axis"), reading.at, reading.rank
    gone = {a % rank for a in axes} if axes is not None else set(range(rank))
    if at.axis in gone:
        return None  # one number stands for all channels; no weight reads a single one
    return at if len(reading.result) == rank else at._replace(axis=at.axis - sum(a < at.axis for a in gone))


def _topk(reading: ChannelReading) -> Move:
    axes, rank = reading.integers("axes", "axis"), reading.rank
    gone = {a % rank for a in axes} if axes is not None else set(range(rank))
    return reading.lost if reading.at.axis in gone else reading.at


def _transposed(reading: ChannelReading) -> Move:
    where = [p % reading.rank for p in reading.integers("perm") or ()]
    if sorted(where) != list(range(reading.rank)):
        return reading.lost
    return reading.at._replace(axis=where.index(reading.at.axis))


def _reshape(reading: ChannelReading) -> Move:
    found = reshaped(reading.at, reading.shape, reading.result)
    return found or f"{reading.lost}, which splits them or puts other dimensions behind them"


def _sliced(reading: ChannelReading) -> Move:
    at, stride = reading.at, reading.integers("stride")
    gone = {d for d, flag in enumerate(reading.integers("squeeze_mask") or ()) if flag}
    axis = at.axis - sum(a < at.axis for a in gone)
    plain = stride is None or stride[at.axis : at.axis + 1] == [1]
    return at._replace(axis=axis) if at.axis not in gone and plain and reading.is_whole(axis) else reading.lost


def _split(reading: ChannelReading) -> Move:
    return reading.at if reading.integer("axis") % reading.rank != reading.at.axis else reading.lost


def _padded(reading: ChannelReading) -> Move:
    at, rank, pad = reading.at, reading.rank, reading.integers("pad")
    if pad is None or len(pad) % 2 or len(pad) > 2 * rank:
        return reading.lost
    behind = at.axis - (rank - len(pad) // 2)
    before, after = pad[2 * behind : 2 * behind + 2] if behind >= 0 else (0, 0)
    mode = reading.constants.text(reading.op.argument("mode"))
    if (before or after) and mode not in (None, "constant"):
        return reading.lost
    return at._replace(first=at.first + before) if before >= 0 and after >= 0 else reading.lost


def _stacked(reading: ChannelReading) -> Move:
    axis = reading.at.axis
    return reading.at._replace(axis=axis + (reading.integer("axis") % (reading.rank + 1) <= axis))


def _tiled(reading: ChannelReading) -> Move:
    reps = reading.integers("reps")
    once = reps is not None and len(reps) == reading.rank and reps[reading.at.axis] == 1
    return reading.at if once else reading.lost


def _gathered(reading: ChannelReading) -> Move:
    at, picked = reading.at, reading.integer("axis") % reading.rank
    if reading.argument != "x" or picked == at.axis:
        return reading.lost
    return at._replace(axis=at.axis + (len(reading.result) - reading.rank if picked < at.axis else 0))


def _multiplied(reading: ChannelReading) -> Move:
    at, rank, is_left = reading.at, reading.rank, reading.argument == "x"
    transposed = bool(reading.integer(f"transpose_{reading.argument}"))
    contracted = rank - 1 if is_left != transposed else rank - 2
    if at.axis == contracted:
        return f"its channels meet other activations in matmul {result_name(reading.op)}"
    axis = at.axis + len(reading.result) - rank
    if at.axis >= rank - 2:
        axis = len(reading.result) - (2 if is_left else 1)
    same = 0 <= axis < len(reading.result) and reading.result[axis] == reading.shape[at.axis]
    return at._replace(axis=axis) if same else reading.lost


MOVES: dict[str, Callable[[ChannelReading], Move]] = {
    "expand_dims": _reshape,
    "flatten2d": _reshape,
    "gather": _gathered,
    "matmul": _multiplied,
    "pad": _padded,
    "reshape": _reshape,
    "slice_by_index": _sliced,
    "slice_by_size": _sliced,
    "split": _split,
    "squeeze": _reshape,
    "stack": _stacked,
    "tile": _tiled,
    "topk": _topk,
    "transpose": _transposed,
}


def reshaped(at: Channels, old: Sequence[int | None], new: Sequence[int | None]) -> Channels | None:
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
