"""Rows of the audit log: what was asked, what came of it, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from corelocker.licensing.errors import LicensingError, StorageError
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.records import AuditRow
from corelocker.service.storage import Storage


@contextmanager
def refusals_audited(storage: Storage, row: AuditRow) -> Iterator[None]:
    """Keeps `row` with what the block is refused for, before any transaction. The refusal stands if it cannot be kept."""
    try:
        yield
    except LicensingError as error:
        with suppress(StorageError), storage.transaction(durable=False) as transaction:
            transaction.audit(refusal(row, error))
        raise


def refusal(row: AuditRow, error: LicensingError) -> AuditRow:
    """The row with the code of the refusal and why."""
    detail = f"{error.reason}: {error.detail}" if isinstance(error, AttestationRefusedError) else str(error)
    return replace(row, outcome=error.code, detail=one_line(detail))


def one_line(text: str) -> str:
    """What can be stored of a text: 512 characters, printable."""
    return "".join(character if character.isprintable() else " " for character in text[:512])
