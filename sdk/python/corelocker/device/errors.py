"""What can go wrong between a device and the unlock service, beside the errors that both share."""

from __future__ import annotations

from corelocker.bundle.strict_json import MAX_INTEGER, Fields
from corelocker.licensing.errors import DeviceLimitError, LicensingError, error_of_code

_PROBLEM = "urn:corelocker:problem:"


class NotUnlockedError(LicensingError):
    """The device holds no license for this key bundle."""

    code = "not-unlocked"


class ServiceError(LicensingError):
    """The service refused for a reason that this version does not know."""

    code = "service"


class ServiceProtocolError(ServiceError):
    """What answered does not speak the unlock service's protocol (a proxy, a captive portal, another program)."""

    code = "service-protocol"


class ServiceUnreachableError(ServiceError):
    """No answer: no network, no server, a broken connection or a time-out."""

    code = "service-unreachable"
    retryable = True


class ServiceBusyError(ServiceError):
    """The service, or something in front of it, asks to come back later."""

    code = "service-busy"
    retryable = True


def error_of_problem(data: bytes) -> LicensingError:
    """The typed error for a problem document (RFC 9457). Raises ServiceProtocolError when it is not one of the service."""
    problem = Fields.parse(data, "the service's answer", ServiceProtocolError)
    kind, title = problem.text("type", 128), problem.text("title", 256)
    if not kind.startswith(_PROBLEM):
        raise problem.refuse("a problem of another program")
    message = problem.text("detail", 512) if "detail" in problem else title
    code = kind.removeprefix(_PROBLEM)
    if code == DeviceLimitError.code:
        retry_at = problem.integer("retry_at", 0, MAX_INTEGER) if "retry_at" in problem else 0
        return DeviceLimitError(message, retry_at=retry_at)
    known = error_of_code(code)
    return known(message) if known is not None else ServiceError(f"{message} ({code})")
