"""What a verifier says of evidence: accepted with claims, or refused with one reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.evidence import Format


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


def require_aware(now: datetime) -> None:
    """Refuse a clock that does not say its time zone, with ConfigError: comparing it would guess."""
    if now.tzinfo is None:
        raise ConfigError("the verifier's clock has no time zone")


def require_environment(environment: Environment) -> None:
    """Refuse a configuration of another environment than the two, with ConfigError."""
    if environment not in ("production", "development"):
        raise ConfigError(f"{environment!r} is no environment", hint="Use production or development")
