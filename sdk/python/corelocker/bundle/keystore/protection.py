"""How a keystore's key follows from a passphrase (scrypt, RFC 7914) or is kept wrapped by a key-encryption key."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from corelocker.bundle import jose
from corelocker.bundle.content_keys import KEY_SIZE
from corelocker.bundle.keystore.kek import Kek, Secret
from corelocker.bundle.strict_json import Fields
from corelocker.errors import KeystoreFormatError, KeystoreSecretError

_SALT_SIZE = 16
# One of OWASP's equivalent choices: 32 MiB and about 0.3 s. A reader takes others too, but nothing weak and nothing absurd.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 3
_LEAST_N, _MOST_MEMORY = 2**15, 1 << 30


def protection_of(fields: Fields) -> dict[str, Any]:
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


def protect(secret: Secret) -> tuple[dict[str, Any], bytes]:
    """A new key for a keystore, and how it comes from `secret`."""
    if isinstance(secret, Kek):
        key = os.urandom(KEY_SIZE)
        wrapped = jose.encode_base64url(secret.load().wrap(key))
        return {"kek": {"provider": secret.provider, "reference": secret.reference, "wrapped": wrapped}}, key
    salt = jose.encode_base64url(os.urandom(_SALT_SIZE))
    kdf = {"name": "scrypt", "n": _SCRYPT_N, "r": _SCRYPT_R, "p": _SCRYPT_P, "salt": salt}
    return {"kdf": kdf}, _derive(kdf, secret)


def unprotect(protection: dict[str, Any], secret: bytes | Callable[[], bytes] | None) -> bytes:
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
