"""Google Play's real-time developer notifications: who may send them, and what they say."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from corelocker.licensing import errors
from corelocker.purchases.entitlements import entitled, observe
from corelocker.purchases.play_notices import MAX_NOTICE_SIZE, GoogleKeys, PlayNotice, PlayNotices
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import KeySet, OctKey, RSAKey
from support.google_play import (
    CATALOG,
    NOW,
    PAST,
    TOKEN,
    TOKEN_ID,
    Google,
)
from support.http_server import eventually
from support.play_server import (
    GOOGLE_KEY,
    Call,
    error_reply,
    json_reply,
    raw,
)

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
    assert eventually(lambda: len(google.calls) == 2)


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
    with pytest.raises(errors.PurchaseUpstreamError):
        keys.at(SECONDS)
    assert len(google.calls) == 1
    assert keys.at(SECONDS + 1)


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
