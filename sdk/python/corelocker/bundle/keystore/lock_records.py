"""What published files of a model leave open: a record for each lock, inside the keystore (docs/formats.md, "Keystore")."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self
from uuid import UUID

from corelocker.bundle import jose
from corelocker.bundle.content_keys import MAX_TIERS
from corelocker.bundle.strict_json import MAX_INTEGER, Fields

MAX_CHANNELS = 1 << 22
FINGERPRINT = 8 * 32 * 2  # bytes at most: eight channels, 32 float16 each
MAX_SEED = 4096
MAX_ELEMENTS = 1 << 32
MAX_KEPT = 1 << 16  # bytes; where the weights that keep their signs take more, they are not listed

MAX_PLACES = 64


@dataclass(frozen=True)
class RecordedLayer:
    """What one lock took of one layer.

    Attributes:
        name: of the layer's tensor.
        channels: how many it has.
        fingerprint: by which the layer is known again: directions of sampled channels, little-endian float16.
        value, sign: bit masks of the channels of which the shipped file holds no values, or no signs. Channel 0 is the lowest
            bit of the first byte. No channel is in both.
        elements: weights of a channel; 0 where neither of what follows is there.
        inputs, columns: how many input channels the layer has, and bit mask of those whose weights in all channels are not in the
            file, as `--consumers` takes them; 0 and empty where there are none.
        kept: zlib stream (RFC 1950) of a bit mask over all weights, channel by channel: those that a lock by sign leaves as they
            are, because they are 0 or have no negative. Empty where there are none, or too many to list.
    """

    name: str
    channels: int
    fingerprint: bytes = field(repr=False)
    value: bytes = field(repr=False)
    sign: bytes = field(repr=False)
    elements: int = 0
    inputs: int = 0
    columns: bytes = field(default=b"", repr=False)
    kept: bytes = field(default=b"", repr=False)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the keystore."""
        document: dict[str, Any] = {
            "name": self.name,
            "channels": self.channels,
            "fingerprint": jose.encode_base64url(self.fingerprint),
            "value": jose.encode_base64url(self.value),
            "sign": jose.encode_base64url(self.sign),
        }
        if self.columns or self.kept:
            document["elements"] = self.elements
        if self.columns:
            document |= {"inputs": self.inputs, "columns": jose.encode_base64url(self.columns)}
        if self.kept:
            document["kept"] = jose.encode_base64url(self.kept)
        return document

    @classmethod
    def parse(cls, entry: Fields) -> Self:
        """Read it from the keystore. Raises the fields' error."""
        channels = entry.integer("channels", 1, MAX_CHANNELS)
        mask = (channels + 7) // 8
        inputs = entry.integer("inputs", 1, MAX_CHANNELS) if "columns" in entry else 0
        columns = (inputs + 7) // 8
        layer = cls(
            entry.text("name", 4096),
            channels,
            entry.base64url("fingerprint", 2, FINGERPRINT),
            entry.base64url("value", mask, mask),
            entry.base64url("sign", mask, mask),
            entry.integer("elements", 1, MAX_ELEMENTS) if "columns" in entry or "kept" in entry else 0,
            inputs,
            entry.base64url("columns", columns, columns) if inputs else b"",
            entry.base64url("kept", 1, MAX_KEPT) if "kept" in entry else b"",
        )
        together = int.from_bytes(layer.value, "little") | int.from_bytes(layer.sign, "little")
        if together >> channels or int.from_bytes(layer.value, "little") & int.from_bytes(layer.sign, "little"):
            raise entry.refuse("the masks of a recorded layer do not fit it")
        if int.from_bytes(layer.columns, "little") >> inputs or (inputs and layer.elements % inputs):
            raise entry.refuse("the columns of a recorded layer do not fit it")
        if layer.kept and not _unpacks_to(layer.kept, (channels * layer.elements + 7) // 8):
            raise entry.refuse("kept is no mask of a recorded layer")
        if len(layer.fingerprint) % 2:
            raise entry.refuse("the fingerprint is not float16")
        return layer


def _unpacks_to(stream: bytes, size: int) -> bool:
    """Whether a zlib stream holds exactly `size` bytes and nothing follows it."""
    reader = zlib.decompressobj()
    try:
        return len(reader.decompress(stream, size + 1)) == size and reader.eof and not reader.unused_data
    except zlib.error:
        return False


@dataclass(frozen=True)
class RecordedFile:
    """By what a locked file is known again, wherever it lies: its samples with runs of one byte (docs/formats.md, "Sample").

    Attributes:
        size: bytes of the file.
        places: where the runs lie, ascending; a byte stands there that is not the original's.
        samples: 32 bytes for each state but the original, the one that ships first. None is that of the original.
    """

    size: int
    places: tuple[int, ...] = field(repr=False)
    samples: tuple[bytes, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the keystore."""
        return {
            "size": self.size,
            "places": jose.encode_base64url(struct.pack(f"<{len(self.places)}Q", *self.places)),
            "samples": jose.encode_base64url(b"".join(self.samples)),
        }

    @classmethod
    def parse(cls, entry: Fields) -> Self:
        """Read it from the keystore. Raises the fields' error."""
        size = entry.integer("size", 1, MAX_INTEGER)
        places = entry.base64url("places", 8, 8 * MAX_PLACES)
        samples = entry.base64url("samples", 32, 32 * (MAX_TIERS - 1))
        if len(places) % 8 or len(samples) % 32:
            raise entry.refuse("the places or samples of a recorded file are cut off")
        offsets = struct.unpack(f"<{len(places) // 8}Q", places)
        if any(a >= b for a, b in pairwise((*offsets, size))):
            raise entry.refuse("the places of a recorded file do not ascend inside it")
        return cls(size, offsets, tuple(samples[i : i + 32] for i in range(0, len(samples), 32)))


@dataclass(frozen=True)
class LockRecord:
    """What one lock left open in the file that ships.

    Attributes:
        bundle: the key bundle that belongs to it.
        model, model_version: what was locked.
        weights: SHA-256 of sampled weights, by which exactly the same weights are known.
        seed: secret randomness of its decoys.
        layers: all that can be locked, those that stay open too.
        files: what was written; none in the record of an early release, or where no byte changed in the places that are looked at.
    """

    bundle: UUID
    model: str
    model_version: int
    weights: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    layers: tuple[RecordedLayer, ...] = field(repr=False)
    files: tuple[RecordedFile, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the keystore."""
        return {
            "bundle": str(self.bundle),
            "model": self.model,
            "model_version": self.model_version,
            "weights": self.weights.hex(),
            "seed": jose.encode_base64url(self.seed),
            "layers": [layer.to_json() for layer in self.layers],
            "files": [file.to_json() for file in self.files],
        }

    @classmethod
    def parse(cls, entry: Fields, bundle: UUID) -> Self:
        """Read it from the keystore. Raises the fields' error."""
        return cls(
            bundle,
            entry.text("model", 256),
            entry.integer("model_version", 0, MAX_INTEGER),
            entry.sha256("weights"),
            entry.base64url("seed", 1, MAX_SEED),
            tuple(RecordedLayer.parse(layer) for layer in entry.objects("layers")),
            tuple(RecordedFile.parse(file) for file in entry.objects("files")) if "files" in entry else (),
        )
