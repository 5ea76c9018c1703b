"""The search for the fewest bytes that silence a file."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from corelocker.artifacts.detect import open_artifact
from corelocker.audit.agreement import smallest
from corelocker.audit.agreement.examined import Examined
from corelocker.audit.agreement.runners import CannotRunError
from corelocker.audit.agreement.score import Agreement, Reference
from corelocker.audit.agreement.smallest import LayerPart, Trials, cheaper, cheapest, cost, find_smallest, silenced
from corelocker.audit.agreement.time_limit import OutOfTimeError, TimeLimit
from corelocker.locking.choose import choose_channels
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.options import LockOptions
from corelocker.locking.planning import given_plan
from corelocker.locking.tiers import Unit
from support.models import exports


def parts(generator: np.random.Generator) -> list[list[LayerPart]]:
    return [
        [
            LayerPart(f"{layer}", range(size), float(generator.integers(1, 100)), generator.uniform(0.2, 1))
            for size in (3, 2)
        ]
        for layer in range(5)
    ]


def test_the_cheapest_parts_with_a_small_product_are_found() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        layers = parts(generator)
        found = cheapest(layers, 0.2)
        choices = itertools.product(*([None, *layer] for layer in layers))
        locks = [[part for part in choice if part] for choice in choices]
        fitting = [lock for lock in locks if math.prod(part.left for part in lock) <= 0.2]
        if not fitting:
            assert found is None
            continue
        if found is None:  # products are rounded up
            assert min(math.prod(p.left for p in lock) for lock in fitting) > 0.2 * 0.75
            continue
        assert math.prod(p.left for p in found) <= 0.2
        assert len({p.layer for p in found}) == len(found)
        strict = [lock for lock in fitting if math.prod(p.left for p in lock) <= 0.2 * 0.75]
        assert cost(found) <= min((sum(p.cost for p in lock) for lock in strict), default=math.inf)


def test_cheaper_locks_are_one_change_away_and_the_most_promising_comes_first() -> None:
    small, large = LayerPart("a", range(2), 20.0, 0.8), LayerPart("a", range(4), 40.0, 0.4)
    kept, open_layer = LayerPart("b", range(4), 60.0, 0.4), LayerPart("c", range(4), 10.0, 0.5)
    found = cheaper((large, kept), [[large, small], [kept], [open_layer]])
    assert found[0] == (large, open_layer)  # 50 bytes for little more
    assert {frozenset(part.layer for part in lock) for lock in found} == {*map(frozenset, ("a", "b", "ab", "ac", "bc"))}
    assert len(found) == 5
    assert all(cost(lock) <= 0.95 * 100 for lock in found)
    assert cheaper((kept,), [[kept]]) == []  # nothing is no lock


class Together(Trials):
    """Six layers that each leave half; only the fifth and the first half of the second leave nothing together."""

    def __init__(self, until: float = math.inf) -> None:
        self.unit: Unit = "sign"
        self.layers = [
            [LayerPart(f"{layer}", range(size), size * 10.0 + layer) for size in (8, 4)] for layer in range(6)
        ]
        self.tried: list[tuple[LayerPart, ...]] = []
        self.until = until
        self.lucky_below = 0.0
        self.small = 0.0

    @property
    def large(self) -> float:
        return math.inf

    @property
    def enough(self) -> float:
        return self.small

    def alone(self, part: LayerPart) -> LayerPart:
        left = 0.5 if len(part.channels) == 8 else 0.8
        return replace(part, left=left, aligned=1.0)

    def holds(self, lock: tuple[LayerPart, ...]) -> bool:
        if len(self.tried) >= self.until:
            raise OutOfTimeError
        self.tried.append(lock)
        found = {part.layer: len(part.channels) for part in lock}
        return found.get("4") == 8 and "1" in found

    def always_holds(self, lock: tuple[LayerPart, ...]) -> bool:
        return False

    def confirmed(self, lock: tuple[LayerPart, ...], *, always: bool) -> bool:
        return cost(lock) >= self.lucky_below


def test_a_lock_that_holds_is_made_smaller_part_by_part() -> None:
    trials = Together()
    locks = smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)
    assert [{part.layer: len(part.channels) for part in lock} for lock in locks[:1]] == [{"1": 4, "4": 8}]
    first = next(lock for lock in trials.tried if trials.holds(lock))
    assert cost(locks[0]) < 0.5 * cost(first)
    assert cost(locks[1]) >= smallest.GROWTH * cost(locks[0])
    assert len(locks[-1]) == 6


def test_a_smaller_lock_that_held_by_luck_is_not_taken() -> None:
    smallest_found = smallest._search(Together(), math.inf, TimeLimit(), lambda done, total: None)[0]
    trials = Together()
    trials.lucky_below = cost(smallest_found) + 1
    locks = smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)
    assert trials.lucky_below <= cost(locks[0]) < 2 * trials.lucky_below
    trials = Together()
    trials.lucky_below = math.inf
    locks = smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)
    first = next(lock for lock in trials.tried if Together().holds(lock))
    assert locks[0] == first  # it was not chosen for its size


def found_at_once() -> tuple[LayerPart, ...]:
    """The first lock that holds, before it is polished."""
    trials = Together()
    smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)
    return next(lock for lock in trials.tried if Together().holds(lock))


def test_of_small_locks_the_strongest_is_taken() -> None:
    first, trials = found_at_once(), Together()
    trials.small = cost(tuple(layer[0] for layer in trials.layers))
    locks = smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)
    assert [(part.layer, len(part.channels)) for part in locks[0]] == [(layer[0].layer, 8) for layer in trials.layers]
    assert trials.tried[-1] == locks[0]
    assert trials.tried[-2] == first

    trials = Together(until=trials.tried.index(first) + 1)  # no time for the stronger one
    trials.small = math.inf
    assert smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)[0] == first

    trials = Together()
    trials.small = cost(first)  # the stronger ones cost more
    assert smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)[0] == first
    assert trials.tried[-1] == first, "and what is small is not polished"

    trials = Together()
    trials.small = math.inf
    most = cost(first) + 1  # no more may be spent
    assert smallest._search(trials, most, TimeLimit(), lambda done, total: None)[0] == first


def test_polishing_ends_where_a_lock_is_small() -> None:
    first, trials = found_at_once(), Together()
    trials.small = 0.9 * cost(first)
    locks = smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)
    held = [lock for lock in trials.tried if Together().holds(lock)]
    assert [cost(lock) <= trials.small for lock in held] == [False] * (len(held) - 1) + [True]
    assert locks[0] == held[-1]


@pytest.mark.parametrize("always", [False, True])
def test_draws_that_confirm_a_lock_chose_none(always: bool) -> None:
    trials = Drawn([0.7] * 10 + [0.1] * 4 + [0.1])
    assert trials.confirmed((), always=always)
    assert [draw for draw, _ in trials.asked] == list(range(10, 15))
    assert Drawn([0.0] * 10 + [0.0] * 4 + [0.5]).confirmed((), always=always) != always
    assert not Drawn([0.0] * 10 + [0.13] * 5).confirmed((), always=always)


def test_larger_locks_are_much_larger() -> None:
    locks = [(LayerPart("a", range(8), size),) for size in (100.0, 110.0, 160.0, 200.0, 250.0, 400.0, 700.0, 900.0)]
    assert [cost(lock) for lock in smallest.growing(locks)] == [100, 160, 250, 400, 900]
    assert smallest.growing(locks[:1]) == locks[:1]


def test_no_lock_costs_more_than_may_be_spent() -> None:
    """The lock of everything was the last resort, at any price: 97 % of the bytes by value."""
    most = cost(tuple(layer[0] for layer in Together().layers)) - 1
    locks = smallest._search(Together(), most, TimeLimit(), lambda done, total: None)
    assert len(locks) > 1
    assert max(map(cost, locks)) < most


def test_what_was_found_counts_when_the_time_ends() -> None:
    trials = Together()
    smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)
    first = next(place for place, lock in enumerate(trials.tried) if Together().holds(lock))
    short = Together(until=first + 1)
    locks = smallest._search(short, math.inf, TimeLimit(), lambda done, total: None)
    assert locks[0] == short.tried[-1] == trials.tried[first]


class Drawn(Trials):
    """What is left depends on the draw."""

    def __init__(self, left: list[float]) -> None:
        self.left, self._draws = left, (list(range(5)), list(range(5, 10)))
        self.asked: list[tuple[int, int]] = []

    def measure(self, lock: object, draw: int, inputs: int) -> list[Agreement]:
        self.asked.append((draw, inputs))
        return [agreement(0.0, self.left[draw])]


@pytest.mark.parametrize(
    ("left", "holds", "always"),
    [
        ([0.1] * 10, True, True),
        ([0.1] * 9 + [0.13], True, False),
        ([0.1] * 5 + [0.13] * 5, False, False),  # it held by luck
        ([0.13] * 5 + [0.0] * 5, False, False),
    ],
)
def test_a_lock_holds_in_other_draws_too(left: list[float], holds: bool, always: bool) -> None:
    assert Drawn(left).holds(()) == holds
    assert Drawn(left).always_holds(()) == always


def test_the_draw_that_decided_against_a_lock_comes_first_for_the_next() -> None:
    trials = Drawn([0.0] * 3 + [0.7] + [0.0] * 6)
    assert not trials.holds(())
    assert not trials.holds(())
    assert [draw for draw, _ in trials.asked] == [0, 1, 2, 3, 3]
    trials.left = [0.0] * 10
    trials.asked.clear()
    assert trials.holds(())
    assert sorted(draw for draw, _ in trials.asked) == list(range(10))


def test_a_part_is_looked_at_in_several_draws() -> None:
    part = Drawn([0.9, 0.3]).alone(LayerPart("a", range(4), 10.0))
    assert part.left == pytest.approx(0.6)
    assert part.aligned == pytest.approx(0.6)


def agreement(equal: float, along: float) -> Agreement:
    return Agreement("classes", 0.1 + equal, 0.1, 0.02, along, 192, abs(along))


@pytest.mark.parametrize(
    ("draws", "holds"),
    [
        ([[(0.0, 0.05)], [(0.0, 0.05)]], True),
        ([[(0.03, 0.05)], [(-0.03, 0.05)]], True),  # noise
        ([[(0.03, 0.0)], [(0.0, 0.0)]], False),
        ([[(0.0, 0.2), (0.0, 0.0)], [(0.0, 0.1), (0.0, 0.0)]], False),  # on one kind of inputs
        ([[(-0.1, 0.3)], [(-0.1, 0.3)]], False),
    ],
)
def test_a_lock_is_silent_in_the_mean_of_its_draws(draws: list[list[tuple[float, float]]], holds: bool) -> None:
    assert silenced([[agreement(*a) for a in each] for each in draws], 2) == holds


def test_signal_sees_classes_that_were_turned_around() -> None:
    values = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    reference = Reference(values)
    signs = torch.tensor([1.0, -1.0] * 4)
    turned = reference.compare(values * signs)
    assert abs(turned.along) < 0.01
    assert turned.signal == pytest.approx(1, abs=0.01)
    noise = reference.compare(torch.randn(200, 8, generator=torch.Generator().manual_seed(1)))
    assert noise.signal < 0.1


@pytest.mark.parametrize(
    ("name", "form", "unit"),
    [("transformer", "portable", "sign"), ("vgg", "xnnpack", "sign"), ("vgg", "int8", "sign"), ("vgg", "xnnpack", "value")],
)  # fmt: skip
def test_a_part_costs_what_the_access_key_holds_of_it(name: str, form: str, unit: Unit) -> None:
    artifact = open_artifact(exports.exported(name, form))
    trials = Trials(Examined(artifact, seconds=0.1), unit, ())
    assert len(trials.layers) > 2
    for layer in trials.layers:
        for part in layer:
            plan = given_plan(
                [artifact], {(0, part.layer): part.channels}, unit=unit, criterion="search", fill="decoy", seed=b"s"
            )
            (locked,) = lock_artifacts([artifact], plan)
            assert locked.locked_bytes == part.cost, part


class Turning(Trials):
    """Ten layers of which each leaves 0.7; the last one leaves as much, but nothing where the original has it."""

    def __init__(self, large: float, always: bool) -> None:
        self.unit: Unit = "sign"
        self.layers = [[LayerPart(f"{layer}", range(8), 100.0 + layer)] for layer in range(10)]
        self.most, self.always = large, always

    @property
    def large(self) -> float:
        return self.most

    @property
    def enough(self) -> float:
        return 0.0

    def alone(self, part: LayerPart) -> LayerPart:
        return replace(part, left=0.7, aligned=0.05 if part.layer == "9" else 0.7)

    def holds(self, lock: tuple[LayerPart, ...]) -> bool:
        return math.prod(part.left for part in lock) <= 0.06

    def always_holds(self, lock: tuple[LayerPart, ...]) -> bool:
        return self.always and lock[-1].layer == "9"


@pytest.mark.parametrize(
    ("large", "always", "taken"),
    [
        (500.0, True, ["9"]),
        (500.0, False, [str(layer) for layer in range(8)]),  # not in every draw
        (10_000.0, True, [str(layer) for layer in range(8)]),  # what the others cost is little
    ],
)
def test_classes_are_turned_around_where_other_locks_are_large(large: float, always: bool, taken: list[str]) -> None:
    trials = Turning(large, always)
    first = smallest._search(trials, math.inf, TimeLimit(), lambda done, total: None)[0]
    assert [part.layer for part in first] == taken


def test_excluded_layers_stay_and_larger_locks_follow() -> None:
    artifact = open_artifact(exports.exported("transformer", "portable"))
    examined = Examined(artifact, seconds=0.2)
    first = Trials(examined, "sign", ()).layers[0][0].layer
    locks = find_smallest(examined, ["sign"], (first,), lambda done, total: None)
    assert [locks.count(lock) for lock in locks] == [smallest.DRAWN] * (len(locks) - 1) + [1]
    assert all(first not in lock["channels"] for lock in locks)
    whole = {layer[0].layer: list(layer[0].channels) for layer in Trials(examined, "sign", (first,)).layers}
    assert locks[-1]["channels"] == whole


def test_values_never_cost_more_than_the_signs_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small network for regression, 94 % of all bytes by value were the smallest lock that was found."""
    asked: list[tuple[str, float]] = []

    def search(trials: Trials, most: float, limit: object, progress: object) -> list[object]:
        asked.append((trials.unit, most))
        return []

    monkeypatch.setattr(smallest, "_search", search)
    artifact = open_artifact(exports.exported("vgg", "xnnpack"))
    examined = Examined(artifact, seconds=0.1)
    with pytest.raises(CannotRunError, match="costs less than the signs of all weights silences"):
        find_smallest(examined, ["sign", "value"], (), lambda done, total: None)
    (signs,) = lock_artifacts([artifact], choose_channels([artifact], LockOptions(), b"s"))
    assert asked == [("sign", math.inf), ("value", pytest.approx(signs.locked_bytes))]
    with pytest.raises(CannotRunError, match="no lock silences the output"):
        find_smallest(examined, ["value"], (), lambda done, total: None)
    assert asked[-1] == ("value", math.inf)
