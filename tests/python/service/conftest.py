"""Databases for the tests of the service: SQLite in a file, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http_server import Server, serving
from support.postgres import PostgresServer
from support.unlock_world import World


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process; `new_database()` gives an empty database."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; a test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'unlock.sqlite'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def world(tmp_path: Path, database_url: str) -> World:
    """A publisher and an app on an empty database of either kind."""
    return World(tmp_path, database_url)


@pytest.fixture
def sqlite_world(tmp_path: Path) -> World:
    """A publisher and an app on SQLite, for tests in which the database makes no difference."""
    return World(tmp_path, f"sqlite:///{tmp_path / 'unlock.sqlite'}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over HTTP that all tests of a file share; each test takes purchases of its own."""
    folder = tmp_path_factory.mktemp("http")
    with serving(World(folder, f"sqlite:///{folder / 'unlock.sqlite'}")) as running:
        yield running
