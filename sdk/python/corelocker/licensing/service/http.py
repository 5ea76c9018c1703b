"""The unlock API over HTTP: `create_app` puts an `UnlockService` behind FastAPI.

The handlers are thin: they read a body within limits of size and time, hand its bytes to the core, which parses and
decides, and turn what it raises into problem details (RFC 9457, `problems`). The document that describes all this is
`openapi.py`'s. What happens to a request, in order:

    rate limits -> route -> content type -> body -> a free worker thread, or 503 -> the core

Every answer, whoever made it, passes `_Edge`: it gets the request's id and the security headers, is counted and logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corelocker import __version__
from corelocker.errors import ConfigError, CoreLockerError
from corelocker.licensing.service import openapi
from corelocker.licensing.service.config import ServiceConfig
from corelocker.licensing.service.core import ChallengeRequest, Issued, RenewRequest, UnlockRequest, UnlockService
from corelocker.licensing.service.errors import AttestationRefusedError
from corelocker.licensing.service.limits import ClientAddress, RateLimiter
from corelocker.licensing.service.problems import PROBLEM_TYPE, PROBLEMS, Problem, of_code, of_error
from corelocker.licensing.service.telemetry import Log, Metrics

# How many times the limit is read and thrown away of a body that is too large.
_DRAIN = 8
# An answer of `ready` counts this long: probes of many load balancers must not become a load of their own.
_READY_SECONDS = 1.0

_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", PROBLEM_TYPE.encode())
_CLOSE = (b"connection", b"close")
_SECURITY = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_STATE = "corelocker"  # key of the scope
_T = TypeVar("_T")
_Headers = tuple[tuple[bytes, bytes], ...]


class _Refused(Exception):  # noqa: N818 - an answer on its way up
    """Ends a handler with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


class _Gone(Exception):  # noqa: N818
    """The client closed the connection before its request was complete."""


class _Exchange:
    """What is known of one request, for its log line."""

    __slots__ = ("body_read", "client", "code", "reason", "request_id", "route", "status")

    def __init__(self, request_id: str, client: str) -> None:
        self.request_id = request_id
        self.client = client
        self.route = "other"
        self.status = 0
        self.code: str | None = None
        self.reason: str | None = None
        self.body_read = False


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes = b""
    headers: _Headers = ()


def create_app(
    service: UnlockService,
    config: ServiceConfig,
    *,
    log: Log | None = None,
    metrics: Metrics | None = None,
    limiter: RateLimiter | None = None,
) -> FastAPI:
    """The ASGI application of a service.

    `limiter` is given by a server with several processes, which share it. Metrics are not part of the application:
    `run` serves those of all processes on a port of its own. Raises ConfigError when stores are to be asked without threads.
    """
    http = config.http
    stores = [name for name, app in config.apps.items() if app.google_play or (app.app_store and app.app_store.api)]
    if http.threads == 0 and stores:
        raise ConfigError(f"http.threads: 0 is for services that ask no store, and {stores[0]} has one to ask")
    log = log or Log()
    metrics = metrics or Metrics(openapi.ROUTES, PROBLEMS)
    limiter = limiter or make_limiter(config)
    workers = _Workers(http.threads, http.max_pending, http.request_timeout)
    api = _Api(service, workers, http.max_body, http.request_timeout)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workers.close()

    app = FastAPI(
        title="CoreLocker unlock service",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    document = openapi.document(http.max_body)
    app.openapi = lambda: document  # type: ignore[method-assign]

    # Plain routes: the core parses strictly anyway, and FastAPI's own machinery costs more than a signature check.
    for method, path, name, handler in (
        ("POST", "/v1/challenges", "challenges", api.challenge),
        ("POST", "/v1/licenses", "licenses", api.unlock),
        ("POST", "/v1/licenses/{jti}/renew", "renew", api.renew),
        ("POST", "/v1/notifications/app-store/{app}", "app-store", api.app_store),
        ("POST", "/v1/notifications/google-play/{app}", "google-play", api.google_play),
        ("GET", "/healthz", "healthz", api.health),
        ("GET", "/readyz", "readyz", api.ready),
        ("GET", "/openapi.json", "openapi", _constant(_Reply(200, _json(document), (_JSON,)))),
    ):
        app.router.routes.append(Route(path, _Endpoint(name, handler, log, metrics), methods=[method]))
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_middleware(_Edge, log=log, metrics=metrics, limiter=limiter, addresses=ClientAddress(http.trusted_proxies))
    return app


def make_limiter(config: ServiceConfig) -> RateLimiter:
    """The rate limiter that the configuration asks for."""
    each, together = config.http.rate_limit, config.http.total_rate_limit
    return RateLimiter(
        per_client=each / 60, client_burst=each // 8 + 1, overall=together / 60, overall_burst=together // 8 + 1
    )


# --- the edge ------------------------------------------------------------------------------------


class _Edge:
    """The outermost layer: request ids, rate limits, security headers, metrics, the log, and whatever went wrong."""

    def __init__(
        self, app: ASGIApp, *, log: Log, metrics: Metrics, limiter: RateLimiter, addresses: ClientAddress
    ) -> None:
        self._app = app
        self._log = log
        self._metrics = metrics
        self._limiter = limiter
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        peer = scope.get("client")
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        exchange = _Exchange(os.urandom(8).hex(), self._addresses.of(peer[0] if peer else None, forwarded))
        scope[_STATE] = exchange
        request_id = exchange.request_id.encode()

        async def finish(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id), *_SECURITY]
                if not exchange.body_read and _has_body(scope):
                    # Nobody is going to read it: the connection cannot be used for another request.
                    headers.append(_CLOSE)
                message["headers"] = headers
            await send(message)

        self._metrics.begin()
        try:
            probe = scope["path"] in ("/healthz", "/readyz")
            wait = 0.0 if probe else self._limiter.wait(exchange.client)
            if wait > 0:
                await _send(finish, _problem_reply(exchange, of_code("rate-limited", wait)))
            else:
                await self._app(scope, receive, finish)
        except (_Gone, asyncio.CancelledError) as error:
            exchange.status = exchange.status or 499
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:
            self._log.failure("failure", error, request_id=exchange.request_id, route=exchange.route)
            if not exchange.status:
                await _send(finish, _problem_reply(exchange, of_code("internal-error")))
        finally:
            seconds = time.perf_counter() - started
            self._metrics.end(exchange.route, exchange.status, seconds)
            if exchange.code is not None:
                self._metrics.refused(exchange.route, exchange.code)
            self._log_line(scope["method"], exchange, seconds)

    def _log_line(self, method: str, exchange: _Exchange, seconds: float) -> None:
        fields: dict[str, object] = {
            "request_id": exchange.request_id,
            "client": exchange.client,
            "method": method[:16],
            "route": exchange.route,
            "status": exchange.status,
            "ms": round(seconds * 1000, 2),
        }
        if exchange.code is not None:
            fields["code"] = exchange.code
        if exchange.reason is not None:
            fields["reason"] = exchange.reason
        self._log.write("error" if exchange.status == 500 else "info", "request", **fields)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    """What the router says of an unknown path or method."""
    status = cast(HTTPException, error).status_code
    headers = cast(HTTPException, error).headers or {}
    code = {404: "not-found", 405: "method-not-allowed"}.get(status, "request-malformed")
    reply = _problem_reply(request.scope[_STATE], of_code(code))
    return Response(reply.body, reply.status, headers, PROBLEM_TYPE)


async def _send(send: Send, reply: _Reply) -> None:
    headers = [*reply.headers]
    if reply.status != 204:
        headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _problem_reply(exchange: _Exchange, problem: Problem) -> _Reply:
    exchange.code = problem.code
    headers: _Headers = (_PROBLEM,)
    if problem.retry_after is not None:
        headers += ((b"retry-after", str(problem.retry_after).encode()),)
    return _Reply(problem.status, _json(problem.members()), headers)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


# --- the handlers --------------------------------------------------------------------------------

_Handler = Callable[[Scope, Receive], Awaitable[_Reply]]


class _Endpoint:
    """An ASGI application around a handler; an instance, so that Starlette's Route does not wrap it again."""

    def __init__(self, route: str, handler: _Handler, log: Log, metrics: Metrics) -> None:
        self._route = route
        self._handler = handler
        self._log = log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: _Exchange = scope[_STATE]
        exchange.route = self._route
        try:
            reply = await self._handler(scope, receive)
        except _Refused as refused:
            reply = _problem_reply(exchange, refused.problem)
        except CoreLockerError as error:
            problem = of_error(error)
            if problem is None:
                raise
            if isinstance(error, AttestationRefusedError):
                exchange.reason = str(error.reason)
                self._metrics.attestation_refused(error.reason)
            elif problem.status >= 500:
                self._log.failure("unavailable", error, request_id=exchange.request_id, code=error.code)
            reply = _problem_reply(exchange, problem)
        await _send(send, reply)


class _Api:
    def __init__(self, service: UnlockService, workers: _Workers, max_body: int, body_seconds: float) -> None:
        self._service = service
        self._workers = workers
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._ready_until = 0.0
        self._ready_lock = asyncio.Lock()

    async def challenge(self, scope: Scope, receive: Receive) -> _Reply:
        body = await self._body(scope, receive)
        # A few microseconds of computing: a thread would cost more.
        return _Reply(201, _json(self._service.challenge(ChallengeRequest.from_json(body)).to_json()), (_JSON,))

    async def unlock(self, scope: Scope, receive: Receive) -> _Reply:
        body = await self._body(scope, receive)
        return _issued(await self._workers.run(lambda: self._service.unlock(UnlockRequest.from_json(body))))

    async def renew(self, scope: Scope, receive: Receive) -> _Reply:
        license_id = scope["path_params"]["jti"]
        body = await self._body(scope, receive)
        return _issued(await self._workers.run(lambda: self._service.renew(license_id, RenewRequest.from_json(body))))

    async def app_store(self, scope: Scope, receive: Receive) -> _Reply:
        app = scope["path_params"]["app"]
        body = await self._body(scope, receive)
        await self._workers.run(lambda: self._service.app_store_notice(app, body))
        return _Reply(204)

    async def google_play(self, scope: Scope, receive: Receive) -> _Reply:
        app = scope["path_params"]["app"]
        authorization = _header(scope, b"authorization")
        body = await self._body(scope, receive)
        await self._workers.run(lambda: self._service.google_play_notice(app, authorization, body))
        return _Reply(204)

    async def health(self, scope: Scope, receive: Receive) -> _Reply:
        return _Reply(200, b'{"status":"ok"}', (_JSON,))

    async def ready(self, scope: Scope, receive: Receive) -> _Reply:
        async with self._ready_lock:
            if time.monotonic() >= self._ready_until:
                await self._workers.run(self._service.ready)
                self._ready_until = time.monotonic() + _READY_SECONDS
        return _Reply(200, b'{"status":"ready"}', (_JSON,))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body of a request that says it is JSON."""
        length = 0
        types = 0
        for name, value in scope["headers"]:
            if name == b"content-type":
                types += 1
                if value.lower().replace(b" ", b"") not in (b"application/json", b"application/json;charset=utf-8"):
                    raise _Refused(of_code("unsupported-media-type"))
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise _Refused(of_code("unsupported-media-type"))
            elif name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 20 else 0
        if types != 1:
            raise _Refused(of_code("unsupported-media-type"))
        try:
            async with asyncio.timeout(self._body_seconds):
                body = await _read(receive, length, self._max_body)
        except TimeoutError:
            raise _Refused(of_code("request-timeout")) from None
        exchange: _Exchange = scope[_STATE]
        exchange.body_read = True
        return body


async def _read(receive: Receive, length: int, limit: int) -> bytes:
    """The body, at most `limit` bytes; what is longer is read on for a while before it is refused.

    A client that is still sending when the connection closes may never see the answer.
    """
    parts: list[bytes] = []
    size = 0
    while max(size, length) <= _DRAIN * limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        if not message.get("more_body"):
            if size <= limit:
                return b"".join(parts)
            break
    raise _Refused(of_code("payload-too-large"))


def _header(scope: Scope, wanted: bytes) -> str | None:
    """The value of a header that may be there once."""
    values = [value for name, value in scope["headers"] if name == wanted]
    if len(values) > 1:
        raise _Refused(of_code("request-malformed"))
    return values[0].decode("latin-1") if values else None


def _issued(issued: Issued) -> _Reply:
    return _Reply(201, _json(issued.to_json()), (_JSON,))


def _constant(reply: _Reply) -> _Handler:
    async def handler(scope: Scope, receive: Receive) -> _Reply:
        return reply

    return handler


# --- worker threads ------------------------------------------------------------------------------


class _Workers:
    """Runs the blocking core in threads; `waiting` calls may wait for one, a further one is refused at once.

    Without threads it runs on the event loop, one call at a time. That is a third faster, since nothing is handed over,
    and right where a decision waits for nothing but a database beside it: a store that is slow to answer would hold up
    the whole process.
    """

    def __init__(self, threads: int, waiting: int, seconds: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="unlock") if threads else None
        self._places = threading.BoundedSemaphore(threads + waiting)
        self._seconds = seconds

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns or raises. A place is given back when the work ends, not when nobody waits any more."""
        if self._executor is None:
            return work()
        if not self._places.acquire(blocking=False):
            raise _Refused(of_code("overloaded"))
        late_at = time.monotonic() + self._seconds

        def call() -> _T:
            try:
                if time.monotonic() > late_at:
                    raise TimeoutError
                return work()
            finally:
                self._places.release()

        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        except BaseException:
            self._places.release()
            raise
        done, _ = await asyncio.wait((future,), timeout=self._seconds)
        if not done:
            # The work goes on and its outcome counts: the device asks again and gets the place that it holds.
            future.add_done_callback(_forget)
            raise _Refused(of_code("timeout"))
        try:
            return future.result()
        except TimeoutError:
            raise _Refused(of_code("timeout")) from None

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


def _forget(future: asyncio.Future[Any]) -> None:
    """Take the exception that nobody waits for."""
    if not future.cancelled():
        future.exception()
