"""Files that hold weights of several artifacts: a `.ptd` whose weights several programs read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from corelocker.artifacts.git_lfs import POINTER, refuse_pointer
from corelocker.artifacts.weights import Artifact, WeightTensor
from corelocker.errors import UnsupportedLayoutError
from corelocker.files import MappedFile


class ExternalFiles:
    """The `.ptd` files that were opened so far, each mapped once."""

    def __init__(self) -> None:
        self._opened: dict[Path, MappedFile] = {}

    def open(self, path: Path) -> MappedFile:
        """The file at `path`. Raises FileAccessError, MalformedArtifactError or UnknownFormatError."""
        place = path.absolute()
        if place not in self._opened:
            file = MappedFile(path, path.name)
            refuse_pointer(path, file.data[: len(POINTER)].tobytes())
            self._opened[place] = file
        return self._opened[place]


def check_shared_weights(artifacts: Sequence[Artifact]) -> None:
    """Raise UnsupportedLayoutError where artifacts read overlapping weights of one file in different forms.

    What is locked for one of them would not be what the other reads as its channels.
    """
    owners: dict[MappedFile, list[tuple[Artifact, WeightTensor]]] = {}
    for artifact in artifacts:
        for tensor in artifact.tensors:
            owners.setdefault(tensor.weight.file, []).append((artifact, tensor))
    for file, found in owners.items():
        if len({id(artifact) for artifact, _ in found}) < 2:
            continue
        found.sort(key=lambda entry: entry[1].weight.extent)
        for (one, first), (other, second) in pairwise(found):
            overlap = second.weight.offset < sum(first.weight.extent)
            if overlap and one is not other and first.place != second.place:
                raise UnsupportedLayoutError(
                    f"{file.name}: {one.path.name} reads {first.name} and {other.path.name} reads {second.name} from the same "
                    "bytes, but in different forms",
                    hint="Export each program with external weights of its own",
                )
