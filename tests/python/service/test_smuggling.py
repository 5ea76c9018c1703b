"""Requests that a proxy may read in another way than the server: each gets the answers that it should, and no other.

A smuggled request would be one more answer on the connection, and a line in the log: every request that is hidden in
another one is for an address that nothing else asks for.
"""

from __future__ import annotations

import socket
import time

import pytest
from support.http_server import HEAD, Server, read_all
from support.smuggling import CORPUS, GOOD, length


def talk(server: Server, *parts: bytes, seconds: float = 1.0) -> list[int]:
    """The statuses of the answers to these parts, which are sent one after another."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        try:
            for number, part in enumerate(parts):
                if number:
                    time.sleep(0.2)
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        received = read_all(connection)
    return [int(answer[:3]) for answer in received.split(b"HTTP/1.1 ")[1:]]


def asked(server: Server, before: int) -> list[tuple[str, int]]:
    """Route and status of the requests since then; one that was smuggled has the route `other` and 404."""
    return [(line["route"], line["status"]) for line in server.lines()[before:] if line["event"] == "request"]


@pytest.mark.parametrize("name", CORPUS)
def test_nothing_is_smuggled(server: Server, name: str) -> None:
    parts, statuses = CORPUS[name]
    before = len(server.lines())
    assert talk(server, *parts) == [*statuses]
    requests = asked(server, before)
    # One request at most, and none of what was hidden in it.
    assert len(requests) <= 1
    assert ("other", 404) not in requests or name == "CONNECT"
    # A body that turns out to be malformed ends its request as if the client had gone.
    assert {status for _, status in requests} <= {*statuses, 499}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_clear_is_answered_in_order(server: Server, name: str) -> None:
    """What may look odd and has one meaning (RFC 9112): every request gets its answer, the last one too."""
    parts, statuses = GOOD[name]
    before = len(server.lines())
    assert talk(server, *parts) == [*statuses]
    assert [status for _, status in asked(server, before)] == [*statuses]


def test_an_upgraded_connection_is_closed(server: Server) -> None:
    """With uvicorn's httptools the connection stayed open, and the parser had stopped: the late body was a request."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = HEAD + b"connection: Upgrade\r\nupgrade: foo\r\n" + length(2) + b"\r\n"
        connection.sendall(head)
        time.sleep(0.2)
        connection.sendall(b"{}")
        received = read_all(connection)
    assert received.count(b"HTTP/1.1") == 1
    assert received.startswith(b"HTTP/1.1 201")
    assert b"connection: close" in received
