"""A measurement ends in time, and too few inputs say nothing. Clocks here are made up: they move when something is run."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from corelocker.audit.agreement import examined, smallest, tasks
from corelocker.audit.agreement.examined import FEWEST, MOST, TRIED, Examined
from corelocker.audit.agreement.runners import Call, Input, Method
from corelocker.audit.agreement.score import Agreement
from corelocker.audit.agreement.smallest import LayerPart, find_smallest
from corelocker.audit.agreement.time_limit import OutOfTimeError, TimeLimit

LOCKED, ORIGINAL = np.zeros(1, np.uint8), np.ones(1, np.uint8)
ARTIFACT: Any = SimpleNamespace(tensors=(), files=[SimpleNamespace(name="a", data=ORIGINAL)])


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowRunner:
    """A classifier that takes `seconds` for an input, and `locked` seconds in its locked state, where it says something else."""

    methods = (Method("forward", (Input("x", (1, 64), torch.float32),)),)

    def __init__(self, clock: Clock, seconds: float, locked: float) -> None:
        self._clock, self._seconds, self._locked = clock, seconds, locked

    def load(self, state: Any) -> Call:
        original = bool(state["a"][0])

        def one(method: str, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            self._clock.now += self._seconds if original else self._locked
            values = inputs[0].reshape(1, 8, 8).sum(1)
            return [values if original else (values * 1e4).sin()]

        return Call(one)


def examine(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, limit: float, seconds: float, locked: float = 0.0
) -> Examined:
    monkeypatch.setattr(examined, "runner_of", lambda artifact, factory: SlowRunner(clock, seconds, locked or seconds))
    monkeypatch.setattr(Examined, "_hardened", lambda self: {"a": LOCKED})
    return Examined(ARTIFACT, limit=TimeLimit(limit, clock), states=2)


def test_parts_of_a_limit() -> None:
    clock = Clock()
    limit = TimeLimit(10, clock)
    half = limit.part(0.5)
    clock.now += 6
    assert (limit.left, half.left) == (4, 0)
    assert half.over
    assert limit.part(0.5).left == 2
    limit.check()
    with pytest.raises(OutOfTimeError):
        half.check()
    assert TimeLimit().part(0.1).left == float("inf")


def test_without_a_limit_as_many_inputs_are_run_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine(Clock(), monkeypatch, float("inf"), 1.0)
    assert found.count > FEWEST


def test_a_slow_model_is_run_on_fewer_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    found = examine(clock, monkeypatch, 400, 1.0)
    assert FEWEST <= found.count < MOST / 2
    assert not found.compare({"a": ORIGINAL}).silent
    assert found.compare({"a": LOCKED}).silent
    assert clock.now <= 100 + 400


@pytest.mark.parametrize("limit", [0.0, TRIED / 2, 2 * TRIED + FEWEST, 2 * TRIED + 3 * FEWEST - 1])
def test_too_few_inputs_say_nothing(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    clock = Clock()
    with pytest.raises(OutOfTimeError):
        examine(clock, monkeypatch, limit, 1.0)
    assert clock.now <= 100 + max(1, limit)


def test_it_is_told_before_the_time_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with pytest.raises(OutOfTimeError):
        examine(clock, monkeypatch, 100, 1.0)
    assert clock.now < 180


def test_a_state_that_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input that is being run when the time ends is the last one."""
    clock = Clock()
    found = examine(clock, monkeypatch, 200, 1.0, locked=50.0)
    with pytest.raises(OutOfTimeError):
        found.compare({"a": LOCKED})
    assert clock.now <= 300 + 50


class Compared:
    """An examination whose comparisons end after some of them."""

    artifact, inputs, count = ARTIFACT, "noise", 30

    def __init__(self, compared: int) -> None:
        self._left = compared

    def compare(self, state: Any) -> Agreement:
        if not self._left:
            raise OutOfTimeError
        self._left -= 1
        return Agreement("classes", 0.1, 0.1, 0.01, 0.0, 30)


@pytest.mark.parametrize("compared", [0, 1, 2])
def test_tiers_that_were_compared_in_time_are_told(monkeypatch: pytest.MonkeyPatch, compared: int) -> None:
    states = [{"a": LOCKED}, {"a": LOCKED}, {"a": ORIGINAL}]
    monkeypatch.setattr(tasks, "_states", lambda entry, rest: (states, rest))
    given = []

    def made(request: Any, entry: Any, kinds: int, limit: TimeLimit, states: int) -> Compared:
        given.append(limit.left)
        return Compared(compared)

    monkeypatch.setattr(tasks, "_examined", made)
    request = {"artifacts": [{"patches": [[], []]}] * 2, "broad": False}
    seen: list[tuple[int, int]] = []
    answer = tasks.measure(request, b"", TimeLimit(10, Clock()), lambda done, total: seen.append((done, total)))
    for found in answer:
        assert len(found["tiers"]) == compared
        assert found.get("out_of_time", False) == (compared < 2)
    assert given == [5, 10]  # what the first one did not need is for the second
    assert seen[-1] == (2 + 2 * compared, 6)


class FakeTrials:
    """Five layers that take 10 s each to look at, and a lock that takes 1 s to try."""

    def __init__(self, found: Any, unit: str, exclude: Any) -> None:
        self._clock, self.unit, self.tried = found.limit.clock, unit, 0
        self.layers = [[LayerPart(f"{i}", (0,), float(i + 1))] for i in range(5)]
        self.large, self.enough, self.everything = 0.0, 0.0, 100.0  # nothing is tried because it turns classes around
        self.looked: list[str] = found.looked

    def alone(self, part: LayerPart) -> LayerPart:
        self._clock.now += 10
        self.looked.append(self.unit + part.layer)
        return part

    def holds(self, lock: Any) -> bool:
        self._clock.now += 1
        if self._clock.now > 1000:
            raise OutOfTimeError
        return len(lock) == 5


@pytest.mark.parametrize(("seconds", "looked"), [(float("inf"), 5), (80, 4), (60, 3)])
def test_a_search_looks_at_layers_for_half_of_its_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, looked: int
) -> None:
    clock = Clock()
    monkeypatch.setattr(smallest, "Trials", FakeTrials)
    found: Any = SimpleNamespace(limit=TimeLimit(seconds, clock), looked=[])
    locks = find_smallest(found, ["sign"], (), lambda done, total: None)
    assert len(found.looked) == looked
    assert len(locks[0]["channels"]) == 5  # the last candidate is tried in any case
    assert clock.now <= 100 + seconds


@pytest.mark.parametrize("units", [["sign"], ["sign", "value"]])
def test_a_search_that_finds_nothing_in_time(monkeypatch: pytest.MonkeyPatch, units: Any) -> None:
    """What was found of the first unit counts although the time ends in the second."""
    clock = Clock()
    clock.now = 990.0 if len(units) == 1 else 940.0
    monkeypatch.setattr(smallest, "Trials", FakeTrials)
    found: Any = SimpleNamespace(limit=TimeLimit(60, clock), looked=[])
    if len(units) == 1:
        with pytest.raises(OutOfTimeError):
            find_smallest(found, units, (), lambda done, total: None)
    else:
        assert find_smallest(found, units, (), lambda done, total: None)[0]["unit"] == "sign"
