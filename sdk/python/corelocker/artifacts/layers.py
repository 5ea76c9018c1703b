"""From constants in a file to the layers that own them.

An adapter that reads a graph finds constants (a place in a file and strides) and learns from the operators what they are. The
`Collector` turns them into `WeightTensor`s: one for each place in the file, however many operators, delegates or methods use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from corelocker.artifacts.elements import ElementType
from corelocker.artifacts.weights import Floats, Kind, Part, Quantization, Role, Skipped, WeightTensor
from corelocker.errors import MalformedArtifactError, UnsupportedLayoutError
from corelocker.files import MappedFile

MAX_RANK = 16
MAX_NAME = 256


def printable(name: str) -> str:
    """The name, or nothing where a file has put something else in its place."""
    return name if len(name) <= MAX_NAME and name.isprintable() else ""


@dataclass(frozen=True)
class Region:
    """A range of a file that holds one constant, and the name it has there, if any."""

    file: MappedFile = field(repr=False)
    offset: int
    size: int
    name: str = ""


@dataclass(frozen=True)
class Scales:
    """How the codes of a constant become floats: (code - zero) * scale.

    Attributes:
        channel: the constant with the scales of each channel, shape (channels,) or (channels, groups), or None.
        axis: the axis of the constant that the channels are on.
        scale: the one scale of all channels where `channel` is None.
        zero: zero point of all channels.
        table: float32 (channels or 1, groups), in place of `channel` and `scale` where several channels share a scale.
    """

    channel: StoredConstant | None = None
    axis: int = 0
    scale: float = 1.0
    zero: int = 0
    table: Floats | None = field(default=None, repr=False)


def _strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of an array whose axes are nested in `order`, outermost first."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(1, shape[axis])
    return tuple(strides)


@dataclass(frozen=True)
class StoredConstant:
    """A constant as an operator sees it: axes with strides over a region.

    Attributes:
        region: where its bytes are.
        element: type of its elements, None where no adapter knows it.
        shape, strides: in elements.
        start: first element.
        scales: set when the elements are codes.
        problem: why it cannot be locked, if something about its storage forbids it.
        origin: the whole constant, where this is a part of it, or its elements in an order that strides do not express.
    """

    region: Region
    element: ElementType | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0
    scales: Scales | None = None
    problem: str = ""
    origin: StoredConstant | None = field(default=None, repr=False)

    @classmethod
    def in_region(
        cls, region: Region, element: ElementType | None, shape: Sequence[int], order: Sequence[int] | None = None
    ) -> StoredConstant:
        """A constant that fills `region` in row-major order, or with its axes nested as in `order` (outermost first).

        Raises MalformedArtifactError when the region is too small for the shape.
        """
        shape = tuple(shape)
        order = range(len(shape)) if order is None or len(order) != len(shape) else order
        if len(shape) > MAX_RANK or any(n < 0 for n in shape) or sorted(order) != list(range(len(shape))):
            raise MalformedArtifactError(f"{region.file.name}: a constant has the shape {shape[:MAX_RANK]}")
        bits = element.bits if element else 8
        if math.prod(shape) * bits > region.size * 8:
            raise MalformedArtifactError(
                f"{region.file.name}: a constant of shape {shape} does not fit the {region.size} bytes at {region.offset}"
            )
        return cls(region, element, shape, _strides(shape, order))

    def permute(self, order: Sequence[int]) -> StoredConstant:
        """Axis i of the result is axis order[i]."""
        if sorted(order) != list(range(len(self.shape))):
            return replace(self, problem="an operator turns its axes in an unknown way")
        scales = self.scales
        if scales is not None and scales.channel is not None and scales.axis < len(order):
            scales = replace(scales, axis=list(order).index(scales.axis))
        shape, strides = (tuple(of[i] for i in order) for of in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides, scales=scales)

    def reshape(self, shape: Sequence[int]) -> StoredConstant:
        """Row-major view. Only axes of size 1 may come and go; anything else becomes a `problem`."""
        shape = tuple(shape)
        kept = [(n, s, i) for i, (n, s) in enumerate(zip(self.shape, self.strides, strict=True)) if n != 1]
        if [n for n in shape if n != 1] == [n for n, _, _ in kept]:
            strides, places = [1] * len(shape), {}
            for axis, (_, stride, old) in zip((i for i, n in enumerate(shape) if n != 1), kept, strict=True):
                strides[axis], places[old] = stride, axis
            scales = self.scales
            if scales is not None and scales.channel is not None:
                scales = replace(scales, axis=places.get(scales.axis, 0))
            return replace(self, shape=shape, strides=tuple(strides), scales=scales)
        same = math.prod(shape) == math.prod(self.shape)
        if same and self.scales is None and self.strides == _strides(self.shape, range(len(self.shape))):
            return replace(self, shape=shape, strides=_strides(shape, range(len(shape))))
        return self.picked(shape, "an operator reshapes it")

    def picked(self, shape: Sequence[int], problem: str) -> StoredConstant:
        """Elements of it in an array of `shape`; which ones is not known, and `problem` says why."""
        shape, origin = tuple(shape), self.origin or self
        return replace(self, shape=shape, strides=(1,) * len(shape), problem=self.problem or problem, origin=origin)

    def rows(self) -> StoredConstant:
        """A matrix of all runs of its innermost axis: stacked matrices, such as the experts of a layer, above each other."""
        wide = self.reshape([n for n in self.shape if n != 1])
        rank = len(wide.shape)
        nested = wide.permute(sorted(range(rank), key=lambda axis: -wide.strides[axis]))
        count = math.prod(nested.shape[:-1])
        if rank < 2 or count == 0 or nested.problem or nested.strides != _strides(nested.shape, range(rank)):
            return replace(nested, problem=nested.problem or "its rows are scattered over the file")
        scales = nested.scales
        if scales is not None and scales.channel is not None:
            table = scales.channel
            groups = math.prod(table.shape) // count
            if scales.axis == 0 and groups > 0 and groups * count == math.prod(table.shape):
                table = table.reshape((count,) if groups == 1 else (count, groups))
                scales = replace(scales, channel=table, axis=0)
            elif table.shape != nested.shape[scales.axis : scales.axis + 1]:
                return replace(nested, problem="its scales do not belong to its rows")
            else:  # a scale for each matrix, or for each place along one axis of all matrices
                along = [n if axis == scales.axis else 1 for axis, n in enumerate(nested.shape)]
                spread: Floats = np.asarray(table.part("scale", 0)[0].read(), np.float32).reshape(along)
                if scales.axis < rank - 1:
                    spread = np.broadcast_to(spread, (*nested.shape[:-1], 1)).reshape(count, 1)
                table_of_rows = np.ascontiguousarray(spread.reshape(-1, spread.shape[-1]))
                scales = replace(scales, channel=None, table=table_of_rows)
        return replace(nested, shape=(count, nested.shape[-1]), strides=(nested.shape[-1], 1), scales=scales)

    def expand(self, shape: Sequence[int]) -> StoredConstant:
        """Broadcast to `shape`: axes come in front or grow from 1, and all their places are the same bytes."""
        shape = tuple(shape)
        added = len(shape) - len(self.shape)
        if added < 0 or any(n not in (1, m) for n, m in zip(self.shape, shape[added:], strict=True)):
            return self.picked(shape, "an operator expands it")
        strides = [s if n == m else 0 for s, n, m in zip(self.strides, self.shape, shape[added:], strict=True)]
        scales = self.scales
        if scales is not None and scales.channel is not None:
            scales = replace(scales, axis=scales.axis + added)
        return replace(
            self, shape=shape, strides=(*(0 if n != 1 else 1 for n in shape[:added]), *strides), scales=scales
        )

    def matrix(self) -> StoredConstant | None:
        """The last two axes, if all places of the others are the same bytes."""
        lead = len(self.shape) - 2
        if lead < 0 or any(n != 1 and s for n, s in zip(self.shape[:lead], self.strides[:lead], strict=True)):
            return None
        scales = self.scales
        if scales is not None and scales.channel is not None:
            scales = replace(scales, axis=max(0, scales.axis - lead))
        return replace(self, shape=self.shape[lead:], strides=self.strides[lead:], scales=scales)

    def part(self, kind: Kind, axis: int) -> tuple[Part, tuple[int, ...], tuple[int, ...]]:
        """(its channels along `axis` as a Part, shape of a channel in file order, axes back to logical order).

        Raises UnsupportedLayoutError when a channel is no run of whole bytes.
        """
        element = self.element
        if self.problem or element is None:
            raise UnsupportedLayoutError(self.problem or "its type is not known")
        rest = [i for i in range(len(self.shape)) if i != axis]
        nested = sorted(rest, key=lambda i: -self.strides[i] if self.shape[i] != 1 else 0)
        blocks: list[tuple[int, int]] = []  # (size, stride), innermost first
        for i in reversed(nested):
            size, stride = self.shape[i], self.strides[i]
            if size == 1:
                continue
            if blocks and stride == blocks[-1][0] * blocks[-1][1]:
                blocks[-1] = (blocks[-1][0] * size, blocks[-1][1])
            else:
                blocks.append((size, stride))
        inner = blocks.pop(0)[0] if blocks and blocks[0][1] == 1 else 1
        count, step = blocks.pop(0) if blocks else (1, inner)
        if blocks or 0 in self.strides or math.prod(self.shape) == 0:
            raise UnsupportedLayoutError("its channels are scattered over the file")
        sizes = [n * element.bits for n in (self.start, self.strides[axis], inner, step)]
        if any(n % 8 for n in sizes):
            raise UnsupportedLayoutError(f"its {element.bits}-bit channels begin or end inside a byte")
        start, channel_stride, length, stride = (n // 8 for n in sizes)
        part = Part(
            kind,
            element,
            self.region.file,
            self.region.offset + start,
            self.shape[axis],
            channel_stride,
            length,
            stride,
            count,
        )
        file_shape = tuple(self.shape[i] for i in nested)
        return part, file_shape, tuple(nested.index(i) for i in rest)


@dataclass
class _CollectedLayer:
    name: str
    role: Role
    weight: StoredConstant
    parts: list[Part]
    file_shape: tuple[int, ...]
    axes: tuple[int, ...]
    grouped: bool
    normalized: bool = False

    @property
    def lockable(self) -> bool:
        return bool(self.parts)


class Collector:
    """Gathers layers in the order of computation."""

    def __init__(self) -> None:
        self._layers: dict[tuple[str, int], _CollectedLayer] = {}
        self._by_name: dict[str, _CollectedLayer] = {}
        self._reasons: dict[tuple[str, int], tuple[StoredConstant, str, str]] = {}
        self._refused: dict[str, Skipped] = {}

    def layer(
        self,
        prefix: str,
        role: Role,
        weight: StoredConstant,
        extras: Sequence[tuple[Kind, StoredConstant | None]] = (),
        *,
        grouped: bool = False,
    ) -> str:
        """Note that `weight`, whose axis 0 are the output channels, is a layer's, with vectors that belong to its channels.

        Returns the layer's name: the one it has already when its bytes were seen before, the one in the file when there is
        one, else one made of `prefix`, its place and its role. A layer that cannot be locked has a name too, and is listed as
        skipped.
        """
        key = (weight.region.file.name, weight.region.offset)
        known = self._layers.get(key)
        if known is not None:
            return known.name
        name = printable(weight.region.name)
        if not name or name in self._by_name:
            name = f"{prefix}.{len(self._layers)}.{role}"
        parts: list[Part] = []
        file_shape: tuple[int, ...] = ()
        axes: tuple[int, ...] = ()
        try:
            part, file_shape, axes = weight.part("weight", 0)
            scales = self._scale(weight)
            found = [part, *scales]
            for kind, constant in extras:
                if constant is not None:
                    found += self._vector(kind, constant, part.channels, scales[0] if scales else None)
            parts = found
        except UnsupportedLayoutError as error:
            self.refuse(name, str(error))
        layer = _CollectedLayer(name, role, weight, _distinct(parts), file_shape, axes, grouped)
        self._layers[key] = self._by_name[name] = layer
        return name

    def shift(self, name: str, bias: StoredConstant) -> bool:
        """Give the layer a bias that is added behind it; False when it has one already or it does not fit."""
        layer = self._by_name.get(name)
        if layer is None or not layer.lockable or any(part.kind == "bias" for part in layer.parts):
            return False
        parts = self._vector("bias", bias, layer.parts[0].channels)
        layer.parts = _distinct([*layer.parts, *parts])
        return bool(parts)

    def normalize(self, name: str, extras: Sequence[tuple[Kind, StoredConstant | None]]) -> bool:
        """Give the layer the vectors of the BatchNorm that follows it; False when it has one already or they do not fit."""
        layer = self._by_name.get(name)
        if layer is None or not layer.lockable or layer.normalized:
            return False
        parts: list[Part] = []
        for kind, constant in extras:
            if constant is not None:
                found = self._vector(kind, constant, layer.parts[0].channels)
                if not found:
                    return False
                parts += found
        layer.parts = _distinct([*layer.parts, *parts])
        layer.normalized = True
        return True

    def other(self, name: str, constant: StoredConstant, reason: str) -> None:
        """Note a constant that is read by an operator that is no layer."""
        self._reasons.setdefault((constant.region.file.name, constant.region.offset), (constant, name, reason))

    def refuse(self, name: str, reason: str) -> None:
        """Note something that may hold weights and cannot be read."""
        self._refused[name] = Skipped(name, reason)

    @property
    def refused(self) -> list[Skipped]:
        """Layers and delegates that cannot be locked."""
        return list(self._refused.values())

    def _scale(self, constant: StoredConstant) -> list[Part]:
        scales = constant.scales
        if scales is None or scales.channel is None:
            return []
        if scales.axis != 0 or scales.channel.shape[:1] != constant.shape[:1]:
            raise UnsupportedLayoutError("its scales do not belong to output channels")
        groups = math.prod(scales.channel.shape[1:])
        if groups < 1 or math.prod(constant.shape[1:]) % groups:
            raise UnsupportedLayoutError(f"its channels do not divide into {groups} groups")
        return [scales.channel.part("scale", 0)[0]]

    def _vector(self, kind: Kind, constant: StoredConstant, channels: int, first: Part | None = None) -> list[Part]:
        """One element a channel; nothing when the constant is of another shape. `first` are the weight's own scales."""
        if math.prod(constant.shape) != channels or constant.element is None or constant.problem:
            return []
        flat = constant.reshape((channels,))
        scales = self._scale(flat)
        if scales and first is not None:
            scales = [replace(scales[0], factor=_factor(first, scales[0]))]
        return [flat.part(kind, 0)[0], *scales]

    def finish(self) -> tuple[list[WeightTensor], list[Skipped]]:
        """The lockable layers in the order of computation, and what is left alone."""
        tensors: list[WeightTensor] = []
        owned: set[tuple[str, int]] = set()
        for layer in self._layers.values():
            if layer.lockable:
                tensors.append(_tensor(layer, len(tensors)))
                owned |= {(part.file.name, part.offset) for part in layer.parts}
            else:
                owned.add((layer.weight.region.file.name, layer.weight.region.offset))
        left: list[Skipped] = []
        for key, (constant, name, reason) in self._reasons.items():
            if key not in owned and math.prod(constant.shape) > 1:
                left.append(
                    Skipped(
                        printable(constant.region.name) or f"{name}{len(left)}", f"{reason}; shape {constant.shape}"
                    )
                )
        return tensors, [*self.refused, *left]


def _factor(first: Part, second: Part) -> float | None:
    """The float32 by which the scales `first` give the scales `second`, bit for bit, or None."""
    if first.elements != 1 or not (first.element.name == second.element.name == "float32"):
        return None
    a, b = (np.asarray(part.read(), np.float32) for part in (first, second))
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (a > 0).all()):
        return None
    with np.errstate(over="ignore", under="ignore"):
        guess = np.float32(np.float64(b[0, 0]) / np.float64(a[0, 0]))
        candidates = [guess, *(np.nextafter(guess, np.float32(end)) for end in (0, np.inf))]
        return next((float(c) for c in candidates if np.array_equal(a * c, b)), None)


def _distinct(parts: list[Part]) -> list[Part]:
    """Exporters store equal vectors once, so that the mean and the shift of a fresh BatchNorm are the same bytes."""
    seen: dict[tuple[str, int], Part] = {}
    for part in parts:
        seen.setdefault((part.file.name, part.offset), part)
    return list(seen.values())


def _tensor(layer: _CollectedLayer, order: int) -> WeightTensor:
    weight = layer.weight
    inputs = None
    if layer.role in ("conv", "linear") and not layer.grouped and len(weight.shape) > 1:
        try:
            inputs = weight.part("weight", 1)[0]
        except UnsupportedLayoutError:
            inputs = None
    return WeightTensor(
        layer.name,
        layer.role,
        weight.shape,
        _described(weight),
        order,
        tuple(layer.parts),
        layer.file_shape,
        layer.axes,
        _quantization(weight),
        inputs,
    )


def _described(weight: StoredConstant) -> str:
    assert weight.element is not None  # noqa: S101 - a Part was made of it
    if weight.scales is None:
        return weight.element.name
    code = weight.element.name.lstrip("u")
    channel = weight.scales.channel
    if channel is None:
        return f"{code} per tensor" if weight.scales.table is None else f"{code}, scales shared by channels"
    groups = math.prod(channel.shape[1:])
    return f"{code} per channel" if groups == 1 else f"{code} group {math.prod(weight.shape[1:]) // groups}"


def _quantization(weight: StoredConstant) -> Quantization | None:
    scales = weight.scales
    if scales is None:
        return None
    scale = scales.table
    if scale is None and scales.channel is None:
        scale = np.full((1, 1), scales.scale, np.float32)
    zero = np.full((1, 1), scales.zero, np.float32) if scales.zero else None
    return Quantization(scale, zero)
