"""Which channels are locked in which tier.

A plan is made from scores, can be saved and replayed, and tells an attacker everything about the location of the access key:
it belongs with the publisher's secrets.
"""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.errors import CriterionError, FileAccessError, LockingError, NothingToLockError, PlanError
from corelocker.files import write_atomically
from corelocker.locking.criteria import Scores
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.options import CriterionName, Fill, Scope
from corelocker.locking.signs.reading import Signs, read_signs
from corelocker.locking.tiers import Tier, Unit, check_tiers

TierMap = npt.NDArray[np.uint8]
THREADS = 2  # more are slower: they contend for the pages of the file
MAX_PLAN = 256 << 20


@dataclass(frozen=True)
class LayerSize:
    """A layer in the order of execution: its name, channels, and bytes with all that belongs to its channels."""

    name: str
    channels: int
    size: int


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
        return _signs_of(self.signs, member)

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write the plan as JSON, readable by its owner only."""
        artifacts = []
        for name, tiers, left_alone in zip(self.names, self.tier_of, self.left_alone, strict=True):
            layers = {
                tensor: {
                    "channels": len(tier_of),
                    "tiers": {
                        str(t): np.flatnonzero(tier_of == t).tolist()
                        for t in range(1, len(self.tiers))
                        if (tier_of == t).any()
                    },
                }
                for tensor, tier_of in tiers.items()
                if tier_of.any()
            }
            artifacts.append({"name": name, "tensors": layers, "left_alone": left_alone})
        document = {
            "format": "corelocker-plan",
            "version": 2,
            "unit": self.unit,
            "tiers": [{"name": t.name, "removed": t.removed} for t in self.tiers],
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
        tiers = check_tiers([Tier(str(t["name"]), float(t["removed"])) for t in document["tiers"]], unit)
        if document["fill"] not in ("zero", "decoy"):
            raise ValueError
        saved = document["artifacts"]
        if len(saved) != len(artifacts):
            raise PlanError(f"the plan is for {len(saved)} artifacts, {len(artifacts)} were given")
        by_name = {a["name"]: a for a in saved}
        tier_of = []
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
            tier_of.append(chosen)
            # Consumers stay out of these.
            left_alone.append({n: str(reason) for n, reason in entry["left_alone"].items() if n in layers})
        return cls(
            tiers, document["fill"], bytes.fromhex(document["seed"]), bool(document["consumers"]), str(document["criterion"]),
            str(document["scope"]), tier_of, [a.path.name for a in artifacts], left_alone, unit=unit,
            signs=read_signs(artifacts) if unit == "sign" else [],
        )  # fmt: skip


@runtime_checkable
class Together(Protocol):
    """A scorer that must see all layers that may be locked before it scores one."""

    def prepare(self, artifacts: Sequence[Artifact], groups: Sequence[list[Member]]) -> None:
        """Rank the layers; each group holds copies of one layer. Raises CriterionError."""

    def __call__(self, tensor: WeightTensor) -> Scores:
        """As any scorer. Raises CriterionError for a layer that could not be ranked."""


def make_plan(
    artifacts: Sequence[Artifact],
    tiers: Sequence[Tier] | Callable[[], Sequence[Tier]],
    score: Callable[[WeightTensor], Scores],
    *,
    criterion: CriterionName,
    scope: Scope,
    fill: Fill,
    seed: bytes,
    consumers: bool = False,
    include_io: bool = False,
    exclude: Sequence[str] = (),
    counts: Callable[[Sequence[LayerSize]], Mapping[str, int]] | None = None,
    unit: Unit = "value",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Choose the channels.

    `score` is called for each layer that may be locked, from several threads. One that ranks layers together has a method
    `prepare` (see `Together`), which is called before. `tiers` may be a function; it is called when all scores are known.
    `counts` says how many channels of each layer the tier that ships keeps locked, in place of its fraction and of `scope`;
    embeddings are left alone then.

    Scope "layer" removes the same fraction of every layer (at least one channel in the tier that ships), "global" ranks all
    channels of the network together: |gamma| as in the paper, other scores relative to their layer's mean. Layers with the
    same weights (a tied copy, the same model in another format) share one decision. At least one channel of a layer stays, unless
    all its copies are locked by sign.

    Raises NothingToLockError when nothing is left to lock, CriterionError when no layer can be scored, TierError.
    """
    signs = read_signs(artifacts) if unit == "sign" else []
    ranked = _rank_groups(artifacts, score, signs, include_io, exclude, progress)
    names = [a.path.name for a in artifacts]
    if not ranked.groups:
        raise _nothing_ranked(names, ranked)
    tiers = check_tiers(tiers() if callable(tiers) else tiers, unit)
    if counts is None:
        stays = [any(_signs_of(signs, member) is None for member in group) for group in ranked.groups]
        chosen = _choose(
            ranked.scores, [s.size - n for s, n in zip(ranked.scores, stays, strict=True)], tiers, scope, criterion
        )
    else:
        tiers, chosen = _spread(ranked.scores, tiers, counts, ranked.groups)
    tier_of: list[dict[str, TierMap]] = [{} for _ in artifacts]
    for group, map_ in zip(ranked.groups, chosen, strict=True):
        for member in group:
            tier_of[member.artifact][member.tensor.name] = map_
    for name, layers in zip(names, tier_of, strict=True):
        if not any(m.any() for m in layers.values()):
            raise NothingToLockError(f"{name}: no channel of it is locked", hint="Raise the first tier's fraction")
    return Plan(
        tuple(tiers), fill, seed, consumers, criterion, scope, tier_of, names, ranked.left_alone, ranked.all_groups,
        unit, signs,
    )  # fmt: skip


def _signs_of(signs: Sequence[Mapping[str, Signs | str]], member: Member) -> Signs | None:
    found = signs[member.artifact][member.tensor.name] if signs else None
    return found if isinstance(found, Signs) else None


@dataclass
class _Ranked:
    """Groups of layers with the same weights that may be locked, with their scores; and why others are left alone.

    Attributes:
        groups, scores: of the groups that could be scored.
        left_alone: for each artifact, tensor -> reason.
        all_groups: with those that are left alone.
        unscored: why the last group that could not be scored could not.
    """

    groups: list[list[Member]]
    scores: list[Scores]
    left_alone: list[dict[str, str]]
    all_groups: list[list[Member]]
    unscored: CriterionError | None = None


def _rank_groups(
    artifacts: Sequence[Artifact],
    score: Callable[[WeightTensor], Scores],
    signs: Sequence[Mapping[str, Signs | str]],
    include_io: bool,
    exclude: Sequence[str],
    progress: Callable[[int, int], None],
) -> _Ranked:
    ranked = _Ranked([], [], [{} for _ in artifacts], group_layers(list(artifacts)))
    reasons = [
        next(filter(None, (_excluded(artifacts[m.artifact], m, signs, include_io, exclude) for m in group)), None)
        for group in ranked.all_groups
    ]
    with_reasons = list(zip(ranked.all_groups, reasons, strict=True))
    if isinstance(score, Together):
        score.prepare(artifacts, [group for group, reason in with_reasons if reason is None])
    with ThreadPoolExecutor(THREADS) as pool:
        scoring = [
            pool.submit(_score_group, group, score) if reason is None else None for group, reason in with_reasons
        ]
        for done, ((group, reason), scored) in enumerate(zip(with_reasons, scoring, strict=True)):
            progress(done, len(scoring))
            if scored is not None:
                try:
                    ranked.scores.append(scored.result())
                    ranked.groups.append(group)
                    continue
                except CriterionError as error:
                    ranked.unscored, reason = error, "the criterion has no score for it"
            for member in group:
                ranked.left_alone[member.artifact][member.tensor.name] = str(reason)
    progress(len(scoring), len(scoring))
    return ranked


def _nothing_ranked(names: Sequence[str], ranked: _Ranked) -> CriterionError | NothingToLockError:
    """Why there is nothing to lock."""
    if ranked.unscored is not None:
        return CriterionError(
            f"no layer can be scored: {ranked.unscored}",
            hint="Pass the training checkpoint with --source, or use --criterion l1",
        )
    why = sorted({reason for layers in ranked.left_alone for reason in layers.values()})
    return NothingToLockError(
        f"{', '.join(names)}: every layer that can be locked is left alone ({', '.join(why)})",
        hint="--include-io locks input and output layers too; `corelocker inspect` says why others cannot be locked",
    )


def _excluded(
    artifact: Artifact,
    member: Member,
    signs: Sequence[Mapping[str, Signs | str]],
    include_io: bool,
    exclude: Sequence[str],
) -> str | None:
    tensor = member.tensor
    if any(fnmatch.fnmatchcase(tensor.name, pattern) for pattern in exclude):
        return "excluded by name"
    if not include_io and tensor.name in artifact.inputs:
        return "input layer"
    if not include_io and tensor.name in artifact.outputs:
        return "output layer"
    if tensor.role == "norm":
        return "normalization layer"
    return "has one channel" if tensor.channels < 2 and _signs_of(signs, member) is None else None


def _score_group(group: list[Member], score: Callable[[WeightTensor], Scores]) -> Scores:
    """The first member that can be scored speaks for its copies (an unfolded copy has the BatchNorm a folded one lost)."""
    for member in group[:-1]:
        try:
            return score(member.tensor)
        except CriterionError:
            continue
    return score(group[-1].tensor)


def _spread(
    scores: list[Scores],
    tiers: Sequence[Tier],
    counts: Callable[[Sequence[LayerSize]], Mapping[str, int]],
    groups: list[list[Member]],
) -> tuple[tuple[Tier, ...], list[TierMap]]:
    """The first tier by `counts`; the others keep the part of its channels that their fraction is of its own."""
    leaders = [group[0].tensor for group in groups]
    layers = [
        LayerSize(t.name, t.channels, sum(part.size for part in t.parts)) for t in leaders if t.role != "embedding"
    ]
    wanted = counts(layers)
    locked = [min(wanted.get(t.name, 0), t.channels - 1) for t in leaders]
    first = Tier(tiers[0].name, sum(locked) / sum(t.channels for t in leaders))
    tiers = check_tiers([first, *tiers[1:]])
    chosen = []
    for score, count in zip(scores, locked, strict=True):
        map_, ranked = np.zeros(score.size, np.uint8), np.argsort(-score, kind="stable")
        for index, tier in enumerate(tiers[:-1]):
            map_[ranked[: math.floor(count * tier.removed / first.removed + 0.5)]] = index + 1
        chosen.append(map_)
    return tiers, chosen


def _choose(
    scores: list[Scores], most: Sequence[int], tiers: Sequence[Tier], scope: Scope, criterion: CriterionName
) -> list[TierMap]:
    """The tiers of the channels of each layer, of which at most `most` are locked."""
    if any(not np.isfinite(s).all() for s in scores):
        raise LockingError("a layer holds weights that are not finite numbers; such a model cannot be ranked")
    order = [np.argsort(-s, kind="stable") for s in scores]
    chosen = [np.zeros(s.size, np.uint8) for s in scores]
    if scope == "layer":
        for map_, ranked, limit in zip(chosen, order, most, strict=True):
            for index, tier in enumerate(tiers[:-1]):
                count = math.floor(tier.removed * map_.size + 0.5)
                count = min(max(count, 1) if index == 0 else count, limit)
                map_[ranked[:count]] = index + 1
        return chosen
    # |gamma| and ranks compare across layers as they are; sums of weights grow with a layer's fan-in.
    comparable = criterion in ("bn-scale", "sensitivity")
    keys = np.concatenate([s if comparable else s / max(float(s.mean()), 1e-30) for s in scores])
    layer = np.concatenate([np.full(s.size, i) for i, s in enumerate(scores)])
    rank_in_layer = np.empty(keys.size, np.int64)
    channel = np.concatenate([np.arange(s.size) for s in scores])
    starts = np.cumsum([0, *(s.size for s in scores)])
    for i, ranked in enumerate(order):
        rank_in_layer[starts[i] + ranked] = np.arange(ranked.size)
    ranked_all = np.argsort(-keys, kind="stable")
    ranked_all = ranked_all[rank_in_layer[ranked_all] < np.asarray(most)[layer[ranked_all]]]
    for index, tier in enumerate(tiers[:-1]):
        count = max(math.floor(tier.removed * keys.size + 0.5), 1 if index == 0 else 0)
        for place in ranked_all[:count]:
            chosen[layer[place]][channel[place]] = index + 1
    return chosen
