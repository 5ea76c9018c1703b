"""Two and more service processes on one database behave as one; what is killed does not take the others along."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from corelocker.licensing.license import read_license
from corelocker.licensing.tokens import TrustedKeys
from support.http_server import eventually
from support.postgres import PostgresServer
from support.two_hosts import Answer, TwoHosts, at_once, challenge, codes, two_hosts
from support.unlock_world import PARALLEL, Phone, ServiceProcess, World, post


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[TwoHosts]:
    """Two hosts on one PostgreSQL database; each test takes purchases of its own."""
    world = World(tmp_path_factory.mktemp("pair"), postgres.new_database())
    with two_hosts(world) as services:
        yield world, services


def unlock(service: ServiceProcess, phone: Phone, grant: str) -> Answer:
    return post(f"{service.url}/v1/licenses", phone.unlock_body(challenge(service), grant))


def test_identical_requests(pair: TwoHosts) -> None:
    """50 times the same request, half of them to each process: one license."""
    world, services = pair
    phone, grant = Phone(world), world.grant("identical")
    body = phone.unlock_body(challenge(services[0]), grant)
    answers = at_once([
        lambda service=services[number % 2]: post(f"{service.url}/v1/licenses", body)  # type: ignore[misc]
        for number in range(PARALLEL)
    ])  # fmt: skip
    assert codes(answers) == {"license": 1, "challenge-used": PARALLEL - 1}
    licenses, entitlement = world.stored("identical")
    assert len(licenses) == len(entitlement.places) == 1


def test_many_devices(pair: TwoHosts) -> None:
    """50 devices at two processes, 3 places: exactly 3 licenses."""
    world, services = pair
    grant = world.grant("many")
    phones = [Phone(world) for _ in range(PARALLEL)]
    bodies = [phone.unlock_body(challenge(services[0]), grant) for phone in phones]
    answers = at_once([
        lambda body=body, service=services[number % 2]: post(f"{service.url}/v1/licenses", body)  # type: ignore[misc]
        for number, body in enumerate(bodies)
    ])  # fmt: skip
    assert codes(answers) == {"license": 3, "device-limit": PARALLEL - 3}
    licenses, entitlement = world.stored("many")
    assert len(licenses) == len(entitlement.places) == 3


def test_each_takes_what_the_other_gave(pair: TwoHosts) -> None:
    """A challenge of one counts at the other, once; a license of one is renewed, and revoked, at the other."""
    world, (one, two) = pair
    phone, grant = Phone(world), world.grant("each")
    body = phone.unlock_body(challenge(one), grant)
    status, issued = post(f"{two.url}/v1/licenses", body)
    assert status == 201, issued
    assert codes([post(f"{one.url}/v1/licenses", body)]) == {"challenge-used": 1}
    renewal = phone.renew_body(challenge(two), issued["license_id"])
    status, renewed = post(f"{one.url}/v1/licenses/{issued['license_id']}/renew", renewal)
    assert status == 201, renewed
    world.revoke(renewed["license_id"])
    for service in (one, two):
        body = phone.renew_body(challenge(service), renewed["license_id"])
        status, refused = post(f"{service.url}/v1/licenses/{renewed['license_id']}/renew", body)
        assert status == 403, refused
        assert refused["type"] == "urn:corelocker:problem:license-revoked"


def test_one_is_killed_under_load(pair: TwoHosts) -> None:
    """The other goes on, and devices that turn to it get their places; the dead one comes back and fits in."""
    world, services = pair
    grants = [world.grant(f"p{number}") for number in range(8)]
    phones = [[Phone(world) for _ in range(5)] for _ in grants]
    keys = TrustedKeys([world.keystore.signing_key.public_key()])
    given: list[set[str]] = [set() for _ in grants]
    half = threading.Barrier(9)

    def customer(number: int) -> None:
        """Five devices of one purchase with three places, over and over, at whichever process answers."""
        with requests.Session() as session:
            for turn in range(8):
                if turn == 2:
                    half.wait()
                for phone in phones[number]:
                    for service in (services[turn % 2], services[1]):
                        try:
                            _, got = post(f"{service.url}/v1/challenges", {}, session)
                            body = phone.unlock_body(got["challenge"], grants[number])
                            status, answer = post(f"{service.url}/v1/licenses", body, session)
                        except requests.ConnectionError:
                            continue
                        if status == 201:
                            assert read_license(answer["license"], keys).device == phone.thumbprint
                            given[number].add(phone.thumbprint)
                        else:
                            assert answer["type"] == "urn:corelocker:problem:device-limit", answer
                        break

    with ThreadPoolExecutor(8) as pool:
        customers = [pool.submit(customer, number) for number in range(8)]
        half.wait()
        services[0].kill()
        for done in customers:
            done.result()
    for number in range(8):
        licenses, entitlement = world.stored(f"p{number}")
        assert given[number] == {place.device for place in entitlement.places}
        assert len(given[number]) == 3
        assert {entry.device for entry in licenses} == given[number]
    services[0] = world.start(world.folder / f"host-{services[0].port}/service.toml", services[0].port)
    for number in range(8):
        for phone in phones[number]:
            status, _ = unlock(services[0], phone, grants[number])
            assert status == (201 if phone.thumbprint in given[number] else 409)


def test_hosts_have_files_of_their_own(pair: TwoHosts) -> None:
    world, services = pair
    epochs = [world.folder / f"host-{service.port}/service-keys.json.epoch" for service in services]
    assert all(epoch.exists() for epoch in epochs)
    assert not (world.folder / "service-keys.json.epoch").exists()


def test_a_renewal_and_a_notice_at_both_hosts(pair: TwoHosts) -> None:
    """One renewal sent to both at once counts once; a revocation at the same time is never undone by one."""
    world, services = pair
    phone, grant = Phone(world), world.grant("renewed at both")
    status, issued = unlock(services[0], phone, grant)
    assert status == 201
    path = f"/v1/licenses/{issued['license_id']}/renew"
    body = phone.renew_body(challenge(services[1]), issued["license_id"])
    answers = at_once([
        lambda service=services[number % 2]: post(f"{service.url}{path}", body)  # type: ignore[misc]
        for number in range(PARALLEL)
    ])  # fmt: skip
    assert codes(answers) == {"license": 1, "challenge-used": PARALLEL - 1}
    bodies = [phone.renew_body(challenge(services[0]), issued["license_id"]) for _ in range(20)]
    answers = at_once([
        *[lambda body=body, service=services[number % 2]: post(f"{service.url}{path}", body)  # type: ignore[misc]
          for number, body in enumerate(bodies)],
        lambda: (0, {"type": world.revoke(issued["license_id"])}),
    ])  # fmt: skip
    assert codes(answers).keys() <= {"license", "license-revoked", "None", "purchase-revoked"}
    for service in services:
        body = phone.renew_body(challenge(service), issued["license_id"])
        assert post(f"{service.url}{path}", body)[0] == 403


def test_workers_of_one_service(sqlite_world: World) -> None:
    """Two workers on one socket, and SQLite below them."""
    world = sqlite_world
    world.configure(workers=2)
    with world.start() as service:
        phone, grant = Phone(world), world.grant("p")
        body = phone.unlock_body(challenge(service), grant)
        answers = at_once([lambda: post(f"{service.url}/v1/licenses", body)] * PARALLEL)
        assert codes(answers) == {"license": 1, "challenge-used": PARALLEL - 1}
        bodies = [Phone(world).unlock_body(challenge(service), world.grant("q")) for _ in range(PARALLEL)]
        answers = at_once([lambda body=body: post(f"{service.url}/v1/licenses", body) for body in bodies])  # type: ignore[misc]
        assert codes(answers) == {"license": 3, "device-limit": PARALLEL - 3}
        assert service.stop() == 0


def workers_of(service: ServiceProcess) -> dict[int, set[int]]:
    """The cores that each worker process may use, all its threads taken together; without those that end meanwhile."""
    pid = service.process.pid
    cores = {}
    for worker in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        with suppress(ProcessLookupError, FileNotFoundError):
            threads = os.listdir(f"/proc/{worker}/task")
            cores[worker] = set().union(*(os.sched_getaffinity(int(thread)) for thread in threads))
    return cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_each_worker_stays_on_a_core_of_its_own(sqlite_world: World) -> None:
    world = sqlite_world
    count = min(2, len(os.sched_getaffinity(0)))
    config = world.configure(workers=count)

    def pinned() -> bool:
        """All of them, each to another core."""
        owned = [core for own in workers_of(service).values() for core in own]
        return len(owned) == len(set(owned)) == count

    with world.start() as service:
        assert eventually(pinned)
        killed = next(iter(workers_of(service)))
        os.kill(killed, signal.SIGKILL)
        assert eventually(lambda: killed not in workers_of(service) and pinned())
    config.write_text(config.read_text().replace("[http]\n", "[http]\npin_workers = false\n"))
    with world.start() as service:
        assert {frozenset(own) for own in workers_of(service).values()} == {frozenset(os.sched_getaffinity(0))}


def test_it_is_stopped_gently(sqlite_world: World) -> None:
    """SIGTERM under load: every answer is whole, and what was answered is in the database."""
    world = sqlite_world
    answers: list[Answer] = []
    with world.start() as service:
        started = threading.Event()

        def customer(number: int) -> None:
            while True:
                phone = Phone(world)
                try:
                    answers.append(unlock(service, phone, world.grant(f"p{number}-{phone.thumbprint}")))
                except (requests.ConnectionError, AssertionError):
                    return
                started.set()

        with ThreadPoolExecutor(8) as pool:
            customers = [pool.submit(customer, number) for number in range(8)]
            assert started.wait(30)
            assert service.stop() == 0
            for done in customers:
                done.result()
    assert answers
    with world.storage() as storage:
        for status, body in answers:
            assert status in (201, 503), body
            assert status == 503 or storage.license(body["license_id"]) is not None


def test_the_parent_is_killed(sqlite_world: World) -> None:
    """What an out-of-memory killer may pick: no worker stays behind, and the service can be started again at once."""
    world = sqlite_world
    world.configure(workers=2)
    phone, grant = Phone(world), world.grant("p")
    service = world.start()
    try:
        assert unlock(service, phone, grant)[0] == 201
        service.process.kill()
        service.process.wait(30)
        for _ in range(100):
            try:
                os.killpg(service.process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("workers outlive their parent")
    finally:
        service.kill()
    with world.start() as service:
        assert unlock(service, phone, grant)[0] == 201
