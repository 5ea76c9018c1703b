"""Constants of portable kernels in the form that layers have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from corelocker.artifacts.layers import StoredConstant

MAX_ZEROS = 1 << 20  # zero points of one constant that are read


def out_first(weight: StoredConstant, groups: int) -> StoredConstant:
    """The weight of a transposed convolution, (in, out / groups, *kernel) in the file, as (out, in / groups, *kernel)."""
    inputs, outputs, kernel = weight.shape[0], weight.shape[1], tuple(range(2, len(weight.shape)))
    if groups == 1:
        return weight.permute((1, 0, *kernel))
    if outputs == 1 and inputs % groups == 0:
        per_group = inputs // groups
        shape = (groups, per_group, *weight.shape[2:])
        strides = (weight.strides[0] * per_group, weight.strides[0], *weight.strides[2:])
        return replace(weight, shape=shape, strides=strides)
    return replace(weight.permute((1, 0, *kernel)), problem="a transposed convolution in groups")


def common_zero(zeros: StoredConstant) -> int | None:
    """The number that all zero points are, or None."""
    element = zeros.element
    count = math.prod(zeros.shape)
    if element is None or element.is_float or element.bits < 8 or not 0 < count <= MAX_ZEROS or zeros.start:
        return None
    raw = zeros.region.file.read(zeros.region.offset, count * element.bits // 8)
    numbers = np.frombuffer(raw, f"<{'i' if element.signed else 'u'}{element.bits // 8}")
    return int(numbers[0]) if (numbers == numbers[0]).all() else None
