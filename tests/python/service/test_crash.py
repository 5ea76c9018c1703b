"""kill -9 between any two steps: no purchase is lost, no license is counted twice, no limit is exceeded."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from corelocker.licensing.errors import ChallengeUsedError, DeviceLimitError, LicensingError, StorageError
from corelocker.service.core import UnlockService
from corelocker.service.messages import ChallengeRequest, RenewRequest, UnlockRequest
from corelocker.service.records import AuditRow, PurchaseKey
from support.postgres import PostgresServer
from support.unlock_world import APP, Phone, World, post

CHILD = Path(__file__).parents[1] / "support/crash_child.py"


class Clock:
    """The time of both processes, so that every run of a request takes the same steps."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Child:
    """The process of crash_child.py."""

    def __init__(self, world: World, clock: Clock) -> None:
        self.clock = clock
        path = [entry for entry in sys.path if entry]
        self.process = subprocess.Popen(
            [sys.executable, CHILD, world.config_path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(path)},
        )  # fmt: skip

    def __call__(self, at: int, body: dict[str, Any], license_id: str | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(
            json.dumps({"at": at, "now": self.clock(), "license_id": license_id, "body": body}) + "\n"
        )
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the child process has ended"
        result: dict[str, Any] = json.loads(line)
        return result


@contextmanager
def child_of(world: World, clock: Clock) -> Iterator[Child]:
    child = Child(world, clock)
    try:
        yield child
    finally:
        assert child.process.stdin is not None
        child.process.stdin.close()
        child.process.wait(30)


def decisions(world: World, event: str, purchase: str) -> list[AuditRow]:
    tag = PurchaseKey("grant", APP, f"sub:{purchase}").tag
    with world.storage() as storage:
        rows = storage.audit_rows(limit=100_000, event=event)
    return [row for row in rows if row.purchase == tag and row.outcome == "ok"]


def again(service: UnlockService, body: dict[str, Any]) -> bool:
    """Send the request of the crash once more; whether it had been decided before."""
    try:
        service.decisions.unlock(UnlockRequest.from_json(body))
    except ChallengeUsedError:
        return True
    return False


def test_unlock_is_killed_at_every_step(world: World) -> None:
    world.configure(devices=1)
    decided: list[bool] = []
    clock = Clock()
    with world.service(clock) as service, child_of(world, clock) as child:
        for step in range(1000):
            purchase = f"p{step}"
            phone, grant = Phone(world), world.grant(purchase, now=clock())
            body = phone.unlock_body(service.challenges.issue(ChallengeRequest()).challenge, grant)
            result = child(step, body)
            if not result["killed"]:
                break
            decided.append(again(service, body))
            # Whether the crash came before or after the decision: the request counted once.
            licenses, entitlement = world.stored(purchase)
            assert len(licenses) == 1, step
            assert [place.device for place in entitlement.places] == [phone.thumbprint], step
            assert len(decisions(world, "unlock", purchase)) == 1, step
            assert phone.unlock(service, grant).license, "the device gets the place that it holds"
            with pytest.raises(DeviceLimitError):
                Phone(world).unlock(service, grant)
    assert result["steps"] == len(decided) >= 10
    # Up to the commit nothing has happened, from then on everything has.
    assert decided == sorted(decided)
    assert set(decided) == {False, True}


def test_renewal_is_killed_at_every_step(world: World) -> None:
    world.configure(devices=1)
    decided: list[bool] = []
    clock = Clock()
    with world.service(clock) as service, child_of(world, clock) as child:
        for step in range(1000):
            purchase = f"p{step}"
            phone, grant = Phone(world), world.grant(purchase, now=clock())
            first = phone.unlock(service, grant).license_id
            clock.now += 10  # so that there is something new to keep: when the device was seen
            body = phone.renew_body(service.challenges.issue(ChallengeRequest()).challenge, first)
            result = child(step, body, first)
            if not result["killed"]:
                break
            try:
                service.decisions.renew(first, RenewRequest.from_json(body))
                decided.append(False)
            except ChallengeUsedError:
                decided.append(True)
            licenses, entitlement = world.stored(purchase)
            assert len(licenses) == 2, step
            assert [place.device for place in entitlement.places] == [phone.thumbprint], step
            (old,) = [entry for entry in licenses if entry.jti == first]
            (new,) = [entry for entry in licenses if entry.jti != first]
            assert old.replaced_by == new.jti
            assert len(decisions(world, "renew", purchase)) == 1, step
            assert phone.renew(service, new.jti).license
            with pytest.raises(DeviceLimitError):
                Phone(world).unlock(service, grant)
    assert result["steps"] == len(decided) >= 10
    assert decided == sorted(decided)
    assert set(decided) == {False, True}


def test_second_device_is_killed_at_every_step(world: World) -> None:
    """The last place of two: a crash neither loses it nor makes a third."""
    world.configure(devices=2)
    clock = Clock()
    with world.service(clock) as service, child_of(world, clock) as child:
        for step in range(1000):
            purchase = f"p{step}"
            phones, grant = [Phone(world) for _ in range(3)], world.grant(purchase, now=clock())
            phones[0].unlock(service, grant)
            clock.now += 10
            body = phones[1].unlock_body(service.challenges.issue(ChallengeRequest()).challenge, grant)
            result = child(step, body)
            if not result["killed"]:
                break
            # Somebody else comes first after the restart: he gets the place if nobody has it yet.
            try:
                phones[2].unlock(service, grant)
                holders = {phones[0].thumbprint, phones[2].thumbprint}
            except DeviceLimitError:
                holders = {phones[0].thumbprint, phones[1].thumbprint}
            licenses, entitlement = world.stored(purchase)
            assert {place.device for place in entitlement.places} == holders, step
            assert {entry.device for entry in licenses} == holders, step
    assert result["steps"] >= 10


def test_the_service_is_killed_under_load(sqlite_world: World) -> None:
    """Again and again, at random moments, all processes of it; what was answered stands, and nothing beyond it."""
    world = sqlite_world
    world.configure(devices=2)
    chance = random.Random(7)
    grants = [world.grant(f"p{number}") for number in range(6)]
    phones = [[Phone(world) for _ in range(4)] for _ in grants]
    answered: set[str] = set()
    limits = [0] * len(grants)
    stop = threading.Event()
    service = world.start()
    url = service.url

    def customer(number: int) -> None:
        with requests.Session() as session:
            while not stop.is_set():
                for phone in phones[number]:
                    try:
                        _, got = post(f"{url}/v1/challenges", {}, session)
                        body = phone.unlock_body(got["challenge"], grants[number])
                        status, answer = post(f"{url}/v1/licenses", body, session)
                    except (requests.RequestException, ValueError):
                        time.sleep(0.05)
                        continue
                    if status == 201:
                        answered.add(answer["license_id"])
                    elif answer["type"] == "urn:corelocker:problem:device-limit":
                        limits[number] += 1
                    else:
                        assert status == 503, answer

    with ThreadPoolExecutor(len(grants)) as pool:
        customers = [pool.submit(customer, number) for number in range(len(grants))]
        try:
            for _ in range(4):
                time.sleep(chance.uniform(0.1, 0.6))
                service.kill()
                service = world.start()
            time.sleep(0.5)
        finally:
            stop.set()
        for done in customers:
            done.result()
    service.stop()
    assert answered
    assert all(limits), "every purchase was asked for by more devices than it has places"
    known: set[str] = set()
    for number in range(len(grants)):
        licenses, entitlement = world.stored(f"p{number}")
        assert len(entitlement.places) == 2
        assert {entry.device for entry in licenses} == {place.device for place in entitlement.places}
        known |= {entry.jti for entry in licenses}
        assert len(decisions(world, "unlock", f"p{number}")) == len(licenses)
    assert answered <= known


def test_the_database_server_is_killed_under_load(tmp_path: Path) -> None:
    """PostgreSQL without a shutdown: first unlocks that were answered are there after its recovery."""
    server = PostgresServer(durable=True)
    try:
        world = World(tmp_path, server.new_database(), devices=1)
        given: dict[str, str] = {}
        refused: list[LicensingError] = []
        stop = threading.Event()
        with world.service() as service:

            def customer(number: int) -> None:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    phone, purchase = Phone(world), f"p{number}-{turn}"
                    try:
                        phone.unlock(service, world.grant(purchase))
                        given[purchase] = phone.thumbprint
                    except StorageError as error:
                        refused.append(error)
                        time.sleep(0.05)

            with ThreadPoolExecutor(4) as pool:
                customers = [pool.submit(customer, number) for number in range(4)]
                try:
                    for _ in range(2):
                        time.sleep(0.7)
                        server.kill()
                        time.sleep(0.3)
                        server.start()
                    time.sleep(0.5)
                finally:
                    stop.set()
                for done in customers:
                    done.result()
            assert len(given) > 20
            assert refused, "while the server is away, requests are refused in a typed way"
            # And the service goes on by itself once the server is back.
            assert Phone(world).unlock(service, world.grant("afterwards")).license
        with world.storage() as storage:
            for purchase, device in given.items():
                stored = storage.entitlement(PurchaseKey("grant", APP, f"sub:{purchase}"))
                assert stored is not None
                assert [place.device for place in stored.entitlement.places] == [device]
    finally:
        server.stop()
