"""What HTTP adds to the core: an answer to everything that can be asked, and nothing said too much."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from corelocker.bundle import jose
from corelocker.licensing.errors import StorageError
from corelocker.service.core import UnlockService
from cryptography.hazmat.primitives.asymmetric import ec
from support.http_server import SECURITY, Around, Server, problem, serving
from support.unlock_world import Phone, World


def test_the_whole_flow(server: Server) -> None:
    phone = Phone(server.world)
    answer = server.unlock(phone, server.world.grant("the whole flow"))
    assert answer.status_code == 201
    assert answer.headers.items() >= SECURITY.items()
    assert answer.headers["content-type"] == "application/json"
    issued = answer.json()
    assert issued.keys() == {"license", "license_id", "expires_at", "renew_at"}
    path = f"/v1/licenses/{issued['license_id']}/renew"
    body = phone.renew_body(server.challenge(), issued["license_id"])
    assert server.post(path, body).status_code == 201
    problem(server.post(path, body), 409, "challenge-used")


def test_a_challenge_for_a_device_key_is_sealed(server: Server) -> None:
    answer = server.post("/v1/challenges", {"device_key": jose.public_jwk(Phone(server.world).public_key)})
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
        said = problem(answer, 400, "request-malformed")
        assert len(said["errors"]) == 1


UNLOCK: dict[str, Any] = {
    "challenge": "A" * 54,
    "app": "com.example.camera",
    "bundle": "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f",
    "tier": "full",
    "device_key": jose.public_jwk(ec.derive_private_key(7, ec.SECP256R1()).public_key()),
    "attestation": {"format": "device-key", "proof": "A" * 43},
    "purchase": {"provider": "grant", "token": "token"},
}


@pytest.mark.parametrize(
    ("change", "pointer", "expected"),
    [
        ({"challenge": ""}, "#/challenge", "1 to 256 printable"),
        ({"challenge": None}, "#/challenge", "1 to 256 printable"),
        ({"app": "x" * 257}, "#/app", "1 to 256 printable"),
        ({"bundle": 1}, "#/bundle", "1 to 256 printable"),
        ({"tier": "a\nsecret"}, "#/tier", "1 to 256 printable"),
        ({"secret": 1}, "#", "no other members than challenge, app"),
        ({"app": ...}, "#/app", "missing"),
        ({"purchase": ...}, "#/purchase", "missing"),
        ({"device_key": "secret"}, "#/device_key", "public JWK"),
        ({"device_key": {"kty": "secret"}}, "#/device_key", "public JWK"),
        ({"attestation": "secret"}, "#/attestation", "an object"),
        ({"attestation": {"format": "secret"}}, "#/attestation/format", "android-key, apple-app-attest"),
        ({"attestation": {"format": "device-key"}}, "#/attestation/proof", "missing"),
        ({"attestation": {"format": "device-key", "proof": "secret!"}}, "#/attestation/proof", "at most 32 bytes"),
        ({"attestation": {"format": "android-key", "chain": "secret"}}, "#/attestation/chain", "at most 6"),
        ({"attestation": {"format": "android-key", "chain": ["AA", "secret!"]}}, "#/attestation/chain/1", "base64url"),
        ({"purchase": "secret"}, "#/purchase", "an object"),
        ({"purchase": {"provider": "secret"}}, "#/purchase/provider", "one of grant, app-store, google-play"),
        ({"purchase": {"provider": "grant"}}, "#/purchase/token", "missing"),
        ({"purchase": {"provider": "grant", "token": "secret\u00e9"}}, "#/purchase/token", "printable ASCII"),
        ({"purchase": {"provider": "grant", "token": "x", "secret": 1}}, "#/purchase", "no other members"),
        ({"purchase": {"provider": "app-store", "transaction": ""}}, "#/purchase/transaction", "printable ASCII"),
        (
            {"purchase": {"provider": "google-play", "kind": "secret", "product": "x", "token": "x"}},
            "#/purchase/kind",
            "product or subscription",
        ),
        (
            {"purchase": {"provider": "google-play", "kind": "product", "product": "", "token": "x"}},
            "#/purchase/product",
            "1 to 256 printable",
        ),
    ],
)
def test_a_malformed_request_is_told_which_member(
    server: Server, change: dict[str, Any], pointer: str, expected: str
) -> None:
    body = {name: value for name, value in (UNLOCK | change).items() if value is not ...}
    answer = server.post("/v1/licenses", body)
    (error,) = problem(answer, 400, "request-malformed")["errors"]
    assert error.keys() == {"pointer", "detail"}
    assert error["pointer"] == pointer
    assert expected in error["detail"]
    assert "secret" not in answer.text
    assert server.lines()[-1]["request_id"] == answer.json()["request_id"]


def test_a_device_key_off_the_curve(server: Server) -> None:
    key = {"kty": "EC", "crv": "P-256", "x": jose.encode_base64url(bytes(32)), "y": jose.encode_base64url(bytes(32))}
    problem(server.post("/v1/challenges", {"device_key": key}), 403, "device-key")


def test_refusals_say_no_more_than_they_should(server: Server) -> None:
    phone = Phone(server.world)
    body = phone.unlock_body(server.challenge(), server.world.grant("refusals say no more than they should"))
    other = Phone(server.world).unlock_body(body["challenge"], body["purchase"]["token"])
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


def test_the_device_limit_says_when(server: Server) -> None:
    for _ in range(3):
        assert server.unlock(Phone(server.world), server.world.grant("the device limit says when")).status_code == 201
    said = problem(
        server.unlock(Phone(server.world), server.world.grant("the device limit says when")), 409, "device-limit"
    )
    assert said["retry_at"] > time.time()


def test_notifications_need_the_store(server: Server) -> None:
    for store in ("app-store", "google-play"):
        path = f"/v1/notifications/{store}/com.example.camera"
        problem(server.post(path, {"signedPayload": "x"}), 403, "provider-not-allowed")
        problem(server.post(f"/v1/notifications/{store}/unknown", {}), 404, "app-unknown")


def test_what_nobody_expected(sqlite_world: World) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a message with a secret")

    def failing(real: UnlockService) -> Any:
        decisions, challenges = Around(real.decisions, unlock=fail), Around(real.challenges, issue=fail)
        return Around(real, decisions=decisions, challenges=challenges)

    with serving(sqlite_world, failing) as server:
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
