"""The next layers' weights that read a locked channel (CoreLocker takes them with the channel)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from corelocker.artifacts import Artifact
from corelocker.locking.groups import Member
from corelocker.locking.layout import TierMap


@dataclass
class ConsumerLocks:
    """What `--consumers` adds to a plan.

    Attributes:
        rows: for each artifact, depthwise tensor -> channels locked because their input is (uint8 tiers).
        columns: for each artifact, tensor -> input channels locked (uint8 tiers).
        not_followed: for each artifact, tensor -> why its consumers, or its inputs, stay.
    """

    rows: list[dict[str, TierMap]] = field(default_factory=list)
    columns: list[dict[str, TierMap]] = field(default_factory=list)
    not_followed: list[dict[str, str]] = field(default_factory=list)


def follow_consumers(
    artifacts: Sequence[Artifact],
    tier_of: Sequence[dict[str, TierMap]],
    left_alone: Sequence[dict[str, str]],
    groups: list[list[Member]],
) -> ConsumerLocks:
    """Follow every locked channel to the layers that read it, through depthwise layers to what lies behind them.

    Copies of a layer get the same locks: where one copy's input channels cannot be taken, all copies keep theirs. At least one
    input channel of a layer stays, as one of its own channels does: decoys are drawn from what is left.
    """
    found = ConsumerLocks([{} for _ in artifacts], [{} for _ in artifacts], [{} for _ in artifacts])
    for index, artifact in enumerate(artifacts):
        _follow(artifact, tier_of[index], left_alone[index], found, index)
    for group in groups:
        _agree(group, found)
        for member in group:
            _leave_one(member, tier_of[member.artifact], found)
    return found


def _follow(
    artifact: Artifact, tier_of: dict[str, TierMap], left_alone: dict[str, str], found: ConsumerLocks, index: int
) -> None:
    tensors = {t.name: t for t in artifact.tensors}
    waiting = [(name, map_) for name, map_ in tier_of.items() if map_.any()]
    while waiting:
        name, map_ = waiting.pop()
        if name in artifact.untraced:
            found.not_followed[index][name] = artifact.untraced[name]
        for edge in artifact.edges.get(name, ()):
            consumer = tensors[edge.consumer]
            if edge.consumer in left_alone:
                found.not_followed[index][edge.consumer] = f"left alone: {left_alone[edge.consumer]}"
                continue
            table, size = found.columns[index], consumer.inputs.channels if consumer.inputs else 0
            if consumer.role == "depthwise":
                table, size = found.rows[index], consumer.channels
            elif consumer.inputs is None:
                found.not_followed[index][edge.consumer] = "an input channel of it is not a run of whole bytes"
                continue
            locked = table.setdefault(edge.consumer, np.zeros(size, np.uint8))
            spread = np.repeat(map_, edge.block)
            if edge.first + spread.size > size:
                found.not_followed[index][edge.consumer] = (
                    "reads its input in another shape than the producer writes it"
                )
                continue
            place = locked[edge.first : edge.first + spread.size]
            grown = np.maximum(place, spread)
            if consumer.role == "depthwise" and (grown > place).any():
                waiting.append((edge.consumer, np.maximum(grown, tier_of.get(edge.consumer, np.zeros(size, np.uint8)))))
            place[:] = grown


def _agree(group: list[Member], found: ConsumerLocks) -> None:
    for table in (found.rows, found.columns):
        maps = [table[m.artifact][m.tensor.name] for m in group if m.tensor.name in table[m.artifact]]
        if not maps or len(group) == 1:
            continue
        possible = table is found.rows or all(m.tensor.inputs is not None for m in group)
        same = len({m.size for m in maps}) == 1
        for member in group:
            table[member.artifact].pop(member.tensor.name, None)
            if possible and same:
                table[member.artifact][member.tensor.name] = np.maximum.reduce(maps)
            else:
                found.not_followed[member.artifact][member.tensor.name] = (
                    "a copy of this layer cannot lock its input channels"
                )


def _leave_one(member: Member, tier_of: dict[str, TierMap], found: ConsumerLocks) -> None:
    """Where all channels, or all input channels, would be locked, the first of those that the earliest tier restores stays."""
    name = member.tensor.name
    columns, rows = found.columns[member.artifact].get(name), found.rows[member.artifact].get(name)
    if columns is not None and columns.all():
        columns[columns.argmin()] = 0
    if rows is not None:
        own = tier_of.get(name, np.zeros_like(rows))
        if np.maximum(rows, own).all() and not own.all():
            rows[np.where(own == 0, rows, 255).argmin()] = 0
