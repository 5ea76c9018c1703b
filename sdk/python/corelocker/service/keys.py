"""Where the service's signing key and the content keys come from: a keystore file, or a provider such as an HSM.

The service has a keystore of its own, in the publisher's format: its signing keys sign licenses, and of the content
keys it holds those that it may release. So the publisher's keystore, whose key signs bundles, never has to be on the
machine that faces the internet. Rotation: `corelocker keystore rotate --signing-key --keep-private` on that file makes
a new signing key, while the configuration names the old one; apps trust several, and once those that trust the new one
are out, the service is restarted with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle.content_keys import tier_keys
from corelocker.bundle.keystore import Keystore, read_passphrase
from corelocker.errors import KeystoreEntryError
from corelocker.licensing.tokens import Signer, SoftwareSigner
from corelocker.service.config import KeysConfig

PASSPHRASE_VARIABLE = "CORELOCKER_SERVICE_PASSPHRASE"  # noqa: S105 - a name, not a secret


@dataclass(frozen=True)
class BundleInfo:
    """A bundle that there is a content key for.

    Attributes:
        bundle: its id (UUID, lower case).
        model, model_version: what it unlocks.
        tiers: names, the one that ships first.
    """

    bundle: str
    model: str
    model_version: int
    tiers: tuple[str, ...]


class KeyProvider(Protocol):
    """What the service needs of its secrets; used by several threads at once."""

    @property
    def signer(self) -> Signer:
        """Signs licenses."""

    @property
    def bundles(self) -> Mapping[str, BundleInfo]:
        """By bundle id, fixed at start."""

    def content_key(self, bundle: str, tier: str) -> bytes:
        """The 32-byte content key of a tier of a bundle in `bundles`. Raises KeystoreEntryError without one."""

    def check(self) -> None:
        """Raise a CoreLockerError when the keys cannot be used now (an HSM that is gone)."""


class KeystoreKeys:
    """Keys from an open keystore; they stay in memory.

    `signing_key` is the thumbprint of the key that signs, its newest one if not given. Raises KeystoreEntryError when
    the keystore has not got the private part of that key.
    """

    def __init__(self, keystore: Keystore, signing_key: str | None = None) -> None:
        self._signer = SoftwareSigner(_private(keystore, signing_key))
        self._bundles: dict[str, BundleInfo] = {}
        self._keys: dict[tuple[str, str], bytes] = {}
        for entry in keystore.content_keys:
            name = str(entry.bundle)
            self._bundles[name] = BundleInfo(name, entry.model, entry.model_version, entry.tiers)
            keys = tier_keys(entry.key, entry.bundle, len(entry.tiers))
            self._keys |= {(name, tier): key for tier, key in zip(entry.tiers, keys, strict=True)}

    def __repr__(self) -> str:
        return f"KeystoreKeys({len(self._bundles)} bundles)"

    @property
    def signer(self) -> Signer:
        """Signs licenses."""
        return self._signer

    @property
    def bundles(self) -> Mapping[str, BundleInfo]:
        """By bundle id."""
        return self._bundles

    def content_key(self, bundle: str, tier: str) -> bytes:
        """The content key of a tier. Raises KeystoreEntryError when there is none."""
        key = self._keys.get((bundle, tier))
        if key is None:
            raise KeystoreEntryError(f"the keystore has no content key for tier {tier} of bundle {bundle}")
        return key

    def check(self) -> None:
        """Nothing can go wrong once they are in memory."""


def open_keys(config: KeysConfig) -> KeyProvider:
    """The keys that a configuration names. Raises KeystoreError, FileAccessError or ConfigError."""
    keystore = open_service_keystore(config)
    if config.pkcs11 is not None:
        from corelocker.service.pkcs11 import Pkcs11Keys

        return Pkcs11Keys(config.pkcs11, keystore)
    return KeystoreKeys(keystore, config.signing_key)


def _private(keystore: Keystore, thumbprint: str | None) -> ec.EllipticCurvePrivateKey:
    if thumbprint is None:
        return keystore.signing_key
    for key in keystore.publisher_keys:
        if key.thumbprint == thumbprint and key.private is not None:
            return key.private
    raise KeystoreEntryError(f"the keystore has no private key {thumbprint}")


def open_service_keystore(config: KeysConfig) -> Keystore:
    """The service's keystore. Raises KeystoreError or FileAccessError."""
    return Keystore.open(config.keystore, lambda: _passphrase(config))


def _passphrase(config: KeysConfig) -> bytes:
    return read_passphrase(
        file=config.passphrase_file,
        variable=PASSPHRASE_VARIABLE,
        question=f"Passphrase of {config.keystore}",
    )
