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
from corelocker.files import move_into_place, staging_folder
from corelocker.progress import Progress, no_progress
from corelocker.runtime.locate import LocatedFile, locate_files
from corelocker.runtime.streamed import check_restored, restore_to_file


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

    Returns the paths that were written; all appear at once, or none does. Raises OutputExistsError, what `locate_files` raises, and
    what `restore` raises.
    """
    path, out = Path(path), Path(out)
    index = len(bundle.tiers) - 1 if tier is None else bundle.tier(tier)
    files = locate_files(path, bundle)
    into_folder = path.name.endswith(".index.json")
    target = out if into_folder else out.parent
    if path.is_dir() and out.exists() and out.samefile(path):
        raise OutputExistsError(f"{out} is the locked folder itself", hint="Choose another --out")

    def write(file: LocatedFile, to: Path) -> None:
        restore_to_file(file.path, bundle, content_key, to, index, key_tier=len(bundle.tiers) - 1)

    with staging_folder(target) as folder:
        if path.is_dir():
            made = _write_folder(path, files, folder / out.name, write, progress)
        else:
            made = _write_beside(path, files, folder, out, write, progress)
        progress("restore", len(files), len(files))
        move_into_place(made, target, force=force)
    return [target / p.name for p in made]


Write = Callable[[LocatedFile, Path], None]


def _write_folder(path: Path, files: list[LocatedFile], copy: Path, write: Write, progress: Progress) -> list[Path]:
    inside = {file.path.relative_to(path).as_posix() for file in files}
    shutil.copytree(path, copy, ignore=lambda at, names: [
        name for name in names if (Path(at) / name).relative_to(path).as_posix() in inside
    ])  # fmt: skip
    for done, file in enumerate(files):
        progress("restore", done, len(files))
        place = copy / file.path.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        write(file, place)
    return [copy]


def _write_beside(
    path: Path, files: list[LocatedFile], folder: Path, out: Path, write: Write, progress: Progress
) -> list[Path]:
    made: list[Path] = []
    into_folder = path.name.endswith(".index.json")
    for done, file in enumerate(files):
        progress("restore", done, len(files))
        if file.path == path:
            name = out.name
        elif into_folder or file.path.stem != path.stem:
            name = file.path.name
        else:
            name = out.stem + file.path.suffix  # model.ptd goes with --out restored.pte as restored.ptd
        write(file, folder / name)
        made.append(folder / name)
    if into_folder:
        shutil.copyfile(path, folder / path.name)
        made.append(folder / path.name)
    return made


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
