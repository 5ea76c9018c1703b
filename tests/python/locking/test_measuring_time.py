"""The time in which a lock may run its files: what ends with it, and what that means for the lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import corelocker
import pytest
from corelocker.errors import ConfigError, NotMeasuredError, WeakLockError
from corelocker.locking import lock as locking
from corelocker.locking import measuring
from corelocker.locking.measuring import MeasuringTime, StagedArtifact, find_small_locks, measure_locked
from corelocker.locking.options import LockOptions
from corelocker.locking.requirement import Measurement, Requirement, TierAgreement, check
from corelocker.locking.tiers import Tier, parse_tiers
from support.models import exports

TIERS = parse_tiers("free=0.3,plus=0.1,full=0")
Lock = Callable[..., corelocker.LockResult]


@pytest.fixture
def program() -> Path:
    return exports.exported("vgg", "xnnpack")


@pytest.fixture
def lock(program: Path, tmp_path: Path) -> Lock:
    keystore = corelocker.Keystore.create(tmp_path / "keys.json", b"p")

    def made(require: str = "collapse", **options: Any) -> corelocker.LockResult:
        return corelocker.lock(
            [program], tmp_path / "dist", model_id="m", model_version=1, keystore=keystore, options=LockOptions(**options),
            require=require,
        )  # fmt: skip

    return made


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that measures says nothing and does not end."""
    (tmp_path / "hanging.py").write_text("import time\n\nwhile True:\n    time.sleep(60)\n")
    monkeypatch.setattr(measuring, "PROGRAM", "hanging")
    monkeypatch.setattr(measuring, "GRACE", 0.0)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_what_is_safe_by_construction_is_written_without_a_measurement(lock: Lock, tmp_path: Path) -> None:
    (found,) = lock(measure_seconds=0).artifacts
    assert found.measured.reason == "time: too few inputs could be run in 0 s"
    assert found.measured.tiers == ()
    assert (tmp_path / "dist" / "m.clkey").exists()


@pytest.mark.parametrize("options", [{"tiers": TIERS}, {"preset": "balanced"}, {"preset": "minimal"}])
def test_every_other_lock_is_refused_and_names_the_option(lock: Lock, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(NotMeasuredError, match=r"time: too few inputs could be run in 0 s.*--measure-seconds"):
        lock(measure_seconds=0, **options)
    assert not (tmp_path / "dist").exists()


@pytest.mark.usefixtures("hanging")
def test_a_process_that_does_not_end_is_ended(lock: Lock) -> None:
    (found,) = lock(require="none", measure_seconds=0.1).artifacts
    assert found.measured.out_of_time


@pytest.mark.usefixtures("hanging")
def test_a_search_that_does_not_end_is_ended(program: Path) -> None:
    artifact = corelocker.open_artifacts([program])
    allowed = MeasuringTime(0.2)
    with pytest.raises(NotMeasuredError, match="--measure-seconds"):
        find_small_locks(artifact, LockOptions(preset="minimal"), allowed=allowed)
    assert allowed.left < 0.2


def test_the_process_is_told_how_long_it_may_run(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has used up less than a millisecond when torch is there, so no input is run."""
    (artifact,) = corelocker.open_artifacts([program])
    patches: list[list[Any]] = [[]]
    staged = StagedArtifact(artifact, {program.name: program}, patches)
    (found,) = measure_locked([staged], parse_tiers("free=0.3,full=0"), LockOptions(measure_seconds=0.001))
    assert (found.out_of_time, found.tiers) == (True, ())
    (found,) = measure_locked([staged], parse_tiers("free=0.3,full=0"), LockOptions(measure_seconds=600))
    assert not found.out_of_time
    assert found.tiers[0].value > 0.9  # the state is the original's


@pytest.mark.parametrize("seconds", [-1, -0.5, float("nan")])
def test_what_is_no_time(lock: Lock, seconds: float) -> None:
    with pytest.raises(ConfigError, match="--measure-seconds"):
        lock(measure_seconds=seconds)


WEAK = Measurement("a", (TierAgreement("free", "classes", 0.9, 0.1, 0.01, 0.9),), "noise", 30)
ALONG = Measurement("a", (TierAgreement("free", "classes", 0.1, 0.1, 0.01, 0.2, most_along=0.15),), "noise", 30)
SILENT = Measurement("a", (TierAgreement("free", "classes", 0.1, 0.1, 0.01, 0.0),), "noise", 30)
LATE = Measurement("a", reason="time: too few inputs could be run in 5 s", out_of_time=True)


def drawn(monkeypatch: pytest.MonkeyPatch, *found: Measurement, left: Sequence[float] = (1, 1, 1)) -> list[Measurement]:
    """One measurement after the other is found, with so much time left behind each; returns those that are left over."""
    rest, times = list(found), list(left)

    def measured(*args: Any, allowed: MeasuringTime, **options: Any) -> list[Measurement]:
        allowed.left = times.pop(0)
        return [rest.pop(0)]

    monkeypatch.setattr(locking, "measure_locked", measured)
    return rest


def test_what_has_not_held_is_not_taken_to_hold(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is safe by construction, but an earlier draw of it was measured to work."""
    drawn(monkeypatch, WEAK, LATE)
    with pytest.raises(NotMeasuredError, match=r"an earlier draw.*--measure-seconds"):
        lock()
    drawn(monkeypatch, WEAK, SILENT)
    lock()


def test_nothing_is_drawn_again_without_time(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = drawn(monkeypatch, WEAK, SILENT, left=[0.0, 0.0])
    with pytest.raises(WeakLockError):
        lock()
    assert rest == [SILENT]


@pytest.mark.parametrize(("found", "seed", "again"), [(ALONG, None, True), (ALONG, "s", False), (WEAK, None, False)])
def test_a_lock_by_fractions_is_drawn_again_where_answers_are_at_chance(
    lock: Lock, monkeypatch: pytest.MonkeyPatch, found: Measurement, seed: str | None, again: bool
) -> None:
    rest = drawn(monkeypatch, found, SILENT)
    if again:
        lock(tiers=TIERS, seed=seed)
        assert not rest
        return
    with pytest.raises(WeakLockError, match="tier free still works"):
        lock(tiers=TIERS, seed=seed)
    assert rest == [SILENT]


def partly(value: float, tiers: int) -> Measurement:
    rows = [TierAgreement(tier.name, "classes", value, 0.1, 0.01, 0.0) for tier in TIERS[:tiers]]
    return Measurement("a", tuple(rows), "noise", 30, "time: too few inputs could be run in 5 s", out_of_time=True)


@pytest.mark.parametrize(
    ("measured", "tiers", "error"),
    [
        (partly(0.1, 1), TIERS, None),  # the tier that ships is known to say nothing, and no other is held to anything
        (partly(0.1, 1), parse_tiers("free=0.3,plus=0.1@0.5,full=0"), NotMeasuredError),
        (partly(0.1, 2), parse_tiers("free=0.3,plus=0.1@0.5,full=0"), None),
        (partly(0.9, 1), TIERS, WeakLockError),  # what is known counts, even where the lock is safe by construction
        (partly(0.1, 0), TIERS, NotMeasuredError),
    ],
)
def test_tiers_that_were_compared_count(measured: Measurement, tiers: Sequence[Tier], error: Any) -> None:
    doubts = [None if error is WeakLockError else "its options do not make it safe"]
    if error is None:
        check([measured], tiers, Requirement(), doubts)
    else:
        with pytest.raises(error):
            check([measured], tiers, Requirement(), doubts)
