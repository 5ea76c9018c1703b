"""HTTP requests of this library: one bounded exchange, typed failures, and one rule for when to try again.

The service asks the stores with it, and a device asks the service. Callers turn an `ExchangeError` into the error of
their own API. No failure quotes the URL or the body: both may hold a purchase token.
"""

from __future__ import annotations

import json as json_module
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import requests
import urllib3.exceptions

from corelocker.errors import ConfigError

MAX_RETRY_AFTER = 86400  # seconds
_PIECE = 64 << 10
_T = TypeVar("_T")


class Failure(StrEnum):
    """Why there is no complete answer."""

    UNREACHABLE = "unreachable"
    CERTIFICATE = "certificate"
    TOO_SLOW = "too-slow"
    TOO_LARGE = "too-large"
    REQUEST = "request"


class ExchangeError(Exception):
    """No complete answer came.

    Attributes:
        failure: why.
        retryable: whether the same request may succeed later.
    """

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.retryable = failure in (Failure.UNREACHABLE, Failure.TOO_SLOW)


@dataclass(frozen=True)
class Limits:
    """What one exchange may take.

    Attributes:
        connect: seconds for the TCP and TLS handshake.
        answer: seconds for each wait for the server, and for the answer as a whole.
        size: bytes of the answer's body after its content encoding is undone.
    """

    connect: float = 5.0
    answer: float = 10.0
    size: int = 4 << 20


@dataclass(frozen=True)
class Answer:
    """A complete answer with any status; `body` has its content encoding undone. Header names match in any case."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> int | None:
        """Seconds that `Retry-After` asks to wait (RFC 9110, section 10.2.3), at most a day; None without a number."""
        value = self.headers.get("Retry-After", "")
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            return None
        return min(int(value), MAX_RETRY_AFTER)

    def json(self) -> object:
        """The JSON value of the body. Raises ValueError when it is none, or holds a text that has no UTF-8."""
        try:
            value: object = json_module.loads(self.body.decode())
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if b"\\u" in self.body:
            # A lone surrogate can be neither hashed nor stored.
            json_module.dumps(value, ensure_ascii=False).encode("utf-8")
        return value


def new_session(*, ca_file: str | None = None, proxies_of_environment: bool = True) -> requests.Session:
    """A session for one thread; close it after use.

    Args:
        ca_file: PEM file of the certificate authorities to trust instead of the system's.
        proxies_of_environment: False for addresses on this machine, which a proxy does not lead back to.
    """
    session = requests.Session()
    session.verify = ca_file or True
    session.trust_env = proxies_of_environment
    return session


def exchange(
    session: requests.Session,
    method: str,
    url: str,
    *,
    limits: Limits,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str | list[str]] | None = None,
    json: Mapping[str, Any] | None = None,
    unpack: bool = True,
) -> Answer:
    """Send one request and read the whole answer within the limits. Follows no redirect. Raises ExchangeError.

    Without `unpack` a content encoding is not undone; for servers that were asked for none.
    """
    deadline = time.monotonic() + limits.answer
    try:
        with session.request(
            method,
            url,
            headers=dict(headers or {}),
            params=params,
            json=None if json is None else dict(json),
            timeout=(limits.connect, limits.answer),
            stream=True,
            allow_redirects=False,
            # Else REQUESTS_CA_BUNDLE of the environment would replace the session's own authorities.
            verify=session.verify,
            auth=_keep_authorization,
        ) as response:
            body = bytearray()
            # Not `iter_content`: it waits until a whole piece is there, however slowly its bytes come.
            while piece := response.raw.read1(_PIECE, decode_content=unpack):
                body += piece
                if len(body) > limits.size:
                    raise ExchangeError(Failure.TOO_LARGE, f"the answer is larger than {limits.size} bytes")
                if time.monotonic() > deadline:
                    raise ExchangeError(Failure.TOO_SLOW, "the answer takes too long")
            return Answer(response.status_code, response.headers, bytes(body))
    except requests.exceptions.SSLError:
        raise ExchangeError(Failure.CERTIFICATE, "the server's certificate is not trusted") from None
    except requests.Timeout:
        raise ExchangeError(Failure.TOO_SLOW, "the server does not answer in time") from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, urllib3.exceptions.HTTPError) as error:
        raise ExchangeError(Failure.UNREACHABLE, f"the server cannot be reached ({type(error).__name__})") from None
    except requests.RequestException as error:
        raise ExchangeError(Failure.REQUEST, f"the request failed ({type(error).__name__})") from None
    except OSError as error:
        raise ExchangeError(Failure.UNREACHABLE, f"the server cannot be reached ({type(error).__name__})") from None


def _keep_authorization(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without any `auth`, requests puts a password from ~/.netrc in place of the Authorization header."""
    return request


# --- trying again --------------------------------------------------------------------------------


class RetryLater(Exception):  # noqa: N818 - an instruction to `RetryPolicy`, which raises `error` in the end
    """An attempt failed, and another may succeed.

    Attributes:
        error: what to raise when there is no further attempt.
        wait: seconds after which the server wants to be asked again at the earliest, if it said so.
    """

    def __init__(self, error: Exception, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


@dataclass(frozen=True)
class RetryPolicy:
    """How often to try, with exponential backoff and jitter. Raises ConfigError without a single attempt.

    Attributes:
        attempts: tries before giving up.
        first_wait: seconds before the second try; doubled for each further one, and drawn at random from the upper half
            so that a fleet of devices does not come back at once.
        longest_wait: seconds to wait at most, also when the server asks for more; then the attempts end.
        sleep: waits so many seconds.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 30.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"{self.attempts} attempts make no sense")

    def run(self, attempt: Callable[[], _T]) -> _T:
        """What `attempt` returns. It raises RetryLater to be called again; the error in the last one is raised."""
        wait = self.first_wait
        for remaining in reversed(range(self.attempts)):
            try:
                return attempt()
            except RetryLater as later:
                # Retry-After is when the server wants to be asked at the earliest.
                pause = max(later.wait or 0, wait * random.uniform(0.5, 1))  # noqa: S311 - not a secret
                if remaining == 0 or pause > self.longest_wait:
                    raise later.error from None
            self.sleep(pause)
            wait *= 2
        raise AssertionError("unreachable")
