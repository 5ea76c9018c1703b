"""Files that are locked already, known by a key bundle beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from corelocker.artifacts import Artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.errors import BundleError, FileAccessError, LockingError
from corelocker.files import MappedFile


def refuse_locked(artifacts: Sequence[Artifact]) -> None:
    """Raises LockingError for a file that a key bundle in its folder names, byte for byte.

    Locked twice, it could be restored by both bundles together only.
    """
    for artifact in artifacts:
        for bundle_path in sorted(artifact.path.absolute().parent.glob("*.clkey")):
            try:
                bundle = KeyBundle.open(bundle_path)
            except (BundleError, FileAccessError):
                continue
            known = {(f.path, f.size, f.sha256) for entry in bundle.artifacts for f in entry.files}
            sizes = {(path, size) for path, size, _ in known}
            for file in artifact.files:
                if (file.name, len(file)) in sizes and (file.name, len(file), _digest(file)) in known:
                    raise LockingError(
                        f"{artifact.path}: is locked already, by {bundle_path.name}", hint="Lock the original file"
                    )


def _digest(file: MappedFile) -> bytes:
    with file.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
