"""One lock run: locked artifacts and their key bundle in a folder, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.artifacts import Artifact
from corelocker.bundle.clkey_header import BundledArtifact, BundledFile
from corelocker.bundle.clkey_write import BundleContents, SectionContents, bundle_parts
from corelocker.bundle.content_keys import tier_keys
from corelocker.bundle.keystore import RecordedFile, StagedKey
from corelocker.errors import OutputExistsError
from corelocker.files import MappedFile, move_into_place, refuse_existing, staging_folder
from corelocker.hashing import FileHashes
from corelocker.locking.drawing import start_locking
from corelocker.locking.locked import LockedArtifact, LockedFile
from corelocker.locking.locked_already import recorded_file
from corelocker.locking.measuring import StagedArtifact
from corelocker.locking.plan import Plan
from corelocker.locking.tier_patch import TierPatch, tier_patch
from corelocker.locking.writing import copy_rest, write_locked_file

THREADS = 2
StageKey = Callable[[frozenset[bytes], tuple[RecordedFile, ...]], StagedKey]
Patches = list[list[Future[TierPatch | None]]]  # of an artifact: file by file, tier by tier


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
    stage_key: StageKey | None = None,
    hashes: FileHashes | None = None,
    force: bool = False,
    check: Callable[[Sequence[StagedArtifact]], object] | None = None,
    before_commit: Callable[[], object] = lambda: None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Publication:
    """Lock `artifacts` by `plan` into the folder `out`, with the bundle `<model>.clkey` beside them.

    Everything is made in a scratch folder; `check` sees it there and may raise. Then `before_commit` runs, the content key is
    committed, and all is renamed into place.

    Args:
        stage_key: stages the content key with the header's samples and what tells the locked files, which both are known while
            the files are still being written.
        hashes: hashes some of the originals already.

    Raises OutputExistsError, FileAccessError, LockingError, what `stage_key` and `check` raise, or a bundle error; then `out` is as
    it was.
    """
    check_targets(artifacts, out, model, force)
    tiers = tuple(tier.name for tier in plan.tiers)
    with (
        staging_folder(out) as folder,
        nullcontext(hashes) if hashes else FileHashes() as originals,
        ThreadPoolExecutor(1) as filling,  # more would only wait for the interpreter
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for file in (file for artifact in artifacts for file in artifact.files):
            originals.begin(file.path)
        locked = start_locking(artifacts, plan, filling)
        of_file = _start_patches(pool, locked, len(tiers))
        patches = [[of_file[file] for file in artifact.files] for artifact in locked]
        staged = filling.submit(_stage, stage_key, of_file)
        try:
            writer = _Writer(folder, artifacts, len(tiers), originals, progress)
            written = [writer.artifact(index, artifact, patches[index]) for index, artifact in enumerate(locked)]
            bundle = folder / f"{model}.clkey"
            contents = _contents(bundle_id, model, model_version, tiers, written)
            size = _write_bundle(bundle, contents, signing_key, content_key)
            for file in (file for artifact in artifacts for file in artifact.files):
                file.check_unchanged()
            key = staged.result()
            if check is not None:
                check([_staged(artifact, patches[i], folder) for i, artifact in enumerate(locked)])
            before_commit()
            if key is not None:
                key.commit()
            made = dict.fromkeys(path for artifact in written for path in artifact.outputs)
            move_into_place([*made, bundle], out, force=force)
        finally:
            if staged.exception() is None and (unused := staged.result()) is not None:
                unused.discard()
    outputs = [[out / path.name for path in artifact.outputs] for artifact in written]
    return Publication(out / bundle.name, size, locked, outputs, [artifact.key_bytes for artifact in written])


def _staged(artifact: LockedArtifact, patches: Patches, folder: Path) -> StagedArtifact:
    path = artifact.artifact.path
    inside = folder / path.name if path.is_dir() else folder
    names = [file.file.name for file in artifact.files]
    by_tier = zip(*([made.result() for made in file] for file in patches), strict=True)
    return StagedArtifact(
        artifact.artifact,
        {name: inside / name for name in names},
        [[(n, patch) for n, patch in zip(names, tier, strict=True) if patch is not None] for tier in by_tier],
    )


def _contents(
    bundle_id: UUID, model: str, model_version: int, tiers: tuple[str, ...], written: Sequence[_Written]
) -> BundleContents:
    entries = tuple(artifact.entry for artifact in written)
    sections = tuple(section for artifact in written for section in artifact.sections)
    return BundleContents(bundle_id, model, model_version, tiers, entries, sections)


def _write_bundle(
    path: Path, contents: BundleContents, signing_key: ec.EllipticCurvePrivateKey, content_key: bytes
) -> int:
    """Write the key bundle and return its size."""
    keys = tier_keys(content_key, contents.bundle, len(contents.tiers))
    with path.open("wb") as stream:
        return sum(stream.write(part) for part in bundle_parts(contents, signing_key, keys))


def _start_patches(
    pool: ThreadPoolExecutor, artifacts: Sequence[LockedArtifact], tiers: int
) -> dict[LockedFile, list[Future[TierPatch | None]]]:
    """The patches of every file, tier by tier; a file of several artifacts has them once."""
    files = dict.fromkeys(file for artifact in artifacts for file in artifact.files)
    return {file: [pool.submit(tier_patch, file, tier) for tier in range(1, tiers)] for file in files}


def _stage(stage_key: StageKey | None, patches: dict[LockedFile, list[Future[TierPatch | None]]]) -> StagedKey | None:
    """Stage the content key as soon as all patches are there."""
    found = {file: [patch.result() for patch in tiers] for file, tiers in patches.items()}
    if stage_key is None:
        return None
    samples = frozenset(patch.locked_sample for tiers in found.values() for patch in tiers if patch is not None)
    files = (recorded_file(file, tiers) for file, tiers in found.items())
    return stage_key(samples, tuple(file for file in files if file is not None))


@dataclass(frozen=True)
class _Written:
    """An artifact in the scratch folder: its paths there, what the bundle says of it, and its access key tier by tier."""

    outputs: list[Path]
    entry: BundledArtifact
    sections: list[SectionContents]
    key_bytes: list[int]


class _Writer:
    """Writes locked artifacts into a folder."""

    def __init__(
        self,
        folder: Path,
        artifacts: Sequence[Artifact],
        tiers: int,
        originals: FileHashes,
        progress: Callable[[Stage], None],
    ) -> None:
        self._folder, self._tiers, self._originals = folder, tiers, originals
        self._total = sum(len(file) for file in {file for artifact in artifacts for file in artifact.files})
        self._done, self._progress = 0, progress
        self._digests: dict[LockedFile, list[bytes]] = {}

    def artifact(self, index: int, artifact: LockedArtifact, patches: Patches) -> _Written:
        """Write one artifact; `patches` are those of its files, tier by tier."""
        path = artifact.artifact.path
        outputs = copy_rest(artifact, self._folder)
        inside = self._folder / path.name if path.is_dir() else self._folder
        files: list[BundledFile] = []
        sections: list[SectionContents] = []
        key_bytes = [0] * (self._tiers - 1)
        for place, file in enumerate(artifact.files):
            digests = self._file(file, inside / file.file.name)
            files.append(BundledFile(file.file.name, len(file.file), digests[0]))
            for tier, made in enumerate(patches[place], 1):
                patch = made.result()
                if patch is not None:
                    key_bytes[tier - 1] += patch.payload_size
                    sections.append(
                        SectionContents(
                            index, place, tier, patch.patch, patch.locked_sample, patch.restored_sample, digests[tier]
                        )
                    )
        return _Written(
            outputs, BundledArtifact(path.name, artifact.artifact.format, tuple(files)), sections, key_bytes
        )

    def _file(self, file: LockedFile, target: Path) -> list[bytes]:
        """Write a locked file, unless an artifact before had it too; the SHA-256 of its state in each tier."""
        if file not in self._digests:
            below = write_locked_file(file, target, self._tiers, self._advance)
            self._digests[file] = [*below, self._originals.digest(file.file.path, file.file.stamp)]
        return self._digests[file]

    def _advance(self, size: int) -> None:
        self._done += size
        self._progress(Stage("write", self._done, self._total))


def check_targets(artifacts: Sequence[Artifact], out: Path, model: str, force: bool) -> None:
    """Refuse what would be in the way of the outputs. Raises OutputExistsError."""
    names = [f"{model}.clkey"]
    seen: set[MappedFile] = set()
    for artifact in artifacts:
        files = [
            file for file in artifact.files if file not in seen
        ]  # external weights of several programs are one output
        seen.update(files)
        inside = [] if artifact.path.is_dir() else [file.name for file in files]
        names += sorted({artifact.path.name, *inside})
        if (out / artifact.path.name).exists() and (out / artifact.path.name).samefile(artifact.path):
            raise OutputExistsError(f"{out} holds the original {artifact.path.name}", hint="Choose another --out")
    for name in names:
        if names.count(name) > 1:
            raise OutputExistsError(f"two outputs would have the name {name}", hint="Rename one of the artifacts")
    refuse_existing(*(out / name for name in names), force=force)
