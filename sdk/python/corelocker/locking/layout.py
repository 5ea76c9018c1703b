"""The bytes that a lock changes: which, what stands there in each tier's state, and the runs that name them."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Part, WeightTensor
from corelocker.errors import UnsupportedLayoutError
from corelocker.files import Bytes
from corelocker.runs import Run, single

TierMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Cell:
    """Locked bytes: `data` (uint8, the run's pieces in order) stands at `run` until the patch of `tier` puts the original back."""

    run: Run
    tier: int
    data: Bytes


@dataclass(frozen=True)
class Name:
    """A copy of an identity: `states[t]` is what stands at `offset` in the state of tier t, the original in the last."""

    offset: int
    states: tuple[bytes, ...]


def crossing_cells(
    tensor: WeightTensor, rows: TierMap, row_data: dict[int, Bytes], columns: TierMap, column_data: dict[int, Bytes]
) -> list[Cell]:
    """Cells of a weight whose output channels (`rows`) and input channels (`columns`) are both locked, none named twice.

    Where both cross, the byte holds the row's fill and comes back with the later of the two tiers.

    Raises UnsupportedLayoutError when the weight is not a dense matrix of units.
    """
    weight, inputs = tensor.weight, tensor.inputs
    if not isinstance(weight, Part) or inputs is None:
        raise UnsupportedLayoutError(f"{tensor.name}: its input channels are not runs of whole bytes")
    by_output = weight.count == 1
    grid = inputs if by_output else weight  # the view that crosses the file's rows
    lines, units, length = grid.count, grid.channels, grid.length
    if grid.channel_stride != length or (lines > 1 and grid.stride != units * length) or grid.offset != weight.offset:
        raise UnsupportedLayoutError(f"{tensor.name}: its input channels cross its output channels in no regular way")
    along, across = (rows, columns) if by_output else (columns, rows)
    along_data, across_data = (row_data, column_data) if by_output else (column_data, row_data)
    repeat = lines // along.size
    mask = np.maximum(np.repeat(along, repeat)[:, None], across[None, :])
    image = np.zeros((lines, units, length), np.uint8)
    # Outputs are written last: a byte in both holds the row's fill.
    writes = [(across_data, False), (along_data, True)] if by_output else [(along_data, True), (across_data, False)]
    for data, is_line in writes:
        for index, filled in data.items():
            if is_line:
                image[index * repeat : (index + 1) * repeat] = filled.reshape(repeat, units, length)
            else:
                image[:, index] = filled.reshape(lines, length)
    return [
        Cell(run, tier, np.ascontiguousarray(image[top : top + height, left : left + width]).reshape(-1))
        for tier, top, height, left, width, run in _rectangles(mask, weight.offset, length)
    ]


def _rectangles(mask: TierMap, offset: int, length: int) -> Iterator[tuple[int, int, int, int, int, Run]]:
    """Cover the cells of equal tier > 0 by (tier, top, height, left, width, run) rectangles of lines and units."""
    units = mask.shape[1]
    pitch = units * length
    for tier in np.unique(mask[mask > 0]):
        edges = np.diff(np.pad((mask == tier).astype(np.int8), ((1, 1), (0, 0))), axis=0)
        left, top = np.nonzero(edges.T == 1)
        _, bottom = np.nonzero(edges.T == -1)
        order = np.lexsort((left, bottom, top))
        left, top, bottom = left[order], top[order], bottom[order]
        new = np.ones(left.size, bool)
        new[1:] = (np.diff(left) != 1) | (np.diff(top) != 0) | (np.diff(bottom) != 0)
        starts = np.flatnonzero(new)
        for start, stop in zip(starts, [*starts[1:], left.size], strict=True):
            width, height = int(stop - start), int(bottom[start] - top[start])
            begin = offset + int(top[start]) * pitch + int(left[start]) * length
            if width == units:
                run = single(begin, height * pitch)
            elif height == 1:
                run = single(begin, width * length)
            else:
                run = Run(begin, width * length, pitch, height)
            yield int(tier), int(top[start]), height, int(left[start]), width, run


class Overlay:
    """The changed bytes of one file, in any state, applied block by block."""

    def __init__(self, cells: list[Cell], names: list[Name]) -> None:
        self.cells = sorted(cells, key=lambda c: c.run.offset)
        self.names = sorted(names, key=lambda n: n.offset)
        self._single = [c for c in self.cells if c.run.count == 1]
        self._strided = [c for c in self.cells if c.run.count > 1]
        self._starts = [c.run.offset for c in self._single]
        self._longest = max((c.run.length for c in self._single), default=0)

    def apply(self, start: int, block: Bytes, state: int) -> None:
        """Write the state's bytes into `block`, a copy of the original file from `start` on."""
        stop = start + block.size
        for cell in self._active(start, stop, state):
            run = cell.run
            first = max(0, -(-(start - run.offset - run.length + 1) // run.stride))
            last = min(run.count - 1, (stop - 1 - run.offset) // run.stride)
            if last < first:
                continue
            pieces = cell.data.reshape(run.count, run.length)
            inside_first, inside_last = first, last
            for piece, end in ((first, "first"), (last, "last")):
                at = run.offset + piece * run.stride
                if at < start or at + run.length > stop:
                    low, high = max(at, start), min(at + run.length, stop)
                    block[low - start : high - start] = pieces[piece, low - at : high - at]
                    if end == "first":
                        inside_first = first + 1
                    else:
                        inside_last = last - 1
            if inside_last >= inside_first:
                count = inside_last - inside_first + 1
                at = run.offset + inside_first * run.stride - start
                where = np.lib.stride_tricks.as_strided(block[at:], (count, run.length), (run.stride, 1))
                where[:] = pieces[inside_first : inside_last + 1]
        for name in self._names(start, stop, state):
            text = np.frombuffer(name.states[state], np.uint8)
            low, high = max(name.offset, start), min(name.offset + text.size, stop)
            block[low - start : high - start] = text[low - name.offset : high - name.offset]

    def _active(self, start: int, stop: int, state: int) -> Iterator[Cell]:
        first = bisect.bisect_left(self._starts, start - self._longest + 1)
        for index in range(first, bisect.bisect_left(self._starts, stop)):
            cell = self._single[index]
            if cell.tier > state and cell.run.end > start:
                yield cell
        for cell in self._strided:
            if cell.tier > state and cell.run.offset < stop and cell.run.end > start:
                yield cell

    def _names(self, start: int, stop: int, state: int) -> Iterator[Name]:
        for name in self.names:
            if (
                name.offset < stop
                and name.offset + len(name.states[state]) > start
                and name.states[state] != name.states[-1]
            ):
                yield name

    def patch_entries(self, tier: int) -> list[tuple[Run, Bytes, Bytes | None]]:
        """What the patch of `tier` changes, by offset: (run, bytes before, bytes after or None for the original file's)."""
        entries: list[tuple[Run, Bytes, Bytes | None]] = [(c.run, c.data, None) for c in self.cells if c.tier == tier]
        for name in self.names:
            before, after = name.states[tier - 1], name.states[tier]
            if before != after:
                run = single(name.offset, len(before))
                entries.append((run, np.frombuffer(before, np.uint8), np.frombuffer(after, np.uint8)))
        return sorted(entries, key=lambda entry: entry[0].offset)
