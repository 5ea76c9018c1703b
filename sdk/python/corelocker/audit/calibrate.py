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
class Target:
    """A tier by what it should be worth: `utility` in the metric's unit."""

    name: str
    utility: float


@dataclass(frozen=True)
class Evaluation:
    """What one fraction of removed channels was worth."""

    removed: float
    utility: float


@dataclass(frozen=True)
class Found:
    """A calibrated tier: the fraction, what it was measured to be worth, and whether that reaches the target."""

    target: Target
    removed: float
    utility: float
    reached: bool


def parse_targets(texts: Sequence[str], higher_is_better: bool = True) -> tuple[Target, ...]:
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
        targets.append(Target(name, utility))
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
    targets: Sequence[Target],
    channels: int,
    *,
    higher_is_better: bool = True,
    tolerance: float = 0.01,
    most: float = 0.5,
    evaluations: int = 40,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Found], list[Evaluation]]:
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
    sign = 1.0 if higher_is_better else -1.0
    known: dict[int, float] = {}
    course: list[Evaluation] = []

    def worth(count: int) -> float:
        if count not in known:
            progress(len(known), evaluations)
            known[count] = sign * measure(count / channels)
            course.append(Evaluation(count / channels, sign * known[count]))
        return known[count]

    def enough(target: Target, count: int) -> bool:
        """Whether the target holds at `count` and at every smaller number that was measured."""
        return all(value >= sign * target.utility for other, value in known.items() if other <= count)

    top = max(1, int(most * channels))
    counts: list[int] = []
    for target in targets:
        worth(top)
        if enough(target, top):
            counts.append(top)
            continue
        # The measured neighbors that hold the answer between them; 0 removes nothing and always reaches it.
        low, high = 0, min(count for count in known if not enough(target, count))
        low = max((c for c in known if c < high and enough(target, c)), default=0)
        while high - low > 1 and len(known) < evaluations:
            if low and worth(low) - sign * target.utility <= tolerance:
                break
            # Far apart, the answer's order of magnitude comes first.
            middle = max(low + 1, int((max(low, 1) * high) ** 0.5)) if high > 4 * max(low, 1) else (low + high) // 2
            worth(middle)
            if enough(target, middle):
                low = middle
            else:
                high = min(count for count in known if not enough(target, count))
                low = max((c for c in known if c < high and enough(target, c)), default=0)
        counts.append(max(low, 1))
    for index in range(1, len(counts)):
        if counts[index] >= counts[index - 1]:
            if counts[index - 1] == 1:
                raise TierError(
                    f"the targets {targets[index - 1].name} and {targets[index].name} need the same channels",
                    hint="Choose targets further apart, or a criterion with finer steps (l1, or scope layer)",
                )
            counts[index] = counts[index - 1] - 1
    found = []
    for target, count in zip(targets, counts, strict=True):
        value = worth(count)
        found.append(Found(target, count / channels, sign * value, value >= sign * target.utility))
    progress(len(known), len(known))
    return found, course
