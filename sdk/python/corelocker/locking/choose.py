"""From the options of a lock to its plan."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.errors import ConfigError
from corelocker.locking.criteria import Scores, check_criterion, score
from corelocker.locking.hardened import hardened, with_embeddings
from corelocker.locking.measuring import SmallLock, find_small_locks
from corelocker.locking.options import CriterionName, Fill, LockOptions, LockWarning, Scope, default_tiers
from corelocker.locking.plan import Plan
from corelocker.locking.planning import MOST_FOR_SIGNS, given_plan, make_plan
from corelocker.locking.presets import Preset, caveat, preset
from corelocker.locking.tiers import Tier, Unit
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.locking.base import BaseComparison
    from corelocker.locking.criteria.sensitivity import SensitivityScorer

MARGIN = 2.0  # times the bytes at which the gradient's ranking makes the model collapse
Tiers = Sequence[Tier] | Callable[[], Sequence[Tier]]


@dataclass(frozen=True)
class _Choice:
    """Options with their preset and the defaults filled in."""

    unit: Unit
    criterion: CriterionName
    scope: Scope
    fill: Fill
    include_io: bool
    preset: Preset | None

    @classmethod
    def of(cls, options: LockOptions) -> _Choice:
        named = preset(options.effective_preset) if options.effective_preset else None
        criterion = options.criterion or (named.criterion if named else "l1")
        scope = options.scope or (named.scope if named else "global" if criterion == "sensitivity" else "layer")
        fill = options.fill or (named.fill if named else "decoy")
        unit = options.unit or (named.unit if named else "value")
        return cls(unit, criterion, scope, fill, options.include_io or named is not None, named)


def choose_channels(
    artifacts: Sequence[Artifact],
    options: LockOptions,
    seed: bytes,
    progress: Progress = no_progress,
    scorer: SensitivityScorer | None = None,
    attempt: int = 0,
    base: BaseComparison | None = None,
) -> Plan:
    """The plan of these options; of a preset that is searched the smallest lock.

    Args:
        seed: secret randomness of the decoys, and of the criterion "random".
        scorer: for sensitivity, where the caller needs its ranking again; else it is made from `options.model`.
        attempt: of a preset's layers that are locked by value, each attempt locks twice as much as the one before.
        base: of layers whose signs it has, the preset "hardened" takes by value what tuning changed most.

    Warns with LockWarning, at the first attempt, when a preset was not shown to keep its promise for such models.

    Raises ConfigError, CriterionError, NothingToLockError or TierError.
    """
    check_options(options)
    choice = _Choice.of(options)
    named = choice.preset
    if not attempt and options.effective_preset and (doubts := caveat(options.effective_preset, artifacts)):
        warnings.warn(doubts, LockWarning, stacklevel=2)
    if named is not None and named.searched:
        return plan_of_small(artifacts, find_small_locks(artifacts, options, progress)[0], seed)
    rank: Callable[[WeightTensor], Scores]
    if choice.criterion == "sensitivity":
        scorer = scorer or sensitivity_scorer(options, progress)
        rank = scorer
    else:
        check_criterion(choice.criterion, list(artifacts), options.source)
        rank = score(choice.criterion, seed, options.source)
    limit = named.by_value if named and choice.unit == "sign" else None
    by_value = None if limit is None else with_embeddings(min(1.0, limit * 2**attempt), artifacts)
    withheld: dict[tuple[int, str], str] = {}
    if base is not None and limit is not None and by_value is not None and answers_base(options):
        withheld, rank = base.withheld(), base.rank(rank)
        by_value = base.spread(min(1.0, limit * 2**attempt), by_value)
    return make_plan(
        artifacts,
        _tiers(options, choice, scorer if choice.criterion == "sensitivity" else None),
        rank,
        criterion=choice.criterion,
        scope=choice.scope,
        fill=choice.fill,
        seed=seed,
        unit=choice.unit,
        consumers=options.consumers,
        include_io=choice.include_io,
        exclude=options.exclude,
        counts=None if named is None or named.cover is None else hardened(named.cover, artifacts),
        by_value=by_value,
        most_for_signs=1.0 if attempt else MOST_FOR_SIGNS,
        withheld=withheld,
        progress=lambda done, total: progress("rank", done, total),
    )


def answers_base(options: LockOptions) -> bool:
    """Whether the lock takes by value what a public base gives away by its signs."""
    return options.effective_preset == "hardened" and options.plan is None


def plan_of_small(artifacts: Sequence[Artifact], small: SmallLock, seed: bytes) -> Plan:
    """The plan of a lock that was found by running the model."""
    return given_plan(artifacts, small.channels, unit=small.unit, criterion="search", fill="decoy", seed=seed)


def check_options(options: LockOptions) -> None:
    """Refuse options that exclude each other, or mean nothing. Raises ConfigError."""
    if not options.measure_seconds >= 0:  # NaN too
        raise ConfigError(f"--measure-seconds {options.measure_seconds:g} is no time", hint="0 measures nothing")
    choice = _Choice.of(options)
    if choice.unit == "sign":
        for given, name in ((options.consumers, "--consumers"), (options.fill == "zero", "--fill zero")):
            if given:
                raise ConfigError(f"{name} is for values, not for signs", hint="Leave it out, or use --unit value")
    if choice.preset is not None and choice.preset.cover is not None and options.unit == "sign":
        raise ConfigError("preset cover is for values", hint="Leave --unit out, or use preset hardened")
    if choice.preset is not None and choice.preset.removed is not None and options.unit == "value":
        raise ConfigError(f"preset {options.preset} is for signs", hint="Leave --unit out, or use preset cover")
    if choice.preset is not None and choice.preset.searched:
        for value, name in (
            (options.tiers, "--tiers"), (options.criterion, "--criterion"), (options.scope, "--scope"),
            (options.consumers or None, "--consumers"), (options.fill, "--fill"), (options.source, "--source"),
        ):  # fmt: skip
            if value is not None:
                raise ConfigError(
                    f"preset {options.preset} finds its channels by running the model; {name} does not go with it",
                    hint=f"Leave {name} out, or the preset",
                )


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
    if options.tiers is not None:
        return options.tiers
    if named is not None and named.removed is not None:
        return (Tier("free", named.removed), Tier("full", 0.0))
    if named is None and scorer is not None:
        return lambda: (Tier("free", scorer.fraction_to_collapse(MARGIN)), Tier("full", 0.0))
    return default_tiers(choice.unit)
