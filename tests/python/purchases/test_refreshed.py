"""Values that are fetched in the background: nobody waits for a slow source who has a value that still counts."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from corelocker.licensing.errors import PurchaseUpstreamError
from corelocker.purchases.google_api import GoogleApi
from corelocker.purchases.play_notices import GoogleKeys
from corelocker.purchases.refreshed import Fetched, Refreshed
from google.auth import credentials
from support.google_play import Google
from support.http_server import eventually

NOW = 1_800_000_000


class Source:
    """Gives what it is told, once it may."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.fails = False

    def fetch(self, now: float) -> Fetched[int]:
        self.calls.append(now)
        self.may_answer.wait(20)
        if self.fails:
            raise PurchaseUpstreamError("the source fails")
        return Fetched(len(self.calls), now, now + 10, now + 100)

    def refreshed(self, wait: float = 20.0) -> Refreshed[int]:
        return Refreshed(self.fetch, wait=wait, otherwise=lambda: PurchaseUpstreamError("too late"))


def test_a_stale_value_is_served_while_the_next_one_is_fetched() -> None:
    source = Source()
    value = source.refreshed()
    assert value.get(NOW) == value.get(NOW + 9) == 1
    source.may_answer.clear()
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: value.get(NOW + 50), range(80))) == {1}
    assert time.monotonic() - started < 5
    assert source.calls == [NOW, NOW + 50]
    source.may_answer.set()
    assert eventually(lambda: value.get(NOW + 50) == 2)


def test_nothing_is_served_beyond_its_lifetime() -> None:
    source = Source()
    value = source.refreshed()
    assert value.get(NOW) == 1
    source.fails = True
    assert value.get(NOW + 99) == 1
    with pytest.raises(PurchaseUpstreamError, match="the source fails"):
        value.get(NOW + 200)


def test_who_has_nothing_waits_for_a_bounded_time() -> None:
    source = Source()
    source.may_answer.clear()
    value = source.refreshed(wait=0.2)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(value.get, NOW) for _ in range(4)]
        for each in waiting:
            with pytest.raises(PurchaseUpstreamError, match="too late"):
                each.result(5)
    assert len(source.calls) == 1
    source.may_answer.set()
    assert eventually(lambda: value.get(NOW) == 1)


def test_the_pauses_after_failures_grow_up_to_five_minutes() -> None:
    source = Source()
    source.fails = True
    value = source.refreshed()
    for second in range(4000):
        with pytest.raises(PurchaseUpstreamError):
            value.get(NOW + second)
    pauses = [later - sooner for sooner, later in zip(source.calls, source.calls[1:], strict=False)]
    for index, pause in enumerate(pauses):
        longest = min(300, 2**index)
        assert longest / 2 <= pause <= longest + 1
    assert 10 < len(pauses) < 40
    source.fails = False
    assert value.get(NOW + 5000) == len(source.calls)


def test_googles_keys_are_read_while_googles_server_hangs(google: Google) -> None:
    keys = GoogleKeys(f"{google.url}/certs")
    known = keys.at(NOW)
    hangs = threading.Event()
    google.failures["^/certs"] = lambda _: (200, {}, b"x" if hangs.wait(20) else b"")
    started = time.monotonic()
    assert keys.at(NOW + 3600) is keys.at(NOW + 80_000) is known
    assert time.monotonic() - started < 5
    hangs.set()


def test_a_token_is_used_while_the_sign_in_hangs(google: Google) -> None:
    """Those who have a token go on while a thread signs in."""
    assert google.product()
    api: GoogleApi = google.play._api
    signed_in: credentials.Credentials = api.credentials
    last = api._token._last
    assert last is not None
    assert last.value == signed_in.token
    api._token._last = Fetched(last.value, last.at, last.at, last.good_until)
    hangs = threading.Event()
    google.failures["^/token"] = lambda _: (200, {}, b"x" if hangs.wait(20) else b"")
    started = time.monotonic()
    assert google.product()
    assert google.product()
    assert time.monotonic() - started < 5
    hangs.set()
