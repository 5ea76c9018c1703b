"""What the service decides, without HTTP: challenges, first unlocks, renewals, the stores' notices.

An unlock is checked in three parts. The proof of the device and the purchase's signature are verified first, and a
store that has to be asked is asked: that needs no lock and may take long. Then one transaction (`storage`) consumes the
challenge, takes in what the store says, gives the device its place, and keeps the license and the audit row; it either
happens as a whole or not at all. Only then does the license leave. A device that never gets the answer asks again with
a new challenge and gets the place that it holds.

Requests that wait for the database at the same time can share a transaction (`UnlockService.decide`), and with it the
cost of a commit. Each is decided by itself all the same: one that fails is not in the way of the others.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.attestation.android_key import AndroidKeyPolicy, verify_android_key
from corelocker.attestation.apple_app_attest import (
    AppAttestPolicy,
    verify_app_assertion,
    verify_app_attestation,
)
from corelocker.attestation.chain import parse_chain
from corelocker.attestation.development import verify_development
from corelocker.attestation.device_key import proof_secret, seal_secret, verify_device_key
from corelocker.attestation.revocation import check_revocation
from corelocker.attestation.verdict import Reason, Refusal, Verdict
from corelocker.bundle import jose
from corelocker.bundle.strict_json import parse_object
from corelocker.errors import ConfigError
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.errors import (
    LicenseRevokedError,
    LicensingError,
    PurchaseFormatError,
    PurchaseNotFoundError,
)
from corelocker.licensing.evidence import (
    AndroidKeyEvidence,
    AppAssertEvidence,
    AppAttestEvidence,
    DevelopmentEvidence,
    DeviceKeyEvidence,
    Format,
)
from corelocker.licensing.license import License, check_renewal, issue_license
from corelocker.purchases.entitlements import (
    Entitlement,
    Purchase,
    activate,
    entitled,
    forget_expired,
    license_end,
    observe,
    renew,
    supersede,
)
from corelocker.purchases.google_play import GooglePlay
from corelocker.purchases.grant import verify_grant
from corelocker.service.config import ServiceConfig
from corelocker.service.errors import (
    AppUnknownError,
    AttestationRefusedError,
    BundleRetiredError,
    BundleUnknownError,
    ChallengeError,
    ChallengeExpiredError,
    ChallengeUsedError,
    FormatNotAllowedError,
    LicenseUnknownError,
    NotReadyError,
    ProviderNotAllowedError,
    RequestError,
    StorageError,
    TierUnknownError,
)
from corelocker.service.keys import BundleInfo, KeyProvider
from corelocker.service.messages import (
    Challenge,
    ChallengeRequest,
    Issued,
    RenewRequest,
    ShownPurchase,
    UnlockRequest,
)
from corelocker.service.storage import (
    AttestKey,
    AuditRow,
    PurchaseKey,
    Storage,
    StoredLicense,
    Transaction,
)
from corelocker.service.verifiers import AppVerifiers, RevocationSource, build_verifiers

_ClaimsT = TypeVar("_ClaimsT")

CHALLENGE_SIZE = 54

_CHALLENGE_DOMAIN = b"corelocker challenge v1\0"
_LICENSE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VOIDED_INTERVAL_MS = 3600 * 1000
# Google lists the last 30 days.
_VOIDED_HORIZON_MS = 29 * 86400 * 1000
_PATIENCE = 1.0  # seconds


@dataclass(frozen=True)
class _Proof:
    """What an accepted attestation leaves to be stored.

    Attributes:
        format: what the license remembers, and by it what renews the license.
        new_key: an App Attest key that was attested now.
        counter: of an App Attest assertion, by the key `attest_key`.
        attest_key: identifier of the App Attest key.
        chain_serials: of the Android chain, JSON list of hexadecimal numbers.
    """

    format: str
    new_key: AttestKey | None = None
    counter: int | None = None
    attest_key: bytes | None = None
    chain_serials: str | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """A request whose proof and purchase hold, and everything that the transaction decides it by.

    `renewed` is the license that is to be renewed, `durable` whether the decision has to be on the disk before the
    answer leaves, as far as that is known beforehand.
    """

    challenge: str
    challenge_end: int
    app: AppVerifiers
    bundle: BundleInfo
    tier: str
    device_key: ec.EllipticCurvePublicKey
    device_jwk: str
    device: str
    proof: _Proof
    purchase: PurchaseKey
    statements: tuple[Purchase, ...]
    renewed: StoredLicense | None
    now: int
    note: AuditRow
    durable: bool


class _MustLast(Exception):  # noqa: N818 - a change of plan, not an error
    """The decision changes more than a lost commit may undo; it has to be made again in a durable transaction."""


class UnlockService:
    """Decides; may be used by several threads, and by several processes on one database.

    Args:
        config: what the operator wants.
        storage: an open database of the present version.
        keys: the service's signing key and the content keys.
        clock: gives the time, Unix seconds.
        verifiers: by app, in place of those that the configuration describes.

    Raises ConfigError for a configuration that makes no sense, or a database that belongs to another environment.
    """

    def __init__(
        self,
        config: ServiceConfig,
        storage: Storage,
        keys: KeyProvider,
        *,
        clock: Callable[[], float] = time.time,
        verifiers: Mapping[str, AppVerifiers] | None = None,
    ) -> None:
        self._config = config
        self._storage = storage
        self._keys = keys
        self._clock = clock
        self._apps = verifiers or {name: build_verifiers(config, app) for name, app in config.apps.items()}
        self._catalog = config.catalog({name: bundle.tiers for name, bundle in keys.bundles.items()})
        self._products = {product for _, product in self._catalog.products}
        self._revocation = RevocationSource(config.attestation)
        self._secret = storage.secret()
        self._voided_at: dict[str, float] = {}
        storage.new_setting("environment", config.environment)
        if storage.setting("environment") != config.environment:
            raise ConfigError(
                f"the database belongs to another environment than {config.environment}",
                hint="Give each environment a database of its own",
            )

    # --- challenges

    def challenge(self, request: ChallengeRequest) -> Challenge:
        """A nonce that one unlock or renewal can use. The service keeps nothing until it is used."""
        expires_at = int(self._clock()) + self._config.attestation.challenge_lifetime
        head = expires_at.to_bytes(8) + secrets.token_bytes(16)
        challenge = jose.encode_base64url(head + self._challenge_tag(head))
        if request.device_key is None:
            return Challenge(challenge, expires_at)
        secret = proof_secret(self._secret, challenge, jose.thumbprint(request.device_key))
        return Challenge(challenge, expires_at, jose.encode_base64url(seal_secret(secret, request.device_key)))

    def _challenge_tag(self, head: bytes) -> bytes:
        return hmac.digest(self._secret, _CHALLENGE_DOMAIN + head, "sha256")[:16]

    def _challenge_end(self, challenge: str, now: int) -> int:
        """When the challenge ends. Raises ChallengeError when it is not ours, ChallengeExpiredError."""
        try:
            data = jose.decode_base64url(challenge) if len(challenge) == CHALLENGE_SIZE else b""
        except ValueError:
            data = b""
        if len(data) != 40 or not hmac.compare_digest(self._challenge_tag(data[:24]), data[24:]):
            raise ChallengeError("the challenge is not of this service")
        expires_at = int.from_bytes(data[:8])
        if now >= expires_at:
            raise ChallengeExpiredError("the challenge has expired", hint="Fetch another")
        return expires_at

    # --- unlocking and renewing

    def unlock(self, request: UnlockRequest) -> Issued:
        """The license that a device's proof and purchase entitle to.

        Raises LicensingError: those of `errors`, of the purchase verifiers and of `entitlements`.
        """
        return self._decided(self.check_unlock(request))

    def renew(self, license_id: str, request: RenewRequest) -> Issued:
        """The next license for one that was issued, to the same device key for the same purchase.

        Raises LicensingError: LicenseUnknownError, LicenseRevokedError, LicenseExpiredError, and those of `unlock`.
        """
        return self._decided(self.check_renewal(license_id, request))

    def check_unlock(self, request: UnlockRequest) -> Case:
        """The first half of `unlock`: all that needs no transaction. Raises LicensingError, which the audit log keeps."""
        now_ms = self._now_ms()
        note = AuditRow(
            event="unlock",
            outcome="ok",
            at_ms=now_ms,
            app=request.app,
            bundle=request.bundle,
            tier=request.tier,
            device=request.device,
            provider=request.purchase.provider,
        )
        with self._audited(note):
            return self._unlock_case(request, note, now_ms)

    def check_renewal(self, license_id: str, request: RenewRequest) -> Case:
        """The first half of `renew`, as `check_unlock` is of `unlock`."""
        now_ms = self._now_ms()
        if not _LICENSE_ID.fullmatch(license_id):
            raise LicenseUnknownError("there is no such license")
        known = self._storage.license(license_id)
        note = AuditRow(event="renew", outcome="ok", at_ms=now_ms, license_id=license_id)
        if known is not None:
            note = replace(
                note,
                app=known.app,
                bundle=known.bundle,
                tier=known.tier,
                device=known.device,
                provider=known.provider,
                purchase=known.purchase.tag,
            )
        with self._audited(note):
            return self._renew_case(known, request, note, now_ms)

    def decide(self, cases: Sequence[Case]) -> list[Issued | Exception]:
        """The second half of `unlock` and `renew`, for several requests in one transaction.

        Returns for each case its license, or what `unlock` would raise. When the transaction fails, each case is
        decided in one of its own, so that what is wrong with one stays with that one; but not when the database has
        kept them waiting, as it would each of them.
        """
        started = time.monotonic()
        try:
            try:
                return [*self._decide(cases, durable=any(case.durable for case in cases))]
            except _MustLast:
                return [*self._decide(cases, durable=True)]
        except Exception as error:
            if len(cases) == 1 or (isinstance(error, StorageError) and time.monotonic() - started > _PATIENCE):
                return [error for _ in cases]
            return [outcome for case in cases for outcome in self.decide([case])]

    def _decided(self, case: Case) -> Issued:
        (outcome,) = self.decide([case])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _holds_place(self, purchase: PurchaseKey, device: str) -> bool:
        """Whether the device most likely has its place already; looking costs less than deciding twice."""
        stored = self._storage.entitlement(purchase)
        return stored is not None and any(place.device == device for place in stored.entitlement.places)

    def _unlock_case(self, request: UnlockRequest, note: AuditRow, now_ms: int) -> Case:
        now = now_ms // 1000
        challenge_end = self._challenge_end(request.challenge, now)
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
        proof = self._prove_unlock(app, request, attested, now)
        purchase = _verify_purchase(app, request.purchase, now_ms)
        if not purchase.purchase_id.isprintable() or len(purchase.purchase_id) > 512:
            raise PurchaseFormatError("the purchase has an identifier that cannot be stored")
        key = PurchaseKey.of(purchase)
        return Case(
            challenge=request.challenge,
            challenge_end=challenge_end,
            app=app,
            bundle=bundle,
            tier=request.tier,
            device_key=request.device_key,
            device_jwk=request.device_jwk,
            device=request.device,
            proof=proof,
            purchase=key,
            statements=(purchase,),
            renewed=None,
            now=now,
            note=_noted(note, purchase=key.tag),
            durable=self._takes_place(request, proof, key),
        )

    def _takes_place(self, request: UnlockRequest, proof: _Proof, purchase: PurchaseKey) -> bool:
        """Whether the device is likely to be new to the purchase. A wrong answer costs time and nothing else."""
        if proof.new_key is not None or isinstance(request.evidence, AndroidKeyEvidence):
            return True
        # An app instance asserts once it was attested, and that gave it its place.
        return proof.counter is None and not self._holds_place(purchase, request.device)

    def _renew_case(self, known: StoredLicense | None, request: RenewRequest, note: AuditRow, now_ms: int) -> Case:
        now = now_ms // 1000
        challenge_end = self._challenge_end(request.challenge, now)
        if known is None:
            raise LicenseUnknownError("there is no such license")
        app = self._app(known.app)
        bundle = self._bundle(known.bundle, known.tier)
        device_key = jose.key_of_jwk(json.loads(known.device_jwk))
        attested = AttestedRequest(
            request.challenge, known.app, known.bundle, known.tier, device_key, renewal_token(known.jti), known.device
        )
        proof = self._prove_renewal(app, known, request, attested, now)
        return Case(
            challenge=request.challenge,
            challenge_end=challenge_end,
            app=app,
            bundle=bundle,
            tier=known.tier,
            device_key=device_key,
            device_jwk=known.device_jwk,
            device=known.device,
            proof=proof,
            purchase=known.purchase,
            statements=self._ask_store(app, known, now_ms),
            renewed=known,
            now=now,
            note=note,
            durable=False,
        )

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

    # --- proofs

    def _prove_unlock(self, app: AppVerifiers, request: UnlockRequest, attested: AttestedRequest, now: int) -> _Proof:
        evidence = request.evidence
        match evidence:
            case AndroidKeyEvidence() if app.android is not None:
                digest = attested.digest(Format.ANDROID_KEY)
                verdict: Verdict[Any] = verify_android_key(
                    evidence,
                    challenge=digest,
                    device_key=request.device_key,
                    policy=app.android,
                    anchors=app.android_roots,
                    revocation=self._revocation.current(now),
                    now=_moment(now),
                )
                _accepted(verdict)
                if app.play_integrity is not None:
                    # Last: only a genuine key may cost a query, of which Google allows so many a day.
                    verdict = app.play_integrity.verify(
                        evidence.integrity_token, request_digest=digest, now=_moment(now)
                    )
                    _accepted(verdict)
                serials = [f"{certificate.serial:x}" for certificate in parse_chain(evidence.chain)]
                return _Proof(Format.ANDROID_KEY, chain_serials=json.dumps(serials))
            case AppAttestEvidence() if app.apple is not None:
                attestation = _accepted(
                    verify_app_attestation(
                        evidence,
                        client_data_hash=attested.digest(Format.APPLE_APP_ATTEST),
                        policy=app.apple,
                        anchors=app.apple_roots,
                        now=_moment(now),
                    )
                )
                key = AttestKey(attestation.key_id, app.config.id, attestation.public_key, 0)
                return _Proof(Format.APPLE_APP_ATTEST, new_key=key, attest_key=key.key_id)
            case AppAssertEvidence() if app.apple is not None:
                return self._prove_assertion(app, app.apple, evidence, attested)
            case DevelopmentEvidence() if app.development_roots.keys:
                return self._prove_development(app, evidence, attested, now)
        raise FormatNotAllowedError("the app does not take attestations of this format")

    def _prove_renewal(
        self, app: AppVerifiers, known: StoredLicense, request: RenewRequest, attested: AttestedRequest, now: int
    ) -> _Proof:
        """A proof of the device key that the license was issued to, of the kind that its format can give again."""
        evidence = request.evidence
        if known.format not in app.config.formats:
            raise FormatNotAllowedError("the app does not take attestations of this format any more")
        match known.format, evidence:
            case (Format.ANDROID_KEY, DeviceKeyEvidence()) | (Format.DEVELOPMENT, DeviceKeyEvidence()):
                if known.format == Format.ANDROID_KEY and app.android is not None:
                    self._refuse_revoked_chain(known, app.android, now)
                _accepted(
                    verify_device_key(
                        evidence,
                        request_digest=attested.digest(Format.DEVICE_KEY),
                        device_key=attested.device_key,
                        secret=proof_secret(self._secret, request.challenge, known.device),
                    )
                )
                return _Proof(known.format)
            case Format.APPLE_APP_ATTEST, AppAssertEvidence() if app.apple is not None:
                if evidence.key_id != known.attest_key:
                    raise AttestationRefusedError(Reason.KEY_ID, "another App Attest key than at the first unlock")
                return self._prove_assertion(app, app.apple, evidence, attested)
            case Format.DEVELOPMENT, DevelopmentEvidence():
                return self._prove_development(app, evidence, attested, now)
        raise FormatNotAllowedError("a license of this device is not renewed with this format")

    def _prove_assertion(
        self, app: AppVerifiers, policy: AppAttestPolicy, evidence: AppAssertEvidence, attested: AttestedRequest
    ) -> _Proof:
        key = self._storage.attest_key(evidence.key_id)
        if key is None or key.app != app.config.id:
            raise AttestationRefusedError(Reason.KEY_ID, "this App Attest key was not attested for this app")
        claims = _accepted(
            verify_app_assertion(
                evidence,
                client_data_hash=attested.digest(Format.APPLE_APP_ATTEST),
                public_key=key.public_key,
                last_counter=key.counter,
                policy=policy,
            )
        )
        return _Proof(Format.APPLE_APP_ATTEST, counter=claims.counter, attest_key=key.key_id)

    def _prove_development(
        self, app: AppVerifiers, evidence: DevelopmentEvidence, attested: AttestedRequest, now: int
    ) -> _Proof:
        _accepted(
            verify_development(
                evidence,
                request_digest=attested.digest(Format.DEVELOPMENT),
                environment=self._config.environment,
                anchors=app.development_roots,
                now=_moment(now),
            )
        )
        return _Proof(Format.DEVELOPMENT)

    def _refuse_revoked_chain(self, known: StoredLicense, policy: AndroidKeyPolicy, now: int) -> None:
        """The chain was not revoked when the key was attested; it may have been since."""
        revocation = self._revocation.current(now)
        try:
            check_revocation((), revocation, _moment(now), policy.max_revocation_age)
        except Refusal as refusal:
            raise AttestationRefusedError(refusal.reason, refusal.detail) from None
        serials = {int(serial, 16) for serial in json.loads(known.chain_serials or "[]")}
        if revocation is not None and serials & revocation.serials:
            raise AttestationRefusedError(Reason.CERTIFICATE_REVOKED, "the chain was revoked after the first unlock")

    # --- purchases

    def _ask_store(self, app: AppVerifiers, known: StoredLicense, now_ms: int) -> tuple[Purchase, ...]:
        """What the store says now about the purchase of a license; nothing where it cannot be asked."""
        if known.provider == "grant":
            return ()
        stored = self._storage.entitlement(known.purchase)
        if stored is None or stored.entitlement.closed is not None:
            return ()
        fitting = [
            purchase
            for purchase in stored.entitlement.purchases
            if not purchase.final and self._catalog.unlocks(purchase.app, purchase.product, known.bundle, known.tier)
        ]
        if not fitting:
            return ()
        # Of a subscription the latest period: the store answers with the present one.
        latest = max(fitting, key=lambda purchase: (purchase.expires_at is None, purchase.expires_at or 0))
        if known.provider == "google-play" and app.google_play is not None:
            return (app.google_play.refresh(latest, now_ms=now_ms),)
        if known.provider == "app-store" and app.app_store_api is not None:
            return (app.app_store_api.refresh(latest, now_ms=now_ms),)
        return ()

    # --- the transaction

    def _decide(self, cases: Sequence[Case], *, durable: bool) -> list[Issued | LicensingError]:
        """Make the decisions and keep them. A refusal is returned, since what led to it is to be kept too.

        Several transactions that decide several cases each must not wait for each other in a circle. So all take their
        locks in one order: challenges, purchases, App Attest keys; each kind by its own order.
        """
        outcomes: dict[Case, Issued | LicensingError] = {}
        with self._storage.transaction(durable=durable) as transaction:
            fresh: list[Case] = []
            for case in sorted(cases, key=_by_challenge):
                if transaction.consume(case.challenge, case.challenge_end):
                    fresh.append(case)
                else:
                    outcomes[case] = ChallengeUsedError("the challenge was used already", hint="Fetch another")
            before = transaction.entitlements(
                key for case in fresh for key in (case.purchase, *_replaced(case.statements))
            )
            known = {key: stored.entitlement for key, stored in before.items()}
            for case in sorted(fresh, key=_by_attest_key):
                blocked = before[case.purchase].blocked
                outcomes[case] = self._decide_case(transaction, case, blocked, known, durable=durable)
            for key, stored in before.items():
                if known[key] != stored.entitlement:
                    transaction.save(replace(stored, entitlement=known[key]))
            for case in cases:
                outcome = outcomes[case]
                if isinstance(outcome, Issued):
                    transaction.audit(_noted(case.note, license_id=outcome.license_id))
                else:
                    transaction.audit(_refusal_row(case.note, outcome))
        return [outcomes[case] for case in cases]

    def _decide_case(
        self,
        transaction: Transaction,
        case: Case,
        blocked: frozenset[str],
        known: dict[PurchaseKey, Entitlement],
        *,
        durable: bool,
    ) -> Issued | LicensingError:
        """Decide one case by the entitlements that are `known`, and change those. Raises _MustLast unless `durable`."""
        before = {key: known[key] for key in (case.purchase, *_replaced(case.statements))}
        observed = _observed(before, case.statements)
        try:
            purchase, placed = self._place(case, blocked, observed[case.purchase])
            after = observed | {case.purchase: placed}
            if not durable:
                _require_alike(before, after)
            outcome: Issued | LicensingError = self._issue(transaction, case, purchase)
        except LicensingError as error:
            outcome, after = error, observed
            if not durable:
                _require_alike(before, after)
        known.update(after)
        return outcome

    def _place(self, case: Case, blocked: frozenset[str], entitlement: Entitlement) -> tuple[Purchase, Entitlement]:
        """The purchase that entitles the device now, and the entitlement with the device in its place."""
        if case.device in blocked:
            raise LicenseRevokedError("the license of this device was revoked")
        app, now = case.purchase.app, case.now
        if case.renewed is not None:
            check_renewal(
                self._as_license(case.renewed),
                device=case.device,
                app=case.app.config.id,
                environment=self._config.environment,
                revoked=case.renewed.revoked_at is not None,
                now=now,
                window=self._config.licenses.renewal_window,
            )
        purchase = entitled(entitlement, app, case.bundle.bundle, case.tier, now, self._catalog)
        if case.renewed is not None:
            entitlement = renew(entitlement, case.device, now)
        else:
            entitlement = activate(entitlement, case.device, now, self._config.licenses.rules)
        return purchase, forget_expired(entitlement, now)

    def _issue(self, transaction: Transaction, case: Case, purchase: Purchase) -> Issued:
        """Store the proof and make the license. Raises AttestationRefusedError, LicenseRevokedError."""
        proof, now = case.proof, case.now
        if proof.new_key is not None:
            transaction.add_attest_key(proof.new_key, now)
        if proof.counter is not None and not transaction.raise_counter(proof.attest_key or b"", proof.counter):
            # Another request with this key came first, since the counter was read.
            raise AttestationRefusedError(Reason.COUNTER, "the counter was used by another request")
        license_id = str(uuid.uuid4())
        if case.renewed is not None and not transaction.replace_license(case.renewed.jti, license_id):
            raise LicenseRevokedError("the license was revoked")
        expires_at = license_end(purchase, now, self._config.licenses.lifetime)
        token = issue_license(
            self._keys.signer,
            case.device_key,
            self._keys.content_key(case.bundle.bundle, case.tier),
            issuer=self._config.issuer,
            app=case.app.config.id,
            environment=self._config.environment,
            bundle=case.bundle.bundle,
            model_version=case.bundle.model_version,
            tier=case.tier,
            issued_at=now,
            expires_at=expires_at,
            license_id=license_id,
            device=case.device,
        )
        serials = proof.chain_serials if case.renewed is None else case.renewed.chain_serials
        transaction.add_license(
            StoredLicense(
                jti=license_id,
                app=case.app.config.id,
                bundle=case.bundle.bundle,
                model_version=case.bundle.model_version,
                tier=case.tier,
                device=case.device,
                device_jwk=case.device_jwk,
                provider=case.purchase.provider,
                purchase_app=case.purchase.app,
                purchase_id=case.purchase.purchase_id,
                format=str(proof.format),
                issued_at=now,
                expires_at=expires_at,
                attest_key=proof.attest_key,
                chain_serials=serials,
            )
        )
        renew_at = None if expires_at is None else now + (expires_at - now) * 2 // 3
        return Issued(token, license_id, expires_at, renew_at)

    def _as_license(self, stored: StoredLicense) -> License:
        """The claims of a license that was issued; what is wrapped in it is not kept."""
        return License(
            issuer=self._config.issuer,
            issued_at=stored.issued_at,
            not_before=stored.issued_at,
            expires_at=stored.expires_at,
            license_id=stored.jti,
            app=stored.app,
            environment=self._config.environment,
            bundle=stored.bundle,
            model_version=stored.model_version,
            tier=stored.tier,
            device=stored.device,
            wrapped_key=b"",
            info=b"",
        )

    # --- notices of the stores

    def app_store_notice(self, app: str, body: bytes) -> None:
        """Take in an App Store Server Notification, {"signedPayload": JWS}; any number of times, in any order.

        Raises AppUnknownError, ProviderNotAllowedError, RequestError, and what `AppStore.notice` raises.
        """
        now_ms = self._now_ms()
        note = AuditRow(event="notice", outcome="ok", at_ms=now_ms, app=app[:256], provider="app-store")
        with self._audited(note):
            store = self._app(app).app_store
            if store is None:
                raise ProviderNotAllowedError("the app takes no App Store purchases")
            try:
                payload = parse_object(body).get("signedPayload")
            except ValueError:
                raise RequestError("a JSON object", pointer="#") from None
            notice = store.notice(payload, now_ms=now_ms)
        note = replace(note, detail=_line(notice.kind))
        self._take_in(note, () if notice.purchase is None else (notice.purchase,))

    def google_play_notice(self, app: str, authorization: str | None, body: bytes) -> None:
        """Take in a real-time developer notification as Pub/Sub pushes it: ask Google what it is about.

        Raises AppUnknownError, ProviderNotAllowedError, PurchaseNoticeError, and what `GooglePlay.refresh` raises.
        """
        now_ms = self._now_ms()
        note = AuditRow(event="notice", outcome="ok", at_ms=now_ms, app=app[:256], provider="google-play")
        with self._audited(note):
            verifiers = self._app(app)
            play, notices = verifiers.google_play, verifiers.play_notices
            if play is None or notices is None:
                raise ProviderNotAllowedError("the app takes no notifications of Google Play")
            notice = notices.read(authorization, body, now=now_ms // 1000)
            note = replace(note, detail=f"{notice.subject}, voided" if notice.voided else notice.subject)
            statements: list[Purchase] = []
            if notice.purchase_id is not None:
                package = verifiers.config.purchase_app("google-play")
                stored = self._storage.entitlement(PurchaseKey("google-play", package, notice.purchase_id))
                for known in () if stored is None else stored.entitlement.purchases:
                    statements += _asked(play, known, notice.event_ms if notice.voided else None, now_ms)
        self._take_in(note, statements)

    def _take_in(self, note: AuditRow, statements: Sequence[Purchase]) -> None:
        """Keep what a store has said. About a purchase that nobody has shown yet too: a refund may come first."""
        statements = [purchase for purchase in statements if self._concerns(purchase)]
        with self._storage.transaction() as transaction:
            keys = {PurchaseKey.of(purchase) for purchase in statements}
            before = transaction.entitlements([*keys, *_replaced(statements)])
            after = _observed({key: stored.entitlement for key, stored in before.items()}, statements)
            for key, stored in before.items():
                if after[key] != stored.entitlement:
                    transaction.save(replace(stored, entitlement=after[key]))
            transaction.audit(replace(note, purchase=next((key.tag for key in keys), None)))

    def _concerns(self, purchase: Purchase) -> bool:
        return purchase.product in self._products or self._storage.entitlement(PurchaseKey.of(purchase)) is not None

    # --- what no request waits for

    def maintain(self) -> list[LicensingError]:
        """Acknowledge purchases, ask for voided orders, fetch the revocation list, forget used challenges.

        To be called about every 30 seconds by one thread of each process; several processes may do so at once. Returns
        what went wrong, which is tried again the next time.
        """
        failed: list[LicensingError] = []
        now_ms = self._now_ms()
        tasks: list[Callable[[], object]] = [
            lambda: self._storage.purge_challenges(now_ms // 1000),
            lambda: failed.extend(self._acknowledge(now_ms)),
            *(partial(self._take_in_voided, app, now_ms) for app in self._apps.values()),
        ]
        if any(app.android is not None for app in self._apps.values()):
            tasks.append(lambda: self._revocation.current(now_ms / 1000))
        for task in tasks:
            try:
                task()
            except LicensingError as error:
                failed.append(error)
        return failed

    def _acknowledge(self, now_ms: int) -> list[LicensingError]:
        """Tell Google Play that users have what they bought; what it is not told within three days it refunds."""
        failed: list[LicensingError] = []
        plays = {app.config.purchase_app("google-play"): app for app in self._apps.values() if app.google_play}
        for stored in self._storage.unacknowledged():
            app = plays.get(stored.entitlement.app)
            if app is None or app.google_play is None:
                continue
            for known in stored.entitlement.purchases:
                if known.acknowledged or known.status != "active":
                    continue
                note = AuditRow("acknowledge", "ok", now_ms, app=app.config.id, provider="google-play")
                try:
                    self._take_in(note, [app.google_play.acknowledge(known, now_ms=now_ms)])
                except LicensingError as error:
                    failed.append(error)
        return failed

    def _take_in_voided(self, app: AppVerifiers, now_ms: int) -> None:
        """Once an hour: orders that were voided although no notification came."""
        play, package = app.google_play, app.config.purchase_app("google-play")
        last = self._voided_at.get(package)
        if play is None or (last is not None and 0 <= now_ms - last < _VOIDED_INTERVAL_MS):
            return
        name = f"voided-since:{package}"
        since_ms = max(int(self._storage.setting(name) or 0), now_ms - _VOIDED_HORIZON_MS)
        for voided in play.voided(since_ms=since_ms):
            stored = self._storage.entitlement(PurchaseKey("google-play", package, voided.purchase_id))
            if stored is None:
                continue
            statements: list[Purchase] = []
            for known in stored.entitlement.purchases:
                statements += _asked(play, known, voided.at_ms, now_ms)
            note = AuditRow("notice", "ok", now_ms, "voided orders", app=app.config.id, provider="google-play")
            self._take_in(note, statements)
        with self._storage.transaction() as transaction:
            # Some overlap: the list is in the order of its own clock.
            transaction.set_setting(name, str(now_ms - _VOIDED_INTERVAL_MS))
        self._voided_at[package] = now_ms

    def ready(self) -> None:
        """Raises StorageError, NotReadyError or a KeystoreError when requests cannot be decided now."""
        self._storage.ping()
        self._keys.check()
        now = self._clock()
        for app in self._apps.values():
            if app.android is not None:
                try:
                    check_revocation((), self._revocation.current(now), _moment(now), app.android.max_revocation_age)
                except Refusal as refusal:
                    raise NotReadyError(refusal.detail) from None

    # --- the audit log

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    @contextmanager
    def _audited(self, note: AuditRow) -> Iterator[None]:
        try:
            yield
        except LicensingError as error:
            self._audit_refusal(note, error)
            raise

    def _audit_refusal(self, note: AuditRow, error: LicensingError) -> None:
        """Keep a refusal that no transaction has led to. It stands even if it cannot be kept."""
        with suppress(StorageError), self._storage.transaction(durable=False) as transaction:
            transaction.audit(_refusal_row(note, error))


def _refusal_row(note: AuditRow, error: LicensingError) -> AuditRow:
    detail = f"{error.reason}: {error.detail}" if isinstance(error, AttestationRefusedError) else str(error)
    return replace(note, outcome=error.code, detail=_line(detail))


def _noted(note: AuditRow, **changes: str) -> AuditRow:
    """`replace`, in a third of its time."""
    return AuditRow(**{**vars(note), **changes})


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:512])


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


def _accepted(verdict: Verdict[_ClaimsT]) -> _ClaimsT:
    if verdict.claims is None:
        raise AttestationRefusedError(verdict.reason, verdict.detail)
    return verdict.claims


def _verify_purchase(app: AppVerifiers, shown: ShownPurchase, now_ms: int) -> Purchase:
    """What the purchase that a device shows says. Raises PurchaseError, ProviderNotAllowedError."""
    match shown.provider:
        case "grant" if app.grant is not None:
            return verify_grant(shown.token, app.grant, now=now_ms // 1000)
        case "app-store" if app.app_store is not None:
            return app.app_store.verify(shown.token, now_ms=now_ms)
        case "google-play" if app.google_play is not None and shown.kind is not None and shown.product is not None:
            return app.google_play.verify(shown.kind, shown.product, shown.token, now_ms=now_ms)
    raise ProviderNotAllowedError("the app takes no purchases of this provider")


def _asked(play: GooglePlay, known: Purchase, voided_ms: int | None, now_ms: int) -> list[Purchase]:
    """What Google says about a purchase now, or that its order was voided; nothing when it has forgotten it."""
    try:
        if voided_ms is None:
            return [play.refresh(known, now_ms=now_ms)]
        return [play.void(known, voided_ms, now_ms=now_ms)]
    except PurchaseNotFoundError:
        return []


# --- entitlements, as they are before and after a transaction --------------------------------------


def _replaced(statements: Sequence[Purchase]) -> list[PurchaseKey]:
    return [
        PurchaseKey(purchase.provider, purchase.app, purchase.replaces)
        for purchase in statements
        if purchase.replaces is not None
    ]


def _observed(
    known: Mapping[PurchaseKey, Entitlement], statements: Sequence[Purchase]
) -> dict[PurchaseKey, Entitlement]:
    after = dict(known)
    for purchase in statements:
        key = PurchaseKey.of(purchase)
        after[key] = observe(after[key], purchase)
        if purchase.replaces is not None:
            old = PurchaseKey(purchase.provider, purchase.app, purchase.replaces)
            after[old], after[key] = supersede(after[old], after[key])
    return after


def _require_alike(before: Mapping[PurchaseKey, Entitlement], after: Mapping[PurchaseKey, Entitlement]) -> None:
    """Raise _MustLast when places have changed hands, or something of a purchase that may not be told again."""
    for key, known in before.items():
        if after[key] is not known and _lasting(known) != _lasting(after[key]):
            raise _MustLast


def _lasting(entitlement: Entitlement) -> object:
    places = {(place.device, place.released) for place in entitlement.places}
    statements = {
        (purchase.transaction_id, purchase.status, purchase.final, purchase.acknowledged)
        for purchase in entitlement.purchases
    }
    return entitlement.closed, places, statements


def _by_challenge(case: Case) -> str:
    return case.challenge


def _by_attest_key(case: Case) -> bytes:
    return case.proof.attest_key or b""
