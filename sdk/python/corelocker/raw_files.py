"""What reading files needs and the standard library alone can do: it is imported before anything else is."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

Stamp = tuple[int, int, int, int]


def file_stamp(status: os.stat_result) -> Stamp:
    """What changes when another file takes a name, or somebody writes to the one that has it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_buffer(size: int) -> memoryview:
    """Memory of `size` bytes to read a file into, at the start of a page.

    What malloc gives for it begins 16 bytes into a page, and some processors (an AMD EPYC, measured) copy a page of the page cache
    to such a place at a fifth of the speed: modulo 4096, what they are to read looks like what they have just written.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows
        return memoryview(mmap.mmap(-1, size))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
