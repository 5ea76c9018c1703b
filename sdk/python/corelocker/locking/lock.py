"""Locking finished model files: what `corelocker lock` does and a build script calls.

The way of a file from here to its bytes:

    artifacts.detect, then its format (`artifacts/executorch/pte.py`), present its weights as tensors with places in the file
    choose           which channels are locked
    publish          draws what stands in their place, makes patches, writes files and key bundle, all or nothing
    writing          reads the file block by block, hashes each state, writes that of tier 0
    locked, layout   which bytes of a block a state has, and put them there
"""

from __future__ import annotations

import fnmatch
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from corelocker.artifacts.detect import open_artifacts
from corelocker.bundle.content_keys import new_content_key
from corelocker.bundle.strict_json import MAX_INTEGER
from corelocker.errors import BaseRevealsError, ConfigError, FileAccessError, WeakLockError
from corelocker.files import refuse_existing
from corelocker.locking.choose import answers_base, check_options, choose_channels, plan_of_small
from corelocker.locking.earlier import EarlierLocks, hold_to_earlier, record_of
from corelocker.locking.locked_already import refuse_locked, refuse_recorded
from corelocker.locking.measuring import (
    MeasuringTime,
    SmallLock,
    StagedArtifact,
    find_small_locks,
    measure_base,
    measure_locked,
)
from corelocker.locking.options import LockOptions, PresetName
from corelocker.locking.plan import Plan
from corelocker.locking.planning import check_that_tiers_differ
from corelocker.locking.presets import preset
from corelocker.locking.publish import Publication, check_targets, publish
from corelocker.locking.requirement import BaseMeasurement, Measurement, Requirement, check, check_base
from corelocker.locking.safe import why_unsafe
from corelocker.locking.tiers import NAME
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.artifacts import Artifact
    from corelocker.bundle.keystore import Keystore
    from corelocker.hashing import FileHashes
    from corelocker.locking.base import BaseComparison


DRAWS = 5  # of a lock that is too weak by bad luck
STILL_WORKED = "an earlier draw of the same lock still worked"
ENLARGED = 4  # tries, of an eighth, a quarter, half and all but a channel of the layers whose signs a public base has


@dataclass(frozen=True)
class LockedOutput:
    """What became of one artifact.

    Attributes:
        name, format: of the artifact.
        outputs: the paths that were written.
        channels, locked_channels: how many there are, how many are locked in the tier that ships.
        weight_bytes, stored_bytes: bytes of all lockable tensors, and of all weights in the file.
        locked_bytes: bytes of them that the access key holds for the tier that ships.
        patch_bytes: tier -> bytes that its patch puts back.
        measured: how far each tier agrees with the original, or why that was not measured.
        by_value: for the unit "sign", tensor -> why values were taken of it.
        open_signs: for the unit "sign", tensor -> (share of its weights that are 0 and have no sign, share of the others that keep
            their sign because they have no negative), where one of them is not 0.
        left_alone: tensor -> why it is not locked.
        notes: tensor -> what else is to be said about a tensor that may be locked.
        not_followed: tensor -> why its consumers or its inputs stay, where consumers were asked for.
        base: what the public base gives away, where one was named.
    """

    name: str
    format: str
    outputs: tuple[Path, ...]
    channels: int
    locked_channels: int
    weight_bytes: int
    stored_bytes: int
    locked_bytes: int
    patch_bytes: dict[str, int]
    measured: Measurement
    by_value: dict[str, str]
    open_signs: dict[str, tuple[float, float]]
    left_alone: dict[str, str]
    notes: dict[str, str]
    not_followed: dict[str, str]
    base: BaseMeasurement | None = None

    @property
    def locked_fraction(self) -> float:
        """Of the bytes of all weights in the file, also of those that cannot be locked."""
        return self.locked_bytes / max(1, self.stored_bytes)


@dataclass(frozen=True)
class LockResult:
    """What `lock` wrote.

    Attributes:
        bundle: path of the key bundle, of `bundle_bytes` bytes.
        artifacts: in the order in which they were given.
        preset: the preset that counted; None for a lock by fractions or by a saved plan.
        earlier: what the lock owes to earlier ones of the same model.
        plan: which channels are locked; it is secret.
    """

    bundle: Path
    bundle_bytes: int
    artifacts: tuple[LockedOutput, ...]
    preset: PresetName | None
    earlier: EarlierLocks
    plan: Plan = field(repr=False)


def lock(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    model_id: str,
    model_version: int,
    keystore: Keystore | Future[Keystore],
    options: LockOptions | None = None,
    require: str | Requirement = "collapse",
    force: bool = False,
    hashes: FileHashes | None = None,
    progress: Progress = no_progress,
) -> LockResult:
    """Lock finished models into the folder `out`, with one key bundle `<model_id>.clkey` for all of them.

    The originals stay as they are; the locked files have the same names and lengths. The content key goes into the keystore. All
    outputs appear at once, or nothing does.

    Args:
        paths: `.pte` (its `.ptd` files behind it), `.mlpackage`, `.mlmodelc`, `.safetensors` or its index.json. A `.ptd` of several
            programs stands behind each of them, and is one file of all of them in the bundle.
        model_id: the same for all versions of the model: letters, digits, '.', '_' and '-', at most 64.
        model_version: grows with every version.
        keystore: an open one, or one that is being opened in another thread meanwhile.
        options: how to lock; the defaults are those of `LockOptions`.
        require: what the tier that ships may be worth: "collapse" (nothing), "at-most=0.6", or "none". Tiers with a declared
            utility are held to that. Where nothing can be measured, the default preset alone is taken to hold.
        force: replace outputs that exist.
        hashes: hashes some of the files already.
        progress: called with (stage, done, total).

    Every locked file is run in a process of its own and compared with the original. Warns with `LockWarning` when a preset was not
    shown to keep its promise for such models, or takes in vain what an earlier file leaves open.

    Raises ConfigError for a wrong model id, WeakLockError when the locked model is worth more than required, BaseRevealsError
    when the public base opens it, NotMeasuredError, EarlierLockError, OutputExistsError, FileAccessError, LockingError, or an error
    of the artifacts or the keystore.
    """
    options, out = options or LockOptions(), Path(out)
    required = require if isinstance(require, Requirement) else Requirement.parse(require)
    _check_given(model_id, model_version, options, force)
    artifacts = open_artifacts([Path(path) for path in paths])
    check_targets(artifacts, out, model_id, force)
    refuse_locked(artifacts)
    _check_patterns(artifacts, options.exclude)
    searched = options.effective_preset is not None and preset(options.effective_preset).searched
    if isinstance(keystore, Future) and (options.model is not None or searched):
        keystore = keystore.result()  # a wrong passphrase is told before a model runs for minutes
    if not isinstance(keystore, Future):
        refuse_recorded(artifacts, keystore.lock_records())
    with _compared(artifacts, options.base) as base:
        plans = _Plans(artifacts, options, base, progress)
        while True:
            plan = plans.next()
            store = keystore.result() if isinstance(keystore, Future) else keystore
            refuse_recorded(artifacts, store.lock_records())
            records = () if options.forget_earlier_locks else store.lock_records(model_id)
            redraw = plans.redrawn or options.seed is not None
            earlier = hold_to_earlier(plan, artifacts, records, model_version, redraw=redraw)
            check_that_tiers_differ(plan)
            try:
                return _publish(
                    artifacts, plan, earlier, base, out, model_id, model_version, store, options, required, force, hashes,
                    plans.allowed, plans.redrawn, progress,
                )  # fmt: skip
            except WeakLockError as error:
                if not plans.may_follow(error):
                    raise


def _check_given(model_id: str, model_version: int, options: LockOptions, force: bool) -> None:
    """What is wrong before a model is opened. Raises ConfigError, OutputExistsError or FileAccessError."""
    if not NAME.fullmatch(model_id):
        raise ConfigError(f"model id {model_id!r} is not letters, digits, '.', '_' and '-' (at most 64)")
    if not 0 <= model_version <= MAX_INTEGER:
        raise ConfigError(f"model version {model_version} is not from 0 to 2^53 - 1")
    check_options(options)
    if options.save_plan is not None:
        refuse_existing(options.save_plan, force=force)
    if options.samples is not None and not options.samples.exists():
        raise FileAccessError(f"{options.samples}: no such file or folder")


@contextmanager
def _compared(artifacts: Sequence[Artifact], base: Path | None) -> Iterator[BaseComparison | None]:
    """The model beside its public base; None without one. Raises what opening the base raises, and ConfigError."""
    if base is None:
        yield None
        return
    from corelocker.locking.base import compare_with_base, opened_base

    with opened_base(base) as opened:
        yield compare_with_base(artifacts, opened)


def _hold_to_base(
    artifacts: Sequence[Artifact],
    plan: Plan,
    base: BaseComparison | None,
    options: LockOptions,
    required: Requirement,
    allowed: MeasuringTime,
    progress: Progress,
) -> Sequence[BaseMeasurement]:
    """What the public base gives away of each artifact; nothing without one. Raises BaseRevealsError or NotMeasuredError."""
    if base is None:
        return ()
    measured = measure_base(artifacts, plan, base, options, progress, allowed)
    check_base(measured, required)
    return measured


def _check_patterns(artifacts: Sequence[Artifact], exclude: Sequence[str]) -> None:
    """A pattern that matches nothing is a typing error, and what it was meant for would be locked. Raises ConfigError."""
    names = {tensor.name for artifact in artifacts for tensor in artifact.tensors}
    for pattern in exclude:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"--exclude {pattern!r} matches no layer", hint="`corelocker inspect` lists them")


class _Plans:
    """The plan of the options, and again with another draw, or a larger lock, where the first one turns out too weak.

    Of the `most` plans each of the first `growing` takes more by value of what a public base gives away; `allowed` is the time for
    running the files of all of them.
    """

    def __init__(
        self,
        artifacts: Sequence[Artifact],
        options: LockOptions,
        base: BaseComparison | None,
        progress: Progress,
    ) -> None:
        self.allowed = MeasuringTime(options.measure_seconds)
        self._artifacts, self._options, self._base, self._progress = artifacts, options, base, progress
        named = preset(options.effective_preset) if options.effective_preset and options.plan is None else None
        self._small: list[SmallLock] | None = None
        if named is not None and named.searched:
            self._small = find_small_locks(artifacts, options, progress, self.allowed)
        self._by_preset = named is not None
        again = options.plan is None and options.seed is None
        self.growing = ENLARGED if base is not None and answers_base(options) and base.withheld() else 1
        self.most = len(self._small) if self._small else self.growing - 1 + (DRAWS if again else 1)
        self._drawn = 0

    def next(self) -> Plan:
        """The next plan."""
        self._drawn += 1
        options = self._options
        seed = secrets.token_bytes(32) if options.seed is None else options.seed.encode()
        if options.plan is not None:
            return Plan.load(options.plan, self._artifacts)
        if self._small is None:
            return choose_channels(
                self._artifacts, options, seed, self._progress, attempt=self._drawn - 1, base=self._base
            )
        return plan_of_small(self._artifacts, self._small.pop(0), seed)

    def may_follow(self, error: WeakLockError) -> bool:
        """Whether another plan may hold where the last one did not, and there is time to measure it."""
        # Masks and decoys are drawn, and one draw in many leaves more than others; a base knows no draws.
        most = self.growing if isinstance(error, BaseRevealsError) else self.most
        return self._drawn < most and bool(self.allowed.left) and (self._by_preset or error.at_chance)

    @property
    def redrawn(self) -> bool:
        """Whether the last plan was not the first one."""
        return self._drawn > 1


def _publish(
    artifacts: Sequence[Artifact],
    plan: Plan,
    earlier: EarlierLocks,
    base: BaseComparison | None,
    out: Path,
    model_id: str,
    model_version: int,
    keystore: Keystore,
    options: LockOptions,
    required: Requirement,
    force: bool,
    hashes: FileHashes | None,
    allowed: MeasuringTime,
    drawn_again: bool,
    progress: Progress,
) -> LockResult:
    beside = _hold_to_base(artifacts, plan, base, options, required, allowed, progress)
    bundle_id, content_key = uuid4(), new_content_key()
    tiers = tuple(tier.name for tier in plan.tiers)
    record = record_of(artifacts, plan, bundle_id, model_id, model_version)
    measured: list[Measurement] = []

    def save() -> None:
        if options.save_plan is not None:
            plan.save(options.save_plan, force=force)

    def hold(staged: Sequence[StagedArtifact]) -> None:
        doubts = [why_unsafe(artifact, plan, place, options) for place, artifact in enumerate(artifacts)]
        # A declared utility was measured on inputs of one kind.
        broad = any(doubts) and all(tier.utility is None for tier in plan.tiers)
        measured[:] = measure_locked(staged, plan.tiers, options, progress, broad=broad, allowed=allowed)
        if drawn_again:  # what holds by construction has not held
            doubts = [d or (STILL_WORKED if m.out_of_time else None) for d, m in zip(doubts, measured, strict=True)]
        check(measured, plan.tiers, required, doubts)

    publication = publish(
        artifacts,
        plan,
        out,
        model=model_id,
        model_version=model_version,
        bundle_id=bundle_id,
        signing_key=keystore.signing_key,
        content_key=content_key,
        stage_key=lambda samples, files: keystore.stage_content_key(
            bundle_id,
            model_id,
            model_version,
            tiers,
            content_key,
            samples,
            replace(record, files=files),
            forget=options.forget_earlier_locks,
        ),
        hashes=hashes,
        force=force,
        check=hold,
        before_commit=save,
        progress=lambda stage: progress(stage.name, stage.done, stage.total),
    )
    return _result(publication, plan, measured, beside, options.effective_preset, earlier)


def _result(
    publication: Publication,
    plan: Plan,
    measured: Sequence[Measurement],
    beside: Sequence[BaseMeasurement],
    preset: PresetName | None,
    earlier: EarlierLocks,
) -> LockResult:
    tiers = [tier.name for tier in plan.tiers[1:]]
    outputs = []
    for index, (locked, paths, sizes, left_alone) in enumerate(
        zip(publication.artifacts, publication.outputs, publication.key_bytes, plan.left_alone, strict=True)
    ):
        artifact: Artifact = locked.artifact
        taken = {name for name, map_ in plan.tier_of[index].items() if map_.any()}
        signs = {name: found for name, found in (plan.signs[index] if plan.signs else {}).items() if name in taken}
        tensors = {tensor.name for tensor in artifact.tensors}
        skipped = {s.name: s.reason for s in artifact.skipped}
        outputs.append(
            LockedOutput(
                artifact.path.name,
                artifact.format,
                tuple(paths),
                locked.channels,
                locked.locked_channels,
                locked.weight_bytes,
                artifact.stored_bytes,
                locked.locked_bytes,
                dict(zip(tiers, sizes, strict=True)),
                measured[index],
                {name: found for name, found in signs.items() if isinstance(found, str)},
                {
                    name: (found.zeros, found.unpaired)
                    for name, found in signs.items()
                    if not isinstance(found, str) and found.zeros + found.unpaired > 0
                },
                left_alone | {name: reason for name, reason in skipped.items() if name not in tensors},
                {name: reason for name, reason in skipped.items() if name in tensors},
                locked.not_followed,
                beside[index] if beside else None,
            )
        )
    return LockResult(publication.bundle, publication.bundle_bytes, tuple(outputs), preset, earlier, plan)
