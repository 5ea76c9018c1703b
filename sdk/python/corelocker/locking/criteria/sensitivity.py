"""The `sensitivity` criterion: spend key bytes where they take most of the output. Data-free.

Synthetic inputs (`corelocker.locking.criteria.synthetic`) run through the publisher's module with some channels replaced by what
the lock puts in their place; `corelocker.locking.criteria.ranking` finds the order in which that takes most of the output.
"""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.errors import ConfigError, CriterionError
from corelocker.factories import call_factory
from corelocker.locking.criteria import Scores
from corelocker.locking.criteria.ranking import Ranking, rank
from corelocker.locking.criteria.simulation import fold_batch_norms
from corelocker.locking.criteria.synthetic import InputStats, need, synthesize
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.options import Fill

if TYPE_CHECKING:
    from torch import nn

SAMPLED = 64  # channels that are compared
ALIKE = 0.7  # mean |cosine|: unrelated channels of 9 elements reach 0.27
CALIBRATION = 256  # calibration inputs whose mean and spread are looked at


class SensitivityScorer:
    """Scores for `make_plan`, from the module that the artifacts were made of.

    Layers are recognized by their weights, through a BatchNorm fold, another layout and quantization, or by name where the weights
    are alike: a module without its trained weights is another model.
    Artifacts whose BatchNorms are folded are simulated with a folded module.

    Args:
        module: the torch module; it stays as it is.
        example: its example inputs (with a batch dimension).
        stats: of the inputs, as in `synthesize`.
        fill: what will stand in the place of locked channels.
        seed: of the synthetic inputs.
        progress: called with (stage, done, total).

    Attributes:
        module, example: as given.
        ranking: after `prepare`.
    """

    def __init__(
        self,
        module: nn.Module,
        example: tuple[Any, ...],
        *,
        fill: Fill,
        stats: InputStats | None = None,
        seed: int = 0,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> None:
        self.module = module
        self.example = example
        self._stats = stats
        self._fill = fill
        self._seed = seed
        self._progress = progress
        self._own: dict[int, str] = {}  # id of a tensor -> name of the module's layer
        self._seen: set[int] = set()
        self.ranking: Ranking | None = None

    @classmethod
    def from_factory(
        cls,
        spec: str,
        *,
        fill: Fill,
        stats: InputStats | None = None,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> SensitivityScorer:
        """With what `package.module:factory` returns, as for `corelocker export`: (module, example inputs) or (module, example
        inputs, calibration inputs). Of calibration inputs only mean and spread are used, where `stats` is None.

        Raises ConfigError, or MissingExtraError without torch.
        """
        torch = need("torch")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = call_factory(spec)
        if (
            not isinstance(made, tuple)
            or len(made) not in (2, 3)
            or not isinstance(made[0], torch.nn.Module)
            or not isinstance(made[1], tuple)
        ):
            raise ConfigError(f"{spec}: must return (module, example_inputs), as for `corelocker export`")
        if stats is None and len(made) == 3 and made[2] is not None:
            stats = InputStats.measure(tuple(item) for item in itertools.islice(made[2], CALIBRATION))
        return cls(made[0], made[1], fill=fill, stats=stats, progress=progress)

    def prepare(self, artifacts: Sequence[Artifact], groups: Sequence[list[Member]]) -> None:
        """Rank the channels of all layers in `groups`; the same layers again are not ranked again.

        Raises CriterionError when the module is another model's.
        """
        wanted = {id(m.tensor) for group in groups for m in group}
        if self.ranking is not None and wanted == self._seen:
            return
        module = copy.deepcopy(self.module).eval().to("cpu")
        with tempfile.TemporaryDirectory(prefix="corelocker-") as folder:
            own = open_state(plain_state(module), Path(folder) / "model.safetensors")
            self._own = _recognize(own, artifacts, groups)
            known = {self._own[id(m.tensor)] for group in groups for m in group if id(m.tensor) in self._own}
            if not known:
                raise CriterionError(
                    "no layer of the file holds the weights of the given module",
                    hint="--model must make the module, with its trained weights, that was exported",
                )
            folded = any(t.part("gamma") for t in own.tensors if t.name in known) and not any(
                m.tensor.part("gamma") for group in groups for m in group
            )
        inputs = synthesize(
            module, self.example, self._stats, seed=self._seed,
            progress=lambda done, total: self._progress("inputs", done, total),
        )  # fmt: skip
        if folded:
            fold_batch_norms(module, inputs)
        costs: dict[str, float] = {}
        for group in groups:
            if names := [self._own[id(m.tensor)] for m in group if id(m.tensor) in self._own]:
                size = sum(part.size / m.tensor.channels for m in group for part in m.tensor.parts)
                costs[names[0]] = costs.get(names[0], 0.0) + size
        self.ranking = rank(
            module, inputs, costs, self._fill, seed=b"%d" % self._seed,
            progress=lambda done, total: self._progress("measure", done, total),
        )  # fmt: skip
        self._seen = wanted

    def __call__(self, tensor: WeightTensor) -> Scores:
        """float64 (channels,). Raises CriterionError for a layer that the module does not have."""
        name = self._own.get(id(tensor))
        if self.ranking is None or name is None or name not in self.ranking.scores:
            raise CriterionError(f"{tensor.name}: the module has no layer with these weights")
        return self.ranking.scores[name]

    def fraction_to_collapse(self, margin: float = 1.0) -> float:
        """The share of all ranked channels that must be locked until nothing is left of the output, for `margin` times the
        bytes. Raises CriterionError before `prepare`, or when the output did not collapse."""
        if self.ranking is None or self.ranking.collapsed is None:
            raise CriterionError(
                "the output does not collapse within half of the weights", hint="Choose the tiers' fractions yourself"
            )
        total = sum(scores.size for scores in self.ranking.scores.values())
        spent = np.cumsum([self.ranking.costs[layer] for layer, _ in self.ranking.picks])
        enough = int(np.searchsorted(spent, margin * spent[self.ranking.collapsed - 1])) + 1
        return min(enough, total - len(self.ranking.scores)) / total


def _recognize(own: Artifact, artifacts: Sequence[Artifact], groups: Sequence[list[Member]]) -> dict[int, str]:
    """id of a tensor in `groups` -> name of the same layer in `own`."""
    names: dict[tuple[int, str], str] = {}
    for group in group_layers([own, *artifacts]):
        leaders = [m.tensor.name for m in group if m.artifact == 0]
        for member in group if leaders else []:
            names[member.artifact - 1, member.tensor.name] = leaders[0]
    layers = {t.name: t for t in own.tensors}
    sizes = {t.name: t.channels for t in own.tensors}
    found: dict[int, str] = {}
    for group in groups:
        for member in group:
            name = names.get((member.artifact, member.tensor.name))
            if name is None and _points_the_same_way(layers.get(member.tensor.name), member.tensor):
                name = member.tensor.name
            if name is not None and sizes[name] == member.tensor.channels:
                found[id(member.tensor)] = name
    return found


def _points_the_same_way(own: WeightTensor | None, tensor: WeightTensor) -> bool:
    """Whether channels have about the same directions: trained on or coarsely quantized, but not drawn anew."""
    if own is None or (own.channels, math.prod(own.shape)) != (tensor.channels, math.prod(tensor.shape)):
        return False
    picked = np.linspace(0, own.channels - 1, min(SAMPLED, own.channels)).astype(np.int64)
    a, b = (t.read(picked).reshape(picked.size, -1) for t in (own, tensor))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alive = norms > 0
    return bool(alive.any() and np.abs(np.einsum("ce,ce->c", a, b)[alive] / norms[alive]).mean() > ALIKE)
