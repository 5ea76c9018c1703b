"""Connections to the database: SQLite in a file, or PostgreSQL; their statements, timeouts, errors and migrations.

SQLAlchemy makes the connections and writes the SQL of each dialect. What requests need is executed on the driver's own
cursor: of the time that the statements of an unlock take through SQLAlchemy, three quarters are its own.

SQLite lets those who wait for its write lock sleep and try again, so one connection of a process writes for all of its
threads (`group_commit`). It also keeps its page cache, which another connection's write would empty.

A database that vanishes without closing its connections must not hold the service: everything that waits for
PostgreSQL is bounded. A peer that no longer acknowledges what was sent is given up after `_DEAD_SECONDS`
(TCP_USER_TIMEOUT, RFC 5482), one that stays silent by keep-alive probes in about the same time, and behind a proxy that
acknowledges in its place, no statement is waited for longer than `_ANSWER_SECONDS`. A connection that was not used for
a moment is asked whether it works before it is handed out, so the service recovers by itself once the database is back.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from corelocker.licensing.errors import StorageError
from corelocker.service.group_commit import GroupCommit

LOCK_SECONDS = 5.0
_DEAD_SECONDS = 5
_ANSWER_SECONDS = 7.0  # more than the server's own statement_timeout
_FRESH_SECONDS = 1.0  # a connection that was used so recently works, or its statement says that it does not
_POSTGRESQL: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": _DEAD_SECONDS * 1000,
    "options": "-c lock_timeout=5s -c statement_timeout=6s -c idle_in_transaction_session_timeout=30s",
}


Statement = sa.Select[Any] | sa.Insert | sa.Update | sa.Delete


class Session:
    """Executes statements that are built once, at the import of a module."""

    def __init__(self, dialect: sa.Dialect, cursor: Any) -> None:
        self._dialect = dialect
        self._cursor = cursor

    def execute(self, statement: Statement, parameters: Mapping[str, Any]) -> int:
        """Returns the number of rows that it changed."""
        sql, order = _written(self._dialect, statement, tuple(parameters))
        self._cursor.execute(sql, parameters if order is None else [parameters[name] for name in order])
        return cast(int, self._cursor.rowcount)

    def first(self, statement: sa.Select[Any], parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The first row by the names of its columns."""
        self.execute(statement, parameters)
        row = self._cursor.fetchone()
        return None if row is None else dict(zip([column[0] for column in self._cursor.description], row, strict=True))


@lru_cache(maxsize=256)
def _written(dialect: sa.Dialect, statement: Statement, names: tuple[str, ...]) -> tuple[str, list[str] | None]:
    """The SQL of a statement with parameters of these names; where the driver takes them by position, their order."""
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    return str(compiled), compiled.positiontup if compiled.positional else None


class Database:
    """Pools of connections; used by several threads. Every method raises StorageError."""

    def __init__(self, url: str, pool_size: int) -> None:
        """At most twice `pool_size` connections; none is made yet."""
        self._engine = _open_engine(url, pool_size)
        self._dialect = self._engine.dialect
        self.sqlite = self._dialect.name == "sqlite"
        self._driver_error: type[Exception] = cast(Any, self._dialect).loaded_dbapi.Error
        # SQLite's connections are plain files: SQLAlchemy's pool would take longer than a statement.
        self._readers: list[Any] = []
        self._writer = GroupCommit(self._connect_sqlite, LOCK_SECONDS)

    def __repr__(self) -> str:
        return f"Database({self._dialect.name})"

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()
        with suppress(StorageError):
            self._writer.close()
        while self._readers:
            self._readers.pop().close()

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """For statements that are built when they are needed."""
        with _typed_errors(), self._engine.connect() as connection:
            yield connection

    def first(self, statement: sa.Select[Any], parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The first row of a statement that only reads, as of `Session`."""
        if not self.sqlite:
            with self._connection() as connection:
                driver = cast(Any, connection.driver_connection)
                # A statement alone needs no BEGIN before it and no ROLLBACK after it, which are round trips.
                driver.autocommit = True
                try:
                    return Session(self._dialect, connection.cursor()).first(statement, parameters)
                finally:
                    if not driver.closed:
                        driver.autocommit = False
        with _typed_errors(self._driver_error):
            try:
                reader = self._readers.pop()
            except IndexError:
                reader = self._connect_sqlite()
            cursor = reader.cursor()
            row = Session(self._dialect, cursor).first(statement, parameters)
            cursor.close()
            # After an error it is left to be closed.
            self._readers.append(reader)
            return row

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[Session]:
        """A transaction: committed when the block ends, rolled back when it raises.

        On SQLite it has the write lock from its first statement on, and may share its commit with transactions of other
        threads. Unless `durable`, a power failure may undo it.
        """
        if self.sqlite:
            with self._writer.transaction(durable=durable) as cursor:
                yield Session(self._dialect, cursor)
            return
        with self._connection() as connection:
            session = Session(self._dialect, connection.cursor())
            if not durable:
                connection.cursor().execute("SET LOCAL synchronous_commit = off")
            yield session
            connection.commit()

    @contextmanager
    def _connection(self) -> Iterator[sa.PoolProxiedConnection]:
        """A connection of the driver. The pool rolls back what is not committed."""
        with _typed_errors(self._driver_error):
            connection = self._engine.raw_connection()
            try:
                yield connection
            except self._driver_error:
                # Whatever state it is in: a new one is in none.
                connection.invalidate()
                raise
            finally:
                connection.close()

    def _connect_sqlite(self) -> Any:
        """A connection of the driver that no pool keeps."""
        with _typed_errors():
            connection = self._engine.raw_connection()
            connection.detach()
            return connection.dbapi_connection

    def migrate(self) -> None:
        """Bring the tables to the present version, in one transaction; several processes may do so at once."""
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        try:
            with _typed_errors(), self._engine.connect() as connection:
                if self.sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    cast(Any, connection.connection.driver_connection).answer_seconds = None
                    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4279101)")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
        except CommandError as error:
            raise StorageError(f"the database cannot be upgraded: {error}", hint="Is it of a newer release?") from None
        finally:
            # The connection that waited without an end must not be used for anything else.
            self.close()


@contextmanager
def _typed_errors(driver_error: type[Exception] = SQLAlchemyError) -> Iterator[None]:
    """Turns the errors of SQLAlchemy, and of a driver that is used without it, into StorageError."""
    try:
        yield
    except (SQLAlchemyError, driver_error) as error:
        # Not its text: it may quote rows.
        raise StorageError(f"the database refuses ({type(error).__name__})") from error


def _open_engine(url: str, pool_size: int) -> sa.Engine:
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
            pool_use_lifo=True,
            pool_timeout=LOCK_SECONDS,
            # SQLite: reads commit by themselves, `transaction` opens what decides.
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
        sa.event.listen(engine, "checkin", _note_use)
        sa.event.listen(engine, "checkout", _ask_if_idle)
    return engine


def _make_private(path: Path) -> None:
    """Make the file before SQLite does, readable by its owner alone; it holds purchase tokens and the secret."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None


def _use_wal(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")


def _note_use(_: object, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ask_if_idle(connection: Any, record: sa.pool.ConnectionPoolEntry, _: object) -> None:
    """What the pool would do each time (`pool_pre_ping`), with a round trip for each of a busy service's statements."""
    if time.monotonic() - record.info.get("used_at", -math.inf) < _FRESH_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except connection.Error:
        raise sa.exc.InvalidatePoolError from None


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
