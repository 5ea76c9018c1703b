"""Guessing the content of locked channels whose place is known, from what is left of the file or from a public relative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from corelocker.audit import need
from corelocker.audit.location import ObservedLayer, read_columns, read_layers, ridge
from corelocker.audit.models import Mask

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["zeros", "layer-mean", "least-squares", "low-rank"]
METHODS: tuple[Method, ...] = ("zeros", "layer-mean", "least-squares", "low-rank")
Floats = npt.NDArray[np.float64]
ROUNDS = 10  # of low-rank completion at each rank
LARGE = 1024  # channels from which on one round has to do: the time grows with their cube


def impute(state: Mapping[str, Tensor], elements: Mapping[str, Mask], method: Method) -> dict[str, Tensor]:
    """A state dict with new values in the elements that the attacker knows to be locked.

    "zeros": nothing in their place. "layer-mean": what the layer's other channels hold on average at the same place.
    "least-squares": a locked channel follows from the next layer's weights that read it, by ridge regression over the channels
    that are known; where the readers are locked too, the mean. "low-rank": each layer's channels, side by side with what reads
    them, are completed to a matrix of a quarter of the full rank (iterated singular value decomposition).
    """
    layers = read_layers(state)
    new = {name: value.clone() for name, value in state.items()}
    covered: set[str] = set()
    for layer in layers.values():
        names = [layer.name, *layer.vectors]
        covered |= set(names)
        if any(name in elements for name in names):
            values = _matrix(layer)
            missing = _missing(layer, elements)
            _put(new, layer, _completed(layer, layers, elements, values, missing, method), missing)
    for name, mask in elements.items():
        if name not in covered and name in new:  # a tensor of no layer
            rest = new[name][~_tensor(mask)]
            new[name][_tensor(mask)] = (
                0 if method == "zeros" or not rest.numel() else rest.float().mean().to(rest.dtype)
            )
    return new


def from_base(
    state: Mapping[str, Tensor], elements: Mapping[str, Mask], base: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], float]:
    """Locked elements taken from the public checkpoint that the model was tuned from, and the share of them that it had."""
    new = {name: value.clone() for name, value in state.items()}
    asked = taken = 0
    for name, mask in elements.items():
        asked += int(mask.sum())
        if name in base and tuple(base[name].shape) == tuple(new[name].shape):
            where = _tensor(mask)
            new[name][where] = base[name].to(new[name].dtype)[where]
            taken += int(mask.sum())
    return new, taken / max(1, asked)


def _tensor(mask: Mask) -> Tensor:
    found: Tensor = need("torch").from_numpy(np.array(mask))
    return found


def _matrix(layer: ObservedLayer) -> Floats:
    """The layer's weights and vectors side by side, (channels, elements); variances as logarithms, that stay positive."""
    columns = [layer.values]
    for name, vector in layer.vectors.items():
        columns.append((np.log(np.maximum(vector, 1e-12)) if layer.kinds[name] == "variance" else vector)[:, None])
    return np.concatenate(columns, axis=1)


def _missing(layer: ObservedLayer, elements: Mapping[str, Mask]) -> Mask:
    parts = []
    mask = elements.get(layer.name, np.zeros(layer.shape, np.bool_))
    parts.append((mask.T if layer.transposed else mask).reshape(layer.values.shape))
    for name, vector in layer.vectors.items():
        parts.append(elements.get(name, np.zeros(vector.shape, np.bool_))[:, None])
    return np.concatenate(parts, axis=1)


def _put(new: dict[str, Tensor], layer: ObservedLayer, values: Floats, missing: Mask) -> None:
    torch = need("torch")
    width = layer.values.shape[1]
    pieces = {layer.name: (values[:, :width], missing[:, :width])}
    for index, name in enumerate(layer.vectors):
        column = values[:, width + index]
        if layer.kinds[name] == "variance":
            column = np.exp(np.clip(column, -60, 60))
        pieces[name] = (column, missing[:, width + index])
    for name, (found, where) in pieces.items():
        target = new[name]
        if name == layer.name and layer.transposed:
            found, where = found.T, where.T
        found = np.ascontiguousarray(found).reshape(tuple(target.shape))
        place = _tensor(np.ascontiguousarray(where).reshape(tuple(target.shape)))
        target[place] = torch.from_numpy(found).to(target.dtype)[place]


def _completed(
    layer: ObservedLayer,
    layers: Mapping[str, ObservedLayer],
    elements: Mapping[str, Mask],
    values: Floats,
    missing: Mask,
    method: Method,
) -> Floats:
    if method == "zeros":
        return np.where(missing, 0.0, values)  # the logarithm of a variance of 1
    mean = _mean(values, missing)
    if method == "layer-mean":
        return mean
    columns, hidden = _readers(layer, layers, elements)
    rows = missing.any(axis=1)
    if method == "least-squares":
        usable = ~hidden.any(axis=1)
        wanted = rows & usable
        known = ~rows & usable
        if columns.shape[1] and wanted.any() and known.sum() >= 2:
            predicted = ridge(columns[known], values[known], columns[wanted])
            mean[wanted] = np.where(missing[wanted], predicted, values[wanted])
        return mean
    both = np.concatenate([mean, _mean(columns, hidden)], axis=1)
    gaps = np.concatenate([missing, hidden], axis=1)
    middle, spread = both.mean(axis=0), both.std(axis=0) + 1e-12
    scaled = (both - middle) / spread
    most = max(1, min(scaled.shape) // 4)
    rank = 1
    while True:  # coarse structure first: gaps that start at the mean would otherwise stay there
        for _ in range(ROUNDS if min(scaled.shape) <= LARGE else 1):
            scaled = np.where(gaps, _truncated(scaled, rank), scaled)
        if rank == most:
            break
        rank = min(2 * rank, most)
    return np.asarray((scaled * spread + middle)[:, : values.shape[1]], np.float64)


def _truncated(matrix: Floats, rank: int) -> Floats:
    """The nearest matrix of that rank, by the eigenvectors of the smaller Gram matrix."""
    if matrix.shape[0] > matrix.shape[1]:
        return _truncated(matrix.T, rank).T
    basis = np.linalg.eigh(matrix @ matrix.T)[1][:, -rank:]
    return np.asarray(basis @ (basis.T @ matrix), np.float64)


def _mean(values: Floats, missing: Mask) -> Floats:
    """Missing elements replaced by the mean of what is known in their column, or of everything known."""
    known = ~missing
    counts = known.sum(axis=0)
    overall = float(values[known].mean()) if known.any() else 0.0
    columns = np.where(counts > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(counts, 1), overall)
    return np.where(missing, columns[None, :], values)


def _readers(
    layer: ObservedLayer, layers: Mapping[str, ObservedLayer], elements: Mapping[str, Mask]
) -> tuple[Floats, Mask]:
    reader = layers.get(layer.reader)
    if reader is None:
        empty = np.zeros((layer.values.shape[0], 0))
        return empty, empty.astype(np.bool_)
    mask = elements.get(reader.name, np.zeros(reader.shape, np.bool_))
    if reader.transposed:
        mask = mask.T
    hidden = ObservedLayer(
        reader.name, mask.reshape(reader.values.shape).astype(np.float64), {}, {}, False, reader.shape, ""
    )
    columns, gaps = read_columns(layer, reader), read_columns(layer, hidden) > 0
    whole = gaps.all(axis=0)  # what is locked in every channel tells nothing: the reader's own locked channels
    return columns[:, ~whole], gaps[:, ~whole]
