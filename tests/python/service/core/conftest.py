"""A service with every kind of proof and purchase, for the tests of what it decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.full_service import FullService, full_service


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FullService]:
    with full_service(tmp_path) as made:
        yield made


@pytest.fixture
def any_world(tmp_path: Path, database_url: str) -> Iterator[FullService]:
    """On SQLite and on PostgreSQL, for tests whose outcome depends on the database."""
    with full_service(tmp_path, database_url) as made:
        yield made
