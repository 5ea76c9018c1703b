"""What the service refuses and no device is told of, beside what `licensing.errors` shares with the devices."""

from __future__ import annotations

from corelocker.attestation.verdict import Reason
from corelocker.errors import CoreLockerError
from corelocker.licensing.errors import AttestationError, LicensingError


class AttestationRefusedError(AttestationError):
    """The device's proof was refused. The message says no more; operators find why in the audit log.

    Attributes:
        reason: the check that failed, for the audit log and the metrics.
        detail: one line for the operator, without keys, tokens or device identifiers.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__("the proof of the device was refused")
        self.reason = reason
        self.detail = detail


class EntitlementUnknownError(LicensingError):
    """An operator asks for a purchase or a device that nothing is known of."""

    code = "entitlement-unknown"


class ServiceRefusesToStartError(CoreLockerError):
    """The configuration would make the service unsafe; the message lists every finding."""

    code = "service-configuration"


class DatabaseRolledBackError(CoreLockerError):
    """The database is an older copy than this host has worked with."""

    code = "database-rolled-back"


class EpochFileError(CoreLockerError):
    """The file with the epoch cannot be read or written."""

    code = "epoch-file"
