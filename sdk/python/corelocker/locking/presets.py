"""Ready-made ways to lock. What each costs and withstands on public checkpoints stands in docs/audit.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from corelocker.artifacts import Artifact
from corelocker.locking.options import CriterionName, Fill, PresetName, Scope


@dataclass(frozen=True)
class Preset:
    """Options of `corelocker lock`; each can be given beside the preset and then counts instead.

    Attributes:
        criterion, scope, fill, include_io: as for `lock`.
        removed: fraction of channels that the free tier keeps locked, where it is fixed.
        margin: lock this many times the bytes at which the output collapses, where the model decides.
        share: of the weights' bytes that are locked, spread as `corelocker.locking.hardened` says.
    """

    criterion: CriterionName
    scope: Scope
    fill: Fill
    include_io: bool
    removed: float | None = None
    margin: float | None = None
    share: float | None = None


def preset(name: PresetName) -> Preset:
    """`minimal`: the fewest bytes at which the model is at chance. Anyone who can train brings it back.

    `balanced`: a tenth of the channels of every inner layer.

    `hardened`: so much, and so spread, that training from what is left is worth little more than starting over; not so for every
    model, see `caveat`. Without the layers that read the locked channels: for the same bytes they hold worse (docs/audit.md).
    """
    from corelocker.locking.hardened import HARDENED_SHARE

    return {
        "minimal": Preset("sensitivity", "global", "decoy", True, margin=2.0),
        "balanced": Preset("sensitivity", "layer", "decoy", False, removed=0.1),
        "hardened": Preset("l1", "layer", "decoy", True, share=HARDENED_SHARE),
    }[name]


def caveat(name: PresetName, artifacts: Sequence[Artifact]) -> str | None:
    """Why what a preset promises was not shown for these models; None where it was measured on models like them.

    Known by their embeddings: a transformer without any, as one for images may be, is not recognized.
    """
    tables = {artifact.path.name for artifact in artifacts for t in artifact.tensors if t.role == "embedding"}
    if name != "hardened" or not tables:
        return None
    return (
        f"{', '.join(sorted(tables))}: of models with embeddings, hardened was shown to withstand fine-tuning on two small "
        "language models only. Measure yours with corelocker audit"
    )


PRESETS: tuple[PresetName, ...] = get_args(PresetName)
