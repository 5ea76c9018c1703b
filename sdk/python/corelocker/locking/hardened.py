"""Which channels to lock so that what is left is worth little to an attacker who trains.

A key that makes the model collapse can be tiny and is then tuned back in minutes: almost everything the network has learned is
still in the file. What an attacker can use is a layer together with the layer that reads it. So the layers that are locked cover
the network: of two that follow each other, at least one, and of all such choices the one with the fewest bytes. Layers that work
beside each other (the branches of a block, a shortcut, queries and keys and values) do not follow each other; their names tell.
Small layers, most of them early, are locked whole but for one channel; large ones up to the same number of bytes each, such that
the budget is met. Measured against other choices in docs/audit.md.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HARDENED_SHARE = 0.25  # of the weights' bytes
# Names of modules, or of parameters, that work beside their siblings of the same kind.
BESIDE: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(f"(?:{words})$", re.IGNORECASE))
    for kind, words in (
        ("branch", r"rbr_\w+|branch_?\d+"),
        ("attention", r"[qkv](_?proj)?|query|key|value|to_[qkv]|w[qkv]"),
        ("gate", r"(gate|up)_proj|w[13]"),
        ("expand", r"expand\d+x\d+"),
        ("recurrent", r"weight_(ih|hh)_l\d+(_reverse)?"),
    )
)
SHORTCUT = re.compile(r"(?:down_?sample|(conv_)?short_?cut|skip)$", re.IGNORECASE)  # beside all before it in its block


@dataclass(frozen=True)
class LayerSize:
    """A layer in the order of execution: its name, channels, and bytes with all that belongs to its channels."""

    name: str
    channels: int
    size: int


Choice = tuple[float, tuple[LayerSize, ...]]  # bytes, and the layers that are taken
Choices = tuple[tuple[Choice, Choice], tuple[Choice, Choice]]
"""The cheapest choice for a part of the network, [all that it begins with is taken][all that it ends with is taken]; False asks
for nothing."""


def cover(layers: Sequence[LayerSize]) -> list[LayerSize]:
    """The layers of the cheapest choice that holds at least one of every two that follow each other, in order."""
    if not layers:
        return []
    chosen = {layer.name for layer in _choices([(layer.name.split("."), layer) for layer in layers])[0][0][1]}
    return [layer for layer in layers if layer.name in chosen]


def _choices(layers: Sequence[tuple[Sequence[str], LayerSize]]) -> Choices:
    """For the layers of one module, each with its path from there, in the order of execution."""
    done: Choices | None = None
    for kind, group in itertools.groupby(layers, key=lambda layer: _kind(layer[0])):
        members = list(group)
        parts = []
        for _, part in itertools.groupby(members, key=lambda layer: layer[0][:1]):
            inner = [(path[1:], layer) for path, layer in part]
            parts.append(_choices(inner) if inner[0][0] else _single([layer for _, layer in inner]))
        if kind == "":
            for part_ in parts:
                done = part_ if done is None else _after(done, part_)
        elif kind == "shortcut" and done is not None:
            done = _beside([done, *parts])
        else:
            done = _beside(parts) if done is None else _after(done, _beside(parts))
    assert done is not None  # noqa: S101 - there are layers
    return done


def _kind(path: Sequence[str]) -> str:
    """What the module or parameter at the beginning of `path` works beside of; "" where it follows what stands before it."""
    if SHORTCUT.match(path[0]):
        return "shortcut"
    kind = next((kind for kind, words in BESIDE if words.match(path[0])), "")
    return kind + path[0].partition("_l")[2].partition("_")[0] if kind == "recurrent" else kind


def _single(layers: Sequence[LayerSize]) -> Choices:
    """One layer (several of one name follow each other)."""
    found: Choices | None = None
    for layer in layers:
        taken: Choice = (layer.size, (layer,))
        one: Choices = (((0, ()), taken), (taken, taken))
        found = one if found is None else _after(found, one)
    assert found is not None  # noqa: S101 - there are layers
    return found


def _after(first: Choices, second: Choices) -> Choices:
    """`second` follows `first`: the end of the one or the beginning of the other is taken."""

    def best(begin: bool, end: bool) -> Choice:
        return min(
            (_sum([first[begin][True], second[False][end]]), _sum([first[begin][False], second[True][end]])),
            key=lambda choice: choice[0],
        )

    return (best(False, False), best(False, True)), (best(True, False), best(True, True))


def _beside(parts: Sequence[Choices]) -> Choices:
    def all_of(begin: bool, end: bool) -> Choice:
        return _sum([part[begin][end] for part in parts])

    return (all_of(False, False), all_of(False, True)), (all_of(True, False), all_of(True, True))


def _sum(choices: Sequence[Choice]) -> Choice:
    return sum(size for size, _ in choices), tuple(itertools.chain.from_iterable(taken for _, taken in choices))


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
