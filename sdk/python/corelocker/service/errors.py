"""What the service refuses beyond bad proofs, purchases and licenses; `code` is the problem detail's type."""

from __future__ import annotations

from corelocker.attestation.verdict import Reason
from corelocker.errors import CoreLockerError
from corelocker.licensing.errors import LicensingError


class RequestError(LicensingError):
    """The request is not of the documented shape."""

    code = "request-malformed"


class DeviceKeyError(RequestError):
    """The device key is well-formed, but no point of the curve P-256."""

    code = "device-key"


class ChallengeError(LicensingError):
    """The challenge is not one of this service's."""

    code = "challenge-malformed"


class ChallengeExpiredError(ChallengeError):
    """The challenge is too old; fetch another."""

    code = "challenge-expired"


class ChallengeUsedError(ChallengeError):
    """The challenge was used already; fetch another."""

    code = "challenge-used"


class AppUnknownError(LicensingError):
    """The service does not know this app."""

    code = "app-unknown"


class BundleUnknownError(LicensingError):
    """The service has no content key for this bundle."""

    code = "bundle-unknown"


class BundleRetiredError(LicensingError):
    """The bundle holds a version of the model that the publisher has withdrawn; the app has to be updated."""

    code = "bundle-retired"


class TierUnknownError(LicensingError):
    """The bundle has no such tier, or one that needs no license."""

    code = "tier-unknown"


class FormatNotAllowedError(LicensingError):
    """This app, or this step, does not take attestations of this format."""

    code = "format-not-allowed"


class ProviderNotAllowedError(LicensingError):
    """This app does not take purchases of this provider."""

    code = "provider-not-allowed"


class AttestationRefusedError(LicensingError):
    """The device's proof was refused. The message says no more; operators find why in the audit log.

    Attributes:
        reason: the check that failed, for the audit log and the metrics.
        detail: one line for the operator, without keys, tokens or device identifiers.
    """

    code = "attestation-refused"

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__("the proof of the device was refused")
        self.reason = reason
        self.detail = detail


class LicenseUnknownError(LicensingError):
    """The service has not issued this license."""

    code = "license-unknown"


class EntitlementUnknownError(LicensingError):
    """An operator asks for a purchase or a device that nothing is known of."""

    code = "entitlement-unknown"


class OverloadedError(LicensingError):
    """Too many requests at once."""

    code = "overloaded"
    retryable = True


class StorageError(LicensingError):
    """The database cannot be reached, or is of another version; nothing was decided."""

    code = "storage-unavailable"
    retryable = True


class NotReadyError(LicensingError):
    """Something that the service needs is not there (a revocation list, a key)."""

    code = "not-ready"
    retryable = True


class ServiceRefusesToStartError(CoreLockerError):
    """The configuration would make the service unsafe; the message lists every finding."""

    code = "service-configuration"
