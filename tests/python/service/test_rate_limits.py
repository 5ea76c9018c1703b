"""Rate limits: of each client and of all, and who a client is."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from corelocker.service.limits import ClientAddress, RateLimiter
from corelocker.service.shared_limits import SharedLimits
from corelocker.service.storage import Storage
from support.http_server import problem, serving
from support.postgres import PostgresServer
from support.unlock_world import Phone, World


def test_a_client_that_asks_too_often(sqlite_world: World) -> None:
    with serving(sqlite_world, rate_limit=60) as server:  # a burst of 8, one a second after it
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


def test_clients_behind_a_trusted_proxy(sqlite_world: World) -> None:
    proxies = ("127.0.0.0/8",)
    with serving(sqlite_world, rate_limit=60, trusted_proxies=proxies) as server:

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


def test_a_purchase_that_is_shown_too_often(sqlite_world: World) -> None:
    path = sqlite_world.config_path
    path.write_text(path.read_text().replace("rate_limit = 1000000", "rate_limit = 4"))
    with serving(sqlite_world) as server:
        phone = Phone(sqlite_world)
        answers = [server.unlock(phone, sqlite_world.grant("shared")) for _ in range(3)]
        license_id = answers[0].json()["license_id"]
        renewed = server.post(f"/v1/licenses/{license_id}/renew", phone.renew_body(server.challenge(), license_id))
        assert [answer.status_code for answer in (*answers, renewed)] == [201] * 4
        said = problem(server.unlock(Phone(sqlite_world), sqlite_world.grant("shared")), 429, "rate-limited")
        assert 800 < said["retry_after"] <= 900
        assert server.unlock(phone, sqlite_world.grant("another")).status_code == 201
        # Without a proof of the device nobody uses up what a purchase has.
        body = phone.renew_body(server.challenge(), license_id, tier="plus")
        problem(server.post(f"/v1/licenses/{license_id}/renew", body), 401, "attestation-refused")


def test_hosts_share_what_is_used_up(postgres: PostgresServer) -> None:
    storage = Storage.open(postgres.new_database(), migrate=True)
    hosts = [RateLimiter(per_client=1, client_burst=20, overall=0, overall_burst=1) for _ in range(2)]
    shares = [SharedLimits(storage, {"clients": limiter}) for limiter in hosts]
    try:
        assert sum(hosts[0].wait("192.0.2.1") == 0 for _ in range(30)) == 20
        assert hosts[1].wait("192.0.2.1") == 0
        assert hosts[1].wait("192.0.2.2") == 0
        for share in shares:
            share.share()
        # It was quiet at the second host, which finds out when it no longer is.
        assert sum(hosts[1].wait("192.0.2.1") == 0 for _ in range(10)) == 10
        shares[1].share()
        assert hosts[1].wait("192.0.2.1") > 0
        assert hosts[1].wait("192.0.2.2") == 0
        (row,) = storage.execute(sa.text("SELECT subject, empty_at FROM rates"))
        assert "192.0.2.1" not in row.subject
        assert row.empty_at > time.time() + 10
        storage.execute(sa.text("UPDATE rates SET empty_at = empty_at - 100"))
        shares[0].forget()
        assert storage.execute(sa.text("SELECT subject FROM rates")) == []
    finally:
        storage.close()


def test_many_hosts_share_at_once(postgres: PostgresServer) -> None:
    """Each adds to the same rows at the same time: nothing is lost, nothing waits in a circle."""
    storage = Storage.open(postgres.new_database(), migrate=True)
    clients = [f"192.0.2.{number}" for number in range(1, 60)]

    def host(seed: int) -> None:
        limiter = RateLimiter(per_client=0.01, client_burst=1000, overall=0, overall_burst=1)
        share = SharedLimits(storage, {"clients": limiter})
        for _ in range(5):
            for client in random.Random(seed).sample(clients, len(clients)):
                limiter._count(client, 100.0)
            share.share()

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(host, range(4)))
        rows = storage.execute(sa.text("SELECT empty_at FROM rates"))
        assert len(rows) == len(clients)
        assert all(time.time() + 1950 < row.empty_at < time.time() + 2050 for row in rows)
    finally:
        storage.close()


def test_on_sqlite_there_is_nobody_to_share_with(tmp_path: Path) -> None:
    storage = Storage.open(f"sqlite:///{tmp_path}/unlock.sqlite", migrate=True)
    limiter = RateLimiter(per_client=1, client_burst=2, overall=0, overall_burst=1)
    limiter.wait("192.0.2.1")
    SharedLimits(storage, {"clients": limiter}).share()
    SharedLimits(storage, {"clients": limiter}).forget()
    storage.close()


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
