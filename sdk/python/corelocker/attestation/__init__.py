"""Attestation: a device proves that it is genuine, runs the genuine app and vouches for its device key.

One module for each format, each a pure function of (evidence, expected challenge, policy, trust anchors, clock):

    android_key.verify_android_key               a key made in the phone's KeyMint, with the chain that describes it
    apple_app_attest.verify_app_attestation      Apple vouches for a key of an app instance, once an install
    apple_app_attest.verify_app_assertion        that key signs a request, with a counter that rises
    development.verify_development               a key under a development root, for emulators, simulators and CI
    device_key.verify_device_key                 the device key answers a challenge, to renew what it was attested for
    play_integrity.verify_play_integrity         Google's verdict as an extra signal beside `android-key`

A verifier never raises for bad evidence: it returns a `Verdict` with one `Reason`. It raises `ConfigError` or
`ValueError` only when its caller's configuration makes no sense. Which environment a service is in is configuration;
nothing here reads it from evidence. What the evidence must sign is `corelocker.licensing.canonical`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Generic, TypeVar

from corelocker.bundle import jose
from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.errors import AttestationError

# What evidence may hold; real evidence is at most a third of it.
MAX_CHAIN = 6
MAX_CERTIFICATE = 16 << 10
MAX_OBJECT = 64 << 10
MAX_INTEGRITY_TOKEN = 8 << 10


class Format(StrEnum):
    """The kinds of proof, as the unlock API names them."""

    ANDROID_KEY = "android-key"
    APPLE_APP_ATTEST = "apple-app-attest"
    DEVELOPMENT = "development"
    DEVICE_KEY = "device-key"
    PLAY_INTEGRITY = "play-integrity"


class Reason(StrEnum):
    """Why evidence is accepted or refused. The values are stable: audit logs, metrics and test vectors use them."""

    OK = "ok"
    # the bytes
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    UNSUPPORTED_ALGORITHM = "unsupported-algorithm"
    UNSUPPORTED_VERSION = "unsupported-version"
    # the certificate chain
    UNTRUSTED_ROOT = "untrusted-root"
    SOFTWARE_ROOT = "software-root"
    CHAIN_TOO_LONG = "chain-too-long"
    CHAIN_NAMES = "chain-names"
    CHAIN_SIGNATURE = "chain-signature"
    CHAIN_EXTENDED = "chain-extended"
    ISSUER_NOT_CA = "issuer-not-ca"
    LEAF_IS_CA = "leaf-is-ca"
    CRITICAL_EXTENSION = "critical-extension"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_REVOKED = "certificate-revoked"
    REVOCATION_LIST_MISSING = "revocation-list-missing"
    REVOCATION_LIST_STALE = "revocation-list-stale"
    # what the proof says
    ATTESTATION_MISSING = "attestation-missing"
    WRONG_ENVIRONMENT = "wrong-environment"
    WRONG_CHALLENGE = "wrong-challenge"
    SIGNATURE = "signature"
    COUNTER = "counter"
    # the device
    SECURITY_LEVEL = "security-level"
    BOOT_STATE_MISSING = "boot-state-missing"
    DEVICE_UNLOCKED = "device-unlocked"
    BOOT_NOT_VERIFIED = "boot-not-verified"
    PATCH_LEVEL = "patch-level"
    DEVICE_INTEGRITY = "device-integrity"
    # the app
    WRONG_APP = "wrong-app"
    WRONG_SIGNER = "wrong-signer"
    APP_NOT_RECOGNIZED = "app-not-recognized"
    NOT_LICENSED = "not-licensed"
    VALIDATION_CATEGORY = "validation-category"
    # the key
    KEY_TYPE = "key-type"
    KEY_ALL_APPLICATIONS = "key-all-applications"
    KEY_PURPOSE = "key-purpose"
    KEY_ORIGIN = "key-origin"
    KEY_ID = "key-id"
    DEVICE_KEY = "device-key"
    # the time
    TIME = "time"


class Refusal(Exception):  # noqa: N818 - a verdict on its way up, not an error
    """Ends a verifier; its entry point turns it into a `Verdict`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


ClaimsT = TypeVar("ClaimsT")


@dataclass(frozen=True, slots=True)
class Verdict(Generic[ClaimsT]):
    """What a verifier found.

    Attributes:
        format: the kind of proof.
        reason: `Reason.OK`, or the first check that failed.
        detail: one line for the operator's log. It names no key, token or device identifier; not for the client.
        claims: what the proof shows, None unless accepted.
    """

    format: Format
    reason: Reason
    detail: str
    claims: ClaimsT | None

    @property
    def accepted(self) -> bool:
        return self.reason is Reason.OK

    @classmethod
    def accept(cls, kind: Format, claims: ClaimsT) -> Verdict[ClaimsT]:
        return cls(kind, Reason.OK, "accepted", claims)

    @classmethod
    def refuse(cls, kind: Format, refusal: Refusal) -> Verdict[ClaimsT]:
        return cls(kind, refusal.reason, refusal.detail, None)


# --- evidence ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AndroidKeyEvidence:
    """`KeyStore.getCertificateChain()`: DER certificates, the attested key's first; the root may be left out.

    `integrity_token` is Play Integrity's, as the app got it, for apps whose service asks for it (`play_integrity.py`).
    """

    chain: tuple[bytes, ...]
    integrity_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AppAttestEvidence:
    """`DCAppAttestService.attestKey`: the CBOR attestation object and the 32-byte key identifier."""

    key_id: bytes
    attestation: bytes


@dataclass(frozen=True, slots=True)
class AppAssertEvidence:
    """`DCAppAttestService.generateAssertion`: the CBOR assertion and the 32-byte identifier of the key that made it."""

    key_id: bytes
    assertion: bytes


@dataclass(frozen=True, slots=True)
class DevelopmentEvidence:
    """A DER certificate issued by a development root, and its key's signature (`development.py` says of what)."""

    certificate: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class DeviceKeyEvidence:
    """The 32-byte answer to a challenge that was sealed to the device key (`device_key.py`); renewals only."""

    proof: bytes


Evidence = AndroidKeyEvidence | AppAttestEvidence | AppAssertEvidence | DevelopmentEvidence | DeviceKeyEvidence


class EvidenceError(AttestationError):
    """The JSON of an attestation is not of the shape that its format has."""

    code = "attestation-evidence"


def evidence_from_json(value: Mapping[str, object]) -> Evidence:
    """The evidence in the `attestation` member of an unlock request; all bytes are unpadded base64url.

        {"format": "android-key", "chain": [leaf, ..., root]}                 with "integrity_token": text, or without
        {"format": "apple-app-attest", "key_id": ..., "attestation": ...}     first unlock of an install
        {"format": "apple-app-attest", "key_id": ..., "assertion": ...}       every later one
        {"format": "development", "certificate": ..., "signature": ...}
        {"format": "device-key", "proof": ...}                                renewals only

    Raises EvidenceError.
    """
    match value:
        case {"format": Format.ANDROID_KEY, "chain": list(chain)} if len(value) == 2 and len(chain) <= MAX_CHAIN:
            return AndroidKeyEvidence(_chain(chain))
        case {"format": Format.ANDROID_KEY, "chain": list(chain), "integrity_token": token} if (
            len(value) == 3 and len(chain) <= MAX_CHAIN
        ):
            return AndroidKeyEvidence(_chain(chain), _integrity_token(token))
        case {"format": Format.APPLE_APP_ATTEST, "key_id": key_id, "attestation": data} if len(value) == 3:
            return AppAttestEvidence(_bytes(key_id, 32), _bytes(data, MAX_OBJECT))
        case {"format": Format.APPLE_APP_ATTEST, "key_id": key_id, "assertion": data} if len(value) == 3:
            return AppAssertEvidence(_bytes(key_id, 32), _bytes(data, MAX_OBJECT))
        case {"format": Format.DEVELOPMENT, "certificate": data, "signature": signature} if len(value) == 3:
            return DevelopmentEvidence(_bytes(data, MAX_CERTIFICATE), _bytes(signature, 128))
        case {"format": Format.DEVICE_KEY, "proof": proof} if len(value) == 2:
            return DeviceKeyEvidence(_bytes(proof, 32))
    raise EvidenceError("the attestation has an unknown format, or other members than its format has")


def evidence_to_json(evidence: Evidence) -> dict[str, object]:
    """The inverse of `evidence_from_json`."""
    match evidence:
        case AndroidKeyEvidence(chain, token):
            encoded = [jose.encode_base64url(item) for item in chain]
            integrity = {} if token is None else {"integrity_token": token}
            return {"format": str(Format.ANDROID_KEY), "chain": encoded, **integrity}
        case AppAttestEvidence(key_id, data):
            return {
                "format": str(Format.APPLE_APP_ATTEST),
                "key_id": jose.encode_base64url(key_id),
                "attestation": jose.encode_base64url(data),
            }
        case AppAssertEvidence(key_id, data):
            return {
                "format": str(Format.APPLE_APP_ATTEST),
                "key_id": jose.encode_base64url(key_id),
                "assertion": jose.encode_base64url(data),
            }
        case DevelopmentEvidence(data, signature):
            return {
                "format": str(Format.DEVELOPMENT),
                "certificate": jose.encode_base64url(data),
                "signature": jose.encode_base64url(signature),
            }
        case DeviceKeyEvidence(proof):
            return {"format": str(Format.DEVICE_KEY), "proof": jose.encode_base64url(proof)}


def require_aware(now: datetime) -> None:
    """Refuse a clock that does not say its time zone, with ConfigError: comparing it would guess."""
    if now.tzinfo is None:
        raise ConfigError("the verifier's clock has no time zone")


def require_environment(environment: Environment) -> None:
    """Refuse a configuration of another environment than the two, with ConfigError."""
    if environment not in ("production", "development"):
        raise ConfigError(f"{environment!r} is no environment", hint="Use production or development")


def _bytes(value: object, limit: int) -> bytes:
    if not isinstance(value, str) or len(value) > (limit * 4 + 2) // 3:
        raise EvidenceError("the attestation holds a value that is no text, or too long")
    try:
        return jose.decode_base64url(value)
    except ValueError as error:
        raise EvidenceError("the attestation holds a value that is not unpadded base64url") from error


def _chain(values: list[object]) -> tuple[bytes, ...]:
    return (*(_bytes(item, MAX_CERTIFICATE) for item in values[:1]), *map(_issuer, values[1:]))


def _integrity_token(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_INTEGRITY_TOKEN:
        raise EvidenceError("the integrity token is no text, empty or too long")
    if not value.isascii() or not value.isprintable():
        raise EvidenceError("the integrity token has other characters than printable ASCII")
    return value


@lru_cache(maxsize=128)
def _shared_certificate(text: str) -> bytes:
    return _bytes(text, MAX_CERTIFICATE)


def _issuer(value: object) -> bytes:
    """A certificate above the leaf; many phones send the same."""
    return _shared_certificate(value) if isinstance(value, str) else _bytes(value, MAX_CERTIFICATE)
