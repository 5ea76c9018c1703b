"""The FlatBuffer of a `.pte` and the segments behind it.

A `.pte` is a FlatBuffer `ET12`, an extended header `eh00` in it, and segments behind it: one with the constants of portable
kernels, one for each named datum, one for each delegate's blob. Field numbers are those of executorch/schema/program.fbs;
nothing here needs ExecuTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

from corelocker.artifacts.executorch.flatbuffer import FlatBuffer, FlatTable
from corelocker.artifacts.executorch.named_data import NamedData, add_named_segments, segments_of
from corelocker.artifacts.layers import Region, printable
from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import MalformedArtifactError, UnknownFormatError
from corelocker.files import MappedFile

HEADER = 8  # where the extended header begins
SEGMENT = 1  # DataLocation


@dataclass(frozen=True)
class ExecutionPlan:
    """One method of a program."""

    name: str
    table: FlatTable


class ProgramFile:
    """The FlatBuffer of a `.pte` and its segments."""

    def __init__(self, file: MappedFile, budget: WorkBudget, named: NamedData) -> None:
        self.file = file
        self.budget = budget
        size, base = len(file), 0
        if len(file) >= 32 and bytes(file.read(HEADER, 4)) == b"eh00":
            head = file.read(HEADER, 24)
            size, base = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
        buffer = FlatBuffer(file.name, file.read(0, size), 0, budget)
        if buffer.identifier != b"ET12":
            raise UnknownFormatError(f"{file.path}: not an ExecuTorch program of a known version")
        root = buffer.root()
        self.segments = segments_of(root, 4, file, base, len(file))
        add_named_segments(root, 7, file, self.segments, named)
        self._inline = [Region(file, *data.span(0)) for data in root.tables(3)]
        self._constants = self._read_constants(root)
        self.graphs: set[Region] = set()  # delegates' data that is read, so that what it holds beside weights is known
        self.plans = [
            ExecutionPlan(printable(table.text(0)) or f"method{i}", table) for i, table in enumerate(root.tables(1))
        ]

    def _read_constants(self, root: FlatTable) -> list[Region]:
        """Constants of portable kernels: in one segment, or in the FlatBuffer itself as older exporters have it."""
        table = root.table(5)
        offsets = table.u64s(1) if table is not None else ()
        if table is None or not offsets:
            return [Region(self.file, *buffer.span(0)) for buffer in root.tables(2)]
        if len(offsets) == 1:
            return []
        segment = self.segment(table.u32(0))
        regions = []
        for offset in offsets:
            if offset > segment.size:
                raise MalformedArtifactError(
                    f"{self.file.name}: a constant lies at {offset} of a segment of {segment.size} bytes"
                )
            regions.append(Region(self.file, segment.offset + offset, segment.size - offset))
        return regions

    def segment(self, index: int) -> Region:
        if index >= len(self.segments):
            raise MalformedArtifactError(f"{self.file.name}: there is no segment {index} of {len(self.segments)}")
        return self.segments[index]

    def constant(self, index: int) -> Region:
        if index >= len(self._constants):
            raise MalformedArtifactError(f"{self.file.name}: there is no constant {index} of {len(self._constants)}")
        return self._constants[index]

    def delegate(self, table: FlatTable | None) -> Region:
        """The blob of a delegate: a segment, or bytes in the FlatBuffer."""
        index = table.u32(1) if table is not None else 0
        if table is not None and table.u8(0) == SEGMENT:
            return self.segment(index)
        if table is None or index >= len(self._inline):
            raise MalformedArtifactError(f"{self.file.name}: a delegate has no data")
        return self._inline[index]
