"""Whole artifacts on the publisher's machine: checked against their key bundle, and restored to files.

A device does neither: it restores single files in memory (`corelocker.runtime.restored`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corelocker.bundle.clkey import KeyBundle
from corelocker.errors import OutputExistsError, ReplacedBytesError
from corelocker.files import move_into_place, refuse_existing, staging_folder
from corelocker.progress import Progress, no_progress
from corelocker.runtime.locate import LocatedFile, locate_files
from corelocker.runtime.streamed import check_restored, restore_to_file, restored_digest


@dataclass(frozen=True)
class Verification:
    """What `verify` has looked at.

    Attributes:
        files: the locked files; each is the one that the bundle names.
        tiers_restored: the tiers that were restored in memory and are whole; none without a content key.
    """

    files: tuple[Path, ...]
    tiers_restored: tuple[str, ...]


def verify(
    path: Path | str, bundle: KeyBundle, content_key: bytes | None = None, *, progress: Progress = no_progress
) -> Verification:
    """Check that a locked artifact and a key bundle belong together and are whole.

    Compares the SHA-256 of every locked file. With the content key of the last tier also restores every tier in memory and compares
    the SHA-256 of every restored file.

    Raises ReplacedBytesError for a file that is not the bundle's, what `locate_files` raises, and what `restore` raises.
    """
    files = locate_files(Path(path), bundle)
    for done, file in enumerate(files):
        progress("hash", done, len(files))
        if _sha256(file.path) != bundle.artifacts[file.artifact].files[file.file].sha256:
            raise ReplacedBytesError(
                f"{file.path} is not the locked file of this key bundle",
                hint="Take the file and the bundle of one lock",
            )
    located = tuple(file.path for file in files)
    if content_key is None:
        return Verification(located, ())
    for done, tier in enumerate(bundle.tiers):
        progress("restore", done, len(bundle.tiers))
        for file in files:
            check_restored(file.path, bundle, content_key, tier, key_tier=len(bundle.tiers) - 1)
    return Verification(located, tuple(bundle.tiers))


def restore_to_files(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    out: Path | str,
    tier: int | str | None = None,
    *,
    force: bool = False,
    progress: Progress = no_progress,
) -> list[Path]:
    """Write the artifact at `path`, restored, to `out`: for its owner.

    Files that belong to the same artifact (the .ptd of a .pte, the shards of a checkpoint) are written beside it.

    Args:
        content_key: of the last tier.
        out: the restored file or folder; for a sharded checkpoint the folder that it goes into.
        tier: by default the last.

    An output that is there already, byte for byte, is kept: programs that share a `.ptd` can be restored into one folder one after
    the other. Returns the paths of all outputs; the new ones appear at once, or none does. Raises OutputExistsError, before
    anything is restored, for an output of other content, what `locate_files` raises, and what `restore` raises.
    """
    path, out = Path(path), Path(out)
    index = len(bundle.tiers) - 1 if tier is None else bundle.tier(tier)
    files = locate_files(path, bundle)
    into_folder = path.name.endswith(".index.json")
    target = out if into_folder else out.parent
    if path.is_dir() and out.exists() and out.samefile(path):
        raise OutputExistsError(f"{out} is the locked folder itself", hint="Choose another --out")
    last = len(bundle.tiers) - 1

    def digest(source: LocatedFile | Path) -> bytes:
        if isinstance(source, Path):
            return _sha256(source)
        return restored_digest(source.path, bundle, content_key, index, key_tier=last)

    sources = _sources(path, files, out)
    kept = set() if force else _kept(sources, out if path.is_dir() else None, digest)
    with staging_folder(target) as folder:
        for done, (to, source) in enumerate(sources.items()):
            progress("restore", done, len(sources))
            if to in kept:
                continue
            place = folder / to.relative_to(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, Path):
                shutil.copyfile(source, place)
            else:
                restore_to_file(source.path, bundle, content_key, place, index, key_tier=last)
        progress("restore", len(sources), len(sources))
        move_into_place(sorted(folder.iterdir()), target, force=force)
    return [out] if path.is_dir() else [*sources]


def _sources(path: Path, files: list[LocatedFile], out: Path) -> dict[Path, LocatedFile | Path]:
    """What each output is made of: a locked file, or one that is copied as it is."""
    if path.is_dir():
        places = {file.path: file for file in files}
        return {
            out / place.relative_to(path): places.get(place, place)
            for place in sorted(path.rglob("*"))
            if not place.is_dir()
        }
    into_folder = path.name.endswith(".index.json")
    sources: dict[Path, LocatedFile | Path] = {}
    for file in files:
        if into_folder:
            sources[out / file.path.name] = file
        elif file.path == path:
            sources[out] = file
        elif file.path.stem == path.stem:
            sources[out.with_suffix(file.path.suffix)] = file  # model.ptd goes with --out restored.pte as restored.ptd
        else:
            sources[out.parent / file.path.name] = file
    if into_folder:
        sources[out / path.name] = path
    return sources


def _kept(
    sources: dict[Path, LocatedFile | Path], folder: Path | None, digest: Callable[[LocatedFile | Path], bytes]
) -> set[Path]:
    """The outputs that are there already, byte for byte; `folder` is the one that they are all in, and nothing else may be.

    Raises OutputExistsError for one with other content.
    """
    kept = {to for to, source in sources.items() if to.is_file() and _same(to, source, digest)}
    if folder is None:
        refuse_existing(*(to for to in sources if to not in kept))
    elif kept != set(sources) or any(place not in kept and not place.is_dir() for place in folder.rglob("*")):
        refuse_existing(folder)
    return kept


def _same(output: Path, source: LocatedFile | Path, digest: Callable[[LocatedFile | Path], bytes]) -> bool:
    place = source if isinstance(source, Path) else source.path
    same_size = output.stat().st_size == place.stat().st_size  # a restored file has the length of the locked one
    return same_size and _sha256(output) == digest(source)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
