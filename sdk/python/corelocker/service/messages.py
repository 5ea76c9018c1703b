"""The bodies of the unlock API's requests, read strictly, and of its answers.

Whatever is not exactly what docs/formats.md ("Unlock API") describes is a RequestError before anything is decided by it.
It names the member and what was expected there, never what was sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.bundle.strict_json import parse_object
from corelocker.licensing.errors import DeviceKeyError, EvidenceError, RequestError
from corelocker.licensing.evidence import DeviceKeyEvidence, Evidence, Format, evidence_from_json
from corelocker.purchases.entitlements import Provider
from corelocker.purchases.google_play_answers import Kind

MAX_REQUEST_SIZE = 512 << 10
MAX_TEXT = 256
MAX_PURCHASE = 128 << 10

_CHALLENGE_MEMBERS = ("device_key",)
_UNLOCK_MEMBERS = ("challenge", "app", "bundle", "tier", "device_key", "attestation", "purchase", "replaces")
_REPLACES_MEMBERS = ("device_key", "proof")
_RENEW_MEMBERS = ("challenge", "attestation")


@dataclass(frozen=True)
class ChallengeRequest:
    """`POST /v1/challenges`; `device_key` asks for a sealed secret too, for a proof by that key."""

    device_key: ec.EllipticCurvePublicKey | None = None

    @classmethod
    def from_json(cls, data: bytes | Mapping[str, object]) -> Self:
        """Read the body. Raises RequestError."""
        body = _body(data, _CHALLENGE_MEMBERS, optional=_CHALLENGE_MEMBERS)
        return cls(_device_key(body["device_key"], "#/device_key") if "device_key" in body else None)


@dataclass(frozen=True)
class ShownPurchase:
    """What a device shows of its purchase; `token` is a grant, a signed transaction or a Google purchase token.

    `kind` and `product` are Google Play's.
    """

    provider: Provider
    token: str = field(repr=False)
    kind: Kind | None = None
    product: str | None = None


@dataclass(frozen=True)
class FormerKey:
    """The key of the device whose place the new one takes over, its RFC 7638 thumbprint, and the proof that it is there."""

    device_key: ec.EllipticCurvePublicKey
    device: str
    evidence: DeviceKeyEvidence = field(repr=False)


@dataclass(frozen=True)
class UnlockRequest:
    """`POST /v1/licenses`; `device_jwk` is the device key as compact JSON, `device` its RFC 7638 thumbprint."""

    challenge: str
    app: str
    bundle: str
    tier: str
    device_key: ec.EllipticCurvePublicKey
    device_jwk: str
    device: str
    evidence: Evidence = field(repr=False)
    purchase: ShownPurchase = field(repr=False)
    replaces: FormerKey | None = None

    @classmethod
    def from_json(cls, data: bytes | Mapping[str, object]) -> Self:
        """Read the body. Raises RequestError."""
        body = _body(data, _UNLOCK_MEMBERS, optional=("replaces",))
        jwk: Any = body["device_key"]
        device_key = _device_key(jwk, "#/device_key")
        # The key was read: its coordinates are in the one form that they have, and need not be made of the point again.
        device_jwk = f'{{"kty":"EC","crv":"P-256","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
        canonical = f'{{"crv":"P-256","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
        return cls(
            _text(body, "challenge"),
            _text(body, "app"),
            _text(body, "bundle"),
            _text(body, "tier"),
            device_key,
            device_jwk,
            jose.encode_base64url(hashlib.sha256(canonical.encode()).digest()),
            _evidence(body["attestation"]),
            _purchase(body["purchase"]),
            _former_key(body["replaces"]) if "replaces" in body else None,
        )


@dataclass(frozen=True)
class RenewRequest:
    """`POST /v1/licenses/{license_id}/renew`."""

    challenge: str
    evidence: Evidence = field(repr=False)

    @classmethod
    def from_json(cls, data: bytes | Mapping[str, object]) -> Self:
        """Read the body. Raises RequestError."""
        body = _body(data, _RENEW_MEMBERS)
        return cls(_text(body, "challenge"), _evidence(body["attestation"]))


@dataclass(frozen=True)
class Challenge:
    """A nonce for one request, valid until `expires_at` (Unix seconds); `sealed` as `device_key.seal` made it."""

    challenge: str
    expires_at: int
    sealed: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, object]:
        """The body of the answer."""
        body: dict[str, object] = {"challenge": self.challenge, "expires_at": self.expires_at}
        return body if self.sealed is None else body | {"sealed": self.sealed}


@dataclass(frozen=True)
class Issued:
    """A license (compact JWS) and what a device needs to know beside it; times in Unix seconds, None for perpetual."""

    license: str = field(repr=False)
    license_id: str
    expires_at: int | None
    renew_at: int | None

    def to_json(self) -> dict[str, object]:
        """The body of the answer."""
        return {
            "license": self.license,
            "license_id": self.license_id,
            "expires_at": self.expires_at,
            "renew_at": self.renew_at,
        }


def _body(
    data: bytes | Mapping[str, object], members: Sequence[str], optional: Sequence[str] = ()
) -> Mapping[str, object]:
    if isinstance(data, bytes):
        if len(data) > MAX_REQUEST_SIZE:
            raise RequestError(f"at most {MAX_REQUEST_SIZE} bytes", pointer="#")
        try:
            data = parse_object(data)
        except ValueError:
            raise RequestError("a JSON object by the rules of docs/formats.md", pointer="#") from None
    return _object(data, members, optional)


def _object(
    value: object, members: Sequence[str], optional: Sequence[str] = (), pointer: str = "#"
) -> Mapping[str, object]:
    """An object with all of `members`, but for those that are optional, and with no others."""
    if not isinstance(value, dict):
        raise RequestError("an object", pointer=pointer)
    for name in members:
        if name not in value and name not in optional:
            raise RequestError("this member is missing", pointer=f"{pointer}/{name}")
    if not value.keys() <= set(members):
        # Which one is too much is not said: its name is something that was sent.
        raise RequestError(f"no other members than {', '.join(members)}", pointer=pointer)
    return value


def _text(body: Mapping[str, object], name: str, pointer: str = "#") -> str:
    value = body[name]
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        raise RequestError(f"a text of 1 to {MAX_TEXT} printable characters", pointer=f"{pointer}/{name}")
    return value


def _device_key(value: object, pointer: str) -> ec.EllipticCurvePublicKey:
    try:
        return jose.key_of_jwk(value)
    except jose.PointError:
        raise DeviceKeyError("a point of P-256", pointer=pointer) from None
    except ValueError:
        raise RequestError("a public JWK of kty EC and crv P-256 with x and y", pointer=pointer) from None


def _former_key(value: object) -> FormerKey:
    pointer = "#/replaces"
    members = _object(value, _REPLACES_MEMBERS, pointer=pointer)
    device_key = _device_key(members["device_key"], f"{pointer}/device_key")
    try:
        evidence = evidence_from_json({"format": Format.DEVICE_KEY, "proof": members["proof"]})
    except EvidenceError as error:
        raise RequestError(error.expected, pointer=f"{pointer}{error.pointer}") from None
    return FormerKey(device_key, jose.thumbprint(device_key), cast(DeviceKeyEvidence, evidence))


def _evidence(value: object) -> Evidence:
    if not isinstance(value, dict):
        raise RequestError("an object", pointer="#/attestation")
    try:
        return evidence_from_json(value)
    except EvidenceError as error:
        raise RequestError(error.expected, pointer=f"#/attestation{error.pointer}") from None


# By provider: the members of a purchase, and which of them is its proof.
_PURCHASE_MEMBERS: Mapping[str, tuple[Sequence[str], str]] = {
    "grant": (("provider", "token"), "token"),
    "app-store": (("provider", "transaction"), "transaction"),
    "google-play": (("provider", "kind", "product", "token"), "token"),
}


def _purchase(value: object) -> ShownPurchase:
    pointer = "#/purchase"
    if not isinstance(value, dict):
        raise RequestError("an object", pointer=pointer)
    provider: Any = value.get("provider")
    if not isinstance(provider, str) or provider not in _PURCHASE_MEMBERS:
        raise RequestError(f"one of {', '.join(_PURCHASE_MEMBERS)}", pointer=f"{pointer}/provider")
    members, proof = _PURCHASE_MEMBERS[provider]
    _object(value, members, pointer=pointer)
    kind = product = None
    if provider == "google-play":
        kind = value["kind"]
        if kind not in ("product", "subscription"):
            raise RequestError("product or subscription", pointer=f"{pointer}/kind")
        product = _text(value, "product", pointer)
    token = value[proof]
    if (
        not isinstance(token, str)
        or not 1 <= len(token) <= MAX_PURCHASE
        or not token.isascii()
        or not token.isprintable()
    ):
        expected = f"a text of 1 to {MAX_PURCHASE} printable ASCII characters"
        raise RequestError(expected, pointer=f"{pointer}/{proof}")
    return ShownPurchase(cast(Provider, provider), token, kind, product)
