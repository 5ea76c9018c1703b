"""A model with what a public base says in the place of what is locked: what an attacker has who holds both files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.elements import Numbers
from corelocker.artifacts.weights import Floats
from corelocker.files import Bytes
from corelocker.locking.base import values_of_base
from corelocker.locking.criteria import chunks
from corelocker.locking.drawing import runs_of_part
from corelocker.locking.fill.encode import weight_bytes

Guess = Literal["signs", "values", "base"]
"""`signs`: of weights locked by sign the base's sign, of those locked by value the base's value. `values`: of all that is locked
the base's value. `base`: the base's values in all its layers, locked or not: what the attacker has without the locked file."""


@dataclass(frozen=True, eq=False)
class Guessed:
    """A layer that the base has.

    Attributes:
        base: the layer there.
        locked: bool (channels,), which channels are locked in the tier that ships.
        by_sign: whether they are locked by sign.
    """

    base: WeightTensor
    locked: npt.NDArray[np.bool_] = field(repr=False)
    by_sign: bool


def guessed_state(artifact: Artifact, layers: Mapping[str, Guessed], guess: Guess) -> dict[str, Bytes]:
    """The artifact's files with the guess in place; layers that the base has not are the original's, for whoever trains learns an
    output layer anew at once. So are biases and scales."""
    state = {file.name: file.data.copy() for file in artifact.files}
    for tensor in artifact.tensors:
        found = layers.get(tensor.name)
        if found is None:
            continue
        for rows in chunks(tensor):
            picked = np.arange(rows.start, rows.stop)
            if guess != "base":
                picked = picked[found.locked[rows]]
            if not picked.size:
                continue
            values = values_of_base(tensor, found.base, rows)[picked - rows.start]
            if guess == "signs" and found.by_sign:
                values = np.copysign(tensor.read(picked), values)
            data = weight_bytes(tensor.weight, _codes(tensor, values, picked), picked)
            for runs in runs_of_part(tensor.weight, picked, np.ones(picked.size, np.uint8), data):
                runs.apply(0, state[tensor.weight.file.name], 0)
        found.base.release()
    return state


def _codes(tensor: WeightTensor, values: Floats, channels: npt.NDArray[np.int64]) -> Numbers:
    """Values (n, *shape[1:]) in file order, as the file would store them: (n, elements)."""
    shape = [tensor.file_shape[axis] for axis in tensor.axes]
    filed = values.reshape(-1, *shape).transpose(0, *(a + 1 for a in np.argsort(tensor.axes))).reshape(len(values), -1)
    if tensor.quantization is None:
        return np.ascontiguousarray(filed)
    scale, zero = (
        None if part is None else np.asarray(part.read(channels), np.float32)
        for part in (tensor.part("scale"), tensor.part("zero_point"))
    )
    return tensor.quantization.quantize(np.ascontiguousarray(filed), scale, zero, channels, tensor.weight.element)
