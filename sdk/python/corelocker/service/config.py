"""The service's configuration: one TOML file, read strictly, and the checks that production must pass.

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
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from corelocker.attestation import Format
from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.purchases.entitlements import Catalog, DeviceRules, Unlock

MAX_CONFIG_SIZE = 1 << 20
_T = TypeVar("_T")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DAY = 86400
# What a token says of a phone. Other labels are of emulators and other devices, which have no Android key.
_DEVICE_VERDICTS = frozenset({"MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY", "MEETS_STRONG_INTEGRITY"})


@dataclass(frozen=True)
class Pkcs11Config:
    """Keys behind PKCS #11 (`pkcs11.py` says how they are used).

    Attributes:
        module: the provider's shared library.
        token: label of the token.
        pin_file: file with the user PIN.
        signing_key: label of the P-256 key pair that signs licenses.
        wrapping_key: label of the AES key that wraps content keys, if the token keeps them from the disk.
    """

    module: Path
    token: str
    pin_file: Path
    signing_key: str
    wrapping_key: str | None = None


@dataclass(frozen=True)
class KeysConfig:
    """Where the keys are.

    Attributes:
        provider: "keystore" or "pkcs11".
        keystore: the service's keystore; content keys come from it with either provider.
        passphrase_file: its passphrase; otherwise the variable CORELOCKER_SERVICE_PASSPHRASE, if it needs one.
        signing_key: thumbprint of the keystore's key that signs licenses; its newest one if not given. So a new key can
            be made, and shipped in apps, before it signs.
        publishers: thumbprints of the keys that sign bundles; none of them may sign licenses.
        pkcs11: with that provider.
    """

    provider: Literal["keystore", "pkcs11"]
    keystore: Path
    passphrase_file: Path | None = None
    signing_key: str | None = None
    publishers: tuple[str, ...] = ()
    pkcs11: Pkcs11Config | None = None


@dataclass(frozen=True)
class LicenseConfig:
    """Times in seconds.

    Attributes:
        lifetime: of a license; None is perpetual.
        renewal_window: how long after its end a license can still be renewed.
        rules: how many devices may use a purchase, and how slowly places change hands.
    """

    lifetime: int | None = 30 * _DAY
    renewal_window: int = 180 * _DAY
    rules: DeviceRules = field(default_factory=DeviceRules)


@dataclass(frozen=True)
class HttpConfig:
    """How the service listens, and what it bears.

    Attributes:
        host, port: where it listens, unless `socket` names a Unix socket.
        socket: path of a Unix socket.
        workers: processes.
        threads: decisions at one time in each process; 0 makes them on the event loop, where requests that come together
            share a transaction. That is much faster, and for services that have no store to ask.
        max_body: bytes of a request.
        request_timeout: seconds for a request from its first byte to its answer.
        rate_limit: requests a minute of one client address (an IPv6 client is its /64); 0 is no limit. An eighth of
            them may come at once.
        total_rate_limit: requests a minute of all clients together; 0 is no limit.
        max_connections: connections that each process keeps open.
        max_pending: requests that may wait in a process before it answers that it is overloaded.
        trusted_proxies: addresses or networks whose X-Forwarded-For counts; "unix" is whoever uses the Unix socket.
        metrics_host, metrics_port: where /metrics is served; port 0 is nowhere.
        shutdown_grace: seconds that running requests are given when the service is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8440
    socket: Path | None = None
    workers: int = 1
    threads: int = 8
    max_body: int = 64 << 10
    request_timeout: int = 15
    rate_limit: int = 600
    total_rate_limit: int = 0
    max_connections: int = 4096
    max_pending: int = 256
    trusted_proxies: tuple[str, ...] = ()
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    shutdown_grace: int = 10


@dataclass(frozen=True)
class AttestationConfig:
    """Google's list of revoked attestation keys: a file that something keeps fresh, or an address to fetch it from.

    Attributes:
        revocation_list: the file; its modification time says when it was fetched.
        revocation_url: the address.
        revocation_max_age: seconds after which the list no longer counts and Android devices are refused.
        challenge_lifetime: seconds that a challenge can be used.
    """

    revocation_list: Path | None = None
    revocation_url: str | None = None
    revocation_max_age: int = _DAY
    challenge_lifetime: int = 300


@dataclass(frozen=True)
class PlayIntegritySettings:
    """What Play Integrity has to say beside an Android key (`PlayIntegrityPolicy`); `max_age` in seconds.

    `base_url` is for development.
    """

    service_account_file: Path
    device_verdicts: tuple[str, ...] = ("MEETS_DEVICE_INTEGRITY",)
    require_licensed: bool = False
    max_age: int = 600
    base_url: str | None = None


@dataclass(frozen=True)
class AndroidConfig:
    """What an Android key has to show (`AndroidKeyPolicy`); `roots` replace Google's, outside production."""

    package: str
    signer_digests: tuple[str, ...]
    strongbox: bool = False
    minimum_os_patch: int | None = None
    minimum_vendor_patch: int | None = None
    minimum_boot_patch: int | None = None
    newest_attestation_version: int = 500
    roots: tuple[Path, ...] = ()
    play_integrity: PlayIntegritySettings | None = None


@dataclass(frozen=True)
class AppleConfig:
    """Which App Attest instances count (`AppAttestPolicy`); `roots` replace Apple's, outside production.

    `environment` is App Attest's, development for apps that are run from Xcode.
    """

    app_id: str
    environment: Environment
    validation_categories: tuple[int, ...] | None = None
    require_validation_category: bool = False
    roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class AppStoreApiSettings:
    """Access to the App Store Server API; without it, refunds are known from notifications alone."""

    issuer_id: str
    key_id: str
    private_key_file: Path
    base_url: str | None = None


@dataclass(frozen=True)
class AppStoreSettings:
    """App Store purchases (`AppStoreConfig`); `store` and `roots` are for development."""

    bundle_id: str
    app_apple_id: int | None = None
    store: str | None = None
    roots: tuple[Path, ...] = ()
    online_checks: bool = False
    max_age: int | None = None
    family_sharing: bool = True
    api: AppStoreApiSettings | None = None


@dataclass(frozen=True)
class GooglePlaySettings:
    """Google Play purchases; `notice_audience` and `notice_sender` are the push subscription's."""

    package: str
    service_account_file: Path
    base_url: str | None = None
    notice_audience: str | None = None
    notice_sender: str | None = None
    notice_keys_url: str | None = None


@dataclass(frozen=True)
class GrantSettings:
    """The publisher's backend: its name and the files of its public keys (PEM or JWK)."""

    issuer: str
    keys: tuple[Path, ...]
    max_lifetime: int = 7 * _DAY


@dataclass(frozen=True)
class AppConfig:
    """One app: which proofs and whose purchases it may show."""

    id: str
    android: AndroidConfig | None = None
    apple: AppleConfig | None = None
    development_roots: tuple[Path, ...] = ()
    app_store: AppStoreSettings | None = None
    google_play: GooglePlaySettings | None = None
    grant: GrantSettings | None = None

    @property
    def formats(self) -> frozenset[Format]:
        """The formats that a first unlock may show."""
        allowed = {
            Format.ANDROID_KEY: self.android,
            Format.APPLE_APP_ATTEST: self.apple,
            Format.DEVELOPMENT: self.development_roots,
        }
        return frozenset(kind for kind, settings in allowed.items() if settings)

    @property
    def asks(self) -> bool:
        """Whether a request of this app can wait for a store, or for Play Integrity."""
        return bool(
            self.google_play
            or (self.app_store and self.app_store.api)
            or (self.android and self.android.play_integrity)
        )

    def purchase_app(self, provider: str) -> str:
        """What the provider calls this app."""
        if provider == "app-store" and self.app_store is not None:
            return self.app_store.bundle_id
        if provider == "google-play" and self.google_play is not None:
            return self.google_play.package
        return self.id


@dataclass(frozen=True)
class ProductConfig:
    """A product of an app, and what it unlocks."""

    app: str
    product: str
    unlock: Unlock


@dataclass(frozen=True)
class ServiceConfig:
    """The whole configuration; `path` is the file that it was read from."""

    path: Path
    environment: Environment
    issuer: str
    database_url: str = field(repr=False)
    keys: KeysConfig
    apps: Mapping[str, AppConfig]
    products: tuple[ProductConfig, ...]
    database_url_file: Path | None = None
    minimum_versions: Mapping[str, int] = field(default_factory=dict)
    licenses: LicenseConfig = LicenseConfig()
    attestation: AttestationConfig = AttestationConfig()
    http: HttpConfig = HttpConfig()

    @property
    def sqlite_path(self) -> Path | None:
        """The database file, None with PostgreSQL."""
        if not self.database_url.startswith("sqlite:"):
            return None
        return Path(self.database_url.partition(":///")[2])

    def catalog(self, tiers: Mapping[str, tuple[str, ...]]) -> Catalog:
        """What each product unlocks; `tiers` are those of the bundles. Raises ConfigError for a bundle without key."""
        products: dict[tuple[str, str], tuple[Unlock, ...]] = {}
        for entry in self.products:
            app = self.apps[entry.app]
            for name in dict.fromkeys(app.purchase_app(kind) for kind in ("app-store", "google-play", "grant")):
                products[name, entry.product] = (*products.get((name, entry.product), ()), entry.unlock)
        return Catalog(products, tiers)


# --- reading -------------------------------------------------------------------------------------


def load_config(path: Path | str) -> ServiceConfig:
    """Read a configuration file. Raises ConfigError, which names the entry and says what belongs there."""
    path = Path(path).absolute()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_CONFIG_SIZE:
        raise ConfigError(f"{path}: more than {MAX_CONFIG_SIZE} bytes")
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        # tomllib's messages quote at most the name and the place, never a value.
        raise ConfigError(f"{path}: not TOML: {str(error)[:200]}") from None
    return _service(_Table(values, "", path.parent, path.name), path)


class _Table:
    """A TOML table; each entry is taken by name and type, and what nobody took is refused."""

    def __init__(self, values: dict[str, Any], where: str, folder: Path, file: str) -> None:
        self._values, self._where, self._folder, self._file = values, where, folder, file
        self._taken: set[str] = set()

    def refuse(self, name: str, reason: str) -> ConfigError:
        return ConfigError(f"{self._file}: {self._where}{name}: {reason}")

    def value(self, name: str, kind: type[_T], what: str) -> _T | None:
        self._taken.add(name)
        value = self._values.get(name)
        if value is not None and type(value) is not kind:
            raise self.refuse(name, f"{what} belongs here")
        return value

    def text(self, name: str) -> str:
        return self.needed(name, self.optional_text(name))

    def optional_text(self, name: str) -> str | None:
        value = self.value(name, str, "a text")
        if value is not None and (not 1 <= len(value) <= 4096 or not value.isprintable()):
            raise self.refuse(name, "a text of 1 to 4096 printable characters belongs here")
        return value

    def identifier(self, name: str) -> str:
        """A text that can stand in a claim."""
        value = self.text(name)
        if len(value) > 256:
            raise self.refuse(name, "a text of at most 256 characters belongs here")
        return value

    def choice(self, name: str, *choices: str, default: str | None = None) -> str:
        value = self.optional_text(name) or default
        if value not in choices:
            raise self.refuse(name, f"one of {', '.join(choices)} belongs here")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.value(name, bool, "true or false")
        return default if value is None else value

    def integer(self, name: str, low: int, high: int, default: int) -> int:
        value = self.optional_integer(name, low, high)
        return default if value is None else value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        value = self.value(name, int, "a whole number")
        if value is not None and not low <= value <= high:
            raise self.refuse(name, f"a whole number from {low} to {high} belongs here")
        return value

    def list(self, name: str, kind: type[_T], what: str) -> tuple[_T, ...]:
        values = self.value(name, list, f"a list of {what}") or []
        if any(type(value) is not kind for value in values):
            raise self.refuse(name, f"a list of {what} belongs here")
        return tuple(values)

    def texts(self, name: str) -> tuple[str, ...]:
        return self.list(name, str, "texts")

    def path(self, name: str) -> Path:
        return self.needed(name, self.optional_path(name))

    def optional_path(self, name: str) -> Path | None:
        value = self.optional_text(name)
        return None if value is None else self._folder / value

    def paths(self, name: str) -> tuple[Path, ...]:
        return tuple(self._folder / value for value in self.texts(name))

    def table(self, name: str) -> _Table | None:
        value = self.value(name, dict, "a table")
        return None if value is None else _Table(value, f"{self._where}{name}.", self._folder, self._file)

    def tables(self, name: str) -> Iterator[_Table]:
        for index, value in enumerate(self.list(name, dict, "tables")):
            yield _Table(value, f"{self._where}{name}[{index}].", self._folder, self._file)

    def needed(self, name: str, value: _T | None) -> _T:
        if value is None:
            raise self.refuse(name, "missing")
        return value

    def end(self) -> None:
        """Refuse the entries that nobody has asked for."""
        for name in self._values.keys() - self._taken:
            raise self.refuse(name, "there is no such setting")

    def read(self, name: str, parse: Callable[[_Table], _T], default: _T) -> _T:
        """What `parse` makes of the table `name`, which it has to use up; `default` without one."""
        table = self.table(name)
        if table is None:
            return default
        result = parse(table)
        table.end()
        return result


def _service(top: _Table, path: Path) -> ServiceConfig:
    environment = cast(Environment, top.choice("environment", "production", "development"))
    issuer = top.identifier("issuer")
    apps: dict[str, AppConfig] = {}
    for table in top.tables("apps"):
        app = _app(table, environment)
        table.end()
        if app.id in apps:
            raise table.refuse("id", f"the app {app.id} appears twice")
        apps[app.id] = app
    if not apps:
        raise top.refuse("apps", "there is no app")
    products = tuple(_product(table, apps) for table in top.tables("products"))
    keys = _keys(top.needed("keys", top.table("keys")))
    versions: dict[str, int] = {}
    for table in top.tables("models"):
        versions[table.identifier("name")] = table.integer("minimum_version", 0, 2**53 - 1, 0)
        table.end()
    config = ServiceConfig(
        path=path,
        environment=environment,
        issuer=issuer,
        database_url=_database_url(top, path.parent),
        keys=keys,
        apps=apps,
        products=products,
        database_url_file=top.optional_path("database_url_file"),
        minimum_versions=versions,
        licenses=top.read("licenses", _licenses, LicenseConfig()),
        attestation=top.read("attestation", _attestation, AttestationConfig()),
        http=top.read("http", _http, HttpConfig()),
    )
    top.end()
    _refuse_shared_names(config)
    return config


def _database_url(top: _Table, folder: Path) -> str:
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


def _keys(table: _Table) -> KeysConfig:
    provider = cast(Literal["keystore", "pkcs11"], table.choice("provider", "keystore", "pkcs11", default="keystore"))
    config = KeysConfig(
        provider=provider,
        keystore=table.path("keystore"),
        passphrase_file=table.optional_path("passphrase_file"),
        signing_key=table.optional_text("signing_key"),
        publishers=table.texts("publishers"),
        pkcs11=table.read("pkcs11", _pkcs11, None),
    )
    table.end()
    if (provider == "pkcs11") != (config.pkcs11 is not None):
        raise table.refuse("pkcs11", 'this table and provider = "pkcs11" belong together')
    return config


def _pkcs11(table: _Table) -> Pkcs11Config | None:
    return Pkcs11Config(
        module=table.path("module"),
        token=table.text("token"),
        pin_file=table.path("pin_file"),
        signing_key=table.text("signing_key"),
        wrapping_key=table.optional_text("wrapping_key"),
    )


def _licenses(table: _Table) -> LicenseConfig:
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
    )


def _attestation(table: _Table) -> AttestationConfig:
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


def _http(table: _Table) -> HttpConfig:
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
        threads=table.integer("threads", 0, 256, usual.threads),
        max_body=table.integer("max_body", 4 << 10, 16 << 20, usual.max_body),
        request_timeout=table.integer("request_timeout", 1, 300, usual.request_timeout),
        rate_limit=table.integer("rate_limit", 0, 10**9, usual.rate_limit),
        total_rate_limit=table.integer("total_rate_limit", 0, 10**9, usual.total_rate_limit),
        max_connections=table.integer("max_connections", 1, 10**6, usual.max_connections),
        max_pending=table.integer("max_pending", 1, 100_000, usual.max_pending),
        trusted_proxies=proxies,
        metrics_host=table.optional_text("metrics_host") or usual.metrics_host,
        metrics_port=table.integer("metrics_port", 0, 65535, usual.metrics_port),
        shutdown_grace=table.integer("shutdown_grace", 0, 600, usual.shutdown_grace),
    )


def _app(table: _Table, environment: Environment) -> AppConfig:
    name = table.identifier("id")

    def google_play(own: _Table) -> GooglePlaySettings | None:
        settings = GooglePlaySettings(
            package=own.optional_text("package") or name,
            service_account_file=own.path("service_account_file"),
            base_url=own.optional_text("base_url"),
            notice_audience=own.optional_text("notice_audience"),
            notice_sender=own.optional_text("notice_sender"),
            notice_keys_url=own.optional_text("notice_keys_url"),
        )
        if (settings.notice_audience is None) != (settings.notice_sender is None):
            raise own.refuse("notice_sender", "notice_audience and notice_sender belong together")
        return settings

    play = table.read("google_play", google_play, None)

    def play_integrity(own: _Table) -> PlayIntegritySettings | None:
        labels = own.texts("device_verdicts")
        if not _DEVICE_VERDICTS.issuperset(labels):
            raise own.refuse("device_verdicts", f"a list of {', '.join(sorted(_DEVICE_VERDICTS))} belongs here")
        file = own.optional_path("service_account_file") or (play.service_account_file if play else None)
        return PlayIntegritySettings(
            service_account_file=own.needed("service_account_file", file),
            device_verdicts=labels or PlayIntegritySettings.device_verdicts,
            require_licensed=own.flag("require_licensed", False),
            max_age=own.integer("max_age", 60, _DAY, 600),
            base_url=own.optional_text("base_url"),
        )

    def android(own: _Table) -> AndroidConfig | None:
        return AndroidConfig(
            package=own.optional_text("package") or name,
            signer_digests=own.texts("signer_digests"),
            strongbox=own.flag("strongbox", False),
            minimum_os_patch=own.optional_integer("minimum_os_patch", 200001, 999912),
            minimum_vendor_patch=own.optional_integer("minimum_vendor_patch", 200001, 999912),
            minimum_boot_patch=own.optional_integer("minimum_boot_patch", 200001, 999912),
            newest_attestation_version=own.integer("newest_attestation_version", 1, 100_000, 500),
            roots=own.paths("roots"),
            play_integrity=own.read("play_integrity", play_integrity, None),
        )

    def apple(own: _Table) -> AppleConfig | None:
        kinds = own.list("validation_categories", int, "whole numbers")
        return AppleConfig(
            app_id=own.identifier("app_id"),
            environment=cast(Environment, own.choice("environment", "production", "development", default=environment)),
            validation_categories=kinds or None,
            require_validation_category=own.flag("require_validation_category", False),
            roots=own.paths("roots"),
        )

    def app_store(own: _Table) -> AppStoreSettings | None:
        return AppStoreSettings(
            bundle_id=own.optional_text("bundle_id") or name,
            app_apple_id=own.optional_integer("app_apple_id", 1, 2**53 - 1),
            store=own.optional_text("store"),
            roots=own.paths("roots"),
            online_checks=own.flag("online_checks", False),
            max_age=own.optional_integer("max_age", 1, 3660 * _DAY),
            family_sharing=own.flag("family_sharing", True),
            api=own.read("api", _app_store_api, None),
        )

    def grant(own: _Table) -> GrantSettings | None:
        return GrantSettings(
            issuer=own.identifier("issuer"),
            keys=own.paths("keys"),
            max_lifetime=own.integer("max_lifetime", 1, 366 * _DAY, 7 * _DAY),
        )

    return AppConfig(
        id=name,
        android=table.read("android", android, None),
        apple=table.read("apple", apple, None),
        development_roots=table.read("development", lambda own: own.paths("roots"), ()),
        app_store=table.read("app_store", app_store, None),
        google_play=play,
        grant=table.read("grant", grant, None),
    )


def _app_store_api(table: _Table) -> AppStoreApiSettings | None:
    return AppStoreApiSettings(
        issuer_id=table.text("issuer_id"),
        key_id=table.text("key_id"),
        private_key_file=table.path("private_key_file"),
        base_url=table.optional_text("base_url"),
    )


def _product(table: _Table, apps: Mapping[str, AppConfig]) -> ProductConfig:
    entry = ProductConfig(
        table.identifier("app"),
        table.identifier("product"),
        Unlock(table.text("bundle"), table.identifier("tier")),
    )
    table.end()
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
