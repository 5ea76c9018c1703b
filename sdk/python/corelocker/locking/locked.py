"""Locked artifacts before they are written: the original files, and the bytes in them that change."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from corelocker.artifacts import Artifact
from corelocker.files import Bytes, MappedFile
from corelocker.locking.flipped import FlippedRun
from corelocker.locking.layout import ORIGINAL, LockedRuns, Name, Overlay

FileRuns = tuple[MappedFile, LockedRuns | FlippedRun]


class Filling:
    """The changed bytes of layers with the same weights, in one file; they may still be being drawn in another thread.

    Attributes:
        extents: (start, stop) of each range of the file that they lie in.
    """

    def __init__(self, file: MappedFile, extents: list[tuple[int, int]], drawn: Future[list[FileRuns]]) -> None:
        self.extents = extents
        self._file = file
        self._drawn = drawn

    @cached_property
    def overlay(self) -> Overlay:
        """The changed bytes, once they are drawn; raises what kept them from being drawn."""
        return Overlay([runs for file, runs in self._drawn.result() if file is self._file], [])


class LockedFile:
    """One file of an artifact and the bytes in it that change."""

    def __init__(self, file: MappedFile, fillings: list[Filling], names: list[Name]) -> None:
        self.file = file
        self._fillings = fillings
        self._names = Overlay([], names)
        # (start, stop, place of the filling)
        self._extents = np.array(
            [(*extent, place) for place, filling in enumerate(fillings) for extent in filling.extents], np.int64
        ).reshape(-1, 3)

    @cached_property
    def overlay(self) -> Overlay:
        """All that changes, once everything is drawn."""
        return Overlay(
            [runs for filling in self._fillings for runs in filling.overlay.runs],
            self._names.names,
        )

    def apply(self, start: int, block: Bytes, state: int, above: int = ORIGINAL) -> None:
        """Write the state's bytes into `block`, which holds the file in the state `above` from `start` on.

        Waits for the layers in the block only.
        """
        touched = (self._extents[:, 0] < start + block.size) & (self._extents[:, 1] > start)
        for place in dict.fromkeys(self._extents[touched, 2].tolist()):
            self._fillings[place].overlay.apply(start, block, state, above)
        self._names.apply(start, block, state)

    @property
    def locked_bytes(self) -> int:
        """Bytes that the access key holds of weights that are locked in the tier that ships."""
        return sum(runs.key_size for runs in self.overlay.runs)


@dataclass
class LockedArtifact:
    """What a plan does to an artifact.

    Attributes:
        files: in the order of `artifact.files`.
        locked_channels, channels: how many of how many.
        weight_bytes: bytes of all lockable tensors, with what belongs to their channels.
        not_followed: tensor -> why its consumers or its inputs stay, when the plan takes consumers.
    """

    artifact: Artifact
    files: list[LockedFile]
    locked_channels: int
    channels: int
    weight_bytes: int
    not_followed: dict[str, str]

    @property
    def locked_bytes(self) -> int:
        """Bytes that the access key holds of weights that are locked in the tier that ships."""
        return sum(file.locked_bytes for file in self.files)
