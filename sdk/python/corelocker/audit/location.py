"""Searching for the locked channels: how well can an attacker tell them from the rest?

A detector gives every channel of a layer a score; channels count by their rank within the layer. The area under the ROC curve
(AUC) over all layers says how often a locked channel scores above an unlocked one: 0.5 is a blind guess, 1 finds them all.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import WeightTensor
from corelocker.artifacts.safetensors_header import read_header
from corelocker.artifacts.torch_module import open_state
from corelocker.audit import need
from corelocker.audit.data import DataSet
from corelocker.audit.evaluators import first_tensor
from corelocker.audit.models import Mask
from corelocker.audit.training import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ObservedLayer:
    """A layer of a state dict as an attacker sees it.

    Attributes:
        name: of its weight.
        values: float64 (channels, elements): the weights of each output channel.
        vectors: tensor name -> float64 (channels,): its bias and the numbers of its BatchNorm.
        transposed: whether the tensor stores output channels as columns.
        shape: of the tensor.
        reader: name of the layer that probably reads this one, where its input channels fit; "" where none does.
    """

    name: str
    values: Floats = field(repr=False)
    vectors: dict[str, Floats] = field(repr=False)
    kinds: Mapping[str, str]
    transposed: bool
    shape: tuple[int, ...]
    reader: str


def read_layers(state: Mapping[str, Tensor]) -> dict[str, ObservedLayer]:
    """The layers of a state dict in order, with what belongs to their channels, found by the naming habits of checkpoints."""
    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        artifact = open_state(state, Path(folder) / "state.safetensors")
        names = {entry.offset: entry.name for entry in read_header(artifact.files[0])}
        layers = {}
        for index, tensor in enumerate(artifact.tensors):
            vectors, kinds = {}, {}
            for part in tensor.parts[1:]:
                name = names[part.offset]
                vectors[name] = np.asarray(part.read(), np.float64)[:, 0]
                kinds[name] = part.kind
            layers[tensor.name] = ObservedLayer(
                tensor.name,
                np.array(tensor.values(), np.float64),
                vectors,
                kinds,
                tuple(state[tensor.name].shape) != tuple(tensor.shape),
                tuple(state[tensor.name].shape),
                _reader(artifact.tensors[index + 1 :], tensor),
            )
    return layers


def _reader(later: tuple[WeightTensor, ...], tensor: WeightTensor) -> str:
    """The next layer in order whose inputs are as many as this layer's channels: right in chains and inside blocks."""
    for candidate in later[:2]:
        inputs = candidate.channels if candidate.role == "depthwise" else candidate.shape[1]
        if inputs == tensor.channels and candidate.role != "embedding":
            return candidate.name
    return ""


def read_columns(layer: ObservedLayer, reader: ObservedLayer) -> Floats:
    """What `reader` makes of each channel of `layer`: float64 (channels, elements)."""
    if reader.values.shape[0] == layer.values.shape[0] and len(reader.shape) > 2 and reader.shape[1] == 1:
        return reader.values  # depthwise
    inputs = layer.values.shape[0]
    return reader.values.reshape(reader.values.shape[0], inputs, -1).transpose(1, 0, 2).reshape(inputs, -1)


def auc(scores: Floats, locked: Mask) -> float:
    """Area under the ROC curve of `scores` (n,) for `locked` (n,), ties counted half; both classes must be there."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    positive, negative = int(locked.sum()), int((~locked).sum())
    return float((ranks[places.reshape(-1)][locked].sum() - positive * (positive + 1) / 2) / (positive * negative))


def auc_error(positive: int, negative: int) -> float:
    """Standard deviation of the AUC of a detector that knows nothing (Mann and Whitney 1947)."""
    return math.sqrt((positive + negative + 1) / (12 * positive * negative))


def weight_detectors(layers: Mapping[str, ObservedLayer]) -> dict[str, dict[str, Floats]]:
    """Detectors that need nothing but the file: detector -> layer -> score (channels,)."""
    found: dict[str, dict[str, Floats]] = {}
    for name, layer in layers.items():
        values = layer.values
        sums = np.abs(values).sum(axis=1)
        centred = values - values.mean(axis=1, keepdims=True)
        mean = values.mean(axis=0)
        norms = np.maximum(np.linalg.norm(values, axis=1), 1e-30)
        scores = {
            "silent": (sums == 0).astype(np.float64),
            "l1": sums,
            "distance-of-the-l1": np.abs(np.log(np.maximum(sums, 1e-30)) - np.log(max(float(np.median(sums)), 1e-30))),
            "largest-weight": np.abs(values).max(axis=1),
            "kurtosis": (centred**4).mean(axis=1) / np.maximum((centred**2).mean(axis=1) ** 2, 1e-30),
            "distance-to-the-mean": np.linalg.norm(values - mean, axis=1),
            "alignment-with-the-mean": values @ mean / norms,
            "nearest-channel": _nearest(values / norms[:, None]),
            "outside-the-main-subspace": _outside(values),
        }
        for vector, kind in layer.kinds.items():
            scores[f"norm-{kind}" if kind != "bias" else "bias"] = layer.vectors[vector]
        reader = layers.get(layer.reader)
        if reader is not None:
            columns = read_columns(layer, reader)
            scores["size-of-the-readers"] = np.linalg.norm(columns, axis=1) / norms
            scores["unlike-its-readers"] = _residual(columns, values)
        for detector, score in scores.items():
            found.setdefault(detector, {})[name] = score
    return found


def data_detectors(
    module: nn.Module, layers: Mapping[str, ObservedLayer], data: DataSet
) -> dict[str, dict[str, Floats]]:
    """Detectors that run the locked model on the attacker's samples: gradients of the loss, and BatchNorm numbers that do not
    fit what the channel really gives."""
    torch = need("torch")
    module.eval()
    module.zero_grad()
    cross_entropy(first_tensor(module(data.x)), data.y).backward()
    found: dict[str, dict[str, Floats]] = {"gradient": {}, "gradient-per-weight": {}}
    for name, parameter in module.named_parameters():
        if name in layers and parameter.grad is not None:
            gradient = parameter.grad.T if layers[name].transposed else parameter.grad
            sizes = np.asarray(gradient.reshape(gradient.shape[0], -1).norm(dim=1).numpy(), np.float64)
            found["gradient"][name] = sizes
            found["gradient-per-weight"][name] = sizes / np.maximum(np.linalg.norm(layers[name].values, axis=1), 1e-30)
    module.zero_grad()
    owner = {vector: name for name, layer in layers.items() for vector, k in layer.kinds.items() if k == "variance"}
    stored = {n: b.detach().clone() for n, b in module.named_buffers()}
    seen: dict[str, Floats] = {}
    hooks = []
    for path, norm in module.named_modules():
        variance = f"{path}.running_var"
        if variance in owner and variance in stored:

            def look(_: object, inputs: tuple[Tensor, ...], name: str = owner[variance], path: str = path) -> None:
                axes = [0, *range(2, inputs[0].dim())]
                mean, spread = stored[f"{path}.running_mean"], stored[f"{path}.running_var"] + 1e-5
                shift = (inputs[0].mean(dim=axes) - mean).abs() / spread.sqrt()
                ratio = ((inputs[0].var(dim=axes, unbiased=False) + 1e-5) / spread).log().abs()
                seen[name] = np.asarray((shift + ratio).double().numpy(), np.float64)

            hooks.append(norm.register_forward_pre_hook(look))
    try:
        with torch.no_grad():
            module(data.x)
    finally:
        for hook in hooks:
            hook.remove()
    if seen:
        found["statistics-that-do-not-fit"] = seen
    return {detector: scores for detector, scores in found.items() if scores}


def base_detector(layers: Mapping[str, ObservedLayer], base: Mapping[str, ObservedLayer]) -> dict[str, Floats]:
    """How far each channel is from the public checkpoint that the model was tuned from: layer -> (channels,)."""
    return {
        name: np.linalg.norm(layer.values - base[name].values, axis=1)
        for name, layer in layers.items()
        if name in base and base[name].values.shape == layer.values.shape
    }


def search(scores: Mapping[str, Floats], channels: Mapping[str, Mask]) -> tuple[float, int, int] | None:
    """(AUC, locked, unlocked) over all layers that hold both kinds; None where no layer does."""
    places, truth = [], []
    for name, score in scores.items():
        locked = channels.get(name)
        if locked is None or not locked.any() or locked.all():
            continue
        clean = np.nan_to_num(score, nan=0.0, posinf=1e300, neginf=-1e300)
        rank = np.unique(clean, return_inverse=True)[1].reshape(-1)
        places.append(rank / max(1, rank.max()))
        truth.append(locked)
    if not places:
        return None
    every = np.concatenate(truth)
    return auc(np.concatenate(places), every), int(every.sum()), int((~every).sum())


def guess(layers: Mapping[str, ObservedLayer], counts: Mapping[str, int]) -> dict[str, Mask]:
    """The channels that look locked without any knowledge of where: silent ones first, then those that resemble no other
    channel of their layer (trained channels come in families, decoys do not). `counts` says how many to pick in each layer,
    which is generous to the attacker."""
    detectors = weight_detectors(layers)
    chosen = {}
    for name in layers:
        score = detectors["silent"][name] * 2 - detectors["nearest-channel"][name]
        mask = np.zeros(score.size, np.bool_)
        mask[np.argsort(-score, kind="stable")[: counts.get(name, 0)]] = True
        chosen[name] = mask
    return chosen


def elements_of(layers: Mapping[str, ObservedLayer], channels: Mapping[str, Mask]) -> dict[str, Mask]:
    """Channels to elements: tensor name -> bool of its shape, with biases and BatchNorm numbers of the channels."""
    found: dict[str, Mask] = {}
    for name, mask in channels.items():
        if not mask.any():
            continue
        layer = layers[name]
        across = mask[None, :] if layer.transposed else mask.reshape(-1, *(1 for _ in layer.shape[1:]))
        found[name] = np.broadcast_to(across, layer.shape).copy()
        for vector in layer.vectors:
            found[vector] = mask.copy()
    return found


def with_readers(
    elements: Mapping[str, Mask], layers: Mapping[str, ObservedLayer], channels: Mapping[str, Mask]
) -> dict[str, Mask]:
    """`elements`, and the weights that read `channels` where the reading layer is known (`ObservedLayer.reader`).

    Args:
        elements: tensor name -> bool of its shape.
        layers: from `read_layers`.
        channels: layer name -> bool (channels,).
    """
    found = {name: mask.copy() for name, mask in elements.items()}
    for name, mask in channels.items():
        reader = layers.get(layers[name].reader)
        if reader is None or not mask.any():
            continue
        depthwise = reader.shape[1] != mask.size  # its channels are its inputs
        axis = 0 if reader.transposed or depthwise else 1
        across = np.expand_dims(mask, tuple(a for a in range(len(reader.shape)) if a != axis))
        found[reader.name] = found.get(reader.name, np.zeros(reader.shape, np.bool_)) | across
    return found


def _nearest(unit: Floats) -> Floats:
    """Cosine to the most similar other channel."""
    if unit.shape[0] < 2:
        return np.zeros(unit.shape[0])
    nearest = np.empty(unit.shape[0])
    for start in range(0, unit.shape[0], 512):
        cosines = np.abs(unit[start : start + 512] @ unit.T)
        cosines[np.arange(cosines.shape[0]), start + np.arange(cosines.shape[0])] = -1
        nearest[start : start + 512] = cosines.max(axis=1)
    return nearest


def _outside(values: Floats) -> Floats:
    """Share of a channel that the layer's leading directions (a quarter of them) do not explain."""
    if min(values.shape) < 4:
        return np.zeros(values.shape[0])
    left, sizes, _ = np.linalg.svd(values, full_matrices=False)
    kept = max(1, min(values.shape) // 4)
    energy = (left * sizes) ** 2
    return np.asarray(energy[:, kept:].sum(axis=1) / np.maximum(energy.sum(axis=1), 1e-30), np.float64)


def ridge(features: Floats, targets: Floats, wanted: Floats, strength: float = 0.1) -> Floats:
    """Predict targets (n, t) from features (n, f) for the rows `wanted` (m, f), by ridge regression in its dual form."""
    center, spread = features.mean(axis=0), features.std(axis=0) + 1e-12
    known, new = (features - center) / spread, (wanted - center) / spread
    kernel = known @ known.T
    middle = targets.mean(axis=0)
    weight = strength * max(float(np.trace(kernel)) / max(1, len(kernel)), 1e-12)
    solved = np.linalg.solve(kernel + weight * np.eye(len(kernel)), targets - middle)
    return np.asarray(new @ known.T @ solved + middle, np.float64)


def _residual(features: Floats, values: Floats) -> Floats:
    """How badly each channel follows from its readers by the rule that the others obey, relative to its size."""
    if len(values) < 4:
        return np.zeros(len(values))
    off = values - ridge(features, values, features)
    return np.asarray(np.linalg.norm(off, axis=1) / np.maximum(np.linalg.norm(values, axis=1), 1e-30), np.float64)
