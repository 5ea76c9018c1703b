"""The table of a patch: its runs, their kinds, and the checks on them (docs/formats.md, "Patch")."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corelocker.bundle.patch_overlap import U64Array, runs_overlap
from corelocker.errors import (
    PatchBoundsError,
    PatchKindError,
    PatchOrderError,
    PatchOverflowError,
    PatchOverlapError,
    PatchPayloadError,
    PatchRunError,
)
from corelocker.runs import Run

RUN = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u4"),
        ("stride", "<u4"),
        ("count", "<u4"),
        ("kind", "u1"),
        ("width", "u1"),
        ("constant", "u1"),
        ("reserved", "u1"),
    ]
)
Table = npt.NDArray[np.void]
U32_MAX = 2**32 - 1

_ROW = struct.Struct("<QIIIBBBx")
# As RUN, with kind, width, constant and reserved byte as one number: 0 for a run that puts bytes in.
_FORM = np.dtype([("place", "V20"), ("form", "<u4")])
_PLACES = ("offset", "length", "stride", "count")
_ONE = np.uint64(1)
_U64_MAX = 2**64 - 1


class Kind(IntEnum):
    """What a run does to its bytes."""

    REPLACE = 0  # puts bytes in
    XOR_TOP = 1  # flips the most significant bit of elements of 16 or 32 bits
    NEGATE = 2  # turns elements e of 4 or 8 bits into (constant - e) mod 2^width
    PERMUTE = 3  # turns elements e of 4 or 8 bits into table[e]


# Bits of an element, for each kind.
WIDTHS = {Kind.REPLACE: (0,), Kind.XOR_TOP: (16, 32), Kind.NEGATE: (4, 8), Kind.PERMUTE: (4, 8)}


_KNOWN = np.zeros((256, 256), np.bool_)  # by kind and width
for _kind, _widths in WIDTHS.items():
    _KNOWN[_kind, list(_widths)] = True


class PatchRun(NamedTuple):
    """A row of the table; offset, length, stride and count are bytes as in `corelocker.runs.Run`."""

    offset: int
    length: int
    stride: int
    count: int  # type: ignore[assignment]  # the tuple method of that name is not used
    kind: int
    width: int
    constant: int

    @property
    def place(self) -> Run:
        """The bytes that the run names."""
        return Run(*self[:4])

    @property
    def table_size(self) -> int:
        """Bytes of the payload part before the mask."""
        return 1 << self.width if self.kind == Kind.PERMUTE else 0

    @property
    def part_size(self) -> int:
        """Bytes of the payload that belong to the run."""
        size = self.length * self.count
        return size if self.kind == Kind.REPLACE else self.table_size + -(-size // self.width)


def rows_of(table: Table) -> list[PatchRun]:
    """The runs of a table (n,) as Python numbers."""
    return [PatchRun._make(row) for row in fields_of(table)]


def fields_of(table: Table) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """`rows_of` as plain tuples, which are made several times as fast."""
    return _ROW.iter_unpack(np.ascontiguousarray(table).data)


def all_replace(table: Table) -> bool:
    """Whether all runs put bytes in; a few operations on the whole table instead of many."""
    return not np.ascontiguousarray(table).view(_FORM)["form"].any()


def replacing(runs: Iterable[Run]) -> Table:
    """The table of runs that put bytes in."""
    given = np.array(list(runs), [(name, RUN[name]) for name in _PLACES])
    table = np.zeros(given.size, RUN)
    for name in _PLACES:
        table[name] = given[name]
    return table


def part_sizes(table: Table) -> U64Array:
    """Bytes of each run's payload part, (n,); of a well-formed table.

    The mask of a flipping run has one bit for each element, so one byte for `width` bytes of the file.
    """
    size = table["length"].astype(np.uint64) * table["count"]
    if all_replace(table):
        return np.asarray(size, np.uint64)
    width = table["width"].astype(np.uint64)
    flips = table["kind"] != Kind.REPLACE
    divisor = np.where(flips, np.maximum(width, _ONE), _ONE)
    before = np.where(table["kind"] == Kind.PERMUTE, _ONE << np.minimum(width, np.uint64(8)), np.uint64(0))
    # A mask is a quarter of its run or less, so adding the table to it never wraps.
    return np.asarray(before + size // divisor + (size % divisor != 0), np.uint64)


def total_size(table: Table) -> int:
    """Sum of the parts; the 64-bit sums of their halves cannot wrap, for there are less than 2^32 runs."""
    size = part_sizes(table)
    return (int((size >> np.uint64(32)).sum()) << 32) + int((size & np.uint64(U32_MAX)).sum())


def check_runs(table: Table, file_size: int, payload_size: int | None = None) -> int:
    """Raise the error of the first run that is wrong, then those of all runs together; return where the last ends.

    The order of the checks is that of docs/formats.md. Time and memory are bounded by the length of the table.
    """
    if len(table) == 0:
        if payload_size:
            raise PatchPayloadError(f"no run takes the {payload_size} payload bytes of the patch")
        return 0
    offset, length, stride, count = (table[name].astype(np.uint64) for name in _PLACES)
    # At most (2^32 - 1)^2, so it never wraps; with a count of 0 it does, but such a run is refused first.
    span = (count - _ONE) * stride + length
    malformed = (length == 0) | (count == 0) | np.where(count == 1, stride != length, stride < length)
    unkind = _wrong_kinds(table)
    unordered = np.zeros(len(table), np.bool_)
    unordered[1:] = offset[1:] <= offset[:-1]
    overflowing = span > np.uint64(_U64_MAX) - offset
    end = offset + span
    outside = end > np.uint64(min(file_size, _U64_MAX))
    wrong = malformed | unkind | unordered | overflowing | outside
    if wrong.any():
        first = int(wrong.argmax())
        run = rows_of(table[first : first + 1])[0]
        if malformed[first]:
            raise PatchRunError(f"run {first} has length {run.length}, stride {run.stride}, count {run.count}")
        if unkind[first]:
            raise PatchKindError(
                f"run {first} of {run.length} bytes has kind {run.kind}, width {run.width}, constant {run.constant}"
            )
        if unordered[first]:
            raise PatchOrderError(f"run {first} at {run.offset} does not come after the run before it")
        if overflowing[first]:
            raise PatchOverflowError(f"run {first} at {run.offset} reaches beyond 2^64 - 1")
        raise PatchBoundsError(f"run {first} ends at {run.place.end}, but the file has {file_size} bytes")
    if payload_size is not None and (total := total_size(table)) != payload_size:
        raise PatchPayloadError(f"the runs take {total} bytes, but the payload of the patch has {payload_size}")
    # Mostly each run ends before the next begins, and there is nothing else to find out.
    if (end[:-1] > offset[1:]).any() and runs_overlap(np.stack((offset, length, stride, count)), end):
        raise PatchOverlapError("the runs of the patch write a byte of the file twice")
    return int(end.max())


def _wrong_kinds(table: Table) -> npt.NDArray[np.bool_]:
    """Whether a run's kind, width, constant, reserved byte and length do not go together, (n,)."""
    if all_replace(table):
        return np.zeros(len(table), np.bool_)
    kind, width, constant = table["kind"], table["width"], table["constant"]
    known = _KNOWN[kind, width]
    # The constant of 8-bit elements fills its byte; only that of 4-bit elements can be too large.
    fits = np.where(kind == Kind.NEGATE, (width == 8) | (constant < 16), constant == 0)
    whole = table["length"] % np.maximum(width // 8, 1) == 0
    return np.asarray(~(known & fits & whole & (table["reserved"] == 0)))
