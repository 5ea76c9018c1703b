"""A plan for wanted utilities: what `corelocker calibrate` does."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corelocker.artifacts import Artifact
from corelocker.artifacts.detect import open_artifact
from corelocker.audit.agreement.examined import Examined
from corelocker.audit.agreement.runners import CannotRunError
from corelocker.audit.calibrate import Evaluation, FoundFraction, calibrate, parse_targets
from corelocker.audit.data import load_data, load_metric
from corelocker.audit.evaluators import Evaluator
from corelocker.audit.tier_bytes import State, states_of_plan
from corelocker.audit.utility import Subject, TierUtility
from corelocker.errors import ConfigError
from corelocker.factories import call_factory
from corelocker.files import check_can_be_written
from corelocker.locking.choose import choose_channels, sensitivity_scorer
from corelocker.locking.criteria.synthetic import InputStats
from corelocker.locking.locked_already import refuse_locked
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.tiers import Tier, check_tiers
from corelocker.progress import Progress, no_progress


@dataclass(frozen=True)
class CalibratedTier:
    """A tier of the plan, measured, and the target that it was made for; None for the last tier, which restores everything."""

    measured: TierUtility
    removed: float
    found: FoundFraction | None


@dataclass(frozen=True)
class Calibration:
    """A plan and what it is worth.

    Attributes:
        plan: for `corelocker lock --plan`; it is secret.
        metric, samples, chance: what was measured, on how many samples, and what a blind guess is worth.
        evaluations: all fractions that were tried, in order.
    """

    plan: Plan = field(repr=False)
    metric: str
    samples: int
    chance: float | None
    tiers: list[CalibratedTier]
    evaluations: list[Evaluation]


def calibrate_plan(
    model: Path,
    data: str,
    targets: Sequence[str],
    out: Path,
    *,
    options: LockOptions,
    full: str = "full",
    metric: str = "top-1",
    tolerance: float = 0.01,
    most: float = 0.5,
    force: bool = False,
    progress: Progress = no_progress,
) -> Calibration:
    """Find the tiers' fractions at which a model is worth the targets, and save the plan that locks it so to `out`.

    Args:
        model: a finished model, not locked.
        data, metric: as for `load_data` and `load_metric`.
        targets: TIER=UTILITY, first the tier that ships.
        options: how to lock; tiers in it do not count. `options.model` is the factory of the torch module: it runs checkpoints,
            and ranks channels for sensitivity.
        full: name of the last tier.
        tolerance, most: as for `calibrate`.

    Raises OutputExistsError, FileAccessError, ConfigError, TierError, and what locking and measuring raise; then nothing is
    written.
    """
    check_can_be_written(out, force=force)
    measured_by = load_metric(metric)
    wanted = parse_targets(targets, measured_by.higher_is_better)
    check_tiers([Tier(t.name, 1 - (i + 1) / (len(wanted) + 1)) for i, t in enumerate(wanted)] + [Tier(full, 0.0)])
    scorer = sensitivity_scorer(options, progress) if options.ranks_by_sensitivity else None
    module, example = (scorer.module, scorer.example[0]) if scorer is not None else _module(options.model)
    artifact = open_artifact(model)
    refuse_locked([artifact])
    subject = Subject(artifact, Evaluator(artifact, module), load_data(data, example), measured_by)
    seed = secrets.token_bytes(32) if options.seed is None else options.seed.encode()

    def plan_of(tiers: list[Tier]) -> Plan:
        return choose_channels([artifact], replace(options, tiers=check_tiers(tiers)), seed, scorer=scorer)

    def worth(removed: float) -> float:
        states, _, _ = states_of_plan(artifact, plan_of([Tier("free", removed), Tier("full", 0.0)]))
        return subject.utility(states[0].files).value

    trial = plan_of([Tier("free", 0.05), Tier("full", 0.0)])
    found, evaluations = calibrate(
        worth,
        wanted,
        sum(tier_map.size for tier_map in trial.tier_of[0].values()),
        higher_is_better=measured_by.higher_is_better,
        tolerance=tolerance,
        most=most,
        progress=lambda done, total: progress("measure", done, total),
    )
    plan = plan_of([*(Tier(f.target.name, f.removed) for f in found), Tier(full, 0.0)])
    states, _, _ = states_of_plan(artifact, plan)
    plan.tiers = _declared(artifact, plan.tiers, [state.files for state in states], options)
    tiers = [
        CalibratedTier(measured, tier.removed, of_target)
        for measured, tier, of_target in zip(subject.tiers(states), plan.tiers, [*found, None], strict=True)
    ]
    plan.save(out, force=force)
    return Calibration(plan, measured_by.name, len(subject.data), subject.chance, tiers, evaluations)


def _declared(
    artifact: Artifact, tiers: Sequence[Tier], states: Sequence[State], options: LockOptions
) -> tuple[Tier, ...]:
    """The tiers with what `corelocker lock` will measure of them as their utility; as they are where nothing can be measured."""
    stats = None if options.input_stats is None else InputStats.parse(options.input_stats)
    try:
        examined = Examined(artifact, factory=options.model, samples=options.samples, stats=stats)
        found = [replace(t, utility=examined.compare(s).value) for t, s in zip(tiers[:-1], states, strict=False)]
        return (*found, tiers[-1])
    except CannotRunError:
        return tuple(tiers)


def _module(factory: str | None) -> tuple[Any, Any]:
    """The torch module of a factory and its example input; None for both without a factory."""
    if factory is None:
        return None, None
    made = call_factory(factory)
    if not isinstance(made, tuple) or len(made) < 2 or not isinstance(made[1], tuple) or not made[1]:
        raise ConfigError(f"{factory}: must return (module, (example input,))")
    return made[0].eval(), made[1][0]
