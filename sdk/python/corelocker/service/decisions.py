"""Decisions: whether a device gets a license, first and again.

An unlock is decided in two steps. First the proof of the device and the purchase's signature are verified, and a store
that has to be asked is asked: that needs no lock and may take long. Then one transaction consumes the challenge, takes
in what the store says, gives the device its place, and keeps the license and the audit row; it either happens as a
whole or not at all. Only then does the license leave. A device that never gets the answer asks again with a new
challenge and gets the place that it holds; one whose key is new each time proves the key that holds it, and the place
moves to the new one.

A renewal gives what the purchase is worth now: a license for a lower tier when that is all that is left of it, and one
that ends earlier when the purchase does.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.errors import (
    AppUnknownError,
    BundleRetiredError,
    BundleUnknownError,
    ChallengeUsedError,
    LicenseRevokedError,
    LicenseUnknownError,
    LicensingError,
    PurchaseError,
    PurchaseFormatError,
    RateLimitedError,
    TierUnknownError,
)
from corelocker.licensing.license import check_renewal, issue_license
from corelocker.purchases.entitlements import (
    Catalog,
    Entitlement,
    Purchase,
    activate,
    entitled,
    forget_expired,
    hold_for_ever,
    license_end,
    move,
    renew,
)
from corelocker.service.audit import RefusalLog, refusal
from corelocker.service.challenges import Challenges
from corelocker.service.config import ServiceConfig
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.keys import BundleInfo, KeyProvider
from corelocker.service.limits import RateLimiter
from corelocker.service.messages import Issued, RenewRequest, UnlockRequest
from corelocker.service.proofs import Proof, ProofVerifier
from corelocker.service.records import AuditRow, PurchaseKey, StoredLicense
from corelocker.service.statements import observe_all, replaced_by
from corelocker.service.storage import Storage, Transaction
from corelocker.service.verifiers import AppVerifiers

_LICENSE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PERPETUAL = "a perpetual license: the device counts against the purchase's device limit for ever"


@dataclass(frozen=True)
class VerifiedRequest:
    """A request whose proof and purchase hold, and everything that the transaction decides it by.

    Attributes:
        challenge, challenge_end: to be consumed.
        app, bundle, tier: what is to be unlocked; at a renewal `tier` is that of the license.
        device_key, device_jwk, device: the key, its JWK, its thumbprint.
        former: thumbprint of the device's former key, whose place `device` takes over; None when there is none.
        proof: what the proof leaves to be stored.
        purchase: what it is unlocked with.
        statements: what stores say about it now.
        renewed: the license that is to be renewed, None at an unlock.
        now: Unix seconds.
    """

    challenge: str
    challenge_end: int
    app: AppVerifiers
    bundle: BundleInfo
    tier: str
    device_key: ec.EllipticCurvePublicKey
    device_jwk: str
    device: str
    former: str | None
    proof: Proof
    purchase: PurchaseKey
    statements: tuple[Purchase, ...]
    renewed: StoredLicense | None
    now: int


@dataclass(frozen=True)
class _Grant:
    """What the device is entitled to: the tier, the purchase that gives it, and the entitlement with its place.

    `moved_from` is the former device key that the place belonged to until now.
    """

    tier: str
    purchase: Purchase
    entitlement: Entitlement
    moved_from: str | None = None


class Decisions:
    """Decides unlocks and renewals; may be used by several threads, and by several processes on one database."""

    def __init__(
        self,
        config: ServiceConfig,
        storage: Storage,
        keys: KeyProvider,
        apps: Mapping[str, AppVerifiers],
        catalog: Catalog,
        challenges: Challenges,
        proofs: ProofVerifier,
        refusals: RefusalLog,
        limiter: RateLimiter,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._storage = storage
        self._keys = keys
        self._apps = apps
        self._catalog = catalog
        self._challenges = challenges
        self._proofs = proofs
        self._refusals = refusals
        self._limiter = limiter
        self._clock = clock

    def unlock(self, request: UnlockRequest) -> Issued:
        """The license that a device's proof and purchase entitle to.

        Raises LicensingError: those of `licensing.errors`, of the purchase verifiers and of `entitlements`.
        """
        now_ms = int(self._clock() * 1000)
        row = AuditRow(
            event="unlock",
            outcome="ok",
            at_ms=now_ms,
            app=request.app,
            bundle=request.bundle,
            tier=request.tier,
            device=request.device,
            provider=request.purchase.provider,
        )
        with self._refusals.keeping(row):
            verified = self._verify_unlock(request, now_ms)
        return self._decide(verified, replace(row, purchase=verified.purchase.tag))

    def renew(self, license_id: str, request: RenewRequest) -> Issued:
        """The next license for one that was issued, to the same device key for the same purchase.

        Raises LicensingError: LicenseUnknownError, LicenseRevokedError, LicenseExpiredError, and those of `unlock`.
        """
        now_ms = int(self._clock() * 1000)
        if not _LICENSE_ID.fullmatch(license_id):
            raise LicenseUnknownError("there is no such license")
        known = self._storage.license(license_id)
        row = AuditRow(event="renew", outcome="ok", at_ms=now_ms, license_id=license_id)
        if known is not None:
            row = replace(
                row,
                app=known.app,
                bundle=known.bundle,
                tier=known.tier,
                device=known.device,
                provider=known.provider,
                purchase=known.purchase.tag,
            )
        with self._refusals.keeping(row):
            verified = self._verify_renewal(known, request, now_ms)
        return self._decide(verified, row)

    # --- before the transaction

    def _verify_unlock(self, request: UnlockRequest, now_ms: int) -> VerifiedRequest:
        now = now_ms // 1000
        challenge_end = self._challenges.end_of(request.challenge, now)
        app = self._app(request.app)
        bundle = self._bundle(request.bundle, request.tier)
        attested = AttestedRequest(
            request.challenge,
            request.app,
            request.bundle,
            request.tier,
            request.device_key,
            request.purchase.token,
            request.device,
        )
        proof = self._proofs.of_unlock(app, request, attested, now)
        purchase = app.verify_purchase(request.purchase, now_ms)
        if not purchase.purchase_id.isprintable() or len(purchase.purchase_id) > 512:
            raise PurchaseFormatError("the purchase has an identifier that cannot be stored")
        if request.replaces is not None:
            self._proofs.check_former_key(request.replaces, attested)
        key = PurchaseKey.of(purchase)
        self._limit(key)
        return VerifiedRequest(
            challenge=request.challenge,
            challenge_end=challenge_end,
            app=app,
            bundle=bundle,
            tier=request.tier,
            device_key=request.device_key,
            device_jwk=request.device_jwk,
            device=request.device,
            former=None if request.replaces is None else request.replaces.device,
            proof=proof,
            purchase=key,
            statements=(purchase,),
            renewed=None,
            now=now,
        )

    def _verify_renewal(self, known: StoredLicense | None, request: RenewRequest, now_ms: int) -> VerifiedRequest:
        now = now_ms // 1000
        challenge_end = self._challenges.end_of(request.challenge, now)
        if known is None:
            raise LicenseUnknownError("there is no such license")
        app = self._app(known.app)
        bundle = self._bundle(known.bundle, known.tier)
        device_key = jose.key_of_jwk(json.loads(known.device_jwk))
        attested = AttestedRequest(
            request.challenge, known.app, known.bundle, known.tier, device_key, renewal_token(known.jti), known.device
        )
        proof = self._proofs.of_renewal(app, known, request, attested, now)
        self._limit(known.purchase)
        return VerifiedRequest(
            challenge=request.challenge,
            challenge_end=challenge_end,
            app=app,
            bundle=bundle,
            tier=known.tier,
            device_key=device_key,
            device_jwk=known.device_jwk,
            device=known.device,
            former=None,
            proof=proof,
            purchase=known.purchase,
            statements=self._ask_store(app, known, now_ms),
            renewed=known,
            now=now,
        )

    def _limit(self, purchase: PurchaseKey) -> None:
        wait = self._limiter.wait(purchase.tag)
        if wait > 0:
            raise RateLimitedError("too many unlocks and renewals of this purchase", retry_after=wait)

    def _app(self, name: str) -> AppVerifiers:
        app = self._apps.get(name)
        if app is None:
            raise AppUnknownError("this service does not know the app")
        return app

    def _bundle(self, name: str, tier: str) -> BundleInfo:
        bundle = self._keys.bundles.get(name)
        if bundle is None:
            raise BundleUnknownError("this service does not know the key bundle")
        if tier not in bundle.tiers[1:]:
            raise TierUnknownError("the key bundle has no such tier that a license could open")
        if bundle.model_version < self._config.minimum_versions.get(bundle.model, 0):
            raise BundleRetiredError("this version of the model was withdrawn", hint="Update the app")
        return bundle

    def _ask_store(self, app: AppVerifiers, known: StoredLicense, now_ms: int) -> tuple[Purchase, ...]:
        """What the store says now about the purchase of a license; nothing where it cannot be asked."""
        if known.provider == "grant":
            return ()
        stored = self._storage.entitlement(known.purchase)
        if stored is None or stored.entitlement.closed is not None:
            return ()
        fitting = self._unlocking(stored.entitlement, known.bundle, known.tier)
        if not fitting:
            # What is left of it may be a lower tier.
            fitting = self._unlocking(stored.entitlement, known.bundle, self._keys.bundles[known.bundle].tiers[1])
        if not fitting:
            return ()
        # Of a subscription the latest period: the store answers with the present one.
        latest = max(fitting, key=lambda purchase: (purchase.expires_at is None, purchase.expires_at or 0))
        if known.provider == "google-play" and app.google_play is not None:
            return (app.google_play.refresh(latest, now_ms=now_ms),)
        if known.provider == "app-store" and app.app_store_api is not None:
            return (app.app_store_api.refresh(latest, now_ms=now_ms),)
        return ()

    def _unlocking(self, entitlement: Entitlement, bundle: str, tier: str) -> list[Purchase]:
        return [
            purchase
            for purchase in entitlement.purchases
            if not purchase.final and self._catalog.unlocks(purchase.app, purchase.product, bundle, tier)
        ]

    # --- the transaction

    def _decide(self, verified: VerifiedRequest, row: AuditRow) -> Issued:
        """Decide and keep the decision. A refusal is kept too, with what the store has said."""
        with self._storage.transaction() as transaction:
            outcome, notes = self._outcome(transaction, verified)
            if isinstance(outcome, LicensingError):
                transaction.audit(refusal(row, outcome))
            else:
                transaction.audit(replace(row, license_id=outcome.license_id, detail="; ".join(notes) or None))
        if isinstance(outcome, LicensingError):
            raise outcome
        return outcome

    def _outcome(
        self, transaction: Transaction, verified: VerifiedRequest
    ) -> tuple[Issued | LicensingError, Sequence[str]]:
        """The license or the refusal, and what the audit log notes about a license."""
        if not transaction.consume(verified.challenge, verified.challenge_end):
            return ChallengeUsedError("the challenge was used already", hint="Fetch another"), ()
        before = transaction.entitlements([verified.purchase, *replaced_by(verified.statements)])
        after = observe_all({key: stored.entitlement for key, stored in before.items()}, verified.statements)
        outcome: Issued | LicensingError
        notes = []
        try:
            if before[verified.purchase].blocked & {verified.device, verified.former}:
                raise LicenseRevokedError("the license of this device was revoked")
            grant = self._grant(verified, after[verified.purchase])
            outcome = self._issue(transaction, verified, grant)
            after[verified.purchase] = grant.entitlement
            if grant.moved_from is not None:
                transaction.revoke_licenses(verified.purchase, grant.moved_from, verified.now)
                notes.append(f"the place of device key {grant.moved_from} moved to this one")
            if outcome.expires_at is None:
                after[verified.purchase] = hold_for_ever(grant.entitlement, verified.device)
                notes.append(_PERPETUAL)
        except LicensingError as error:
            outcome = error
        for key, stored in before.items():
            if after[key] != stored.entitlement:
                transaction.save(replace(stored, entitlement=after[key]))
        return outcome, notes

    def _grant(self, verified: VerifiedRequest, entitlement: Entitlement) -> _Grant:
        """What the entitlement gives the device now. Raises PurchaseError or LicenseError."""
        device, now = verified.device, verified.now
        if verified.renewed is None:
            purchase = self._entitled(verified, entitlement, verified.tier)
            moved = entitlement if verified.former is None else move(entitlement, verified.former, device)
            placed = activate(moved, device, now, self._config.licenses.rules)
            moved_from = None if moved is entitlement else verified.former
            return _Grant(verified.tier, purchase, forget_expired(placed, now), moved_from)
        check_renewal(
            verified.renewed.as_license(self._config.issuer, self._config.environment),
            device=device,
            app=verified.app.config.id,
            environment=self._config.environment,
            revoked=verified.renewed.revoked_at is not None,
            now=now,
            window=self._config.licenses.renewal_window,
        )
        tier, purchase = self._tier_left(verified, entitlement)
        return _Grant(tier, purchase, forget_expired(renew(entitlement, device, now), now))

    def _entitled(self, verified: VerifiedRequest, entitlement: Entitlement, tier: str) -> Purchase:
        return entitled(entitlement, verified.purchase.app, verified.bundle.bundle, tier, verified.now, self._catalog)

    def _tier_left(self, verified: VerifiedRequest, entitlement: Entitlement) -> tuple[str, Purchase]:
        """The highest tier, up to the license's, that the purchase still unlocks. Raises why it does not unlock that."""
        tiers = verified.bundle.tiers
        refused: PurchaseError | None = None
        for tier in reversed(tiers[1 : tiers.index(verified.tier) + 1]):
            try:
                return tier, self._entitled(verified, entitlement, tier)
            except PurchaseError as error:
                refused = refused or error
        raise refused or TierUnknownError("the key bundle has no such tier that a license could open")

    def _issue(self, transaction: Transaction, verified: VerifiedRequest, grant: _Grant) -> Issued:
        """Store the proof and make the license. Raises AttestationRefusedError, LicenseRevokedError."""
        proof, now, renewed = verified.proof, verified.now, verified.renewed
        if proof.new_key is not None:
            transaction.add_attest_key(proof.new_key, now)
        if proof.counter is not None and not transaction.raise_counter(proof.attest_key or b"", proof.counter):
            # Another request with this key came first, since the counter was read.
            raise AttestationRefusedError(Reason.COUNTER, "the counter was used by another request")
        license_id = str(uuid.uuid4())
        if renewed is not None and not transaction.replace_license(renewed.jti, license_id):
            raise LicenseRevokedError("the license was revoked")
        expires_at = license_end(grant.purchase, now, self._config.licenses.lifetime)
        token = issue_license(
            self._keys.signer,
            verified.device_key,
            self._keys.content_key(verified.bundle.bundle, grant.tier),
            issuer=self._config.issuer,
            app=verified.app.config.id,
            environment=self._config.environment,
            bundle=verified.bundle.bundle,
            model_version=verified.bundle.model_version,
            tier=grant.tier,
            issued_at=now,
            expires_at=expires_at,
            license_id=license_id,
            device=verified.device,
        )
        transaction.add_license(
            StoredLicense(
                jti=license_id,
                app=verified.app.config.id,
                bundle=verified.bundle.bundle,
                model_version=verified.bundle.model_version,
                tier=grant.tier,
                device=verified.device,
                device_jwk=verified.device_jwk,
                provider=verified.purchase.provider,
                purchase_app=verified.purchase.app,
                purchase_id=verified.purchase.purchase_id,
                format=str(proof.format),
                issued_at=now,
                expires_at=expires_at,
                attest_key=proof.attest_key,
                chain_serials=proof.chain_serials if renewed is None else renewed.chain_serials,
            )
        )
        renew_at = None if expires_at is None else now + (expires_at - now) * 2 // 3
        return Issued(token, license_id, expires_at, renew_at)
