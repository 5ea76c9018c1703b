"""What a lock is held to, and which locks are known to hold."""

from __future__ import annotations

from pathlib import Path

import corelocker
import numpy as np
import pytest
from corelocker.artifacts.detect import open_artifact
from corelocker.errors import ConfigError, NotMeasuredError, TierError, WeakLockError
from corelocker.locking.choose import choose_channels
from corelocker.locking.options import LockOptions
from corelocker.locking.planning import check_that_tiers_differ
from corelocker.locking.requirement import (
    STILL_ALONG,
    UNSAFE_OPTIONS,
    Measurement,
    Requirement,
    TierAgreement,
    check,
)
from corelocker.locking.safe import why_unsafe
from corelocker.locking.tiers import Tier, parse_tiers
from support.models import exports
from support.small_artifacts import trained_like, write_safetensors

TIERS = parse_tiers("free=1,plus=0.1@0.7,full=0", "sign")


def measured(
    free: float, plus: float = 0.5, chance: float = 0.1, along: float = 0.0, most_along: float = STILL_ALONG
) -> Measurement:
    rows = [("free", free), ("plus", plus), ("full", 1.0)]
    return Measurement(
        "a", tuple(TierAgreement(n, "classes", v, chance, 0.01, along, 0.0, most_along) for n, v in rows)
    )


@pytest.mark.parametrize(
    ("requirement", "found", "holds"),
    [
        ("collapse", measured(0.12), True),
        ("collapse", measured(0.14), False),
        ("collapse", measured(0.1, along=0.8), False),
        ("collapse", measured(0.1, plus=0.74), True),
        ("collapse", measured(0.1, plus=0.76), False),
        ("at-most=0.6", measured(0.6), True),
        ("at-most=0.6", measured(0.61), False),
        ("none", measured(1.0, plus=1.0), True),
        ("collapse", measured(0.1, along=0.4), True),
        ("collapse", measured(0.1, along=0.4, most_along=0.15), False),
    ],
)
def test_tiers_are_held_to_what_is_required(requirement: str, found: Measurement, holds: bool) -> None:
    if holds:
        check([found], TIERS, Requirement.parse(requirement), [None])
    else:
        with pytest.raises(WeakLockError, match="still works"):
            check([found], TIERS, Requirement.parse(requirement), [None])


@pytest.mark.parametrize(
    ("requirement", "doubts", "tiers", "holds"),
    [
        ("collapse", None, TIERS[::2], True),
        ("collapse", "open", TIERS[::2], False),
        ("collapse", None, TIERS, False),
        ("at-most=0.9", None, TIERS[::2], False),
        ("none", "open", TIERS, True),
    ],
)
def test_what_was_not_measured_has_to_be_safe(
    requirement: str, doubts: str | None, tiers: tuple[Tier, ...], holds: bool
) -> None:
    found = Measurement("a", reason="torch is not installed", missing_extra=True)
    if holds:
        check([found], tiers, Requirement.parse(requirement), [doubts])
    else:
        with pytest.raises(NotMeasuredError, match=r"corelocker\[export\].*--require none"):
            check([found], tiers, Requirement.parse(requirement), [doubts])


@pytest.mark.parametrize(
    "text", ["", "chance", "at-most", "at-most=", "at-most=2", "at-most=x", "collapse=1", "none=0"]
)
def test_a_requirement_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="collapse, at-most=FRACTION or none"):
        Requirement.parse(text)


@pytest.mark.parametrize("text", ["free=0.5@", "free=0.5@2,full=0", "free=0.5@x,full=0", "free@0.5=1,full=0"])
def test_a_declared_utility_is_a_fraction(text: str) -> None:
    with pytest.raises(TierError):
        parse_tiers(text)


@pytest.mark.parametrize(
    ("options", "safe"),
    [
        ({}, True),
        ({"unit": "sign"}, True),
        ({"preset": "balanced"}, False),
        ({"preset": "cover"}, False),
        ({"tiers": parse_tiers("free=0.05,full=0")}, False),
        ({"exclude": ("*second*", "*forward.2*", "*layer*", "*body*", "*weight1*")}, None),
    ],
)
def test_the_default_holds_by_construction(options: dict[str, object], safe: bool | None) -> None:
    artifact = open_artifact(exports.exported("resnet", "xnnpack"))
    given = LockOptions(**options)  # type: ignore[arg-type]
    plan = choose_channels([artifact], given, b"s")
    found = why_unsafe(artifact, plan, 0, given)
    if safe is None:  # a layer left out
        largest = max(artifact.tensors, key=lambda t: t.weight.size)
        given = LockOptions(exclude=(largest.name,))
        found, safe = why_unsafe(artifact, choose_channels([artifact], given, b"s"), 0, given), False
    assert (found is None) == safe


def test_the_default_takes_the_signs_of_all_weights(tmp_path: Path) -> None:
    for name in ("mobilenet-xnnpack", "transformer-portable", "shared-methods-xnnpack"):
        net, _, form = name.partition("-")
        artifact = open_artifact(exports.exported(net, form))
        plan = choose_channels([artifact], LockOptions(), b"s")
        assert plan.unit == "sign"
        layers = {t.name for t in artifact.tensors if t.role != "norm"}
        assert {n for n, map_ in plan.tier_of[0].items() if map_.all()} == layers
        assert plan.left_alone[0].keys() <= {t.name for t in artifact.tensors if t.role == "norm"}


def test_layers_without_signs_are_locked_by_value_within_the_budget() -> None:
    artifact = open_artifact(exports.exported("gated", "int4"))
    plan = choose_channels([artifact], LockOptions(), b"s")
    assert all(map_.all() for map_ in plan.tier_of[0].values()), "a small model pays for its signs"
    from corelocker.locking import planning

    before, planning.SMALL = planning.SMALL, 0
    try:
        plan = choose_channels([artifact], LockOptions(), b"s")
        grown = choose_channels([artifact], LockOptions(), b"s", attempt=1)
    finally:
        planning.SMALL = before
    reasons = {name: found for name, found in plan.signs[0].items() if isinstance(found, str)}
    assert reasons
    assert all("25 % of its bytes" in reason for reason in reasons.values())
    locked = sum(int(plan.tier_of[0][t.name].sum()) * t.weight.size / t.channels for t in artifact.tensors)
    assert 0 < locked <= 0.13 * artifact.lockable_bytes
    assert not any(isinstance(found, str) for found in grown.signs[0].values())


def test_tiers_that_give_the_same_file_are_refused(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "m.safetensors",
        {f"{i}.weight": trained_like(np.random.default_rng(i), 8, 24) for i in range(3)},
    )
    plan = choose_channels([open_artifact(path)], LockOptions(tiers=parse_tiers("free=0.3,plus=0.05,full=0")), b"s")
    with pytest.raises(TierError, match="tier full would be the same file as tier plus"):
        check_that_tiers_differ(plan)


def test_a_saved_plan_keeps_what_is_locked_by_value(tmp_path: Path) -> None:
    from corelocker.locking import planning
    from corelocker.locking.plan import Plan

    artifact = open_artifact(exports.exported("gated", "int4"))
    before, planning.SMALL = planning.SMALL, 0
    try:
        plan = choose_channels([artifact], LockOptions(), b"s")
    finally:
        planning.SMALL = before
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json", [artifact])
    for name, map_ in plan.tier_of[0].items():
        if map_.any():
            assert np.array_equal(again.tier_of[0][name], map_)
            assert isinstance(again.signs[0][name], str) == isinstance(plan.signs[0][name], str)


@pytest.mark.parametrize(
    ("doubt", "remedy"),
    [
        (UNSAFE_OPTIONS, "Lock with preset hardened"),
        ("21 % of its weights stay open", "`corelocker inspect` says which layers cannot be locked"),
    ],
)
def test_what_to_do_where_nothing_is_measured(doubt: str, remedy: str) -> None:
    """Who locks with hardened already is not told to."""
    found = Measurement("m", reason="a checkpoint is weights without a model")
    with pytest.raises(NotMeasuredError, match=f"and {doubt}. {remedy}, or pass --require none"):
        check([found], parse_tiers("free=1,full=0", "sign"), Requirement.parse("collapse"), [doubt])


@pytest.mark.parametrize(
    ("options", "broad"),
    [
        (LockOptions(), False),
        (LockOptions(preset="balanced"), True),
        (LockOptions(tiers=parse_tiers("free=0.5,full=0")), True),
        (LockOptions(tiers=parse_tiers("free=0.5,plus=0.2,full=0")), True),
        (LockOptions(tiers=parse_tiers("free=0.5,plus=0.2@0.7,full=0")), False),
    ],
)
def test_a_lock_of_a_part_is_measured_on_several_kinds_of_inputs(
    options: LockOptions, broad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(*given: object, broad: bool, allowed: object) -> list[Measurement]:
        asked.append(broad)
        return [Measurement("a", reason="it does not run")]

    monkeypatch.setattr("corelocker.locking.lock.measure_locked", measure)
    tensors = {f"{i}.weight": trained_like(np.random.default_rng(i), 16, 24) for i in range(4)}
    model = write_safetensors(tmp_path / "a.safetensors", tensors)
    keystore = corelocker.Keystore.create(tmp_path / "keys.json", b"p")
    corelocker.lock(
        [model], tmp_path / "out", model_id="m", model_version=1, keystore=keystore, options=options, require="none"
    )
    assert asked == [broad]
