"""What the database keeps, as values: purchases, licenses, App Attest keys, rows of the audit log."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self

from corelocker.licensing import Environment
from corelocker.licensing.license import License
from corelocker.purchases.entitlements import DevicePlace, Entitlement, Provider, Purchase


@dataclass(frozen=True, order=True)
class PurchaseKey:
    """Names an entitlement; the order is that in which rows are locked."""

    provider: Provider
    app: str
    purchase_id: str = field(repr=False)

    @classmethod
    def of(cls, of: Purchase | Entitlement) -> Self:
        return cls(of.provider, of.app, of.purchase_id)

    @property
    def tag(self) -> str:
        """What stands for the purchase in the audit log: 16 hexadecimal digits."""
        return hashlib.sha256("\0".join((self.provider, self.app, self.purchase_id)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoredEntitlement:
    """An entitlement and what the service keeps beside it; version 0 is not stored yet."""

    entitlement: Entitlement
    blocked: frozenset[str] = frozenset()
    version: int = 0


@dataclass(frozen=True)
class StoredLicense:
    """A row of `licenses`."""

    jti: str
    app: str
    bundle: str
    model_version: int
    tier: str
    device: str
    device_jwk: str
    provider: Provider
    purchase_app: str
    purchase_id: str = field(repr=False)
    format: str
    issued_at: int
    expires_at: int | None
    attest_key: bytes | None = None
    chain_serials: str | None = None
    revoked_at: int | None = None
    replaced_by: str | None = None

    @property
    def purchase(self) -> PurchaseKey:
        """The purchase that it was issued for."""
        return PurchaseKey(self.provider, self.purchase_app, self.purchase_id)

    def as_license(self, issuer: str, environment: Environment) -> License:
        """The claims of the license; what is wrapped in it is not kept."""
        return License(
            issuer=issuer,
            issued_at=self.issued_at,
            not_before=self.issued_at,
            expires_at=self.expires_at,
            license_id=self.jti,
            app=self.app,
            environment=environment,
            bundle=self.bundle,
            model_version=self.model_version,
            tier=self.tier,
            device=self.device,
            wrapped_key=b"",
            info=b"",
        )


@dataclass(frozen=True)
class AttestKey:
    """An App Attest key and the counter of its last assertion."""

    key_id: bytes
    app: str
    public_key: bytes
    counter: int


@dataclass(frozen=True)
class AuditRow:
    """One decision; what it is not about stays None."""

    event: str
    outcome: str
    at_ms: int
    detail: str | None = None
    app: str | None = None
    bundle: str | None = None
    tier: str | None = None
    device: str | None = None
    license_id: str | None = None
    provider: str | None = None
    purchase: str | None = None
    request_id: str | None = None


def entitlement_json(entitlement: Entitlement) -> str:
    """The JSON document of an entitlement; its three names are in it, so that it stands alone."""
    values: dict[str, Any] = {
        **vars(entitlement),
        "purchases": [vars(purchase) for purchase in entitlement.purchases],
        "places": [vars(place) for place in entitlement.places],
    }
    return json.dumps(values, separators=(",", ":"))


def entitlement_of_json(document: str) -> Entitlement:
    """The inverse of `entitlement_json`."""
    values = json.loads(document)
    values["purchases"] = tuple(Purchase(**purchase) for purchase in values["purchases"])
    values["places"] = tuple(DevicePlace(**place) for place in values["places"])
    return Entitlement(**values)
