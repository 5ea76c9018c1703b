"""PostgreSQL vanishes without closing a connection: requests end in a typed error, and the service recovers by itself."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from corelocker.service.errors import StorageError
from corelocker.service.records import AuditRow
from corelocker.service.storage import Storage
from support.postgres import PostgresServer


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

    def close(self) -> None:
        self._listener.close()


def test_a_database_that_vanishes_and_comes_back(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    Storage.open(url, migrate=True).close()
    proxy = Proxy(postgres.folder / ".s.PGSQL.5432")
    account = url.partition("://")[2].partition("@")[0]
    storage = Storage.open(f"postgresql+psycopg://{account}@127.0.0.1:{proxy.port}/postgres?sslmode=disable")

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
            storage.ping()
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
