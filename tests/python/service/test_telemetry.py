"""Logs and metrics: what they hold, and what they never hold."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from typing import Any
from uuid import UUID

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.bundle.content_keys import tier_keys
from corelocker.service.errors import StorageError
from corelocker.service.openapi import ROUTES
from corelocker.service.problems import PROBLEMS
from corelocker.service.telemetry import Log, Metrics, describe_exception, flat_json, take_over_logging
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.http_server import Around, serving
from support.unlock_world import Phone, World


@pytest.mark.parametrize("threads", [8, 0])
def test_the_log_of_a_run_holds_no_secret(sqlite_world: World, threads: int) -> None:
    world, secrets = sqlite_world, set[str]()

    def fail(*_: object) -> None:
        raise StorageError(f"a driver that quotes its parameters: {world.grant('x')}")

    with serving(world, lambda real: Around(real, app_store_notice=fail), threads=threads) as server:
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
            secrets |= {sealed["sealed"], sealed["challenge"], *map(str, body["attestation"].values())}
            secrets |= set(jose.public_jwk(phone.public_key).values()) - {"EC", "P-256"}
        secrets -= {"development"}
        signing = world.keystore.signing_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        keys = [*tier_keys(world.content_key, UUID(world.bundle_id), 3), signing[36:68]]
        for key in keys:
            secrets |= {key.hex(), jose.encode_base64url(key)}
        text = server.log_text.getvalue()
        lines = server.lines()
        metrics = server.metrics.text().decode()
    secrets |= {"a-bearer-token", "a-cookie", "a-secret-app", "a purchase", "quotes its parameters"}
    for secret in secrets:
        # Any piece of a token is as telling as the whole.
        pieces = [secret] if len(secret) < 48 else [secret[at : at + 24] for at in range(0, len(secret) - 24, 24)]
        for piece in pieces:
            assert piece not in text, piece
            assert piece not in metrics, piece
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 20
    for line in requests:
        assert line.keys() >= {"time", "level", "request_id", "client", "method", "route", "status", "ms"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert len({line["request_id"] for line in requests}) == len(requests)
    assert {line["reason"] for line in requests if line.get("code") == "attestation-refused"} == {"signature"}


def test_every_answer_names_its_line(sqlite_world: World) -> None:
    with serving(sqlite_world) as server:
        answers = [server.request("GET", path) for path in ("/healthz", "/none", "/v1/licenses")]
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert [line["request_id"] for line in server.lines()] == ids
        chosen = server.request("GET", "/healthz", headers={"x-request-id": "mine"})
        assert chosen.headers["x-request-id"] != "mine"


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
    assert lines[4]["text"] == "Invalid HTTP request received."


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
    assert described["exception"] == ["corelocker.service.errors.StorageError", "builtins.KeyError"]
    assert "secret" not in json.dumps(described)


def test_an_exception_that_causes_itself() -> None:
    error = ValueError("x")
    error.__cause__ = RuntimeError("y")
    error.__cause__.__cause__ = error
    assert len(describe_exception(error)["exception"]) == 8  # type: ignore[arg-type]


def test_flat_json_is_json() -> None:
    members = {
        "text": 'a "quoted" \\ line\nand \x00 \x7f \u2028 \u00e9 \U0001f511', 'na"me': "", "whole": -(2**53), "none": None,
        "true": True, "false": False, "fraction": 1.25, "list": ["a", {"b": 1}], "reason": Reason.SIGNATURE,
    }  # fmt: skip
    text = flat_json(members)
    assert json.loads(text) == members
    assert text.isascii()
    assert "\n" not in text
    assert flat_json({}) == "{}"
    assert json.loads(flat_json({"error": ValueError("x")})) == {"error": "x"}


def test_requests_are_counted_in_their_buckets() -> None:
    metrics = Metrics(ROUTES, PROBLEMS)
    for seconds in (0.0005, 0.001, 0.0011, 0.3, 99.0):
        metrics.begin()
        metrics.end("renew", 201, seconds)
    for _ in range(2):
        text = metrics.text().decode()
        assert 'corelocker_requests_total{route="renew",status="201"} 5.0' in text
        for bound, count in (("0.001", 2), ("0.0025", 3), ("0.25", 3), ("0.5", 4), ("10.0", 4), ("+Inf", 5)):
            assert f'corelocker_request_seconds_bucket{{le="{bound}",route="renew"}} {count}.0' in text
        assert 'corelocker_request_seconds_sum{route="renew"} 99.3026' in text
        assert "corelocker_requests_in_progress 0.0" in text


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


# --- metrics -------------------------------------------------------------------------------------


def sample(text: str, name: str) -> float:
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).rpartition(" ")[2])


def test_what_is_counted(sqlite_world: World) -> None:
    with serving(sqlite_world) as server:
        phone = Phone(sqlite_world)
        body = phone.unlock_body(server.challenge(), sqlite_world.grant("p"))
        server.post("/v1/licenses", body)
        server.post("/v1/licenses", body)
        other = Phone(sqlite_world).unlock_body(server.challenge(), sqlite_world.grant("p"))
        server.post("/v1/licenses", other | {"device_key": body["device_key"]})
        server.lines()
        text = server.metrics.text().decode()
    assert sample(text, 'corelocker_requests_total{route="challenges",status="201"}') == 2
    assert sample(text, 'corelocker_requests_total{route="licenses",status="201"}') == 1
    assert sample(text, 'corelocker_requests_total{route="licenses",status="409"}') == 1
    assert sample(text, 'corelocker_refusals_total{code="challenge-used",route="licenses"}') == 1
    assert sample(text, 'corelocker_attestation_refusals_total{reason="signature"}') == 1
    assert sample(text, 'corelocker_request_seconds_count{route="licenses"}') == 3
    assert sample(text, "corelocker_requests_in_progress") == 0


def test_clients_make_no_new_series(sqlite_world: World) -> None:
    with serving(sqlite_world) as server:

        def ask(number: int) -> None:
            server.request("GET", f"/made-up/{number}")
            server.request("PUT", f"/v1/licenses/{number}/renew")
            server.request(f"VERB{number}" if number % 2 else "REPORT", "/v1/challenges")
            server.post(f"/v1/notifications/app-store/{number}", {})
            server.post("/v1/licenses", {"app": str(number)})

        ask(0)
        server.lines()
        before = len(server.metrics.text().splitlines())
        for number in range(1, 40):
            ask(number)
        server.lines()
        assert len(server.metrics.text().splitlines()) == before


def test_labels_are_bounded_whatever_is_counted() -> None:
    metrics = Metrics(ROUTES, PROBLEMS)
    for number in range(300):
        metrics.begin()
        metrics.end(f"route {number}", number, 0.1)
        metrics.refused(f"route {number}", f"code {number}")
    for reason in Reason:
        metrics.attestation_refused(reason)
    text = metrics.text().decode()
    assert "route 1" not in text
    assert "code 1" not in text
    assert len(text.splitlines()) < 200


@pytest.mark.parametrize("value", [None, 5, {"a": [1]}, "ü\n\u2028", b"bytes"])
def test_a_line_is_one_line(value: Any) -> None:
    stream = io.StringIO()
    Log(stream).write("info", "x", value=value)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    json.loads(text)
