"""Locked files made of runs and flips, and the bundle that restores them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
from corelocker.bundle.clkey import DecryptedSection, KeyBundle
from corelocker.bundle.clkey_header import BundledArtifact, BundledFile
from corelocker.bundle.clkey_write import BundleContents, SectionContents, write_bundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.flips import Flip
from corelocker.bundle.patch import Patch
from corelocker.bundle.sample import sample
from corelocker.files import Bytes
from corelocker.runs import Run
from cryptography.hazmat.primitives.asymmetric import ec

KEY = new_content_key()
TIERS = ("free", "plus", "full")
SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())


def sha256(data: Bytes | bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass
class Locked:
    """One file in all its states, tier 0 (locked) first."""

    name: str
    path: str
    states: list[Bytes]
    patches: list[Patch]

    @property
    def entry(self) -> BundledFile:
        return BundledFile(self.path, self.states[0].size, sha256(self.states[0]))


def lock(
    original: Bytes,
    runs: Sequence[Sequence[Run]],
    name: str = "model.pte",
    path: str = "model.pte",
    seed: int = 0,
    flips: Sequence[Sequence[Flip]] = (),
) -> Locked:
    """`runs[i]` are what tier i + 1 puts in, `flips[i]` what it flips."""
    generator = np.random.default_rng(seed)
    states, patches = [original], []
    for tier in reversed(range(len(runs))):
        of_tier, flipped = runs[tier], flips[tier] if flips else ()
        patch = Patch.build(of_tier, states[0], flipped)
        locked = states[0].copy()
        Patch.build([], locked, flipped).apply(locked)
        noise = generator.integers(0, 256, locked.size, np.uint8)
        Patch.build(of_tier, noise).apply(locked)
        states.insert(0, locked)
        patches.insert(0, patch)
    return Locked(name, path, states, patches)


def bundle_of(files: Sequence[Locked], key: bytes, **wrong: bytes) -> KeyBundle:
    return KeyBundle.open(bundle_bytes(files, key, **wrong))


def bundle_bytes(files: Sequence[Locked], key: bytes, **wrong: bytes) -> bytes:
    bundle = uuid4()
    sections = tuple(
        SectionContents(
            artifact=number,
            file=0,
            tier=tier,
            patch=wrong.get("patch", patch.encode()),
            locked_sample=wrong.get("locked_sample", sample(file.states[0], patch.table)),
            restored_sample=wrong.get("restored_sample", sample(file.states[tier], patch.table)),
            file_digest=wrong.get("file_digest", sha256(file.states[tier])),
        )
        for number, file in enumerate(files)
        for tier, patch in enumerate(file.patches, 1)
        if patch.end or "patch" in wrong
    )
    artifacts = tuple(BundledArtifact(file.name, "executorch", (file.entry,)) for file in files)
    tiers = TIERS[-len(files[0].states) :]
    written = BundleContents(bundle, "m", 1, tiers, artifacts, sections)
    return write_bundle(written, SIGNING_KEY, tier_keys(key, bundle, len(tiers)))


def decrypted(bundle: KeyBundle, key: bytes, tier: int, artifact: int = 0) -> list[DecryptedSection]:
    keys = tier_keys(key, bundle.id, len(bundle.tiers))
    return [bundle.decrypt(section, keys[section.tier]) for section in bundle.sections_of(artifact, 0, tier)]
