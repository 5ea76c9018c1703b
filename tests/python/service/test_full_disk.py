"""A disk that is full: a small file system of its own, filled to the last byte under a running service, and emptied again."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from support.http_server import eventually
from support.postgres import PostgresServer
from support.unlock_world import Phone, ServiceProcess, World, post


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder that takes 64 MiB; not below pytest's, which is closed to the database's user."""
    place = Path(tempfile.mkdtemp(prefix="corelocker-disk-"))
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place]).returncode:
        pytest.skip("a file system of its own needs root")
    try:
        place.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def fill(place: Path) -> Path:
    """A file that takes all that is left."""
    file = place / "filler"
    with file.open("wb", buffering=0) as opened:
        try:
            while True:
                opened.write(b"\0" * 4096)
        except OSError:
            pass
    return file


def unlock(service: ServiceProcess, phone: Phone, grant: str) -> tuple[int, dict[str, object]]:
    _, challenge = post(f"{service.url}/v1/challenges", {})
    return post(f"{service.url}/v1/licenses", phone.unlock_body(challenge["challenge"], grant))


def ready(service: ServiceProcess) -> int:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{service.url}/readyz", timeout=10).status_code


def test_sqlite_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    world = World(tmp_path, f"sqlite:///{small_disk}/unlock.sqlite")
    check(world, small_disk)


def test_postgresql_on_a_full_disk(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    settings = ("max_wal_size=32MB", "min_wal_size=32MB", "wal_recycle=off", "shared_buffers=1MB")
    server = PostgresServer(durable=True, settings=settings)
    try:
        world = World(tmp_path, server.new_database())
        world.migrate()
        check(world, small_disk)
    finally:
        server.stop()


def check(world: World, disk: Path) -> None:
    """Unlock until the disk is full, beyond it, and after it: what was answered is there, and nothing else."""
    answered: dict[str, str] = {}
    with world.start() as service:
        assert unlock(service, Phone(world), world.grant("before"))[0] == 201
        filler = fill(disk)
        statuses = set()
        until = time.monotonic() + 30
        number = 0
        # There is room in files that were made before; it lasts for a while.
        while 503 not in statuses and time.monotonic() < until:
            number += 1
            status, answer = unlock(service, Phone(world), world.grant(f"p{number}"))
            statuses.add(status)
            if status == 201:
                answered[f"p{number}"] = str(answer["license_id"])
        assert statuses <= {201, 503}
        assert 503 in statuses
        assert eventually(lambda: ready(service) == 503, 10)
        filler.unlink()
        assert eventually(lambda: ready(service) == 200, 20)
        refused = number
        status, answer = unlock(service, Phone(world), world.grant(f"p{refused}"))
        assert status == 201
        answered[f"p{refused}"] = str(answer["license_id"])
        assert service.stop() == 0
    for purchase, license_id in answered.items():
        licenses, entitlement = world.stored(purchase)
        assert [license_.jti for license_ in licenses] == [license_id]
        assert len(entitlement.places) == 1
