"""Runs the service: refuses what `check_config` refuses, then serves with one or several processes on one socket.

The parent opens the socket, forks the workers, serves the metrics of all of them, replaces a worker that dies and hands
SIGTERM and SIGINT on. Nothing of the service is made before the fork: database connections, HSM sessions and threads do
not survive one. A worker that is told to stop closes the socket, answers what it has begun and refuses the rest; what
takes longer than `shutdown_grace` is cut off, which loses nothing, because a decision is one database transaction.
"""

from __future__ import annotations

import asyncio
import gc
import http as status_codes
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from corelocker.errors import ConfigError, CoreLockerError
from corelocker.service.checks import check_config
from corelocker.service.config import HttpConfig, ServiceConfig
from corelocker.service.errors import ServiceRefusesToStartError
from corelocker.service.problems import PROBLEM_TYPE, PROBLEMS, of_code
from corelocker.service.storage import Storage

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from corelocker.service.core import UnlockService
    from corelocker.service.http import Direct
    from corelocker.service.limits import RateLimiter
    from corelocker.service.telemetry import Log

MAX_HEAD = 16 << 10
_BACKLOG = 2048
_MAINTENANCE_SECONDS = 30
_KEEP_ALIVE_SECONDS = 30
# How long a body may be on its way to be worth waiting for.
_SHORT_SECONDS = 0.2
# A worker that dies sooner after its start than this is not replaced at once.
_RESTART_PAUSE = 1.0


def serve(config: ServiceConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises ServiceRefusesToStartError for a configuration that is not safe, StorageError when the database cannot be used,
    ConfigError when the address cannot be had.
    """
    findings = check_config(config)
    for finding in findings:
        print(f"{finding.level}: {finding.message} [{finding.code}]", file=sys.stderr)
        if finding.hint:
            print(f"  {finding.hint}", file=sys.stderr)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise ServiceRefusesToStartError(f"the configuration has {len(errors)} errors", hint="They are listed above")
    # Said once, before there are workers that die of it; the connections are closed before the fork.
    Storage.open(config.database_url, migrate=config.sqlite_path is not None).close()
    listener = listen(config.http)
    metrics_folder = Path(tempfile.mkdtemp(prefix="corelocker-metrics-"))
    try:
        # Read by prometheus_client when it is imported, which the imports in here therefore do.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder)
        _Parent(config, listener).run()
    finally:
        listener.close()
        shutil.rmtree(metrics_folder, ignore_errors=True)


def listen(http: HttpConfig) -> socket.socket:
    """The listening socket. Raises ConfigError when the address cannot be had."""
    try:
        if http.socket is not None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # A socket file that nobody listens on any more is in the way; one that is in use is not ours to remove.
            if http.socket.is_socket() and listener.connect_ex(str(http.socket)) != 0:
                http.socket.unlink()
                listener.close()
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(http.socket))
            os.chmod(http.socket, 0o660)
            listener.listen(_BACKLOG)
        else:
            family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
            listener = socket.create_server((http.host, http.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        address = http.socket or f"{http.host}:{http.port}"
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


# --- the parent ----------------------------------------------------------------------------------


class _Parent:
    def __init__(self, config: ServiceConfig, listener: socket.socket) -> None:
        from corelocker.service.http import make_limiter
        from corelocker.service.telemetry import Log

        self._config = config
        self._listener = listener
        self._limiter = make_limiter(config)
        self._log = Log()
        self._workers: dict[BaseProcess, float] = {}
        self._stopping = False
        self._fork = multiprocessing.get_context("fork")

    def run(self) -> None:
        wake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for _ in range(self._config.http.workers):
            self._start()
        # After the fork: a thread of the parent would leave its locks behind in the children.
        metrics = self._serve_metrics()
        name = self._config.http.socket or "{}:{}".format(*self._listener.getsockname()[:2])
        self._log.write("info", "started", address=str(name), workers=self._config.http.workers, pid=os.getpid())
        failures = 0
        while not self._stopping:
            wait([wake, *(worker.sentinel for worker in self._workers)])
            for worker in [worker for worker in self._workers if worker.exitcode is not None]:
                lived = time.monotonic() - self._workers.pop(worker)
                failures = failures + 1 if lived < 10 else 0
                self._log.write("error", "worker-died", pid=worker.pid, exit=worker.exitcode)
                _forget_gauges(worker.pid)
                if failures >= 5:
                    self._stopping = True
                elif not self._stopping:
                    time.sleep(_RESTART_PAUSE if lived < _RESTART_PAUSE else 0)
                    self._start()
        self._listener.close()
        self._end_workers()
        if metrics is not None:
            metrics.shutdown()
        self._log.write("info", "stopped", pid=os.getpid())
        if failures >= 5:
            raise ServiceRefusesToStartError("the workers die as soon as they start", hint="The log says why")

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self) -> None:
        worker = self._fork.Process(target=_work, args=(self._config, self._listener, self._limiter), daemon=False)
        worker.start()
        self._workers[worker] = time.monotonic()

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        until = time.monotonic() + self._config.http.shutdown_grace + 5
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
            if worker.exitcode is None:
                self._log.write("error", "worker-killed", pid=worker.pid)
                worker.kill()
                worker.join()

    def _serve_metrics(self) -> ThreadingHTTPServer | None:
        http = self._config.http
        if http.metrics_port == 0:
            return None
        try:
            server = ThreadingHTTPServer((http.metrics_host, http.metrics_port), _MetricsHandler)
        except OSError as error:
            self._end_workers()
            raise ConfigError(
                f"cannot serve metrics on {http.metrics_host}:{http.metrics_port}: {error.strerror or error}"
            ) from None
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server


class _MetricsHandler(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        from corelocker.service.telemetry import METRICS_TYPE, all_workers_text

        found = self.path == "/metrics"
        body = all_workers_text() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", METRICS_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Scrapes are not worth a line."""


def _forget_gauges(pid: int | None) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    if pid is not None:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


# --- a worker ------------------------------------------------------------------------------------


def _work(config: ServiceConfig, listener: socket.socket, limiter: RateLimiter) -> None:
    """The body of a worker process."""
    from corelocker.service.telemetry import Log, take_over_logging

    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    log = Log()
    take_over_logging(log)
    try:
        code = _serve_worker(config, listener, limiter, log)
    except CoreLockerError as error:
        log.write("error", "worker-cannot-start", code=error.code, message=str(error))
        code = 1
    except Exception as error:
        log.failure("worker-failed", error)
        code = 1
    # Threads may still wait for a store or the database; the transactions they are in end as if the power had failed.
    os._exit(code)


def _end_with_parent() -> None:
    """Stop when the parent was killed: nobody would hand signals on, and the address would stay taken."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _serve_worker(config: ServiceConfig, listener: socket.socket, limiter: RateLimiter, log: Log) -> int:
    from corelocker.service.core import UnlockService
    from corelocker.service.http import create_app
    from corelocker.service.keys import open_keys

    storage = Storage.open(config.database_url, pool_size=max(8, config.http.threads))
    service = UnlockService(config, storage, open_keys(config.keys))
    app = create_app(service, config, log=log, limiter=limiter)
    server = make_server(app, config.http)
    ended = threading.Event()
    threading.Thread(target=_maintain, args=(service, log, ended), name="maintenance", daemon=True).start()

    # What is there now stays: the garbage collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
        # Not `serve`: that would end the process by the same signal again.
        await server._serve(sockets=[listener])

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(main())
    ended.set()
    storage.close()
    return 0


def make_server(app: ASGIApp, http: HttpConfig) -> uvicorn.Server:
    """The server of one process, for sockets that somebody else opened."""
    settings = uvicorn.Config(
        app,
        http=_protocol(
            http.max_connections, http.request_timeout, getattr(getattr(app, "state", None), "direct", None)
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=http.shutdown_grace,
    )
    return uvicorn.Server(settings)


def _maintain(service: UnlockService, log: Log, ended: threading.Event) -> None:
    while not ended.wait(_MAINTENANCE_SECONDS):
        try:
            for error in service.maintain():
                log.failure("maintenance", error, code=error.code)
        except Exception as error:
            log.failure("maintenance", error)


# --- connections ---------------------------------------------------------------------------------


class _Corked:
    """A transport that sends the head of an answer together with its body: half the system calls."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n"):
            self._held = data
            # For a head that no body follows at once.
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)


class _Short:
    """The request that `Direct` has; to uvicorn, a request whose answer is not complete yet."""

    __slots__ = ("body", "disconnected", "keep_alive", "response_complete", "route")
    # Set by uvicorn for an application that waits; here nobody does.
    message_event = asyncio.Event()

    def __init__(self, route: str) -> None:
        self.route = route
        self.body = b""
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True


def _protocol(max_connections: int, head_seconds: float, direct: Direct | None) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP/1.1 protocol with the limits that it lacks: connections, and the time and size of a head.

    With `direct`, requests that it takes go to it, unless the body is slow to follow the head.
    """

    class Protocol(HttpToolsProtocol):
        _in_head = True
        _head_size = 0
        _head_timer: asyncio.TimerHandle | None = None
        # The request that is being read and goes to `direct` if it is complete soon.
        _short: _Short | None = None
        _short_timer: asyncio.TimerHandle | None = None
        _idle_since: float | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(asyncio.Transport, _Corked(transport, self.loop)))
            self._head_timer = self.loop.call_later(head_seconds, self._refuse, "request-timeout")
            if len(self.connections) > max_connections:
                self._refuse("overloaded")

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_timer()
            if self._short is not None:
                self._take_long_way()
            super().connection_lost(exc)
            if self.timeout_keep_alive_task is not None:
                self.timeout_keep_alive_task.cancel()
                self.timeout_keep_alive_task = None

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._in_head:
                self._head_size += len(data)
            super().data_received(data)
            if self._short is not None and self._short_timer is None:
                # Many clients send the body on its own.
                self._short_timer = self.loop.call_later(_SHORT_SECONDS, self._take_long_way)
            if not self._in_head or self.transport.is_closing():
                return
            if self._head_size > MAX_HEAD:
                self._refuse("headers-too-large")
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(head_seconds, self._refuse, "request-timeout")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = True

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._head_size = 0
            self._cancel_timer()
            parser = self.parser
            if (
                direct is not None
                and (self.cycle is None or self.cycle.response_complete)
                and not self.flow.write_paused
                and parser.get_method() == b"POST"
                and parser.get_http_version() == "1.1"
                and parser.should_keep_alive()
                and (route := direct.takes(self.url, self.headers)) is not None
            ):
                self._short = _Short(route)
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self._short is not None:
                self._short.body += body
            else:
                super().on_body(body)

        def on_message_complete(self) -> None:
            short = self._end_short()
            if short is None or direct is None:
                super().on_message_complete()
                return
            self.cycle = cast(RequestResponseCycle, short)

            def respond(status: int, answer: bytes) -> None:
                self._respond(short, status, answer)

            direct.answer(
                short.route, self.url, self.client[0] if self.client else None, self.headers, short.body, respond
            )

        def _respond(self, short: _Short, status: int, answer: bytes) -> None:
            short.response_complete = True
            if short.disconnected or self.transport.is_closing():
                return
            added = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
            if not short.keep_alive:
                added.append(b"connection: close\r\n")
            self.transport.write(b"".join((STATUS_LINE[status], *added, answer)))
            if not short.keep_alive:
                self.transport.close()
            self.on_response_complete()

        def _take_long_way(self) -> None:
            """ASGI deals with what takes time, or never comes."""
            short = self._end_short()
            super().on_headers_complete()
            if short is not None and short.body:
                super().on_body(short.body)

        def _end_short(self) -> _Short | None:
            short, self._short = self._short, None
            if self._short_timer is not None:
                self._short_timer.cancel()
                self._short_timer = None
            return short

        def shutdown(self) -> None:
            if self._short is not None:
                self._take_long_way()
            super().shutdown()

        def on_response_complete(self) -> None:
            self.server_state.total_requests += 1
            if self.transport.is_closing():
                return
            self.flow.resume_reading()
            if self.pipeline:
                cycle, app = self.pipeline.pop()
                self._start_asgi_task(cycle, app)
                return
            # One timer that looks how long ago this was: a new one for each request costs more than the rest of this.
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._watch_idle(self.timeout_keep_alive)

        def _unset_keepalive_if_required(self) -> None:
            self._idle_since = None

        def _watch_idle(self, seconds: float) -> None:
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

        def timeout_keep_alive_handler(self) -> None:
            self.timeout_keep_alive_task = None
            if self._idle_since is None:
                # The answer that is being made starts the watch again.
                return
            rest = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if rest > 0.001:
                self._watch_idle(rest)
            else:
                super().timeout_keep_alive_handler()

        def send_400_response(self, msg: str) -> None:
            self._refuse("request-malformed")

        def _cancel_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _refuse(self, code: str) -> None:
            if not self.transport.is_closing():
                self.transport.write(_raw_problem(code))
                self.transport.close()

    return Protocol


def _raw_problem(code: str) -> bytes:
    """The answer to what never became a request."""
    body = json.dumps(of_code(code).members()).encode()
    status = status_codes.HTTPStatus(PROBLEMS[code].status)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
