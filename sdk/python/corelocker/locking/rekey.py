"""Names that stand for content (a weight cache's key, a delegate's identifier): new ones where the content is locked."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from corelocker.artifacts import Identity
from corelocker.files import MappedFile
from corelocker.locking.layout import Name
from corelocker.locking.plan import Plan

HEX = b"0123456789abcdef"


class TierRange(NamedTuple):
    """A range of a file that holds locked bytes, and the tiers that put some of them back."""

    start: int
    stop: int
    tiers: set[int]


def identity_states(
    identity: Identity, ranges: Mapping[MappedFile, Sequence[TierRange]], plan: Plan, label: bytes
) -> tuple[bytes, ...]:
    """The name in the state of each tier: fresh while a covered byte is locked, and fresh again whenever one comes back."""
    original = bytes(identity.file.read(identity.copies[0], identity.length))
    tiers: set[int] = set()
    for file, offset, length in identity.covers:
        tiers.update(*(r.tiers for r in ranges[file] if r.start < offset + length and r.stop > offset))
    states: list[bytes] = []
    for state in range(len(plan.tiers)):
        if not any(tier > state for tier in tiers):
            states.append(original)
        elif states and state not in tiers:
            states.append(states[-1])
        else:
            states.append(_fresh_name(original, plan.seed, label + original + b"/%d" % state))
    return tuple(states)


def _fresh_name(original: bytes, seed: bytes, label: bytes) -> bytes:
    digits = b""
    while len(digits) < len(original):
        digits += hmac.digest(seed, label + b"/%d" % len(digits), "sha256")
    return bytes(
        HEX[digit & 15] if character in HEX else character for character, digit in zip(original, digits, strict=False)
    )


def fresh_names(
    identities: Sequence[Identity], ranges: Mapping[MappedFile, Sequence[TierRange]], plan: Plan, label: bytes
) -> dict[MappedFile, list[Name]]:
    """For each file the copies of identities that change, in every state; `label` tells the artifact from others."""
    names: dict[MappedFile, list[Name]] = {}
    for identity in identities:
        states = identity_states(identity, ranges, plan, label)
        if states[0] != states[-1]:
            names.setdefault(identity.file, []).extend(Name(offset, states) for offset in identity.copies)
    return names
