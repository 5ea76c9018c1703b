"""The time as far as an offline device can know it (docs/formats.md, "Clock").

A device has only clocks that its owner can set. `DeviceClock` keeps a mark that never falls: the latest time that was
seen, moved on by the time since start-up while the device stays up. A clock that is behind the mark by more than a day is
refused for licenses that end; one that is a little behind gains nothing, since the mark counts as the time.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from corelocker.bundle.strict_json import parse_object
from corelocker.errors import FileAccessError
from corelocker.files import write_atomically
from corelocker.licensing.errors import LicenseClockError

# How far a device's clock may be behind the latest time that was seen: a traveler who sets the hour by hand.
CLOCK_TOLERANCE = 86400


@dataclass(frozen=True)
class Reading:
    """A reading of a device's clocks.

    Attributes:
        wall: the clock that its owner can set, Unix seconds.
        ticks: seconds of a clock that runs on through sleep and starts anew with the device.
        boot: names the start-up that `ticks` counts from.
    """

    wall: int
    ticks: int
    boot: str


@dataclass(frozen=True)
class Mark:
    """The latest time that was seen (Unix seconds), and the reading of the other clock then."""

    time: int
    ticks: int
    boot: str


class MarkStore(Protocol):
    """Where the mark survives a restart; on phones beside the device key, and deleted only with it."""

    def load(self) -> Mark | None:
        """The mark, None when there was never one. Raises LicenseClockError when it is damaged."""

    def save(self, mark: Mark) -> None:
        """Keep the mark."""


class DeviceClock:
    """The time as far as an offline device can know it; `store` keeps the mark, `read` reads the clocks."""

    def __init__(self, store: MarkStore, read: Callable[[], Reading]) -> None:
        self._store = store
        self._read = read

    def now(self, issued_at: int, expires_at: int | None, offline_grace: int) -> int:
        """The time to judge a license with these times by; moves the mark and keeps it before anything is decided.

        The wall clock moves the mark no further than to the end of the license: a clock that was wrong by years makes
        this license end, and the next one works again. Raises LicenseClockError when the clock is more than a day
        behind the mark, or behind the signed time at which the license was issued.
        """
        reading = self._read()
        mark = self._store.load()
        seen = issued_at
        if mark is not None:
            up = reading.ticks - mark.ticks if reading.boot == mark.boot else 0
            seen = max(seen, mark.time + max(up, 0))
        now = max(seen, reading.wall)
        end = issued_at if expires_at is None else expires_at + offline_grace
        self._store.save(Mark(max(seen, min(now, end)), reading.ticks, reading.boot))
        if expires_at is not None and reading.wall < seen - CLOCK_TOLERANCE:
            raise LicenseClockError("the clock of this device is behind", hint="Set its date and time")
        return now


class FileMarkStore:
    """Keeps the mark in a small file, written atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Mark | None:
        """The mark, None when there is no file. Raises LicenseClockError when it is damaged, FileAccessError."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileAccessError(f"{self._path}: {error.strerror or error}") from None
        try:
            value = parse_object(data)
        except ValueError:
            value = {}
        seen, ticks, boot = (value.get(name) for name in ("time", "ticks", "boot"))
        if type(seen) is not int or type(ticks) is not int or not isinstance(boot, str):
            raise LicenseClockError(f"{self._path}: the record of the time is damaged", hint="Unlock anew")
        return Mark(seen, ticks, boot)

    def save(self, mark: Mark) -> None:
        """Keep the mark. Raises FileAccessError."""
        with write_atomically(self._path, force=True, mode=0o600) as file:
            file.write(json.dumps({"time": mark.time, "ticks": mark.ticks, "boot": mark.boot}).encode())


def system_reading() -> Reading:
    """The clocks of this machine; outside Linux, where start-ups have no name, the wall clock alone moves the mark."""
    ticks = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = str(uuid.uuid4())
    return Reading(int(time.time()), int(ticks), boot)
