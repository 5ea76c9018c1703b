"""What a lock is worth, measured on the publisher's own model (extra `audit`).

`models` has a model in every tier. `data` reads data sets and metrics. `utility` measures each tier and the curve.
`attacks` tries to get the key back. `calibrate` finds the tiers for wanted utilities. `bounds` says how far the lock
moves the network. `report` writes it all down. The package uses `locking` and `artifacts`. Only the command line uses
it. A seed makes everything repeatable. torch is imported when a function needs it.
"""

from __future__ import annotations

from types import ModuleType

from corelocker import extras


def need(module: str) -> ModuleType:
    """Import an optional dependency. Raises MissingExtraError when it is not installed."""
    return extras.need(module, "the audit", "audit")
