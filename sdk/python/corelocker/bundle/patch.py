"""The patch: an access key for one file as runs of bytes to put in or of elements to flip (docs/formats.md, "Patch").

    8   magic "CLPATCH2"
    4   u32 number of runs
    4   u32 reserved, 0
    8   u64 payload bytes
    24  a run {u64 offset, u32 length, u32 stride, u32 count, u8 kind, u8 width, u8 constant, u8 0}, for each run
    ..  payload: for each run its bytes, or its table and mask

All integers are little-endian. Runs ascend by offset and may interleave, but no byte of the file is written twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from corelocker.bundle.flips import Flip, check_flips, flip
from corelocker.bundle.patch_runs import (
    RUN,
    U32_MAX,
    Kind,
    PatchRun,
    Table,
    all_replace,
    check_runs,
    fields_of,
    rows_of,
    total_size,
)
from corelocker.errors import (
    PatchBoundsError,
    PatchMagicError,
    PatchPayloadError,
    PatchReservedError,
    PatchTrailingError,
    PatchTruncatedError,
    PatchVersionError,
)
from corelocker.runs import Run, single

if TYPE_CHECKING:
    from typing_extensions import Buffer

    # NumPy's arrays are buffers, but its type hints do not say so before Python 3.12.
    Data = Buffer | npt.NDArray[Any]

MAGIC = b"CLPATCH2"
_HEADER = struct.Struct("<8sIIQ")
# Pieces of a strided run that are longer are copied one by one.
_LONG = 1 << 16


@dataclass(frozen=True, eq=False)
class Patch:
    """A checked patch; make one with `build` or `parse`.

    Attributes:
        table: the runs, a structured array (n,) of offset (uint64), length, stride and count (uint32), kind, width, constant
            and reserved (uint8).
        payload: the parts of the runs, in run order.
        end: offset behind the last byte of the file that the patch writes.
    """

    table: Table = field(repr=False)
    payload: memoryview = field(repr=False)
    end: int

    @classmethod
    def build(cls, runs: Iterable[Run], file: Data, flips: Iterable[Flip] = ()) -> Self:
        """The patch that puts the bytes of `file` at `runs` back and flips; runs and flips may come in any order.

        A run that is too large for the format's 32-bit fields is split; a flip has to fit them. Raises a Patch*Error like
        `parse` when runs overlap or leave the file, or a flip is malformed.
        """
        source = bytes_of(file)
        rows: list[tuple[PatchRun, Flip | None]] = [(PatchRun(*r, Kind.REPLACE, 0, 0), None) for r in _encodable(runs)]
        rows += [(PatchRun(*_normal(flip.run), flip.kind, flip.width, flip.constant), flip) for flip in flips]
        rows.sort(key=lambda entry: entry[0].offset)
        table = np.array([(*row, 0) for row, _ in rows], RUN)
        end = check_runs(table, len(source))
        payload = memoryview(b"".join(part for row, flip in rows for part in _part(row, flip, source)))
        check_flips(table, payload)
        return cls(table, payload, end)

    @classmethod
    def parse(cls, data: Data, file_size: int) -> Self:
        """Read a patch for a file of `file_size` bytes; the payload is a view of `data`, not a copy.

        Raises the Patch*Error of the first thing that is wrong. Time and memory are bounded by the length of `data`,
        whatever the runs say.
        """
        view = bytes_of(data)
        if len(view) < _HEADER.size:
            raise PatchTruncatedError(f"the patch has {len(view)} bytes, but its header alone has {_HEADER.size}")
        magic, count, reserved, payload_size = _HEADER.unpack_from(view)
        _check_magic(magic)
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
        end = check_runs(table, file_size, payload_size)
        check_flips(table, view[payload_start:])
        return cls(table, view[payload_start:], end)

    @property
    def runs(self) -> tuple[PatchRun, ...]:
        """The runs in file order."""
        return tuple(rows_of(self.table))

    @property
    def flips(self) -> bool:
        """Whether a run flips. What that restores is only as good as the file, for no byte of it was encrypted."""
        return not all_replace(self.table)

    def encode(self) -> bytes:
        """The patch as bytes."""
        return patch_start(self.table) + self.payload

    def apply(self, target: Data) -> None:
        """Put the bytes into `target`, a writable buffer of the whole file, and flip its elements.

        Raises PatchBoundsError, and changes nothing, when the buffer is shorter than the runs say.
        """
        view = bytes_of(target)
        if self.end > len(view):
            raise PatchBoundsError(f"the patch reaches to {self.end}, but the file has {len(view)} bytes")
        if view.readonly and self.end > 0:
            raise TypeError("the buffer that the patch is applied to is read-only")
        file = np.frombuffer(view, np.uint8) if self.end else np.empty(0, np.uint8)
        position = 0
        for fields in fields_of(self.table):
            offset, length, stride, count, kind, _, _ = fields
            if kind:  # Kind.REPLACE is 0
                run = PatchRun._make(fields)
                size = run.part_size
                flip(file, run, self.payload[position : position + size])
                position += size
            elif count == 1:
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


def patch_start(table: Table) -> bytes:
    """What stands before the payload of a patch with the runs `table` (n,)."""
    return _HEADER.pack(MAGIC, len(table), 0, total_size(table)) + table.tobytes()


def _check_magic(magic: bytes) -> None:
    if magic[:7] != MAGIC[:7]:
        raise PatchMagicError("not a patch: it does not begin with CLPATCH")
    if magic != MAGIC:
        old = magic[7:] == b"1"
        raise PatchVersionError(
            "the patch has version 1" if old else "the patch has a version that this release does not know",
            hint="Lock the model again" if old else "Update CoreLocker",
        )


def bytes_of(data: Data) -> memoryview:
    """The data as a view of bytes."""
    return memoryview(cast("Buffer", data)).cast("B")


def _part(run: PatchRun, flip: Flip | None, source: memoryview) -> Iterable[bytes | memoryview]:
    """The payload part of a run, in pieces."""
    if flip is None:
        return _slices(run, source)
    if len(flip.table) != run.table_size or len(flip.table) + len(flip.mask) != run.part_size:
        raise PatchPayloadError(f"the flip at {run.offset} has a table or a mask of another length")
    return flip.table, flip.mask


def _slices(run: PatchRun, source: memoryview) -> Iterator[bytes | memoryview]:
    """The bytes of `source` at a run, in order."""
    offset, length, stride, count = run[:4]
    if count > 1 and length <= _LONG:
        yield np.ndarray((count,), f"V{length}", source, offset, (stride,)).tobytes()
    else:
        for start in range(offset, offset + count * stride, stride):
            yield source[start : start + length]


def _normal(run: Run) -> Run:
    return single(run.offset, run.length) if run.count == 1 else run


def _encodable(runs: Iterable[Run]) -> Iterator[Run]:
    """The same bytes in runs whose length, stride and count fit 32 bits."""
    for run in runs:
        if run.count == 1 and run.length <= U32_MAX:
            yield single(run.offset, run.length)
        elif max(run.length, run.stride, run.count) <= U32_MAX:
            yield run
        else:
            for piece in range(run.count):
                for start in range(0, run.length, U32_MAX):
                    yield single(run.offset + piece * run.stride + start, min(run.length - start, U32_MAX))
