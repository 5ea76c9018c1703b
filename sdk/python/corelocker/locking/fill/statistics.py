"""What can be seen of a single channel, and its ranks among the others."""

from __future__ import annotations

import numpy as np

from corelocker.artifacts import WeightTensor
from corelocker.artifacts.weights import Floats
from corelocker.locking.layout import Indices

STATISTICS: tuple[str, ...] = ("l1", "max", "kurtosis", "distance to the mean", "alignment with the mean")
CODE_STATISTICS: tuple[str, ...] = ("scale", "reach of the codes")


def statistics(values: Floats, mean: Floats, others: int | None = None) -> Floats:
    """What a detector could rank channels (n, elements) by: float32 (n, len(STATISTICS)).

    `mean` (elements,) is the layer's mean channel. It contains the channels themselves; for one that is still to join
    `others` channels, `others` says how many they are.
    """
    magnitudes = np.abs(values)
    total, largest = magnitudes.sum(axis=1), magnitudes.max(axis=1)
    squares = np.multiply(magnitudes, magnitudes, out=magnitudes)
    energy = squares.sum(axis=1)
    elements = values.shape[1]
    average = values.mean(axis=1)
    variance = energy / elements - average**2
    cubes = np.einsum("ce,ce->c", squares, values) / elements
    fourth = np.einsum("ce,ce->c", squares, squares) / elements
    moment = fourth - 4 * average * cubes + 6 * average**2 * energy / elements - 3 * average**4
    # einsum, not @: BLAS threads would spin beside the little there is to do.
    along = np.einsum("ce,e->c", values, mean)
    spread = np.maximum(energy - 2 * along + np.einsum("e,e->", mean, mean), 0)
    if others is not None:
        along = (others * along + energy) / (others + 1)
        spread = spread * (others / (others + 1)) ** 2
    columns = (
        total,
        largest,
        moment / np.maximum(variance**2, 1e-30),
        np.sqrt(spread),
        along / np.sqrt(np.maximum(energy, 1e-30)),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def code_statistics(tensor: WeightTensor, pool: Indices) -> Floats:
    """What quantization shows of the pool's channels, (pool, len(CODE_STATISTICS)); 0 for a layer without own scales."""
    scale = tensor.part("scale")
    if scale is None or tensor.quantization is None:
        return np.zeros((pool.size, len(CODE_STATISTICS)), np.float32)
    codes = centred_codes(tensor, pool, scale.elements)
    reach = np.abs(codes).max(axis=2).mean(axis=1)
    return np.stack([np.asarray(scale.read(pool), np.float32).mean(axis=1), reach], axis=1)


def centred_codes(tensor: WeightTensor, channels: Indices, groups: int) -> Floats:
    """Codes less their zero points, float32 (n, groups, elements of a group)."""
    codes = np.asarray(tensor.weight.read(channels), np.float32).reshape(channels.size, groups, -1)
    part = tensor.part("zero_point")
    zero = tensor.quantization.zero_point if tensor.quantization is not None else None
    if part is not None:
        zero = np.asarray(part.read(channels), np.float32)
    elif zero is not None and zero.shape[0] > 1:
        zero = zero[channels]
    return codes if zero is None else codes - np.repeat(zero, groups // zero.shape[1], axis=1)[:, :, None]


def code_ends(codes: Floats) -> tuple[float, float]:
    """How far the codes reach up and down."""
    up, down = float(codes.max(initial=0)), float(-codes.min(initial=0))
    return up, down


def extremes(grouped: Floats) -> tuple[Floats, Indices]:
    """The element of each group (n, groups, elements) that is furthest from 0, with its sign, and where it is: (n, groups)."""
    where = np.abs(grouped).argmax(axis=2)
    return np.take_along_axis(grouped, where[:, :, None], axis=2)[:, :, 0], where


def ranks_among(sorted_table: Floats, table: Floats) -> Floats:
    """Place of each statistic among the remaining channels, between 0 and 1."""
    n = sorted_table.shape[0]
    columns = range(table.shape[1])
    low = np.stack([np.searchsorted(sorted_table[:, c], table[:, c], "left") for c in columns], axis=1)
    high = np.stack([np.searchsorted(sorted_table[:, c], table[:, c], "right") for c in columns], axis=1)
    return np.asarray((low + high) / (2 * n), np.float32)


def spread(ranks: Floats) -> Floats:
    """How far the ranks of a statistic are from the middle on average: a quarter, unless many channels have the same number."""
    return np.asarray(np.abs(ranks - np.float32(0.5)).mean(axis=0), np.float32)
