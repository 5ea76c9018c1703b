"""A locked file, restored in memory (docs/formats.md, "Key bundle").

The file is mapped privately and the patches are applied to the mapping, so only the touched pages take memory of their own and
nothing goes to storage. The pages can be written only while the patches are applied. Closing the mapping locks the file again.

**What "bit-identical or an error" covers.** A restored file is the publisher's bit for bit where `check` has it compared as a
whole (`always`, or `once` when it was not before). Without that:

- Bytes that a patch puts in are the publisher's: authenticated encryption vouches for them.
- Elements that a patch flips are as good as the file's.
- Bytes that no patch touches are not looked at, but for the 64 windows of the samples. Whoever delivered the file vouches for
  them, such as the signature of the app package that it comes in.

A file of another version, another model or another tier is noticed by the samples, whatever the check.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import mmap
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Self, TypeVar

import numpy as np

from corelocker.bundle.clkey import DecryptedSection, KeyBundle
from corelocker.bundle.clkey_header import BundledFile
from corelocker.bundle.content_keys import KEY_SIZE, tier_keys
from corelocker.bundle.patch import Patch
from corelocker.bundle.sample import OpenFileSample, sample
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
from corelocker.raw_files import file_stamp
from corelocker.runtime.checked_files import CheckedFile, remember, was_checked
from corelocker.runtime.clean_pages import parts

Check = Literal["off", "once", "always"]
T = TypeVar("T")

_FEW_RUNS = 1 << 10  # whose ends are read one by one

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
    def open(
        cls,
        path: Path | str,
        sections: Sequence[DecryptedSection],
        *,
        check: Check | None = None,
        checked: Path | None = None,
        locked_digest: bytes | None = None,
    ) -> Self:
        """Map the locked file at `path` and apply the sections' patches.

        Args:
            path: the locked file.
            sections: of this file, tiers ascending and none left out; they may be wiped afterwards.
            check: when the whole file is compared, which reads all of it: "off" never; "once" when a file of this device, inode,
                size, modification time and digest was not compared before; "always" now. None is "once" where a run flips,
                else "off".
            checked: a file in which "once" keeps what was compared, so that it outlives the process; without it, "once" is
                once in this process.
            locked_digest: SHA-256 of the locked file, to compare when there are no sections.

        Without the whole file being read, the cost is that of the patches. Raises FileAccessError, FileSizeError, a Patch*Error,
        AlreadyRestoredError, ReplacedBytesError or RestoredBytesError; then nothing stays mapped.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                mapping, flips = cls._open(path, descriptor, sections)
                mapping.file_digest = sections[-1].file_digest if sections else locked_digest
                try:
                    mapping._check(descriptor, check or ("once" if flips else "off"), checked)
                except BaseException:
                    mapping.close()
                    raise
                return mapping
            finally:
                os.close(descriptor)
        except OSError as error:
            raise FileAccessError(f"{path}: {error.strerror or error}") from None

    @classmethod
    def _open(cls, path: Path | str, descriptor: int, sections: Sequence[DecryptedSection]) -> tuple[Self, bool]:
        """The restored mapping, its digest not compared, and whether a patch flips."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileAccessError(f"{path}: not a regular file")
        for section in sections:
            if status.st_size != section.file_size:
                raise FileSizeError(f"{path} has {status.st_size} bytes, the locked file {section.file_size}")
        patches = [Patch.parse(section.patch, status.st_size) for section in sections]
        try:
            mapping = cls(descriptor, status.st_size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except ValueError:
            raise FileSizeError(f"{path} is empty or was cut while it was opened") from None
        try:
            few = [
                OpenFileSample(descriptor, len(mapping), patch.table) if len(patch.table) <= _FEW_RUNS else None
                for patch in patches
            ]
            compare_locked(
                [
                    sample(np.frombuffer(mapping, np.uint8), patch.table, mapping._release)
                    if read is None
                    else read.locked
                    for patch, read in zip(patches, few, strict=True)
                ],
                sections,
            )
            if sections:
                mapping._apply(sections, patches, few)
        except BaseException:
            mapping.close()
            raise
        return mapping, any(patch.flips for patch in patches)

    def verify(self) -> None:
        """Read the whole file and compare its SHA-256. Raises RestoredBytesError when it differs or is not known."""
        sha256 = hashlib.sha256()
        for part in parts(self):
            sha256.update(part)
        compare_digest(sha256.digest(), self.file_digest)

    def _check(self, descriptor: int, check: Check, checked: Path | None) -> None:
        if check == "off":
            return
        if check == "always" or self.file_digest is None:
            self.verify()
            return
        file = CheckedFile(file_stamp(os.fstat(descriptor)), self.file_digest)
        if not was_checked(file, checked):
            self.verify()
            # One that somebody wrote to meanwhile may have been read half before and half after.
            if file_stamp(os.fstat(descriptor)) == file.stamp:
                remember(file, checked)

    def _release(self) -> None:
        """Let all pages leave memory, while none is changed: the kernel maps their neighbors with those that are read."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)

    def _apply(
        self, sections: Sequence[DecryptedSection], patches: Sequence[Patch], few: Sequence[OpenFileSample | None]
    ) -> None:
        # An address and not a view of the mapping, which could not be closed while the view is alive.
        address = np.frombuffer(self, np.uint8).__array_interface__["data"][0]
        self._protect(address, mmap.PROT_READ | mmap.PROT_WRITE)
        memory: memoryview
        found: list[bytes] = []
        with _memory_view(address, len(self), _WRITABLE) as memory:
            for number, (patch, read) in enumerate(zip(patches, few, strict=True), 1):
                patch.apply(memory)
                if read is None:
                    found.append(sample(np.frombuffer(memory, np.uint8), patch.table))
                else:
                    found.append(read.after(memory, [applied.table for applied in patches[:number]]))
        self._protect(address, mmap.PROT_READ)
        compare_restored(found, sections)

    def _protect(self, address: int, protection: int) -> None:
        if _libc.mprotect(address, len(self), protection) != 0:
            raise RestoreError(
                f"the protection of the mapped file cannot be changed: {os.strerror(ctypes.get_errno())}"
            )


def restore(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    tier: int | str | None = None,
    *,
    key_tier: int | str | None = None,
    check: Check | None = None,
    checked: Path | None = None,
) -> RestoredFile:
    """Restore the file at `path` in memory to a tier of `bundle`.

    Which file of the bundle it is follows from its size and its name, and where the name differs (the weight.bin of a
    compiled .mlmodelc) from its sample.

    Args:
        path: the locked file.
        bundle: its key bundle.
        content_key: 32 bytes, of `key_tier`; it opens the tiers below too.
        tier: index or name of the tier to restore to; by default that of the key.
        key_tier: index or name of the key's tier; by default `tier`, or the last tier.
        check, checked: as in `RestoredFile.open`. A tier without patches is compared with the locked file's digest.

    Raises what `RestoredFile.open` and `KeyBundle.decrypt` raise, and BundleMismatchError when the bundle has no such
    tier or file.
    """
    return with_sections(
        path,
        bundle,
        content_key,
        tier,
        key_tier,
        lambda sections, file: RestoredFile.open(
            path, sections, check=check, checked=checked, locked_digest=file.sha256
        ),
    )


def with_sections(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    tier: int | str | None,
    key_tier: int | str | None,
    use: Callable[[Sequence[DecryptedSection], BundledFile], T],
) -> T:
    """What `use` makes of the sections that restore the file at `path`, and of its entry in the bundle.

    `use` is called for one file of the bundle after the other until it does not raise that the file at `path` is another one. The
    other arguments and errors are those of `restore`. The sections are wiped afterwards.
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
            return use(sections, file)
        except (ReplacedBytesError, AlreadyRestoredError) as error:
            refused = refused or error
            continue
        finally:
            for opened in sections:
                opened.wipe()
    raise refused or _not_for(path, bundle)


def _not_for(path: Path | str, bundle: KeyBundle) -> BundleMismatchError:
    """What is different, and what to do."""
    files = [(artifact.name, file) for artifact in bundle.artifacts for file in artifact.files]
    shown = ", ".join(
        (file.path if file.path == name else f"{name}/{file.path}") + f" ({file.size} bytes)"
        for name, file in files[:4]
    ) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
    if os.path.isdir(path):
        inside = [file.path for _, file in files if Path(path, file.path).is_file()]
        hint = f"Name the file in it: {Path(path, inside[0])}" if inside else f"The bundle is for {shown}"
        return BundleMismatchError(f"{path} is a folder, and files are restored one by one", hint=hint)
    return BundleMismatchError(
        f"the key bundle (model {bundle.model}) is not for {path}, which has {os.stat(path).st_size} bytes",
        hint=f"It is for {shown}. Take the file and the bundle of one lock",
    )


def compare_locked(found: Sequence[bytes], sections: Sequence[DecryptedSection]) -> None:
    """Raise the reason when a file is not the locked one; `found` are its samples with the runs of each section's patch."""
    if list(found) == [section.section.locked_sample for section in sections]:
        return
    # A patch that changes nothing that it samples says nothing about the state of the file.
    changing = [s.restored_sample if s.restored_sample != s.section.locked_sample else None for s in sections]
    if any(of_file == after for of_file, after in zip(found, changing, strict=True)):
        raise AlreadyRestoredError("the file is restored already", hint="A patch is applied once, to the locked file")
    raise ReplacedBytesError(
        "the file is not the locked file of the key bundle", hint="Take the file and the bundle of one lock"
    )


def compare_restored(found: Sequence[bytes], sections: Sequence[DecryptedSection]) -> None:
    """Raise RestoredBytesError unless `found`, the sample after each section's patch, is what the section says."""
    if list(found) != [section.restored_sample for section in sections]:
        raise RestoredBytesError("the patch does not lead to the file that the key bundle says")


def compare_digest(sha256: bytes, expected: bytes | None) -> None:
    """Raise RestoredBytesError when a restored file is another one as a whole, or what it has to be is not known."""
    if expected is None or sha256 != expected:
        raise RestoredBytesError(
            "the whole file is not the publisher's, although its sample is", hint="Deliver the locked file again"
        )


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
    if os.path.isdir(path):
        return []
    files = [
        (number, index, file)
        for number, artifact in enumerate(bundle.artifacts)
        for index, file in enumerate(artifact.files)
    ]
    found = [entry for entry in files if entry[2].size == size]
    if len(found) == 1:
        return found
    alike = {entry[:2]: _likeness(path, bundle.artifacts[entry[0]].name, entry[2].path) for entry in files}
    files.sort(key=lambda entry: -alike[entry[:2]])
    if not found and alike[files[0][:2]] > 0:
        raise FileSizeError(f"{path} has {size} bytes, the locked file {files[0][2].size}", hint="Is it cut off?")
    return [entry for entry in files if entry[2].size == size]


def _likeness(path: Path | str, artifact: str, file: str) -> int:
    """How many components, counted from the end, `path` has in common with a file of a bundle."""
    there = file if file == artifact else f"{artifact}/{file}"
    pairs = zip(reversed(Path(path).absolute().parts), reversed(there.split("/")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
