"""The HTTP client: what one exchange may take, how failures are told apart, and when it is tried again."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from corelocker.errors import ConfigError
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
from support.play_server import Call, Reply, drip, hang, http_server, raw
from support.unlock_world import free_port

LIMITS = Limits(connect=1.0, answer=1.0, size=1000)


@dataclass
class Server:
    """Answers with `reply` and keeps what it was asked."""

    url: str = ""
    reply: Reply | Callable[[Call], Any] = (200, {}, b"")
    calls: list[Call] = field(default_factory=list)

    def answer(self, call: Call) -> Reply | Callable[[Any], None]:
        self.calls.append(call)
        return self.reply(call) if callable(self.reply) else self.reply


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with http_server(made.answer) as made.url:
        yield made


def ask(url: str, **options: Any) -> Answer:
    with new_session(proxies_of_environment=False) as session:
        return exchange(session, options.pop("method", "GET"), url, limits=LIMITS, **options)


def test_an_answer_with_any_status(server: Server) -> None:
    server.reply = 418, {"X-Tea": "yes"}, b'{"a": 1}'
    answer = ask(server.url + "/path", params={"q": "1"}, headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.headers["x-tea"], answer.json()) == (418, "yes", {"a": 1})
    (call,) = server.calls
    assert (call.path, call.query, call.headers["authorization"]) == ("/path", {"q": "1"}, "Bearer x")


def test_a_body_is_sent_as_json(server: Server) -> None:
    ask(server.url, method="POST", json={"a": [1]})
    assert server.calls[0].body == b'{"a": [1]}'
    assert server.calls[0].headers["content-type"] == "application/json"


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.reply = 302, {"Location": "/elsewhere"}, b""
    assert ask(server.url).status_code == 302
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (hang(60), Failure.TOO_SLOW),
        (drip(600, 0.1), Failure.TOO_SLOW),
        (raw(b""), Failure.UNREACHABLE),
        (raw(b"\x16\x03\x01\x02"), Failure.UNREACHABLE),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"), Failure.UNREACHABLE),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), Failure.UNREACHABLE),
        ((200, {}, bytes(1001)), Failure.TOO_LARGE),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(1 << 20))), Failure.TOO_LARGE),
        ((200, {"Content-Encoding": "gzip"}, b"not gzip"), Failure.UNREACHABLE),
    ],
    ids=["hang", "drip", "closed", "no-http", "cut", "bad-chunks", "large", "bomb", "bad-gzip"],
)
def test_no_complete_answer(server: Server, reply: Any, failure: Failure) -> None:
    server.reply = reply
    with pytest.raises(ExchangeError) as raised:
        ask(server.url + "/secret-token")
    assert raised.value.failure is failure
    assert raised.value.retryable == (failure is not Failure.TOO_LARGE)
    assert "secret-token" not in str(raised.value)


def test_exactly_as_large_as_allowed(server: Server) -> None:
    server.reply = 200, {}, bytes(1000)
    assert len(ask(server.url).body) == 1000


@pytest.mark.parametrize(
    ("url", "failure"),
    [
        ("http://127.0.0.1:{port}", Failure.UNREACHABLE),
        ("gopher://127.0.0.1:{port}", Failure.REQUEST),
        ("http://", Failure.REQUEST),
        ("https://{server}", Failure.CERTIFICATE),
    ],
)
def test_nobody_to_ask(server: Server, url: str, failure: Failure) -> None:
    server.reply = raw(b"")
    with pytest.raises(ExchangeError) as raised:
        ask(url.format(port=free_port(), server=server.url.removeprefix("http://")))
    assert raised.value.failure is failure


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'"\\ud800"'])
def test_a_body_that_is_no_json(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own messages
        Answer(200, {}, body).json()


def flaky(failures: int, waits: list[float | None] | None = None) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def attempt() -> str:
        calls.append(len(calls))
        if len(calls) <= failures:
            raise RetryLater(OSError("down"), (waits or [None] * failures)[len(calls) - 1])
        return "up"

    return attempt, calls


def test_waits_double_with_jitter_and_obey_the_server() -> None:
    slept: list[float] = []
    policy = RetryPolicy(attempts=4, first_wait=1, longest_wait=10, sleep=slept.append)
    attempt, calls = flaky(3, [None, None, 9])
    assert policy.run(attempt) == "up"
    assert len(calls) == 4
    assert 0.5 <= slept[0] <= 1
    assert 1 <= slept[1] <= 2
    assert slept[2] == 9


@pytest.mark.parametrize(("attempts", "wait", "made"), [(3, None, 3), (3, 11, 1), (1, None, 1)])
def test_attempts_end(attempts: int, wait: float | None, made: int) -> None:
    policy = RetryPolicy(attempts=attempts, first_wait=0.01, longest_wait=10, sleep=lambda _: None)
    attempt, calls = flaky(99, [wait] * 99)
    with pytest.raises(OSError, match="down"):
        policy.run(attempt)
    assert len(calls) == made


def test_no_attempt_makes_no_sense() -> None:
    with pytest.raises(ConfigError):
        RetryPolicy(attempts=0)
