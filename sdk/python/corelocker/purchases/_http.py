"""One bounded HTTP exchange with a store, whose failures are typed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import requests
import urllib3.exceptions

from corelocker.licensing.errors import PurchaseNotFoundError, PurchaseUpstreamDeniedError, PurchaseUpstreamError

MAX_ANSWER_SIZE = 4 << 20
MAX_RETRY_AFTER = 86400
# What Google calls a rate limit although the status is 403.
_RATE_LIMITS = {
    "rateLimitExceeded",
    "userRateLimitExceeded",
    "quotaExceeded",
    "dailyLimitExceeded",
    "RESOURCE_EXHAUSTED",
}


@dataclass(frozen=True)
class Answer:
    """What the store said."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """The JSON value of the body. Raises PurchaseUpstreamError when it is none."""
        try:
            value: object = json.loads(self.body.decode())
            if b"\\u" in self.body:
                # A lone surrogate has no UTF-8: such a text can be neither hashed nor stored.
                json.dumps(value, ensure_ascii=False).encode("utf-8")
            return value
        except (ValueError, RecursionError):
            raise PurchaseUpstreamError("the store's answer is not JSON") from None


def fetch(
    session: requests.Session,
    method: str,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str | list[str]] | None = None,
    json_body: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request and read the whole answer, within `timeout` seconds for each wait and for the body as a whole.

    Follows no redirect. Raises PurchaseUpstreamError when no complete answer comes.
    """
    deadline = time.monotonic() + timeout
    try:
        with session.request(
            method,
            url,
            headers=dict(headers or {}),
            params=params,
            json=None if json_body is None else dict(json_body),
            timeout=timeout,
            stream=True,
            allow_redirects=False,
            auth=_as_it_is,
        ) as response:
            body = bytearray()
            # Not `iter_content`: it waits until a whole piece is there, however slowly its bytes come.
            while piece := response.raw.read1(1 << 16, decode_content=True):
                body += piece
                if len(body) > MAX_ANSWER_SIZE:
                    raise PurchaseUpstreamError("the store's answer is too large")
                if time.monotonic() > deadline:
                    raise PurchaseUpstreamError("the store's answer takes too long")
            return Answer(response.status_code, response.headers, bytes(body))
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        # Not the error's text: it holds the URL, and with it the purchase token.
        raise PurchaseUpstreamError(f"the store cannot be reached ({type(error).__name__})") from None


def refuse_failure(answer: Answer) -> None:
    """Raise the error that the answer's status stands for; return for a success."""
    status = answer.status_code
    if 200 <= status < 300:
        return
    if status in (400, 404, 410):
        raise PurchaseNotFoundError("the store does not know this purchase")
    if status == 401 or (status == 403 and not _rate_limited(answer)):
        raise PurchaseUpstreamDeniedError(f"the store refuses the service's credentials ({status})")
    raise PurchaseUpstreamError(f"the store answers {status}", retry_after=_retry_after(answer))


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without any `auth`, requests puts a password from ~/.netrc in place of the Authorization header."""
    return request


def _rate_limited(answer: Answer) -> bool:
    try:
        error = answer.json()
    except PurchaseUpstreamError:
        return False
    error = error.get("error") if isinstance(error, dict) else None
    if not isinstance(error, dict):
        return False
    details = error.get("errors")
    reasons = [item.get("reason") for item in details if isinstance(item, dict)] if isinstance(details, list) else []
    return any(isinstance(reason, str) and reason in _RATE_LIMITS for reason in (error.get("status"), *reasons))


def _retry_after(answer: Answer) -> int | None:
    value = answer.headers.get("Retry-After", "")
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        return None
    return min(int(value), MAX_RETRY_AFTER)
