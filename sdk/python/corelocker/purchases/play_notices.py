"""Google Play's real-time developer notifications, as Cloud Pub/Sub pushes them: authenticated and read.

A notification says only that something changed: what counts is what the API answers then, so a replayed one costs a
query and changes nothing. The one exception is a voided one-time purchase, which stays void. Field names: Google's
reference of real-time developer notifications.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from corelocker.licensing.errors import PurchaseNoticeError, PurchaseUpstreamError
from corelocker.licensing.http_client import new_session
from corelocker.purchases.google_play_answers import TOKEN, Kind, milliseconds_of, purchase_id_of
from corelocker.purchases.refreshed import Fetched, Refreshed
from corelocker.purchases.upstream import ask, json_of

CERTIFICATES_URL = "https://www.googleapis.com/oauth2/v3/certs"
MAX_NOTICE_SIZE = 64 * 1024
_RS256 = jws.JWSRegistry(algorithms=["RS256"])
# How far Google's clock and the service's may be apart, seconds.
_SKEW = 60
# Seconds. Google publishes a key days before it signs with it.
_KEYS_FRESH = 3600
_KEYS_GOOD = 86400


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
    """Google's public keys for OpenID Connect tokens: fetched anew each hour, in use for a day at most."""

    def __init__(self, url: str = CERTIFICATES_URL, timeout: float = 10.0) -> None:
        self._url = url
        self._timeout = timeout
        self._keys = Refreshed(
            self._fetch, wait=timeout, otherwise=lambda: PurchaseUpstreamError("Google's keys do not come in time")
        )

    def at(self, now: int) -> KeySet:
        """The keys. Raises PurchaseUpstreamError when there are none."""
        return self._keys.get(now)

    def _fetch(self, now: float) -> Fetched[KeySet]:
        with new_session() as session:
            answer = ask(session, "GET", self._url, timeout=self._timeout)
        if answer.status_code != 200:
            raise PurchaseUpstreamError(f"Google's keys: the answer is {answer.status_code}")
        try:
            keys = KeySet.import_key_set(json_of(answer))  # type: ignore[arg-type]
        except (JoseError, ValueError, KeyError, TypeError, AttributeError):
            raise PurchaseUpstreamError("Google's list of keys cannot be read") from None
        return Fetched(keys, now, now + _KEYS_FRESH, now + _KEYS_GOOD)


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
        event_ms = milliseconds_of(notice.get("eventTimeMillis"))
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
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise PurchaseNoticeError("the notification has no purchase token")
    return PlayNotice(message_id, event_ms, kind, purchase_id_of(token), voided)


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
