"""The HTTP layer around a real service in this process, on a real socket: for tests of what HTTP adds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import requests
from corelocker.service.config_file import load_config
from corelocker.service.connections import make_server
from corelocker.service.core import UnlockService
from corelocker.service.http import create_app
from corelocker.service.logs import Log
from corelocker.service.metrics import Metrics
from corelocker.service.problems import PREFIX
from corelocker.service.run import listen
from prometheus_client import generate_latest

from support.unlock_world import Phone, World


class Around:
    """A service, or a part of one, with some of its members replaced; `real` is what they stand before."""

    def __init__(self, real: Any, **members: Any) -> None:
        self.real = real
        self.__dict__ |= members

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@dataclass
class Server:
    """A running server.

    Attributes:
        world: whose service it is.
        port: of loopback.
        service: what stands behind it.
        log_text: everything that was logged.
        metrics: what was counted.
    """

    world: World
    port: int
    service: Any
    log_text: io.StringIO
    metrics: Metrics
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        self.session.trust_env = False
        answer = self.session.request(method, self.url + path, timeout=30, **options)
        assert is_documented(method, path, answer), (method, path, answer.status_code, answer.text)
        return answer

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return self.request("POST", path, json=body, **options)

    def challenge(self) -> str:
        answer = self.post("/v1/challenges", {})
        assert answer.status_code == 201
        return str(answer.json()["challenge"])

    def unlock(self, phone: Phone, grant: str, tier: str = "full") -> requests.Response:
        return self.post("/v1/licenses", phone.unlock_body(self.challenge(), grant, tier))

    @property
    def in_progress(self) -> float | None:
        return self.metrics.registry.get_sample_value("corelocker_requests_in_progress")

    def metrics_text(self) -> str:
        """What is counted, once all answers that were read are in it."""
        eventually(lambda: self.in_progress == 0)
        return generate_latest(self.metrics.registry).decode()

    def lines(self) -> list[dict[str, Any]]:
        """The log, once all answers that were read are in it."""
        eventually(lambda: self.in_progress == 0)
        return [json.loads(line) for line in self.log_text.getvalue().splitlines()]

    def raw(self, data: bytes, *, close_after: float = 10.0) -> bytes:
        """What comes back for these bytes until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=close_after) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
            return read_all(connection)


DOCUMENT = json.loads(resources.files("corelocker.service").joinpath("openapi.json").read_text("utf-8"))
# What any address may answer, as the document's description says.
OF_THE_HEAD = {400: "request-malformed", 405: "method-not-allowed", 408: "request-timeout", 431: "headers-too-large"}


def is_documented(method: str, path: str, answer: requests.Response) -> bool:
    """Whether the OpenAPI document has this answer: its status, and the type of a problem."""
    code = str(answer.json().get("type")).removeprefix(PREFIX) if answer.status_code >= 400 and answer.text else None
    # The answer to HEAD has no body that could say more than the status.
    if OF_THE_HEAD.get(answer.status_code, "") == (code or OF_THE_HEAD.get(answer.status_code)):
        return True
    for pattern, item in DOCUMENT["paths"].items():
        operation = item.get("get" if method == "HEAD" else method.lower())
        if operation and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path.partition("?")[0]):
            response = operation["responses"].get(str(answer.status_code), {})
            name = response.get("$ref", "").rpartition("/")[2]
            if not name or method == "HEAD":
                return bool(response)
            (media,) = DOCUMENT["components"]["responses"][name]["content"].values()
            return PREFIX + str(code) in media["schema"]["allOf"][1]["properties"]["type"]["enum"]
    # The limit of one client holds whatever it asks for.
    return answer.status_code in (404, 429)


SECURITY = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
HEAD = b"POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def problem(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is this problem in every respect; returns its members."""
    assert (answer.status_code, answer.json().get("type")) == (status, PREFIX + code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.items() >= SECURITY.items()
    members: dict[str, Any] = answer.json()
    assert members["status"] == status
    required = {"type", "title", "status", "detail", "request_id"}
    assert required <= members.keys() <= required | {"retry_after", "retry_at", "errors"}
    assert members["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in members["detail"]
    assert ("retry-after" in answer.headers) == ("retry_after" in members)
    return members


def raw_problem(received: bytes, status: int, code: str) -> None:
    """Check that these bytes are one answer, this problem."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received
    assert b"content-type: application/problem+json" in head
    members = json.loads(body)
    assert members["type"] == PREFIX + code
    assert b"x-request-id: " + members["request_id"].encode() in head


def whole(path: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a POST with its body."""
    lines = (
        f"POST {path} HTTP/1.1",
        "host: x",
        "content-type: application/json",
        *headers,
        f"content-length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def answers(received: bytes) -> list[tuple[int, dict[str, str], Any]]:
    """Status, headers and JSON of the answers that came one after another."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        found.append((int(status.split()[1]), headers, json.loads(rest[:length])))
        received = rest[length:]
    return found


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes, or nothing comes for the socket's time-out."""
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait until something holds, at most so long; whether it does."""
    until = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < until:
        time.sleep(0.01)
    return met


@contextmanager
def serving(world: World, wrap: Callable[[UnlockService], Any] = lambda real: real, **http: Any) -> Iterator[Server]:
    """A server for the world's configuration with other settings of `[http]`."""
    config = load_config(world.config_path)
    config = replace(config, http=replace(config.http, **{"port": 0, "shutdown_grace": 5, **http}))
    log_text = io.StringIO()
    metrics = Metrics()
    with world.service() as real:
        service = wrap(real)
        log = Log(log_text)
        app = create_app(service, config, log=log, metrics=metrics)
        server = make_server(app, config.http, log, metrics)
        listener = listen(config.http)
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        running = Server(world, port, service, log_text, metrics)
        try:
            eventually(lambda: server.started)
            yield running
        finally:
            running.session.close()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
