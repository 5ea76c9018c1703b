"""The service's storage: what must survive, and the transactions that keep it consistent.

Every decision is one transaction. On SQLite it begins with the write lock (BEGIN IMMEDIATE); on PostgreSQL it locks the
rows of the purchases that it is about, in the order of their keys, before anything that it decides by. Consuming a
challenge is an INSERT under a primary key, so of any number of requests with one challenge one wins, in whatever
process.

A commit is on the disk before its answer leaves (on PostgreSQL, as far as its operator has configured that). The one
exception are rows of the audit log about refusals that changed nothing: whoever has no purchase cannot make the disk
flush.

The audit log can be added to and never changed: triggers refuse UPDATE and TRUNCATE, and DELETE of rows from the id on
that the setting `audit-kept-from` names. Retention moves that id on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from corelocker.licensing.errors import StorageError
from corelocker.purchases.entitlements import Entitlement
from corelocker.service.database import Database, Session
from corelocker.service.records import (
    AttestKey,
    AuditRow,
    PurchaseKey,
    StoredEntitlement,
    StoredLicense,
    entitlement_json,
    entitlement_of_json,
)
from corelocker.service.request_id import current_request
from corelocker.service.schema import (
    REVISION,
    attest_keys,
    audit,
    consumed_challenges,
    entitlements,
    licenses,
    settings,
)

# A write that succeeded shows this long that others would.
_WRITABLE_SECONDS = 5.0
_FORGET_AT_ONCE = 1000  # rows

# Built once: SQLAlchemy takes longer to build a statement than the database to execute it.
# A parameter of a WHERE clause begins with `this_`; the others are named like their columns.
_THIS_ENTITLEMENT = sa.and_(
    entitlements.c.provider == sa.bindparam("this_provider"),
    entitlements.c.app == sa.bindparam("this_app"),
    entitlements.c.purchase_id == sa.bindparam("this_purchase_id"),
)
_SELECT_ENTITLEMENT = sa.select(entitlements).where(_THIS_ENTITLEMENT)
_LOCK_ENTITLEMENT = _SELECT_ENTITLEMENT.with_for_update()
_INSERT_ENTITLEMENT = sa.insert(entitlements)
_UPDATE_ENTITLEMENT = sa.update(entitlements).where(
    _THIS_ENTITLEMENT, entitlements.c.version == sa.bindparam("this_version")
)
_SELECT_LICENSE = sa.select(licenses).where(licenses.c.jti == sa.bindparam("this_jti"))
_INSERT_LICENSE = sa.insert(licenses)
_REPLACE_LICENSE = sa.update(licenses).where(
    licenses.c.jti == sa.bindparam("this_jti"), licenses.c.revoked_at.is_(None)
)
_SELECT_ATTEST_KEY = sa.select(
    attest_keys.c.key_id, attest_keys.c.app, attest_keys.c.public_key, attest_keys.c.counter
).where(attest_keys.c.key_id == sa.bindparam("this_key_id"))
_RAISE_COUNTER = sa.update(attest_keys).where(
    attest_keys.c.key_id == sa.bindparam("this_key_id"), attest_keys.c.counter < sa.bindparam("this_counter")
)
_REVOKE_LICENSES = sa.update(licenses).where(
    licenses.c.provider == sa.bindparam("this_provider"),
    licenses.c.purchase_app == sa.bindparam("this_app"),
    licenses.c.purchase_id == sa.bindparam("this_purchase_id"),
    licenses.c.device == sa.bindparam("this_device"),
    licenses.c.revoked_at.is_(None),
)
_INSERT_AUDIT = sa.insert(audit).inline()
_FORGET_AUDIT = sa.delete(audit).where(audit.c.id < sa.bindparam("this_first"))
_SELECT_SETTING = sa.select(settings.c.value).where(settings.c.name == sa.bindparam("this_name"))
_LOCK_SETTING = _SELECT_SETTING.with_for_update()
_UPDATE_SETTING = sa.update(settings).where(settings.c.name == sa.bindparam("this_name"))
_PURGE_CHALLENGES = sa.delete(consumed_challenges).where(consumed_challenges.c.expires_at < sa.bindparam("this_now"))


class Storage:
    """An open database; used by several threads. Raises StorageError for everything that goes wrong with it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret: bytes | None = None
        self._writable_until = 0.0

    def __repr__(self) -> str:
        return f"Storage({self._database!r})"

    @classmethod
    def open(cls, url: str, *, migrate: bool = False, pool_size: int = 8) -> Self:
        """Open the database; with `migrate` bring it to the present version first.

        Args:
            url: `ServiceConfig.database_url`.
            migrate: make or upgrade the tables.
            pool_size: connections that are kept open.

        Raises StorageError when it cannot be reached or is of another version.
        """
        database = Database(url, pool_size)
        storage = cls(database)
        try:
            if migrate:
                database.migrate()
            storage.check_version()
        except BaseException:
            storage.close()
            raise
        return storage

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._database.close()

    # --- settings

    def check_version(self) -> None:
        """Raises StorageError unless the database can be reached and is of the present version."""
        with self._database.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                raise StorageError("the database is empty", hint="Run: corelocker service migrate --config FILE")
            found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found != REVISION:
            raise StorageError(
                f"the database is of version {found}, this release works with {REVISION}",
                hint="Run: corelocker service migrate --config FILE",
            )

    def check_writable(self) -> None:
        """Raises StorageError when the database does not answer, or takes no writes (a full disk, a standby).

        It writes for this only where the last write is some time ago or has failed: a busy service shows it anyhow.
        """
        if time.monotonic() < self._writable_until:
            with self._database.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
            return
        with self.transaction(durable=False) as transaction:
            # As large as a decision is: on a disk that is almost full, a smaller one would still find room.
            transaction.set_setting("last-write-check", f"{int(time.time())} {secrets.token_hex(4000)}")

    @property
    def shared(self) -> bool:
        """Whether other hosts may use the database too."""
        return not self._database.sqlite

    def execute(self, statement: sa.TextClause, values: Mapping[str, Any] | None = None) -> list[sa.Row[Any]]:
        """A statement about what may be lost, in a transaction of its own; the rows that it returns."""
        with self._database.connect() as connection:
            if self.shared:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            result = connection.execute(statement, dict(values or {}))
            rows = list(result) if result.returns_rows else []
            connection.commit()
        return rows

    def time(self) -> float:
        """The clock of the database's machine, Unix seconds."""
        if self._database.sqlite:
            return time.time()
        with self._database.connect() as connection:
            return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def secret(self) -> bytes:
        """The 32 bytes that all processes on this database share; challenges are made and checked with them."""
        if self._secret is None:
            self.new_setting("secret", secrets.token_hex(32))
            self._secret = bytes.fromhex(self.setting("secret") or "")
        return self._secret

    def new_setting(self, name: str, value: str) -> None:
        """Keep a setting, unless there is one of this name."""
        with self.transaction() as transaction:
            transaction.new_setting(name, value)

    def setting(self, name: str) -> str | None:
        """A setting."""
        row = self._database.first(_SELECT_SETTING, {"this_name": name})
        return None if row is None else str(row["value"])

    # --- reading

    def license(self, jti: str) -> StoredLicense | None:
        """A license that was issued."""
        row = self._database.first(_SELECT_LICENSE, {"this_jti": jti})
        return None if row is None else StoredLicense(**row)

    def entitlement(self, key: PurchaseKey) -> StoredEntitlement | None:
        """What is known of a purchase."""
        row = self._database.first(_SELECT_ENTITLEMENT, _this(key))
        return None if row is None else _stored(row)

    def attest_key(self, key_id: bytes) -> AttestKey | None:
        """An App Attest key that was attested before."""
        row = self._database.first(_SELECT_ATTEST_KEY, {"this_key_id": key_id})
        return None if row is None else AttestKey(**row)

    def unacknowledged(self, limit: int = 100) -> list[StoredEntitlement]:
        """Some of the entitlements with a purchase that was delivered and that the store waits to be told about."""
        statement = (
            sa.select(entitlements)
            .where(entitlements.c.unacknowledged.is_(True))
            # So that those which fail again and again do not keep the others from their turn.
            .order_by(sa.func.random())
            .limit(limit)
        )
        return [_stored(row._asdict()) for row in self._rows(statement)]

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
        return [StoredLicense(**row._mapping) for row in self._rows(statement)]

    def audit_rows(self, *, limit: int = 100, event: str | None = None) -> list[AuditRow]:
        """The newest rows of the audit log, newest first."""
        columns = [column for column in audit.c if column.name != "id"]
        statement = sa.select(*columns).order_by(audit.c.id.desc()).limit(limit)
        if event is not None:
            statement = statement.where(audit.c.event == event)
        return [AuditRow(**row._mapping) for row in self._rows(statement)]

    def _rows(self, statement: sa.Select[Any]) -> list[sa.Row[Any]]:
        with self._database.connect() as connection:
            return list(connection.execute(statement))

    # --- deciding

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Transaction]:
        """One decision: committed when the block ends, rolled back when it raises; `durable` as of `Database`."""
        try:
            with self._database.transaction(durable=durable) as session:
                yield Transaction(session, sqlite=self._database.sqlite)
        except StorageError:
            self._writable_until = 0.0
            raise
        self._writable_until = time.monotonic() + _WRITABLE_SECONDS

    def purge_challenges(self, now: int) -> int:
        """Forget consumed challenges that have expired, and could not be used again anyhow. Returns how many."""
        with self.transaction() as transaction:
            return transaction.purge_challenges(now)

    def forget_audit(self, now_ms: int, max_age: int, max_rows: int) -> int:
        """Delete the oldest rows of the audit log: what is older than `max_age` seconds, and beyond `max_rows`.

        In several transactions, so that decisions do not wait long. Returns how many.
        """
        forgotten = 0
        oldest = sa.select(audit.c.id, audit.c.at_ms).order_by(audit.c.id).limit(_FORGET_AT_ONCE)
        while True:
            newest = self._rows(sa.select(sa.func.max(audit.c.id)))[0][0]
            first_kept = 0 if newest is None else newest - max_rows + 1
            old = list(
                itertools.takewhile(
                    lambda row, first=first_kept: row.id < first or row.at_ms < now_ms - max_age * 1000,  # type: ignore[misc]
                    self._rows(oldest),
                )
            )
            if not old:
                return forgotten
            with self.transaction() as transaction:
                forgotten += transaction.forget_audit(old[-1].id + 1)


class Transaction:
    """The statements of one decision."""

    def __init__(self, session: Session, *, sqlite: bool) -> None:
        self._session = session
        self._sqlite = sqlite

    def consume(self, challenge: str, expires_at: int) -> bool:
        """Use the challenge up; False when somebody has used it."""
        digest = hashlib.sha256(challenge.encode()).digest()
        return self._add(consumed_challenges, {"id": digest, "expires_at": expires_at})

    def _add(self, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert a row, unless there is one with its primary key; returns whether it was new."""
        return self._session.execute(_insert_if_new(table, self._sqlite), row) == 1

    def purge_challenges(self, now: int) -> int:
        """As of `Storage`."""
        return self._session.execute(_PURGE_CHALLENGES, {"this_now": now})

    def entitlements(self, keys: Iterable[PurchaseKey]) -> dict[PurchaseKey, StoredEntitlement]:
        """Lock the entitlements until the end of the transaction; purchases that are not known come back empty."""
        return {key: self._lock(key) for key in sorted(set(keys))}

    def _lock(self, key: PurchaseKey) -> StoredEntitlement:
        row = self._session.first(_LOCK_ENTITLEMENT, _this(key))
        if row is not None:
            return _stored(row)
        empty = StoredEntitlement(Entitlement(key.provider, key.app, key.purchase_id))
        if self._sqlite:
            return empty
        # There is no row to lock yet: make one. Whoever does the same waits here until this transaction ends.
        self._add(entitlements, _entitlement_row(replace(empty, version=1)))
        return self._lock(key)

    def save(self, stored: StoredEntitlement) -> None:
        """Keep an entitlement that `entitlements` has locked."""
        row = _entitlement_row(replace(stored, version=stored.version + 1))
        if stored.version == 0:
            self._session.execute(_INSERT_ENTITLEMENT, row)
            return
        this = _this(PurchaseKey.of(stored.entitlement)) | {"this_version": stored.version}
        changed = {name: row[name] for name in ("version", "document", "blocked", "unacknowledged")}
        if self._session.execute(_UPDATE_ENTITLEMENT, this | changed) != 1:
            raise StorageError("an entitlement was changed behind the lock")

    def add_license(self, license_: StoredLicense) -> None:
        """Keep a license."""
        self._session.execute(_INSERT_LICENSE, vars(license_))

    def replace_license(self, jti: str, by: str) -> bool:
        """Note that a license was renewed; False when it was revoked."""
        return self._session.execute(_REPLACE_LICENSE, {"this_jti": jti, "replaced_by": by}) == 1

    def revoke_licenses(self, purchase: PurchaseKey, device: str, at: int) -> int:
        """Revoke the licenses of a device for a purchase. Returns how many were not revoked before."""
        values = {
            "this_provider": purchase.provider,
            "this_app": purchase.app,
            "this_purchase_id": purchase.purchase_id,
            "this_device": device,
            "revoked_at": at,
        }
        return self._session.execute(_REVOKE_LICENSES, values)

    def add_attest_key(self, key: AttestKey, now: int) -> None:
        """Keep a new App Attest key. One that is known keeps its counter."""
        self._add(attest_keys, {**vars(key), "created_at": now})

    def raise_counter(self, key_id: bytes, counter: int) -> bool:
        """Move the counter of an App Attest key up; False when it is there or beyond already."""
        values = {"this_key_id": key_id, "this_counter": counter, "counter": counter}
        return self._session.execute(_RAISE_COUNTER, values) == 1

    def new_setting(self, name: str, value: str) -> None:
        """Keep a setting, unless there is one of this name."""
        self._add(settings, {"name": name, "value": value})

    def lock_setting(self, name: str, first: str) -> str:
        """A setting, locked until the end of the transaction; it is made with the value `first`."""
        self.new_setting(name, first)
        row = self._session.first(_LOCK_SETTING, {"this_name": name})
        return first if row is None else str(row["value"])

    def set_setting(self, name: str, value: str) -> None:
        """Keep or replace a setting."""
        if self._session.execute(_UPDATE_SETTING, {"this_name": name, "value": value}) == 0:
            self.new_setting(name, value)

    def forget_audit(self, kept_from: int) -> int:
        """Delete the rows of the audit log before an id. Returns how many."""
        self.set_setting("audit-kept-from", str(kept_from))
        return self._session.execute(_FORGET_AUDIT, {"this_first": kept_from})

    def audit(self, row: AuditRow) -> None:
        """Add to the audit log."""
        self._session.execute(_INSERT_AUDIT, vars(row) | {"request_id": row.request_id or current_request()})


@cache
def _insert_if_new(table: sa.Table, for_sqlite: bool) -> sa.Insert:
    insert = sqlite.insert(table) if for_sqlite else postgresql.insert(table)
    return insert.on_conflict_do_nothing()


def _this(key: PurchaseKey) -> dict[str, Any]:
    return {"this_provider": key.provider, "this_app": key.app, "this_purchase_id": key.purchase_id}


def _stored(row: Mapping[str, Any]) -> StoredEntitlement:
    return StoredEntitlement(
        entitlement_of_json(row["document"]), frozenset(json.loads(row["blocked"])), row["version"]
    )


def _entitlement_row(stored: StoredEntitlement) -> dict[str, Any]:
    known = stored.entitlement
    return {
        "provider": known.provider,
        "app": known.app,
        "purchase_id": known.purchase_id,
        "version": stored.version,
        "document": entitlement_json(known),
        "blocked": json.dumps(sorted(stored.blocked)),
        # A place is what shows that the purchase was delivered; before that there is nothing to acknowledge.
        "unacknowledged": bool(known.places)
        and any(purchase.status == "active" and not purchase.acknowledged for purchase in known.purchases),
    }
