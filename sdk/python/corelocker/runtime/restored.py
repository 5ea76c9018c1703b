"""A locked file, restored in memory (DESIGN.md, decision 2).

The file is mapped privately and the patch is copied in, so only the touched pages take memory of their own and nothing
goes to storage. The pages can be written only while the patch is applied. Closing the mapping locks the file again.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Self

import numpy as np

from corelocker.bundle.clkey import BundledFile, DecryptedSection, KeyBundle
from corelocker.bundle.content_keys import KEY_SIZE, tier_keys
from corelocker.bundle.patch import Patch
from corelocker.errors import (
    AlreadyRestoredError,
    BundleMismatchError,
    ContentKeyError,
    FileAccessError,
    FileSizeError,
    ReplacedBytesError,
    RestoredBytesError,
    RestoreError,
)
from corelocker.files import write_atomically

_CHUNK = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_memory_view.restype = ctypes.py_object
_WRITABLE = 0x200  # PyBUF_WRITE


class RestoredFile(mmap.mmap):
    """The restored bytes of a locked file: a read-only buffer and a context manager.

    The file must not be shortened while it is mapped: reading pages that are gone ends the process (SIGBUS), as with
    every mapped file.

    Attributes:
        file_digest: SHA-256 that the whole file must have, 32 bytes; None when it is not known.
    """

    file_digest: bytes | None = None

    @classmethod
    def open(cls, path: Path | str, sections: Sequence[DecryptedSection], *, full_check: bool = False) -> Self:
        """Map the locked file at `path` and apply the sections' patches.

        Args:
            path: the locked file.
            sections: of this file, tiers ascending and none left out; they may be wiped afterwards.
            full_check: also compare the digest of the whole file, which reads all of it.

        The cost is that of the patches. Raises FileAccessError, FileSizeError, a Patch*Error, AlreadyRestoredError,
        ReplacedBytesError or RestoredBytesError; then nothing stays mapped.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return cls._open(path, descriptor, sections, full_check)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise FileAccessError(f"{path}: {error.strerror or error}") from None

    @classmethod
    def _open(cls, path: Path | str, descriptor: int, sections: Sequence[DecryptedSection], full_check: bool) -> Self:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileAccessError(f"{path}: not a regular file")
        for section in sections:
            if status.st_size != section.file_size:
                raise FileSizeError(f"{path} has {status.st_size} bytes, the locked file {section.file_size}")
        patches = [Patch.parse(section.patch, status.st_size) for section in sections]
        for section, patch in zip(sections, patches, strict=True):
            if hashlib.sha256(patch.payload).digest() != section.puts:
                raise RestoredBytesError("the patch does not put in the bytes that the key bundle says")
        try:
            mapping = cls(descriptor, status.st_size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except ValueError:
            raise FileSizeError(f"{path} is empty or was cut while it was opened") from None
        try:
            if sections:
                mapping._apply(descriptor, sections, patches)
                mapping.file_digest = sections[-1].file_digest
            if full_check:
                mapping.verify()
        except BaseException:
            mapping.close()
            raise
        return mapping

    def verify(self) -> None:
        """Read the whole file and compare its SHA-256. Raises RestoredBytesError when it differs or is not known."""
        self.compare(hashlib.sha256(self).digest())

    def compare(self, sha256: bytes) -> None:
        """Raise RestoredBytesError when `sha256` is not the digest that the whole file must have."""
        if self.file_digest is None or sha256 != self.file_digest:
            raise RestoredBytesError("the whole file is not the publisher's, although the restored bytes are")

    def _apply(self, descriptor: int, sections: Sequence[DecryptedSection], patches: Sequence[Patch]) -> None:
        # An address and not a view of the mapping, which could not be closed while the view is alive.
        address = np.frombuffer(self, np.uint8).__array_interface__["data"][0]
        self._protect(address, mmap.PROT_READ | mmap.PROT_WRITE)
        memory: memoryview
        with _memory_view(address, len(self), _WRITABLE) as memory:
            for number, (section, patch) in enumerate(zip(sections, patches, strict=True)):
                # Only the first patch finds what the file holds; a page that was not read yet costs less to write.
                if patch.digest(memory, None if number else descriptor) != section.section.replaces:
                    _refuse(descriptor, len(self), sections, patches)
                patch.apply(memory)
        self._protect(address, mmap.PROT_READ)

    def _protect(self, address: int, protection: int) -> None:
        if _libc.mprotect(address, len(self), protection) != 0:
            raise RestoreError(
                f"the protection of the mapped file cannot be changed: {os.strerror(ctypes.get_errno())}"
            )


def _refuse(descriptor: int, size: int, sections: Sequence[DecryptedSection], patches: Sequence[Patch]) -> NoReturn:
    """Say why the sections do not fit the file, going by what it holds before any of them is applied."""
    with mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as file:
        pairs = zip(sections, patches, strict=True)
        restored = any(patch.payload and patch.digest(file) == section.puts for section, patch in pairs)
    if restored:
        raise AlreadyRestoredError("the file is restored already", hint="A patch is applied once, to the locked file")
    raise ReplacedBytesError(
        "the file is not the locked file of the key bundle", hint="Take the file and the bundle of one lock"
    )


def restore(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    tier: int | str | None = None,
    *,
    key_tier: int | str | None = None,
    full_check: bool = False,
) -> RestoredFile:
    """Restore the file at `path` in memory to a tier of `bundle`.

    Which file of the bundle it is follows from its size and its name, and where the name differs (the weight.bin of a
    compiled .mlmodelc) from the bytes that the patch replaces.

    Args:
        path: the locked file.
        bundle: its key bundle.
        content_key: 32 bytes, of `key_tier`; it opens the tiers below too.
        tier: index or name of the tier to restore to; by default that of the key.
        key_tier: index or name of the key's tier; by default `tier`, or the last tier.
        full_check: as in `RestoredFile.open`.

    Raises what `RestoredFile.open` and `KeyBundle.decrypt` raise, and BundleMismatchError when the bundle has no such
    tier or file.
    """
    target, of_key = _tiers(bundle, content_key, tier, key_tier)
    refused: RestoreError | None = None
    for artifact, index, file in _candidates(path, bundle):
        sections: list[DecryptedSection] = []
        try:
            for section in bundle.sections_of(artifact, index, target):
                below = section.tier < of_key
                key = tier_keys(content_key, bundle.id, of_key + 1)[section.tier] if below else content_key
                sections.append(bundle.decrypt(section, key))
            restored = RestoredFile.open(path, sections)
        except (ReplacedBytesError, AlreadyRestoredError) as error:
            refused = refused or error
            continue
        finally:
            for opened in sections:
                opened.wipe()
        if not sections:
            restored.file_digest = file.sha256
        if full_check:
            try:
                restored.verify()
            except BaseException:
                restored.close()
                raise
        return restored
    raise refused or BundleMismatchError(f"the key bundle is not for {path}")


def restore_to_file(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    out: Path | str,
    tier: int | str | None = None,
    *,
    key_tier: int | str | None = None,
    force: bool = False,
) -> None:
    """Write the file at `path`, restored, to `out`: what a publisher does, never a device.

    The arguments and errors are those of `restore`; the whole file is checked. `out` appears only when it is complete.
    Raises OutputExistsError when `out` exists and `force` is not set.
    """
    with (
        restore(path, bundle, content_key, tier, key_tier=key_tier) as restored,
        write_atomically(Path(out), force=force) as file,
    ):
        sha256 = hashlib.sha256()
        for position in range(0, len(restored), _CHUNK):
            chunk = restored[position : position + _CHUNK]
            sha256.update(chunk)
            file.write(chunk)
        restored.compare(sha256.digest())


def _tiers(
    bundle: KeyBundle, content_key: bytes, tier: int | str | None, key_tier: int | str | None
) -> tuple[int, int]:
    """The tiers to restore to and of the key."""
    key_tier = next((value for value in (key_tier, tier) if value is not None), len(bundle.tiers) - 1)
    of_key = bundle.tier(key_tier)
    target = of_key if tier is None else bundle.tier(tier)
    if target > of_key:
        raise ContentKeyError(f"the key of tier {bundle.tiers[of_key]!r} does not open tier {bundle.tiers[target]!r}")
    if len(content_key) != KEY_SIZE:
        raise ContentKeyError(f"a content key has {KEY_SIZE} bytes, not {len(content_key)}")
    return target, of_key


def _candidates(path: Path | str, bundle: KeyBundle) -> list[tuple[int, int, BundledFile]]:
    """The files of the bundle that `path` may be: (artifact, file, entry), those with the most similar path first."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    files = [
        (_likeness(path, artifact.name, file.path), number, index, file)
        for number, artifact in enumerate(bundle.artifacts)
        for index, file in enumerate(artifact.files)
    ]
    files.sort(key=lambda entry: -entry[0])
    found = [entry[1:] for entry in files if entry[3].size == size]
    if not found and files[0][0] > 0:
        raise FileSizeError(f"{path} has {size} bytes, the locked file {files[0][3].size}", hint="Is it cut off?")
    return found


def _likeness(path: Path | str, artifact: str, file: str) -> int:
    """How many components, counted from the end, `path` has in common with a file of a bundle."""
    there = file if file == artifact else f"{artifact}/{file}"
    pairs = zip(reversed(Path(path).absolute().parts), reversed(there.split("/")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
