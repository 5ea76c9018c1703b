"""Signed tokens as licenses and grants use them: JWS compact (RFC 7515), ES256, explicit type (RFC 8725, 3.11).

What JOSE leaves open is closed here: the algorithm is fixed, the header may hold `alg`, `typ` and `kid` only,
base64url has one form, JSON has no duplicate names, no fractions and no constants beyond its own, and nothing is
longer than `MAX_TOKEN_SIZE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from corelocker.bundle import jose
from corelocker.errors import ConfigError
from corelocker.licensing.errors import LicensingError

MAX_TOKEN_SIZE = 16 * 1024
MAX_TEXT = 256
MAX_TRUSTED_KEYS = 8
_SAFE_INTEGER = 2**53 - 1
_ES256 = jws.JWSRegistry(algorithms=["ES256"])


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
            self._keys = {jose.thumbprint(key): ECKey.import_key({**jose.public_jwk(key)}) for key in keys}
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

    def candidates(self, kid: str | None) -> list[ECKey]:
        """The key of this thumbprint, or all keys when the token names none."""
        return [key for name, key in self._keys.items() if kid is None or name == kid]


class Refusals(NamedTuple):
    """The errors that a kind of token raises."""

    malformed: type[LicensingError]
    other_type: type[LicensingError]
    unsigned: type[LicensingError]


def write_token(claims: Mapping[str, object], typ: str, signer: Signer) -> str:
    """The compact JWS of the claims, signed by `signer`, with the key's thumbprint as `kid`."""
    header = {"alg": "ES256", "kid": jose.thumbprint(signer.public_key), "typ": typ}
    signing_input = ".".join(jose.encode_base64url(_json_bytes(part)) for part in (header, claims))
    return f"{signing_input}.{jose.encode_base64url(signer.sign(signing_input.encode('ascii')))}"


def read_token(token: object, typ: str, keys: TrustedKeys, refusals: Refusals) -> dict[str, object]:
    """The claims of a token of type `typ` that one of `keys` has signed.

    Raises the errors in `refusals`: `malformed` also for what is too large, `other_type` for another typ or alg,
    `unsigned` when none of the keys signed it.
    """
    if not isinstance(token, str) or len(token) > MAX_TOKEN_SIZE:
        raise refusals.malformed(f"the token is not text of at most {MAX_TOKEN_SIZE} characters")
    try:
        header, payload, _ = (jose.decode_base64url(part) for part in token.split("."))
        head = strict_json(header)
    except ValueError as error:
        raise refusals.malformed(f"the token is malformed: {error}") from None
    if head.get("typ") != typ or head.get("alg") != "ES256":
        raise refusals.other_type(f"the token is not of type {typ} with ES256")
    kid = head.get("kid")
    if not head.keys() <= {"alg", "typ", "kid"} or not isinstance(kid, str | None):
        raise refusals.malformed("the token's header holds something beyond alg, typ and kid")
    if not any(_signed_by(token, key) for key in keys.candidates(kid)):
        raise refusals.unsigned("the token is not signed by a trusted key")
    try:
        return strict_json(payload)
    except ValueError as error:
        raise refusals.malformed(f"the token's claims are malformed: {error}") from None


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
    if type(value) is not int or not 0 <= value <= _SAFE_INTEGER:
        raise refusal(f"the claim {name} is not a whole number of 0 or more")
    return value


def strict_json(data: bytes) -> dict[str, object]:
    """The JSON object in `data`, without duplicate names, lone surrogates, fractions, NaN, or integers beyond 2^53 - 1.

    RFC 7493 (I-JSON), and stricter about numbers.

    Raises ValueError for anything else, however deep it nests.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise ValueError("JSON that nests too deep") from None
    if b"\\u" in data:
        # A lone surrogate has no UTF-8.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _signed_by(token: str, key: ECKey) -> bool:
    try:
        jws.deserialize_compact(token, key, registry=_ES256)
    except (JoseError, ValueError):
        return False
    return True


def _json_bytes(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a JSON object with a duplicate name")
    return value


def _integer(digits: str) -> int:
    value = int(digits)
    if abs(value) > _SAFE_INTEGER:
        raise ValueError("a JSON integer beyond 2^53 - 1")
    return value


def _no_number(_: str) -> NoReturn:
    raise ValueError("a JSON number that is not an integer")
