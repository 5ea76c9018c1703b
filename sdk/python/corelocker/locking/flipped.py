"""A run of weights whose signs are locked: as `LockedRuns` it can be applied to blocks of a file and named by a patch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from corelocker.bundle.flips import byte_table, flip
from corelocker.bundle.patch_runs import RUN, Kind, PatchRun, Table
from corelocker.files import Bytes
from corelocker.runs import Run


@dataclass(frozen=True, eq=False)
class FlippedRun:
    """A run whose masked elements are flipped until the patch of `tier` flips them back.

    Attributes:
        place: the run.
        part: its payload part of the patch, a table where it permutes and the mask.
    """

    place: PatchRun
    tier: int
    part: bytes = field(repr=False)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """(1,), where the run begins."""
        return np.array([self.place.offset], np.int64)

    @cached_property
    def tiers(self) -> npt.NDArray[np.uint8]:
        """(1,), the tier."""
        return np.array([self.tier], np.uint8)

    @property
    def length(self) -> int:
        return self.place.length

    @property
    def count(self) -> int:
        return self.place.count

    @property
    def key_size(self) -> int:
        """Bytes that the access key holds of the run."""
        return len(self.part)

    @property
    def extent(self) -> tuple[int, int]:
        """(start, stop) of the smallest range of the file that holds the run."""
        return self.place.offset, self.place.place.end

    def __iter__(self) -> Iterator[tuple[Run, int, Bytes]]:
        """The run with its tier and its payload part."""
        yield self.place.place, self.tier, np.frombuffer(self.part, np.uint8)

    def table(self, rows: npt.NDArray[np.int64]) -> Table:
        """The run as a patch names it; `rows` is [0]."""
        return np.array([(*self.place, 0)], RUN)

    def apply(self, start: int, block: Bytes, state: int, above: int) -> None:
        """Flip what differs between two states of a file in `block`, which holds the higher one from `start` on."""
        if not state < self.tier <= above:
            return
        offset, length, stride, count = self.place[:4]
        stop = start + block.size
        first = max(0, -(-(start - offset) // stride))  # pieces that begin in the block or behind it
        last = min(count, (stop - length - offset) // stride + 1)  # pieces that end in it or before
        if first < last:
            whole = self.place._replace(offset=offset + first * stride - start, count=last - first)
            whole = whole._replace(stride=whole.stride if whole.count > 1 else length)
            elements = length * 8 // self.place.width
            mask = np.packbits(self._bits(first * elements, last * elements), bitorder="little")
            flip(block, whole, memoryview(self.part[: self.place.table_size] + mask.tobytes()))
        for piece in {first - 1, last}:
            if 0 <= piece < count:
                begin = offset + piece * stride
                low, high = max(begin, start), min(begin + length, stop)
                if low < high:
                    self._flip_bytes(block[low - start : high - start], piece * length + low - begin)

    def _bits(self, first: int, last: int) -> Bytes:
        """The mask of the elements from `first` up to `last`, 0 or 1 each."""
        mask = np.frombuffer(self.part, np.uint8, offset=self.place.table_size)
        return np.unpackbits(mask[first // 8 : -(-last // 8)], bitorder="little")[first % 8 :][: last - first]

    def _flip_bytes(self, view: Bytes, at: int) -> None:
        """Flip in `view`, the bytes from number `at` of the run on, which may begin and end inside an element."""
        width = self.place.width
        if self.place.kind == Kind.XOR_TOP:
            size = width // 8
            first, last = at // size, (at + view.size) // size  # elements whose last byte is in the view
            top = view[(first + 1) * size - 1 - at :: size]
            top ^= self._bits(first, last) << np.uint8(7)
            return
        changed = byte_table(self.place, self.part[: self.place.table_size])
        assert changed is not None  # noqa: S101
        bits = self._bits(at * 8 // width, (at + view.size) * 8 // width)
        masks = np.negative(bits) if width == 8 else bits[0::2] * np.uint8(0x0F) | bits[1::2] * np.uint8(0xF0)
        view ^= (view ^ changed[view]) & masks
