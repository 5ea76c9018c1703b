"""App Store: what Apple has signed, verified by Apple's own library (app-store-server-library).

`AppStore.verify` checks a StoreKit 2 signed transaction that a device shows, `notice` an App Store Server Notification
(V2), and `AppStoreApi.refresh` asks the App Store Server API for the present state, for services that do not want to
rely on notifications alone. All three end in the same signed transaction. A signed transaction is a statement of its
time: one from before a refund still verifies afterwards, so what counts is the newest by `signedDate`
(`entitlements.observe`).

The environment is part of the configuration. The library checks no signature at all for Xcode and LocalTesting data,
so production takes the App Store's production environment under Apple's root and nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote

from appstoreserverlibrary.api_client import AppStoreServerAPIClient
from appstoreserverlibrary.models.Environment import Environment as Store
from appstoreserverlibrary.models.NotificationTypeV2 import NotificationTypeV2
from appstoreserverlibrary.models.Type import Type
from appstoreserverlibrary.signed_data_verifier import SignedDataVerifier, VerificationException, VerificationStatus

from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.errors import (
    PurchaseAccountError,
    PurchaseAppError,
    PurchaseEnvironmentError,
    PurchaseError,
    PurchaseFormatError,
    PurchaseNotFoundError,
    PurchaseNotYetValidError,
    PurchaseProductError,
    PurchaseSignatureError,
    PurchaseStaleError,
    PurchaseUpstreamError,
)
from corelocker.licensing.http_client import Answer, new_session
from corelocker.purchases.entitlements import Purchase, Status
from corelocker.purchases.upstream import ask, json_of, refuse_failure

_T = TypeVar("_T")

MAX_SIGNED_SIZE = 128 * 1024
# How far Apple's clock and the service's may be apart, ms.
_SKEW_MS = 300_000
# Apple Root CA - G3 (www.apple.com/certificateauthority), SHA-256
# 63343abfb89a6a03ebb57e9b3f5fa7be7c4f5c756f3017b3a8c488c3653e9179.
APPLE_ROOT_CA_G3 = base64.b64decode(
    "MIICQzCCAcmgAwIBAgIILcX8iNLFS5UwCgYIKoZIzj0EAwMwZzEbMBkGA1UEAwwSQXBwbGUgUm9vdCBDQSAtIEczMSYwJAYDVQQLDB1BcHBsZSBD"
    "ZXJ0aWZpY2F0aW9uIEF1dGhvcml0eTETMBEGA1UECgwKQXBwbGUgSW5jLjELMAkGA1UEBhMCVVMwHhcNMTQwNDMwMTgxOTA2WhcNMzkwNDMwMTgx"
    "OTA2WjBnMRswGQYDVQQDDBJBcHBsZSBSb290IENBIC0gRzMxJjAkBgNVBAsMHUFwcGxlIENlcnRpZmljYXRpb24gQXV0aG9yaXR5MRMwEQYDVQQK"
    "DApBcHBsZSBJbmMuMQswCQYDVQQGEwJVUzB2MBAGByqGSM49AgEGBSuBBAAiA2IABJjpLz1AcqTtkyJygRMc3RCV8cWjTnHcFBbZDuWmBSp3ZHtf"
    "TjjTuxxEtX/1H7YyYl3J6YRbTzBPEVoA/VhYDKX1DyxNB0cTddqXl5dvMVztK517IDvYuVTZXpmkOlEKMaNCMEAwHQYDVR0OBBYEFLuw3qFYM4ia"
    "pIqZ3r6966/ayySrMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEGMAoGCCqGSM49BAMDA2gAMGUCMQCD6cHEFl4aXTQY2e3v9GwOAEZL"
    "uN+yRhHFD/3meoyhpmvOwgPUnPWTxnS4at+qIxUCMG1mihDK1A3UT82NQz60imOlM27jbdoXt2QfyFMm+YhidDkLF1vLUagM6BgD56KyKA=="
)
_REFUSALS = {
    VerificationStatus.INVALID_APP_IDENTIFIER: (PurchaseAppError, "the purchase was made in another app"),
    VerificationStatus.INVALID_ENVIRONMENT: (PurchaseEnvironmentError, "the purchase was made in another environment"),
    VerificationStatus.RETRYABLE_VERIFICATION_FAILURE: (
        PurchaseUpstreamError,
        "Apple's certificate status service cannot be reached",
    ),
}


@dataclass(frozen=True)
class AppStoreConfig:
    """Which app's purchases count.

    Attributes:
        environment: of this service.
        bundle_id: the app's bundle identifier.
        app_apple_id: the app's number in the App Store; production needs it.
        store: the App Store environment; in development Sandbox unless another one is given.
        roots: DER certificates that chains have to end in; production takes Apple's alone.
        online_checks: ask Apple whether the signing certificates were revoked (OCSP, every 15 minutes).
        max_age: seconds since `signedDate` that a transaction shown by a device may have; None takes any.
        family_sharing: whether a family member's transaction counts; each member has places of their own.
    """

    environment: Environment
    bundle_id: str
    app_apple_id: int | None = None
    store: Store | None = None
    roots: tuple[bytes, ...] = (APPLE_ROOT_CA_G3,)
    online_checks: bool = False
    max_age: int | None = None
    family_sharing: bool = True

    def __post_init__(self) -> None:
        if self.environment != "production":
            if self.store == Store.PRODUCTION:
                raise ConfigError("outside production the App Store's production environment does not count")
        elif self.pinned_store != Store.PRODUCTION:
            raise ConfigError(f"in production purchases of the App Store environment {self.store} do not count")
        elif self.roots != (APPLE_ROOT_CA_G3,):
            raise ConfigError("in production App Store chains end in Apple Root CA - G3")
        elif self.app_apple_id is None:
            raise ConfigError("in production the app's Apple ID is needed")
        if not self.roots or not self.bundle_id:
            raise ConfigError("App Store purchases need a bundle identifier and a root certificate")

    @property
    def pinned_store(self) -> Store:
        """The one App Store environment whose purchases count."""
        return self.store or (Store.PRODUCTION if self.environment == "production" else Store.SANDBOX)


@dataclass(frozen=True)
class AppStoreNotice:
    """An authenticated App Store Server Notification.

    Attributes:
        notice_id: Apple's UUID, the same for every delivery.
        kind: Apple's notificationType.
        purchase: what it says about a transaction, for `entitlements.observe`; None if it is about none.
    """

    notice_id: str
    kind: str
    purchase: Purchase | None


class AppStore:
    """Verifies what the App Store has signed for one app; may be used by several threads."""

    def __init__(self, config: AppStoreConfig) -> None:
        self.config = config
        self._signed = SignedDataVerifier(
            list(config.roots), config.online_checks, config.pinned_store, config.bundle_id, config.app_apple_id
        )

    def verify(
        self, transaction: object, *, now_ms: int, renewal: object = None, account: str | None = None
    ) -> Purchase:
        """What a signed transaction (JWS compact) says; `account` is the appAccountToken that it has to carry.

        `renewal` is the signed renewal info that belongs to a subscription; during a billing grace period only it tells
        how long the subscription still counts.

        Raises PurchaseFormatError, PurchaseSignatureError, PurchaseAppError, PurchaseEnvironmentError,
        PurchaseProductError, PurchaseAccountError, PurchaseNotYetValidError, PurchaseStaleError, or
        PurchaseUpstreamError with `online_checks`. Whether the purchase has ended or was revoked is for
        `entitlements.entitled` to say.
        """
        purchase = self._transaction(transaction, now_ms, renewal)
        max_age = self.config.max_age
        if max_age is not None and purchase.as_of_ms < now_ms - max_age * 1000:
            raise PurchaseStaleError("the signed transaction is too old", hint="Fetch it from the App Store again")
        if account is not None and (purchase.account or "").lower() != account.lower():
            raise PurchaseAccountError("the purchase belongs to another account")
        return purchase

    def notice(self, payload: object, *, now_ms: int) -> AppStoreNotice:
        """What a notification's `signedPayload` says. Raises the errors of `verify`."""
        decoded = self._decode(self._signed.verify_and_decode_notification, payload)
        kind, notice_id = decoded.rawNotificationType, decoded.notificationUUID
        if not isinstance(kind, str) or not isinstance(notice_id, str):
            raise PurchaseFormatError("the notification has no type or no identifier")
        data = decoded.data
        if data is None or data.signedTransactionInfo is None:
            return AppStoreNotice(notice_id, kind, None)
        purchase = self._transaction(data.signedTransactionInfo, now_ms, data.signedRenewalInfo)
        if decoded.notificationType in (NotificationTypeV2.REFUND, NotificationTypeV2.REVOKE):
            purchase = replace(purchase, status="revoked")
        return AppStoreNotice(notice_id, kind, purchase)

    def statement(self, transaction: object, renewal: object, known: Purchase, now_ms: int) -> Purchase:
        """What the App Store Server API has answered about a known purchase. Raises the errors of `verify`."""
        purchase = self._transaction(transaction, now_ms, renewal)
        if purchase.purchase_id != known.purchase_id:
            raise PurchaseNotFoundError("the store answers about another purchase")
        return purchase

    def _transaction(self, transaction: object, now_ms: int, renewal: object = None) -> Purchase:
        decoded = self._decode(self._signed.verify_and_decode_signed_transaction, transaction)
        product, as_of_ms = decoded.productId, decoded.signedDate
        transaction_id, purchase_id = decoded.transactionId, decoded.originalTransactionId
        if not product or not transaction_id or not purchase_id or as_of_ms is None or decoded.purchaseDate is None:
            raise PurchaseFormatError("the signed transaction lacks an identifier, its product or a date")
        if as_of_ms > now_ms + _SKEW_MS:
            raise PurchaseNotYetValidError("the signed transaction is dated in the future")
        expires_at = None if decoded.expiresDate is None else decoded.expiresDate // 1000
        if decoded.type == Type.AUTO_RENEWABLE_SUBSCRIPTION:
            if expires_at is None:
                raise PurchaseFormatError("the signed transaction of a subscription has no end")
            expires_at = max(expires_at, self._grace_end(renewal, purchase_id, product))
        elif decoded.type != Type.NON_CONSUMABLE:
            # Apple says nothing about when a non-renewing subscription ends, or whether a consumable is used up.
            raise PurchaseProductError("only non-consumables and auto-renewable subscriptions can unlock")
        if decoded.rawInAppOwnershipType != "PURCHASED" and not (
            decoded.rawInAppOwnershipType == "FAMILY_SHARED" and self.config.family_sharing
        ):
            raise PurchaseProductError("the purchase belongs to somebody else, and is not shared for this app")
        status: Status = "superseded" if decoded.isUpgraded else "active"
        return Purchase(
            provider="app-store",
            app=self.config.bundle_id,
            purchase_id=purchase_id,
            transaction_id=transaction_id,
            product=product,
            status="revoked" if decoded.revocationDate is not None else status,
            expires_at=expires_at,
            as_of_ms=as_of_ms,
            account=decoded.appAccountToken,
        )

    def _grace_end(self, renewal: object, purchase_id: str, product: str) -> int:
        """End of the billing grace period that a signed renewal info grants to the subscription, 0 when none."""
        if renewal is None:
            return 0
        decoded = self._decode(self._signed.verify_and_decode_renewal_info, renewal)
        if decoded.originalTransactionId != purchase_id or decoded.productId != product:
            return 0
        return (decoded.gracePeriodExpiresDate or 0) // 1000

    def _decode(self, verify: Callable[[str], _T], signed: object) -> _T:
        if not isinstance(signed, str) or not signed.isascii() or len(signed) > MAX_SIGNED_SIZE:
            raise PurchaseFormatError(f"signed data is text of at most {MAX_SIGNED_SIZE} ASCII characters")
        if signed.count(".") != 2:
            raise PurchaseFormatError("signed data has three parts")
        try:
            return verify(signed)
        except VerificationException as error:
            refusal, message = _REFUSALS.get(
                error.status, (PurchaseSignatureError, "the data is not signed by the App Store")
            )
            raise refusal(message) from None
        except Exception as error:
            # The library turns signed JSON into its models outside of its own error handling, and raises what it likes.
            raise PurchaseFormatError(f"signed data that cannot be read ({type(error).__name__})") from None


@dataclass(frozen=True)
class AppStoreApiConfig:
    """How to ask the App Store Server API.

    Attributes:
        issuer_id, key_id: of an in-app purchase key from App Store Connect.
        private_key: that key, PEM.
        base_url: another one than Apple's for tests against a local server.
        timeout: seconds to wait for an answer.
    """

    issuer_id: str
    key_id: str
    private_key: bytes = field(repr=False)
    base_url: str | None = None
    timeout: float = 10.0


class AppStoreApi:
    """Asks the App Store Server API about purchases of one app. The answers are signed like what devices show."""

    def __init__(self, config: AppStoreApiConfig, app_store: AppStore) -> None:
        self._app_store = app_store
        try:
            self._client = _Client(config, app_store.config)
        except (ValueError, TypeError):
            raise ConfigError("the App Store Server API cannot be set up with this key and environment") from None

    def refresh(self, known: Purchase, *, now_ms: int) -> Purchase:
        """What the App Store says now about a purchase that was verified before.

        A renewal of a subscription comes back as the newest transaction. Raises PurchaseNotFoundError,
        PurchaseUpstreamError, PurchaseUpstreamDeniedError and the errors of `AppStore.verify`.
        """
        if known.expires_at is None:
            answer = _readable(self._client.get_transaction_info, known.transaction_id)
            return self._app_store.statement(answer.signedTransactionInfo, None, known, now_ms)
        statuses = _readable(self._client.get_all_subscription_statuses, known.transaction_id)
        for group in statuses.data or []:
            for item in group.lastTransactions or []:
                if item.originalTransactionId == known.purchase_id:
                    return self._app_store.statement(item.signedTransactionInfo, item.signedRenewalInfo, known, now_ms)
        raise PurchaseNotFoundError("the store does not know this purchase")


def _readable(ask: Callable[[str], _T], transaction_id: str) -> _T:
    try:
        return ask(quote(transaction_id, safe=""))
    except PurchaseError:
        raise
    except Exception as error:
        # Apple's client structures the JSON of the answer without error handling of its own.
        raise PurchaseUpstreamError(f"the App Store's answer cannot be read ({type(error).__name__})") from None


class _Client(AppStoreServerAPIClient):
    """Apple's client with a bounded, typed exchange in place of its own."""

    def __init__(self, config: AppStoreApiConfig, app: AppStoreConfig) -> None:
        super().__init__(config.private_key, config.key_id, config.issuer_id, app.bundle_id, app.pinned_store)
        if config.base_url is not None:
            if app.environment == "production":
                raise ConfigError("in production the App Store is asked at Apple's address")
            self._base_url = config.base_url.rstrip("/")
        self._timeout = config.timeout

    def _execute_request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        params: dict[str, str | list[str]],
        headers: dict[str, str],
        json: dict[str, Any] | None,
        data: bytes | None,
    ) -> Answer:
        with new_session() as session:
            answer = ask(session, method, url, timeout=self._timeout, headers=headers, params=params)
        refuse_failure(answer)
        if not isinstance(json_of(answer), dict):
            raise PurchaseUpstreamError("the App Store's answer has another shape than it documents")
        return answer
