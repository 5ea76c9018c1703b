"""Canonical JSON (RFC 8785, JCS), and the bytes of an unlock request that its attestation vouches for.

Those are the SHA-256 of the canonical JSON of these members, all of them texts:

    app         the app's identifier (package name or App ID)
    bundle      the key bundle's id (UUID, lower case)
    challenge   the service's nonce, as it was sent
    device_key  RFC 7638 thumbprint of the device key; left out for `android-key` (see `AttestedRequest.digest`)
    purchase    SHA-256 of the UTF-8 bytes of the purchase token, base64url
    tier        the tier's name
    type        "corelocker-request-v1", so that no other protocol's bytes can be these
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.licensing.attestation import Format
from corelocker.licensing.errors import LicensingError

REQUEST_TYPE = "corelocker-request-v1"


class CanonicalError(LicensingError):
    """A value has no canonical JSON: a text is not valid Unicode, or a number is beyond what JSON agrees on."""

    code = "canonical-json"


def canonical_json(value: Mapping[str, object]) -> bytes:
    """The canonical JSON of an object, UTF-8. Raises CanonicalError."""
    try:
        return rfc8785.dumps(cast(Any, value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise CanonicalError("the value has no canonical JSON") from error


@dataclass(frozen=True, slots=True)
class AttestedRequest:
    """What an unlock request asks for.

    Attributes:
        challenge: the service's nonce, as it was sent.
        app: the app's identifier.
        bundle: the key bundle's id.
        tier: the tier's name.
        device_key: the device key, on P-256.
        purchase_token: what proves the purchase, as it was sent; only its hash goes into the JSON.
    """

    challenge: str
    app: str
    bundle: str
    tier: str
    device_key: ec.EllipticCurvePublicKey
    purchase_token: str

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
            members["device_key"] = jose.thumbprint(self.device_key)
        return canonical_json(members)

    def digest(self, attestation: Format) -> bytes:
        """The 32 bytes that an attestation of this format carries. Raises CanonicalError.

        Android takes the challenge when it makes the key, before the key's thumbprint exists; there the certificate
        itself holds the device key, and the verifier compares it with the request's.
        """
        return hashlib.sha256(self.canonical(attestation)).digest()
