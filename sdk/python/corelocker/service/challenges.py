"""Challenges: nonces that one unlock or renewal can use. The service keeps nothing of one until it is used.

A challenge is 8 bytes of its end (Unix seconds, big-endian), 16 random bytes and 16 bytes of an HMAC-SHA-256 over both
(RFC 2104) with the secret that all processes of a service share.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

from corelocker.attestation.device_key import proof_secret, seal_secret
from corelocker.bundle import jose
from corelocker.licensing.errors import ChallengeError, ChallengeExpiredError
from corelocker.service.messages import Challenge, ChallengeRequest

CHALLENGE_SIZE = 54  # characters of base64url
_DOMAIN = b"corelocker challenge v1\0"


class Challenges:
    """Issues challenges and recognizes them.

    Args:
        secret: 32 bytes.
        lifetime: seconds that a challenge can be used.
        clock: gives the time, Unix seconds.
    """

    def __init__(self, secret: bytes, lifetime: int, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._lifetime = lifetime
        self._clock = clock

    def issue(self, request: ChallengeRequest) -> Challenge:
        """A new challenge; with the device key in the request also a secret that only that key can open."""
        expires_at = int(self._clock()) + self._lifetime
        head = expires_at.to_bytes(8) + secrets.token_bytes(16)
        challenge = jose.encode_base64url(head + self._tag(head))
        if request.device_key is None:
            return Challenge(challenge, expires_at)
        secret = self.device_secret(challenge, jose.thumbprint(request.device_key))
        return Challenge(challenge, expires_at, jose.encode_base64url(seal_secret(secret, request.device_key)))

    def end_of(self, challenge: str, now: int) -> int:
        """When the challenge ends. Raises ChallengeError when it is not ours, ChallengeExpiredError."""
        try:
            data = jose.decode_base64url(challenge) if len(challenge) == CHALLENGE_SIZE else b""
        except ValueError:
            data = b""
        if len(data) != 40 or not hmac.compare_digest(self._tag(data[:24]), data[24:]):
            raise ChallengeError("the challenge is not of this service")
        expires_at = int.from_bytes(data[:8])
        if now >= expires_at:
            raise ChallengeExpiredError("the challenge has expired", hint="Fetch another")
        return expires_at

    def device_secret(self, challenge: str, device: str) -> bytes:
        """The secret that was sealed for the device key with this thumbprint, together with the challenge."""
        return proof_secret(self._secret, challenge, device)

    def _tag(self, head: bytes) -> bytes:
        return hmac.digest(self._secret, _DOMAIN + head, "sha256")[:16]
