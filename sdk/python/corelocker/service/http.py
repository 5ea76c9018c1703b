"""The unlock API over HTTP: `create_app` puts an `UnlockService` behind FastAPI.

The handlers are thin: they read a body within limits of size and time, hand its bytes to the core, which parses and
decides, and turn what it raises into problem details (RFC 9457, `problems`). The document that describes all this is
`openapi.py`'s. What happens to a request, in order:

    rate limits -> route -> content type -> body -> a free worker thread, or 503 -> the core

Every answer, whoever made it, passes `_Edge`: it gets the request's id and the security headers, is counted and logged.

Nearly all requests are for challenges, licenses and renewals. Where decisions are made on the event loop (`http.threads`
is 0), `run`'s protocol gives those that are ordinary to `Direct`, past the layers of ASGI, which cost more
than the signatures. `Direct` decides by the same functions; whatever is out of the ordinary takes the usual way.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
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
from corelocker.service import openapi
from corelocker.service.config import ServiceConfig
from corelocker.service.core import Case, UnlockService
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.limits import ClientAddress, RateLimiter
from corelocker.service.messages import ChallengeRequest, Issued, RenewRequest, UnlockRequest
from corelocker.service.problems import PROBLEM_TYPE, PROBLEMS, Problem, of_code, of_error
from corelocker.service.telemetry import Log, Metrics, flat_json

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

    __slots__ = ("body_read", "client", "code", "reason", "request_id", "route", "started", "status")

    def __init__(self, client: str, route: str = "other") -> None:
        self.started = time.perf_counter()
        self.request_id = os.urandom(8).hex()
        self.client = client
        self.route = route
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
    asking = [name for name, app in config.apps.items() if app.asks]
    if http.threads == 0 and asking:
        raise ConfigError(f"http.threads: 0 is for services that ask no store, and {asking[0]} has one to ask")
    log = log or Log()
    metrics = metrics or Metrics(openapi.ROUTES, PROBLEMS)
    limiter = limiter or make_limiter(config)
    workers = _Workers(http.threads, http.max_pending, http.request_timeout)
    batches = _Batches(service) if http.threads == 0 else None
    api = _Api(service, workers, batches, http.max_body, http.request_timeout)
    front = _Front(log, metrics, limiter, ClientAddress(http.trusted_proxies))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workers.close()
        metrics.write()

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
        app.router.routes.append(Route(path, _Endpoint(name, handler, front), methods=[method]))
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_middleware(_Edge, front=front)
    app.state.direct = None if batches is None else Direct(service, batches, front, http.max_body)
    return app


def make_limiter(config: ServiceConfig) -> RateLimiter:
    """The rate limiter that the configuration asks for."""
    each, together = config.http.rate_limit, config.http.total_rate_limit
    return RateLimiter(
        per_client=each / 60, client_burst=each // 8 + 1, overall=together / 60, overall_burst=together // 8 + 1
    )


# --- the edge ------------------------------------------------------------------------------------


class _Front:
    """What happens to every request, whichever way it takes: it is let in or not, counted and logged."""

    def __init__(self, log: Log, metrics: Metrics, limiter: RateLimiter, addresses: ClientAddress) -> None:
        self.log = log
        self._metrics = metrics
        self._limiter = limiter
        self._addresses = addresses

    def begin(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]], route: str = "other") -> _Exchange:
        """A request has come."""
        forwarded = [value for name, value in headers if name == b"x-forwarded-for"]
        exchange = _Exchange(self._addresses.of(peer, forwarded), route)
        self._metrics.begin()
        return exchange

    def over_limit(self, exchange: _Exchange) -> _Reply | None:
        """The refusal, where the client or all of them together ask too often."""
        wait = self._limiter.wait(exchange.client)
        return None if wait <= 0 else _problem_reply(exchange, of_code("rate-limited", wait))

    def refusal(self, exchange: _Exchange, error: Exception) -> _Reply:
        """The answer where a request could not be granted. Raises the error when it is none that clients are told."""
        problem = error.problem if isinstance(error, _Refused) else None
        if isinstance(error, CoreLockerError):
            problem = of_error(error)
        if problem is None:
            raise error
        if isinstance(error, AttestationRefusedError):
            exchange.reason = str(error.reason)
            self._metrics.attestation_refused(error.reason)
        elif problem.status >= 500 and isinstance(error, CoreLockerError):
            self.log.failure("unavailable", error, request_id=exchange.request_id, code=error.code)
        return _problem_reply(exchange, problem)

    def failure(self, exchange: _Exchange, error: Exception) -> _Reply:
        """The answer where something went wrong that nobody expected."""
        self.log.failure("failure", error, request_id=exchange.request_id, route=exchange.route)
        return _problem_reply(exchange, of_code("internal-error"))

    def end(self, exchange: _Exchange, method: str) -> None:
        """The request was answered, or is not going to be."""
        seconds = time.perf_counter() - exchange.started
        self._metrics.end(exchange.route, exchange.status, seconds)
        fields: dict[str, object] = {
            "request_id": exchange.request_id,
            "client": exchange.client,
            "method": method[:16],
            "route": exchange.route,
            "status": exchange.status,
            "ms": round(seconds * 1000, 2),
        }
        if exchange.code is not None:
            self._metrics.refused(exchange.route, exchange.code)
            fields["code"] = exchange.code
        if exchange.reason is not None:
            fields["reason"] = exchange.reason
        self.log.write("error" if exchange.status == 500 else "info", "request", **fields)


class _Edge:
    """The outermost layer: request ids, rate limits, security headers, metrics, the log, and whatever went wrong."""

    def __init__(self, app: ASGIApp, *, front: _Front) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = scope.get("client")
        exchange = scope[_STATE] = self._front.begin(peer[0] if peer else None, scope["headers"])
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

        try:
            probe = scope["path"] in ("/healthz", "/readyz")
            refused = None if probe else self._front.over_limit(exchange)
            if refused is not None:
                await _send(finish, refused)
            else:
                await self._app(scope, receive, finish)
        except (_Gone, asyncio.CancelledError) as error:
            exchange.status = exchange.status or 499
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:
            reply = self._front.failure(exchange, error)
            if not exchange.status:
                await _send(finish, reply)
        finally:
            self._front.end(exchange, scope["method"])


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

    def __init__(self, route: str, handler: _Handler, front: _Front) -> None:
        self._route = route
        self._handler = handler
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: _Exchange = scope[_STATE]
        exchange.route = self._route
        try:
            reply = await self._handler(scope, receive)
        except (_Refused, CoreLockerError) as error:
            reply = self._front.refusal(exchange, error)
        await _send(send, reply)


class _Api:
    def __init__(
        self,
        service: UnlockService,
        workers: _Workers,
        batches: _Batches | None,
        max_body: int,
        body_seconds: float,
    ) -> None:
        self._service = service
        self._workers = workers
        self._batches = batches
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._ready_until = 0.0
        self._ready_lock = asyncio.Lock()

    async def challenge(self, scope: Scope, receive: Receive) -> _Reply:
        # A few microseconds of computing: a thread would cost more.
        return _challenge(self._service, await self._body(scope, receive))

    async def unlock(self, scope: Scope, receive: Receive) -> _Reply:
        body = await self._body(scope, receive)
        if self._batches is not None:
            return await _decided(self._batches, _check(self._service, None, body))
        return _issued(await self._workers.run(lambda: self._service.unlock(UnlockRequest.from_json(body))))

    async def renew(self, scope: Scope, receive: Receive) -> _Reply:
        license_id = scope["path_params"]["jti"]
        body = await self._body(scope, receive)
        if self._batches is not None:
            return await _decided(self._batches, _check(self._service, license_id, body))
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


def _challenge(service: UnlockService, body: bytes) -> _Reply:
    return _Reply(201, flat_json(service.challenge(ChallengeRequest.from_json(body)).to_json()).encode(), (_JSON,))


def _check(service: UnlockService, license_id: str | None, body: bytes) -> Case:
    """The first half of an unlock, or of the renewal of a license."""
    if license_id is None:
        return service.check_unlock(UnlockRequest.from_json(body))
    return service.check_renewal(license_id, RenewRequest.from_json(body))


def _issued(issued: Issued) -> _Reply:
    return _Reply(201, flat_json(issued.to_json()).encode(), (_JSON,))


def _constant(reply: _Reply) -> _Handler:
    async def handler(scope: Scope, receive: Receive) -> _Reply:
        return reply

    return handler


# --- the short way --------------------------------------------------------------------------------


class _Batches:
    """Decides together what comes together: one transaction, and one commit, for all requests that are at hand.

    Nothing waits for others to come. What the event loop finds in its sockets at one time is checked first and then
    decided at once, so a batch is as large as the load makes it.
    """

    def __init__(self, service: UnlockService) -> None:
        self._service = service
        self._waiting: list[tuple[Case, Callable[[Issued | Exception], None]]] = []

    def add(self, case: Case, done: Callable[[Issued | Exception], None]) -> None:
        """Decide the case soon, and then call `done` with the license, or with what went wrong."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._decide)
        self._waiting.append((case, done))

    def _decide(self) -> None:
        waiting, self._waiting = self._waiting, []
        for at in range(0, len(waiting), _BATCH):
            batch = waiting[at : at + _BATCH]
            for (_, done), outcome in zip(batch, self._service.decide([case for case, _ in batch]), strict=True):
                # Not called here: an answer that cannot be written must not be in the way of the next.
                asyncio.get_running_loop().call_soon(done, outcome)


async def _decided(batches: _Batches, case: Case) -> _Reply:
    decided: asyncio.Future[Issued | Exception] = asyncio.get_running_loop().create_future()
    # Where the client has gone meanwhile, nobody asks for the outcome, which counts all the same.
    batches.add(case, lambda outcome: None if decided.done() else decided.set_result(outcome))
    outcome = await decided
    if isinstance(outcome, Exception):
        raise outcome
    return _issued(outcome)


class Direct:
    """Answers complete requests for challenges, licenses and renewals, given their bytes."""

    def __init__(self, service: UnlockService, batches: _Batches, front: _Front, max_body: int) -> None:
        self._service = service
        self._batches = batches
        self._front = front
        self._max_body = max_body

    def takes(self, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The route of a POST request that has the usual headers and nothing but them; None leaves it to ASGI."""
        route = _SHORT.get(url)
        if route is None:
            if not (url.startswith(b"/v1/licenses/") and url.endswith(b"/renew") and len(url) == _RENEW_LENGTH):
                return None
            route = "renew"
        types = lengths = 0
        for name, value in headers:
            if name == b"content-type":
                types += 1
                if value != b"application/json":
                    return None
            elif name == b"content-length":
                lengths += 1
                if not value.isdigit() or len(value) > 9 or int(value) > self._max_body:
                    return None
            elif name in (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"):
                return None
        return route if types == lengths == 1 else None

    def answer(
        self,
        route: str,
        url: bytes,
        peer: str | None,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        respond: Callable[[int, bytes], None],
    ) -> None:
        """Answer a request that `takes` takes: `respond` is called with status and bytes of the answer, soon or at once.

        The bytes are all that follows the status line, but for headers that the server adds to every answer.
        """
        exchange = self._front.begin(peer, headers, route)
        exchange.body_read = True

        def finish(reply: _Reply) -> None:
            exchange.status = reply.status
            try:
                respond(reply.status, _bytes(exchange, reply))
            finally:
                self._front.end(exchange, "POST")

        def decided(outcome: Issued | Exception) -> None:
            finish(_issued(outcome) if isinstance(outcome, Issued) else refused(outcome))

        def refused(error: Exception) -> _Reply:
            try:
                return self._front.refusal(exchange, error)
            except Exception as unexpected:
                return self._front.failure(exchange, unexpected)

        over_limit = self._front.over_limit(exchange)
        if over_limit is not None:
            finish(over_limit)
            return
        try:
            if route == "challenges":
                reply = _challenge(self._service, body)
            else:
                license_id = url[13:-6].decode("ascii", "replace") if route == "renew" else None
                self._batches.add(_check(self._service, license_id, body), decided)
                return
        except Exception as error:
            reply = refused(error)
        finish(reply)


def _bytes(exchange: _Exchange, reply: _Reply) -> bytes:
    headers = b"".join(b"%b: %b\r\n" % header for header in reply.headers)
    length, request_id = len(reply.body), exchange.request_id.encode()
    return b"%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        headers, length, request_id, _SECURITY_BYTES, reply.body,
    )  # fmt: skip


_BATCH = 32
_SHORT = {b"/v1/challenges": "challenges", b"/v1/licenses": "licenses"}
_RENEW_LENGTH = len("/v1/licenses/") + 36 + len("/renew")
_SECURITY_BYTES = b"".join(b"%b: %b\r\n" % header for header in _SECURITY)


# --- worker threads ------------------------------------------------------------------------------


class _Workers:
    """Runs the blocking core in threads; `waiting` calls may wait for one, a further one is refused at once.

    Without threads it runs on the event loop, one call at a time. That is faster, since nothing is handed over,
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
