"""Canonical JSON (RFC 8785, JCS), and the bytes of an unlock request that its attestation vouches for.

Those are the SHA-256 of the canonical JSON of these members, all of them texts:

    app         the app's identifier (package name or App ID)
    bundle      the key bundle's id (UUID, lower case)
    challenge   the service's nonce, as it was sent
    device_key  RFC 7638 thumbprint of the device key; left out for `android-key` (see `AttestedRequest.digest`)
    purchase    SHA-256 of the UTF-8 bytes of the purchase token, base64url; of "renew:" and the license's id when a
                license is renewed, so that a proof for the one is none for the other
    tier        the tier's name
    type        "corelocker-request-v1", so that no other protocol's bytes can be these
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.attestation import Format
from corelocker.bundle import jose
from corelocker.licensing.errors import LicensingError

REQUEST_TYPE = "corelocker-request-v1"


def renewal_token(license_id: str) -> str:
    """What stands for the purchase when a license is renewed."""
    return f"renew:{license_id}"


class CanonicalError(LicensingError):
    """A value has no canonical JSON: a text is not valid Unicode, or a number is beyond what JSON agrees on."""

    code = "canonical-json"


def canonical_json(value: Mapping[str, object]) -> bytes:
    """The canonical JSON of an object, UTF-8. Raises CanonicalError."""
    try:
        if _is_plain(value):
            return _PLAIN.encode(value).encode("utf-8")
        return rfc8785.dumps(cast(Any, value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise CanonicalError("the value has no canonical JSON") from error


# For texts, integers and names in ASCII Python's encoder writes what RFC 8785 says, and fifteen times as fast.
_PLAIN = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)


def _is_plain(value: Mapping[str, object], depth: int = 0) -> bool:
    """Whether the value is an object of texts, small integers and such objects, with names in ASCII."""
    for name, item in value.items():
        kind = type(item)
        if type(name) is not str or not name.isascii():
            return False
        if kind is dict:
            if depth == 4 or not _is_plain(cast(dict[str, object], item), depth + 1):
                return False
        elif kind is int:
            if not -(2**53) < cast(int, item) < 2**53:
                return False
        elif kind is not str:
            return False
    return True


@dataclass(frozen=True, slots=True)
class AttestedRequest:
    """What an unlock request asks for.

    Attributes:
        challenge: the service's nonce, as it was sent.
        app: the app's identifier.
        bundle: the key bundle's id.
        tier: the tier's name.
        device_key: the device key, on P-256.
        purchase_token: what proves the purchase, as it was sent; only its hash goes into the JSON. `renewal_token` of
            the license's id at renewal.
        thumbprint: of the device key, where the caller knows it already.
    """

    challenge: str
    app: str
    bundle: str
    tier: str
    device_key: ec.EllipticCurvePublicKey
    purchase_token: str
    thumbprint: str | None = None

    def canonical(self, attestation: Format) -> bytes:
        """The canonical JSON for an attestation of this format. Raises CanonicalError."""
        try:
            purchase = hashlib.sha256(self.purchase_token.encode("utf-8")).digest()
        except UnicodeEncodeError as error:
            raise CanonicalError("the purchase token is not valid Unicode") from error
        members = {
            "app": self.app,
            "bundle": self.bundle,
            "challenge": self.challenge,
            "purchase": jose.encode_base64url(purchase),
            "tier": self.tier,
            "type": REQUEST_TYPE,
        }
        if attestation is not Format.ANDROID_KEY:
            members["device_key"] = self.thumbprint or jose.thumbprint(self.device_key)
        return canonical_json(members)

    def digest(self, attestation: Format) -> bytes:
        """The 32 bytes that an attestation of this format carries. Raises CanonicalError.

        Android takes the challenge when it makes the key, before the key's thumbprint exists; there the certificate
        itself holds the device key, and the verifier compares it with the request's.
        """
        return hashlib.sha256(self.canonical(attestation)).digest()
