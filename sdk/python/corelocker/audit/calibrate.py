"""Finding the tiers' fractions for target utilities.

Utility falls with the share of channels that is removed, but not in every step: a lock of one channel more may happen to be worth
a little more. What is searched is therefore the largest fraction at which, and at all smaller fractions that were measured, the
utility still reaches the target; bisection finds it with few evaluations, and every evaluation narrows the search of all targets.
Tiers come out nested and in the order of their targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from corelocker.errors import ConfigError, TierError
from corelocker.locking.tiers import NAME


@dataclass(frozen=True)
class TierTarget:
    """A tier by what it should be worth: `utility` in the metric's unit."""

    name: str
    utility: float


@dataclass(frozen=True)
class Evaluation:
    """What one fraction of removed channels was worth."""

    removed: float
    utility: float


@dataclass(frozen=True)
class FoundFraction:
    """A calibrated tier: the fraction, what it was measured to be worth, and whether that reaches the target."""

    target: TierTarget
    removed: float
    utility: float
    reached: bool


def parse_targets(texts: Sequence[str], higher_is_better: bool = True) -> tuple[TierTarget, ...]:
    """`free=0.60` and its like, in the order of the tiers: the first ships and is worth least.

    Raises ConfigError when they are not NAME=NUMBER, or a later one is not worth more.
    """
    targets = []
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            utility = float(number)
        except ValueError:
            utility = float("nan")
        if not equals or not NAME.fullmatch(name) or utility != utility:
            raise ConfigError(f"target {text!r} is not TIER=UTILITY")
        targets.append(TierTarget(name, utility))
    sign = 1 if higher_is_better else -1
    if not targets:
        raise ConfigError("no target was given", hint="For example --target free=0.60")
    if any(sign * a.utility >= sign * b.utility for a, b in pairwise(targets)):
        raise ConfigError("each target must be worth more than the one before it")
    if len({t.name for t in targets}) != len(targets):
        raise TierError("two targets have the same name")
    return tuple(targets)


def calibrate(
    measure: Callable[[float], float],
    targets: Sequence[TierTarget],
    channels: int,
    *,
    higher_is_better: bool = True,
    tolerance: float = 0.01,
    most: float = 0.5,
    evaluations: int = 40,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[FoundFraction], list[Evaluation]]:
    """The largest fraction for each target.

    Args:
        measure: utility when that fraction of the channels is removed; called once for each fraction.
        targets: from `parse_targets`, the least utility first.
        channels: how many there are; two fractions that remove the same number are one.
        tolerance: a utility this much above the target is close enough.
        most: the largest fraction to try.
        evaluations: stop the search, with what is known, after so many.
        progress: called with (evaluations, their greatest number).

    Returns the tiers, their fractions strictly falling, and all evaluations in order. A target that even one removed channel
    misses gets that one channel, `reached` false. Raises TierError when two targets need the same fraction.
    """
    search = _Bisection(measure, channels, 1.0 if higher_is_better else -1.0, tolerance, evaluations, progress)
    top = max(1, int(most * channels))
    counts = _strictly_falling([search.largest(target, top) for target in targets], targets)
    found = [FoundFraction(t, c / channels, *search.reached(t, c)) for t, c in zip(targets, counts, strict=True)]
    progress(len(search.known), len(search.known))
    return found, search.course


class _Bisection:
    """Bisection for each target over numbers of removed channels; what was measured for one target serves the others.

    Worth is utility, negative where lower is better, so that more is always better.
    """

    def __init__(
        self,
        measure: Callable[[float], float],
        channels: int,
        sign: float,
        tolerance: float,
        evaluations: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._measure, self._channels, self._sign = measure, channels, sign
        self._tolerance, self._evaluations, self._progress = tolerance, evaluations, progress
        self.known: dict[int, float] = {}  # number of removed channels -> worth
        self.course: list[Evaluation] = []

    def largest(self, target: TierTarget, top: int) -> int:
        """The largest number of channels up to `top` at which the target holds; 1 where none does."""
        self._worth(top)
        if self._holds(target, top):
            return top
        # The measured neighbors that hold the answer between them; 0 removes nothing and always reaches it.
        low, high = self._neighbors(target)
        while high - low > 1 and len(self.known) < self._evaluations:
            if low and self._worth(low) - self._sign * target.utility <= self._tolerance:
                break
            # Far apart, the answer's order of magnitude comes first.
            middle = max(low + 1, int((max(low, 1) * high) ** 0.5)) if high > 4 * max(low, 1) else (low + high) // 2
            self._worth(middle)
            if self._holds(target, middle):
                low = middle
            else:
                low, high = self._neighbors(target)
        return max(low, 1)

    def reached(self, target: TierTarget, count: int) -> tuple[float, bool]:
        """(utility at `count`, whether it reaches the target)."""
        worth = self._worth(count)
        return self._sign * worth, worth >= self._sign * target.utility

    def _worth(self, count: int) -> float:
        if count not in self.known:
            self._progress(len(self.known), self._evaluations)
            self.known[count] = self._sign * self._measure(count / self._channels)
            self.course.append(Evaluation(count / self._channels, self._sign * self.known[count]))
        return self.known[count]

    def _holds(self, target: TierTarget, count: int) -> bool:
        """Whether the target holds at `count` and at every smaller number that was measured."""
        return all(worth >= self._sign * target.utility for other, worth in self.known.items() if other <= count)

    def _neighbors(self, target: TierTarget) -> tuple[int, int]:
        high = min(count for count in self.known if not self._holds(target, count))
        return max((c for c in self.known if c < high and self._holds(target, c)), default=0), high


def _strictly_falling(counts: list[int], targets: Sequence[TierTarget]) -> list[int]:
    """Raises TierError when two targets need the same channels and there is no smaller number."""
    for index in range(1, len(counts)):
        if counts[index] >= counts[index - 1]:
            if counts[index - 1] == 1:
                raise TierError(
                    f"the targets {targets[index - 1].name} and {targets[index].name} need the same channels",
                    hint="Choose targets further apart, or a criterion with finer steps (l1, or scope layer)",
                )
            counts[index] = counts[index - 1] - 1
    return counts
