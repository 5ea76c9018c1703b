"""Who is asking, and how often they may: the client's address behind trusted proxies, and rate limits.

The limiter is the generic cell rate algorithm (a leaky bucket that stores one number, the time at which it is empty
again) over a table of fixed size in memory that all worker processes share. Its memory does not grow with the number
of clients. A client's bucket is found by a keyed hash in two halves of the table and the emptier one counts, so an
attacker with many addresses can hardly fill the bucket of somebody else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import mmap
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from corelocker.service.config import HttpConfig, LicenseConfig, ServiceConfig

# Bytes of a request line and all headers.
MAX_HEAD = 16 << 10

_SLOTS = 1 << 17  # of each half; 2 MiB in all
_WHOLE = 2 * _SLOTS  # the slot of the limit for all clients together
_MAX_FORWARDED = 16
_COUNTED = 10_000

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientAddress:
    """Finds the client's address.

    Without `trusted_proxies` (addresses or networks; "unix" is a peer on a Unix socket) it is the peer's. A peer that
    is trusted is asked for its own peer, through the last entry of X-Forwarded-For, and so on until one is not trusted:
    what a client itself has put into the header is never reached. An entry that is no address ends the walk. Raises
    ValueError for a proxy that is no network.
    """

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._unix = "unix" in trusted_proxies
        self._networks = [ipaddress.ip_network(item) for item in trusted_proxies if item != "unix"]

    def of(self, peer: str | None, forwarded: Sequence[bytes]) -> str:
        """The address of the client of a connection from `peer` (None: a Unix socket) with these X-Forwarded-For."""
        client = peer or "unix"
        if not self._unix and not self._networks:
            return client
        entries = b",".join(forwarded).decode("latin-1").split(",")[-_MAX_FORWARDED:]
        while entries and self.trusts(client):
            try:
                client = str(ipaddress.ip_address(entries.pop().strip()))
            except ValueError:
                break
        return client

    def trusts(self, client: str) -> bool:
        """Whether a peer is a trusted proxy; "unix" is a peer on a Unix socket."""
        if client == "unix":
            return self._unix
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)


class ClientShares:
    """Counts what each client holds at one time in this process, connections or requests; `limit` 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[str, int] = {}
        self._subject = lru_cache(maxsize=4096)(_subject)

    def take(self, client: str) -> bool:
        """One more, to be given back; False when the client holds as many as it may."""
        if not self._limit:
            return True
        subject = self._subject(client)
        held = self._held.get(subject, 0)
        if held >= self._limit:
            return False
        self._held[subject] = held + 1
        return True

    def give_back(self, client: str) -> None:
        """One that was taken."""
        if not self._limit:
            return
        subject = self._subject(client)
        held = self._held.pop(subject, 0) - 1
        if held > 0:
            self._held[subject] = held


class RateLimiter:
    """Limits the requests of each client and of all together; made before the workers fork, so that they share it.

    Args:
        per_client, overall: requests a second in the long run; 0 is no limit.
        client_burst, overall_burst: requests that may come at once after a pause.
        clock: seconds of a clock that all processes of the machine share.
    """

    def __init__(
        self,
        *,
        per_client: float,
        client_burst: int,
        overall: float,
        overall_burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._costs: dict[str, float] = {}
        self._client = _pace(per_client, client_burst)
        self._overall = _pace(overall, overall_burst)
        self._clock = clock
        self._table = memoryview(mmap.mmap(-1, 8 * (_WHOLE + 1))).cast("d")
        self._key = os.urandom(16)
        self._slots = lru_cache(maxsize=4096)(self._find_slots)

    def wait(self, client: str) -> float:
        """0 when the client's request may go on (it is counted), else the seconds after which the next one may.

        What one client may not is not counted for all: a client beyond its own limit takes nothing from the others.
        """
        table, now = self._table, self._clock()
        if self._client is not None:
            interval, tolerance = self._client
            first, second = self._slots(client)
            empty_at = max(now, min(table[first], table[second]))
            if empty_at - now > tolerance:
                return empty_at - now - tolerance
        if self._overall is not None:
            whole_interval, whole_tolerance = self._overall
            whole_empty_at = max(now, table[_WHOLE])
            if whole_empty_at - now > whole_tolerance:
                return whole_empty_at - now - whole_tolerance
            table[_WHOLE] = whole_empty_at + whole_interval
        if self._client is not None:
            # Two processes may count at the same moment and one count be lost; the limit is not that exact.
            for slot in (first, second):
                table[slot] = max(now, table[slot]) + interval
            if empty_at - now > tolerance / 4:
                self._count(client, interval)
        return 0.0

    def take_costs(self) -> dict[str, float]:
        """What clients that are not quiet have used since the last call, seconds by client, for `shared_limits`."""
        costs, self._costs = self._costs, {}
        return costs

    def raise_to(self, client: str, ahead: float) -> None:
        """Take over that a client's bucket is empty in so many seconds, unless it is fuller here."""
        empty_at = self._clock() + ahead
        for slot in self._slots(client):
            self._table[slot] = max(self._table[slot], empty_at)

    def _count(self, client: str, interval: float) -> None:
        subject, costs = _subject(client), self._costs
        # So many that nobody takes them are an attack from everywhere, which this limit does not hold off.
        if subject in costs or len(costs) < _COUNTED:
            costs[subject] = costs.get(subject, 0.0) + interval

    def _find_slots(self, client: str) -> tuple[int, int]:
        digest = hashlib.blake2b(_subject(client).encode(), key=self._key, digest_size=16).digest()
        first, second = int.from_bytes(digest[:8]), int.from_bytes(digest[8:])
        return first % _SLOTS, _SLOTS + second % _SLOTS


@dataclass(frozen=True)
class Limiters:
    """The rate limiters of a service: of the clients' addresses, and of the purchases that they show."""

    clients: RateLimiter
    purchases: RateLimiter

    @classmethod
    def of(cls, config: ServiceConfig) -> Limiters:
        """Those that a configuration asks for."""
        return cls(make_limiter(config.http), make_purchase_limiter(config.licenses))


def make_purchase_limiter(licenses: LicenseConfig) -> RateLimiter:
    """The limiter of a purchase's unlocks and renewals: those of an hour may come at once."""
    hourly = licenses.rate_limit
    return RateLimiter(per_client=hourly / 3600, client_burst=max(1, hourly), overall=0, overall_burst=1)


def make_limiter(http: HttpConfig) -> RateLimiter:
    """The rate limiter that the configuration asks for: bursts are what an eighth of a minute allows."""
    each, together = http.rate_limit, http.total_rate_limit
    return RateLimiter(
        per_client=each / 60, client_burst=each // 8 + 1, overall=together / 60, overall_burst=together // 8 + 1
    )


def _pace(rate: float, burst: int) -> tuple[float, float] | None:
    """Seconds that a request takes up, and how many seconds of requests may be ahead; None is no limit."""
    if rate < 0 or burst < 1:
        raise ValueError("a rate is 0 or more requests a second, a burst 1 or more requests")
    # A hair more than burst - 1 intervals, so that rounding does not eat the last request of a burst.
    return None if rate == 0 else (1 / rate, (burst - 1 + 1e-6) / rate)


def _subject(client: str) -> str:
    """What shares a limit: an IPv4 address, or the /64 that one IPv6 subscriber has."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
