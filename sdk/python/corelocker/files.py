"""Reading files by mapping them, and writing files so that a failure leaves nothing behind."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from corelocker.errors import FileAccessError, MalformedArtifactError, OutputExistsError
from corelocker.raw_files import file_stamp

Bytes = npt.NDArray[np.uint8]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises FileAccessError, also for what is no file of its own: a symbolic link, a FIFO, a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        _refuse_special(path)
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        _refuse_special(path)
        raise FileAccessError(f"{path}: no regular file")
    return os.fdopen(descriptor, "rb")


def refuse_special_files(path: Path) -> None:
    """Raise FileAccessError unless `path` is a regular file, or a folder with nothing but regular files and folders below it.

    Links are not followed: what a model's folder holds must not lead elsewhere.
    """
    _refuse_special(path)
    if path.is_dir():
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                _refuse_special(Path(folder, name))


def _refuse_special(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if stat.S_ISLNK(mode):
        raise FileAccessError(
            f"{path}: a symbolic link, which is not followed", hint="Name the file itself, or copy it"
        )
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise FileAccessError(f"{path}: neither a file nor a folder", hint="Models are regular files")


class MappedFile:
    """A file mapped for reading.

    Attributes:
        path: where the file is.
        name: its path inside its artifact, with forward slashes.
        data: uint8 array of shape (size,), backed by the mapping.
        stamp: which file was mapped, as `file_stamp` tells.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                self.stamp = file_stamp(status)
                size = status.st_size
                if size == 0:
                    raise MalformedArtifactError(f"{path}: the file is empty")
                self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FileAccessError(f"{path}: {error.strerror or error}") from None
        self.data: Bytes = np.frombuffer(self._map, np.uint8)

    def __len__(self) -> int:
        return self.data.size

    def read(self, offset: int, length: int) -> memoryview:
        """Bytes at `offset`, without a copy. Raises MalformedArtifactError when they are not all there."""
        if offset < 0 or length < 0 or offset + length > self.data.size:
            raise MalformedArtifactError(
                f"{self.name}: needs {length} bytes at {offset}, but the file has {self.data.size}"
            )
        return memoryview(self._map)[offset : offset + length]

    def check_unchanged(self) -> None:
        """Raise FileAccessError when the file at `path` is not, by time and size, the one that was mapped."""
        try:
            unchanged = file_stamp(os.stat(self.path)) == self.stamp
        except OSError as error:
            raise FileAccessError(f"{self.path}: {error.strerror or error}") from None
        if not unchanged:
            raise FileAccessError(f"{self.path}: was changed while it was in use", hint="Run the command again")

    def release(self, offset: int, length: int) -> None:
        """Give the pages that lie wholly inside the range back to the kernel; a later read maps them again."""
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = min(offset + length, len(self)) // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)


def reserve(file: BinaryIO | RawIOBase, size: int) -> None:
    """Make an empty file `size` bytes long and take the room for them at once, which makes writing them a fifth cheaper.

    Does nothing where system or file system cannot. Raises OSError when there is no room.
    """
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return
    # Not os.posix_fallocate, which writes to each block of the file where its file system cannot.
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(file.fileno(), 0, 0, size) and (reason := ctypes.get_errno()) in _NO_ROOM:
        raise OSError(reason, os.strerror(reason))


def refuse_existing(*paths: Path, force: bool = False) -> None:
    """Raise OutputExistsError for the first path that exists, unless `force` says that outputs are replaced."""
    for path in () if force else paths:
        if path.exists():
            raise OutputExistsError(
                f"{path} exists already", hint="Choose another name, or pass --force where the command has it"
            )


def check_can_be_written(path: Path, *, force: bool) -> None:
    """Find out before hours of work whether their result can be written to `path`.

    Raises OutputExistsError when it exists and `force` is not set, FileAccessError when its folder is missing or cannot be written.
    """
    refuse_existing(path, force=force)
    if not os.access(path.absolute().parent, os.W_OK):
        raise FileAccessError(f"{path}: its folder is missing or cannot be written")


@contextmanager
def write_atomically(path: Path, *, force: bool = False, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a new file beside `path`; it takes the name `path` only when the block ends without an exception.

    Raises OutputExistsError when `path` exists and `force` is not set, FileAccessError when the folder cannot be written.
    """
    refuse_existing(path, force=force)
    try:
        with _staged(path, mode) as (file, temporary):
            yield file
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be written: {error.strerror or error}") from None


def stage_file(path: Path, data: bytes, *, mode: int = 0o644) -> Path:
    """A new file beside `path` with `data`, on the disk already; whoever renames it to `path` has written that at once.

    Raises FileAccessError when the folder cannot be written.
    """
    try:
        with _staged(path, mode) as (file, temporary):
            file.write(data)
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be written: {error.strerror or error}") from None
    return temporary


@contextmanager
def _staged(path: Path, mode: int) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside `path`, which is on the disk when the block ends, and gone when it raises."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, Path(temporary)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A scratch folder in `target` (so that a rename stays on one file system), removed when the block ends.

    `target` is made where it is missing, and goes again when nothing was put into it.
    """
    missing = [path for path in (target, *target.parents) if not path.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".corelocker-", dir=target))
    except OSError as error:
        _remove_empty(missing)
        raise FileAccessError(f"{target}: cannot be written: {error.strerror or error}") from None
    try:
        yield folder
    except OSError as error:
        raise FileAccessError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it is not empty, or was never made
            folder.rmdir()


def move_into_place(sources: list[Path], target: Path, *, force: bool) -> None:
    """Rename each source (a file or a folder) into the folder `target`; either all are there afterwards or none.

    Raises OutputExistsError when one exists and `force` is not set.
    """
    targets = [target / source.name for source in sources]
    refuse_existing(*targets, force=force)
    undo: list[tuple[Path, Path | None]] = []
    try:
        for source, path in zip(sources, targets, strict=True):
            old = source.with_name(f"{source.name}.old") if path.exists() else None
            if old is not None:
                os.rename(path, old)
            undo.append((path, old))
            os.rename(source, path)
    except OSError as error:
        for path, old in reversed(undo):
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if old is not None:
                os.rename(old, path)
        raise FileAccessError(f"{target}: cannot be written: {error.strerror or error}") from None
