"""Drawing which weights change their signs.

Each weight of a locked channel flips with probability 1/2, so the locked file's signs are independent of the original's. The bits
come from SHAKE256 (FIPS 202) over a key for each run, HMAC-SHA256 of the plan's seed, which is 32 random bytes of the operating
system unless the publisher gives one.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import numpy.typing as npt

from corelocker.bundle.patch_runs import PatchRun
from corelocker.errors import LockingError
from corelocker.files import Bytes
from corelocker.locking.flipped import FlippedRun
from corelocker.locking.signs.places import Flags
from corelocker.locking.signs.reading import Signs

U32_MAX = (1 << 32) - 1


def draw_flips(signs: Signs, tiers: npt.NDArray[np.uint8], seed: bytes, label: bytes) -> list[FlippedRun]:
    """The flips of a tensor's locked channels.

    Args:
        tiers: uint8 (channels,), the tier that flips a channel back; 0 where it is not locked.
        seed, label: the same give the same masks; every tensor has its own label.

    Raises LockingError when a run does not fit the patch format.
    """
    units = signs.units
    of_unit = np.repeat(tiers, len(units) // tiers.size)
    found: list[FlippedRun] = []
    for tier in np.unique(tiers[tiers > 0]).tolist():
        chosen = of_unit == tier
        locked = np.flatnonzero(chosen)
        for first, last in units.stretches(locked, signs.kinds[locked]):
            mirror, run = signs.mirrors[signs.kinds[first]], units.run(first, last)
            if max(run.length, run.stride, run.count) > U32_MAX:
                raise LockingError("a tensor is longer than 4 GiB", hint="Lock it with --unit value")
            mask = _changeable(signs, first, last, chosen)
            key = hmac.digest(seed, label + b"/%d/%d" % (tier, run.offset), "sha256")
            mask &= np.frombuffer(hashlib.shake_256(key).digest(mask.size), np.uint8)
            place = PatchRun(*run, mirror.kind, mirror.width, mirror.constant)
            found.append(FlippedRun(place, tier, mirror.table + mask.tobytes()))
    return found


def _changeable(signs: Signs, first: int, last: int, chosen: Flags) -> Bytes:
    """The mask of the weights that can change their signs, of the units from `first` to `last` that are `chosen`."""
    units, mirror = signs.units, signs.mirrors[signs.kinds[first]]
    keeping = signs.keeping.get((first, last))
    if keeping is not None and chosen[first : last + 1].all():
        # All were looked at when the signs were read, which need not be done again.
        changeable = np.ones(units.run(first, last).size * 8 // mirror.width, np.bool_)
        changeable[keeping] = False
        return np.packbits(changeable, bitorder="little")
    masks = [
        np.packbits(mirror.flips(raw) & of_element, bitorder="little")
        for raw, of_element in units.chunks(first, last, chosen)
    ]
    return np.concatenate(masks)
