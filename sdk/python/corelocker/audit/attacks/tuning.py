"""Attacks that train: fine-tuning, pruning with regrowth, distillation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from corelocker.audit import location, need
from corelocker.audit.attacks.bench import SCRATCH, AttackBench, percent
from corelocker.audit.attacks.target import Knowledge, Reach
from corelocker.audit.models import Mask
from corelocker.audit.results import AttackResult

if TYPE_CHECKING:
    from torch import Tensor


SLOW = 0.1  # how fast unlocked weights move in a "mostly-locked" attack


def fine_tune(bench: AttackBench, share: float, knowledge: Knowledge, reach: Reach) -> AttackResult:
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
    recovered, rates = bench.trained(start, data, speed=speeds_of_elements(bench.fresh(), elements, reach))
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


def prune(bench: AttackBench, share: float) -> Iterator[AttackResult]:
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


def distill(bench: AttackBench) -> list[AttackResult]:
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


def speeds_of_elements(
    parameters: Mapping[str, Tensor], elements: Mapping[str, Mask], reach: Reach
) -> dict[str, Tensor] | None:
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
