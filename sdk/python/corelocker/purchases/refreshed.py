"""Values that somebody else publishes (keys, lists, tokens): read without waiting, fetched anew in the background."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from corelocker.errors import CoreLockerError

_T = TypeVar("_T")
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 300.0


@dataclass(frozen=True)
class Fetched(Generic[_T]):
    """A value, when it was fetched, from when another is wanted, and until when it counts (Unix seconds)."""

    value: _T
    at: float
    fresh_until: float
    good_until: float


class Refreshed(Generic[_T]):
    """The newest value that could be fetched; used by several threads.

    One thread at a time fetches, in the background, and no reader holds a lock meanwhile. A reader gets the last value
    for as long as it counts. Only where there is none, it waits for a fetch, for `wait` seconds at most. After a failure
    the next attempt comes after a pause: 1 second at first, twice as long each time, at most 5 minutes, and a random
    half of it less, so that many processes do not ask at the same moment.

    Args:
        fetch: gets the value at a time; raises a CoreLockerError. It has to end by itself.
        wait: seconds.
        otherwise: makes the error for a reader that has waited in vain.
        first: a value that is there already.
    """

    def __init__(
        self,
        fetch: Callable[[float], Fetched[_T]],
        *,
        wait: float,
        otherwise: Callable[[], CoreLockerError],
        first: Fetched[_T] | None = None,
    ) -> None:
        self._fetch = fetch
        self._wait = wait
        self._otherwise = otherwise
        # Held for a moment, to start a fetch or to keep its outcome; never while something is fetched.
        self._lock = threading.Lock()
        self._last = first
        self._error: CoreLockerError | None = None
        self._fetching: threading.Event | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._pause = 0.0

    def get(self, now: float, *, refused: _T | None = None) -> _T:
        """The value at a time; not `refused`, which somebody else has refused. Raises what the last fetch raised."""
        last = self._last
        if last is not None and last.value != refused and last.at <= now < last.good_until:
            if now >= last.fresh_until:
                self._begin(now)
            return last.value
        fetching = self._begin(now)
        if fetching is not None and not fetching.wait(self._wait):
            raise self._otherwise()
        newest = self._last
        if newest is not None and newest is not last:
            return newest.value
        raise (self._error or self._otherwise()).with_traceback(None)

    def refresh(self, now: float) -> None:
        """Have it fetched when it is not fresh, and wait for the outcome: for a thread that no request waits for."""
        last = self._last
        if last is None or not last.at <= now < last.fresh_until:
            fetching = self._begin(now)
            if fetching is not None:
                fetching.wait()

    def _begin(self, now: float) -> threading.Event | None:
        """Have it fetched; what is set when that ends, None while the pause after a failure lasts."""
        with self._lock:
            if self._fetching is not None:
                return self._fetching
            if 0 <= now - self._failed_at < self._pause:
                return None
            self._fetching = ended = threading.Event()
        threading.Thread(target=self._run, args=(now, ended), name="refresh", daemon=True).start()
        return ended

    def _run(self, now: float, ended: threading.Event) -> None:
        fetched: Fetched[_T] | None = None
        error: CoreLockerError | None = None
        try:
            fetched = self._fetch(now)
        except CoreLockerError as raised:
            error = raised
        finally:
            with self._lock:
                self._fetching = None
                self._error = error
                if fetched is not None:
                    self._last, self._failures, self._pause = fetched, 0, 0.0
                else:
                    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
                    self._failures = min(self._failures + 1, 16)
                    self._failed_at = now
                    self._pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            ended.set()
