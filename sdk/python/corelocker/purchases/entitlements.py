"""What a purchase entitles to, and on how many device keys: pure functions over small immutable states.

Times are Unix seconds (int) unless a name ends in `_ms`. The service stores an `Entitlement` for each purchase and
calls

    observe     with every verified statement of a store: a purchase shown by a device, a notification, a fresh query
    entitled    to find the purchase that unlocks a bundle and tier now
    move        to let a new key of a device take over the place that its former key holds
    activate    to give a device key one of the purchase's places
    renew       to check, at renewal, that the device still holds its place

and stores what they return. `observe` takes the statements in any order and any number of times: the same set of
statements gives the same state, so replayed or late notifications change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from corelocker.errors import ConfigError
from corelocker.licensing.errors import (
    DeviceInactiveError,
    DeviceLimitError,
    PurchaseAppError,
    PurchaseError,
    PurchaseExpiredError,
    PurchasePendingError,
    PurchaseProductError,
    PurchaseRevokedError,
    PurchaseSupersededError,
)

Provider = Literal["app-store", "google-play", "grant"]
Status = Literal["active", "pending", "revoked", "superseded"]

_REFUSALS: Mapping[Status, tuple[type[PurchaseError], str]] = {
    "pending": (PurchasePendingError, "the store has not been paid for this purchase"),
    "superseded": (PurchaseSupersededError, "this purchase was replaced by another"),
    "revoked": (PurchaseRevokedError, "this purchase was refunded or revoked"),
}
# Which refusal is told when several transactions of one purchase are refused for different reasons.
_WORST_FIRST: tuple[Status, ...] = ("revoked", "superseded", "pending")


@dataclass(frozen=True)
class Purchase:
    """What a store (or the publisher's backend) says about one transaction at one time.

    Attributes:
        provider: who says it.
        app: bundle identifier, package name, or the app that a grant is for.
        purchase_id: one for all renewals, restores and upgrades of a purchase; the device limit counts by it.
        transaction_id: of the single transaction; a newer statement about it replaces an older one.
        product: the store's product identifier.
        status: `active` does not mean unexpired, see `expires_at`.
        expires_at: end of what was paid for, None when it has none.
        as_of_ms: when it was said, by the sayer's clock, in milliseconds since the Unix epoch.
        final: nothing said later about this transaction can undo it (a voided order).
        account: the app's own account identifier that was attached to the purchase, if any.
        reference: what the store has to be asked with (a purchase token); never logged.
        replaces: purchase_id of the purchase that this one took the place of.
        acknowledged: False while Google Play still waits for the acknowledgement.
    """

    provider: Provider
    app: str
    purchase_id: str
    transaction_id: str
    product: str
    status: Status
    expires_at: int | None
    as_of_ms: int
    final: bool = False
    account: str | None = None
    reference: str = field(default="", repr=False)
    replaces: str | None = None
    acknowledged: bool = True

    def expired(self, now: int) -> bool:
        """Whether the paid time is over at `now`."""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True)
class DevicePlace:
    """One of the N places of a purchase, held by a device key.

    Attributes:
        device: thumbprint of the device key (RFC 7638).
        taken_at: when the device took the place.
        used_at: last time the device unlocked or renewed.
        released: given up by its owner; it still cools down before another device may take it.
        perpetual: the device got a license without an end, which works whatever the service says later. So the place
            never comes free: it counts against the device limit for ever, unless an operator takes it away at once.
    """

    device: str
    taken_at: int
    used_at: int
    released: bool = False
    perpetual: bool = False


@dataclass(frozen=True)
class Entitlement:
    """All that is known about one purchase, and the devices that use it.

    Attributes:
        provider, app, purchase_id: as in `Purchase`.
        purchases: the newest statement about each transaction, by transaction_id.
        places: of the devices that use it, in the order in which they were taken.
        closed: taken back by the publisher, or replaced by another purchase, whatever the store says.
    """

    provider: Provider
    app: str
    purchase_id: str
    purchases: tuple[Purchase, ...] = ()
    places: tuple[DevicePlace, ...] = ()
    closed: Literal["revoked", "superseded"] | None = None


@dataclass(frozen=True)
class DeviceRules:
    """How many device keys may use one purchase, and how slowly places change hands.

    A place whose owner gave it up can be taken `cooldown` seconds after it was taken; a place that was not given up,
    once its device has not been seen for `cooldown` seconds (a lost phone, a reinstalled app). So each place changes
    hands at most once in a cool-down, and a device in use is never pushed out. The place of a perpetual license never
    comes free. A device that has a new key and proves that it holds the former one keeps its place (`move`).
    """

    devices: int = 3
    cooldown: int = 30 * 86400

    def __post_init__(self) -> None:
        if self.devices < 1 or self.cooldown < 0:
            raise ConfigError(f"{self.devices} devices with a cool-down of {self.cooldown} s makes no sense")


@dataclass(frozen=True)
class Unlock:
    """What a product unlocks: a tier of a key bundle, and with it every lower tier."""

    bundle: str
    tier: str


@dataclass(frozen=True)
class Catalog:
    """Which product unlocks what.

    Attributes:
        products: for each (app, product), what it unlocks; apps and products are matched exactly.
        tiers: for each bundle its tiers, lowest first. The first is what ships: it needs no license, and gets none.
    """

    products: Mapping[tuple[str, str], tuple[Unlock, ...]]
    tiers: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for (app, product), unlocks in self.products.items():
            for unlock in unlocks:
                if unlock.tier not in self.tiers.get(unlock.bundle, ())[1:]:
                    message = f"product {product} of {app}: bundle {unlock.bundle} has no tier {unlock.tier} to unlock"
                    raise ConfigError(message)

    def unlocks(self, app: str, product: str, bundle: str, tier: str) -> bool:
        """Whether the product unlocks the tier of the bundle, directly or as a lower tier of what it unlocks."""
        order = self.tiers.get(bundle, ())
        if tier not in order[1:]:
            return False
        wanted = order.index(tier)
        return any(
            unlock.bundle == bundle and order.index(unlock.tier) >= wanted
            for unlock in self.products.get((app, product), ())
        )


def observe(entitlement: Entitlement | None, purchase: Purchase) -> Entitlement:
    """Take in one verified statement; of two about the same transaction the newer stays, or the one that is final.

    Associative, commutative and idempotent over the statements. Raises PurchaseError when the statement is about
    another purchase than the entitlement.
    """
    if entitlement is None:
        entitlement = Entitlement(purchase.provider, purchase.app, purchase.purchase_id)
    if _key(entitlement) != _key(purchase):
        raise PurchaseError("a statement about another purchase")
    newest = {known.transaction_id: known for known in entitlement.purchases}
    known = newest.get(purchase.transaction_id)
    if known == purchase:
        return entitlement
    if known is None or _rank(purchase) > _rank(known):
        newest[purchase.transaction_id] = purchase
    return replace(entitlement, purchases=tuple(newest[name] for name in sorted(newest)))


def forget_expired(entitlement: Entitlement, now: int, keep: int = 180 * 86400) -> Entitlement:
    """Drop transactions that ended more than `keep` seconds ago, so that long subscriptions stay small."""
    kept = tuple([known for known in entitlement.purchases if not known.expired(now - keep)])
    return entitlement if len(kept) == len(entitlement.purchases) else replace(entitlement, purchases=kept)


def entitled(entitlement: Entitlement, app: str, bundle: str, tier: str, now: int, catalog: Catalog) -> Purchase:
    """The purchase that unlocks this tier of this bundle now; of several the one that lasts longest.

    Raises PurchaseAppError, PurchaseProductError, PurchaseRevokedError, PurchaseSupersededError, PurchasePendingError
    or PurchaseExpiredError.
    """
    if entitlement.app != app:
        raise PurchaseAppError("the purchase was made in another app")
    if entitlement.closed is not None:
        raise _refusal(entitlement.closed)
    fitting = [known for known in entitlement.purchases if catalog.unlocks(app, known.product, bundle, tier)]
    if not fitting:
        raise PurchaseProductError("the product that was bought does not unlock this tier of this bundle")
    running = [known for known in fitting if not known.expired(now)]
    if not running:
        raise PurchaseExpiredError("the purchase has ended")
    valid = [known for known in running if known.status == "active"]
    if not valid:
        raise _refusal(next(status for status in _WORST_FIRST if any(known.status == status for known in running)))
    return max(valid, key=lambda known: (known.expires_at is None, known.expires_at or 0, known.transaction_id))


def activate(entitlement: Entitlement, device: str, now: int, rules: DeviceRules) -> Entitlement:
    """Give the device key a place of the purchase, or refresh the place that it holds.

    Raises DeviceLimitError when all places are held; it says when the next one comes free, if ever.
    """
    if any(place.device == device for place in entitlement.places):
        return _touch(entitlement, device, now)
    # Given-up places first, then the one that has not been used for longest. More than one has to go where the rules
    # were tightened or two purchases became one.
    by_age = sorted(entitlement.places, key=lambda place: (_free_at(place, rules), place.used_at, place.device))
    leaving = by_age[: max(0, len(by_age) - rules.devices + 1)]
    free_at = _free_at(leaving[-1], rules) if leaving else now
    if free_at > now:
        message = f"the purchase is in use on {len(by_age)} devices already"
        raise DeviceLimitError(message, retry_at=None if free_at == math.inf else int(free_at))
    kept = [place for place in entitlement.places if place not in leaving]
    return replace(entitlement, places=(*kept, DevicePlace(device, now, now)))


def move(entitlement: Entitlement, former: str, device: str) -> Entitlement:
    """Let the new key of a device take over the place that its former key holds, with the times of that place.

    No cool-down passes: the device stays the same, and the caller has made sure of that. Nothing changes where the former
    key holds no place or gave it up, or where the new one holds a place already.
    """
    if any(place.device == device for place in entitlement.places):
        return entitlement
    places = tuple(
        replace(place, device=device) if place.device == former and not place.released else place
        for place in entitlement.places
    )
    return entitlement if places == entitlement.places else replace(entitlement, places=places)


def renew(entitlement: Entitlement, device: str, now: int) -> Entitlement:
    """Check that the device holds a place, and note that it was seen.

    Raises DeviceInactiveError when it never had one, gave it up, or lost it to another device.
    """
    if not any(place.device == device and not place.released for place in entitlement.places):
        raise DeviceInactiveError("this device does not use the purchase any more", hint="Unlock anew")
    return _touch(entitlement, device, now)


def hold_for_ever(entitlement: Entitlement, device: str) -> Entitlement:
    """Note that the device got a perpetual license: its place never comes free."""
    places = tuple(replace(place, perpetual=True) if place.device == device else place for place in entitlement.places)
    return replace(entitlement, places=places)


def release(entitlement: Entitlement, device: str, *, at_once: bool = False) -> Entitlement:
    """Give up the device's place; it cools down before another device can take it, unless an operator says `at_once`.

    The place of a perpetual license goes only at once: the device keeps what it has.

    Raises DeviceInactiveError when the device holds no place.
    """
    if not any(place.device == device for place in entitlement.places):
        raise DeviceInactiveError("this device does not use the purchase")
    places = tuple(
        replace(place, released=True) if place.device == device else place
        for place in entitlement.places
        if not (at_once and place.device == device)
    )
    return replace(entitlement, places=places)


def supersede(old: Entitlement, new: Entitlement) -> tuple[Entitlement, Entitlement]:
    """Let `new` take the place of `old` (an upgrade): the old one is closed for good, its devices move over.

    The devices move with their times, so switching plans back and forth gives no fresh places. `old` may be one that
    nothing is known about yet. Returns (old, new).
    """
    there = {place.device for place in new.places}
    moved = (place for place in old.places if place.device not in there)
    places = sorted((*moved, *new.places), key=lambda place: (place.taken_at, place.device))
    return replace(old, places=(), closed=old.closed or "superseded"), replace(new, places=tuple(places))


def license_end(purchase: Purchase, now: int, lifetime: int | None) -> int | None:
    """When a license for the purchase has to end: after `lifetime` seconds, and never after the paid time."""
    ends = [end for end in (purchase.expires_at, None if lifetime is None else now + lifetime) if end is not None]
    return min(ends, default=None)


def _key(of: Entitlement | Purchase) -> tuple[str, str, str]:
    return of.provider, of.app, of.purchase_id


def _refusal(status: Status) -> PurchaseError:
    refusal, message = _REFUSALS[status]
    return refusal(message)


def _rank(purchase: Purchase) -> tuple[bool, int, int, bool, int, bool, str]:
    """Orders statements about one transaction. Of one time the less favorable counts, but of two ends the later.

    Only the end of a billing grace period, and that a purchase was acknowledged, become known beside a statement.
    """
    severity = ("active", "pending", "superseded", "revoked").index(purchase.status)
    ends = (purchase.expires_at is None, purchase.expires_at or 0)
    # The text makes the order total, so that nothing depends on which statement came first.
    text = repr(purchase) + purchase.reference
    return purchase.final, purchase.as_of_ms, severity, *ends, purchase.acknowledged, text


def _free_at(place: DevicePlace, rules: DeviceRules) -> float:
    if place.perpetual:
        return math.inf
    return (place.taken_at if place.released else place.used_at) + rules.cooldown


def _touch(entitlement: Entitlement, device: str, now: int) -> Entitlement:
    places = tuple(
        replace(place, used_at=max(place.used_at, now), released=False) if place.device == device else place
        for place in entitlement.places
    )
    return entitlement if places == entitlement.places else replace(entitlement, places=places)
