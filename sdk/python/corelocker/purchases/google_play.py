"""Google Play: the store is asked about a purchase token each time, with the Google Play Developer API (v3).

`GooglePlay.verify` reads purchases.productsv2 or purchases.subscriptionsv2, `refresh` asks again at renewal,
`acknowledge` tells Google that the user has what was bought (otherwise it refunds after three days), and `voided` lists
refunds and charge-backs. `google_play_answers` reads what Google answers, `play_notices` what it pushes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import quote

import google.auth.credentials

from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.errors import (
    PurchaseAccountError,
    PurchaseEnvironmentError,
    PurchaseFormatError,
    PurchaseNotFoundError,
    PurchaseUpstreamError,
)
from corelocker.licensing.http_client import Answer
from corelocker.purchases.entitlements import Purchase
from corelocker.purchases.google_api import GoogleApi
from corelocker.purchases.google_play_answers import (
    TOKEN,
    Kind,
    describe_product,
    describe_subscription,
    list_of,
    milliseconds_of,
    object_of,
    purchase_id_of,
)
from corelocker.purchases.upstream import json_of, refuse_failure

SCOPE = "https://www.googleapis.com/auth/androidpublisher"
API_URL = "https://androidpublisher.googleapis.com"
_MAX_PAGES = 1000
_PRODUCT = re.compile(r"[A-Za-z0-9._-]{1,256}")
_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")


@dataclass(frozen=True)
class GooglePlayConfig:
    """Which app's purchases, and how to ask.

    Attributes:
        environment: of this service. In production test purchases (license testers) do not count, elsewhere only they do.
        package: the app's package name.
        base_url: of the API; another one for tests against a local server.
        timeout: seconds to wait for an answer.
    """

    environment: Environment
    package: str
    base_url: str = API_URL
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if not _PACKAGE.fullmatch(self.package):
            raise ConfigError(f"{self.package!r} is not a package name")
        if self.environment == "production" and not self.base_url.startswith("https://"):
            raise ConfigError("in production Google Play is asked over https only")
        if self.timeout <= 0:
            raise ConfigError(f"a timeout of {self.timeout} s makes no sense")


@dataclass(frozen=True)
class Voided:
    """An order that was refunded, charged back or canceled: `purchase_id` as in `Purchase`, time in ms."""

    purchase_id: str
    at_ms: int


class GooglePlay:
    """Asks Google Play about purchases of one app; may be used by several threads."""

    def __init__(self, config: GooglePlayConfig, credentials: google.auth.credentials.Credentials) -> None:
        self._config = config
        self._api = GoogleApi(credentials, config.timeout)

    def verify(self, kind: Kind, product: str, token: str, *, now_ms: int, account: str | None = None) -> Purchase:
        """What Google says about the purchase token of a product or subscription.

        `account` is the obfuscated account id that the purchase has to carry. Raises PurchaseFormatError,
        PurchaseNotFoundError, PurchaseProductError (another product was bought with this token),
        PurchaseEnvironmentError, PurchaseAccountError, and PurchaseUpstreamError (retryable) or
        PurchaseUpstreamDeniedError when nothing can be said.
        """
        if kind not in ("product", "subscription"):
            raise PurchaseFormatError("the purchase is neither a product nor a subscription")
        if not isinstance(product, str) or not _PRODUCT.fullmatch(product):
            raise PurchaseFormatError("the product identifier is malformed")
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise PurchaseFormatError("the purchase token is malformed")
        resource = "productsv2" if kind == "product" else "subscriptionsv2"
        answer = object_of(json_of(self._ask("GET", f"{resource}/tokens/{_escaped(token)}")))
        described = describe_product if kind == "product" else describe_subscription
        purchase, is_test = described(answer, self._config.package, product, token, now_ms)
        if is_test and self._config.environment == "production":
            raise PurchaseEnvironmentError("a test purchase does not count in production")
        if not is_test and self._config.environment != "production":
            raise PurchaseEnvironmentError("outside production only test purchases count")
        if account is not None and purchase.account != account:
            raise PurchaseAccountError("the purchase belongs to another account")
        return purchase

    def refresh(self, known: Purchase, *, now_ms: int) -> Purchase:
        """What Google says now about a purchase that was verified before. Raises the same errors."""
        kind, _, token = known.reference.partition(":")
        return self.verify(cast(Kind, kind), known.product, token, now_ms=now_ms, account=known.account)

    def acknowledge(self, known: Purchase, *, now_ms: int) -> Purchase:
        """Tell Google that the user has what was bought; may be repeated. Returns the purchase as acknowledged.

        Raises PurchaseUpstreamError (try again later; nothing is lost within three days) or
        PurchaseUpstreamDeniedError.
        """
        if known.acknowledged:
            return known
        kind, _, token = known.reference.partition(":")
        resource = "products" if kind == "product" else "subscriptions"
        try:
            self._ask("POST", f"{resource}/{_escaped(known.product)}/tokens/{_escaped(token)}:acknowledge", body={})
        except PurchaseNotFoundError:
            # Google refuses to acknowledge twice; a crash after the first time must not matter.
            current = self.refresh(known, now_ms=now_ms)
            if not current.acknowledged:
                raise PurchaseUpstreamError("the store does not take the acknowledgement") from None
            return current
        # As of the time of `known`: the store was told something, and has said nothing new about the purchase.
        return replace(known, acknowledged=True)

    def voided(self, *, since_ms: int) -> Iterator[Voided]:
        """Orders that were seen as voided since a time (at most 30 days ago), products and subscriptions.

        Raises PurchaseUpstreamError or PurchaseUpstreamDeniedError, possibly after the first ones.
        """
        parameters: dict[str, str | list[str]] = {"type": "1", "startTime": str(since_ms)}
        for _ in range(_MAX_PAGES):
            try:
                answer = object_of(json_of(self._ask("GET", "voidedpurchases", parameters)))
            except PurchaseNotFoundError:
                raise PurchaseUpstreamError("the store refuses to list voided purchases") from None
            for item in list_of(answer.get("voidedPurchases")):
                entry = object_of(item)
                token, at_ms = entry.get("purchaseToken"), milliseconds_of(entry.get("voidedTimeMillis"))
                if not isinstance(token, str) or at_ms is None:
                    raise PurchaseUpstreamError("the store lists a voided purchase without token or time")
                yield Voided(purchase_id_of(token), at_ms)
            page = object_of(answer.get("tokenPagination") or {}).get("nextPageToken")
            if not page:
                return
            parameters = {"type": "1", "token": str(page)}
        raise PurchaseUpstreamError("the store's list of voided purchases does not end")

    def void(self, known: Purchase, at_ms: int, *, now_ms: int) -> Purchase:
        """The statement that follows from a voided order of a known purchase.

        A one-time purchase is revoked for good. A subscription has many orders under one token, so Google is asked
        which state it is in now; raises what `refresh` raises.
        """
        if known.reference.startswith("product:"):
            return replace(known, status="revoked", final=True, as_of_ms=at_ms)
        return self.refresh(known, now_ms=now_ms)

    def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | list[str]] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> Answer:
        base = self._config.base_url.rstrip("/")
        url = f"{base}/androidpublisher/v3/applications/{self._config.package}/purchases/{path}"
        answer = self._api.ask(method, url, parameters, body)
        refuse_failure(answer)
        return answer


def _escaped(part: str) -> str:
    return quote(part, safe="")
