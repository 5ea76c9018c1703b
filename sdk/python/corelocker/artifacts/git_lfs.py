"""Files that are not there: pointers that Git LFS leaves in the place of large files."""

from __future__ import annotations

from pathlib import Path

from corelocker.errors import UnknownFormatError

POINTER = b"version https://git-lfs.github.com/spec/"  # the first line, https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md


def refuse_pointer(path: Path, head: bytes | memoryview) -> None:
    """Raise UnknownFormatError when a file that begins with `head` is a pointer."""
    if bytes(head[: len(POINTER)]) == POINTER:
        raise UnknownFormatError(
            f"{path}: a Git LFS pointer in the place of the file", hint="Fetch it with: git lfs pull"
        )
