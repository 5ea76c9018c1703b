"""What needs the torch module: attacks and bounds, with the same channels locked as in the artifact."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corelocker.artifacts import Artifact
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.audit.base_state import base_state
from corelocker.audit.data import DataSet, Metric, load_data
from corelocker.audit.models import lock_model, tier_states
from corelocker.audit.opening import AuditedModel
from corelocker.audit.options import AuditOptions
from corelocker.audit.results import AttackResult
from corelocker.errors import ConfigError, LockingError
from corelocker.locking.groups import group_layers
from corelocker.locking.tiers import Tier
from corelocker.progress import Progress

if TYPE_CHECKING:
    from torch import nn

    from corelocker.audit.attacks import AttackBudget


BOUND_SAMPLES = 64


class ModuleAudit:
    """The module with the same channels locked as in the artifact."""

    def __init__(self, options: AuditOptions, locked: AuditedModel) -> None:
        assert locked.module is not None  # noqa: S101 - the caller has looked
        self._options, self._locked, self._module = options, locked, locked.module
        if locked.original.format == "safetensors":
            states = tier_states(locked.original, locked.tiers, locked.coverage, locked.unit)
            self._original = states[-1].state
            self._shipped = states[0]
        else:
            found = lock_model(
                self._module,
                tiers=[Tier(name, 1 - (i + 1) / len(locked.names)) for i, name in enumerate(locked.names)],
                fill=locked.fill,
                seed=f"audit/{options.seed}",
                tier_of=_matched(self._module, locked.original, {m.name: m.tier_of for m in locked.layers}),
                unit=locked.unit,
            )
            self._original, self._shipped = found.original, found.shipped
            locked.notes.append(
                "Attacks and bounds: the torch module with the same channels locked, recognized by their weights; "
                "what the exporter folded or quantized is not."
            )

    def bounds(self, data: DataSet, progress: Progress) -> dict[str, Any] | None:
        """The bounds of the shipped tier, or None where the module cannot be traced."""
        from corelocker.audit.bounds import bounds

        progress("bounds", 0, 1)
        inputs = data.shuffled(self._options.seed).take(slice(BOUND_SAMPLES)).x
        try:
            found = bounds(self._module, self._original, self._shipped.state, inputs)
        except LockingError as error:
            self._locked.notes.append(f"No bounds: {error}")
            return None
        progress("bounds", 1, 1)
        return asdict(found)

    def attack(
        self,
        data: DataSet,
        rest: DataSet | None,
        metric: Metric,
        progress: Progress,
        only: Sequence[str] | None = None,
        budget: AttackBudget | None = None,
    ) -> tuple[list[AttackResult], str]:
        """Every attack, and a sentence about the attacker's data.

        Args:
            rest: samples that nothing was measured on.
            only: names of attacks, by their beginning; all if None.
            budget: in place of the options' own.
        """
        from corelocker.audit.attacks import FULL, QUICK, AttackTarget, run_attacks, suited

        options = self._options
        if options.train_data is not None:
            train, test = load_data(options.train_data, self._locked.example), data
            told = f"{train.name}, {len(train):,} samples; attacks are measured on the whole of {data.name}"
        elif rest is not None and len(rest) >= len(data) // 2:
            train, test = rest, data
            told = f"no training data was given: {len(train):,} other samples of {data.name} stand in for it"
        else:
            train, test = data.split(0.5, options.seed)
            told = (
                f"no training data was given: half of {data.name} ({len(train):,} samples) stands in for it, and attacks are "
                "measured on the other half"
            )
        target = AttackTarget(
            self._module, self._original, self._shipped.state, self._shipped.channels, self._shipped.elements,
            train, test, metric, self._shipped.name,
            None if options.base is None else base_state(options.base, self._original), self._shipped.signs,
        )  # fmt: skip
        found = run_attacks(
            target,
            suited(budget or (QUICK if options.quick else FULL), self._module),
            seed=options.seed,
            only=only,
            work=None if options.work is None else options.work / "attacks",
            progress=lambda done, total, title: progress("attacks", done, total),
        )
        return found, told


def _matched(module: nn.Module, artifact: Artifact, tier_of: dict[str, Any]) -> dict[str, Any]:
    """Tier maps by the module's own names: layers are recognized by their weights, through folding and quantization."""
    with tempfile.TemporaryDirectory(prefix="corelocker-audit-") as folder:
        checkpoint = open_state(plain_state(module), Path(folder) / "model.safetensors")
        found = {}
        for group in group_layers([checkpoint, artifact]):
            maps = [tier_of[m.tensor.name] for m in group if m.artifact == 1]
            for member in group:
                if member.artifact == 0 and maps:
                    found[member.tensor.name] = maps[0]
    if not any(m.any() for m in found.values()):
        raise ConfigError("the module is another model than the artifact", hint="Name its own factory with --model")
    return found
