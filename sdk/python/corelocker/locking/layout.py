"""The bytes that a lock changes: which, what stands there in each tier's state, and the runs that name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Part, WeightTensor
from corelocker.bundle.patch_runs import RUN, Table
from corelocker.errors import LockingError, UnsupportedLayoutError
from corelocker.files import Bytes
from corelocker.locking.flipped import FlippedRun
from corelocker.runs import Run, single

TierMap = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
LONG = 1 << 16  # longer pieces are copied one by one
CHUNK = 1 << 20  # bytes that are gathered at a time
ORIGINAL = 255  # stands for the last state, however many there are


@dataclass(frozen=True, eq=False)
class LockedRuns:
    """Locked runs of one form: n times `count` pieces of `length` bytes, `stride` apart.

    Held as arrays, because a layer has thousands: what is done to each in Python keeps the threads waiting that hash and write.

    Attributes:
        offsets: (n,) int64, where each run begins in the file.
        tiers: (n,) uint8; `data` stands there until the patch of that tier puts the original back.
        data: (n, count * length) uint8, the pieces of each run in order.
    """

    length: int
    stride: int
    count: int
    offsets: Indices = field(repr=False)
    tiers: TierMap = field(repr=False)
    data: Bytes = field(repr=False)

    @classmethod
    def of_run(cls, run: Run, tier: int, data: Bytes) -> LockedRuns:
        """A single run."""
        one = np.array([run.offset]), np.array([tier], np.uint8), data.reshape(1, -1)
        return cls(run.length, run.stride, run.count, *one)

    @classmethod
    def of_part(cls, part: Part, channels: Indices, tiers: TierMap, data: Bytes) -> LockedRuns:
        """The given channels (n,) of a part, with the tiers (n,) and the bytes (n, bytes of a channel) of each."""
        form = part.run(0)
        return cls(form.length, form.stride, form.count, part.offset + channels * part.channel_stride, tiers, data)

    def __iter__(self) -> Iterator[tuple[Run, int, Bytes]]:
        """Each run with its tier and its bytes."""
        for offset, tier, data in zip(self.offsets.tolist(), self.tiers.tolist(), self.data, strict=True):
            yield Run(offset, self.length, self.stride, self.count), tier, data

    @property
    def key_size(self) -> int:
        """Bytes that the access key holds of the runs."""
        return self.data.size

    @property
    def extent(self) -> tuple[int, int]:
        """(start, stop) of the smallest range of the file that holds all runs."""
        return int(self.offsets.min()), int(self.offsets.max()) + (self.count - 1) * self.stride + self.length

    def table(self, rows: Indices) -> Table:
        """The runs `rows` (k,) as a patch names them. Raises LockingError when one does not fit the patch format."""
        if max(self.length, self.stride, self.count) >= 1 << 32:
            raise LockingError("a run of locked bytes is longer than 4 GiB", hint="Lock fewer channels side by side")
        table = np.zeros(rows.size, RUN)
        table["offset"] = self.offsets[rows]
        table["length"], table["stride"], table["count"] = self.length, self.stride, self.count
        return table

    def apply(self, start: int, block: Bytes, state: int) -> None:
        """Write into `block`, the original file from `start` on, what stands there in the state of a tier."""
        stop = start + block.size
        low, high = int(self.offsets.min()), int(self.offsets.max())
        first = max(0, -(-(start + 1 - high - self.length) // self.stride))
        last = min(self.count - 1, (stop - 1 - low) // self.stride)
        if last < first:
            return
        # (n, pieces): where the pieces lie in the block that can reach into it
        at = self.offsets[:, None] + (np.arange(first, last + 1) * self.stride - start)
        inside = (self.tiers > state)[:, None] & (at < block.size) & (at + self.length > 0)
        whole = inside & (at >= 0) & (at + self.length <= block.size) & (self.length <= LONG)
        pieces = self.data.reshape(self.tiers.size, self.count, self.length)[:, first : last + 1]
        if whole.any():
            _windows(block, self.length)[at[whole]] = pieces[whole].view(f"V{self.length}")[:, 0]
        for row, piece in np.argwhere(inside & ~whole).tolist():
            begin = int(at[row, piece])
            low, high = max(begin, 0), min(begin + self.length, block.size)
            block[low:high] = pieces[row, piece, low - begin : high - begin]

    def original(self, file: Bytes, rows: Indices) -> Bytes:
        """The bytes of the original file at the runs `rows` (k,), in run order."""
        at = self.offsets[rows, None] + np.arange(self.count) * self.stride
        if self.length > LONG:
            return np.concatenate([file[begin : begin + self.length] for begin in at.ravel().tolist()])
        return np.asarray(_windows(file, self.length)[at].reshape(-1).view(np.uint8))


def _windows(data: Bytes, length: int) -> npt.NDArray[np.void]:
    """Every range of `length` bytes as one item, by its offset; they overlap."""
    return np.ndarray((data.size - length + 1,), f"V{length}", data, strides=(1,))


@dataclass(frozen=True)
class Name:
    """A copy of an identity: `states[t]` is what stands at `offset` in the state of tier t, the original in the last."""

    offset: int
    states: tuple[bytes, ...]


class Change(NamedTuple):
    """What a patch does to some of `runs`: `rows` (k,) ascend by offset.

    `after` is what it puts there, or None for the original file's bytes or a flip.
    """

    runs: LockedRuns | FlippedRun
    rows: Indices
    after: Bytes | None

    def chunks(self) -> Iterator[Change]:
        """The same in parts of about a megabyte."""
        step = max(1, CHUNK // (self.runs.length * self.runs.count))
        for first in range(0, self.rows.size, step):
            yield self._replace(rows=self.rows[first : first + step])


def crossing_runs(
    tensor: WeightTensor,
    rows: TierMap,
    row_data: Mapping[int, Bytes],
    columns: TierMap,
    column_data: Mapping[int, Bytes],
) -> list[LockedRuns]:
    """LockedRuns of a weight whose output channels (`rows`) and input channels (`columns`) are both locked, none named twice.

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
    forms: dict[tuple[int, int, int], list[tuple[int, int, Bytes]]] = {}
    for tier, top, height, left, width, run in _rectangles(mask, weight.offset, length):
        contents = np.ascontiguousarray(image[top : top + height, left : left + width]).reshape(-1)
        forms.setdefault((run.length, run.stride, run.count), []).append((run.offset, tier, contents))
    return [
        LockedRuns(
            *form,
            np.array([o for o, _, _ in runs]),
            np.array([t for _, t, _ in runs], np.uint8),
            np.stack([d for _, _, d in runs]),
        )
        for form, runs in forms.items()
    ]


def _rectangles(mask: TierMap, offset: int, length: int) -> Iterator[tuple[int, int, int, int, int, Run]]:
    """Cover the elements of equal tier > 0 by (tier, top, height, left, width, run) rectangles of lines and units."""
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

    def __init__(self, runs: Iterable[LockedRuns | FlippedRun], names: Iterable[Name]) -> None:
        self.runs = [c for c in runs if c.tiers.size]
        self.names = sorted(names, key=lambda n: n.offset)
        extents = np.array([c.extent for c in self.runs], np.int64).reshape(-1, 2)
        self._starts, self._stops = extents[:, 0], extents[:, 1]

    def apply(self, start: int, block: Bytes, state: int, above: int = ORIGINAL) -> None:
        """Write the state's bytes into `block`, which holds the file in the state `above` from `start` on."""
        stop = start + block.size
        for index in np.flatnonzero((self._starts < stop) & (self._stops > start)).tolist():
            runs = self.runs[index]
            if isinstance(runs, FlippedRun):
                runs.apply(start, block, state, above)
            else:
                runs.apply(start, block, state)
        for name in self._names(start, stop, state):
            text = np.frombuffer(name.states[state], np.uint8)
            low, high = max(name.offset, start), min(name.offset + text.size, stop)
            block[low - start : high - start] = text[low - name.offset : high - name.offset]

    def _names(self, start: int, stop: int, state: int) -> Iterator[Name]:
        for name in self.names:
            if (
                name.offset < stop
                and name.offset + len(name.states[state]) > start
                and name.states[state] != name.states[-1]
            ):
                yield name

    def changes(self, tier: int) -> list[Change]:
        """What the patch of `tier` changes, by offset."""
        found = [Change(changed, np.flatnonzero(changed.tiers == tier), None) for changed in self.runs]
        for name in self.names:
            before, after = (np.frombuffer(name.states[state], np.uint8) for state in (tier - 1, tier))
            if not np.array_equal(before, after):
                locked = np.frombuffer(name.states[0], np.uint8)
                runs = LockedRuns.of_run(single(name.offset, locked.size), tier, locked)
                found.append(Change(runs, np.zeros(1, np.int64), after))
        found = [change for change in found if change.rows.size]
        if not found:
            return []
        of = np.repeat(np.arange(len(found)), [change.rows.size for change in found])
        rows = np.concatenate([change.rows for change in found])
        order = np.argsort(np.concatenate([change.runs.offsets[change.rows] for change in found]), kind="stable")
        of, rows = of[order], rows[order]
        # One change for each stretch of runs that belong together
        bounds = [0, *(np.flatnonzero(np.diff(of)) + 1).tolist(), of.size]
        return [found[of[first]]._replace(rows=rows[first:last]) for first, last in pairwise(bounds)]
