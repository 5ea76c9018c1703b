"""Google Play is slow, broken, gone, or refuses: nothing of that is a purchase, and what may pass later says so."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from corelocker.licensing import errors
from corelocker.licensing.http_client import Answer
from corelocker.purchases.upstream import refuse_failure
from support.google_play import (
    NOW,
    TOKEN,
    Google,
    one_time,
    subscribed,
)
from support.play_server import (
    drip,
    error_reply,
    hang,
    http_server,
    json_reply,
    raw,
)

BROKEN = {
    "429": lambda _: error_reply(429, "rateLimitExceeded", {"Retry-After": "17"}),
    "500": lambda _: error_reply(500),
    "503": lambda _: error_reply(503, headers={"Retry-After": "soon"}),
    "302": lambda _: (302, {"Location": "/elsewhere"}, b""),
    "403-quota": lambda _: error_reply(403, "quotaExceeded"),
    "403-status": lambda _: json_reply({"error": {"status": "RESOURCE_EXHAUSTED"}}, 403),
    "409": lambda _: error_reply(409),
    "hang": hang(60),
    "drip": drip(600, 0.1),
    "closed": raw(b""),
    "cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
    "no-http": raw(b"\x16\x03\x01\x02"),
    "no-json": lambda _: (200, {}, b"<html>"),
    "list": lambda _: json_reply([]),
    "null": lambda _: json_reply(None),
    "deep": lambda _: (200, {}, b"[" * 100_000),
    "not-utf8": lambda _: (200, {}, b'{"a":"\xff"}'),
    "empty": lambda _: (200, {}, b""),
    # What comes before the spaces would count.
    "large": lambda _: (200, {}, json.dumps(one_time() | subscribed()).encode().ljust(5 << 20)),
    "bomb": lambda _: (
        200,
        {"Content-Encoding": "gzip"},
        gzip.compress(json.dumps(one_time() | subscribed()).encode().ljust(50 << 20)),
    ),
    "bad-gzip": lambda _: (200, {"Content-Encoding": "gzip"}, b"not gzip"),
    "bad-chunks": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "items-no-list": lambda _: json_reply(one_time(productLineItem={"productId": "pro"}) | subscribed(lineItems=5)),
    "items-no-objects": lambda _: json_reply(one_time(productLineItem=["pro"]) | subscribed(lineItems=["pro"])),
    "account-number": lambda _: json_reply(
        one_time(obfuscatedExternalAccountId=5)
        | subscribed(externalAccountIdentifiers={"obfuscatedExternalAccountId": 5})
    ),
    "surrogate": lambda _: json_reply(one_time(orderId="\ud800") | subscribed(linkedPurchaseToken="\ud800")),
    "surrogate-in-utf8": lambda _: (
        200,
        {},
        json.dumps(one_time() | subscribed(linkedPurchaseToken="LINKED")).encode().replace(b"LINKED", b"\xed\xa0\x80"),
    ),
}


@pytest.mark.parametrize("kind", ["product", "subscription"])
@pytest.mark.parametrize("failure", BROKEN)
def test_a_broken_answer_is_retryable_and_no_purchase(google: Google, failure: str, kind: Any) -> None:
    google.products[TOKEN], google.subscriptions[TOKEN] = one_time(), subscribed()
    google.failures[r"/purchases/(products|subscriptions)v2/"] = BROKEN[failure]
    play = google.impatient() if failure in ("hang", "drip") else google.play
    with pytest.raises(errors.PurchaseUpstreamError) as raised:
        play.verify(kind, "pro", TOKEN, now_ms=NOW)
    assert raised.value.retryable
    assert raised.value.retry_after == (17 if failure == "429" else None)
    assert TOKEN not in str(raised.value)
    google.failures.clear()
    assert google.play.verify(kind, "pro", TOKEN, now_ms=NOW), "and it works again afterwards"


def test_the_time_limit_is_one_for_all_of_the_answer(google: Google) -> None:
    """Each byte comes in time, the whole never does."""
    google.failures["/productsv2/"] = drip(600, 0.1)
    play, begin = google.impatient(), time.monotonic()
    with pytest.raises(errors.PurchaseUpstreamError):
        play.verify("product", "pro", TOKEN, now_ms=NOW)
    assert time.monotonic() - begin < 30


def test_nobody_listens(google: Google) -> None:
    with http_server(google.answer) as url:
        play = google.client(base_url=url)
    with pytest.raises(errors.PurchaseUpstreamError):
        play.verify("product", "pro", TOKEN, now_ms=NOW)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_the_operators_business(google: Google, status: int) -> None:
    google.failures["/purchases/"] = lambda _: error_reply(status, "permissionDenied")
    with pytest.raises(errors.PurchaseUpstreamDeniedError) as raised:
        google.product()
    assert not raised.value.retryable


@pytest.mark.parametrize(
    "error",
    [[], 5, {"errors": 5}, {"errors": [5, None]}, {"errors": [{"reason": []}]}, {"status": {}}, {"errors": [{}]}],
    ids=str,
)
def test_a_refusal_of_any_shape(error: object) -> None:
    for body in ({"error": error}, [error], error):
        with pytest.raises(errors.PurchaseUpstreamDeniedError):
            refuse_failure(Answer(403, {}, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7), ("9" * 9, 86400), ("9" * 10, None), ("9" * 5000, None), ("²", None), ("-1", None)]
)
def test_when_to_ask_again(value: str, seconds: int | None) -> None:
    with pytest.raises(errors.PurchaseUpstreamError) as raised:
        refuse_failure(Answer(503, {"Retry-After": value}, b""))
    assert raised.value.retry_after == seconds


def test_a_netrc_file_does_not_replace_the_sign_in(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert google.product()


def test_a_lost_sign_in_is_renewed(google: Google) -> None:
    assert google.product()
    google.signed_in.clear()
    assert google.product()


@pytest.mark.parametrize(
    ("failure", "refusal"),
    [
        (lambda _: error_reply(503), errors.PurchaseUpstreamError),
        (raw(b""), errors.PurchaseUpstreamError),
        (lambda _: json_reply({"error": "invalid_grant"}, 400), errors.PurchaseUpstreamDeniedError),
        (lambda _: (200, {}, b"<html>"), errors.PurchaseUpstreamError),
        (lambda _: json_reply({"expires_in": 5}), errors.PurchaseUpstreamDeniedError),
    ],
)
def test_sign_in_fails(google: Google, failure: Any, refusal: type[Exception]) -> None:
    google.failures["^/token"] = failure
    with pytest.raises((errors.PurchaseUpstreamError, errors.PurchaseUpstreamDeniedError)) as raised:
        google.product()
    assert isinstance(raised.value, refusal)


def test_several_threads(google: Google) -> None:
    google.products[TOKEN] = one_time()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: google.play.verify("product", "pro", TOKEN, now_ms=NOW), range(80)))
    assert len(set(found)) == 1
