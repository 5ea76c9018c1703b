"""The keystore: a publisher's signing keys and content keys, changed by several processes without losing anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle.keystore.container import decrypt, encrypt, locked_container, read_container
from corelocker.bundle.keystore.contents import ContentKey, Contents, PublisherKey
from corelocker.bundle.keystore.kek import Secret
from corelocker.bundle.keystore.lock_records import LockRecord
from corelocker.bundle.keystore.protection import protect, protection_of, unprotect
from corelocker.bundle.strict_json import Fields
from corelocker.errors import FileAccessError, KeystoreEntryError, KeystoreSecretError
from corelocker.files import refuse_existing, stage_file, write_atomically
from corelocker.raw_files import file_stamp


def _read(path: Path | str) -> tuple[Path, Fields, dict[str, Any]]:
    """A keystore's real path, its fields, and how its key is protected."""
    # Changes replace the file, so what a symbolic link points to must be replaced and not the link.
    real = Path(os.path.realpath(path))
    fields = read_container(real)
    return real, fields, protection_of(fields)


class Keystore:
    """An open keystore. Every change is written at once, on top of what other processes have written meanwhile."""

    def __init__(self, path: Path, protection: dict[str, Any], key: bytes, contents: Contents) -> None:
        self.path = path
        self._protection = protection
        self._key = key
        self._contents = contents

    def __repr__(self) -> str:
        return f"Keystore({str(self.path)!r})"

    @classmethod
    def create(cls, path: Path | str, secret: Secret) -> Self:
        """Make a keystore with a new signing key.

        Args:
            path: of the new file.
            secret: the passphrase, a function that asks for it, or a key-encryption key.

        Raises OutputExistsError when `path` exists, KeystoreSecretError for an empty passphrase, FileAccessError.
        """
        refuse_existing(Path(path))
        protection, key = protect(secret)
        store = cls(Path(path), protection, key, Contents((_new_publisher_key(),), {}))
        store._write(force=False)
        return store

    @classmethod
    def open(cls, path: Path | str, secret: bytes | Callable[[], bytes] | None = None) -> Self:
        """Open a keystore.

        Args:
            path: of the file.
            secret: the passphrase, or a function that asks for it, which is called only if the keystore needs one.

        Raises KeystorePermissionError when others can read the file, KeystoreFormatError when it is damaged or of another
        version, KeystoreSecretError when the secret is wrong or missing, FileAccessError.
        """
        return cls._open(*_read(path), secret)

    @classmethod
    def open_beside(
        cls, pool: Executor, path: Path | str, secret: bytes | Callable[[], bytes] | None = None
    ) -> Future[Self]:
        """Like `open`, but the key is derived in the pool: scrypt takes a quarter of a second of one core.

        Who has to be asked for a passphrase is asked here; that it is wrong, the result tells.
        """
        real, fields, protection = _read(path)
        if callable(secret) and "kdf" in protection:
            secret = secret()
        return pool.submit(cls._open, real, fields, protection, secret)

    @classmethod
    def _open(
        cls, path: Path, fields: Fields, protection: dict[str, Any], secret: bytes | Callable[[], bytes] | None
    ) -> Self:
        key = unprotect(protection, secret)
        return cls(path, protection, key, decrypt(fields, protection, key))

    @property
    def signing_key(self) -> ec.EllipticCurvePrivateKey:
        """The private key that signs bundles now."""
        active = self._contents.publisher_keys[0].private
        if active is None:
            raise KeystoreEntryError("the keystore has no signing key")
        return active

    @property
    def publisher(self) -> str:
        """JWK thumbprint of the key that signs bundles now."""
        return self._contents.publisher_keys[0].thumbprint

    @property
    def publisher_keys(self) -> tuple[PublisherKey, ...]:
        """All signing keys, the active one first, then the newest of the old ones."""
        return self._contents.publisher_keys

    @property
    def content_keys(self) -> tuple[ContentKey, ...]:
        """The content keys of all bundles, in the order in which they were added."""
        return tuple(self._contents.content_keys.values())

    def entry(self, bundle: UUID) -> ContentKey:
        """The content key of a bundle and what it is for. Raises KeystoreEntryError when there is none."""
        found = self._contents.content_keys.get(bundle)
        if found is None:
            raise KeystoreEntryError(f"the keystore has no content key for bundle {bundle}")
        return found

    def content_key(self, bundle: UUID) -> bytes:
        """The 32-byte content key of the bundle's last tier. Raises KeystoreEntryError when there is none."""
        return self.entry(bundle).key

    def add_content_key(
        self,
        bundle: UUID,
        model: str,
        model_version: int,
        tiers: tuple[str, ...],
        key: bytes,
        samples: Iterable[bytes] = (),
    ) -> None:
        """Keep the content key of a new bundle, with the samples in the bundle's header.

        Raises KeystoreEntryError when the bundle has one already, SampleReuseError when a sample is that of another version of
        the model, KeystoreFormatError for values that no bundle can have, and what `open` raises.
        """
        added = ContentKey(bundle, model, model_version, tuple(tiers), bytes(key), frozenset(samples))
        self._change(lambda contents: contents.adding(added))

    def lock_records(self, model: str | None = None) -> tuple[LockRecord, ...]:
        """What earlier locks of a model, or of all models, took, in the order in which they were added."""
        return tuple(record for record in self._contents.lock_records.values() if model in (None, record.model))

    def lock_record(self, bundle: UUID) -> LockRecord:
        """What the lock of a bundle took. Raises KeystoreEntryError when there is no record of it."""
        found = self._contents.lock_records.get(bundle)
        if found is None:
            raise KeystoreEntryError(f"the keystore has no record of what bundle {bundle} locked")
        return found

    def stage_content_key(
        self,
        bundle: UUID,
        model: str,
        model_version: int,
        tiers: tuple[str, ...],
        key: bytes,
        samples: Iterable[bytes] = (),
        record: LockRecord | None = None,
        *,
        forget: bool = False,
    ) -> StagedKey:
        """`add_content_key` in two steps, for whoever is about to write large files.

        A file system that is asked for one small file may bring all that was written before to the disk first. So the keystore
        with the new key is brought there now, under another name, and `StagedKey.commit` only renames it.

        Args:
            record: what the lock took.
            forget: drop the records of the model's earlier locks.

        Raises the same.
        """
        added = ContentKey(bundle, model, model_version, tuple(tiers), bytes(key), frozenset(samples))
        with locked_container(self.path):

            def change(contents: Contents) -> Contents:
                return contents.adding(added, record, forget=forget)

            contents = change(decrypt(self._fields(), self._protection, self._key))
            encrypted = encrypt(contents, self._protection, self._key)
            return StagedKey(self, change, contents, stage_file(self.path, encrypted, mode=0o600))

    def remove_content_key(self, bundle: UUID) -> None:
        """Forget the content key of a bundle, which then nobody can license. Raises KeystoreEntryError without one."""

        def remove(contents: Contents) -> Contents:
            if bundle not in contents.content_keys:
                raise KeystoreEntryError(f"the keystore has no content key for bundle {bundle}")
            return replace(contents, content_keys={k: v for k, v in contents.content_keys.items() if k != bundle})

        self._change(remove)

    def rotate_signing_key(self, *, keep_private: bool = False) -> str:
        """Make a new signing key; apps must pin its thumbprint, which is returned, before bundles signed with it ship.

        Old public keys stay, their private keys only with `keep_private`.
        """

        def rotate(contents: Contents) -> Contents:
            old = contents.publisher_keys
            old = old if keep_private else tuple(replace(key, private=None) for key in old)
            return replace(contents, publisher_keys=(_new_publisher_key(), *old))

        self._change(rotate)
        return self.publisher

    def change_secret(self, secret: Secret) -> None:
        """Encrypt the keystore under another passphrase or key-encryption key."""
        self._change(lambda contents: contents, protect(secret))

    def _change(
        self, change: Callable[[Contents], Contents], protection: tuple[dict[str, Any], bytes] | None = None
    ) -> None:
        with locked_container(self.path):
            fields = self._fields()
            before = self._protection, self._key, self._contents
            try:
                self._contents = change(decrypt(fields, self._protection, self._key))
                if protection is not None:
                    self._protection, self._key = protection
                self._write(force=True)
            except BaseException:
                self._protection, self._key, self._contents = before
                raise

    def _fields(self) -> Fields:
        """The file as it is now. Raises KeystoreSecretError when this object cannot open it any more."""
        fields = read_container(self.path)
        if protection_of(fields) != self._protection:
            raise KeystoreSecretError("the keystore has got another secret meanwhile", hint="Open it again")
        return fields

    def _write(self, *, force: bool) -> None:
        with write_atomically(self.path, force=force, mode=0o600) as file:
            file.write(encrypt(self._contents, self._protection, self._key))


class StagedKey:
    """A content key that is on the disk and not yet in the keystore (`Keystore.stage_content_key`)."""

    def __init__(self, store: Keystore, change: Callable[[Contents], Contents], contents: Contents, file: Path) -> None:
        self._store, self._change, self._contents, self._file = store, change, contents, file
        self._replaces = _stamp(store.path)

    def commit(self) -> None:
        """Put the key into the keystore. Raises what `Keystore.add_content_key` raises."""
        path = self._store.path
        with locked_container(path):
            unchanged = _stamp(path) == self._replaces
            if unchanged:
                try:
                    os.replace(self._file, path)
                except OSError as error:
                    raise FileAccessError(f"{path}: cannot be written: {error.strerror or error}") from None
                self._store._contents = self._contents
        if not unchanged:
            # Somebody else has changed the keystore meanwhile.
            self.discard()
            self._store._change(self._change)

    def discard(self) -> None:
        """Leave the keystore as it is; after `commit` this does nothing."""
        self._file.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        return file_stamp(os.stat(path))
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None


def _new_publisher_key() -> PublisherKey:
    private = ec.generate_private_key(ec.SECP256R1())
    return PublisherKey(private.public_key(), private, datetime.now(UTC).replace(microsecond=0))
