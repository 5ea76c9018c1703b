"""The fewest bytes at which a file's output says nothing about its input, found by running the file.

Each layer is locked alone, in whole and in part, the cheapest first, and what is left of the outputs is measured. What several
layers leave together is about the product of what each leaves alone, so the cheapest parts with a small enough product are found
by arithmetic. The lock of these is drawn several times and run on several kinds of inputs; where it does not hold, a smaller
product is asked for. Together they leave more or less than the product, so the first lock that holds is then changed, a part at a
time, as long as it gets smaller and holds. What was chosen so has to hold in further draws. Where the first one is small already,
the smallest product that is small takes its place: it leaves less. Real inputs leave more than synthetic ones: on these, equal
answers are at chance before the values of the classes have lost their correlation with the original's. So both must be gone.

Some layers turn the classes around and leave all else of the outputs: the last one of a language model. As a small network may
find its classes again by chance, locks that rely on this are tried only where others are large, and every draw has to hold.
"""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from corelocker.artifacts import WeightTensor
from corelocker.audit.agreement.examined import Examined
from corelocker.audit.agreement.runners import CannotRunError
from corelocker.audit.agreement.score import Agreement
from corelocker.audit.agreement.time_limit import OutOfTimeError, TimeLimit
from corelocker.audit.tier_bytes import State
from corelocker.locking.criteria import l1
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.groups import group_layers
from corelocker.locking.planning import given_plan
from corelocker.locking.presets import VALUE_SHARE
from corelocker.locking.signs.reading import Signs, read_signs
from corelocker.locking.tiers import Unit

KINDS = 4  # of synthetic inputs, all of which must be silenced
EACH = 1.0  # seconds of one core for running one state on one of them
LOOK, VERIFY = 32, 192  # inputs of each kind, for one layer and for the lock that may be taken
LOOKS, DRAWS = 2, 5  # draws of either, of the second once more
SHARES: dict[Unit, tuple[float, ...]] = {
    "sign": (1, 1 / 2, 1 / 4, 1 / 8),
    "value": (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32),
}
UNTOUCHED = 0.9  # of a layer of which more is left, smaller parts are not looked at
LEAST_LEFT = 0.05  # one layer alone is not trusted to leave less
PRODUCTS = (0.5, 0.4, 0.32, 0.25, 0.2, 0.17, 0.14, 0.12, 0.1, 0.085, 0.07, 0.05, 0.035, 0.025, 0.015, 0.01)
SMALL_ENOUGH = 0.05  # what costs more than a lock with this product is not looked at
TOGETHER = (3, 6, 12, 24, 48)  # whole layers, where no product is small enough
FINENESS = 20  # steps of a factor e in which products are compared
SECONDS = 120.0  # of one core, after which no further layer is looked at, and after twice that no lock but that of all
MOST_EQUAL, MOST_ALONG = 0.01, 0.12  # answers beyond chance and correlation, means over the draws
SAVED = 0.05  # of a lock's bytes that another one has to save
NEIGHBORS = 16  # of a lock, one change away, that are tried
POLISHING = 60.0  # seconds of one core, after which no smaller lock is tried
DRAWN = 3  # times that a finished lock may be drawn
LARGER = 3  # locks for the case that no draw of the smallest is silent, beside the one of all layers
GROWTH = 1.5  # times the bytes of the one before that each of them has at least
LARGE = 0.005  # share of the weights' bytes above which a lock that turns classes around is tried before
ENOUGH = 0.00025  # share of the weights' bytes that is small: below it the strongest lock is better than the smallest


@dataclass(frozen=True)
class LayerPart:
    """Channels of a layer that are locked together, what the access key holds of them in bytes, and what is left of the outputs.

    Attributes:
        left: of what tells inputs apart.
        aligned: of it, what is where the original has it.
    """

    layer: str
    channels: range | tuple[int, ...] = field(repr=False)
    cost: float
    left: float = 1.0
    aligned: float = 1.0


Lock = tuple[LayerPart, ...]


def cost(lock: Lock) -> float:
    """Bytes of the access key, about."""
    return sum(part.cost for part in lock)


def silenced(draws: Iterable[Sequence[Agreement]], count: int) -> bool:
    """Whether nothing is left of the outputs in `count` draws of a lock, of each the agreements of all outputs."""
    equal = along = 0.0
    for each in draws:
        along += max((a.along - a.passed_on if a.kind == "classes" else a.excess) - a.spread for a in each)
        equal += sum(a.excess - a.spread for a in each if a.kind == "classes") / len(each)
        if along > count * MOST_ALONG:
            return False
    return equal <= count * MOST_EQUAL


class Trials:
    """Locks of one unit, made in memory and measured.

    Attributes:
        layers: parts of each layer, the whole first; the layer with the cheapest part first.
    """

    def __init__(self, examined: Examined, unit: Unit, exclude: Sequence[str]) -> None:
        self._examined, self.unit, self._artifact = examined, unit, examined.artifact
        self._groups = group_layers([self._artifact])
        self._signs = read_signs([self._artifact]) if unit == "sign" else []
        self._draws = list(range(DRAWS)), list(range(DRAWS, 2 * DRAWS))
        leaders = [
            tensor
            for tensor in (group[0].tensor for group in self._groups)
            if tensor.role != "norm" and not any(fnmatch.fnmatchcase(tensor.name, pattern) for pattern in exclude)
        ]
        parts = [list(self._parts(tensor)) for tensor in leaders]
        self.layers = sorted((found for found in parts if found), key=lambda found: found[-1].cost)
        self._left_out = sum(p.size for t, found in zip(leaders, parts, strict=True) if not found for p in t.parts)

    @property
    def everything(self) -> float:
        """Bytes of the access key, about, when of each layer the whole is locked, and a share by value of those without parts."""
        return sum(layer[0].cost for layer in self.layers) + VALUE_SHARE * self._left_out

    def _parts(self, tensor: WeightTensor) -> Iterator[LayerPart]:
        size, channels = l1(tensor), tensor.channels
        counts = dict.fromkeys(max(1, round(share * channels)) for share in SHARES[self.unit])
        if self.unit == "value":
            order, each = np.argsort(-size, kind="stable").tolist(), sum(p.size for p in tensor.parts) / channels
            for count in dict.fromkeys(min(count, channels - 1) for count in counts):  # one has to stay
                if count:
                    yield LayerPart(tensor.name, tuple(sorted(order[:count])), count * each)
            return
        found = self._signs[0][tensor.name]
        if isinstance(found, Signs):
            # The mask of a run covers what lies between two channels, so that neighbours are the cheapest.
            before = np.concatenate([[0.0], np.cumsum(size)])
            for count in counts:
                first = int(np.argmax(before[count:] - before[:-count]))
                chosen = range(first, first + count)
                yield LayerPart(tensor.name, chosen, _mask_bytes(found, chosen, channels))

    def measure(self, lock: Lock, draw: int, inputs: int) -> list[Agreement]:
        """The agreement of every output on each kind of inputs."""
        return list(self._examined.compare_each(self._state(lock, b"draw/%d" % draw), inputs))

    @property
    def large(self) -> float:
        """Bytes of a key above which it is large."""
        return LARGE * self._artifact.lockable_bytes

    @property
    def enough(self) -> float:
        """Bytes of a key that nobody needs smaller."""
        return ENOUGH * self._artifact.lockable_bytes

    def holds(self, lock: Lock) -> bool:
        """Whether the lock silences the output in DRAWS draws, and in as many others: of many locks one may hold by luck."""
        return all(self._silent_in(draws, lock) for draws in self._draws)

    def _silent_in(self, draws: list[int], lock: Lock) -> bool:
        """Whether nothing is left in these draws. The one that decided against a lock comes first for the next, which is alike."""
        measured: list[int] = []

        def agreements() -> Iterator[Sequence[Agreement]]:
            for draw in tuple(draws):
                measured.append(draw)
                yield self.measure(lock, draw, VERIFY)

        silent = silenced(agreements(), len(draws))
        if not silent:
            draws.remove(measured[-1])
            draws.insert(0, measured[-1])
        return silent

    def always_holds(self, lock: Lock) -> bool:
        """Whether the lock silences the output in each of twice DRAWS draws."""
        return all(silenced([self.measure(lock, draw, VERIFY)], 1) for draw in range(2 * DRAWS))

    def confirmed(self, lock: Lock, *, always: bool) -> bool:
        """Whether the lock silences the output in DRAWS draws by which no lock was chosen: in their mean, or in each of them."""
        draws = (self.measure(lock, draw, VERIFY) for draw in range(2 * DRAWS, 3 * DRAWS))
        return all(silenced([each], 1) for each in draws) if always else silenced(draws, DRAWS)

    def alone(self, part: LayerPart) -> LayerPart:
        """The part with what is left of the outputs when nothing else is locked, in the mean of LOOKS draws."""
        left = aligned = 0.0
        for draw in range(LOOKS):
            each = self.measure((part,), draw, LOOK)
            left += max(max(a.along, a.signal) - a.passed_on for a in each) / LOOKS
            aligned += max(max(a.along - a.passed_on, a.excess - a.spread) for a in each) / LOOKS
        return replace(part, left=_trusted(left), aligned=_trusted(aligned))

    def _state(self, lock: Lock, seed: bytes) -> State:
        plan = given_plan(
            [self._artifact], {(0, part.layer): part.channels for part in lock}, unit=self.unit, criterion="search",
            fill="decoy", seed=seed, signs=self._signs, groups=self._groups,
        )  # fmt: skip
        (locked,) = lock_artifacts([self._artifact], plan)
        state = {}
        for file in locked.files:
            state[file.file.name] = file.file.data.copy()
            file.overlay.apply(0, state[file.file.name], 0)
        return state


def _trusted(left: float) -> float:
    return min(1.0, max(LEAST_LEFT, left))


def _mask_bytes(signs: Signs, channels: range, count: int) -> int:
    groups = len(signs.units) // count
    units = np.arange(channels.start * groups, channels.stop * groups)
    total = 0
    for first, last in signs.units.stretches(units, signs.kinds[units]):
        mirror = signs.mirrors[signs.kinds[first]]
        total += len(mirror.table) + -(-signs.units.run(first, last).size // mirror.width)
    return total


def find_smallest(
    examined: Examined, units: Sequence[Unit], exclude: Sequence[str], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Locks that silence the output, the smallest first: {"unit", "channels": {layer: [channel, ...]}}.

    Each but the last stands there DRAWN times, for other draws. The larger ones are for the case that no draw of the finished
    lock, or another format of the model, holds.

    Where signs and values may be taken, no lock costs more than all signs do, which preset hardened takes.

    Raises CannotRunError when even all layers together do not, OutOfTimeError when nothing was found in the time of `examined`.
    """
    best: tuple[Trials, list[Lock]] | None = None
    most = math.inf
    for number, unit in enumerate(units):
        trials = Trials(examined, unit, exclude)
        limit = examined.limit.part(1 / (len(units) - number))
        try:
            found = _search(trials, cost(best[1][0]) if best else most, limit, _part(progress, number, len(units)))
        except OutOfTimeError:
            if best is None:
                raise
            break
        if unit == "sign":
            most = trials.everything
        if found and (best is None or cost(found[0]) < cost(best[1][0])):
            best = trials, found
    if best is None:
        smaller = "" if most == math.inf else " that costs less than the signs of all weights"
        raise CannotRunError(f"no lock{smaller} silences the output")
    trials, locks = best
    return [
        {"unit": trials.unit, "channels": {part.layer: list(part.channels) for part in lock}}
        for lock in (*(lock for lock in locks[:-1] or locks for _ in range(DRAWN)), locks[-1])
    ]


def _part(progress: Callable[[int, int], None], number: int, parts: int) -> Callable[[int, int], None]:
    return lambda done, total: progress(number * total + done, parts * total)


def _search(trials: Trials, most: float, time_limit: TimeLimit, progress: Callable[[int, int], None]) -> list[Lock]:
    """The cheapest lock that holds, and larger ones, all cheaper than `most`; none where no such lock holds.

    Half of the time is for looking at layers, half of what is left then for locks smaller than that of all.
    """
    stop, looking = time.process_time() + SECONDS, time_limit.part(0.5)
    looked: list[list[LayerPart]] = []
    for done, layer in enumerate(trials.layers):
        progress(done, len(trials.layers))
        limit = min(most, cost(dearest)) if (dearest := cheapest(looked, SMALL_ENOUGH)) else most
        if layer[-1].cost >= limit or time.process_time() > stop or looking.over:
            break
        looked.append([])
        for part in layer:
            if part.cost < limit:
                looked[-1].append(trials.alone(part))
                if looked[-1][-1].left > UNTOUCHED:
                    break
    wholes = sorted((layer[0] for layer in trials.layers), key=lambda part: part.cost)
    by_product = [lock for product in PRODUCTS if (lock := cheapest(looked, product))]
    careful = by_product + [tuple(wholes[:size]) for size in TOGETHER if size < len(wholes)]
    aligned = [[replace(part, left=part.aligned) for part in layer] for layer in looked]
    turning = {lock for product in PRODUCTS if (lock := cheapest(aligned, product)) and cost(lock) < trials.large}
    small = [lock for lock in careful if cost(lock) < trials.large]
    large = [lock for lock in careful if cost(lock) >= trials.large]
    ordered = dict.fromkeys((*small, *sorted(turning, key=cost), *large, tuple(wholes)))
    candidates = [lock for lock in ordered if lock and cost(lock) < most]
    trying = time_limit.part(0.5)
    for place, lock in enumerate(candidates):
        late = time.process_time() > stop + SECONDS or trying.over
        holds, layers = (trials.always_holds, aligned) if lock in turning else (trials.holds, looked)
        if (not late or place + 1 == len(candidates)) and holds(lock):
            affordable = [other for other in by_product if cost(other) < most]
            if lock not in turning and (stronger := _stronger(lock, affordable, holds, trials.enough)):
                held = [stronger]
            else:
                polished = _polished(lock, layers, holds, trying, trials.enough)
                held = _confirmed(trials, polished, always=lock in turning)
            return growing((*held, *candidates[place + 1 :], candidates[-1]))
    return []


def _stronger(lock: Lock, others: Sequence[Lock], holds: Callable[[Lock], bool], enough: float) -> Lock | None:
    """The last of the other locks that costs no more than `enough`, where it costs more than `lock` and holds."""
    small = [other for other in others if cost(lock) < cost(other) <= enough]
    try:
        return small[-1] if small and holds(small[-1]) else None
    except OutOfTimeError:
        return None


def growing(locks: Sequence[Lock]) -> list[Lock]:
    """Of the locks the first, at most LARGER others, each much larger than the one before, and the last."""
    found = [locks[0]]
    for lock in locks[1:]:
        if len(found) <= LARGER and cost(lock) >= GROWTH * cost(found[-1]):
            found.append(lock)
    return list(dict.fromkeys((*found, locks[-1])))


def _polished(
    lock: Lock,
    layers: Sequence[Sequence[LayerPart]],
    holds: Callable[[Lock], bool],
    limit: TimeLimit,
    enough: float,
) -> list[Lock]:
    """Ever cheaper locks that hold, each one change away from the one before, until one costs no more than `enough`; the cheapest
    first, `lock` itself last."""
    stop = time.process_time() + POLISHING
    held, tried = [lock], {frozenset(lock)}
    others = iter(cheaper(lock, layers)[:NEIGHBORS])
    while cost(held[0]) > enough and (other := next(others, None)) and not limit.over and time.process_time() < stop:
        if frozenset(other) in tried:
            continue
        tried.add(frozenset(other))
        try:
            found = holds(other)
        except OutOfTimeError:
            break
        if found:
            held.insert(0, other)
            others = iter(cheaper(other, layers)[:NEIGHBORS])
    return held


def _confirmed(trials: Trials, held: list[Lock], *, always: bool) -> list[Lock]:
    """Without those that only held because many were tried; the last, which was not polished, stays."""
    try:
        while len(held) > 1 and not trials.confirmed(held[0], always=always):
            held = held[1:]
    except OutOfTimeError:
        return held[-1:]
    return held


def cheaper(lock: Lock, layers: Sequence[Sequence[LayerPart]]) -> list[Lock]:
    """Locks that cost less and are one change away: a part is left out, or one of the same or of an open layer takes its place.

    First comes what promises most: the bytes that it saves, times how likely it holds, by the product of what its parts leave.
    """
    locked = {part.layer for part in lock}
    found: list[tuple[float, Lock]] = []
    spent, product = cost(lock), math.prod(part.left for part in lock)
    for place, part in enumerate(lock):
        rest = (*lock[:place], *lock[place + 1 :])
        others = [p for layer in layers for p in layer if p.layer == part.layer or p.layer not in locked]
        for other in (rest, *((*rest, p) for p in others)):
            saved = spent - cost(other)
            if other and saved >= SAVED * spent:
                found.append((saved * min(1.0, product / math.prod(p.left for p in other)), other))
    return [other for _, other in sorted(found, key=lambda entry: -entry[0])]


def cheapest(layers: Sequence[Sequence[LayerPart]], product: float) -> Lock | None:
    """The cheapest choice of at most one part a layer that leaves at most `product`; None where all together leave more."""
    need = math.ceil(-math.log(product) * FINENESS)
    best: dict[int, tuple[float, Lock]] = {0: (0.0, ())}
    for parts in layers:
        more = dict(best)
        for part in parts:
            gain = int(-math.log(part.left) * FINENESS)
            for reached, (spent, lock) in best.items():
                total, at = spent + part.cost, min(need, reached + gain)
                if at not in more or total < more[at][0]:
                    more[at] = total, (*lock, part)
        best = more
    return best[need][1] if need in best else None
