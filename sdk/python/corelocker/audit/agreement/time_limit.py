"""When running a file has to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class OutOfTimeError(Exception):
    """The time is used up before enough inputs were run to say something."""


class TimeLimit:
    """Time by the clock, from now on: what a pipeline waits for, however busy its machine is.

    Args:
        seconds: how many; without end by default.
        clock: seconds from any beginning on.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._stop = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds, 0 where it is used up."""
        return max(0.0, self._stop - self.clock())

    @property
    def over(self) -> bool:
        """Whether it is used up."""
        return self.left <= 0

    def check(self) -> None:
        """Raises OutOfTimeError when it is used up."""
        if self.over:
            raise OutOfTimeError

    def part(self, share: float) -> TimeLimit:
        """A share of what is left, which begins now."""
        return TimeLimit(share * self.left, self.clock)
