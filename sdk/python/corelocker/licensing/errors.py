"""Every way in which a request, a proof, a purchase or a license can be bad, as one typed error each.

An error has a stable `code` (kebab-case): the service puts it into the `type` of its problem details, a device finds the
error by it (`error_of_code`), the audit log records it, the vectors name it. Messages say which check failed and never
carry key bytes, whole tokens or purchase secrets.
"""

from __future__ import annotations

from typing import ClassVar

from corelocker.errors import ConfigError, CoreLockerError


class LicensingError(CoreLockerError):
    """Base of everything that attestation, purchase and license checks refuse.

    Attributes:
        retryable: whether the same request may succeed later without a change by the client.
    """

    code = "licensing"
    retryable: ClassVar[bool] = False


class CanonicalError(LicensingError):
    """A value has no canonical JSON: it lies outside the domain, or a text is not valid Unicode."""

    code = "canonical-json"


# --- requests ------------------------------------------------------------------------------------


class RequestError(LicensingError):
    """The request is not of the documented shape.

    Clients read both arguments where a service raises this: neither may hold anything that was sent.

    Args:
        expected: what belongs there, one line.
        pointer: to the member that is wrong, such as "#/purchase/token" (a JSON pointer as a URI fragment, RFC 6901
            section 6); "#" is the whole body, None is said where it is not known.
    """

    code = "request-malformed"

    def __init__(self, expected: str, *, pointer: str | None = None) -> None:
        super().__init__(expected if pointer is None else f"{pointer}: {expected}")
        self.expected = expected
        self.pointer = pointer


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


class RateLimitedError(LicensingError):
    """Too many requests for this purchase.

    Attributes:
        retry_after: seconds until the next one may come; None where that is not known.
    """

    code = "rate-limited"
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


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


class LicenseUnknownError(LicensingError):
    """The service has not issued this license."""

    code = "license-unknown"


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


# --- attestation ---------------------------------------------------------------------------------


class AttestationError(LicensingError):
    """The device's proof does not show a genuine app on a genuine device holding this key."""

    code = "attestation-refused"


class EvidenceError(AttestationError):
    """The JSON of an attestation is not of the shape that its format has.

    Args:
        expected: what belongs there, one line.
        pointer: JSON pointer (RFC 6901) from the attestation to the member that is wrong, such as "/chain/0".
    """

    code = "attestation-evidence"

    def __init__(self, expected: str, *, pointer: str = "") -> None:
        super().__init__(f"the attestation's {pointer or 'object'}: {expected}")
        self.expected = expected
        self.pointer = pointer


# --- purchases -----------------------------------------------------------------------------------


class PurchaseError(LicensingError):
    """The purchase does not entitle to what was asked for."""

    code = "purchase"


class PurchaseFormatError(PurchaseError):
    """The evidence is malformed, too large, or lacks a field that a decision needs."""

    code = "purchase-format"


class PurchaseSignatureError(PurchaseError):
    """The evidence is not signed by the store or by the publisher's backend."""

    code = "purchase-signature"


class PurchaseEnvironmentError(PurchaseError):
    """The purchase was made in another environment (a sandbox purchase in production, or the reverse)."""

    code = "purchase-environment"


class PurchaseAppError(PurchaseError):
    """The purchase was made in another app."""

    code = "purchase-app"


class PurchaseAccountError(PurchaseError):
    """The purchase belongs to another account of the app."""

    code = "purchase-account"


class PurchaseProductError(PurchaseError):
    """The product does not unlock this bundle and tier, or is of a kind that cannot."""

    code = "purchase-product"


class PurchaseNotYetValidError(PurchaseError):
    """The evidence is dated in the future."""

    code = "purchase-not-yet-valid"


class PurchaseStaleError(PurchaseError):
    """The evidence is older than the service accepts; the app must fetch it from the store again."""

    code = "purchase-stale"


class PurchaseNotFoundError(PurchaseError):
    """The store does not know the purchase."""

    code = "purchase-not-found"


class PurchasePendingError(PurchaseError):
    """The store has not been paid yet, or has put the subscription on hold."""

    code = "purchase-pending"


class PurchaseExpiredError(PurchaseError):
    """The subscription or the grant has ended."""

    code = "purchase-expired"


class PurchaseRevokedError(PurchaseError):
    """The purchase was refunded, charged back or revoked."""

    code = "purchase-revoked"


class PurchaseSupersededError(PurchaseError):
    """The purchase was replaced by another one (an upgrade or a new sign-up)."""

    code = "purchase-superseded"


class PurchaseUpstreamError(PurchaseError):
    """The store could not be asked (time-out, rate limit, server error); nothing was decided.

    Attributes:
        retry_after: seconds that the store asked to wait, or None.
    """

    code = "purchase-upstream"
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class PurchaseUpstreamDeniedError(PurchaseError):
    """The store refuses the service's own credentials; the operator has to act, not the client."""

    code = "purchase-upstream-denied"


class PurchaseNoticeError(PurchaseError):
    """A store notification that cannot be authenticated or read."""

    code = "purchase-notice"


class DeviceLimitError(PurchaseError):
    """The purchase is in use on as many devices as it allows.

    Attributes:
        retry_at: the time (Unix seconds) from which a new device may take a place, if nothing changes; None when no
            place ever comes free, because perpetual licenses hold them.
    """

    code = "device-limit"

    def __init__(self, message: str, *, retry_at: int | None) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class DeviceInactiveError(PurchaseError):
    """The device does not hold a place of this purchase (any more); it has to unlock anew."""

    code = "device-inactive"


# --- licenses ------------------------------------------------------------------------------------


class LicenseError(LicensingError):
    """The license cannot be used here."""

    code = "license"


class LicenseFormatError(LicenseError):
    """Not a license: malformed, too large, or with claims missing or of the wrong kind."""

    code = "license-format"


class LicenseTypeError(LicenseError):
    """A signed token of another kind (`typ`) or algorithm."""

    code = "license-type"


class LicenseSignatureError(LicenseError):
    """Not signed by a service key that the app pins."""

    code = "license-signature"


class LicenseIssuerError(LicenseError):
    """Issued by another service."""

    code = "license-issuer"


class LicenseAudienceError(LicenseError):
    """Issued for another app."""

    code = "license-audience"


class LicenseEnvironmentError(LicenseError):
    """Issued in another environment (production, development)."""

    code = "license-environment"


class LicenseBundleError(LicenseError):
    """Issued for another key bundle."""

    code = "license-bundle"


class LicenseModelVersionError(LicenseError):
    """Issued for another version of the model."""

    code = "license-model-version"


class LicenseTierError(LicenseError):
    """Issued for another tier."""

    code = "license-tier"


class LicenseDeviceError(LicenseError):
    """Issued to another device key."""

    code = "license-device"


class LicenseNotYetValidError(LicenseError):
    """The license is not valid yet."""

    code = "license-not-yet-valid"


class LicenseExpiredError(LicenseError):
    """The license has ended."""

    code = "license-expired"


class LicenseClockError(LicenseError):
    """The device's clock is behind a time that it has seen already."""

    code = "license-clock"


class LicenseRevokedError(LicenseError):
    """The license was revoked."""

    code = "license-revoked"


class LicenseWrapError(LicenseError):
    """The wrapped content key does not open with this device key and these claims."""

    code = "license-wrap"


# --- the app's configuration ---------------------------------------------------------------------


class AppConfigError(ConfigError):
    """The app configuration (`corelocker.json`) is not what docs/formats.md describes."""

    code = "app-config"


def error_of_code(code: str) -> type[LicensingError] | None:
    """The error of this module that has the code, None when there is none."""
    return _BY_CODE.get(code)


_BY_CODE = {
    kind.code: kind for kind in list(globals().values()) if isinstance(kind, type) and issubclass(kind, LicensingError)
}
