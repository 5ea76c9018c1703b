"""How to lock: the options of `corelocker lock`, of a build script and of `[lock]` in a corelocker.toml.

Imports little, so that wrong options are told before anything else begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corelocker.locking.tiers import Tier, Unit, parse_tiers

CriterionName = Literal["l1", "bn-scale", "random", "sensitivity"]
Scope = Literal["layer", "global"]
Fill = Literal["zero", "decoy"]
PresetName = Literal["minimal", "balanced", "hardened", "cover"]

DEFAULT_PRESET: PresetName = "hardened"
MEASURE_SECONDS = 600
DEFAULT_TIERS = {"value": "free=0.05,full=0", "sign": "free=1,full=0"}


class LockWarning(UserWarning):
    """A lock may be worth less than its options promise."""


@dataclass(frozen=True)
class LockOptions:
    """How to lock. Without `preset`, `tiers`, `criterion`, `scope`, `fill` and `consumers`, and with no unit but "sign", the preset
    is "hardened".

    Attributes:
        preset: named options; whatever is given beside it counts instead.
        unit: what is taken of a locked channel: "value", all its bytes, or "sign", one bit a weight; by default the preset's, or
            "value". Signs are not taken with `consumers` or with the fill "zero".
        tiers: in order; by default the preset's, or DEFAULT_TIERS. A fraction of 1 takes the signs of all channels.
        criterion: what ranks channels; by default the preset's, or "l1". "sensitivity" runs the model and needs `model`.
        scope: rank within each layer or over the whole network; by default the preset's, or "global" for sensitivity, else
            "layer".
        fill: what stands in the place of locked channels; by default the preset's, or "decoy".
        consumers: whether the next layers' weights that read a locked channel are locked too.
        include_io: whether input and output layers may be locked like any other; with a preset they always may.
        exclude: patterns (as of fnmatch) of layers that are left alone.
        source: training checkpoint (.safetensors), for bn-scale and l1 of a model whose BatchNorms are folded.
        seed: makes the lock repeatable. Whoever knows it can find the decoys: it is secret.
        plan: a saved plan, whose channels are locked; then what chooses channels does not count.
        save_plan: where the plan is saved. It tells where the access key was: it is secret.
        model: `package.module:factory` of the trained torch module, for sensitivity and to measure a checkpoint.
        input_stats: MEAN[,MEAN...]/STD[,STD...] of the model's input, for sensitivity and for `samples` that are images.
        samples: inputs on which the locked model is measured: .npy, .npz or a folder of images; synthetic ones without.
        measure_seconds: by the clock, for which one lock may run its files, however often it is drawn. 0 measures nothing. What was
            run on too few inputs by then counts as not measured.
        base: the public checkpoint that the model was tuned from: an artifact of any format, or what `torch.save` wrote. The lock
            is held to what the base gives away, and the preset "hardened" takes by value what tuning changed most of layers whose
            signs the base has.
        forget_earlier_locks: for a model id of which no locked file was ever published: what earlier locks took does not count.
    """

    preset: PresetName | None = None
    unit: Unit | None = None
    tiers: Sequence[Tier] | None = None
    criterion: CriterionName | None = None
    scope: Scope | None = None
    fill: Fill | None = None
    consumers: bool = False
    include_io: bool = False
    exclude: Sequence[str] = ()
    source: Path | None = None
    seed: str | None = None
    plan: Path | None = None
    save_plan: Path | None = None
    model: str | None = None
    input_stats: str | None = None
    samples: Path | None = None
    measure_seconds: float = MEASURE_SECONDS
    base: Path | None = None
    forget_earlier_locks: bool = False

    @property
    def effective_preset(self) -> PresetName | None:
        """The preset that counts; None for a lock by fractions or by a saved plan."""
        if self.preset is not None or self.plan is not None:
            return self.preset
        chosen = (self.tiers, self.criterion, self.scope, self.fill, self.source)
        given = self.consumers or self.unit == "value" or any(value is not None for value in chosen)
        return None if given else DEFAULT_PRESET

    @property
    def ranks_by_sensitivity(self) -> bool:
        """Whether the torch module is run to rank channels."""
        return self.criterion == "sensitivity"


def default_tiers(unit: Unit) -> tuple[Tier, ...]:
    """The tiers where none are given and no preset has its own."""
    return parse_tiers(DEFAULT_TIERS[unit], unit)


def default_unit(preset: PresetName | None) -> Unit:
    """The unit of a preset, and of a lock by fractions."""
    return "value" if preset in (None, "cover") else "sign"
