"""The audit log against those who only want to fill it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from corelocker.licensing.errors import LicensingError
from corelocker.service.config_file import load_config
from corelocker.service.core import UnlockService
from corelocker.service.keys import KeystoreKeys
from support.full_service import DAY, Device, FullService


def refuse(world: FullService, count: int) -> None:
    device = Device.new()
    body = world.unlock_body(device)
    for _ in range(count):
        with pytest.raises(LicensingError):
            world.unlock(device, challenge=body["challenge"], tier="no such tier")


def test_refusals_of_strangers_do_not_grow_the_database(world: FullService) -> None:
    refuse(world, 300)
    kept = [row for row in world.storage.audit_rows(limit=9999) if row.outcome == "tier-unknown"]
    assert 50 <= len(kept) <= 90
    assert world.service.maintenance.run() == []
    (counted, *rest) = [row for row in world.storage.audit_rows(limit=9999) if row.outcome == "tier-unknown"]
    assert len(rest) == len(kept)
    assert counted.detail == f"{300 - len(kept)} more refusals of this kind"
    assert world.service.maintenance.run() == []
    assert world.storage.audit_rows(limit=1) == [counted]


def test_refusals_of_known_purchases_are_all_kept(world: FullService) -> None:
    device = Device.new()
    license_id = world.unlock(device).license_id
    refuse(world, 100)
    for _ in range(80):
        with pytest.raises(LicensingError):
            world.renew(Device.new(), license_id, "device-key")
    rows = world.storage.audit_rows(limit=9999, event="renew")
    assert len(rows) == 80
    assert {(row.license_id, row.outcome) for row in rows} == {(license_id, "attestation-refused")}


def test_the_service_forgets_old_rows_by_itself(world: FullService) -> None:
    config = load_config(world.folder / "service.toml")
    config = replace(config, audit=replace(config.audit, max_age=DAY))
    world.service = UnlockService(config, world.storage, KeystoreKeys(world.keystore), clock=world.clock)
    world.unlock(Device.new())
    world.clock.now += DAY + 1
    world.revoke(())
    world.unlock(Device.new())
    assert len(world.storage.audit_rows(event="unlock")) == 2
    assert world.service.maintenance.run() == []
    (row,) = world.storage.audit_rows(event="unlock")
    assert row.at_ms == int(world.clock.now * 1000)
