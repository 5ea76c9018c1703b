"""The patch: an access key as runs of bytes for one file (DESIGN.md, "Formats").

    8   magic "CLPATCH1"
    4   u32 number of runs
    4   u32 reserved, 0
    8   u64 payload bytes
    20  a run {u64 offset, u32 length, u32 stride, u32 count}, for each run
    ..  payload: the pieces of the runs, in run order

All integers are little-endian. Runs ascend by offset and may interleave, but no byte of the file is written twice.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from corelocker.errors import (
    PatchBoundsError,
    PatchMagicError,
    PatchOrderError,
    PatchOverflowError,
    PatchOverlapError,
    PatchPayloadError,
    PatchReservedError,
    PatchRunError,
    PatchTrailingError,
    PatchTruncatedError,
)
from corelocker.runs import Run, single

if TYPE_CHECKING:
    from typing_extensions import Buffer

    # NumPy's arrays are buffers, but its type hints do not say so before Python 3.12.
    Data = Buffer | npt.NDArray[Any]

Table = npt.NDArray[np.void]
_U64 = npt.NDArray[np.uint64]

MAGIC = b"CLPATCH1"
_HEADER = struct.Struct("<8sIIQ")
_ROW = struct.Struct("<QIII")
RUN = np.dtype([("offset", "<u8"), ("length", "<u4"), ("stride", "<u4"), ("count", "<u4")])
_FIELDS = ("offset", "length", "stride", "count")
_ONE = np.uint64(1)
_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1
# Pieces of a strided run that are longer are copied one by one.
_LONG = 1 << 16
_BATCH = 1 << 16
# Pieces that the overlap check holds in memory at once, unless the patch itself is larger than that.
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Patch:
    """A checked patch; make one with `build` or `parse`.

    Attributes:
        table: the runs, a structured array (n,) of offset (uint64), length, stride and count (uint32).
        payload: the bytes that the patch puts in, uint8, in run order.
        end: offset behind the last byte of the file that the patch writes.
    """

    table: Table = field(repr=False)
    payload: memoryview = field(repr=False)
    end: int

    @classmethod
    def build(cls, runs: Iterable[Run], file: Data) -> Self:
        """The patch that puts the bytes of `file` at `runs` back; the runs may come in any order.

        A run that is too large for the format's 32-bit fields is split. Raises a Patch*Error like `parse` when runs
        overlap or leave the file.
        """
        source = _bytes_of(file)
        table = np.array(sorted(_encodable(runs)), RUN)
        end = _check_runs(table, len(source))
        payload = b"".join(_slices(_rows_of(table), source))
        return cls(table, memoryview(payload), end)

    @staticmethod
    def gather(table: Table, pieces: Iterable[Data], file_size: int) -> memoryview:
        """The encoded patch of the runs `table` (n,), ascending by offset; `pieces` are what it puts there, cut anywhere.

        Unlike `build` it takes the bytes part by part, so the file never has to be in memory, nor the patch twice. Raises a
        Patch*Error like `parse`.
        """
        _check_runs(table, file_size)
        size = _total(table["length"].astype(np.uint64), table["count"].astype(np.uint64))
        start = _HEADER.size + table.nbytes
        encoded = np.empty(start + size, np.uint8).data
        encoded[:start] = _HEADER.pack(MAGIC, len(table), 0, size) + table.tobytes()
        for piece in pieces:
            data = _bytes_of(piece)
            if start + len(data) > len(encoded):
                raise PatchPayloadError(f"the pieces hold more than the {size} bytes that the runs take")
            encoded[start : start + len(data)] = data
            start += len(data)
        if start < len(encoded):
            raise PatchPayloadError(f"the pieces hold {len(encoded) - start} bytes less than the runs take")
        return encoded

    @classmethod
    def parse(cls, data: Data, file_size: int) -> Self:
        """Read a patch for a file of `file_size` bytes; the payload is a view of `data`, not a copy.

        Raises the Patch*Error of the first thing that is wrong. Time and memory are bounded by the length of `data`,
        whatever the runs say.
        """
        view = _bytes_of(data)
        if len(view) < _HEADER.size:
            raise PatchTruncatedError(f"the patch has {len(view)} bytes, but its header alone has {_HEADER.size}")
        magic, count, reserved, payload_size = _HEADER.unpack_from(view)
        if magic != MAGIC:
            raise PatchMagicError("not a patch: it does not begin with CLPATCH1")
        if reserved != 0:
            raise PatchReservedError(f"the reserved field of the patch is {reserved}, not 0")
        payload_start = _HEADER.size + count * RUN.itemsize
        if payload_start > len(view):
            raise PatchTruncatedError(f"the patch ends inside its {count} runs")
        stated_end = payload_start + payload_size
        if stated_end > len(view):
            raise PatchTruncatedError(f"the patch has {len(view) - payload_start} of {payload_size} payload bytes")
        if stated_end < len(view):
            raise PatchTrailingError(f"{len(view) - stated_end} bytes follow the payload of the patch")
        table = np.frombuffer(view, RUN, count, _HEADER.size) if count else np.empty(0, RUN)
        end = _check_runs(table, file_size, payload_size)
        return cls(table, view[payload_start:], end)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs in file order."""
        return tuple(Run(*row) for row in self._rows)

    @cached_property
    def _rows(self) -> list[tuple[int, int, int, int]]:
        return _rows_of(self.table)

    def encode(self) -> bytes:
        """The patch as bytes."""
        header = _HEADER.pack(MAGIC, len(self.table), 0, len(self.payload))
        return b"".join((header, self.table.tobytes(), self.payload))

    def apply(self, target: Data) -> None:
        """Write the payload into `target`, a writable buffer of the whole file.

        Raises PatchBoundsError, and changes nothing, when the buffer is shorter than the runs say.
        """
        view = self._fitting(target)
        position = 0
        for offset, length, stride, count in self._rows:
            if count == 1:
                view[offset : offset + length] = self.payload[position : position + length]
                position += length
            elif length <= _LONG:
                put_in = np.ndarray((count,), f"V{length}", self.payload, position)
                np.ndarray((count,), f"V{length}", view, offset, (stride,))[...] = put_in
                position += length * count
            else:
                for start in range(offset, offset + count * stride, stride):
                    view[start : start + length] = self.payload[position : position + length]
                    position += length

    def extract(self, source: Data) -> bytes:
        """The bytes of `source` at the runs, in run order: what the patch will replace, or what it has put in.

        Raises PatchBoundsError when `source` is shorter than the runs say.
        """
        return b"".join(_slices(self._rows, self._fitting(source)))

    def digest(self, source: Data, descriptor: int | None = None) -> bytes:
        """SHA-256 of `extract(source)`, 32 bytes, without holding all of it.

        When `source` is a mapping of an open file, its `descriptor` makes this cheaper: short runs are read from the
        file, which leaves their pages unmapped. Bytes that the file no longer has count as absent.
        """
        sha256 = hashlib.sha256()
        small: list[bytes | memoryview] = []
        waiting = 0
        for piece in _slices(self._rows, self._fitting(source), descriptor):
            # An update costs as much as hashing 500 bytes, so small pieces are joined and only large ones go in alone.
            if waiting + len(piece) > _BATCH:
                sha256.update(b"".join(small))
                small.clear()
                waiting = 0
            if len(piece) > _BATCH:
                sha256.update(piece)
            else:
                small.append(piece)
                waiting += len(piece)
        sha256.update(b"".join(small))
        return sha256.digest()

    def _fitting(self, buffer: Data) -> memoryview:
        view = _bytes_of(buffer)
        if self.end > len(view):
            raise PatchBoundsError(f"the patch reaches to {self.end}, but the file has {len(view)} bytes")
        return view


def _rows_of(table: Table) -> list[tuple[int, int, int, int]]:
    return list(_ROW.iter_unpack(table.data))  # half the time of tolist()


def _bytes_of(data: Data) -> memoryview:
    return memoryview(cast("Buffer", data)).cast("B")


def _slices(
    rows: list[tuple[int, int, int, int]], source: memoryview, descriptor: int | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of `source` at the runs, in run order."""
    for offset, length, stride, count in rows:
        if count == 1:
            if descriptor is not None and length <= _LONG:
                yield os.pread(descriptor, length, offset)
            else:
                yield source[offset : offset + length]
        elif length <= _LONG:
            yield np.ndarray((count,), f"V{length}", source, offset, (stride,)).tobytes()
        else:
            for start in range(offset, offset + count * stride, stride):
                yield source[start : start + length]


def _encodable(runs: Iterable[Run]) -> Iterator[Run]:
    """The same bytes in runs whose length, stride and count fit 32 bits."""
    for run in runs:
        if run.count == 1 and run.length <= _U32_MAX:
            yield single(run.offset, run.length)
        elif max(run.length, run.stride, run.count) <= _U32_MAX:
            yield run
        else:
            for piece in range(run.count):
                for start in range(0, run.length, _U32_MAX):
                    yield single(run.offset + piece * run.stride + start, min(run.length - start, _U32_MAX))


def _check_runs(table: Table, file_size: int, payload_size: int | None = None) -> int:
    """Raise the error of the first run that is wrong, then those of all runs together; return where the last ends."""
    if len(table) == 0:
        if payload_size:
            raise PatchPayloadError(f"no run takes the {payload_size} payload bytes of the patch")
        return 0
    offset, length, stride, count = (table[name].astype(np.uint64) for name in _FIELDS)
    # At most (2^32 - 1)^2, so it never wraps; with a count of 0 it does, but such a run is refused first.
    span = (count - _ONE) * stride + length
    malformed = (length == 0) | (count == 0) | np.where(count == 1, stride != length, stride < length)
    unordered = np.zeros(len(table), np.bool_)
    unordered[1:] = offset[1:] <= offset[:-1]
    overflowing = span > np.uint64(_U64_MAX) - offset
    end = offset + span
    outside = end > np.uint64(min(file_size, _U64_MAX))
    wrong = malformed | unordered | overflowing | outside
    if wrong.any():
        first = int(wrong.argmax())
        run = Run(*table[first].item())
        if malformed[first]:
            raise PatchRunError(f"run {first} has length {run.length}, stride {run.stride}, count {run.count}")
        if unordered[first]:
            raise PatchOrderError(f"run {first} at {run.offset} does not come after the run before it")
        if overflowing[first]:
            raise PatchOverflowError(f"run {first} at {run.offset} reaches beyond 2^64 - 1")
        raise PatchBoundsError(f"run {first} ends at {run.end}, but the file has {file_size} bytes")
    if payload_size is not None and (total := _total(length, count)) != payload_size:
        raise PatchPayloadError(f"the runs take {total} bytes, but the payload of the patch has {payload_size}")
    # Mostly each run ends before the next begins, and there is nothing else to find out.
    if (end[:-1] > offset[1:]).any() and _overlap(np.stack((offset, length, stride, count)), end):
        raise PatchOverlapError("the runs of the patch write a byte of the file twice")
    return int(end.max())


def _total(length: _U64, count: _U64) -> int:
    """Sum of length * count; the 64-bit sums of the products' halves cannot wrap, for there are less than 2^32 runs."""
    size = length * count
    return (int((size >> np.uint64(32)).sum()) << 32) + int((size & np.uint64(_U32_MAX)).sum())


def _overlap(runs: _U64, end: _U64) -> bool:
    """Whether two pieces share a byte.

    `runs` is (4, n), the rows offset, length, stride, count; well-formed one by one and ascending by offset.
    """
    offset = runs[0]
    reach = np.maximum.accumulate(end)
    begins = np.ones(offset.size, np.bool_)
    begins[1:] = offset[1:] >= reach[:-1]
    alone = begins.copy()
    alone[:-1] &= begins[1:]
    if alone.all():
        return False
    tangled = runs[:, ~alone]
    rest = tangled[:, ~_combs(tangled, begins.cumsum()[~alone])]
    return rest.shape[1] > 0 and _pieces_overlap(rest)


def _combs(runs: _U64, cluster: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Per run, whether all runs of its cluster have one stride and lie apart modulo that stride.

    So lie the filters of a depthwise convolution; they cannot overlap. False says nothing. `cluster` is (n,) and
    ascends; the extents of runs of different clusters do not meet.
    """
    offset, length, stride, count = runs
    starts = np.flatnonzero(np.diff(cluster, prepend=-1))
    sizes = np.diff(starts, append=cluster.size)
    # A single piece has no stride of its own and fits any that is not shorter.
    common = np.repeat(np.maximum.reduceat(np.where(count == 1, np.uint64(0), stride), starts), sizes)
    fits = (length <= common) & ((count == 1) | (stride == common))
    tooth = offset % np.maximum(common, _ONE)
    order = np.lexsort((tooth, cluster))
    tooth = tooth[order]
    following = np.roll(tooth, -1)
    following[starts + sizes - 1] = tooth[starts] + common[starts]
    apart = tooth + length[order] <= following
    return np.repeat(np.logical_and.reduceat(fits, starts) & np.logical_and.reduceat(apart, starts), sizes)


def _pieces_overlap(runs: _U64) -> bool:
    """Whether two pieces share a byte, by sorting them; the file is halved until the pieces of a part fit in memory."""
    limit = max(_CHUNK, 4 * runs.shape[1])
    parts = [runs]
    while parts:
        offset, length, stride, count = part = parts.pop()
        if part.shape[1] < 2:
            continue
        low, high = int(offset.min()), int((offset + (count - _ONE) * stride + length).max())
        if int(count.sum()) > limit:
            parts += _halves(part, np.uint64((low + high) // 2))
            continue
        times = count.astype(np.int64)
        number = np.arange(int(times.sum())) - np.repeat(times.cumsum() - times, times)
        start = np.repeat(offset, times) + number.astype(np.uint64) * np.repeat(stride, times)
        end = start + np.repeat(length, times)
        # Pieces are apart exactly when, starts and ends each sorted on their own, every end precedes the next start.
        start.sort()
        end.sort()
        if (end[:-1] > start[1:]).any():
            return True
    return False


def _halves(runs: _U64, middle: np.uint64) -> tuple[_U64, _U64]:
    """The pieces before and from `middle`; one that reaches across it is cut in two."""
    offset, length, stride, count = runs
    distance = middle - np.minimum(offset, middle)
    before = np.minimum((distance + stride - _ONE) // stride, count)
    last = offset + (before - _ONE) * stride
    cut = (before > 0) & (last + length > middle)
    whole = before - cut
    left, over = middle - last[cut], (last + length)[cut] - middle
    one = np.ones_like(left)
    return (
        np.hstack((np.stack((offset, length, stride, whole))[:, whole > 0], np.stack((last[cut], left, left, one)))),
        np.hstack(
            (
                np.stack((offset + before * stride, length, stride, count - before))[:, before < count],
                np.stack((np.full_like(over, middle), over, over, one)),
            )
        ),
    )
