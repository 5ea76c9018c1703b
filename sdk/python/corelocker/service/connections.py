"""uvicorn's HTTP/1.1 connection over h11, with the limits that it lacks: how many, of whom, and how slow they may be.

Why h11: with httptools (llhttp), a request with `Connection: Upgrade` ended the parsing while the connection stayed open,
so the bytes of its late body were answered as a second request, which is request smuggling behind a proxy. h11 reads
every body to its declared end, and refuses what is no HTTP. tests/python/service/test_smuggling.py holds the server to a
corpus of such requests. What the choice costs is said in tools/bench/unlock/README.md.
"""

from __future__ import annotations

import asyncio
import functools
import http
import json
import math
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from corelocker.service.config import HttpConfig
from corelocker.service.edge import OTHER
from corelocker.service.limits import MAX_HEAD, ClientAddress, ClientShares
from corelocker.service.logs import Log
from corelocker.service.metrics import Metrics
from corelocker.service.problems import of_code
from corelocker.service.request_id import new_request_id
from corelocker.service.run import BACKLOG

KEEP_ALIVE_SECONDS = 30
# Of one body. A chunk costs h11 as much time as a small request, whatever is in it.
MAX_CHUNKS = 1024


class Server(uvicorn.Server):
    """The server of one process; `started` is called once it serves."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_started = started
        self.draining = False

    def drain(self, seconds: float) -> None:
        """End, and lose no request: an idle connection is closed after its next answer, as that says, or by its time-out."""
        self.draining = True
        self.config.timeout_graceful_shutdown = math.ceil(seconds)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.draining:
            self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        await super().shutdown(sockets)


def make_server(
    app: ASGIApp, http_config: HttpConfig, log: Log, metrics: Metrics, started: Callable[[], None] | None = None
) -> Server:
    """The server of one process, for sockets that somebody else opened; `started` is called once it serves."""
    server: Server
    connection = functools.partial(
        Connection,
        draining=lambda: server.draining,
        max_connections=http_config.max_connections,
        shares=ClientShares(http_config.max_client_connections),
        addresses=ClientAddress(http_config.trusted_proxies),
        seconds=http_config.request_timeout,
        log=log,
        metrics=metrics,
    )
    settings = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], connection),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=http_config.shutdown_grace,
    )
    server = Server(settings, started)
    return server


class Parser(h11.Connection):
    """h11's reader of requests, which takes no more than `MAX_CHUNKS` chunks of one body."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._chunks = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = 0
        elif isinstance(event, h11.Data) and event.chunk_start:
            self._chunks += 1
            if self._chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError("too many chunks")
        return event


class Connection(H11Protocol):
    """One connection. What never becomes a request is refused here, with the same problem details as elsewhere.

    Args:
        draining: whether the server ends and waits for clients to close.
        max_connections: a further one gets `overloaded` and is closed.
        shares, addresses: how many one client may have; a trusted proxy's connections are not its own.
        seconds: from the first byte of a head, or from the connection's begin, to the head's end; and as long a client
            that does not read may keep answers waiting.
    """

    def __init__(
        self,
        *args: Any,
        draining: Callable[[], bool],
        max_connections: int,
        shares: ClientShares,
        addresses: ClientAddress,
        seconds: float,
        log: Log,
        metrics: Metrics,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.conn = Parser()
        self._draining = draining
        self._max_connections = max_connections
        self._shares = shares
        self._addresses = addresses
        self._seconds = seconds
        self._log = log
        self._metrics = metrics
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._shares_of: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._metrics.connected()
        if len(self.connections) > self._max_connections:
            self._refuse("overloaded")
        elif not self._take_share():
            self._refuse("rate-limited")
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._metrics.disconnected()
        self._stop_head_timer()
        self._stop_write_timer()
        if self._shares_of is not None:
            self._shares.give_back(self._shares_of)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._bound_leftovers()
        # A part of the next head may have come with the request.
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bound_leftovers()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._bound_leftovers()

    def shutdown(self) -> None:
        if not self._draining() or (self.cycle is not None and not self.cycle.response_complete):
            super().shutdown()
        if self.cycle is not None and not self.cycle.response_complete:
            # The connection ends after this answer. uvicorn says so where the request has said it.
            cast(list[tuple[bytes, bytes]], self.cycle.scope["headers"]).append((b"connection", b"close"))

    def send_400_response(self, msg: str) -> None:
        error = sys.exception()
        too_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        self._refuse("headers-too-large" if too_large else "request-malformed")

    def _watch_head(self) -> None:
        in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not in_head or self.transport.is_closing():
            self._stop_head_timer()
        elif self._head_timer is None:
            self._start_head_timer()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._seconds, self._refuse, "request-timeout")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _take_share(self) -> bool:
        peer = self.client[0] if self.client else "unix"
        if not self._addresses.trusts(peer):
            if not self._shares.take(peer):
                return False
            self._shares_of = peer
        return True

    def _bound_leftovers(self) -> None:
        """Give up a client that does not read its answers: closing alone would wait for it for ever."""
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._write_timer = self.loop.call_later(self._seconds, self.transport.abort)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, code: str) -> None:
        """Answer what is no request, if an answer still makes sense here, and close the connection."""
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        problem, request_id = of_code(code), new_request_id()
        self._metrics.refused(OTHER, code)
        client = self.client[0] if self.client else "unix"
        self._log.write("info", "refused", request_id=request_id, client=client, code=code)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(problem.members(request_id), separators=(",", ":")).encode()
            headers = problem.headers(request_id) | {
                "content-length": str(len(body)), "cache-control": "no-store", "connection": "close",
            }  # fmt: skip
            status = http.HTTPStatus(problem.status)
            head = h11.Response(status_code=status, headers=list(headers.items()), reason=status.phrase.encode())
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._bound_leftovers()
