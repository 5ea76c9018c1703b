"""Grants: the publisher's own backend says that somebody may have a product (web shop, site license, review, tests).

A grant is a JWS compact, ES256, `typ` = `corelocker-grant+jwt`, with the claims

    iss  the backend                        aud  the app, as in the unlock request
    env  production or development          product  product identifier, looked up in the catalog like a store's
    iat, exp  when it was made, and until when it can be shown (not: used)
    jti  of this grant                      sub  of the purchase that it stands for (optional: the grant itself)
    until  end of the right (absent: none)  account  the app's account identifier (optional)

All grants with one `sub` are one purchase: they share its places, so a backend may sign a new grant for every request.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.errors import (
    PurchaseAccountError,
    PurchaseAppError,
    PurchaseEnvironmentError,
    PurchaseExpiredError,
    PurchaseFormatError,
    PurchaseNotYetValidError,
    PurchaseSignatureError,
)
from corelocker.licensing.tokens import (
    Refusals,
    Signer,
    TrustedKeys,
    integer_claim,
    read_token,
    text_claim,
    write_token,
)
from corelocker.purchases.entitlements import Purchase

GRANT_TYPE = "corelocker-grant+jwt"
# How far the clocks of the backend and the service may be apart.
CLOCK_SKEW = 60
_REFUSALS = Refusals(PurchaseFormatError, PurchaseFormatError, PurchaseSignatureError)


@dataclass(frozen=True)
class GrantConfig:
    """Whose grants count.

    Attributes:
        environment: of this service.
        app: that the grants have to be for.
        issuer: the backend's name.
        keys: its signing keys.
        max_lifetime: seconds between `iat` and `exp` that the service accepts at most.
    """

    environment: Environment
    app: str
    issuer: str
    keys: TrustedKeys
    max_lifetime: int = 7 * 86400

    def __post_init__(self) -> None:
        if self.max_lifetime < 1:
            raise ConfigError(f"a longest lifetime of {self.max_lifetime} s for grants makes no sense")


def issue_grant(
    signer: Signer,
    *,
    issuer: str,
    app: str,
    environment: Environment,
    product: str,
    issued_at: int,
    lifetime: int = 3600,
    purchase: str | None = None,
    until: int | None = None,
    account: str | None = None,
) -> str:
    """A grant as the publisher's backend signs it; `purchase` is the claim `sub`, `lifetime` (seconds) gives `exp`."""
    claims: dict[str, object] = {
        "iss": issuer,
        "aud": app,
        "env": environment,
        "product": product,
        "iat": issued_at,
        "exp": issued_at + lifetime,
        "jti": str(uuid.uuid4()),
    }
    optional = {"sub": purchase, "until": until, "account": account}
    claims |= {name: value for name, value in optional.items() if value is not None}
    return write_token(claims, GRANT_TYPE, signer)


def verify_grant(grant: object, config: GrantConfig, *, now: int, account: str | None = None) -> Purchase:
    """The purchase that a grant stands for; `account` is the account of the app's user, when the service knows it.

    Raises PurchaseFormatError, PurchaseSignatureError, PurchaseAppError, PurchaseEnvironmentError,
    PurchaseAccountError, PurchaseNotYetValidError, or PurchaseExpiredError when the grant can no longer be shown.
    Whether the right itself has ended is for `entitlements.entitled` to say.
    """
    claims = read_token(grant, GRANT_TYPE, config.keys, _REFUSALS)
    if text_claim(claims, "iss", PurchaseFormatError) != config.issuer:
        raise PurchaseSignatureError("the grant is from another backend")
    if text_claim(claims, "aud", PurchaseFormatError) != config.app:
        raise PurchaseAppError("the grant is for another app")
    if text_claim(claims, "env", PurchaseFormatError) != config.environment:
        raise PurchaseEnvironmentError("the grant is for another environment")
    issued_at, shown_until = (
        integer_claim(claims, "iat", PurchaseFormatError),
        integer_claim(claims, "exp", PurchaseFormatError),
    )
    if issued_at > now + CLOCK_SKEW:
        raise PurchaseNotYetValidError("the grant is dated in the future")
    if not 0 < shown_until - issued_at <= config.max_lifetime:
        raise PurchaseFormatError(f"a grant may be shown for at most {config.max_lifetime} s")
    if now >= shown_until:
        raise PurchaseExpiredError("the grant can no longer be shown", hint="Fetch a new one from the backend")
    owner = text_claim(claims, "account", PurchaseFormatError) if "account" in claims else None
    if account is not None and owner != account:
        raise PurchaseAccountError("the grant belongs to another account")
    grant_id, product = (
        text_claim(claims, "jti", PurchaseFormatError),
        text_claim(claims, "product", PurchaseFormatError),
    )
    return Purchase(
        provider="grant",
        app=config.app,
        # The two kinds of identifier are kept apart: a `jti` must not be able to name another grant's `sub`.
        purchase_id=f"sub:{text_claim(claims, 'sub', PurchaseFormatError)}" if "sub" in claims else f"jti:{grant_id}",
        transaction_id=product,
        product=product,
        status="active",
        expires_at=integer_claim(claims, "until", PurchaseFormatError) if "until" in claims else None,
        as_of_ms=issued_at * 1000,
        account=owner,
    )
