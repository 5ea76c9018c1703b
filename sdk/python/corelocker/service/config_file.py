"""service.toml: reads the service's configuration from one TOML file. docs/configuration.md lists every key.

    environment = "production"                   # or "development"
    issuer = "https://unlock.example.com"        # `iss` of licenses
    database_url = "sqlite:///unlock.sqlite"     # or postgresql://...; or database_url_file for one with a password

    [keys]                                       # where the service's signing key and content keys are
    provider = "keystore"                        # or "pkcs11", with [keys.pkcs11]
    keystore = "service-keys.json"
    passphrase_file = "passphrase"               # not needed for a keystore under a key-encryption key
    signing_key = "<thumbprint>"                 # while a new key is shipped in apps; else the newest one signs
    publishers = ["<thumbprint>"]                # who signs bundles; the service's key must be another

    [licenses]                                   # lifetime, renewal_window, devices, cooldown in seconds; perpetual
    [http]                                       # host, port or socket, workers, limits
    [attestation]                                # revocation_list (a file) or revocation_url
    [audit]                                      # max_age, max_rows of the audit log

    [[apps]]
    id = "com.example.app"                       # `app` of requests and `aud` of licenses
    [apps.android]                               # accepts android-key
    signer_digests = ["<SHA-256 in hex>"]
    [apps.android.play_integrity]                # and, if it is there, Play Integrity's verdict with each of them:
    device_verdicts = ["MEETS_STRONG_INTEGRITY"] # require_licensed, max_age; service_account_file if not google_play's
    [apps.apple]                                 # accepts apple-app-attest
    app_id = "1234567890.com.example.app"
    [apps.development]                           # accepts development attestations; not in production
    roots = ["development-root.pem"]
    [apps.app_store] [apps.google_play] [apps.grant]   # whose purchases count

    [[products]]                                 # what a product unlocks
    app = "com.example.app"
    product = "full"
    bundle = "<UUID>"
    tier = "full"

    [[models]]                                   # optional: withdraws old versions
    name = "fashion"
    minimum_version = 2

Paths are relative to the file's folder. An unknown name is refused, so that a misspelled limit cannot be ignored.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from corelocker.configuration import Table, read_toml
from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.purchases.entitlements import DeviceRules, Unlock
from corelocker.service.config import (
    AndroidConfig,
    AppleConfig,
    AppPolicy,
    AppStoreApiSettings,
    AppStoreSettings,
    AttestationConfig,
    AuditConfig,
    GooglePlaySettings,
    GrantSettings,
    HttpConfig,
    KeysConfig,
    LicenseConfig,
    Pkcs11Config,
    PlayIntegritySettings,
    ProductConfig,
    ServiceConfig,
)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DAY = 86400
# What a token says of a phone. Other labels are of emulators and other devices, which have no Android key.
_DEVICE_VERDICTS = frozenset({"MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY", "MEETS_STRONG_INTEGRITY"})


def load_config(path: Path | str) -> ServiceConfig:
    """Read a configuration file. Raises FileAccessError, or ConfigError, which names the entry and what belongs there."""
    return _service(read_toml(path), Path(path).absolute())


def _service(top: Table, path: Path) -> ServiceConfig:
    environment = cast(Environment, top.choice("environment", "production", "development"))
    apps = _apps(top, environment)
    config = ServiceConfig(
        path=path,
        environment=environment,
        issuer=top.identifier("issuer"),
        database_url=_database_url(top, path.parent),
        keys=top.needed("keys", top.optional_table("keys", _keys, None)),
        apps=apps,
        products=tuple(_product(table, apps) for table in top.tables("products")),
        database_url_file=top.optional_path("database_url_file"),
        minimum_versions={
            table.identifier("name"): table.integer("minimum_version", 0, 2**53 - 1, 0)
            for table in top.tables("models")
        },
        licenses=top.optional_table("licenses", _licenses, LicenseConfig()),
        attestation=top.optional_table("attestation", _attestation, AttestationConfig()),
        http=top.optional_table("http", _http, HttpConfig()),
        audit=top.optional_table("audit", _audit, AuditConfig()),
    )
    top.end()
    _refuse_shared_names(config)
    return config


def _apps(top: Table, environment: Environment) -> dict[str, AppPolicy]:
    apps: dict[str, AppPolicy] = {}
    for table in top.tables("apps"):
        app = _app(table, environment)
        if app.id in apps:
            raise table.refuse("id", f"the app {app.id} appears twice")
        apps[app.id] = app
    if not apps:
        raise top.refuse("apps", "there is no app")
    return apps


def _database_url(top: Table, folder: Path) -> str:
    url, file = top.optional_text("database_url"), top.optional_path("database_url_file")
    if (url is None) == (file is None):
        raise top.refuse("database_url", "give either database_url or database_url_file")
    if file is not None:
        try:
            url = file.read_text("utf-8").strip()
        except (OSError, ValueError):
            raise top.refuse("database_url_file", f"{file} cannot be read") from None
    scheme, separator, rest = cast(str, url).partition("://")
    if scheme == "sqlite" and separator and rest.startswith("/") and len(rest) > 1 and "?" not in rest:
        # Four slashes are an absolute path, three one beside this file.
        return f"sqlite:///{os.path.join(folder, rest[1:])}"
    if scheme in ("postgresql", "postgresql+psycopg", "postgres") and separator:
        return f"postgresql+psycopg://{rest}"
    raise top.refuse("database_url", "sqlite:///FILE or postgresql://USER@HOST/DATABASE belongs here")


def _keys(table: Table) -> KeysConfig | None:
    provider = cast(Literal["keystore", "pkcs11"], table.choice("provider", "keystore", "pkcs11", default="keystore"))
    config = KeysConfig(
        provider=provider,
        keystore=table.path("keystore"),
        passphrase_file=table.optional_path("passphrase_file"),
        signing_key=table.optional_text("signing_key"),
        publishers=table.texts("publishers"),
        pkcs11=table.optional_table("pkcs11", _pkcs11, None),
        epoch_file=table.optional_path("epoch_file"),
    )
    if (provider == "pkcs11") != (config.pkcs11 is not None):
        raise table.refuse("pkcs11", 'this table and provider = "pkcs11" belong together')
    return config


def _pkcs11(table: Table) -> Pkcs11Config | None:
    return Pkcs11Config(
        module=table.path("module"),
        token=table.text("token"),
        pin_file=table.path("pin_file"),
        signing_key=table.text("signing_key"),
    )


def _licenses(table: Table) -> LicenseConfig:
    usual = LicenseConfig()
    lifetime = table.optional_integer("lifetime", 60, 100 * 366 * _DAY)
    perpetual = table.flag("perpetual", False)
    if perpetual and lifetime is not None:
        raise table.refuse("perpetual", "a perpetual license has no lifetime")
    return LicenseConfig(
        lifetime=None if perpetual else lifetime or usual.lifetime,
        renewal_window=table.integer("renewal_window", 0, 100 * 366 * _DAY, usual.renewal_window),
        rules=DeviceRules(
            table.integer("devices", 1, 1000, usual.rules.devices),
            table.integer("cooldown", 0, 10 * 366 * _DAY, usual.rules.cooldown),
        ),
        rate_limit=table.integer("rate_limit", 0, 10**9, usual.rate_limit),
    )


def _attestation(table: Table) -> AttestationConfig:
    usual = AttestationConfig()
    config = AttestationConfig(
        revocation_list=table.optional_path("revocation_list"),
        revocation_url=table.optional_text("revocation_url"),
        revocation_max_age=table.integer("revocation_max_age", 60, 30 * _DAY, usual.revocation_max_age),
        challenge_lifetime=table.integer("challenge_lifetime", 5, 3600, usual.challenge_lifetime),
    )
    if config.revocation_list is not None and config.revocation_url is not None:
        raise table.refuse("revocation_list", "give either a file or an address")
    return config


def _audit(table: Table) -> AuditConfig:
    usual = AuditConfig()
    return AuditConfig(
        max_age=table.integer("max_age", _DAY, 100 * 366 * _DAY, usual.max_age),
        max_rows=table.integer("max_rows", 1000, 10**9, usual.max_rows),
    )


def _http(table: Table) -> HttpConfig:
    usual = HttpConfig()
    proxies = table.texts("trusted_proxies")
    for proxy in proxies:
        if proxy == "unix":
            continue
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise table.refuse(
                "trusted_proxies", 'addresses, networks such as 10.0.0.0/8, or "unix" belong here'
            ) from None
    return HttpConfig(
        host=table.optional_text("host") or usual.host,
        port=table.integer("port", 0, 65535, usual.port),
        socket=table.optional_path("socket"),
        workers=table.integer("workers", 1, 256, usual.workers),
        threads=table.integer("threads", 1, 256, usual.threads),
        pin_workers=table.flag("pin_workers", usual.pin_workers),
        max_body=table.integer("max_body", 4 << 10, 16 << 20, usual.max_body),
        request_timeout=table.integer("request_timeout", 1, 300, usual.request_timeout),
        rate_limit=table.integer("rate_limit", 0, 10**9, usual.rate_limit),
        total_rate_limit=table.integer("total_rate_limit", 0, 10**9, usual.total_rate_limit),
        max_connections=table.integer("max_connections", 1, 10**6, usual.max_connections),
        max_client_connections=table.integer("max_client_connections", 0, 10**6, usual.max_client_connections),
        max_pending=table.integer("max_pending", 1, 100_000, usual.max_pending),
        trusted_proxies=proxies,
        metrics_host=table.optional_text("metrics_host") or usual.metrics_host,
        metrics_port=table.integer("metrics_port", 0, 65535, usual.metrics_port),
        shutdown_grace=table.integer("shutdown_grace", 0, 600, usual.shutdown_grace),
    )


def _app(table: Table, environment: Environment) -> AppPolicy:
    name = table.identifier("id")
    play = table.optional_table("google_play", lambda own: _google_play(own, name), None)
    account = None if play is None else play.service_account_file
    return AppPolicy(
        id=name,
        android=table.optional_table("android", lambda own: _android(own, name, account), None),
        apple=table.optional_table("apple", lambda own: _apple(own, environment), None),
        development_roots=table.optional_table("development", lambda own: own.paths("roots"), ()),
        app_store=table.optional_table("app_store", lambda own: _app_store(own, name), None),
        google_play=play,
        grant=table.optional_table("grant", _grant, None),
    )


def _google_play(table: Table, app: str) -> GooglePlaySettings | None:
    settings = GooglePlaySettings(
        package=table.optional_text("package") or app,
        service_account_file=table.path("service_account_file"),
        base_url=table.optional_text("base_url"),
        notice_audience=table.optional_text("notice_audience"),
        notice_sender=table.optional_text("notice_sender"),
        notice_keys_url=table.optional_text("notice_keys_url"),
    )
    if (settings.notice_audience is None) != (settings.notice_sender is None):
        raise table.refuse("notice_sender", "notice_audience and notice_sender belong together")
    return settings


def _play_integrity(table: Table, account: Path | None) -> PlayIntegritySettings | None:
    labels = table.texts("device_verdicts")
    if not _DEVICE_VERDICTS.issuperset(labels):
        raise table.refuse("device_verdicts", f"a list of {', '.join(sorted(_DEVICE_VERDICTS))} belongs here")
    file = table.optional_path("service_account_file") or account
    return PlayIntegritySettings(
        service_account_file=table.needed("service_account_file", file),
        device_verdicts=labels or PlayIntegritySettings.device_verdicts,
        require_licensed=table.flag("require_licensed", False),
        max_age=table.integer("max_age", 60, _DAY, 600),
        base_url=table.optional_text("base_url"),
    )


def _android(table: Table, app: str, account: Path | None) -> AndroidConfig | None:
    return AndroidConfig(
        package=table.optional_text("package") or app,
        signer_digests=table.texts("signer_digests"),
        strongbox=table.flag("strongbox", False),
        minimum_os_patch=table.optional_integer("minimum_os_patch", 200001, 999912),
        minimum_vendor_patch=table.optional_integer("minimum_vendor_patch", 200001, 999912),
        minimum_boot_patch=table.optional_integer("minimum_boot_patch", 200001, 999912),
        newest_attestation_version=table.integer("newest_attestation_version", 1, 100_000, 500),
        roots=table.paths("roots"),
        play_integrity=table.optional_table("play_integrity", lambda own: _play_integrity(own, account), None),
    )


def _apple(table: Table, environment: Environment) -> AppleConfig | None:
    return AppleConfig(
        app_id=table.identifier("app_id"),
        environment=cast(Environment, table.choice("environment", "production", "development", default=environment)),
        validation_categories=table.integers("validation_categories") or None,
        require_validation_category=table.flag("require_validation_category", False),
        roots=table.paths("roots"),
    )


def _app_store(table: Table, app: str) -> AppStoreSettings | None:
    return AppStoreSettings(
        bundle_id=table.optional_text("bundle_id") or app,
        app_apple_id=table.optional_integer("app_apple_id", 1, 2**53 - 1),
        store=table.optional_text("store"),
        roots=table.paths("roots"),
        online_checks=table.flag("online_checks", False),
        max_age=table.optional_integer("max_age", 1, 3660 * _DAY),
        family_sharing=table.flag("family_sharing", True),
        api=table.optional_table("api", _app_store_api, None),
    )


def _grant(table: Table) -> GrantSettings | None:
    return GrantSettings(
        issuer=table.identifier("issuer"),
        keys=table.paths("keys"),
        max_lifetime=table.integer("max_lifetime", 1, 366 * _DAY, 7 * _DAY),
    )


def _app_store_api(table: Table) -> AppStoreApiSettings | None:
    return AppStoreApiSettings(
        issuer_id=table.text("issuer_id"),
        key_id=table.text("key_id"),
        private_key_file=table.path("private_key_file"),
        base_url=table.optional_text("base_url"),
    )


def _product(table: Table, apps: Mapping[str, AppPolicy]) -> ProductConfig:
    entry = ProductConfig(
        table.identifier("app"),
        table.identifier("product"),
        Unlock(table.text("bundle"), table.identifier("tier")),
    )
    if entry.app not in apps:
        raise table.refuse("app", f"there is no app {entry.app}")
    if not _UUID.fullmatch(entry.unlock.bundle):
        raise table.refuse("bundle", "a bundle's id (UUID, lower case) belongs here")
    return entry


def _refuse_shared_names(config: ServiceConfig) -> None:
    """A store's name of an app has to lead to one app: by it purchases are counted and notices delivered."""
    for provider in ("app-store", "google-play"):
        owners: dict[str, str] = {}
        for app in config.apps.values():
            if (app.app_store if provider == "app-store" else app.google_play) is None:
                continue
            name = app.purchase_app(provider)
            if owners.setdefault(name, app.id) != app.id:
                raise ConfigError(
                    f"{config.path.name}: the apps {owners[name]} and {app.id} are both {name} at {provider}"
                )
