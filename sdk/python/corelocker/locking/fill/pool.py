"""The remaining channels that decoys imitate."""

from __future__ import annotations

import numpy as np

from corelocker.artifacts import Part, WeightTensor
from corelocker.artifacts.weights import Floats, SparsePart
from corelocker.locking.fill.statistics import centred_codes, code_ends, extremes
from corelocker.locking.layout import Indices

POOL_BYTES = 1 << 20  # remaining channels that are looked at, of one layer


def others(count: int, channels: Indices) -> Indices:
    """Those of `count` channels that are not among `channels`."""
    rest = np.ones(count, bool)
    rest[channels] = False
    return np.flatnonzero(rest)


def choose_pool(tensor: WeightTensor, remaining: Indices, generator: np.random.Generator) -> Indices:
    limit = max(128, POOL_BYTES // (tensor.weight.elements * 4))
    if remaining.size <= limit:
        return remaining
    return np.sort(generator.choice(remaining, limit, replace=False))


def pool_values(tensor: WeightTensor, pool: Indices, generator: np.random.Generator) -> Floats:
    """Dequantized channels in file order. Pruned places of a sparse tensor are refilled from the channel's stored elements,
    because the decoy's stored places are others."""
    values = tensor.values(pool)
    if isinstance(tensor.weight, SparsePart):
        for row, channel in enumerate(pool):
            mask = tensor.weight.mask[channel]
            if mask.any():
                values[row, ~mask] = generator.choice(values[row, mask], int((~mask).sum()))
    return _before_rounding(tensor, pool, values, generator)


def _before_rounding(tensor: WeightTensor, pool: Indices, values: Floats, generator: np.random.Generator) -> Floats:
    """Values as the exporter may have had them, where their codes reach to both ends of two's complement (7 and -8).

    It divided the largest of each group to 7.5, which is read as 7 or 8, and rounded the others. Shuffled as they are
    read, they would come together in groups whose largest is larger, or smaller, than what the layer's groups have.
    """
    scale = tensor.part("scale")
    if scale is None or tensor.quantization is None or not isinstance(tensor.weight, Part):
        return values
    codes = centred_codes(tensor, pool, scale.elements)
    short, long = sorted(code_ends(codes))
    if short == 0 or long != short + 1:
        return values
    step = np.asarray(scale.read(pool), np.float32)[:, :, None]
    extreme, where = extremes(codes)
    end = (short + long) / 2
    exact = np.clip(codes + generator.random(codes.shape, np.float32) - np.float32(0.5), -end, end)
    whole = np.where(np.abs(extreme) >= short, np.sign(extreme) * end, extreme)
    np.put_along_axis(exact, where[:, :, None], whole[:, :, None], axis=2)
    return np.asarray((exact * step).reshape(values.shape), np.float32)
