"""SIGHUP: the configuration changes while the service runs, and no request is lost."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.http_server import eventually
from support.unlock_world import APP, Phone, ServiceProcess, World, post


def lines(service: ServiceProcess, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def reload(service: ServiceProcess, event: str = "reloaded") -> dict[str, Any]:
    """Send the signal and wait for what comes of it."""
    before = len(lines(service, event))
    service.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: len(lines(service, event)) > before, 60)
    return lines(service, event)[-1]


def children(service: ServiceProcess) -> list[str]:
    pid = service.process.pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


@contextmanager
def customers(service: ServiceProcess, count: int) -> Iterator[list[int]]:
    """Clients that ask over and over, on a connection that they keep and without retries; the statuses of all answers."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        while not stop.is_set():
            try:
                connection.request("POST", "/v1/challenges", b"{}", {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
            except (OSError, http.client.HTTPException):
                statuses.append(0)
            time.sleep(0.002 * number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def unlock(service: ServiceProcess, world: World, tier: str) -> tuple[int, dict[str, Any]]:
    phone, grant = Phone(world), world.grant(product=tier)
    _, challenge = post(f"{service.url}/v1/challenges", {})
    return post(f"{service.url}/v1/licenses", phone.unlock_body(challenge["challenge"], grant, tier))


def test_products_and_keys_change_and_no_request_is_lost(sqlite_world: World) -> None:
    world = sqlite_world
    world.configure(workers=2)
    text = world.config_path.read_text()
    sold = f'[[products]]\napp = "{APP}"\nproduct = "full"\nbundle = "{world.bundle_id}"\ntier = "full"\n'
    world.config_path.write_text(text.replace(sold, ""))
    with world.start() as service:
        assert unlock(service, world, "plus")[0] == 201
        assert unlock(service, world, "full")[1]["type"] == "urn:corelocker:problem:purchase-product"
        with customers(service, 4) as statuses:
            world.config_path.write_text(text)
            reload(service)
            # An old worker may still take a connection or two.
            assert eventually(lambda: unlock(service, world, "full")[0] == 201)
            # A key that signs bundles and licenses alike is refused; what runs goes on.
            thumbprint = world.keystore.publisher
            world.config_path.write_text(text.replace("[keys]\n", f'[keys]\npublishers = ["{thumbprint}"]\n'))
            assert "signing-key-shared" in reload(service, "reload-refused")["message"]
            assert unlock(service, world, "full")[0] == 201
            world.config_path.write_text(text)
            new = world.keystore.rotate_signing_key(keep_private=True)
            reload(service)
            assert unlock(service, world, "full")[0] == 201
            asked = len(statuses)
            assert eventually(lambda: len(statuses) > asked + 100)
        assert set(statuses) == {201}
        assert new == world.keystore.publisher
        assert not lines(service, "worker-died")
        assert eventually(lambda: len(children(service)) == 2, 60)
        assert service.stop() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[http]", '[http]\nhost = "127.0.0.2"'), "http.host does not change"),
        (('issuer = "', 'issuer = 7 # "'), "issuer"),
        (('environment = "development"', 'environment = "production"'), "environment does not change"),
    ],
)
def test_a_configuration_that_does_not_do_changes_nothing(
    sqlite_world: World, change: tuple[str, str], message: str
) -> None:
    world = sqlite_world
    with world.start() as service:
        before = children(service)
        world.config_path.write_text(world.config_path.read_text().replace(*change))
        assert message in reload(service, "reload-refused")["message"]
        assert children(service) == before
        assert unlock(service, world, "full")[0] == 201


def test_an_idle_connection_is_answered_once_more_and_closed(sqlite_world: World) -> None:
    world = sqlite_world
    with world.start() as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        (old,) = children(service)
        reload(service)
        time.sleep(0.5)
        assert old in children(service)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        answer.read()
        assert eventually(lambda: old not in children(service))
        # SIGTERM while an old worker is still there ends both.
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        reload(service)
        assert service.stop() == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(service.process.pid, 0)
