"""Load: clients in processes of their own that unlock as fast as they get answers, or at random times."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from phones import AndroidPhone, ApplePhone, Phone, RenewingPhone, shared_chain

# isort: split
from bounds import SINGLE_USE
from corelocker.purchases.grant import issue_grant
from support.unlock_world import APP, World

TICKS = os.sysconf("SC_CLK_TCK")


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
            asyncio.run(introduce(new))
            phones.extend(new)
        elif order[0] == "closed":
            outcome = asyncio.run(closed_loop(port, phones, single_use, order[1], order[2]))
        else:
            outcome = asyncio.run(open_loop(port, phones, single_use, order[1], order[2]))
        orders.send(outcome)


class Generators:
    """Generator processes that do the same at the same time; with several ports each asks one of them."""

    def __init__(self, kind: str, world: World, ports: Sequence[int], count: int) -> None:
        fork = multiprocessing.get_context("fork")
        self._ends: list[Connection] = []
        self._processes = []
        for number in range(count):
            ours, theirs = fork.Pipe()
            port = ports[number % len(ports)]
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


def processor_seconds(pid: int) -> float:
    """Processor time of a process and of the children it has now."""
    total = 0
    for process in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS
