"""Purchases that devices show: which count, and on how many devices."""

from __future__ import annotations

from typing import Any

import pytest
from corelocker.licensing import errors
from corelocker.service import admin
from corelocker.service.messages import UnlockRequest
from corelocker.service.records import PurchaseKey
from cryptography.hazmat.primitives.asymmetric import ec
from support.full_service import (
    APP,
    DAY,
    NOW,
    OTHER_APP,
    TOKEN,
    TOKEN_ID,
    Device,
    FullService,
    in_parallel,
    no_license,
    one_time,
    outcome,
)

# --- the purchase ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "refusal"), [
    ({"environment": "production"}, errors.PurchaseEnvironmentError),
    ({"app": OTHER_APP}, errors.PurchaseAppError),
    ({"issuer": "another shop"}, errors.PurchaseSignatureError),
    ({"issued_at": NOW - 7200}, errors.PurchaseExpiredError),
    ({"issued_at": NOW + 3600}, errors.PurchaseNotYetValidError),
    ({"until": NOW}, errors.PurchaseExpiredError),
    ({"product": "unheard-of"}, errors.PurchaseProductError),
    ({"product": "plus"}, errors.PurchaseProductError),
])  # fmt: skip
def test_a_grant_that_does_not_count(world: FullService, changes: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        world.unlock(Device.new(), world.grant(**changes))
    assert no_license(world)


def test_a_grant_of_another_signer(world: FullService) -> None:
    from corelocker.licensing.tokens import SoftwareSigner

    world.backend = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(errors.PurchaseSignatureError):
        world.unlock(Device.new())


def test_an_app_store_purchase(world: FullService) -> None:
    device = Device.new()
    issued = world.unlock(device, world.transaction(), "app-attest")
    assert world.renew(device, issued.license_id, "app-assert").expires_at == NOW + 30 * DAY


@pytest.mark.parametrize(("changes", "refusal"), [
    ({"bundleId": "com.example.else"}, errors.PurchaseAppError),
    ({"environment": "Production"}, errors.PurchaseEnvironmentError),
    ({"environment": "Xcode"}, errors.PurchaseEnvironmentError),
    ({"productId": "plus"}, errors.PurchaseProductError),
    ({"revocationDate": NOW * 1000}, errors.PurchaseRevokedError),
    ({"type": "Auto-Renewable Subscription", "expiresDate": NOW * 1000}, errors.PurchaseExpiredError),
])  # fmt: skip
def test_a_transaction_that_does_not_count(
    world: FullService, changes: dict[str, Any], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        world.unlock(Device.new(), world.transaction(**changes))
    assert no_license(world)


def test_a_google_play_purchase(world: FullService) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN), "android")
    world.renew(device, issued.license_id, "device-key")
    stored = world.storage.entitlement(PurchaseKey("google-play", APP, TOKEN_ID))
    assert stored is not None
    assert len(stored.entitlement.places) == 1


@pytest.mark.parametrize(("answer", "refusal"), [
    (one_time(testPurchaseContext=None), errors.PurchaseEnvironmentError),
    (one_time(purchaseStateContext={"purchaseState": "PENDING"}), errors.PurchasePendingError),
    (one_time(purchaseStateContext={"purchaseState": "CANCELLED"}), errors.PurchaseRevokedError),
    (one_time(productLineItem=[{"productId": "plus"}]), errors.PurchaseProductError),
    (None, errors.PurchaseNotFoundError),
])  # fmt: skip
def test_a_google_play_purchase_that_does_not_count(
    world: FullService, answer: dict[str, Any] | None, refusal: type[Exception]
) -> None:
    if answer is not None:
        world.play.products[TOKEN] = {name: value for name, value in answer.items() if value is not None}
    with pytest.raises(refusal):
        world.unlock(Device.new(), world.google(TOKEN))
    assert no_license(world)


# --- entitlement sharing --------------------------------------------------------------------------


def test_one_device_more_than_the_purchase_allows(world: FullService) -> None:
    for _ in range(2):
        world.unlock(Device.new())
    with pytest.raises(errors.DeviceLimitError) as refused:
        world.unlock(Device.new())
    assert refused.value.retry_at == NOW + 30 * DAY
    assert len(world.storage.list_licenses()) == 2
    assert outcome(world) == ("unlock", "device-limit")
    # Another purchase has places of its own.
    world.unlock(Device.new(), world.grant("order-2"))


def test_many_devices_at_once_do_not_get_more_places(any_world: FullService) -> None:
    requests = [UnlockRequest.from_json(any_world.unlock_body(Device.new())) for _ in range(12)]
    results = in_parallel(12, lambda index: any_world.service.decisions.unlock(requests[index]))
    assert sorted(results) == ["device-limit"] * 10 + ["ok"] * 2


def test_places_change_hands_slowly(world: FullService) -> None:
    lost, used = Device.new(), Device.new()
    first = world.unlock(lost)
    world.unlock(used)
    newcomer = Device.new()
    world.clock.now += 29 * DAY
    world.unlock(used)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(newcomer)
    world.clock.now += DAY
    world.unlock(newcomer)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(Device.new())
    # Who lost the place is not renewed.
    with pytest.raises(errors.DeviceInactiveError):
        world.renew(lost, first.license_id)


def test_a_released_place_cools_down(world: FullService) -> None:
    devices = [Device.new() for _ in range(2)]
    licenses = [world.unlock(device) for device in devices]
    key = PurchaseKey("grant", APP, "sub:order-1")
    admin.release_device(world.storage, key, devices[0].thumbprint, clock=world.clock)
    with pytest.raises(errors.DeviceInactiveError):
        world.renew(devices[0], licenses[0].license_id)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(Device.new())
    admin.release_device(world.storage, key, devices[0].thumbprint, at_once=True, clock=world.clock)
    world.unlock(Device.new())


def test_a_perpetual_license_counts_for_ever(world: FullService) -> None:
    world.write(licenses="perpetual = true")
    world.service = world.open()
    devices = [Device.new() for _ in range(4)]
    for device in devices[:2]:
        issued = world.unlock(device)
        assert issued.expires_at is None
    row = world.storage.audit_rows(limit=1)[0]
    assert "for ever" in (row.detail or "")
    world.clock.now += 31 * DAY
    with pytest.raises(errors.DeviceLimitError) as refused:
        world.unlock(devices[2])
    assert refused.value.retry_at is None
    # Giving it up does not take the license off the device; only an operator can decide otherwise.
    key = PurchaseKey("grant", APP, "sub:order-1")
    admin.release_device(world.storage, key, devices[0].thumbprint, clock=world.clock)
    world.clock.now += 31 * DAY
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(devices[2])
    # Neither does a policy that gives licenses an end from now on.
    world.write()
    world.service = world.open()
    assert world.unlock(devices[1]).expires_at is not None
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(devices[2])
    admin.release_device(world.storage, key, devices[0].thumbprint, at_once=True, clock=world.clock)
    world.unlock(devices[2])
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(devices[3])
