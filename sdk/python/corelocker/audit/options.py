"""What to audit and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.locking.criteria import Scores
from corelocker.locking.options import CriterionName, Fill, Scope
from corelocker.locking.plan import Plan
from corelocker.progress import Progress

if TYPE_CHECKING:
    from corelocker.bundle.clkey import KeyBundle


Scorer = Callable[[WeightTensor], Scores]


@dataclass(frozen=True)
class AuditOptions:
    """What to audit and how.

    Attributes:
        model: a finished model (locked or not), or `package.module:factory` of a torch module.
        data: `.npz` or `package.module:function`; see `load_data`.
        module: `package.module:factory` of the module behind an artifact: needed to run checkpoints, to attack and to bound.
        train_data: what the attacker has; half of `data` when there is none.
        base: the public checkpoint that the model was tuned from, or a finished model; see `base_state`.
        published: files of the model that were published earlier; the audit puts this one together with them.
        metric: see `load_metric`.
        tiers, criterion, scope, fill, consumers, include_io, exclude, source, plan: how to lock an unlocked model, as for
            `corelocker lock`. `criterion` also ranks the curve.
        seed: of everything.
        quick: fewer samples, points and attacks.
        attacks: whether to run them.
        work: folder for finished pieces; an audit that is started again goes on from there.
        input_stats: for `sensitivity`, as for `corelocker lock`.
        choose: makes the plan of (artifacts, seed, scorer, progress) in place of the options above, for a preset.
        preset: the preset's name, for the report.
    """

    model: str
    data: str
    module: str | None = None
    train_data: str | None = None
    base: Path | None = None
    published: Sequence[Path] = ()
    metric: str = "top-1"
    tiers: str = "free=0.05,full=0"
    criterion: CriterionName = "l1"
    scope: Scope = "layer"
    fill: Fill = "decoy"
    consumers: bool = False
    include_io: bool = False
    exclude: Sequence[str] = ()
    source: Path | None = None
    plan: Path | None = None
    seed: int = 0
    quick: bool = False
    attacks: bool = True
    work: Path | None = None
    input_stats: str | None = None
    choose: Callable[[Sequence[Artifact], bytes, Scorer, Progress], Plan] | None = None
    preset: str | None = None


@dataclass(frozen=True)
class LockedInput:
    """How to open a locked model.

    Attributes:
        bundle: its key bundle.
        content_key: of the top tier, 32 bytes.
        files: (path, artifact, file) of each of its files: where it is, and its indexes in the bundle.
    """

    bundle: KeyBundle
    content_key: bytes = field(repr=False)
    files: Sequence[tuple[Path, int, int]]
