"""What one paying user can do, and what the locked file says about its training data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from corelocker.audit import location, need
from corelocker.audit.attacks.bench import AttackBench, percent, state_digest
from corelocker.audit.attacks.tuning import reinitialized
from corelocker.audit.data import IGNORED, DataSet
from corelocker.audit.evaluators import first_tensor
from corelocker.audit.results import AttackResult

if TYPE_CHECKING:
    from torch import Tensor

MOST_SAMPLES = 2000
BATCH = 256


def query(bench: AttackBench) -> AttackResult:
    """Teach the locked model what an unlocked app answers on the attacker's inputs, without labels.

    The honest baseline has the same answers and a new network: what the answers alone are worth.
    """
    started = time.monotonic()
    data = bench.samples(bench.budget.share)
    drawn = reinitialized(bench.target.state, bench.target.elements, bench.fresh(), bench.seed)
    rates = {}
    values = []
    for words, start in (("as it ships", bench.target.state), ("locked channels drawn anew", drawn)):
        value, by_rate = bench.trained(start, data, teacher=bench.target.original, labels=0.0)
        values.append(value)
        rates[words] = by_rate
    baseline, _ = bench.trained(bench.fresh(), data, teacher=bench.target.original, labels=0.0)
    return bench.result(
        started, "unlocked-answers", f"Answers of an unlocked app to {percent(bench.budget.share)} of the inputs",
        bench.spent(bench.budget.share, data), bench.best(values), baseline=baseline,
        baseline_name="a new network taught by the same answers", details={"by_learning_rate": rates},
    )  # fmt: skip


def membership(bench: AttackBench) -> list[AttackResult]:
    """Tell training samples from others by their loss (Yeom et al. 2018), on the locked and on the original model.

    0.5 is a blind guess. What counts is whether the locked file tells more than that. Nothing where there are no labels of classes.
    """
    if not bench.trainable:
        return []
    started = time.monotonic()
    members = bench.target.train.shuffled(bench.seed).take(slice(MOST_SAMPLES))
    others = bench.target.test.shuffled(bench.seed).take(slice(MOST_SAMPLES))
    budget = {"data": len(members) / len(bench.target.train), "samples": len(members)}
    states = {"locked": bench.target.state, "original": bench.target.original}
    inputs = ["membership", *(state_digest(state) for state in states.values()), MOST_SAMPLES]
    areas = bench.cached(
        inputs, lambda: {words: _told_apart(bench, state, members, others) for words, state in states.items()}
    )
    return [
        AttackResult(
            "membership", "Telling training samples from others by their loss", bench.target.tier, "auc",
            budget, 0.5, max(areas["locked"], 1 - areas["locked"]), areas["original"], baseline=0.5,
            baseline_name="a blind guess", seconds=round(time.monotonic() - started, 2),
            details={"auc": areas["locked"], "original": areas["original"],
                     "standard_error_of_a_blind_guess": location.auc_error(len(members), len(others))},
        )
    ]  # fmt: skip


def _told_apart(bench: AttackBench, state: Mapping[str, Tensor], members: DataSet, others: DataSet) -> float:
    """AUC of "the loss is small" for members."""
    torch = need("torch")
    losses = torch.cat([_losses(bench, state, data) for data in (members, others)]).numpy()
    first = np.zeros(len(losses), bool)
    first[: len(members)] = True
    return float(location.auc(-losses, first))


def _losses(bench: AttackBench, state: Mapping[str, Tensor], data: DataSet) -> Tensor:
    torch = need("torch")
    module = bench.module(state)
    found = []
    with torch.no_grad():
        for start in range(0, len(data), BATCH):
            outputs = first_tensor(module(data.x[start : start + BATCH])).float()
            labels = data.y[start : start + BATCH]
            loss = torch.nn.functional.cross_entropy(
                outputs.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
            )
            found.append(loss.reshape(len(labels), -1).mean(dim=1))
    losses: Tensor = torch.cat(found)
    return losses
