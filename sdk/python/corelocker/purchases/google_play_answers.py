"""What Google Play's answers say, read strictly: purchases.productsv2 and purchases.subscriptionsv2.

Field names: Google's discovery document of androidpublisher v3. An answer of another shape, or with a state that this
release does not know, is a PurchaseUpstreamError: it is never taken for a purchase.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from corelocker.licensing.errors import PurchaseProductError, PurchaseUpstreamError
from corelocker.purchases.entitlements import Purchase, Status

Kind = Literal["product", "subscription"]

# Of a purchase token: opaque to us, but safe in a URL and bounded.
TOKEN = re.compile(r"[A-Za-z0-9._~:+/=-]{8,2048}")

_PRODUCT_STATUS: Mapping[str, Status] = {"PURCHASED": "active", "PENDING": "pending", "CANCELLED": "revoked"}
_SUBSCRIPTION_STATUS: Mapping[str, Status] = {
    "SUBSCRIPTION_STATE_ACTIVE": "active",
    "SUBSCRIPTION_STATE_IN_GRACE_PERIOD": "active",
    "SUBSCRIPTION_STATE_CANCELED": "active",
    "SUBSCRIPTION_STATE_EXPIRED": "active",
    "SUBSCRIPTION_STATE_PENDING": "pending",
    "SUBSCRIPTION_STATE_ON_HOLD": "pending",
    "SUBSCRIPTION_STATE_PAUSED": "pending",
    "SUBSCRIPTION_STATE_PENDING_PURCHASE_CANCELED": "revoked",
}


def describe_product(
    answer: Mapping[str, object], package: str, product: str, token: str, now_ms: int
) -> tuple[Purchase, bool]:
    """The statement in a ProductPurchaseV2, and whether it is a test purchase."""
    item = _line_items(answer.get("productLineItem"), product)[0]
    offer = object_of(item.get("productOfferDetails") or {})
    if "rentOfferDetails" in offer:
        raise PurchaseProductError("rented products have no end that the store tells, and cannot unlock")
    state = object_of(answer.get("purchaseStateContext") or {}).get("purchaseState")
    status = _status(_PRODUCT_STATUS, state)
    if offer.get("refundableQuantity") == 0:
        # A refund that leaves the state at PURCHASED: nothing is left that could be refunded.
        status = "revoked"
    purchase = _purchase("product", package, product, token, now_ms, status, None, answer)
    return replace(purchase, account=_optional_text(answer.get("obfuscatedExternalAccountId"))), (
        "testPurchaseContext" in answer
    )


def describe_subscription(
    answer: Mapping[str, object], package: str, product: str, token: str, now_ms: int
) -> tuple[Purchase, bool]:
    """The statement in a SubscriptionPurchaseV2, and whether it is a test purchase."""
    items = _line_items(answer.get("lineItems"), product)
    state = answer.get("subscriptionState")
    status = _status(_SUBSCRIPTION_STATUS, state)
    # Two base plans of one product are two items, of which the user has the one that lasts longest.
    ends = max((end for item in items if (end := _seconds(item.get("expiryTime"))) is not None), default=None)
    if status == "active" and ends is None:
        # An item that replaces another one at the next renewal is listed before the user owns it.
        status = "pending"
    if state == "SUBSCRIPTION_STATE_EXPIRED" and ends is not None:
        ends = min(ends, now_ms // 1000)
    if "replacementCancellation" in object_of(answer.get("canceledStateContext") or {}):
        status = "superseded"
    linked = _optional_text(answer.get("linkedPurchaseToken"))
    accounts = object_of(answer.get("externalAccountIdentifiers") or {})
    purchase = replace(
        _purchase("subscription", package, product, token, now_ms, status, ends, answer),
        account=_optional_text(accounts.get("obfuscatedExternalAccountId")),
        replaces=None if linked is None else purchase_id_of(linked),
    )
    return purchase, "testPurchase" in answer


def _purchase(
    kind: Kind,
    package: str,
    product: str,
    token: str,
    now_ms: int,
    status: Status,
    expires_at: int | None,
    answer: Mapping[str, object],
) -> Purchase:
    return Purchase(
        provider="google-play",
        app=package,
        purchase_id=purchase_id_of(token),
        # One token can pay for several products.
        transaction_id=product,
        product=product,
        status=status,
        expires_at=expires_at,
        as_of_ms=now_ms,
        reference=f"{kind}:{token}",
        acknowledged=answer.get("acknowledgementState") != "ACKNOWLEDGEMENT_STATE_PENDING",
    )


def purchase_id_of(token: str) -> str:
    """What the service stores and logs in place of the token, which is a secret of the user."""
    return hashlib.sha256(token.encode()).hexdigest()


def _status(known: Mapping[str, Status], state: object) -> Status:
    status = known.get(state) if isinstance(state, str) else None
    if status is None:
        raise PurchaseUpstreamError("the store names a state of the purchase that this release does not know")
    return status


def _line_items(items: object, product: str) -> list[Mapping[str, object]]:
    """The items of the product, at least one."""
    fitting = [item for item in map(object_of, list_of(items)) if item.get("productId") == product]
    if not fitting:
        raise PurchaseProductError("another product was bought with this purchase token")
    return fitting


def object_of(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise PurchaseUpstreamError("the store's answer has another shape than it documents")
    return value


def list_of(value: object) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise PurchaseUpstreamError("the store's answer has another shape than it documents")
    return value


def _optional_text(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise PurchaseUpstreamError("the store's answer has another shape than it documents")
    return value


def _seconds(value: object) -> int | None:
    """Unix seconds of a google-datetime (RFC 3339), rounded down."""
    if value is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        moment = datetime.datetime.min
    if moment.tzinfo is None:
        raise PurchaseUpstreamError("the store's answer holds a time that is none")
    return int(moment.timestamp() // 1)


def milliseconds_of(value: object) -> int | None:
    """An int64 of milliseconds, which Google writes as text or as a number."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 17:
        return int(value)
    return value if type(value) is int and 0 <= value < 2**53 else None
