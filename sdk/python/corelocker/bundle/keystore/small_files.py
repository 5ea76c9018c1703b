"""Reading a small file that may hold secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from corelocker.errors import FileAccessError, KeystoreFormatError, KeystorePermissionError


def read_small(path: Path, longest: int, *, private: bool = False) -> bytes:
    """The bytes of a file; with `private`, only its owner may be able to read it.

    Raises FileAccessError, KeystorePermissionError, or KeystoreFormatError when it has more than `longest` bytes.
    """
    try:
        with path.open("rb", buffering=0) as file:
            if private and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise KeystorePermissionError(f"{path} can be read by others", hint=f"Run: chmod 600 {path}")
            data = b""
            while len(data) <= longest and (more := file.read(longest + 1 - len(data))):
                data += more
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if len(data) > longest:
        raise KeystoreFormatError(f"{path} has more than {longest} bytes")
    return data
