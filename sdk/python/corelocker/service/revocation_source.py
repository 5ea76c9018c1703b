"""Google's list of revoked attestation keys, from a file or from its address."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from corelocker.attestation.revocation import RevocationList
from corelocker.errors import CoreLockerError
from corelocker.licensing.http_client import ExchangeError, Limits, exchange, new_session
from corelocker.service.config import AttestationConfig


class RevocationSource:
    """Google's status list, from a file that something else keeps fresh or fetched from an address.

    The newest list that could be read stays in use; how old it may be is for the policy to say. Only one thread
    fetches at a time, and the others go on with the list that there is.
    """

    def __init__(self, config: AttestationConfig, *, timeout: float = 10.0) -> None:
        self._file = config.revocation_list
        self._url = config.revocation_url
        # Leaves time for several attempts before the list is stale.
        self._refresh = min(3600, config.revocation_max_age // 4)
        self._timeout = timeout
        self._loading = threading.Lock()
        self._list: RevocationList | None = None
        self._stamp: int | None = None
        self._tried_at = 0.0

    def current(self, now: float) -> RevocationList | None:
        """The list to decide by, None when there never was one."""
        if self._file is not None:
            self._load_file()
        elif self._url is not None and self._due(now):
            first = self._list is None
            if self._loading.acquire(blocking=first):
                try:
                    if self._due(now):
                        self._fetch(now)
                finally:
                    self._loading.release()
        return self._list

    def _due(self, now: float) -> bool:
        if not self._tried_at <= now < self._tried_at + 60:
            # Never tried, or a minute ago; what remains is whether the list is old enough.
            return self._list is None or now - self._list.fetched_at.timestamp() >= self._refresh
        return False

    def _load_file(self) -> None:
        file = self._file
        if file is None:
            return
        try:
            found = file.stat()
            if found.st_mtime_ns != self._stamp:
                data = file.read_bytes()
                self._list = RevocationList.parse(data, datetime.fromtimestamp(found.st_mtime, UTC))
                self._stamp = found.st_mtime_ns
        except (OSError, CoreLockerError):
            # The last good list counts until it is stale.
            return

    def _fetch(self, now: float) -> None:
        self._tried_at = now
        limits = Limits(connect=self._timeout, answer=self._timeout)
        try:
            with new_session() as session:
                answer = exchange(session, "GET", self._url or "", limits=limits)
            if answer.status_code == 200:
                self._list = RevocationList.parse(answer.body, datetime.fromtimestamp(now, UTC))
        except (ExchangeError, CoreLockerError):
            # The last good list counts until it is stale.
            return
