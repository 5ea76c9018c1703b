"""A proof is for one device key, app, bundle, tier and purchase; App Attest's counters only rise."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.licensing import errors
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.messages import UnlockRequest
from corelocker.service.records import PurchaseKey
from cryptography.hazmat.primitives.asymmetric import ec
from support.full_service import (
    APP,
    OTHER_APP,
    RELAYS,
    Device,
    FullService,
    in_parallel,
    no_license,
    outcome,
    reason,
)

# --- relay: a proof is for one device key, app, bundle, tier and purchase -------------------------


@pytest.mark.parametrize("proof", ["development", "android", "app-attest"])
@pytest.mark.parametrize("part", RELAYS)
def test_a_proof_for_something_else_is_refused(world: FullService, proof: str, part: str) -> None:
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof=proof, attested=RELAYS[part](world))
    assert reason(refused) in (Reason.SIGNATURE, Reason.WRONG_CHALLENGE)
    assert no_license(world)
    assert outcome(world) == ("unlock", "attestation-refused")


@pytest.mark.parametrize(("proof", "expected"), [("development", Reason.SIGNATURE), ("android", Reason.DEVICE_KEY),
                                                 ("app-attest", Reason.WRONG_CHALLENGE)])  # fmt: skip
def test_a_proof_of_another_device_key_is_refused(world: FullService, proof: str, expected: Reason) -> None:
    thief = Device.new()
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof=proof, device_key=jose.public_jwk(thief.key.public_key()))
    assert reason(refused) is expected
    assert no_license(world)


def test_a_proof_of_an_unlock_is_none_of_a_renewal(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device)
    grant = world.grant()
    for token in (grant["token"], first.license_id, "renew:" + str(uuid.uuid4())):
        with pytest.raises(AttestationRefusedError):
            world.renew(device, first.license_id, token=token)
    # Nor the other way around: a purchase token that reads like a renewal is no purchase.
    with pytest.raises(errors.PurchaseFormatError):
        world.unlock(device, {"provider": "grant", "token": f"renew:{first.license_id}"})


def test_why_a_proof_was_refused_is_for_the_operator_alone(world: FullService) -> None:
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android", attested={"tier": "plus"})
    assert str(refused.value) == "the proof of the device was refused"
    row = world.storage.audit_rows(limit=1)[0]
    assert row.detail is not None
    assert row.detail.startswith("wrong-challenge")


# --- App Attest -----------------------------------------------------------------------------------


def test_an_assertion_before_any_attestation(world: FullService) -> None:
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="app-assert")
    assert reason(refused) is Reason.KEY_ID


def test_an_app_attest_key_counts_in_its_app(world: FullService) -> None:
    device = Device.new()
    world.unlock(device, proof="app-attest")
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(device, world.grant(app=OTHER_APP), "app-assert", app=OTHER_APP)
    assert reason(refused) is Reason.KEY_ID


@pytest.mark.parametrize("counter", [0, 6, 7])
def test_a_counter_never_falls(any_world: FullService, counter: int) -> None:
    device = Device.new()
    any_world.unlock(device, proof="app-attest")
    any_world.unlock(device, proof="app-assert", counter=7)
    with pytest.raises(AttestationRefusedError) as refused:
        any_world.unlock(device, proof="app-assert", counter=counter)
    assert reason(refused) is Reason.COUNTER
    any_world.unlock(device, proof="app-assert", counter=8)


def test_attesting_again_does_not_bring_the_counter_back(world: FullService) -> None:
    device = Device.new()
    world.unlock(device, proof="app-attest")
    world.unlock(device, proof="app-assert", counter=7)
    world.unlock(device, proof="app-attest")
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(device, proof="app-assert", counter=7)
    assert reason(refused) is Reason.COUNTER


def test_a_counter_that_races_itself(any_world: FullService) -> None:
    """Assertions with one counter, each with a challenge of its own: one counts, whoever has read the old counter."""
    device = Device.new()
    any_world.unlock(device, proof="app-attest")
    requests = [UnlockRequest.from_json(any_world.unlock_body(device, proof="app-assert", counter=5)) for _ in range(8)]
    read, seen = threading.Barrier(8), any_world.storage.attest_key

    def attest_key(key_id: bytes) -> Any:
        found = seen(key_id)
        read.wait(10)
        return found

    any_world.storage.attest_key = attest_key  # type: ignore[method-assign]
    results = in_parallel(8, lambda index: any_world.service.decisions.unlock(requests[index]))
    assert sorted(results) == ["attestation-refused"] * 7 + ["ok"]
    key = seen(device.key_id)
    assert key is not None
    assert key.counter == 5


def test_a_refusal_in_the_last_moment_takes_no_place(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter moves on between the check of an assertion and the transaction; a new device key asks with it."""
    device = Device.new()
    world.unlock(device, proof="app-attest")
    stale = world.storage.attest_key(device.key_id)
    world.unlock(device, proof="app-assert", counter=5)
    monkeypatch.setattr(world.storage, "attest_key", lambda key_id: stale)
    newcomer = Device(ec.generate_private_key(ec.SECP256R1()), device.app_key)
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(newcomer, proof="app-assert", counter=5)
    assert reason(refused) is Reason.COUNTER
    stored = world.storage.entitlement(PurchaseKey("grant", APP, "sub:order-1"))
    assert stored is not None
    assert [place.device for place in stored.entitlement.places] == [device.thumbprint]


def test_a_renewal_is_signed_by_the_key_of_the_first_unlock(world: FullService) -> None:
    device, other = Device.new(), Device.new()
    first = world.unlock(device, proof="app-attest")
    world.unlock(other, world.grant("order-2"), "app-attest")
    device.app_key = other.app_key
    with pytest.raises(AttestationRefusedError) as refused:
        world.renew(device, first.license_id, "app-assert", counter=9)
    assert reason(refused) is Reason.KEY_ID
