"""Licenses: the signed token that carries a content key wrapped to one device key.

A license is a JWS compact, ES256, `typ` = `corelocker-license+jwt`, with the claims of `License`. The claim `wk` is
the base64url of HPKE's enc || ciphertext (RFC 9180, base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM):
65 + 48 bytes. Its `info` is "corelocker license v1" || SHA-256 of the canonical JSON (RFC 8785) of all other claims,
so a wrapped key that is moved to another license does not open.

The service calls `issue_license`, and `check_renewal` before it issues the next one. A device calls `verify_license`
every time it unlocks, with the service keys that are pinned in the app, and `License.open` with its device key.

Time on a device: an offline device has only its own clock, which its owner can set. `DeviceClock` keeps a mark that
never falls: the latest time that was seen, moved on by the time since start-up while the device stays up. A clock that
is behind the mark by more than a day is refused for licenses that end; one that is a little behind gains nothing,
since the mark counts as the time.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.errors import FileAccessError
from corelocker.files import write_atomically
from corelocker.licensing import Environment
from corelocker.licensing.canonical import CanonicalError, canonical_json
from corelocker.licensing.errors import (
    LicenseAudienceError,
    LicenseBundleError,
    LicenseClockError,
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
    LicenseWrapError,
)
from corelocker.licensing.tokens import (
    Refusals,
    Signer,
    TrustedKeys,
    integer_claim,
    read_token,
    strict_json,
    text_claim,
    write_token,
)

LICENSE_TYPE = "corelocker-license+jwt"
INFO_PREFIX = b"corelocker license v1"
CONTENT_KEY_SIZE = 32
WRAPPED_KEY_SIZE = 65 + CONTENT_KEY_SIZE + 16
# How far a device's clock may be behind the latest time that was seen: a traveler who sets the hour by hand.
CLOCK_TOLERANCE = 86400

_SUITE = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_REFUSALS = Refusals(LicenseFormatError, LicenseTypeError, LicenseSignatureError)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class DeviceKey(Protocol):
    """A P-256 agreement key pair, on phones inside the secure hardware."""

    @property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint of the public key."""

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext of HPKE's enc || ciphertext. Raises LicenseWrapError when it does not open."""


class SoftwareDeviceKey:
    """A device key in memory: for tests, the software device and development."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key()
        self._thumbprint = jose.thumbprint(self.public_key)

    @property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint of the public key."""
        return self._thumbprint

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext of HPKE's enc || ciphertext. Raises LicenseWrapError when it does not open."""
        try:
            return _SUITE.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError):
            raise LicenseWrapError("the wrapped content key does not open with this device key") from None


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


def seal(plaintext: bytes, device_key: ec.EllipticCurvePublicKey, info: bytes) -> bytes:
    """HPKE's enc || ciphertext of a short plaintext for a device key, which `DeviceKey.open` opens."""
    return _SUITE.encrypt(plaintext, device_key, info)


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
        tier: if given, the license has to be for exactly this tier.
        offline_grace: seconds after the end in which a license still counts, for devices that cannot reach the service.
    """

    issuer: str
    app: str
    environment: Environment
    bundle: str
    model_version: int
    device: str
    tier: str | None = None
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


@dataclass(frozen=True)
class Reading:
    """A reading of a device's clocks.

    Attributes:
        wall: the clock that its owner can set, Unix seconds.
        ticks: seconds of a clock that runs on through sleep and starts anew with the device.
        boot: names the start-up that `ticks` counts from.
    """

    wall: int
    ticks: int
    boot: str


@dataclass(frozen=True)
class Mark:
    """The latest time that was seen (Unix seconds), and the reading of the other clock then."""

    time: int
    ticks: int
    boot: str


class MarkStore(Protocol):
    """Where the mark survives a restart; on phones beside the device key, and deleted only with it."""

    def load(self) -> Mark | None:
        """The mark, None when there was never one. Raises LicenseClockError when it is damaged."""

    def save(self, mark: Mark) -> None:
        """Keep the mark."""


class DeviceClock:
    """The time as far as an offline device can know it; `store` keeps the mark, `read` reads the clocks."""

    def __init__(self, store: MarkStore, read: Callable[[], Reading]) -> None:
        self._store = store
        self._read = read

    def now(self, license_: License, offline_grace: int) -> int:
        """The time to judge the license by; moves the mark and keeps it before anything is decided.

        The wall clock moves the mark no further than to the end of the license: a clock that was wrong by years makes
        this license end, and the next one works again. Raises LicenseClockError when the clock is more than a day
        behind the mark, or behind the signed time at which the license was issued.
        """
        reading = self._read()
        mark = self._store.load()
        seen = license_.issued_at
        if mark is not None:
            up = reading.ticks - mark.ticks if reading.boot == mark.boot else 0
            seen = max(seen, mark.time + max(up, 0))
        now = max(seen, reading.wall)
        end = license_.issued_at if license_.expires_at is None else license_.expires_at + offline_grace
        self._store.save(Mark(max(seen, min(now, end)), reading.ticks, reading.boot))
        if license_.expires_at is not None and reading.wall < seen - CLOCK_TOLERANCE:
            raise LicenseClockError("the clock of this device is behind", hint="Set its date and time")
        return now


class FileMarkStore:
    """Keeps the mark in a small file, written atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Mark | None:
        """The mark, None when there is no file. Raises LicenseClockError when it is damaged, FileAccessError."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileAccessError(f"{self._path}: {error.strerror or error}") from None
        try:
            value = strict_json(data)
        except ValueError:
            value = {}
        seen, ticks, boot = (value.get(name) for name in ("time", "ticks", "boot"))
        if type(seen) is not int or type(ticks) is not int or not isinstance(boot, str):
            raise LicenseClockError(f"{self._path}: the record of the time is damaged", hint="Unlock anew")
        return Mark(seen, ticks, boot)

    def save(self, mark: Mark) -> None:
        """Keep the mark. Raises FileAccessError."""
        with write_atomically(self._path, force=True, mode=0o600) as file:
            file.write(json.dumps({"time": mark.time, "ticks": mark.ticks, "boot": mark.boot}).encode())


def system_reading() -> Reading:
    """The clocks of this machine; outside Linux, where start-ups have no name, the wall clock alone moves the mark."""
    ticks = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = str(uuid.uuid4())
    return Reading(int(time.time()), int(ticks), boot)


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
    if expected.tier is not None and license_.tier != expected.tier:
        raise LicenseTierError("the license is for another tier")
    now = clock.now(license_, expected.offline_grace)
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
    if len(wrapped_key) != WRAPPED_KEY_SIZE:
        raise LicenseFormatError(f"the claim wk is not {WRAPPED_KEY_SIZE} bytes in base64url")
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
