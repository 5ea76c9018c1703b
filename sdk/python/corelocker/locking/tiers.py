"""Levels of utility, as a publisher names them. Imports little, so that wrong ones are told before anything else begins."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from corelocker.errors import TierError

Unit = Literal["value", "sign"]

MAX_TIERS = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Tier:
    """A named level of utility.

    Attributes:
        removed: fraction of channels that stays locked in it.
        utility: most that it may be worth, as its agreement with the original, 0 to 1; None where nothing was declared.
    """

    name: str
    removed: float
    utility: float | None = None


def parse_tiers(text: str, unit: Unit = "value") -> tuple[Tier, ...]:
    """`free=0.05,plus=0.01@0.7,full=0` to tiers; 0.7 is the utility that plus is declared to have at most. Raises TierError.

    Signs can be taken of all channels (a fraction of 1); of values at least one channel of each layer stays.
    """
    tiers = []
    for item in text.split(","):
        name, equals, numbers = item.strip().partition("=")
        fraction, at, utility = numbers.partition("@")
        removed, most = _number(fraction), _number(utility) if at else None
        if not equals or not NAME.fullmatch(name) or not 0 <= removed <= 1 or not (most is None or 0 <= most <= 1):
            raise TierError(
                f"tier {item.strip()!r} is not NAME=FRACTION or NAME=FRACTION@UTILITY, both numbers from 0 to 1"
            )
        tiers.append(Tier(name, removed, most))
    return check_tiers(tiers, unit)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_tiers(tiers: Sequence[Tier], unit: Unit = "value") -> tuple[Tier, ...]:
    """Tiers are nested: each keeps less locked than the one before, the last nothing. Raises TierError."""
    if not 2 <= len(tiers) <= MAX_TIERS:
        raise TierError(
            "needs at least two tiers: the one that ships and the full one", hint="For example free=0.05,full=0"
        )
    if len({t.name for t in tiers}) != len(tiers):
        raise TierError("two tiers have the same name")
    if tiers[-1].removed != 0:
        raise TierError(f"the last tier must restore everything: {tiers[-1].name}=0")
    if any(a.removed <= b.removed for a, b in pairwise(tiers)):
        raise TierError("each tier must keep a smaller fraction locked than the one before it")
    if unit == "value" and tiers[0].removed >= 1:
        raise TierError(
            f"tier {tiers[0].name} would keep every channel locked, but of values one channel of each layer stays",
            hint="Give a fraction below 1, or take signs with --unit sign",
        )
    return tuple(tiers)
