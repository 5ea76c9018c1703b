"""The view of a model's weights that every adapter gives and that locking, audit and runtime work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from corelocker.artifacts.elements import ElementType, Numbers
from corelocker.errors import MalformedArtifactError, UnsupportedLayoutError
from corelocker.files import Bytes, MappedFile
from corelocker.runs import Run

Floats = npt.NDArray[np.float32]
Place = tuple[MappedFile, int, int, int, Run | None, int]
Role = Literal["conv", "depthwise", "linear", "embedding", "norm"]
Kind = Literal["weight", "scale", "zero_point", "bias", "gamma", "beta", "mean", "variance"]


@dataclass(frozen=True)
class Part:
    """An array of the file that holds, for each channel of a layer, equally many elements at regular places.

    Channel `c` is the run {offset + c * channel_stride, length, stride, count}. Rows of a matrix, the strided filters of a
    depthwise convolution, a vector of biases and a matrix of group scales are all of this form.

    Attributes:
        kind: what the elements are.
        element: their type.
        file: which file of the artifact.
        channels: number of channels.
        factor: set for a second part of kind "scale": its elements are this factor (a float32) times those of the first,
            rounded to float32. An integer bias counts in steps of input scale x weight scale; a fill that does not keep
            that tells a locked channel.

    Rows that start inside a byte have no such form; adapters refuse them with UnsupportedLayoutError.
    """

    kind: Kind
    element: ElementType
    file: MappedFile = field(repr=False)
    offset: int
    channels: int
    channel_stride: int
    length: int
    stride: int
    count: int = 1
    factor: float | None = None

    def __post_init__(self) -> None:
        if min(self.channels, self.length, self.count) < 1 or min(self.offset, self.channel_stride, self.stride) < 0:
            raise MalformedArtifactError(f"{self.file.name}: a tensor has no elements or a negative place")
        last = self.offset + (self.channels - 1) * self.channel_stride + (self.count - 1) * self.stride + self.length
        if last > len(self.file):
            raise MalformedArtifactError(
                f"{self.file.name}: a tensor ends at {last}, but the file has {len(self.file)} bytes"
            )
        if self.length * self.count * 8 % self.element.bits or (self.count > 1 and self.length * 8 % self.element.bits):
            raise UnsupportedLayoutError(f"{self.file.name}: elements of a channel straddle bytes")

    @property
    def elements(self) -> int:
        """Elements of one channel."""
        return self.length * self.count * 8 // self.element.bits

    @property
    def channel_bytes(self) -> int:
        """Bytes of one channel."""
        return self.length * self.count

    @property
    def size(self) -> int:
        """Bytes of all channels."""
        return self.channels * self.channel_bytes

    @property
    def extent(self) -> tuple[int, int]:
        """(offset, length) of the smallest range of the file that holds all channels."""
        last = (self.channels - 1) * self.channel_stride + (self.count - 1) * self.stride + self.length
        return self.offset, last

    def run(self, channel: int) -> Run:
        """The bytes of one channel."""
        stride = self.stride if self.count > 1 else self.length
        return Run(self.offset + channel * self.channel_stride, self.length, stride, self.count)

    def raw(self, channels: slice | Sequence[int] | npt.NDArray[np.int64] = slice(None)) -> Bytes:
        """uint8 (n, bytes of a channel), read-only where no copy was needed."""
        view = np.lib.stride_tricks.as_strided(
            self.file.data[self.offset :],
            (self.channels, self.count, self.length),
            (self.channel_stride, self.stride, 1),
            writeable=False,
        )
        picked = np.ascontiguousarray(view[channels])
        return picked.reshape(picked.shape[0], self.channel_bytes)

    def read(self, channels: slice | Sequence[int] | npt.NDArray[np.int64] = slice(None)) -> Numbers:
        """Elements in file order: float32 (n, elements) for floats, int32 (n, elements) for codes."""
        return self.element.decode(self.raw(channels))


@dataclass(frozen=True)
class SparsePart:
    """The stored (non-zero) elements of a pruned tensor: channel `c` has `bounds[c + 1] - bounds[c]` of them, side by side.

    `mask` is bool (channels, elements of a dense channel); which elements are stored is public and stays so.
    """

    kind: Kind
    element: ElementType
    file: MappedFile = field(repr=False)
    offset: int
    bounds: npt.NDArray[np.int64] = field(repr=False)
    mask: npt.NDArray[np.bool_] = field(repr=False)

    def __post_init__(self) -> None:
        if self.element.bits % 8:
            raise UnsupportedLayoutError(f"{self.file.name}: stored elements of a pruned tensor straddle bytes")
        if self.offset + self.extent[1] > len(self.file):
            raise MalformedArtifactError(f"{self.file.name}: a pruned tensor ends behind the file")

    @property
    def channels(self) -> int:
        return int(self.bounds.size - 1)

    @property
    def elements(self) -> int:
        """Elements of one dense channel."""
        return int(self.mask.shape[1])

    @property
    def size(self) -> int:
        """Bytes of all channels."""
        return int(self.bounds[-1]) * self.element.bits // 8

    @property
    def extent(self) -> tuple[int, int]:
        """(offset, length) of all channels."""
        return self.offset, self.size

    def run(self, channel: int) -> Run | None:
        """The bytes of one channel; None when all its elements are pruned."""
        width = self.element.bits // 8
        first, last = (int(b) * width for b in self.bounds[channel : channel + 2])
        return Run(self.offset + first, last - first, last - first, 1) if last > first else None

    def stored(self, channel: int) -> Numbers:
        """The stored elements of one channel, (1, n)."""
        run = self.run(channel)
        raw = self.file.data[run.offset : run.end] if run else self.file.data[:0]
        return self.element.decode(np.ascontiguousarray(raw)[None, :])

    def read(self, channels: slice | Sequence[int] | npt.NDArray[np.int64] = slice(None)) -> Numbers:
        """Dense elements (n, elements) with 0 where pruned."""
        picked = np.arange(self.channels)[channels]
        dense: Numbers = np.zeros((picked.size, self.elements), np.float32 if self.element.is_float else np.int32)  # type: ignore[assignment]
        for row, channel in enumerate(picked):
            dense[row, self.mask[channel]] = self.stored(int(channel))[0]
        return dense


@dataclass(frozen=True)
class Quantization:
    """How integer codes become floats: `(code - zero_point) * scale`, or `lut[code]`, which a scale may follow.

    A scale or zero point that a channel owns is a `Part` of the tensor; one that several channels share stands here and
    stays public. Arrays have shape (channels or 1, groups): a channel's elements fall into equally long groups.

    Attributes:
        scale: float32 (channels or 1, groups), or None when the tensor has a part of kind "scale".
        zero_point: float32, same shapes, or None when the tensor has a part of kind "zero_point".
        lut: float32 (channels or 1, groups, entries), or None.
    """

    scale: Floats | None = None
    zero_point: Floats | None = None
    lut: Floats | None = None

    def dequantize(
        self, codes: Numbers, scale: Floats | None, zero: Floats | None, channels: npt.NDArray[np.int64]
    ) -> Floats:
        """codes (n, elements) of the given channels, with their own scale and zero (n, groups) if any -> float32."""

        def of(table: Floats) -> Floats:
            return table if table.shape[0] == 1 else table[channels]

        n, elements = codes.shape
        scale = of(self.scale) if scale is None and self.scale is not None else scale
        zero = of(self.zero_point) if zero is None and self.zero_point is not None else zero
        values = codes.astype(np.float32)
        if self.lut is not None:
            table = np.broadcast_to(of(self.lut), (n, *self.lut.shape[1:]))
            grouped = codes.reshape(n, table.shape[1], -1)
            values = np.take_along_axis(table, np.clip(grouped, 0, table.shape[2] - 1), 2).reshape(n, elements)
        if zero is not None:
            values = (values.reshape(n, zero.shape[1], -1) - zero[:, :, None]).reshape(n, elements)
        if scale is not None:
            values = (values.reshape(n, scale.shape[1], -1) * scale[:, :, None]).reshape(n, elements)
        return values

    def quantize(
        self,
        values: Floats,
        scale: Floats | None,
        zero: Floats | None,
        channels: npt.NDArray[np.int64],
        element: ElementType,
    ) -> Numbers:
        """The nearest codes of values (n, elements); inverse of `dequantize`."""

        def of(table: Floats) -> Floats:
            return table if table.shape[0] == 1 else table[channels]

        n, elements = values.shape
        scale = of(self.scale) if scale is None and self.scale is not None else scale
        zero = of(self.zero_point) if zero is None and self.zero_point is not None else zero
        codes_wanted = values
        if scale is not None:
            divisor = np.where(scale == 0, 1, scale)[:, :, None]
            codes_wanted = (codes_wanted.reshape(n, scale.shape[1], -1) / divisor).reshape(n, elements)
        if self.lut is not None:
            tables = np.broadcast_to(of(self.lut), (n, *self.lut.shape[1:]))
            codes = np.empty((n, tables.shape[1], elements // tables.shape[1]), np.int32)
            for row, column in np.ndindex(codes.shape[:2]):
                table = tables[row, column]
                order = np.argsort(table)
                middles = (table[order][1:] + table[order][:-1]) / 2
                wanted = codes_wanted[row].reshape(codes.shape[1], -1)[column]
                codes[row, column] = order[np.searchsorted(middles, wanted)]
            return codes.reshape(n, elements)
        if zero is not None:
            codes_wanted = (codes_wanted.reshape(n, zero.shape[1], -1) + zero[:, :, None]).reshape(n, elements)
        return np.clip(np.rint(codes_wanted), element.low, element.high).astype(np.int32)


@dataclass(frozen=True)
class WeightTensor:
    """The weights of one layer.

    Attributes:
        name: stable, unique in the artifact.
        role: what the layer is.
        shape: logical shape, output channels first: (out, in / groups, kh, kw), (out, in), (entries, width).
        dtype: as shown to people ("float32", "int8 per channel", "int4 group 32").
        order: place among the layers, in the order of computation where the format knows it.
        parts: everything that belongs to a channel; the first is the weight.
        file_shape: shape of a channel's elements in file order; `axes` brings it to shape[1:].
        axes: transposition from file order to logical order.
        quantization: set when the weight is integer codes.
        inputs: the weight seen along its input channels (same bytes as the weight part, `channels` = inputs of the layer),
            or None where an input channel is not a run of whole bytes.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    dtype: str
    order: int
    parts: tuple[Part | SparsePart, ...]
    file_shape: tuple[int, ...]
    axes: tuple[int, ...]
    quantization: Quantization | None = None
    inputs: Part | None = None

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def weight(self) -> Part | SparsePart:
        return self.parts[0]

    @property
    def place(self) -> Place:
        """Where the weight lies; of equal ones the channels are the same bytes."""
        weight = self.weight
        run = weight.run(0) if isinstance(weight, Part) else None
        stride = weight.channel_stride if isinstance(weight, Part) else 0
        return weight.file, weight.offset, weight.channels, stride, run, weight.element.bits

    @property
    def companions(self) -> tuple[Part, ...]:
        """The parts beside the weight: scales, biases, BatchNorm numbers."""
        return tuple(p for p in self.parts[1:] if isinstance(p, Part))

    def part(self, kind: Kind) -> Part | None:
        """The companion of that kind, or None."""
        return next((p for p in self.companions if p.kind == kind), None)

    def release(self) -> None:
        """Give the mapped pages of the tensor back to the kernel: a file of many gigabytes must not stay resident."""
        for part in self.parts:
            part.file.release(*part.extent)

    def runs(self, channel: int) -> list[tuple[MappedFile, Run]]:
        """Every byte that belongs to the channel."""
        found = ((part.file, part.run(channel)) for part in self.parts)
        return [(file, run) for file, run in found if run is not None]

    def dequantize(
        self, codes: Numbers, scale: Numbers | None, zero: Numbers | None, channels: npt.NDArray[np.int64]
    ) -> Floats:
        """Codes of the weight part (n, elements) to float32 (n, elements), in file order."""
        if self.quantization is None:
            return np.asarray(codes, np.float32)
        own_scale, own_zero = (None if table is None else np.asarray(table, np.float32) for table in (scale, zero))
        return self.quantization.dequantize(codes, own_scale, own_zero, channels)

    def values(self, channels: slice | Sequence[int] | npt.NDArray[np.int64] = slice(None)) -> Floats:
        """Dequantized weights in file order, float32 (n, elements)."""
        picked = np.arange(self.channels)[channels]
        scale, zero = self.part("scale"), self.part("zero_point")
        values = self.dequantize(
            self.weight.read(channels),
            scale.read(channels) if scale else None,
            zero.read(channels) if zero else None,
            picked,
        )
        # A pruned weight is 0, whatever the code 0 stands for in a look-up table or beside a zero point.
        return np.where(self.weight.mask[picked], values, 0) if isinstance(self.weight, SparsePart) else values

    def read(self, channels: slice | Sequence[int] | npt.NDArray[np.int64] = slice(None)) -> Floats:
        """Dequantized weights in logical order, float32 (n, *shape[1:])."""
        values = self.values(channels)
        filed = values.reshape(values.shape[0], *self.file_shape)
        return np.ascontiguousarray(filed.transpose(0, *(a + 1 for a in self.axes))).reshape(-1, *self.shape[1:])


@dataclass(frozen=True)
class Identity:
    """A name by which a runtime recognizes content (an XNNPACK named key, a Core ML delegate identifier).

    Where bytes that it covers are locked, every copy is overwritten by a fresh name: each character that is a lower-case
    hexadecimal digit becomes a random one. Otherwise a runtime could use weights that it cached in another state, and a name
    that is a digest of the content would confirm a guess of it. Identities of an artifact that have equal bytes are one name
    in several files (a key in a `.pte` and in its `.ptd`) and cover the same: they get the same fresh name.

    Attributes:
        file: the file that holds the copies.
        copies: offsets of the copies, each `length` bytes long and all equal.
        covers: (file, offset, length) ranges of the content it stands for.
    """

    file: MappedFile = field(repr=False)
    copies: tuple[int, ...]
    length: int
    covers: tuple[tuple[MappedFile, int, int], ...] = field(repr=False)


@dataclass(frozen=True)
class Edge:
    """`consumer` reads the channels of a producer as its inputs.

    Channel c arrives as the `block` input channels from `first + c * block` on (a flattened feature map has block = height x
    width; a concatenation has first > 0). For a depthwise consumer the inputs are its channels.
    """

    consumer: str
    block: int = 1
    first: int = 0


@dataclass(frozen=True)
class Skipped:
    """A tensor that is left alone, and why."""

    name: str
    reason: str


@dataclass
class Artifact:
    """A finished model file (or folder) and what can be locked in it.

    Attributes:
        format: "executorch", "coreml", "coreml-compiled" or "safetensors".
        path: the file or folder that was opened.
        files: the files whose bytes may change, in a stable order.
        tensors: lockable tensors in layer order.
        skipped: tensors that are left alone, with the reason.
        identities: names of content that must be replaced when that content is locked.
        edges: producer tensor name -> who reads its channels. A missing entry means that the graph could not be followed.
        untraced: producer tensor name -> why its consumers could not be followed.
        inputs: names of tensors that read the model's input.
        outputs: names of tensors that produce the model's output.
        weight_storage: bytes of all weights in the files, also of those that cannot be locked; 0 where it is not known.
        strip: paths inside the artifact that are left out of the locked copy, because they leak names.
    """

    format: str
    path: Path
    files: tuple[MappedFile, ...]
    tensors: tuple[WeightTensor, ...]
    skipped: tuple[Skipped, ...] = ()
    identities: tuple[Identity, ...] = ()
    edges: dict[str, tuple[Edge, ...]] = field(default_factory=dict)
    untraced: dict[str, str] = field(default_factory=dict)
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    strip: tuple[str, ...] = ()
    weight_storage: int = 0

    @property
    def lockable_bytes(self) -> int:
        """Bytes of all lockable tensors, with what belongs to their channels."""
        return sum(part.size for tensor in self.tensors for part in tensor.parts)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights, also of those that cannot be locked."""
        return max(self.weight_storage, self.lockable_bytes)
