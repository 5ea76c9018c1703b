"""Core ML's weight file `weights/weight.bin`: a 64-byte header, then blobs of 64 bytes of metadata and data each.

The layout is MILBlob's (coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`), version 2:

    header    u32 number of blobs, u32 version = 2, zeros up to 64 bytes
    metadata  u32 0xDEADBEEF, u32 data type, u64 bytes, u64 offset of the data, u64 unused bits at the end (read
              for elements below 8 bits only), reserved up to 64 bytes

Offsets count from the start of the weight file and are multiples of 64. Inside a `.pte` the same file begins at any byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from corelocker.artifacts.elements import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    INT4,
    INT8,
    INT32,
    UINT1,
    UINT2,
    UINT3,
    UINT4,
    UINT6,
    UINT8,
    ElementType,
)
from corelocker.errors import MalformedArtifactError, UnknownFormatError
from corelocker.files import MappedFile

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
METADATA = struct.Struct("<IIQQQ")
ELEMENTS = {
    1: FLOAT16, 2: FLOAT32, 3: UINT8, 4: INT8, 5: BFLOAT16, 8: INT4, 9: UINT1, 10: UINT2, 11: UINT4, 12: UINT3, 13: UINT6,
    14: INT32,
    # Never weights that can be locked, but a file may hold them.
    6: ElementType("int16", 16, False), 7: ElementType("uint16", 16, False, signed=False),
    15: ElementType("uint32", 32, False, signed=False),
    16: ElementType("float8e4m3fn", 8, False), 17: ElementType("float8e5m2", 8, False),
}  # fmt: skip


@dataclass(frozen=True)
class Blob:
    """One blob.

    Attributes:
        file: the file it lies in.
        metadata: offset of its metadata in that file; with the file it identifies the blob.
        offset: offset of its data in that file.
        size: bytes of data.
        element: type of its elements.
        count: number of elements.
    """

    file: MappedFile = field(repr=False)
    metadata: int
    offset: int
    size: int
    element: ElementType
    count: int

    def read(self) -> memoryview:
        """The data, without a copy."""
        return self.file.read(self.offset, self.size)


class WeightFile:
    """The blobs of a weight file, each checked when it is first asked for.

    Args:
        file: the mapped file that holds it.
        base: where in `file` it begins.
        size: its length; by default it reaches to the end of `file`.

    Raises MalformedArtifactError when the header or a blob contradicts the file or another blob, UnknownFormatError for another
    version of the format.
    """

    def __init__(self, file: MappedFile, base: int = 0, size: int | None = None) -> None:
        self._file = file
        self._base = base
        self._size = len(file) - base if size is None else size
        self._blobs: dict[int, Blob] = {}
        header = file.read(base, min(ALIGNMENT, self._size)) if self._size >= 0 else memoryview(b"")
        if len(header) < ALIGNMENT or base + self._size > len(file):
            raise MalformedArtifactError(f"{file.name}: too short for a Core ML weight file")
        self._count, version = struct.unpack_from("<II", header)
        if version != VERSION:
            raise UnknownFormatError(
                f"{file.name}: weight file version {version}; this release reads version {VERSION}"
            )
        if self._count * 2 * ALIGNMENT > self._size + ALIGNMENT:
            raise MalformedArtifactError(f"{file.name}: {self._count} blobs do not fit into {self._size} bytes")

    def blob(self, offset: int) -> Blob:
        """The blob whose metadata lies at `offset` of the weight file."""
        known = self._blobs.get(offset)
        if known is None:
            known = self._blobs[offset] = self._check(offset)
            if len(self._blobs) > self._count:
                raise self._error(offset, f"is blob {len(self._blobs)}, the header counts {self._count}")
        return known

    def check_overlap(self) -> None:
        """Raise MalformedArtifactError when two of the blobs read so far share bytes."""
        last_end, last = 0, 0
        for offset, blob in sorted(self._blobs.items()):
            if offset < last_end:
                raise self._error(offset, f"overlaps the one at {last}")
            last_end, last = blob.offset - self._base + blob.size, offset

    def _check(self, offset: int) -> Blob:
        if offset < ALIGNMENT or offset % ALIGNMENT or offset + ALIGNMENT > self._size:
            raise self._error(offset, "is no place for one")
        sentinel, kind, size, data, padding = METADATA.unpack_from(self._file.read(self._base + offset, METADATA.size))
        if sentinel != SENTINEL:
            raise self._error(offset, "does not begin with the sentinel")
        if kind not in ELEMENTS:
            raise self._error(offset, f"has the unknown data type {kind}")
        element = ELEMENTS[kind]
        if data % ALIGNMENT or data < offset + ALIGNMENT or size == 0 or data + size > self._size:
            raise self._error(offset, f"puts {size} bytes at {data} of {self._size}")
        if element.bits >= 8:
            padding = (
                0  # writers before iOS 18 (coremltools 7) leave the field uninitialised, and no such element needs it
            )
        bits = size * 8 - padding
        if padding >= 8 or bits % element.bits:
            raise self._error(offset, f"holds {bits} bits, which are no {element.name} elements")
        return Blob(self._file, self._base + offset, self._base + data, size, element, bits // element.bits)

    def _error(self, offset: int, what: str) -> MalformedArtifactError:
        return MalformedArtifactError(f"{self._file.name}: the blob at {offset} {what}")
