"""Keys in a hardware security module, over PKCS #11: the key that signs licenses, and the one that protects the keystore.

Two parts, which need not be used together:

* `Pkcs11Keys`: licenses are signed by a P-256 key pair that never leaves the token.
* `Pkcs11Kek`: the keystore's file key is wrapped by an AES key that never leaves the token, so that the file in the
  configuration folder opens on this machine alone and no passphrase lies beside it. It is the key-encryption-key
  provider "pkcs11", whose reference is the rest of a PKCS #11 URI (RFC 7512):

      corelocker keystore init service-keys.json --kek \\
          'pkcs11:token=unlock;object=keystore?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/unlock/pin'

The content keys themselves are in this process's memory while it runs: HPKE seals them to a device's key here.

A module is used by one thread at a time: python-pkcs11 initializes modules without locks of their own. Several worker
processes use the token side by side. A lost session, a token that was away and a module that was reset are opened
again, once a call; a PIN that was wrong is never tried again, since tokens lock after a few. The last try that a token
allows is left to its operator.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11.util.ec import encode_ec_public_key

from corelocker.bundle import jose
from corelocker.bundle.content_keys import KEY_SIZE
from corelocker.bundle.keystore import Keystore, read_passphrase
from corelocker.errors import ConfigError, KeystoreAwayError, KeystoreEntryError, KeystoreSecretError
from corelocker.licensing.errors import NotReadyError
from corelocker.licensing.tokens import Signer
from corelocker.service.config import Pkcs11Config
from corelocker.service.keys import BundleInfo, KeystoreKeys

_T = TypeVar("_T")
_NONCE_SIZE = 12
_TAG_BITS = 128
_AAD: Final = b"corelocker keystore key v1"
_PROBE: Final = b"corelocker readiness check"
# What another try cannot mend, and a wrong PIN must not be tried again.
_PIN_ERRORS = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked, pkcs11.PinExpired)
_WRONG_SETUP = (pkcs11.NoSuchKey, pkcs11.MultipleObjectsReturned, pkcs11.MultipleTokensReturned)

_lock = threading.RLock()
_initialized_by: dict[str, int] = {}  # module -> process


class Token:
    """A token that is logged in to when it is needed. Safe to use from several threads; they take turns."""

    def __init__(self, module: Path, label: str, pin_file: Path) -> None:
        self._module, self._label, self._pin_file = module, label, pin_file
        self._session: Any = None
        self._pin_refused = False

    def use(self, work: Callable[[Any], _T]) -> _T:
        """What `work` returns for an open session. Opens a new one and tries again once when the token fails.

        Raises KeystoreSecretError for a PIN that is refused, KeystoreEntryError for a key that is not in the token,
        ConfigError for a module that cannot be loaded, NotReadyError when the token cannot be used now. A key handle is
        good for its session only.
        """
        with _lock:
            try:
                return work(self._session or self._open())
            except pkcs11.PKCS11Error as error:
                self._explain(error)
            self._close()
            try:
                _initialize(self._module, again=True)
                return work(self._open())
            except pkcs11.PKCS11Error as error:
                self._close()
                self._explain(error)
                raise NotReadyError(f"the token {self._label!r} cannot be used ({type(error).__name__})") from None

    def _open(self) -> Any:
        if self._pin_refused:
            raise KeystoreSecretError(f"the token {self._label!r} refused the PIN", hint="Correct it and start again")
        module = _initialize(self._module)
        pin = read_passphrase(file=self._pin_file).decode("utf-8", "strict")
        token = module.get_token(token_label=self._label)
        # Whoever restarts the service after each failure must not lock the token.
        if token.flags & pkcs11.TokenFlag.USER_PIN_FINAL_TRY:
            message = f"the token {self._label!r} would be locked by one more wrong PIN"
            raise KeystoreSecretError(message, hint="Correct the PIN file, and log in once with the token's own tool")
        try:
            self._session = token.open(user_pin=pin)
        except pkcs11.UserAlreadyLoggedIn:
            self._session = token.open()
        return self._session

    def _close(self) -> None:
        session, self._session = self._session, None
        with suppress(pkcs11.PKCS11Error):  # it may be gone already
            if session is not None:
                session.close()

    def _explain(self, error: Exception) -> None:
        """Raise what another try cannot mend."""
        if isinstance(error, _PIN_ERRORS):
            self._pin_refused = True
            raise KeystoreSecretError(f"the token {self._label!r} refused the PIN ({type(error).__name__})") from None
        if isinstance(error, _WRONG_SETUP):
            raise KeystoreEntryError(f"the token {self._label!r}: {type(error).__name__}: {error}") from None


def _initialize(path: Path, *, again: bool = False) -> Any:
    """The module, initialized by this process: what a parent had does not survive a fork. Raises ConfigError."""
    name = str(path)
    try:
        module = pkcs11.lib(name)
    except pkcs11.PKCS11Error as error:
        if type(error) is pkcs11.PKCS11Error:  # not an answer of the module: there is none
            raise ConfigError(f"{name}: not a PKCS #11 module that can be loaded") from None
        raise
    if again or _initialized_by.get(name, os.getpid()) != os.getpid():
        with suppress(pkcs11.PKCS11Error):  # a module that was reset behind our back
            module.finalize()
        module.initialize()
    _initialized_by[name] = os.getpid()
    return module


# --- licenses ------------------------------------------------------------------------------------


class TokenSigner:
    """Signs with a P-256 key pair in a token. Raises KeystoreEntryError when it is not there or not a pair."""

    def __init__(self, token: Token, label: str) -> None:
        self._token = token
        self._label = label
        self._session: Any = None
        self._private: Any = None
        self._public_key = token.use(self._find_public)
        if not jose.verify(self._public_key, self.sign(_PROBE), _PROBE):
            raise KeystoreEntryError(f"the private and the public key {label!r} in the token are no pair")

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """The 64-byte ES256 signature of `data`. Raises NotReadyError when the token cannot be used now."""
        digest = hashlib.sha256(data).digest()

        def work(session: Any) -> bytes:
            if session is not self._session:
                self._private = self._find(session, pkcs11.ObjectClass.PRIVATE_KEY)
                self._session = session
            return bytes(self._private.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))

        signature = self._token.use(work)
        if len(signature) != jose.SIGNATURE_SIZE:
            raise NotReadyError("the token made a signature of another form than r || s")
        return signature

    def _find(self, session: Any, kind: pkcs11.ObjectClass) -> Any:
        return session.get_key(object_class=kind, key_type=pkcs11.KeyType.EC, label=self._label)

    def _find_public(self, session: Any) -> ec.EllipticCurvePublicKey:
        encoded = encode_ec_public_key(self._find(session, pkcs11.ObjectClass.PUBLIC_KEY))
        try:
            key = load_der_public_key(encoded)
        except ValueError:
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise KeystoreEntryError(f"the key {self._label!r} in the token is not on the curve P-256")
        return key


class Pkcs11Keys:
    """A `KeyProvider`: a signing key in a token, content keys from a keystore (under `Pkcs11Kek`, or a passphrase).

    Raises ConfigError when the module cannot be loaded, KeystoreSecretError for a refused PIN, KeystoreEntryError
    without the key, NotReadyError without the token.
    """

    def __init__(self, config: Pkcs11Config, keystore: Keystore) -> None:
        self._content = KeystoreKeys(keystore)
        self._signer = TokenSigner(Token(config.module, config.token, config.pin_file), config.signing_key)

    def __repr__(self) -> str:
        return f"Pkcs11Keys({len(self.bundles)} bundles)"

    @property
    def signer(self) -> Signer:
        """Signs licenses."""
        return self._signer

    @property
    def bundles(self) -> Mapping[str, BundleInfo]:
        """By bundle id."""
        return self._content.bundles

    def content_key(self, bundle: str, tier: str) -> bytes:
        """The content key of a tier. Raises KeystoreEntryError when there is none."""
        return self._content.content_key(bundle, tier)

    def check(self) -> None:
        """Make a signature. Raises NotReadyError when the token cannot be used now."""
        self._signer.sign(_PROBE)


# --- the keystore --------------------------------------------------------------------------------


class Pkcs11Kek:
    """The key-encryption-key provider "pkcs11": AES-GCM under an AES key in a token; wrapped is nonce || ciphertext || tag.

    `reference` is a PKCS #11 URI without its scheme (RFC 7512) with token, object, module-path and pin-source (a file).
    Raises ConfigError for anything else in it.
    """

    def __init__(self, reference: str) -> None:
        attributes = _uri_attributes(reference)
        self._label = attributes["object"]
        self._token = Token(Path(attributes["module-path"]), attributes["token"], Path(attributes["pin-source"]))

    def wrap(self, key: bytes) -> bytes:
        """The key, encrypted. Raises KeystoreSecretError, KeystoreEntryError, or KeystoreAwayError without the token."""
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + self._use(
            lambda session: bytes(
                self._find(session).encrypt(key, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=_gcm(nonce))
            )
        )

    def unwrap(self, wrapped: bytes) -> bytes:
        """The inverse of `wrap`. Raises KeystoreSecretError when it was wrapped by another key, or as `wrap` does."""
        if len(wrapped) != _NONCE_SIZE + KEY_SIZE + _TAG_BITS // 8:
            raise KeystoreSecretError("the wrapped key is not of the token's form")
        nonce, sealed = wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:]

        def work(session: Any) -> bytes | None:
            key = self._find(session)
            try:
                return bytes(key.decrypt(sealed, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=_gcm(nonce)))
            except (pkcs11.EncryptedDataInvalid, pkcs11.GeneralError, pkcs11.FunctionFailed):
                # Modules do not agree on how to say that the tag is wrong.
                return None

        opened = self._use(work)
        if opened is None:
            raise KeystoreSecretError(f"the key {self._label!r} of the token does not open the keystore")
        return opened

    def _use(self, work: Callable[[Any], _T]) -> _T:
        try:
            return self._token.use(work)
        except NotReadyError as away:
            raise KeystoreAwayError(str(away), hint="Attach the token, then try again") from None

    def _find(self, session: Any) -> Any:
        return session.get_key(
            object_class=pkcs11.ObjectClass.SECRET_KEY, key_type=pkcs11.KeyType.AES, label=self._label
        )


def _gcm(nonce: bytes) -> pkcs11.GCMParams:
    return pkcs11.GCMParams(nonce, _AAD, _TAG_BITS)


def _uri_attributes(reference: str) -> dict[str, str]:
    """The attributes of a URI like `token=t;object=k?module-path=/lib.so&pin-source=file:/pin`, percent-decoded."""
    path, _, query = reference.partition("?")
    pairs = [item.partition("=") for item in (*path.split(";"), *query.split("&"))]
    attributes = {name: unquote(value) for name, _, value in pairs}
    wanted = {"token", "object", "module-path", "pin-source"}
    if len(pairs) != len(attributes) or attributes.keys() != wanted or not all(attributes.values()):
        raise ConfigError(
            "a PKCS #11 key is named by token, object, module-path and pin-source",
            hint="As in pkcs11:token=unlock;object=keystore?module-path=/usr/lib/module.so&pin-source=file:/etc/pin",
        )
    attributes["pin-source"] = attributes["pin-source"].removeprefix("file:")
    return attributes
