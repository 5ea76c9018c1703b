"""A run: equally long pieces of a file at equal distances, the unit in which channels and patches name bytes."""

from __future__ import annotations

from typing import NamedTuple


class Run(NamedTuple):
    """`count` pieces of `length` bytes, `stride` bytes apart, the first at `offset`.

    `stride` equals `length` when `count` is 1. All values are bytes, counted from the start of the file.
    """

    offset: int
    length: int
    stride: int
    count: int  # type: ignore[assignment]  # the tuple method of that name is not used

    @property
    def size(self) -> int:
        """Bytes that the run names."""
        return self.length * self.count

    @property
    def end(self) -> int:
        """Offset behind the last piece."""
        return self.offset + (self.count - 1) * self.stride + self.length


def single(offset: int, length: int) -> Run:
    """The run of one piece."""
    return Run(offset, length, length, 1)
