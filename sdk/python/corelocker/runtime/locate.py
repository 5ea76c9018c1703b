"""Which files on the disk are which files of a key bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from corelocker.bundle.clkey import KeyBundle
from corelocker.errors import BundleMismatchError, FileAccessError, FileSizeError


@dataclass(frozen=True)
class LocatedFile:
    """A file on the disk and its place in the bundle: the index of its artifact, and its own in that artifact."""

    path: Path
    artifact: int
    file: int


def locate_files(path: Path, bundle: KeyBundle) -> list[LocatedFile]:
    """The weight files of the artifact at `path` and their places in the bundle.

    Raises FileAccessError when one is missing, FileSizeError when one has another length, BundleMismatchError when the bundle
    holds no such artifact.
    """
    if not path.exists():
        raise FileAccessError(f"{path}: no such file or folder")
    exact: list[list[LocatedFile]] = []
    renamed: list[list[LocatedFile]] = []
    for number, artifact in enumerate(bundle.artifacts):
        found = [LocatedFile(_on_disk(path, artifact.name, f.path), number, i) for i, f in enumerate(artifact.files)]
        if path.is_dir():
            if artifact.format.startswith("coreml"):
                # The compiled form has the package's stem, and the package's weights.
                (exact if Path(artifact.name).stem == path.stem else renamed).append(found)
        elif artifact.name == path.name:
            exact.append(found)
        else:
            exact += [[f] for f in found if artifact.files[f.file].path == path.name]
            renamed += [[LocatedFile(path, f.artifact, f.file)] for f in found]
    for files in exact or renamed:
        if all(f.path.is_file() and f.path.stat().st_size == _size(bundle, f) for f in files):
            return files
    for file in (exact or [[]])[0]:
        if not file.path.is_file():
            raise FileAccessError(f"{file.path}: no such file, but the key bundle names it")
        if (size := file.path.stat().st_size) != _size(bundle, file):
            raise FileSizeError(
                f"{file.path} has {size} bytes, the locked file {_size(bundle, file)}",
                hint="Is it cut off, or of another version?",
            )
    raise BundleMismatchError(f"the key bundle (model {bundle.model}) holds nothing like {path.name}")


def _size(bundle: KeyBundle, file: LocatedFile) -> int:
    return bundle.artifacts[file.artifact].files[file.file].size


def _on_disk(path: Path, artifact: str, file: str) -> Path:
    """Where a file of the bundle lies when its artifact is at `path`."""
    if not path.is_dir():
        return path if file == artifact or path.name == Path(file).name else path.parent / file
    direct = path / file
    # The weights of a package lie deeper than those of its compiled form.
    return direct if direct.exists() else path / Path(*PurePosixPath(file).parts[-2:])
