"""The smallest lock that an attacker does not train back: what `corelocker calibrate --recovered` does."""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from corelocker.artifacts import Artifact
from corelocker.audit import need
from corelocker.audit.data import load_data, load_metric
from corelocker.audit.module_audit import ModuleAudit
from corelocker.audit.opening import open_audited
from corelocker.audit.options import AuditOptions
from corelocker.errors import ConfigError
from corelocker.files import check_can_be_written
from corelocker.locking.choose import choose_channels
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.tiers import Tier, Unit, check_tiers
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.audit.attacks import AttackBudget

# Fractions of each layer's channels, the largest first. All values cannot be taken: one channel of a layer stays.
FRACTIONS: dict[Unit, tuple[float, ...]] = {
    "sign": (1.0, 0.75, 0.5, 0.35, 0.25, 0.125),
    "value": (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05),
}
ATTACKS = ("fine-tune", "signs-soft", "signs-straight-through")
SHARE = 0.1  # of the training data


@dataclass(frozen=True)
class RecoveryPoint:
    """One lock under attack.

    Attributes:
        removed: fraction of each layer's channels that are locked.
        locked_bytes, locked_fraction: size of the access key, in bytes and of all lockable weights.
        regained: the share of the gap that the strongest attack regains; None where there is no gap.
        attack: its title.
        scratch, recovered, original: what training from scratch, that attack and the unlocked model reach, in the metric's unit.
    """

    removed: float
    locked_bytes: int
    locked_fraction: float
    regained: float | None
    attack: str
    scratch: float | None
    recovered: float
    original: float


@dataclass(frozen=True)
class RecoveryCalibration:
    """Locks from the largest to the first that does not hold, and the plan of the smallest that does; None where none does."""

    plan: Plan | None = field(repr=False)
    metric: str
    points: list[RecoveryPoint]


def calibrate_recovery(
    model: Path,
    data: str,
    bound: float,
    out: Path,
    *,
    options: LockOptions,
    full: str = "full",
    metric: str = "top-1",
    train_data: str | None = None,
    quick: bool = False,
    work: Path | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> RecoveryCalibration:
    """Find the smallest lock of which an attacker with a tenth of the data regains at most `bound` of the gap, and save its plan.

    The gap is that between training from scratch with the same data and the original. Locks are tried from the largest down, until
    one does not hold: a smaller lock is taken not to hold better.

    Args:
        model: a finished model, not locked.
        data, metric: as for `load_data` and `load_metric`.
        bound: share of the gap, 0 to 1.
        options: how to lock; tiers in it do not count. `options.model` is the factory of the torch module that is attacked.
        train_data: what the attacker has a tenth of; half of `data` without it.
        quick: a shorter training: for a first look.
        work: folder for finished trainings; a calibration that is started again goes on from there.

    Raises OutputExistsError, FileAccessError, ConfigError, and what locking and training raise; then, and when no lock holds,
    nothing is written.
    """
    for module in ("torch", "safetensors.torch"):
        need(module)
    check_can_be_written(out, force=force)
    if not 0 <= bound <= 1:
        raise ConfigError(f"--recovered {bound:g} is not a share of the gap", hint="For example --recovered 0.1")
    if options.model is None:
        raise ConfigError("the attacks train the torch module", hint="Name it with --model package.module:factory")
    seed = secrets.token_bytes(32) if options.seed is None else options.seed.encode()
    unit = options.unit or "value"
    fractions = FRACTIONS[unit]
    points: list[RecoveryPoint] = []
    best: Plan | None = None
    for done, fraction in enumerate(fractions):
        progress("attack", done, len(fractions))
        tiers = check_tiers([Tier("free", fraction), Tier(full, 0.0)], unit)
        audited = AuditOptions(
            str(model), data, module=options.model, train_data=train_data, metric=metric, quick=quick, work=work
        )
        plan, point = _attacked(audited, replace(options, tiers=tiers), seed)
        points.append(replace(point, removed=fraction))
        if point.regained is None:
            raise ConfigError(
                "training from scratch with a tenth of the data reaches nearly the original: there is no gap to regain",
                hint="Give the attacker less with --train-data, or more test data with --data",
            )
        if point.regained > bound:
            break
        best = plan
    progress("attack", len(fractions), len(fractions))
    if best is not None:
        best.save(out, force=force)
    return RecoveryCalibration(best, load_metric(metric).name, points)


def _attacked(audited: AuditOptions, options: LockOptions, seed: bytes) -> tuple[Plan, RecoveryPoint]:
    """The plan of these options and the strongest attack on it."""
    plans: list[Plan] = []

    def choose(artifacts: Sequence[Artifact], *_: object) -> Plan:
        plans.append(choose_channels(artifacts, options, seed))
        return plans[0]

    audited = replace(audited, choose=choose)
    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        locked = open_audited(audited, None, Path(folder), no_progress)
        samples = load_data(audited.data, locked.example)
        found, _ = ModuleAudit(audited, locked).attack(
            samples, None, load_metric(audited.metric), no_progress, only=ATTACKS, budget=_budget(audited.quick)
        )
    if not found:
        raise ConfigError("nothing can be trained here", hint="Recovery needs classes or next tokens as labels")
    worst = max(found, key=lambda attack: -math.inf if attack.regained is None else attack.regained)
    free = locked.tiers[0]
    return plans[0], RecoveryPoint(
        free.removed, free.locked_bytes, free.locked_fraction, worst.regained, worst.title, worst.baseline, worst.recovered,
        worst.original,
    )  # fmt: skip


def _budget(quick: bool) -> AttackBudget:
    """The attackers that were strongest against locks of a part: as it is and drawn anew, each at several rates."""
    from corelocker.audit.attacks import FULL, QUICK

    return replace(QUICK if quick else FULL, shares=(SHARE,), variants=(("known", "all"), ("none", "all")), share=SHARE)
