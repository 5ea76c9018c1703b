"""What the Swift tests steer from outside: the operator's and the backend's doings, a made-up phone's App Attest, a bad line."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, bytes]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def control(calls: dict[str, Callable[[str, dict[str, str]], bytes]]) -> Iterator[str]:
    """POST /CALL/REST calls calls[CALL](REST, members of the body) and answers what it returns."""

    class Handler(_Handler):
        def do_POST(self) -> None:
            call, _, rest = self.path.removeprefix("/").partition("/")
            members = json.loads(self.body() or b"{}")
            self.answer(200, calls[call](rest, members))

    with _serving(Handler) as url:
        yield url


class BadLine:
    """A line to the service that fails as it is told to, for one request each.

    Faults: `drop` (no answer), `drop-answer` (the service does its work, the answer is lost), `busy` (503 and Retry-After: 1),
    `slow` (a second late), `garbage` (a page in place of an answer).
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._faults: list[str] = []
        self._lock = threading.Lock()

    def set(self, faults: str) -> None:
        """Faults of the next requests, separated by commas."""
        with self._lock:
            self._faults = [fault for fault in faults.split(",") if fault]

    def _next(self) -> str:
        with self._lock:
            return self._faults.pop(0) if self._faults else ""

    def _forward(self, path: str, body: bytes) -> Answer:
        request = urllib.request.Request(self._service + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    @contextmanager
    def serving(self) -> Iterator[str]:
        line = self

        class Handler(_Handler):
            def do_POST(self) -> None:
                fault, body = line._next(), self.body()
                if fault == "busy":
                    self.answer(503, b"", Retry_After="1")
                    return
                if fault == "garbage":
                    self.answer(200, b"<html>Sign in to the network</html>", Content_Type="text/html")
                    return
                if fault == "slow":
                    time.sleep(1)
                answer = line._forward(self.path, body) if fault != "drop" else None
                if answer is None or fault == "drop-answer":
                    self.close_connection = True
                    self.connection.close()
                    return
                self.answer(*answer, Content_Type="application/json")

        with _serving(Handler) as url:
            yield url
