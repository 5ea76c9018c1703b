"""Attacks that fill what is locked without labels: statistics measured anew, imputation, a public checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corelocker.audit.attacks.bench import AttackBench, percent, state_digest
from corelocker.audit.attacks.tuning import speeds_of_elements
from corelocker.audit.data import DataSet
from corelocker.audit.imputation import Method, from_base, impute
from corelocker.audit.results import AttackResult
from corelocker.audit.training import recalibrate
from corelocker.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def recalibration(bench: AttackBench) -> list[AttackResult]:
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


def imputation(bench: AttackBench, method: Method) -> AttackResult:
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


def base_imputation(bench: AttackBench) -> list[AttackResult]:
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
    slow, _ = bench.trained(
        filled, data, speed=speeds_of_elements(bench.fresh(), bench.target.elements, "mostly-locked")
    )
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


def _filled(bench: AttackBench, state: Mapping[str, Tensor]) -> tuple[float, dict[str, Any], dict[str, Any]]:
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


def _recalibrated(bench: AttackBench, state: Mapping[str, Tensor], data: DataSet) -> float:
    found = bench.cached(
        ["recalibrated", state_digest(state), data.digest()],
        lambda: {"utility": bench.measure(recalibrate(bench.module(state), data))},
    )
    return float(found["utility"])
