"""`corelocker service status`, on both databases."""

from __future__ import annotations

import json
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from corelocker.cli import app
from corelocker.licensing.errors import DeviceLimitError, LicensingError
from corelocker.service.config_file import load_config
from corelocker.service.messages import ChallengeRequest, RenewRequest, UnlockRequest
from corelocker.service.status import status
from support.http_server import eventually
from support.unlock_world import Phone, World, free_port


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
    assert found.decisions == {"unlock": 3, "renew": 1, "notice": 0}
    refused = {(row["event"], row["code"]): row["number"] for row in found.refusals}
    assert refused == {("unlock", "device-limit"): 1, ("unlock", "purchase-expired"): 1}
    assert found.devices == {"1": 1, "2": 1}
    assert found.waiting == {"acknowledgements": 0, "requests": None, "connections": None}
    assert found.stored == {"purchases": 2, "challenges": 5, "audit_rows": 6}
    assert found.keys == [{"thumbprint": world.keystore.publisher, "days": 0, "signs": True}]
    assert (late.decisions, late.refusals, late.devices) == ({"unlock": 0, "renew": 0, "notice": 0}, [], {})
    assert show(world.config_path, capsys, "--json")["decisions"] == found.decisions
    assert app.run(["service", "status", "--config", str(world.config_path)]) == 0
    text = capsys.readouterr().out
    assert "3 unlocks, 1 renewals" in text
    assert "refused: 1 x unlock, device-limit" in text
    assert "1 on 1, 1 on 2" in text
    assert "not known, no http.metrics_port answers" in text


def test_refusals_have_their_reasons_and_are_all_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """An attack is in few rows of the audit log, and its numbers are right all the same."""
    phone, grant = Phone(world), world.grant("p")
    with world.service() as service:
        issued = phone.unlock(service, grant)
        challenge = service.challenges.issue(ChallengeRequest()).challenge
        stolen = phone.unlock_body(challenge, world.grant("another")) | {
            "purchase": {"provider": "grant", "token": grant}
        }
        for body in [stolen] * 200 + [stolen | {"bundle": "none"}] * 100:
            with pytest.raises(LicensingError):
                service.decisions.unlock(UnlockRequest.from_json(body))
        with pytest.raises(LicensingError):
            service.decisions.renew(issued.license_id, RenewRequest.from_json(phone.renew_body(challenge, "another")))
        with pytest.raises(LicensingError):
            service.notices.app_store("com.example.nobody", b"{}")
        assert service.maintenance.run() == []
    with world.storage() as storage:
        found = status(load_config(world.config_path), storage)
        assert found.stored["audit_rows"] < 80
    total = Counter[tuple[str, str]]()
    for row in found.refusals:
        total[row["event"], row["code"]] += row["number"]
    assert total == {
        ("unlock", "attestation-refused"): 200, ("unlock", "bundle-unknown"): 100,
        ("renew", "attestation-refused"): 1, ("notice", "app-unknown"): 1,
    }  # fmt: skip
    reasons = {row["reason"] for row in found.refusals if row["code"] == "attestation-refused"}
    assert reasons == {"signature", None}
    assert app.run(["service", "status", "--config", str(world.config_path)]) == 0
    assert "1 x renew, attestation-refused (signature)" in capsys.readouterr().out


def test_what_the_workers_have_under_way(sqlite_world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world = sqlite_world
    path, metrics_port = world.config_path, free_port()
    path.write_text(path.read_text().replace("[http]\n", f"[http]\nmetrics_port = {metrics_port}\n"))
    head = b"POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"
    with world.start(), ExitStack() as stack:
        for sent in (head, head, b""):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", world.port)))
            connection.sendall(sent)
        assert eventually(lambda: show(path, capsys, "--json")["waiting"]["requests"] == 2, 20)
        assert show(path, capsys, "--json")["waiting"]["connections"] >= 3
        assert app.run(["service", "status", "--config", str(path)]) == 0
        assert "this host's workers: 2 requests under way" in capsys.readouterr().out


def show(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert app.run(["service", "status", "--config", str(config), *options]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document
