"""Measures what an honest client waits while many slow ones are connected to the unlock service.

    .venv/bin/python tools/slow_clients.py [--slow 1000] [--seconds 60] [--workers 1] [--one-address] [--json]

The slow clients are of four kinds, in equal numbers: one says nothing, one sends its head and one its body a byte a
second, one asks for many answers and reads none. Who is cut off connects again at once. They come from addresses of
127.0.0.0/8, eight of each, or all from one with `--one-address`, where the limit of one client's connections holds.
The honest client makes complete unlocks at a fixed pace, each from an address and on a connection of its own, as phones
do. The service has its usual limits. The figures are
those without and with the slow clients, measured in this order in one run. The exit code is 1 when an unlock failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/python"))

from corelocker.service.config import HttpConfig
from support.unlock_world import Phone, World

HEAD = b"POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
ANSWERS = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 500
KINDS = ("idle", "head", "body", "reader")
PER_ADDRESS = 8
PACE = 10  # unlocks a second


def address(number: int, one_address: bool) -> str:
    host = 0 if one_address else number // PER_ADDRESS
    return f"127.1.{host // 250}.{host % 250 + 1}"


async def slow_client(port: int, number: int, one_address: bool) -> None:
    kind = KINDS[number % len(KINDS)]
    while True:
        with contextlib.suppress(OSError):
            local = (address(number, one_address), 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local, limit=1)
            try:
                await behave(kind, reader, writer)
            finally:
                writer.transport.abort()
        # Not all at one moment again.
        await asyncio.sleep(random.uniform(0.5, 5))


async def behave(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the server ends the connection."""
    if kind == "reader":
        # Nothing is read: the stream pauses its transport after a byte.
        writer.write(ANSWERS)
        while not writer.is_closing():
            await asyncio.sleep(1)
        return
    if kind == "body":
        writer.write(HEAD + b"content-length: 60000\r\n\r\n")
    drop = {"idle": b"", "body": b" ", "head": b"x"}[kind]
    while True:
        writer.write(drop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await reader.read(1)
                return


def slow_clients(port: int, count: int, one_address: bool) -> None:
    """A process of slow clients, which ends when it is told to."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 1000), hard))

    async def run() -> None:
        await asyncio.gather(*(slow_client(port, number, one_address) for number in range(count)))

    asyncio.run(run())


def unlock(world: World, number: int) -> tuple[float, int]:
    """How long a complete unlock took, seconds, and the status of its last answer."""
    phone, purchase = Phone(world), world.grant()
    started = time.monotonic()
    own = (f"127.2.{number // 250 % 250}.{number % 250 + 1}", 0)
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30, source_address=own)
    try:
        challenge = post(connection, "/v1/challenges", {})[1]["challenge"]
        status, _ = post(connection, "/v1/licenses", phone.unlock_body(challenge, purchase))
    except (OSError, http.client.HTTPException, KeyError):
        status = 0
    finally:
        connection.close()
    return time.monotonic() - started, status


def post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def honest(world: World, seconds: float) -> dict[str, Any]:
    """What unlocks at a fixed pace take; a late one counts from when it was due."""
    waits: list[float] = []
    failed = 0
    begin = time.monotonic()
    for number in range(int(seconds * PACE)):
        due = begin + number / PACE
        time.sleep(max(0.0, due - time.monotonic()))
        behind = max(0.0, time.monotonic() - due)
        took, status = unlock(world, number)
        failed += status != 201
        waits.append(behind + took)
    waits.sort()
    p50, p95 = (round(waits[int(len(waits) * share)] * 1e3, 1) for share in (0.5, 0.95))
    return {"unlocks": len(waits), "failed": failed, "p50_ms": p50, "p95_ms": p95}


def measure(world: World, slow: int, seconds: float, one_address: bool) -> dict[str, Any]:
    """Both figures, and how many slow connections the service held in between."""
    text = world.config_path.read_text()
    world.config_path.write_text(text.replace("rate_limit = 0\n", f"rate_limit = {HttpConfig().rate_limit}\n"))
    with world.start() as service:
        honest(world, 1)
        alone = honest(world, seconds)
        crowd = multiprocessing.get_context("spawn").Process(
            target=slow_clients, args=(world.port, slow, one_address), daemon=True
        )
        crowd.start()
        try:
            open_before = open_sockets(service.process.pid)
            expected = min(slow, 100) if one_address else slow * 3 // 4
            for _ in range(600):
                if open_sockets(service.process.pid) - open_before >= expected:
                    break
                time.sleep(0.1)
            held = open_sockets(service.process.pid) - open_before
            crowded = honest(world, seconds)
        finally:
            crowd.kill()
            crowd.join()
    return {"slow": slow, "held": held, "alone": alone, "crowded": crowded}


def open_sockets(parent: int) -> int:
    """The sockets that the service's processes have open."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    total = 0
    for process in (parent, *map(int, children)):
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                total += str(entry.readlink()).startswith("socket:")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Unlocks beside many slow clients.")
    parser.add_argument("--slow", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--one-address", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="corelocker-slow-") as name:
        world = World(Path(name), f"sqlite:///{Path(name) / 'unlock.sqlite'}")
        world.configure(workers=options.workers)
        result = measure(world, options.slow, options.seconds, options.one_address)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"slow clients: {result['slow']}, connected at one time: {result['held']}")
        for name in ("alone", "crowded"):
            row = result[name]
            print(
                f"{name:8} {row['unlocks']} unlocks, {row['failed']} failed, "
                f"p50 {row['p50_ms']} ms, p95 {row['p95_ms']} ms"
            )
    sys.exit(bool(result["alone"]["failed"] or result["crowded"]["failed"]))


if __name__ == "__main__":
    main()
