"""What the unlock service and every device share; each phone library has the same parts (docs/formats.md).

    app_config         the app configuration, corelocker.json
    license            issue, read and verify licenses; tokens: the signed form that licenses and grants have
    canonical          canonical JSON
    attested_request   the bytes that a proof covers; evidence: the forms of proofs; development: keys for tests
    device_key         what is sealed to a device key, and how it proves itself
    device_clock       the time as far as an offline device can know it
    http_client        one bounded HTTP exchange, and when to try again
    errors             every error with its code

Keys, configuration and the time come from the caller, so the same input always gives the same result.
"""

from typing import Literal

# Configuration of a service or an app, never taken from a request.
Environment = Literal["production", "development"]

__all__ = ["Environment"]
