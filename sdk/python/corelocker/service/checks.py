"""What is checked before the service starts: that the configuration works, and that production is safe.

In production whatever would let a test stand for the real thing is an error: development roots, App Attest's
development environment, App Store data that nobody signs, test addresses of the stores. In development the same is
allowed, and what is only careless is a warning.
"""

from __future__ import annotations

import os
import resource
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import sqlalchemy as sa

from corelocker.bundle import jose
from corelocker.errors import ConfigError, CoreLockerError
from corelocker.service.config import AppPolicy, ServiceConfig
from corelocker.service.keys import open_keys
from corelocker.service.revocation_source import RevocationSource
from corelocker.service.verifiers import try_verifiers

Level = Literal["error", "warning", "ok"]

# File systems on which SQLite's locks or its shared memory do not hold between machines.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "ncpfs", "9p", "virtiofs", "davfs"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs"),
    }
)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# That a process opens beyond its connections: the database's, files of the metrics, libraries.
OTHER_FILES = 256


@dataclass(frozen=True)
class Finding:
    """Something about a configuration: an error keeps the service from starting, "ok" says what was looked at in vain."""

    level: Level
    code: str
    message: str
    hint: str = ""


def check_config(config: ServiceConfig) -> list[Finding]:
    """What is wrong with a configuration; with an error in it, the service must not start. Does what `look_over` does."""
    return [finding for finding in look_over(config) if finding.level != "ok"]


def look_over(config: ServiceConfig) -> list[Finding]:
    """All findings about a configuration, also that secrets and keys are in order.

    Opens the keys, which may ask for the keystore's passphrase, and reads the files that the configuration names.
    """
    return [
        *_check_issuer(config),
        *_check_licenses(config),
        *_check_listening(config),
        *_check_secret_files(config),
        *_check_database(config),
        *_check_revocation(config),
        *(finding for app in config.apps.values() for finding in _check_app(config, app)),
        *_check_keys(config),
    ]


def _unsafe(config: ServiceConfig) -> Level:
    """How grave it is what must not be in production."""
    return "error" if config.environment == "production" else "warning"


def _check_issuer(config: ServiceConfig) -> Iterator[Finding]:
    if config.environment == "production" and urlsplit(config.issuer).scheme != "https":
        yield Finding("error", "issuer-not-https", "issuer: in production an https address belongs here")


def _check_licenses(config: ServiceConfig) -> Iterator[Finding]:
    if config.licenses.lifetime is None:
        yield Finding(
            "warning",
            "perpetual-licenses",
            "licenses.perpetual: a device with a license without an end counts against its purchase's device limit for ever",
            "Set licenses.lifetime unless devices never reach the service again",
        )


def _check_listening(config: ServiceConfig) -> Iterator[Finding]:
    http = config.http
    if config.environment == "production" and http.socket is None and http.host not in _LOOPBACK:
        yield Finding(
            "warning",
            "plain-http",
            f"http.host: the service listens on {http.host} without TLS",
            "Let a proxy end TLS on the same machine, or keep the network between them private",
        )
    if config.environment == "production" and not http.trusted_proxies and _behind_proxy(config):
        yield Finding(
            "warning",
            "trusted-proxies-missing",
            "http.trusted_proxies: the limits of one client count for all that come through the proxy",
            'Name the proxy\'s address, or "unix" for a Unix socket, and let the proxy set X-Forwarded-For',
        )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < http.max_connections + OTHER_FILES:
        yield Finding(
            "warning",
            "file-limit",
            f"http.max_connections: a process may open {hard} files, {http.max_connections + OTHER_FILES} are needed",
            "Raise the limit of open files (LimitNOFILE of the unit), or lower the number",
        )


def _behind_proxy(config: ServiceConfig) -> bool:
    return config.http.socket is not None or config.http.host in _LOOPBACK


def _check_secret_files(config: ServiceConfig) -> Iterator[Finding]:
    files = [config.keys.passphrase_file, config.database_url_file]
    if config.keys.pkcs11 is not None:
        files.append(config.keys.pkcs11.pin_file)
    for app in config.apps.values():
        if app.google_play is not None:
            files.append(app.google_play.service_account_file)
        if app.android is not None and app.android.play_integrity is not None:
            files.append(app.android.play_integrity.service_account_file)
        if app.app_store is not None and app.app_store.api is not None:
            files.append(app.app_store.api.private_key_file)
    if config.database_url_file is None and sa.make_url(config.database_url).password:
        files.append(config.path)
    named = [file for file in dict.fromkeys(files) if file is not None]
    private = 0
    for file in named:
        try:
            with file.open("rb") as opened:
                mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
        except OSError as error:
            hint = "Let the service's user read it"
            yield Finding("error", "secret-file", f"{file}: {error.strerror or error}", hint)
            continue
        if mode & 0o077:
            message = f"{file}: holds a secret and can be read by others"
            yield Finding(_unsafe(config), "secret-file-permission", message, f"Run: chmod 600 {file}")
        else:
            private += 1
    if named and private == len(named):
        yield Finding("ok", "secret-files", "secrets: each file can be read, and by its owner alone")


def _check_database(config: ServiceConfig) -> Iterator[Finding]:
    path = config.sqlite_path
    if path is None:
        return
    kind = network_file_system(path, _mounts())
    if kind is not None:
        yield Finding(
            _unsafe(config),
            "sqlite-network",
            f"database_url: {path} lies on a network file system ({kind}), where SQLite is not safe",
            "Use a local disk, or PostgreSQL",
        )
    if not path.parent.is_dir():
        yield Finding("error", "database-folder", f"database_url: there is no folder {path.parent}")
    elif path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        message = f"{path}: the database holds secrets and can be read by others"
        yield Finding(_unsafe(config), "secret-file-permission", message, f"Run: chmod 600 {path}")


def network_file_system(path: Path, mounts: str) -> str | None:
    """The kind of the network file system that a file lies on, None when it is local or cannot be told.

    `mounts` is the text of /proc/mounts.
    """
    if str(path).startswith(("//", "\\\\")):
        return "UNC path"
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of two mounts on one place the later covers the earlier.
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text("utf-8", "replace")
    except OSError:
        return ""


def _check_revocation(config: ServiceConfig) -> Iterator[Finding]:
    if not any(app.android is not None for app in config.apps.values()):
        return
    source = config.attestation
    if source.revocation_list is None and source.revocation_url is None:
        yield Finding(
            _unsafe(config),
            "revocation-source-missing",
            "attestation: Android devices are refused without a list of revoked keys",
            'Set revocation_url = "https://android.googleapis.com/attestation/status"',
        )
    elif source.revocation_url is not None and not source.revocation_url.startswith("https://"):
        message = "attestation.revocation_url: the list has to be fetched over https"
        yield Finding(_unsafe(config), "revocation-source-http", message)
    elif source.revocation_list is not None:
        now = time.time()
        found = RevocationSource(source).current(now)
        if found is None:
            message = f"attestation.revocation_list: {source.revocation_list} is no revocation list"
            yield Finding("error", "revocation-list", message)
        elif now - found.fetched_at.timestamp() > source.revocation_max_age:
            message = f"attestation.revocation_list: {source.revocation_list} is too old"
            yield Finding("warning", "revocation-list-stale", message, "Something has to fetch it regularly")


def _check_app(config: ServiceConfig, app: AppPolicy) -> Iterator[Finding]:
    errors: list[Finding] = []
    if config.environment == "production":
        errors += _test_settings(app)
    if app.android is not None and not app.android.signer_digests:
        message = f"app {app.id}: android.signer_digests: the SHA-256 of the app's signing certificate belongs here"
        errors.append(Finding("error", "android-signer-missing", message))
    if not app.formats:
        errors.append(Finding("error", "app-without-attestation", f"app {app.id}: no device could prove itself"))
    if app.app_store is None and app.google_play is None and app.grant is None:
        errors.append(Finding("error", "app-without-purchases", f"app {app.id}: no purchase counts"))
    if not errors:
        reported: list[CoreLockerError] = []
        try_verifiers(config, app, reported.append)
        errors += [Finding("error", "app-settings", str(error)) for error in reported]
    yield from errors
    if not any(product.app == app.id for product in config.products):
        yield Finding("warning", "app-without-products", f"app {app.id}: none of its products unlocks anything")
    if app.app_store is not None and app.app_store.api is None:
        message = f"app {app.id}: refunds at the App Store are known from Apple's notifications alone"
        yield Finding("warning", "app-store-api", message, "Set apps.app_store.api to ask Apple at each renewal")
    if app.google_play is not None and app.google_play.notice_audience is None:
        message = f"app {app.id}: refunds at Google Play are noticed within an hour only"
        yield Finding("warning", "google-play-notices", message, "Set google_play.notice_audience and notice_sender")


def _test_settings(app: AppPolicy) -> Iterator[Finding]:
    """What production must not have: each would let a test stand for a device, an app or a purchase."""

    def error(code: str, message: str) -> Finding:
        return Finding("error", code, f"app {app.id}: {message}")

    if app.development_roots:
        yield error("development-attestation", "development.roots: development attestations prove nothing")
    if app.android is not None and app.android.roots:
        yield error("attestation-roots", "android.roots: in production chains end in Google's roots")
    if app.android is not None and app.android.play_integrity is not None and app.android.play_integrity.base_url:
        yield error("store-address", "android.play_integrity: in production Google is asked at its own address")
    if app.apple is not None and app.apple.roots:
        yield error("attestation-roots", "apple.roots: in production chains end in Apple's root")
    if app.apple is not None and app.apple.environment != "production":
        yield error("app-attest-environment", "apple.environment: development instances are run from Xcode")
    if app.app_store is not None:
        if app.app_store.store not in (None, "Production"):
            yield error("app-store-environment", f"app_store.store: {app.app_store.store} purchases are not paid")
        if app.app_store.roots:
            yield error("app-store-roots", "app_store.roots: in production chains end in Apple Root CA - G3")
        if app.app_store.api is not None and app.app_store.api.base_url is not None:
            yield error("store-address", "app_store.api.base_url: in production Apple is asked at its own address")
    if app.google_play is not None and (app.google_play.base_url or app.google_play.notice_keys_url):
        yield error("store-address", "google_play: in production Google is asked at its own address")


def _check_keys(config: ServiceConfig) -> Iterator[Finding]:
    try:
        keys = open_keys(config.keys)
        keys.check()
    except CoreLockerError as error:
        yield Finding("error", error.code, f"keys: {error}")
        return
    thumbprint = jose.thumbprint(keys.signer.public_key)
    if thumbprint in config.keys.publishers:
        yield Finding(
            "error",
            "signing-key-shared",
            "keys: licenses would be signed with the publisher's key, which signs bundles",
            "Give the service a keystore of its own: corelocker service init",
        )
    elif not config.keys.publishers:
        message = "keys.publishers: without it nobody notices when the service signs with a publisher's key"
        yield Finding("warning", "publishers-missing", message)
    if not keys.bundles:
        yield Finding("warning", "no-bundles", "keys: there is no content key that could be released")
    try:
        catalog = config.catalog({name: bundle.tiers for name, bundle in keys.bundles.items()})
    except ConfigError as error:
        yield Finding("error", "products", f"products: {error}")
        return
    sold = {unlock.bundle for unlocks in catalog.products.values() for unlock in unlocks}
    for name in sorted(keys.bundles.keys() - sold):
        yield Finding("warning", "bundle-without-product", f"products: nothing unlocks the bundle {name}")
    message = f"keys: they open; {thumbprint} signs licenses; bundles with content keys: {len(keys.bundles)}"
    yield Finding("ok", "keys", message)
