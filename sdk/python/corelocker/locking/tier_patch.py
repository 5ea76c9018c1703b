"""The patch of a tier, and the samples of the file before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from corelocker.bundle.flips import check_flips
from corelocker.bundle.patch_runs import Table, check_runs, total_size
from corelocker.bundle.patch_stream import PatchStream
from corelocker.bundle.sample import end_places, piece_ends, sample_of, window_places
from corelocker.files import Bytes
from corelocker.locking.flipped import FlippedRun
from corelocker.locking.layout import Change, Indices
from corelocker.locking.locked import LockedFile

DIFFERING = 16
RESIDENT = 8 << 20  # mapped bytes that may stay in memory while the original is read


@dataclass(frozen=True)
class TierPatch:
    """The patch that turns the state of a tier's predecessor into that of the tier.

    Attributes:
        patch: reads the original file when it is written.
        payload_size: bytes that it puts in.
        locked_sample: sample of the locked file with the patch's runs, 32 bytes.
        restored_sample: sample of the file after the patch, with the same runs, 32 bytes.
        differing: where the locked and the restored file differ, ascending offsets of up to DIFFERING bytes at ends of runs.
    """

    patch: PatchStream = field(repr=False)
    payload_size: int
    locked_sample: bytes
    restored_sample: bytes
    differing: tuple[int, ...] = field(repr=False)


def tier_patch(locked: LockedFile, tier: int) -> TierPatch | None:
    """The patch of a tier, or None when the tier changes nothing in this file."""
    changes = [chunk for change in locked.overlay.changes(tier) for chunk in change.chunks()]
    if not changes:
        return None
    size = len(locked.file)
    table = np.concatenate([runs.table(rows) for runs, rows, _ in changes])
    check_runs(table, size)
    _check_flips(changes)
    locked_ends: list[Bytes] = []
    restored_ends: list[Bytes] = []
    for (runs, rows, _), restored in zip(changes, _pieces(locked, changes), strict=True):
        if isinstance(runs, FlippedRun):
            locked_ends.extend(_ends(locked, runs, 0))
            restored_ends.extend(_ends(locked, runs, tier))
        else:
            locked_ends.append(piece_ends(runs.data[rows], runs.length))
            # A copy, for what is yielded may be a view of the mapped file.
            restored_ends.append(piece_ends(restored.reshape(rows.size, -1), runs.length).copy())
    return TierPatch(
        PatchStream(table, lambda: _pieces(locked, changes)),
        total_size(table),
        sample_of(size, windows_of(locked, 0), locked_ends),
        sample_of(size, windows_of(locked, tier), restored_ends),
        _differing(table, locked_ends, restored_ends),
    )


def _differing(table: Table, locked: Sequence[Bytes], restored: Sequence[Bytes]) -> tuple[int, ...]:
    """Evenly spread over the ends of the runs `table` (n,), which are given as they follow each other, in pieces."""
    found, before = [], 0
    for was, becomes in zip(locked, restored, strict=True):
        places = np.flatnonzero(was.reshape(-1) != becomes.reshape(-1))
        found.append(before + _spread(places))
        before += was.size
    picked = _spread(np.concatenate(found))
    starts, sizes = end_places(table)
    stops = sizes.cumsum()
    end = np.searchsorted(stops, picked, side="right")
    # Not np.unique, which imports numpy.ma
    return tuple(sorted(set((starts[end] + picked - (stops[end] - sizes[end])).tolist())))


def _spread(places: Indices) -> Indices:
    return places[np.linspace(0, places.size - 1, min(DIFFERING, places.size)).astype(np.int64)]


def _pieces(locked: LockedFile, changes: Sequence[Change]) -> Iterator[Bytes]:
    """The payload of each change."""
    released = 0
    for runs, rows, after in changes:
        if isinstance(runs, FlippedRun):
            yield np.frombuffer(runs.part, np.uint8)
            continue
        yield runs.original(locked.file.data, rows) if after is None else after
        reached = int(runs.offsets[rows[0]])
        if reached - released > RESIDENT:
            locked.file.release(released, reached - released)
            released = reached


def _check_flips(changes: Sequence[Change]) -> None:
    flips = [(runs.table(rows), runs.part) for runs, rows, _ in changes if isinstance(runs, FlippedRun)]
    if flips:
        check_flips(np.concatenate([table for table, _ in flips]), memoryview(b"".join(part for _, part in flips)))


def windows_of(locked: LockedFile, state: int) -> Iterator[Bytes]:
    """The windows of a sample of the file in the state of a tier."""
    return (read_state(locked, start, length, state) for start, length in window_places(len(locked.file)))


def _ends(locked: LockedFile, run: FlippedRun, state: int) -> list[Bytes]:
    """The ends of a run in the state of a tier: between its flipped weights lie others, of other tiers."""
    places = end_places(run.table(np.zeros(1, np.int64)))
    return [
        read_state(locked, start, length, state)
        for start, length in zip(*(p.tolist() for p in places), strict=True)
        if length
    ]


def read_state(locked: LockedFile, start: int, length: int, state: int) -> Bytes:
    """Some bytes of the file in the state of a tier."""
    block = locked.file.data[start : start + length].copy()
    locked.apply(start, block, state)
    return block
