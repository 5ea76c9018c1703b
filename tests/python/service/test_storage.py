"""The database: migrations, the transaction's promises, and the audit log that can only be added to."""

from __future__ import annotations

import itertools
import stat
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from corelocker.licensing.errors import StorageError
from corelocker.purchases.entitlements import DevicePlace, Entitlement, Purchase
from corelocker.service.records import (
    AttestKey,
    AuditRow,
    PurchaseKey,
    StoredEntitlement,
    StoredLicense,
    entitlement_json,
    entitlement_of_json,
)
from corelocker.service.schema import REVISION, metadata
from corelocker.service.storage import Storage

KEY = PurchaseKey("google-play", "com.example.app", "an id")
PURCHASE = Purchase(
    provider="google-play",
    app="com.example.app",
    purchase_id="an id",
    transaction_id="full",
    product="full",
    status="active",
    expires_at=None,
    as_of_ms=5,
    account='"\u00e4\u0000\U0001f600',
    reference="product:token",
    acknowledged=False,
)
ENTITLEMENT = Entitlement(
    "google-play",
    "com.example.app",
    "an id",
    (PURCHASE,),
    (DevicePlace("phone", 1, 2), DevicePlace("old", 1, 1, True)),
    "revoked",
)
LICENSE = StoredLicense(
    jti="id-1",
    app="com.example.app",
    bundle="b",
    model_version=2**53 - 1,
    tier="full",
    device="phone",
    device_jwk="{}",
    provider="google-play",
    purchase_app="com.example.app",
    purchase_id="an id",
    format="android-key",
    issued_at=10,
    expires_at=None,
    attest_key=b"\0" * 32,
    chain_serials='["4d"]',
)


@pytest.fixture
def storage(database_url: str):  # type: ignore[no-untyped-def]
    opened = Storage.open(database_url, migrate=True)
    yield opened
    opened.close()


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url)


def test_models_and_migrations_agree(database_url: str, storage: Storage) -> None:
    engine = engine_of(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISION
        names = set(sa.inspect(connection).get_table_names())
    assert names == set(metadata.tables) | {"alembic_version"}
    engine.dispose()


def test_migrating_again_changes_nothing(database_url: str, storage: Storage) -> None:
    storage.new_setting("a", "1")
    Storage.open(database_url, migrate=True).close()
    assert storage.setting("a") == "1"


def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            Storage.open(database_url, migrate=True).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_database_without_tables_or_of_another_version(database_url: str) -> None:
    with pytest.raises(StorageError, match="empty"):
        Storage.open(database_url)
    Storage.open(database_url, migrate=True).close()
    engine = engine_of(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(StorageError, match="9999"):
        Storage.open(database_url)
    with pytest.raises(StorageError, match="newer release"):
        Storage.open(database_url, migrate=True)


@pytest.mark.parametrize("url", ["postgresql+psycopg://nobody@127.0.0.1:1/x", "sqlite:////no/such/folder/x.sqlite"])
def test_a_database_that_cannot_be_reached(url: str) -> None:
    with pytest.raises(StorageError) as raised:
        Storage.open(url, migrate=True)
    assert "nobody" not in str(raised.value)


def test_a_password_stays_in_the_address() -> None:
    with pytest.raises(StorageError) as raised:
        Storage.open("postgresql+psycopg://u:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(raised.value)


def test_an_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    storage = Storage.open(f"sqlite:///{tmp_path}/new.sqlite", migrate=True)
    storage.secret()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    storage.close()


def test_a_row_comes_back_as_it_went_in(storage: Storage) -> None:
    assert entitlement_of_json(entitlement_json(ENTITLEMENT)) == ENTITLEMENT
    key = AttestKey(b"k" * 32, "com.example.app", b"p" * 65, 0)
    row = AuditRow("unlock", "ok", 7, "why", "app", "b", "full", "phone", "id-1", "grant", KEY.tag)
    with storage.transaction() as transaction:
        stored = transaction.entitlements([KEY])[KEY]
        assert stored.entitlement == Entitlement("google-play", "com.example.app", "an id")
        transaction.save(replace(stored, entitlement=ENTITLEMENT, blocked=frozenset({"x"})))
        transaction.add_license(LICENSE)
        transaction.add_attest_key(key, 3)
        transaction.audit(row)
    found = storage.entitlement(KEY)
    assert found is not None
    assert (found.entitlement, found.blocked) == (ENTITLEMENT, {"x"})
    assert storage.license("id-1") == LICENSE
    assert storage.attest_key(b"k" * 32) == key
    assert storage.audit_rows() == [row]
    assert [one.entitlement for one in storage.unacknowledged()] == [ENTITLEMENT]
    assert storage.list_licenses(purchase=KEY, device="phone", app="com.example.app", bundle="b") == [LICENSE]
    assert storage.list_licenses(device="else") == []
    assert storage.license("id-2") is None
    assert storage.attest_key(b"x" * 32) is None
    assert storage.entitlement(replace(KEY, purchase_id="else")) is None


def test_a_transaction_that_raises_leaves_nothing(storage: Storage) -> None:
    def fail() -> None:
        with storage.transaction() as transaction:
            assert transaction.consume("c", 5)
            transaction.save(transaction.entitlements([KEY])[KEY])
            transaction.add_license(LICENSE)
            transaction.audit(AuditRow("unlock", "ok", 1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (storage.entitlement(KEY), storage.license("id-1"), storage.audit_rows()) == (None, None, [])
    with storage.transaction() as transaction:
        assert transaction.consume("c", 5)


def test_a_challenge_is_consumed_once(storage: Storage) -> None:
    for expected in (True, False, False):
        with storage.transaction() as transaction:
            assert transaction.consume("c", 5) is expected
    assert storage.purge_challenges(5) == 0
    assert storage.purge_challenges(6) == 1


def test_a_counter_only_rises(storage: Storage) -> None:
    with storage.transaction() as transaction:
        transaction.add_attest_key(AttestKey(b"k" * 32, "a", b"p" * 65, 0), 1)
        assert [transaction.raise_counter(b"k" * 32, value) for value in (3, 3, 2, 4)] == [True, False, False, True]
        assert not transaction.raise_counter(b"x" * 32, 1)
        transaction.add_attest_key(AttestKey(b"k" * 32, "a", b"p" * 65, 0), 1)
        assert not transaction.raise_counter(b"k" * 32, 4)


def test_a_revoked_license_is_not_replaced(storage: Storage) -> None:
    with storage.transaction() as transaction:
        transaction.add_license(LICENSE)
        transaction.add_license(replace(LICENSE, jti="id-2", device="another"))
        assert transaction.replace_license("id-1", "id-3")
        assert transaction.revoke_licenses(KEY, "phone", 9) == 1
        assert transaction.revoke_licenses(KEY, "phone", 9) == 0
        assert not transaction.replace_license("id-1", "id-3")
        assert transaction.replace_license("id-2", "id-3")


def test_a_change_behind_the_lock_is_noticed(storage: Storage) -> None:
    with storage.transaction() as transaction:
        transaction.save(transaction.entitlements([KEY])[KEY])
    stored = storage.entitlement(KEY)
    assert stored is not None
    with storage.transaction() as transaction:
        transaction.save(stored)
    with pytest.raises(StorageError), storage.transaction() as transaction:
        transaction.save(stored)


@pytest.mark.parametrize("statement", ["UPDATE audit SET outcome = 'ok'", "DELETE FROM audit", "TRUNCATE audit"])
def test_the_audit_log_can_only_be_added_to(database_url: str, storage: Storage, statement: str) -> None:
    if statement.startswith("TRUNCATE") and database_url.startswith("sqlite"):
        statement = "DELETE FROM audit WHERE id = 1"
    with storage.transaction() as transaction:
        transaction.audit(AuditRow("unlock", "device-limit", 1))
    engine = engine_of(database_url)
    with pytest.raises(sa.exc.DBAPIError, match="can only be added to"), engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
    assert [row.outcome for row in storage.audit_rows()] == ["device-limit"]


def test_retention_forgets_the_oldest_rows_alone(database_url: str, storage: Storage) -> None:
    with storage.transaction() as transaction:
        for at_ms in range(2500):
            transaction.audit(AuditRow("unlock", "ok", at_ms * 1000))
    assert storage.forget_audit(2_500_000, max_age=2500, max_rows=10_000) == 0
    assert storage.forget_audit(2_500_000, max_age=900, max_rows=10_000) == 1600
    assert storage.forget_audit(2_500_000, max_age=900, max_rows=100) == 800
    assert [row.at_ms for row in storage.audit_rows(limit=9999)] == [at * 1000 for at in reversed(range(2400, 2500))]
    engine = engine_of(database_url)
    with pytest.raises(sa.exc.DBAPIError, match="can only be added to"), engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM audit WHERE at_ms = 2400000")
    engine.dispose()
    assert len(storage.audit_rows(limit=9999)) == 100


def test_all_processes_share_the_secret(database_url: str, storage: Storage) -> None:
    other = Storage.open(database_url)
    assert storage.secret() == other.secret()
    assert len(storage.secret()) == 32
    assert storage.secret().hex() not in repr(storage)
    other.close()


def test_two_transactions_on_one_purchase_wait_for_each_other(database_url: str, storage: Storage) -> None:
    """Each adds a place; none is lost, also where the row is made at the same time, and by another process."""
    others = [Storage.open(database_url, pool_size=2) for _ in range(3)]
    start = threading.Barrier(6)

    def add(index: int) -> None:
        start.wait()
        with others[index % 3].transaction() as transaction:
            stored = transaction.entitlements([KEY])[KEY]
            time.sleep(0.02)
            places = (*stored.entitlement.places, DevicePlace(str(index), 1, 1))
            transaction.save(replace(stored, entitlement=replace(stored.entitlement, places=places)))

    threads = [threading.Thread(target=add, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = storage.entitlement(KEY)
    assert isinstance(found, StoredEntitlement)
    assert {place.device for place in found.entitlement.places} == set("012345")
    for other in others:
        other.close()


def test_a_durable_commit_is_synced(tmp_path: Path) -> None:
    """What SQLite is told of the two kinds of transaction, in whatever order they come on the one connection."""
    storage = Storage.open(f"sqlite:///{tmp_path}/x.sqlite", migrate=True)

    def told(durable: bool, fails: bool) -> int:
        with suppress(ValueError), storage.transaction(durable=durable) as transaction:
            cursor = transaction._session._cursor
            assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            (synchronous,) = cursor.execute("PRAGMA synchronous").fetchone()
            if fails:
                raise ValueError
        return int(synchronous)

    for durable, fails in itertools.product((True, False), repeat=2):
        assert told(durable, fails) == (2 if durable else 1)
        assert told(True, False) == 2
    storage.close()


def test_a_transaction_after_one_that_the_database_refused(storage: Storage) -> None:
    with storage.transaction() as transaction:
        transaction.add_license(LICENSE)

    def twice() -> None:
        with storage.transaction() as transaction:
            transaction.audit(AuditRow("unlock", "ok", 1))
            transaction.add_license(LICENSE)

    with pytest.raises(StorageError) as raised:
        twice()
    assert LICENSE.jti not in str(raised.value)
    with storage.transaction() as transaction:
        transaction.audit(AuditRow("renew", "ok", 2))
    assert [row.event for row in storage.audit_rows()] == ["renew"]


def test_threads_that_write_queue_up(storage: Storage) -> None:
    """Every write counts, and nobody is told that the database is busy."""

    def write() -> None:
        for _ in range(20):
            with storage.transaction() as transaction:
                transaction.set_setting("count", str(int(transaction.lock_setting("count", "0")) + 1))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.setting("count") == "80"


def test_a_tag_stands_for_a_purchase() -> None:
    assert KEY.tag == PurchaseKey("google-play", "com.example.app", "an id").tag
    others = {replace(KEY, purchase_id="x").tag, replace(KEY, app="x").tag, replace(KEY, provider="grant").tag}
    assert KEY.tag not in others
    assert len(others) == 3
    assert "an id" not in repr(KEY)
