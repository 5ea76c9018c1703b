"""The device key: what is sealed to it, what opens with it, and how it proves itself.

Sealed is HPKE's enc || ciphertext (RFC 9180): base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, no
associated data; all context goes into `info`. docs/formats.md, "Opening wk" and "Proofs".
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.licensing.errors import LicenseWrapError
from corelocker.licensing.evidence import DeviceKeyEvidence

SECRET_SIZE = 32
# An uncompressed point, the secret, a tag.
SEALED_SIZE = 65 + SECRET_SIZE + 16
PROOF_INFO = b"corelocker proof v1"

_SUITE = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class DeviceKey(Protocol):
    """A P-256 agreement key pair, on phones inside the secure hardware."""

    @property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint of the public key."""

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext of HPKE's enc || ciphertext. Raises LicenseWrapError when it does not open."""


class SoftwareDeviceKey:
    """A device key in memory: for tests, the software device and development."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key()
        self._thumbprint = jose.thumbprint(self.public_key)

    @property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint of the public key."""
        return self._thumbprint

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext of HPKE's enc || ciphertext. Raises LicenseWrapError when it does not open."""
        try:
            return _SUITE.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError):
            raise LicenseWrapError("what was sealed does not open with this device key") from None


def seal(plaintext: bytes, device_key: ec.EllipticCurvePublicKey, info: bytes) -> bytes:
    """HPKE's enc || ciphertext of a short plaintext for a device key, which `DeviceKey.open` opens."""
    return _SUITE.encrypt(plaintext, device_key, info)


def prove(sealed: bytes, device_key: DeviceKey, request_digest: bytes) -> DeviceKeyEvidence:
    """The `device-key` proof: HMAC-SHA256 of the request's digest under the secret that the service has sealed.

    Raises LicenseWrapError when the secret was sealed to another key.
    """
    secret = device_key.open(sealed, PROOF_INFO)
    return DeviceKeyEvidence(hmac.new(secret, request_digest, hashlib.sha256).digest())
