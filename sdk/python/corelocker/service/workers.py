"""Threads for the blocking part of a request, with a bound on how many requests wait for one."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from corelocker.service.problems import ProblemError, of_code

_T = TypeVar("_T")


class WorkerThreads:
    """Runs calls in threads; `waiting` of them may wait for a thread, a further one is refused at once.

    The standard library's executor makes a second future for each call and waits for it in three steps, which takes
    twice as long (tools/bench/unlock).

    Args:
        threads: how many calls run at the same time.
        waiting: how many more may wait.
        seconds: how long the caller waits for the outcome of a call, its wait for a thread included.
    """

    def __init__(self, threads: int, waiting: int, seconds: float) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._places = threading.BoundedSemaphore(threads + waiting)
        self._seconds = seconds
        self._threads = threads
        self._closed = False
        for number in range(threads):
            threading.Thread(target=self._work, name=f"unlock-{number}", daemon=True).start()

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns or raises; ProblemError with `overloaded` or `timeout`.

        A place is given back when the work ends, not when nobody waits any more.
        """
        if not self._places.acquire(blocking=False):
            raise ProblemError(of_code("overloaded"))
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        outcome: asyncio.Future[_T] = loop.create_future()
        late_at = time.monotonic() + self._seconds

        def call() -> None:
            settled: tuple[Any, BaseException | None]
            try:
                if self._closed or time.monotonic() > late_at:
                    raise ProblemError(of_code("timeout"))
                settled = context.run(work), None
            except BaseException as error:
                settled = None, error
            finally:
                self._places.release()
            # The loop may have ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, outcome, *settled)

        # The work goes on and its outcome counts: the device asks again and gets the place that it holds.
        timer = loop.call_later(self._seconds, _settle, outcome, None, ProblemError(of_code("timeout")))
        self._calls.put(call)
        try:
            return await outcome
        finally:
            timer.cancel()

    def close(self) -> None:
        """Begin nothing more. What runs goes on."""
        self._closed = True
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _settle(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)
