"""Two hosts of one service: processes with files of their own on one PostgreSQL database, and requests to both at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from support.unlock_world import ServiceProcess, World, free_port, post

Answer = tuple[int, dict[str, Any]]
TwoHosts = tuple[World, list[ServiceProcess]]


@contextmanager
def two_hosts(world: World) -> Iterator[list[ServiceProcess]]:
    """Both services while they run; whoever starts one anew puts it into the list."""
    ports = [free_port(), free_port()]
    configs = [world.another_host(port) for port in ports]
    world.migrate()
    with ThreadPoolExecutor(2) as pool:
        services = list(pool.map(world.start, configs, ports))
    try:
        yield services
    finally:
        for service in services:
            service.stop()


def at_once(actions: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """What each action answers; all of them start at one moment, each in a thread of its own."""
    gate = threading.Barrier(len(actions))

    def run(action: Callable[[], Answer]) -> Answer:
        gate.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def codes(answers: Sequence[Answer]) -> Counter[str]:
    """How many got a license, and how many were refused for which reason."""
    return Counter(
        "license" if status == 201 else str(body.get("type")).removeprefix("urn:corelocker:problem:")
        for status, body in answers
    )


def challenge(service: ServiceProcess) -> str:
    """A challenge of one host, which counts at the other too."""
    status, body = post(f"{service.url}/v1/challenges", {})
    assert status == 201, body
    return str(body["challenge"])
