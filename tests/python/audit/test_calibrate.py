"""Finding fractions for target utilities."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from corelocker.audit.calibrate import TierTarget, calibrate, parse_targets
from corelocker.errors import ConfigError, TierError
from hypothesis import given, settings
from hypothesis import strategies as st


def test_targets() -> None:
    assert parse_targets(["free=0.6", "plus=.85"]) == (TierTarget("free", 0.6), TierTarget("plus", 0.85))
    assert parse_targets(["free=20", "plus=7"], higher_is_better=False)[1] == TierTarget("plus", 7.0)
    for texts in ([], ["free"], ["free=x"], ["=0.5"], ["a=nan"], ["a=0.8", "b=0.6"], ["a=0.5", "b=0.5"]):
        with pytest.raises(ConfigError):
            parse_targets(texts)
    with pytest.raises(TierError):
        parse_targets(["a=0.5", "a=0.6"])


@settings(max_examples=200, deadline=None)
@given(
    channels=st.integers(30, 50_000),
    steepness=st.floats(1, 500),
    wanted=st.lists(st.floats(0.15, 0.9), min_size=1, max_size=4),
)
def test_falling_curves_are_met_from_above(channels: int, steepness: float, wanted: list[float]) -> None:
    """On a curve that falls, each tier is the largest number of channels that reaches its target, but for the tolerance."""
    targets = [TierTarget(f"t{i}", u) for i, u in enumerate(sorted(set(wanted)))]
    asked: list[float] = []

    def curve(removed: float) -> float:
        return 0.1 + 0.85 * float(np.exp(-steepness * removed))

    def measure(removed: float) -> float:
        asked.append(removed)
        return curve(removed)

    try:
        found, course = calibrate(measure, targets, channels, tolerance=0.005)
    except TierError:
        # Steps too coarse for so many targets.
        assert curve((len(targets) + 1) / channels) < targets[-1].utility + 0.005
        return
    assert len(asked) == len(set(asked)) == len(course) <= 40 + len(targets)
    assert all(a.removed > b.removed for a, b in pairwise(found))
    for tier, after in zip(found, [*found[1:], None], strict=True):
        count = round(tier.removed * channels)
        assert tier.utility == curve(tier.removed)
        assert tier.reached == (tier.utility >= tier.target.utility)
        assert tier.reached or count == 1
        if tier.reached and after is not None and tier.utility > tier.target.utility + 0.005 and tier is found[0]:
            assert curve((count + 1) / channels) < tier.target.utility or count == int(0.5 * channels)


def test_dents_do_not_lead_astray() -> None:
    """Utility comes back at larger fractions by accident: such a fraction is not taken once the fall was seen."""

    def measure(removed: float) -> float:
        if removed > 0.3:
            return 0.8 if removed == 0.5 else 0.2
        return 0.9 if removed < 0.05 else 0.5

    found, _ = calibrate(measure, [TierTarget("free", 0.7)], 1000)
    assert found[0].removed == 0.5  # nothing else was measured
    found, _ = calibrate(measure, [TierTarget("free", 0.85), TierTarget("plus", 0.89)], 1000)
    assert found[0].removed == pytest.approx(0.049)
    assert found[1].removed == pytest.approx(0.048)


def test_losses_and_misses() -> None:
    found, _ = calibrate(lambda r: 5 + 400 * r, [TierTarget("free", 45), TierTarget("plus", 13)], 1000, higher_is_better=False,
                         tolerance=0)  # fmt: skip
    assert [f.removed for f in found] == [0.1, 0.02]
    (missed,), course = calibrate(lambda r: 0.1, [TierTarget("free", 0.5)], 1000)
    assert (missed.removed, missed.reached) == (0.001, False)
    assert len(course) < 15
    with pytest.raises(TierError, match="same channels"):
        calibrate(lambda r: 0.1, [TierTarget("free", 0.5), TierTarget("plus", 0.7)], 1000)


def test_few_evaluations() -> None:
    """Two targets on 20,000 channels within 0.01 of each."""
    found, course = calibrate(lambda r: 0.9 - 2 * r, [TierTarget("free", 0.6), TierTarget("plus", 0.85)], 20_000)
    assert [round(f.utility, 2) for f in found] == [0.6, 0.85]
    assert len(course) <= 14
