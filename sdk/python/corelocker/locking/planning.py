"""From scores to a plan: which channels are locked in which tier."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.errors import CriterionError, LockingError, NothingToLockError, TierError
from corelocker.locking.criteria import Scores, l1
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.options import CriterionName, Fill, Scope
from corelocker.locking.plan import LayerSize, Plan, TierMap, member_signs
from corelocker.locking.signs.reading import Signs, read_signs
from corelocker.locking.tiers import Tier, Unit, check_tiers

THREADS = 2  # more are slower: they contend for the pages of the file


@runtime_checkable
class JointScorer(Protocol):
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
    counts: Counts | None = None,
    unit: Unit = "value",
    by_value: Counts | None = None,
    most_for_signs: float = 1.0,
    withheld: Mapping[tuple[int, str], str] = MappingProxyType({}),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Choose the channels.

    `score` is called for each layer that may be locked, from several threads. One that ranks layers together has a method
    `prepare` (see `JointScorer`), which is called before. `tiers` may be a function; it is called when all scores are known.
    `counts` says how many channels of each layer the tier that ships keeps locked, in place of its fraction and of `scope`;
    embeddings are left alone then. `by_value` says the same of layers whose signs cannot be taken, or cost more than
    `most_for_signs` of their bytes; without it they are locked by value like any other. `withheld` says of (artifact, tensor) why
    its signs are not taken.

    Scope "layer" removes the same fraction of every layer (at least one channel in the tier that ships), "global" ranks all
    channels of the network together: |gamma| as in the paper, other scores relative to their layer's mean. Layers with the
    same weights (a tied copy, the same model in another format) share one decision. At least one channel of a layer stays, unless
    all its copies are locked by sign.

    Raises NothingToLockError when nothing is left to lock, CriterionError when no layer can be scored, TierError.
    """
    signs = read_signs(artifacts) if unit == "sign" else []
    groups = group_layers(list(artifacts))
    signs = [
        found | {name: reason for (place, name), reason in withheld.items() if place == index}
        for index, found in enumerate(signs)
    ]
    if by_value is not None:
        signs = _without_dear(signs, groups, most_for_signs)
        if not callable(tiers) and all(tier.removed in (0, 1) for tier in tiers):
            score = _only_of_values(score, artifacts, signs)
    ranked = _rank_groups(artifacts, groups, score, signs, include_io, exclude, progress)
    names = [a.path.name for a in artifacts]
    if not ranked.groups:
        raise _nothing_ranked(names, ranked)
    tiers = check_tiers(tiers() if callable(tiers) else tiers, unit)
    if counts is None and by_value is not None:
        chosen = _choose(ranked.scores, [s.size for s in ranked.scores], tiers, scope, criterion)
    elif counts is None:
        stays = [any(member_signs(signs, member) is None for member in group) for group in ranked.groups]
        chosen = _choose(
            ranked.scores, [s.size - n for s, n in zip(ranked.scores, stays, strict=True)], tiers, scope, criterion
        )
    else:
        tiers, chosen = _spread(ranked.scores, tiers, counts, ranked.groups)
    tier_of: list[dict[str, TierMap]] = [{} for _ in artifacts]
    for group, map_ in zip(ranked.groups, chosen, strict=True):
        for member in group:
            tier_of[member.artifact][member.tensor.name] = map_
    if by_value is not None:
        _limit_values(tier_of, ranked, tiers, by_value, signs)
    _check_that_something_is_locked(names, tier_of)
    return Plan(
        tuple(tiers), fill, seed, consumers, criterion, scope, tier_of, names, ranked.left_alone, ranked.all_groups,
        unit, signs,
    )  # fmt: skip


Counts = Callable[[Sequence[LayerSize]], Mapping[str, int]]
"""How many channels of each layer are locked, by its name."""


def given_plan(
    artifacts: Sequence[Artifact],
    channels: Mapping[tuple[int, str], Sequence[int]],
    *,
    unit: Unit,
    criterion: str,
    fill: Fill,
    seed: bytes,
    signs: list[dict[str, Signs | str]] | None = None,
    groups: list[list[Member]] | None = None,
) -> Plan:
    """A plan of two tiers, free and full, that locks these channels of (artifact, tensor) and of all copies of the tensor.

    Of copies that are locked by value at least one channel stays. `signs` and `groups` are read where they are not given.
    """
    if signs is None:
        signs = read_signs(artifacts) if unit == "sign" else []
    groups = groups or group_layers(list(artifacts))
    tier_of: list[dict[str, TierMap]] = [{} for _ in artifacts]
    left_alone: list[dict[str, str]] = [{} for _ in artifacts]
    locked = total = 0
    for group in groups:
        wanted = next((found for m in group if (found := channels.get((m.artifact, m.tensor.name))) is not None), ())
        for member in group:
            map_ = np.zeros(member.tensor.channels, np.uint8)
            map_[np.asarray(wanted, np.int64)] = 1
            if map_.all() and member_signs(signs, member) is None:
                map_[-1] = 0
            locked, total = locked + int(map_.sum()), total + map_.size
            if map_.any():
                tier_of[member.artifact][member.tensor.name] = map_
            else:
                left_alone[member.artifact][member.tensor.name] = "not needed to silence the output"
    names = [a.path.name for a in artifacts]
    tiers = (Tier("free", locked / max(1, total)), Tier("full", 0.0))
    _check_that_something_is_locked(names, tier_of)
    return Plan(tiers, fill, seed, False, criterion, "global", tier_of, names, left_alone, groups, unit, signs)


MOST_FOR_SIGNS = 0.13  # of a layer's bytes: what int8 pays, and not what 4 bits would
SMALL = 1 << 20  # bytes of all signs that cost too much up to which they are taken all the same


def _without_dear(
    signs: Sequence[dict[str, Signs | str]], groups: Sequence[list[Member]], most: float
) -> list[dict[str, Signs | str]]:
    """Signs that cost too much become the reason for it, unless a copy of the layer is locked by sign for less."""

    def dear(member: Member) -> bool:
        found = member_signs(signs, member)
        return found is not None and int(found.units.bounds[-1]) / 8 > most * member.tensor.weight.size

    kept = [dict(tensors) for tensors in signs]
    costs = [int(m.tensor.weight.elements) * m.tensor.channels / 8 for group in groups for m in group if dear(m)]
    if sum(costs) <= SMALL:
        return kept
    for group in groups:
        by_sign = [member for member in group if member_signs(signs, member) is not None]
        if all(dear(member) for member in by_sign):
            for member in by_sign:
                cost = 100 / member.tensor.weight.element.bits
                kept[member.artifact][member.tensor.name] = f"its signs would cost {cost:.0f} % of its bytes"
    return kept


def _only_of_values(
    score: Callable[[WeightTensor], Scores], artifacts: Sequence[Artifact], signs: Sequence[Mapping[str, Signs | str]]
) -> Callable[[WeightTensor], Scores]:
    """All channels of the others are locked, so nothing has to rank them."""
    by_value = {
        id(tensor)
        for artifact, found in zip(artifacts, signs, strict=True)
        for tensor in artifact.tensors
        if isinstance(found[tensor.name], str)
    }
    return lambda tensor: score(tensor) if id(tensor) in by_value else np.zeros(tensor.channels)


def _limit_values(
    tier_of: list[dict[str, TierMap]],
    ranked: _Ranked,
    tiers: Sequence[Tier],
    by_value: Counts,
    signs: Sequence[Mapping[str, Signs | str]],
) -> None:
    """Of layers that are locked by value keep so many channels locked as `by_value` says, in the same proportions for all tiers."""
    affected = [
        (group, scores, [m for m in group if member_signs(signs, m) is None])
        for group, scores in zip(ranked.groups, ranked.scores, strict=True)
    ]
    affected = [(group, scores, members) for group, scores, members in affected if members]
    if not affected:
        return
    leaders = [members[0].tensor for _, _, members in affected]
    wanted = by_value([LayerSize(t.name, t.channels, sum(part.size for part in t.parts)) for t in leaders])
    for (_, scores, members), leader in zip(affected, leaders, strict=True):
        if not scores.any():  # ranked as a copy that is locked by sign
            scores = l1(leader)
        map_ = _first_ranked(scores, tiers, min(wanted.get(leader.name, 0), leader.channels - 1))
        for member in members:
            tier_of[member.artifact][member.tensor.name] = map_
            if not map_.any():
                why = signs[member.artifact][member.tensor.name]
                ranked.left_alone[member.artifact][member.tensor.name] = f"{why}, and its share is less than a channel"


def _first_ranked(scores: Scores, tiers: Sequence[Tier], count: int) -> TierMap:
    """The tiers of the `count` channels that rank first, in the proportions of the tiers' fractions."""
    map_, order = np.zeros(scores.size, np.uint8), np.argsort(-scores, kind="stable")
    for index, tier in enumerate(tiers[:-1]):
        map_[order[: math.floor(count * tier.removed / tiers[0].removed + 0.5)]] = index + 1
    return map_


def _check_that_something_is_locked(names: Sequence[str], tier_of: list[dict[str, TierMap]]) -> None:
    for name, layers in zip(names, tier_of, strict=True):
        if not any(m.any() for m in layers.values()):
            raise NothingToLockError(f"{name}: no channel of it is locked", hint="Raise the first tier's fraction")


def check_that_tiers_differ(plan: Plan) -> None:
    """Refuse a plan whose tiers give the same file twice, as close fractions of few channels do. Raises TierError."""
    for name, layers in zip(plan.names, plan.tier_of, strict=True):
        for index in range(1, len(plan.tiers)):
            if not any((m == index).any() for m in layers.values()):
                raise TierError(
                    f"{name}: tier {plan.tiers[index].name} would be the same file as tier {plan.tiers[index - 1].name}",
                    hint="Give fractions further apart, or leave the tier out",
                )


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
    all_groups: list[list[Member]],
    score: Callable[[WeightTensor], Scores],
    signs: Sequence[Mapping[str, Signs | str]],
    include_io: bool,
    exclude: Sequence[str],
    progress: Callable[[int, int], None],
) -> _Ranked:
    ranked = _Ranked([], [], [{} for _ in artifacts], all_groups)
    reasons = [
        next(filter(None, (_excluded(artifacts[m.artifact], m, signs, include_io, exclude) for m in group)), None)
        for group in ranked.all_groups
    ]
    with_reasons = list(zip(ranked.all_groups, reasons, strict=True))
    if isinstance(score, JointScorer):
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
    return "has one channel" if tensor.channels < 2 and member_signs(signs, member) is None else None


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
    counts: Counts,
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
    return tiers, [_first_ranked(score, tiers, count) for score, count in zip(scores, locked, strict=True)]


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
