"""What stands in the place of a consumer's locked input channels."""

from __future__ import annotations

import numpy as np

from corelocker.artifacts import Part, WeightTensor
from corelocker.files import Bytes
from corelocker.locking.fill.candidates import jittered
from corelocker.locking.fill.pool import others
from corelocker.locking.fill.silence import zero_image
from corelocker.locking.layout import Indices
from corelocker.locking.options import Fill


def fill_inputs(tensor: WeightTensor, columns: Indices, fill: Fill, generator: np.random.Generator) -> list[Bytes]:
    """New bytes for input channels of a consumer: for each the pieces of the run `tensor.inputs.run(column)`, uint8.

    Decoys take each output's weights from another input channel of that output, so a quantized row keeps the range of its
    codes. Copies of a tensor in another layout get the same numbers from an equally seeded generator.
    """
    part, weight = tensor.inputs, tensor.weight
    if part is None or not isinstance(weight, Part):
        raise TypeError(tensor.name)
    image = part.file.data[part.offset :]
    if fill == "zero":
        image = zero_image(tensor, weight)
    view = np.lib.stride_tricks.as_strided(
        image, (part.channels, part.count, part.length), (part.channel_stride, part.stride, 1), writeable=False
    )
    if fill == "zero":
        return [np.ascontiguousarray(view[c]).reshape(-1) for c in columns]
    width = max(1, part.element.bits // 8)
    elements = view.reshape(part.channels, -1, width)
    kernel = elements.shape[1] // tensor.channels
    free = others(part.channels, columns)
    filled = []
    for _ in columns:
        picked = np.repeat(generator.choice(free, tensor.channels), kernel)
        numbers = part.element.decode(np.ascontiguousarray(elements[picked, np.arange(picked.size)]).reshape(1, -1))
        if part.element.is_float:
            numbers = jittered(np.asarray(numbers, np.float32), generator)
        filled.append(part.element.encode(numbers)[0])
    return filled
