"""The SHA-256 of files, in a thread of its own.

A lock needs it of every original. Hashing takes one core, so it begins before anything else is imported: this module needs nothing
but the standard library.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from corelocker.errors import FileAccessError
from corelocker.raw_files import Stamp, file_stamp, read_buffer

STEP = 16 << 20  # bytes for which the thread needs the interpreter once


class FileHashes:
    """Hashes files one after the other while other work goes on; leaving the block ends it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._begun: dict[Path, Future[tuple[Stamp, bytes]]] = {}
        self._stopped = False

    def begin(self, path: Path) -> None:
        """Hash a file as soon as those before it are done, unless that was asked for already."""
        if path not in self._begun:
            self._begun[path] = self._pool.submit(self._hash, path)

    def digest(self, path: Path, stamp: Stamp) -> bytes:
        """The SHA-256 of a file that `begin` was told of, once it is there.

        Raises FileAccessError when the file cannot be read, or is not the one with that stamp.
        """
        try:
            found, digest = self._begun[path].result()
        except OSError as error:
            raise FileAccessError(f"{path}: {error.strerror or error}") from None
        if found != stamp:
            raise FileAccessError(f"{path}: was changed while it was in use", hint="Run the command again")
        return digest

    def _hash(self, path: Path) -> tuple[Stamp, bytes]:
        sha256 = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            stamp = file_stamp(os.fstat(file.fileno()))
            memory = read_buffer(STEP)
            while size := file.readinto(memory):
                if self._stopped:
                    raise CancelledError
                sha256.update(memory[:size])
        return stamp, sha256.digest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._pool.shutdown(cancel_futures=True)
