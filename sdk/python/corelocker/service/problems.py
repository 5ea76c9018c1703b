"""Problem details (RFC 9457): every code that a client can get, with its status and the one line that it says.

What a client reads is fixed here and not taken from an exception: which check of an attestation or a signature failed
helps nobody but an attacker, and an exception's message may name what only the operator should see. The one exception
is a malformed request: its error says which member is wrong and what was expected, in words of this code.
docs/formats.md ("Unlock API") has the table of all codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from corelocker.errors import CoreLockerError
from corelocker.licensing.errors import (
    AttestationError,
    DeviceLimitError,
    LicenseError,
    PurchaseError,
    PurchaseUpstreamError,
    RateLimitedError,
    RequestError,
)

PREFIX = "urn:corelocker:problem:"
PROBLEM_TYPE = "application/problem+json"


class ProblemKind(NamedTuple):
    """Status, title, detail, and the seconds after which another try makes sense (None: not without a change)."""

    status: int
    title: str
    detail: str
    retry_after: int | None = None


_NEW_CHALLENGE = "Fetch a new challenge and ask again."
_PURCHASE_REFUSED = "The purchase does not entitle this app to what was asked for."

PROBLEMS: dict[str, ProblemKind] = {
    # HTTP
    "not-found": ProblemKind(404, "Not found", "There is nothing at this address."),
    "method-not-allowed": ProblemKind(405, "Method not allowed", "The header Allow names the methods of this address."),
    "request-timeout": ProblemKind(408, "Request timeout", "The request did not arrive in time."),
    "payload-too-large": ProblemKind(413, "Payload too large", "The body is larger than the service accepts."),
    "unsupported-media-type": ProblemKind(
        415, "Unsupported media type", "The body has to be application/json, uncompressed."
    ),
    "headers-too-large": ProblemKind(
        431, "Request header fields too large", "The request's head is larger than 16 KiB."
    ),
    "rate-limited": ProblemKind(429, "Too many requests", "Wait before the next request.", 1),
    "internal-error": ProblemKind(
        500, "Internal error", "The request failed; its id helps the operator to find out why."
    ),
    "overloaded": ProblemKind(503, "Overloaded", "The service is busy. Ask again a little later.", 1),
    "timeout": ProblemKind(
        503, "Timeout", "The answer took too long. The same request may be sent with a new challenge.", 2
    ),
    # the request
    "request-malformed": ProblemKind(400, "Malformed request", "The request is not of the documented form."),
    "canonical-json": ProblemKind(400, "Malformed request", "The request is not of the documented form."),
    # A challenge that is not ours, old or used: all the client can do is to fetch another.
    "challenge-malformed": ProblemKind(409, "Challenge not usable", _NEW_CHALLENGE),
    "challenge-expired": ProblemKind(409, "Challenge expired", _NEW_CHALLENGE),
    "challenge-used": ProblemKind(409, "Challenge used", _NEW_CHALLENGE),
    "app-unknown": ProblemKind(404, "Unknown app", "The service does not know this app."),
    "bundle-unknown": ProblemKind(404, "Unknown bundle", "The service has no keys for this bundle."),
    "bundle-retired": ProblemKind(
        403, "Retired bundle", "This version of the model was withdrawn; the app has to be updated."
    ),
    "tier-unknown": ProblemKind(404, "Unknown tier", "The bundle has no such tier that needs a license."),
    "license-unknown": ProblemKind(404, "Unknown license", "The service has not issued this license."),
    "format-not-allowed": ProblemKind(
        403, "Attestation format not allowed", "This app does not take this format here."
    ),
    "provider-not-allowed": ProblemKind(
        403, "Provider not allowed", "This app does not take purchases of this provider."
    ),
    # the device
    "device-key": ProblemKind(403, "Device key refused", "The device key is not a point of the curve P-256."),
    "attestation-refused": ProblemKind(401, "Attestation refused", "The device's proof was refused."),
    # the purchase
    "purchase": ProblemKind(403, "Purchase refused", _PURCHASE_REFUSED),
    "purchase-format": ProblemKind(403, "Purchase refused", "The proof of purchase cannot be read."),
    "purchase-signature": ProblemKind(
        403, "Purchase refused", "The proof of purchase is not the store's or the backend's."
    ),
    "purchase-environment": ProblemKind(403, "Wrong environment", "The purchase was made in another environment."),
    "purchase-app": ProblemKind(403, "Wrong app", "The purchase was made in another app."),
    "purchase-account": ProblemKind(403, "Wrong account", "The purchase belongs to another account."),
    "purchase-product": ProblemKind(403, "Wrong product", "The product does not unlock this bundle and tier."),
    "purchase-not-yet-valid": ProblemKind(403, "Not yet valid", "The proof of purchase is dated in the future."),
    "purchase-stale": ProblemKind(403, "Stale proof", "The proof of purchase is too old; fetch it again."),
    "purchase-not-found": ProblemKind(402, "Purchase not found", "The store does not know the purchase."),
    "purchase-pending": ProblemKind(402, "Purchase pending", "The store has not been paid yet."),
    "purchase-expired": ProblemKind(402, "Purchase expired", "The subscription or the proof of purchase has ended."),
    "purchase-revoked": ProblemKind(402, "Purchase revoked", "The purchase was refunded or revoked."),
    "purchase-superseded": ProblemKind(402, "Purchase superseded", "The purchase was replaced by another one."),
    "purchase-upstream": ProblemKind(503, "Store unavailable", "The store could not be asked. Ask again later.", 5),
    "purchase-upstream-denied": ProblemKind(
        503, "Store unavailable", "The store could not be asked. Ask again later.", 60
    ),
    "purchase-notice": ProblemKind(
        403, "Notification refused", "The notification cannot be read or is not the store's."
    ),
    "device-limit": ProblemKind(409, "Device limit", "The purchase is in use on as many devices as it allows."),
    "device-inactive": ProblemKind(403, "Device inactive", "The device holds no place of this purchase; unlock anew."),
    # the license that is to be renewed
    "license": ProblemKind(403, "License refused", "The license cannot be renewed."),
    "license-audience": ProblemKind(403, "Wrong app", "The license was issued for another app."),
    "license-environment": ProblemKind(403, "Wrong environment", "The license was issued in another environment."),
    "license-device": ProblemKind(403, "Wrong device", "The license was issued to another device key."),
    "license-expired": ProblemKind(
        403, "License expired", "The license ended too long ago to be renewed; unlock anew."
    ),
    "license-revoked": ProblemKind(403, "License revoked", "The license was revoked."),
    # the service
    "storage-unavailable": ProblemKind(
        503, "Unavailable", "The service cannot work at the moment. Ask again later.", 2
    ),
    "not-ready": ProblemKind(503, "Not ready", "The service lacks something that it needs; operators see what.", 5),
}


class FieldError(NamedTuple):
    """What is wrong with a malformed request: where (`RequestError.pointer`), and what was expected there."""

    pointer: str
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that is to be sent.

    Attributes:
        code: a key of `PROBLEMS`.
        retry_after: seconds, for the member and the header of that name.
        retry_at: Unix seconds, where a limit says so.
        errors: what is wrong with a malformed request: pointers to members, and what was expected there.
    """

    code: str
    retry_after: int | None = None
    retry_at: int | None = None
    errors: tuple[FieldError, ...] = ()

    @property
    def status(self) -> int:
        return PROBLEMS[self.code].status

    def members(self, request_id: str) -> dict[str, object]:
        """The JSON object."""
        kind = PROBLEMS[self.code]
        value: dict[str, object] = {
            "type": PREFIX + self.code,
            "title": kind.title,
            "status": kind.status,
            "detail": kind.detail,
            "request_id": request_id,
        }
        if self.retry_after is not None:
            value["retry_after"] = self.retry_after
        if self.retry_at is not None:
            value["retry_at"] = self.retry_at
        if self.errors:
            value["errors"] = [error._asdict() for error in self.errors]
        return value

    def headers(self, request_id: str) -> dict[str, str]:
        """The headers that come with it."""
        headers = {"content-type": PROBLEM_TYPE, "x-request-id": request_id}
        return headers if self.retry_after is None else headers | {"retry-after": str(self.retry_after)}


class ProblemError(Exception):
    """Ends a request with a problem; `headers` are added to the answer."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.headers = dict(headers or {})


def of_code(code: str, retry_after: float | None = None) -> Problem:
    """The problem of this code; `retry_after` replaces its usual seconds."""
    usual = PROBLEMS[code].retry_after
    return Problem(code, usual if retry_after is None else min(max(1, math.ceil(retry_after)), 86400))


def of_error(error: CoreLockerError) -> Problem | None:
    """What a client is told of an error; None when clients must not be told of it (the operator is to blame)."""
    if isinstance(error, DeviceLimitError):
        return Problem(error.code, retry_at=error.retry_at)
    if isinstance(error, PurchaseUpstreamError | RateLimitedError):
        return of_code(error.code, error.retry_after)
    if isinstance(error, RequestError) and error.pointer is not None and PROBLEMS[error.code].status == 400:
        return Problem(error.code, errors=(FieldError(error.pointer, error.expected),))
    if error.code in PROBLEMS:
        return of_code(error.code)
    for base, code in (
        (AttestationError, "attestation-refused"),
        (PurchaseError, "purchase"),
        (LicenseError, "license"),
    ):
        if isinstance(error, base):
            return of_code(code)
    return None
