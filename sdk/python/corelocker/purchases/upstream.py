"""Asking a store: one bounded HTTP exchange whose failures are errors of the purchase."""

from __future__ import annotations

from collections.abc import Mapping

import requests

from corelocker.licensing.errors import PurchaseNotFoundError, PurchaseUpstreamDeniedError, PurchaseUpstreamError
from corelocker.licensing.http_client import Answer, ExchangeError, Limits, exchange

# What Google calls a rate limit although the status is 403.
_RATE_LIMITS = {
    "rateLimitExceeded",
    "userRateLimitExceeded",
    "quotaExceeded",
    "dailyLimitExceeded",
    "RESOURCE_EXHAUSTED",
}


def ask(
    session: requests.Session,
    method: str,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str | list[str]] | None = None,
    json_body: Mapping[str, str] | None = None,
) -> Answer:
    """`http_client.exchange` with `timeout` seconds for each wait and for the whole answer.

    Raises PurchaseUpstreamError when no complete answer comes.
    """
    limits = Limits(connect=timeout, answer=timeout)
    try:
        return exchange(session, method, url, limits=limits, headers=headers, params=params, json=json_body)
    except ExchangeError as error:
        raise PurchaseUpstreamError(f"asking the store: {error}") from None


def json_of(answer: Answer) -> object:
    """The JSON value of an answer's body. Raises PurchaseUpstreamError when it is none."""
    try:
        return answer.json()
    except ValueError:
        raise PurchaseUpstreamError("the store's answer is not JSON") from None


def refuse_failure(answer: Answer) -> None:
    """Raise the error that the answer's status stands for; return for a success."""
    status = answer.status_code
    if 200 <= status < 300:
        return
    if status in (400, 404, 410):
        raise PurchaseNotFoundError("the store does not know this purchase")
    if status == 401 or (status == 403 and not _rate_limited(answer)):
        raise PurchaseUpstreamDeniedError(f"the store refuses the service's credentials ({status})")
    raise PurchaseUpstreamError(f"the store answers {status}", retry_after=answer.retry_after)


def _rate_limited(answer: Answer) -> bool:
    try:
        error = json_of(answer)
    except PurchaseUpstreamError:
        return False
    error = error.get("error") if isinstance(error, dict) else None
    if not isinstance(error, dict):
        return False
    details = error.get("errors")
    reasons = [item.get("reason") for item in details if isinstance(item, dict)] if isinstance(details, list) else []
    return any(isinstance(reason, str) and reason in _RATE_LIMITS for reason in (error.get("status"), *reasons))
