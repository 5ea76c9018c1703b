"""`corelocker verify` and `corelocker restore`: locked files against their key bundle."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import (
    DEFAULT_KEYSTORE,
    Force,
    Json,
    KeystorePath,
    PassphraseFile,
    Publisher,
    emit,
    open_keystore,
    progress_bar,
    publisher_thumbprint,
)
from corelocker.errors import BundleMismatchError, FileAccessError, FileSizeError, OutputExistsError, ReplacedBytesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from corelocker.bundle.clkey import KeyBundle
    from corelocker.bundle.keystore import Keystore

Bundle = Annotated[Path, typer.Option(help="The key bundle (.clkey) of the lock run.")]


@dataclass(frozen=True)
class Match:
    """A file on disk and its place in the bundle."""

    path: Path
    artifact: int
    file: int


def verify(
    path: Annotated[Path, typer.Argument(help="A locked file or folder.")],
    bundle: Bundle,
    full: Annotated[
        bool, typer.Option("--full", help="Also restore every tier in memory, with the keystore's key.")
    ] = False,
    publisher: Publisher = None,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Check that a locked model and a key bundle belong together and are whole.

    Checks the bundle's signature and the SHA-256 of every locked file; with --full and a keystore also that every tier restores.

    Example: corelocker verify dist/A.pte --bundle dist/scanner.clkey
    """
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.runtime.restored import restore as restore_in_memory

    opened = KeyBundle.open(bundle, publisher_thumbprint(publisher))
    matches = find_files(path, opened)
    tiers: list[str] = []
    with progress_bar(json) as show:
        for done, match in enumerate(matches):
            show("hash", done, len(matches))
            expected = opened.artifacts[match.artifact].files[match.file]
            if _sha256(match.path) != expected.sha256:
                raise ReplacedBytesError(
                    f"{match.path} is not the locked file of this key bundle",
                    hint="Take the file and the bundle of one lock",
                )
        if full and ((keystore or DEFAULT_KEYSTORE).exists() or keystore is not None):
            key = open_keystore(keystore, passphrase_file).content_key(opened.id)
            for done, tier in enumerate(opened.tiers):
                show("restore", done, len(opened.tiers))
                for match in matches:
                    restore_in_memory(
                        match.path, opened, key, tier, key_tier=len(opened.tiers) - 1, check="always"
                    ).close()
                tiers.append(tier)
    document = {
        "bundle": str(bundle),
        "bundle_id": str(opened.id),
        "model": opened.model,
        "model_version": opened.model_version,
        "publisher": opened.publisher,
        "publisher_pinned": publisher is not None,
        "files": [str(match.path) for match in matches],
        "tiers_restored": tiers,
    }

    def text() -> None:
        print(f"{path}: locked, as in {bundle} (model {opened.model}, version {opened.model_version})")
        pinned = "as asked for" if publisher else "not compared: pass --publisher"
        print(f"signed by {opened.publisher} ({pinned})")
        if full:
            print(f"restored exactly: {', '.join(tiers)}" if tiers else "tiers not restored: no keystore at hand")

    emit(json, document, text)


def restore(
    path: Annotated[Path, typer.Argument(help="A locked file or folder.")],
    bundle: Bundle,
    out: Annotated[Path, typer.Option(help="Where to write it, restored.")],
    tier: Annotated[str | None, typer.Option(help="Tier to restore to.", show_default="the last")] = None,
    publisher: Publisher = None,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a locked model restored to a file: for its owner. Devices restore in memory only.

    Files that belong to the same artifact (the .ptd of a .pte, the shards of a checkpoint) are restored beside it.

    Example: corelocker restore dist/A.pte --bundle dist/scanner.clkey --keystore keys.json --tier plus --out restored.pte
    """
    from corelocker.bundle.clkey import KeyBundle

    opened = KeyBundle.open(bundle, publisher_thumbprint(publisher))
    index = opened.tier(tier) if tier is not None else len(opened.tiers) - 1
    store = open_keystore(keystore, passphrase_file)
    matches = find_files(path, opened)
    with progress_bar(json) as show:
        written = _write_restored(
            path, opened, store, matches, index, out, force, lambda done: show("restore", done, len(matches))
        )
    document: dict[str, Any] = {
        "out": [str(p) for p in written],
        "tier": opened.tiers[index],
        "model": opened.model,
        "model_version": opened.model_version,
    }
    emit(
        json,
        document,
        lambda: print(f"{', '.join(document['out'])}: restored to tier {opened.tiers[index]}, every byte checked"),
    )


def find_files(path: Path, bundle: KeyBundle) -> list[Match]:
    """The weight files of the artifact at `path` and their places in the bundle.

    Raises FileAccessError when one is missing, FileSizeError when one has another length, BundleMismatchError when the bundle
    holds no such artifact.
    """
    if not path.exists():
        raise FileAccessError(f"{path}: no such file or folder")
    exact: list[list[Match]] = []
    renamed: list[list[Match]] = []
    for number, artifact in enumerate(bundle.artifacts):
        found = [Match(_place(path, artifact.name, f.path), number, i) for i, f in enumerate(artifact.files)]
        if path.is_dir():
            if artifact.format.startswith("coreml"):
                # The compiled form has the package's stem, and the package's weights.
                (exact if Path(artifact.name).stem == path.stem else renamed).append(found)
        elif artifact.name == path.name:
            exact.append(found)
        else:
            exact += [[m] for m in found if bundle.artifacts[number].files[m.file].path == path.name]
            renamed += [[Match(path, m.artifact, m.file)] for m in found]
    for matches in exact or renamed:
        if all(m.path.is_file() and m.path.stat().st_size == _size(bundle, m) for m in matches):
            return matches
    for match in (exact or [[]])[0]:
        if not match.path.is_file():
            raise FileAccessError(f"{match.path}: no such file, but the key bundle names it")
        if (size := match.path.stat().st_size) != _size(bundle, match):
            raise FileSizeError(
                f"{match.path} has {size} bytes, the locked file {_size(bundle, match)}",
                hint="Is it cut off, or of another version?",
            )
    raise BundleMismatchError(f"the key bundle (model {bundle.model}) holds nothing like {path.name}")


def _size(bundle: KeyBundle, match: Match) -> int:
    return bundle.artifacts[match.artifact].files[match.file].size


def _place(path: Path, artifact: str, file: str) -> Path:
    """Where a file of the bundle lies when its artifact is at `path`."""
    if not path.is_dir():
        return path if file == artifact or path.name == Path(file).name else path.parent / file
    direct = path / file
    # The weights of a package lie deeper than those of its compiled form.
    return direct if direct.exists() else path / Path(*PurePosixPath(file).parts[-2:])


def _write_restored(
    path: Path,
    bundle: KeyBundle,
    store: Keystore,
    matches: list[Match],
    tier: int,
    out: Path,
    force: bool,
    show: Callable[[int], None],
) -> list[Path]:
    from corelocker.files import move_into_place, staging_folder
    from corelocker.runtime.restored import restore_to_file

    key, top = store.content_key(bundle.id), len(bundle.tiers) - 1
    whole_folder, into_folder = path.is_dir(), path.name.endswith(".index.json")
    target = out if into_folder else out.parent
    if whole_folder and out.exists() and out.samefile(path):
        raise OutputExistsError(f"{out} is the locked folder itself", hint="Choose another --out")
    with staging_folder(target) as folder:
        made: list[Path] = []
        if whole_folder:
            inside = {m.path.relative_to(path).as_posix() for m in matches}
            shutil.copytree(path, folder / out.name, ignore=lambda at, names: [
                n for n in names if (Path(at) / n).relative_to(path).as_posix() in inside
            ])  # fmt: skip
            made.append(folder / out.name)
        for done, match in enumerate(matches):
            show(done)
            if whole_folder:
                place = folder / out.name / match.path.relative_to(path)
            else:
                place = folder / (out.name if match.path == path else _beside(match.path.name, path, out, into_folder))
                made.append(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            restore_to_file(match.path, bundle, key, place, tier, key_tier=top)
        if into_folder:
            shutil.copyfile(path, folder / path.name)
            made.append(folder / path.name)
        show(len(matches))
        move_into_place(made, target, force=force)
    return [target / p.name for p in made]


def _beside(name: str, path: Path, out: Path, into_folder: bool) -> str:
    """The name for another file of the artifact: model.ptd goes with --out restored.pte as restored.ptd."""
    return name if into_folder or Path(name).stem != path.stem else out.stem + Path(name).suffix


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
