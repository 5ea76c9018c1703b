"""Refunds, upgrades and renewals that stores tell, and purchases that they are told about."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from corelocker.licensing import errors
from corelocker.licensing import errors as refusals
from corelocker.service.records import PurchaseKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.full_service import (
    APP,
    DAY,
    NOW,
    OTHER_APP,
    TOKEN,
    TOKEN_ID,
    Device,
    FullService,
    one_time,
    outcome,
    push_token,
    subscription,
)
from support.play_server import error_reply, http_server, json_reply

# --- refunds --------------------------------------------------------------------------------------


def test_a_refund_at_the_app_store_ends_renewals_and_unlocks(any_world: FullService) -> None:
    device, bought = Device.new(), any_world.transaction()
    issued = any_world.unlock(device, bought)
    any_world.clock.now += 60
    any_world.service.notices.app_store(
        APP, any_world.apple_notice("REFUND", revocationDate=int(any_world.clock.now * 1000))
    )
    with pytest.raises(errors.PurchaseRevokedError):
        any_world.renew(device, issued.license_id)
    # The transaction that was signed before the refund still verifies; it does not count any more.
    with pytest.raises(errors.PurchaseRevokedError):
        any_world.unlock(device, bought)


def test_a_refund_that_is_told_before_the_purchase_is_shown(world: FullService) -> None:
    bought = world.transaction()
    world.clock.now += 60
    world.service.notices.app_store(APP, world.apple_notice("REFUND", revocationDate=int(world.clock.now * 1000)))
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(Device.new(), bought)


def test_notices_replayed_and_out_of_order(world: FullService) -> None:
    device = Device.new()
    bought = world.apple_notice("ONE_TIME_CHARGE")
    world.clock.now += 60
    refunded = world.apple_notice("REFUND", revocationDate=int(world.clock.now * 1000))
    world.clock.now += 60
    reversed_ = world.apple_notice("REFUND_REVERSED")
    for notice in (refunded, bought, refunded, bought):
        world.service.notices.app_store(APP, notice)
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(device, world.transaction(signedDate=int(world.clock.now * 1000) - 90_000))
    for notice in (reversed_, refunded, bought):
        world.service.notices.app_store(APP, notice)
    world.unlock(device, world.transaction())


def test_a_notice_about_something_that_is_not_sold_here_keeps_nothing(world: FullService) -> None:
    world.service.notices.app_store(APP, world.apple_notice("REFUND", productId="coins"))
    assert world.storage.entitlement(PurchaseKey("app-store", APP, "1000")) is None
    assert outcome(world) == ("notice", "ok")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"signedPayload": 1}', b'{"signedPayload": "a.b.c"}'])
def test_a_notice_that_apple_did_not_sign(world: FullService, body: bytes) -> None:
    with pytest.raises(errors.LicensingError) as refused:
        world.service.notices.app_store(APP, body)
    assert refused.value.code in ("request-malformed", "purchase-format", "purchase-signature")
    assert outcome(world) == ("notice", refused.value.code)


@pytest.mark.parametrize("app", ["com.example.nobody", OTHER_APP])
def test_notices_for_an_app_that_takes_none(world: FullService, app: str) -> None:
    with pytest.raises((refusals.AppUnknownError, refusals.ProviderNotAllowedError)):
        world.service.notices.app_store(app, world.apple_notice("REFUND"))
    with pytest.raises((refusals.AppUnknownError, refusals.ProviderNotAllowedError)):
        world.service.notices.google_play(app, push_token(NOW), b"{}")


def test_the_name_of_an_app_that_nobody_knows(any_world: FullService) -> None:
    """It comes out of the request's address: an operator's terminal must not obey it, and a database must take it."""
    for name in ("a\x00b", "a\x1b[2Jb", "a\nb", "a\u202eb", "a" * 9000):
        for tell in (
            lambda name=name: any_world.service.notices.app_store(name, b"{}"),
            lambda name=name: any_world.service.notices.google_play(name, None, b"{}"),
        ):
            with pytest.raises(errors.AppUnknownError):
                tell()
            row = any_world.storage.audit_rows(limit=1)[0]
            assert (row.outcome, row.app and row.app[:2]) == ("app-unknown", "a " if len(name) < 10 else "aa")
            assert row.app is not None
            assert row.app.isprintable()
    assert len(any_world.storage.audit_rows(event="notice")) == 10


def google_notice(**content: Any) -> bytes:
    notice = {"version": "1.0", "packageName": APP, "eventTimeMillis": str(NOW * 1000 + 1)} | content
    data = base64.b64encode(json.dumps(notice).encode()).decode()
    return json.dumps({"message": {"data": data, "messageId": "1"}, "subscription": "s"}).encode()


VOIDED = {"voidedPurchaseNotification": {"purchaseToken": TOKEN, "orderId": "1", "productType": 2, "refundType": 1}}
CHANGED = {"oneTimeProductNotification": {"purchaseToken": TOKEN, "notificationType": 2, "version": "1.0"}}


def test_a_refund_at_google_play_is_asked_for_at_renewal(world: FullService) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN))
    world.clock.now += 60
    world.play.products[TOKEN] = one_time(purchaseStateContext={"purchaseState": "CANCELLED"})
    with pytest.raises(errors.PurchaseRevokedError):
        world.renew(device, issued.license_id)
    assert outcome(world) == ("renew", "purchase-revoked")
    # What the store said is kept although nothing was issued.
    stored = world.storage.entitlement(PurchaseKey("google-play", APP, TOKEN_ID))
    assert stored is not None
    assert [known.status for known in stored.entitlement.purchases] == ["revoked"]


@pytest.mark.parametrize(
    "order", [(VOIDED,), (VOIDED, CHANGED), (CHANGED, VOIDED, VOIDED)], ids=["once", "then", "twice"]
)
def test_a_voided_order_at_google_play_stays_void(world: FullService, order: tuple[dict[str, Any], ...]) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN))
    for content in order:
        world.service.notices.google_play(APP, push_token(NOW), google_notice(**content))
    world.clock.now += 60
    # Google's answer may go on saying PURCHASED.
    with pytest.raises(errors.PurchaseRevokedError):
        world.renew(device, issued.license_id)
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(device, world.google(TOKEN))


def test_a_voided_order_that_no_notice_told(world: FullService) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN))
    world.play.voided = [{"purchaseToken": TOKEN, "voidedTimeMillis": str(NOW * 1000 + 5)},
                         {"purchaseToken": "never-shown-here", "voidedTimeMillis": "1"}]  # fmt: skip
    world.clock.now += 60
    assert world.service.maintenance.run() == []
    with pytest.raises(errors.PurchaseRevokedError):
        world.renew(device, issued.license_id)
    asked = [call for call in world.play.calls if call.path.endswith("voidedpurchases")]
    assert world.service.maintenance.run() == []
    assert len([call for call in world.play.calls if call.path.endswith("voidedpurchases")]) == len(asked)


@pytest.mark.parametrize(("authorization", "content"), [
    (None, CHANGED), ("Bearer x.y.z", CHANGED), (push_token(NOW, aud="https://else"), CHANGED),
    (push_token(NOW, email="else@x"), CHANGED), (push_token(NOW - 9000), CHANGED),
    (push_token(NOW), CHANGED | {"packageName": "com.example.else"}),
])  # fmt: skip
def test_a_notice_that_google_did_not_send(
    world: FullService, authorization: str | None, content: dict[str, Any]
) -> None:
    with pytest.raises(errors.PurchaseNoticeError):
        world.service.notices.google_play(APP, authorization, google_notice(**content))
    assert outcome(world) == ("notice", "purchase-notice")


def test_a_notice_about_a_purchase_that_nobody_has_shown(world: FullService) -> None:
    world.service.notices.google_play(APP, push_token(NOW), google_notice(**VOIDED))
    assert world.storage.entitlement(PurchaseKey("google-play", APP, TOKEN_ID)) is None


def test_a_subscription_is_renewed_by_the_store_and_then_ends(world: FullService) -> None:
    world.play.subscriptions[TOKEN] = subscription("2026-03-11T12:00:00Z")
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN, kind="subscription"))
    assert issued.expires_at == NOW + 10 * DAY
    world.clock.now += 11 * DAY
    world.play.subscriptions[TOKEN] = subscription("2026-03-21T12:00:00Z")
    renewed = world.renew(device, issued.license_id)
    assert renewed.expires_at == NOW + 20 * DAY
    world.clock.now += 10 * DAY
    with pytest.raises(errors.PurchaseExpiredError):
        world.renew(device, renewed.license_id)


def test_an_upgrade_takes_the_devices_along(any_world: FullService) -> None:
    any_world.play.subscriptions[TOKEN] = subscription("2026-03-11T12:00:00Z")
    devices = [Device.new() for _ in range(2)]
    licenses = [any_world.unlock(device, any_world.google(TOKEN, kind="subscription")) for device in devices]
    newer = "newer-" + TOKEN
    any_world.play.subscriptions[newer] = subscription("2026-03-31T12:00:00Z", linkedPurchaseToken=TOKEN)
    # The places are taken: switching plans gives no fresh ones.
    with pytest.raises(errors.DeviceLimitError):
        any_world.unlock(Device.new(), any_world.google(newer, kind="subscription"))
    any_world.unlock(devices[0], any_world.google(newer, kind="subscription"))
    for device, license_ in zip(devices, licenses, strict=True):
        with pytest.raises(errors.PurchaseSupersededError):
            any_world.renew(device, license_.license_id)


def test_the_app_store_is_asked_at_renewal_where_it_can_be(world: FullService) -> None:
    """No notification came; Apple's own answer tells of the refund, and where it gives none, nothing is issued."""
    answers: list[Any] = []
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (world.folder / "api.p8").write_bytes(private)
    with http_server(lambda call: answers[-1]) as url:
        text = (world.folder / "service.toml").read_text()
        api = f'[apps.app_store.api]\nissuer_id = "i"\nkey_id = "k"\nprivate_key_file = "api.p8"\nbase_url = "{url}"\n'
        (world.folder / "service.toml").write_text(text.replace("[apps.google_play]", api + "[apps.google_play]"))
        world.service = world.open()
        device = Device.new()
        issued = world.unlock(device, world.transaction())
        answers.append(json_reply({"signedTransactionInfo": world.transaction()["transaction"]}))
        world.renew(device, issued.license_id)
        world.clock.now += 60
        answers.append(error_reply(500))
        with pytest.raises(errors.PurchaseUpstreamError):
            world.renew(device, issued.license_id)
        refunded = world.transaction(revocationDate=int(world.clock.now * 1000))["transaction"]
        answers.append(json_reply({"signedTransactionInfo": refunded}))
        with pytest.raises(errors.PurchaseRevokedError):
            world.renew(device, issued.license_id)
    # The refund is known from now on, also without Apple.
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(device, world.transaction(signedDate=NOW * 1000))


# --- acknowledging --------------------------------------------------------------------------------


def test_a_purchase_is_acknowledged_once_it_was_delivered(any_world: FullService) -> None:
    any_world.play.products[TOKEN] = one_time(acknowledgementState="ACKNOWLEDGEMENT_STATE_PENDING")
    any_world.unlock(Device.new(), any_world.google(TOKEN))
    assert len(any_world.storage.unacknowledged()) == 1
    any_world.play.failures[":acknowledge"] = lambda call: error_reply(503)
    assert [error.code for error in any_world.service.maintenance.run()] == ["purchase-upstream"]
    assert len(any_world.storage.unacknowledged()) == 1
    any_world.play.failures.clear()
    assert any_world.service.maintenance.run() == []
    assert any_world.play.products[TOKEN]["acknowledgementState"] == "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED"
    assert any_world.storage.unacknowledged() == []
    calls = len(any_world.play.calls)
    any_world.service.maintenance.run()
    assert len(any_world.play.calls) == calls


def test_a_purchase_that_was_not_delivered_is_not_acknowledged(world: FullService) -> None:
    pending = one_time(acknowledgementState="ACKNOWLEDGEMENT_STATE_PENDING")
    world.play.products[TOKEN] = pending
    with pytest.raises(errors.PurchaseProductError):
        world.unlock(Device.new(), world.google(TOKEN, product="else"))
    world.play.products[TOKEN] = pending | {"productLineItem": [{"productId": "plus"}]}
    with pytest.raises(errors.PurchaseProductError):
        world.unlock(Device.new(), world.google(TOKEN, product="plus"))
    assert world.storage.unacknowledged() == []
    world.service.maintenance.run()
    assert not [call for call in world.play.calls if call.path.endswith(":acknowledge")]
