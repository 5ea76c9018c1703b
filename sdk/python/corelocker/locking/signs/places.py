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

CHUNK = 1 << 18  # elements that are looked at at a time, a multiple of 8; they stay in the processor's cache


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

    def chunks(self, first: int, last: int, chosen: Flags) -> Iterator[tuple[Bytes, Flags]]:
        """The run of units from `first` to `last` in parts: its bytes, a copy, and whether each element is of a unit of `chosen`.

        `chosen` is bool (units,). All parts but the last have a multiple of 8 elements.
        """
        run, bits = self.run(first, last), self.weight.element.bits
        data = self.weight.file.data
        if self.form == "columns":
            assert isinstance(self.weight, Part)  # noqa: S101
            of_piece = np.repeat(chosen[first : last + 1], self.weight.length * 8 // bits)
            pieces = max(8, CHUNK // of_piece.size // 8 * 8)
            length = of_piece.size * bits // 8
            for start in range(0, self.weight.count, pieces):
                rows = min(pieces, self.weight.count - start)
                at = run.offset + start * self.weight.stride
                view = np.ndarray((rows, length), np.uint8, data, at, (self.weight.stride, 1))
                yield view.copy().reshape(-1), np.tile(of_piece, rows)
            return
        raw = data[run.offset : run.end] if run.count == 1 else np.ndarray(
            (run.count, run.length), np.uint8, data, run.offset, (run.stride, 1)
        ).copy().reshape(-1)  # fmt: skip
        begin, end = int(self.bounds[first]), int(self.bounds[last + 1])
        for start in range(begin, end, CHUNK):
            stop = min(start + CHUNK, end)
            low, high = np.searchsorted(self.bounds, (start, stop - 1), "right") - 1
            sizes = np.diff(np.clip(self.bounds[low : high + 2], start, stop))
            of_element = np.repeat(chosen[low : high + 1], sizes)
            yield raw[(start - begin) * bits // 8 : (stop - begin) * bits // 8].copy(), of_element
