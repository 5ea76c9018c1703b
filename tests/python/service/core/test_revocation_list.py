"""Android's list of revoked keys."""

from __future__ import annotations

from typing import Any

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.licensing import errors as refusals
from corelocker.service.errors import AttestationRefusedError
from support.full_service import (
    DAY,
    Device,
    FullService,
    reason,
)
from support.play_server import Call, error_reply, http_server, json_reply


def test_no_revocation_list_no_android_device(world: FullService) -> None:
    world.revocation.unlink()
    world.service = world.open()
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_MISSING
    with pytest.raises(refusals.NotReadyError):
        world.service.ready()


def test_a_stale_revocation_list(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device, proof="android")
    world.revoke((), age=DAY + 1)
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE
    with pytest.raises(AttestationRefusedError) as refused:
        world.renew(device, first.license_id, "device-key")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE
    with pytest.raises(refusals.NotReadyError):
        world.service.ready()
    world.revoke((), age=DAY)
    world.service.ready()
    world.renew(device, first.license_id, "device-key")


def test_a_revocation_list_that_is_fetched(world: FullService) -> None:
    answers = [error_reply(503)]
    calls: list[Call] = []

    def answer(call: Call) -> Any:
        calls.append(call)
        return answers[-1]

    with http_server(answer) as url:
        text = (world.folder / "service.toml").read_text()
        changed = text.replace('revocation_list = "revocation.json"', f'revocation_url = "{url}/status"')
        (world.folder / "service.toml").write_text(changed)
        world.service = world.open()
        for _ in range(3):
            with pytest.raises(AttestationRefusedError) as refused:
                world.unlock(Device.new(), proof="android")
            assert reason(refused) is Reason.REVOCATION_LIST_MISSING
        # A source that fails is not asked with every request.
        assert len(calls) == 1
        answers.append(json_reply({"entries": {}}))
        world.clock.now += 60
        world.unlock(Device.new(), world.grant("order-1"), "android")
        world.unlock(Device.new(), world.grant("order-2"), "android")
        assert len(calls) == 2
        answers.append(json_reply({"entries": {f"{77:x}": {"status": "REVOKED"}}}))
        world.clock.now += 3600
        world.service.maintenance.run()
        assert len(calls) == 3
        with pytest.raises(AttestationRefusedError) as refused:
            world.unlock(Device.new(), proof="android")
        assert reason(refused) is Reason.CERTIFICATE_REVOKED
    # The address is gone: the list that was fetched counts for a day.
    world.clock.now += DAY
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED
    world.clock.now += 1
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE


def test_a_damaged_revocation_list_leaves_the_last_good_one(world: FullService) -> None:
    world.unlock(Device.new(), proof="android")
    world.revocation.write_text("{")
    world.unlock(Device.new(), proof="android")
    world.clock.now += DAY + 1
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE


@pytest.mark.parametrize("serial", [77, 0x388266760658996857D, 0xF92000], ids=["leaf", "factory", "root"])
def test_a_chain_that_is_revoked_after_the_first_unlock(world: FullService, serial: int) -> None:
    device = Device.new()
    first = world.unlock(device, proof="android")
    world.clock.now += 1
    world.revoke((serial,))
    with pytest.raises(AttestationRefusedError) as refused:
        world.renew(device, first.license_id, "device-key")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED


def test_a_chain_that_is_revoked_after_a_renewal(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device, proof="android")
    second = world.renew(device, first.license_id, "device-key")
    world.clock.now += 1
    world.revoke((77,))
    with pytest.raises(AttestationRefusedError) as refused:
        world.renew(device, second.license_id, "device-key")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED
