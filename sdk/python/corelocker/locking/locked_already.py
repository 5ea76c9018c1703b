"""Files that are locked already, known by a key bundle beside them or by the keystore's records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from corelocker.artifacts import Artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.keystore import LockRecord, RecordedFile
from corelocker.bundle.patch_runs import RUN, Table
from corelocker.bundle.sample import sample, sample_of
from corelocker.errors import BundleError, FileAccessError, LockingError
from corelocker.files import MappedFile
from corelocker.locking.locked import LockedFile
from corelocker.locking.tier_patch import TierPatch, read_state, windows_of


def refuse_locked(artifacts: Sequence[Artifact]) -> None:
    """Raises LockingError for a file that a key bundle in its folder names, byte for byte.

    Locked twice, it could be restored by both bundles together only.
    """
    for artifact in artifacts:
        for bundle_path in sorted(artifact.path.absolute().parent.glob("*.clkey")):
            try:
                bundle = KeyBundle.open(bundle_path)
            except (BundleError, FileAccessError):
                continue
            known = {(f.path, f.size, f.sha256) for entry in bundle.artifacts for f in entry.files}
            sizes = {(path, size) for path, size, _ in known}
            for file in artifact.files:
                if (file.name, len(file)) in sizes and (file.name, len(file), _digest(file)) in known:
                    raise _locked_already(artifact, bundle_path.name)


def refuse_recorded(artifacts: Sequence[Artifact], records: Sequence[LockRecord]) -> None:
    """Raises LockingError for a file that one of the keystore's records knows, wherever it lies, also restored in part."""
    for artifact in artifacts:
        for file in artifact.files:
            for record in records:
                for known in record.files:
                    if len(file) == known.size and sample(file.data, _table(known.places)) in known.samples:
                        by = f"bundle {record.bundle} (model {record.model}, version {record.model_version})"
                        raise _locked_already(artifact, by)


def _locked_already(artifact: Artifact, by: str) -> LockingError:
    return LockingError(f"{artifact.path}: is locked already, by {by}", hint="Take the original file")


def _digest(file: MappedFile) -> bytes:
    with file.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def recorded_file(locked: LockedFile, patches: Sequence[TierPatch | None]) -> RecordedFile | None:
    """How a record knows a file that is being locked; None where nothing in it changes.

    Args:
        patches: of the tiers from 1 on.
    """
    changing = [tier for tier, patch in enumerate(patches, 1) if patch is not None]
    last = patches[changing[-1] - 1] if changing else None
    if last is None or not last.differing:
        return None
    *states, original = (_sample(locked, last.differing, state) for state in range(changing[-1] + 1))
    samples = tuple(dict.fromkeys(found for found in states if found != original))
    return RecordedFile(len(locked.file), last.differing, samples) if samples else None


def _sample(locked: LockedFile, places: Sequence[int], state: int) -> bytes:
    ends = [read_state(locked, place, 1, state) for place in places]
    return sample_of(len(locked.file), windows_of(locked, state), ends)


def _table(places: Sequence[int]) -> Table:
    """Runs of one byte each."""
    table = np.zeros(len(places), RUN)
    table["offset"] = places
    table["length"] = table["stride"] = table["count"] = 1
    return table
