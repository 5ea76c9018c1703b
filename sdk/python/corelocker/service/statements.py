"""What stores have said, taken into what is known of purchases: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corelocker.purchases.entitlements import Entitlement, Purchase, observe, supersede
from corelocker.service.records import PurchaseKey


def replaced_by(statements: Sequence[Purchase]) -> list[PurchaseKey]:
    """The purchases that those in the statements took the place of."""
    return [
        PurchaseKey(purchase.provider, purchase.app, purchase.replaces)
        for purchase in statements
        if purchase.replaces is not None
    ]


def observe_all(
    known: Mapping[PurchaseKey, Entitlement], statements: Sequence[Purchase]
) -> dict[PurchaseKey, Entitlement]:
    """The entitlements after the statements; `known` has to hold every purchase that they name or replace."""
    after = dict(known)
    for purchase in statements:
        key = PurchaseKey.of(purchase)
        after[key] = observe(after[key], purchase)
        for old in replaced_by([purchase]):
            after[old], after[key] = supersede(after[old], after[key])
    return after
