"""Layers that hold the same weights: tied copies in one file, and the same model in several formats.

Whatever is locked in one copy must be locked in all, with the same decoys: else the copies give each other away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.weights import Floats, Place

SAMPLED_CHANNELS = 16
SAMPLED_ELEMENTS = 512
SAME = 0.95  # mean |cosine| of channels; 4-bit groups of 32 reach 0.99, unrelated channels of 9 elements about 0.27


@dataclass(frozen=True)
class Member:
    """A tensor in its artifact (index into the list that is locked together)."""

    artifact: int
    tensor: WeightTensor


def group_layers(artifacts: list[Artifact]) -> list[list[Member]]:
    """Every tensor of every artifact, in groups of equal content, the leader (first seen) first.

    Content is equal when sampled channels point the same way: a BatchNorm fold scales a channel and quantization rounds it,
    neither turns it. Weights of several programs that are the same bytes of a `.ptd` are always one group.
    """
    groups: list[list[Member]] = []
    by_place: dict[Place, list[Member]] = {}
    by_shape: dict[tuple[int, ...], list[tuple[Floats, list[Member]]]] = {}
    for index, artifact in enumerate(artifacts):
        for tensor in artifact.tensors:
            member = Member(index, tensor)
            if (same := by_place.get(tensor.place)) is not None:
                same.append(member)
                continue
            known = by_shape.setdefault(squeezed(tensor.shape), [])
            directions = directions_of(tensor)
            for leader, group in known:
                cosines = np.abs(np.einsum("ce,ce->c", leader, directions))
                if cosines.size and cosines.mean() > SAME and directions.any(axis=1).all():
                    group.append(member)
                    break
            else:
                group = [member]
                known.append((directions, group))
                groups.append(group)
            by_place[tensor.place] = group
    return groups


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1 x 1 convolution and a linear layer can hold the same weights."""
    return (shape[0], *(n for n in shape[1:] if n > 1))


def directions_of(tensor: WeightTensor) -> Floats:
    """Unit vectors of evenly spaced channels, float32 (sampled, elements)."""
    picked = np.linspace(0, tensor.channels - 1, min(SAMPLED_CHANNELS, tensor.channels)).astype(np.int64)
    values = tensor.read(picked).reshape(picked.size, -1)
    tensor.release()
    values = values[:, :: max(1, values.shape[1] // SAMPLED_ELEMENTS)]
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1), np.float32)
