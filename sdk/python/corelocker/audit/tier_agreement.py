"""How far the states of a file agree with the original, measured as every lock is: on inputs made from its signature."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from corelocker.audit.opening import AuditedModel
from corelocker.audit.options import AuditOptions
from corelocker.audit.result_cache import ResultCache, content_key
from corelocker.audit.tier_bytes import State, original_state
from corelocker.audit.utility import Subject
from corelocker.errors import CoreLockerError

UNBOUNDED = 1e9  # seconds: as many inputs as ever, or a faster machine would write another report
VERSION = 1  # of how it is measured; part of every cache key


class TierAgreements:
    """Measures the agreement of states with the original; what was measured before comes from the work folder.

    Attributes:
        reason: why nothing can be measured; None where something was, or nothing was asked yet.
        inputs, samples: on what inputs, and how many.
    """

    def __init__(self, options: AuditOptions, locked: AuditedModel, subject: Subject) -> None:
        self._options, self._locked = options, locked
        self._original = original_state(locked.original)
        self._results = ResultCache(None if options.work is None else options.work / "agreement")
        self._context = [VERSION, _digest(self._original), subject.evaluator.identity, options.input_stats]
        self._examined: Any = None
        self.reason: str | None = None
        self.inputs, self.samples = "", 0

    def of(self, state: State) -> dict[str, Any] | None:
        """{"kind", "value", "chance", "error"} of a state; None where it cannot be measured."""
        if self.reason is not None:
            return None
        found = self._results.get(content_key(*self._context, _digest(state)), lambda: self._measure(state))
        self.reason, self.inputs, self.samples = found.get("reason"), found["inputs"], found["samples"]
        return None if self.reason is not None else found["agreement"]

    def _measure(self, state: State) -> dict[str, Any]:
        from corelocker.audit.agreement.runners import CannotRunError

        try:
            examined = self._examined = self._examined or self._examine()
            same = all(np.array_equal(state[name], data) for name, data in self._original.items())
            found = examined.compare(self._original if same else state)
        except (CannotRunError, CoreLockerError) as error:
            return {"reason": str(error), "inputs": "", "samples": 0}
        return {
            "agreement": {"kind": found.kind, "value": found.value, "chance": found.chance, "error": found.error},
            "inputs": examined.inputs,
            "samples": examined.count,
        }

    def _examine(self) -> Any:
        from corelocker.audit.agreement.examined import Examined
        from corelocker.locking.criteria.synthetic import InputStats

        options = self._options
        is_factory = ":" in options.model and not Path(options.model).exists()
        stats = options.input_stats
        return Examined(
            self._locked.original,
            factory=options.module or (options.model if is_factory else None),
            stats=InputStats.parse(stats) if stats else None,
            seconds=UNBOUNDED,
        )


def _digest(state: State) -> str:
    sha256 = hashlib.sha256()
    for name in sorted(state):
        sha256.update(hashlib.sha256(state[name].data).digest())
    return sha256.hexdigest()
