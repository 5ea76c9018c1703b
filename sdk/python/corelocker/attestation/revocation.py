"""Google's list of revoked attestation keys (https://android.googleapis.com/attestation/status).

The list names certificates by serial number, and the number has been written in more than one way: decimal and hex,
with letters or, by chance or by construction, without (the keyboxes of 2018 have serials whose hex digits are all
decimal digits), with and without leading zeros. A key of digits only is therefore read both ways. That two keyboxes
differ by nothing but this reading does not happen; that a revoked one is missed does, with either reading alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from corelocker.attestation.certificates import Certificate
from corelocker.attestation.verdict import Reason, Refusal, require_aware
from corelocker.licensing.errors import AttestationError

STATUS_URL = "https://android.googleapis.com/attestation/status"

# The list of 2026 is well under 1 MiB.
MAX_LIST = 16 << 20
# How far the clock that stamped a list may be ahead of the one that reads it.
_SKEW = timedelta(minutes=5)
_KEY = re.compile(r"[0-9a-fA-F]{1,64}")


class RevocationListError(AttestationError):
    """What was fetched is not a revocation list; keep the last good one until it is stale."""

    code = "attestation-revocation-list"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The serial numbers that may no longer attest, and when they were fetched (with a time zone)."""

    serials: frozenset[int]
    fetched_at: datetime

    @classmethod
    def parse(cls, data: bytes, fetched_at: datetime) -> Self:
        """Read the status list, {"entries": {serial: {"status": "REVOKED" | "SUSPENDED", ...}}}.

        Every entry counts, whatever its status. Raises RevocationListError: half a list is no list.
        """
        require_aware(fetched_at)
        if len(data) > MAX_LIST:
            raise RevocationListError("the revocation list is too large")
        try:
            entries = json.loads(data)["entries"]
            serials: set[int] = set()
            for key, entry in entries.items():
                if not _KEY.fullmatch(key) or not isinstance(entry["status"], str):
                    raise RevocationListError("the revocation list has an entry that is not a serial number's status")
                serials.add(int(key, 16))
                if key.isdigit():
                    serials.add(int(key))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RevocationListError("the revocation list is not of the documented form") from error
        return cls(frozenset(serials), fetched_at)


def check_revocation(
    certificates: Iterable[Certificate], revocation: RevocationList | None, now: datetime, max_age: timedelta
) -> None:
    """Refuse revoked certificates, and to decide without a list that is at most `max_age` old."""
    if revocation is None:
        raise Refusal(Reason.REVOCATION_LIST_MISSING, "there is no revocation list")
    age = now - revocation.fetched_at
    if age > max_age or age < -_SKEW:
        raise Refusal(
            Reason.REVOCATION_LIST_STALE, f"the revocation list is of {revocation.fetched_at:%Y-%m-%dT%H:%MZ}"
        )
    for index, certificate in enumerate(certificates):
        if certificate.serial in revocation.serials:
            raise Refusal(Reason.CERTIFICATE_REVOKED, f"certificate {index} ({certificate.serial:x}) is revoked")
