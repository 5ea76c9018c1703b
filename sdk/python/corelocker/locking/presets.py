"""Ready-made ways to lock. What each costs and withstands on public checkpoints stands in docs/audit.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from corelocker.artifacts import Artifact
from corelocker.locking.options import CriterionName, Fill, PresetName, Scope
from corelocker.locking.tiers import Unit


@dataclass(frozen=True)
class Preset:
    """Options of `corelocker lock`; each can be given beside the preset and then counts instead.

    Attributes:
        unit, criterion, scope, fill: as for `lock`. Input and output layers may be locked like any other; `cover` leaves the last
            one, which whoever has labels learns anew at once.
        removed: fraction of channels that the free tier keeps locked, where it is fixed.
        by_value: share of the bytes that is locked by value in layers whose signs cannot be taken, or cost too much.
        cover: share of the weights' bytes that are locked, spread as `corelocker.locking.hardened` says.
        searched: whether the fewest bytes are found by running the model.
    """

    unit: Unit
    criterion: CriterionName
    scope: Scope
    fill: Fill
    removed: float | None = None
    by_value: float | None = None
    cover: float | None = None
    searched: bool = False


VALUE_SHARE = 0.125  # as int8 pays for its signs


def preset(name: PresetName) -> Preset:
    """`hardened`: the signs of all weights of all layers. No ranking. What it withstands stands in docs/audit.md.

    `balanced`: the signs of the half of each layer's channels with the largest norms.

    `minimal`: the fewest bytes at which the model is at chance, found by running it. Anyone who can train brings it back.

    `cover`: by value, and so spread that training from what is left is worth little more than starting over; not so for every
    model, see `caveat`. Without the layers that read the locked channels: for the same bytes they hold worse (docs/audit.md).
    """
    from corelocker.locking.hardened import HARDENED_SHARE

    return {
        "hardened": Preset("sign", "l1", "layer", "decoy", removed=1.0, by_value=VALUE_SHARE),
        "balanced": Preset("sign", "l1", "layer", "decoy", removed=0.5, by_value=VALUE_SHARE),
        "minimal": Preset("sign", "l1", "layer", "decoy", searched=True),
        "cover": Preset("value", "l1", "layer", "decoy", cover=HARDENED_SHARE),
    }[name]


def caveat(name: PresetName, artifacts: Sequence[Artifact]) -> str | None:
    """Why what a preset promises was not shown for these models; None where it was measured on models like them.

    Known by their layers: a transformer without embeddings, as one for images may be, is not recognized.
    """
    found = {artifact.path.name for artifact in artifacts for t in artifact.tensors if t.role == "embedding"}
    if name != "cover" or not found:
        return None
    return (
        f"{', '.join(sorted(found))}: of models with embeddings, cover was shown to withstand fine-tuning on two small "
        "language models only. Measure yours with corelocker audit"
    )


PRESETS: tuple[PresetName, ...] = get_args(PresetName)
