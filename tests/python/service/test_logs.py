"""The log: what it holds, and what it never holds."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from typing import Any
from uuid import UUID

import pytest
from corelocker.bundle import jose
from corelocker.bundle.content_keys import tier_keys
from corelocker.licensing.errors import StorageError
from corelocker.service.logs import Log, describe_exception, take_over_logging
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.http_server import Around, Server, serving
from support.unlock_world import Phone, World


def test_the_log_of_a_run_holds_no_secret(sqlite_world: World) -> None:
    world, secrets = sqlite_world, set[str]()

    def fail(*_: object) -> None:
        raise StorageError(f"a driver that quotes its parameters: {world.grant('x')}")

    with serving(world, lambda real: Around(real, notices=Around(real.notices, app_store=fail))) as server:
        phone = Phone(world)
        for _ in range(2):
            grant = world.grant("a purchase")
            body = phone.unlock_body(server.challenge(), grant)
            answer = server.post("/v1/licenses", body)
            issued = answer.json()
            renewal = phone.renew_body(server.challenge(), issued["license_id"])
            path = f"/v1/licenses/{issued['license_id']}/renew"
            renewed = server.post(
                path, renewal, headers={"authorization": "Bearer a-bearer-token", "cookie": "a-cookie"}
            )
            assert (answer.status_code, renewed.status_code) == (201, 201)
            assert server.post(path, renewal).status_code == 409
            refused = server.post("/v1/licenses", body | {"challenge": server.challenge()})
            assert refused.status_code == 401
            assert server.post("/v1/notifications/app-store/a-secret-app", {"signedPayload": grant}).status_code == 503
            assert server.request("GET", f"/{grant}?token={grant}").status_code == 404
            sealed = server.post("/v1/challenges", {"device_key": jose.public_jwk(phone.public_key)}).json()
            secrets |= {grant, body["challenge"], renewal["challenge"], issued["license"], renewed.json()["license"]}
            refusals = [refused, server.post(path, renewal), server.request("GET", f"/{grant}?token={grant}")]
            secrets |= {sealed["sealed"], sealed["challenge"], *map(str, body["attestation"].values())}
            secrets |= set(jose.public_jwk(phone.public_key).values()) - {"EC", "P-256"}
        secrets -= {"development"}
        signing = world.keystore.signing_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        keys = [*tier_keys(world.content_key, UUID(world.bundle_id), 3), signing[36:68]]
        for key in keys:
            secrets |= {key.hex(), jose.encode_base64url(key)}
        text = server.log_text.getvalue()
        lines = server.lines()
        metrics = server.metrics_text()
        with sqlite_world.storage() as storage:
            rows = [vars(row) for row in storage.audit_rows(limit=1000)]
    answered = "".join(f"{answer.text} {answer.headers}" for answer in refusals)
    secrets |= {"a-bearer-token", "a-cookie", "a-secret-app", "a purchase", "quotes its parameters"}
    for secret in secrets:
        # Any piece of a token is as telling as the whole.
        pieces = [secret] if len(secret) < 48 else [secret[at : at + 24] for at in range(0, len(secret) - 24, 24)]
        for piece in pieces:
            assert piece not in text, piece
            assert piece not in metrics, piece
            assert piece not in str(rows), piece
            assert piece not in answered, piece
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 24
    for line in requests:
        assert line.keys() >= {"time", "level", "request_id", "client", "method", "route", "status", "ms"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert len({line["request_id"] for line in requests}) == len(requests)
    # What was decided is found by the id that its answer had.
    of_line = {line["request_id"]: line for line in requests}
    kept = [row for row in rows if row["event"] in ("unlock", "renew")]
    assert len(kept) >= 8
    for row in kept:
        line = of_line[row["request_id"]]
        assert (line["route"], line.get("code", "ok")) == (row["event"], row["outcome"])
    assert {line["reason"] for line in requests if line.get("code") == "attestation-refused"} == {"signature"}


def test_every_answer_names_its_line(server: Server) -> None:
    before = len(server.lines())
    answers = [server.request("GET", path) for path in ("/healthz", "/none", "/v1/licenses")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [line["request_id"] for line in server.lines()[before:]] == ids
    assert [answer.json().get("request_id") for answer in answers] == [None, *ids[1:]]
    chosen = server.request("GET", "/healthz", headers={"x-request-id": "mine"})
    assert chosen.headers["x-request-id"] != "mine"


def test_what_is_no_request_has_a_line_too(server: Server) -> None:
    members = json.loads(server.raw(b"no HTTP\r\n\r\n").partition(b"\r\n\r\n")[2])
    line = server.lines()[-1]
    assert (line["event"], line["code"]) == ("refused", "request-malformed")
    assert (line["request_id"], line["client"]) == (members["request_id"], "127.0.0.1")


def test_other_libraries_cannot_log_secrets() -> None:
    stream = io.StringIO()
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    try:
        take_over_logging(Log(stream))
        logging.getLogger("urllib3.connectionpool").warning("Retrying %s", "/tokens/a-secret")
        logging.getLogger("urllib3.connectionpool").warning(f"Retrying {'/tokens/a-secret'}")
        logging.getLogger("sqlalchemy").error("failed", exc_info=ValueError("a-secret"))
        logging.getLogger("asyncio").error("Task exception <Task exception=Error('a-secret')>")
        logging.getLogger("x").info("a-secret")
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n")
        # A line of our own says more.
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "a-secret" not in stream.getvalue()
    assert [line["logger"] for line in lines] == [
        "urllib3.connectionpool", "urllib3.connectionpool", "sqlalchemy", "asyncio", "uvicorn.error",
    ]  # fmt: skip
    assert lines[2]["exception"] == ["builtins.ValueError"]
    assert lines[4]["text"] == "Exception in ASGI application"


def test_an_exception_is_its_types_and_places() -> None:
    def inner() -> None:
        raise KeyError("a-secret")

    try:
        try:
            inner()
        except KeyError as error:
            raise StorageError("another-secret") from error
    except StorageError as error:
        described = describe_exception(error)
    assert described["exception"] == ["corelocker.licensing.errors.StorageError", "builtins.KeyError"]
    assert "secret" not in json.dumps(described)


def test_an_exception_that_causes_itself() -> None:
    error = ValueError("x")
    error.__cause__ = RuntimeError("y")
    error.__cause__.__cause__ = error
    assert len(describe_exception(error)["exception"]) == 8  # type: ignore[arg-type]


def test_a_log_that_cannot_be_written_is_not_in_the_way() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    Log(Full()).write("info", "x")
    closed = io.StringIO()
    closed.close()
    Log(closed).write("info", "x")


def test_threads_do_not_mix_their_lines() -> None:
    stream = io.StringIO()
    log = Log(stream)
    threads = [
        threading.Thread(target=lambda: [log.write("info", "x", text="y" * 500) for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 800


@pytest.mark.parametrize("value", [None, 5, {"a": [1]}, "ü\n\u2028", b"bytes"])
def test_a_line_is_one_line(value: Any) -> None:
    stream = io.StringIO()
    Log(stream).write("info", "x", value=value)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    json.loads(text)
