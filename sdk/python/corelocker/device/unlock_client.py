"""The unlock API as a device speaks it, with its retries and waits (docs/formats.md, "Unlock API")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from corelocker.bundle.strict_json import Fields
from corelocker.device.errors import (
    ServiceBusyError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnreachableError,
    error_of_problem,
)
from corelocker.licensing.errors import LicensingError
from corelocker.licensing.http_client import (
    Answer,
    ExchangeError,
    Failure,
    Limits,
    RetryLater,
    RetryPolicy,
    exchange,
    new_session,
)

# What a service answers is small: a license has 16 KiB at most.
LIMITS = Limits(connect=5, answer=20, size=64 << 10)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class UnlockClient:
    """The unlock API over HTTP: one exchange is a challenge and the request that uses it.

    Args:
        service: base URL.
        retry: how long it keeps trying.
        limits: of each request.
        ca_file: PEM file of the certificate authorities to trust instead of the system's, for https.
    """

    def __init__(
        self, service: str, retry: RetryPolicy | None = None, limits: Limits = LIMITS, ca_file: Path | None = None
    ) -> None:
        self._base = service.rstrip("/")
        self._retry = retry or RetryPolicy()
        self._limits = limits
        # A proxy of the environment does not lead back to this machine.
        local = urlsplit(self._base).hostname in _LOOPBACK
        self._session = new_session(ca_file=None if ca_file is None else str(ca_file), proxies_of_environment=not local)

    def exchange(
        self, path: str, body: Callable[[Mapping[str, Any]], Mapping[str, Any]], challenge: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Ask for a challenge, then POST to `path` what `body` makes of the answer; returns the answer to that.

        Where the service is busy or the line breaks, all of it is done again: whether a challenge was used up then is not
        known, so none is sent twice. A license whose answer got lost is no loss, the device keeps its place.

        Args:
            path: of the second request.
            body: makes its members from those of the challenge's answer.
            challenge: members of the first request.

        Raises the error whose `code` the service's problem names, ServiceError for one that is not known here,
        ServiceUnreachableError or ServiceProtocolError.
        """
        return self._retry.run(lambda: self._post(path, body(self._post("/v1/challenges", challenge))))

    def _post(self, path: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            answer = exchange(
                self._session, "POST", self._base + path, json=members, limits=self._limits,
                headers={"Accept-Encoding": "identity"}, unpack=False,
            )  # fmt: skip
        except ExchangeError as error:
            raise _no_answer(error) from None
        if answer.status_code == 201:
            return Fields.parse(answer.body, "the service's answer", ServiceProtocolError).values
        raise _refusal(answer)


def _no_answer(error: ExchangeError) -> Exception:
    """What it means that no complete answer came."""
    if error.failure is Failure.CERTIFICATE:
        return ServiceUnreachableError("the service's certificate is not trusted")
    if error.retryable:
        return RetryLater(ServiceUnreachableError("the service cannot be reached"))
    return ServiceProtocolError(str(error))


def _refusal(answer: Answer) -> Exception:
    """What a status other than 201 means; 429, 503 and a challenge that is too old or used up are tried again."""
    busy = answer.status_code in (429, 503)
    error: LicensingError
    try:
        error = error_of_problem(answer.body)
    except ServiceProtocolError as unclear:
        # A proxy in front of the service answers in its own words.
        error = unclear
    if busy and type(error) in (ServiceError, ServiceProtocolError):
        error = ServiceBusyError(f"the service answers with status {answer.status_code}")
    if busy or error.code in ("challenge-used", "challenge-expired"):
        return RetryLater(error, answer.retry_after)
    return error
