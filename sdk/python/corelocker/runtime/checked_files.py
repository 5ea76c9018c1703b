"""Which files were checked as a whole already, so that a large file is read once and not at every start.

A file is known by device, inode, size and modification time. Whoever can write it can set these back, and whoever can write
the list of checked files can add to it: both belong into storage that only the app can write.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from corelocker.errors import FileAccessError
from corelocker.files import write_atomically
from corelocker.raw_files import Stamp

_TITLE = "corelocker checked files 1"
_LINE = re.compile(r"([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}) (-?[0-9]{1,20}) ([0-9a-f]{64})")
_MOST = 4096  # files that the list holds; the oldest go first
_MAX_SIZE = 1 << 20


class CheckedFile(NamedTuple):
    """A file that had, restored, the SHA-256 `digest` (32 bytes) while it had the `stamp` that `file_stamp` gives."""

    stamp: Stamp
    digest: bytes


# Of this process. Only added to, so that threads need no lock.
_of_process: set[CheckedFile] = set()


def was_checked(file: CheckedFile, memory: Path | None) -> bool:
    """Whether the file was checked in this process or, where a list is kept, in an earlier one."""
    if file in _of_process:
        return True
    return memory is not None and file in _read(memory)


def remember(file: CheckedFile, memory: Path | None) -> None:
    """Note that the file was checked, for this process and in the list `memory`.

    The list is replaced as a whole. One that cannot be written is as good as none: the next process checks again.
    """
    _of_process.add(file)
    if memory is None:
        return
    known = [other for other in _read(memory) if other != file]
    lines = [_TITLE, *(" ".join((*map(str, f.stamp), f.digest.hex())) for f in [*known, file][-_MOST:])]
    try:
        with write_atomically(memory, force=True, mode=0o600) as out:
            out.write("\n".join([*lines, ""]).encode())
    except FileAccessError:
        pass


def _read(memory: Path) -> list[CheckedFile]:
    """The list, oldest first; empty when there is none, or it is damaged or too long."""
    try:
        with os.fdopen(os.open(memory, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            data = file.read(_MAX_SIZE + 1)
        title, *lines, last = data.decode("ascii").split("\n")
    except (OSError, ValueError):
        return []
    found = [_LINE.fullmatch(line) for line in lines]
    if len(data) > _MAX_SIZE or title != _TITLE or last or not all(found):
        return []
    return [
        CheckedFile((int(m[1]), int(m[2]), int(m[3]), int(m[4])), bytes.fromhex(m[5])) for m in found if m is not None
    ]
