"""Keeps the memory of this process out of core dumps: of commands that hold restored weights or keys."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def no_core_dumps() -> None:
    """From here on, a crash of this process, or of one that it forks, leaves no copy of its memory on a disk.

    The limit holds for files; on Linux the process is also made not dumpable, which handlers such as systemd-coredump obey
    and which keeps other processes of the user from reading its memory. What a restored mapping held is cleared by the
    kernel when it is unmapped, before anybody else gets the pages.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        with suppress(OSError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
