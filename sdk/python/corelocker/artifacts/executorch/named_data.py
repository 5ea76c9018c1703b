"""Named data of a program: what delegates and external constants find by a key, in the `.pte` or in a `.ptd` beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corelocker.artifacts.executorch.flatbuffer import FlatBuffer, FlatTable
from corelocker.artifacts.external_files import ExternalFiles
from corelocker.artifacts.layers import Region
from corelocker.artifacts.weights import Identity
from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import FileAccessError, MalformedArtifactError, UnknownFormatError
from corelocker.files import MappedFile

DIGEST = re.compile(r"[0-9a-f]{64}$")


@dataclass
class _Named:
    region: Region
    copies: set[tuple[str, int]] = field(default_factory=set)
    length: int = 0
    covers: dict[Region, None] = field(default_factory=dict)
    is_content: bool = False


class NamedData:
    """Data that delegates and external constants find by a key.

    ExecuTorch searches the keys one by one (runtime/executor/pte_data_map.cpp, extension/flat_tensor/flat_tensor_data_map.cpp),
    so a key may be overwritten in place.
    """

    def __init__(self, program: MappedFile, budget: WorkBudget, external: ExternalFiles) -> None:
        self._program = program
        self._external = external
        self._budget = budget
        self._named: dict[str, _Named] = {}
        self.stores: list[MappedFile] = []
        self.used: dict[Region, None] = {}

    def open(self, path: Path) -> None:
        """Read a `.ptd`."""
        store = self._external.open(path)
        self.stores.append(store)
        read_flat_tensor(store, self._budget, self)

    def add(self, key: str, file: MappedFile, span: tuple[int, int], region: Region) -> None:
        """A datum of a program or of a `.ptd`; `span` is where its key stands."""
        named = self._named.setdefault(key, _Named(region))
        self._copy(named, key, file, span)

    def find(self, key: str) -> Region:
        """The bytes under a key. Raises FileAccessError when no file has them."""
        beside = self._program.path.with_suffix(".ptd")
        if key not in self._named and not self.stores and beside.exists():
            self.open(beside)
        named = self._named.get(key)
        if named is None:
            raise FileAccessError(
                f"{self._program.path}: the weights of {key[:100]!r} are in an external file that was not found",
                hint=f"Put it beside the program as {beside.name}, or name it",
            )
        self.used[named.region] = None
        return named.region

    def content(self, key: str, offset: int, length: int) -> Region:
        """The bytes under a key by which a runtime recognizes content; a copy of the key stands in the program at `offset`."""
        region = self.find(key)
        named = self._named[key]
        named.is_content = True
        named.covers[region] = None
        self._copy(named, key, self._program, (offset, length))
        return region

    def extend_identity(self, key: str, region: Region) -> None:
        """What is recognized by `key` holds this region too."""
        if key in self._named:
            self._named[key].covers[region] = None

    def places(self, key: str) -> Iterator[int]:
        """Where the key stands in the program."""
        for name, offset in self._named[key].copies if key in self._named else ():
            if name == self._program.name:
                yield offset

    @staticmethod
    def _copy(named: _Named, key: str, file: MappedFile, span: tuple[int, int]) -> None:
        named.copies.add((file.name, span[0]))
        named.length = span[1]

    def identities(self, files: Sequence[MappedFile]) -> Iterator[Identity]:
        """One for each of `files` that holds copies of a key; those of equal bytes belong together."""
        for key, named in self._named.items():
            if not named.is_content:
                continue
            skip = named.length - 64 if DIGEST.search(key) and named.length == len(key) else 0
            covers = tuple((region.file, region.offset, region.size) for region in named.covers)
            for file in files:
                places = sorted(offset + skip for (name, offset) in named.copies if name == file.name)
                if places:
                    yield Identity(file, tuple(places), named.length - skip, covers)


def segments_of(root: FlatTable, field_: int, file: MappedFile, base: int, limit: int) -> list[Region]:
    """Segments of a program or `.ptd`, as ranges of the file."""
    regions = []
    for segment in root.tables(field_):
        offset, size = base + segment.u64(0), segment.u64(1)
        if offset + size > min(limit, len(file)):
            raise MalformedArtifactError(
                f"{file.name}: a segment ends at {offset + size}, behind the file's {len(file)} bytes"
            )
        regions.append(Region(file, offset, size))
    return regions


def add_named_segments(
    root: FlatTable, field_: int, file: MappedFile, segments: list[Region], named: NamedData
) -> None:
    """Add the data that a program or `.ptd` names. Raises MalformedArtifactError for a segment that is not there."""
    for entry in root.tables(field_):
        index = entry.u32(1)
        if index >= len(segments):
            raise MalformedArtifactError(f"{file.name}: named data in segment {index} of {len(segments)}")
        named.add(entry.text(0), file, entry.span(0), segments[index])


def read_flat_tensor(file: MappedFile, budget: WorkBudget, named: NamedData) -> None:
    """Read a `.ptd`: FlatBuffer `FT01` with a header `FH01` (executorch/extension/flat_tensor/serialize)."""
    head = file.read(0, 48) if len(file) >= 48 else memoryview(b"")
    if bytes(head[4:8]) != b"FT01" or bytes(head[8:12]) != b"FH01":
        raise UnknownFormatError(f"{file.path}: not a .ptd file")
    offset, size, base, length = (int.from_bytes(head[at : at + 8], "little") for at in (16, 24, 32, 40))
    root = FlatBuffer(file.name, file.read(0, offset + size), 0, budget).root()
    segments = segments_of(root, 1, file, base, base + length)
    add_named_segments(root, 2, file, segments, named)
