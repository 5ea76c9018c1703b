"""The epoch: what shows that the database is not an old copy, which forgets revocations and used challenges.

A counter stands in the database and in a file beside the service's keystore. It rises each minute, in the database
first, so the file is never ahead of the database it belongs to. A database that is behind the file is an older copy: a
restored backup, a replica that had not everything. Several hosts on one database each have a file of their own.

An operator who has to go on with the copy says so (`corelocker service accept-rollback`): challenges that were given
out before no longer count then. What the copy forgot, such as revocations and device places, has to be done anew.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from corelocker.bundle.strict_json import parse_object
from corelocker.errors import FileAccessError
from corelocker.files import write_atomically
from corelocker.service.config import ServiceConfig
from corelocker.service.errors import DatabaseRolledBackError, EpochFileError
from corelocker.service.records import AuditRow
from corelocker.service.storage import Storage

_SETTING = "epoch"
_INTERVAL_SECONDS = 60
_MAX_FILE = 1024  # bytes
_MAX_EPOCH = 2**53 - 1


class Epoch:
    """The counter of one host and its database; used by several threads and processes.

    Every method raises EpochFileError when the file cannot be read or written, and StorageError.
    """

    def __init__(self, file: Path, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._storage = storage
        self._clock = clock
        self._lock = threading.Lock()
        self._advanced_at: float | None = None

    @classmethod
    def of(cls, config: ServiceConfig, storage: Storage) -> Epoch:
        """The epoch of a configuration's keystore and database."""
        return cls(config.epoch_file, storage)

    def check(self) -> None:
        """Raises DatabaseRolledBackError when the database is behind the file."""
        _compare(self._in_database(), self._in_file())

    def advance(self) -> None:
        """Move both on, unless that was done within the last minute. Raises DatabaseRolledBackError as `check` does."""
        with self._lock:
            now = self._clock()
            if self._advanced_at is not None and 0 <= now - self._advanced_at < _INTERVAL_SECONDS:
                return
            known = self._in_file()
            with self._storage.transaction() as transaction:
                found = int(transaction.lock_setting(_SETTING, "0"))
                _compare(found, known)
                transaction.set_setting(_SETTING, str(found + 1))
            # Other processes write it too. One that is behind them leaves the file lower, which refuses nothing wrongly.
            self._write(max(found + 1, self._in_file()))
            self._advanced_at = now

    def accept(self) -> int:
        """Go on with an older copy: the database's epoch rises above the file's, and no old challenge counts any more.

        Returns how far the database was behind.
        """
        known = self._in_file()
        with self._storage.transaction() as transaction:
            found = int(transaction.lock_setting(_SETTING, "0"))
            behind = max(0, known - found)
            transaction.set_setting(_SETTING, str(max(found, known) + 1))
            transaction.set_setting("secret", secrets.token_hex(32))
            transaction.audit(AuditRow("accept-rollback", "ok", int(time.time() * 1000), f"{behind} epochs behind"))
        self._write(max(found, known) + 1)
        return behind

    def _in_database(self) -> int:
        return int(self._storage.setting(_SETTING) or 0)

    def _in_file(self) -> int:
        try:
            with self._file.open("rb") as opened:
                data = opened.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise EpochFileError(f"{self._file}: {error.strerror or error}") from None
        try:
            epoch = parse_object(data).get("epoch")
        except ValueError:
            epoch = None
        if type(epoch) is not int or not 0 <= epoch <= _MAX_EPOCH or len(data) > _MAX_FILE:
            raise EpochFileError(f"{self._file}: holds no epoch", hint="Restore it, or delete it to trust the database")
        return epoch

    def _write(self, epoch: int) -> None:
        try:
            with write_atomically(self._file, force=True, mode=0o600) as file:
                file.write(json.dumps({"epoch": epoch}).encode())
        except (OSError, FileAccessError) as error:
            raise EpochFileError(f"{self._file}: cannot be written", hint="Name another: keys.epoch_file") from error


def _compare(in_database: int, in_file: int) -> None:
    if in_database < in_file:
        raise DatabaseRolledBackError(
            f"the database is an older copy: its epoch is {in_database}, this host has seen {in_file}",
            hint="Connect the newest database, or go on with this one: corelocker service accept-rollback",
        )
