"""Renewals: by whom, how long, and of what."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle.content_keys import tier_keys
from corelocker.licensing import errors
from corelocker.licensing import errors as refusals
from corelocker.service import admin
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.messages import RenewRequest
from corelocker.service.records import PurchaseKey
from support.full_service import (
    APP,
    DAY,
    NOW,
    RELAYS,
    Device,
    FullService,
    reason,
)


@pytest.mark.parametrize(("first", "then"), [("android", "development"), ("android", "app-attest"),
                                             ("android", "android"), ("app-attest", "device-key"),
                                             ("app-attest", "development"), ("app-attest", "app-attest"),
                                             ("development", "android"), ("development", "app-attest")])  # fmt: skip
def test_a_renewal_takes_the_proof_that_fits_the_first_one(world: FullService, first: str, then: str) -> None:
    device = Device.new()
    issued = world.unlock(device, proof=first)
    with pytest.raises(refusals.FormatNotAllowedError):
        world.renew(device, issued.license_id, then)


@pytest.mark.parametrize("proof", ["development", "device-key"])
def test_a_renewal_by_another_device_key(world: FullService, proof: str) -> None:
    owner, thief = Device.new(), Device.new()
    issued = world.unlock(owner)
    with pytest.raises(AttestationRefusedError) as refused:
        world.renew(thief, issued.license_id, proof)
    assert reason(refused) is Reason.SIGNATURE


@pytest.mark.parametrize("part", ["app", "bundle", "tier", "challenge"])
def test_a_device_key_proof_is_for_one_renewal(world: FullService, part: str) -> None:
    device = Device.new()
    issued = world.unlock(device, proof="android")
    with pytest.raises(AttestationRefusedError):
        world.renew(device, issued.license_id, "device-key", **RELAYS[part](world))
    body = world.renew_body(device, issued.license_id, "device-key")
    with pytest.raises(AttestationRefusedError):
        world.service.decisions.renew(
            issued.license_id, RenewRequest.from_json(body | {"challenge": world.challenge()})
        )


@pytest.mark.parametrize(
    "license_id", ["", "x", "../..", "0" * 36, "A" * 5000, "8c7f0a52-3d1e-4b69-9a40-5e2f6c1d7b83", "\0", "'; --"]
)
def test_a_license_that_was_never_issued(world: FullService, license_id: str) -> None:
    with pytest.raises(refusals.LicenseUnknownError):
        world.renew(Device.new(), license_id)


def test_a_license_can_be_renewed_for_a_while_after_its_end(world: FullService) -> None:
    device = Device.new()
    issued = world.unlock(device)
    world.clock.now = NOW + 210 * DAY - 1
    world.renew(device, issued.license_id, "device-key")
    world.clock.now += 1
    with pytest.raises(errors.LicenseExpiredError):
        world.renew(device, issued.license_id, "device-key")


def test_a_revoked_license_is_not_renewed_and_its_device_gets_no_other(any_world: FullService) -> None:
    device, other = Device.new(), Device.new()
    first = any_world.unlock(device)
    renewed = any_world.renew(device, first.license_id)
    spared = any_world.unlock(other)
    assert admin.revoke_license(any_world.storage, first.license_id, purchase=False, clock=any_world.clock) == 2
    for license_id in (first.license_id, renewed.license_id):
        with pytest.raises(errors.LicenseRevokedError):
            any_world.renew(device, license_id)
    with pytest.raises(errors.LicenseRevokedError):
        any_world.unlock(device)
    any_world.renew(other, spared.license_id)
    key = PurchaseKey("grant", APP, "sub:order-1")
    admin.allow_device(any_world.storage, key, device.thumbprint, clock=any_world.clock)
    any_world.unlock(device)
    with pytest.raises(errors.LicenseRevokedError):
        any_world.renew(device, first.license_id)


def test_a_license_that_is_revoked_after_it_was_read(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewal has read the license; it is revoked, and the device let in again, before the renewal decides."""
    device = Device.new()
    first = world.unlock(device)
    stale = world.storage.license(first.license_id)
    admin.revoke_license(world.storage, first.license_id, clock=world.clock)
    admin.allow_device(world.storage, PurchaseKey("grant", APP, "sub:order-1"), device.thumbprint, clock=world.clock)
    monkeypatch.setattr(world.storage, "license", lambda jti: stale)
    with pytest.raises(errors.LicenseRevokedError):
        world.renew(device, first.license_id)
    assert len(world.storage.list_licenses()) == 1


def test_a_closed_purchase_unlocks_nothing_for_anybody(world: FullService) -> None:
    device, other = Device.new(), Device.new()
    first, spared = world.unlock(device), world.unlock(other)
    admin.revoke_license(world.storage, first.license_id, clock=world.clock)
    for refused in (lambda: world.renew(other, spared.license_id), lambda: world.unlock(Device.new())):
        with pytest.raises(errors.PurchaseRevokedError):
            refused()


def test_a_new_device_key_does_not_undo_a_revocation(any_world: FullService) -> None:
    """A reinstalled app makes a new device key; the purchase is closed for all of them."""
    device = Device.new()
    first = any_world.unlock(device)
    admin.revoke_license(any_world.storage, first.license_id, clock=any_world.clock)
    with pytest.raises(errors.LicenseRevokedError):
        any_world.unlock(device)
    with pytest.raises(errors.PurchaseRevokedError):
        any_world.unlock(Device.new())
    # Another purchase is another matter, and so is an operator who changes his mind.
    any_world.unlock(Device.new(), any_world.grant("order-2"))
    key = PurchaseKey("grant", APP, "sub:order-1")
    admin.allow_device(any_world.storage, key, device.thumbprint, clock=any_world.clock)
    any_world.unlock(device)
    any_world.unlock(Device.new())


def test_what_was_replaced_is_not_opened_again(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device)
    key = PurchaseKey("grant", APP, "sub:order-1")
    with world.storage.transaction() as transaction:
        stored = transaction.entitlements([key])[key]
        transaction.save(replace(stored, entitlement=replace(stored.entitlement, closed="superseded")))
    admin.revoke_license(world.storage, first.license_id, purchase=False, clock=world.clock)
    admin.allow_device(world.storage, key, device.thumbprint, clock=world.clock)
    with pytest.raises(errors.PurchaseSupersededError):
        world.unlock(device)


def test_a_renewal_gives_the_tier_that_is_left(world: FullService) -> None:
    """The subscription was changed to a cheaper plan: what the purchase is worth now replaces what the device holds."""
    device, end = Device.new(), (NOW + 300 * DAY) * 1000
    ids = {"originalTransactionId": "1", "expiresDate": end}
    first = world.unlock(device, world.transaction(transactionId="1", **ids))
    assert (world.read(first).tier, first.expires_at) == ("full", NOW + 30 * DAY)
    world.clock.now += DAY
    past = {"originalTransactionId": "1", "expiresDate": (NOW + DAY) * 1000}
    world.service.notices.app_store(APP, world.apple_notice("DID_RENEW", transactionId="1", **past))
    soon = {"originalTransactionId": "1", "expiresDate": (NOW + 2 * DAY) * 1000}
    world.service.notices.app_store(APP, world.apple_notice("DID_RENEW", transactionId="2", productId="plus", **soon))
    second = world.renew(device, first.license_id, "device-key")
    license_ = world.read(second)
    assert (license_.tier, second.expires_at) == ("plus", NOW + 2 * DAY)
    assert license_.open(device.software) == tier_keys(world.content_key, uuid.UUID(world.bundle), 3)[1]
    # From now on that is the license; its tier is part of the next proof.
    third = world.renew(device, second.license_id, "device-key", tier="plus")
    assert world.read(third).tier == "plus"


def test_a_renewal_of_less_than_the_lowest_tier_is_refused(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device, world.grant(until=NOW + DAY))
    world.clock.now += DAY
    with pytest.raises(errors.PurchaseExpiredError):
        world.renew(device, first.license_id)


def test_a_license_of_an_app_that_is_gone(world: FullService) -> None:
    device = Device.new()
    issued = world.unlock(device, proof="android")
    text = (world.folder / "service.toml").read_text()
    start, end = text.index("[apps.android]"), text.index("[apps.apple]")
    (world.folder / "service.toml").write_text(text[:start] + text[end:])
    world.service = world.open()
    with pytest.raises(refusals.FormatNotAllowedError):
        world.renew(device, issued.license_id, "device-key")
