"""How well an artifact works in each state: original, every tier, restored, and along a curve of removed fractions.

One `Subject` for all formats: the bytes of its files in a given state go through the runtime that would run them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.audit.data import DataSet, Interval, Metric
from corelocker.audit.evaluators import Evaluator
from corelocker.audit.result_cache import ResultCache, content_key
from corelocker.audit.tier_bytes import State, TierBytes, states_of_plan
from corelocker.errors import LockingError
from corelocker.locking.criteria import Scores
from corelocker.locking.options import CriterionName, Fill, Scope
from corelocker.locking.planning import make_plan
from corelocker.locking.tiers import Tier
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    pass


QUICK_FRACTIONS = (0.20, 0.10, 0.05, 0.02, 0.01, 0.005)
FRACTIONS = (0.50, 0.30, 0.20, 0.15, 0.10, 0.075, 0.05, 0.03, 0.02, 0.01, 0.005, 0.0025)


@dataclass(frozen=True)
class TierUtility:
    """A tier and what it is worth."""

    name: str
    removed: float
    locked_bytes: int
    locked_fraction: float
    patch_bytes: int
    utility: Interval


@dataclass(frozen=True)
class CurvePoint:
    """Utility when a fraction of the channels is removed.

    `series` is the criterion, "random" the baseline: its value is the mean over `repeats` draws, its interval at least their
    range.
    """

    series: str
    removed: float
    locked_bytes: int
    locked_fraction: float
    utility: Interval
    repeats: int = 1


@dataclass
class Subject:
    """What is audited.

    Attributes:
        artifact: the original.
        evaluator: runs it.
        data, metric: how its utility is measured.
        seed: of bootstraps.
        work: keeps finished measurements.
    """

    artifact: Artifact
    evaluator: Evaluator
    data: DataSet
    metric: Metric
    seed: int = 0
    work: ResultCache = field(default_factory=ResultCache)
    _data_digest: str = field(default="", init=False)
    _width: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._data_digest = self.data.digest()

    def utility(self, state: State) -> Interval:
        """The metric in this state, from `work` when it was measured before."""
        key = content_key(
            "utility", self.artifact.format, *(bytes(hashlib.sha256(d.data).digest()) for d in state.values()),
            self._data_digest, self.metric.identity, self.seed, self.evaluator.identity,
        )  # fmt: skip

        def measure() -> dict[str, float]:
            measured, width = self.evaluator.outputs(state, self.data, self.metric)
            return asdict(self.metric.interval(measured, self.seed)) | {"outputs": width}

        found = self.work.get(key, measure)
        self._width = int(found["outputs"])
        return Interval(found["value"], found["low"], found["high"])

    @property
    def chance(self) -> float | None:
        """What a blind guess gets, once something was measured; see `Metric.chance`."""
        return self.metric.chance(self.data.y, self._width)

    def tiers(self, tiers: Sequence[TierBytes], progress: Progress = no_progress) -> list[TierUtility]:
        """Measure every tier."""
        found = []
        for done, tier in enumerate(tiers):
            progress("tiers", done, len(tiers))
            found.append(
                TierUtility(
                    tier.name, tier.removed, tier.locked_bytes, tier.locked_fraction, tier.patch_bytes,
                    self.utility(tier.files),
                )
            )  # fmt: skip
        progress("tiers", len(tiers), len(tiers))
        return found

    def curve(
        self,
        fractions: Sequence[float],
        score: Callable[[WeightTensor], Scores],
        *,
        criterion: CriterionName,
        scope: Scope = "layer",
        fill: Fill = "decoy",
        consumers: bool = False,
        include_io: bool = False,
        exclude: Sequence[str] = (),
        repeats: int = 1,
        stage: str = "curve",
        progress: Progress = no_progress,
    ) -> list[CurvePoint]:
        """Lock the artifact at each of the fractions with the given scores (nested, as tiers are) and measure.

        `repeats` draws other decoys with other seeds, and with criterion "random" other channels; their mean is the value.
        """
        steps = sorted({f for f in fractions if 0 < f < 1}, reverse=True)
        if not steps:
            raise LockingError("a curve needs fractions between 0 and 1")
        tiers = [Tier(f"f{i}", f) for i, f in enumerate(steps)] + [Tier("full", 0.0)]
        drawn: list[list[tuple[TierBytes, Interval]]] = []
        for repeat in range(repeats):
            secret = f"curve/{self.seed}/{repeat}".encode()
            plan = make_plan(
                [self.artifact],
                tiers,
                _random(secret) if criterion == "random" else score,
                criterion=criterion,
                scope=scope,
                fill=fill,
                seed=secret,
                consumers=consumers,
                include_io=include_io,
                exclude=exclude,
            )
            states, _, _ = states_of_plan(self.artifact, plan)
            row = []
            for place, state in enumerate(states[:-1]):
                progress(stage, repeat * len(steps) + place, repeats * len(steps))
                row.append((state, self.utility(state.files)))
            drawn.append(row)
        progress(stage, repeats * len(steps), repeats * len(steps))
        return [
            _mean_point(criterion, fraction, [row[place] for row in drawn]) for place, fraction in enumerate(steps)
        ][::-1]


def _random(secret: bytes) -> Callable[[WeightTensor], Scores]:
    from corelocker.locking.criteria import random_scores

    return lambda tensor: random_scores(tensor, secret)


def _mean_point(series: str, fraction: float, drawn: Sequence[tuple[TierBytes, Interval]]) -> CurvePoint:
    values = [i.value for _, i in drawn]
    return CurvePoint(
        series,
        fraction,
        round(float(np.mean([s.locked_bytes for s, _ in drawn]))),
        float(np.mean([s.locked_fraction for s, _ in drawn])),
        Interval(float(np.mean(values)), min(i.low for _, i in drawn), max(i.high for _, i in drawn)),
        len(drawn),
    )
