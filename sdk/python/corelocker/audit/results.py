"""What an attack found, in the form that the report shows and a work folder keeps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SMALLEST_GAP = 0.05  # of a proportion's range, or of the original's value: below it a share of the gap is noise


@dataclass(frozen=True)
class AttackResult:
    """One attack on one tier with one budget. Utilities are in the metric's unit (top-1: a fraction between 0 and 1).

    Attributes:
        name: stable and kebab-case: "fine-tune", "bn-recalibration", "location-l1".
        title: the same in words, with what matters of the budget ("Fine-tuning with 10 % of the training data").
        tier: the tier that was attacked.
        metric: what the numbers are ("top-1", "perplexity", "auc" for a location search).
        budget: what the attacker was given: data fraction, samples, epochs, learning rate, ... (JSON values only).
        locked: what the attacker starts from; 0.5 for a location search.
        recovered: what the attacker ends with.
        original: the unlocked model; 1.0 for a location search.
        baseline: the same budget without the locked model (training from scratch with the same data), or what a blind
            guess gets; None where there is no such thing.
        baseline_name: in words.
        higher_is_better: false for perplexity.
        seconds: time it took, for the record; never part of a comparison of two runs.
        details: everything else worth keeping (curves over epochs, per-layer values); JSON values only.
    """

    name: str
    title: str
    tier: str
    metric: str
    budget: dict[str, Any]
    locked: float
    recovered: float
    original: float
    baseline: float | None = None
    baseline_name: str = ""
    higher_is_better: bool = True
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def gained(self) -> float:
        """How much better than the locked model the attacker ends; positive is a gain in either direction of the metric."""
        return self._better(self.recovered, self.locked)

    @property
    def leaked(self) -> float | None:
        """How much better than the baseline the attacker ends: what the locked model was worth to them. None without one."""
        return None if self.baseline is None else self._better(self.recovered, self.baseline)

    @property
    def needs_no_labels(self) -> bool:
        """Whether the attacker has no labels: then the locked model is what the attack competes with, not training from scratch."""
        return self.metric != "auc" and (not self.budget.get("samples") or self.budget.get("labels") == 0)

    @property
    def regained(self) -> float | None:
        """The share of the gap regained: (attack - from scratch) / (original - from scratch).

        Without labels, or without a baseline, the gap begins at the locked model. Perplexities are compared by their
        logarithms. A share below 0 means that the attacker does better without the locked file.

        None for a location search, and where the gap is below `SMALLEST_GAP`: there is nothing to regain.
        """
        if self.metric == "auc":
            return None
        start = self.locked if self.baseline is None or self.needs_no_labels else self.baseline
        attack, start, end = self.recovered, start, self.original
        if self.metric == "perplexity":
            attack, start, end = (-math.log(max(value, 1e-9)) for value in (attack, start, end))
        elif not self.higher_is_better:
            attack, start, end = -attack, -start, -end
        proportion = self.metric.startswith("top-")
        if not end - start >= SMALLEST_GAP * (1.0 if proportion or self.metric == "perplexity" else abs(end)):
            return None
        return (attack - start) / (end - start)

    def _better(self, a: float, b: float) -> float:
        return a - b if self.higher_is_better else b - a

    def to_json(self) -> dict[str, Any]:
        """All fields, and the three derived numbers."""
        return asdict(self) | {"gained": self.gained, "leaked": self.leaked, "regained": self.regained}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> AttackResult:
        """The inverse of `to_json`; unknown keys are ignored. Raises TypeError when one is missing."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in document.items() if key in known})
