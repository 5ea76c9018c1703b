"""A device whose key is new each time proves its former key, and keeps its place of the purchase."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.licensing import errors
from corelocker.licensing.device_key import prove
from corelocker.licensing.evidence import Format
from corelocker.purchases.entitlements import DevicePlace
from corelocker.service import admin
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.messages import ChallengeRequest, UnlockRequest
from corelocker.service.records import PurchaseKey
from support.full_service import APP, DAY, NOW, RELAYS, Device, FullService, in_parallel, outcome, reason

ORDER = PurchaseKey("grant", APP, "sub:order-1")


def places(world: FullService, key: PurchaseKey = ORDER) -> dict[str, DevicePlace]:
    stored = world.storage.entitlement(key)
    assert stored is not None
    return {place.device: place for place in stored.entitlement.places}


def fill(world: FullService) -> Device:
    """Take the other place of two."""
    other = Device.new()
    world.unlock(other)
    return other


@pytest.mark.parametrize("proof", ["development", "android", "app-attest"])
def test_the_place_moves_to_the_new_key(world: FullService, proof: str) -> None:
    former, device, other = Device.new(), Device.new(), fill(world)
    first = world.unlock(former, proof=proof)
    world.clock.now += DAY
    world.revoke(())
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(device, proof=proof)
    second = world.unlock(device, proof=proof, **world.replacing(former, device))
    row = world.storage.audit_rows(limit=1)[0]
    assert (row.event, row.outcome, row.device) == ("unlock", "ok", device.thumbprint)
    assert row.detail == f"the place of device key {former.thumbprint} moved to this one"
    assert world.read(second).open(device.software) == world.content_key
    held = places(world)
    assert held.keys() == {device.thumbprint, other.thumbprint}
    assert held[device.thumbprint] == DevicePlace(device.thumbprint, NOW, NOW + DAY)
    # The former key's license is not renewed any more, and the former key gets no place beside the new one.
    with pytest.raises(errors.LicenseRevokedError):
        world.renew(former, first.license_id, "app-assert" if proof == "app-attest" else "device-key")
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(former, proof=proof)
    world.renew(device, second.license_id, "app-assert" if proof == "app-attest" else "device-key")


def test_a_place_moves_from_key_to_key(any_world: FullService) -> None:
    keys = [Device.new() for _ in range(5)]
    fill(any_world)
    any_world.unlock(keys[0])
    for former, device in pairwise(keys):
        any_world.unlock(device, **any_world.replacing(former, device))
        assert device.thumbprint in places(any_world)
        assert len(places(any_world)) == 2
    revoked = {entry.device for entry in any_world.storage.list_licenses() if entry.revoked_at is not None}
    assert revoked == {key.thumbprint for key in keys[:-1]}
    # A key whose place has moved on has none to give.
    late = Device.new()
    with pytest.raises(errors.DeviceLimitError):
        any_world.unlock(late, **any_world.replacing(keys[0], late))


def test_another_tier_takes_over_the_place(world: FullService) -> None:
    former, device = Device.new(), Device.new()
    fill(world)
    grant = world.grant(product="full")
    world.unlock(former, grant, tier="plus")
    assert world.read(world.unlock(device, **world.replacing(former, device, grant))).tier == "full"


def test_a_former_key_without_a_place_is_no_error(world: FullService) -> None:
    stranger, device, late = Device.new(), Device.new(), Device.new()
    world.unlock(stranger, world.grant("order-2"))
    world.unlock(device, **world.replacing(stranger, device))
    assert world.storage.audit_rows(limit=1)[0].detail is None
    assert places(world).keys() == {device.thumbprint}
    # Its place of another purchase, and its license for that, stay as they are.
    assert places(world, PurchaseKey("grant", APP, "sub:order-2")).keys() == {stranger.thumbprint}
    assert all(entry.revoked_at is None for entry in world.storage.list_licenses())
    fill(world)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(late, **world.replacing(stranger, late))


def test_a_key_that_replaces_itself_changes_nothing(world: FullService) -> None:
    device, other = Device.new(), Device.new()
    first = world.unlock(device)
    world.unlock(device, **world.replacing(device, device))
    world.renew(device, first.license_id)
    # Nor does one that holds a place already free another one.
    spared = world.unlock(other)
    world.unlock(device, **world.replacing(other, device))
    world.renew(other, spared.license_id)
    assert places(world).keys() == {device.thumbprint, other.thumbprint}


# --- proofs that prove nothing --------------------------------------------------------------------


def refused(world: FullService, device: Device, **members: Any) -> None:
    before = places(world)
    with pytest.raises(AttestationRefusedError) as error:
        world.unlock(device, **members)
    assert reason(error) is Reason.SIGNATURE
    assert outcome(world) == ("unlock", "attestation-refused")
    assert places(world) == before
    assert all(entry.revoked_at is None for entry in world.storage.list_licenses())


@pytest.mark.parametrize("part", RELAYS)
def test_a_proof_for_something_else(world: FullService, part: str) -> None:
    former, device = Device.new(), Device.new()
    world.unlock(former)
    refused(world, device, **world.replacing(former, device, **RELAYS[part](world)))


def test_a_proof_for_another_new_key(world: FullService) -> None:
    former, device, thief = Device.new(), Device.new(), Device.new()
    world.unlock(former)
    refused(world, thief, **world.replacing(former, device))


def test_a_proof_by_another_key_than_the_former_one(world: FullService) -> None:
    former, device, thief = Device.new(), Device.new(), Device.new()
    world.unlock(former)
    members = world.replacing(thief, device)
    members["replaces"]["device_key"] = jose.public_jwk(former.key.public_key())
    refused(world, device, **members)


@pytest.mark.parametrize("length", [0, 31, 32])
def test_a_proof_of_zeros(world: FullService, length: int) -> None:
    former, device = Device.new(), Device.new()
    world.unlock(former)
    members = world.replacing(former, device)
    members["replaces"]["proof"] = jose.encode_base64url(bytes(length))
    refused(world, device, **members)


def test_a_wrong_proof_is_not_ignored_where_there_is_no_place(world: FullService) -> None:
    stranger, device = Device.new(), Device.new()
    fill(world)
    members = world.replacing(stranger, device)
    members["replaces"]["proof"] = jose.encode_base64url(bytes(32))
    refused(world, device, **members)


def test_the_proof_of_a_renewal_moves_nothing(world: FullService) -> None:
    """The same secret, challenge and members; only the label says what is proved."""
    former, device = Device.new(), Device.new()
    world.unlock(former)
    sealed = world.service.challenges.issue(ChallengeRequest(former.key.public_key()))
    grant = world.grant()
    request = world.attested(sealed.challenge, device, grant["token"])
    assert sealed.sealed is not None
    for digest in (request.digest(Format.DEVICE_KEY), request.digest(Format.ANDROID_KEY)):
        proof = prove(jose.decode_base64url(sealed.sealed), former.software, digest).proof
        former_key = jose.public_jwk(former.key.public_key())
        replaces = {"device_key": former_key, "proof": jose.encode_base64url(proof)}
        refused(world, device, purchase=grant, challenge=sealed.challenge, replaces=replaces)


# --- what an operator or the purchase says --------------------------------------------------------


def test_a_new_key_does_not_undo_a_revocation(world: FullService) -> None:
    former, device = Device.new(), Device.new()
    first = world.unlock(former)
    admin.revoke_license(world.storage, first.license_id, purchase=False, clock=world.clock)
    with pytest.raises(errors.LicenseRevokedError):
        world.unlock(device, **world.replacing(former, device))
    assert places(world).keys() == {former.thumbprint}


def test_a_place_that_was_released_cools_down(world: FullService) -> None:
    former, device = Device.new(), Device.new()
    world.unlock(former)
    fill(world)
    admin.release_device(world.storage, ORDER, former.thumbprint, clock=world.clock)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(device, **world.replacing(former, device))


def test_an_unlock_that_is_refused_moves_nothing(world: FullService) -> None:
    former, device = Device.new(), Device.new()
    plus = world.grant(product="plus")
    first = world.unlock(former, plus, tier="plus")
    with pytest.raises(errors.PurchaseProductError):
        world.unlock(device, **world.replacing(former, device, plus))
    assert places(world).keys() == {former.thumbprint}
    world.renew(former, first.license_id, tier="plus")


def test_a_refusal_in_the_last_moment_moves_nothing(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    former, device = Device.new(), Device.new()
    first = world.unlock(former, proof="app-attest")
    stale = world.storage.attest_key(former.key_id)
    world.unlock(former, proof="app-assert", counter=5)
    monkeypatch.setattr(world.storage, "attest_key", lambda key_id: stale)
    device.app_key = former.app_key
    with pytest.raises(AttestationRefusedError):
        world.unlock(device, proof="app-assert", counter=5, **world.replacing(former, device))
    assert places(world).keys() == {former.thumbprint}
    kept = world.storage.license(first.license_id)
    assert kept is not None
    assert kept.revoked_at is None


def test_the_place_of_a_perpetual_license_moves_and_stays_taken(world: FullService) -> None:
    world.write(licenses="perpetual = true")
    world.service = world.open()
    former, device = Device.new(), Device.new()
    world.unlock(former)
    issued = world.unlock(device, **world.replacing(former, device))
    assert issued.expires_at is None
    assert list(places(world).values()) == [DevicePlace(device.thumbprint, NOW, NOW, perpetual=True)]
    detail = world.storage.audit_rows(limit=1)[0].detail
    assert detail is not None
    assert detail.startswith("the place of device key")
    assert "perpetual" in detail


# --- many at once ---------------------------------------------------------------------------------


def test_one_former_key_and_many_new_ones(any_world: FullService) -> None:
    """Twenty requests replace one key at one moment: exactly one gets its place, and its license counts."""
    former = Device.new()
    any_world.unlock(former)
    other = fill(any_world)
    devices = [Device.new() for _ in range(20)]
    requests = [
        UnlockRequest.from_json(any_world.unlock_body(device, **any_world.replacing(former, device)))
        for device in devices
    ]
    results = in_parallel(20, lambda index: any_world.service.decisions.unlock(requests[index]))
    assert sorted(results) == ["device-limit"] * 19 + ["ok"]
    (winner,) = places(any_world).keys() - {other.thumbprint}
    assert winner in {device.thumbprint for device in devices}
    good = {entry.device for entry in any_world.storage.list_licenses() if entry.revoked_at is None}
    assert good == {winner, other.thumbprint}
    moved = [row for row in any_world.storage.audit_rows(event="unlock") if row.detail and "moved" in row.detail]
    assert [row.device for row in moved] == [winner]


def test_one_request_many_times(any_world: FullService) -> None:
    former, device = Device.new(), Device.new()
    any_world.unlock(former)
    request = UnlockRequest.from_json(any_world.unlock_body(device, **any_world.replacing(former, device)))
    results = in_parallel(20, lambda index: any_world.service.decisions.unlock(request))
    assert sorted(results) == ["challenge-used"] * 19 + ["ok"]
    assert places(any_world).keys() == {device.thumbprint}


def test_a_renewal_that_meets_the_move(any_world: FullService) -> None:
    """Whichever comes first: the former key's licenses are not renewed afterwards, and one place is taken."""
    former, device = Device.new(), Device.new()
    first = any_world.unlock(former)
    unlock = UnlockRequest.from_json(any_world.unlock_body(device, **any_world.replacing(former, device)))
    actions = [
        lambda: any_world.service.decisions.unlock(unlock),
        lambda: any_world.renew(former, first.license_id),
    ]
    results = in_parallel(2, lambda index: actions[index]())
    assert results.count("ok") >= 1
    assert set(results) <= {"ok", "license-revoked", "device-inactive"}
    assert places(any_world).keys() == {device.thumbprint}
    alive = {entry.device for entry in any_world.storage.list_licenses() if entry.revoked_at is None}
    assert alive == {device.thumbprint}
