"""Google Play, asked over HTTP at a local server that speaks the documented API, sign-in included."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from corelocker.errors import ConfigError
from corelocker.licensing import errors
from corelocker.purchases.entitlements import Purchase, entitled, observe
from corelocker.purchases.google_api import credentials_of
from corelocker.purchases.google_play import (
    SCOPE,
    GooglePlayConfig,
    Voided,
)
from support.google_play import (
    CATALOG,
    FUTURE,
    FUTURE_S,
    NOW,
    PAST,
    PAST_S,
    TOKEN,
    TOKEN_ID,
    Google,
    one_time,
    subscribed,
)
from support.play_server import (
    error_reply,
    json_reply,
    service_account,
    undocumented,
)


def test_the_answers_here_are_documented() -> None:
    """The field names are Google's; what the stored part of the discovery document leaves out is listed."""
    assert undocumented("ProductPurchaseV2", one_time()) == []
    assert undocumented("SubscriptionPurchaseV2", subscribed(linkedPurchaseToken="x")) == []
    assert undocumented("VoidedPurchase", {"purchaseToken": "x", "voidedTimeMillis": "1"}) == []
    assert undocumented("SubscriptionPurchaseV2", subscribed(subscriptionState="NEW", x=1)) == [
        "x",
        "subscriptionState=NEW",
    ]


# --- what Google says ----------------------------------------------------------------------------


def test_a_product(google: Google) -> None:
    assert google.product() == Purchase(
        provider="google-play",
        app="com.example.camera",
        purchase_id=TOKEN_ID,
        transaction_id="pro",
        product="pro",
        status="active",
        expires_at=None,
        as_of_ms=NOW,
        account="account-1",
        reference=f"product:{TOKEN}",
    )
    path = google.calls[-1].path
    assert path == f"/androidpublisher/v3/applications/com.example.camera/purchases/productsv2/tokens/{TOKEN}"


def test_a_subscription(google: Google) -> None:
    purchase = google.subscription()
    assert (purchase.status, purchase.expires_at, purchase.account) == ("active", FUTURE_S, "account-1")
    assert (purchase.purchase_id, purchase.reference, purchase.replaces) == (TOKEN_ID, f"subscription:{TOKEN}", None)
    linked = google.subscription(subscribed(linkedPurchaseToken="older-token"))
    assert linked.replaces == hashlib.sha256(b"older-token").hexdigest()


@pytest.mark.parametrize(
    ("state", "status"), [("PURCHASED", "active"), ("PENDING", "pending"), ("CANCELLED", "revoked")]
)
def test_states_of_a_product(google: Google, state: str, status: str) -> None:
    assert google.product(one_time(purchaseStateContext={"purchaseState": state})).status == status


@pytest.mark.parametrize(
    "context",
    [None, {}, {"purchaseState": "PURCHASE_STATE_UNSPECIFIED"}, {"purchaseState": "NEW"}, {"purchaseState": []}, 5],
)
def test_an_unknown_state_of_a_product_is_no_purchase(google: Google, context: object) -> None:
    with pytest.raises(errors.PurchaseUpstreamError):
        google.product(one_time(purchaseStateContext=context))


def test_a_fully_refunded_product_may_still_say_purchased(google: Google) -> None:
    item = {"productId": "pro", "productOfferDetails": {"quantity": 2, "refundableQuantity": 0}}
    assert google.product(one_time(productLineItem=[item])).status == "revoked"
    item = {"productId": "pro", "productOfferDetails": {"quantity": 2, "refundableQuantity": 1}}
    assert google.product(one_time(productLineItem=[item])).status == "active"
    assert google.product(one_time(productLineItem=[{"productId": "pro"}])).status == "active"


def test_rented_products_do_not_count(google: Google) -> None:
    item = {"productId": "pro", "productOfferDetails": {"rentOfferDetails": {}}}
    with pytest.raises(errors.PurchaseProductError):
        google.product(one_time(productLineItem=[item]))


@pytest.mark.parametrize(
    ("state", "status", "expires_at"),
    [
        ("ACTIVE", "active", FUTURE_S),
        ("IN_GRACE_PERIOD", "active", FUTURE_S),
        ("CANCELED", "active", FUTURE_S),
        ("EXPIRED", "active", NOW // 1000),
        ("PENDING", "pending", FUTURE_S),
        ("ON_HOLD", "pending", FUTURE_S),
        ("PAUSED", "pending", FUTURE_S),
        ("PENDING_PURCHASE_CANCELED", "revoked", FUTURE_S),
    ],
)
def test_states_of_a_subscription(google: Google, state: str, status: str, expires_at: int) -> None:
    purchase = google.subscription(subscribed(subscriptionState=f"SUBSCRIPTION_STATE_{state}"))
    assert (purchase.status, purchase.expires_at) == (status, expires_at)


@pytest.mark.parametrize("state", [None, "SUBSCRIPTION_STATE_UNSPECIFIED", "SUBSCRIPTION_STATE_NEW", {}])
def test_an_unknown_state_of_a_subscription_is_no_purchase(google: Google, state: object) -> None:
    with pytest.raises(errors.PurchaseUpstreamError):
        google.subscription(subscribed(subscriptionState=state))


def test_an_item_without_an_end_is_not_owned_yet(google: Google) -> None:
    assert google.subscription(subscribed(lineItems=[{"productId": "pro"}])).status == "pending"
    ended = subscribed(lineItems=[{"productId": "pro"}], subscriptionState="SUBSCRIPTION_STATE_EXPIRED")
    assert google.subscription(ended).status == "pending"
    canceled = ended | {"subscriptionState": "SUBSCRIPTION_STATE_PENDING_PURCHASE_CANCELED"}
    assert google.subscription(canceled).status == "revoked"


def test_a_replaced_subscription_is_superseded(google: Google) -> None:
    for state in ("CANCELED", "EXPIRED"):
        answer = subscribed(
            subscriptionState=f"SUBSCRIPTION_STATE_{state}", canceledStateContext={"replacementCancellation": {}}
        )
        assert google.subscription(answer).status == "superseded"
    canceled = subscribed(
        subscriptionState="SUBSCRIPTION_STATE_CANCELED", canceledStateContext={"userInitiatedCancellation": {}}
    )
    assert google.subscription(canceled).status == "active"


def test_an_empty_text_is_none(google: Google) -> None:
    empty = subscribed(linkedPurchaseToken="", externalAccountIdentifiers={"obfuscatedExternalAccountId": ""})
    purchase = google.subscription(empty)
    assert (purchase.replaces, purchase.account) == (None, None)
    assert google.product(one_time(obfuscatedExternalAccountId="")).account is None


def test_two_base_plans_of_one_product(google: Google) -> None:
    """What the user has counts, wherever the plan that begins at the next renewal is listed."""
    now, later = {"productId": "pro", "expiryTime": FUTURE}, {"productId": "pro"}
    ended = {"productId": "pro", "expiryTime": PAST}
    for items in ([now, later], [later, now], [now, ended], [ended, now], [{"productId": "plus"}, ended, later, now]):
        purchase = google.subscription(subscribed(lineItems=items))
        assert (purchase.status, purchase.expires_at) == ("active", FUTURE_S)


def test_ended_in_the_past(google: Google) -> None:
    item = {"productId": "pro", "expiryTime": PAST}
    for state in ("ACTIVE", "EXPIRED"):
        answer = subscribed(subscriptionState=f"SUBSCRIPTION_STATE_{state}", lineItems=[item])
        assert google.subscription(answer).expires_at == PAST_S


@pytest.mark.parametrize("end", ["2027-02-15T08:00:00", "tomorrow", 5, "", "2027-02-15"])
def test_an_end_that_is_no_time(google: Google, end: object) -> None:
    with pytest.raises(errors.PurchaseUpstreamError):
        google.subscription(subscribed(lineItems=[{"productId": "pro", "expiryTime": end}]))


@pytest.mark.parametrize(
    ("end", "seconds"),
    [
        ("2027-02-15T08:00:00Z", FUTURE_S),
        ("2027-02-15T08:00:00.999999999Z", FUTURE_S),
        ("2027-02-15T10:00:00+02:00", FUTURE_S),
        ("1969-12-31T23:59:59.5Z", -1),
    ],
)
def test_times_are_rounded_down(google: Google, end: str, seconds: int) -> None:
    assert google.subscription(subscribed(lineItems=[{"productId": "pro", "expiryTime": end}])).expires_at == seconds


def test_another_product_was_bought(google: Google) -> None:
    for buy in (google.product, google.subscription):
        with pytest.raises(errors.PurchaseProductError):
            buy(product="plus")
    with pytest.raises(errors.PurchaseProductError):
        google.product(one_time(productLineItem=None))
    two = [{"productId": "plus"}, {"productId": "pro"}]
    assert google.product(one_time(productLineItem=two)).product == "pro"


def test_test_purchases_count_in_development_only_and_only_they_do(google: Google) -> None:
    for buy in (
        lambda: google.product(one_time(testPurchaseContext=None)),
        lambda: google.subscription(subscribed(testPurchase=None)),
    ):
        with pytest.raises(errors.PurchaseEnvironmentError):
            buy()
    google.play = google.client()
    # The address of a test server cannot be configured in production: set it behind the check's back.
    object.__setattr__(google.play._config, "environment", "production")
    for buy in (google.product, google.subscription):
        with pytest.raises(errors.PurchaseEnvironmentError):
            buy()
    assert google.product(one_time(testPurchaseContext=None))
    assert google.subscription(subscribed(testPurchase=None))


def test_the_account_has_to_match(google: Google) -> None:
    assert google.product(account="account-1")
    assert google.subscription(account="account-1")
    for buy in (google.product, google.subscription):
        with pytest.raises(errors.PurchaseAccountError):
            buy(account="account-2")
    with pytest.raises(errors.PurchaseAccountError):
        google.product(one_time(obfuscatedExternalAccountId=None), account="account-1")
    with pytest.raises(errors.PurchaseAccountError):
        google.subscription(subscribed(externalAccountIdentifiers=None), account="account-1")


def test_an_unknown_token(google: Google) -> None:
    for kind in ("product", "subscription"):
        with pytest.raises(errors.PurchaseNotFoundError):
            google.play.verify(kind, "pro", TOKEN, now_ms=NOW)


@pytest.mark.parametrize(
    ("kind", "product", "token"),
    [
        ("rental", "pro", TOKEN),
        ("product", "", TOKEN),
        ("product", "../pro", TOKEN),
        ("product", 5, TOKEN),
        ("product", "pro", ""),
        ("product", "pro", "short"),
        ("product", "pro", "x" * 2049),
        ("product", "pro", f"{TOKEN}?x=1"),
        ("product", "pro", f"../{TOKEN}\n"),
        ("product", "pro", f"{TOKEN}é"),
        ("product", "pro", None),
    ],
)
def test_malformed_evidence_is_never_sent(google: Google, kind: Any, product: Any, token: Any) -> None:
    with pytest.raises(errors.PurchaseFormatError):
        google.play.verify(kind, product, token, now_ms=NOW)
    assert google.calls == []


def test_a_token_cannot_change_the_path(google: Google) -> None:
    with pytest.raises(errors.PurchaseNotFoundError):
        google.play.verify("product", "pro", "../../products/pro/tokens/x", now_ms=NOW)
    assert google.calls[-1].path.endswith("/purchases/productsv2/tokens/..%2F..%2Fproducts%2Fpro%2Ftokens%2Fx")


def test_another_package_is_not_ours(google: Google) -> None:
    google.products[TOKEN] = one_time()
    with pytest.raises(errors.PurchaseNotFoundError):
        google.client(package="com.example.other").verify("product", "pro", TOKEN, now_ms=NOW)


# --- renewal, refunds, acknowledgement -----------------------------------------------------------


def test_a_refund_between_two_unlocks(google: Google) -> None:
    first = google.product()
    state = observe(None, first)
    assert entitled(state, "com.example.camera", "b", "full", NOW // 1000, CATALOG)
    google.products[TOKEN]["purchaseStateContext"] = {"purchaseState": "CANCELLED"}
    state = observe(state, google.play.refresh(first, now_ms=NOW + 1))
    with pytest.raises(errors.PurchaseRevokedError):
        entitled(state, "com.example.camera", "b", "full", NOW // 1000, CATALOG)


def test_refresh_asks_about_the_same_purchase(google: Google) -> None:
    known = google.subscription()
    assert google.play.refresh(known, now_ms=NOW + 5) == replace(known, as_of_ms=NOW + 5)
    google.subscriptions[TOKEN]["lineItems"][0]["productId"] = "plus"
    with pytest.raises(errors.PurchaseProductError):
        google.play.refresh(known, now_ms=NOW)
    google.subscriptions[TOKEN] = subscribed(externalAccountIdentifiers={"obfuscatedExternalAccountId": "thief"})
    with pytest.raises(errors.PurchaseAccountError):
        google.play.refresh(known, now_ms=NOW)


@pytest.mark.parametrize("kind", ["product", "subscription"])
def test_acknowledgement(google: Google, kind: str) -> None:
    pending = {"acknowledgementState": "ACKNOWLEDGEMENT_STATE_PENDING"}
    known = google.product(one_time(**pending)) if kind == "product" else google.subscription(subscribed(**pending))
    assert not known.acknowledged
    done = google.play.acknowledge(known, now_ms=NOW + 1)
    assert done == replace(known, acknowledged=True)
    assert observe(observe(None, done), known).purchases == observe(observe(None, known), done).purchases == (done,)
    refunded = replace(known, status="revoked", as_of_ms=NOW + 1)
    assert observe(observe(None, refunded), done).purchases == (refunded,), "an acknowledgement is no news of the store"
    assert google.calls[-1].path.endswith(f"/{kind}s/pro/tokens/{TOKEN}:acknowledge")
    assert google.play.refresh(known, now_ms=NOW).acknowledged
    # Once more, as after a crash between Google's answer and ours; then with the newer knowledge, which asks nothing.
    assert google.play.acknowledge(known, now_ms=NOW + 2).acknowledged
    asked = len(google.calls)
    assert google.play.acknowledge(done, now_ms=NOW + 3) == done
    assert len(google.calls) == asked


def test_an_acknowledgement_that_fails_is_not_one(google: Google) -> None:
    known = google.product(one_time(acknowledgementState="ACKNOWLEDGEMENT_STATE_PENDING"))
    for failure in (lambda _: error_reply(503), lambda _: error_reply(400)):
        google.failures[":acknowledge"] = failure
        with pytest.raises(errors.PurchaseUpstreamError):
            google.play.acknowledge(known, now_ms=NOW)
    google.failures.clear()
    assert google.play.acknowledge(known, now_ms=NOW).acknowledged


def test_voided_orders_over_several_pages(google: Google) -> None:
    google.voided = [
        {"purchaseToken": f"token-{at}", "voidedTimeMillis": str(NOW + at), "orderId": f"o{at}"} for at in range(5)
    ]
    found = list(google.play.voided(since_ms=NOW - 1))
    assert found == [Voided(hashlib.sha256(f"token-{at}".encode()).hexdigest(), NOW + at) for at in range(5)]
    first = next(call for call in google.calls if call.path.endswith("/voidedpurchases"))
    assert first.query == {"type": "1", "startTime": str(NOW - 1)}
    google.voided = []
    assert list(google.play.voided(since_ms=0)) == []


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"purchaseToken": 5, "voidedTimeMillis": "1"},
        {"purchaseToken": "x"},
        {"purchaseToken": "x", "voidedTimeMillis": "x"},
        5,
    ],
)
def test_a_voided_order_that_cannot_be_read_is_not_skipped(google: Google, entry: Any) -> None:
    google.failures["/voidedpurchases"] = lambda _: json_reply({"voidedPurchases": [entry]})
    with pytest.raises(errors.PurchaseUpstreamError):
        list(google.play.voided(since_ms=0))


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_list_that_is_refused(google: Google, status: int) -> None:
    google.failures["/voidedpurchases"] = lambda _: error_reply(status)
    with pytest.raises(errors.PurchaseUpstreamError):
        list(google.play.voided(since_ms=0))


def test_a_list_without_end(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corelocker.purchases.google_play._MAX_PAGES", 5)
    google.failures["/voidedpurchases"] = lambda _: json_reply({"tokenPagination": {"nextPageToken": "again"}})
    with pytest.raises(errors.PurchaseUpstreamError):
        list(google.play.voided(since_ms=0))


def test_a_voided_product_stays_void(google: Google) -> None:
    known = google.product()
    void = google.play.void(known, NOW - 5, now_ms=NOW)
    assert (void.status, void.final) == ("revoked", True)
    state = observe(observe(None, void), google.play.refresh(known, now_ms=NOW + 100))
    with pytest.raises(errors.PurchaseRevokedError):
        entitled(state, "com.example.camera", "b", "full", NOW // 1000, CATALOG)


def test_a_voided_order_of_a_subscription_is_asked_about(google: Google) -> None:
    known = google.subscription()
    assert google.play.void(known, NOW - 5, now_ms=NOW + 1) == replace(known, as_of_ms=NOW + 1)
    google.subscriptions[TOKEN] = subscribed(subscriptionState="SUBSCRIPTION_STATE_EXPIRED")
    assert google.play.void(known, NOW - 5, now_ms=NOW + 1).expired(NOW // 1000 + 1)


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"package": "camera"},
        {"package": "com.example/../x"},
        {"package": ""},
        {"timeout": 0},
        {"environment": "production", "base_url": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_configuration_has_to_make_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GooglePlayConfig(**({"environment": "development", "package": "com.example.camera"} | changes))
    assert GooglePlayConfig("production", "com.example.camera").base_url == "https://androidpublisher.googleapis.com"


def test_a_key_file_that_is_none() -> None:
    for account in ({}, {"type": "service_account"}, service_account("http://x") | {"private_key": "secret-nonsense"}):
        with pytest.raises(ConfigError) as raised:
            credentials_of(account, SCOPE)
        assert "secret-nonsense" not in str(raised.value)
