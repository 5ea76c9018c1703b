"""Clients that are many, or slow on purpose: each gets its share, and an honest client is served."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from pathlib import Path

import pytest
from corelocker.service.limits import ClientShares
from corelocker.service.run import raise_file_limit
from support.http_server import HEAD, eventually, problem, raw_problem, serving
from support.unlock_world import World

from tools import slow_clients


def test_connections_of_one_address(sqlite_world: World) -> None:
    with serving(sqlite_world, max_client_connections=4) as server:
        here = ("127.0.0.1", server.port)
        idle = [socket.create_connection(here, timeout=10) for _ in range(4)]
        assert eventually(lambda: open_connections(server.metrics) == 4)
        raw_problem(server.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"), 429, "rate-limited")
        with socket.create_connection(here, timeout=10, source_address=("127.0.0.2", 0)) as other:
            other.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert other.recv(65536).startswith(b"HTTP/1.1 200")
        for connection in idle:
            connection.close()
        assert eventually(lambda: open_connections(server.metrics) == 0)
        assert server.request("GET", "/healthz").status_code == 200


def test_requests_of_one_client_behind_a_proxy(sqlite_world: World) -> None:
    """The proxy's connections are not limited; what one of its clients has under way is."""
    limits = {"max_client_connections": 2, "trusted_proxies": ("127.0.0.1",), "request_timeout": 5}
    unfinished = HEAD + b"x-forwarded-for: 192.0.2.1\r\ncontent-length: 2\r\n\r\n{"
    with serving(sqlite_world, **limits) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            connection.sendall(unfinished)
        assert eventually(lambda: server.in_progress == 2)

        def ask(client: str) -> int:
            return server.post("/v1/challenges", {}, headers={"x-forwarded-for": client}).status_code

        assert [ask("192.0.2.1"), ask("192.0.2.2")] == [429, 201]
        answer = server.post("/v1/challenges", {}, headers={"x-forwarded-for": "192.0.2.1"})
        problem(answer, 429, "rate-limited")
        connection.sendall(b"}")
        assert eventually(lambda: server.in_progress == 1)
        assert ask("192.0.2.1") == 201


@pytest.mark.parametrize("last", [b"GET /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b""])
def test_a_client_that_does_not_read_its_answers(sqlite_world: World, last: bytes) -> None:
    """Its connection ends after the time of a request; closing alone would wait until everything was read."""
    with serving(sqlite_world, request_timeout=1) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 20 + last)
            assert eventually(lambda: open_connections(server.metrics) == 1)
            assert eventually(lambda: open_connections(server.metrics) == 0, 10)
        assert server.request("GET", "/healthz").status_code == 200


def test_a_client_that_reads_drop_by_drop(sqlite_world: World) -> None:
    with serving(sqlite_world, request_timeout=1) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 40)
        ended = threading.Event()

        def read() -> None:
            while not ended.wait(0.1):
                connection.recv(1)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert eventually(lambda: open_connections(server.metrics) == 1)
            assert eventually(lambda: open_connections(server.metrics) == 0, 15)
        finally:
            ended.set()
            reader.join()


def test_shares_are_given_back() -> None:
    shares = ClientShares(2)
    assert [shares.take("2001:db8::1"), shares.take("2001:db8::2"), shares.take("2001:db8::3")] == [True, True, False]
    assert shares.take("2001:db8:1::1")
    shares.give_back("2001:db8::1")
    assert shares.take("2001:db8::3")
    unlimited = ClientShares(0)
    assert all(unlimited.take("192.0.2.1") for _ in range(1000))


def test_the_limit_of_open_files(sqlite_world: World) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(sqlite_world) as server:
        http = server.service.config.http
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64 + len(list(Path("/proc/self/fd").iterdir())), limits[1]))
        assert raise_file_limit(http) == (limits[1] >= http.max_connections + 256)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(http.max_connections + 256, limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("one_address", [False, True])
def test_an_honest_client_among_a_thousand_slow_ones(sqlite_world: World, one_address: bool) -> None:
    result = slow_clients.measure(sqlite_world, 1000, 3, one_address)
    print(result)
    assert result["alone"]["failed"] == result["crowded"]["failed"] == 0
    # Those of one address get their share alone; the others are all let in.
    assert result["held"] <= 140 if one_address else result["held"] >= 700


def open_connections(metrics: object) -> float | None:
    registry = metrics.registry  # type: ignore[attr-defined]
    value: float | None = registry.get_sample_value("corelocker_connections")
    return value
