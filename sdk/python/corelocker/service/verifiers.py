"""What the proofs and purchases of one configured app are verified with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from appstoreserverlibrary.models.Environment import Environment as Store
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificates

from corelocker.attestation.anchors import APPLE_ROOTS, GOOGLE_ROOTS, require_vendor_roots
from corelocker.attestation.android_key import AndroidKeyPolicy
from corelocker.attestation.apple_app_attest import AppAttestPolicy
from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.key_description import SecurityLevel
from corelocker.attestation.play_integrity import PlayIntegrityPolicy
from corelocker.bundle import jose
from corelocker.errors import ConfigError, CoreLockerError
from corelocker.licensing.errors import ProviderNotAllowedError
from corelocker.licensing.tokens import TrustedKeys
from corelocker.purchases.app_store import (
    AppStore,
    AppStoreApi,
    AppStoreApiConfig,
    AppStoreConfig,
)
from corelocker.purchases.entitlements import Purchase
from corelocker.purchases.google_api import GoogleApi, credentials_of
from corelocker.purchases.google_play import API_URL, SCOPE, GooglePlay, GooglePlayConfig
from corelocker.purchases.grant import GrantConfig, verify_grant
from corelocker.purchases.play_notices import CERTIFICATES_URL, GoogleKeys, PlayNotices
from corelocker.service import play_integrity
from corelocker.service.config import AndroidConfig, AppPolicy, ServiceConfig
from corelocker.service.messages import ShownPurchase
from corelocker.service.play_integrity import PlayIntegrity

_T = TypeVar("_T")
_MAX_FILE = 1 << 20


@dataclass(frozen=True)
class AppVerifiers:
    """The verifiers of one app; None where the app does not take such a proof or purchase."""

    config: AppPolicy
    android: AndroidKeyPolicy | None
    android_roots: TrustAnchors
    play_integrity: PlayIntegrity | None
    apple: AppAttestPolicy | None
    apple_roots: TrustAnchors
    development_roots: TrustAnchors
    app_store: AppStore | None
    app_store_api: AppStoreApi | None
    google_play: GooglePlay | None
    play_notices: PlayNotices | None
    grant: GrantConfig | None

    def verify_purchase(self, shown: ShownPurchase, now_ms: int) -> Purchase:
        """What the purchase that a device shows says. Raises PurchaseError, ProviderNotAllowedError."""
        match shown.provider:
            case "grant" if self.grant is not None:
                return verify_grant(shown.token, self.grant, now=now_ms // 1000)
            case "app-store" if self.app_store is not None:
                return self.app_store.verify(shown.token, now_ms=now_ms)
            case "google-play" if self.google_play and shown.kind is not None and shown.product is not None:
                return self.google_play.verify(shown.kind, shown.product, shown.token, now_ms=now_ms)
        raise ProviderNotAllowedError("the app takes no purchases of this provider")


def build_verifiers(config: ServiceConfig, app: AppPolicy) -> AppVerifiers:
    """The verifiers of an app. Raises ConfigError or FileAccessError for settings that make no sense, or are unsafe."""
    found: list[CoreLockerError] = []
    verifiers = try_verifiers(config, app, found.append)
    if verifiers is None:
        raise found[0]
    return verifiers


def try_verifiers(
    config: ServiceConfig, app: AppPolicy, report: Callable[[CoreLockerError], None]
) -> AppVerifiers | None:
    """The verifiers of an app; everything that is wrong is reported, and gives None."""
    failed = False

    def attempt(make: Callable[[], _T], otherwise: _T) -> _T:
        nonlocal failed
        try:
            return make()
        except ConfigError as error:
            failed = True
            report(ConfigError(f"app {app.id}: {error}"))
        except CoreLockerError as error:
            failed = True
            report(error)
        return otherwise

    store = attempt(lambda: _app_store(config, app), None)
    verifiers = AppVerifiers(
        config=app,
        android=attempt(lambda: _android(config, app), None),
        android_roots=attempt(
            lambda: _roots(config, app.android.roots if app.android else (), GOOGLE_ROOTS), GOOGLE_ROOTS
        ),
        play_integrity=attempt(lambda: _play_integrity(config, app), None),
        apple=attempt(lambda: _apple(config, app), None),
        apple_roots=attempt(lambda: _roots(config, app.apple.roots if app.apple else (), APPLE_ROOTS), APPLE_ROOTS),
        development_roots=attempt(lambda: _development_roots(config, app), TrustAnchors(())),
        app_store=store,
        app_store_api=attempt(lambda: _app_store_api(app, store), None),
        google_play=attempt(lambda: _google_play(config, app), None),
        play_notices=attempt(lambda: _play_notices(config, app), None),
        grant=attempt(lambda: _grant(config, app), None),
    )
    return None if failed else verifiers


def _android(config: ServiceConfig, app: AppPolicy) -> AndroidKeyPolicy | None:
    settings = app.android
    if settings is None:
        return None
    return AndroidKeyPolicy(
        package=settings.package,
        signer_digests=_signer_digests(settings),
        minimum_security_level=SecurityLevel.STRONGBOX if settings.strongbox else SecurityLevel.TRUSTED_ENVIRONMENT,
        minimum_os_patch=settings.minimum_os_patch,
        minimum_vendor_patch=settings.minimum_vendor_patch,
        minimum_boot_patch=settings.minimum_boot_patch,
        newest_attestation_version=settings.newest_attestation_version,
        max_revocation_age=timedelta(seconds=config.attestation.revocation_max_age),
    )


def _signer_digests(settings: AndroidConfig) -> frozenset[bytes]:
    try:
        return frozenset(bytes.fromhex(digest.replace(":", "")) for digest in settings.signer_digests)
    except ValueError:
        raise ConfigError("android.signer_digests: SHA-256 digests in hexadecimal belong here") from None


def _play_integrity(config: ServiceConfig, app: AppPolicy) -> PlayIntegrity | None:
    if app.android is None or app.android.play_integrity is None:
        return None
    settings = app.android.play_integrity
    if config.environment == "production" and settings.base_url not in (None, play_integrity.API_URL):
        raise ConfigError("android.play_integrity.base_url: in production Google is asked at its own address")
    policy = PlayIntegrityPolicy(
        package=app.android.package,
        certificate_digests=_signer_digests(app.android),
        environment=config.environment,
        device_verdicts=frozenset(settings.device_verdicts),
        require_licensed=settings.require_licensed,
        max_age=timedelta(seconds=settings.max_age),
    )
    account = _service_account("android.play_integrity", settings.service_account_file)
    api = GoogleApi(credentials_of(account, play_integrity.SCOPE), timeout=10.0)
    return PlayIntegrity(policy, api, settings.base_url or play_integrity.API_URL)


def _apple(config: ServiceConfig, app: AppPolicy) -> AppAttestPolicy | None:
    settings = app.apple
    if settings is None:
        return None
    if config.environment == "production" and settings.environment != "production":
        raise ConfigError("apple.environment: in production app instances run from Xcode do not count")
    kinds = settings.validation_categories
    return AppAttestPolicy(
        settings.app_id,
        settings.environment,
        None if kinds is None else frozenset(kinds),
        settings.require_validation_category,
    )


def _roots(config: ServiceConfig, files: tuple[Path, ...], vendor: TrustAnchors) -> TrustAnchors:
    if not files:
        return vendor
    anchors = TrustAnchors.from_pem(*(_text(file) for file in files))
    if config.environment == "production":
        require_vendor_roots(anchors, vendor)
    return anchors


def _development_roots(config: ServiceConfig, app: AppPolicy) -> TrustAnchors:
    if app.development_roots and config.environment == "production":
        raise ConfigError("development.roots: in production development attestations do not count")
    return TrustAnchors.from_pem(*(_text(file) for file in app.development_roots))


def _app_store(config: ServiceConfig, app: AppPolicy) -> AppStore | None:
    settings = app.app_store
    if settings is None:
        return None
    try:
        store = None if settings.store is None else Store(settings.store)
    except ValueError:
        raise ConfigError("app_store.store: Production, Sandbox, Xcode or LocalTesting belongs here") from None
    made = AppStoreConfig(
        environment=config.environment,
        bundle_id=settings.bundle_id,
        app_apple_id=settings.app_apple_id,
        store=store,
        online_checks=settings.online_checks,
        max_age=settings.max_age,
        family_sharing=settings.family_sharing,
    )
    return AppStore(replace(made, roots=_der(settings.roots)) if settings.roots else made)


def _app_store_api(app: AppPolicy, store: AppStore | None) -> AppStoreApi | None:
    if app.app_store is None or app.app_store.api is None or store is None:
        return None
    api = app.app_store.api
    key = _text(api.private_key_file).encode()
    return AppStoreApi(AppStoreApiConfig(api.issuer_id, api.key_id, key, api.base_url), store)


def _google_play(config: ServiceConfig, app: AppPolicy) -> GooglePlay | None:
    settings = app.google_play
    if settings is None:
        return None
    if config.environment == "production" and settings.base_url not in (None, API_URL):
        raise ConfigError("google_play.base_url: in production Google Play is asked at Google's address")
    made = GooglePlayConfig(config.environment, settings.package, settings.base_url or API_URL)
    return GooglePlay(made, credentials_of(_service_account("google_play", settings.service_account_file), SCOPE))


def _service_account(table: str, file: Path) -> dict[str, str]:
    try:
        account = json.loads(_text(file))
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, dict):
        raise ConfigError(f"{table}.service_account_file: {file} is not a JSON key file")
    return account


def _play_notices(config: ServiceConfig, app: AppPolicy) -> PlayNotices | None:
    settings = app.google_play
    if settings is None or settings.notice_audience is None or settings.notice_sender is None:
        return None
    url = settings.notice_keys_url or CERTIFICATES_URL
    if config.environment == "production" and url != CERTIFICATES_URL:
        raise ConfigError("google_play.notice_keys_url: in production Google's keys are fetched from Google's address")
    return PlayNotices(settings.package, settings.notice_audience, settings.notice_sender, GoogleKeys(url).at)


def _grant(config: ServiceConfig, app: AppPolicy) -> GrantConfig | None:
    settings = app.grant
    if settings is None:
        return None
    keys = TrustedKeys([_public_key(file) for file in settings.keys])
    return GrantConfig(config.environment, app.id, settings.issuer, keys, settings.max_lifetime)


def _public_key(file: Path) -> ec.EllipticCurvePublicKey:
    text = _text(file)
    try:
        if text.lstrip().startswith("{"):
            return jose.key_of_jwk(json.loads(text))
        key = load_pem_public_key(text.encode())
    except (ValueError, TypeError, RecursionError):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"grant.keys: {file} holds no public key on P-256 (PEM or JWK)")
    return key


def _der(files: tuple[Path, ...]) -> tuple[bytes, ...]:
    """The certificates in PEM or DER files, DER."""
    roots: list[bytes] = []
    for file in files:
        data = _read(file)
        if b"-----BEGIN" not in data:
            roots.append(data)
            continue
        try:
            roots += [certificate.public_bytes(Encoding.DER) for certificate in load_pem_x509_certificates(data)]
        except ValueError:
            raise ConfigError(f"{file} holds no certificate") from None
    return tuple(roots)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{file}: more than {_MAX_FILE} bytes")
    return data


def _text(file: Path) -> str:
    try:
        return _read(file).decode()
    except ValueError:
        raise ConfigError(f"{file}: not a text") from None
