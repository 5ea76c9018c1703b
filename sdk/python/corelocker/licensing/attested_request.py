"""The bytes of an unlock or a renewal that the device's proof covers (docs/formats.md, "Attested request")."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.licensing.canonical import canonical_json
from corelocker.licensing.errors import CanonicalError
from corelocker.licensing.evidence import Format

REQUEST_TYPE = "corelocker-request-v1"
REPLACEMENT_TYPE = "corelocker-replacement-v1"


def renewal_token(license_id: str) -> str:
    """What takes the place of a purchase token when the license with this id is renewed."""
    return f"renew:{license_id}"


@dataclass(frozen=True, slots=True)
class AttestedRequest:
    """What an unlock or a renewal asks for.

    Attributes:
        challenge: the service's nonce, as it was sent.
        app: the app's identifier (package name or App ID).
        bundle: the key bundle's id (UUID, lowercase).
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

    def canonical(self, proof: Format) -> bytes:
        """The canonical JSON for a proof of this format. Raises CanonicalError."""
        members = self._members(REQUEST_TYPE)
        if proof is Format.ANDROID_KEY:
            del members["device_key"]
        return canonical_json(members)

    def digest(self, proof: Format) -> bytes:
        """The 32 bytes that a proof of this format carries. Raises CanonicalError.

        Android takes the challenge when it makes the key, before the key's thumbprint exists; there the certificate
        itself holds the device key, and the verifier compares it with the request's.
        """
        return hashlib.sha256(self.canonical(proof)).digest()

    def replacement_digest(self) -> bytes:
        """The 32 bytes that a former key of the device proves, to hand its place to the device key. Raises CanonicalError."""
        return hashlib.sha256(canonical_json(self._members(REPLACEMENT_TYPE))).digest()

    def _members(self, kind: str) -> dict[str, str]:
        try:
            purchase = hashlib.sha256(self.purchase_token.encode("utf-8")).digest()
        except UnicodeEncodeError:
            raise CanonicalError("the purchase token is not valid Unicode") from None
        return {
            "app": self.app,
            "bundle": self.bundle,
            "challenge": self.challenge,
            "device_key": self.thumbprint or jose.thumbprint(self.device_key),
            "purchase": jose.encode_base64url(purchase),
            "tier": self.tier,
            "type": kind,
        }
