"""What `corelocker service status` shows: what was decided lately, how purchases are used, what waits, how old keys are."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from typing import Any

import sqlalchemy as sa

from corelocker.bundle import jose
from corelocker.service.audit import MORE
from corelocker.service.config import HttpConfig, ServiceConfig
from corelocker.service.keys import open_keys, open_service_keystore
from corelocker.service.storage import Storage

# Purchases with so many devices or more are counted together.
_MANY = 10
_METRICS_SECONDS, _MAX_METRICS = 2, 1 << 20
_EVENTS = ("unlock", "renew", "notice")
# The detail of a refused attestation begins with its reason.
_DECISIONS = sa.text(
    "SELECT event, outcome, CASE outcome WHEN 'attestation-refused' THEN substr(detail, 1, 40) END AS detail, "
    "count(*) AS number FROM audit WHERE at_ms >= :since AND event IN ('unlock', 'renew', 'notice') GROUP BY 1, 2, 3"
)
_UNCOUNTED = sa.text(
    "SELECT event, outcome, detail FROM audit WHERE at_ms >= :since AND request_id IS NULL AND detail LIKE :more"
)
_DEVICES = sa.text(
    "SELECT devices, count(*) AS number FROM (SELECT count(DISTINCT device) AS devices FROM licenses "
    "WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now) "
    "GROUP BY provider, purchase_app, purchase_id) AS used GROUP BY devices"
)
_COUNTS = sa.text(
    "SELECT (SELECT count(*) FROM entitlements) AS purchases, "
    "(SELECT count(*) FROM entitlements WHERE unacknowledged) AS unacknowledged, "
    "(SELECT count(*) FROM consumed_challenges) AS challenges, "
    "(SELECT count(*) FROM audit) AS audit_rows"
)


@dataclass(frozen=True)
class Status:
    """What the database and the keystore say.

    Attributes:
        since_hours: the time that `decisions` and `refusals` are of.
        decisions: unlocks and renewals that were granted, and notices of stores that were taken in.
        refusals: by what was asked, and the code of the refusal; of attestations the reason too, None where too many were
            refused to keep it.
        devices: how many purchases are used on so many devices now; "10+" is ten and more.
        waiting: what the service still has to do: purchases that Google Play waits to be told about; of this host's workers
            the requests that are being answered and the open connections, None where no metrics can be had.
        stored: rows of the database.
        keys: thumbprint, age in days, and whether it signs.
    """

    since_hours: float
    decisions: dict[str, int]
    refusals: list[dict[str, Any]]
    devices: dict[str, int]
    waiting: dict[str, int | None]
    stored: dict[str, int]
    keys: list[dict[str, Any]]


def status(
    config: ServiceConfig, storage: Storage, hours: float = 24, clock: Callable[[], float] = time.time
) -> Status:
    """The status of the last hours. Raises StorageError, and what opening the keys raises."""
    now = clock()
    decisions, refusals = _decided(storage, int((now - hours * 3600) * 1000))
    devices = Counter[str]()
    for row in storage.execute(_DEVICES, {"now": int(now)}):
        devices[str(row.devices) if row.devices < _MANY else f"{_MANY}+"] += row.number
    (counts,) = storage.execute(_COUNTS)
    return Status(
        since_hours=hours,
        decisions={event: decisions[event] for event in _EVENTS},
        refusals=[
            {"event": event, "code": code, "reason": reason, "number": number}
            for (event, code, reason), number in refusals.most_common()
        ],
        devices=dict(sorted(devices.items(), key=lambda item: int(item[0].rstrip("+")))),
        waiting={"acknowledgements": counts.unacknowledged, **_of_workers(config.http)},
        stored={name: getattr(counts, name) for name in ("purchases", "challenges", "audit_rows")},
        keys=_keys(config, now),
    )


def _decided(storage: Storage, since_ms: int) -> tuple[Counter[str], Counter[tuple[str, str, str | None]]]:
    """What was granted by event, and what was refused by event, code and reason."""
    decisions, refusals = Counter[str](), Counter[tuple[str, str, str | None]]()
    for row in storage.execute(_DECISIONS, {"since": since_ms}):
        if row.outcome == "ok":
            decisions[row.event] += row.number
        else:
            refusals[row.event, row.outcome, row.detail and row.detail.partition(":")[0]] += row.number
    # One row stands for many: it was counted as one above, under what looks like its reason.
    for row in storage.execute(_UNCOUNTED, {"since": since_ms, "more": f"%{MORE}"}):
        refused = row.outcome == "attestation-refused"
        refusals[row.event, row.outcome, row.detail if refused else None] -= 1
        refusals[row.event, row.outcome, None] += int(row.detail.removesuffix(MORE))
    return decisions, +refusals


def _of_workers(http: HttpConfig) -> dict[str, int | None]:
    """What the workers of this host have under way, from their metrics."""
    found: dict[str, int | None] = {"requests": None, "connections": None}
    if not http.metrics_port:
        return found
    connection = HTTPConnection(http.metrics_host, http.metrics_port, timeout=_METRICS_SECONDS)
    with closing(connection), suppress(OSError, HTTPException):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read(_MAX_METRICS).decode("utf-8", "replace")
        for name, metric in (("requests", "requests_in_progress"), ("connections", "connections")):
            value = re.search(rf"^corelocker_{metric} (\d+)", text, re.MULTILINE)
            found[name] = None if value is None else int(value[1])
    return found


def _keys(config: ServiceConfig, now: float) -> list[dict[str, Any]]:
    signing = jose.thumbprint(open_keys(config.keys).signer.public_key)
    ages: dict[str, datetime | None] = {signing: None}  # a token does not say how old its keys are
    if config.keys.pkcs11 is None:
        ages = {key.thumbprint: key.created for key in open_service_keystore(config.keys).publisher_keys}
    return [
        {
            "thumbprint": thumbprint,
            "days": None if created is None else int((now - created.timestamp()) // 86400),
            "signs": thumbprint == signing,
        }
        for thumbprint, created in ages.items()
    ]
