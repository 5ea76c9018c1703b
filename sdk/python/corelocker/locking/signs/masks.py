"""Drawing which weights change their signs.

Each weight of a locked channel flips with probability 1/2, so the locked file's signs are independent of the original's. The bits
are those of AES-256 in counter mode under a key for each run, HMAC-SHA256 of the plan's seed, which is 32 random bytes of the
operating system unless the publisher gives one.
"""

from __future__ import annotations

import hmac

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

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
    for tier in (np.flatnonzero(np.bincount(tiers)[1:]) + 1).tolist():
        chosen = of_unit == tier
        locked = np.flatnonzero(chosen)
        for first, last in units.stretches(locked, signs.kinds[locked]):
            mirror, run = signs.mirrors[signs.kinds[first]], units.run(first, last)
            if max(run.length, run.stride, run.count) > U32_MAX:
                raise LockingError("a tensor is longer than 4 GiB", hint="Lock it with --unit value")
            mask = _changeable(signs, first, last, chosen)
            key = hmac.digest(seed, label + b"/%d/%d" % (tier, run.offset), "sha256")
            mask &= _random(key, mask.size)
            place = PatchRun(*run, mirror.kind, mirror.width, mirror.constant)
            found.append(FlippedRun(place, tier, mirror.table + mask.tobytes()))
    return found


def _random(key: bytes, size: int) -> Bytes:
    """`size` bytes for a key of 32, which serves no other purpose."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(size)), np.uint8)


def _changeable(signs: Signs, first: int, last: int, chosen: Flags) -> Bytes:
    """The mask of the weights that can change their signs, of the units from `first` to `last` that are `chosen`."""
    units, mirror = signs.units, signs.mirrors[signs.kinds[first]]
    keeping = signs.keeping.get((first, last))
    if keeping is not None and chosen[first : last + 1].all():
        # All were looked at when the signs were read, which need not be done again.
        elements = units.run(first, last).size * 8 // mirror.width
        mask = np.full(-(-elements // 8), 255, np.uint8)
        mask[-1] >>= -elements % 8
        np.bitwise_and.at(mask, keeping // 8, ~(1 << keeping % 8).astype(np.uint8))
        return mask
    masks, seen = [], 0
    for raw in units.chunks(first, last):
        flips = mirror.flips(raw)
        flips &= units.chosen_elements(first, last, seen, seen + flips.size, chosen)
        masks.append(np.packbits(flips, bitorder="little"))
        seen += flips.size
    return np.concatenate(masks)
