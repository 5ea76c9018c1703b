"""The App Store Server API, asked at a local server; its answers are signed like everything of the App Store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from corelocker.errors import ConfigError
from corelocker.licensing import errors
from corelocker.purchases.app_store import AppStore, AppStoreApi, AppStoreApiConfig, AppStoreConfig
from corelocker.purchases.entitlements import Purchase
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.apple_signer import (
    APPLE,
    DAY,
    NOW,
    STORE,
    SUBSCRIPTION,
    AppleSigner,
    renewal_info,
    shown,
    transaction,
)
from support.play_server import Call, Reply, error_reply, http_server, json_reply, raw

API_KEY = ec.generate_private_key(ec.SECP256R1())
PEM = API_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Apple:
    """What the App Store knows: signed transactions by id, and the subscriptions of an original transaction."""

    def __init__(self) -> None:
        self.transactions: dict[str, str] = {}
        self.subscriptions: dict[str, list[dict[str, Any]]] = {}
        self.failure: Callable[[Call], Any] | None = None
        self.api: AppStoreApi

    def answer(self, call: Call) -> Reply | Callable[[Any], None]:
        if self.failure is not None:
            return self.failure(call)
        token = call.headers["authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, API_KEY.public_key(), ["ES256"], audience="appstoreconnect-v1", issuer="issuer")
        assert jwt.get_unverified_header(token)["kid"] == "KEY"
        assert claims["bid"] == "com.example.camera"
        kind, transaction_id = call.path.removeprefix("/inApps/v1/").split("/")
        if kind == "transactions" and transaction_id in self.transactions:
            return json_reply({"signedTransactionInfo": self.transactions[transaction_id]})
        if kind == "subscriptions" and transaction_id in self.subscriptions:
            groups = [{"subscriptionGroupIdentifier": "g", "lastTransactions": self.subscriptions[transaction_id]}]
            return json_reply({"environment": "Sandbox", "bundleId": "com.example.camera", "data": groups})
        return json_reply({"errorCode": 4040010, "errorMessage": "Transaction id not found."}, 404)


@pytest.fixture
def apple() -> Iterator[Apple]:
    server = Apple()
    with http_server(server.answer) as url:
        server.api = AppStoreApi(AppStoreApiConfig("issuer", "KEY", PEM, url, 20.0), STORE)
        yield server


def known(**changes: Any) -> Purchase:
    return shown(**changes)


def test_a_refund_that_no_notification_told(apple: Apple) -> None:
    bought = known()
    apple.transactions["2000"] = APPLE.sign(transaction())
    assert apple.api.refresh(bought, now_ms=NOW) == bought
    apple.transactions["2000"] = APPLE.sign(transaction(revocationDate=NOW, signedDate=NOW))
    assert apple.api.refresh(bought, now_ms=NOW).status == "revoked"


def test_a_renewal_that_no_notification_told(apple: Apple) -> None:
    bought = known(**SUBSCRIPTION)
    renewed = transaction(**SUBSCRIPTION | {"transactionId": "2001", "expiresDate": NOW + 60 * DAY})
    other = transaction(**SUBSCRIPTION | {"originalTransactionId": "77"})
    apple.subscriptions["2000"] = [
        {"originalTransactionId": "77", "status": 1, "signedTransactionInfo": APPLE.sign(other)},
        {
            "originalTransactionId": "1000",
            "status": 1,
            "signedTransactionInfo": APPLE.sign(renewed),
            "signedRenewalInfo": renewal_info(),
        },
    ]
    found = apple.api.refresh(bought, now_ms=NOW)
    assert (found.transaction_id, found.expires_at) == ("2001", (NOW + 60 * DAY) // 1000)
    apple.subscriptions["2000"][1]["signedTransactionInfo"] = APPLE.sign(
        transaction(**SUBSCRIPTION | {"expiresDate": NOW - DAY})
    )
    apple.subscriptions["2000"][1]["signedRenewalInfo"] = renewal_info(gracePeriodExpiresDate=NOW + DAY)
    assert apple.api.refresh(bought, now_ms=NOW).expires_at == (NOW + DAY) // 1000


def test_an_answer_about_another_purchase(apple: Apple) -> None:
    apple.transactions["2000"] = APPLE.sign(transaction(originalTransactionId="77"))
    with pytest.raises(errors.PurchaseNotFoundError):
        apple.api.refresh(known(), now_ms=NOW)
    apple.subscriptions["2000"] = []
    with pytest.raises(errors.PurchaseNotFoundError):
        apple.api.refresh(known(**SUBSCRIPTION), now_ms=NOW)


def test_an_answer_that_apple_did_not_sign(apple: Apple) -> None:
    apple.transactions["2000"] = AppleSigner().sign(transaction())
    with pytest.raises(errors.PurchaseSignatureError):
        apple.api.refresh(known(), now_ms=NOW)


@pytest.mark.parametrize(
    ("failure", "refusal"),
    [
        (lambda _: error_reply(429, headers={"Retry-After": "3"}), errors.PurchaseUpstreamError),
        (lambda _: error_reply(500), errors.PurchaseUpstreamError),
        (lambda _: (301, {"Location": "/x"}, b""), errors.PurchaseUpstreamError),
        (raw(b""), errors.PurchaseUpstreamError),
        (lambda _: (200, {}, b"<html>"), errors.PurchaseUpstreamError),
        (lambda _: json_reply([]), errors.PurchaseUpstreamError),
        (lambda _: json_reply({"data": 5}), errors.PurchaseUpstreamError),
        (lambda _: json_reply({"data": [{"lastTransactions": [5]}]}), errors.PurchaseUpstreamError),
        (lambda _: error_reply(401), errors.PurchaseUpstreamDeniedError),
        (lambda _: error_reply(404), errors.PurchaseNotFoundError),
    ],
)
def test_failures(apple: Apple, failure: Callable[[Call], Any], refusal: type[Exception]) -> None:
    apple.failure = failure
    with pytest.raises(refusal):
        apple.api.refresh(known(**SUBSCRIPTION), now_ms=NOW)


def test_nothing_listed_is_nothing_known(apple: Apple) -> None:
    for answer in ({}, {"data": []}, {"data": [{}]}, {"data": [{"lastTransactions": [{}]}]}):
        apple.failure = lambda _, answer=answer: json_reply(answer)
        with pytest.raises(errors.PurchaseNotFoundError):
            apple.api.refresh(known(**SUBSCRIPTION), now_ms=NOW)


def test_configuration() -> None:
    with pytest.raises(ConfigError):
        AppStoreApi(AppStoreApiConfig("issuer", "KEY", b"secret-nonsense"), STORE)
    production = AppStore(AppStoreConfig("production", "com.example.camera", 1234))
    assert AppStoreApi(AppStoreApiConfig("issuer", "KEY", PEM), production)
    with pytest.raises(ConfigError):
        AppStoreApi(AppStoreApiConfig("issuer", "KEY", PEM, "https://api.example.com"), production)
    assert "PRIVATE" not in repr(AppStoreApiConfig("issuer", "KEY", PEM))
