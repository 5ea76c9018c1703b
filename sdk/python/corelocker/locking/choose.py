"""From the options of a lock to its plan."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.errors import ConfigError
from corelocker.locking.criteria import Scores, check_criterion, score
from corelocker.locking.hardened import hardened
from corelocker.locking.options import CriterionName, Fill, LockOptions, LockWarning, Scope, default_tiers
from corelocker.locking.plan import Plan, make_plan
from corelocker.locking.presets import Preset, caveat, preset
from corelocker.locking.tiers import Tier
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.locking.criteria.sensitivity import SensitivityScorer

Tiers = Sequence[Tier] | Callable[[], Sequence[Tier]]


@dataclass(frozen=True)
class _Choice:
    """Options with their preset and the defaults filled in."""

    criterion: CriterionName
    scope: Scope
    fill: Fill
    include_io: bool
    preset: Preset | None

    @classmethod
    def of(cls, options: LockOptions) -> _Choice:
        named = preset(options.preset) if options.preset else None
        criterion = options.criterion or (named.criterion if named else "l1")
        scope = options.scope or (named.scope if named else "global" if criterion == "sensitivity" else "layer")
        fill = options.fill or (named.fill if named else "decoy")
        return cls(criterion, scope, fill, options.include_io or (named is not None and named.include_io), named)


def choose_channels(
    artifacts: Sequence[Artifact],
    options: LockOptions,
    seed: bytes,
    progress: Progress = no_progress,
    scorer: SensitivityScorer | None = None,
) -> Plan:
    """The plan of these options.

    Args:
        seed: secret randomness of the decoys, and of the criterion "random".
        scorer: for sensitivity, where the caller needs its ranking again; else it is made from `options.model`.

    Warns with LockWarning when a preset was not shown to keep its promise for such models. Raises ConfigError,
    CriterionError, NothingToLockError or TierError.
    """
    choice = _Choice.of(options)
    if options.unit == "sign":
        _check_signs(options)
    if options.preset and (doubts := caveat(options.preset, artifacts)):
        warnings.warn(doubts, LockWarning, stacklevel=2)
    rank: Callable[[WeightTensor], Scores]
    if choice.criterion == "sensitivity":
        scorer = scorer or sensitivity_scorer(options, progress)
        rank = scorer
    else:
        check_criterion(choice.criterion, list(artifacts), options.source)
        rank = score(choice.criterion, seed, options.source)
    share = choice.preset.share if choice.preset else None
    return make_plan(
        artifacts,
        _tiers(options, choice, scorer if choice.criterion == "sensitivity" else None),
        rank,
        criterion=choice.criterion,
        scope=choice.scope,
        fill=choice.fill,
        seed=seed,
        unit=options.unit,
        consumers=options.consumers,
        include_io=choice.include_io,
        exclude=options.exclude,
        counts=None if share is None else hardened(share, artifacts),
        progress=lambda done, total: progress("rank", done, total),
    )


def _check_signs(options: LockOptions) -> None:
    for given, name in (
        (options.preset is not None, "--preset"),
        (options.consumers, "--consumers"),
        (options.fill == "zero", "--fill zero"),
    ):
        if given:
            raise ConfigError(f"{name} is for values, not for signs", hint="Leave it out, or use --unit value")


def sensitivity_scorer(options: LockOptions, progress: Progress = no_progress) -> SensitivityScorer:
    """The scorer that runs `options.model`. Raises ConfigError without one, MissingExtraError without torch."""
    if options.model is None:
        raise ConfigError(
            "sensitivity runs the model", hint="Name its trained torch module with --model package.module:factory"
        )
    from corelocker.locking.criteria.sensitivity import SensitivityScorer
    from corelocker.locking.criteria.synthetic import InputStats

    stats = None if options.input_stats is None else InputStats.parse(options.input_stats)
    return SensitivityScorer.from_factory(options.model, fill=_Choice.of(options).fill, stats=stats, progress=progress)


def _tiers(options: LockOptions, choice: _Choice, scorer: SensitivityScorer | None) -> Tiers:
    named = choice.preset
    if options.tiers is not None or named is None:
        return options.tiers or default_tiers()
    if named.removed is not None:
        return (Tier("free", named.removed), Tier("full", 0.0))
    if named.margin is not None:
        if scorer is None:
            raise ConfigError(
                f"preset {options.preset} measures where the model collapses; criterion {choice.criterion} cannot",
                hint="Leave --criterion out, or give --tiers",
            )
        return lambda: (Tier("free", scorer.fraction_to_collapse(named.margin or 1.0)), Tier("full", 0.0))
    return default_tiers()
