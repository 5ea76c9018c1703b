"""A run of weights whose signs are locked: as `LockedRuns` it can be applied to blocks of a file and named by a patch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from corelocker.bundle.patch_blocks import flip_in_block
from corelocker.bundle.patch_runs import RUN, PatchRun, Table
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
        flip_in_block(block, start, self.place, memoryview(self.part))
