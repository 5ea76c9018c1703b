"""Connections to the database: SQLite in a file, or PostgreSQL; their timeouts, errors and migrations.

A database that vanishes without closing its connections must not hold the service: everything that waits for
PostgreSQL is bounded. A peer that no longer acknowledges what was sent is given up after `_DEAD_SECONDS`
(TCP_USER_TIMEOUT, RFC 5482), one that stays silent by keep-alive probes in about the same time, and behind a proxy that
acknowledges in its place, no statement is waited for longer than `_ANSWER_SECONDS`. The pool asks a connection whether
it works before it hands it out, so the service recovers by itself once the database is back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from corelocker.licensing.errors import StorageError

LOCK_SECONDS = 5.0
_DEAD_SECONDS = 5
_ANSWER_SECONDS = 7.0  # more than the server's own statement_timeout
_POSTGRESQL: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": _DEAD_SECONDS * 1000,
    "options": "-c lock_timeout=5s -c statement_timeout=6s -c idle_in_transaction_session_timeout=30s",
}


def open_engine(url: str, pool_size: int) -> sa.Engine:
    """A pool of at most twice `pool_size` connections; none is made yet. Raises StorageError."""
    try:
        parsed = sa.make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite:
            _make_private(Path(cast(str, parsed.database)))
        engine = sa.create_engine(
            parsed,
            hide_parameters=True,
            poolclass=sa.QueuePool,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=LOCK_SECONDS,
            pool_pre_ping=not sqlite,
            # SQLite: reads commit by themselves, `begin` opens what decides.
            connect_args={"check_same_thread": False, "timeout": LOCK_SECONDS, "isolation_level": None}
            if sqlite
            else _POSTGRESQL,
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise StorageError(f"the database's address cannot be used ({type(error).__name__})") from None
    if sqlite:
        sa.event.listen(engine, "connect", _use_wal)
    else:
        sa.event.listen(engine, "do_connect", _connect_bounded)
    return engine


@contextmanager
def connect(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for reading. Raises StorageError for everything that goes wrong with the database."""
    with typed_errors(), engine.connect() as connection:
        yield connection


@contextmanager
def begin(engine: sa.Engine, *, durable: bool) -> Iterator[sa.Connection]:
    """A transaction: committed when the block ends, rolled back when it raises.

    On SQLite it has the write lock from its first statement on. Unless `durable`, a power failure may undo it.
    Raises StorageError.
    """
    with typed_errors(), engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif not durable:
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        yield connection
        connection.commit()


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turns SQLAlchemy's errors into StorageError."""
    try:
        yield
    except SQLAlchemyError as error:
        # Not its text: it may quote rows.
        raise StorageError(f"the database refuses ({type(error).__name__})") from error


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to the present version, in one transaction; several processes may do so at once."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with begin(engine, durable=True) as connection:
            if engine.dialect.name == "postgresql":
                cast(Any, connection.connection.driver_connection).answer_seconds = None
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4279101)")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(f"the database cannot be upgraded: {error}", hint="Is it of a newer release?") from None
    finally:
        # The connection that waited without an end must not be used for anything else.
        engine.dispose()


def _make_private(path: Path) -> None:
    """Make the file before SQLite does, readable by its owner alone; it holds purchase tokens and the secret."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None


def _use_wal(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")


def _connect_bounded(_: object, __: object, arguments: list[Any], options: dict[str, Any]) -> Any:
    """A connection that is closed when an answer does not come in time: what it is waiting for is not known any more."""
    import psycopg

    class BoundedConnection(psycopg.Connection[Any]):
        answer_seconds: float | None = _ANSWER_SECONDS

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            started = time.monotonic()
            limit = self.answer_seconds if timeout is None else timeout
            try:
                return super().wait(gen, interval, limit)
            except psycopg.Error:
                if limit is not None and time.monotonic() - started >= limit:
                    self.pgconn.finish()
                raise

    return BoundedConnection.connect(*arguments, **options)
