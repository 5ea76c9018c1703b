"""Which tensors can be locked by sign, and how many of their weights keep theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.bundle.patch_runs import RUN
from corelocker.locking.signs.encoding import Mirror, SignEncoding, sign_encoding
from corelocker.locking.signs.places import Indices, Units

MOST_OPEN = 0.05  # of the weights other than 0 that may keep their signs
MOST_BYTES = 0.5  # of the weight that the flips may cost
FEW = 1 << 12  # weights of a run whose places are remembered
THREADS = 2


@dataclass(frozen=True, eq=False)
class Signs:
    """The weights of a tensor that can be locked by sign.

    Attributes:
        units, kinds: the weight in units, and the mirror of each, int64 (units,).
        zeros: share of the weights that are 0 and have no sign.
        unpaired: share of the weights other than 0 that have no partner (the lowest code of two's complement, the largest beside a
            skewed zero point) and keep their sign.
        keeping: (first, last) of units in one run -> the places along it of the weights that keep their sign, int64 (n,); for those
            stretches that have few.
    """

    units: Units
    kinds: Indices = field(repr=False)
    mirrors: tuple[Mirror, ...]
    zeros: float = 0.0
    unpaired: float = 0.0
    keeping: Mapping[tuple[int, int], Indices] = field(default_factory=dict, repr=False)


def read_signs(artifacts: Sequence[Artifact]) -> list[dict[str, Signs | str]]:
    """For each artifact tensor -> its signs, or the reason why it is locked by value."""
    with ThreadPoolExecutor(THREADS) as pool:
        reading = [{t.name: pool.submit(signs_of, t) for t in artifact.tensors} for artifact in artifacts]
        return [{name: read.result() for name, read in tensors.items()} for tensors in reading]


def signs_of(tensor: WeightTensor) -> Signs | str:
    """The signs of a tensor, or the reason why it is locked by value."""
    encoding = sign_encoding(tensor)
    if isinstance(encoding, str):
        return encoding
    signs = _in_units(tensor, encoding)
    if isinstance(signs, str):
        return signs
    zeros = unpaired = 0
    keeping: dict[tuple[int, int], Indices] = {}
    for first, last in signs.units.stretches(np.arange(len(signs.units)), signs.kinds):
        mirror = signs.mirrors[signs.kinds[first]]
        places, seen, kept = [np.zeros(0, np.int64)], 0, 0
        for raw in signs.units.chunks(first, last):
            counted = mirror.count(raw)
            zeros, unpaired, kept = zeros + counted[0], unpaired + counted[1], kept + sum(counted)
            if sum(counted) and kept <= FEW:
                places.append(seen + np.flatnonzero(~mirror.flips(raw)))
            seen += raw.size * 8 // mirror.width
        if kept <= FEW:
            keeping[first, last] = np.concatenate(places)
    tensor.release()
    elements = int(signs.units.bounds[-1])
    share = unpaired / max(1, elements - zeros)
    if share > MOST_OPEN:
        return f"{100 * share:.1f} % of its weights have no negative"
    return Signs(signs.units, signs.kinds, signs.mirrors, zeros / max(1, elements), share, keeping)


def _in_units(tensor: WeightTensor, encoding: SignEncoding) -> Signs | str:
    """The weight cut into as few units as have one mirror each."""
    of_group, weight = encoding.of_group, tensor.weight
    if (of_group == of_group[:, :1]).all():
        of_group = of_group[:, :1]
    units = Units.of(weight, of_group.shape[1])
    if units is None:
        return "its zero points or palettes change inside its channels"
    kinds = np.broadcast_to(of_group, (weight.channels, of_group.shape[1])).reshape(-1)
    runs = list(units.stretches(np.arange(len(units)), kinds))
    tables = sum(len(encoding.mirrors[kinds[first]].table) for first, _ in runs)
    # The cost of one run does not count: a small tensor has no cheaper way.
    cost = RUN.itemsize * (len(runs) - 1) + int(units.bounds[-1]) // 8 + (tables if len(runs) > 1 else 0)
    if cost > MOST_BYTES * weight.size:
        return "its many zero points or palettes cost more than its values"
    return Signs(units, kinds, encoding.mirrors)
