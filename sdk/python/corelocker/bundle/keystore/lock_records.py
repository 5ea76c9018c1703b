"""What published files of a model leave open: a record for each lock, inside the keystore (docs/formats.md, "Keystore")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

from corelocker.bundle import jose
from corelocker.bundle.strict_json import MAX_INTEGER, Fields

MAX_CHANNELS = 1 << 22
FINGERPRINT = 8 * 32 * 2  # bytes at most: eight channels, 32 float16 each
MAX_SEED = 4096


@dataclass(frozen=True)
class RecordedLayer:
    """What one lock took of one layer.

    Attributes:
        name: of the layer's tensor.
        channels: how many it has.
        fingerprint: by which the layer is known again: directions of sampled channels, little-endian float16.
        value, sign: bit masks of the channels of which the shipped file holds no values, or no signs. Channel 0 is the lowest
            bit of the first byte. No channel is in both.
    """

    name: str
    channels: int
    fingerprint: bytes = field(repr=False)
    value: bytes = field(repr=False)
    sign: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the keystore."""
        return {
            "name": self.name,
            "channels": self.channels,
            "fingerprint": jose.encode_base64url(self.fingerprint),
            "value": jose.encode_base64url(self.value),
            "sign": jose.encode_base64url(self.sign),
        }

    @classmethod
    def parse(cls, entry: Fields) -> Self:
        """Read it from the keystore. Raises the fields' error."""
        channels = entry.integer("channels", 1, MAX_CHANNELS)
        mask = (channels + 7) // 8
        layer = cls(
            entry.text("name", 4096),
            channels,
            entry.base64url("fingerprint", 2, FINGERPRINT),
            entry.base64url("value", mask, mask),
            entry.base64url("sign", mask, mask),
        )
        together = int.from_bytes(layer.value, "little") | int.from_bytes(layer.sign, "little")
        if together >> channels or int.from_bytes(layer.value, "little") & int.from_bytes(layer.sign, "little"):
            raise entry.refuse("the masks of a recorded layer do not fit it")
        if len(layer.fingerprint) % 2:
            raise entry.refuse("the fingerprint is not float16")
        return layer


@dataclass(frozen=True)
class LockRecord:
    """What one lock left open in the file that ships.

    Attributes:
        bundle: the key bundle that belongs to it.
        model, model_version: what was locked.
        weights: SHA-256 of sampled weights, by which exactly the same weights are known.
        seed: secret randomness of its decoys.
        layers: all that can be locked, those that stay open too.
    """

    bundle: UUID
    model: str
    model_version: int
    weights: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    layers: tuple[RecordedLayer, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the keystore."""
        return {
            "bundle": str(self.bundle),
            "model": self.model,
            "model_version": self.model_version,
            "weights": self.weights.hex(),
            "seed": jose.encode_base64url(self.seed),
            "layers": [layer.to_json() for layer in self.layers],
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
        )
