"""`device-key`: the device shows again that it holds a device key, to renew a license that the key was attested for, or
to hand the key's place of a purchase to the new key that it unlocks with.

An Android agreement key cannot sign, and it is attested once, when it is made. So the service seals a secret to the key
and the device proves that it could open it:

    service     secret = HMAC-SHA256(service secret, "corelocker proof v1", challenge and thumbprint of the device
                key, zero bytes in between)
                sealed = HPKE (RFC 9180, the suite of licenses, base mode) of it, info "corelocker proof v1"
    device      proof  = HMAC-SHA256(secret, digest of the canonical request)

The service keeps nothing in between: it derives the secret again. The proof says that the key is there, and nothing of
the app or the state of the device; so it renews, and never unlocks: an unlock that names a former key is attested too.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.attestation.verdict import Reason, Refusal, Verdict
from corelocker.bundle import jose
from corelocker.licensing.device_key import PROOF_INFO, seal
from corelocker.licensing.evidence import DeviceKeyEvidence, Format


@dataclass(frozen=True, slots=True)
class DeviceKeyClaims:
    """Whose key it is: its RFC 7638 thumbprint."""

    thumbprint: str


def proof_secret(service_secret: bytes, challenge: str, thumbprint: str) -> bytes:
    """The 32 bytes that only the holder of the device key learns, for this challenge alone."""
    data = PROOF_INFO + b"\0" + challenge.encode() + b"\0" + thumbprint.encode()
    return hmac.new(service_secret, data, hashlib.sha256).digest()


def seal_secret(secret: bytes, device_key: ec.EllipticCurvePublicKey) -> bytes:
    """The secret for the device key: HPKE's enc || ciphertext, 113 bytes."""
    return seal(secret, device_key, PROOF_INFO)


def verify_device_key(
    evidence: DeviceKeyEvidence, *, request_digest: bytes, device_key: ec.EllipticCurvePublicKey, secret: bytes
) -> Verdict[DeviceKeyClaims]:
    """Check a proof.

    Args:
        evidence: the proof, 32 bytes.
        request_digest: `AttestedRequest.digest` of a renewal, or its `replacement_digest`, 32 bytes.
        device_key: the key that the license was issued to, or that holds the place.
        secret: what `proof_secret` gives for the request's challenge and this key.
    """
    expected = hmac.new(secret, request_digest, hashlib.sha256).digest()
    if not hmac.compare_digest(expected, evidence.proof):
        return Verdict.refuse(Format.DEVICE_KEY, Refusal(Reason.SIGNATURE, "the proof is not of this key and request"))
    return Verdict.accept(Format.DEVICE_KEY, DeviceKeyClaims(jose.thumbprint(device_key)))
