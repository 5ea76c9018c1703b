"""One lock run: locked artifacts and their key bundle in a folder, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.artifacts import Artifact
from corelocker.bundle.clkey_header import BundledArtifact, BundledFile
from corelocker.bundle.clkey_write import BundleContents, SectionContents, bundle_parts
from corelocker.bundle.content_keys import tier_keys
from corelocker.digests import FileDigests
from corelocker.errors import OutputExistsError
from corelocker.files import move_into_place, staging_folder
from corelocker.locking.lock import (
    LockedArtifact,
    copy_rest,
    start_locking,
    state_digest,
    tier_patch,
    write_locked_file,
)
from corelocker.locking.plan import Plan

THREADS = 2


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
    signing_key: Callable[[], ec.EllipticCurvePrivateKey],
    content_key: bytes,
    originals: FileDigests | None = None,
    force: bool = False,
    before_writing: Callable[[], object] = lambda: None,
    before_commit: Callable[[], object] = lambda: None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Publication:
    """Lock `artifacts` by `plan` into the folder `out`, with the bundle `<model>.clkey` beside them.

    Everything is made in a scratch folder; then `before_commit` runs (it saves the content key), then all is renamed into place.
    `before_writing` runs when decoys are being drawn already. The signing key is asked for late, so that a keystore can be opened
    meanwhile. `originals` is given where their hashing has begun already; it is ended here.

    Raises OutputExistsError, FileAccessError, LockingError or a bundle error; then `out` is as it was.
    """
    _check_targets(artifacts, out, model, force)
    tiers = [tier.name for tier in plan.tiers]
    total = sum(len(file) for artifact in artifacts for file in artifact.files)
    hashed = 0

    def advance(size: int) -> None:
        nonlocal hashed
        hashed += size
        progress(Stage("write", hashed, total))

    outputs: list[list[Path]] = []
    key_bytes: list[list[int]] = []
    bundled: list[BundledArtifact] = []
    sections: list[SectionContents] = []
    with (
        staging_folder(out) as folder,
        ThreadPoolExecutor(1) as filling,  # more would only wait for the interpreter
        ThreadPoolExecutor(THREADS) as pool,
        originals or FileDigests() as original,
    ):
        original.begin(file.path for artifact in artifacts for file in artifact.files)
        locked = start_locking(artifacts, plan, filling)
        before_writing()
        for index, artifact in enumerate(locked):
            outputs.append(copy_rest(artifact, folder))
            inside = folder / artifact.artifact.path.name if artifact.artifact.path.is_dir() else folder
            files: list[BundledFile] = []
            sizes = [0] * (len(tiers) - 1)
            for place, file in enumerate(artifact.files):
                patches = [pool.submit(tier_patch, file, tier) for tier in range(1, len(tiers))]
                between = [pool.submit(state_digest, file, state) for state in range(1, len(tiers) - 1)]
                digests = [write_locked_file(file, inside / file.file.name, advance)]
                digests += [*(digest.result() for digest in between), original.of(file.file.path, file.file.stamp)]
                file.file.check_unchanged()
                files.append(BundledFile(file.file.name, len(file.file), digests[0]))
                for tier, patch in enumerate((p.result() for p in patches), 1):
                    if patch is not None:
                        sizes[tier - 1] += patch.payload_size
                        sections.append(
                            SectionContents(
                                index,
                                place,
                                tier,
                                patch.encoded,
                                patch.locked_sample,
                                patch.restored_sample,
                                digests[tier],
                            )
                        )
            key_bytes.append(sizes)
            bundled.append(BundledArtifact(artifact.artifact.path.name, artifact.artifact.format, tuple(files)))
        contents = BundleContents(bundle_id, model, model_version, tuple(tiers), tuple(bundled), tuple(sections))
        bundle = folder / f"{model}.clkey"
        with bundle.open("wb") as stream:
            for part in bundle_parts(contents, signing_key(), tier_keys(content_key, bundle_id, len(tiers))):
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
