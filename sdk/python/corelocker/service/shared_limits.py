"""Rate limits that hold for all hosts on one database together.

Each host limits by itself, in memory. Whoever has used a quarter of a burst there is counted, and once a second each
process adds its counts to the leaky bucket in the database and takes over how full that is. So the request path never
waits for it, quiet clients never get into the database, and what a client gets beyond its limit is at most a second of
each host's own limit. Times are those of the database's clock. Clients stand in the table as keyed hashes.

With SQLite there is one host, whose processes share the limits in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import sqlalchemy as sa

from corelocker.service.limits import RateLimiter
from corelocker.service.storage import Storage

# Sorted by subject, so that two hosts lock the rows in one order.
_ADD = sa.text("""
WITH moment AS (SELECT CAST(extract(epoch FROM statement_timestamp()) AS float8) AS now),
added AS (
    INSERT INTO rates AS held (subject, empty_at)
    SELECT subject, now + cost
    FROM moment, unnest(CAST(:subjects AS text[]), CAST(:costs AS float8[])) AS counted (subject, cost)
    ORDER BY subject
    ON CONFLICT (subject) DO UPDATE SET
        empty_at = greatest(held.empty_at, (SELECT now FROM moment)) + excluded.empty_at - (SELECT now FROM moment)
    RETURNING subject, empty_at
)
SELECT subject, empty_at - now AS ahead FROM added, moment
""")
_FORGET = sa.text("DELETE FROM rates WHERE empty_at < extract(epoch FROM statement_timestamp())")


class SharedLimits:
    """Shares the counts of rate limiters with the other hosts.

    Args:
        storage: the database; nothing is shared on SQLite.
        limiters: by a name that is the same on every host.
    """

    def __init__(self, storage: Storage, limiters: Mapping[str, RateLimiter]) -> None:
        self._storage = storage
        self._limiters = limiters

    def share(self) -> None:
        """To be called about once a second by one thread of each process. Raises StorageError."""
        if not self._storage.shared:
            return
        for name, limiter in self._limiters.items():
            costs = limiter.take_costs()
            if not costs:
                continue
            by_hash = {self._hash(name, subject): subject for subject in costs}
            values = {"subjects": list(by_hash), "costs": [costs[subject] for subject in by_hash.values()]}
            for row in self._storage.execute(_ADD, values):
                limiter.raise_to(by_hash[row.subject], row.ahead)

    def forget(self) -> None:
        """Delete the buckets that are empty. Raises StorageError."""
        if self._storage.shared:
            self._storage.execute(_FORGET)

    def _hash(self, name: str, subject: str) -> str:
        return hashlib.blake2b(f"{name} {subject}".encode(), key=self._storage.secret(), digest_size=24).hexdigest()
