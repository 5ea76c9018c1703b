"""Published files of one model put together: what either of them leaves open.

The attacker is given more than he has: he knows which weights are locked in which file. Of a file that was published before only
its bytes are needed, for the audit has the original: a channel whose weights are the original's is open there, one in which the
signs of some are turned is locked by sign, and any other by value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.detect import open_artifact
from corelocker.artifacts.weights import SparsePart
from corelocker.audit.evaluators import Evaluator
from corelocker.audit.opening import AuditedModel
from corelocker.audit.results import AttackResult
from corelocker.audit.tier_bytes import State, original_state
from corelocker.audit.utility import Subject
from corelocker.errors import ConfigError, CoreLockerError
from corelocker.files import Bytes
from corelocker.locking.compare import SAME, differences, same_layers
from corelocker.locking.drawing import runs_of_part

Flags = npt.NDArray[np.bool_]
NAME = "published-together"


@dataclass(frozen=True)
class OpenLayer:
    """What a layer's files leave open, as shares of its weights: the one that ships, and all of them together."""

    name: str
    weights: int
    as_shipped: float
    together: float


@dataclass(frozen=True)
class _Stub:
    """Bytes in the place of a file, for an adapter's view of its weights."""

    name: str
    data: Bytes = field(repr=False)

    def __len__(self) -> int:
        return self.data.size

    def release(self, offset: int, length: int) -> None:
        """There is nothing to give back."""


def put_together(locked: AuditedModel, published: Sequence[Artifact]) -> tuple[State, list[OpenLayer]]:
    """The file as it ships with the original's weights wherever a published file has them, and what is open.

    Raises ConfigError for a file that has no layer of the model.
    """
    original = locked.original
    state: dict[str, Bytes] = {name: np.array(data) for name, data in locked.tiers[0].files.items()}
    partners: dict[str, list[WeightTensor]] = {}
    for artifact in published:
        pairs = same_layers(original.tensors, artifact.tensors)
        if not pairs:
            raise ConfigError(
                f"{artifact.path} has no layer of the model", hint="--published names files of the same model"
            )
        for own, other in pairs:
            partners.setdefault(own.name, []).append(other)
    layers = []
    for tensor in original.tensors:
        hidden = _hidden(tensor, locked.coverage)
        open_there = np.zeros(hidden.shape, np.bool_)
        for other in partners.get(tensor.name, ()):
            same = differences(tensor, other, np.arange(tensor.channels)) == SAME
            open_there |= _in_file_order(tensor, same)
        regained = hidden & open_there
        if regained.any():
            _restore(tensor, regained, state)
        layers.append(
            OpenLayer(tensor.name, hidden.size, float(1 - hidden.mean()), float(1 - (hidden & ~open_there).mean()))
        )
    return state, layers


def attack_together(locked: AuditedModel, subject: Subject, published: Sequence[Path]) -> tuple[AttackResult, State]:
    """What an attacker has who holds this file and earlier ones, without data, and that state.

    Raises what opening the files raises, and ConfigError.
    """
    artifacts = [open_artifact(path) for path in published]
    state, layers = put_together(locked, artifacts)
    original, shipped = original_state(locked.original), locked.tiers[0].files
    alone = {"this file": subject.utility(shipped).value}
    for artifact in artifacts:
        try:
            measured, _ = Evaluator(artifact, locked.module).outputs(
                original_state(artifact), subject.data, subject.metric
            )
            alone[artifact.path.name] = float(subject.metric.interval(measured, subject.seed).value)
        except CoreLockerError:  # one that does not run here is no baseline
            continue
    best = (max if subject.metric.higher_is_better else min)(alone.values())
    weights = sum(layer.weights for layer in layers)
    result = AttackResult(
        NAME, "This file put together with those that were published earlier, without data", locked.tiers[0].name,
        subject.metric.name, {"data": 0.0, "samples": 0, "labels": 0.0, "files": [path.name for path in published]},
        alone["this file"], subject.utility(state).value, subject.utility(original).value, baseline=best,
        baseline_name="the better of the files alone", higher_is_better=subject.metric.higher_is_better,
        details={
            "alone": alone,
            "open_as_shipped": sum(layer.as_shipped * layer.weights for layer in layers) / weights,
            "open_together": sum(layer.together * layer.weights for layer in layers) / weights,
            "layers": {layer.name: {"as_shipped": layer.as_shipped, "together": layer.together} for layer in layers},
        },
    )  # fmt: skip
    return result, state


def _hidden(tensor: WeightTensor, coverage: Mapping[str, Bytes]) -> Flags:
    """Which weights are locked in the file that ships, bool (channels, elements) in file order."""
    weight = tensor.weight
    if isinstance(weight, SparsePart):
        flags = np.zeros((tensor.channels, weight.elements), np.bool_)
        for channel in range(tensor.channels):
            run = weight.run(channel)
            if run is not None and coverage[weight.file.name][run.offset : run.end].any():
                flags[channel, weight.mask[channel]] = True
        return flags
    stub: Any = _Stub(weight.file.name, coverage[weight.file.name])
    raw = replace(weight, file=stub).raw() > 0
    bits = weight.element.bits
    if bits % 8 == 0:
        return np.asarray(raw.reshape(tensor.channels, weight.elements, bits // 8).any(axis=2))
    return np.asarray(np.repeat(raw, 8, axis=1).reshape(tensor.channels, weight.elements, bits).any(axis=2))


def _in_file_order(tensor: WeightTensor, flags: Flags) -> Flags:
    shape = [tensor.file_shape[axis] for axis in tensor.axes]
    filed = flags.reshape(-1, *shape).transpose(0, *(a + 1 for a in np.argsort(tensor.axes)))
    return np.ascontiguousarray(filed).reshape(tensor.channels, -1)


def _restore(tensor: WeightTensor, regained: Flags, state: Mapping[str, Bytes]) -> None:
    """Put the original's bytes where weights are regained; what belongs to such a channel besides is open in that file, too."""
    weight, name = tensor.weight, tensor.weight.file.name
    channels = np.flatnonzero(regained.any(axis=1))
    ones = np.ones(channels.size, np.uint8)
    for part in tensor.parts[1:]:
        for runs in runs_of_part(part, channels, ones, part.raw(channels) if not isinstance(part, SparsePart) else []):
            runs.apply(0, state[part.file.name], 0)
    if isinstance(weight, SparsePart):
        for channel in channels.tolist():
            if (run := weight.run(channel)) is not None:
                state[name][run.offset : run.end] = weight.file.data[run.offset : run.end]
        return
    stub: Any = _Stub(name, state[name])
    bits = weight.element.bits
    mask = np.repeat(regained[channels], bits, axis=1).reshape(channels.size, -1, 8).any(axis=2)
    data = np.where(mask, weight.raw(channels), replace(weight, file=stub).raw(channels))
    for runs in runs_of_part(weight, channels, ones, data):
        runs.apply(0, state[name], 0)
