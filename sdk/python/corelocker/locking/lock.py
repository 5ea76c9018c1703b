"""Drawing the locked bytes of a plan, and writing the locked files and their patches."""

from __future__ import annotations

import hashlib
import hmac
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, Identity
from corelocker.bundle.patch import Patch
from corelocker.errors import FileAccessError, LockingError
from corelocker.files import Bytes, MappedFile
from corelocker.locking.consumers import ConsumerLocks, follow_consumers
from corelocker.locking.fill import Balance, Filled, fill_group, fill_inputs
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.layout import Cell, Name, Overlay, TierMap, crossing_cells
from corelocker.locking.plan import Plan
from corelocker.runs import Run

BLOCK = 2 << 20
RESIDENT = 32 << 20  # mapped bytes that may stay in memory while patches are gathered
HEX = b"0123456789abcdef"


@dataclass
class LockedFile:
    """One file of an artifact and the bytes in it that change; `digests` is filled when it is written."""

    file: MappedFile
    overlay: Overlay
    digests: list[bytes] = field(default_factory=list)

    @property
    def locked_bytes(self) -> int:
        """Bytes of weights that are locked in the tier that ships."""
        return sum(c.run.size for c in self.overlay.cells)


@dataclass
class LockedArtifact:
    """What a plan does to an artifact.

    Attributes:
        files: in the order of `artifact.files`.
        locked_channels, channels: how many of how many.
        weight_bytes: bytes of all lockable tensors, with what belongs to their channels.
        not_followed: tensor -> why its consumers or its inputs stay, when the plan takes consumers.
    """

    artifact: Artifact
    files: list[LockedFile]
    locked_channels: int
    channels: int
    weight_bytes: int
    not_followed: dict[str, str]

    @property
    def locked_bytes(self) -> int:
        """Bytes of weights that are locked in the tier that ships."""
        return sum(file.locked_bytes for file in self.files)


@dataclass(frozen=True)
class TierPatch:
    """The patch that turns the state of tier `tier - 1` into that of `tier`.

    `replaces` and `puts` are the SHA-256 of the bytes replaced and put in, in run order, `file` that of the whole file after.
    """

    tier: int
    patch: Patch
    replaces: bytes
    puts: bytes
    file: bytes


def lock_artifacts(
    artifacts: Sequence[Artifact], plan: Plan, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[LockedArtifact]:
    """Draw what stands in the place of every locked channel and lay out the changed bytes of every file. Writes nothing."""
    groups = plan.groups or group_layers(list(artifacts))
    none: list[dict[str, TierMap]] = [{} for _ in artifacts]
    extra = ConsumerLocks(none, none, [{} for _ in artifacts])
    if plan.consumers:
        extra = follow_consumers(artifacts, plan.tier_of, plan.left_alone, groups)
    shared = _shared_parts(artifacts)
    cells: dict[MappedFile, list[Cell]] = {file: [] for artifact in artifacts for file in artifact.files}
    balance = Balance()
    for done, group in enumerate(groups):
        progress(done, len(groups))
        _fill_group(group, plan, extra, shared, balance, cells)
    progress(len(groups), len(groups))
    return [_lay_out(index, artifact, plan, extra, cells) for index, artifact in enumerate(artifacts)]


def _shared_parts(artifacts: Sequence[Artifact]) -> set[tuple[MappedFile, int]]:
    """Biases and scales that several tensors share because their bytes are equal: no single channel owns them."""
    seen: set[tuple[MappedFile, int]] = set()
    shared: set[tuple[MappedFile, int]] = set()
    for part in (p for artifact in artifacts for tensor in artifact.tensors for p in tensor.parts[1:]):
        place = (part.file, part.offset)
        (shared if place in seen else seen).add(place)
    return shared


def _fill_group(
    group: list[Member],
    plan: Plan,
    extra: ConsumerLocks,
    shared: set[tuple[MappedFile, int]],
    balance: Balance,
    cells: dict[MappedFile, list[Cell]],
) -> None:
    """Fill the locked channels of layers with the same weights; equal tier maps share one draw."""
    generator = np.random.default_rng(list(hmac.digest(plan.seed, b"fill/" + group[0].tensor.name.encode(), "sha256")))
    by_rows: dict[bytes, list[Member]] = {}
    for member in group:
        by_rows.setdefault(_rows(member, plan, extra).tobytes(), []).append(member)
    for members in by_rows.values():
        rows = _rows(members[0], plan, extra)
        channels = np.flatnonzero(rows)
        filled: list[Filled] = []
        if channels.size:
            filled = fill_group([m.tensor for m in members], channels, plan.fill, generator, balance)
        after_rows = generator.bit_generator.state
        for place, member in enumerate(members):
            tensor = member.tensor
            parts = filled[place].parts if filled else [[] for _ in tensor.parts]
            columns = extra.columns[member.artifact].get(tensor.name)
            if columns is not None and columns.any():
                locked = np.flatnonzero(columns)
                if locked.size == columns.size:
                    raise LockingError(
                        f"{tensor.name}: every input channel of it would be locked", hint="Lock fewer channels"
                    )
                generator.bit_generator.state = after_rows
                inputs = fill_inputs(tensor, locked, plan.fill, generator)
                cells[tensor.weight.file] += crossing_cells(
                    tensor,
                    rows,
                    dict(zip(channels.tolist(), parts[0], strict=False)),
                    columns,
                    dict(zip(locked.tolist(), inputs, strict=True)),
                )
                parts = [[], *parts[1:]]
            for part, contents in zip(tensor.parts, parts, strict=True):
                if part is not tensor.weight and (part.file, part.offset) in shared:
                    continue
                for channel, data in zip(channels.tolist(), contents, strict=False):
                    run = part.run(channel)
                    if run is not None:
                        cells[part.file].append(Cell(run, int(rows[channel]), data))


def _rows(member: Member, plan: Plan, extra: ConsumerLocks) -> TierMap:
    name, none = member.tensor.name, np.zeros(member.tensor.channels, np.uint8)
    return np.maximum(plan.tier_of[member.artifact].get(name, none), extra.rows[member.artifact].get(name, none))


def _lay_out(
    index: int, artifact: Artifact, plan: Plan, extra: ConsumerLocks, cells: dict[MappedFile, list[Cell]]
) -> LockedArtifact:
    places = {file: _Places(cells[file]) for file in artifact.files}
    names: dict[MappedFile, list[Name]] = {file: [] for file in artifact.files}
    for identity in artifact.identities:
        states = _identity_states(identity, places, plan, b"name/%d/" % index)
        if states[0] != states[-1]:
            names[identity.file] += [Name(offset, states) for offset in identity.copies]
    return LockedArtifact(
        artifact,
        [LockedFile(file, Overlay(cells[file], names[file])) for file in artifact.files],
        sum(int(np.count_nonzero(_rows(Member(index, t), plan, extra))) for t in artifact.tensors),
        sum(t.channels for t in artifact.tensors),
        sum(part.size for t in artifact.tensors for part in t.parts),
        extra.not_followed[index],
    )


class _Places:
    """Where the cells of a file lie and which tiers they are of."""

    def __init__(self, cells: list[Cell]) -> None:
        self._starts: npt.NDArray[np.int64] = np.array([c.run.offset for c in cells], np.int64)
        self._ends: npt.NDArray[np.int64] = np.array([c.run.end for c in cells], np.int64)
        self._tiers: npt.NDArray[np.int64] = np.array([c.tier for c in cells], np.int64)

    def tiers_in(self, offset: int, length: int) -> set[int]:
        return set(self._tiers[(self._starts < offset + length) & (self._ends > offset)].tolist())


def _identity_states(
    identity: Identity, places: dict[MappedFile, _Places], plan: Plan, label: bytes
) -> tuple[bytes, ...]:
    """The name in the state of each tier: fresh while a covered byte is locked, and fresh again whenever one comes back."""
    original = bytes(identity.file.read(identity.copies[0], identity.length))
    tiers = set().union(*(places[file].tiers_in(offset, length) for file, offset, length in identity.covers))
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


def write_locked_file(
    locked: LockedFile,
    tiers: int,
    target: Path,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Write the file in the state of tier 0 and set `locked.digests`: the SHA-256 of the whole file in each tier's state.

    One pass over the original; the states are hashed beside each other, and only changed blocks are copied.
    """
    file, hashes = locked.file, [hashlib.sha256() for _ in range(tiers)]
    # Read, not mapped: writing from mapped pages that other threads hash contends for the address space.
    buffer = np.empty(min(BLOCK, len(file)), np.uint8)
    with file.path.open("rb", buffering=0) as source, target.open("wb", buffering=0) as out:
        start = 0
        while start < len(file):
            size = source.readinto(buffer[: len(file) - start].data)
            if not size:
                raise FileAccessError(f"{file.path}: was shortened while it was locked")
            original = buffer[:size]
            blocks = []
            for state in range(tiers):
                block = original
                if locked.overlay.touches(start, start + size, state):
                    block = original.copy()
                    locked.overlay.apply(start, block, state)
                blocks.append(block)
            pending = [pool.submit(h.update, b.data) for h, b in zip(hashes, blocks, strict=True)]
            _write_all(out, blocks[0])
            for future in pending:
                future.result()
            start += size
            progress(size)
    locked.digests = [h.digest() for h in hashes]


def _write_all(out: RawIOBase, block: Bytes) -> None:
    done = 0
    while done < block.size:
        done += out.write(block[done:].data) or 0


def tier_patch(locked: LockedFile, tier: int) -> TierPatch | None:
    """The patch of a tier, or None when the tier changes nothing in this file. Needs `locked.digests`."""
    entries = locked.overlay.patch_entries(tier)
    if not entries:
        return None
    replaces = hashlib.sha256()

    def pieces() -> Iterator[tuple[Run, memoryview]]:
        released = 0
        for run, before, after in entries:
            replaces.update(before.data)
            yield run, (_bytes_at(locked.file, run) if after is None else after).data
            if run.offset - released > RESIDENT:
                locked.file.release(released, run.offset - released)
                released = run.offset

    patch = Patch.gather(pieces(), len(locked.file))
    return TierPatch(tier, patch, replaces.digest(), hashlib.sha256(patch.payload).digest(), locked.digests[tier])


def _bytes_at(file: MappedFile, run: Run) -> Bytes:
    """The pieces of the run side by side."""
    view = np.lib.stride_tricks.as_strided(
        file.data[run.offset :], (run.count, run.length), (run.stride, 1), writeable=False
    )
    return np.ascontiguousarray(view).reshape(-1)


def copy_artifact(
    locked: LockedArtifact, target: Path, tiers: int, pool: ThreadPoolExecutor, progress: Callable[[int], None]
) -> list[Path]:
    """Write the artifact in its locked state into the folder `target`, without what leaks names; returns what now lies there."""
    artifact = locked.artifact
    root = artifact.path
    if root.is_dir():
        changed = {f.file.name for f in locked.files}
        copy = target / root.name
        shutil.copytree(root, copy, ignore=lambda folder, names: [
            n for n in names if (r := (Path(folder) / n).relative_to(root).as_posix()) in changed or r in artifact.strip
        ])  # fmt: skip
        for file in locked.files:
            write_locked_file(file, tiers, copy / file.file.name, pool, progress)
        return [copy]
    written = []
    for file in locked.files:
        write_locked_file(file, tiers, target / file.file.name, pool, progress)
        written.append(target / file.file.name)
    if root.name not in {path.name for path in written}:
        shutil.copyfile(root, target / root.name)  # the index of a sharded checkpoint
        written.append(target / root.name)
    return written
