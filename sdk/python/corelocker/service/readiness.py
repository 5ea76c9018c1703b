"""`/readyz`: whether requests can be decided now, said within a second whatever the database does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from corelocker.licensing.errors import NotReadyError

# An outcome counts this long: probes of many load balancers must not become a load of their own.
_FRESH_SECONDS = 1.0
# A check that takes longer is answered for: what needs a second is not ready.
_WAIT_SECONDS = 0.8


class Readiness:
    """Runs one check at a time in a thread of its own; all who ask meanwhile wait for that one, at most 0.8 seconds.

    The thread is not one of those that decide requests: during an outage of the database these are all taken.

    Args:
        check: raises a CoreLockerError when requests cannot be decided.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._running: asyncio.Future[None] | None = None
        self._fresh_until = 0.0

    async def require(self) -> None:
        """Raise what the check raises, or NotReadyError when it takes too long."""
        if self._running is None or (self._running.done() and time.monotonic() >= self._fresh_until):
            self._running = self._begin()
        done, _ = await asyncio.wait((self._running,), timeout=_WAIT_SECONDS)
        if not done:
            raise NotReadyError("the check of the database and the keys takes too long")
        self._running.result()

    def _begin(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def end(error: Exception | None) -> None:
            self._fresh_until = time.monotonic() + _FRESH_SECONDS
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                # Whoever asked may have gone away.
                future.exception()

        def run() -> None:
            error: Exception | None = None
            try:
                self._check()
            except Exception as raised:
                error = raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(end, error)

        threading.Thread(target=run, name="readiness", daemon=True).start()
        return future
