"""What two published files of one model reveal together, weight by weight.

From the files alone one sees where they differ. Records of both locks tell what each leaves open: of each weight both files
together show what the more open of them shows. Independent masks of the same weights' signs show nothing together; a sign that
one file hides is not in a file that hides the whole value.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.elements import ElementType
from corelocker.bundle.keystore import LockRecord, RecordedLayer
from corelocker.errors import LockingError
from corelocker.locking.earlier import same_layer
from corelocker.locking.shown import OPEN, SIGN, VALUE, Levels, blocks, elements_of, shown_by_record

SAME, SIGNS, VALUES = 0, 1, 2  # how a weight differs between two files
LEVELS = (OPEN, SIGN, VALUE)
BLOCK = 1 << 20  # weights that are read at a time
EXACT = 1e-3  # of a channel's largest weight: what rounding to half floats may move
TURNED = 0.1  # share of a channel's weights with the same magnitude and another sign from which on it is locked by sign
MOSTLY = 0.5  # share of a channel's weights that are the same, or the same but for their signs, where that is no chance

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerComparison:
    """How the weights of one layer differ between two files: not at all, in their signs alone, or in their values."""

    name: str
    weights: int
    same: int
    signs: int
    values: int


@dataclass(frozen=True, eq=False)
class LayerExposure:
    """What two locks hide of one layer.

    Attributes:
        bits: of one weight in the first file.
        counts: int64 (3, 3), weights by what the first and what the second file shows of them: OPEN, SIGN (all but the sign) or
            VALUE (nothing).
    """

    name: str
    bits: int
    counts: npt.NDArray[np.int64] = field(repr=False)

    @property
    def weights(self) -> int:
        """All weights of the layer."""
        return int(self.counts.sum())


def compare(first: Artifact, second: Artifact) -> list[LayerComparison]:
    """Compare two files layer by layer, from what anybody can see. Raises LockingError when no layer is in both."""
    pairs = same_layers(first.tensors, second.tensors)
    if not pairs:
        raise LockingError(
            f"{first.path.name} and {second.path.name} have no layer in common",
            hint="Compare two files of the same model",
        )
    return [_compare_layer(a, b) for a, b in pairs]


def exposure(first: LockRecord, second: LockRecord, tensors: Sequence[WeightTensor]) -> list[LayerExposure]:
    """What two locks hide together, layer by layer.

    Args:
        tensors: of the first file.

    Raises LockingError when no layer is in both.
    """
    layers, left = [], list(tensors)
    for layer in first.layers:
        other = same_layer(second, layer.fingerprint, layer.channels)
        tensor = _tensor_of(layer, left)
        if other is None or tensor is None:
            continue
        left.remove(tensor)
        layers.append(LayerExposure(layer.name, tensor.weight.element.bits, _counts(layer, other, elements_of(tensor))))
    if not layers:
        raise LockingError("the two bundles' locks have no layer in common", hint="Compare two files of the same model")
    return layers


def _tensor_of(layer: RecordedLayer, tensors: Sequence[WeightTensor]) -> WeightTensor | None:
    """The tensor of a recorded layer, by name; a lock of several files has its layers' names from one of them."""
    fitting = [t for t in tensors if t.channels == layer.channels and layer.elements in (0, elements_of(t))]
    return next((t for t in fitting if t.name == layer.name), fitting[0] if fitting else None)


def _counts(first: RecordedLayer, second: RecordedLayer, elements: int) -> npt.NDArray[np.int64]:
    shown = [shown_by_record(layer, elements) for layer in (first, second)]
    counts = np.zeros(len(LEVELS) ** 2, np.int64)
    for rows in blocks(first.channels, elements):
        one, other = (file.weights(rows, elements) for file in shown)
        counts += np.bincount((len(LEVELS) * one + other).reshape(-1), minlength=counts.size)
    return counts.reshape(len(LEVELS), len(LEVELS))


def same_layers(
    first: Sequence[WeightTensor], second: Sequence[WeightTensor]
) -> list[tuple[WeightTensor, WeightTensor]]:
    """The same layers: by name, else the n-th of each shape."""
    by_name = {tensor.name: tensor for tensor in second}
    if any(t.name in by_name and _shape(t) == _shape(by_name[t.name]) for t in first):
        return [(t, by_name[t.name]) for t in first if t.name in by_name and _shape(t) == _shape(by_name[t.name])]
    waiting: dict[tuple[int, ...], list[WeightTensor]] = {}
    for tensor in second:
        waiting.setdefault(_shape(tensor), []).append(tensor)
    return [(t, waiting[_shape(t)].pop(0)) for t in first if waiting.get(_shape(t))]


def _shape(tensor: WeightTensor) -> tuple[int, ...]:
    return (tensor.shape[0], *(n for n in tensor.shape[1:] if n > 1))


def _compare_layer(a: WeightTensor, b: WeightTensor) -> LayerComparison:
    counts = np.zeros(3, np.int64)
    step = max(1, BLOCK // max(1, elements_of(a)))
    for start in range(0, a.channels, step):
        picked = np.arange(start, min(start + step, a.channels))
        counts += np.bincount(differences(a, b, picked).reshape(-1), minlength=3)
        a.release()
        b.release()
    return LayerComparison(a.name, int(counts.sum()), *(int(count) for count in counts))


def differences(a: WeightTensor, b: WeightTensor, channels: npt.NDArray[np.int64]) -> Levels:
    """How the weights of some channels differ between two files: SAME, SIGNS or VALUES, uint8 (n, elements) in logical order.

    Either may be quantized, and a BatchNorm may be folded into it: a scale of a whole channel is no difference. Of a channel locked
    by sign no weight counts as the same, for half of its signs stay by chance; nor of one locked by value, where some are close.
    """
    x, y = (tensor.read(channels).reshape(channels.size, -1).astype(np.float32, copy=False) for tensor in (a, b))
    share = np.float32(_step(a.weight.element) + _step(b.weight.element))
    return _classify(x, y / _scales(x, y, share), share)


def _scales(x: Floats, y: Floats, share: np.float32) -> Floats:
    """By how much the channels of y are larger, (n, 1).

    The median over larger weights, which no locked minority moves; then, with less noise, that of all weights that agree with it.
    """
    size, other = np.abs(x), np.abs(y)
    large = size > np.sqrt((x**2).mean(axis=1, keepdims=True)) / 2
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a channel of nothing but 0
        scales = np.nanmedian(np.where(large, other / size, np.nan), axis=1, keepdims=True)
    scales = np.where(np.isfinite(scales) & (scales > 0), scales, np.float32(1))
    near = np.abs(size - other / scales) <= 2 * share * size.max(axis=1, keepdims=True, initial=0)
    of_near = (size**2 * near).sum(axis=1, keepdims=True)
    better = (size * other * near).sum(axis=1, keepdims=True) / np.where(of_near > 0, of_near, 1)
    return np.where(better > 0, better, scales)


def _classify(x: Floats, y: Floats, share: np.float32) -> Levels:
    size, other = np.abs(x), np.abs(y)
    step = share * size.max(axis=1, keepdims=True, initial=0)
    same = np.abs(x - y) <= step
    turned = (np.abs(size - other) <= step) & ~same
    alive = np.maximum(size, other) > step
    counted = alive.sum(axis=1, keepdims=True)
    by_sign = (turned & alive).sum(axis=1, keepdims=True) > TURNED * counted
    alike = ((same | turned) & alive).sum(axis=1, keepdims=True) >= MOSTLY * counted
    levels = np.where(same & ~by_sign, SAME, np.where(same | turned, SIGNS, VALUES))
    return np.where(alike, levels, VALUES).astype(np.uint8)


def _step(element: ElementType) -> float:
    return EXACT if element.is_float else 0.6 / max(1, (1 << (element.bits - 1)) - 1)
