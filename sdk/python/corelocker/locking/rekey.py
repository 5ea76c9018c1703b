"""Names that stand for content (a weight cache's key, a delegate's identifier): new ones where the content is locked."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from corelocker.artifacts import Artifact, Identity
from corelocker.files import MappedFile
from corelocker.locking.layout import Name
from corelocker.locking.plan import Plan

HEX = b"0123456789abcdef"


class TierRange(NamedTuple):
    """A range of a file that holds locked bytes, and the tiers that put some of them back."""

    start: int
    stop: int
    tiers: set[int]


def _name_states(original: bytes, tiers: set[int], plan: Plan, label: bytes) -> tuple[bytes, ...]:
    """The name in the state of each tier: fresh while a covered byte is locked, and fresh again whenever one comes back.

    Args:
        tiers: those that put back bytes that the name covers.
    """
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
    artifacts: Sequence[Artifact], ranges: Mapping[MappedFile, Sequence[TierRange]], plan: Plan
) -> dict[MappedFile, list[Name]]:
    """For each file the copies of identities that change, in every state.

    Artifacts that have a file in common have one fresh name for the same identity: each must still find the content under it.
    """
    names: dict[MappedFile, dict[int, Name]] = {}
    for first, identities in _together(artifacts):
        tiers: dict[bytes, set[int]] = {}
        for identity in identities:
            found = tiers.setdefault(_original(identity), set())
            for file, offset, length in identity.covers:
                found.update(*(r.tiers for r in ranges[file] if r.start < offset + length and r.stop > offset))
        label = b"name/%d/" % first
        states = {original: _name_states(original, found, plan, label) for original, found in tiers.items()}
        for identity in identities:
            of_name = states[_original(identity)]
            if of_name[0] != of_name[-1]:
                names.setdefault(identity.file, {}).update({at: Name(at, of_name) for at in identity.copies})
    return {file: list(found.values()) for file, found in names.items()}


def _original(identity: Identity) -> bytes:
    return bytes(identity.file.read(identity.copies[0], identity.length))


def _together(artifacts: Sequence[Artifact]) -> list[tuple[int, list[Identity]]]:
    """The identities of artifacts that have files in common, directly or through others, with the index of the first of them."""
    sets: list[tuple[int, set[MappedFile], list[Identity]]] = []
    for index, artifact in enumerate(artifacts):
        joined = [entry for entry in sets if entry[1] & set(artifact.files)]
        sets = [entry for entry in sets if entry not in joined]
        first = min([index, *(entry[0] for entry in joined)])
        files = set(artifact.files).union(*(entry[1] for entry in joined))
        sets.append((first, files, [i for entry in joined for i in entry[2]] + list(artifact.identities)))
    return [(first, identities) for first, _, identities in sorted(sets, key=lambda entry: entry[0])]
