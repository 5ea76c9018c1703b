"""Whether files are still what they were: SHA-256, computed beside whatever else is done, and what `stat` tells at once.

Imports little, so that hashing can begin before what takes longer to import.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from corelocker.errors import FileAccessError

MAPPED = 16 << 20  # hashed at a time; before the next the thread waits for those that hold the interpreter
NICENESS = 5
Stamp = tuple[int, int, int, int]


def file_stamp(status: os.stat_result) -> Stamp:
    """What changes when another file takes a name, or somebody writes to the one that has it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _give_way() -> None:
    if sys.platform == "linux":  # where this is the priority of a thread, not of the process
        os.nice(NICENESS)


class FileDigests:
    """SHA-256 of files as they are, computed one after the other in a thread from now on.

    The digests are needed last. So this thread gives way to those that derive keys, draw decoys and write (on Linux, where
    threads have priorities of their own).

    A context manager: its end stops what is still being computed.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._stopped = False
        self._pool = ThreadPoolExecutor(1, initializer=_give_way)
        self._digests: dict[Path, Future[tuple[bytes, Stamp]]] = {}
        self.begin(paths)

    def begin(self, paths: Iterable[Path]) -> None:
        """Compute those of these files too, unless that has begun already."""
        for path in paths:
            if path not in self._digests:
                self._digests[path] = self._pool.submit(self._digest, path)

    def of(self, path: Path, stamp: Stamp) -> bytes:
        """The digest of a file, which must be the one that had this stamp. Waits for it. Raises FileAccessError."""
        self.begin([path])
        try:
            digest, found = self._digests[path].result()
        except OSError as error:
            raise FileAccessError(f"{path}: {error.strerror or error}") from None
        if found != stamp:
            raise FileAccessError(f"{path}: was changed while it was in use", hint="Run the command again")
        return digest

    def _digest(self, path: Path) -> tuple[bytes, Stamp]:
        sha256 = hashlib.sha256()
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            stamp, size = file_stamp(status), status.st_size
            if size == 0:  # cannot be mapped
                return sha256.digest(), stamp
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
                for start in range(0, size, MAPPED):
                    if self._stopped:
                        break
                    with data[start : start + MAPPED] as block:
                        sha256.update(block)
                        if hasattr(mmap, "MADV_DONTNEED"):
                            mapped.madvise(mmap.MADV_DONTNEED, start, len(block))
        return sha256.digest(), stamp

    def __enter__(self) -> FileDigests:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._pool.shutdown(cancel_futures=True)
