"""Licenses: the signed token that carries a content key wrapped to one device key (docs/formats.md, "License").

The service calls `issue_license`, and `check_renewal` before it issues the next one. A device calls `verify_license`
when a license arrives and each time it is used, with the keys that are pinned in the app, and `License.open` with its
device key.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.licensing import Environment
from corelocker.licensing.canonical import canonical_json
from corelocker.licensing.device_clock import DeviceClock
from corelocker.licensing.device_key import SEALED_SIZE, DeviceKey, seal
from corelocker.licensing.errors import (
    CanonicalError,
    LicenseAudienceError,
    LicenseBundleError,
    LicenseDeviceError,
    LicenseEnvironmentError,
    LicenseExpiredError,
    LicenseFormatError,
    LicenseIssuerError,
    LicenseModelVersionError,
    LicenseNotYetValidError,
    LicenseRevokedError,
    LicenseSignatureError,
    LicenseTierError,
    LicenseTypeError,
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

LICENSE_TYPE = "corelocker-license+jwt"
INFO_PREFIX = b"corelocker license v1"

_REFUSALS = Refusals(LicenseFormatError, LicenseTypeError, LicenseSignatureError)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class License:
    """The claims of a license whose signature was checked.

    Attributes:
        issuer: `iss`, the service.
        issued_at, not_before: `iat`, `nbf`, Unix seconds.
        expires_at: `exp`, Unix seconds; None is perpetual.
        license_id: `jti`.
        app: `aud`.
        environment: `env`.
        bundle: UUID of the key bundle, lowercase.
        model_version: `model_version`.
        tier: the highest tier that the content key opens.
        device: `cnf.jkt`, RFC 7638 thumbprint of the device key.
        wrapped_key: `wk`, 113 bytes.
        info: HPKE's info, which binds `wrapped_key` to all other claims.
    """

    issuer: str
    issued_at: int
    not_before: int
    expires_at: int | None
    license_id: str
    app: str
    environment: Environment
    bundle: str
    model_version: int
    tier: str
    device: str
    wrapped_key: bytes = field(repr=False)
    info: bytes = field(repr=False)

    def open(self, device_key: DeviceKey) -> bytes:
        """The 32-byte content key of the tier. Raises LicenseDeviceError or LicenseWrapError."""
        if device_key.thumbprint != self.device:
            raise LicenseDeviceError("the license was issued to another device key")
        return device_key.open(self.wrapped_key, self.info)

    @property
    def renew_at(self) -> int | None:
        """When a device should ask for the next license: after two thirds of this one's time."""
        if self.expires_at is None:
            return None
        return self.issued_at + (self.expires_at - self.issued_at) * 2 // 3


# --- the service ---------------------------------------------------------------------------------


def issue_license(
    signer: Signer,
    device_key: ec.EllipticCurvePublicKey,
    content_key: bytes,
    *,
    issuer: str,
    app: str,
    environment: Environment,
    bundle: str,
    model_version: int,
    tier: str,
    issued_at: int,
    expires_at: int | None,
    not_before: int | None = None,
    license_id: str | None = None,
    device: str | None = None,
) -> str:
    """A license for the device key, as a compact JWS.

    The arguments are the claims as in `License`; `not_before` is `issued_at`, `license_id` a random UUID and `device`
    the thumbprint of the device key if not given. `expires_at` has to lie after both times. Raises LicenseFormatError
    for a claim that a device would refuse, or a content key that is not 32 bytes.
    """
    try:
        device = device or jose.thumbprint(device_key)
    except ValueError as error:
        raise LicenseFormatError(f"the device key cannot be used: {error}") from None
    claims: dict[str, object] = {
        "iss": issuer,
        "iat": issued_at,
        "nbf": issued_at if not_before is None else not_before,
        "jti": str(uuid.uuid4()) if license_id is None else license_id,
        "aud": app,
        "env": environment,
        "bundle": bundle,
        "model_version": model_version,
        "tier": tier,
        "cnf": {"jkt": device},
    }
    if expires_at is not None:
        claims["exp"] = expires_at
    info = license_info(claims)
    wrapped = seal(content_key, device_key, info)
    # The checks of the reader are those of the writer too.
    _license_of(claims, wrapped, info)
    claims["wk"] = jose.encode_base64url(wrapped)
    return write_token(claims, LICENSE_TYPE, signer)


def license_info(claims: Mapping[str, object]) -> bytes:
    """HPKE's info for a license: "corelocker license v1" || SHA-256 of the RFC 8785 JSON of its claims without `wk`.

    Raises LicenseFormatError when a claim has no canonical form.
    """
    others = {name: value for name, value in claims.items() if name != "wk"}
    try:
        canonical = canonical_json(others)
    except CanonicalError:
        raise LicenseFormatError("the claims have no canonical JSON") from None
    return INFO_PREFIX + hashlib.sha256(canonical).digest()


def check_renewal(
    license_: License,
    *,
    device: str,
    app: str,
    environment: Environment,
    revoked: bool,
    now: int,
    window: int = 180 * 86400,
) -> None:
    """Whether the service may issue the next license for this one; the purchase is checked by `purchases.entitlements`.

    `device` is the thumbprint of the key that has just proven itself. A license can be renewed before its end and
    `window` seconds after it. Raises LicenseAudienceError, LicenseEnvironmentError, LicenseDeviceError,
    LicenseRevokedError or LicenseExpiredError.
    """
    _check_place(license_, app, environment, device)
    if revoked:
        raise LicenseRevokedError("the license was revoked")
    if license_.expires_at is not None and now >= license_.expires_at + window:
        raise LicenseExpiredError("the license ended too long ago to be renewed", hint="Unlock anew")


# --- the device ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What an app expects of its license; everything is fixed by the app, its key bundle and its device key.

    Attributes:
        issuer: the unlock service.
        app: this app.
        environment: that the app was built for.
        bundle, model_version: of the key bundle at hand.
        device: thumbprint of the device key.
        tiers: those that are accepted: after an unlock the one that was asked for, otherwise all of the key bundle but
            the first, which needs no license.
        offline_grace: seconds after the end in which a license still counts, for devices that cannot reach the service.
    """

    issuer: str
    app: str
    environment: Environment
    bundle: str
    model_version: int
    device: str
    tiers: tuple[str, ...]
    offline_grace: int = 0


@dataclass(frozen=True)
class Verified:
    """A license that a device may use now.

    Attributes:
        license: the license.
        state: `valid`, `renew` (valid, and it is time to renew) or `grace` (ended, and the app grants offline grace).
        now: the time that was decided by, Unix seconds.
    """

    license: License
    state: Literal["valid", "renew", "grace"]
    now: int


def verify_license(token: object, keys: TrustedKeys, expected: Expected, clock: DeviceClock) -> Verified:
    """Check everything that a device can check about its license, before the content key is opened.

    Raises a License*Error that names the check that failed.
    """
    license_ = read_license(token, keys)
    if license_.issuer != expected.issuer:
        raise LicenseIssuerError("the license was issued by another service")
    _check_place(license_, expected.app, expected.environment, expected.device)
    if license_.bundle != expected.bundle:
        raise LicenseBundleError("the license is for another key bundle")
    if license_.model_version != expected.model_version:
        message = f"the license is for model version {license_.model_version}, not {expected.model_version}"
        raise LicenseModelVersionError(message, hint="Unlock anew")
    if license_.tier not in expected.tiers:
        raise LicenseTierError("the license is for another tier")
    now = clock.now(license_.issued_at, license_.expires_at, expected.offline_grace)
    if now < license_.not_before:
        raise LicenseNotYetValidError("the license is not valid yet")
    if license_.expires_at is not None and now >= license_.expires_at:
        if now >= license_.expires_at + expected.offline_grace:
            raise LicenseExpiredError("the license has ended", hint="Renew it online")
        return Verified(license_, "grace", now)
    renewing = license_.renew_at is not None and now >= license_.renew_at
    return Verified(license_, "renew" if renewing else "valid", now)


# --- both ----------------------------------------------------------------------------------------


def read_license(token: object, keys: TrustedKeys) -> License:
    """The license in a token that one of `keys` has signed; says nothing about where and when it may be used.

    Raises LicenseFormatError, LicenseTypeError or LicenseSignatureError.
    """
    claims = read_token(token, LICENSE_TYPE, keys, _REFUSALS)
    try:
        wrapped_key = jose.decode_base64url(text_claim(claims, "wk", LicenseFormatError))
    except ValueError:
        wrapped_key = b""
    return _license_of(claims, wrapped_key, license_info(claims))


def _check_place(license_: License, app: str, environment: Environment, device: str) -> None:
    if license_.app != app:
        raise LicenseAudienceError("the license is for another app")
    if license_.environment != environment:
        raise LicenseEnvironmentError(f"the license is for the {license_.environment} environment")
    if license_.device != device:
        raise LicenseDeviceError("the license was issued to another device key")


def _license_of(claims: Mapping[str, object], wrapped_key: bytes, info: bytes) -> License:
    expires_at = integer_claim(claims, "exp", LicenseFormatError) if "exp" in claims else None
    issued_at, not_before = (
        integer_claim(claims, "iat", LicenseFormatError),
        integer_claim(claims, "nbf", LicenseFormatError),
    )
    if expires_at is not None and expires_at <= max(issued_at, not_before):
        raise LicenseFormatError("the license ends before it begins")
    environment = text_claim(claims, "env", LicenseFormatError)
    if environment not in ("production", "development"):
        raise LicenseFormatError("the claim env is neither production nor development")
    bundle = text_claim(claims, "bundle", LicenseFormatError)
    if not _UUID.fullmatch(bundle):
        raise LicenseFormatError("the claim bundle is not a UUID in lowercase")
    confirmation = claims.get("cnf")
    device = text_claim(confirmation, "jkt", LicenseFormatError) if isinstance(confirmation, Mapping) else ""
    if len(device) != jose.THUMBPRINT_SIZE:
        raise LicenseFormatError("the claim cnf.jkt is not a key thumbprint")
    if len(wrapped_key) != SEALED_SIZE:
        raise LicenseFormatError(f"the claim wk is not {SEALED_SIZE} bytes in base64url")
    return License(
        issuer=text_claim(claims, "iss", LicenseFormatError),
        issued_at=issued_at,
        not_before=not_before,
        expires_at=expires_at,
        license_id=text_claim(claims, "jti", LicenseFormatError),
        app=text_claim(claims, "aud", LicenseFormatError),
        environment=cast(Environment, environment),
        bundle=bundle,
        model_version=integer_claim(claims, "model_version", LicenseFormatError),
        tier=text_claim(claims, "tier", LicenseFormatError),
        device=device,
        wrapped_key=wrapped_key,
        info=info,
    )
