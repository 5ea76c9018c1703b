"""The bytes of an artifact in every tier, and which of them are locked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, Part, WeightTensor
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.locked import LockedArtifact, LockedFile
from corelocker.locking.plan import Plan
from corelocker.runs import Run

if TYPE_CHECKING:
    pass


State = Mapping[str, npt.NDArray[np.uint8]]  # file name inside the artifact -> its bytes
# file name -> for each byte the tier whose patch restores it, 0 if not locked. Bytes of weights without their signs count whole.
Coverage = dict[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class TierBytes:
    """An artifact at one tier.

    Attributes:
        name: of the tier.
        removed: share of the channels of all lockable layers that are locked in it.
        locked_bytes, locked_fraction: size of the access key from here to the original, in bytes and of all lockable layers.
        patch_bytes: what this tier's own patch puts back.
        files: the bytes.
    """

    name: str
    removed: float
    locked_bytes: int
    locked_fraction: float
    patch_bytes: int
    files: State = field(repr=False)


@dataclass(frozen=True)
class LayerMap:
    """Where a layer is locked: for each channel the tier that restores it, 0 for not locked; uint8 (channels,)."""

    name: str
    role: str
    shape: tuple[int, ...]
    tier_of: npt.NDArray[np.uint8]


def original_state(artifact: Artifact) -> State:
    """The bytes of the artifact's files, as they are."""
    return {file.name: file.data for file in artifact.files}


def shuffled_weights(artifact: Artifact, state: State, draw: int) -> State:
    """The files with the weights of every layer in another order: a network of this form that has learned nothing.

    What lies beside the weights (scales, biases, normalizations) stays. Each draw gives another order.
    """
    generator = np.random.default_rng(draw)
    shuffled = {name: np.array(state[name]) for name in state}
    for tensor in artifact.tensors:
        weight, data = tensor.weight, shuffled[tensor.weight.file.name][tensor.weight.offset :]
        if isinstance(weight, Part):
            form = (weight.channels, weight.count, weight.length)
            stored = np.lib.stride_tricks.as_strided(data, form, (weight.channel_stride, weight.stride, 1))
        else:
            stored = data[: weight.size]
        elements = stored.reshape(-1, max(1, weight.element.bits // 8))  # of 4 bits two at a time
        stored[...] = generator.permutation(elements).reshape(stored.shape)
    return shuffled


class _StateOnDemand(Mapping[str, npt.NDArray[np.uint8]]):
    """The files in the state of a tier, made when they are read: a curve has a dozen states of a file that may be large."""

    def __init__(self, files: Sequence[LockedFile], tier: int) -> None:
        self._files = {file.file.name: file for file in files}
        self._tier = tier

    def __getitem__(self, name: str) -> npt.NDArray[np.uint8]:
        data = self._files[name].file.data.copy()
        self._files[name].overlay.apply(0, data, self._tier)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def states_of_plan(artifact: Artifact, plan: Plan) -> tuple[list[TierBytes], Coverage, LockedArtifact]:
    """Every tier of a plan, locked in memory, and which bytes are locked."""
    (locked,) = lock_artifacts([artifact], plan)
    coverage = {file.name: np.zeros(len(file), np.uint8) for file in artifact.files}
    key_bytes = [0] * len(plan.tiers)
    for file in locked.files:
        for run, tier, taken in chain.from_iterable(file.overlay.runs):
            mark(coverage[file.file.name], run, tier)
            key_bytes[tier] += taken.size
    states = [_StateOnDemand(locked.files, index) for index in range(len(plan.tiers))]
    return tier_bytes(artifact, [t.name for t in plan.tiers], states, coverage, key_bytes), coverage, locked


def tier_bytes(
    artifact: Artifact, names: Sequence[str], states: Sequence[State], coverage: Coverage, key_bytes: Sequence[int]
) -> list[TierBytes]:
    """Tiers from the bytes of each state.

    Args:
        artifact: the original.
        key_bytes: what the access key holds of weights for each tier: bytes, and bits for signs.
    """
    layers = layer_maps(artifact, coverage)
    weight_bytes = max(1, sum(part.size for t in artifact.tensors for part in t.parts))
    total = max(1, sum(layer.tier_of.size for layer in layers))
    tiers = []
    for index, name in enumerate(names):
        channels = sum(int((layer.tier_of > index).sum()) for layer in layers)
        held = sum(key_bytes[index + 1 :])
        patch = key_bytes[index] if index else 0
        tiers.append(TierBytes(name, channels / total, held, held / weight_bytes, patch, states[index]))
    return tiers


def mark(tier_at: npt.NDArray[np.uint8], run: Run, tier: int) -> None:
    """Note that the bytes of the run come back with this tier."""
    step = run.stride if run.count > 1 else run.length
    np.lib.stride_tricks.as_strided(tier_at[run.offset :], (run.count, run.length), (step, 1))[:] = tier


def layer_maps(artifact: Artifact, coverage: Coverage) -> list[LayerMap]:
    """Where an artifact is locked, layer by layer."""
    return [
        LayerMap(t.name, t.role, t.shape, tiers_of_channels(t, coverage[t.weight.file.name])) for t in artifact.tensors
    ]


def tiers_of_channels(tensor: WeightTensor, tier_at: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The tier from which on a channel is not locked as a whole, uint8 (channels,): locked are channels whose every weight is."""
    found = np.zeros(tensor.channels, np.uint8)
    for channel in range(tensor.channels):
        run = tensor.weight.run(channel)
        if run is not None:
            step = run.stride if run.count > 1 else run.length
            view = np.lib.stride_tricks.as_strided(
                tier_at[run.offset :], (run.count, run.length), (step, 1), writeable=False
            )
            found[channel] = view.min()
    return found
