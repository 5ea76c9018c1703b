"""Metrics: what is counted, and that clients make no new series."""

from __future__ import annotations

from corelocker.service.metrics import Metrics
from prometheus_client import generate_latest
from support.http_server import serving
from support.unlock_world import Phone, World


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
        server.raw(b"no HTTP\r\n\r\n")
        text = server.metrics_text()
    assert sample(text, 'corelocker_requests_total{route="challenge",status="201"}') == 2
    assert sample(text, 'corelocker_requests_total{route="unlock",status="201"}') == 1
    assert sample(text, 'corelocker_requests_total{route="unlock",status="409"}') == 1
    assert sample(text, 'corelocker_refusals_total{code="challenge-used",route="unlock"}') == 1
    assert sample(text, 'corelocker_attestation_refusals_total{reason="signature"}') == 1
    assert sample(text, 'corelocker_request_seconds_count{route="unlock"}') == 3
    assert sample(text, 'corelocker_refusals_total{code="request-malformed",route="other"}') == 1
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
        before = len(server.metrics_text().splitlines())
        for number in range(1, 40):
            ask(number)
        assert len(server.metrics_text().splitlines()) == before


def test_requests_are_counted_in_their_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.001, 0.0011, 0.3, 99.0):
        metrics.begin()
        metrics.end("renew", 201, seconds)
    text = generate_latest(metrics.registry).decode()
    assert 'corelocker_requests_total{route="renew",status="201"} 5.0' in text
    for bound, count in (("0.001", 2), ("0.0025", 3), ("0.25", 3), ("0.5", 4), ("10.0", 4), ("+Inf", 5)):
        assert f'corelocker_request_seconds_bucket{{le="{bound}",route="renew"}} {count}.0' in text
    assert 'corelocker_request_seconds_sum{route="renew"} 99.3026' in text
    assert "corelocker_requests_in_progress 0.0" in text
