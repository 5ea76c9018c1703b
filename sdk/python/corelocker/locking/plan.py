"""Which channels are locked in which tier.

A plan is made from scores, can be saved and replayed, and tells an attacker everything about the location of the access key:
it belongs with the publisher's secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact
from corelocker.errors import FileAccessError, PlanError
from corelocker.files import write_atomically
from corelocker.locking.groups import Member
from corelocker.locking.options import Fill
from corelocker.locking.signs.reading import Signs, read_signs
from corelocker.locking.tiers import Tier, Unit, check_tiers

TierMap = npt.NDArray[np.uint8]
MAX_PLAN = 256 << 20


@dataclass(frozen=True)
class LayerSize:
    """A layer in the order of execution: its name, channels, and bytes with all that belongs to its channels."""

    name: str
    channels: int
    size: int


def member_signs(signs: Sequence[Mapping[str, Signs | str]], member: Member) -> Signs | None:
    """The signs of a tensor that is locked by sign; None where it is locked by value."""
    found = signs[member.artifact][member.tensor.name] if signs else None
    return found if isinstance(found, Signs) else None


@dataclass
class Plan:
    """The channels that are locked.

    Attributes:
        tiers: in order; the first ships.
        fill, seed: how and with which secret randomness the locked bytes are drawn.
        consumers: whether the next layer's weights that read a locked channel are locked too.
        criterion, scope: how the channels were chosen, for the record.
        tier_of: for each artifact (in the order of locking) tensor name -> uint8 (channels,): the tier whose patch restores the
            channel, 0 where it is not locked.
        left_alone: lockable tensors that the plan does not touch, with the reason.
        groups: layers with the same weights, where they were looked for already.
        unit: what is taken of a locked channel.
        signs: for the unit "sign", for each artifact tensor -> its signs, or why it is locked by value.
    """

    tiers: tuple[Tier, ...]
    fill: Fill
    seed: bytes
    consumers: bool
    criterion: str
    scope: str
    tier_of: list[dict[str, TierMap]]
    names: list[str] = field(default_factory=list)
    left_alone: list[dict[str, str]] = field(default_factory=list)
    groups: list[list[Member]] = field(default_factory=list, repr=False)
    unit: Unit = "value"
    signs: list[dict[str, Signs | str]] = field(default_factory=list, repr=False)

    def signs_of(self, member: Member) -> Signs | None:
        """The signs of a tensor that is locked by sign; None where it is locked by value."""
        return member_signs(self.signs, member)

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write the plan as JSON, readable by its owner only."""
        artifacts = []
        signs = self.signs or [{} for _ in self.names]
        for name, tiers, left_alone, found in zip(self.names, self.tier_of, self.left_alone, signs, strict=True):
            layers = {
                tensor: {
                    "channels": len(tier_of),
                    "tiers": {
                        str(t): np.flatnonzero(tier_of == t).tolist()
                        for t in range(1, len(self.tiers))
                        if (tier_of == t).any()
                    },
                }
                | ({"by_value": found[tensor]} if isinstance(found.get(tensor), str) else {})
                for tensor, tier_of in tiers.items()
                if tier_of.any()
            }
            artifacts.append({"name": name, "tensors": layers, "left_alone": left_alone})
        document = {
            "format": "corelocker-plan",
            "version": 2,
            "unit": self.unit,
            "tiers": [{"name": t.name, "removed": t.removed, "utility": t.utility} for t in self.tiers],
            "criterion": self.criterion,
            "scope": self.scope,
            "fill": self.fill,
            "consumers": self.consumers,
            "seed": self.seed.hex(),
            "artifacts": artifacts,
        }
        with write_atomically(path, force=force, mode=0o600) as file:
            file.write(json.dumps(document, indent=1).encode() + b"\n")

    @classmethod
    def load(cls, path: Path, artifacts: Sequence[Artifact]) -> Plan:
        """Read a plan and fit it to these artifacts, by name or, where no name matches, by place.

        Raises FileAccessError, or PlanError when the plan is damaged or names what the artifacts do not have.
        """
        try:
            if path.stat().st_size > MAX_PLAN:
                raise PlanError(f"{path}: larger than {MAX_PLAN} bytes")
            document = json.loads(path.read_bytes())
        except OSError as error:
            raise FileAccessError(f"{path}: {error.strerror or error}") from None
        except (ValueError, RecursionError):
            raise PlanError(f"{path}: not JSON") from None
        try:
            return cls._fit(document, artifacts)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            raise PlanError(f"{path}: not a plan of this version, or damaged") from None

    @classmethod
    def _fit(cls, document: dict[str, Any], artifacts: Sequence[Artifact]) -> Plan:
        if document["format"] != "corelocker-plan" or document["version"] != 2:
            raise ValueError
        unit = document["unit"]
        if unit not in get_args(Unit):
            raise ValueError
        tiers = check_tiers([_read_tier(tier) for tier in document["tiers"]], unit)
        if document["fill"] not in ("zero", "decoy"):
            raise ValueError
        saved = document["artifacts"]
        if len(saved) != len(artifacts):
            raise PlanError(f"the plan is for {len(saved)} artifacts, {len(artifacts)} were given")
        by_name = {a["name"]: a for a in saved}
        tier_of = []
        signs: list[dict[str, Signs | str]] = read_signs(artifacts) if unit == "sign" else [{} for _ in artifacts]
        left_alone: list[dict[str, str]] = []
        for index, artifact in enumerate(artifacts):
            entry = by_name.get(artifact.path.name, saved[index])
            layers = {t.name: t for t in artifact.tensors}
            chosen: dict[str, TierMap] = {}
            for name, layer in entry["tensors"].items():
                if name not in layers or layers[name].channels != layer["channels"]:
                    raise PlanError(
                        f"{artifact.path.name}: the plan names {name!r} with {layer['channels']} channels, which it has not"
                    )
                map_ = np.zeros(layer["channels"], np.uint8)
                for tier, channels in layer["tiers"].items():
                    if not 1 <= int(tier) < len(tiers):
                        raise ValueError
                    where = np.asarray(channels, np.int64)
                    if where.ndim != 1 or (where.size and (where.min() < 0 or where.max() >= map_.size)):
                        raise ValueError
                    map_[where] = int(tier)
                chosen[name] = map_
                if unit == "sign" and "by_value" in layer:
                    signs[index][name] = str(layer["by_value"])
            tier_of.append(chosen)
            # Consumers stay out of these.
            left_alone.append({n: str(reason) for n, reason in entry["left_alone"].items() if n in layers})
        return cls(
            tiers, document["fill"], bytes.fromhex(document["seed"]), bool(document["consumers"]), str(document["criterion"]),
            str(document["scope"]), tier_of, [a.path.name for a in artifacts], left_alone, unit=unit,
            signs=signs if unit == "sign" else [],
        )  # fmt: skip


def _read_tier(entry: dict[str, Any]) -> Tier:
    utility = entry.get("utility")
    return Tier(str(entry["name"]), float(entry["removed"]), None if utility is None else float(utility))
