"""Writing a key bundle (docs/formats.md, "Key bundle")."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from corelocker.bundle import jose
from corelocker.bundle.clkey import START, associated_data
from corelocker.bundle.clkey_header import MAGIC, NONCE_SIZE, TAG_SIZE, BundledArtifact, BundleHeader, Section
from corelocker.bundle.content_keys import KEY_SIZE
from corelocker.bundle.patch_stream import PatchStream
from corelocker.errors import BundleMismatchError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_U32 = struct.Struct("<I")
_CHUNK = 1 << 16


@dataclass(frozen=True)
class SectionContents:
    """What goes into a section; samples and digest have 32 bytes each.

    Attributes:
        artifact, file, tier: as in `Section`.
        patch: the encoded patch, or a stream of it.
        locked_sample: sample of the locked file with the runs of the patch. It is public.
        restored_sample: sample of the file after the patch, with the same runs.
        file_digest: SHA-256 of the whole file after it.
    """

    artifact: int
    file: int
    tier: int
    patch: Buffer | PatchStream = field(repr=False)
    locked_sample: bytes
    restored_sample: bytes
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
    """`write_bundle` in small parts: a large patch is in memory no second time, and the patch of a stream not at all."""
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
                length=len(start) + _size(section.patch) + TAG_SIZE,
                nonce=os.urandom(NONCE_SIZE),
                locked_sample=section.locked_sample,
            )
        )
    publisher = signing_key.public_key()
    header = BundleHeader(
        contents.bundle,
        contents.model,
        contents.model_version,
        jose.thumbprint(publisher),
        publisher,
        contents.tiers,
        contents.artifacts,
        tuple(sections),
    ).encode()
    BundleHeader.parse(header, lambda _: True)
    signed = START.pack(MAGIC, len(header)) + header
    yield signed + jose.sign(signing_key, signed)
    for place, section, start in zip(sections, contents.sections, opened, strict=True):
        encryptor = Cipher(algorithms.AES(content_keys[place.tier]), modes.GCM(place.nonce)).encryptor()
        encryptor.authenticate_additional_data(associated_data(header, place.index))
        yield encryptor.update(start)
        for part in _parts(section.patch):
            for position in range(0, len(part), _CHUNK):
                yield encryptor.update(part[position : position + _CHUNK])
        yield encryptor.finalize() + encryptor.tag


def _size(patch: Buffer | PatchStream) -> int:
    return patch.size if isinstance(patch, PatchStream) else memoryview(patch).nbytes


def _parts(patch: Buffer | PatchStream) -> Iterable[memoryview]:
    return patch.parts() if isinstance(patch, PatchStream) else (memoryview(patch).cast("B"),)


def _section_start(section: SectionContents) -> bytes:
    """The plaintext of a section before its patch."""
    after = {"sample": section.restored_sample.hex(), "file": section.file_digest.hex()}
    text = json.dumps(after, separators=(",", ":")).encode()
    return _U32.pack(len(text)) + text
