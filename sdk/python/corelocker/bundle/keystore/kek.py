"""Keystore keys under a key that stays elsewhere: in a file, a key management service, a hardware module."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import keywrap

from corelocker.bundle.content_keys import KEY_SIZE
from corelocker.bundle.keystore.small_files import read_small
from corelocker.errors import KeystoreSecretError, MissingExtraError
from corelocker.files import write_atomically

KEK_PROVIDERS = "corelocker.kek_providers"


class KekProvider(Protocol):
    """Wraps keystore keys under a key that stays elsewhere (a key management service, a hardware module).

    A provider is made by calling its entry point in the group "corelocker.kek_providers" with a reference, the text that
    names the key-encryption key there; provider name and reference stand in the keystore in clear.
    """

    def wrap(self, key: bytes) -> bytes:
        """The 32-byte `key`, encrypted and authenticated; at most 8 KiB. Raises KeystoreAwayError when another try may help."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """The key that `wrap` was given.

        Raises KeystoreSecretError when `wrapped` is not from this provider's key, KeystoreAwayError when another try may help.
        """


class FileKek:
    """The built-in provider "file": AES key wrap (RFC 3394) under 32 bytes in a file that only its owner can read.

    The reference is the file's path. The key file is read when a key is wrapped or unwrapped.
    """

    def __init__(self, reference: str) -> None:
        self._path = Path(reference)

    @staticmethod
    def generate(path: Path) -> None:
        """Write a new key file. Raises OutputExistsError when there is one."""
        with write_atomically(path, mode=0o600) as file:
            file.write(os.urandom(KEY_SIZE))

    def wrap(self, key: bytes) -> bytes:
        return keywrap.aes_key_wrap(self._key(), key)

    def unwrap(self, wrapped: bytes) -> bytes:
        try:
            return keywrap.aes_key_unwrap(self._key(), wrapped)
        except (keywrap.InvalidUnwrap, ValueError):
            raise KeystoreSecretError(f"{self._path}: the key in this file does not open the keystore") from None

    def _key(self) -> bytes:
        key = read_small(self._path, KEY_SIZE, private=True)
        if len(key) != KEY_SIZE:
            raise KeystoreSecretError(f"{self._path}: a key file has {KEY_SIZE} bytes, not {len(key)}")
        return key


@dataclass(frozen=True)
class Kek:
    """A key-encryption key: the name of its provider and the provider's reference to it."""

    provider: str
    reference: str

    def load(self) -> KekProvider:
        """The provider. Raises KeystoreSecretError when it is not installed, MissingExtraError when what it needs is not."""
        if self.provider == "file":
            return FileKek(self.reference)
        from importlib.metadata import entry_points  # slow to import, and seldom needed

        for entry in entry_points(group=KEK_PROVIDERS, name=self.provider):
            try:
                factory: Callable[[str], KekProvider] = entry.load()
            except ImportError as error:
                missing = (error.name or "a package").partition(".")[0]
                message = f"the key-encryption-key provider {self.provider!r} needs {missing}, which is not installed"
                own = entry.value.startswith("corelocker.")
                raise MissingExtraError(message, hint="pip install 'corelocker[service]'" if own else None) from None
            return factory(self.reference)
        raise KeystoreSecretError(f"the key-encryption-key provider {self.provider!r} is not installed")


Secret = bytes | Kek | Callable[[], bytes]
