"""`corelocker service status`, on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corelocker.cli import app
from corelocker.licensing.errors import DeviceLimitError, LicensingError
from corelocker.service.config_file import load_config
from corelocker.service.status import status
from support.unlock_world import Phone, World


def test_what_was_decided_is_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.configure(devices=2)
    with world.service() as service:
        phones = [Phone(world) for _ in range(3)]
        first = phones[0].unlock(service, world.grant("p"))
        phones[1].unlock(service, world.grant("p"))
        with pytest.raises(DeviceLimitError):
            phones[2].unlock(service, world.grant("p"))
        phones[2].unlock(service, world.grant("q"))
        phones[0].renew(service, first.license_id)
        with pytest.raises(LicensingError):
            phones[0].unlock(service, world.grant("p", now=1))
    config = load_config(world.config_path)
    with world.storage() as storage:
        found = status(config, storage)
        late = status(config, storage, hours=1, clock=lambda: 4_000_000_000.0)
    assert found.decisions == {"unlock": 3, "renew": 1}
    refused = {(row["event"], row["code"]): row["number"] for row in found.refusals}
    assert refused == {("unlock", "device-limit"): 1, ("unlock", "purchase-expired"): 1}
    assert found.devices == {"1": 1, "2": 1}
    assert found.waiting == {"acknowledgements": 0}
    assert found.stored == {"purchases": 2, "challenges": 5, "audit_rows": 6}
    assert found.keys == [{"thumbprint": world.keystore.publisher, "days": 0, "signs": True}]
    assert (late.decisions, late.refusals, late.devices) == ({"unlock": 0, "renew": 0}, [], {})
    assert show(world.config_path, capsys, "--json")["decisions"] == {"unlock": 3, "renew": 1}
    text = capsys.readouterr().out
    assert app.run(["service", "status", "--config", str(world.config_path)]) == 0
    text = capsys.readouterr().out
    assert "3 unlocks, 1 renewals" in text
    assert "refused: 1 x unlock, device-limit" in text
    assert "1 on 1, 1 on 2" in text


def show(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    assert app.run(["service", "status", "--config", str(config), *options]) == 0
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document
