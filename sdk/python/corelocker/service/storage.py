"""The service's database: what must survive, and the transactions that keep it consistent.

Every decision is made in one transaction, which several may share. On SQLite it begins with the write lock (BEGIN
IMMEDIATE); on PostgreSQL it locks the rows of the purchases that it is about, in the order of their keys, before
anything that it decides by. Consuming a challenge is an INSERT under a primary key, so of any number of requests with
one challenge one wins, in whatever process.

A commit is on the disk before its answer leaves (on PostgreSQL, as far as its operator has configured that): a place
that was given away, a refund that the store tells once, must not be forgotten when the power fails. The exception is a
device that unlocks or renews in the place that it holds. What could be lost there, seconds before a power failure, is a
used challenge and a license of that very device; using either again gives the device what it has, and nobody else
anything.

The audit log can be added to and never changed: triggers refuse UPDATE, DELETE and TRUNCATE.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError

from corelocker.purchases.entitlements import Entitlement, Place, Provider, Purchase
from corelocker.service.errors import StorageError

# The newest revision in migrations/versions.
REVISION = "0001"
_LOCK_TIMEOUT = 5.0
_IDLE = 1.0
_RETURNED = "corelocker returned"

metadata = sa.MetaData()

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.String(256), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
consumed_challenges = sa.Table(
    "consumed_challenges",
    metadata,
    sa.Column("id", sa.LargeBinary(32), primary_key=True),
    sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
)
entitlements = sa.Table(
    "entitlements",
    metadata,
    sa.Column("provider", sa.String(32), primary_key=True),
    sa.Column("app", sa.String(256), primary_key=True),
    sa.Column("purchase_id", sa.String(512), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    # Device keys that an operator has shut out, a JSON list of thumbprints.
    sa.Column("blocked", sa.Text, nullable=False),
    sa.Column("unacknowledged", sa.Boolean, nullable=False, index=True),
)
licenses = sa.Table(
    "licenses",
    metadata,
    sa.Column("jti", sa.String(64), primary_key=True),
    sa.Column("app", sa.String(256), nullable=False),
    sa.Column("bundle", sa.String(36), nullable=False),
    sa.Column("model_version", sa.BigInteger, nullable=False),
    sa.Column("tier", sa.String(256), nullable=False),
    sa.Column("device", sa.String(43), nullable=False, index=True),
    sa.Column("device_jwk", sa.Text, nullable=False),
    sa.Column("provider", sa.String(32), nullable=False),
    sa.Column("purchase_app", sa.String(256), nullable=False),
    sa.Column("purchase_id", sa.String(512), nullable=False),
    sa.Column("format", sa.String(32), nullable=False),
    # App Attest: the key that has to sign renewals. Android: serial numbers of the chain, JSON list of hex.
    sa.Column("attest_key", sa.LargeBinary(32)),
    sa.Column("chain_serials", sa.Text),
    sa.Column("issued_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("replaced_by", sa.String(64)),
    sa.Index("ix_licenses_purchase", "provider", "purchase_app", "purchase_id"),
)
attest_keys = sa.Table(
    "attest_keys",
    metadata,
    sa.Column("key_id", sa.LargeBinary(32), primary_key=True),
    sa.Column("app", sa.String(256), nullable=False),
    sa.Column("public_key", sa.LargeBinary(65), nullable=False),
    sa.Column("counter", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    # "ok", or the code of the error.
    sa.Column("outcome", sa.String(64), nullable=False),
    # Why: the attestation's reason and detail, the kind of a notice, the operator's words.
    sa.Column("detail", sa.String(512)),
    sa.Column("app", sa.String(256)),
    sa.Column("bundle", sa.String(256)),
    sa.Column("tier", sa.String(256)),
    sa.Column("device", sa.String(43)),
    sa.Column("license_id", sa.String(256)),
    sa.Column("provider", sa.String(32)),
    # `purchase_tag` of the purchase, not its identifier.
    sa.Column("purchase", sa.String(16)),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, order=True)
class PurchaseKey:
    """Names an entitlement; the order is that in which rows are locked."""

    provider: Provider
    app: str
    purchase_id: str = field(repr=False)

    @classmethod
    def of(cls, of: Purchase | Entitlement) -> Self:
        return cls(of.provider, of.app, of.purchase_id)

    @property
    def tag(self) -> str:
        """What stands for the purchase in the audit log: 16 hexadecimal digits."""
        return hashlib.sha256("\0".join((self.provider, self.app, self.purchase_id)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoredEntitlement:
    """An entitlement and what the service keeps beside it; version 0 is not stored yet."""

    entitlement: Entitlement
    blocked: frozenset[str] = frozenset()
    version: int = 0


@dataclass(frozen=True)
class StoredLicense:
    """A row of `licenses`."""

    jti: str
    app: str
    bundle: str
    model_version: int
    tier: str
    device: str
    device_jwk: str
    provider: Provider
    purchase_app: str
    purchase_id: str = field(repr=False)
    format: str
    issued_at: int
    expires_at: int | None
    attest_key: bytes | None = None
    chain_serials: str | None = None
    revoked_at: int | None = None
    replaced_by: str | None = None

    @property
    def purchase(self) -> PurchaseKey:
        """The purchase that it was issued for."""
        return PurchaseKey(self.provider, self.purchase_app, self.purchase_id)


@dataclass(frozen=True)
class AttestKey:
    """An App Attest key and the counter of its last assertion."""

    key_id: bytes
    app: str
    public_key: bytes
    counter: int


@dataclass(frozen=True)
class AuditRow:
    """One decision; what it is not about stays None."""

    event: str
    outcome: str
    at_ms: int
    detail: str | None = None
    app: str | None = None
    bundle: str | None = None
    tier: str | None = None
    device: str | None = None
    license_id: str | None = None
    provider: str | None = None
    purchase: str | None = None


# --- statements, built once: SQLAlchemy caches what they compile to --------------------------------

_b = sa.bindparam
_Statement = sa.Select[Any] | sa.Insert | sa.Update | sa.Delete
_LICENSE_COLUMNS = tuple(column.name for column in licenses.c)
_THIS_ENTITLEMENT = sa.and_(
    entitlements.c.provider == _b("k_provider"),
    entitlements.c.app == _b("k_app"),
    entitlements.c.purchase_id == _b("k_purchase_id"),
)
_SELECT_ENTITLEMENT = sa.select(entitlements.c.document, entitlements.c.blocked, entitlements.c.version).where(
    _THIS_ENTITLEMENT
)
_LOCK_ENTITLEMENT = _SELECT_ENTITLEMENT.with_for_update()
_UPDATE_ENTITLEMENT = (
    sa.update(entitlements)
    .where(_THIS_ENTITLEMENT, entitlements.c.version == _b("k_version"))
    .values({name: _b(name) for name in ("version", "document", "blocked", "unacknowledged")})
)
_INSERT_ENTITLEMENT = sa.insert(entitlements)
_SELECT_LICENSE = sa.select(licenses).where(licenses.c.jti == _b("k_jti"))
_INSERT_LICENSE = sa.insert(licenses)
_REPLACE_LICENSE = (
    sa.update(licenses)
    .where(licenses.c.jti == _b("k_jti"), licenses.c.revoked_at.is_(None))
    .values(replaced_by=_b("replaced_by"))
)
_SELECT_ATTEST_KEY = sa.select(
    attest_keys.c.key_id, attest_keys.c.app, attest_keys.c.public_key, attest_keys.c.counter
).where(attest_keys.c.key_id == _b("k_key_id"))
_RAISE_COUNTER = (
    sa.update(attest_keys)
    .where(attest_keys.c.key_id == _b("k_key_id"), attest_keys.c.counter < _b("counter"))
    .values(counter=_b("counter"))
)
_INSERT_AUDIT = sa.insert(audit).inline()
_SELECT_SETTING = sa.select(settings.c.value).where(settings.c.name == _b("k_name"))
_UPDATE_SETTING = sa.update(settings).where(settings.c.name == _b("k_name")).values(value=_b("value"))
_INSERT_SETTING = sa.insert(settings)
_PURGE_CHALLENGES = sa.delete(consumed_challenges).where(consumed_challenges.c.expires_at < _b("now"))
_REVOKE_LICENSES = (
    sa.update(licenses)
    .where(
        licenses.c.provider == _b("k_provider"),
        licenses.c.purchase_app == _b("k_app"),
        licenses.c.purchase_id == _b("k_purchase_id"),
        licenses.c.device == _b("k_device"),
        licenses.c.revoked_at.is_(None),
    )
    .values(revoked_at=_b("revoked_at"))
)


class Storage:
    """An open database; used by several threads. Raises StorageError for everything that goes wrong with it."""

    def __init__(self, engine: sa.Engine, quick: sa.Engine, reading: sa.Engine) -> None:
        self._engine = engine
        self._quick = quick
        self._reading = reading
        self._sqlite = engine.dialect.name == "sqlite"
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, cast(Any, engine.dialect).loaded_dbapi.Error)
        self._prepared: dict[Any, tuple[str, tuple[str, ...] | None]] = {}
        # SQLite: who holds the lock has the connection that writes, in which synchronous is FULL if `_durable`.
        self._writing = threading.Lock() if self._sqlite else None
        self._connection: sa.PoolProxiedConnection | None = None
        self._durable = True
        insert: Any = sqlite.insert if self._sqlite else postgresql.insert
        # Without the option, SQLAlchemy does not look at the number of rows that an INSERT made.
        self._consume = insert(consumed_challenges).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        self._new_setting = insert(settings).on_conflict_do_nothing()
        self._new_attest_key = insert(attest_keys).on_conflict_do_nothing()
        self._new_entitlement = insert(entitlements).on_conflict_do_nothing()
        self._secret: bytes | None = None

    def __repr__(self) -> str:
        return f"Storage({self._engine.dialect.name})"

    @classmethod
    def open(cls, url: str, *, migrate: bool = False, pool_size: int = 8) -> Self:
        """Open the database; with `migrate` bring it to the present version first.

        Args:
            url: `ServiceConfig.database_url`.
            migrate: make or upgrade the tables.
            pool_size: connections that are kept open.

        Raises StorageError when it cannot be reached or is of another version.
        """
        engine = _engine(url, pool_size)
        storage = cls(
            engine, _engine(url, pool_size, durable=False), _engine(url, pool_size, durable=False, reading=True)
        )
        try:
            if migrate:
                _migrate(engine)
            storage.check_version()
        except BaseException:
            storage.close()
            raise
        return storage

    def close(self) -> None:
        """Close every connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.dispose()
        self._quick.dispose()
        self._reading.dispose()

    def check_version(self) -> None:
        """Raises StorageError unless the database can be reached and is of the present version."""
        with self._typed(), self._reading.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                raise StorageError("the database is empty", hint="Run: corelocker service migrate --config FILE")
            found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found != REVISION:
            raise StorageError(
                f"the database is of version {found}, this release works with {REVISION}",
                hint="Run: corelocker service migrate --config FILE",
            )

    def ping(self) -> None:
        """Raises StorageError when the database does not answer."""
        with self._typed(), self._reading.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    def secret(self) -> bytes:
        """The 32 bytes that all processes on this database share; challenges are made and checked with them."""
        if self._secret is None:
            self.new_setting("secret", secrets.token_hex(32))
            self._secret = bytes.fromhex(self.setting("secret") or "")
        return self._secret

    def new_setting(self, name: str, value: str) -> None:
        """Keep a setting, unless there is one of this name."""
        with self.transaction() as transaction:
            transaction.execute(self._new_setting, {"name": name, "value": value})

    def setting(self, name: str) -> str | None:
        """A setting."""
        row = self._first(_SELECT_SETTING, {"k_name": name})
        return None if row is None else str(row[0])

    def license(self, jti: str) -> StoredLicense | None:
        """A license that was issued."""
        row = self._first(_SELECT_LICENSE, {"k_jti": jti})
        return None if row is None else StoredLicense(**dict(zip(_LICENSE_COLUMNS, row, strict=True)))

    def entitlement(self, key: PurchaseKey) -> StoredEntitlement | None:
        """What is known of a purchase."""
        row = self._first(_SELECT_ENTITLEMENT, _key(key))
        return None if row is None else _stored(*row)

    def attest_key(self, key_id: bytes) -> AttestKey | None:
        """An App Attest key that was attested before."""
        row = self._first(_SELECT_ATTEST_KEY, {"k_key_id": key_id})
        return None if row is None else AttestKey(*row)

    def _first(self, statement: _Statement, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The only row of a statement that reads."""
        if self._writing is not None and self._writing.acquire(blocking=False):
            # Nobody writes: the writer's connection has the pages in memory that another would read again.
            try:
                return self._row(self._writer(), statement, parameters)
            except self._errors as error:
                raise self._given_up(error) from error
            finally:
                self._writing.release()
        with self._typed():
            connection = self._reading.raw_connection()
            try:
                return self._row(connection.cursor(), statement, parameters)
            finally:
                connection.close()

    def _row(self, cursor: Any, statement: _Statement, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
        cursor = self.run(cursor, statement, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        cursor.close()
        return row

    def unacknowledged(self, limit: int = 100) -> list[StoredEntitlement]:
        """Some of the entitlements with a purchase that was delivered and that the store waits to be told about."""
        statement = (
            sa.select(entitlements.c.document, entitlements.c.blocked, entitlements.c.version)
            .where(entitlements.c.unacknowledged.is_(True))
            # So that those which fail again and again do not keep the others from their turn.
            .order_by(sa.func.random())
            .limit(limit)
        )
        with self._typed(), self._reading.connect() as connection:
            return [_stored(*row) for row in connection.execute(statement)]

    def list_licenses(
        self,
        *,
        app: str | None = None,
        bundle: str | None = None,
        device: str | None = None,
        purchase: PurchaseKey | None = None,
        limit: int = 100,
    ) -> list[StoredLicense]:
        """The newest licenses that fit."""
        statement = sa.select(licenses).order_by(licenses.c.issued_at.desc(), licenses.c.jti).limit(limit)
        wanted: dict[str, str | None] = {"app": app, "bundle": bundle, "device": device}
        if purchase is not None:
            wanted |= {"provider": purchase.provider, "purchase_app": purchase.app, "purchase_id": purchase.purchase_id}
        for name, value in wanted.items():
            if value is not None:
                statement = statement.where(licenses.c[name] == value)
        with self._typed(), self._reading.connect() as connection:
            return [StoredLicense(**row._mapping) for row in connection.execute(statement)]

    def audit_rows(self, *, limit: int = 100, event: str | None = None) -> list[AuditRow]:
        """The newest rows of the audit log, newest first."""
        statement = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
        if event is not None:
            statement = statement.where(audit.c.event == event)
        with self._typed(), self._reading.connect() as connection:
            return [_audit_row(row) for row in connection.execute(statement)]

    def purge_challenges(self, now: int) -> int:
        """Forget consumed challenges that have expired, and could not be used again anyhow. Returns how many."""
        with self.transaction() as transaction:
            count: int = transaction.execute(_PURGE_CHALLENGES, {"now": now}).rowcount
            return count

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Transaction]:
        """One decision: committed when the block ends, rolled back when it raises; `durable` as the module says."""
        if self._writing is None:
            with self._typed():
                connection = (self._engine if durable else self._quick).raw_connection()
                try:
                    yield Transaction(self, connection.cursor())
                    connection.commit()
                finally:
                    # The pool rolls back what was not committed.
                    connection.close()
            return
        # SQLite lets those who wait for its write lock sleep and try again; threads of one process queue up here.
        if not self._writing.acquire(timeout=_LOCK_TIMEOUT):
            raise StorageError("the database is busy")
        try:
            cursor = self._writer()
            if durable is not self._durable:
                cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            # With the write lock from the first statement on.
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(self, cursor)
                cursor.execute("COMMIT")
            except BaseException:
                cursor.connection.rollback()
                raise
        except self._errors as error:
            raise self._given_up(error) from error
        finally:
            self._writing.release()

    def _writer(self) -> Any:
        """A cursor of the one connection that writes to SQLite, for whoever holds `_writing`."""
        if self._connection is None:
            self._connection, self._durable = self._engine.raw_connection(), True
        return cast(Any, self._connection.driver_connection).cursor()

    def _given_up(self, error: Exception) -> StorageError:
        """Give up the connection that writes, whatever state it is in: a new one is in none."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = None
        return _refused(error)

    def run(self, cursor: Any, statement: _Statement, parameters: Mapping[str, Any]) -> Any:
        """Execute one of this module's statements on a cursor of the driver, and return the cursor.

        SQLAlchemy writes the SQL, once; executing through it costs ten times what SQLite itself needs.
        """
        prepared = self._prepared.get(statement)
        if prepared is None:
            keys = list(parameters) if isinstance(statement, sa.Insert) else None
            compiled = cast(Any, statement).compile(dialect=self._engine.dialect, column_keys=keys)
            prepared = (str(compiled), tuple(compiled.positiontup) if compiled.positional else None)
            self._prepared[statement] = prepared
        sql, order = prepared
        return cursor.execute(sql, parameters if order is None else [parameters[name] for name in order])

    @contextmanager
    def _typed(self) -> Iterator[None]:
        with _typed(self._errors):
            yield


class Transaction:
    """The statements of one decision."""

    def __init__(self, storage: Storage, cursor: Any) -> None:
        self._storage = storage
        self._cursor = cursor

    def execute(self, statement: _Statement, parameters: Mapping[str, Any]) -> Any:
        """Execute one of this module's statements; the driver's cursor, which the next call uses again."""
        return self._storage.run(self._cursor, statement, parameters)

    def consume(self, challenge: str, expires_at: int) -> bool:
        """Use the challenge up; False when somebody has used it."""
        values = {"id": hashlib.sha256(challenge.encode()).digest(), "expires_at": expires_at}
        return bool(self.execute(self._storage._consume, values).rowcount == 1)

    def entitlements(self, keys: Iterable[PurchaseKey]) -> dict[PurchaseKey, StoredEntitlement]:
        """Lock the entitlements until the end of the transaction; purchases that are not known come back empty."""
        return {key: self._lock(key) for key in sorted(set(keys))}

    def _lock(self, key: PurchaseKey) -> StoredEntitlement:
        parameters = _key(key)
        row = self.execute(_LOCK_ENTITLEMENT, parameters).fetchone()
        if row is not None:
            return _stored(*row)
        empty = StoredEntitlement(Entitlement(key.provider, key.app, key.purchase_id))
        if self._storage._sqlite:
            return empty
        # There is no row to lock yet: make one. Whoever does the same waits here until this transaction ends.
        self.execute(self._storage._new_entitlement, _entitlement_row(replace(empty, version=1)))
        return _stored(*self.execute(_LOCK_ENTITLEMENT, parameters).fetchone())

    def save(self, stored: StoredEntitlement) -> None:
        """Keep an entitlement that `entitlements` has locked."""
        row = _entitlement_row(StoredEntitlement(stored.entitlement, stored.blocked, stored.version + 1))
        if stored.version == 0:
            self.execute(_INSERT_ENTITLEMENT, row)
            return
        values = {name: row[name] for name in ("version", "document", "blocked", "unacknowledged")}
        values |= _key(PurchaseKey.of(stored.entitlement)) | {"k_version": stored.version}
        if self.execute(_UPDATE_ENTITLEMENT, values).rowcount != 1:
            raise StorageError("an entitlement was changed behind the lock")

    def add_license(self, license_: StoredLicense) -> None:
        """Keep a license."""
        self.execute(_INSERT_LICENSE, vars(license_))

    def replace_license(self, jti: str, by: str) -> bool:
        """Note that a license was renewed; False when it was revoked."""
        return bool(self.execute(_REPLACE_LICENSE, {"k_jti": jti, "replaced_by": by}).rowcount == 1)

    def revoke_licenses(self, purchase: PurchaseKey, device: str, at: int) -> int:
        """Revoke the licenses of a device for a purchase. Returns how many were not revoked before."""
        values = {**_key(purchase), "k_device": device, "revoked_at": at}
        count: int = self.execute(_REVOKE_LICENSES, values).rowcount
        return count

    def add_attest_key(self, key: AttestKey, now: int) -> None:
        """Keep a new App Attest key. One that is known keeps its counter."""
        self.execute(self._storage._new_attest_key, {**vars(key), "created_at": now})

    def raise_counter(self, key_id: bytes, counter: int) -> bool:
        """Move the counter of an App Attest key up; False when it is there or beyond already."""
        return bool(self.execute(_RAISE_COUNTER, {"k_key_id": key_id, "counter": counter}).rowcount == 1)

    def set_setting(self, name: str, value: str) -> None:
        """Keep or replace a setting."""
        if self.execute(_UPDATE_SETTING, {"k_name": name, "value": value}).rowcount == 0:
            self.execute(_INSERT_SETTING, {"name": name, "value": value})

    def audit(self, row: AuditRow) -> None:
        """Add to the audit log."""
        self.execute(_INSERT_AUDIT, vars(row))


# --- rows ----------------------------------------------------------------------------------------


def _key(key: PurchaseKey) -> dict[str, str]:
    return {"k_provider": key.provider, "k_app": key.app, "k_purchase_id": key.purchase_id}


def _entitlement_row(stored: StoredEntitlement) -> dict[str, Any]:
    known = stored.entitlement
    return {
        "provider": known.provider,
        "app": known.app,
        "purchase_id": known.purchase_id,
        "version": stored.version,
        "document": entitlement_json(known),
        "blocked": _JSON.encode(sorted(stored.blocked)),
        # A place is what shows that the purchase was delivered; before that there is nothing to acknowledge.
        "unacknowledged": bool(known.places)
        and any(purchase.status == "active" and not purchase.acknowledged for purchase in known.purchases),
    }


def entitlement_json(entitlement: Entitlement) -> str:
    """The JSON document of an entitlement; its three names are in it, so that it stands alone."""
    values = {
        **vars(entitlement),
        "purchases": [vars(purchase) for purchase in entitlement.purchases],
        "places": [vars(place) for place in entitlement.places],
    }
    return _JSON.encode(values)


# json.dumps makes one anew for every call that has options.
_JSON = json.JSONEncoder(separators=(",", ":"))


def entitlement_of_json(document: str) -> Entitlement:
    """The inverse of `entitlement_json`."""
    values = json.loads(document)
    values["purchases"] = tuple(Purchase(**purchase) for purchase in values["purchases"])
    values["places"] = tuple(Place(**place) for place in values["places"])
    return Entitlement(**values)


def _stored(document: str, blocked: str, version: int) -> StoredEntitlement:
    return StoredEntitlement(
        entitlement_of_json(document), frozenset() if blocked == "[]" else frozenset(json.loads(blocked)), version
    )


def _audit_row(row: Any) -> AuditRow:
    values = dict(row._mapping)
    del values["id"]
    return AuditRow(**values)


# --- the engine ----------------------------------------------------------------------------------


@contextmanager
def _typed(errors: tuple[type[Exception], ...] = (SQLAlchemyError,)) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise _refused(error) from error


def _refused(error: Exception) -> StorageError:
    # Not its text: it may quote rows.
    return StorageError(f"the database refuses ({type(error).__name__})")


def _engine(url: str, pool_size: int, *, durable: bool = True, reading: bool = False) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        if is_sqlite:
            _make_private(Path(cast(str, parsed.database)))
        engine = sa.create_engine(
            parsed,
            hide_parameters=True,
            poolclass=sa.QueuePool,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=_LOCK_TIMEOUT,
            isolation_level="AUTOCOMMIT" if reading else None,
            pool_use_lifo=True,
            connect_args={"check_same_thread": False, "timeout": _LOCK_TIMEOUT, "isolation_level": None}
            if is_sqlite
            else {"connect_timeout": 5},
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise StorageError(f"the database's address cannot be used ({type(error).__name__})") from None
    if is_sqlite:
        sa.event.listen(engine, "connect", partial(_prepare_sqlite, durable))
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "connect", partial(_prepare_postgresql, durable))
        sa.event.listen(engine, "checkout", partial(_look_after, engine.dialect))
        sa.event.listen(engine, "checkin", _note_return)
    return engine


def _make_private(path: Path) -> None:
    """Make the file before SQLite does, readable by its owner alone; it holds purchase tokens and the secret."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None


def _prepare_sqlite(durable: bool, connection: Any, _: object) -> None:
    for statement in ("journal_mode = WAL", f"synchronous = {'FULL' if durable else 'NORMAL'}"):
        connection.execute(f"PRAGMA {statement}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # Autocommit connections read; everything else decides, and needs the write lock from its first statement on.
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _look_after(dialect: sa.Dialect, connection: Any, record: sa.pool.ConnectionPoolEntry, _: object) -> None:
    """Ask a connection that has lain idle whether it still works; one in use has answered a moment ago."""
    returned = record.info.get(_RETURNED)
    if returned is None or time.monotonic() - returned < _IDLE:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        # The pool makes another, and forgets those that were made before.
        raise DisconnectionError from error


def _note_return(_: Any, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info[_RETURNED] = time.monotonic()


def _prepare_postgresql(durable: bool, connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        if not durable:
            cursor.execute("SET synchronous_commit = off")
        cursor.execute("SET lock_timeout = '5s'")
        cursor.execute("SET statement_timeout = '10s'")
        cursor.execute("SET idle_in_transaction_session_timeout = '30s'")
    connection.commit()


def _migrate(engine: sa.Engine) -> None:
    """Bring the tables to the present version, in one transaction; several processes may do so at once."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with _typed(), engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4279101)")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(f"the database cannot be upgraded: {error}", hint="Is it of a newer release?") from None
