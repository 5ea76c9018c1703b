"""What an attacker gets back from a locked model: every attack with its budget and its own baseline.

The attacker of CoreLocker (IEEE S&P 2024, section on the threat model): has the file, knows the architecture and holds a limited
amount of data like the training data. The honest baseline of an attack that trains is training from scratch with the same data
and budget: what the lock leaks is the difference. Where an attack has choices (learning rates, with or without statistics
measured anew), all are tried and the best counts, judged on the test set: that errs in the attacker's favor.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from corelocker.audit import location, need
from corelocker.audit.data import DataSet, Metric, load_metric
from corelocker.audit.imputation import METHODS, Method, from_base, impute
from corelocker.audit.models import LockedModel, Mask
from corelocker.audit.results import AttackResult
from corelocker.audit.training import Recipe, recalibrate, train, untrained
from corelocker.audit.utility import first_tensor, load_state, measure_module, with_tied
from corelocker.errors import ConfigError, FileAccessError
from corelocker.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1  # of what the attacks do; part of every cache key
Knowledge = Literal["none", "guessed", "known", "known-readers"]
Reach = Literal["all", "mostly-locked", "locked"]
Progress = Callable[[int, int, str], None]
SLOW = 0.1  # how fast unlocked weights move in a "mostly-locked" attack
ADAMW = 0.04  # its learning rate for each of SGD's
SCRATCH = "training from scratch with the same data and budget"


@dataclass(frozen=True)
class Target:
    """A locked model under attack, and what its attacker can have.

    Attributes:
        module: the architecture; its weights do not matter.
        original, state: state dicts, unlocked and as shipped.
        channels, elements: what is locked, as in `TierState`.
        train: all data like the training data; an attack gets a share of it.
        test: never trained on.
        metric: of utility.
        tier: name of the tier.
        base: state dict of the public checkpoint that the model was tuned from, where there is one.
    """

    module: nn.Module = field(repr=False)
    original: Mapping[str, Tensor] = field(repr=False)
    state: Mapping[str, Tensor] = field(repr=False)
    channels: Mapping[str, Mask] = field(repr=False)
    elements: Mapping[str, Mask] = field(repr=False)
    train: DataSet
    test: DataSet
    metric: Metric = field(default_factory=load_metric)
    tier: str = "free"
    base: Mapping[str, Tensor] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        locked: LockedModel,
        train: DataSet,
        test: DataSet,
        metric: Metric | None = None,
        tier: str | None = None,
        base: Mapping[str, Tensor] | None = None,
    ) -> Target:
        """A tier of a locked model, the one that ships if none is named."""
        state = locked.shipped if tier is None else locked.tier(tier)
        return cls(
            module, locked.original, state.state, state.channels, state.elements, train, test,
            metric or load_metric(), state.name, base,
        )  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What the attacker may spend.

    Attributes:
        shares: fractions of the training data for fine-tuning; the attacks besides use `share`.
        recipe: of every training.
        scratch_recipe: of training from scratch, where it is another one.
        variants: what fine-tuning knows and moves: see `fine_tune`.
        share: of the training data for recalibration, regrowing, distillation with labels and tuning from a base.
        most: samples at most, whatever the share; 0 for no limit.
        detector_samples: samples that location detectors may run.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    recipe: Recipe = field(default_factory=Recipe)
    scratch_recipe: Recipe | None = None
    variants: tuple[tuple[Knowledge, Reach], ...] = (
        ("known", "all"),
        ("known", "mostly-locked"),
        ("known-readers", "all"),
        ("known-readers", "mostly-locked"),
        ("known", "locked"),
        ("guessed", "all"),
        ("none", "all"),
    )
    share: float = 0.1
    pruned: tuple[float, ...] = (0.2, 0.4)
    most: int = 0
    detector_samples: int = 256


FULL = Budget()
QUICK = Budget(
    shares=(0.1,),
    recipe=Recipe(epochs=3, learning_rates=(0.05,)),
    variants=(("known", "all"), ("none", "all")),
    pruned=(0.4,),
    most=500,
    detector_samples=128,
)


def suited(budget: Budget, module: nn.Module) -> Budget:
    """The budget with the optimizer that such a network is trained with: AdamW for transformers and recurrent networks, which
    plain SGD hardly moves; an attacker would not use it."""
    torch = need("torch")
    kinds = (torch.nn.LayerNorm, torch.nn.RMSNorm, torch.nn.Embedding, torch.nn.RNNBase, torch.nn.MultiheadAttention)
    norms = torch.nn.modules.batchnorm._BatchNorm
    if any(isinstance(m, norms) for m in module.modules()) or not any(isinstance(m, kinds) for m in module.modules()):
        return budget
    rates = tuple(rate * ADAMW for rate in budget.recipe.learning_rates)
    return replace(budget, recipe=replace(budget.recipe, optimizer="adamw", learning_rates=rates, weight_decay=0.01))


def run_attacks(
    target: Target,
    budget: Budget = FULL,
    *,
    seed: int = 0,
    work: Path | None = None,
    only: Sequence[str] | None = None,
    progress: Progress = lambda done, total, title: None,
) -> list[AttackResult]:
    """Run the attacks of a budget one after the other.

    Args:
        work: a folder that keeps every finished piece under a hash of all that it depends on; a later call goes on from there.
        only: names of attacks to run, by their beginning ("fine-tune", "location"); all if None.
        progress: called with (done, total, what is being done).

    Attacks that train need classes or next tokens as labels and are left out where there are none (`Bench.trainable`).

    Raises ConfigError when the state does not fit the module, FileAccessError for a work folder that cannot be used.
    """
    bench = Bench(target, budget, seed, work)
    jobs = [(n, j) for n, j in _jobs(bench) if only is None or any(n.startswith(o) for o in only)]
    results: list[AttackResult] = []
    for done, (name, job) in enumerate(jobs):
        progress(done, len(jobs), name)
        results += job()
    progress(len(jobs), len(jobs), "")
    return results


def _jobs(bench: Bench) -> Iterator[tuple[str, Callable[[], list[AttackResult]]]]:
    target, budget = bench.target, bench.budget
    yield "location", lambda: locate(bench)
    yield "bn-recalibration", lambda: recalibration(bench)
    for method in METHODS:
        yield f"imputation-{method}", lambda method=method: [imputation(bench, method)]  # type: ignore[misc]
    if target.base is not None and bench.trainable:
        yield "base-imputation", lambda: base_imputation(bench)
    if not bench.trainable:
        return
    for share in budget.pruned:
        yield "pruning", lambda share=share: list(prune(bench, share))  # type: ignore[misc]
    yield "distillation", lambda: distill(bench)
    for share in budget.shares:
        for knowledge, reach in budget.variants:
            yield (
                "fine-tune",
                lambda share=share, knowledge=knowledge, reach=reach: [  # type: ignore[misc]
                    fine_tune(bench, share, knowledge, reach)
                ],
            )


class Bench:
    """One target and one budget, with the runs that attacks share and a memory of finished ones."""

    def __init__(self, target: Target, budget: Budget, seed: int = 0, work: Path | None = None) -> None:
        self.target, self.budget, self.seed = target, budget, seed
        self._work = work
        if work is not None:
            try:
                work.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileAccessError(f"{work}: {error.strerror or error}") from None
        self._memory: dict[str, dict[str, Any]] = {}
        self._fresh = untrained(target.module, seed)
        self._context = [
            VERSION, seed, str(target.module), target.metric.name, target.test.digest(), target.train.digest(),
            _digest(self.fresh()), budget.most,
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
        found = self.cached(["utility", _digest(state)], lambda: {"utility": self.measure(self.module(state))})
        return float(found["utility"])

    def measure(self, module: nn.Module) -> float:
        """Utility of a module on the test set."""
        return self.target.metric.value(measure_module(module, self.target.test, self.target.metric))

    def best(self, values: Sequence[float]) -> float:
        """The best for an attacker."""
        return max(values) if self.target.metric.higher_is_better else min(values)

    def cached(self, inputs: list[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result for these inputs (JSON values), from memory or the work folder if it is there."""
        key = hashlib.sha256(json.dumps([*self._context, *inputs]).encode()).hexdigest()
        if key in self._memory:
            return self._memory[key]
        path = None if self._work is None else self._work / f"{key[:32]}.json"
        found: dict[str, Any] | None = None
        if path is not None and path.exists():
            try:
                document = json.loads(path.read_bytes())
                found = document["result"] if document["inputs"] == key else None
            except (OSError, ValueError, KeyError, TypeError):
                found = None  # a damaged piece is made again
        if found is None:
            found = compute()
            if path is not None:
                with write_atomically(path, force=True) as file:
                    file.write(json.dumps({"inputs": key, "result": found}).encode())
        self._memory[key] = found
        return found

    def trained(
        self,
        start: Mapping[str, Tensor],
        data: DataSet,
        *,
        speed: Mapping[str, Tensor] | None = None,
        teacher: Mapping[str, Tensor] | None = None,
        labels: float = 1.0,
        recipe: Recipe | None = None,
    ) -> tuple[float, dict[str, float]]:
        """Train from `start` with every learning rate: (the best utility, utility at each rate)."""
        recipe = recipe or self.budget.recipe
        values = {}
        for rate in recipe.learning_rates:
            inputs = [
                "train", _digest(start), data.digest(), asdict(replace(recipe, learning_rates=(rate,))),
                None if speed is None else _digest(speed), None if teacher is None else _digest(teacher), labels,
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


# --- training --------------------------------------------------------------------------------------------------------


def fine_tune(bench: Bench, share: float, knowledge: Knowledge, reach: Reach) -> AttackResult:
    """Train the locked model on a share of the training data.

    Args:
        knowledge: "known": the attacker knows every locked element and draws it anew first, as wide as what is left of its
            tensor. "known-readers": and the weights that read a locked channel too, which fit nothing any more. "guessed":
            as "known", for the channels that `location.guess` picks, as many a layer as are locked. "none": the file as it is.
        reach: "all" trains everything, "locked" only the elements that the attacker takes for locked, "mostly-locked" the rest
            at a tenth of the speed.
    """
    started = time.monotonic()
    target, data = bench.target, bench.samples(share)
    elements: Mapping[str, Mask] = {}
    if knowledge == "known":
        elements = target.elements
    elif knowledge == "known-readers":
        elements = location.with_readers(target.elements, location.read_layers(target.state), target.channels)
    elif knowledge == "guessed":
        layers = location.read_layers(target.state)
        counts = {name: int(mask.sum()) for name, mask in target.channels.items()}
        elements = location.elements_of(layers, location.guess(layers, counts))
    start = reinitialized(target.state, elements, bench.fresh(), bench.seed)
    recovered, rates = bench.trained(start, data, speed=_speeds(bench.fresh(), elements, reach))
    words = {
        "known": "location known", "known-readers": "location known, their readers drawn anew too",
        "guessed": "location guessed", "none": "location unknown",
    }[knowledge]  # fmt: skip
    moved = {"all": "", "locked": ", locked channels only", "mostly-locked": ", the rest slowly"}[reach]
    return bench.result(
        started,
        "-".join(["fine-tune", knowledge, *([] if reach == "all" else [reach])]),
        f"Fine-tuning with {percent(share)} of the training data, {words}{moved}",
        bench.spent(share, data),
        recovered,
        baseline=bench.scratch(data),
        baseline_name=SCRATCH,
        details={"by_learning_rate": rates, "knowledge": knowledge, "reach": reach},
    )


def reinitialized(
    state: Mapping[str, Tensor], elements: Mapping[str, Mask], fresh: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """Draw `elements` anew: weights as wide as the rest of their tensor, where less than a tenth is left and for biases and
    BatchNorm numbers as in the untrained network."""
    torch = need("torch")

    generator = torch.Generator().manual_seed(seed)
    new = {name: value.clone() for name, value in state.items()}
    for name, mask in elements.items():
        if name not in new or name not in fresh:
            continue
        where = torch.from_numpy(np.ascontiguousarray(mask))
        value, rest = new[name], new[name][~where]
        drawn = fresh[name].to(value.dtype)
        if value.dim() > 1 and rest.numel() * 10 >= value.numel():
            spread = float(rest.float().std())
            drawn = (torch.randn(value.shape, generator=generator) * spread).to(value.dtype)
        value[where] = drawn[where]
    return new


def prune(bench: Bench, share: float) -> Iterator[AttackResult]:
    """Set the smallest weights of every layer to zero; then let them grow again on the attacker's data.

    A result each; the second, which takes a training, is computed when it is asked for.
    """
    torch = need("torch")

    started = time.monotonic()
    pruned = {name: value.clone() for name, value in bench.target.state.items()}
    for name in bench.target.channels:
        value = pruned[name]
        count = int(share * value.numel())
        if count:
            smallest = value.abs().flatten().topk(count, largest=False).indices
            value.view(-1)[smallest] = torch.zeros((), dtype=value.dtype)
    plain = bench.value(pruned)
    yield bench.result(
        started, "pruning", f"Pruning the smallest {percent(share)} of the weights", {"data": 0.0, "pruned": share},
        plain, baseline=bench.locked, baseline_name="the locked model as it ships",
    )  # fmt: skip
    started = time.monotonic()
    data = bench.samples(bench.budget.share)
    recovered, rates = bench.trained(pruned, data)
    budget = bench.spent(bench.budget.share, data) | {"pruned": share}
    title = f"Pruning {percent(share)}, then growing again with {percent(bench.budget.share)} of the training data"
    yield bench.result(
        started, "pruning-regrow", title, budget, recovered, baseline=bench.scratch(data), baseline_name=SCRATCH,
        details={"by_learning_rate": rates},
    )  # fmt: skip


def distill(bench: Bench) -> list[AttackResult]:
    """Train a new network on what the locked one answers: without labels on all inputs, and beside the labels of a share."""
    started = time.monotonic()
    inputs = bench.samples(1.0)
    recovered, rates = bench.trained(bench.fresh(), inputs, teacher=bench.target.state, labels=0.0)
    results = [
        bench.result(
            started, "distillation", f"A new network taught by the {bench.target.tier} tier, without labels",
            bench.spent(1.0, inputs) | {"labels": 0.0}, recovered, baseline=bench.locked,
            baseline_name="the locked model as it ships", details={"by_learning_rate": rates},
        )
    ]  # fmt: skip
    started = time.monotonic()
    data = bench.samples(bench.budget.share)
    recovered, rates = bench.trained(bench.fresh(), data, teacher=bench.target.state, labels=0.5)
    title = (
        f"A new network taught by the {bench.target.tier} tier and {percent(bench.budget.share)} of the training data"
    )
    return [
        *results,
        bench.result(
            started, "distillation-with-labels", title, bench.spent(bench.budget.share, data) | {"labels": 0.5}, recovered,
            baseline=bench.scratch(data), baseline_name=SCRATCH, details={"by_learning_rate": rates},
        ),
    ]  # fmt: skip


# --- without training ------------------------------------------------------------------------------------------------


def recalibration(bench: Bench) -> list[AttackResult]:
    """Measure BatchNorm statistics anew on a share of the inputs, without labels. Nothing where there is no BatchNorm."""
    started = time.monotonic()
    data = bench.samples(bench.budget.share)
    if not any(name.endswith("running_var") for name in bench.target.state):
        return []
    recovered = _recalibrated(bench, bench.target.state, data)
    return [
        bench.result(
            started, "bn-recalibration",
            f"BatchNorm statistics measured on {percent(bench.budget.share)} of the inputs, without labels",
            {"data": bench.budget.share, "samples": len(data), "labels": 0.0}, recovered,
            baseline=_recalibrated(bench, bench.fresh(), data), baseline_name="an untrained network with the same treatment",
        )
    ]  # fmt: skip


def imputation(bench: Bench, method: Method) -> AttackResult:
    """Fill locked elements, whose place is known, from what is left; with and without recalibration, the better one counts."""
    started = time.monotonic()
    recovered, details, budget = _filled(bench, impute(bench.target.state, bench.target.elements, method))
    words = {
        "zeros": "zeros", "layer-mean": "the layer's mean", "least-squares": "least squares from their readers",
        "low-rank": "low-rank completion",
    }[method]  # fmt: skip
    silent = _filled(bench, impute(bench.target.state, bench.target.elements, "zeros"))[0]
    baseline, name = (
        (bench.locked, "the locked model as it ships") if method == "zeros" else (silent, "zeros in their place")
    )
    return bench.result(
        started, f"imputation-{method}", f"Locked channels replaced by {words}", budget, recovered,
        baseline=baseline, baseline_name=name, details=details,
    )  # fmt: skip


def base_imputation(bench: Bench) -> list[AttackResult]:
    """Fill locked elements from the public checkpoint, then also tune on a share of the data; the baselines are what the
    checkpoint itself is worth, and what it is worth after the same tuning."""
    base = bench.target.base
    if base is None:
        raise ConfigError("no public base checkpoint was given")
    started = time.monotonic()
    filled, taken = from_base(bench.target.state, bench.target.elements, base)
    fresh = bench.fresh()
    start = fresh | {n: v for n, v in base.items() if n in fresh and v.shape == fresh[n].shape}
    recovered, details, budget = _filled(bench, filled)
    alone = _filled(bench, start)[0]
    results = [
        bench.result(
            started, "base-imputation", "Locked channels taken from the public base checkpoint", budget, recovered,
            baseline=alone, baseline_name="the base checkpoint alone", details=details | {"found_in_base": taken},
        )
    ]  # fmt: skip
    started = time.monotonic()
    data = bench.samples(bench.budget.share)
    recovered, rates = bench.trained(filled, data)
    slow, _ = bench.trained(filled, data, speed=_speeds(bench.fresh(), bench.target.elements, "mostly-locked"))
    title = f"Locked channels from the public base, then {percent(bench.budget.share)} of the training data"
    return [
        *results,
        bench.result(
            started, "base-imputation-fine-tune", title, bench.spent(bench.budget.share, data),
            bench.best([recovered, slow]), baseline=bench.trained(start, data)[0],
            baseline_name="the base checkpoint tuned with the same data and budget",
            details={"by_learning_rate": rates, "found_in_base": taken},
        ),
    ]  # fmt: skip


def locate(bench: Bench) -> list[AttackResult]:
    """Search for the locked channels with every detector; nothing for layers where all channels or none are locked.

    An attacker does not know which way a detector points, so the AUC counts on the side where it is above one half.
    """
    target = bench.target
    started = time.monotonic()
    layers = location.read_layers(target.state)
    detectors = location.weight_detectors(layers)
    samples = target.train.shuffled(bench.seed).take(slice(bench.budget.detector_samples))
    with_data: set[str] = set()
    try:
        found = location.data_detectors(bench.module(target.state), layers, samples)
        with_data, detectors = set(found), detectors | found
    except ConfigError:
        pass  # a model that cannot be trained by labels has no gradient of a loss
    if target.base is not None:
        detectors["unlike-the-base"] = location.base_detector(layers, location.read_layers(target.base))
    results = []
    for name, scores in detectors.items():
        hit = location.search(scores, target.channels)
        if hit is None:
            continue
        area, locked, unlocked = hit
        samples_used = len(samples) if name in with_data else 0
        results.append(
            AttackResult(
                f"location-{name}", f"Finding locked channels by {name.replace('-', ' ')}", target.tier, "auc",
                {"data": samples_used / max(1, len(target.train)), "samples": samples_used}, 0.5, max(area, 1 - area), 1.0,
                baseline=0.5, baseline_name="a blind guess", seconds=round(time.monotonic() - started, 2),
                details={
                    "auc": area, "locked": locked, "unlocked": unlocked,
                    "standard_error_of_a_blind_guess": location.auc_error(locked, unlocked),
                },
            )
        )  # fmt: skip
        started = time.monotonic()
    return results


def strongest(results: Sequence[AttackResult]) -> AttackResult | None:
    """The attack on utility that ends best; None when there is none."""
    utility = [r for r in results if r.metric != "auc"]
    if not utility:
        return None
    return max(utility, key=lambda r: r.recovered if r.higher_is_better else -r.recovered)


def percent(share: float) -> str:
    """0.05 as "5 %"."""
    return f"{100 * share:g} %"


def _filled(bench: Bench, state: Mapping[str, Tensor]) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """The better of a state as it is and with BatchNorm statistics measured anew: (utility, details, budget)."""
    plain = bench.value(state)
    details: dict[str, Any] = {"plain": plain}
    budget: dict[str, Any] = {"data": 0.0, "samples": 0, "labels": 0.0}
    values = [plain]
    if any(name.endswith("running_var") for name in state):
        data = bench.samples(bench.budget.share)
        details["recalibrated"] = _recalibrated(bench, state, data)
        budget |= {"data": bench.budget.share, "samples": len(data)}
        values.append(details["recalibrated"])
    return bench.best(values), details, budget


def _recalibrated(bench: Bench, state: Mapping[str, Tensor], data: DataSet) -> float:
    found = bench.cached(
        ["recalibrated", _digest(state), data.digest()],
        lambda: {"utility": bench.measure(recalibrate(bench.module(state), data))},
    )
    return float(found["utility"])


def _teacher(module: nn.Module) -> Callable[[Tensor], Tensor]:
    torch = need("torch")

    module.eval()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return first_tensor(module(x))

    return answer


def _speeds(parameters: Mapping[str, Tensor], elements: Mapping[str, Mask], reach: Reach) -> dict[str, Tensor] | None:
    """How fast each element moves; None where all move at full speed."""
    torch = need("torch")

    if reach == "all":
        return None
    rest = SLOW if reach == "mostly-locked" else 0.0
    speeds = {}
    for name, value in parameters.items():
        mask = torch.zeros(value.shape, dtype=torch.bool)
        if name in elements:
            mask = torch.from_numpy(np.ascontiguousarray(elements[name]))
        speeds[name] = mask.float() * (1 - rest) + rest
    return speeds


def _digest(state: Mapping[str, Tensor]) -> str:
    torch = need("torch")
    sha256 = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().contiguous()
        sha256.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        sha256.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()
