"""How much a channel matters, without data.

`l1` and `bn_scale` are criteria of CoreLocker (IEEE S&P 2024, section on core-weight extraction): the l1 norm of a
filter, and the scale of the BatchNorm that follows it. `random_scores` is the baseline that every audit sets beside
them. `corelocker.locking.criteria.sensitivity` runs the model, and gives a scorer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.weights import Floats
from corelocker.errors import CriterionError
from corelocker.locking.options import CriterionName

Scores = npt.NDArray[np.float64]
CHUNK = 1 << 23  # bytes of weights that are dequantized at a time
MATCH = 0.98  # cosine between a folded, possibly quantized channel and its source
UNNAMED = "by the names of the checkpoint no BatchNorm follows any of its layers"


def chunks(tensor: WeightTensor) -> Iterator[slice]:
    """Slices of channels of about CHUNK bytes; pages that were read go back to the kernel, so memory stays bounded."""
    part = tensor.weight
    step = max(1, CHUNK // max(1, part.elements * 4))
    for first in range(0, tensor.channels, step):
        yield slice(first, min(first + step, tensor.channels))
        offset, length = part.extent
        per_channel = length / tensor.channels
        part.file.release(offset + int(first * per_channel), int(step * per_channel))


def l1(tensor: WeightTensor) -> Scores:
    """Sum of absolute dequantized weights of each channel, float64 (channels,)."""
    scores = np.empty(tensor.channels)
    for rows in chunks(tensor):
        values = tensor.values(rows)
        scores[rows] = np.abs(values).sum(axis=1) if values.flags.owndata else _absolute_sums(values)
    return scores


def _absolute_sums(values: Floats) -> Scores:
    """Like np.abs(values).sum(axis=1), through a buffer that stays in the processor's cache."""
    rows, width = values.shape
    step = max(1, (1 << 18) // max(1, width * 4))
    buffer = np.empty((min(step, rows), width), np.float32)
    sums = np.empty(rows)
    for first in range(0, rows, step):
        block = values[first : first + step]
        sums[first : first + step] = np.abs(block, out=buffer[: block.shape[0]]).sum(axis=1)
    return sums


def random_scores(tensor: WeightTensor, seed: bytes) -> Scores:
    """A seeded permutation, the same for a tensor name whatever else is locked."""
    generator = np.random.Generator(np.random.PCG64(list(seed + tensor.name.encode())))
    return generator.permutation(tensor.channels).astype(np.float64)


def bn_scale(tensor: WeightTensor, source: Checkpoint | None) -> Scores:
    """|gamma| of the BatchNorm behind each channel.

    Raises CriterionError when neither the file nor the source has one for this layer.
    """
    if gamma := tensor.part("gamma"):
        return np.abs(gamma.read()[:, 0]).astype(np.float64)
    if source is not None and (found := source.find(tensor)) is not None and (gamma := found.part("gamma")):
        return np.abs(gamma.read()[:, 0]).astype(np.float64)
    raise CriterionError(f"{tensor.name}: no BatchNorm scale for this layer")


def l1_of_source(tensor: WeightTensor, source: Checkpoint) -> Scores:
    """`l1` of the layer as the checkpoint has it. Raises CriterionError when the checkpoint does not hold it."""
    if (found := source.find(tensor)) is not None:
        return l1(found)
    raise CriterionError(f"{tensor.name}: the source checkpoint does not hold this layer")


class Checkpoint:
    """The layers of a training checkpoint, matched to those of an exported model by value.

    Exporters fold a BatchNorm into its convolution: w' = w * gamma / sqrt(variance + eps). That scales every channel, so a
    channel of the exported weight points the same way as its source (or the opposite way for a negative gamma).
    """

    def __init__(self, path: Path) -> None:
        from corelocker.artifacts.safetensors import open_safetensors

        self._layers = open_safetensors(path).tensors

    @property
    def has_batch_norms(self) -> bool:
        """Whether any layer has a BatchNorm behind it."""
        return any(layer.part("gamma") is not None for layer in self._layers)

    def find(self, tensor: WeightTensor) -> WeightTensor | None:
        """The layer whose channels are `tensor`'s up to scale; by name first, where several are."""
        for candidate in sorted(self._layers, key=lambda layer: layer.name != tensor.name):
            if _squeezed(candidate.shape) == _squeezed(tensor.shape) and _alike(candidate, tensor):
                return candidate
        return None


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1 x 1 convolution and a linear layer can hold the same weights."""
    return (shape[0], *(n for n in shape[1:] if n > 1))


def _alike(candidate: WeightTensor, tensor: WeightTensor) -> bool:
    cosines = []
    for rows in chunks(tensor):
        a = candidate.read(rows).reshape(rows.stop - rows.start, -1)
        b = tensor.read(rows).reshape(rows.stop - rows.start, -1)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        # Channels whose gamma has died carry no direction any more.
        alive = norms > 1e-6 * max(float(norms.max()), 1e-30)
        cosines.append(np.abs(np.einsum("ce,ce->c", a, b)[alive] / norms[alive]))
    found = np.concatenate(cosines)
    return bool(found.size and np.median(found) > MATCH)


def score(criterion: CriterionName, seed: bytes, source: Path | None) -> Callable[[WeightTensor], Scores]:
    """The function that scores a tensor's channels, float64 (channels,), higher is locked first.

    Raises CriterionError for bn-scale with a source that has no BatchNorm, and for sensitivity, which needs the model.
    """
    if criterion == "random":
        return lambda tensor: random_scores(tensor, seed)
    if criterion == "sensitivity":
        raise CriterionError("sensitivity needs the model itself", hint="Pass --model package.module:factory")
    known = Checkpoint(source) if source is not None else None
    if criterion == "l1":
        return l1 if known is None else lambda tensor: l1_of_source(tensor, known)
    if known is not None and not known.has_batch_norms:
        raise CriterionError(f"{source}: {UNNAMED}", hint="Use --criterion l1")
    return lambda tensor: bn_scale(tensor, known)


def check_criterion(criterion: CriterionName, artifacts: list[Artifact], source: Path | None) -> None:
    """Refuse early what cannot work. Raises CriterionError."""
    if criterion != "bn-scale" or source is not None:
        return
    if not any(t.part("gamma") for artifact in artifacts for t in artifact.tensors):
        if all(artifact.format == "safetensors" for artifact in artifacts):
            raise CriterionError(
                f"bn-scale needs BatchNorm scales, and {UNNAMED}",
                hint="Use --criterion l1, or where they were folded pass the training checkpoint with --source",
            )
        raise CriterionError(
            "bn-scale needs BatchNorm scales, and the exporter has folded them into the weights",
            hint="Pass the training checkpoint with --source checkpoint.safetensors, or use --criterion l1",
        )
