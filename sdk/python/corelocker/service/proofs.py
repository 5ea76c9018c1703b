"""Proofs: the attestation or assertion of a request, verified for the app and for everything that the request names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.attestation.android_key import AndroidKeyPolicy, verify_android_key
from corelocker.attestation.apple_app_attest import AppAttestPolicy, verify_app_assertion, verify_app_attestation
from corelocker.attestation.chain import parse_chain
from corelocker.attestation.development import verify_development
from corelocker.attestation.device_key import verify_device_key
from corelocker.attestation.revocation import check_revocation
from corelocker.attestation.verdict import Reason, Refusal, Verdict
from corelocker.licensing import Environment
from corelocker.licensing.attested_request import AttestedRequest
from corelocker.licensing.errors import FormatNotAllowedError
from corelocker.licensing.evidence import (
    AndroidKeyEvidence,
    AppAssertEvidence,
    AppAttestEvidence,
    DevelopmentEvidence,
    DeviceKeyEvidence,
    Format,
)
from corelocker.service.challenges import Challenges
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.messages import FormerKey, RenewRequest, UnlockRequest
from corelocker.service.records import AttestKey, StoredLicense
from corelocker.service.revocation_source import RevocationSource
from corelocker.service.storage import Storage
from corelocker.service.verifiers import AppVerifiers

_ClaimsT = TypeVar("_ClaimsT")


@dataclass(frozen=True)
class Proof:
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


class ProofVerifier:
    """Verifies the proofs of requests. Every method raises AttestationRefusedError or FormatNotAllowedError."""

    def __init__(
        self, environment: Environment, challenges: Challenges, storage: Storage, revocation: RevocationSource
    ) -> None:
        self._environment = environment
        self._challenges = challenges
        self._storage = storage
        self._revocation = revocation

    def of_unlock(self, app: AppVerifiers, request: UnlockRequest, attested: AttestedRequest, now: int) -> Proof:
        """The proof of a first unlock; `attested` is what it has to be made for."""
        evidence = request.evidence
        match evidence:
            case AndroidKeyEvidence() if app.android is not None:
                return self._android_key(app, app.android, evidence, attested, now)
            case AppAttestEvidence() if app.apple is not None:
                return self._app_attestation(app, app.apple, evidence, attested, now)
            case AppAssertEvidence() if app.apple is not None:
                return self._app_assertion(app, app.apple, evidence, attested)
            case DevelopmentEvidence() if app.development_roots.keys:
                return self._development(app, evidence, attested, now)
        raise FormatNotAllowedError("the app does not take attestations of this format")

    def of_renewal(
        self, app: AppVerifiers, known: StoredLicense, request: RenewRequest, attested: AttestedRequest, now: int
    ) -> Proof:
        """A proof of the device key that the license was issued to, of the kind that its format can give again."""
        evidence = request.evidence
        if known.format not in app.config.formats:
            raise FormatNotAllowedError("the app does not take attestations of this format any more")
        match known.format, evidence:
            case (Format.ANDROID_KEY, DeviceKeyEvidence()) | (Format.DEVELOPMENT, DeviceKeyEvidence()):
                if known.format == Format.ANDROID_KEY and app.android is not None:
                    self._refuse_revoked_chain(known, app.android, now)
                digest = attested.digest(Format.DEVICE_KEY)
                self._device_key(evidence, digest, attested.device_key, request.challenge, known.device)
                return Proof(known.format)
            case Format.APPLE_APP_ATTEST, AppAssertEvidence() if app.apple is not None:
                if evidence.key_id != known.attest_key:
                    raise AttestationRefusedError(Reason.KEY_ID, "another App Attest key than at the first unlock")
                return self._app_assertion(app, app.apple, evidence, attested)
            case Format.DEVELOPMENT, DevelopmentEvidence():
                return self._development(app, evidence, attested, now)
        raise FormatNotAllowedError("a license of this device is not renewed with this format")

    def check_former_key(self, former: FormerKey, attested: AttestedRequest) -> None:
        """Whether the device still holds the key whose place the device key of this unlock is to take over."""
        digest = attested.replacement_digest()
        self._device_key(former.evidence, digest, former.device_key, attested.challenge, former.device)

    def _device_key(
        self,
        evidence: DeviceKeyEvidence,
        digest: bytes,
        device_key: ec.EllipticCurvePublicKey,
        challenge: str,
        device: str,
    ) -> None:
        secret = self._challenges.device_secret(challenge, device)
        _accepted(verify_device_key(evidence, request_digest=digest, device_key=device_key, secret=secret))

    def _android_key(
        self,
        app: AppVerifiers,
        policy: AndroidKeyPolicy,
        evidence: AndroidKeyEvidence,
        attested: AttestedRequest,
        now: int,
    ) -> Proof:
        digest = attested.digest(Format.ANDROID_KEY)
        verdict: Verdict[Any] = verify_android_key(
            evidence,
            challenge=digest,
            device_key=attested.device_key,
            policy=policy,
            anchors=app.android_roots,
            revocation=self._revocation.current(now),
            now=moment(now),
        )
        _accepted(verdict)
        if app.play_integrity is not None:
            # Last: only a genuine key may cost a query, of which Google allows so many a day.
            verdict = app.play_integrity.verify(evidence.integrity_token, request_digest=digest, now=moment(now))
            _accepted(verdict)
        serials = [f"{certificate.serial:x}" for certificate in parse_chain(evidence.chain)]
        return Proof(Format.ANDROID_KEY, chain_serials=json.dumps(serials))

    def _app_attestation(
        self,
        app: AppVerifiers,
        policy: AppAttestPolicy,
        evidence: AppAttestEvidence,
        attested: AttestedRequest,
        now: int,
    ) -> Proof:
        claims = _accepted(
            verify_app_attestation(
                evidence,
                client_data_hash=attested.digest(Format.APPLE_APP_ATTEST),
                policy=policy,
                anchors=app.apple_roots,
                now=moment(now),
            )
        )
        key = AttestKey(claims.key_id, app.config.id, claims.public_key, 0)
        return Proof(Format.APPLE_APP_ATTEST, new_key=key, attest_key=key.key_id)

    def _app_assertion(
        self, app: AppVerifiers, policy: AppAttestPolicy, evidence: AppAssertEvidence, attested: AttestedRequest
    ) -> Proof:
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
        return Proof(Format.APPLE_APP_ATTEST, counter=claims.counter, attest_key=key.key_id)

    def _development(
        self, app: AppVerifiers, evidence: DevelopmentEvidence, attested: AttestedRequest, now: int
    ) -> Proof:
        _accepted(
            verify_development(
                evidence,
                request_digest=attested.digest(Format.DEVELOPMENT),
                environment=self._environment,
                anchors=app.development_roots,
                now=moment(now),
            )
        )
        return Proof(Format.DEVELOPMENT)

    def _refuse_revoked_chain(self, known: StoredLicense, policy: AndroidKeyPolicy, now: int) -> None:
        """The chain was not revoked when the key was attested; it may have been since."""
        revocation = self._revocation.current(now)
        try:
            check_revocation((), revocation, moment(now), policy.max_revocation_age)
        except Refusal as refusal:
            raise AttestationRefusedError(refusal.reason, refusal.detail) from None
        serials = {int(serial, 16) for serial in json.loads(known.chain_serials or "[]")}
        if revocation is not None and serials & revocation.serials:
            raise AttestationRefusedError(Reason.CERTIFICATE_REVOKED, "the chain was revoked after the first unlock")


def moment(now: float) -> datetime:
    """Unix seconds as UTC."""
    return datetime.fromtimestamp(now, UTC)


def _accepted(verdict: Verdict[_ClaimsT]) -> _ClaimsT:
    if verdict.claims is None:
        raise AttestationRefusedError(verdict.reason, verdict.detail)
    return verdict.claims
