"""A patch applied to a file block by block, so that a large file is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from corelocker.bundle.flips import Bytes, flip_elements
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import Kind, PatchRun, part_sizes, rows_of


class PatchBlocks:
    """A checked patch, ready to be applied to any block of its file."""

    def __init__(self, patch: Patch) -> None:
        table = self._table = patch.table
        self._payload = patch.payload
        offset, length, stride, count = (table[n].astype(np.int64) for n in ("offset", "length", "stride", "count"))
        self._begins, self._ends = offset, offset + (count - 1) * stride + length
        self._parts = np.concatenate(([0], part_sizes(table).astype(np.int64).cumsum()))

    def apply(self, start: int, block: Bytes) -> None:
        """Change what the patch changes in `block` (writable uint8), the bytes of the file from `start` on."""
        for i in np.flatnonzero((self._begins < start + block.size) & (self._ends > start)).tolist():
            (run,) = rows_of(self._table[i : i + 1])
            part = self._payload[int(self._parts[i]) : int(self._parts[i + 1])]
            (put_in_block if run.kind == Kind.REPLACE else flip_in_block)(block, start, run, part)


def put_in_block(block: Bytes, start: int, run: PatchRun, part: memoryview) -> None:
    """Put what lies in `block`, the file from `start` on, of a run that replaces."""
    data = np.frombuffer(part, np.uint8)
    first, last = _whole_pieces(run, start, block.size)
    if first < last:
        shape, strides = (last - first, run.length), (run.stride, 1)
        pieces = np.ndarray(shape, np.uint8, block, run.offset + first * run.stride - start, strides)
        pieces[...] = data[first * run.length : last * run.length].reshape(shape)
    for low, high, at in _cut_pieces(run, start, block.size, first, last):
        block[low:high] = data[at : at + high - low]


def flip_in_block(block: Bytes, start: int, run: PatchRun, part: memoryview) -> None:
    """Flip what lies in `block`, the file from `start` on, of a run that flips; the block may cut through elements."""
    if run.stride == run.length:
        run = run._replace(length=run.length * run.count, stride=run.length * run.count, count=1)
    first, last = _whole_pieces(run, start, block.size)
    if first < last:
        shape, strides = (last - first, run.length), (run.stride, 1)
        pieces = np.ndarray(shape, np.uint8, block, run.offset + first * run.stride - start, strides)
        flip_elements(pieces, run, part, first * run.length * 8 // run.width)
    for low, high, at in _cut_pieces(run, start, block.size, first, last):
        _flip_bytes(block[low:high], run, part, at)


def _whole_pieces(run: PatchRun, start: int, size: int) -> tuple[int, int]:
    """The pieces [first, last) of a run that lie wholly in a block."""
    offset, length, stride, count = run[:4]
    return max(0, -(-(start - offset) // stride)), min(count, (start + size - length - offset) // stride + 1)


def _cut_pieces(run: PatchRun, start: int, size: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Pieces that a block cuts: (begin, end) in the block, and the number of their first byte along the run."""
    for piece in {first - 1, last}:
        if 0 <= piece < run.count:
            begin = run.offset + piece * run.stride
            low, high = max(begin, start), min(begin + run.length, start + size)
            if low < high:
                yield low - start, high - start, piece * run.length + low - begin


def _flip_bytes(view: Bytes, run: PatchRun, part: memoryview, at: int) -> None:
    """Flip in `view`, the bytes from number `at` of the run on, which may begin and end inside an element."""
    size = max(1, run.width // 8)
    begun = -at % size  # bytes of an element that began before; of floats the last byte holds the sign
    if 0 < begun <= view.size:
        mask = part[run.table_size :]
        view[begun - 1] ^= (mask[at // size // 8] >> at // size % 8 & 1) << 7
    whole = view[begun : begun + (view.size - begun) // size * size]
    if whole.size:
        flip_elements(whole[None], run, part, (at + begun) * 8 // run.width)
