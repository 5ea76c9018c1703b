"""Threads for the blocking part of a request, with a bound on how many requests wait for one."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from corelocker.service.problems import ProblemError, of_code

_T = TypeVar("_T")


class WorkerThreads:
    """Runs calls in threads; `waiting` of them may wait for a thread, a further one is refused at once.

    Args:
        threads: how many calls run at the same time.
        waiting: how many more may wait.
        seconds: how long the caller waits for the outcome of a call, its wait for a thread included.
    """

    def __init__(self, threads: int, waiting: int, seconds: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="unlock")
        self._places = threading.BoundedSemaphore(threads + waiting)
        self._seconds = seconds

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns or raises; ProblemError with `overloaded` or `timeout`.

        A place is given back when the work ends, not when nobody waits any more.
        """
        if not self._places.acquire(blocking=False):
            raise ProblemError(of_code("overloaded"))
        late_at = time.monotonic() + self._seconds

        def call() -> _T:
            try:
                if time.monotonic() > late_at:
                    raise ProblemError(of_code("timeout"))
                return work()
            finally:
                self._places.release()

        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, contextvars.copy_context().run, call)
        except BaseException:
            self._places.release()
            raise
        done, _ = await asyncio.wait((future,), timeout=self._seconds)
        if not done:
            # The work goes on and its outcome counts: the device asks again and gets the place that it holds.
            future.add_done_callback(_forget)
            raise ProblemError(of_code("timeout"))
        return future.result()

    def close(self) -> None:
        """Begin nothing more. What runs goes on."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _forget(future: asyncio.Future[Any]) -> None:
    """Take the exception that nobody waits for."""
    if not future.cancelled():
        future.exception()
