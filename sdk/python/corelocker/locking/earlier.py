"""The same model locked twice: what one published file leaves open, another hides in vain.

A channel of a file that ships is open, locked by sign (its magnitudes are there) or locked by value. Whoever has several files of
one model knows of each channel what the most open of them shows. Signs under independent masks stay hidden together: the masks come
from fresh randomness in every lock. So a later lock takes at least what the earlier ones took, and what it takes of channels that
they left open is in vain.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.bundle.keystore import LockRecord, RecordedLayer
from corelocker.errors import EarlierLockError
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.options import LockWarning
from corelocker.locking.plan import Plan

OPEN, SIGN, VALUE = 0, 1, 2
Levels = npt.NDArray[np.uint8]

SAMPLED_CHANNELS = 8
SAMPLED_ELEMENTS = 32
SAME = (
    0.7  # mean |cosine| of sampled channels: training on turns them a little, unrelated ones of 9 elements reach 0.27
)
FORGET = "If no earlier file was ever published, pass --forget-earlier-locks"


@dataclass(frozen=True)
class EarlierLocks:
    """What a lock owes to earlier ones of the same model.

    Attributes:
        bundles: of the earlier locks that have layers in common with this one.
        added_channels: channels that were locked besides, because earlier locks took them.
        in_vain: channels that this lock takes and an earlier file leaves open, counted over the layers.
        locked_channels: channels that this lock takes.
    """

    bundles: tuple[UUID, ...] = ()
    added_channels: int = 0
    in_vain: int = 0
    locked_channels: int = 0


def record_of(artifacts: Sequence[Artifact], plan: Plan, bundle: UUID, model: str, model_version: int) -> LockRecord:
    """The record of a lock, for the keystore."""
    layers, digest = [], hashlib.sha256()
    for group in _groups(artifacts, plan):
        values = _sampled(group[0].tensor)
        digest.update(values.astype("<f4").tobytes())
        levels = _levels(plan, group)
        layers.append(
            RecordedLayer(
                group[0].tensor.name,
                levels.size,
                _fingerprint(values),
                np.packbits(levels == VALUE, bitorder="little").tobytes(),
                np.packbits(levels == SIGN, bitorder="little").tobytes(),
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
    if found.in_vain:
        warnings.warn(
            f"{found.in_vain} of {found.locked_channels} locked channels stand open in a file that was locked earlier (bundle "
            f"{found.bundles[0]}): whoever has both files has them. {FORGET}",
            LockWarning,
            stacklevel=3,
        )
    return found


def reuse_earlier(plan: Plan, artifacts: Sequence[Artifact], records: Sequence[LockRecord]) -> EarlierLocks:
    """Lock in `plan` what the earlier locks took, too. Raises EarlierLockError where that cannot be done."""
    found: dict[UUID, None] = {}
    added = in_vain = locked = 0
    for group in _groups(artifacts, plan):
        earlier = [
            (record.bundle, levels) for record in records if (levels := _earlier_levels(record, group)) is not None
        ]
        now = _levels(plan, group)
        if earlier:
            found.update(dict.fromkeys(bundle for bundle, _ in earlier))
            together = np.minimum.reduce([levels for _, levels in earlier])
            missing = (now == OPEN) & (together > OPEN)
            if missing.any():
                _lock_too(plan, group, missing)
                added += int(missing.sum())
                now = _levels(plan, group)
            if (weaker := now < together).any():
                raise EarlierLockError(
                    f"{group[0].tensor.name}: an earlier lock took the values of {int(weaker.sum())} channels whose magnitudes "
                    "this one would leave in the file",
                    hint=f"Lock with --unit value. {FORGET}",
                )
            in_vain += int((now > together).sum())
        locked += int((now > OPEN).sum())
    return EarlierLocks(tuple(found), added, in_vain, locked)


def _groups(artifacts: Sequence[Artifact], plan: Plan) -> list[list[Member]]:
    groups = plan.groups or group_layers(list(artifacts))
    return [group for group in groups if group[0].tensor.role != "norm"]


def _levels(plan: Plan, group: Sequence[Member]) -> Levels:
    """What the files show of each channel of a layer that is in all members of the group."""
    levels = []
    for member in group:
        tier_of = plan.tier_of[member.artifact].get(member.tensor.name)
        if tier_of is None:
            levels.append(np.full(member.tensor.channels, OPEN, np.uint8))
        else:
            level = VALUE if plan.signs_of(member) is None else SIGN
            levels.append(np.where(tier_of > 0, level, OPEN).astype(np.uint8))
    together: Levels = np.minimum.reduce(levels)
    return together


def levels_of(layer: RecordedLayer) -> Levels:
    """What the shipped file shows of each channel of a recorded layer, uint8 (channels,): OPEN, SIGN or VALUE."""
    value, sign = (
        np.unpackbits(np.frombuffer(mask, np.uint8), count=layer.channels, bitorder="little")
        for mask in (layer.value, layer.sign)
    )
    return np.where(value, VALUE, np.where(sign, SIGN, OPEN)).astype(np.uint8)


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


def _earlier_levels(record: LockRecord, group: Sequence[Member]) -> Levels | None:
    """What an earlier file shows of this layer; None where it does not have it."""
    tensor = group[0].tensor
    layer = same_layer(record, _fingerprint(_sampled(tensor)), tensor.channels)
    return None if layer is None else levels_of(layer)


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
