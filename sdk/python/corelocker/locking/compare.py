"""What two published files of one model reveal together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.bundle.keystore import LockRecord
from corelocker.errors import LockingError
from corelocker.locking.earlier import same_layer
from corelocker.locking.shown import OPEN, shown_by_record

SAME = 0.98  # cosine of a channel in both files: quantization and a BatchNorm fold keep it, a decoy does not
BLOCK = 1 << 22  # elements that are read at a time


@dataclass(frozen=True)
class LayerComparison:
    """How the channels of one layer differ between two files. `signs` are channels of the same magnitudes."""

    name: str
    channels: int
    weights: int
    same: int
    signs: int
    values: int


@dataclass(frozen=True)
class LayerExposure:
    """Channels of one layer that one file locks and the other leaves open, or that both lock."""

    name: str
    channels: int
    only_first: int
    only_second: int
    both: int


def compare(first: Artifact, second: Artifact) -> list[LayerComparison]:
    """Compare two files layer by layer, from what anybody can see. Raises LockingError when no layer is in both."""
    pairs = same_layers(first.tensors, second.tensors)
    if not pairs:
        raise LockingError(
            f"{first.path.name} and {second.path.name} have no layer in common",
            hint="Compare two files of the same model",
        )
    return [_compare_layer(a, b) for a, b in pairs]


def exposure(first: LockRecord, second: LockRecord) -> list[LayerExposure]:
    """What each of two locks hides that the other leaves open. Raises LockingError when no layer is in both."""
    layers = []
    for layer in first.layers:
        other = same_layer(second, layer.fingerprint, layer.channels)
        if other is None:
            continue
        a, b = (shown_by_record(x, x.elements).rows > OPEN for x in (layer, other))
        layers.append(
            LayerExposure(layer.name, layer.channels, int((a & ~b).sum()), int((b & ~a).sum()), int((a & b).sum()))
        )
    if not layers:
        raise LockingError("the two bundles' locks have no layer in common", hint="Compare two files of the same model")
    return layers


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
    weights = int(np.prod(a.shape))
    step = max(1, BLOCK * a.channels // max(1, weights))
    same = signs = 0
    for start in range(0, a.channels, step):
        picked = np.arange(start, min(start + step, a.channels))
        x, y = (tensor.read(picked).reshape(picked.size, -1).astype(np.float32) for tensor in (a, b))
        equal = _cosines(x, y) >= SAME
        same += int(equal.sum())
        signs += int((~equal & (_cosines(np.abs(x), np.abs(y)) >= SAME) & _flipped(x, y)).sum())
    a.release()
    b.release()
    return LayerComparison(a.name, a.channels, weights, same, signs, a.channels - same - signs)


def _cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine of each row; 1 where both rows are 0."""
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    dots = np.einsum("ce,ce->c", x, y)
    zero = (np.abs(x).max(axis=1, initial=0) == 0) & (np.abs(y).max(axis=1, initial=0) == 0)
    return np.where(zero, 1.0, dots / np.where(norms > 0, norms, 1.0))


def _flipped(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether the largest weights of each row are the same but for their signs: small rows are easily alike by chance."""
    scale = np.linalg.norm(x, axis=1, keepdims=True) / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-30)
    error = np.linalg.norm(np.abs(x) - scale * np.abs(y), axis=1)
    return np.asarray(error <= 0.2 * np.maximum(np.linalg.norm(x, axis=1), 1e-30))
