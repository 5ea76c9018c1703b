"""Google Play, asked over HTTP at a local server that speaks the documented API, sign-in included."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corelocker.errors import ConfigError
from corelocker.licensing import errors
from corelocker.purchases._http import Answer, refuse_failure
from corelocker.purchases.entitlements import Catalog, Purchase, Unlock, entitled, observe
from corelocker.purchases.google_play import (
    MAX_NOTICE_SIZE,
    GoogleKeys,
    GooglePlay,
    GooglePlayConfig,
    PlayNotice,
    PlayNotices,
    Voided,
    credentials_of,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import KeySet, OctKey, RSAKey
from support.play_server import (
    GOOGLE_KEY,
    Call,
    PlayServer,
    drip,
    error_reply,
    hang,
    http_server,
    json_reply,
    raw,
    service_account,
    undocumented,
)

NOW = 1_800_000_000_000
TOKEN = "opaque-token.AO-J1OwA_abcdefgh"
TOKEN_ID = hashlib.sha256(TOKEN.encode()).hexdigest()
FUTURE, PAST = "2027-02-15T08:00:00.500Z", "2026-12-15T08:00:00Z"
FUTURE_S, PAST_S = 1802678400, 1797321600


def one_time(**changes: Any) -> dict[str, Any]:
    answer = {
        "kind": "androidpublisher#productPurchaseV2",
        "productLineItem": [
            {
                "productId": "pro",
                "productOfferDetails": {"quantity": 1, "refundableQuantity": 1, "purchaseOptionId": "buy"},
            }
        ],
        "purchaseStateContext": {"purchaseState": "PURCHASED"},
        "testPurchaseContext": {"fopType": "TEST"},
        "orderId": "GPA.1234-5678-9012-34567",
        "purchaseCompletionTime": PAST,
        "acknowledgementState": "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED",
        "obfuscatedExternalAccountId": "account-1",
        "regionCode": "DE",
    } | changes
    return {name: value for name, value in answer.items() if value is not None}


def subscribed(**changes: Any) -> dict[str, Any]:
    answer = {
        "kind": "androidpublisher#subscriptionPurchaseV2",
        "startTime": PAST,
        "regionCode": "DE",
        "subscriptionState": "SUBSCRIPTION_STATE_ACTIVE",
        "lineItems": [{"productId": "pro", "expiryTime": FUTURE, "autoRenewingPlan": {"autoRenewEnabled": True}}],
        "acknowledgementState": "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED",
        "externalAccountIdentifiers": {"obfuscatedExternalAccountId": "account-1"},
        "testPurchase": {},
    } | changes
    return {name: value for name, value in answer.items() if value is not None}


class Google(PlayServer):
    """The server, and a client that is signed in to it."""

    url: str
    play: GooglePlay

    def client(self, **changes: Any) -> GooglePlay:
        config = {"environment": "development", "package": "com.example.camera", "base_url": self.url, "timeout": 20.0}
        return GooglePlay(GooglePlayConfig(**(config | changes)), credentials_of(service_account(self.url)))

    def impatient(self) -> GooglePlay:
        """A client that is signed in already, with a second of patience."""
        assert list(self.play.voided(since_ms=0)) == []
        return GooglePlay(replace(self.play._config, timeout=1.0), self.play._api.credentials)

    def product(self, answer: dict[str, Any] | None = None, product: str = "pro", **options: Any) -> Purchase:
        self.products[TOKEN] = one_time() if answer is None else answer
        return self.play.verify("product", product, TOKEN, now_ms=NOW, **options)

    def subscription(self, answer: dict[str, Any] | None = None, product: str = "pro", **options: Any) -> Purchase:
        self.subscriptions[TOKEN] = subscribed() if answer is None else answer
        return self.play.verify("subscription", product, TOKEN, now_ms=NOW, **options)


@pytest.fixture
def google() -> Iterator[Google]:
    server = Google()
    with http_server(server.answer) as url:
        server.url = url
        server.play = server.client()
        yield server


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


# --- when Google does not answer -----------------------------------------------------------------

BROKEN = {
    "429": lambda _: error_reply(429, "rateLimitExceeded", {"Retry-After": "17"}),
    "500": lambda _: error_reply(500),
    "503": lambda _: error_reply(503, headers={"Retry-After": "soon"}),
    "302": lambda _: (302, {"Location": "/elsewhere"}, b""),
    "403-quota": lambda _: error_reply(403, "quotaExceeded"),
    "403-status": lambda _: json_reply({"error": {"status": "RESOURCE_EXHAUSTED"}}, 403),
    "409": lambda _: error_reply(409),
    "hang": hang(60),
    "drip": drip(600, 0.1),
    "closed": raw(b""),
    "cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
    "no-http": raw(b"\x16\x03\x01\x02"),
    "no-json": lambda _: (200, {}, b"<html>"),
    "list": lambda _: json_reply([]),
    "null": lambda _: json_reply(None),
    "deep": lambda _: (200, {}, b"[" * 100_000),
    "not-utf8": lambda _: (200, {}, b'{"a":"\xff"}'),
    "empty": lambda _: (200, {}, b""),
    # What comes before the spaces would count.
    "large": lambda _: (200, {}, json.dumps(one_time() | subscribed()).encode().ljust(5 << 20)),
    "bomb": lambda _: (
        200,
        {"Content-Encoding": "gzip"},
        gzip.compress(json.dumps(one_time() | subscribed()).encode().ljust(50 << 20)),
    ),
    "bad-gzip": lambda _: (200, {"Content-Encoding": "gzip"}, b"not gzip"),
    "bad-chunks": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "items-no-list": lambda _: json_reply(one_time(productLineItem={"productId": "pro"}) | subscribed(lineItems=5)),
    "items-no-objects": lambda _: json_reply(one_time(productLineItem=["pro"]) | subscribed(lineItems=["pro"])),
    "account-number": lambda _: json_reply(
        one_time(obfuscatedExternalAccountId=5)
        | subscribed(externalAccountIdentifiers={"obfuscatedExternalAccountId": 5})
    ),
    "surrogate": lambda _: json_reply(one_time(orderId="\ud800") | subscribed(linkedPurchaseToken="\ud800")),
    "surrogate-in-utf8": lambda _: (
        200,
        {},
        json.dumps(one_time() | subscribed(linkedPurchaseToken="LINKED")).encode().replace(b"LINKED", b"\xed\xa0\x80"),
    ),
}


@pytest.mark.parametrize("kind", ["product", "subscription"])
@pytest.mark.parametrize("failure", BROKEN)
def test_a_broken_answer_is_retryable_and_no_purchase(google: Google, failure: str, kind: Any) -> None:
    google.products[TOKEN], google.subscriptions[TOKEN] = one_time(), subscribed()
    google.failures[r"/purchases/(products|subscriptions)v2/"] = BROKEN[failure]
    play = google.impatient() if failure in ("hang", "drip") else google.play
    with pytest.raises(errors.PurchaseUpstreamError) as raised:
        play.verify(kind, "pro", TOKEN, now_ms=NOW)
    assert raised.value.retryable
    assert raised.value.retry_after == (17 if failure == "429" else None)
    assert TOKEN not in str(raised.value)
    google.failures.clear()
    assert google.play.verify(kind, "pro", TOKEN, now_ms=NOW), "and it works again afterwards"


def test_the_time_limit_is_one_for_all_of_the_answer(google: Google) -> None:
    """Each byte comes in time, the whole never does."""
    google.failures["/productsv2/"] = drip(600, 0.1)
    play, begin = google.impatient(), time.monotonic()
    with pytest.raises(errors.PurchaseUpstreamError):
        play.verify("product", "pro", TOKEN, now_ms=NOW)
    assert time.monotonic() - begin < 30


def test_nobody_listens(google: Google) -> None:
    with http_server(google.answer) as url:
        play = google.client(base_url=url)
    with pytest.raises(errors.PurchaseUpstreamError):
        play.verify("product", "pro", TOKEN, now_ms=NOW)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_the_operators_business(google: Google, status: int) -> None:
    google.failures["/purchases/"] = lambda _: error_reply(status, "permissionDenied")
    with pytest.raises(errors.PurchaseUpstreamDeniedError) as raised:
        google.product()
    assert not raised.value.retryable


@pytest.mark.parametrize(
    "error",
    [[], 5, {"errors": 5}, {"errors": [5, None]}, {"errors": [{"reason": []}]}, {"status": {}}, {"errors": [{}]}],
    ids=str,
)
def test_a_refusal_of_any_shape(error: object) -> None:
    for body in ({"error": error}, [error], error):
        with pytest.raises(errors.PurchaseUpstreamDeniedError):
            refuse_failure(Answer(403, {}, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7), ("9" * 9, 86400), ("9" * 10, None), ("9" * 5000, None), ("²", None), ("-1", None)]
)
def test_when_to_ask_again(value: str, seconds: int | None) -> None:
    with pytest.raises(errors.PurchaseUpstreamError) as raised:
        refuse_failure(Answer(503, {"Retry-After": value}, b""))
    assert raised.value.retry_after == seconds


def test_a_netrc_file_does_not_replace_the_sign_in(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert google.product()


def test_a_lost_sign_in_is_renewed(google: Google) -> None:
    assert google.product()
    google.signed_in.clear()
    assert google.product()


@pytest.mark.parametrize(
    ("failure", "refusal"),
    [
        (lambda _: error_reply(503), errors.PurchaseUpstreamError),
        (raw(b""), errors.PurchaseUpstreamError),
        (lambda _: json_reply({"error": "invalid_grant"}, 400), errors.PurchaseUpstreamDeniedError),
        (lambda _: (200, {}, b"<html>"), errors.PurchaseUpstreamError),
        (lambda _: json_reply({"expires_in": 5}), errors.PurchaseUpstreamDeniedError),
    ],
)
def test_sign_in_fails(google: Google, failure: Any, refusal: type[Exception]) -> None:
    google.failures["^/token"] = failure
    with pytest.raises((errors.PurchaseUpstreamError, errors.PurchaseUpstreamDeniedError)) as raised:
        google.product()
    assert isinstance(raised.value, refusal)


def test_several_threads(google: Google) -> None:
    google.products[TOKEN] = one_time()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: google.play.verify("product", "pro", TOKEN, now_ms=NOW), range(80)))
    assert len(set(found)) == 1


# --- renewal, refunds, acknowledgement -----------------------------------------------------------

CATALOG = Catalog({("com.example.camera", "pro"): (Unlock("b", "full"),)}, {"b": ("free", "full")})


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
            credentials_of(account)
        assert "secret-nonsense" not in str(raised.value)


# --- real-time developer notifications -----------------------------------------------------------

SECONDS = NOW // 1000
AUDIENCE, SENDER = "https://unlock.example.com/v1/notices/google", "push@project.iam.gserviceaccount.com"
RS256 = jws.JWSRegistry(algorithms=["RS256", "HS256"])


def push_token(key: Any = GOOGLE_KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": SENDER,
        "email_verified": True,
        "iat": SECONDS - 10,
        "exp": SECONDS + 3590,
        "sub": "113774264463038321964",
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    header = {"alg": "RS256", "kid": "google-1", "typ": "JWT"} | (header or {})
    imported = RSAKey.import_key(key) if isinstance(key, rsa.RSAPrivateKey) else key
    return "Bearer " + jws.serialize_compact(header, json.dumps(claims), imported, registry=RS256)


def unsigned(**header: Any) -> str:
    """The claims of a good token under a header that says that nobody signed them."""
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none"} | header).encode()).decode().rstrip("=")
    return f"Bearer {head}.{push_token().split('.')[1]}."


def push_body(notice: dict[str, Any] | None = None, **changes: Any) -> bytes:
    content = {"version": "1.0", "packageName": "com.example.camera", "eventTimeMillis": str(NOW - 7)} | (notice or {})
    data = base64.b64encode(json.dumps({name: value for name, value in content.items() if value is not None}).encode())
    message = {"data": data.decode(), "messageId": "136969346945", "publishTime": PAST} | changes
    message = {name: value for name, value in message.items() if value is not None}
    return json.dumps({"message": message, "subscription": "projects/p/subscriptions/s"}).encode()


SUBSCRIPTION = {"subscriptionNotification": {"version": "1.0", "notificationType": 4, "purchaseToken": TOKEN}}
KEYS = KeySet.import_key_set(
    {"keys": [RSAKey.import_key(GOOGLE_KEY).as_dict(private=False, kid="google-1", use="sig")]}
)
NOTICES = PlayNotices("com.example.camera", AUDIENCE, SENDER, lambda _: KEYS)


@pytest.mark.parametrize(
    ("notice", "subject", "voided"),
    [
        (SUBSCRIPTION, "subscription", False),
        (
            {
                "oneTimeProductNotification": {
                    "version": "1.0",
                    "notificationType": 1,
                    "purchaseToken": TOKEN,
                    "sku": "pro",
                }
            },
            "product",
            False,
        ),
        (
            {"voidedPurchaseNotification": {"purchaseToken": TOKEN, "orderId": "o", "productType": 2, "refundType": 1}},
            "product",
            True,
        ),
        (
            {"voidedPurchaseNotification": {"purchaseToken": TOKEN, "orderId": "o", "productType": 2, "refundType": 2}},
            "product",
            False,
        ),
        (
            {"voidedPurchaseNotification": {"purchaseToken": TOKEN, "orderId": "o", "productType": 1, "refundType": 1}},
            "subscription",
            True,
        ),
    ],
)
def test_notices(notice: dict[str, Any], subject: Any, voided: bool) -> None:
    found = NOTICES.read(push_token(), push_body(notice), now=SECONDS)
    assert found == PlayNotice("136969346945", NOW - 7, subject, TOKEN_ID, voided)


def test_notices_that_need_no_action() -> None:
    assert (
        NOTICES.read(push_token(), push_body({"testNotification": {"version": "1.0"}}), now=SECONDS).subject == "test"
    )
    assert (
        NOTICES.read(push_token(), push_body({"pendingRefundReviewNotification": {}}), now=SECONDS).subject == "other"
    )


@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        push_token().replace("Bearer", "Basic"),
        push_token().rsplit(".", 1)[0] + ".",
        push_token() + "é",
        push_token(rsa.generate_private_key(65537, 2048)),
        push_token(header={"kid": "google-2"}),
        push_token(OctKey.import_key(b"google-1" * 8), {"alg": "HS256"}),
        unsigned(),
        unsigned(kid="google-1"),
        push_token(iss="https://accounts.example.com"),
        push_token(iss=None),
        push_token(aud="https://unlock.example.org"),
        push_token(aud=None),
        push_token(aud=[AUDIENCE]),
        push_token(email="thief@project.iam.gserviceaccount.com"),
        push_token(email=None),
        push_token(email_verified=False),
        push_token(email_verified="true"),
        push_token(exp=SECONDS - 60),
        push_token(exp=None),
        push_token(iat=SECONDS + 61),
        push_token(iat=None),
        "Bearer " + "x" * MAX_NOTICE_SIZE + ".x.x",
    ],
    # Tokens differ from process to process, and names of cases must not.
    ids=lambda value: getattr(value, "__name__", "case"),
)
def test_a_notice_of_somebody_else_is_refused(token: object) -> None:
    with pytest.raises(errors.PurchaseNoticeError):
        NOTICES.read(token, push_body(SUBSCRIPTION), now=SECONDS)


@pytest.mark.parametrize("payload", ["[]", "null", '"text"', "[" * 10_000, "{"])
def test_a_push_token_holds_an_object(payload: str) -> None:
    key = RSAKey.import_key(GOOGLE_KEY)
    token = jws.serialize_compact({"alg": "RS256", "kid": "google-1"}, payload, key, registry=RS256)
    with pytest.raises(errors.PurchaseNoticeError):
        NOTICES.read(f"Bearer {token}", push_body(SUBSCRIPTION), now=SECONDS)


def test_time_edges_of_a_push_token() -> None:
    for token in (push_token(exp=SECONDS - 59), push_token(iat=SECONDS + 60), push_token(iss="accounts.google.com")):
        assert NOTICES.read(token, push_body(SUBSCRIPTION), now=SECONDS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 60_000,
        b'{"message": 5}',
        push_body(SUBSCRIPTION, messageId=None),
        push_body(SUBSCRIPTION, data=None),
        push_body(SUBSCRIPTION, data="%"),
        push_body(SUBSCRIPTION, data="é"),
        push_body(SUBSCRIPTION, data="AAAA"),
        push_body(SUBSCRIPTION | {"packageName": "com.example.other"}),
        push_body(SUBSCRIPTION | {"packageName": None}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": "soon"}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": None}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": "-1"}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": "٣"}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": "1" * 17}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": "1" * 5000}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": 2**53}),
        push_body(SUBSCRIPTION | {"eventTimeMillis": -1}),
        push_body({"subscriptionNotification": 5}),
        push_body({"subscriptionNotification": {}}),
        push_body({"subscriptionNotification": {"purchaseToken": "a b c d e f g"}}),
        push_body({"oneTimeProductNotification": {"purchaseToken": 5}}),
        push_body({"voidedPurchaseNotification": {"purchaseToken": TOKEN, "refundType": 1}}),
        push_body({"voidedPurchaseNotification": {"purchaseToken": TOKEN, "productType": 3, "refundType": 1}}),
        push_body({"voidedPurchaseNotification": {"purchaseToken": TOKEN, "productType": True, "refundType": 1}}),
        push_body(SUBSCRIPTION) + b" " * MAX_NOTICE_SIZE,
    ],
    # Tokens differ from process to process, and names of cases must not.
    ids=lambda value: getattr(value, "__name__", "case"),
)
def test_a_malformed_notice_is_refused(body: bytes) -> None:
    with pytest.raises(errors.PurchaseNoticeError):
        NOTICES.read(push_token(), body, now=SECONDS)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["message", "data", "messageId", "packageName"]), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    with pytest.raises(errors.PurchaseNoticeError):
        NOTICES.read(AUTHORIZED, body, now=SECONDS)


AUTHORIZED = push_token()


def test_a_replayed_notice_changes_nothing(google: Google) -> None:
    """It says that something changed; what counts is what Google answers then."""
    known = google.subscription()
    state = observe(None, known)
    notice = NOTICES.read(push_token(), push_body(SUBSCRIPTION), now=SECONDS)
    assert notice.purchase_id == known.purchase_id
    for now_ms in (NOW + 1, NOW + 2, NOW):
        state = observe(state, google.play.refresh(known, now_ms=now_ms))
    assert entitled(state, "com.example.camera", "b", "full", SECONDS, CATALOG).as_of_ms == NOW + 2


def test_googles_keys_are_fetched_once_an_hour(google: Google) -> None:
    keys = GoogleKeys(f"{google.url}/certs", 20.0)
    notices = PlayNotices("com.example.camera", AUDIENCE, SENDER, keys.at)
    for now in (SECONDS, SECONDS + 3000, SECONDS + 3599):
        assert notices.read(push_token(exp=SECONDS + 9000), push_body(SUBSCRIPTION), now=now)
    assert [call.path for call in google.calls] == ["/certs"]
    assert notices.read(push_token(exp=SECONDS + 9000), push_body(SUBSCRIPTION), now=SECONDS + 3600)
    assert len(google.calls) == 2


@pytest.mark.parametrize(
    "failure",
    [
        lambda _: error_reply(503),
        lambda _: error_reply(404),
        lambda _: json_reply(KEYS.as_dict(), 500),
        lambda _: json_reply([]),
        lambda _: json_reply({"keys": [{"kty": "RSA"}]}),
        lambda _: json_reply({"keys": [5]}),
        lambda _: json_reply({"keys": 5}),
        lambda _: (200, {}, b"x"),
        raw(b""),
    ],
)
def test_googles_keys_cannot_be_had(google: Google, failure: Any) -> None:
    google.failures["^/certs"] = failure
    keys = GoogleKeys(f"{google.url}/certs", 20.0)
    with pytest.raises(errors.PurchaseUpstreamError):
        keys.at(SECONDS)
    google.failures.clear()
    assert keys.at(SECONDS)


def test_the_server_checks_what_it_should(google: Google) -> None:
    """The local server is no rubber stamp: without sign-in, or at an undocumented path, it refuses."""
    path = f"/androidpublisher/v3/applications/com.example.camera/purchases/productsv2/tokens/{TOKEN}"
    reply = google.answer(Call("GET", path, {}, {"authorization": "Bearer ya29.x"}, b""))
    assert isinstance(reply, tuple)
    assert reply[0] == 401
    google.signed_in.add("ya29.x")
    reply = google.answer(Call("GET", path.replace("v2", "v9"), {}, {"authorization": "Bearer ya29.x"}, b""))
    assert isinstance(reply, tuple)
    assert reply[0] == 404
