"""The unlock API over HTTP: every route, what it reads and what it answers.

A request passes, in this order:

    connections     the connection's limits; h11 reads the head
    edge            request id, limits of one client, exceptions to problem details, log and metrics
    this file       content type, body, request; a worker thread, or 503
    decisions       the proof, the purchase, and one transaction of `storage`

Clients are told the same in openapi.json, and in docs/formats.md ("Unlock API").
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from corelocker.service.config import ServiceConfig
from corelocker.service.core import UnlockService
from corelocker.service.edge import EdgeMiddleware
from corelocker.service.limits import ClientAddress, ClientShares, RateLimiter, make_limiter
from corelocker.service.logs import Log
from corelocker.service.messages import ChallengeRequest, RenewRequest, UnlockRequest
from corelocker.service.metrics import Metrics
from corelocker.service.problems import ProblemError, of_code
from corelocker.service.readiness import Readiness
from corelocker.service.workers import WorkerThreads

# Of a body that is too large, this many times the limit is read and thrown away before the answer.
_DRAIN = 8
_JSON_TYPES = ("application/json", "application/json;charset=utf-8")
# json.dumps makes an encoder anew for every call that has options.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def create_app(
    service: UnlockService,
    config: ServiceConfig,
    *,
    log: Log | None = None,
    metrics: Metrics | None = None,
    limiter: RateLimiter | None = None,
) -> Router:
    """The ASGI application of a service. Starlette's own application would put two more layers around it.

    `limiter` is given by a server with several processes, which share it. Metrics are not part of the application: `run`
    serves those of all processes on a port of its own.
    """
    http = config.http
    workers = WorkerThreads(http.threads, http.max_pending, http.request_timeout)
    api = _Api(service, workers, http.max_body, http.request_timeout)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        yield
        workers.close()

    edge = Middleware(
        EdgeMiddleware,
        log=log or Log(),
        metrics=metrics or Metrics(),
        limiter=limiter or make_limiter(http),
        addresses=ClientAddress(http.trusted_proxies),
        shares=ClientShares(http.max_client_connections),
    )
    routes = [
        _Route("/v1/challenges", api.challenge, methods=["POST"]),
        _Route("/v1/licenses", api.unlock, methods=["POST"]),
        _Route("/v1/licenses/{license_id}/renew", api.renew, methods=["POST"]),
        _Route("/v1/notifications/app-store/{app}", api.app_store, methods=["POST"]),
        _Route("/v1/notifications/google-play/{app}", api.google_play, methods=["POST"]),
        _Route("/healthz", api.health, methods=["GET"]),
        _Route("/readyz", api.ready, methods=["GET"]),
        _Route("/openapi.json", api.openapi, methods=["GET"]),
    ]
    return Router(routes, redirect_slashes=False, default=_not_found, lifespan=lifespan, middleware=[edge])


class _Route(Route):
    """A handler, which gets the request and gives the answer; what it raises passes on to the edge."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = self.methods or set()
        if scope["method"] not in methods:
            raise ProblemError(of_code("method-not-allowed"), {"allow": ", ".join(sorted(methods))})
        response: Response = await self.endpoint(Request(scope, receive))
        await response(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise ProblemError(of_code("not-found"))


class _Api:
    """The handlers. What they raise, the edge answers."""

    def __init__(self, service: UnlockService, workers: WorkerThreads, max_body: int, body_seconds: float) -> None:
        self._service = service
        self._workers = workers
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._readiness = Readiness(service.ready)
        self._openapi = resources.files("corelocker.service").joinpath("openapi.json").read_bytes()

    async def challenge(self, request: Request) -> Response:
        body = await self._json_body(request)
        # A few microseconds of computing: a thread would cost more.
        made = self._service.challenges.issue(ChallengeRequest.from_json(body))
        return _json(made.to_json(), 201)

    async def unlock(self, request: Request) -> Response:
        body = await self._json_body(request)
        issued = await self._workers.run(lambda: self._service.decisions.unlock(UnlockRequest.from_json(body)))
        return _json(issued.to_json(), 201)

    async def renew(self, request: Request) -> Response:
        license_id = request.path_params["license_id"]
        body = await self._json_body(request)
        issued = await self._workers.run(
            lambda: self._service.decisions.renew(license_id, RenewRequest.from_json(body))
        )
        return _json(issued.to_json(), 201)

    async def app_store(self, request: Request) -> Response:
        app = request.path_params["app"]
        body = await self._json_body(request)
        await self._workers.run(lambda: self._service.notices.app_store(app, body))
        return Response(status_code=204)

    async def google_play(self, request: Request) -> Response:
        app = request.path_params["app"]
        authorization = request.headers.getlist("authorization")
        if len(authorization) > 1:
            raise ProblemError(of_code("request-malformed"))
        body = await self._json_body(request)
        token = authorization[0] if authorization else None
        await self._workers.run(lambda: self._service.notices.google_play(app, token, body))
        return Response(status_code=204)

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        await self._readiness.require()
        return _json({"status": "ready"})

    async def openapi(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def _json_body(self, request: Request) -> bytes:
        """The body of a request that says it is JSON. Raises ProblemError."""
        types = [value.lower().replace(" ", "") for value in request.headers.getlist("content-type")]
        encodings = {value.lower() for value in request.headers.getlist("content-encoding")}
        if len(types) != 1 or types[0] not in _JSON_TYPES or encodings - {"identity"}:
            raise ProblemError(of_code("unsupported-media-type"))
        try:
            async with asyncio.timeout(self._body_seconds):
                return await _read(request, self._max_body)
        except TimeoutError:
            raise ProblemError(of_code("request-timeout")) from None


async def _read(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes. Raises ProblemError, ClientDisconnect.

    What is longer is read on for a while before it is refused: a client that is still sending when the connection closes
    may never see the answer.
    """
    # h11 lets no other length through than a number of at most 20 digits.
    if int(request.headers.get("content-length", "0")) <= _DRAIN * limit:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _DRAIN * limit:
                break
        if len(body) <= limit:
            return bytes(body)
    raise ProblemError(of_code("payload-too-large"))


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(_encode(content), status, media_type="application/json")
