"""What a keystore keeps: the inner JSON of its file (docs/formats.md, "Keystore")."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self, TypeVar
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.bundle.content_keys import KEY_SIZE, MAX_TIERS
from corelocker.bundle.keystore.lock_records import LockRecord
from corelocker.bundle.strict_json import MAX_INTEGER, Fields
from corelocker.errors import KeystoreEntryError, KeystoreFormatError, SampleReuseError

_T = TypeVar("_T")


@dataclass(frozen=True)
class PublisherKey:
    """A signing key of the publisher.

    Attributes:
        public: the P-256 public key.
        private: its private key; None for one that was rotated out.
        created: when it was made.
    """

    public: ec.EllipticCurvePublicKey = field(repr=False)
    private: ec.EllipticCurvePrivateKey | None = field(repr=False)
    created: datetime

    @property
    def thumbprint(self) -> str:
        """The JWK thumbprint, by which bundles name their publisher."""
        return jose.thumbprint(self.public)


@dataclass(frozen=True)
class ContentKey:
    """The content key of a bundle.

    Attributes:
        bundle: the bundle's id.
        model, model_version: what it unlocks.
        tiers: names, tier 0 first.
        key: 32 bytes, of the last tier; `tier_keys` derives the others.
        samples: the samples in the bundle's header, 32 bytes each, by which devices know its locked files.
    """

    bundle: UUID
    model: str
    model_version: int
    tiers: tuple[str, ...]
    key: bytes = field(repr=False)
    samples: frozenset[bytes] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class Contents:
    """All that a keystore keeps: signing keys, the active one first, content keys and records of locks by the bundle's id."""

    publisher_keys: tuple[PublisherKey, ...] = field(repr=False)
    content_keys: dict[UUID, ContentKey] = field(repr=False)
    lock_records: dict[UUID, LockRecord] = field(default_factory=dict, repr=False)

    def adding(self, added: ContentKey, record: LockRecord | None = None, *, forget: bool = False) -> Self:
        """With the content key of a new bundle and the record of its lock.

        Args:
            forget: drop the records of the model's earlier locks.

        Raises KeystoreEntryError when the bundle has one already, SampleReuseError when a sample is that of another version of
        the model.
        """
        if added.bundle in self.content_keys:
            raise KeystoreEntryError(f"the keystore has a content key for bundle {added.bundle} already")
        for other in self.content_keys.values():
            if other.model != added.model or other.model_version == added.model_version:
                continue
            if added.samples & other.samples:
                raise SampleReuseError(
                    f"a locked file of version {added.model_version} of {added.model} looks like that of version "
                    f"{other.model_version}",
                    hint="Lock with another seed, or none, and with the fill decoy",
                )
        records = {
            bundle: earlier
            for bundle, earlier in self.lock_records.items()
            if not (forget and earlier.model == added.model)
        }
        return replace(
            self,
            content_keys={**self.content_keys, added.bundle: added},
            lock_records=records if record is None else {**records, record.bundle: record},
        )

    def encode(self) -> bytes:
        """The inner JSON."""
        publisher_keys = []
        for key in self.publisher_keys:
            entry: dict[str, Any] = {"created": key.created.isoformat(), "public": jose.public_jwk(key.public)}
            if key.private is not None:
                entry["private"] = key.private.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ).decode()
            publisher_keys.append(entry)
        content_keys = [
            {
                "bundle": str(entry.bundle),
                "model": entry.model,
                "model_version": entry.model_version,
                "tiers": list(entry.tiers),
                "key": jose.encode_base64url(entry.key),
                "samples": sorted(sample.hex() for sample in entry.samples),
            }
            for entry in self.content_keys.values()
        ]
        records = [record.to_json() for record in self.lock_records.values()]
        inner = {"signing_keys": publisher_keys, "content_keys": content_keys, "lock_records": records}
        return json.dumps(inner).encode()

    @classmethod
    def parse(cls, inner: bytes) -> Self:
        """Read the inner JSON. Raises KeystoreFormatError."""
        fields = Fields.parse(inner, "inside the keystore", KeystoreFormatError)
        publisher_keys = tuple(_publisher_key(entry) for entry in fields.objects("signing_keys"))
        if not publisher_keys:
            raise fields.refuse("there is no signing key")
        content_keys: dict[UUID, ContentKey] = {}
        for entry in fields.objects("content_keys"):
            key = ContentKey(
                _value(entry, "bundle", _uuid),
                entry.text("model", 256),
                entry.integer("model_version", 0, MAX_INTEGER),
                entry.texts("tiers", 64),
                entry.base64url("key", KEY_SIZE),
                frozenset(_samples(entry)),
            )
            if not 1 <= len(key.tiers) <= MAX_TIERS or key.bundle in content_keys:
                raise entry.refuse("the tiers are not 1 to 64, or the bundle appears twice")
            content_keys[key.bundle] = key
        records: dict[UUID, LockRecord] = {}
        for entry in fields.objects("lock_records") if "lock_records" in fields else ():
            record = LockRecord.parse(entry, _value(entry, "bundle", _uuid))
            if record.bundle in records:
                raise entry.refuse("the bundle appears twice")
            records[record.bundle] = record
        return cls(publisher_keys, content_keys, records)


def _samples(entry: Fields) -> list[bytes]:
    texts = entry.texts("samples", 64)
    try:
        samples = [bytes.fromhex(text) for text in texts]
    except ValueError:
        samples = []
    if [sample.hex() for sample in samples] != list(texts) or any(len(sample) != 32 for sample in samples):
        raise entry.refuse("the samples are not SHA-256 in lower-case hexadecimal")
    return samples


def _uuid(text: str) -> UUID:
    bundle = UUID(text)
    if str(bundle) != text:
        raise ValueError("not lower case with hyphens")
    return bundle


def _value(entry: Fields, name: str, convert: Callable[[str], _T]) -> _T:
    try:
        return convert(entry.text(name, 64))
    except ValueError:
        raise entry.refuse(f"{name} is malformed") from None


def _publisher_key(entry: Fields) -> PublisherKey:
    created = _value(entry, "created", datetime.fromisoformat)
    try:
        public = jose.key_of_jwk(entry.values.get("public"))
        pem = entry.values.get("private")
        private = None if pem is None else serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        raise entry.refuse("a signing key is not one") from None
    if private is not None and (not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != public):
        raise entry.refuse("the private and the public signing key do not fit")
    return PublisherKey(public, private, created)
