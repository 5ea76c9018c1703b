"""The detectors that a decoy must withstand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from corelocker.artifacts import Artifact
from corelocker.artifacts.weights import Floats


def _kurtosis(v: Floats) -> Floats:
    centred = v - v.mean(axis=1, keepdims=True)
    return np.asarray((centred**4).mean(axis=1) / np.maximum((centred**2).mean(axis=1) ** 2, 1e-30))


DETECTORS = {
    "l1": lambda v: np.abs(v).sum(axis=1),
    "max": lambda v: np.abs(v).max(axis=1),
    "kurtosis": _kurtosis,
    "distance to the mean": lambda v: np.linalg.norm(v - v.mean(axis=0), axis=1),
    "distance of the l1": lambda v: np.abs(np.abs(v).sum(axis=1) - np.abs(v).sum(axis=1).mean()),
}


def auc(scores: npt.NDArray[np.float64], locked: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half; 0.5 is a blind guess."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    positive, negative = int(locked.sum()), int((~locked).sum())
    return float((ranks[places][locked].sum() - positive * (positive + 1) / 2) / (positive * negative))


def detection(artifact: Artifact, tier_of: dict[str, npt.NDArray[np.uint8]]) -> dict[str, float]:
    """AUC of each detector over all locked layers; scores count by their rank within the layer."""
    found: dict[str, list[npt.NDArray[np.float64]]] = {}
    truth = []
    for tensor in artifact.tensors:
        locked = tier_of.get(tensor.name, np.zeros(1, np.uint8)) > 0
        if not locked.any():
            continue
        truth.append(locked)
        values = tensor.values().astype(np.float64)
        scores = {name: detector(values) for name, detector in DETECTORS.items()}
        if scale := tensor.part("scale"):
            scores["scale"] = np.asarray(scale.read(), np.float64).mean(axis=1)
            zero = tensor.quantization.zero_point if tensor.quantization is not None else None
            codes = np.abs(tensor.weight.read().astype(np.float64) - (0 if zero is None else zero))
            scores["reach of the codes"] = codes.reshape(tensor.channels, scale.elements, -1).max(axis=2).mean(axis=1)
        for name, score in scores.items():
            places = np.unique(score, return_inverse=True)[1].reshape(-1)
            found.setdefault(name, []).append(places / max(1, places.max()))
    every = np.concatenate(truth)
    return {name: auc(np.concatenate(parts), every) for name, parts in found.items() if len(parts) == len(truth)}
