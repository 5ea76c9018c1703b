"""Channels whose output is 0."""

from __future__ import annotations

import numpy as np

from corelocker.artifacts import Part, WeightTensor
from corelocker.artifacts.elements import Numbers
from corelocker.artifacts.weights import Floats
from corelocker.files import Bytes
from corelocker.locking.fill.encode import Filled, Rows, weight_bytes
from corelocker.locking.layout import Indices


def silent_channels(tensor: WeightTensor, channels: Indices, remaining: Indices) -> Filled:
    """A channel whose output is 0. Its scale becomes the median of the layer's, because its own tells its weights' size."""
    encoded: list[Rows] = []
    n = channels.size
    own: dict[str, Floats] = {}
    for kind in ("scale", "zero_point"):
        part = tensor.part(kind)
        if part is not None:
            median = np.median(np.asarray(part.read(remaining[:4096]), np.float32), axis=0, keepdims=True)
            median = np.where(median == 0, 1, median) if kind == "scale" else np.rint(median)
            own[kind] = np.repeat(np.asarray(part.element.decode(part.element.encode(median)), np.float32), n, axis=0)
    values = np.zeros((n, tensor.weight.elements), np.float32)
    codes: Numbers = values
    if tensor.quantization is not None:
        codes = tensor.quantization.quantize(
            values, own.get("scale"), own.get("zero_point"), channels, tensor.weight.element
        )
    encoded.append(weight_bytes(tensor.weight, codes, channels))
    for part in tensor.companions:
        constant = np.full((n, part.elements), 1 if part.kind == "variance" else 0, np.float32)
        numbers = own.get(part.kind, constant)
        if part.factor is not None:
            numbers = numbers * np.float32(part.factor)
        encoded.append(part.element.encode(numbers))
    return Filled(tensor, channels, encoded)


def zero_image(tensor: WeightTensor, weight: Part) -> Bytes:
    """The bytes of the weight (from its first to its last) if every weight were 0."""
    image = np.zeros(weight.extent[1], np.uint8)
    if tensor.quantization is None:
        return image
    scale, zero = (tensor.part(kind) for kind in ("scale", "zero_point"))
    codes = tensor.quantization.quantize(
        np.zeros((tensor.channels, weight.elements), np.float32),
        np.asarray(scale.read(), np.float32) if scale else None,
        np.asarray(zero.read(), np.float32) if zero else None,
        np.arange(tensor.channels),
        weight.element,
    )
    shape, strides = (weight.channels, weight.count, weight.length), (weight.channel_stride, weight.stride, 1)
    np.lib.stride_tricks.as_strided(image, shape, strides)[:] = weight.element.encode(codes).reshape(shape)
    return image
