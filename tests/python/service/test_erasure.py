"""A customer who wants to be forgotten: the statements of docs/production.md, in either database."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from support.unlock_world import APP, Phone, World

PAGE = (Path(__file__).parents[3] / "docs/production.md").read_text()
TABLES = ("licenses", "entitlements", "attest_keys", "settings", "rates")


def test_a_customer_is_erased(world: World) -> None:
    """Nothing is left that names the purchase or its device, but the device's thumbprint in the audit log."""
    statements = [line.strip() for line in PAGE.splitlines() if line.startswith("    DELETE FROM ")]
    assert len(statements) == 2
    with world.service() as service:
        gone, stays = Phone(world), Phone(world)
        gone.unlock(service, world.grant("order-1"))
        stays.unlock(service, world.grant("order-10"))
    with world.storage() as storage:
        for statement in statements:
            storage.execute(sa.text(statement))
        left = str([storage.execute(sa.text(f"SELECT * FROM {table}")) for table in TABLES])
        rows = str([vars(row) for row in storage.audit_rows()])
    assert "sub:order-10" in left
    assert stays.thumbprint in left
    assert APP in left
    assert "'sub:order-1'" not in left
    assert gone.thumbprint not in left
    assert "order-1" not in rows
