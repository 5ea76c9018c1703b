"""Google Play: the store is asked about a purchase token each time, with the Google Play Developer API (v3).

`GooglePlay.verify` reads purchases.productsv2 or purchases.subscriptionsv2, `refresh` asks again at renewal,
`acknowledge` tells Google that the user has what was bought (otherwise it refunds after three days), `voided` lists
refunds and charge-backs, and `PlayNotices.read` authenticates a real-time developer notification that Cloud Pub/Sub
pushes. A notification says only that something changed: what counts is what the API answers then, so a replayed one
costs a query and changes nothing. The one exception is a voided one-time purchase, which stays void.

Field names: Google's discovery document of androidpublisher v3 and its reference of real-time developer notifications.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast
from urllib.parse import quote

import google.auth.credentials
import google.auth.exceptions
import requests
from google.auth.transport.requests import Request
from google.oauth2 import service_account
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.errors import (
    PurchaseAccountError,
    PurchaseEnvironmentError,
    PurchaseFormatError,
    PurchaseNotFoundError,
    PurchaseNoticeError,
    PurchaseProductError,
    PurchaseUpstreamDeniedError,
    PurchaseUpstreamError,
)
from corelocker.purchases._http import Answer, fetch, refuse_failure
from corelocker.purchases.entitlements import Purchase, Status

Kind = Literal["product", "subscription"]

SCOPE = "https://www.googleapis.com/auth/androidpublisher"
API_URL = "https://androidpublisher.googleapis.com"
CERTIFICATES_URL = "https://www.googleapis.com/oauth2/v3/certs"
MAX_NOTICE_SIZE = 64 * 1024
_MAX_PAGES = 1000
_RS256 = jws.JWSRegistry(algorithms=["RS256"])
# How far Google's clock and the service's may be apart, seconds.
_SKEW = 60
_TOKEN = re.compile(r"[A-Za-z0-9._~:+/=-]{8,2048}")
_PRODUCT = re.compile(r"[A-Za-z0-9._-]{1,256}")
_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")

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


def credentials_of(account: Mapping[str, str], scope: str = SCOPE) -> google.auth.credentials.Credentials:
    """The credentials of a service account, from the parsed JSON key file. Raises ConfigError when it is not one."""
    try:
        load: Any = service_account.Credentials.from_service_account_info
        loaded: google.auth.credentials.Credentials = load(account, scopes=[scope])
    except (ValueError, KeyError, TypeError):
        raise ConfigError("the key file of the Google service account cannot be used") from None
    return loaded


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
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise PurchaseFormatError("the purchase token is malformed")
        resource = "productsv2" if kind == "product" else "subscriptionsv2"
        answer = _object(self._ask("GET", f"{resource}/tokens/{_escaped(token)}").json())
        described = _describe_product if kind == "product" else _describe_subscription
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
                answer = _object(self._ask("GET", "voidedpurchases", parameters).json())
            except PurchaseNotFoundError:
                raise PurchaseUpstreamError("the store refuses to list voided purchases") from None
            for item in _list(answer.get("voidedPurchases")):
                entry = _object(item)
                token, at_ms = entry.get("purchaseToken"), _milliseconds(entry.get("voidedTimeMillis"))
                if not isinstance(token, str) or at_ms is None:
                    raise PurchaseUpstreamError("the store lists a voided purchase without token or time")
                yield Voided(_purchase_id(token), at_ms)
            page = _object(answer.get("tokenPagination") or {}).get("nextPageToken")
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


class GoogleApi:
    """Asks an API of Google, signed in with `credentials`; `timeout` as of `fetch`. May be used by several threads."""

    def __init__(self, credentials: google.auth.credentials.Credentials, timeout: float) -> None:
        self.credentials = credentials
        self._timeout = timeout
        self._local = threading.local()
        self._signing_in = threading.Lock()

    def ask(
        self,
        method: str,
        url: str,
        parameters: Mapping[str, str | list[str]] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> Answer:
        """What the API answers, also when it refuses. Raises PurchaseUpstreamError or PurchaseUpstreamDeniedError."""
        # Sessions are not made for several threads; the credentials, and with them the access token, are shared.
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session, refused = self._local.session, None
        while True:
            token = self._access_token(session, refused)
            headers = {"Authorization": f"Bearer {token}"}
            answer = fetch(
                session, method, url, timeout=self._timeout, headers=headers, params=parameters, json_body=body
            )
            if answer.status_code != 401 or refused is not None:
                return answer
            refused = token

    def _access_token(self, session: requests.Session, refused: str | None) -> str:
        """A token that is valid for some minutes, and not the one that was refused.

        The token is used directly: google-auth's own session and `before_request` start threads that ask another
        service of Google about regions.
        """
        credentials: Any = self.credentials
        with self._signing_in:
            if not credentials.valid or credentials.token == refused:
                try:
                    credentials.refresh(functools.partial(Request(session), timeout=self._timeout))
                except google.auth.exceptions.TransportError:
                    raise PurchaseUpstreamError("the store's sign-in cannot be reached") from None
                except google.auth.exceptions.GoogleAuthError as error:
                    if error.retryable:
                        raise PurchaseUpstreamError("the store's sign-in does not work now") from None
                    raise PurchaseUpstreamDeniedError("the store refuses the service's credentials") from None
                except (TypeError, ValueError, KeyError, AttributeError):
                    # google-auth takes what the sign-in answers for JSON of the right shape.
                    raise PurchaseUpstreamError("the store's sign-in answers what it does not document") from None
            return str(credentials.token)


def _describe_product(
    answer: Mapping[str, object], package: str, product: str, token: str, now_ms: int
) -> tuple[Purchase, bool]:
    """The statement in a ProductPurchaseV2, and whether it is a test purchase."""
    item = _line_items(answer.get("productLineItem"), product)[0]
    offer = _object(item.get("productOfferDetails") or {})
    if "rentOfferDetails" in offer:
        raise PurchaseProductError("rented products have no end that the store tells, and cannot unlock")
    state = _object(answer.get("purchaseStateContext") or {}).get("purchaseState")
    status = _status(_PRODUCT_STATUS, state)
    if offer.get("refundableQuantity") == 0:
        # A refund that leaves the state at PURCHASED: nothing is left that could be refunded.
        status = "revoked"
    purchase = _purchase("product", package, product, token, now_ms, status, None, answer)
    return replace(purchase, account=_optional_text(answer.get("obfuscatedExternalAccountId"))), (
        "testPurchaseContext" in answer
    )


def _describe_subscription(
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
    if "replacementCancellation" in _object(answer.get("canceledStateContext") or {}):
        status = "superseded"
    linked = _optional_text(answer.get("linkedPurchaseToken"))
    accounts = _object(answer.get("externalAccountIdentifiers") or {})
    purchase = replace(
        _purchase("subscription", package, product, token, now_ms, status, ends, answer),
        account=_optional_text(accounts.get("obfuscatedExternalAccountId")),
        replaces=None if linked is None else _purchase_id(linked),
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
        purchase_id=_purchase_id(token),
        # One token can pay for several products.
        transaction_id=product,
        product=product,
        status=status,
        expires_at=expires_at,
        as_of_ms=now_ms,
        reference=f"{kind}:{token}",
        acknowledged=answer.get("acknowledgementState") != "ACKNOWLEDGEMENT_STATE_PENDING",
    )


def _purchase_id(token: str) -> str:
    """What the service stores and logs in place of the token, which is a secret of the user."""
    return hashlib.sha256(token.encode()).hexdigest()


def _escaped(part: str) -> str:
    return quote(part, safe="")


def _status(known: Mapping[str, Status], state: object) -> Status:
    status = known.get(state) if isinstance(state, str) else None
    if status is None:
        raise PurchaseUpstreamError("the store names a state of the purchase that this release does not know")
    return status


def _line_items(items: object, product: str) -> list[Mapping[str, object]]:
    """The items of the product, at least one."""
    fitting = [item for item in map(_object, _list(items)) if item.get("productId") == product]
    if not fitting:
        raise PurchaseProductError("another product was bought with this purchase token")
    return fitting


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise PurchaseUpstreamError("the store's answer has another shape than it documents")
    return value


def _list(value: object) -> list[object]:
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


def _milliseconds(value: object) -> int | None:
    """An int64 of milliseconds, which Google writes as text or as a number."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 17:
        return int(value)
    return value if type(value) is int and 0 <= value < 2**53 else None


# --- real-time developer notifications -----------------------------------------------------------


@dataclass(frozen=True)
class PlayNotice:
    """An authenticated notification.

    Attributes:
        message_id: Pub/Sub's, the same for every delivery of one message.
        event_ms: when it happened, ms since the Unix epoch.
        subject: what changed; `test` and `other` need no action.
        purchase_id: as in `Purchase`, for a product or subscription. One that no device has shown yet needs no action:
            Google is asked when a device does.
        voided: the order was refunded, charged back or canceled: call `GooglePlay.void`, otherwise `refresh`.
    """

    message_id: str
    event_ms: int
    subject: Literal["product", "subscription", "test", "other"]
    purchase_id: str | None = None
    voided: bool = False


class GoogleKeys:
    """Google's public keys for OpenID Connect tokens, fetched when needed and kept for an hour."""

    def __init__(self, url: str = CERTIFICATES_URL, timeout: float = 10.0) -> None:
        self._url = url
        self._timeout = timeout
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched_at = 0

    def at(self, now: int) -> KeySet:
        """The keys. Raises PurchaseUpstreamError when they cannot be fetched."""
        with self._lock:
            if self._keys is None or not 0 <= now - self._fetched_at < 3600:
                with requests.Session() as session:
                    answer = fetch(session, "GET", self._url, timeout=self._timeout)
                if answer.status_code != 200:
                    raise PurchaseUpstreamError(f"Google's keys: the answer is {answer.status_code}")
                try:
                    self._keys = KeySet.import_key_set(answer.json())  # type: ignore[arg-type]
                except (JoseError, ValueError, KeyError, TypeError, AttributeError):
                    raise PurchaseUpstreamError("Google's list of keys cannot be read") from None
                self._fetched_at = now
            return self._keys


class PlayNotices:
    """Authenticates and reads the notifications that Pub/Sub pushes for one app.

    Args:
        package: the app's package name.
        audience: that the push subscription's tokens are made for.
        sender: e-mail address of the service account that the push subscription signs in with.
        keys: gives Google's keys at a time, normally `GoogleKeys().at`.
    """

    def __init__(self, package: str, audience: str, sender: str, keys: Callable[[int], KeySet]) -> None:
        self._package = package
        self._audience = audience
        self._sender = sender
        self._keys = keys

    def read(self, authorization: object, body: bytes, *, now: int) -> PlayNotice:
        """The notification in a push request; `authorization` is the HTTP header of that name.

        Raises PurchaseNoticeError when it is not Google's or malformed, PurchaseUpstreamError when Google's keys
        cannot be had.
        """
        self._authenticate(authorization, now)
        if len(body) > MAX_NOTICE_SIZE:
            raise PurchaseNoticeError("the notification is too large")
        message = _member(_notice_json(body), "message")
        message_id, data = message.get("messageId"), message.get("data")
        if not isinstance(message_id, str) or not isinstance(data, str):
            raise PurchaseNoticeError("the notification has no message id or no data")
        try:
            notice = _notice_json(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise PurchaseNoticeError("the notification's data is not base64") from None
        if notice.get("packageName") != self._package:
            raise PurchaseNoticeError("the notification is about another app")
        event_ms = _milliseconds(notice.get("eventTimeMillis"))
        if event_ms is None:
            raise PurchaseNoticeError("the notification has no time")
        if "subscriptionNotification" in notice:
            return _notice(message_id, event_ms, "subscription", _member(notice, "subscriptionNotification"))
        if "oneTimeProductNotification" in notice:
            return _notice(message_id, event_ms, "product", _member(notice, "oneTimeProductNotification"))
        if "voidedPurchaseNotification" in notice:
            voided = _member(notice, "voidedPurchaseNotification")
            kinds: Mapping[object, Kind] = {1: "subscription", 2: "product"}
            kind, refund = voided.get("productType"), voided.get("refundType")
            if type(kind) is not int or kind not in kinds:
                raise PurchaseNoticeError("the notification is about a kind of product that this release does not know")
            # A refund of some of several copies (2) leaves the rest paid.
            return _notice(message_id, event_ms, kinds[kind], voided, voided=refund != 2)
        return PlayNotice(message_id, event_ms, "test" if "testNotification" in notice else "other")

    def _authenticate(self, authorization: object, now: int) -> None:
        """Check the OpenID Connect token of the push request (RS256, signed by Google, made for this subscription)."""
        scheme, _, token = authorization.partition(" ") if isinstance(authorization, str) else ("", "", "")
        if scheme.lower() != "bearer" or not token.isascii() or len(token) > MAX_NOTICE_SIZE:
            raise PurchaseNoticeError("the notification is not authenticated")
        try:
            signed = jws.deserialize_compact(token, self._keys(now), registry=_RS256)
            claims = json.loads(signed.payload)
        except (JoseError, ValueError, RecursionError):
            raise PurchaseNoticeError("the notification's token is not signed by Google") from None
        if not isinstance(claims, dict) or claims.get("iss") not in (
            "https://accounts.google.com",
            "accounts.google.com",
        ):
            raise PurchaseNoticeError("the notification's token is not Google's")
        if claims.get("aud") != self._audience:
            raise PurchaseNoticeError("the notification's token is made for another service")
        if claims.get("email") != self._sender or claims.get("email_verified") is not True:
            raise PurchaseNoticeError("the notification was sent by another account")
        issued_at, expires_at = claims.get("iat"), claims.get("exp")
        if type(issued_at) is not int or type(expires_at) is not int:
            raise PurchaseNoticeError("the notification's token has no times")
        if not issued_at - _SKEW <= now < expires_at + _SKEW:
            raise PurchaseNoticeError("the notification's token is not valid now")


def _notice(
    message_id: str, event_ms: int, kind: Kind, about: Mapping[str, object], *, voided: bool = False
) -> PlayNotice:
    token = about.get("purchaseToken")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise PurchaseNoticeError("the notification has no purchase token")
    return PlayNotice(message_id, event_ms, kind, _purchase_id(token), voided)


def _notice_json(data: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PurchaseNoticeError("the notification is not a JSON object")
    return value


def _member(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    member = value.get(name)
    if not isinstance(member, dict):
        raise PurchaseNoticeError(f"the notification's {name} is not an object")
    return member
