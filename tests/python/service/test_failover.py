"""A database that vanishes without closing a connection, or takes no writes: typed errors, probes in time, recovery."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import requests
from corelocker.licensing.errors import StorageError
from corelocker.service.records import AuditRow
from corelocker.service.storage import Storage
from support.http_server import Server, eventually, problem, serving
from support.postgres import PostgresServer
from support.unlock_world import Phone, World


class Proxy:
    """Between TCP and the server's Unix socket; while it swallows, it takes connections and bytes and passes none on."""

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.swallows = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.swallows:
                    sink.sendall(data)
            if not self.swallows:
                sink.shutdown(socket.SHUT_WR)

    def url(self, direct: str) -> str:
        """The address of a database of the server through this proxy."""
        account = direct.partition("://")[2].partition("@")[0]
        return f"postgresql+psycopg://{account}@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def close(self) -> None:
        self._listener.close()


def test_a_database_that_vanishes_and_comes_back(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    proxy = Proxy(postgres.folder / ".s.PGSQL.5432")
    # Migrating waits without an end; a connection that did must not be left in the pool.
    storage = Storage.open(proxy.url(url), migrate=True)

    def write() -> None:
        with storage.transaction() as transaction:
            transaction.audit(AuditRow("unlock", "ok", 1))

    try:
        write()
        proxy.swallows = True
        errors: list[BaseException] = []

        def attempt() -> None:
            try:
                write()
            except StorageError as error:
                errors.append(error)

        started = time.monotonic()
        threads = [threading.Thread(target=attempt) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
        assert len(errors) == 4
        assert time.monotonic() - started < 30
        with pytest.raises(StorageError):
            storage.check_writable()
        proxy.swallows = False
        back = time.monotonic()
        while time.monotonic() - back < 10:
            with suppress(StorageError):
                write()
                break
        assert time.monotonic() - back < 10
        assert [row.event for row in storage.audit_rows()] == ["unlock", "unlock"]
    finally:
        storage.close()
        proxy.close()


def test_probes_are_answered_within_a_second_during_an_outage(postgres: PostgresServer, tmp_path: Path) -> None:
    proxy = Proxy(postgres.folder / ".s.PGSQL.5432")
    world = World(tmp_path, proxy.url(postgres.new_database()))
    with serving(world, threads=2) as server:
        assert server.request("GET", "/readyz").status_code == 200
        assert server.unlock(Phone(world), world.grant("before")).status_code == 201
        bodies = [Phone(world).unlock_body(server.challenge(), world.grant(str(index))) for index in range(4)]
        proxy.swallows = True
        # They take every thread that decides, and some wait for one.
        clients = [threading.Thread(target=unlock_alone, args=(server, body)) for body in bodies]
        for client in clients:
            client.start()
        time.sleep(1.5)
        for _ in range(5):
            started = time.monotonic()
            assert server.request("GET", "/readyz").status_code == 503
            assert time.monotonic() - started < 1
        for client in clients:
            client.join(40)
        proxy.swallows = False
        assert eventually(lambda: server.request("GET", "/readyz").status_code == 200, 10)
        assert server.unlock(Phone(world), world.grant("after")).status_code == 201
    proxy.close()


def unlock_alone(server: Server, body: object) -> None:
    with Server(server.world, server.port, server.service, server.log_text, server.metrics).session as session:
        session.trust_env = False
        assert session.post(f"{server.url}/v1/licenses", json=body, timeout=60).status_code == 503


@contextmanager
def no_writes(database_url: str, postgres: PostgresServer) -> Iterator[None]:
    """SQLite: no file may grow, as on a full disk. PostgreSQL: transactions only read, as on a standby."""
    if database_url.startswith("sqlite"):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    else:
        role = database_url.partition("://")[2].partition("@")[0]
        with psycopg.connect(postgres._conninfo("postgres"), autocommit=True) as connection:
            end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
            connection.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
            connection.execute(end)
            yield
            connection.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
            connection.execute(end)


def test_a_database_that_takes_no_writes_is_not_ready(world: World, postgres: PostgresServer) -> None:
    with serving(world) as server:
        assert server.unlock(Phone(world), world.grant("before")).status_code == 201
        assert server.request("GET", "/readyz").status_code == 200
        with no_writes(world.database_url, postgres):
            problem(server.unlock(Phone(world), world.grant("lost")), 503, "storage-unavailable")
            time.sleep(1.1)
            problem(server.request("GET", "/readyz"), 503, "storage-unavailable")
        assert eventually(lambda: server.request("GET", "/readyz").status_code == 200, 10)
        assert server.unlock(Phone(world), world.grant("lost")).status_code == 201


def test_workers_that_die_while_the_database_is_away(postgres: PostgresServer, tmp_path: Path) -> None:
    """Their successors cannot start. The service goes on trying, and serves again once the database is back."""
    server = PostgresServer(durable=True)
    try:
        world = World(tmp_path, server.new_database())
        world.migrate()
        with world.start() as service:
            server.kill()
            pid = service.process.pid
            children = Path(f"/proc/{pid}/task/{pid}/children")
            os.kill(int(children.read_text()), signal.SIGKILL)
            # More often than workers that fail for good are replaced.
            assert eventually(lambda: service.log.read_text().count('"worker-died"') >= 7, 60)
            server.start()
            assert eventually(lambda: ready(service.url), 60)
            assert service.stop() == 0
    finally:
        server.stop()


def ready(url: str) -> bool:
    with requests.Session() as session, suppress(requests.ConnectionError):
        session.trust_env = False
        return session.get(f"{url}/readyz", timeout=10).status_code == 200
    return False
