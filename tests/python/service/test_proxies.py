"""The smuggling corpus behind each proxy of deploy/: nobody gets the answer of somebody else's request."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.http_server import Server, eventually, read_all, serving, whole
from support.proxies import HOST, PROXIES, Proxy, proxy
from support.smuggling import CORPUS, GOOD
from support.unlock_world import Phone, World

CLOSE = "connection: close"


def send(through: Proxy, parts: Sequence[bytes], seconds: float = 1.0) -> bytes:
    """What comes back for these parts, which are sent one after another."""
    with through.connect(seconds) as connection:
        with contextlib.suppress(OSError):
            for number, part in enumerate(parts):
                time.sleep(0.2 if number else 0)
                connection.sendall(part.replace(b"host: x\r\n", f"host: {HOST}\r\n".encode()))
        with contextlib.suppress(OSError):
            return read_all(connection)
    return b""


class Honest(threading.Thread):
    """Asks one thing after another on connections that the proxy shares, and compares what comes back."""

    def __init__(self, through: Proxy) -> None:
        super().__init__()
        self._proxy = through
        self.stop = threading.Event()
        self.asked = 0
        self.wrong: list[bytes] = []

    def run(self) -> None:
        questions = (
            (whole("/v1/challenges", b"{}", CLOSE), b"HTTP/1.1 201", b'"challenge"'),
            (b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200", b'"status":"ok"'),
            (whole("/v1/licenses", b"[]", CLOSE), b"HTTP/1.1 400", b"request-malformed"),
        )
        while not self.stop.is_set():
            request, status, text = questions[self.asked % len(questions)]
            self.asked += 1
            received = send(self._proxy, [request], 10)
            if not received.startswith(status) or text not in received:
                self.wrong.append(received[:300])


@pytest.mark.parametrize("kind", PROXIES)
def test_nobody_gets_anothers_answer(sqlite_world: World, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    with (
        serving(sqlite_world, trusted_proxies=("127.0.0.1",), max_client_connections=0) as server,
        proxy(kind, folder, server.port) as through,
    ):
        assert unlocks(server, through)
        honest = [Honest(through) for _ in range(3)]
        for one in honest:
            one.start()
        cases = {**CORPUS, **GOOD}
        with ThreadPoolExecutor(12) as pool:
            received = dict(zip(cases, pool.map(lambda name: send(through, cases[name][0]), cases), strict=True))
        for one in honest:
            one.stop.set()
            one.join()
        assert [wrong for one in honest for wrong in one.wrong] == []
        assert min(one.asked for one in honest) >= 3
        # A hidden request that the service has seen is one that its sender got the answer of: it was no hidden one.
        seen = sum(
            (line["route"], line["status"]) == ("other", 404) for line in server.lines() if line["event"] == "request"
        )
        assert seen <= sum(data.count(b"urn:corelocker:problem:not-found") for data in received.values())
        for name, (parts, statuses) in GOOD.items():
            got = [int(answer[:3]) for answer in received[name].split(b"HTTP/1.1 ")[1:]]
            # A proxy may refuse what is odd; what it passes on is answered in order.
            assert got == [*statuses][: len(got)] or 400 in got, (name, parts, got)
        # The client's address is the one that the proxy has seen.
        forged = whole("/v1/challenges", b"{}", "x-forwarded-for: 192.0.2.9", CLOSE)
        assert send(through, [forged], 10).startswith(b"HTTP/1.1 201")
        assert server.lines()[-1]["client"] == "127.0.0.1"


def unlocks(server: Server, through: Proxy) -> bool:
    """A complete unlock through the proxy."""
    assert eventually(
        lambda: send(through, [b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"], 5)[9:12] == b"200"
    )
    body = Phone(server.world).unlock_body(server.challenge(), server.world.grant())
    received = send(through, [whole("/v1/licenses", json.dumps(body).encode(), CLOSE)], 10)
    return received.startswith(b"HTTP/1.1 201 ")
