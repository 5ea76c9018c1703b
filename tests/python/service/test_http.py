"""What HTTP adds to the core: answers to everything that can arrive, limits, and nothing said too much."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import requests
from corelocker.bundle import jose
from corelocker.errors import CoreLockerError
from corelocker.licensing.errors import DeviceLimitError, LicensingError, PurchaseUpstreamError
from corelocker.service import errors as service_errors
from corelocker.service.errors import StorageError
from corelocker.service.limits import ClientAddress, RateLimiter
from corelocker.service.problems import PREFIX, PROBLEMS, of_error
from support.http_server import Around, Server, eventually, read_all, serving
from support.unlock_world import Phone, World

SECURITY = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@pytest.fixture(params=[8, 0], ids=["threads", "loop"])
def threads(request: pytest.FixtureRequest) -> int:
    """Both ways to decide: handed to threads, or on the event loop, where most requests go past ASGI."""
    return int(request.param)


@pytest.fixture
def server(sqlite_world: World, threads: int) -> Iterator[Server]:
    with serving(sqlite_world, threads=threads) as running:
        yield running


def problem(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is this problem in every respect; returns its members."""
    assert (answer.status_code, answer.json().get("type")) == (status, PREFIX + code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.items() >= SECURITY.items()
    members: dict[str, Any] = answer.json()
    assert members["status"] == status
    assert members.keys() <= {"type", "title", "status", "detail", "retry_after", "retry_at"}
    assert "\n" not in members["detail"]
    assert ("retry-after" in answer.headers) == ("retry_after" in members)
    return members


def raw_problem(received: bytes, status: int, code: str) -> None:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == PREFIX + code


# --- answers -------------------------------------------------------------------------------------


def test_the_whole_flow(server: Server, sqlite_world: World) -> None:
    phone = Phone(sqlite_world)
    answer = server.unlock(phone, sqlite_world.grant("p"))
    assert answer.status_code == 201
    assert answer.headers.items() >= SECURITY.items()
    assert answer.headers["content-type"] == "application/json"
    issued = answer.json()
    assert issued.keys() == {"license", "license_id", "expires_at", "renew_at"}
    path = f"/v1/licenses/{issued['license_id']}/renew"
    body = phone.renew_body(server.challenge(), issued["license_id"])
    assert server.post(path, body).status_code == 201
    problem(server.post(path, body), 409, "challenge-used")


def test_a_challenge_for_a_device_key_is_sealed(server: Server, sqlite_world: World) -> None:
    answer = server.post("/v1/challenges", {"device_key": jose.public_jwk(Phone(sqlite_world).public_key)})
    assert answer.status_code == 201
    assert len(jose.decode_base64url(answer.json()["sealed"])) == 65 + 32 + 16


def test_what_is_not_there(server: Server) -> None:
    for path in ("/", "/v1", "/v1/licenses/", "/v1/challenges/x", "/docs", "/redoc", "/metrics", "/v1//challenges"):
        problem(server.request("GET", path), 404, "not-found")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"):
        answer = server.request(method, "/v1/challenges")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    problem(server.request("PUT", "/v1/challenges"), 405, "method-not-allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json, text/plain"},
        {"content-type": "application/problem+json"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_other_kinds_of_bodies(server: Server, headers: dict[str, str]) -> None:
    problem(server.request("POST", "/v1/challenges", data=b"{}", headers=headers), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=utf-8"]
)
def test_json_is_taken_however_it_is_said(server: Server, kind: str) -> None:
    answer = server.request("POST", "/v1/challenges", data=b"{}", headers={"content-type": kind})
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'{"a":1}', b"\xff", b'{"device_key":1}', b'{"device_key":{},"device_key":{}}',
     b"[" * 60000, b'{"x":' * 10000, b"\x00" * 100, b'{"device_key":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}'],
)  # fmt: skip
def test_malformed_bodies(server: Server, body: bytes) -> None:
    for path in ("/v1/challenges", "/v1/licenses", "/v1/licenses/x/renew"):
        answer = server.request("POST", path, data=body, headers={"content-type": "application/json"})
        problem(answer, 400, "request-malformed")


def test_a_device_key_off_the_curve(server: Server) -> None:
    key = {"kty": "EC", "crv": "P-256", "x": jose.encode_base64url(bytes(32)), "y": jose.encode_base64url(bytes(32))}
    problem(server.post("/v1/challenges", {"device_key": key}), 403, "device-key")


def test_refusals_say_no_more_than_they_should(server: Server, sqlite_world: World) -> None:
    phone = Phone(sqlite_world)
    body = phone.unlock_body(server.challenge(), sqlite_world.grant("p"))
    other = Phone(sqlite_world).unlock_body(body["challenge"], body["purchase"]["token"])
    answer = server.post("/v1/licenses", body | {"attestation": other["attestation"]})
    said = problem(answer, 401, "attestation-refused")
    assert said["detail"] == "The device's proof was refused."
    assert server.lines()[-1]["reason"] == "signature"
    problem(server.post("/v1/licenses", body | {"app": "com.example.other"}), 404, "app-unknown")
    problem(server.post("/v1/licenses", body | {"bundle": "0" * 36}), 404, "bundle-unknown")
    problem(server.post("/v1/licenses", body | {"tier": "free"}), 404, "tier-unknown")
    problem(server.post("/v1/licenses", body | {"challenge": "A" * 54}), 409, "challenge-malformed")
    tampered = body["purchase"]["token"][:-6] + "AAAAAA"
    refused = phone.unlock_body(server.challenge(), tampered)
    problem(server.post("/v1/licenses", refused), 403, "purchase-signature")


def test_the_device_limit_says_when(server: Server, sqlite_world: World) -> None:
    for _ in range(3):
        assert server.unlock(Phone(sqlite_world), sqlite_world.grant("p")).status_code == 201
    said = problem(server.unlock(Phone(sqlite_world), sqlite_world.grant("p")), 409, "device-limit")
    assert said["retry_at"] > time.time()


def test_notifications_need_the_store(server: Server) -> None:
    for store in ("app-store", "google-play"):
        path = f"/v1/notifications/{store}/com.example.camera"
        problem(server.post(path, {"signedPayload": "x"}), 403, "provider-not-allowed")
        problem(server.post(f"/v1/notifications/{store}/unknown", {}), 404, "app-unknown")


def test_every_error_has_an_answer() -> None:
    seen, waiting = set(), [LicensingError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        raised_here = kind.__module__.startswith("corelocker.") and kind.__module__ != "corelocker.device.errors"
        if kind is LicensingError or kind in seen or not raised_here or kind.__name__ == "EntitlementUnknownError":
            continue
        seen.add(kind)
        match kind.__name__:
            case "DeviceLimitError":
                error: CoreLockerError = DeviceLimitError("secret", retry_at=5)
            case "AttestationRefusedError":
                error = service_errors.AttestationRefusedError(service_errors.Reason.KEY_ID, "secret")
            case _:
                error = kind("secret")
        found = of_error(error)
        assert found is not None, kind
        assert "secret" not in json.dumps(found.members())
        assert found.status in (400, 401, 402, 403, 404, 409, 503)
        assert (found.status == 503) == (found.retry_after is not None), kind
    assert len(seen) > 40
    assert of_error(CoreLockerError("the operator's")) is None
    upstream = of_error(PurchaseUpstreamError("x", retry_after=10**9))
    assert upstream is not None
    assert upstream.retry_after == 86400


def test_what_nobody_expected(sqlite_world: World, threads: int) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a message with a secret")

    methods = {"unlock": fail, "challenge": fail, "check_unlock": fail}
    with serving(sqlite_world, lambda real: Around(real, **methods), threads=threads) as server:
        problem(server.post("/v1/challenges", {}), 500, "internal-error")
        body = Phone(sqlite_world).unlock_body("A" * 54, sqlite_world.grant("p"))
        answer = server.post("/v1/licenses", body)
        problem(answer, 500, "internal-error")
        failures = [line for line in server.lines() if line["event"] == "failure"]
        assert len(failures) == 2
        assert failures[1]["exception"][0] == "builtins.RuntimeError"
        assert failures[1]["request_id"] == answer.headers["x-request-id"]
        assert any("fail" in place for place in failures[1]["at"])
        assert "secret" not in server.log_text.getvalue() + answer.text
        assert server.request("GET", "/healthz").status_code == 200


def test_a_service_that_is_not_ready(sqlite_world: World) -> None:
    broken = threading.Event()

    def ready() -> None:
        if broken.is_set():
            raise StorageError("the database refuses (OperationalError)")

    with serving(sqlite_world, lambda real: Around(real, ready=ready)) as server:
        assert server.request("GET", "/readyz").status_code == 200
        broken.set()
        time.sleep(1.1)
        problem(server.request("GET", "/readyz"), 503, "storage-unavailable")
        assert server.request("GET", "/healthz").status_code == 200


def test_probes_do_not_ask_the_database_each_time(sqlite_world: World) -> None:
    asked = []
    with serving(sqlite_world, lambda real: Around(real, ready=lambda: asked.append(1))) as server:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: requests.get(server.url + "/readyz", timeout=10).status_code, range(40))) == {
                200
            }
        assert 1 <= len(asked) <= 3


# --- sizes and times -----------------------------------------------------------------------------

HEAD = b"POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def test_a_body_that_is_too_large(server: Server) -> None:
    limit = 64 << 10
    padding = b" " * (limit - 2)
    headers = {"content-type": "application/json"}
    assert server.request("POST", "/v1/challenges", data=b"{}" + padding, headers=headers).status_code == 201
    answer = server.request("POST", "/v1/challenges", data=b"{}" + padding + b" ", headers=headers)
    problem(answer, 413, "payload-too-large")
    assert answer.headers["connection"] == "close"
    raw_problem(server.raw(HEAD + b"content-length: 99999999999\r\n\r\n{}"), 413, "payload-too-large")


def test_a_body_without_a_length(server: Server) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        yield b"{}"
        for _ in range(size // 1000):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    assert server.request("POST", "/v1/challenges", data=chunks(60_000), headers=headers).status_code == 201
    problem(server.request("POST", "/v1/challenges", data=chunks(70_000), headers=headers), 413, "payload-too-large")


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


def test_a_body_that_never_comes(sqlite_world: World, threads: int) -> None:
    with serving(sqlite_world, request_timeout=1, threads=threads) as server:
        start = time.monotonic()
        raw_problem(server.raw(HEAD + b"content-length: 100\r\n\r\n{"), 408, "request-timeout")
        raw_problem(server.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"), 408, "request-timeout")
        assert time.monotonic() - start > 1.5


def test_a_head_that_never_ends(sqlite_world: World) -> None:
    with serving(sqlite_world, request_timeout=1) as server:
        start = time.monotonic()
        raw_problem(server.raw(b""), 408, "request-timeout")
        raw_problem(server.raw(HEAD), 408, "request-timeout")
        # On a connection that was used before, too.
        answered = server.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + HEAD)
        assert answered.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 408" in answered
        assert time.monotonic() - start > 2.5


def test_a_head_sent_drop_by_drop_is_cut_off(sqlite_world: World) -> None:
    with (
        serving(sqlite_world, request_timeout=1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection,
    ):
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


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
             HEAD + b"content-length: x\r\n\r\n", HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}"]
)  # fmt: skip
def test_what_is_no_http(server: Server, data: bytes) -> None:
    raw_problem(server.raw(data), 400, "request-malformed")


def test_a_client_that_hangs_up(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        assert eventually(lambda: server.metrics.in_progress == 1)
    line = server.lines()[-1]
    assert (line["status"], line["route"]) == (499, "challenges")


def test_a_refusal_without_reading_ends_the_connection(server: Server) -> None:
    received = server.raw(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 404")
    assert b"connection: close" in received.lower()


# --- load ----------------------------------------------------------------------------------------


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
            issued = real.unlock(request)
            self.finished += 1
            return issued

        return Around(real, unlock=unlock)


def test_more_than_it_bears(sqlite_world: World) -> None:
    gate = Gate()
    with serving(sqlite_world, gate.wrap, threads=1, max_pending=2) as server, ThreadPoolExecutor(8) as pool:
        bodies = [Phone(sqlite_world).unlock_body(server.challenge(), sqlite_world.grant(f"p{i}")) for i in range(8)]
        url = server.url + "/v1/licenses"
        waiting = [pool.submit(requests.post, url, json=body, timeout=30) for body in bodies[:3]]
        assert gate.begun.acquire(timeout=10)
        assert eventually(lambda: server.metrics.in_progress == 3)
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
        assert 'corelocker_refusals_total{code="overloaded",route="licenses"} 3.0' in server.metrics.text().decode()


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
    one = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=2) as connection:
        connection.sendall(one * 20)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 200") == 20


# --- the short way --------------------------------------------------------------------------------


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


def shape(answer: tuple[int, dict[str, str], Any]) -> object:
    """What has to be the same whichever way a request took."""
    status, headers, body = answer
    secret = {"challenge", "license", "license_id", "expires_at", "renew_at"}
    unlike = {"date", "content-length", "x-request-id"}
    return (
        status, {name: value for name, value in headers.items() if name not in unlike}, sorted(headers),
        {name: "" if name in secret else value for name, value in body.items()},
    )  # fmt: skip


def test_the_short_way_answers_like_the_long_one(sqlite_world: World) -> None:
    """Each request as it is, which goes past ASGI, and with a query, which does not."""
    phone, other = Phone(sqlite_world), Phone(sqlite_world)
    with serving(sqlite_world, threads=0) as server:

        def ask(path: str, body: bytes, *headers: str) -> tuple[int, dict[str, str], Any]:
            (found,) = answers(server.raw(whole(path, body, *headers, "connection: close")))
            return found

        def both(path: str, *bodies: bytes) -> list[Any]:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(whole(path, bodies[0]))
                received = connection.recv(65536)
                (short,) = answers(received)
            long = ask(f"{path}?", bodies[-1])
            assert long[1].pop("connection") == "close"
            assert shape(short) == shape(long)
            return [short[2], long[2]]

        def unlock_body(phone: Phone) -> bytes:
            return json.dumps(phone.unlock_body(server.challenge(), sqlite_world.grant("p"))).encode()

        both("/v1/challenges", b"{}")
        both("/v1/challenges", b"[]")
        both("/v1/challenges", b"")
        issued = both("/v1/licenses", unlock_body(phone), unlock_body(phone))
        both("/v1/licenses", json.dumps({"a": 1}).encode())
        both("/v1/licenses", unlock_body(phone).replace(b"development", b"app-attest"))
        foreign = json.loads(unlock_body(phone)) | {"device_key": jose.public_jwk(other.public_key)}
        both("/v1/licenses", json.dumps(foreign).encode())
        id_ = issued[0]["license_id"]
        renewals = [json.dumps(phone.renew_body(server.challenge(), id_)).encode() for _ in range(2)]
        both(f"/v1/licenses/{id_}/renew", *renewals)
        both(f"/v1/licenses/{id_}/renew", *renewals)
        both(f"/v1/licenses/{'x' * 36}/renew", *renewals)
        both("/v1/licenses/" + "%00" * 12 + "/renew", *renewals)
        lines = [line for line in server.lines() if line["event"] == "request" and line["route"] != "other"]
        assert {line["route"] for line in lines} == {"challenges", "licenses", "renew"}
        assert {line["reason"] for line in lines if line.get("code") == "attestation-refused"} == {"signature"}
        counted = server.metrics.text().decode()
        assert 'corelocker_requests_total{route="renew",status="409"} 2.0' in counted
        assert 'corelocker_request_seconds_count{route="renew"} 8.0' in counted


def test_pipelined_requests_of_both_ways_are_answered_in_order(sqlite_world: World) -> None:
    phone = Phone(sqlite_world)
    with serving(sqlite_world, threads=0) as server:
        health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        sent, expected = b"", []
        for _ in range(5):
            body = json.dumps(phone.unlock_body(server.challenge(), sqlite_world.grant("p"))).encode()
            sent += whole("/v1/challenges", b"{}") + whole("/v1/licenses", body) + whole("/v1/licenses", body) + health
            expected += [201, 201, 409, 200]
        with socket.create_connection(("127.0.0.1", server.port), timeout=2) as connection:
            connection.sendall(sent)
            found = answers(read_all(connection))
        assert [status for status, _, _ in found] == expected
        assert ["challenge" in body for _, _, body in found] == [True, False, False, False] * 5


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.4])
def test_a_request_that_comes_in_pieces(sqlite_world: World, pause: float) -> None:
    body = json.dumps(Phone(sqlite_world).unlock_body("A" * 54, sqlite_world.grant("p"))).encode()
    data = whole("/v1/licenses", body)
    cuts = (0, len(data) - len(body), len(data) - 100, len(data))
    with (
        serving(sqlite_world, threads=0) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=2) as connection,
    ):
        for _ in range(2):
            for begin, end in pairwise(cuts):
                connection.sendall(data[begin:end])
                time.sleep(pause)
        found = answers(read_all(connection))
        assert [(status, answer["type"]) for status, _, answer in found] == [(409, PREFIX + "challenge-malformed")] * 2


def test_a_client_that_is_gone_before_its_answer(sqlite_world: World) -> None:
    """Its license counts: the device asks again, and holds its place."""
    phone = Phone(sqlite_world)
    with serving(sqlite_world, threads=0) as server:
        body = json.dumps(phone.unlock_body(server.challenge(), sqlite_world.grant("p"))).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(whole("/v1/licenses", body))
        assert eventually(lambda: any(line["route"] == "licenses" for line in server.lines()))
        assert [line["status"] for line in server.lines() if line["route"] == "licenses"] == [201]
        problem(server.post("/v1/licenses", json.loads(body)), 409, "challenge-used")


# --- rate limits ---------------------------------------------------------------------------------


def test_a_client_that_asks_too_often(sqlite_world: World, threads: int) -> None:
    with serving(sqlite_world, rate_limit=60, threads=threads) as server:  # a burst of 8, one a second after it
        answers = [server.post("/v1/challenges", {}) for _ in range(12)]
        assert [answer.status_code for answer in answers[:8]] == [201] * 8
        said = problem(answers[11], 429, "rate-limited")
        assert said["retry_after"] == 1
        # Nobody may choose who they are.
        forged = {"x-forwarded-for": "192.0.2.1", "forwarded": "for=192.0.2.2", "x-real-ip": "192.0.2.3"}
        assert server.post("/v1/challenges", {}, headers=forged).status_code == 429
        assert server.request("GET", "/healthz").status_code == 200
        assert server.request("GET", "/v1/licenses/guess/renew").status_code == 429
        time.sleep(1.2)
        assert server.post("/v1/challenges", {}).status_code == 201


def test_clients_behind_a_trusted_proxy(sqlite_world: World, threads: int) -> None:
    proxies = ("127.0.0.0/8",)
    with serving(sqlite_world, rate_limit=60, trusted_proxies=proxies, threads=threads) as server:

        def ask(forwarded: str) -> int:
            return server.post("/v1/challenges", {}, headers={"x-forwarded-for": forwarded}).status_code

        # What a client writes in front does not make it another one.
        assert [ask(f"198.51.100.{i}, 192.0.2.7") for i in range(9)] == [201] * 8 + [429]
        assert ask("192.0.2.8") == 201
        assert server.lines()[-1]["client"] == "192.0.2.8"


def test_all_clients_together(sqlite_world: World) -> None:
    limits = {"rate_limit": 600, "total_rate_limit": 60, "trusted_proxies": ("127.0.0.1",)}
    with serving(sqlite_world, **limits) as server:
        statuses = [
            server.post("/v1/challenges", {}, headers={"x-forwarded-for": f"192.0.2.{i}"}).status_code for i in range(9)
        ]
        assert statuses == [201] * 8 + [429]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_limiter() -> None:
    clock = Clock()
    limiter = RateLimiter(per_client=2, client_burst=5, overall=0, overall_burst=1, clock=clock)
    assert [limiter.wait("192.0.2.1") for _ in range(5)] == [0.0] * 5
    assert limiter.wait("192.0.2.1") == pytest.approx(0.5, abs=1e-3)
    assert limiter.wait("192.0.2.2") == 0
    clock.now += 0.5
    assert limiter.wait("192.0.2.1") == 0
    assert limiter.wait("192.0.2.1") > 0
    clock.now += 3600
    assert [limiter.wait("192.0.2.1") > 0 for _ in range(6)] == [False] * 5 + [True]


def test_the_limiter_in_the_long_run() -> None:
    clock = Clock()
    limiter = RateLimiter(per_client=10, client_burst=3, overall=0, overall_burst=1, clock=clock)
    passed = 0
    for _ in range(10_000):
        clock.now += 0.01
        passed += limiter.wait("192.0.2.1") == 0
    assert 1000 <= passed <= 1004


def test_the_limit_for_all_is_not_used_up_by_one() -> None:
    clock = Clock()
    limiter = RateLimiter(per_client=1, client_burst=2, overall=10, overall_burst=10, clock=clock)
    for _ in range(1000):
        limiter.wait("192.0.2.1")
    assert [limiter.wait(f"192.0.2.{i}") == 0 for i in range(2, 12)] == [True] * 8 + [False] * 2


def test_many_addresses_do_not_shut_others_out() -> None:
    clock = Clock()
    limiter = RateLimiter(per_client=1, client_burst=2, overall=0, overall_burst=1, clock=clock)
    for i in range(20_000):
        for _ in range(3):
            limiter.wait(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")
    refused = sum(limiter.wait(f"192.0.{i >> 8}.{i & 255}") > 0 for i in range(2000))
    assert refused < 2000 * 0.05


def test_an_ipv6_client_is_its_network() -> None:
    limiter = RateLimiter(per_client=1, client_burst=2, overall=0, overall_burst=1, clock=Clock())
    assert [limiter.wait(f"2001:db8:1:2::{i}") == 0 for i in range(1, 4)] == [True, True, False]
    assert limiter.wait("2001:db8:1:3::1") == 0
    assert [limiter.wait(address) == 0 for address in ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201")] == [
        True, True, False,
    ]  # fmt: skip


def test_processes_share_the_limiter() -> None:
    limiter = RateLimiter(per_client=1, client_burst=2, overall=0, overall_burst=1)
    child = os.fork()
    if child == 0:
        limiter.wait("192.0.2.1")
        limiter.wait("192.0.2.1")
        os._exit(0)
    os.waitpid(child, 0)
    assert limiter.wait("192.0.2.1") > 0


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ((), "192.0.2.1", [b"203.0.113.9"], "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", [b"203.0.113.9"], "203.0.113.9"),
        (("192.0.2.1",), "192.0.2.1", [b"1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (("192.0.2.1",), "192.0.2.1", [b"1.1.1.1", b"203.0.113.9"], "203.0.113.9"),
        (("192.0.2.0/24", "10.0.0.0/8"), "192.0.2.1", [b"1.1.1.1, 203.0.113.9, 10.1.1.1"], "203.0.113.9"),
        (("192.0.2.1",), "192.0.2.1", [], "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", [b"unknown"], "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", [b"203.0.113.9, "], "192.0.2.1"),
        (("192.0.2.1",), "::ffff:192.0.2.1", [b"203.0.113.9"], "203.0.113.9"),
        (("192.0.2.1",), None, [b"203.0.113.9"], "unix"),
        (("unix",), None, [b"203.0.113.9"], "203.0.113.9"),
        (("0.0.0.0/0",), "192.0.2.1", [b"9.9.9.9, " * 1000 + b"8.8.8.8"], "9.9.9.9"),
        (("2001:db8::/32",), "2001:db8::1", [b"2001:db8:ffff::7, 2001:DB9::1"], "2001:db9::1"),
    ],
)
def test_the_address_of_a_client(
    trusted: tuple[str, ...], peer: str | None, forwarded: list[bytes], client: str
) -> None:
    assert ClientAddress(trusted).of(peer, forwarded) == client


def test_what_clients_are_told_is_one_line_each() -> None:
    for code, kind in PROBLEMS.items():
        assert code == code.lower()
        assert kind.title
        assert kind.detail.endswith(".")
        assert "\n" not in kind.detail
