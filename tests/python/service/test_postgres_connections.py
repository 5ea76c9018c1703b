"""Connections to PostgreSQL: no more round trips than it takes, and one that has died is not handed out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from corelocker.licensing.errors import StorageError
from corelocker.service import database
from corelocker.service.storage import Storage
from support.postgres import PostgresServer


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    opened = Storage.open(url, migrate=True)
    yield opened
    opened.close()


def terminate_others(url: str) -> None:
    """As a fail-over or an operator ends the connections of a database."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
        )


def test_a_transaction_after_a_read_is_one(storage: Storage) -> None:
    storage.new_setting("a", "1")
    assert storage.setting("a") == "1"
    with suppress(KeyError), storage.transaction() as transaction:
        transaction.set_setting("a", "2")
        raise KeyError
    assert storage.setting("a") == "1"


def test_a_connection_that_died_while_idle_is_replaced(
    storage: Storage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.new_setting("a", "1")
    monkeypatch.setattr(database, "_FRESH_SECONDS", 0.0)
    terminate_others(url)
    assert storage.setting("a") == "1"


def test_one_that_died_in_use_fails_once(storage: Storage, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.new_setting("a", "1")
    monkeypatch.setattr(database, "_FRESH_SECONDS", 1000.0)
    terminate_others(url)
    with pytest.raises(StorageError):
        storage.setting("a")
    assert storage.setting("a") == "1"
