"""Google's list of revoked attestation keys, from a file or from its address."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from corelocker.attestation.revocation import RevocationList, RevocationListError
from corelocker.licensing.http_client import ExchangeError, Limits, exchange, new_session
from corelocker.purchases.refreshed import Fetched, Refreshed
from corelocker.service.config import AttestationConfig


class RevocationSource:
    """Google's status list, from a file that something else keeps fresh or fetched from an address.

    The newest list that could be read stays in use; how old it may be is for the policy to say.
    """

    def __init__(self, config: AttestationConfig, *, timeout: float = 10.0) -> None:
        self._file = config.revocation_list
        self._url = config.revocation_url
        # Leaves time for several attempts before the list is stale.
        self._fresh = min(3600, config.revocation_max_age // 4)
        self._timeout = timeout
        self._read: tuple[int, RevocationList] | None = None
        self._fetched = Refreshed(
            self._fetch, wait=timeout, otherwise=lambda: RevocationListError("the list does not come in time")
        )

    def current(self, now: float) -> RevocationList | None:
        """The list to decide by, None when there never was one."""
        if self._file is not None:
            self._read = self._read_file(self._file)
            return None if self._read is None else self._read[1]
        if self._url is None:
            return None
        try:
            return self._fetched.get(now)
        except RevocationListError:
            return None

    def refresh(self, now: float) -> None:
        """Fetch the list when it is time to: for a thread that no request waits for."""
        if self._url is not None:
            self._fetched.refresh(now)

    def _read_file(self, file: Path) -> tuple[int, RevocationList] | None:
        """The file's list with the time of its change in ns; the last good one counts until it is stale."""
        read = self._read
        try:
            changed_ns = file.stat().st_mtime_ns
            if read is None or changed_ns != read[0]:
                fetched_at = datetime.fromtimestamp(changed_ns / 1e9, UTC)
                return changed_ns, RevocationList.parse(file.read_bytes(), fetched_at)
        except (OSError, RevocationListError):
            pass
        return read

    def _fetch(self, now: float) -> Fetched[RevocationList]:
        limits = Limits(connect=self._timeout, answer=self._timeout)
        try:
            with new_session() as session:
                answer = exchange(session, "GET", self._url or "", limits=limits)
        except ExchangeError as error:
            raise RevocationListError(f"the list cannot be fetched: {error}") from None
        if answer.status_code != 200:
            raise RevocationListError(f"the list cannot be fetched: the answer is {answer.status_code}")
        found = RevocationList.parse(answer.body, datetime.fromtimestamp(now, UTC))
        return Fetched(found, now, now + self._fresh, math.inf)
