"""Grants of the publisher's own backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.bundle.strict_json import parse_object
from corelocker.errors import ConfigError
from corelocker.licensing import errors
from corelocker.licensing.tokens import SoftwareSigner, TrustedKeys, write_token
from corelocker.purchases.entitlements import Catalog, Purchase, Unlock, entitled, observe
from corelocker.purchases.grant import GRANT_TYPE, GrantConfig, issue_grant, verify_grant
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_800_000_000
BACKEND = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
STRANGER = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
CONFIG = GrantConfig("production", "com.example.camera", "shop", TrustedKeys([BACKEND.public_key]))


def grant(signer: SoftwareSigner = BACKEND, **changes: Any) -> str:
    terms: dict[str, Any] = {
        "issuer": "shop",
        "app": "com.example.camera",
        "environment": "production",
        "product": "pro",
        "issued_at": NOW - 10,
        "purchase": "order 7",
    }
    return issue_grant(signer, **(terms | changes))


def claims(**changes: Any) -> str:
    """A signed grant with any claims; None leaves one out."""
    made = parse_object(jose.decode_base64url(grant().split(".")[1])) | changes
    return write_token({name: value for name, value in made.items() if value is not None}, GRANT_TYPE, BACKEND)


def test_a_grant() -> None:
    assert verify_grant(grant(), CONFIG, now=NOW) == Purchase(
        provider="grant",
        app="com.example.camera",
        purchase_id="sub:order 7",
        transaction_id="pro",
        product="pro",
        status="active",
        expires_at=None,
        as_of_ms=(NOW - 10) * 1000,
    )
    limited = verify_grant(grant(until=NOW + 5, account="a"), CONFIG, now=NOW, account="a")
    assert (limited.expires_at, limited.account) == (NOW + 5, "a")


def test_grants_of_one_purchase_share_its_places() -> None:
    first, second = (verify_grant(grant(), CONFIG, now=NOW) for _ in range(2))
    assert first.purchase_id == second.purchase_id
    alone = [verify_grant(grant(purchase=None), CONFIG, now=NOW) for _ in range(2)]
    assert alone[0].purchase_id != alone[1].purchase_id
    assert all(one.purchase_id.startswith("jti:") for one in alone)
    posing = verify_grant(claims(sub=None, jti="sub:order 7"), CONFIG, now=NOW)
    assert posing.purchase_id == "jti:sub:order 7"


@pytest.mark.parametrize(
    ("token", "refusal"),
    [
        (grant(issuer="other shop"), errors.PurchaseSignatureError),
        (grant(STRANGER), errors.PurchaseSignatureError),
        (grant(app="com.example.other"), errors.PurchaseAppError),
        (grant(environment="development"), errors.PurchaseEnvironmentError),
        (grant(issued_at=NOW + 61), errors.PurchaseNotYetValidError),
        (grant(lifetime=10), errors.PurchaseExpiredError),
        (grant(lifetime=7 * 86400 + 1), errors.PurchaseFormatError),
        (grant(lifetime=0), errors.PurchaseFormatError),
        (grant(lifetime=-5), errors.PurchaseFormatError),
        (claims(exp=None), errors.PurchaseFormatError),
        (claims(iat=None), errors.PurchaseFormatError),
        (claims(jti=None), errors.PurchaseFormatError),
        (claims(product=None), errors.PurchaseFormatError),
        (claims(aud=None), errors.PurchaseFormatError),
        (claims(aud=["com.example.camera"]), errors.PurchaseFormatError),
        (claims(env=None), errors.PurchaseFormatError),
        (claims(iss=None), errors.PurchaseFormatError),
        (claims(sub=""), errors.PurchaseFormatError),
        (claims(sub=5), errors.PurchaseFormatError),
        (claims(until="never"), errors.PurchaseFormatError),
        (claims(until=True), errors.PurchaseFormatError),
        (claims(account=5), errors.PurchaseFormatError),
        (claims(product="p" * 257), errors.PurchaseFormatError),
        (write_token({}, "corelocker-license+jwt", BACKEND), errors.PurchaseFormatError),
        (None, errors.PurchaseFormatError),
        ("a.b.c", errors.PurchaseFormatError),
    ],
    # Tokens differ from process to process, and names of cases must not.
    ids=lambda value: getattr(value, "__name__", "case"),
)
def test_a_grant_is_refused(token: object, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        verify_grant(token, CONFIG, now=NOW)


def test_time_edges() -> None:
    for token in (grant(issued_at=NOW + 60), grant(lifetime=11), grant(lifetime=7 * 86400)):
        assert verify_grant(token, CONFIG, now=NOW)
    assert verify_grant(grant(lifetime=60), replace(CONFIG, max_lifetime=60), now=NOW)
    with pytest.raises(errors.PurchaseFormatError):
        verify_grant(grant(lifetime=61), replace(CONFIG, max_lifetime=60), now=NOW)


def test_the_account_has_to_match() -> None:
    assert verify_grant(grant(account="a"), CONFIG, now=NOW)
    for token in (grant(account="b"), grant()):
        with pytest.raises(errors.PurchaseAccountError):
            verify_grant(token, CONFIG, now=NOW, account="a")


def test_a_right_ends() -> None:
    catalog = Catalog({("com.example.camera", "pro"): (Unlock("b", "full"),)}, {"b": ("free", "full")})
    state = observe(None, verify_grant(grant(until=NOW + 5), CONFIG, now=NOW))
    assert entitled(state, "com.example.camera", "b", "full", NOW + 4, catalog)
    with pytest.raises(errors.PurchaseExpiredError):
        entitled(state, "com.example.camera", "b", "full", NOW + 5, catalog)
    longer = verify_grant(grant(until=NOW + 50, issued_at=NOW), CONFIG, now=NOW)
    assert entitled(observe(state, longer), "com.example.camera", "b", "full", NOW + 5, catalog) == longer


def test_configuration() -> None:
    with pytest.raises(ConfigError):
        replace(CONFIG, max_lifetime=0)
    assert replace(CONFIG, max_lifetime=1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_grant_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GRANT) - 1))
    char = data.draw(st.characters(codec="ascii", exclude_characters=GRANT[at]))
    with pytest.raises(errors.PurchaseError):
        verify_grant(GRANT[:at] + char + GRANT[at + 1 :], CONFIG, now=NOW)


GRANT = grant()


def test_a_grant_seen_before_is_not_verified_again_and_everything_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, verified = grant(), []
    verify = jose.verify
    monkeypatch.setattr(jose, "verify", lambda *args: verified.append(args) or verify(*args))
    assert verify_grant(shown, CONFIG, now=NOW) == verify_grant(shown, CONFIG, now=NOW)
    assert len(verified) == 1
    # What depends on the time or on who asks is checked every time.
    with pytest.raises(errors.PurchaseExpiredError):
        verify_grant(shown, CONFIG, now=NOW + 7 * 86400)
    with pytest.raises(errors.PurchaseAppError):
        verify_grant(shown, replace(CONFIG, app="com.example.other"), now=NOW)
    # Neither another signature under the same claims nor other keys profit from it.
    head, payload, _ = shown.split(".")
    other = jose.encode_base64url(STRANGER.sign(f"{head}.{payload}".encode()))
    strangers = replace(CONFIG, keys=TrustedKeys([STRANGER.public_key]))
    for token, config in ((f"{head}.{payload}.{other}", CONFIG), (shown, strangers)):
        for _ in range(2):
            with pytest.raises(errors.PurchaseSignatureError):
                verify_grant(token, config, now=NOW)
