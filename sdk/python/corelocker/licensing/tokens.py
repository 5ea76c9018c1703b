"""Signed tokens as licenses and grants use them: JWS compact (RFC 7515), ES256, explicit type (RFC 8725, 3.11).

What JOSE leaves open is closed here: the algorithm is fixed, the header may hold `alg`, `typ` and `kid` only,
base64url has one form, JSON has no duplicate names, no fractions and no constants beyond its own, and nothing is
longer than `MAX_TOKEN_SIZE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.bundle.strict_json import MAX_INTEGER, parse_object
from corelocker.errors import ConfigError
from corelocker.licensing.errors import LicensingError

MAX_TOKEN_SIZE = 16 * 1024
MAX_TEXT = 256
MAX_TRUSTED_KEYS = 8


class Signer(Protocol):
    """A P-256 signing key, in memory or behind a KMS or HSM."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""

    def sign(self, data: bytes) -> bytes:
        """The 64-byte ES256 signature r || s of `data` (RFC 7518, 3.4)."""


class SoftwareSigner:
    """A signing key in memory. Raises ConfigError when it is not on P-256."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"a signing key of the curve {key.curve.name} where P-256 belongs")
        self._key = key
        self._public_key = key.public_key()

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """The 64-byte ES256 signature of `data`."""
        return jose.sign(self._key, data)


class TrustedKeys:
    """Public keys whose signatures count, found by their RFC 7638 thumbprint; several, so that keys can be rotated.

    Raises ConfigError for no key, too many keys, or a key that is not on P-256.
    """

    def __init__(self, keys: Iterable[ec.EllipticCurvePublicKey]) -> None:
        try:
            self._keys = {jose.thumbprint(key): key for key in keys}
        except ValueError as error:
            raise ConfigError(f"a trusted key cannot be used: {error}") from None
        if not 1 <= len(self._keys) <= MAX_TRUSTED_KEYS:
            raise ConfigError(f"{len(self._keys)} trusted keys; there have to be 1 to {MAX_TRUSTED_KEYS}")

    @classmethod
    def of_jwks(cls, jwks: Iterable[object]) -> TrustedKeys:
        """From public JWKs. Raises ConfigError when one is not a P-256 key."""
        try:
            return cls([jose.key_of_jwk(jwk) for jwk in jwks])
        except ValueError as error:
            raise ConfigError(f"a trusted key cannot be used: {error}") from None

    def candidates(self, kid: str | None) -> list[ec.EllipticCurvePublicKey]:
        """The key of this thumbprint, or all keys when the token names none."""
        return [key for name, key in self._keys.items() if kid is None or name == kid]


class Refusals(NamedTuple):
    """The errors that a kind of token raises."""

    malformed: type[LicensingError]
    other_type: type[LicensingError]
    unsigned: type[LicensingError]


def write_token(claims: Mapping[str, object], typ: str, signer: Signer) -> str:
    """The compact JWS of the claims, signed by `signer`, with the key's thumbprint as `kid`."""
    kid = _kids.get(signer)
    if kid is None:
        kid = _kids[signer] = jose.thumbprint(signer.public_key)
    signing_input = f"{_header(kid, typ)}.{jose.encode_base64url(_json_bytes(claims))}"
    return f"{signing_input}.{jose.encode_base64url(signer.sign(signing_input.encode('ascii')))}"


# A service signs with one key, whose thumbprint costs as much as a third of a signature.
_kids: WeakKeyDictionary[Signer, str] = WeakKeyDictionary()


@lru_cache(maxsize=16)
def _header(kid: str, typ: str) -> str:
    return jose.encode_base64url(_json_bytes({"alg": "ES256", "kid": kid, "typ": typ}))


def read_token(token: object, typ: str, keys: TrustedKeys, refusals: Refusals) -> Mapping[str, object]:
    """The claims of a token of type `typ` that one of `keys` has signed.

    Raises the errors in `refusals`: `malformed` also for what is too large, `other_type` for another typ or alg,
    `unsigned` when none of the keys signed it.
    """
    if not isinstance(token, str) or len(token) > MAX_TOKEN_SIZE:
        raise refusals.malformed(f"the token is not text of at most {MAX_TOKEN_SIZE} characters")
    return _read(token, typ, keys, refusals)


# A device shows the same grant at every unlock: what was signed once stays signed. Errors are not kept.
@lru_cache(maxsize=4096)
def _read(token: str, typ: str, keys: TrustedKeys, refusals: Refusals) -> Mapping[str, object]:
    try:
        header, payload, signature = token.split(".")
        head, claims = _read_header(header), jose.decode_base64url(payload)
        proof = jose.decode_base64url(signature)
    except ValueError as error:
        raise refusals.malformed(f"the token is malformed: {error}") from None
    if head.get("typ") != typ or head.get("alg") != "ES256":
        raise refusals.other_type(f"the token is not of type {typ} with ES256")
    kid = head.get("kid")
    if not head.keys() <= {"alg", "typ", "kid"} or not isinstance(kid, str | None) or ("kid" in head and kid is None):
        raise refusals.malformed("the token's header holds something beyond alg, typ and kid")
    signed = f"{header}.{payload}".encode("ascii")
    if not any(jose.verify(key, proof, signed) for key in keys.candidates(kid)):
        raise refusals.unsigned("the token is not signed by a trusted key")
    try:
        return MappingProxyType(parse_object(claims))
    except ValueError as error:
        raise refusals.malformed(f"the token's claims are malformed: {error}") from None


@lru_cache(maxsize=64)
def _read_header(header: str) -> Mapping[str, object]:
    """The header in base64url; all tokens that a key has signed have the same. Raises ValueError."""
    return parse_object(jose.decode_base64url(header))


def text_claim(claims: Mapping[str, object], name: str, refusal: type[LicensingError]) -> str:
    """The claim's text of 1 to 256 characters. Raises `refusal` when it is anything else."""
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise refusal(f"the claim {name} is not a text of 1 to {MAX_TEXT} characters")
    return value


def integer_claim(claims: Mapping[str, object], name: str, refusal: type[LicensingError]) -> int:
    """The claim's whole number, 0 to 2^53 - 1. Raises `refusal` when it is anything else."""
    value = claims.get(name)
    # bool is an int to Python, not to JSON.
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise refusal(f"the claim {name} is not a whole number of 0 or more")
    return value


def _json_bytes(value: Mapping[str, object]) -> bytes:
    return _PLAIN.encode(value).encode("utf-8")


_PLAIN = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
