"""The id of the request that is being answered: it stands in the answer, in log lines and in the rows of the audit log."""

from __future__ import annotations

import os
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("corelocker_request_id", default=None)


def new_request_id() -> str:
    """16 hexadecimal digits."""
    return os.urandom(8).hex()


def begin_request(request_id: str) -> None:
    """From here on, what this task and the threads that work for it do is done for this request."""
    _current.set(request_id)


def current_request() -> str | None:
    """The id of the request that this is done for; None outside of one."""
    return _current.get()
