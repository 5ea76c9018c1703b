"""The pages of a private mapping of a file: reading all of them in little memory, and wiping those that were written to."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

PART = 8 << 20  # bytes
_ENTRY = 8  # bytes of /proc/self/pagemap for a page
_IN_MEMORY, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
Entries = npt.NDArray[np.uint64]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


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


def wipe(mapping: mmap.mmap) -> None:
    """Overwrite with zeros what was written to a private mapping of a file; to be called right before it is closed.

    As far as the system tells which pages these are (Linux). Elsewhere the kernel clears them before anybody gets them.
    """
    address = _address(mapping)
    for start in range(0, len(mapping), PART):
        stop = min(start + PART, len(mapping))
        for begin, size in _spans(address, start, stop + -stop % mmap.PAGESIZE, _is_private):
            if _libc.mprotect(address + begin, size, mmap.PROT_READ | mmap.PROT_WRITE) == 0:
                ctypes.memset(address + begin, 0, size)


def _release(mapping: mmap.mmap, start: int, stop: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        for begin, size in _spans(_address(mapping), start, stop, _is_clean):
            mapping.madvise(mmap.MADV_DONTNEED, begin, size)


def _address(mapping: mmap.mmap) -> int:
    address: int = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    return address


def _is_clean(entries: Entries) -> npt.NDArray[np.bool_]:
    """A page of the file in memory."""
    found: npt.NDArray[np.bool_] = (entries & _IN_MEMORY != 0) & (entries & _OF_FILE != 0)
    return found


def _is_private(entries: Entries) -> npt.NDArray[np.bool_]:
    """A page of this process alone, in memory or swapped out."""
    found: npt.NDArray[np.bool_] = (entries & (_IN_MEMORY | _SWAPPED) != 0) & (entries & _OF_FILE == 0)
    return found


def _spans(
    address: int, start: int, stop: int, wanted: Callable[[Entries], npt.NDArray[np.bool_]]
) -> Iterator[tuple[int, int]]:
    """Offset and size of the wanted whole pages of a mapping, neighbors together; nothing where the system does not tell."""
    first, last = start // mmap.PAGESIZE, stop // mmap.PAGESIZE
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    except OSError:
        return
    try:
        told = os.pread(pagemap, (last - first) * _ENTRY, (address // mmap.PAGESIZE + first) * _ENTRY)
    finally:
        os.close(pagemap)
    found = wanted(np.frombuffer(told, np.uint64, len(told) // _ENTRY))
    borders = np.flatnonzero(np.diff(np.concatenate(([False], found, [False]))))
    for begin, end in borders.reshape(-1, 2).tolist():
        yield (first + begin) * mmap.PAGESIZE, (end - begin) * mmap.PAGESIZE
