"""Which runs of a patch hold the weights of given channels: few long ones, for each costs as much as the mask of 192 weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Part
from corelocker.artifacts.weights import SparsePart
from corelocker.bundle.patch_runs import RUN
from corelocker.files import Bytes
from corelocker.runs import Run, single

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CHUNK = 1 << 16  # elements that are looked at at a time, a multiple of 8; they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Units:
    """The weight of a tensor as a sequence of units, each a group of a channel's elements.

    Attributes:
        weight: the part that holds them.
        form: "rows", one unit behind the other; "columns", each piece of the part holds a little of every unit; "apart", no run
            holds two units.
        bounds: int64 (units + 1,), elements before each unit.
    """

    weight: Part | SparsePart
    form: Literal["rows", "columns", "apart"]
    bounds: Indices = field(repr=False)

    @classmethod
    def of(cls, weight: Part | SparsePart, groups: int) -> Units | None:
        """The units of a weight whose channels have `groups` groups each; None where these are no runs of whole bytes."""
        if isinstance(weight, SparsePart):
            return cls(weight, "rows", weight.bounds) if groups == 1 else None
        bounds = np.arange(weight.channels * groups + 1, dtype=np.int64) * (weight.elements // groups)
        if (weight.count == 1 or weight.stride == weight.length) and weight.channel_stride == weight.channel_bytes:
            return cls(weight, "rows", bounds) if weight.channel_bytes % groups == 0 else None
        if groups > 1:
            return None
        beside = weight.channel_stride == weight.length and weight.stride == weight.channels * weight.length
        return cls(weight, "columns" if beside else "apart", bounds)

    def __len__(self) -> int:
        return int(self.bounds.size - 1)

    def stretches(self, units: Indices, kinds: Indices) -> Iterator[tuple[int, int]]:
        """Cover `units` (k,), ascending, by (first, last) of runs; those of unequal `kinds` (k,) never share one.

        Units between two of a run are left as they are by the mask: that is cheaper than another run where they are small.
        """
        filled = self.bounds[units + 1] > self.bounds[units]
        units, kinds = units[filled], kinds[filled]
        if not units.size:
            return
        gaps = self.bounds[units[1:]] - self.bounds[units[:-1] + 1]
        most = 8 * RUN.itemsize if self.form != "apart" else -1
        breaks = np.flatnonzero((gaps > most) | (np.diff(kinds) != 0))
        firsts, lasts = np.append(0, breaks + 1), np.append(breaks, units.size - 1)
        yield from zip(units[firsts].tolist(), units[lasts].tolist(), strict=True)

    def run(self, first: int, last: int) -> Run:
        """The bytes of the units from `first` to `last`."""
        weight = self.weight
        if self.form == "rows":
            start, stop = (int(bound) * weight.element.bits // 8 for bound in self.bounds[[first, last + 1]])
            return single(weight.offset + start, stop - start)
        assert isinstance(weight, Part)  # noqa: S101
        if self.form == "apart":
            return weight.run(first)
        length = (last - first + 1) * weight.length
        if length == weight.stride:
            return single(weight.offset, length * weight.count)
        return Run(weight.offset + first * weight.length, length, weight.stride, weight.count)

    def chunks(self, first: int, last: int) -> Iterator[Bytes]:
        """The bytes of the run of units from `first` to `last` in parts; all but the last have a multiple of 8 elements."""
        run, data, bits = self.run(first, last), self.weight.file.data, self.weight.element.bits
        piece = run.length * 8 // bits
        if run.count == 1:
            for start in range(run.offset, run.end, CHUNK * bits // 8):
                yield data[start : min(start + CHUNK * bits // 8, run.end)]
            return
        at_once = max(8, CHUNK // piece // 8 * 8)
        for start in range(0, run.count, at_once):
            rows, at = min(at_once, run.count - start), run.offset + start * run.stride
            yield np.ndarray((rows, run.length), np.uint8, data, at, (run.stride, 1)).reshape(-1)

    def chosen_elements(self, first: int, last: int, begin: int, end: int, chosen: Flags) -> Flags:
        """Of the elements from number `begin` to before `end` of that run, whether each is of a unit of `chosen`, bool (units,)."""
        if self.form == "columns":
            assert isinstance(self.weight, Part)  # noqa: S101
            of_piece = np.repeat(chosen[first : last + 1], self.weight.length * 8 // self.weight.element.bits)
            return np.resize(np.roll(of_piece, -begin), end - begin)
        start, stop = int(self.bounds[first]) + begin, int(self.bounds[first]) + end
        low, high = np.searchsorted(self.bounds, (start, stop - 1), "right") - 1
        return np.repeat(chosen[low : high + 1], np.diff(np.clip(self.bounds[low : high + 2], start, stop)))
