"""Signed transactions and notifications of the App Store, under a root of the tests, and Apple's own test data."""

from __future__ import annotations

import base64
import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from appstoreserverlibrary.models.Environment import Environment as Store
from corelocker.bundle import jose
from corelocker.errors import ConfigError
from corelocker.licensing import errors
from corelocker.purchases import app_store
from corelocker.purchases.app_store import APPLE_ROOT_CA_G3, MAX_SIGNED_SIZE, AppStore, AppStoreConfig
from corelocker.purchases.entitlements import Catalog, Purchase, Unlock, entitled, observe
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.apple_signer import (
    ACCOUNT,
    APPLE,
    CONFIG,
    DAY,
    NOW,
    STORE,
    SUBSCRIPTION,
    AppleSigner,
    renewal_info,
    shown,
    transaction,
)

VECTORS = Path(__file__).parents[3] / "tests/vectors/purchases/apple"


def notification(kind: str = "REFUND", data: dict[str, Any] | None = None, **changes: Any) -> str:
    data = {"appAppleId": 1234, "bundleId": "com.example.camera", "environment": "Sandbox"} | (data or {})
    payload: dict[str, Any] = {
        "notificationType": kind,
        "notificationUUID": "002e14d5-51f5-4503-b5a8-c3a1af68eb20",
        "version": "2.0",
        "signedDate": NOW - 500,
        "data": data,
    }
    return APPLE.sign({name: value for name, value in (payload | changes).items() if value is not None})


def notification_without_data(**changes: Any) -> str:
    payload = {"notificationType": "RENEWAL_EXTENSION", "notificationUUID": "1", "version": "2.0", "signedDate": NOW}
    return APPLE.sign(payload | changes)


# --- transactions --------------------------------------------------------------------------------


def test_a_non_consumable() -> None:
    assert shown() == Purchase(
        provider="app-store",
        app="com.example.camera",
        purchase_id="1000",
        transaction_id="2000",
        product="pro",
        status="active",
        expires_at=None,
        as_of_ms=NOW - 1000,
        account=ACCOUNT,
    )


def test_a_subscription() -> None:
    assert shown(**SUBSCRIPTION).expires_at == (NOW + 30 * DAY) // 1000
    ended = shown(type="Auto-Renewable Subscription", expiresDate=NOW - 1)
    assert (ended.status, ended.expires_at) == ("active", NOW // 1000 - 1)


def test_revoked_and_upgraded() -> None:
    assert shown(revocationDate=NOW - 5, revocationReason=1).status == "revoked"
    assert shown(isUpgraded=True).status == "superseded"
    assert shown(isUpgraded=True, revocationDate=NOW - 5).status == "revoked"
    assert shown(isUpgraded=False).status == "active"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"bundleId": "com.example.other"}, errors.PurchaseAppError),
        ({"bundleId": None}, errors.PurchaseAppError),
        ({"environment": "Production"}, errors.PurchaseEnvironmentError),
        ({"environment": "Xcode"}, errors.PurchaseEnvironmentError),
        ({"environment": "LocalTesting"}, errors.PurchaseEnvironmentError),
        ({"environment": None}, errors.PurchaseEnvironmentError),
        ({"signedDate": NOW + 300_001}, errors.PurchaseNotYetValidError),
        ({"signedDate": None}, errors.PurchaseFormatError),
        ({"purchaseDate": None}, errors.PurchaseFormatError),
        ({"productId": None}, errors.PurchaseFormatError),
        ({"productId": ""}, errors.PurchaseFormatError),
        ({"transactionId": None}, errors.PurchaseFormatError),
        ({"originalTransactionId": None}, errors.PurchaseFormatError),
        ({"type": "Auto-Renewable Subscription"}, errors.PurchaseFormatError),
        ({"type": "Consumable"}, errors.PurchaseProductError),
        ({"type": "Non-Renewing Subscription"}, errors.PurchaseProductError),
        ({"type": "Something New"}, errors.PurchaseProductError),
        ({"type": None}, errors.PurchaseProductError),
        ({"inAppOwnershipType": "SOMETHING_NEW"}, errors.PurchaseProductError),
        ({"inAppOwnershipType": None}, errors.PurchaseProductError),
        ({"purchaseDate": "soon"}, errors.PurchaseFormatError),
        ({"expiresDate": [1]}, errors.PurchaseFormatError),
    ],
    ids=str,
)
def test_a_transaction_is_refused(changes: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        shown(**changes)


def test_clock_skew_edge() -> None:
    assert shown(signedDate=NOW + 300_000)


def test_family_sharing_is_a_choice() -> None:
    assert shown(inAppOwnershipType="FAMILY_SHARED")
    with pytest.raises(errors.PurchaseProductError):
        shown(replace(CONFIG, family_sharing=False), inAppOwnershipType="FAMILY_SHARED")
    assert shown(replace(CONFIG, family_sharing=False))


def test_the_account_has_to_match() -> None:
    assert shown(account=ACCOUNT)
    assert shown(account=ACCOUNT.upper())
    for account, changes in (("other", {}), (ACCOUNT, {"appAccountToken": None}), ("", {"appAccountToken": ACCOUNT})):
        with pytest.raises(errors.PurchaseAccountError):
            shown(account=account, **changes)


def test_a_transaction_can_be_too_old() -> None:
    config = replace(CONFIG, max_age=3600)
    assert shown(config, signedDate=NOW - 3_600_000)
    with pytest.raises(errors.PurchaseStaleError):
        shown(config, signedDate=NOW - 3_600_001)
    assert shown(signedDate=NOW - 600 * DAY)


# --- signatures ----------------------------------------------------------------------------------


def refused(signed: object, refusal: type[Exception] = errors.PurchaseSignatureError, store: AppStore = STORE) -> None:
    for read in (store.verify, store.notice):
        with pytest.raises(refusal):
            read(signed, now_ms=NOW)


def test_another_root() -> None:
    refused(AppleSigner().sign(transaction()))


def test_apples_root_did_not_sign_this() -> None:
    refused(APPLE.sign(transaction()), store=AppStore(AppStoreConfig("development", "com.example.camera")))


def test_a_changed_payload() -> None:
    head, _, signature = APPLE.sign(transaction()).split(".")
    body = jose.encode_base64url(json.dumps(transaction(productId="everything")).encode())
    refused(f"{head}.{body}.{signature}")


def test_a_signature_by_another_key_than_the_leafs() -> None:
    thief = AppleSigner(root=APPLE)
    thief.leaf_key = ec.generate_private_key(ec.SECP256R1())
    refused(thief.sign(transaction()))


@pytest.mark.parametrize("missing", ["leaf_mark", "intermediate_mark"])
def test_a_chain_without_apples_marks(missing: str) -> None:
    """Apple's root signs much else: only certificates for this purpose count."""
    refused(AppleSigner(root=APPLE, **{missing: False}).sign(transaction()))
    assert STORE.verify(AppleSigner(root=APPLE).sign(transaction()), now_ms=NOW)


def test_a_leaf_that_had_expired_when_it_signed() -> None:
    signer = AppleSigner(root=APPLE, leaf_end=datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC))
    refused(signer.sign(transaction()))
    assert STORE.verify(signer.sign(transaction(signedDate=1_720_000_000_000)), now_ms=NOW), "valid at its time"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "RS256"},
        {"x5c": None},
        {"x5c": []},
        {"x5c": "x"},
        {"x5c": [1, 2, 3]},
        {"x5c": ["AA==", "AA==", "AA=="]},
    ],
    ids=str,
)
def test_another_header(header: dict[str, Any]) -> None:
    refused(APPLE.sign(transaction(), **header))


def test_chains_of_another_length_or_order() -> None:
    parts = [base64.b64encode(part).decode() for part in APPLE.chain]
    for chain in (parts[:1], parts[:2], [*parts, parts[2]], parts[::-1], [parts[1], parts[0], parts[2]]):
        refused(APPLE.sign(transaction(), x5c=chain))


@pytest.mark.parametrize(
    "signed",
    [None, 1, b"a.b.c", [], "", "a", "a.b", "a.b.c.d", "é.b.c", "a.b." + "c" * MAX_SIGNED_SIZE],
    ids=lambda signed: repr(signed)[:20],
)
def test_no_signed_data(signed: object) -> None:
    refused(signed, errors.PurchaseFormatError)


def test_the_longest_signed_data() -> None:
    refused("a.b." + "c" * (MAX_SIGNED_SIZE - 4))
    refused("a.b." + "c" * (MAX_SIGNED_SIZE - 3), errors.PurchaseFormatError)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"1", b"{", b"[" * 50_000, b"\xff", b'{"signedDate": "x"}', b'{"signedDate": 1e400}']
)
def test_signed_nonsense(payload: bytes) -> None:
    refused(APPLE.sign(payload))


def test_other_signed_data_is_no_transaction() -> None:
    with pytest.raises(errors.PurchaseAppError):
        STORE.verify(renewal_info(), now_ms=NOW)
    with pytest.raises(errors.PurchaseAppError):
        STORE.verify(notification(), now_ms=NOW)
    with pytest.raises(errors.PurchaseAppError):
        STORE.notice(APPLE.sign(transaction()), now_ms=NOW)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    signed = SIGNED
    at = data.draw(st.integers(0, len(signed) - 1))
    char = data.draw(st.characters(codec="ascii", exclude_characters=signed[at]))
    changed = signed[:at] + char + signed[at + 1 :]
    try:
        same = STORE.verify(changed, now_ms=NOW)
    except errors.PurchaseError:
        return
    # PyJWT ignores what base64 leaves over in the last character of the signature.
    assert at == len(signed) - 1
    assert same == STORE.verify(signed, now_ms=NOW)


SIGNED = APPLE.sign(transaction())


# --- configuration -------------------------------------------------------------------------------


def test_production_takes_apples_production_environment_only() -> None:
    assert AppStore(AppStoreConfig("production", "com.example.camera", 1234)).config.pinned_store == Store.PRODUCTION
    for store in (Store.XCODE, Store.LOCAL_TESTING, Store.SANDBOX):
        with pytest.raises(ConfigError):
            AppStoreConfig("production", "com.example.camera", 1234, store)
    with pytest.raises(ConfigError):
        AppStoreConfig("production", "com.example.camera", 1234, roots=(APPLE.root,))
    with pytest.raises(ConfigError):
        AppStoreConfig("production", "com.example.camera", 1234, roots=(APPLE_ROOT_CA_G3, APPLE.root))
    with pytest.raises(ConfigError):
        AppStoreConfig("production", "com.example.camera")


def test_development_never_takes_production() -> None:
    with pytest.raises(ConfigError):
        AppStoreConfig("development", "com.example.camera", 1234, Store.PRODUCTION)
    for changes in ({"roots": ()}, {"bundle_id": ""}):
        with pytest.raises(ConfigError):
            replace(CONFIG, **changes)


def test_apples_root_is_apples() -> None:
    root = x509.load_der_x509_certificate(APPLE_ROOT_CA_G3)
    assert root.fingerprint(hashes.SHA256()).hex() == "63343abfb89a6a03ebb57e9b3f5fa7be7c4f5c756f3017b3a8c488c3653e9179"
    assert "Apple Root CA - G3" in root.subject.rfc4514_string()


def test_a_production_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tests' root in Apple's place: sandbox purchases and notices for another app are refused."""
    monkeypatch.setattr(app_store, "APPLE_ROOT_CA_G3", APPLE.root)
    store = AppStore(AppStoreConfig("production", "com.example.camera", 1234, roots=(APPLE.root,)))
    assert store.verify(APPLE.sign(transaction(environment="Production")), now_ms=NOW)
    for environment in ("Sandbox", "Xcode", "LocalTesting"):
        with pytest.raises(errors.PurchaseEnvironmentError):
            store.verify(APPLE.sign(transaction(environment=environment)), now_ms=NOW)
        with pytest.raises(errors.PurchaseEnvironmentError):
            store.notice(notification(data={"environment": environment}), now_ms=NOW)
    assert store.notice(notification("TEST", data={"environment": "Production"}), now_ms=NOW)
    with pytest.raises(errors.PurchaseAppError):
        store.notice(notification(data={"environment": "Production", "appAppleId": 99}), now_ms=NOW)


# --- notifications -------------------------------------------------------------------------------

CATALOG = Catalog({("com.example.camera", "pro"): (Unlock("b", "full"),)}, {"b": ("free", "full")})


def noticed(kind: str, renewal: str | None = None, **changes: Any) -> Purchase:
    data = {"signedTransactionInfo": APPLE.sign(transaction(**changes))}
    if renewal is not None:
        data["signedRenewalInfo"] = renewal
    notice = STORE.notice(notification(kind, data), now_ms=NOW)
    assert (notice.notice_id, notice.kind) == ("002e14d5-51f5-4503-b5a8-c3a1af68eb20", kind)
    assert notice.purchase is not None
    return notice.purchase


def test_notices_say_what_their_transaction_says() -> None:
    assert noticed("ONE_TIME_CHARGE") == shown()
    assert noticed("DID_RENEW", **SUBSCRIPTION) == shown(**SUBSCRIPTION)
    assert noticed("REFUND", revocationDate=NOW).status == "revoked"
    assert noticed("SOMETHING_NEW", revocationDate=NOW).status == "revoked"


@pytest.mark.parametrize("kind", ["REFUND", "REVOKE"])
def test_a_refund_without_its_date_is_a_refund(kind: str) -> None:
    assert noticed(kind).status == "revoked"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2), (0, 0, 1, 1, 2, 2, 1, 0)])
def test_notices_replayed_or_out_of_order(order: tuple[int, ...]) -> None:
    """Bought, refunded, refund reversed: the last word counts, in whatever order it comes."""
    statements = [
        shown(signedDate=NOW - 3000),
        noticed("REFUND", signedDate=NOW - 2000, revocationDate=NOW - 2500),
        noticed("REFUND_REVERSED", signedDate=NOW - 1000),
    ]
    state = None
    for at in order:
        state = observe(state, statements[at])
    assert state is not None
    assert entitled(state, "com.example.camera", "b", "full", NOW // 1000, CATALOG) == statements[2]
    refunded = observe(observe(None, statements[1]), statements[0])
    with pytest.raises(errors.PurchaseRevokedError):
        entitled(refunded, "com.example.camera", "b", "full", NOW // 1000, CATALOG)


def test_notices_about_no_transaction() -> None:
    assert STORE.notice(notification("TEST"), now_ms=NOW).purchase is None
    summary = {"bundleId": "com.example.camera", "environment": "Sandbox", "productId": "pro"}
    assert STORE.notice(notification_without_data(summary=summary), now_ms=NOW).purchase is None
    with pytest.raises(errors.PurchaseAppError):
        STORE.notice(notification_without_data(), now_ms=NOW)


@pytest.mark.parametrize(
    ("signed", "refusal"),
    [
        (notification(data={"bundleId": "com.example.other"}), errors.PurchaseAppError),
        (notification(data={"environment": "Production"}), errors.PurchaseEnvironmentError),
        (notification(notificationType=None), errors.PurchaseFormatError),
        (notification(notificationUUID=None), errors.PurchaseFormatError),
        (notification(data={"signedTransactionInfo": "a.b.c"}), errors.PurchaseSignatureError),
        (notification(data={"signedTransactionInfo": 5}), errors.PurchaseFormatError),
        (
            notification(data={"signedTransactionInfo": AppleSigner().sign(transaction())}),
            errors.PurchaseSignatureError,
        ),
        (
            notification(data={"signedTransactionInfo": APPLE.sign(transaction(bundleId="com.example.other"))}),
            errors.PurchaseAppError,
        ),
        (
            notification(data={"signedTransactionInfo": APPLE.sign(transaction(environment="Production"))}),
            errors.PurchaseEnvironmentError,
        ),
    ],
    # Tokens differ from process to process, and names of cases must not.
    ids=lambda value: getattr(value, "__name__", "case"),
)
def test_a_notice_is_refused(signed: str, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        STORE.notice(signed, now_ms=NOW)


def test_billing_grace_period() -> None:
    """The subscription has ended, but Apple still tries to collect: the renewal info says how long it counts."""
    ended = {"type": "Auto-Renewable Subscription", "expiresDate": NOW - DAY}
    grace = renewal_info(gracePeriodExpiresDate=NOW + DAY)
    assert noticed("DID_FAIL_TO_RENEW", grace, **ended).expires_at == (NOW + DAY) // 1000
    assert shown(renewal=grace, **ended).expires_at == (NOW + DAY) // 1000
    assert shown(renewal=renewal_info(), **ended).expires_at == (NOW - DAY) // 1000
    assert shown(renewal=renewal_info(gracePeriodExpiresDate=NOW - 2 * DAY), **ended).expires_at == (NOW - DAY) // 1000
    for other in ({"originalTransactionId": "9"}, {"productId": "plus"}):
        renewal = renewal_info(gracePeriodExpiresDate=NOW + DAY, **other)
        assert shown(renewal=renewal, **ended).expires_at == (NOW - DAY) // 1000
    with pytest.raises(errors.PurchaseSignatureError):
        shown(renewal=AppleSigner().sign({"gracePeriodExpiresDate": NOW + DAY}), **ended)
    with pytest.raises(errors.PurchaseEnvironmentError):
        shown(renewal=renewal_info(environment="Production"), **ended)


def test_a_grace_period_that_is_told_later_counts() -> None:
    """The same transaction, once without and once with its renewal info, in both orders."""
    ended = {"type": "Auto-Renewable Subscription", "expiresDate": NOW - DAY}
    without, told = shown(**ended), shown(renewal=renewal_info(gracePeriodExpiresDate=NOW + 9 * DAY), **ended)
    refund = shown(revocationDate=NOW, **ended)
    for first, second in ((without, told), (told, without)):
        state = observe(observe(None, first), second)
        assert entitled(state, "com.example.camera", "b", "full", NOW // 1000, CATALOG) == told
        assert observe(state, refund).purchases == (refund,)


# --- Apple's test data ---------------------------------------------------------------------------


def apples(store: Store, bundle_id: str = "com.example", *, strict: bool = True) -> AppStore:
    root = (VECTORS / "certs/testCA.der").read_bytes()
    made = AppStore(AppStoreConfig("development", bundle_id, 1234, store, (root,)))
    # Apple's own tests switch this off too: the certificates of their test CA have no key identifiers.
    made._signed._chain_verifier.enable_strict_checks = strict
    return made


def vector(name: str) -> str:
    return (VECTORS / name).read_text().strip()


def test_apples_mock_data() -> None:
    store = apples(Store.SANDBOX, strict=False)
    assert store.notice(vector("mock_signed_data/testNotification"), now_ms=NOW).kind == "TEST"
    with pytest.raises(errors.PurchaseFormatError, match="identifier"):
        store.verify(vector("mock_signed_data/transactionInfo"), now_ms=NOW)
    with pytest.raises(errors.PurchaseAppError):
        store.notice(vector("mock_signed_data/wrongBundleId"), now_ms=NOW)
    refused(vector("mock_signed_data/missingX5CHeaderClaim"), store=store)
    for name in ("transactionInfo", "testNotification", "renewalInfo"):
        refused(vector(f"mock_signed_data/{name}"), store=apples(Store.SANDBOX))
        refused(vector(f"mock_signed_data/{name}"))
    with pytest.raises(errors.PurchaseEnvironmentError):
        apples(Store.LOCAL_TESTING).notice(vector("mock_signed_data/testNotification"), now_ms=NOW)


def test_xcode_data_counts_in_development_alone() -> None:
    signed, bundle_id = vector("xcode/xcode-signed-transaction"), "com.example.naturelab.backyardbirds.example"
    purchase = apples(Store.XCODE, bundle_id).verify(signed, now_ms=NOW)
    assert (purchase.product, purchase.expires_at, purchase.as_of_ms) == ("pass.premium", 1700358336, 1697679936056)
    assert apples(Store.XCODE, bundle_id).verify(signed, now_ms=NOW, renewal=vector("xcode/xcode-signed-renewal-info"))
    for store in (
        apples(Store.SANDBOX, bundle_id, strict=False),
        AppStore(AppStoreConfig("production", bundle_id, 1234)),
    ):
        refused(signed, store=store)


def test_apples_models() -> None:
    def unsigned(name: str, **changes: Any) -> str:
        payload = json.loads((VECTORS / "models" / name).read_text()) | changes
        return f"{jose.encode_base64url(b'{}')}.{jose.encode_base64url(json.dumps(payload).encode())}.AAAA"

    store = apples(Store.LOCAL_TESTING)
    head = jose.encode_base64url(b'{"alg":"ES256"}')
    good = unsigned("signedTransaction.json").split(".", 1)[1]
    revoked = unsigned("signedTransactionWithRevocation.json").split(".", 1)[1]
    bought = store.verify(f"{head}.{good}", now_ms=NOW)
    assert (bought.purchase_id, bought.transaction_id, bought.product) == ("12345", "23456", "com.example.product")
    assert (bought.expires_at, bought.as_of_ms) == (1698149000, 1698148900000)
    assert bought.account == ACCOUNT
    assert store.verify(f"{head}.{revoked}", now_ms=NOW).status == "revoked"
    renewal = f"{head}." + unsigned("signedRenewalInfo.json").split(".", 1)[1]
    for name in ("signedTransaction.json", "signedTransactionWithRevocation.json"):
        data = json.loads((VECTORS / "models/signedNotification.json").read_text())["data"]
        data |= {"signedTransactionInfo": f"{head}." + unsigned(name).split(".", 1)[1], "signedRenewalInfo": renewal}
        notice = store.notice(f"{head}." + unsigned("signedNotification.json", data=data).split(".", 1)[1], now_ms=NOW)
        assert notice.kind == "SUBSCRIBED"
        assert notice.purchase is not None
        assert notice.purchase.status == ("revoked" if "Revocation" in name else bought.status)
