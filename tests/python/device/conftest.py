"""A world, a server and a device on it, for every test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from corelocker.bundle.clkey import KeyBundle
from corelocker.device.software import SoftwareDevice
from corelocker.licensing.http_client import RetryPolicy
from support.unlock_server import Clock, Server, Sleeps
from support.unlock_world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(folder, f"sqlite:///{folder / 'unlock.sqlite'}")


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    server = Server(world)
    yield server
    server.close()


@pytest.fixture
def bundle(world: World) -> Iterator[KeyBundle]:
    with world.bundle() as opened:
        yield opened


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device(world: World, server: Server, sleeps: Sleeps, clock: Clock) -> SoftwareDevice:
    retry = RetryPolicy(attempts=4, sleep=sleeps)
    return world.device(f"device-{uuid.uuid4()}", port=server.port, retry=retry, read_clocks=clock)
