"""Reading all of a large private mapping in little memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np

PART = 8 << 20  # bytes
_ENTRY = 8  # bytes of /proc/self/pagemap for a page
_CLEAN = np.uint64(1 << 63 | 1 << 61)  # present, and a page of the file


def parts(mapping: mmap.mmap) -> Iterator[memoryview]:
    """The bytes of a private mapping of a file in order. A part counts until the next one is asked for.

    Pages that nobody wrote to leave memory again, as far as the system tells which: what a patch changed must stay.
    """
    with memoryview(mapping) as view:
        for start in range(0, len(mapping), PART):
            stop = min(start + PART, len(mapping))
            with view[start:stop] as part:
                yield part
            _release(mapping, start, stop)


def _release(mapping: mmap.mmap, start: int, stop: int) -> None:
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    address = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    first, last = start // mmap.PAGESIZE, stop // mmap.PAGESIZE
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    except OSError:
        return
    try:
        told = os.pread(pagemap, (last - first) * _ENTRY, (address // mmap.PAGESIZE + first) * _ENTRY)
    finally:
        os.close(pagemap)
    clean = np.frombuffer(told, np.uint64, len(told) // _ENTRY) & _CLEAN == _CLEAN
    borders = np.flatnonzero(np.diff(np.concatenate(([False], clean, [False]))))
    for begin, end in borders.reshape(-1, 2).tolist():
        mapping.madvise(mmap.MADV_DONTNEED, (first + begin) * mmap.PAGESIZE, (end - begin) * mmap.PAGESIZE)
