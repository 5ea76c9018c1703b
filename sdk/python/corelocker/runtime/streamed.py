"""A locked file restored part by part, for its owner: of a large file, a block and the patches are in memory, and nothing else.

A device maps the file instead (`corelocker.runtime.restored`), where every page that a patch touches stays in memory: all of them
where signs are locked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from corelocker.bundle.clkey import DecryptedSection, KeyBundle
from corelocker.bundle.clkey_header import BundledFile
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_blocks import PatchBlocks
from corelocker.bundle.sample import BlockSample, OpenFileSample
from corelocker.errors import FileAccessError, FileSizeError
from corelocker.files import open_regular, write_atomically
from corelocker.raw_files import read_buffer
from corelocker.runtime.restored import compare_digest, compare_locked, compare_restored, with_sections

BLOCK = 4 << 20  # bytes

Write = Callable[[memoryview], object]


def check_restored(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    tier: int | str | None = None,
    *,
    key_tier: int | str | None = None,
) -> None:
    """Check that the file at `path` restores to a tier of `bundle` bit by bit, in little memory.

    The arguments and errors are those of `restore`; the whole file is compared.
    """
    _stream(path, bundle, content_key, tier, key_tier, lambda block: None)


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
    with write_atomically(Path(out), force=force) as file:
        _stream(path, bundle, content_key, tier, key_tier, file.write)


def restored_digest(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    tier: int | str | None = None,
    *,
    key_tier: int | str | None = None,
) -> bytes:
    """The SHA-256 that the file at `path` has once it is restored, without restoring it.

    The arguments and errors are those of `restore`; of the locked file the samples are compared.
    """

    def of_entry(sections: Sequence[DecryptedSection], entry: BundledFile) -> bytes:
        tables = [Patch.parse(section.patch, entry.size).table for section in sections]
        with open_regular(Path(path)) as file:
            compare_locked([OpenFileSample(file.fileno(), entry.size, table).locked for table in tables], sections)
        return sections[-1].file_digest if sections else entry.sha256

    return with_sections(path, bundle, content_key, tier, key_tier, of_entry)


def _stream(
    path: Path | str,
    bundle: KeyBundle,
    content_key: bytes,
    tier: int | str | None,
    key_tier: int | str | None,
    write: Write,
) -> None:
    def each_block(sections: Sequence[DecryptedSection], entry: BundledFile) -> None:
        digest = _write_blocks(Path(path), sections, entry.size, write)
        compare_digest(digest, sections[-1].file_digest if sections else entry.sha256)

    with_sections(path, bundle, content_key, tier, key_tier, each_block)


def _write_blocks(path: Path, sections: Sequence[DecryptedSection], size: int, write: Write) -> bytes:
    """Write the blocks of the restored file; its SHA-256. Nothing is written of a file that is not the locked one."""
    sha256 = hashlib.sha256()
    with closing(_blocks(path, sections, size)) as blocks:
        for block in blocks:
            sha256.update(block)
            write(block)
    return sha256.digest()


def _blocks(path: Path, sections: Sequence[DecryptedSection], size: int) -> Generator[memoryview, None, None]:
    """The blocks of the restored file, each in the place of the one before."""
    patches = [Patch.parse(section.patch, size) for section in sections]
    steps = [(PatchBlocks(patch), BlockSample(size, patch.table)) for patch in patches]
    memory = np.frombuffer(read_buffer(BLOCK), np.uint8)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise FileSizeError(f"{path} was changed while it was opened")
            compare_locked([OpenFileSample(file.fileno(), size, patch.table).locked for patch in patches], sections)
            for start in range(0, size, BLOCK):
                block = memory[: min(BLOCK, size - start)]
                if file.readinto(block.data) < block.size:
                    raise FileSizeError(f"{path} was cut while it was read")
                for patch, restored in steps:
                    patch.apply(start, block)
                    restored.add(start, block)
                yield block.data
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    finally:
        memory.fill(0)
    compare_restored([restored.digest() for _, restored in steps], sections)
