"""What every request passes, whatever it asks for: limits before the routes, headers, log line and metrics after them.

The edge gives a request its id, refuses what no route should see (too large a head, ambiguous framing, too many
requests), turns every exception into problem details, and ends the connection where the next request could not be told
from the rest of this one.
"""

from __future__ import annotations

import asyncio
import json
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corelocker.errors import CoreLockerError
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.limits import MAX_HEAD, ClientAddress, ClientShares, RateLimiter
from corelocker.service.logs import Log
from corelocker.service.metrics import Metrics
from corelocker.service.problems import Problem, ProblemError, of_code, of_error
from corelocker.service.request_id import begin_request, new_request_id

OTHER = "other"  # the route of a request that none takes
# An orchestrator asks these, and it must get its answer in an attack too.
_PROBES = ("/healthz", "/readyz")
_CLIENT_GONE = 499
_CLOSE = {"connection": "close"}
_SECURITY = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class EdgeMiddleware:
    """The ASGI middleware around the routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        log: Log,
        metrics: Metrics,
        limiter: RateLimiter,
        addresses: ClientAddress,
        shares: ClientShares,
    ) -> None:
        self._app = app
        self._log = log
        self._metrics = metrics
        self._limiter = limiter
        self._addresses = addresses
        self._shares = shares

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._client(scope))
        begin_request(exchange.request_id)
        self._metrics.begin()
        shares = False
        try:
            self._admit(scope, exchange.client)
            shares = scope["path"] not in _PROBES and self._take_share(exchange.client)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = exchange.status or _CLIENT_GONE
        except asyncio.CancelledError:
            exchange.status = exchange.status or _CLIENT_GONE
            raise
        except Exception as error:
            answer = self._refusal(exchange, error)
            if not exchange.status:
                await exchange.refuse(answer)
        finally:
            if shares:
                self._shares.give_back(exchange.client)
            self._end(exchange)

    def _client(self, scope: Scope) -> str:
        peer = scope.get("client")
        return self._addresses.of(peer[0] if peer else None, _values(scope, b"x-forwarded-for"))

    def _admit(self, scope: Scope, client: str) -> None:
        """Raise ProblemError for a request that no route is to see."""
        if _head_size(scope) > MAX_HEAD:
            raise ProblemError(of_code("headers-too-large"), _CLOSE)
        chunked = bool(_values(scope, b"transfer-encoding"))
        if (
            scope["http_version"] not in ("1.0", "1.1")
            # RFC 9112, 6.1: whoever sends both, or chunks in HTTP/1.0, may be smuggling a request past a proxy.
            or (chunked and scope["http_version"] == "1.0")
            or (chunked and _values(scope, b"content-length"))
        ):
            raise ProblemError(of_code("request-malformed"), _CLOSE)
        wait = 0.0 if scope["path"] in _PROBES else self._limiter.wait(client)
        if wait > 0:
            raise ProblemError(of_code("rate-limited", wait))

    def _take_share(self, client: str) -> bool:
        """True; raises ProblemError when the client has as many requests under way as it may."""
        if not self._shares.take(client):
            raise ProblemError(of_code("rate-limited"))
        return True

    def _refusal(self, exchange: _Exchange, error: Exception) -> ProblemError:
        """What the client is told of an error; what the operator has to know goes into the log."""
        if isinstance(error, ProblemError):
            return error
        problem = of_error(error) if isinstance(error, CoreLockerError) else None
        if problem is None:
            self._log.failure("failure", error, request_id=exchange.request_id, route=exchange.route)
            return ProblemError(of_code("internal-error"))
        if isinstance(error, AttestationRefusedError):
            exchange.reason = str(error.reason)
            self._metrics.attestation_refused(error.reason)
        elif problem.status >= 500:
            self._log.failure("unavailable", error, request_id=exchange.request_id, code=problem.code)
        return ProblemError(problem)

    def _end(self, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        self._metrics.end(exchange.route, exchange.status, seconds)
        fields: dict[str, object] = {
            "request_id": exchange.request_id,
            "client": exchange.client,
            "method": exchange.scope["method"][:16],
            "route": exchange.route,
            "status": exchange.status,
            "ms": round(seconds * 1000, 2),
        }
        if exchange.code is not None:
            self._metrics.refused(exchange.route, exchange.code)
            fields["code"] = exchange.code
        if exchange.reason is not None:
            fields["reason"] = exchange.reason
        self._log.write("error" if exchange.status == 500 else "info", "request", **fields)


class _Exchange:
    """One request and its answer: what is known of them, and the headers that every answer has."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        self.scope = scope
        self.client = client
        self.request_id = new_request_id()
        self.started = time.perf_counter()
        self.status = 0
        self.code: str | None = None
        self.reason: str | None = None
        self._receive = receive
        self._send = send
        self._body_read = not _has_body(scope)

    @property
    def route(self) -> str:
        """The name of the handler that took the request."""
        return getattr(self.scope.get("endpoint"), "__name__", OTHER)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self._body_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [item for item in message.get("headers", ()) if item[0] != b"x-request-id"]
            headers += [(b"x-request-id", self.request_id.encode()), *_SECURITY]
            # What was not read cannot be told from a next request, and a tunnel or an upgrade would not lead to HTTP.
            switches = self.scope["method"] == "CONNECT" or _values(self.scope, b"upgrade")
            must_close = switches or not self._body_read
            if must_close and (b"connection", b"close") not in headers:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send(message)

    async def refuse(self, refusal: ProblemError) -> None:
        """Answer with a problem."""
        problem: Problem = refusal.problem
        self.code = problem.code
        body = json.dumps(problem.members(self.request_id), separators=(",", ":")).encode()
        headers = problem.headers(self.request_id) | refusal.headers | {"content-length": str(len(body))}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": body})


def _values(scope: Scope, wanted: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == wanted]


def _has_body(scope: Scope) -> bool:
    lengths = _values(scope, b"content-length")
    return bool(_values(scope, b"transfer-encoding")) or lengths not in ([], [b"0"])


def _head_size(scope: Scope) -> int:
    """Bytes of the request line and of all headers."""
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum([len(name) + len(value) + 4 for name, value in scope["headers"]])
