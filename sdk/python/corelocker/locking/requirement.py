"""What a locked model may be worth at most, and what it was measured to be worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from corelocker.errors import ConfigError, NotMeasuredError, WeakLockError
from corelocker.locking.tiers import Tier

COLLAPSED = 0.02  # of agreement beyond chance at which answers say nothing
UNCORRELATED = 0.1  # of correlation beyond chance at which values say nothing
STILL_ALONG = 0.5  # correlation of the values of classes from which on their answers alone say too little
DECLARED = 0.05  # more than its declared utility that a tier may be worth


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
    """

    tier: str
    kind: Literal["classes", "values"]
    value: float
    chance: float
    error: float
    along: float
    passed_on: float = 0.0

    @property
    def collapsed(self) -> bool:
        """Whether the tier says nothing about its input."""
        if self.kind == "values":
            return self.value <= self.chance + UNCORRELATED + 2 * self.error
        along = self.along <= max(STILL_ALONG, self.passed_on + UNCORRELATED)
        return self.value <= self.chance + COLLAPSED + self.error and along

    def shown(self) -> str:
        """For people."""
        what = "agreement" if self.kind == "classes" else "correlation"
        return f"{what} {100 * self.value:.1f} % where chance is {100 * self.chance:.1f} %"


@dataclass(frozen=True)
class Measurement:
    """How far the tiers of an artifact agree with the original.

    Attributes:
        artifact: its name.
        tiers: in order; the last agrees by its bytes. Empty where nothing could be measured.
        inputs, samples: on what inputs, and how many.
        reason: why nothing was measured; None where something was.
        missing_extra: whether that is because the extra `export` is not installed.
    """

    artifact: str
    tiers: tuple[TierAgreement, ...] = ()
    inputs: str = ""
    samples: int = 0
    reason: str | None = None
    missing_extra: bool = False


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
        if measurement.reason is None:
            for tier, agreement in zip(tiers, measurement.tiers, strict=False):
                _check_tier(measurement, tier, agreement, requirement, first=tier is tiers[0])
            continue
        declared = requirement.kind == "at-most" or any(tier.utility is not None for tier in tiers)
        why = doubtful or ("a declared utility has to be measured" if declared else None)
        if why is not None:
            extra = "Install corelocker[export]" if measurement.missing_extra else "Lock with preset hardened"
            raise NotMeasuredError(
                f"{measurement.artifact}: what it is worth was not measured ({measurement.reason}), and {why}",
                hint=f"{extra}, or pass --require none to go without",
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
        )
