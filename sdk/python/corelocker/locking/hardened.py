"""Which channels to lock so that what is left is worth little to an attacker who trains.

A key that makes the model collapse can be tiny and is then tuned back in minutes: almost everything the network has learned is
still in the file. What an attacker can use is a layer together with the layer that reads it. So the layers that are locked cover
the network: of two that follow each other, at least one, and of all such choices the one with the fewest bytes. Small layers,
most of them early, are locked whole but for one channel; large ones up to the same number of bytes each, such that the budget is
met. Measured against other choices in docs/audit.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HARDENED_SHARE = 0.25  # of the weights' bytes


@dataclass(frozen=True)
class LayerSize:
    """A layer in the order of execution: its name, channels, and bytes with all that belongs to its channels."""

    name: str
    channels: int
    size: int


def cover(layers: Sequence[LayerSize]) -> list[LayerSize]:
    """The layers of the cheapest choice that holds at least one of every two that follow each other, in order."""
    taken, skipped = 0, 0  # the cheapest choice so far that takes, or skips, the last layer
    steps: list[bool] = []  # whether the choice that takes this layer takes the one before too
    for layer in layers:
        both = taken <= skipped
        steps.append(both)
        taken, skipped = min(taken, skipped) + layer.size, taken
    chosen: list[LayerSize] = []
    take = taken < skipped
    for layer, both in zip(reversed(layers), reversed(steps), strict=True):
        if take:
            chosen.append(layer)
        take = both if take else True
    return chosen[::-1]


def hardened_channels(layers: Sequence[LayerSize], share: float = HARDENED_SHARE) -> Mapping[str, int]:
    """How many channels of each layer to lock, for an access key of `share` of all bytes or just below.

    Where the cover is smaller than the budget, the rest goes to the layers that it leaves out, in the same way.

    Args:
        layers: all layers that may be locked, in the order of execution.
        share: 0 to 1.
    """
    budget = share * sum(layer.size for layer in layers)
    covering = cover(layers)
    counts = {layer.name: 0 for layer in layers} | _level(covering, budget)
    if all(counts[layer.name] == layer.channels - 1 for layer in covering):
        rest = [layer for layer in layers if layer not in covering]
        counts |= _level(rest, budget - sum(counts[layer.name] * layer.size / layer.channels for layer in covering))
    return counts


def _level(layers: Sequence[LayerSize], budget: float) -> dict[str, int]:
    """Channels to lock so that every layer gives the same number of bytes, or all it has but one channel."""

    def at(level: float) -> dict[str, int]:
        return {
            layer.name: min(math.floor(level * layer.channels / max(1, layer.size) + 1e-9), layer.channels - 1)
            for layer in layers
        }

    def cost(level: float) -> float:
        counts = at(level)
        return sum(counts[layer.name] * layer.size / layer.channels for layer in layers)

    low, high = 0.0, float(max((layer.size for layer in layers), default=0))
    if cost(high) <= budget:
        return at(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return at(low)
