"""The unlock API as a device speaks it, with its retries and waits (docs/formats.md, "Unlock API")."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from corelocker.bundle.strict_json import Fields
from corelocker.device.errors import (
    ServiceBusyError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnreachableError,
    error_of_problem,
)
from corelocker.errors import ConfigError
from corelocker.licensing.errors import LicensingError

# What a service answers is small: a license has 16 KiB at most.
_MAX_ANSWER = 64 << 10


@dataclass(frozen=True)
class RetryPolicy:
    """How long a device keeps trying.

    Attributes:
        attempts: tries before it gives up.
        first_wait: seconds before the second try; doubled for each further one, and drawn at random from the upper half
            so that a fleet of devices does not come back at once.
        longest_wait: seconds that it waits at most, also when the service asks for more; then it gives up.
        connect, answer: seconds to connect, and for the whole answer.
        sleep: waits so many seconds.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 30
    connect: float = 5
    answer: float = 20
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)


class _TryAgain(Exception):  # noqa: N818 - not an error yet
    def __init__(self, error: LicensingError, wait: float | None) -> None:
        super().__init__()
        self.error = error
        self.wait = wait


class ServiceClient:
    """The unlock API over HTTP: one exchange is a challenge and the request that uses it.

    Args:
        service: base URL.
        retry: how long it keeps trying.
        ca_file: PEM file of the certificate authorities to trust instead of the system's, for https.
    """

    def __init__(self, service: str, retry: RetryPolicy | None = None, ca_file: Path | None = None) -> None:
        self._base = service.rstrip("/")
        self._retry = retry or RetryPolicy()
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.verify = True if ca_file is None else str(ca_file)
        # A proxy of the environment does not lead back to this machine.
        self._session.trust_env = not _is_loopback(urlsplit(self._base).hostname)

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
        wait = self._retry.first_wait
        for attempt in range(1, self._retry.attempts + 1):
            try:
                return self._post(path, body(self._post("/v1/challenges", challenge)))
            except _TryAgain as again:
                # Retry-After is when the service wants to be asked at the earliest.
                pause = max(again.wait or 0, wait * random.uniform(0.5, 1))  # noqa: S311 - not a secret
                if attempt == self._retry.attempts or pause > self._retry.longest_wait:
                    raise again.error from None
            self._retry.sleep(pause)
            wait *= 2
        raise ConfigError(f"{self._retry.attempts} attempts make no sense")

    def _post(self, path: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
        retry = self._retry
        deadline = time.monotonic() + retry.answer
        try:
            with self._session.post(
                self._base + path, json=members, timeout=(retry.connect, retry.answer),
                allow_redirects=False, stream=True,
            ) as answer:  # fmt: skip
                data = b""
                # Not `iter_content`, which waits for whole chunks: a byte now and then would hold the device for hours.
                while part := answer.raw.read1(16 << 10, decode_content=False):
                    data += part
                    if len(data) > _MAX_ANSWER:
                        raise ServiceProtocolError(f"the service's answer is larger than {_MAX_ANSWER} bytes")
                    if time.monotonic() > deadline:
                        raise requests.Timeout
        except requests.exceptions.SSLError:
            raise ServiceUnreachableError("the service's certificate is not trusted") from None
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError):
            raise _TryAgain(ServiceUnreachableError("the service cannot be reached"), None) from None
        except requests.RequestException as error:
            raise ServiceProtocolError(f"the request failed: {type(error).__name__}") from None
        if answer.status_code == 201:
            return Fields.parse(data, "the service's answer", ServiceProtocolError).values
        raise self._refusal(answer, data)

    @staticmethod
    def _refusal(answer: requests.Response, data: bytes) -> Exception:
        """What a status other than 201 means; 429, 503 and a challenge that is too old or used up are tried again."""
        asked = answer.headers.get("Retry-After", "")
        wait = float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
        busy = answer.status_code in (429, 503)
        try:
            error = error_of_problem(data)
        except ServiceProtocolError as unclear:
            # A proxy in front of the service answers in its own words.
            error = unclear
        if busy and type(error) in (ServiceError, ServiceProtocolError):
            error = ServiceBusyError(f"the service answers with status {answer.status_code}")
        if busy or error.code in ("challenge-used", "challenge-expired"):
            return _TryAgain(error, wait)
        return error


def _is_loopback(host: str | None) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")
