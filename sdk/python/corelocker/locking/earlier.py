"""The same model locked twice: what one published file leaves open, another hides in vain.

A weight of a file that ships is open, locked by sign (its magnitude is there) or locked by value. Whoever has several files of one
model knows of each weight what the most open of them shows. Signs under independent masks stay hidden together: the masks come
from fresh randomness in every lock. So a later lock takes at least what the earlier ones took, and what it takes of weights that
they left open is in vain.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.bundle.keystore import LockRecord, RecordedLayer
from corelocker.errors import EarlierLockError
from corelocker.locking.consumers import ConsumerLocks, follow_consumers
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.options import LockWarning
from corelocker.locking.plan import Plan
from corelocker.locking.shown import (
    OPEN,
    SIGN,
    VALUE,
    Shown,
    blocks,
    elements_of,
    packed_kept,
    shown_by_plan,
    shown_by_record,
)

SAMPLED_CHANNELS = 8
SAMPLED_ELEMENTS = 32
SAME = (
    0.7  # mean |cosine| of sampled channels: training on turns them a little, unrelated ones of 9 elements reach 0.27
)
IN_VAIN = 0.01  # of the locked weights that may be, before anybody is warned: an integer file has some that are 0
FORGET = "If no earlier file was ever published, pass --forget-earlier-locks"


@dataclass(frozen=True)
class EarlierLocks:
    """What a lock owes to earlier ones of the same model.

    Attributes:
        bundles: of the earlier locks that have layers in common with this one.
        added_channels: channels that were locked besides, because earlier locks took them.
        in_vain: channels that this lock takes and an earlier file leaves open, counted over the layers.
        locked_channels: channels that this lock takes.
        in_vain_weights: weights that this lock hides and that stand open in an earlier file, or whose magnitudes do where this lock
            takes values.
        locked_weights: weights that this lock hides.
        weakest: the bundle whose file leaves most of them open; None where none does.
    """

    bundles: tuple[UUID, ...] = ()
    added_channels: int = 0
    in_vain: int = 0
    locked_channels: int = 0
    in_vain_weights: int = 0
    locked_weights: int = 0
    weakest: UUID | None = None


def record_of(artifacts: Sequence[Artifact], plan: Plan, bundle: UUID, model: str, model_version: int) -> LockRecord:
    """The record of a lock, for the keystore."""
    layers, digest = [], hashlib.sha256()
    extra = _consumers(artifacts, plan)
    for group in _groups(artifacts, plan):
        values, tensor = _sampled(group[0].tensor), group[0].tensor
        digest.update(values.astype("<f4").tobytes())
        shown = shown_by_plan(plan, group, extra)
        elements = elements_of(tensor)
        columns, kept = shown.columns, packed_kept(shown, elements)
        if not columns.any() or elements % columns.size:
            columns = np.zeros(0, np.bool_)
        layers.append(
            RecordedLayer(
                tensor.name,
                shown.rows.size,
                _fingerprint(values),
                _mask(shown.rows == VALUE),
                _mask(shown.rows == SIGN),
                elements if columns.size or kept else 0,
                columns.size,
                _mask(columns),
                kept,
            )
        )
    return LockRecord(bundle, model, model_version, digest.digest(), plan.seed, tuple(layers))


def seed_of(records: Sequence[LockRecord], artifacts: Sequence[Artifact], model_version: int) -> bytes | None:
    """The seed of the last lock, so that decoys of a model that was trained on resemble those before as its channels do.

    None where there is none, and for the same weights in another version, whose files could not be told apart.
    """
    if not records:
        return None
    last = records[-1]
    digest = hashlib.sha256()
    for group in group_layers(list(artifacts)):
        if group[0].tensor.role == "norm":
            continue
        digest.update(_sampled(group[0].tensor).astype("<f4").tobytes())
    same_weights = digest.digest() == last.weights
    return None if same_weights and last.model_version != model_version else last.seed


def hold_to_earlier(
    plan: Plan, artifacts: Sequence[Artifact], records: Sequence[LockRecord], model_version: int, *, redraw: bool
) -> EarlierLocks:
    """`reuse_earlier`, with the decoys of the last lock unless they have to be drawn anew.

    Warns with LockWarning of what is locked in vain.
    """
    found = reuse_earlier(plan, artifacts, records)
    if found.bundles and plan.unit == "value" and not redraw:
        plan.seed = seed_of(records, artifacts, model_version) or plan.seed
    if found.weakest is not None and found.in_vain_weights > IN_VAIN * found.locked_weights:
        share = 100 * found.in_vain_weights / max(1, found.locked_weights)
        warnings.warn(
            f"{found.in_vain} of {found.locked_channels} locked channels, {share:.1f} % of the locked weights, stand open in files "
            f"that were locked earlier, most of them in that of bundle {found.weakest}: whoever has both files has them. {FORGET}",
            LockWarning,
            stacklevel=3,
        )
    return found


def reuse_earlier(plan: Plan, artifacts: Sequence[Artifact], records: Sequence[LockRecord]) -> EarlierLocks:
    """Lock in `plan` what the earlier locks took, too. Raises EarlierLockError where that cannot be done."""
    groups = _groups(artifacts, plan)
    known = [_recorded(records, group) for group in groups]
    bundles = dict.fromkeys(bundle for earlier in known for bundle in earlier)
    added = sum(_grow(plan, group, earlier) for group, earlier in zip(groups, known, strict=True) if earlier)
    extra = _consumers(artifacts, plan)
    in_vain = locked = locked_weights = vain = 0
    by_bundle = dict.fromkeys(bundles, 0)
    for group, earlier in zip(groups, known, strict=True):
        now, elements = shown_by_plan(plan, group, extra), elements_of(group[0].tensor)
        locked += int((now.rows > OPEN).sum())
        locked_weights += now.hidden(elements)
        if not earlier:
            continue
        in_vain += int((now.rows > np.minimum.reduce([shown.rows for shown in earlier.values()])).sum())
        for rows in blocks(now.rows.size, elements):
            levels = {bundle: shown.weights(rows, elements) for bundle, shown in earlier.items()}
            together, own = np.minimum.reduce(list(levels.values())), now.weights(rows, elements)
            if (now.weights(rows, elements, with_kept=False) < together).any():
                raise EarlierLockError(
                    f"{group[0].tensor.name}: an earlier lock took the weights that read a locked channel, this one leaves them",
                    hint=f"Lock with --consumers. {FORGET}",
                )
            vain += int((own > together).sum())
            for bundle, level in levels.items():
                by_bundle[bundle] += int((own > level).sum())
    weakest = max(by_bundle, key=lambda bundle: by_bundle[bundle], default=None)
    if weakest is not None and not by_bundle[weakest]:
        weakest = None
    return EarlierLocks(tuple(bundles), added, in_vain, locked, vain, locked_weights, weakest)


def _grow(plan: Plan, group: Sequence[Member], earlier: Mapping[UUID, Shown]) -> int:
    """Lock the channels of a layer that every earlier file hides; returns how many were open. Raises EarlierLockError."""
    together = np.minimum.reduce([shown.rows for shown in earlier.values()])
    now = shown_by_plan(plan, group).rows
    missing = (now == OPEN) & (together > OPEN)
    if missing.any():
        _lock_too(plan, group, missing)
        now = shown_by_plan(plan, group).rows
    if (weaker := now < together).any():
        raise EarlierLockError(
            f"{group[0].tensor.name}: an earlier lock took the values of {int(weaker.sum())} channels whose magnitudes "
            "this one would leave in the file",
            hint=f"Lock with --unit value. {FORGET}",
        )
    return int(missing.sum())


def _consumers(artifacts: Sequence[Artifact], plan: Plan) -> ConsumerLocks | None:
    if not plan.consumers:
        return None
    return follow_consumers(artifacts, plan.tier_of, plan.left_alone, plan.groups or group_layers(list(artifacts)))


def _mask(flags: npt.NDArray[np.bool_]) -> bytes:
    return np.packbits(flags, bitorder="little").tobytes()


def _groups(artifacts: Sequence[Artifact], plan: Plan) -> list[list[Member]]:
    groups = plan.groups or group_layers(list(artifacts))
    return [group for group in groups if group[0].tensor.role != "norm"]


def same_layer(record: LockRecord, fingerprint: bytes, channels: int) -> RecordedLayer | None:
    """The layer of a record that resembles the fingerprint most, if one is the same, trained on or not."""
    wanted = _directions(fingerprint, channels)
    best, best_cosine = None, SAME
    for layer in record.layers:
        if layer.channels != channels or len(layer.fingerprint) != len(fingerprint):
            continue
        cosine = float(np.abs(np.einsum("ce,ce->c", wanted, _directions(layer.fingerprint, channels))).mean())
        if cosine > best_cosine:
            best, best_cosine = layer, cosine
    return best


def _recorded(records: Sequence[LockRecord], group: Sequence[Member]) -> dict[UUID, Shown]:
    """What each earlier file that has this layer shows of it."""
    tensor = group[0].tensor
    fingerprint, found = _fingerprint(_sampled(tensor)), {}
    for record in records:
        layer = same_layer(record, fingerprint, tensor.channels)
        if layer is not None:
            found[record.bundle] = shown_by_record(layer, elements_of(tensor))
    return found


def _lock_too(plan: Plan, group: Sequence[Member], missing: npt.NDArray[np.bool_]) -> None:
    """Raises EarlierLockError where a member is excluded, or all of its channels would be locked by value."""
    last = len(plan.tiers) - 1
    for member in group:
        name, maps = member.tensor.name, plan.tier_of[member.artifact]
        reasons = plan.left_alone[member.artifact] if plan.left_alone else {}
        if reasons.get(name) == "excluded by name":
            raise EarlierLockError(
                f"{name} is excluded, but an earlier lock took {int(missing.sum())} of its channels",
                hint=f"Leave --exclude out for it. {FORGET}",
            )
        tier_of = maps.get(name, np.zeros(member.tensor.channels, np.uint8)).copy()
        tier_of[missing & (tier_of == 0)] = last
        if plan.signs_of(member) is None and tier_of.all():
            raise EarlierLockError(
                f"{name}: with the channels of earlier locks every channel would be locked by value",
                hint=f"Lock with --unit sign, or fewer channels. {FORGET}",
            )
        maps[name] = tier_of
        reasons.pop(name, None)


def _sampled(tensor: WeightTensor) -> npt.NDArray[np.float32]:
    """Evenly spaced values of evenly spaced channels, float32 (channels, elements)."""
    picked = np.linspace(0, tensor.channels - 1, min(SAMPLED_CHANNELS, tensor.channels)).astype(np.int64)
    values = tensor.read(picked).reshape(picked.size, -1)
    tensor.release()
    places = np.linspace(0, values.shape[1] - 1, min(SAMPLED_ELEMENTS, values.shape[1])).astype(np.int64)
    return np.ascontiguousarray(values[:, places], np.float32)


def _fingerprint(values: npt.NDArray[np.float32]) -> bytes:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return bytes((values / np.where(norms > 0, norms, 1)).astype("<f2").tobytes())


def _directions(fingerprint: bytes, channels: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(fingerprint, "<f2").astype(np.float32).reshape(min(SAMPLED_CHANNELS, channels), -1)
