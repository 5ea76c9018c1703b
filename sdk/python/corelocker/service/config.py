"""The service's configuration as immutable values; `config_file` reads it from service.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from corelocker.licensing import Environment
from corelocker.licensing.evidence import Format
from corelocker.purchases.entitlements import Catalog, DeviceRules, Unlock

_DAY = 86400


@dataclass(frozen=True)
class Pkcs11Config:
    """Keys behind PKCS #11 (`pkcs11.py` says how they are used).

    Attributes:
        module: the provider's shared library.
        token: label of the token.
        pin_file: file with the user PIN.
        signing_key: label of the P-256 key pair that signs licenses.
    """

    module: Path
    token: str
    pin_file: Path
    signing_key: str


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
        epoch_file: the file of the epoch; by default it lies beside the keystore.
    """

    provider: Literal["keystore", "pkcs11"]
    keystore: Path
    passphrase_file: Path | None = None
    signing_key: str | None = None
    publishers: tuple[str, ...] = ()
    pkcs11: Pkcs11Config | None = None
    epoch_file: Path | None = None


@dataclass(frozen=True)
class LicenseConfig:
    """Times in seconds.

    Attributes:
        lifetime: of a license; None is perpetual.
        renewal_window: how long after its end a license can still be renewed.
        rules: how many devices may use a purchase, and how slowly places change hands.
        rate_limit: unlocks and renewals an hour of one purchase, which may all come at once; 0 is no limit.
    """

    lifetime: int | None = 30 * _DAY
    renewal_window: int = 180 * _DAY
    rules: DeviceRules = field(default_factory=DeviceRules)
    rate_limit: int = 600


@dataclass(frozen=True)
class HttpConfig:
    """How the service listens, and what it bears.

    Attributes:
        host, port: where it listens, unless `socket` names a Unix socket.
        socket: path of a Unix socket.
        workers: processes.
        threads: decisions at one time in each process.
        pin_workers: whether each process stays on one core (Linux).
        max_body: bytes of a request.
        request_timeout: seconds for a request from its first byte to its answer.
        rate_limit: requests a minute of one client address (an IPv6 client is its /64); 0 is no limit. An eighth of
            them may come at once.
        total_rate_limit: requests a minute of all clients together; 0 is no limit.
        max_connections: connections that each process keeps open.
        max_client_connections: of these, the connections of one client address; behind a trusted proxy, which holds the
            connections, the client's requests at one time; 0 is no limit.
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
    pin_workers: bool = True
    max_body: int = 64 << 10
    request_timeout: int = 15
    rate_limit: int = 600
    total_rate_limit: int = 0
    max_connections: int = 4096
    max_client_connections: int = 128
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
class AuditConfig:
    """How long rows of the audit log are kept: `max_age` seconds, and the newest `max_rows` at most."""

    max_age: int = 366 * _DAY
    max_rows: int = 1_000_000


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
class AppPolicy:
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
    apps: Mapping[str, AppPolicy]
    products: tuple[ProductConfig, ...]
    database_url_file: Path | None = None
    minimum_versions: Mapping[str, int] = field(default_factory=dict)
    licenses: LicenseConfig = LicenseConfig()
    attestation: AttestationConfig = AttestationConfig()
    http: HttpConfig = HttpConfig()
    audit: AuditConfig = AuditConfig()

    @property
    def epoch_file(self) -> Path:
        """Where this host keeps the epoch (`epoch.py`): beside the keystore, unless the configuration names a file."""
        return self.keys.epoch_file or self.keys.keystore.with_name(f"{self.keys.keystore.name}.epoch")

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
