"""Play Integrity: Google decodes the token that the app got, and what it says is judged by `attestation.play_integrity`.

Names are those of Google's discovery document of playintegrity v1. The token is Google's ciphertext: what may be believed
of it is what Google's API answers, so an API that cannot be asked decides nothing, like a store's.
"""

from __future__ import annotations

from datetime import datetime

from corelocker.attestation.play_integrity import (
    PlayIntegrityClaims,
    PlayIntegrityPolicy,
    verify_play_integrity,
)
from corelocker.attestation.verdict import Reason, Refusal, Verdict
from corelocker.licensing.errors import PurchaseUpstreamDeniedError, PurchaseUpstreamError
from corelocker.licensing.evidence import Format
from corelocker.purchases.google_api import GoogleApi
from corelocker.purchases.upstream import json_of, refuse_failure

SCOPE = "https://www.googleapis.com/auth/playintegrity"
API_URL = "https://playintegrity.googleapis.com"


class PlayIntegrity:
    """Asks Google what the tokens of one app say, and judges it; may be used by several threads."""

    def __init__(self, policy: PlayIntegrityPolicy, api: GoogleApi, base_url: str = API_URL) -> None:
        self._policy = policy
        self._api = api
        self._url = f"{base_url.rstrip('/')}/v1/{policy.package}:decodeIntegrityToken"

    def verify(self, token: str | None, *, request_digest: bytes, now: datetime) -> Verdict[PlayIntegrityClaims]:
        """The verdict on a token, None where the app sent none; arguments as of `verify_play_integrity`.

        Raises PurchaseUpstreamError (retryable) or PurchaseUpstreamDeniedError when nothing can be said.
        """
        if token is None:
            return _refused(Reason.ATTESTATION_MISSING, "the app sent no Play Integrity token")
        try:
            decoded = self._decode(token)
        except PurchaseUpstreamError as error:
            raise PurchaseUpstreamError(f"Play Integrity: {error}", retry_after=error.retry_after) from None
        except PurchaseUpstreamDeniedError as error:
            raise PurchaseUpstreamDeniedError(f"Play Integrity: {error}") from None
        if decoded is None:
            return _refused(Reason.MALFORMED, "Google cannot decode the Play Integrity token")
        return verify_play_integrity(decoded, request_digest=request_digest, policy=self._policy, now=now)

    def _decode(self, token: str) -> dict[str, object] | None:
        """What the token says; None for one that is none."""
        answer = self._api.ask("POST", self._url, body={"integrityToken": token})
        if answer.status_code == 400:
            return None
        if answer.status_code in (404, 410):
            raise PurchaseUpstreamDeniedError(f"there is no app {self._policy.package}")
        refuse_failure(answer)
        decoded = json_of(answer)
        if not isinstance(decoded, dict):
            raise PurchaseUpstreamError("the answer has another shape than it documents")
        return decoded


def _refused(reason: Reason, detail: str) -> Verdict[PlayIntegrityClaims]:
    return Verdict.refuse(Format.PLAY_INTEGRITY, Refusal(reason, detail))
