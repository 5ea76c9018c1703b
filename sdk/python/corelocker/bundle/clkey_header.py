"""The header of a key bundle: what the bundle is for and where its sections are (docs/formats.md, "Key bundle")."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.bundle.content_keys import MAX_TIERS
from corelocker.bundle.strict_json import MAX_INTEGER, Fields
from corelocker.errors import BundleHeaderError, BundlePublisherError, BundleSignatureError, BundleVersionError

MAGIC = b"CLKEYB02"
FORMAT = "corelocker-key-bundle"
VERSION = "2.0"
MAX_HEADER = 1 << 20
TAG_SIZE = 16
NONCE_SIZE = 12

# What AES-GCM can encrypt under one nonce (NIST SP 800-38D, section 5.2.1.1), and the tag.
_MAX_SECTION = 2**36 - 32 + TAG_SIZE


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
        locked_sample: sample of the locked file with the runs of this patch, 32 bytes.
    """

    index: int
    artifact: int
    file: int
    tier: int
    offset: int
    length: int
    nonce: bytes
    locked_sample: bytes


@dataclass(frozen=True)
class BundleHeader:
    """A header that is checked. The attributes are those of `KeyBundle`."""

    bundle: UUID
    model: str
    model_version: int
    publisher: str
    publisher_key: ec.EllipticCurvePublicKey
    tiers: tuple[str, ...]
    artifacts: tuple[BundledArtifact, ...]
    sections: tuple[Section, ...]

    def encode(self) -> bytes:
        """The header's bytes. What is in it is not checked: `parse` them."""
        fields = {
            "format": FORMAT,
            "version": VERSION,
            "bundle": str(self.bundle),
            "model": self.model,
            "model_version": self.model_version,
            "publisher": self.publisher,
            "publisher_key": jose.public_jwk(self.publisher_key),
            "tiers": list(self.tiers),
            "artifacts": [
                {
                    "name": artifact.name,
                    "format": artifact.format,
                    "files": [{"path": f.path, "size": f.size, "sha256": f.sha256.hex()} for f in artifact.files],
                }
                for artifact in self.artifacts
            ],
            "sections": [
                {
                    "artifact": s.artifact,
                    "file": s.file,
                    "tier": s.tier,
                    "offset": s.offset,
                    "length": s.length,
                    "nonce": jose.encode_base64url(s.nonce),
                    "sample": s.locked_sample.hex(),
                }
                for s in self.sections
            ],
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def parse(
        cls,
        data: bytes,
        is_signed_by: Callable[[ec.EllipticCurvePublicKey], bool],
        pinned: str | None = None,
    ) -> Self:
        """Read a header.

        Version, publisher and signature come first: what an unknown publisher or version wrote is not looked at.

        Args:
            data: the header's bytes.
            is_signed_by: whether the header has a signature of this key.
            pinned: JWK thumbprint of the publisher that it has to be from.

        Raises BundleHeaderError, BundleVersionError, BundleSignatureError or BundlePublisherError.
        """
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


def _sections(fields: Fields, artifacts: Sequence[BundledArtifact], tiers: int) -> tuple[Section, ...]:
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
        length = entry.integer("length", TAG_SIZE, _MAX_SECTION)
        end += length
        nonce, locked_sample = entry.base64url("nonce", NONCE_SIZE), entry.sha256("sample")
        sections.append(Section(index, artifact, file, tier, offset, length, nonce, locked_sample))
    return tuple(sections)
