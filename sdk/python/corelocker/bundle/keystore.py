"""The keystore: a publisher's signing keys and content keys in one encrypted file (DESIGN.md, "Keystore").

The file is JSON. Either "kdf" says how its key follows from a passphrase (scrypt, RFC 7914), or "kek" holds its key, a random
one, wrapped by a key-encryption-key provider. "ciphertext" is AES-256-GCM of the inner JSON; "format", "version", "nonce"
and "kdf" or "kek" are its associated data. Only its owner can read the file, and it is replaced as a whole.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from corelocker.bundle import jose
from corelocker.bundle.content_keys import KEY_SIZE, MAX_TIERS
from corelocker.bundle.strict_json import MAX_INTEGER, Fields
from corelocker.digests import file_stamp
from corelocker.errors import (
    FileAccessError,
    KeystoreEntryError,
    KeystoreFormatError,
    KeystorePermissionError,
    KeystoreSecretError,
)
from corelocker.files import stage_file, write_atomically

FORMAT = "corelocker-keystore"
VERSION = 1
KEK_PROVIDERS = "corelocker.kek_providers"

_MAX_SIZE = 16 << 20
_MAX_PASSPHRASE = 4096
_SALT_SIZE = 16
_NONCE_SIZE = 12
# One of OWASP's equivalent choices: 32 MiB and about 0.3 s. A reader takes others too, but nothing weak and nothing absurd.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 3
_LEAST_N, _MOST_MEMORY = 2**15, 1 << 30

_T = TypeVar("_T")


# --- what is in a keystore -----------------------------------------------------------------------


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
    """

    bundle: UUID
    model: str
    model_version: int
    tiers: tuple[str, ...]
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class _Contents:
    publisher_keys: tuple[PublisherKey, ...] = field(repr=False)
    content_keys: dict[UUID, ContentKey] = field(repr=False)


# --- where the file's key comes from -------------------------------------------------------------


class KekProvider(Protocol):
    """Wraps keystore keys under a key that stays elsewhere (a key management service, a hardware module).

    A provider is made by calling its entry point in the group "corelocker.kek_providers" with a reference, the text that
    names the key-encryption key there; provider name and reference stand in the keystore in clear.
    """

    def wrap(self, key: bytes) -> bytes:
        """The 32-byte `key`, encrypted and authenticated; at most 8 KiB."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """The key that `wrap` was given. Raises KeystoreSecretError when `wrapped` is not from this provider's key."""


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
        key = _read_private(self._path, KEY_SIZE)
        if len(key) != KEY_SIZE:
            raise KeystoreSecretError(f"{self._path}: a key file has {KEY_SIZE} bytes, not {len(key)}")
        return key


@dataclass(frozen=True)
class Kek:
    """A key-encryption key: the name of its provider and the provider's reference to it."""

    provider: str
    reference: str

    def load(self) -> KekProvider:
        """The provider. Raises KeystoreSecretError when it is not installed."""
        if self.provider == "file":
            return FileKek(self.reference)
        from importlib.metadata import entry_points  # slow to import, and seldom needed

        for entry in entry_points(group=KEK_PROVIDERS, name=self.provider):
            factory: Callable[[str], KekProvider] = entry.load()
            return factory(self.reference)
        raise KeystoreSecretError(f"the key-encryption-key provider {self.provider!r} is not installed")


Secret = bytes | Kek | Callable[[], bytes]


def read_passphrase(
    *, file: Path | None = None, variable: str | None = None, question: str = "Passphrase", confirm: bool = False
) -> bytes:
    """A passphrase from a file, else from an environment variable that is set, else from the terminal.

    Args:
        file: one line break at its end does not count. Build systems mount secrets with modes of their own, so the mode is
            not checked.
        variable: name of the environment variable.
        question: the prompt.
        confirm: whether to ask twice.

    Raises KeystoreSecretError when there is none, it is empty, or two answers differ, FileAccessError for a file that cannot
    be read.
    """
    if file is not None:
        passphrase = _read_small(file, _MAX_PASSPHRASE).removesuffix(b"\n").removesuffix(b"\r")
    elif variable is not None and variable in os.environ:
        passphrase = os.environb[variable.encode()]
    elif sys.stdin is not None and sys.stdin.isatty():
        try:
            passphrase = getpass.getpass(f"{question}: ").encode()
            if confirm and getpass.getpass(f"{question} (again): ").encode() != passphrase:
                raise KeystoreSecretError("the two passphrases differ")
        except EOFError:
            raise KeystoreSecretError("no passphrase was given") from None
    else:
        sources = "a file" if variable is None else f"a file or the variable {variable}"
        raise KeystoreSecretError("no passphrase, and no terminal to ask for one", hint=f"Give it in {sources}")
    if not passphrase:
        raise KeystoreSecretError("the passphrase is empty")
    return passphrase


# --- the keystore --------------------------------------------------------------------------------


class Keystore:
    """An open keystore. Every change is written at once, on top of what other processes have written meanwhile."""

    def __init__(self, path: Path, protection: dict[str, Any], key: bytes, contents: _Contents) -> None:
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
        protection, key = _protect(secret)
        store = cls(Path(path), protection, key, _Contents((_new_publisher_key(),), {}))
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
        # Changes replace the file, so what a symbolic link points to must be replaced and not the link.
        path = Path(os.path.realpath(path))
        fields = _read(path)
        protection = _protection_of(fields)
        key = _unprotect(protection, secret)
        return cls(path, protection, key, _decrypt(fields, protection, key))

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

    def add_content_key(self, bundle: UUID, model: str, model_version: int, tiers: tuple[str, ...], key: bytes) -> None:
        """Keep the content key of a new bundle.

        Raises KeystoreEntryError when the bundle has one already, KeystoreFormatError for values that no bundle can have,
        and what `open` raises.
        """
        self._change(_adding(ContentKey(bundle, model, model_version, tuple(tiers), bytes(key))))

    def stage_content_key(
        self, bundle: UUID, model: str, model_version: int, tiers: tuple[str, ...], key: bytes
    ) -> StagedKey:
        """`add_content_key` in two steps, for whoever is about to write large files.

        A file system that is asked for one small file may bring all that was written before to the disk first. So the keystore
        with the new key is brought there now, under another name, and `StagedKey.commit` only renames it. Raises the same.
        """
        add = _adding(ContentKey(bundle, model, model_version, tuple(tiers), bytes(key)))
        with _locked(self.path):
            contents = add(_decrypt(self._fields(), self._protection, self._key))
            return StagedKey(self, add, contents, stage_file(self.path, self._encrypted(contents), mode=0o600))

    def remove_content_key(self, bundle: UUID) -> None:
        """Forget the content key of a bundle, which then nobody can license. Raises KeystoreEntryError without one."""

        def remove(contents: _Contents) -> _Contents:
            if bundle not in contents.content_keys:
                raise KeystoreEntryError(f"the keystore has no content key for bundle {bundle}")
            return replace(contents, content_keys={k: v for k, v in contents.content_keys.items() if k != bundle})

        self._change(remove)

    def rotate_signing_key(self, *, keep_private: bool = False) -> str:
        """Make a new signing key; apps must pin its thumbprint, which is returned, before bundles signed with it ship.

        Old public keys stay, their private keys only with `keep_private`.
        """

        def rotate(contents: _Contents) -> _Contents:
            old = contents.publisher_keys
            old = old if keep_private else tuple(replace(key, private=None) for key in old)
            return replace(contents, publisher_keys=(_new_publisher_key(), *old))

        self._change(rotate)
        return self.publisher

    def change_secret(self, secret: Secret) -> None:
        """Encrypt the keystore under another passphrase or key-encryption key."""
        self._change(lambda contents: contents, _protect(secret))

    def _change(
        self, change: Callable[[_Contents], _Contents], protection: tuple[dict[str, Any], bytes] | None = None
    ) -> None:
        with _locked(self.path):
            fields = self._fields()
            before = self._protection, self._key, self._contents
            try:
                self._contents = change(_decrypt(fields, self._protection, self._key))
                if protection is not None:
                    self._protection, self._key = protection
                self._write(force=True)
            except BaseException:
                self._protection, self._key, self._contents = before
                raise

    def _fields(self) -> Fields:
        """The file as it is now. Raises KeystoreSecretError when this object cannot open it any more."""
        fields = _read(self.path)
        if _protection_of(fields) != self._protection:
            raise KeystoreSecretError("the keystore has got another secret meanwhile", hint="Open it again")
        return fields

    def _write(self, *, force: bool) -> None:
        with write_atomically(self.path, force=force, mode=0o600) as file:
            file.write(self._encrypted(self._contents))

    def _encrypted(self, contents: _Contents) -> bytes:
        inner = _encode(contents)
        _parse(inner)
        members = {"format": FORMAT, "version": VERSION, **self._protection}
        members["nonce"] = jose.encode_base64url(nonce := os.urandom(_NONCE_SIZE))
        ciphertext = AESGCM(self._key).encrypt(nonce, inner, _canonical(members))
        members["ciphertext"] = jose.encode_base64url(ciphertext)
        text = json.dumps(members, indent=1).encode() + b"\n"
        if len(text) > _MAX_SIZE:
            raise KeystoreFormatError(f"the keystore would have {len(text)} bytes, more than {_MAX_SIZE}")
        return text


class StagedKey:
    """A content key that is on the disk and not yet in the keystore (`Keystore.stage_content_key`)."""

    def __init__(self, store: Keystore, add: Callable[[_Contents], _Contents], contents: _Contents, file: Path) -> None:
        self._store, self._add, self._contents, self._file = store, add, contents, file
        self._replaces = _stamp(store.path)

    def commit(self) -> None:
        """Put the key into the keystore. Raises what `Keystore.add_content_key` raises."""
        path = self._store.path
        with _locked(path):
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
            self._store._change(self._add)

    def discard(self) -> None:
        """Leave the keystore as it is; after `commit` this does nothing."""
        self._file.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        return file_stamp(os.stat(path))
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None


def _adding(added: ContentKey) -> Callable[[_Contents], _Contents]:
    def add(contents: _Contents) -> _Contents:
        if added.bundle in contents.content_keys:
            raise KeystoreEntryError(f"the keystore has a content key for bundle {added.bundle} already")
        return replace(contents, content_keys={**contents.content_keys, added.bundle: added})

    return add


def _new_publisher_key() -> PublisherKey:
    private = ec.generate_private_key(ec.SECP256R1())
    return PublisherKey(private.public_key(), private, datetime.now(UTC).replace(microsecond=0))


# --- the outer file ------------------------------------------------------------------------------


def _read_private(path: Path, longest: int) -> bytes:
    """The bytes of a small file that only its owner may read."""
    return _read_small(path, longest, private=True)


def _read_small(path: Path, longest: int, *, private: bool = False) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            if private and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise KeystorePermissionError(f"{path} can be read by others", hint=f"Run: chmod 600 {path}")
            data = b""
            while len(data) <= longest and (more := file.read(longest + 1 - len(data))):
                data += more
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if len(data) > longest:
        raise KeystoreFormatError(f"{path} has more than {longest} bytes")
    return data


def _read(path: Path) -> Fields:
    fields = Fields.parse(_read_private(path, _MAX_SIZE), "keystore", KeystoreFormatError)
    if fields.values.get("format") != FORMAT:
        raise fields.refuse(f"format is not {FORMAT!r}")
    if fields.integer("version", 0, MAX_INTEGER) != VERSION:
        raise fields.refuse(f"version is not {VERSION}; update CoreLocker")
    return fields


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the one lock on the keystore. Each change replaces the file, so a lock may turn out to be on an old one."""
    while True:
        with ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("r+b"))
                fcntl.flock(file, fcntl.LOCK_EX)
                current = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except OSError as error:
                raise FileAccessError(f"{path}: cannot be changed: {error.strerror or error}") from None
            if current:
                yield
                return


def _canonical(members: dict[str, Any]) -> bytes:
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


def _protection_of(fields: Fields) -> dict[str, Any]:
    """The member "kdf" or "kek", checked and without unknown fields."""
    if ("kdf" in fields) == ("kek" in fields):
        raise fields.refuse("it must have either kdf or kek")
    if "kek" in fields:
        kek = fields.child("kek")
        wrapped = jose.encode_base64url(kek.base64url("wrapped", 1, 8192))
        return {
            "kek": {"provider": kek.text("provider", 64), "reference": kek.text("reference", 1024), "wrapped": wrapped}
        }
    kdf = fields.child("kdf")
    if kdf.text("name", 16) != "scrypt":
        raise kdf.refuse("name is not scrypt")
    n, r, p = kdf.integer("n", _LEAST_N, 2**24), kdf.integer("r", 8, 64), kdf.integer("p", 1, 16)
    # Without the bound a hostile file would take all memory; without the least n it would have us save with a weak one.
    if n & (n - 1) or 128 * n * r * p > _MOST_MEMORY:
        raise kdf.refuse("n is not a power of two, or n, r and p ask for too much")
    salt = jose.encode_base64url(kdf.base64url("salt", _SALT_SIZE, 64))
    return {"kdf": {"name": "scrypt", "n": n, "r": r, "p": p, "salt": salt}}


def _protect(secret: Secret) -> tuple[dict[str, Any], bytes]:
    """A new key for a keystore, and how it comes from `secret`."""
    if isinstance(secret, Kek):
        key = os.urandom(KEY_SIZE)
        wrapped = jose.encode_base64url(secret.load().wrap(key))
        return {"kek": {"provider": secret.provider, "reference": secret.reference, "wrapped": wrapped}}, key
    salt = jose.encode_base64url(os.urandom(_SALT_SIZE))
    kdf = {"name": "scrypt", "n": _SCRYPT_N, "r": _SCRYPT_R, "p": _SCRYPT_P, "salt": salt}
    return {"kdf": kdf}, _derive(kdf, secret)


def _unprotect(protection: dict[str, Any], secret: bytes | Callable[[], bytes] | None) -> bytes:
    """The key of an existing keystore."""
    if "kdf" in protection:
        if secret is None:
            raise KeystoreSecretError("the keystore needs a passphrase")
        return _derive(protection["kdf"], secret)
    kek = protection["kek"]
    key = Kek(kek["provider"], kek["reference"]).load().unwrap(jose.decode_base64url(kek["wrapped"]))
    if len(key) != KEY_SIZE:
        raise KeystoreSecretError("the key-encryption-key provider gave a key of another size")
    return key


def _derive(kdf: dict[str, Any], secret: bytes | Callable[[], bytes]) -> bytes:
    passphrase = secret() if callable(secret) else secret
    if not passphrase:
        raise KeystoreSecretError("the passphrase is empty")
    salt = jose.decode_base64url(kdf["salt"])
    try:
        return Scrypt(salt=salt, length=KEY_SIZE, n=kdf["n"], r=kdf["r"], p=kdf["p"]).derive(passphrase)
    except MemoryError:
        raise KeystoreFormatError("not enough memory for the scrypt parameters of the keystore") from None


def _decrypt(fields: Fields, protection: dict[str, Any], key: bytes) -> _Contents:
    nonce = fields.base64url("nonce", _NONCE_SIZE)
    ciphertext = fields.base64url("ciphertext", 16, _MAX_SIZE)
    members = {"format": FORMAT, "version": VERSION, **protection, "nonce": jose.encode_base64url(nonce)}
    try:
        inner = AESGCM(key).decrypt(nonce, ciphertext, _canonical(members))
    except InvalidTag:
        raise KeystoreSecretError(
            "the keystore does not open", hint="The passphrase or key-encryption key is another, or the file is damaged"
        ) from None
    return _parse(inner)


# --- the inner JSON ------------------------------------------------------------------------------


def _encode(contents: _Contents) -> bytes:
    publisher_keys = []
    for key in contents.publisher_keys:
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
        }
        for entry in contents.content_keys.values()
    ]
    return json.dumps({"signing_keys": publisher_keys, "content_keys": content_keys}).encode()


def _parse(inner: bytes) -> _Contents:
    fields = Fields.parse(inner, "inside the keystore", KeystoreFormatError)
    publisher_keys = tuple(_publisher_key(entry) for entry in fields.objects("signing_keys"))
    if not publisher_keys:
        raise fields.refuse("there is no signing key")
    content_keys: dict[UUID, ContentKey] = {}
    for entry in fields.objects("content_keys"):
        key = ContentKey(
            _value(entry, "bundle", UUID),
            entry.text("model", 256),
            entry.integer("model_version", 0, MAX_INTEGER),
            entry.texts("tiers", 64),
            entry.base64url("key", KEY_SIZE),
        )
        if not 1 <= len(key.tiers) <= MAX_TIERS or key.bundle in content_keys:
            raise entry.refuse("the tiers are not 1 to 64, or the bundle appears twice")
        content_keys[key.bundle] = key
    return _Contents(publisher_keys, content_keys)


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
