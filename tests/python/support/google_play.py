"""What Google Play answers, and a client of its own for the local server that speaks its API (`play_server`)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from corelocker.purchases.entitlements import Catalog, Purchase, Unlock
from corelocker.purchases.google_api import credentials_of
from corelocker.purchases.google_play import (
    SCOPE,
    GooglePlay,
    GooglePlayConfig,
)

from support.play_server import (
    PlayServer,
    service_account,
)

NOW = 1_800_000_000_000
TOKEN = "opaque-token.AO-J1OwA_abcdefgh"
TOKEN_ID = hashlib.sha256(TOKEN.encode()).hexdigest()
FUTURE, PAST = "2027-02-15T08:00:00.500Z", "2026-12-15T08:00:00Z"
FUTURE_S, PAST_S = 1802678400, 1797321600
CATALOG = Catalog({("com.example.camera", "pro"): (Unlock("b", "full"),)}, {"b": ("free", "full")})


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
        return GooglePlay(GooglePlayConfig(**(config | changes)), credentials_of(service_account(self.url), SCOPE))

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
