"""The sample of a file: SHA-256 over a bounded part, which tells versions and states apart (docs/formats.md, "Sample").

It covers 64 windows of the file and both ends of every run of a patch, at a cost that grows with the number of runs alone.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from corelocker.bundle.patch_runs import Table

SHORT = 4096  # bytes of a file that is taken whole
WINDOWS = 64
WINDOW = 64
END = 64  # bytes at most of each end of a run

_PREFIX = b"corelocker sample v1"
_SIZE = struct.Struct("<Q")
_AT_ONCE = 1 << 10  # runs whose ends are gathered at a time

Bytes = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]


def sample(file: Bytes, table: Table, between: Callable[[], object] = lambda: None) -> bytes:
    """The sample of a file (uint8, (size,)) with the runs `table` (n,) of a patch that was checked for its size; 32 bytes.

    `between` is called when some runs were read, so that a mapped file can leave memory.
    """
    windows = np.array(window_places(file.size), np.int64).reshape(-1, 2)
    in_windows = file if file.size <= SHORT else _gather(file, windows[:, 0], windows[:, 1])
    return sample_of(file.size, [in_windows], run_ends(file, table, between))


class OpenFileSample:
    """The sample of an open file with few runs, before and after patches.

    The file is read and not mapped: that leaves no page in memory, and is cheaper while the runs are few. Bytes that the file does
    not have any more count as none.

    Attributes:
        locked: the sample of the file as it is, 32 bytes.
    """

    def __init__(self, descriptor: int, size: int, table: Table) -> None:
        self._size = size
        self._windows = window_places(size)
        self._in_windows = [os.pread(descriptor, length, start) for start, length in self._windows]
        starts, sizes = end_places(table)
        self._ends = [end for end in zip(starts.tolist(), sizes.tolist(), strict=True) if end[1]]
        ends = [os.pread(descriptor, length, start) for start, length in self._ends]
        self.locked = sample_of(size, [b"".join(self._in_windows)], [b"".join(ends)])

    def after(self, file: memoryview, applied: Iterable[Table]) -> bytes:
        """The sample of `file`, which is the same file in memory after the patches with the tables `applied`; 32 bytes.

        Of the windows only those are looked at that a patch may have changed, for each costs a page.
        """
        starts, lengths = np.array(self._windows, np.int64).reshape(-1, 2).T
        in_windows: list[bytes | memoryview] = [*self._in_windows]
        for table in applied:
            for i in np.flatnonzero(_reached(starts, starts + lengths, table)).tolist():
                start, length = self._windows[i]
                in_windows[i] = file[start : start + length]
        ends = [file[start : start + length] for start, length in self._ends]
        return sample_of(self._size, [b"".join(in_windows)], [b"".join(ends)])


class BlockSample:
    """The sample of a file of `size` bytes, with the runs `table` (n,), whose blocks come one after the other."""

    def __init__(self, size: int, table: Table) -> None:
        self._size = size
        windows = np.array(window_places(size), np.int64).reshape(-1, 2)
        starts, sizes = end_places(table)
        self._starts, self._sizes = np.append(windows[:, 0], starts), np.append(windows[:, 1], sizes)
        self._places = self._sizes.cumsum() - self._sizes
        self._bytes = np.empty(int(self._sizes.sum()), np.uint8)

    def add(self, start: int, block: Bytes) -> None:
        """Take what the sample covers of `block`, the bytes of the file from `start` on."""
        stop = start + block.size
        covered = np.flatnonzero((self._starts < stop) & (self._starts + self._sizes > start))
        for begin, size, place in zip(
            *(a[covered].tolist() for a in (self._starts, self._sizes, self._places)), strict=True
        ):
            low, high = max(begin, start), min(begin + size, stop)
            self._bytes[place + low - begin : place + high - begin] = block[low - start : high - start]

    def digest(self) -> bytes:
        """The sample, 32 bytes, once all blocks were added."""
        return sample_of(self._size, [self._bytes], [])


def _reached(starts: Int64Array, stops: Int64Array, table: Table) -> npt.NDArray[np.bool_]:
    """Whether a range of a file lies, with a byte, between the first and the last byte of a run; (ranges,)."""
    if len(table) == 0:
        return np.zeros(starts.size, np.bool_)
    offset, length, stride, count = (table[name].astype(np.int64) for name in ("offset", "length", "stride", "count"))
    reach = np.maximum.accumulate(offset + (count - 1) * stride + length)
    before = np.searchsorted(offset, stops)  # runs that begin before the range ends
    return np.asarray((before > 0) & (reach[before - 1] > starts))


def sample_of(size: int, windows: Iterable[Bytes | bytes], ends: Iterable[Bytes | bytes]) -> bytes:
    """The sample of a file of `size` bytes from the bytes of its windows and of its runs' ends, each cut anywhere."""
    sha256 = hashlib.sha256(_PREFIX + _SIZE.pack(size))
    for pieces in (windows, ends):
        for piece in pieces:
            sha256.update(piece if isinstance(piece, bytes) else np.ascontiguousarray(piece).data)
    return sha256.digest()


def window_places(size: int) -> list[tuple[int, int]]:
    """(start, length) of the windows of a file."""
    if size <= SHORT:
        return [(0, size)] if size else []
    return [(i * (size - WINDOW) // (WINDOWS - 1), WINDOW) for i in range(WINDOWS)]


def piece_ends(pieces: Bytes, length: int) -> Bytes:
    """The ends of runs of one form from their bytes: (n, size) from (n, count * length), each run's pieces in order."""
    end = min(length, END)
    if pieces.shape[1] <= END and pieces.shape[1] == length:
        return pieces
    return np.concatenate((pieces[:, :end], pieces[:, -end:]), axis=1)


def run_ends(file: Bytes, table: Table, between: Callable[[], object] = lambda: None) -> Iterator[Bytes]:
    """The ends of the runs `table` (n,) in a file, in run order; `between` as for `sample`."""
    for first in range(0, len(table), _AT_ONCE):
        starts, sizes = end_places(table[first : first + _AT_ONCE])
        yield _gather(file, starts, sizes)
        between()


def end_places(table: Table) -> tuple[Int64Array, Int64Array]:
    """Where the ends of the runs (n,) lie: starts and sizes (2 n,), first and last end of each in turn; a size may be 0."""
    offset, length, stride, count = (table[name].astype(np.int64) for name in ("offset", "length", "stride", "count"))
    size = np.minimum(length, END)
    last = offset + (count - 1) * stride + length - size
    once = (count == 1) & (length <= END)
    starts, sizes = np.empty((len(table), 2), np.int64), np.empty((len(table), 2), np.int64)
    starts[:, 0], starts[:, 1] = offset, last
    sizes[:, 0], sizes[:, 1] = size, np.where(once, 0, size)
    return starts.reshape(-1), sizes.reshape(-1)


def _gather(file: Bytes, starts: Int64Array, sizes: Int64Array) -> Bytes:
    """The ranges of a file, one behind the other; each has at most END bytes."""
    width = min(END, file.size)
    # Every range of `width` bytes as one item, by its offset; ranges near the end of the file are taken from a little before.
    windows = np.ndarray((file.size - width + 1,), f"V{width}", file, strides=(1,))
    at = np.minimum(starts, file.size - width)
    columns = np.arange(width)
    begin = (starts - at)[:, None]
    wanted = (columns >= begin) & (columns < begin + sizes[:, None])
    return np.asarray(windows[at].view(np.uint8).reshape(-1, width)[wanted])
