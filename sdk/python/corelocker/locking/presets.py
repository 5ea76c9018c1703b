"""Ready-made ways to lock. What each costs and withstands on public checkpoints stands in docs/audit.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from corelocker.locking.criteria import Criterion
from corelocker.locking.plan import Fill, Scope

PresetName = Literal["minimal", "balanced", "hardened"]


@dataclass(frozen=True)
class Preset:
    """Options of `corelocker lock`; each can be given beside the preset and then counts instead.

    Attributes:
        criterion, scope, fill, include_io: as for `lock`.
        removed: fraction of channels that the free tier keeps locked, where it is fixed.
        margin: lock this many times the bytes at which the output collapses, where the model decides.
        share: of the weights' bytes that are locked, spread as `corelocker.locking.hardened` says.
    """

    criterion: Criterion
    scope: Scope
    fill: Fill
    include_io: bool
    removed: float | None = None
    margin: float | None = None
    share: float | None = None


def preset(name: PresetName) -> Preset:
    """`minimal`: the fewest bytes at which the model is at chance. Anyone who can train brings it back.

    `balanced`: a tenth of the channels of every inner layer.

    `hardened`: so much, and so spread, that training from what is left is worth little more than starting over.
    """
    from corelocker.locking.hardened import HARDENED_SHARE

    return {
        "minimal": Preset("sensitivity", "global", "decoy", True, margin=2.0),
        "balanced": Preset("sensitivity", "layer", "decoy", False, removed=0.1),
        "hardened": Preset("l1", "layer", "decoy", True, share=HARDENED_SHARE),
    }[name]


PRESETS: tuple[PresetName, ...] = get_args(PresetName)
