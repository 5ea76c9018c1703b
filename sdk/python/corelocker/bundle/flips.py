"""Runs that flip elements in place: their masks and tables, checked, applied and built (docs/formats.md, "Patch").

Each kind is its own inverse, so one function locks and restores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from corelocker.bundle.patch_runs import WIDTHS, Kind, PatchRun, Table, part_sizes
from corelocker.errors import PatchPaddingError, PatchTableError
from corelocker.runs import Run

Bytes = npt.NDArray[np.uint8]

# Elements that are flipped at a time, a multiple of 8: so many stay in the processor's cache.
_STEP = 1 << 16
# Tables that are checked at a time.
_TABLES = 1 << 10


def _changed_bits(width: int) -> npt.NDArray[np.unsignedinteger]:
    """For each byte of a mask what it changes of the eight elements of `width` bits that it stands for: their top bit where they
    are floats, else all bits; unsigned (256, 8), or (256, 4) bytes of two nibbles each."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    if width == 4:
        return np.asarray(bits[:, 0::2] * np.uint8(0x0F) | bits[:, 1::2] * np.uint8(0xF0))
    return bits.astype(f"<u{width // 8}") * (0xFF if width == 8 else 1 << (width - 1))


_CHANGED_BITS = {width: _changed_bits(width) for widths in WIDTHS.values() for width in widths if width}


@dataclass(frozen=True)
class Flip:
    """A flipping run for `Patch.build`.

    Attributes:
        run: the bytes that hold the elements.
        kind: XOR_TOP, NEGATE or PERMUTE.
        width: bits of an element: 16 or 32 for XOR_TOP, else 4 or 8.
        mask: one bit for each element, packed, least significant first (`pack_mask`, `mask_between`).
        constant: c of NEGATE, twice the zero point mod 2^width; else 0.
        table: 2^width bytes, its own inverse, for PERMUTE; else empty.
    """

    run: Run
    kind: Kind
    width: int
    mask: bytes = field(repr=False)
    constant: int = 0
    table: bytes = field(default=b"", repr=False)

    @classmethod
    def between(
        cls, run: Run, kind: Kind, width: int, before: Bytes, after: Bytes, constant: int = 0, table: bytes = b""
    ) -> Self:
        """The run that turns one state of a file into the other.

        Args:
            run: the bytes that hold the elements; what else differs between the states is not looked at.
            before, after: the whole file in both states, uint8 (size,).

        Raises ValueError where an element of `after` is neither that of `before` nor its flip.
        """
        pieces = [_pieces(state, run) for state in (before, after)]
        old, new = (_elements(piece, width) for piece in pieces)
        flipped = pieces[0].copy()
        whole = PatchRun(0, run.length, run.length, run.count, kind, width, constant)
        flip(flipped.reshape(-1), whole, memoryview(table + b"\xff" * -(-old.size // 8)))
        differs = old != new
        if not np.array_equal(np.where(differs, _elements(flipped, width), old), new):
            raise ValueError(
                f"the states at {run.offset} differ in an element that a flip does not turn into the other"
            )
        return cls(run, kind, width, pack_mask(differs), constant, table)


def pack_mask(changed: npt.NDArray[np.bool_]) -> bytes:
    """The mask for elements of which `changed` (n,) says whether they are flipped."""
    return np.packbits(changed, bitorder="little").tobytes()


def check_flips(table: Table, payload: memoryview) -> None:
    """Check the tables and the padding bits of a patch whose runs are checked already.

    Raises PatchTableError or PatchPaddingError for the first run that has one that is wrong.
    """
    flips = np.flatnonzero(table["kind"] != Kind.REPLACE)
    if flips.size == 0:
        return
    sizes = part_sizes(table).astype(np.int64)
    starts = (sizes.cumsum() - sizes)[flips]
    data = np.frombuffer(payload, np.uint8)
    rows = table[flips]
    padded = _padding(rows, data[starts + sizes[flips] - 1]) != 0
    bad_tables = np.zeros(flips.size, np.bool_)
    for width in WIDTHS[Kind.PERMUTE]:
        of_width = np.flatnonzero((rows["kind"] == Kind.PERMUTE) & (rows["width"] == width))
        for first in range(0, of_width.size, _TABLES):
            some = of_width[first : first + _TABLES]
            bad_tables[some] = _not_involutions(data[starts[some, None] + np.arange(1 << width)])
    wrong = padded | bad_tables
    if wrong.any():
        first = int(wrong.argmax())
        if bad_tables[first]:
            raise PatchTableError(f"the table of run {flips[first]} is not its own inverse")
        raise PatchPaddingError(f"bits behind the last element of run {flips[first]} are not 0")


def _padding(rows: Table, last: Bytes) -> Bytes:
    """The bits behind the last element, from the last byte of each mask (n,)."""
    bits = rows["length"].astype(np.uint64) * rows["count"] % rows["width"] * np.uint64(8) // rows["width"]
    return np.where(bits == 0, np.uint8(0), last >> bits.astype(np.uint8))


def _not_involutions(tables: Bytes) -> npt.NDArray[np.bool_]:
    """Whether a table (n, 2^width) has an entry that is too large or does not lead back."""
    entries = tables.shape[1]
    inside = (tables < entries).all(axis=1)
    back = np.take_along_axis(tables, np.minimum(tables, entries - 1).astype(np.intp), axis=1)
    return np.asarray(~(inside & (back == np.arange(entries)).all(axis=1)))


def flip(target: Bytes, run: PatchRun, part: memoryview) -> None:
    """Flip the elements of `target` (the whole file, writable uint8) that the run's payload part names."""
    offset, length, stride, count = run[:4]
    if stride == length:
        length, count = length * count, 1
    flip_elements(np.ndarray((count, length), np.uint8, target, offset, (stride, 1)), run, part, 0)


def flip_elements(pieces: Bytes, run: PatchRun, part: memoryview, first: int) -> None:
    """Flip what the run's payload part names in `pieces` (k, n), whole elements of the run from number `first` on.

    Pieces have whole bytes, so where elements are nibbles `first` is even.
    """
    data = np.frombuffer(part, np.uint8)
    mask, bits = data[run.table_size :], _CHANGED_BITS[run.width]
    after = byte_table(run, data[: run.table_size].tobytes())
    rows, length = pieces.shape
    of_piece, step = length * 8 // run.width, _STEP * run.width // 8
    at_once = max(1, _STEP // of_piece)
    for row in range(0, rows, at_once):
        for start in range(0, length, step):
            some = pieces[row : row + at_once, start : start + step].view(bits.dtype)
            begin = first + row * of_piece + start * 8 // run.width
            stop = begin + some.nbytes * 8 // run.width
            changed = bits.take(mask[begin // 8 : -(-stop // 8)], axis=0).reshape(-1)
            changed = changed[begin % 8 * bits.shape[1] // 8 :][: some.size].reshape(some.shape)
            some ^= changed if after is None else (some ^ after.take(some)) & changed


def byte_table(run: PatchRun, table: bytes) -> Bytes | None:
    """What becomes of a byte all of whose elements are flipped, uint8 (256,); None for XOR_TOP.

    `table` is that of a run that permutes, else empty.
    """
    if run.kind == Kind.XOR_TOP:
        return None
    if run.kind == Kind.NEGATE:
        element = ((run.constant - np.arange(1 << run.width)) % (1 << run.width)).astype(np.uint8)
    else:
        element = np.frombuffer(table, np.uint8)
    if run.width == 8:
        return element
    return (element[None, :] | (element[:, None] << np.uint8(4))).reshape(-1)


def _pieces(state: Bytes, run: Run) -> Bytes:
    """The pieces of a run, (count, length), a copy."""
    return np.ndarray((run.count, run.length), np.uint8, state, run.offset, (run.stride, 1)).copy()


def _elements(pieces: Bytes, width: int) -> npt.NDArray[np.unsignedinteger]:
    """The elements of a run, (n,)."""
    if width == 4:
        return np.stack((pieces & 15, pieces >> 4), axis=-1).reshape(-1)
    return pieces.reshape(-1).view(f"<u{width // 8}")
