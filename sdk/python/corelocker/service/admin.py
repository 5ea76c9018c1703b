"""What operators do to licenses and purchases: look, revoke, allow again, make room for a device.

Every change is one transaction with a row in the audit log. A revoked license is not renewed, and neither its device
nor a new device key gets another for the purchase; what a device holds already works until it ends, since nobody asks
the service before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from corelocker.errors import ConfigError
from corelocker.licensing.errors import LicenseUnknownError
from corelocker.purchases.entitlements import Entitlement, Provider, release
from corelocker.service.config import ServiceConfig
from corelocker.service.errors import EntitlementUnknownError
from corelocker.service.records import AuditRow, PurchaseKey, StoredEntitlement, StoredLicense
from corelocker.service.storage import Storage


def find_license(storage: Storage, license_id: str) -> StoredLicense:
    """A license. Raises LicenseUnknownError."""
    found = storage.license(license_id)
    if found is None:
        raise LicenseUnknownError(f"there is no license {license_id}")
    return found


def find_entitlement(storage: Storage, key: PurchaseKey) -> StoredEntitlement:
    """What is known of a purchase. Raises EntitlementUnknownError."""
    found = storage.entitlement(key)
    if found is None:
        raise EntitlementUnknownError("nothing is known of this purchase")
    return found


def purchase_key(config: ServiceConfig, provider: Provider, app: str, purchase_id: str) -> PurchaseKey:
    """The name of a purchase, from the app's identifier in the configuration. Raises ConfigError."""
    if app not in config.apps:
        raise ConfigError(f"there is no app {app} in {config.path}")
    return PurchaseKey(provider, config.apps[app].purchase_app(provider), purchase_id)


def revoke_license(
    storage: Storage,
    license_id: str,
    *,
    purchase: bool = True,
    reason: str = "",
    clock: Callable[[], float] = time.time,
) -> int:
    """Revoke a license, with all others of its device for the same purchase; returns how many that were.

    The purchase is closed for its app, whatever its store says: no device gets a license for it any more, so that a new
    device key does not undo the revocation. Without `purchase` only this device key is shut out.
    Raises LicenseUnknownError.
    """
    found = find_license(storage, license_id)
    key, now = found.purchase, clock()
    with storage.transaction() as transaction:
        stored = transaction.entitlements([key])[key]
        stored = replace(stored, blocked=stored.blocked | {found.device})
        if purchase:
            stored = replace(stored, entitlement=replace(stored.entitlement, closed="revoked"))
        transaction.save(stored)
        count = transaction.revoke_licenses(key, found.device, int(now))
        transaction.audit(
            _row(
                "revoke-purchase" if purchase else "revoke-license",
                now,
                key,
                reason,
                found.app,
                found.device,
                found.jti,
            )
        )
    return count


def allow_device(
    storage: Storage, key: PurchaseKey, device: str, *, reason: str = "", clock: Callable[[], float] = time.time
) -> None:
    """Undo a revocation: the device may unlock anew, and the purchase is open again for all its devices.

    Raises EntitlementUnknownError when the device is not shut out.
    """
    with storage.transaction() as transaction:
        stored = transaction.entitlements([key])[key]
        if device not in stored.blocked:
            raise EntitlementUnknownError("the device is not shut out of this purchase")
        known = stored.entitlement
        # What another purchase has replaced stays closed.
        reopened = replace(known, closed=None) if known.closed == "revoked" else known
        transaction.save(replace(stored, entitlement=reopened, blocked=stored.blocked - {device}))
        transaction.audit(_row("allow-device", clock(), key, reason, None, device, None))


def release_device(
    storage: Storage,
    key: PurchaseKey,
    device: str,
    *,
    at_once: bool = False,
    reason: str = "",
    clock: Callable[[], float] = time.time,
) -> Entitlement:
    """Take a device's place of a purchase back, for another device to take after the cool-down, or at once.

    Its licenses are not renewed any more. The place of a perpetual license comes free only at once, since what the device
    holds works for ever. Raises EntitlementUnknownError, DeviceInactiveError.
    """
    with storage.transaction() as transaction:
        stored = transaction.entitlements([key])[key]
        if stored.entitlement == Entitlement(key.provider, key.app, key.purchase_id):
            raise EntitlementUnknownError("nothing is known of this purchase")
        released = release(stored.entitlement, device, at_once=at_once)
        transaction.save(replace(stored, entitlement=released))
        transaction.audit(_row("release-device", clock(), key, reason, None, device, None))
    return released


def _row(
    event: str, now: float, key: PurchaseKey, reason: str, app: str | None, device: str, license_id: str | None
) -> AuditRow:
    return AuditRow(
        event=event,
        outcome="ok",
        at_ms=int(now * 1000),
        detail=reason[:512] or None,
        app=app or key.app,
        device=device,
        license_id=license_id,
        provider=key.provider,
        purchase=key.tag,
    )


def license_document(found: StoredLicense) -> Mapping[str, object]:
    """What `corelocker license show` prints: everything but the purchase's identifier."""
    hidden = {"device_jwk", "purchase_id", "attest_key", "chain_serials"}
    document = {name: value for name, value in vars(found).items() if name not in hidden}
    return document | {"purchase": found.purchase.tag}


def entitlement_document(stored: StoredEntitlement) -> Mapping[str, object]:
    """What `corelocker entitlement show` prints: everything but identifiers and tokens of the store."""
    known = stored.entitlement
    return {
        "provider": known.provider,
        "app": known.app,
        "purchase": PurchaseKey.of(known).tag,
        "closed": known.closed,
        "purchases": [
            {
                "product": purchase.product,
                "status": purchase.status,
                "expires_at": purchase.expires_at,
                "as_of_ms": purchase.as_of_ms,
                "acknowledged": purchase.acknowledged,
            }
            for purchase in known.purchases
        ],
        "places": [vars(place) for place in known.places],
        "blocked": sorted(stored.blocked),
    }
