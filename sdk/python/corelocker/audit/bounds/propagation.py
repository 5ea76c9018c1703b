"""How bounds on two activations and on their difference pass through operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corelocker.audit.bounds.operator_norms import INFINITE, MARGIN, conv_norm

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DifferenceBound:
    """||y - y*||, ||y|| and ||y*|| are at most these."""

    delta: float
    original: float
    locked: float

    def times(self, factor: float) -> DifferenceBound:
        """All three, multiplied."""
        return DifferenceBound(*(times(factor, getattr(self, part)) for part in PARTS))

    def tightened(self, most: float = INFINITE) -> DifferenceBound:
        """Norms are at most `most`, and a difference at most the sum of both."""
        original, locked = min(self.original, most), min(self.locked, most)
        return DifferenceBound(min(self.delta, original + locked), original, locked)


PARTS = ("delta", "original", "locked")
# Name of the function or module -> (Lipschitz constant, |phi(0)|, largest magnitude)
ACTIVATIONS: dict[str, tuple[float, float, float]] = {
    "relu": (1, 0, INFINITE), "relu_": (1, 0, INFINITE), "ReLU": (1, 0, INFINITE),
    "relu6": (1, 0, 6), "ReLU6": (1, 0, 6),
    "tanh": (1, 0, 1), "Tanh": (1, 0, 1),
    "sigmoid": (0.25, 0.5, 1), "Sigmoid": (0.25, 0.5, 1),
    "hardsigmoid": (1 / 6, 0.5, 1), "Hardsigmoid": (1 / 6, 0.5, 1),
    "gelu": (1.13, 0, INFINITE), "GELU": (1.13, 0, INFINITE),
    "silu": (1.1, 0, INFINITE), "SiLU": (1.1, 0, INFINITE),
    "hardswish": (1.5, 0, INFINITE), "Hardswish": (1.5, 0, INFINITE),
    "softmax": (1, 1, 1), "Softmax": (1, 1, 1),
}  # fmt: skip
# Operations that only move, drop or average elements: their norm is at most 1.
CONTRACTIONS = {
    "Identity", "Flatten", "Dropout", "Dropout2d", "flatten", "view", "reshape", "contiguous", "permute", "transpose", "squeeze",
    "unsqueeze", "dropout", "mean", "getitem", "pad", "chunk", "split", "detach", "clone", "PixelShuffle", "pixel_shuffle",
    "ChannelShuffle", "channel_shuffle",
}  # fmt: skip
POOLS = {"MaxPool2d", "max_pool2d", "AvgPool2d", "avg_pool2d"}
ADAPTIVE = {"AdaptiveAvgPool2d", "adaptive_avg_pool2d"}


def bound_of_constant(original: Any, locked: Any) -> DifferenceBound:
    """The bound of a parameter that an operation reads."""
    norms = [float(v.double().norm()) for v in (original, locked)]
    return DifferenceBound(float((original.double() - locked.double()).norm()), norms[0], norms[1])


def growth_by_broadcast(part: Any, whole: Any) -> float:
    """How much a summand's norm grows when it is repeated to the sum's shape."""
    elements = part[0].numel() if part.dim() == whole.dim() and part.shape[0] == whole.shape[0] else part.numel()
    return math.sqrt(max(1.0, whole[0].numel() / max(1, elements)))


def norm_of_convolution(weight: Tensor, size: tuple[int, ...], layer: Any) -> float:
    """Norm of a convolution; rows of zeros (a difference has few others) are left out where there are no groups."""
    if layer.groups == 1:
        rows = weight.flatten(1).abs().sum(1) > 0
        if not bool(rows.any()):
            return 0.0
        weight = weight[rows]
    elif not bool(weight.any()):
        return 0.0
    return conv_norm(weight, size, layer.padding, layer.dilation, layer.groups)


def through_affine(bound: DifferenceBound, norms: Sequence[float], shifts: Sequence[float]) -> DifferenceBound:
    """Through y = A x + t: norms are those of A, A* and A - A*, shifts those of t, t* and t - t*.

    A x - A* x* is A (x - x*) + (A - A*) x* and also A* (x - x*) + (A - A*) x: the smaller bound counts.
    """
    one = times(norms[0], bound.delta) + times(norms[2], bound.locked)
    other = times(norms[1], bound.delta) + times(norms[2], bound.original)
    return DifferenceBound(
        (min(one, other) + shifts[2]) * MARGIN,
        (times(norms[0], bound.original) + shifts[0]) * MARGIN,
        (times(norms[1], bound.locked) + shifts[1]) * MARGIN,
    )


def times(a: float, b: float) -> float:
    """a * b, where 0 times infinity is 0."""
    return 0.0 if a == 0 or b == 0 else a * b
