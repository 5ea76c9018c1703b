"""One target and one budget: the runs that attacks share, and a memory of finished ones."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corelocker.audit import need
from corelocker.audit.attacks.target import AttackBudget, AttackTarget
from corelocker.audit.data import DataSet
from corelocker.audit.evaluators import first_tensor, load_state, measure_module, with_tied
from corelocker.audit.result_cache import ResultCache, content_key
from corelocker.audit.results import AttackResult
from corelocker.audit.training import TrainingRecipe, train, untrained

if TYPE_CHECKING:
    from torch import Tensor, nn


VERSION = 1  # of what the attacks do; part of every cache key
SCRATCH = "training from scratch with the same data and budget"


class AttackBench:
    """One target and one budget, with the runs that attacks share and a memory of finished ones."""

    def __init__(self, target: AttackTarget, budget: AttackBudget, seed: int = 0, work: Path | None = None) -> None:
        self.target, self.budget, self.seed = target, budget, seed
        self._results = ResultCache(work)
        self._fresh = untrained(target.module, seed)
        self._context = [
            VERSION, seed, str(target.module), target.metric.name, target.test.digest(), target.train.digest(),
            state_digest(self.fresh()), budget.most,
        ]  # fmt: skip
        self.locked = self.value(target.state)
        self.original = self.value(target.original)

    @property
    def trainable(self) -> bool:
        """Whether the labels are classes or next tokens of the model's outputs."""
        labels = self.target.train.y[:2]
        with need("torch").no_grad():
            outputs = first_tensor(self.module(self.target.state)(self.target.train.x[:2]))
        return (
            outputs.dim() == labels.dim() + 1 and outputs.shape[:-1] == labels.shape and not labels.is_floating_point()
        )

    def fresh(self) -> dict[str, Tensor]:
        """The state dict of the untrained network."""
        return {n: v.detach().clone() for n, v in self._fresh.state_dict().items()}

    def module(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The architecture with this state, in evaluation mode."""
        known = {n: v.clone() for n, v in with_tied(self._fresh, state).items()}
        return load_state(deepcopy(self._fresh), self.fresh() | known)  # old checkpoints lack BatchNorm's counters

    def samples(self, share: float) -> DataSet:
        """The attacker's data: smaller shares are inside larger ones."""
        data = self.target.train.fraction(share, self.seed)
        most = self.budget.most
        return data.take(slice(most)) if most and len(data) > most else data

    def value(self, state: Mapping[str, Tensor]) -> float:
        """Utility of a state dict on the test set."""
        found = self.cached(["utility", state_digest(state)], lambda: {"utility": self.measure(self.module(state))})
        return float(found["utility"])

    def measure(self, module: nn.Module) -> float:
        """Utility of a module on the test set."""
        return self.target.metric.value(measure_module(module, self.target.test, self.target.metric))

    def best(self, values: Sequence[float]) -> float:
        """The best for an attacker."""
        return max(values) if self.target.metric.higher_is_better else min(values)

    def cached(self, inputs: list[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result for these inputs (JSON values), from memory or the work folder if it is there."""
        found: dict[str, Any] = self._results.get(content_key(json.dumps([*self._context, *inputs])), compute)
        return found

    def trained(
        self,
        start: Mapping[str, Tensor],
        data: DataSet,
        *,
        speed: Mapping[str, Tensor] | None = None,
        teacher: Mapping[str, Tensor] | None = None,
        labels: float = 1.0,
        recipe: TrainingRecipe | None = None,
    ) -> tuple[float, dict[str, float]]:
        """Train from `start` with every learning rate: (the best utility, utility at each rate)."""
        recipe = recipe or self.budget.recipe
        values = {}
        for rate in recipe.learning_rates:
            inputs = [
                "train", state_digest(start), data.digest(), asdict(replace(recipe, learning_rates=(rate,))),
                None if speed is None else state_digest(speed), None if teacher is None else state_digest(teacher), labels,
            ]  # fmt: skip

            def run(rate: float = rate) -> dict[str, Any]:
                module = self.module(start)
                guide = None if teacher is None else _teacher(self.module(teacher))
                train(module, data, recipe, rate, self.seed, speed=speed, teacher=guide, labels=labels)
                return {"utility": self.measure(module.eval())}

            values[str(rate)] = float(self.cached(inputs, run)["utility"])
        return self.best(list(values.values())), values

    def scratch(self, data: DataSet) -> float:
        """The honest baseline: an untrained network with the same data and budget."""
        return self.trained(self.fresh(), data, recipe=self.budget.scratch_recipe)[0]

    def spent(self, share: float, data: DataSet) -> dict[str, Any]:
        """The budget of a training, for the record."""
        recipe = self.budget.recipe
        return {
            "data": share, "samples": len(data), "steps": recipe.steps(len(data)), "batch": recipe.batch,
            "learning_rates": list(recipe.learning_rates), "optimizer": recipe.optimizer,
            "augmentation": recipe.augmentation,
        }  # fmt: skip

    def result(
        self, started: float, name: str, title: str, budget: dict[str, Any], recovered: float, **rest: Any
    ) -> AttackResult:
        """An AttackResult against this target's own utilities."""
        target = self.target
        return AttackResult(
            name, title, target.tier, target.metric.name, budget, self.locked, recovered, self.original,
            higher_is_better=target.metric.higher_is_better, seconds=round(time.monotonic() - started, 2), **rest,
        )  # fmt: skip


def percent(share: float) -> str:
    """0.05 as "5 %"."""
    return f"{100 * share:g} %"


def _teacher(module: nn.Module) -> Callable[[Tensor], Tensor]:
    torch = need("torch")

    module.eval()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return first_tensor(module(x))

    return answer


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, as hexadecimal digits."""
    torch = need("torch")
    sha256 = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().contiguous()
        sha256.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        sha256.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()
