"""What `check-config` tries out beyond the configuration itself: the database, the clock, the stores.

Each attempt is bounded, so that the command ends within some seconds whatever does not answer.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from corelocker.errors import CoreLockerError
from corelocker.licensing.http_client import ExchangeError, Limits, exchange, new_session
from corelocker.purchases.google_play import API_URL as PLAY_URL
from corelocker.purchases.play_notices import CERTIFICATES_URL
from corelocker.service import play_integrity
from corelocker.service.checks import Finding
from corelocker.service.config import ServiceConfig
from corelocker.service.revocation_source import RevocationSource
from corelocker.service.storage import Storage

# https://developer.apple.com/documentation/appstoreserverapi
_APPLE_URL = "https://api.storekit.itunes.apple.com"
_APPLE_SANDBOX_URL = "https://api.storekit-sandbox.itunes.apple.com"
_LIMITS = Limits(connect=3.0, answer=3.0)
# Challenges live for minutes, and stores sign times.
_CLOCK_SECONDS = 60
_SET_CLOCK = "Let the machine's clock follow a time server (chrony, systemd-timesyncd)"


def try_out(config: ServiceConfig, clock: Callable[[], float] = time.time) -> list[Finding]:
    """One finding for each thing that was tried; the level is "ok" where it works. `clock` gives Unix seconds."""
    stores = store_addresses(config)
    with ThreadPoolExecutor(max(1, len(stores))) as pool:
        asked = pool.map(lambda entry: _try_store(entry[0], entry[1], clock), stores.items())
        return [*_try_database(config, clock), *_try_revocation(config, clock), *asked]


def store_addresses(config: ServiceConfig) -> dict[str, str]:
    """The addresses that the service asks for its apps, and what is there."""
    found: dict[str, str] = {}
    for app in config.apps.values():
        if app.google_play is not None:
            found[app.google_play.base_url or PLAY_URL] = "Google Play"
            if app.google_play.notice_audience is not None:
                found[app.google_play.notice_keys_url or CERTIFICATES_URL] = "Google's keys"
        if app.android is not None and app.android.play_integrity is not None:
            found[app.android.play_integrity.base_url or play_integrity.API_URL] = "Play Integrity"
        if app.app_store is not None and app.app_store.api is not None:
            usual = _APPLE_URL if config.environment == "production" else _APPLE_SANDBOX_URL
            found[app.app_store.api.base_url or usual] = "App Store Server API"
    return found


def _try_database(config: ServiceConfig, clock: Callable[[], float]) -> Iterator[Finding]:
    if config.sqlite_path is not None and not config.sqlite_path.exists():
        yield Finding("ok", "database", "database: it is made at the first start")
        return
    try:
        with closing(Storage.open(config.database_url, pool_size=1)) as storage:
            storage.check_writable()
            ahead = clock() - storage.time()
    except CoreLockerError as error:
        hint = "Start it, and look at its address, its disk and the rights of its user"
        yield Finding("error", "database", f"database: {error}", hint)
        return
    yield Finding("ok", "database", "database: it answers, takes writes and is of this release's version")
    if abs(ahead) > _CLOCK_SECONDS:
        yield Finding("warning", "clock", f"clock: {ahead:+.0f} s from the database's", _SET_CLOCK)
    elif config.sqlite_path is None:
        yield Finding("ok", "clock", f"clock: {ahead:+.0f} s from the database's")


def _try_revocation(config: ServiceConfig, clock: Callable[[], float]) -> Iterator[Finding]:
    url = config.attestation.revocation_url
    if url is None or not any(app.android is not None for app in config.apps.values()):
        return
    found = RevocationSource(config.attestation, timeout=_LIMITS.answer).current(clock())
    if found is None:
        message = f"attestation.revocation_url: no revocation list comes from {url}"
        yield Finding("warning", "revocation-list", message, "Let the machine reach it; Android devices are refused")
    else:
        message = f"attestation.revocation_url: a list of {len(found.serials)} revoked keys"
        yield Finding("ok", "revocation-list", message)


def _try_store(url: str, what: str, clock: Callable[[], float]) -> Finding:
    """Any answer shows that a store can be reached, and its Date how the clocks differ."""
    try:
        with new_session() as session:
            answer = exchange(session, "GET", url, limits=_LIMITS)
    except ExchangeError as error:
        hint = "Let the machine reach it (DNS, firewall, proxy, certificates)"
        return Finding("warning", "store-unreachable", f"{what}: {url}: {error}", hint)
    try:
        ahead = clock() - email.utils.parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except ValueError:
        ahead = 0.0
    if abs(ahead) > _CLOCK_SECONDS:
        return Finding("warning", "clock", f"clock: {ahead:+.0f} s from that of {what}", _SET_CLOCK)
    return Finding("ok", "store", f"{what}: {url} can be reached")
