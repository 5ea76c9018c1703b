"""The key bundle: one `.clkey` file with the encrypted patches of all tiers and artifacts (DESIGN.md, "Formats").

    8    magic "CLKEYB01"
    4    u32 header length, at most 1 MiB
    ..   header, UTF-8 JSON: what the bundle is for and where its sections are
    64   the publisher's ES256 signature r || s over everything before it
    ..   sections in header order: AES-256-GCM of {u32 length, JSON with two digests, patch}

The header carries the publisher's public key, so anyone can check that a bundle is whole; who the publisher is, only a
thumbprint tells that the reader knows beforehand (`publisher` of `KeyBundle.open`).

A section's associated data is SHA-256(header) || u32 index of the section, so that sections cannot be swapped or moved
into another bundle. Nothing in the header depends on the bytes that the patches put in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from corelocker.bundle import jose
from corelocker.bundle.content_keys import KEY_SIZE, MAX_TIERS
from corelocker.bundle.strict_json import MAX_INTEGER, Fields
from corelocker.errors import (
    BundleError,
    BundleHeaderError,
    BundleMagicError,
    BundleMismatchError,
    BundlePublisherError,
    BundleSignatureError,
    BundleTrailingError,
    BundleTruncatedError,
    BundleVersionError,
    ContentKeyError,
    FileAccessError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = b"CLKEYB01"
FORMAT = "corelocker-key-bundle"
VERSION = "1.0"
MAX_HEADER = 1 << 20

_START = struct.Struct("<8sI")
_U32 = struct.Struct("<I")
_TAG_SIZE = 16
_NONCE_SIZE = 12
_MAX_DIGESTS = 1 << 16
# What AES-GCM can encrypt under one nonce (NIST SP 800-38D, section 5.2.1.1), and the tag.
_MAX_SECTION = 2**36 - 32 + _TAG_SIZE
_CHUNK = 1 << 16


# --- what is in a bundle -------------------------------------------------------------------------


@dataclass(frozen=True)
class BundledFile:
    """A file of an artifact.

    Attributes:
        path: the path inside the artifact, with forward slashes; the file's name when the artifact is one file.
        size: bytes, the same locked and restored.
        sha256: SHA-256 of the locked file, 32 bytes.
    """

    path: str
    size: int
    sha256: bytes


@dataclass(frozen=True)
class BundledArtifact:
    """A finished model: its file or folder name, its format ("executorch", "coreml", ...) and its weight files."""

    name: str
    format: str
    files: tuple[BundledFile, ...]


@dataclass(frozen=True)
class Section:
    """Where the patch is that brings a file from tier `tier - 1` to `tier`.

    Attributes:
        index: place among the sections of the bundle.
        artifact, file: indexes into `KeyBundle.artifacts` and its `files`.
        tier: 1 or more.
        offset: from the first byte behind the signature.
        length: bytes, the 16-byte tag included.
        nonce: 12 bytes.
        replaces: SHA-256 of the bytes that the patch replaces, 32 bytes.
    """

    index: int
    artifact: int
    file: int
    tier: int
    offset: int
    length: int
    nonce: bytes
    replaces: bytes


@dataclass(frozen=True)
class SectionContents:
    """What goes into a section; all digests are SHA-256, 32 bytes.

    Attributes:
        artifact, file, tier: as in `Section`.
        patch: the encoded patch.
        replaces: of the bytes that the patch replaces.
        puts: of the bytes that it puts in.
        file_digest: of the whole file at this tier.
    """

    artifact: int
    file: int
    tier: int
    patch: Buffer = field(repr=False)
    replaces: bytes
    puts: bytes
    file_digest: bytes


@dataclass(frozen=True)
class BundleContents:
    """What `write_bundle` writes.

    Attributes:
        bundle: a fresh id.
        model: id of the model, the same for all its versions.
        model_version: grows with every version, 0 to 2^53 - 1.
        tiers: names, tier 0 (what ships) first, the one that restores everything last; 2 to 64.
        artifacts: at least one, with unique names.
        sections: at most one for a file and tier, the tiers of a file ascending.
    """

    bundle: UUID
    model: str
    model_version: int
    tiers: tuple[str, ...]
    artifacts: tuple[BundledArtifact, ...]
    sections: tuple[SectionContents, ...]


@dataclass(frozen=True, eq=False)
class DecryptedSection:
    """An opened section.

    Attributes:
        section: where it came from, with the digest of the bytes that the patch replaces.
        file_size: bytes of the file that the patch is for.
        puts: SHA-256 of the bytes that the patch puts in.
        file_digest: SHA-256 of the whole file at this tier.
        patch: the encoded patch, for `Patch.parse`; authentic, but not checked yet.
    """

    section: Section
    file_size: int
    puts: bytes
    file_digest: bytes
    patch: memoryview = field(repr=False)
    _plaintext: bytearray = field(repr=False)

    def wipe(self) -> None:
        """Overwrite the patch with zeros; do not use it afterwards."""
        np.frombuffer(self._plaintext, np.uint8).fill(0)


# --- writing -------------------------------------------------------------------------------------


def write_bundle(
    contents: BundleContents, signing_key: ec.EllipticCurvePrivateKey, content_keys: Sequence[bytes]
) -> bytes:
    """The `.clkey` file for `contents`.

    Args:
        contents: what to pack.
        signing_key: the publisher's P-256 key.
        content_keys: 32 bytes for each tier, as `tier_keys` gives them.

    Raises BundleHeaderError when a reader would refuse the header, BundleMismatchError for another number of keys.
    """
    return b"".join(bundle_parts(contents, signing_key, content_keys))


def bundle_parts(
    contents: BundleContents, signing_key: ec.EllipticCurvePrivateKey, content_keys: Sequence[bytes]
) -> Iterator[bytes]:
    """`write_bundle` in small parts, so that no large patch is in memory twice."""
    if [len(key) for key in content_keys] != [KEY_SIZE] * len(contents.tiers):
        raise BundleMismatchError(f"{len(contents.tiers)} tiers need as many content keys of {KEY_SIZE} bytes")
    opened = [_section_start(section) for section in contents.sections]
    sections: list[Section] = []
    for index, (section, start) in enumerate(zip(contents.sections, opened, strict=True)):
        sections.append(
            Section(
                index=index,
                artifact=section.artifact,
                file=section.file,
                tier=section.tier,
                offset=sections[-1].offset + sections[-1].length if sections else 0,
                length=len(start) + memoryview(section.patch).nbytes + _TAG_SIZE,
                nonce=os.urandom(_NONCE_SIZE),
                replaces=section.replaces,
            )
        )
    header = _encode_header(contents, sections, signing_key.public_key())
    _Header.read(header, lambda _: True)
    signed = _START.pack(MAGIC, len(header)) + header
    yield signed + jose.sign(signing_key, signed)
    for place, section, start in zip(sections, contents.sections, opened, strict=True):
        encryptor = Cipher(algorithms.AES(content_keys[place.tier]), modes.GCM(place.nonce)).encryptor()
        encryptor.authenticate_additional_data(_associated_data(header, place.index))
        yield encryptor.update(start)
        patch = memoryview(section.patch).cast("B")
        for position in range(0, len(patch), _CHUNK):
            yield encryptor.update(patch[position : position + _CHUNK])
        yield encryptor.finalize() + encryptor.tag


def _encode_header(contents: BundleContents, sections: list[Section], publisher: ec.EllipticCurvePublicKey) -> bytes:
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "bundle": str(contents.bundle),
        "model": contents.model,
        "model_version": contents.model_version,
        "publisher": jose.thumbprint(publisher),
        "publisher_key": jose.public_jwk(publisher),
        "tiers": list(contents.tiers),
        "artifacts": [
            {
                "name": artifact.name,
                "format": artifact.format,
                "files": [{"path": f.path, "size": f.size, "sha256": f.sha256.hex()} for f in artifact.files],
            }
            for artifact in contents.artifacts
        ],
        "sections": [
            {
                "artifact": s.artifact,
                "file": s.file,
                "tier": s.tier,
                "offset": s.offset,
                "length": s.length,
                "nonce": jose.encode_base64url(s.nonce),
                "replaces": s.replaces.hex(),
            }
            for s in sections
        ],
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _section_start(section: SectionContents) -> bytes:
    """The plaintext of a section before its patch."""
    digests = json.dumps(
        {"puts": section.puts.hex(), "file": section.file_digest.hex()}, separators=(",", ":")
    ).encode()
    return _U32.pack(len(digests)) + digests


def _associated_data(header: bytes, index: int) -> bytes:
    return hashlib.sha256(header).digest() + _U32.pack(index)


# --- reading -------------------------------------------------------------------------------------


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

    def __init__(self, source: _Source, header_bytes: bytes, header: _Header, sections_start: int) -> None:
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
        if source.size < _START.size:
            raise BundleTruncatedError(f"the key bundle has {source.size} bytes, not even a header")
        magic, length = _START.unpack(source.read(0, _START.size))
        if magic != MAGIC:
            raise BundleMagicError("not a key bundle: it does not begin with CLKEYB01")
        if length > MAX_HEADER:
            raise BundleHeaderError(f"the header of the key bundle has {length} bytes, more than {MAX_HEADER}")
        signed_end = _START.size + length
        sections_start = signed_end + jose.SIGNATURE_SIZE
        if sections_start > source.size:
            raise BundleTruncatedError("the key bundle ends inside its header")
        signed = bytes(source.read(0, signed_end))
        header_bytes = signed[_START.size :]
        header = _Header.read(
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
        size = section.length - _TAG_SIZE
        decryptor = Cipher(algorithms.AES(content_key), modes.GCM(section.nonce)).decryptor()
        decryptor.authenticate_additional_data(_associated_data(self.header, section.index))
        try:
            plaintext = bytearray(size)
        except MemoryError:
            raise BundleError(f"section {section.index} needs {size} bytes of memory") from None
        view = memoryview(plaintext)
        try:
            for position in range(0, size, _CHUNK):
                length = min(_CHUNK, size - position)
                decryptor.update_into(self._source.read(start + position, length), view[position : position + length])
            decryptor.finalize_with_tag(bytes(self._source.read(start + size, _TAG_SIZE)))
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
        (length,) = _U32.unpack_from(view) if len(view) >= _U32.size else (_MAX_DIGESTS + 1,)
        if length > min(_MAX_DIGESTS, len(view) - _U32.size):
            raise BundleHeaderError(f"{where}: {length} bytes of digests do not fit")
        digests = Fields.parse(bytes(view[_U32.size : _U32.size + length]), where, BundleHeaderError)
        return DecryptedSection(
            section=section,
            file_size=self.artifacts[section.artifact].files[section.file].size,
            puts=digests.sha256("puts"),
            file_digest=digests.sha256("file"),
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


# --- the header ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    bundle: UUID
    model: str
    model_version: int
    publisher: str
    publisher_key: ec.EllipticCurvePublicKey
    tiers: tuple[str, ...]
    artifacts: tuple[BundledArtifact, ...]
    sections: tuple[Section, ...]

    @classmethod
    def read(
        cls,
        data: bytes,
        is_signed_by: Callable[[ec.EllipticCurvePublicKey], bool],
        pinned: str | None = None,
    ) -> Self:
        """Version, publisher and signature come first: what an unknown publisher or version wrote is not looked at."""
        if len(data) > MAX_HEADER:
            raise BundleHeaderError(f"the header of the key bundle has {len(data)} bytes, more than {MAX_HEADER}")
        fields = Fields.parse(data, "header of the key bundle", BundleHeaderError)
        if fields.values.get("format") != FORMAT:
            raise fields.refuse(f"format is not {FORMAT!r}")
        version = fields.text("version", 16)
        if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", version):
            raise fields.refuse("version is not two numbers with a dot")
        if version.split(".")[0] != VERSION.split(".")[0]:
            raise BundleVersionError(
                f"the key bundle has format version {version}, this release reads {VERSION}", hint="Update CoreLocker"
            )
        publisher, publisher_key = _publisher(fields)
        if not is_signed_by(publisher_key):
            raise BundleSignatureError("the signature of the key bundle does not fit its header", hint="Fetch it again")
        if pinned is not None and publisher != pinned:
            raise BundlePublisherError(f"the key bundle is signed by publisher {publisher}, not by {pinned}")
        tiers = fields.texts("tiers", 64)
        if not 2 <= len(tiers) <= MAX_TIERS or len(set(tiers)) != len(tiers):
            raise fields.refuse(f"tiers are not 2 to {MAX_TIERS} different names")
        artifacts = tuple(_artifact(entry) for entry in fields.objects("artifacts"))
        if not artifacts or len({artifact.name for artifact in artifacts}) != len(artifacts):
            raise fields.refuse("artifacts are missing or two have one name")
        return cls(
            bundle=_uuid(fields),
            model=fields.text("model", 256),
            model_version=fields.integer("model_version", 0, MAX_INTEGER),
            publisher=publisher,
            publisher_key=publisher_key,
            tiers=tiers,
            artifacts=artifacts,
            sections=_sections(fields, artifacts, len(tiers)),
        )


def _publisher(fields: Fields) -> tuple[str, ec.EllipticCurvePublicKey]:
    publisher = fields.text("publisher", jose.THUMBPRINT_SIZE)
    try:
        key = jose.key_of_jwk(fields.values.get("publisher_key"))
    except ValueError as error:
        raise fields.refuse(f"publisher_key is {error}") from None
    if jose.thumbprint(key) != publisher:
        raise fields.refuse("publisher is not the thumbprint of publisher_key")
    return publisher, key


def _uuid(fields: Fields) -> UUID:
    text = fields.text("bundle", 36)
    try:
        bundle = UUID(text)
    except ValueError:
        bundle = None
    if bundle is None or str(bundle) != text:
        raise fields.refuse("bundle is not a UUID in lower case")
    return bundle


def _artifact(fields: Fields) -> BundledArtifact:
    name = fields.text("name", 256)
    if "/" in name or not _is_inside(name):
        raise fields.refuse("name is not that of a file or folder")
    files = tuple(_file(file) for file in fields.objects("files"))
    if not files or len({file.path for file in files}) != len(files):
        raise fields.refuse("files are missing or two have one path")
    return BundledArtifact(name, fields.text("format", 64), files)


def _file(fields: Fields) -> BundledFile:
    path = fields.text("path", 1024)
    if not _is_inside(path):
        raise fields.refuse("path is not relative or leaves the artifact")
    return BundledFile(path, fields.integer("size", 0, MAX_INTEGER), fields.sha256("sha256"))


def _is_inside(path: str) -> bool:
    """Whether a path with forward slashes is relative and stays where it begins."""
    return "\\" not in path and not {"", ".", ".."} & set(path.split("/"))


def _sections(fields: Fields, artifacts: tuple[BundledArtifact, ...], tiers: int) -> tuple[Section, ...]:
    sections: list[Section] = []
    highest: dict[tuple[int, int], int] = {}
    end = 0
    for index, entry in enumerate(fields.objects("sections")):
        artifact = entry.integer("artifact", 0, len(artifacts) - 1)
        file = entry.integer("file", 0, len(artifacts[artifact].files) - 1)
        tier = entry.integer("tier", 1, tiers - 1)
        if tier <= highest.get((artifact, file), 0):
            raise entry.refuse("the tiers of a file do not ascend")
        highest[artifact, file] = tier
        offset = entry.integer("offset", 0, MAX_INTEGER)
        if offset != end:
            raise entry.refuse(f"begins at {offset}, but the sections before it end at {end}")
        length = entry.integer("length", _TAG_SIZE, _MAX_SECTION)
        end += length
        nonce, replaces = entry.base64url("nonce", _NONCE_SIZE), entry.sha256("replaces")
        sections.append(Section(index, artifact, file, tier, offset, length, nonce, replaces))
    return tuple(sections)
