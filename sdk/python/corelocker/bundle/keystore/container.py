"""The keystore's file: JSON with an encrypted part, which only its owner can read and which is replaced as a whole.

Either "kdf" says how its key follows from a passphrase, or "kek" holds its key, a random one, wrapped by a key-encryption-key
provider. "ciphertext" is AES-256-GCM of the inner JSON. Its associated data is the canonical JSON of the other members
(docs/formats.md, "Keystore").
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from corelocker.bundle import jose
from corelocker.bundle.keystore.contents import Contents
from corelocker.bundle.keystore.small_files import read_small
from corelocker.bundle.strict_json import MAX_INTEGER, Fields
from corelocker.errors import FileAccessError, KeystoreFormatError, KeystoreSecretError

FORMAT = "corelocker-keystore"
VERSION = 2

_MAX_SIZE = 16 << 20
_NONCE_SIZE = 12


def read_container(path: Path) -> Fields:
    """The members of the file. Raises KeystoreFormatError, KeystorePermissionError or FileAccessError."""
    fields = Fields.parse(read_small(path, _MAX_SIZE, private=True), "keystore", KeystoreFormatError)
    if fields.values.get("format") != FORMAT:
        raise fields.refuse(f"format is not {FORMAT!r}")
    if fields.integer("version", 0, MAX_INTEGER) != VERSION:
        raise fields.refuse(f"version is not {VERSION}, the one that this release reads")
    return fields


@contextmanager
def locked_container(path: Path) -> Iterator[None]:
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


def encrypt(contents: Contents, protection: dict[str, Any], key: bytes) -> bytes:
    """The file's bytes. Raises KeystoreFormatError for what a reader would refuse."""
    inner = contents.encode()
    Contents.parse(inner)
    members = {"format": FORMAT, "version": VERSION, **protection}
    members["nonce"] = jose.encode_base64url(nonce := os.urandom(_NONCE_SIZE))
    ciphertext = AESGCM(key).encrypt(nonce, inner, _canonical(members))
    members["ciphertext"] = jose.encode_base64url(ciphertext)
    text = json.dumps(members, indent=1).encode() + b"\n"
    if len(text) > _MAX_SIZE:
        raise KeystoreFormatError(f"the keystore would have {len(text)} bytes, more than {_MAX_SIZE}")
    return text


def decrypt(fields: Fields, protection: dict[str, Any], key: bytes) -> Contents:
    """What the file keeps. Raises KeystoreSecretError when the key is another or the file was changed, KeystoreFormatError."""
    nonce = fields.base64url("nonce", _NONCE_SIZE)
    ciphertext = fields.base64url("ciphertext", 16, _MAX_SIZE)
    members = {"format": FORMAT, "version": VERSION, **protection, "nonce": jose.encode_base64url(nonce)}
    try:
        inner = AESGCM(key).decrypt(nonce, ciphertext, _canonical(members))
    except InvalidTag:
        raise KeystoreSecretError(
            "the keystore does not open", hint="The passphrase or key-encryption key is another, or the file is damaged"
        ) from None
    return Contents.parse(inner)


def _canonical(members: dict[str, Any]) -> bytes:
    """Canonical JSON (RFC 8785) of members with ASCII names whose values are texts, integers and objects of such."""
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
