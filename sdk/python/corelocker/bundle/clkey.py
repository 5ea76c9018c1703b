"""Reading a key bundle: one `.clkey` file with the encrypted patches of all tiers and artifacts (docs/formats.md, "Key bundle").

    8    magic "CLKEYB02"
    4    u32 header length, at most 1 MiB
    ..   header, UTF-8 JSON: what the bundle is for and where its sections are
    64   the publisher's ES256 signature r || s over everything before it
    ..   sections in header order: AES-256-GCM of {u32 length, JSON with sample and digest, patch}

The header carries the publisher's public key, so anyone can check that a bundle is whole; who the publisher is, only a
thumbprint tells that the reader knows beforehand (`publisher` of `KeyBundle.open`).

A section's associated data is SHA-256(header) || u32 index of the section, so that sections cannot be swapped or moved
into another bundle. Nothing in the header depends on the bytes that the patches restore.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from corelocker.bundle import jose
from corelocker.bundle.clkey_header import MAGIC, MAX_HEADER, TAG_SIZE, BundleHeader, Section
from corelocker.bundle.content_keys import KEY_SIZE
from corelocker.bundle.strict_json import Fields
from corelocker.errors import (
    BundleError,
    BundleHeaderError,
    BundleMagicError,
    BundleMismatchError,
    BundleTrailingError,
    BundleTruncatedError,
    BundleVersionError,
    ContentKeyError,
    FileAccessError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

START = struct.Struct("<8sI")

_U32 = struct.Struct("<I")
_MAX_AFTER = 4096  # bytes of the JSON before a patch
_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class DecryptedSection:
    """An opened section.

    Attributes:
        section: where it came from, with the sample of the locked file.
        file_size: bytes of the file that the patch is for.
        restored_sample: sample of the file after the patch, with the patch's runs, 32 bytes.
        file_digest: SHA-256 of the whole file after it, 32 bytes.
        patch: the encoded patch, for `Patch.parse`; authentic, but not checked yet.
    """

    section: Section
    file_size: int
    restored_sample: bytes
    file_digest: bytes
    patch: memoryview = field(repr=False)
    _plaintext: bytearray = field(repr=False)

    def wipe(self) -> None:
        """Overwrite the patch with zeros; do not use it afterwards."""
        np.frombuffer(self._plaintext, np.uint8).fill(0)


def associated_data(header: bytes, index: int) -> bytes:
    """What a section's encryption is bound to."""
    return hashlib.sha256(header).digest() + _U32.pack(index)


class KeyBundle:
    """A key bundle whose signature, header and length are checked; the sections are read when they are opened.

    Attributes:
        id: the bundle's UUID.
        model, model_version: what it unlocks.
        publisher: the publisher's JWK thumbprint. It says something only if it was given to `open` or is compared.
        publisher_key: the key that the bundle is signed with.
        tiers: names, tier 0 (what ships) first.
        artifacts: what the sections are for.
        sections: all sections, in file order.
        header: the header's bytes, as signed.
    """

    def __init__(self, source: _Source, header_bytes: bytes, header: BundleHeader, sections_start: int) -> None:
        self._source = source
        self._sections_start = sections_start
        self.header = header_bytes
        self.id = header.bundle
        self.model = header.model
        self.model_version = header.model_version
        self.publisher = header.publisher
        self.publisher_key = header.publisher_key
        self.tiers = header.tiers
        self.artifacts = header.artifacts
        self.sections = header.sections

    @classmethod
    def open(cls, source: Path | str | Buffer, publisher: str | ec.EllipticCurvePublicKey | None = None) -> Self:
        """Open a bundle by path or from its bytes.

        Args:
            source: a path, or a buffer that must not change while the bundle is in use.
            publisher: whose bundle it has to be: a JWK thumbprint or a P-256 public key. Without it, the bundle is only
                known to be whole, not whose it is.

        Raises one of the Bundle*Errors, or FileAccessError. Reads the header alone.
        """
        if isinstance(publisher, ec.EllipticCurvePublicKey):
            publisher = jose.thumbprint(publisher)
        opened = _Source(source)
        try:
            return cls._read(opened, publisher)
        except BaseException:
            opened.close()
            raise

    @classmethod
    def _read(cls, source: _Source, publisher: str | None) -> Self:
        if source.size < START.size:
            raise BundleTruncatedError(f"the key bundle has {source.size} bytes, not even a header")
        magic, length = START.unpack(source.read(0, START.size))
        _check_magic(magic)
        if length > MAX_HEADER:
            raise BundleHeaderError(f"the header of the key bundle has {length} bytes, more than {MAX_HEADER}")
        signed_end = START.size + length
        sections_start = signed_end + jose.SIGNATURE_SIZE
        if sections_start > source.size:
            raise BundleTruncatedError("the key bundle ends inside its header")
        signed = bytes(source.read(0, signed_end))
        header_bytes = signed[START.size :]
        header = BundleHeader.parse(
            header_bytes,
            lambda key: jose.verify(key, bytes(source.read(signed_end, jose.SIGNATURE_SIZE)), signed),
            publisher,
        )
        end = sections_start + sum(section.length for section in header.sections)
        if end > source.size:
            raise BundleTruncatedError(f"the key bundle has {source.size} bytes, its header says {end}")
        if end < source.size:
            raise BundleTrailingError(f"{source.size - end} bytes follow the last section of the key bundle")
        return cls(source, header_bytes, header, sections_start)

    def tier(self, tier: str | int) -> int:
        """The index of a tier that is given by name or index. Raises BundleMismatchError when there is none."""
        if isinstance(tier, int) and 0 <= tier < len(self.tiers):
            return tier
        if tier in self.tiers:
            return self.tiers.index(str(tier))
        raise BundleMismatchError(f"the key bundle has no tier {tier!r}", hint=f"It has {', '.join(self.tiers)}")

    def sections_of(self, artifact: int, file: int, tier: int) -> tuple[Section, ...]:
        """The sections that bring a file from its locked state to `tier`, in the order to apply."""
        return tuple(s for s in self.sections if (s.artifact, s.file) == (artifact, file) and s.tier <= tier)

    def decrypt(self, section: Section, content_key: bytes) -> DecryptedSection:
        """Open a section with the 32-byte content key of its tier.

        Takes as much memory as the section is long. Raises ContentKeyError when the key is another or the bytes are
        damaged, BundleTruncatedError when the file has been cut since, BundleHeaderError for malformed contents,
        BundleError when there is not enough memory.
        """
        if len(content_key) != KEY_SIZE:
            raise ContentKeyError(f"a content key has {KEY_SIZE} bytes, not {len(content_key)}")
        start = self._sections_start + section.offset
        size = section.length - TAG_SIZE
        decryptor = Cipher(algorithms.AES(content_key), modes.GCM(section.nonce)).decryptor()
        decryptor.authenticate_additional_data(associated_data(self.header, section.index))
        try:
            plaintext = bytearray(size)
        except MemoryError:
            raise BundleError(f"section {section.index} needs {size} bytes of memory") from None
        view = memoryview(plaintext)
        try:
            for position in range(0, size, _CHUNK):
                length = min(_CHUNK, size - position)
                decryptor.update_into(self._source.read(start + position, length), view[position : position + length])
            decryptor.finalize_with_tag(bytes(self._source.read(start + size, TAG_SIZE)))
            return self._opened(section, plaintext)
        except BaseException as error:
            np.frombuffer(plaintext, np.uint8).fill(0)
            if isinstance(error, InvalidTag):
                tier = self.tiers[section.tier]
                raise ContentKeyError(
                    f"the content key does not open section {section.index} (tier {tier!r})",
                    hint="Use the key of that tier and bundle; if it is, the bundle is damaged",
                ) from None
            raise

    def _opened(self, section: Section, plaintext: bytearray) -> DecryptedSection:
        view = memoryview(plaintext)
        where = f"section {section.index}"
        (length,) = _U32.unpack_from(view) if len(view) >= _U32.size else (_MAX_AFTER + 1,)
        if length > min(_MAX_AFTER, len(view) - _U32.size):
            raise BundleHeaderError(f"{where}: {length} bytes of JSON do not fit")
        after = Fields.parse(bytes(view[_U32.size : _U32.size + length]), where, BundleHeaderError)
        return DecryptedSection(
            section=section,
            file_size=self.artifacts[section.artifact].files[section.file].size,
            restored_sample=after.sha256("sample"),
            file_digest=after.sha256("file"),
            patch=view[_U32.size + length :],
            _plaintext=plaintext,
        )

    def close(self) -> None:
        """Close the file; sections that were opened stay usable."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_magic(magic: bytes) -> None:
    if magic[:6] != MAGIC[:6]:
        raise BundleMagicError("not a key bundle: it does not begin with CLKEYB")
    if magic != MAGIC:
        old = magic[6:] == b"01"
        raise BundleVersionError(
            "the key bundle has version 1" if old else "the key bundle has a version that this release does not know",
            hint="Lock the model again" if old else "Update CoreLocker",
        )


class _Source:
    """Bytes at a place of a file or a buffer. Files are read, not mapped: one that is cut while open gives an error."""

    def __init__(self, source: Path | str | Buffer) -> None:
        self._file = None
        self._name = "the key bundle"
        if not isinstance(source, (str, Path)):
            self._view = memoryview(source).cast("B")
            self.size = len(self._view)
            return
        self._name = str(source)
        try:
            self._file = Path(source).open("rb", buffering=0)  # noqa: SIM115 - close() closes it
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise FileAccessError(f"{source}: {error.strerror or error}") from None

    def read(self, offset: int, length: int) -> memoryview:
        if self._file is None:
            return self._view[offset : offset + length]
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise FileAccessError(f"{self._name}: {error.strerror or error}") from None
        if len(data) < length:
            raise BundleTruncatedError(f"{self._name}: ends before byte {offset + length}")
        return memoryview(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
