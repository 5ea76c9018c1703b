"""Maintenance: what no request waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from corelocker.licensing.errors import LicensingError
from corelocker.service.audit import RefusalLog
from corelocker.service.config import AuditConfig
from corelocker.service.notices import Notices
from corelocker.service.records import AuditRow, PurchaseKey
from corelocker.service.revocation_source import RevocationSource
from corelocker.service.storage import Storage
from corelocker.service.verifiers import AppVerifiers

_VOIDED_INTERVAL_MS = 3600 * 1000
# Google lists the last 30 days.
_VOIDED_HORIZON_MS = 29 * 86400 * 1000


class Maintenance:
    """Acknowledges purchases, asks for voided orders, fetches the revocation list, forgets what has its age."""

    def __init__(
        self,
        storage: Storage,
        apps: Mapping[str, AppVerifiers],
        notices: Notices,
        revocation: RevocationSource,
        refusals: RefusalLog,
        retention: AuditConfig,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._apps = apps
        self._notices = notices
        self._revocation = revocation
        self._refusals = refusals
        self._retention = retention
        self._clock = clock
        self._voided_at: dict[str, float] = {}

    def run(self) -> list[LicensingError]:
        """Do all of it once.

        To be called about every 30 seconds by one thread of each process; several processes may do so at once. Returns
        what went wrong, which is tried again the next time.
        """
        failed: list[LicensingError] = []
        now_ms = int(self._clock() * 1000)
        tasks: list[Callable[[], object]] = [
            lambda: self._storage.purge_challenges(now_ms // 1000),
            lambda: self._refusals.flush(now_ms),
            lambda: self._storage.forget_audit(now_ms, self._retention.max_age, self._retention.max_rows),
            lambda: failed.extend(self._acknowledge(now_ms)),
            *(partial(self._take_in_voided, app, now_ms) for app in self._apps.values()),
        ]
        if any(app.android is not None for app in self._apps.values()):
            tasks.append(lambda: self._revocation.refresh(now_ms / 1000))
        for task in tasks:
            try:
                task()
            except LicensingError as error:
                failed.append(error)
        return failed

    def _acknowledge(self, now_ms: int) -> list[LicensingError]:
        """Tell Google Play that users have what they bought; what it is not told within three days it refunds."""
        failed: list[LicensingError] = []
        plays = {app.config.purchase_app("google-play"): app for app in self._apps.values() if app.google_play}
        for stored in self._storage.unacknowledged():
            app = plays.get(stored.entitlement.app)
            if app is None or app.google_play is None:
                continue
            for known in stored.entitlement.purchases:
                if known.acknowledged or known.status != "active":
                    continue
                row = AuditRow("acknowledge", "ok", now_ms, app=app.config.id, provider="google-play")
                try:
                    self._notices.take_in(row, [app.google_play.acknowledge(known, now_ms=now_ms)])
                except LicensingError as error:
                    failed.append(error)
        return failed

    def _take_in_voided(self, app: AppVerifiers, now_ms: int) -> None:
        """Once an hour: orders that were voided although no notification came."""
        play, package = app.google_play, app.config.purchase_app("google-play")
        last = self._voided_at.get(package)
        if play is None or (last is not None and 0 <= now_ms - last < _VOIDED_INTERVAL_MS):
            return
        name = f"voided-since:{package}"
        since_ms = max(int(self._storage.setting(name) or 0), now_ms - _VOIDED_HORIZON_MS)
        for voided in play.voided(since_ms=since_ms):
            key = PurchaseKey("google-play", package, voided.purchase_id)
            if self._storage.entitlement(key) is None:
                continue
            statements = self._notices.ask_google(play, key, voided.at_ms, now_ms)
            row = AuditRow("notice", "ok", now_ms, "voided orders", app=app.config.id, provider="google-play")
            self._notices.take_in(row, statements)
        with self._storage.transaction() as transaction:
            # Some overlap: the list is in the order of its own clock.
            transaction.set_setting(name, str(now_ms - _VOIDED_INTERVAL_MS))
        self._voided_at[package] = now_ms
