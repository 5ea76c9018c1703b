"""Unlocks a second, end to end over HTTP (a challenge and a license each), beside what the cryptography alone allows.

    .venv/bin/python tools/bench/unlock/bench.py [--seconds 8] [--database sqlite] [--workers 1] [--kinds first,...] [--json]

Kinds: `first` is an Android key attestation whose attestation key is new (remote provisioning) under intermediates that
other phones share, with a grant; `first-cold` one with nothing but the root in common; `repeat` an unlock with an App
Attest assertion, with the grant of the unlock before; `renew` a renewal in development.

For each, in one run: a closed loop at full load, an open loop (Poisson) at half of it, and before and after them the
bound: the signatures, verifications and key wrapping that the service does for such a request, alone on one core; for
`first` also that of the whole chain, shared intermediates included. "The checks alone"
are the service's own functions around them, with all parsing, but without HTTP and database. Requests come from
processes of their own on the same machine. "A core" is a second of processor time of the service's processes, which the
load generators beside them cannot take away; with PostgreSQL the database's own time is not in it. The wall-clock rate
is given too. Latency counts from when the request was due, and is that of both requests together.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO, cast

sys.path.insert(0, str(Path(__file__).resolve().parent))

from phones import (
    APPLE_APP,
    PACKAGE,
    AndroidPhone,
    ApplePhone,
    Phone,
    RenewingPhone,
    forge,
    new_key,
    shared_chain,
)  # fmt: skip

# isort: split
import uvloop
from corelocker.attestation.android_key import verify_android_key
from corelocker.attestation.apple_app_attest import verify_app_assertion
from corelocker.attestation.development import verify_development
from corelocker.attestation.revocation import RevocationList
from corelocker.attestation.verdict import Verdict
from corelocker.bundle import jose
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.device_key import seal
from corelocker.licensing.evidence import (
    AndroidKeyEvidence,
    AppAssertEvidence,
    DevelopmentEvidence,
    Format,
    evidence_from_json,
)
from corelocker.licensing.license import issue_license
from corelocker.purchases.grant import issue_grant, verify_grant
from corelocker.service.config_file import load_config
from corelocker.service.storage import Storage
from corelocker.service.verifiers import build_verifiers
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from support.postgres import PostgresServer
from support.unlock_world import APP, ServiceProcess, World

KINDS = ("first", "first-cold", "repeat", "renew")
SINGLE_USE = ("first", "first-cold")
TICKS = os.sysconf("SC_CLK_TCK")


# --- the bound -----------------------------------------------------------------------------------


def bound(kind: str, seconds: float = 1.0) -> float:
    """How many requests a second of one core the cryptography of this kind alone allows."""
    p256, p384 = new_key(), ec.generate_private_key(ec.SECP384R1())
    data = os.urandom(600)
    by_p256, by_p384 = p256.sign(data, ec.ECDSA(SHA256())), p384.sign(data, ec.ECDSA(SHA384()))
    spki_256, spki_384 = (
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (p256, p384)
    )
    device = new_key().public_key()
    # What the service has to verify: chain and purchase. A grant that it has seen before is not verified again.
    verified_256, verified_384 = {"first": (3, 0), "first-cold": (4, 1), "repeat": (1, 0), "renew": (1, 0)}[kind]
    done, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < seconds:
        for _ in range(20):
            for _ in range(verified_256):
                load_der_public_key(spki_256).verify(by_p256, data, ec.ECDSA(SHA256()))  # type: ignore[union-attr, call-arg]
            for _ in range(verified_384):
                load_der_public_key(spki_384).verify(by_p384, data, ec.ECDSA(SHA384()))  # type: ignore[union-attr, call-arg]
            seal(bytes(32), device, data[:54])
            jose.sign(p256, data)
        done += 20
    return done / spent


def checks_bound(kind: str, world: World, seconds: float = 1.0) -> float:
    """The same for the checks as they are, with all their parsing: proof, purchase, license; no HTTP and no database."""
    config = load_config(world.config_path)
    app = build_verifiers(config, config.apps[APP])
    shared, now, signer = shared_chain(), datetime.now(UTC), world.backend
    grant = issue_grant(signer, issuer="shop", app=APP, environment="development", product="full",
                        issued_at=int(now.timestamp()))  # fmt: skip
    cases: list[tuple[Phone, bytes]] = []
    for number in range(200 if kind in SINGLE_USE else 20):
        if kind == "repeat":
            phone: Phone = ApplePhone(APP, world.bundle_id, grant)
        elif kind == "renew":
            phone = RenewingPhone(APP, world.bundle_id, grant, world.attestation_key)
        else:
            phone = AndroidPhone(APP, world.bundle_id, grant, shared, cold=kind == "first-cold")
        cases.append((phone, phone.request(f"challenge {number}")[1]))
    start = time.thread_time()
    for done, (phone, body) in enumerate(itertools.cycle(cases)):
        if (spent := time.thread_time() - start) > seconds or (kind in SINGLE_USE and done == len(cases)):
            return done / spent
        evidence = evidence_from_json(json.loads(body)["attestation"])
        purchase = phone.grant if kind != "renew" else renewal_token("")
        challenge = f"challenge {done % len(cases)}"
        asked = AttestedRequest(challenge, APP, world.bundle_id, "full", phone.key.public_key(), purchase)
        verdict: Verdict[Any]
        if isinstance(evidence, AndroidKeyEvidence):
            assert app.android is not None
            verdict = verify_android_key(
                evidence, challenge=asked.digest(Format.ANDROID_KEY), device_key=asked.device_key, policy=app.android,
                anchors=app.android_roots, revocation=RevocationList(frozenset(), now), now=now,
            )  # fmt: skip
        elif isinstance(evidence, AppAssertEvidence):
            assert app.apple is not None
            public = cast(ApplePhone, phone)._app_key.public_key()
            verdict = verify_app_assertion(
                evidence, client_data_hash=asked.digest(Format.APPLE_APP_ATTEST), last_counter=0, policy=app.apple,
                public_key=public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
            )  # fmt: skip
        else:
            verdict = verify_development(
                cast(DevelopmentEvidence, evidence), request_digest=asked.digest(Format.DEVELOPMENT),
                environment="development", anchors=app.development_roots, now=now,
            )  # fmt: skip
        assert verdict.accepted, verdict
        if kind != "renew":
            assert app.grant is not None
            verify_grant(phone.grant, app.grant, now=int(now.timestamp()))
        issue_license(
            signer, asked.device_key, bytes(32), issuer="https://unlock.example.com", app=APP, environment="development",
            bundle=world.bundle_id, model_version=1, tier="full", issued_at=0, expires_at=1,
        )  # fmt: skip
    raise AssertionError


# --- load ----------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What one generator saw: latencies (seconds) of complete unlocks, and what went wrong by status."""

    latencies: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)


class Client:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        received = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(received[9:12])
        length = int(received.split("content-length: ")[1].split("\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        if "connection: close" in received:
            writer.close()
            self._streams = None
        return status, answer

    async def unlock(self, phone: Phone, *, first: bool = False) -> int:
        """A challenge and a license. Returns the status of what went wrong, or 201."""
        status, answer = await self.post("/v1/challenges", b"{}")
        if status == 201:
            make = phone.first if first and not isinstance(phone, AndroidPhone) else phone.request
            status, answer = await self.post(*make(answer["challenge"]))
            if status == 201:
                phone.answered(answer)
        return status


async def closed_loop(port: int, phones: deque[Phone], single_use: bool, seconds: float, clients: int) -> Outcome:
    """`clients` that ask for the next unlock as soon as they have an answer."""
    outcome, end = Outcome(), time.perf_counter() + seconds

    async def run() -> None:
        client = Client(port)
        while (start := time.perf_counter()) < end and phones:
            phone = phones.popleft()
            status = await client.unlock(phone)
            if not single_use:
                phones.append(phone)
            _count(outcome, status, start)

    await asyncio.gather(*(run() for _ in range(clients)))
    return outcome


async def open_loop(port: int, phones: deque[Phone], single_use: bool, seconds: float, rate: float) -> Outcome:
    """Unlocks that are due at random times, whether or not those before them have been answered."""
    outcome, idle, running = Outcome(), list[Client](), set[asyncio.Task[None]]()

    async def one(phone: Phone, due: float) -> None:
        client = idle.pop() if idle else Client(port)
        status = await client.unlock(phone)
        idle.append(client)
        if not single_use:
            phones.append(phone)
        _count(outcome, status, due)

    due = start = time.perf_counter()
    while due < start + seconds:
        due += random.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if not phones:
            outcome.failures["no phone left"] = outcome.failures.get("no phone left", 0) + 1
            continue
        task = asyncio.create_task(one(phones.popleft(), due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return outcome


def _count(outcome: Outcome, status: int, since: float) -> None:
    if status == 201:
        outcome.latencies.append(time.perf_counter() - since)
    else:
        outcome.failures[str(status)] = outcome.failures.get(str(status), 0) + 1


def generator(kind: str, world: World, port: int, orders: Connection) -> None:
    """A process that makes phones, then load as it is told: ("make", count), ("closed", s, clients), ("open", s, rate)."""
    random.seed()
    shared, phones = shared_chain(), deque[Phone]()
    single_use = kind in SINGLE_USE

    def grant() -> str:
        return issue_grant(
            world.backend, issuer="shop", app=APP, environment="development", product="full", issued_at=int(time.time()),
            purchase=os.urandom(8).hex(),
        )  # fmt: skip

    def make() -> Phone:
        if kind == "repeat":
            return ApplePhone(APP, world.bundle_id, grant())
        if kind == "renew":
            return RenewingPhone(APP, world.bundle_id, grant(), world.attestation_key)
        return AndroidPhone(APP, world.bundle_id, grant(), shared, cold=kind == "first-cold")

    async def introduce(new: list[Phone]) -> None:
        client = Client(port)
        for phone in new:
            if not single_use and (status := await client.unlock(phone, first=True)) != 201:
                raise RuntimeError(f"a phone's first unlock was refused: {status}")

    while (order := orders.recv())[0] != "end":
        outcome: Outcome | None = None
        if order[0] == "make":
            new = [make() for _ in range(order[1] - len(phones))]
            uvloop.run(introduce(new))
            phones.extend(new)
        elif order[0] == "closed":
            outcome = uvloop.run(closed_loop(port, phones, single_use, order[1], order[2]))
        else:
            outcome = uvloop.run(open_loop(port, phones, single_use, order[1], order[2]))
        orders.send(outcome)


class Generators:
    """Generator processes that do the same at the same time."""

    def __init__(self, kind: str, world: World, port: int, count: int) -> None:
        fork = multiprocessing.get_context("fork")
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = fork.Pipe()
            process = fork.Process(target=generator, args=(kind, world, port, theirs), daemon=True)
            process.start()
            self._processes.append(process)
            self._ends.append(ours)

    def __len__(self) -> int:
        return len(self._ends)

    def processor_seconds(self) -> list[float]:
        """Processor time of each generator."""
        return [processor_seconds(process.pid) for process in self._processes if process.pid is not None]

    def do(self, *order: object) -> Outcome:
        for end in self._ends:
            end.send(order)
        together = Outcome()
        for end in self._ends:
            outcome = end.recv() if order[0] != "end" else None
            if outcome is not None:
                together.latencies += outcome.latencies
                for name, count in outcome.failures.items():
                    together.failures[name] = together.failures.get(name, 0) + count
        return together


# --- measuring -----------------------------------------------------------------------------------


def processor_seconds(pid: int) -> float:
    """Processor time of a process and of the children it has now."""
    total = 0
    for process in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def measure(
    kind: str, world: World, service: ServiceProcess, options: argparse.Namespace, workers: int
) -> dict[str, Any]:
    load = Generators(kind, world, world.port, options.generators)
    before, checks = bound(kind), checks_bound(kind, world)
    # Enough phones that an unlock rarely meets its own purchase's row; single-use ones for the whole run.
    guess = 1500 * options.seconds * workers if kind in SINGLE_USE else 200
    load.do("make", int(guess / len(load)) + 1)
    load.do("closed", 1.0, 2)  # warm
    load.do("make", int(guess / len(load)) + 1)
    pid = service.process.pid
    clients = max(1, options.clients * workers // len(load))
    processor, start, loading = processor_seconds(pid), time.perf_counter(), load.processor_seconds()
    full = load.do("closed", options.seconds, clients)
    wall, processor = time.perf_counter() - start, processor_seconds(pid) - processor
    # A generator that needs all of its core would measure itself.
    busiest = max((now - then) / wall for now, then in zip(load.processor_seconds(), loading, strict=True))
    rate = len(full.latencies) / wall
    load.do("make", int(guess / len(load)) + 1)
    half = load.do("open", options.seconds, rate / 2 / len(load))
    after = bound(kind)
    load.do("end")
    per_core = len(full.latencies) / processor
    limit = (before + after) / 2
    chain = bound("first-cold") if kind == "first" else limit
    return {
        "kind": kind,
        "workers": workers,
        "unlocks_per_second": rate,
        "unlocks_per_core_second": per_core,
        "cores_busy": processor / wall,
        "busiest_generator": busiest,
        "bound_per_core_second": limit,
        "bound_spread": abs(before - after) / limit,
        "ratio_to_bound": per_core / limit,
        "chain_bound_per_core_second": chain,
        "ratio_to_chain_bound": per_core / chain,
        "checks_per_core_second": checks,
        "ratio_to_checks": per_core / checks,
        "full_p50_ms": percentile(full.latencies, 0.5) * 1000,
        "full_p95_ms": percentile(full.latencies, 0.95) * 1000,
        "full_slowest_ms": max(full.latencies, default=float("nan")) * 1000,
        "half_slowest_ms": max(half.latencies, default=float("nan")) * 1000,
        # Another load on the machine: the bound moved in between, or the service was not given its cores, or enough to do.
        "noisy": abs(before - after) / limit > 0.1
        or processor / wall < 0.8 * min(workers, os.cpu_count() or 1)
        or busiest > 0.9,
        "half_p50_ms": percentile(half.latencies, 0.5) * 1000,
        "half_p95_ms": percentile(half.latencies, 0.95) * 1000,
        "failures": {**full.failures, **half.failures},
    }


SETTINGS = f"""
[attestation]
revocation_list = "revocation.json"
[apps.android]
package = "{PACKAGE}"
signer_digests = ["{forge.SIGNER.hex()}"]
roots = ["android-root.pem"]
[apps.apple]
app_id = "{APPLE_APP}"
environment = "development"
roots = ["apple-root.pem"]
"""


def bench_world(folder: Path, database_url: str, threads: int, workers: int) -> World:
    """A service's folder that takes all kinds of the benchmark."""
    for name, key in (("android-root.pem", forge.ROOT_KEY), ("apple-root.pem", forge.APPLE_ROOT_KEY)):
        (folder / name).write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "revocation.json").write_text('{"entries": {}}')
    world = World(folder, database_url)
    path = world.configure(workers=workers)
    # Tables of an app belong behind it, and the products come after it.
    text = path.read_text().replace("[[products]]", SETTINGS.replace("[attestation]\n", "") + "[[products]]", 1)
    text = text.replace('revocation_list = "revocation.json"\n', "", 1)
    text += '[attestation]\nrevocation_list = "revocation.json"\n'
    path.write_text(text.replace("rate_limit = 0\n", f"rate_limit = 0\nthreads = {threads}\nmax_pending = 2000\n"))
    return world


def show(result: dict[str, Any], out: TextIO) -> None:
    goal = (
        f"{result['ratio_to_bound']:4.0%} of the bound {result['bound_per_core_second']:5.0f}"
        f" ({result['ratio_to_chain_bound']:.0%} of the whole chain's {result['chain_bound_per_core_second']:.0f})"
        f"  {result['ratio_to_checks']:4.0%} of the checks alone {result['checks_per_core_second']:5.0f}"
    )
    latency = "  ".join(
        f"{name} load p50/p95 {result[f'{name}_p50_ms']:.1f}/{result[f'{name}_p95_ms']:.1f} ms"
        for name in ("full", "half")
    )
    remarks = ["NOISY"] if result["noisy"] else []
    remarks += [f"FAILURES {result['failures']}"] if result["failures"] else []
    print(
        f"{result['database']:10} {result['kind']:10} {result['workers']} worker(s)  {result['unlocks_per_second']:5.0f}/s"
        f"  {result['unlocks_per_core_second']:5.0f}/s a core  {goal}  {latency}  {result['cores_busy']:.1f} cores busy ",
        *remarks,
        file=out,
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--workers", default=f"1,{os.cpu_count()}", help="numbers of worker processes, with commas")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--threads", type=int, default=0, help="of each worker; 0 decides on the event loop")
    parser.add_argument("--clients", type=int, default=8, help="clients of the closed loop for each worker")
    parser.add_argument("--generators", type=int, default=2, help="processes that make the load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    databases = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    results = []
    for database in databases:
        server = PostgresServer(durable=True) if database == "postgresql" else None
        try:
            for workers in map(int, options.workers.split(",")):
                for kind in options.kinds.split(","):
                    with tempfile.TemporaryDirectory(prefix="corelocker-bench-") as scratch:
                        folder = Path(scratch)
                        url = server.new_database() if server else f"sqlite:///{folder / 'unlock.sqlite'}"
                        world = bench_world(folder, url, options.threads, workers)
                        Storage.open(url, migrate=True).close()
                        with world.start() as service:
                            result = measure(kind, world, service, options, workers) | {"database": database}
                        results.append(result)
                        show(result, sys.stderr if options.json else sys.stdout)
        finally:
            if server is not None:
                server.stop()
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "load_average": os.getloadavg(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
