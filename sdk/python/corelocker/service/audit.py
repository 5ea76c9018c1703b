"""Rows of the audit log: what was asked, what came of it, and why."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from corelocker.licensing.errors import LicensingError, StorageError
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.records import AuditRow
from corelocker.service.storage import Storage

# Of refusals that concern no known purchase, so many are kept at once, and one more each so many seconds.
_BURST = 60
_INTERVAL_SECONDS = 10
# What the detail of a row ends with that stands for many.
MORE = " more refusals of this kind"


class RefusalLog:
    """Keeps in the audit log what was refused before any transaction; used by several threads.

    A refusal about a known purchase always gets its row. The others cost nothing to provoke, so they must not fill the
    disk: beyond a burst of 60 and one row each 10 seconds they are counted, and `flush` writes one row for all of a kind.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._rows_left = float(_BURST)
        self._counted_at = time.monotonic()
        self._uncounted: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def keeping(self, row: AuditRow) -> Iterator[None]:
        """Keeps `row` with what the block is refused for. The refusal stands if it cannot be kept."""
        try:
            yield
        except LicensingError as error:
            refused = refusal(row, error)
            if row.purchase is not None or self._may_keep(refused):
                with suppress(StorageError), self._storage.transaction(durable=False) as transaction:
                    transaction.audit(refused)
            raise

    def flush(self, now_ms: int) -> None:
        """Write the counts. Raises StorageError, and keeps them then."""
        with self._lock:
            counts, self._uncounted = self._uncounted, Counter()
        if not counts:
            return
        try:
            with self._storage.transaction(durable=False) as transaction:
                for (event, code), count in counts.items():
                    transaction.audit(AuditRow(event, code, now_ms, f"{count}{MORE}"))
        except StorageError:
            with self._lock:
                self._uncounted += counts
            raise

    def _may_keep(self, row: AuditRow) -> bool:
        with self._lock:
            now = time.monotonic()
            self._rows_left = min(_BURST, self._rows_left + (now - self._counted_at) / _INTERVAL_SECONDS)
            self._counted_at = now
            if self._rows_left >= 1:
                self._rows_left -= 1
                return True
            self._uncounted[row.event, row.outcome] += 1
            return False


def refusal(row: AuditRow, error: LicensingError) -> AuditRow:
    """The row with the code of the refusal and why."""
    detail = f"{error.reason}: {error.detail}" if isinstance(error, AttestationRefusedError) else str(error)
    return replace(row, outcome=error.code, detail=one_line(detail))


def one_line(text: str) -> str:
    """What can be stored of a text: 512 characters, printable."""
    return "".join(character if character.isprintable() else " " for character in text[:512])
