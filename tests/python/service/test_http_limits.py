"""Limits of sizes, times and numbers: what is too large, too slow or too much is refused, and others go on."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import requests
from corelocker.service.connections import MAX_CHUNKS
from corelocker.service.limits import MAX_HEAD
from corelocker.service.problems import PREFIX
from support.http_server import (
    HEAD,
    Around,
    Server,
    answers,
    eventually,
    problem,
    raw_problem,
    read_all,
    serving,
    whole,
)
from support.unlock_world import Phone, World


def test_a_body_that_is_too_large(server: Server) -> None:
    limit = 64 << 10
    padding = b" " * (limit - 2)
    headers = {"content-type": "application/json"}
    assert server.request("POST", "/v1/challenges", data=b"{}" + padding, headers=headers).status_code == 201
    answer = server.request("POST", "/v1/challenges", data=b"{}" + padding + b" ", headers=headers)
    problem(answer, 413, "payload-too-large")
    # It was read to its end, so the connection goes on; one that is longer ends it.
    assert "connection" not in answer.headers
    raw_problem(server.raw(HEAD + b"content-length: 99999999999\r\n\r\n{}"), 413, "payload-too-large")


def test_a_body_without_a_length(server: Server) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        yield b"{}"
        for _ in range(size // 1000):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    assert server.request("POST", "/v1/challenges", data=chunks(60_000), headers=headers).status_code == 201
    problem(server.request("POST", "/v1/challenges", data=chunks(70_000), headers=headers), 413, "payload-too-large")


def test_a_body_in_crumbs(server: Server) -> None:
    """Each chunk costs time, however small: a body of many would keep a worker busy as a single request of the client."""
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    crumb = b"1\r\n \r\n"

    def ask(crumbs: int) -> bytes:
        return head + crumb * crumbs + b"2\r\n{}\r\n0\r\n\r\n"

    # The limit is of each request, not of its connection.
    whole_bodies = ask(MAX_CHUNKS - 1) * 3
    received = server.raw(whole_bodies + ask(MAX_CHUNKS) + ask(0))
    assert [status for status, _, _ in answers(received)] == [201, 201, 201, 400]
    raw_problem(server.raw(head + crumb * 200_000), 400, "request-malformed")
    assert server.request("GET", "/healthz").status_code == 200


def test_a_body_without_an_end(server: Server) -> None:
    sent = 0
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        try:
            while sent < 64 << 20:
                connection.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
    # The kernel's buffers take some megabytes, the server 512 KiB.
    assert sent < 32 << 20


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits a second for a request."""
    folder = tmp_path_factory.mktemp("impatient")
    with serving(World(folder, f"sqlite:///{folder / 'unlock.sqlite'}"), request_timeout=1) as running:
        yield running


@pytest.mark.parametrize("sent", [b"content-length: 100\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_that_never_comes(impatient: Server, sent: bytes) -> None:
    start = time.monotonic()
    raw_problem(impatient.raw(HEAD + sent), 408, "request-timeout")
    assert time.monotonic() - start > 0.7


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"content-length: 2\r\n"])
def test_a_head_that_never_ends(impatient: Server, sent: bytes) -> None:
    start = time.monotonic()
    raw_problem(impatient.raw(sent), 408, "request-timeout")
    assert time.monotonic() - start > 0.7
    assert impatient.lines()[-1]["code"] == "request-timeout"


@pytest.mark.parametrize("together", [True, False])
def test_a_second_head_that_never_ends(impatient: Server, together: bool) -> None:
    first = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as connection:
        connection.sendall(first + HEAD if together else first)
        received = connection.recv(65536)
        if not together:
            connection.sendall(HEAD)
        received += read_all(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in received


def test_a_head_sent_drop_by_drop_is_cut_off(impatient: Server) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=5) as connection:
        sent = 0
        try:
            for byte in HEAD:
                connection.sendall(bytes([byte]))
                sent += 1
                time.sleep(0.1)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert 5 < sent < 30


def test_a_head_that_is_too_large(server: Server) -> None:
    raw_problem(server.raw(HEAD + b"x: " + b"a" * 300_000), 431, "headers-too-large")
    raw_problem(server.raw(HEAD + b"x: a\r\n" * 50_000), 431, "headers-too-large")
    raw_problem(server.raw(b"GET /" + b"a" * 300_000), 431, "headers-too-large")


@pytest.mark.parametrize("at_once", [True, False])
def test_headers_count_together_however_they_arrive(server: Server, at_once: bool) -> None:
    """A head that arrives whole passes the parser's own limit, which is for a head that is not complete."""
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 1000) for number in range(MAX_HEAD // 1000 + 1))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        data = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n"
        pieces = [data] if at_once else [data[at : at + 2000] for at in range(0, len(data), 2000)]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0 if at_once else 0.02)
        raw_problem(read_all(connection), 431, "headers-too-large")
    fitting = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 15_000 + b"\r\n\r\n"
    assert server.raw(fitting).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
             HEAD + b"content-length: x\r\n\r\n", HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}"]
)  # fmt: skip
def test_what_is_no_http(server: Server, data: bytes) -> None:
    raw_problem(server.raw(data), 400, "request-malformed")


def test_a_client_that_hangs_up(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        assert eventually(lambda: server.in_progress == 1)
    line = server.lines()[-1]
    assert (line["status"], line["route"]) == (499, "challenge")


def test_a_refusal_without_reading_ends_the_connection(server: Server) -> None:
    received = server.raw(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 404")
    assert b"connection: close" in received.lower()


class Gate:
    """A service whose unlocks wait until the gate is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        self.finished = 0

    def wrap(self, real: Any) -> Around:
        def unlock(request: Any) -> Any:
            self.begun.release()
            assert self.open.wait(20)
            issued = real.decisions.unlock(request)
            self.finished += 1
            return issued

        return Around(real, decisions=Around(real.decisions, unlock=unlock))


def test_more_than_it_bears(sqlite_world: World) -> None:
    gate = Gate()
    with serving(sqlite_world, gate.wrap, threads=1, max_pending=2) as server, ThreadPoolExecutor(8) as pool:
        bodies = [Phone(sqlite_world).unlock_body(server.challenge(), sqlite_world.grant(f"p{i}")) for i in range(8)]
        url = server.url + "/v1/licenses"
        waiting = [pool.submit(requests.post, url, json=body, timeout=30) for body in bodies[:3]]
        assert gate.begun.acquire(timeout=10)
        assert eventually(lambda: server.in_progress == 3)
        # They count from their heads on, and take their places when their bodies have come.
        time.sleep(0.5)
        for body in bodies[3:6]:
            assert problem(server.post("/v1/licenses", body), 503, "overloaded")["retry_after"] == 1
        # Refused at once, and what needs no thread is not in the way.
        assert server.challenge()
        assert server.request("GET", "/healthz").status_code == 200
        gate.open.set()
        assert [answer.result().status_code for answer in waiting] == [201, 201, 201]
        assert server.post("/v1/licenses", bodies[6]).status_code == 201
        assert 'corelocker_refusals_total{code="overloaded",route="unlock"} 3.0' in server.metrics_text()


def test_an_answer_that_takes_too_long(sqlite_world: World) -> None:
    gate = Gate()
    with serving(sqlite_world, gate.wrap, threads=1, max_pending=1, request_timeout=1) as server:
        body = Phone(sqlite_world).unlock_body(server.challenge(), sqlite_world.grant("p"))
        problem(server.post("/v1/licenses", body), 503, "timeout")
        # The work still holds its thread: its place is not given to another.
        late = Phone(sqlite_world).unlock_body(server.challenge(), sqlite_world.grant("q"))
        problem(server.post("/v1/licenses", late), 503, "timeout")
        problem(server.post("/v1/licenses", late), 503, "overloaded")
        gate.open.set()
        assert eventually(lambda: gate.finished == 1)
        time.sleep(0.5)
        # What had begun ended; what waited beyond its time was not begun.
        assert gate.finished == 1
        problem(server.post("/v1/licenses", body), 409, "challenge-used")


def test_more_connections_than_it_bears(sqlite_world: World) -> None:
    with serving(sqlite_world, max_connections=4) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(4)]
        time.sleep(0.2)
        raw_problem(server.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"), 503, "overloaded")
        for connection in idle:
            connection.close()
        time.sleep(0.2)
        assert server.request("GET", "/healthz").status_code == 200


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    phone, grant = Phone(server.world), server.world.grant("pipelined")
    health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    sent, expected = b"", []
    for _ in range(5):
        body = json.dumps(phone.unlock_body(server.challenge(), grant)).encode()
        sent += whole("/v1/challenges", b"{}") + whole("/v1/licenses", body) + whole("/v1/licenses", body) + health
        expected += [201, 201, 409, 200]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent[:-2] + b"connection: close\r\n\r\n")
        found = answers(read_all(connection))
    assert [status for status, _, _ in found] == expected
    assert ["challenge" in body for _, _, body in found] == [True, False, False, False] * 5


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.4])
def test_a_request_that_comes_in_pieces(server: Server, pause: float) -> None:
    grant = server.world.grant("in pieces")
    body = json.dumps(Phone(server.world).unlock_body("A" * 54, grant)).encode()
    data = whole("/v1/licenses", body)
    last = whole("/v1/licenses", body, "connection: close")
    head, last_head = len(data) - len(body), len(last) - len(body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for request, cuts in ((data, (0, head, head + 100, len(data))), (last, (0, last_head - 1, len(last)))):
            for begin, end in pairwise(cuts):
                connection.sendall(request[begin:end])
                time.sleep(pause)
        found = answers(read_all(connection))
    assert [(status, answer["type"]) for status, _, answer in found] == [(409, PREFIX + "challenge-malformed")] * 2


def test_a_client_that_is_gone_before_its_answer(server: Server) -> None:
    """Its license counts: the device asks again, and holds its place."""
    phone, before = Phone(server.world), len(server.lines())
    body = json.dumps(phone.unlock_body(server.challenge(), server.world.grant("gone"))).encode()

    def unlocks() -> list[int]:
        return [line["status"] for line in server.lines()[before:] if line.get("route") == "unlock"]

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(whole("/v1/licenses", body))
    assert eventually(lambda: unlocks() == [201])
    problem(server.post("/v1/licenses", json.loads(body)), 409, "challenge-used")
