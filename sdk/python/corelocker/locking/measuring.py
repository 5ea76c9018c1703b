"""Measuring locked files in a process of its own.

It needs the extra `export`, which a process that only touches files must not load. What it is given stays on this machine and in
its memory: the locked files lie in the scratch folder, the patches of higher tiers go through a pipe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corelocker.artifacts import Artifact
from corelocker.errors import LockingError, NotMeasuredError
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.requirement import MORE_TIME, BaseMeasurement, Measurement, TierAgreement
from corelocker.locking.signs.reading import Signs
from corelocker.locking.tier_patch import TierPatch
from corelocker.locking.tiers import Tier, Unit
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.locking.base import BaseComparison

PROGRAM = "corelocker.audit.agreement"
SECRET = "PASSPHRASE"  # noqa: S105 - in names of variables that the process does not get
GRACE = 30.0  # seconds after its time in which the process may end by itself: it looks at the clock between two inputs


@dataclass(frozen=True)
class StagedArtifact:
    """A locked artifact that is not published yet.

    Attributes:
        artifact: the original.
        locked: file name inside the artifact -> its locked form on the disk.
        patches: for each tier from 1 on, (file name, patch) of each file that it changes.
    """

    artifact: Artifact
    locked: dict[str, Path]
    patches: list[list[tuple[str, TierPatch]]]


class MeasuringTime:
    """What is left of the time in which one lock may run its files, in seconds. Locking itself does not count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self.left = seconds

    @contextmanager
    def spending(self) -> Iterator[None]:
        """What the block takes is spent."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.left = max(0.0, self.left - (time.monotonic() - begun))

    @property
    def reason(self) -> str:
        """Why nothing was measured where it was too short."""
        return f"time: too few inputs could be run in {self.seconds:g} s"


@dataclass(frozen=True)
class SmallLock:
    """Channels that silence a model: (artifact, tensor) -> channels, and what is taken of them."""

    unit: Unit
    channels: dict[tuple[int, str], list[int]]


def measure_locked(
    staged: Sequence[StagedArtifact],
    tiers: Sequence[Tier],
    options: LockOptions,
    progress: Progress = no_progress,
    *,
    broad: bool = False,
    allowed: MeasuringTime | None = None,
) -> list[Measurement]:
    """How far the tiers of each artifact agree with the original. What cannot be measured is told in the result.

    Args:
        broad: on several kinds of synthetic inputs, as a lock of a part needs it that shall leave nothing.
        allowed: the time for it; by default that of the options.
    """
    allowed = allowed or MeasuringTime(options.measure_seconds)
    entries: list[dict[str, Any]] = []
    for item in staged:
        entries.append(
            _entry(item.artifact)
            | {
                "locked": {name: str(path.absolute()) for name, path in item.locked.items()},
                "patches": [[(name, patch.patch.size) for name, patch in tier] for tier in item.patches],
            }
        )
    pipe = (part for item in staged for tier in item.patches for _, patch in tier for part in patch.patch.parts())
    names = [item.artifact.path.name for item in staged]
    if not any(_may_run(item.artifact, options) for item in staged):
        return [Measurement(i.artifact.path.name, reason=_why_not(i.artifact)) for i in staged]
    answer = _ask(
        "measure", entries, options, {"broad": broad}, pipe, allowed, 1.0,
        lambda done, total: progress("measure", done, total),
    )  # fmt: skip
    if "late" in answer:
        return [Measurement(name, reason=allowed.reason, out_of_time=True) for name in names]
    if "result" not in answer:
        missing = "missing" in answer
        reason = f"{answer['missing']} is not installed" if missing else str(answer["crash"])
        return [Measurement(name, reason=reason, missing_extra=missing) for name in names]
    return [_measurement(name, found, tiers, allowed) for name, found in zip(names, answer["result"], strict=True)]


def measure_base(
    artifacts: Sequence[Artifact],
    plan: Plan,
    comparison: BaseComparison,
    options: LockOptions,
    progress: Progress = no_progress,
    allowed: MeasuringTime | None = None,
) -> list[BaseMeasurement]:
    """What a public base gives away of each artifact, locked by `plan`. What cannot be run is told in the result.

    Half of the time that is left is for it.
    """
    from corelocker.locking.base import locked_signs

    allowed = allowed or MeasuringTime(options.measure_seconds)
    entries, known = [], []
    for index, artifact in enumerate(artifacts):
        layers = {name: layer for (place, name), layer in comparison.layers.items() if place == index}
        tiers = {name: plan.tier_of[index].get(name, np.zeros(layer.changed.size)) for name, layer in layers.items()}
        signs = plan.signs[index] if plan.signs else {}
        entries.append(
            _entry(artifact)
            | {
                "layers": {
                    name: {
                        "base": layer.base.name,
                        "by_sign": isinstance(signs.get(name), Signs),
                        "locked": np.flatnonzero(tiers[name]).tolist(),
                    }
                    for name, layer in layers.items()
                }
            }
        )
        shares = {name: layer.agreement for name, layer in layers.items()}
        known.append(BaseMeasurement(artifact.path.name, shares, locked_signs(comparison, plan, index)))
    if not any(_may_run(artifact, options) for artifact in artifacts):
        return [replace(k, reason=_why_not(a)) for k, a in zip(known, artifacts, strict=True)]
    more = {"base": str(comparison.path.absolute())}
    answer = _ask("base", entries, options, more, [], allowed, 0.5, lambda done, total: progress("base", done, total))
    if "late" in answer:
        return [replace(found, reason=allowed.reason, out_of_time=True) for found in known]
    if "result" not in answer:
        reason = f"{answer['missing']} is not installed" if "missing" in answer else str(answer["crash"])
        return [replace(found, reason=reason) for found in known]
    return [_beside(beside, found, allowed) for beside, found in zip(known, answer["result"], strict=True)]


def _beside(known: BaseMeasurement, found: dict[str, Any], allowed: MeasuringTime) -> BaseMeasurement:
    if "out_of_time" in found:
        return replace(known, reason=allowed.reason, out_of_time=True)
    if "reason" in found:
        return replace(known, reason=found["reason"])
    base, signs, values = (TierAgreement(name, **found["states"][name]) for name in ("base", "signs", "values"))
    return replace(known, base=base, signs=signs, values=values)


def find_small_locks(
    artifacts: Sequence[Artifact],
    options: LockOptions,
    progress: Progress = no_progress,
    allowed: MeasuringTime | None = None,
) -> list[SmallLock]:
    """The fewest bytes that silence the first of the artifacts that runs here, and larger locks behind it.

    Half of the time that is left is for it: what it finds has to be measured.

    Raises NotMeasuredError when none runs here, nothing silences it, or the time is too short; LockingError when the process fails.
    """
    allowed = allowed or MeasuringTime(options.measure_seconds)
    units: list[Unit] = [options.unit] if options.unit else ["sign", "value"]
    more = {"units": units, "exclude": list(options.exclude)}
    entries = [_entry(artifact) for artifact in artifacts]
    answer = _ask(
        "smallest", entries, options, more, [], allowed, 0.5, lambda done, total: progress("search", done, total)
    )
    if "late" in answer or "out_of_time" in answer.get("result", {}):
        raise NotMeasuredError(
            f"preset minimal runs the model, half of the time to search: {allowed.reason}",
            hint=f"{MORE_TIME}, or use preset hardened",
        )
    if "missing" in answer:
        raise NotMeasuredError(
            f"preset minimal runs the model: {answer['missing']} is not installed",
            hint="Install corelocker[export], or use preset hardened",
        )
    if "result" not in answer:
        raise LockingError(f"the search for the smallest lock failed: {answer['crash']}", hint="Use preset hardened")
    found = answer["result"]
    if "reason" in found:
        raise NotMeasuredError(f"preset minimal runs the model: {found['reason']}", hint="Use preset hardened")
    index = found["artifact"]
    return [
        SmallLock(lock["unit"], {(index, name): channels for name, channels in lock["channels"].items()})
        for lock in found["locks"]
    ]


def _entry(artifact: Artifact) -> dict[str, Any]:
    external = [str(f.path.absolute()) for f in artifact.files if f.path.suffix == ".ptd"]
    return {"path": str(artifact.path.absolute()), "data": external}


def _may_run(artifact: Artifact, options: LockOptions) -> bool:
    return artifact.format in ("executorch", "coreml") or (
        artifact.format == "safetensors" and options.model is not None
    )


def _why_not(artifact: Artifact) -> str:
    if artifact.format == "safetensors":
        return "a checkpoint is weights without a model; --model package.module:factory names it"
    return "a compiled Core ML model does not run here"


def _measurement(name: str, found: dict[str, Any], tiers: Sequence[Tier], allowed: MeasuringTime) -> Measurement:
    if "reason" in found:
        return Measurement(name, reason=found["reason"])
    rows = [TierAgreement(tier.name, **row) for tier, row in zip(tiers, found.get("tiers", ()), strict=False)]
    if "out_of_time" in found:
        on = found.get("inputs", ""), found.get("samples", 0)
        return Measurement(name, tuple(rows), *on, reason=allowed.reason, out_of_time=True)
    last = TierAgreement(tiers[-1].name, rows[0].kind, 1.0, rows[0].chance, 0.0, 1.0)
    return Measurement(name, (*rows, last), found["inputs"], found["samples"])


def _ask(
    task: str,
    entries: list[dict[str, Any]],
    options: LockOptions,
    more: dict[str, Any],
    pipe: Iterable[bytes | memoryview],
    allowed: MeasuringTime,
    share: float,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """The answer of the process: {"result"}, {"missing"}, {"late"} when it did not end in time, or {"crash": why} when it ended
    without one. It gets a share of the time that is left."""
    seconds = share * allowed.left
    if seconds <= 0:
        return {"late": True}
    package = str(Path(__file__).resolve().parents[2])
    request = {
        "task": task,
        "path": [str(Path.cwd()) if entry == "" else entry for entry in sys.path],
        "artifacts": entries,
        "model": options.model,
        "input_stats": options.input_stats,
        "samples": None if options.samples is None else str(options.samples.absolute()),
        "seconds": seconds,
    } | more
    environment = {name: value for name, value in os.environ.items() if SECRET not in name}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    with (
        allowed.spending(),
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - this interpreter, a module of this package
            [sys.executable, "-P", "-m", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=environment,
        ) as process,
        _ended_after(process, seconds + GRACE) as late,
    ):  # fmt: skip
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            for piece in pipe:
                process.stdin.write(piece)
            process.stdin.close()
            for line in process.stdout:
                answer: dict[str, Any] = json.loads(line)
                if "progress" not in answer:
                    return answer
                progress(*answer["progress"])
        except (BrokenPipeError, ValueError):
            pass
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        if late.is_set():
            return {"late": True}
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        return {"crash": f"the process that runs it {ended}: {lines[-1][:200] if lines else 'it said nothing'}"}


@contextmanager
def _ended_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill the process after some seconds, and set the event then."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
