"""The search for the locked channels as an attack."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from corelocker.audit import location
from corelocker.audit.attacks.bench import AttackBench
from corelocker.audit.results import AttackResult
from corelocker.errors import ConfigError

if TYPE_CHECKING:
    pass


def locate(bench: AttackBench) -> list[AttackResult]:
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
