"""Writing locked files, and the SHA-256 of every locked state from the same pass over the original."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from corelocker.errors import FileAccessError
from corelocker.files import Bytes, MappedFile, reserve
from corelocker.locking.locked import LockedArtifact, LockedFile
from corelocker.raw_files import read_buffer

BLOCK = 2 << 20  # read at a time, so that it stays in the processor's cache until it is hashed and written
CACHED = 16 << 20  # bytes of a written file that may wait in the page cache
BUFFERS = 8  # blocks that are in memory: being read, hashed or written
HASHERS = 2  # threads


class _Buffers:
    """Blocks of memory in turn; one is used again when whatever still reads it has ended."""

    def __init__(self, size: int) -> None:
        self._memory = [np.frombuffer(read_buffer(size), np.uint8) for _ in range(BUFFERS)]
        self._users: list[list[Future[Any]]] = [[] for _ in range(BUFFERS)]
        self._next = 0

    def take(self, size: int) -> Bytes:
        """The next block, cut to `size`. Raises what its users have raised."""
        place = self._next % BUFFERS
        self._wait(place)
        self._next += 1
        return self._memory[place][:size]

    def used_by(self, *users: Future[Any]) -> None:
        """Say who still reads the block that was taken last."""
        self._users[(self._next - 1) % BUFFERS] = list(users)

    def wait(self) -> None:
        """Wait for all users. Raises what they have raised."""
        for place in range(BUFFERS):
            self._wait(place)

    def _wait(self, place: int) -> None:
        for user in self._users[place]:
            user.result()
        self._users[place] = []


def write_locked_file(
    locked: LockedFile, target: Path, states: int, progress: Callable[[int], None] = lambda size: None
) -> list[bytes]:
    """Write the file in the state of tier 0 to `target`.

    Returns the SHA-256 of the file in each of its `states` but the last, which is the original: all from one pass over it.
    `progress` is called with the size of each block that was read. Raises FileAccessError when the original cannot be read, or is
    shorter than it was, and OSError when `target` cannot be written.
    """
    digests = [hashlib.sha256() for _ in range(states - 1)]
    size = len(locked.file)
    buffers = _Buffers(min(BLOCK, size))
    # Read, not mapped: threads that map and release pages contend for the address space.
    with ExitStack() as stack:
        source = stack.enter_context(locked.file.path.open("rb", buffering=0))
        out = stack.enter_context(target.open("wb", buffering=0))
        reserve(out, size)
        # A digest belongs to one thread, which takes its blocks in order.
        hashers = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(HASHERS)]
        writer = stack.enter_context(ThreadPoolExecutor(1))
        for start in range(0, size, BLOCK):
            block = buffers.take(min(BLOCK, size - start))
            _read_block(source, block, locked.file)
            for state in reversed(range(states - 1)):
                if state < states - 2:
                    # A lower state differs from the next one in what is locked besides, so the states build on each other.
                    above, block = block, buffers.take(block.size)
                    np.copyto(block, above)
                locked.apply(start, block, state, state + 1)
                hashed = hashers[state % HASHERS].submit(digests[state].update, block.data)
                buffers.used_by(hashed, *([] if state else [writer.submit(_write_all, out, block)]))
            progress(block.size)
        buffers.wait()
    return [digest.digest() for digest in digests]


def _read_block(source: RawIOBase, block: Bytes, file: MappedFile) -> None:
    done = 0
    while done < block.size:
        size = source.readinto(block[done:].data)
        if not size:
            raise FileAccessError(f"{file.path}: was shortened while it was locked")
        done += size


def _write_all(out: RawIOBase, block: Bytes) -> None:
    done = 0
    while done < block.size:
        done += out.write(block[done:].data) or 0
    # What was written goes to the disk now and then leaves the page cache, whose memory the next block takes. Otherwise a large
    # file pushes everything else out, and on a virtual machine fresh memory takes several times as long as the copy.
    if out.tell() > CACHED and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_rest(locked: LockedArtifact, target: Path) -> list[Path]:
    """Copy what the lock leaves as it is into the folder `target`, without what leaks names.

    Returns the paths that the artifact has there once its locked files are written too.
    """
    artifact = locked.artifact
    root, changed = artifact.path, {file.file.name for file in locked.files}
    if root.is_dir():
        copy = target / root.name
        shutil.copytree(root, copy, ignore=lambda folder, names: [
            n for n in names if (r := (Path(folder) / n).relative_to(root).as_posix()) in changed or r in artifact.strip
        ])  # fmt: skip
        return [copy]
    if root.name not in changed:
        shutil.copyfile(root, target / root.name)  # the index of a sharded checkpoint
    return [target / name for name in sorted({root.name, *changed})]
