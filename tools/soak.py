"""Runs the unlock service at half of its capacity for minutes, and looks for growth of its memory and for errors.

    .venv/bin/python tools/soak.py [--minutes 10] [--database sqlite|postgresql] [--workers 2] [--clients 4]
                                   [--kill SECONDS] [--json]

Capacity is what the same clients reach in a closed loop before. The traffic is what a service sees: first unlocks,
unlocks by devices that have a place, renewals of both kinds, devices beyond the limit, replayed requests and rubbish. An
error is an answer other than the one that belongs to the request, or none. Memory is the proportional set size (PSS) of
the service's processes, read every second; caches fill up in the first third of the run, what grows after that is a
leak. The exit code is 1 when there was an error, or when the last third has more than 4 MiB + 5 % above the second.

With `--kill`, a worker or the database is killed (SIGKILL) at random, on average after so many seconds. A request that
gets no answer, or 503, is interrupted then and no error. Afterwards every license that was answered has to be in the
database, and no purchase may have more devices than it allows.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/python"))

from corelocker.bundle import jose
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.device_key import SoftwareDeviceKey, prove
from corelocker.licensing.evidence import Format, evidence_to_json
from corelocker.service.records import PurchaseKey
from support.postgres import PostgresServer
from support.unlock_world import APP, Phone, ServiceProcess, World

PLACES = 3
MIX = {"first": 25, "again": 30, "renew": 20, "renew-by-key": 10, "limit": 5, "replay": 5, "rubbish": 5}


class InterruptedRequestError(Exception):
    """No answer, or one that says that the service cannot decide now."""


class Client:
    """Customers of one connection: their purchases, phones and licenses."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.purchases = 0
        self.connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
        self.known: list[tuple[Phone, str, str]] = []  # phone, purchase, its newest license
        self.answered: list[tuple[str, str]] = []  # purchase, license

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = self.connection.getresponse()
            status, members = answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.connection.close()
            raise InterruptedRequestError from None
        if status == 503:
            raise InterruptedRequestError
        return status, members

    def challenge(self, **members: Any) -> dict[str, Any]:
        return self.post("/v1/challenges", members)[1]

    def unlock(self, phone: Phone, purchase: str) -> tuple[int, dict[str, Any]]:
        body = phone.unlock_body(self.challenge()["challenge"], self.world.grant(purchase))
        status, answer = self.post("/v1/licenses", body)
        if status == 201:
            self.answered.append((purchase, answer["license_id"]))
        return status, answer

    def first(self) -> int:
        self.purchases += 1
        phone, purchase = Phone(self.world), f"soak-{self.number}-{self.purchases}"
        status, answer = self.unlock(phone, purchase)
        if status == 201:
            self.known = [*self.known[-200:], (phone, purchase, answer["license_id"])]
        return status

    def again(self) -> int:
        place = random.randrange(len(self.known))
        phone, purchase, _ = self.known[place]
        status, answer = self.unlock(phone, purchase)
        if status == 201:
            self.known[place] = phone, purchase, answer["license_id"]
        return status

    def renew(self, by_key: bool = False) -> int:
        place = random.randrange(len(self.known))
        phone, purchase, license_id = self.known[place]
        if by_key:
            issued = self.challenge(device_key=jose.public_jwk(phone.public_key))
            request = AttestedRequest(
                issued["challenge"], APP, self.world.bundle_id, "full", phone.public_key, renewal_token(license_id)
            )
            proof = prove(
                jose.decode_base64url(issued["sealed"]), SoftwareDeviceKey(phone.key), request.digest(Format.DEVICE_KEY)
            )
            body = {"challenge": issued["challenge"], "attestation": evidence_to_json(proof)}
        else:
            body = phone.renew_body(self.challenge()["challenge"], license_id)
        status, answer = self.post(f"/v1/licenses/{license_id}/renew", body)
        if status == 201:
            self.known[place] = phone, purchase, answer["license_id"]
            self.answered.append((purchase, answer["license_id"]))
        return status

    def limit(self) -> int:
        self.purchases += 1
        purchase = f"soak-{self.number}-{self.purchases}"
        statuses = [self.unlock(Phone(self.world), purchase)[0] for _ in range(PLACES + 1)]
        return statuses[-1] if statuses[:-1] == [201] * PLACES else statuses[0]

    def replay(self) -> int:
        phone, purchase, _ = random.choice(self.known)
        body = phone.unlock_body(self.challenge()["challenge"], self.world.grant(purchase))
        if self.post("/v1/licenses", body)[0] != 201:
            return 0
        return self.post("/v1/licenses", body)[0]

    def rubbish(self) -> int:
        return self.post("/v1/licenses", {"challenge": "x" * random.randrange(1000), "app": [random.random()]})[0]

    def run(self, kind: str) -> bool | None:
        """One request of this kind; whether the answer is the one that belongs to it, None when it was interrupted."""
        actions = {"first": self.first, "again": self.again, "renew": self.renew, "limit": self.limit,
                   "renew-by-key": lambda: self.renew(by_key=True), "replay": self.replay, "rubbish": self.rubbish}  # fmt: skip
        expected = {"limit": 409, "replay": 409, "rubbish": 400}.get(kind, 201)
        try:
            return actions[kind]() == expected
        except InterruptedRequestError:
            return None
        except KeyError:
            return False


def client(world: World, number: int, control: Connection) -> None:
    """A process of clients: obeys (rate or None for as fast as it goes, seconds), and reports."""
    random.seed(number)
    one = Client(world, number)
    kinds, weights = list(MIX), list(MIX.values())
    while len(one.known) < 5:
        one.run("first")
    while (order := control.recv()) is not None:
        rate, seconds = order
        end = due = time.monotonic()
        end += seconds
        done, wrong, latencies = 0, Counter[str](), []
        while True:
            if rate is not None:
                due += random.expovariate(rate)
                time.sleep(max(0.0, due - time.monotonic()))
            else:
                due = time.monotonic()
            if due >= end:
                break
            (kind,) = random.choices(kinds, weights)
            right = one.run(kind)
            if not right:
                wrong["interrupted" if right is None else kind] += 1
            done += 1
            # From when it was due, so that a service that stalls does not look well.
            latencies.append(time.monotonic() - due)
        control.send((done, wrong, latencies, one.answered))
        one.answered = []


def processes_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *(int(child) for child in children)]


def memory(parent: int) -> float:
    """PSS of the service's processes, MiB."""
    total = 0
    for process in processes_of(parent):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def files(parent: int) -> int:
    return sum(len(os.listdir(f"/proc/{process}/fd")) for process in processes_of(parent))


def order_all(
    controls: list[Connection], rate: float | None, seconds: float, answered: dict[str, set[str]]
) -> tuple[int, Counter[str], list[float]]:
    for control in controls:
        control.send((None if rate is None else rate / len(controls), seconds))
    done, wrong, latencies = 0, Counter[str](), []
    for control in controls:
        more, errors, waits, given = control.recv()
        for purchase, license_id in given:
            answered.setdefault(purchase, set()).add(license_id)
        done, wrong, latencies = done + more, wrong + errors, latencies + waits
    return done, wrong, sorted(latencies)


class Killer(threading.Thread):
    """Kills a worker, a process of the database, or the whole database, and starts that again."""

    def __init__(self, service: ServiceProcess, server: PostgresServer | None, seconds: float) -> None:
        super().__init__()
        self._service, self._server, self._seconds = service, server, seconds
        self.ended = threading.Event()
        self.kills: Counter[str] = Counter()

    def run(self) -> None:
        chance = random.Random(7)
        while not self.ended.wait(chance.uniform(0.5, 1.5) * self._seconds):
            kind = chance.choice(("worker", "backend", "database") if self._server else ("worker",))
            with contextlib.suppress(OSError, IndexError):
                if kind == "database" and self._server is not None:
                    self._server.kill()
                    self._server.start()
                else:
                    parent = self._service.process.pid
                    if kind == "backend" and self._server is not None:
                        parent = self._server.pid
                    os.kill(chance.choice(processes_of(parent)[1:]), signal.SIGKILL)
                self.kills[kind] += 1


def lost_and_doubled(world: World, answered: dict[str, set[str]]) -> tuple[int, int]:
    """Licenses that were answered and are not in the database; purchases with more devices than they allow."""
    lost = doubled = 0
    with world.storage() as storage:
        for purchase, license_ids in answered.items():
            key = PurchaseKey("grant", APP, f"sub:{purchase}")
            stored = storage.list_licenses(purchase=key, limit=100_000)
            known = storage.entitlement(key)
            places = known.entitlement.places if known is not None else ()
            lost += len(license_ids - {entry.jti for entry in stored})
            doubled += len(places) > PLACES or len({entry.device for entry in stored}) > PLACES
    return lost, doubled


def soak(
    world: World, minutes: float, clients: int, say: Any, server: PostgresServer | None = None, kill: float = 0
) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(clients)]
    workers = [
        context.Process(target=client, args=(world, number, theirs), daemon=True)
        for number, (_, theirs) in enumerate(pipes)
    ]
    answered: dict[str, set[str]] = {}
    with world.start() as service:
        for worker in workers:
            worker.start()
        controls = [ours for ours, _ in pipes]
        measured = min(10.0, minutes * 20)
        order_all(controls, None, measured / 3, answered)  # warm up
        done, wrong, _ = order_all(controls, None, measured, answered)
        capacity = done / measured
        say(f"capacity {capacity:.0f} requests/s with {clients} clients; {sum(wrong.values())} errors")
        killer = Killer(service, server, kill) if kill else None
        if killer is not None:
            killer.start()
        result = watch(service, controls, capacity / 2, minutes, say, answered)
        if killer is not None:
            killer.ended.set()
            killer.join()
            # What is under way ends before it is counted.
            time.sleep(2)
            result["kills"] = dict(killer.kills)
        for control in controls:
            control.send(None)
        result |= {"capacity": round(capacity, 1), "exit": service.stop()}
        result["errors"] += sum(wrong.values())
    lost, doubled = lost_and_doubled(world, answered)
    return result | {"licenses": sum(map(len, answered.values())), "lost": lost, "doubled": doubled}


def watch(
    service: ServiceProcess,
    controls: list[Connection],
    rate: float,
    minutes: float,
    say: Any,
    answered: dict[str, set[str]],
) -> dict[str, Any]:
    samples: list[float] = []
    pauses: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        last = time.monotonic()
        while not stop.wait(1):
            samples.append(memory(service.process.pid))
            # This thread has nothing else to do: when it is late by seconds, the whole machine stood still.
            now = time.monotonic()
            if now - last > 4:
                pauses.append(round(now - last - 1, 1))
            last = now

    thread = threading.Thread(target=sample)
    thread.start()
    total, interrupted, errors = 0, 0, Counter[str]()
    descriptors: list[int] = []
    start = time.monotonic()
    # A last piece of a minute would weigh as much as a whole one in the table.
    step = min(60.0, minutes * 60 / 3)
    while time.monotonic() - start < minutes * 60 - step / 2:
        done, wrong, latencies = order_all(controls, rate, step, answered)
        interrupted += wrong.pop("interrupted", 0)
        total, errors = total + done, errors + wrong
        descriptors.append(files(service.process.pid))
        p50, p95 = (latencies[int(len(latencies) * share)] * 1e3 for share in (0.5, 0.95))
        now = (time.monotonic() - start) / 60
        say(
            f"{now:5.1f} min  {done / step:6.1f}/s  p50 {p50:5.1f} ms  p95 {p95:6.1f} ms  "
            f"errors {sum(errors.values())}  memory {samples[-1]:.1f} MiB  open files {descriptors[-1]}"
        )
    stop.set()
    thread.join()
    third = len(samples) // 3
    thirds = [statistics.fmean(samples[number * third : (number + 1) * third]) for number in range(3)]
    return {
        "requests": total,
        "errors": sum(errors.values()),
        "interrupted": interrupted,
        "open_files": descriptors,
        "errors_by_kind": dict(errors),
        "memory_mib": [round(value, 1) for value in thirds],
        "machine_paused_s": pauses,
        "grows": thirds[2] > thirds[1] * 1.05 + 4,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak the unlock service at half of its capacity.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kill", type=float, default=0, metavar="SECONDS", help="kill something about so often")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def say(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="corelocker-soak-") as name:
        folder = Path(name)
        server = PostgresServer(durable=True) if options.database == "postgresql" else None
        try:
            url = f"sqlite:///{folder / 'unlock.sqlite'}" if server is None else server.new_database()
            world = World(folder, url)
            world.configure(devices=PLACES, workers=options.workers)
            world.migrate()
            result = soak(world, options.minutes, options.clients, say, server, options.kill)
        finally:
            if server is not None:
                server.stop()
    failed = any(result[name] for name in ("errors", "grows", "exit", "lost", "doubled"))
    failed = failed or (not options.kill and result["interrupted"] > 0)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        first, second, last = result["memory_mib"]
        print(f"{result['requests']} requests, {result['errors']} errors {result['errors_by_kind'] or ''}")
        print(f"{result['interrupted']} interrupted by kills {result.get('kills', {})}")
        print(
            f"{result['licenses']} licenses answered, {result['lost']} lost, {result['doubled']} purchases with too many devices"
        )
        print(
            f"memory in thirds of the run: {first} MiB, {second} MiB, {last} MiB: {'GROWS' if result['grows'] else 'steady'}"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
