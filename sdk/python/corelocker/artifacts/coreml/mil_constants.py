"""Constants of an ML Program: plain, quantized, palettized and pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corelocker.artifacts.coreml.weight_bin import Blob
from corelocker.artifacts.elements import ElementType
from corelocker.artifacts.weights import Floats
from corelocker.errors import MalformedArtifactError

MAX_TABLE = 1 << 21  # elements of one tensor's scales or look-up tables once they are spelled out for each channel
MAX_TABLES = 1 << 25  # elements of those of all tensors; what goes beyond is left alone


@dataclass(frozen=True)
class MilConstant:
    """An array that is known before run time.

    Attributes:
        name: of the value that holds it.
        shape: as its reader sees it.
        stored: shape as it lies in the file, row-major.
        axes: for each dimension of `shape` the one of `stored`, or None for one of size 1 that was put in.
        blob: where its elements lie (codes when it is quantized, the non-zero ones when it is pruned), or None.
        element: how they are stored there (iOS 16 packs small codes into a blob of bytes).
        values: the array itself when it stands in the program.
        scale, zero: (code - zero) * scale; of the rank of `stored`, a dimension divides that of `stored`.
        lut: shape (*divisors of `stored`, entries).
        mask: bool, of shape `stored`, where elements are stored.
        problem: why it cannot be locked.
    """

    name: str
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    axes: tuple[int | None, ...]
    blob: Blob | None = None
    element: ElementType | None = None
    values: npt.NDArray[Any] | None = None
    scale: MilConstant | None = None
    zero: MilConstant | None = None
    lut: MilConstant | None = None
    mask: npt.NDArray[np.bool_] | None = None
    problem: str | None = None

    def rows(self) -> MilConstant:
        """Stacked matrices, such as experts, above each other: a matrix of the runs of the innermost dimension of `stored`."""
        count, width = math.prod(self.stored[:-1]), self.stored[-1]

        def merged(table: MilConstant | None) -> MilConstant | None:
            """A scale, zero point or look-up table of the matrix."""
            if table is None or table.problem is not None:
                return table
            rank = len(self.stored)
            leading, behind = table.stored[: rank - 1], table.stored[rank - 1 :]
            stored: tuple[int, ...] = (math.prod(leading), *behind)
            if leading == self.stored[:-1] or stored[0] == 1:
                return replace(table, shape=stored, stored=stored, axes=tuple(range(len(stored))))
            if count * math.prod(behind) > MAX_TABLE:
                return replace(table, problem="its scales or look-up tables are too many to be spelled out")
            stored = (count, *behind)
            values = spread_over_blocks(table.dense(), (*self.stored[:-1], behind[0])).reshape(stored)
            return MilConstant(table.name, stored, stored, tuple(range(len(stored))), table.blob, table.element, values)

        return replace(
            self,
            shape=(count, width),
            stored=(count, width),
            axes=(0, 1),
            scale=merged(self.scale),
            zero=merged(self.zero),
            lut=merged(self.lut),
            mask=None if self.mask is None else self.mask.reshape(count, width),
        )

    def dense(self) -> Floats:
        """What the constant stands for, float32 of shape `stored`. Only for small ones: scales, tables."""
        with np.errstate(all="ignore"):  # a damaged scale may be anything
            return self._dense()

    def _dense(self) -> Floats:
        if math.prod(self.stored) > MAX_TABLE:
            raise MalformedArtifactError(f"{self.name}: a table of {math.prod(self.stored)} elements")
        if self.problem is not None:
            raise MalformedArtifactError(f"{self.name}: {self.problem}")
        values = np.zeros(self.stored, np.float32)
        if self.mask is not None:
            values[self.mask] = self._elements()[: np.count_nonzero(self.mask)]
        else:
            values = self._elements()[: values.size].reshape(self.stored)
        if self.lut is not None:
            table = spread_over_blocks(self.lut.dense(), self.stored)
            places = np.clip(values.astype(np.int64), 0, table.shape[-1] - 1)
            values = np.take_along_axis(table, places[..., None], -1)[..., 0]
        if self.zero is not None:
            values = values - spread_over_blocks(self.zero.dense(), self.stored)
        if self.scale is not None:
            values = values * spread_over_blocks(self.scale.dense(), self.stored)
        if self.mask is not None:
            values = np.where(self.mask, values, 0)
        return np.asarray(values, np.float32)

    def _elements(self) -> Floats:
        """The stored elements in order, as they are."""
        if self.values is not None:
            return np.asarray(self.values, np.float32).reshape(-1)
        if self.blob is None or self.element is None:
            raise MalformedArtifactError(f"{self.name}: a constant without a value")
        raw = np.frombuffer(self.blob.read(), np.uint8)
        if self.element.bits in (3, 6):  # these fill whole bytes three at a time only
            raw = np.concatenate([raw, np.zeros(-raw.size % 3, np.uint8)])
        return np.asarray(self.element.decode(raw[None, :])[0], np.float32)

    def blobs(self) -> list[Blob]:
        """The blob of the constant and those of its scales and tables."""
        found = [self.blob] if self.blob is not None else []
        for other in (self.scale, self.zero, self.lut):
            found += other.blobs() if other is not None else []
        return found


@dataclass
class TableMemory:
    """What is kept of compressed constants: the unpacked masks, each once, and how much room for tables is left."""

    masks: dict[tuple[str, int], tuple[npt.NDArray[np.bool_], int]] = field(default_factory=dict)
    left: int = MAX_TABLES

    def affords(self, elements: int) -> bool:
        """Take room for a table, if there is that much."""
        if elements > min(self.left, MAX_TABLE):
            return False
        self.left -= elements
        return True

    def mask(self, mask: MilConstant, stored: tuple[int, ...], name: str) -> tuple[npt.NDArray[np.bool_], int]:
        """Where elements are stored, bool of shape `stored`, and how many."""
        if mask.blob is None:
            flat = np.zeros(0, np.uint8) if mask.values is None else mask.values.reshape(-1).astype(np.uint8)
            # The array itself, or (iOS 16) eight flags in each byte of it.
            return _flags(flat if mask.stored == stored else np.unpackbits(flat, bitorder="little"), stored, name)
        key = (mask.blob.file.name, mask.blob.metadata)
        if key not in self.masks:
            packed = np.frombuffer(mask.blob.read(), np.uint8)
            self.masks[key] = _flags(np.unpackbits(packed, bitorder="little"), stored, name)
        if self.masks[key][0].shape != stored:
            raise MalformedArtifactError(f"{name}: its mask has shape {self.masks[key][0].shape} elsewhere")
        return self.masks[key]


def _flags(bits: npt.NDArray[np.uint8], stored: tuple[int, ...], name: str) -> tuple[npt.NDArray[np.bool_], int]:
    count = math.prod(stored)
    if bits.size < count or min(stored, default=1) < 1:
        raise MalformedArtifactError(f"{name}: a mask of {bits.size} bits for shape {stored}")
    where = bits[:count].view(np.bool_) if bits.max(initial=0) <= 1 else bits[:count].astype(np.bool_)
    return where.reshape(stored), int(np.count_nonzero(where))


def spread_over_blocks(table: Floats, stored: tuple[int, ...]) -> Floats:
    """Repeat each entry over its block; dimensions behind those of `stored` stay."""
    for axis, size in enumerate(stored):
        if table.shape[axis] != size:
            table = np.repeat(table, size // table.shape[axis], axis)
    return table
