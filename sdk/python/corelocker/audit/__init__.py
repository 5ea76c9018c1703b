"""What a lock is worth, measured on the publisher's own model (extra `audit`).

Owns the audit: a model in every tier (`models`), data sets and metrics (`data`), utility and its curve (`utility`), attacks
(`attacks`), calibration of tiers (`calibrate`), bounds (`bounds`) and the report (`report`). It uses locking and artifacts and
nothing uses it but the command line. Everything is deterministic for a seed. torch is imported when a function needs it.
"""

from __future__ import annotations

from types import ModuleType

from corelocker import extras


def need(module: str) -> ModuleType:
    """Import an optional dependency. Raises MissingExtraError when it is not installed."""
    return extras.need(module, "the audit", "audit")
