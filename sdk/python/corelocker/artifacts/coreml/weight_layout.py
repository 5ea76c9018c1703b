"""How a constant of an ML Program lies in its weight file, seen along the output channels of the layer that reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from corelocker.artifacts.coreml.mil_constants import MilConstant, TableMemory, spread_over_blocks
from corelocker.artifacts.coreml.weight_bin import Blob
from corelocker.artifacts.elements import ElementType
from corelocker.artifacts.weights import Floats, Kind, Part, Quantization, SparsePart
from corelocker.errors import MalformedArtifactError

LOCKABLE = {"float16", "float32", "bfloat16", "int8", "uint8", "int4", "uint4", "uint6", "uint3", "uint2", "uint1"}


def channel_part(kind: Kind, blob: Blob, element: ElementType, stored: tuple[int, ...], axis: int) -> Part | str:
    """The array seen along one of its dimensions; the reason why not when a channel's pieces begin inside a byte."""
    before, channels, behind = math.prod(stored[:axis]), stored[axis], math.prod(stored[axis + 1 :])
    if behind * element.bits % 8:
        return f"a channel has pieces of {behind} elements of {element.bits} bits, which straddle bytes"
    piece = behind * element.bits // 8
    return Part(kind, element, blob.file, blob.offset, channels, piece, piece, piece * channels, before)


def sparse_part(constant: MilConstant, axis: int) -> SparsePart | str:
    """The stored elements of a pruned array seen along its first dimension, or the reason why not."""
    assert constant.blob is not None  # noqa: S101
    assert constant.element is not None  # noqa: S101
    assert constant.mask is not None  # noqa: S101
    if math.prod(constant.stored[:axis]) != 1:
        return "the stored elements of a pruned channel are scattered"
    if constant.element.bits % 8:
        return f"the stored elements of a pruned channel have {constant.element.bits} bits and straddle bytes"
    mask = constant.mask.reshape(constant.stored[axis], -1)
    bounds = np.concatenate([[0], np.cumsum(mask.sum(axis=1, dtype=np.int64))])
    return SparsePart("weight", constant.element, constant.blob.file, constant.blob.offset, bounds, mask)


def table_of(constant: MilConstant, stored: tuple[int, ...], axis: int, memory: TableMemory) -> Floats | str:
    """A scale, zero point or look-up table spelled out as (channels or 1, groups[, entries]), or the reason why not.

    A channel's elements, in file order without `axis`, fall into equally long groups. Blocks that do not lie like that are
    split into smaller ones that do.
    """
    if constant.problem is not None:
        return constant.problem
    rank = len(stored)
    sizes, groups = (*stored[:axis], *stored[axis + 1 :]), (*constant.stored[:axis], *constant.stored[axis + 1 : rank])
    last = max((i for i, g in enumerate(groups) if g > 1), default=-1)
    channels = 1 if constant.stored[axis] == 1 else stored[axis]
    spelled = [n if i < last else g for i, (n, g) in enumerate(zip(sizes, groups, strict=True))]
    if not memory.affords(
        max(channels * math.prod(spelled) * math.prod(constant.stored[rank:]), math.prod(constant.stored))
    ):
        return "its scales or look-up tables are too many to be spelled out"
    table = spread_over_blocks(np.moveaxis(constant.dense(), axis, 0), (channels, *spelled))
    return np.ascontiguousarray(table.reshape(channels, -1, *constant.stored[rank:]))


def owned_part(kind: Kind, constant: MilConstant, stored: tuple[int, ...], axis: int) -> Part | None:
    """The part that a channel owns of a scale or zero point, or None where channels share it or no blob holds it."""
    if (
        constant.blob is None
        or constant.element is None
        or constant.values is not None
        or constant.stored[axis] != stored[axis]
    ):
        return None
    if constant.scale is not None or constant.zero is not None or constant.lut is not None or constant.mask is not None:
        return None
    sizes, groups = (*stored[:axis], *stored[axis + 1 :]), (*constant.stored[:axis], *constant.stored[axis + 1 :])
    last = max((i for i, g in enumerate(groups) if g > 1), default=-1)
    if any(sizes[i] != groups[i] for i in range(last)):
        return None
    part = channel_part(kind, constant.blob, constant.element, constant.stored, axis)
    return part if isinstance(part, Part) else None


@dataclass(frozen=True)
class Layout:
    """A constant seen along its output channels: what becomes a WeightTensor."""

    weight: Part | SparsePart
    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]
    axes: tuple[int, ...]
    quantization: Quantization | None
    inputs: Part | None
    dtype: str
    notes: tuple[str, ...]


def lay_out(
    constant: MilConstant,
    out: int,
    order: Sequence[int],
    into: int | None,
    shared: Callable[[Blob], bool],
    memory: TableMemory,
) -> Layout | str:
    """The layout of a layer's weight, or the reason why it cannot be locked.

    Args:
        constant: the weight.
        out: dimension of `constant.shape` that counts output channels.
        order: the other dimensions in logical order.
        into: dimension that counts input channels, or None where they are no regular slices.
        shared: whether a blob belongs to more than one tensor, so that no channel owns a piece of it.
        memory: what the tables take their room from.
    """
    axis = constant.axes[out] if constant.problem is None else None
    reason = _why_not(constant, axis)
    if reason is not None or axis is None or constant.blob is None or constant.element is None:
        return reason or "has one channel"
    element, stored = constant.element, constant.stored
    weight = (
        channel_part("weight", constant.blob, element, stored, axis)
        if constant.mask is None
        else sparse_part(constant, axis)
    )
    if isinstance(weight, str):
        return weight
    if weight.extent != (constant.blob.offset, constant.blob.size):
        raise MalformedArtifactError(f"{constant.name}: does not fill its blob")
    expansion = _expansion(constant, axis, shared, memory)
    if isinstance(expansion, str):
        return expansion
    parts, tables, notes = expansion
    quantization = Quantization(**tables) if tables or parts or not element.is_float else None
    channel = _channel_shape(constant, axis, order)
    if isinstance(channel, str):
        return channel
    inputs = None
    if into is not None and constant.mask is None and (entry := constant.axes[into]) is not None:
        seen = channel_part("weight", constant.blob, element, stored, entry)
        inputs = seen if isinstance(seen, Part) else None
    return Layout(
        weight,
        tuple(parts),
        (constant.shape[out], *(constant.shape[d] for d in order)),
        *channel,
        quantization,
        inputs,
        _description(constant, quantization, axis),
        tuple(notes),
    )


def _why_not(constant: MilConstant, axis: int | None) -> str | None:
    """The reason why a constant whose channels lie along `axis` cannot be locked, as far as its storage tells."""
    if constant.problem is not None:
        return constant.problem
    if constant.blob is None or constant.element is None:
        return "is stored in the program, not in the weight file"
    if constant.element.name not in LOCKABLE:
        return f"type {constant.element.name} cannot be locked"
    if not constant.element.is_float and constant.scale is None and constant.lut is None:
        return "holds integers, not weights"
    if 0 in constant.stored:
        return "has no elements"
    return "has one channel" if axis is None else None


def _expansion(
    constant: MilConstant, axis: int, shared: Callable[[Blob], bool], memory: TableMemory
) -> tuple[list[Part], dict[str, Floats], list[str]] | str:
    """(parts that channels own, tables that stay public, notes why) of scales, zero points and look-up tables, or why not."""
    stored = constant.stored
    parts: list[Part] = []
    notes: list[str] = []
    tables: dict[str, Floats] = {}
    kinds: list[tuple[Kind, MilConstant | None]] = [("scale", constant.scale), ("zero_point", constant.zero)]
    for kind, other in kinds:
        if other is None:
            continue
        part = owned_part(kind, other, stored, axis) if constant.lut is None else None
        if part is not None and other.blob is not None and not shared(other.blob):
            parts.append(part)
            continue
        if other.blob is None:
            notes.append(f"its {kind} is stored in the program and stays public")
        elif part is not None:
            notes.append(f"its {kind} is shared with another tensor and stays public")
        elif other.stored[axis] != stored[axis]:
            notes.append(f"its {kind} is shared by channels and stays public")
        else:
            notes.append(f"its {kind} cannot be told apart by channel in whole bytes and stays public")
        table = table_of(other, stored, axis, memory)
        if isinstance(table, str):
            return table
        tables[kind] = table
    if constant.lut is not None:
        table = table_of(constant.lut, stored, axis, memory)
        if isinstance(table, str):
            return table
        tables["lut"] = table
    return parts, tables, notes


def _channel_shape(
    constant: MilConstant, axis: int, order: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | str:
    """(shape of a channel in file order, axes that bring it to logical order), or the reason why there is none."""
    stored = constant.stored
    sizes = [n for i, n in enumerate(stored) if i != axis]
    places = [i for i in range(len(stored)) if i != axis]
    axes = []
    for dimension in order:
        place = constant.axes[dimension]
        if place is None:  # a dimension of size 1 that the file does not have goes to the end there
            sizes.append(1)
            axes.append(len(sizes) - 1)
        else:
            axes.append(places.index(place))
    left_out = [i for i in range(len(sizes)) if i not in axes]
    if any(sizes[i] != 1 for i in left_out):
        return "has dimensions that its layer does not have"
    kept = [i for i in range(len(sizes)) if i not in left_out]
    return tuple(sizes[i] for i in kept), tuple(kept.index(a) for a in axes)


def _description(constant: MilConstant, quantization: Quantization | None, axis: int) -> str:
    """How the type is shown to people."""
    assert constant.element is not None  # noqa: S101
    name = constant.element.name
    if constant.lut is not None:
        tables = math.prod(constant.lut.stored[:-1])
        name += " palette" if tables == 1 else f" palette, {tables} tables"
    elif quantization is not None and constant.scale is not None:
        groups = math.prod(constant.scale.stored) // constant.scale.stored[axis]
        if groups > 1:
            name += f" group {math.prod(constant.stored) // constant.stored[axis] // groups}"
        else:
            name += " per tensor" if math.prod(constant.scale.stored) == 1 else " per channel"
    return f"{name}, pruned" if constant.mask is not None else name
