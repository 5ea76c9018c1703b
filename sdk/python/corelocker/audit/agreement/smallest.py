"""The fewest bytes at which a file's output says nothing about its input, found by running the file.

One layer after the other is locked whole; of those that silence the output alone, the cheapest are bisected down to as few channels
as still do; so are several layers together. Channels go by the size of their weights. Masks and decoys
are drawn anew for every lock, so several draws are measured, each on several kinds of inputs, and the worst counts; what is found
is then grown by a margin. Synthetic inputs are kinder than real ones: on them equal answers are at chance before the values of the
classes have lost their correlation with the original's, and what is left of it shows on real inputs. So both must be gone.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corelocker.artifacts import WeightTensor
from corelocker.audit.agreement.examined import Examined
from corelocker.audit.agreement.runners import CannotRunError
from corelocker.audit.agreement.score import Agreement
from corelocker.audit.tier_bytes import State
from corelocker.locking.criteria import l1
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.groups import group_layers
from corelocker.locking.planning import given_plan
from corelocker.locking.signs.reading import Signs, read_signs
from corelocker.locking.tiers import Unit

Counts = Mapping[str, int]  # layer -> channels that are locked, by rank
QUICK = 192  # inputs of a look that is not the last
DRAWS, VERIFYING = 2, 5
CANDIDATES, PAIRED = 3, 6  # locks that are shrunk, and layers whose pairs are tried
DEARER = 4  # times the best found: what costs that whole is rarely cheaper in part
TOGETHER = (2, 3, 4, 6, 8, 12, 20, 40)  # layers
MARGINS = (2.0, 4.0, 10.0)  # times the channels that were found
SECONDS = 120.0  # of one core, after which no further layer is looked at
MOST_LEFT, MOST_CORRELATED = 0.02, 0.1
MOST_ALONG = 0.05  # and what chance adds; a lock that leaves 0.2 may leave 20 % of real images
KINDS = 4  # of synthetic inputs, all of which must be silenced


def left(agreement: Agreement) -> float:
    """What is left of an output; at most 1 where it counts as silenced."""
    if agreement.kind == "values":
        return agreement.excess / (MOST_CORRELATED + agreement.spread)
    along = (agreement.along - agreement.passed_on) / (MOST_ALONG + agreement.spread + 1 / math.sqrt(agreement.inputs))
    return max(agreement.excess / (MOST_LEFT + agreement.spread), along)


@dataclass(frozen=True)
class Layer:
    """A layer that may be locked: its channels by rank, the largest first, and what a lock of all of it costs, in bytes."""

    name: str
    order: list[int] = field(repr=False)
    most: int
    cost: float


class Trials:
    """Locks of one unit, made in memory and measured."""

    def __init__(self, examined: Examined, unit: Unit, exclude: Sequence[str]) -> None:
        self._examined, self.unit, self._artifact = examined, unit, examined.artifact
        self._groups = group_layers([self._artifact])
        self._signs = read_signs([self._artifact]) if unit == "sign" else []
        leaders = [group[0].tensor for group in self._groups]
        self.layers = {
            layer.name: layer
            for tensor in leaders
            if tensor.role != "norm" and not any(fnmatch.fnmatchcase(tensor.name, pattern) for pattern in exclude)
            if (layer := self._layer(tensor)) is not None
        }

    def _layer(self, tensor: WeightTensor) -> Layer | None:
        order = np.argsort(-l1(tensor), kind="stable").tolist()
        if self.unit == "value":
            if tensor.channels < 2:
                return None
            return Layer(tensor.name, order, tensor.channels - 1, sum(part.size for part in tensor.parts))
        found = self._signs[0][tensor.name]
        if not isinstance(found, Signs):
            return None
        return Layer(tensor.name, order, tensor.channels, int(found.units.bounds[-1]) / 8)

    def channels(self, counts: Counts) -> dict[str, list[int]]:
        """The channels that are locked."""
        return {name: sorted(self.layers[name].order[:count]) for name, count in counts.items() if count}

    def cost(self, counts: Counts) -> float:
        """Bytes of the access key, about."""
        return sum(self.layers[n].cost * count / len(self.layers[n].order) for n, count in counts.items())

    def left(self, counts: Counts, draws: int, inputs: int | None = None) -> float:
        """What is left in the worst of several draws; of what is above 1 the first that is found."""
        worst = 0.0
        for draw in range(draws):
            state = self._state(counts, b"draw/%d" % draw)
            each = self._examined.compare_each(state) if inputs is None else self._examined.compare_each(state, inputs)
            for agreement in each:
                worst = max(worst, left(agreement))
                if worst > 1:
                    return worst
        return worst

    def _state(self, counts: Counts, seed: bytes) -> State:
        plan = given_plan(
            [self._artifact], {(0, name): channels for name, channels in self.channels(counts).items()}, unit=self.unit,
            criterion="search", fill="decoy", seed=seed, signs=self._signs, groups=self._groups,
        )  # fmt: skip
        (locked,) = lock_artifacts([self._artifact], plan)
        state = {}
        for file in locked.files:
            state[file.file.name] = file.file.data.copy()
            file.overlay.apply(0, state[file.file.name], 0)
        return state


def find_smallest(
    examined: Examined, units: Sequence[Unit], exclude: Sequence[str], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Locks that silence the output, each with more than the one before: {"unit", "channels": {layer: [channel, ...]}}.

    Raises CannotRunError when even all layers together do not.
    """
    stop = time.process_time() + SECONDS
    found = []
    for number, unit in enumerate(units):
        trials = Trials(examined, unit, exclude)
        smallest = _search(trials, stop, _part(progress, number, len(units)))
        if smallest is not None:
            found.append((trials.cost(smallest[0]), trials, smallest))
    if not found:
        raise CannotRunError("no lock of this kind silences the output")
    _, trials, (counts, spare) = min(found, key=lambda entry: entry[0])
    return [{"unit": trials.unit, "channels": trials.channels(grown)} for grown in _grown(trials, counts, spare)]


def _part(progress: Callable[[int, int], None], number: int, parts: int) -> Callable[[int, int], None]:
    return lambda done, total: progress(number * total + done, parts * total)


def _search(
    trials: Trials, stop: float, progress: Callable[[int, int], None]
) -> tuple[dict[str, int], list[str]] | None:
    """The cheapest lock, grown until it holds in VERIFYING draws, and layers to add where it does not hold after all."""
    layers = sorted(trials.layers.values(), key=lambda layer: layer.cost)
    single: dict[str, float] = {}
    for done, layer in enumerate(layers):
        progress(done, len(layers))
        single[layer.name] = trials.left({layer.name: layer.most}, 1, QUICK)
        silent = [name for name, rest in single.items() if rest <= 1]
        # What costs more whole than the best found does in part is rarely cheaper in part.
        if time.process_time() > stop or len(silent) >= 2 * CANDIDATES:
            break
    best: tuple[float, dict[str, int]] | None = None
    held = 0
    for start in _starts(trials, single):
        if best is not None and (
            held == CANDIDATES or trials.cost(start) > DEARER * best[0] or time.process_time() > stop
        ):
            break
        if trials.left(start, VERIFYING, QUICK) > 1:
            continue
        counts = _margin(trials, _bisected(trials, start), start)
        if counts is not None:
            held += 1
            best = min(best or (math.inf, counts), (trials.cost(counts), counts), key=lambda entry: entry[0])
    spare = sorted((name for name in single if best is None or name not in best[1]), key=lambda name: single[name])
    return None if best is None else (best[1], spare)


def _starts(trials: Trials, single: Mapping[str, float]) -> Iterator[dict[str, int]]:
    """Locks of whole layers to shrink, by what they cost: single ones, pairs, the cheapest and the strongest together."""
    strongest = sorted(single, key=lambda n: single[n])
    cheapest = sorted(single, key=lambda n: trials.layers[n].cost)
    found = {frozenset([name]) for name, rest in single.items() if rest <= 1}
    found |= {frozenset(pair) for pair in itertools.combinations(strongest[:PAIRED], 2)}
    found |= {frozenset(order[:size]) for order in (cheapest, strongest) for size in TOGETHER if size <= len(order)}
    found.add(frozenset(single))
    for names in sorted(found, key=lambda names: (sum(trials.layers[n].cost for n in names), sorted(names))):
        yield {name: trials.layers[name].most for name in sorted(names)}


def _scaled(start: Counts, share: float) -> dict[str, int]:
    return {name: max(1, round(share * count)) for name, count in start.items()}


def _bisected(trials: Trials, start: Counts) -> dict[str, int]:
    """As few of the channels of `start` as still silence the output, of each layer the same share."""
    most = max(start.values())
    low, high = 0, most  # in channels of the largest layer: `high` silences, `low` does not
    while high - low > max(0, high // 12) + 1 or (high - low > 1 and high <= 12):
        middle = max(low + 1, int((max(low, 1) * high) ** 0.5)) if high > 4 * max(low, 1) else (low + high) // 2
        if trials.left(_scaled(start, middle / most), DRAWS, QUICK) <= 1:
            high = middle
        else:
            low = middle
    return _scaled(start, high / most)


def _margin(trials: Trials, counts: dict[str, int], start: Counts) -> dict[str, int] | None:
    """`counts` grown by the margin and as far as all draws need; None where even the whole does not hold."""
    tried: dict[str, int] = {}
    for margin in (*MARGINS, float(max(start.values()))):  # the last one comes to the whole
        grown = {name: min(start[name], round(margin * count)) for name, count in counts.items()}
        if grown != tried and trials.left(grown, VERIFYING) <= 1:
            return grown
        tried = grown
    return None


def _grown(trials: Trials, counts: dict[str, int], spare: Sequence[str]) -> list[dict[str, int]]:
    """`counts`, then more: for the case that the finished lock, or another format of the model, does not hold."""
    whole = {name: trials.layers[name].most for name in counts}
    ladder = [
        counts,
        {name: min(whole[name], 2 * count) for name, count in counts.items()},
        whole,
        whole | {name: trials.layers[name].most for name in spare[:3]},
        whole | {name: trials.layers[name].most for name in spare},
    ]
    return [rung for place, rung in enumerate(ladder) if place == 0 or rung != ladder[place - 1]]
