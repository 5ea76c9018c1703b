"""Locking finished model files: what `corelocker lock` does and a build script calls."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from corelocker.artifacts.detect import open_artifacts
from corelocker.bundle.content_keys import new_content_key
from corelocker.errors import ConfigError, OutputExistsError
from corelocker.locking.choose import choose_channels
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.publish import Publication, publish
from corelocker.locking.tiers import NAME
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.artifacts import Artifact
    from corelocker.bundle.keystore import Keystore


@dataclass(frozen=True)
class LockedOutput:
    """What became of one artifact.

    Attributes:
        name, format: of the artifact.
        outputs: the paths that were written.
        channels, locked_channels: how many there are, how many are locked in the tier that ships.
        weight_bytes, locked_bytes: bytes of all lockable tensors, bytes of them that the access key holds for the tier that ships.
        patch_bytes: tier -> bytes that its patch puts back.
        by_value: for the unit "sign", tensor -> why values were taken of it.
        open_signs: for the unit "sign", tensor -> (share of its weights that are 0 and have no sign, share of the others that keep
            their sign because they have no negative), where one of them is not 0.
        left_alone: tensor -> why it is not locked.
        notes: tensor -> what else is to be said about a tensor that may be locked.
        not_followed: tensor -> why its consumers or its inputs stay, where consumers were asked for.
    """

    name: str
    format: str
    outputs: tuple[Path, ...]
    channels: int
    locked_channels: int
    weight_bytes: int
    locked_bytes: int
    patch_bytes: dict[str, int]
    by_value: dict[str, str]
    open_signs: dict[str, tuple[float, float]]
    left_alone: dict[str, str]
    notes: dict[str, str]
    not_followed: dict[str, str]

    @property
    def locked_fraction(self) -> float:
        """Of the bytes of all lockable tensors."""
        return self.locked_bytes / max(1, self.weight_bytes)


@dataclass(frozen=True)
class LockResult:
    """What `lock` wrote.

    Attributes:
        bundle: path of the key bundle, of `bundle_bytes` bytes.
        artifacts: in the order in which they were given.
        plan: which channels are locked; it is secret.
    """

    bundle: Path
    bundle_bytes: int
    artifacts: tuple[LockedOutput, ...]
    plan: Plan = field(repr=False)


def lock(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    model_id: str,
    model_version: int,
    keystore: Keystore | Future[Keystore],
    options: LockOptions | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> LockResult:
    """Lock finished models into the folder `out`, with one key bundle `<model_id>.clkey` for all of them.

    The originals stay as they are; the locked files have the same names and lengths. The content key goes into the keystore. All
    outputs appear at once, or nothing does.

    Args:
        paths: `.pte` (its `.ptd` files behind it), `.mlpackage`, `.mlmodelc`, `.safetensors` or its index.json.
        model_id: the same for all versions of the model: letters, digits, '.', '_' and '-', at most 64.
        model_version: grows with every version.
        keystore: an open one, or one that is being opened in another thread meanwhile.
        options: how to lock; the defaults are those of `LockOptions`.
        force: replace outputs that exist.
        progress: called with (stage, done, total).

    Warns with `LockWarning` when a preset was not shown to keep its promise for such models. Raises ConfigError for a wrong model
    id, OutputExistsError, FileAccessError, LockingError, or an error of the artifacts or the keystore.
    """
    options, out = options or LockOptions(), Path(out)
    if not NAME.fullmatch(model_id):
        raise ConfigError(f"model id {model_id!r} is not letters, digits, '.', '_' and '-' (at most 64)")
    if options.save_plan is not None and options.save_plan.exists() and not force:
        raise OutputExistsError(f"{options.save_plan} exists already", hint="Choose another name or pass --force")
    artifacts = open_artifacts([Path(path) for path in paths])
    if options.model is not None and isinstance(keystore, Future):
        keystore = keystore.result()  # a wrong passphrase is told before a model runs for minutes
    seed = secrets.token_bytes(32) if options.seed is None else options.seed.encode()
    plan = Plan.load(options.plan, artifacts) if options.plan else choose_channels(artifacts, options, seed, progress)
    store = keystore.result() if isinstance(keystore, Future) else keystore
    bundle_id, content_key = uuid4(), new_content_key()
    tiers = tuple(tier.name for tier in plan.tiers)

    def save() -> None:
        if options.save_plan is not None:
            plan.save(options.save_plan, force=force)

    publication = publish(
        artifacts,
        plan,
        out,
        model=model_id,
        model_version=model_version,
        bundle_id=bundle_id,
        signing_key=store.signing_key,
        content_key=content_key,
        stage_key=lambda samples: store.stage_content_key(
            bundle_id, model_id, model_version, tiers, content_key, samples
        ),
        force=force,
        before_commit=save,
        progress=lambda stage: progress(stage.name, stage.done, stage.total),
    )
    return _result(publication, plan)


def _result(publication: Publication, plan: Plan) -> LockResult:
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
                locked.locked_bytes,
                dict(zip(tiers, sizes, strict=True)),
                {name: found for name, found in signs.items() if isinstance(found, str)},
                {
                    name: (found.zeros, found.unpaired)
                    for name, found in signs.items()
                    if not isinstance(found, str) and found.zeros + found.unpaired > 0
                },
                left_alone | {name: reason for name, reason in skipped.items() if name not in tensors},
                {name: reason for name, reason in skipped.items() if name in tensors},
                locked.not_followed,
            )
        )
    return LockResult(publication.bundle, publication.bundle_bytes, tuple(outputs), plan)
