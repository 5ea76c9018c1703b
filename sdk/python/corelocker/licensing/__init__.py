"""Who may have a content key: proofs of the device, proofs of the purchase, licenses.

`attestation` verifies that a device key lives in a genuine device and a genuine app, `purchases` that the stores or the
publisher's backend were paid and what that entitles to, `license` issues, verifies and opens the signed token that
carries the content key wrapped to one device key, `service` puts them behind HTTP. The verifiers are functions of
their arguments: trust anchors, configuration and the time come from the caller, so the same evidence always gives the
same verdict.
"""

from typing import Literal

# Configuration of a service or an app, never taken from a request.
Environment = Literal["production", "development"]

__all__ = ["Environment"]
