"""What `corelocker service status` shows: what was decided lately, how purchases are used, what waits, how old keys are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from corelocker.bundle import jose
from corelocker.service.config import ServiceConfig
from corelocker.service.keys import open_keys, open_service_keystore
from corelocker.service.storage import Storage

# Purchases with so many devices or more are counted together.
_MANY = 10
_DECISIONS = sa.text(
    "SELECT event, outcome, count(*) AS number FROM audit WHERE at_ms >= :since GROUP BY event, outcome"
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
        decisions: unlocks and renewals that were granted.
        refusals: by what was asked, and the code of the refusal. Of those that concern no known purchase, an attack's are
            counted in fewer rows than there were.
        devices: how many purchases are used on so many devices now; "10+" is ten and more.
        waiting: what the service still has to do: purchases that Google Play waits to be told about.
        stored: rows of the database.
        keys: thumbprint, age in days, and whether it signs.
    """

    since_hours: float
    decisions: dict[str, int]
    refusals: list[dict[str, Any]]
    devices: dict[str, int]
    waiting: dict[str, int]
    stored: dict[str, int]
    keys: list[dict[str, Any]]


def status(
    config: ServiceConfig, storage: Storage, hours: float = 24, clock: Callable[[], float] = time.time
) -> Status:
    """The status of the last hours. Raises StorageError, and what opening the keys raises."""
    now = clock()
    decisions, refusals = Counter[str](), Counter[tuple[str, str]]()
    for row in storage.execute(_DECISIONS, {"since": int((now - hours * 3600) * 1000)}):
        if row.event not in ("unlock", "renew"):
            continue
        if row.outcome == "ok":
            decisions[row.event] += row.number
        else:
            refusals[row.event, row.outcome] += row.number
    devices = Counter[str]()
    for row in storage.execute(_DEVICES, {"now": int(now)}):
        devices[str(row.devices) if row.devices < _MANY else f"{_MANY}+"] += row.number
    (counts,) = storage.execute(_COUNTS)
    return Status(
        since_hours=hours,
        decisions={event: decisions[event] for event in ("unlock", "renew")},
        refusals=[{"event": event, "code": code, "number": number} for (event, code), number in refusals.most_common()],
        devices=dict(sorted(devices.items(), key=lambda item: int(item[0].rstrip("+")))),
        waiting={"acknowledgements": counts.unacknowledged},
        stored={name: getattr(counts, name) for name in ("purchases", "challenges", "audit_rows")},
        keys=_keys(config, now),
    )


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
