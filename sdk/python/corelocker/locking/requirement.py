"""What a locked model may be worth at most, and what it was measured to be worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from corelocker.errors import BaseRevealsError, ConfigError, NotMeasuredError, WeakLockError
from corelocker.locking.tiers import Tier

COLLAPSED = 0.02  # of agreement beyond chance at which answers say nothing
UNCORRELATED = 0.1  # of correlation beyond chance at which values say nothing
STILL_ALONG = 0.5  # correlation of the values of classes from which on their answers alone say too little
PART_ALONG = 0.15  # the same where a part is locked: of that, real inputs leave more than synthetic ones
DECLARED = 0.05  # more than its declared utility that a tier may be worth
BESIDE_BASE = 0.05  # of agreement that a public base may gain by the locked file
KNOWN_SIGNS = 0.6  # share of signs that a base has from which on they are no secret; a guess has 0.5
PUBLIC = 0.9  # of the way from chance to the original: a base that goes so far leaves nothing to protect

MORE_TIME = "Give it more time with --measure-seconds"
LOCK_WHAT_CHANGED = (
    "Lock with --base and without other options: that takes by value what tuning changed most. Where that does not do, serve the "
    "last layers from a server"
)


@dataclass(frozen=True)
class Requirement:
    """`collapse`: nothing is left of the tier that ships; `at-most=0.6`: its agreement is 0.6 or less; `none`."""

    kind: Literal["collapse", "at-most", "none"] = "collapse"
    most: float | None = None

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Raises ConfigError."""
        kind, equals, number = text.partition("=")
        if text in ("collapse", "none"):
            return cls(text)  # type: ignore[arg-type]
        try:
            most = float(number) if kind == "at-most" and equals else -1.0
        except ValueError:
            most = -1.0
        if not 0 <= most <= 1:
            raise ConfigError(f"requirement {text!r} is not collapse, at-most=FRACTION or none")
        return cls("at-most", most)


@dataclass(frozen=True)
class TierAgreement:
    """How far a tier agrees with the original.

    Attributes:
        tier: its name.
        kind: "classes", the share of equal answers, or "values", the mean correlation, negative ones as 0.
        value, chance: agreement, and what shuffled answers give; 0 to 1.
        error: standard error of `value`.
        along: for classes, the mean correlation of their values.
        passed_on: of that, what the network leaves whatever its weights are.
        most_along: correlation from which on answers at chance say too little.
    """

    tier: str
    kind: Literal["classes", "values"]
    value: float
    chance: float
    error: float
    along: float
    passed_on: float = 0.0
    most_along: float = STILL_ALONG

    @property
    def collapsed(self) -> bool:
        """Whether the tier says nothing about its input."""
        if self.kind == "values":
            return self.value <= self.chance + UNCORRELATED + 2 * self.error
        return self.at_chance and not self._still_along

    @property
    def at_chance(self) -> bool:
        """Whether equal answers say nothing; of outputs without classes they are not counted."""
        return self.kind == "classes" and self.value <= self.chance + COLLAPSED + self.error

    @property
    def _still_along(self) -> bool:
        return self.along > max(self.most_along, self.passed_on + UNCORRELATED)

    def shown(self) -> str:
        """For people."""
        what = "agreement" if self.kind == "classes" else "correlation"
        shown = f"{what} {100 * self.value:.1f} % where chance is {100 * self.chance:.1f} %"
        if self.kind == "classes" and self._still_along:
            shown += f", correlation of the classes' values {100 * self.along:.0f} %"
        return shown


@dataclass(frozen=True)
class Measurement:
    """How far the tiers of an artifact agree with the original.

    Attributes:
        artifact: its name.
        tiers: in order; the last agrees by its bytes. Empty where nothing could be measured; the first ones where the time ended.
        inputs, samples: on what inputs, and how many.
        reason: why nothing, or no further tier, was measured; None where all were.
        missing_extra: whether that is because the extra `export` is not installed.
        out_of_time: whether it is because the time was too short.
    """

    artifact: str
    tiers: tuple[TierAgreement, ...] = ()
    inputs: str = ""
    samples: int = 0
    reason: str | None = None
    missing_extra: bool = False
    out_of_time: bool = False


@dataclass(frozen=True)
class BaseMeasurement:
    """What a public base gives away of an artifact that was tuned from it.

    Attributes:
        artifact: its name.
        layers: layer -> share of its weights, those of 0 aside, whose sign is the base's; of layers that the base has.
        locked_signs: of the signs that the lock takes of them the share that the base tells; None where it takes none.
        base: agreement with the original of the base's values in these layers: what an attacker has without the locked file.
        signs, values: the same of the locked file with the base's signs in the place of locked ones (and its values in the place of
            locked values), and with its values in the place of all that is locked.
        reason: why the agreements were not measured; None where they were.
        out_of_time: whether it is because the time was too short.
    """

    artifact: str
    layers: dict[str, float]
    locked_signs: float | None
    base: TierAgreement | None = None
    signs: TierAgreement | None = None
    values: TierAgreement | None = None
    reason: str | None = None
    out_of_time: bool = False

    @property
    def best(self) -> TierAgreement | None:
        """The better of both guesses; None where nothing was measured."""
        return max(filter(None, (self.signs, self.values)), key=lambda found: found.value, default=None)


def check_base(measured: Sequence[BaseMeasurement], requirement: Requirement) -> None:
    """Refuse a lock that a public base opens: with the locked file the base must agree hardly more than without it.

    Raises BaseRevealsError, or NotMeasuredError where no more is known than that values are locked.
    """
    if requirement.kind == "none":
        return
    for found in measured:
        if not found.layers:
            continue
        best, alone = found.best, found.base
        if best is None or alone is None:
            if found.locked_signs is not None and found.locked_signs > KNOWN_SIGNS:
                raise BaseRevealsError(
                    f"{found.artifact}: the base has {100 * found.locked_signs:.1f} % of the signs that are locked: with it the "
                    "locked file is nearly the model",
                    hint=LOCK_WHAT_CHANGED,
                )
            raise NotMeasuredError(
                f"{found.artifact}: what the base gives away was not measured ({found.reason})",
                hint=f"{MORE_TIME}, or pass --require none to go without"
                if found.out_of_time
                else "Install corelocker[export], name a checkpoint's model with --model, or pass --require none to go without",
            )
        if alone.value - alone.chance >= PUBLIC * (1 - alone.chance):
            raise BaseRevealsError(
                f"{found.artifact}: the base alone answers like the model ({alone.shown()}): no lock hides what is public",
                hint="Tune it further, or serve it from a server; --require none locks it all the same",
            )
        most = max(requirement.most or 0.0, alone.value + BESIDE_BASE + best.error)
        if best.value > most and not best.collapsed:
            raise BaseRevealsError(
                f"{found.artifact}: with the base the locked file still works: {best.shown()}, and the base alone reaches "
                f"{100 * alone.value:.1f} %",
                hint=LOCK_WHAT_CHANGED,
            )


UNSAFE_OPTIONS = "its options do not make it safe"  # a doubt
DECLARE_NONE = "Require collapse, and declare no utility"


def check(
    measured: Sequence[Measurement], tiers: Sequence[Tier], requirement: Requirement, doubts: Sequence[str | None]
) -> None:
    """Hold the tiers to the requirement, and those with a declared utility to that.

    Args:
        doubts: for each artifact, why its lock is not known to hold without a measurement; None where it is.

    Raises WeakLockError or NotMeasuredError.
    """
    if requirement.kind == "none":
        return
    for measurement, doubtful in zip(measured, doubts, strict=True):
        for tier, agreement in zip(tiers, measurement.tiers, strict=False):
            _check_tier(measurement, tier, agreement, requirement, first=tier is tiers[0])
        held = 1 + max((place for place, tier in enumerate(tiers) if tier.utility is not None), default=0)
        if len(measurement.tiers) >= held:
            continue
        declared = requirement.kind == "at-most" or any(tier.utility is not None for tier in tiers)
        why = doubtful or ("a declared utility has to be measured" if declared else None)
        if why is not None:
            if measurement.out_of_time:
                remedy = MORE_TIME
            elif measurement.missing_extra:
                remedy = "Install corelocker[export]"
            elif doubtful == UNSAFE_OPTIONS:
                remedy = "Lock with preset hardened"
            else:
                remedy = "`corelocker inspect` says which layers cannot be locked" if doubtful else DECLARE_NONE
            raise NotMeasuredError(
                f"{measurement.artifact}: what it is worth was not measured ({measurement.reason}), and {why}",
                hint=f"{remedy}, or pass --require none to go without",
            )


def _check_tier(
    measurement: Measurement, tier: Tier, agreement: TierAgreement, requirement: Requirement, *, first: bool
) -> None:
    most = tier.utility if tier.utility is not None else requirement.most if first else None
    if most is not None:
        margin = DECLARED if tier.utility is not None else 0.0
        holds, wanted = agreement.value <= most + margin, f"at most {100 * most:.0f} %"
    elif first:
        holds, wanted = agreement.collapsed, "chance"
    else:
        return
    if not holds:
        raise WeakLockError(
            f"{measurement.artifact}: tier {tier.name} still works: {agreement.shown()}, and {wanted} is required",
            hint="Lock more (preset hardened locks every layer), give real inputs with --samples, or pass --require none",
            at_chance=most is None and agreement.at_chance,
        )
