"""One lock run: locked artifacts and their key bundle in a folder, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.artifacts import Artifact
from corelocker.bundle.clkey import BundleContents, BundledArtifact, BundledFile, SectionContents, bundle_parts
from corelocker.bundle.content_keys import tier_keys
from corelocker.errors import OutputExistsError
from corelocker.files import move_into_place, staging_folder
from corelocker.locking.lock import LockedArtifact, copy_artifact, lock_artifacts, tier_patch
from corelocker.locking.plan import Plan


@dataclass(frozen=True)
class Stage:
    """Progress of a lock run: `done` of `total` units of a named stage."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Publication:
    """What a lock run wrote.

    Attributes:
        bundle: path of the key bundle; `bundle_bytes` its size.
        artifacts: what was locked, in the order given; `outputs` the paths written for each.
        key_bytes: for each artifact, bytes of its files that the access key holds, tier by tier from tier 1 on.
    """

    bundle: Path
    bundle_bytes: int
    artifacts: list[LockedArtifact]
    outputs: list[list[Path]]
    key_bytes: list[list[int]]


def publish(
    artifacts: Sequence[Artifact],
    plan: Plan,
    out: Path,
    *,
    model: str,
    model_version: int,
    bundle_id: UUID,
    signing_key: ec.EllipticCurvePrivateKey,
    content_key: bytes,
    force: bool = False,
    before_commit: Callable[[], None] = lambda: None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Publication:
    """Lock `artifacts` by `plan` into the folder `out`, with the bundle `<model>.clkey` beside them.

    Everything is made in a scratch folder; then `before_commit` runs (it saves the content key), then all is renamed into place.

    Raises OutputExistsError, FileAccessError, LockingError or a bundle error; then `out` is as it was.
    """
    _check_targets(artifacts, out, model, force)
    locked = lock_artifacts(artifacts, plan, lambda done, total: progress(Stage("fill", done, total)))
    total = sum(len(f.file) for a in locked for f in a.files)
    written = 0

    def advance(size: int) -> None:
        nonlocal written
        written += size
        progress(Stage("write", written, total))

    outputs: list[list[Path]] = []
    key_bytes: list[list[int]] = []
    bundled: list[BundledArtifact] = []
    sections: list[SectionContents] = []
    with staging_folder(out) as folder, ThreadPoolExecutor(min(len(plan.tiers), os.cpu_count() or 1)) as pool:
        for index, artifact in enumerate(locked):
            outputs.append(copy_artifact(artifact, folder, len(plan.tiers), pool, advance))
            files = tuple(BundledFile(f.file.name, len(f.file), f.digests[0]) for f in artifact.files)
            bundled.append(BundledArtifact(artifact.artifact.path.name, artifact.artifact.format, files))
            sizes = [0] * (len(plan.tiers) - 1)
            for place, file in enumerate(artifact.files):
                for tier in range(1, len(plan.tiers)):
                    patch = tier_patch(file, tier)
                    if patch is not None:
                        sizes[tier - 1] += len(patch.patch.payload)
                        sections.append(
                            SectionContents(
                                index, place, tier, patch.patch.encode(), patch.replaces, patch.puts, patch.file
                            )
                        )
            key_bytes.append(sizes)
        contents = BundleContents(
            bundle_id, model, model_version, tuple(t.name for t in plan.tiers), tuple(bundled), tuple(sections)
        )
        bundle = folder / f"{model}.clkey"
        with bundle.open("wb") as stream:
            for part in bundle_parts(contents, signing_key, tier_keys(content_key, bundle_id, len(plan.tiers))):
                stream.write(part)
        bundle_bytes = bundle.stat().st_size
        before_commit()
        move_into_place([path for paths in outputs for path in paths] + [bundle], out, force=force)
    return Publication(
        out / bundle.name, bundle_bytes, locked, [[out / p.name for p in paths] for paths in outputs], key_bytes
    )


def _check_targets(artifacts: Sequence[Artifact], out: Path, model: str, force: bool) -> None:
    names = [f"{model}.clkey"]
    for artifact in artifacts:
        inside = (
            [artifact.path.name]
            if artifact.path.is_dir()
            else sorted({artifact.path.name, *(f.name for f in artifact.files)})
        )
        names += inside
        if (out / artifact.path.name).exists() and (out / artifact.path.name).samefile(artifact.path):
            raise OutputExistsError(f"{out} holds the original {artifact.path.name}", hint="Choose another --out")
    for name in names:
        if names.count(name) > 1:
            raise OutputExistsError(f"two outputs would have the name {name}", hint="Rename one of the artifacts")
        if not force and (out / name).exists():
            raise OutputExistsError(f"{out / name} exists already", hint="Choose another --out or pass --force")
