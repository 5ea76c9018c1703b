"""Drawing the locked bytes of a plan, and writing the locked files and their patches."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from io import RawIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corelocker.artifacts import Artifact, Identity, Part
from corelocker.artifacts.weights import SparsePart
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import total_size
from corelocker.bundle.sample import piece_ends, sample_of, window_places
from corelocker.errors import FileAccessError, LockingError
from corelocker.files import Bytes, MappedFile, read_buffer
from corelocker.locking.consumers import ConsumerLocks, follow_consumers
from corelocker.locking.fill import fill_group
from corelocker.locking.fill.encode import Filled, Rows
from corelocker.locking.fill.inputs import fill_inputs
from corelocker.locking.fill.ordering import RankBias, Ticket
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.layout import Indices, LockedRuns, Name, Overlay, TierMap, crossing_runs
from corelocker.locking.plan import Plan

BLOCK = 4 << 20  # read at a time, so that it stays in the processor's cache until it is hashed and written
CACHED = 16 << 20  # bytes of a written file that may wait in the page cache
AHEAD = 3  # blocks that are read while others are hashed and written
THREADS = 2
RESIDENT = 32 << 20  # mapped bytes that may stay in memory while patches are gathered
HEX = b"0123456789abcdef"
FileRuns = tuple[MappedFile, LockedRuns]


class Filling:
    """The changed bytes of layers with the same weights, in one file; they may still be being drawn in another thread.

    Attributes:
        extents: (start, stop) of each range of the file that they lie in.
    """

    def __init__(self, file: MappedFile, extents: list[tuple[int, int]], drawn: Future[list[FileRuns]]) -> None:
        self.extents = extents
        self._file = file
        self._drawn = drawn

    @cached_property
    def overlay(self) -> Overlay:
        """The changed bytes, once they are drawn; raises what kept them from being drawn."""
        return Overlay([runs for file, runs in self._drawn.result() if file is self._file], [])


class LockedFile:
    """One file of an artifact and the bytes in it that change."""

    def __init__(self, file: MappedFile, fillings: list[Filling], names: list[Name]) -> None:
        self.file = file
        self._fillings = fillings
        self._names = Overlay([], names)

    @cached_property
    def overlay(self) -> Overlay:
        """All that changes, once everything is drawn."""
        return Overlay(
            [runs for filling in self._fillings for runs in filling.overlay.runs],
            self._names.names,
        )

    def apply(self, start: int, block: Bytes, state: int) -> None:
        """Write the state's bytes into `block`, the original file from `start` on; waits for the layers in the block only."""
        stop = start + block.size
        for filling in self._fillings:
            if any(first < stop and last > start for first, last in filling.extents):
                filling.overlay.apply(start, block, state)
        self._names.apply(start, block, state)

    @property
    def locked_bytes(self) -> int:
        """Bytes of weights that are locked in the tier that ships."""
        return sum(runs.data.size for runs in self.overlay.runs)


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


class TierRange(NamedTuple):
    """A range of a file that holds locked bytes, and the tiers that put some of them back."""

    start: int
    stop: int
    tiers: set[int]


@dataclass(frozen=True)
class TierPatch:
    """The patch that turns the state of a tier's predecessor into that of the tier.

    Attributes:
        encoded: the patch as bytes.
        payload_size: bytes that it puts in.
        locked_sample: sample of the locked file with the patch's runs, 32 bytes.
        restored_sample: sample of the file after the patch, with the same runs, 32 bytes.
    """

    encoded: memoryview = field(repr=False)
    payload_size: int
    locked_sample: bytes
    restored_sample: bytes


def lock_artifacts(artifacts: Sequence[Artifact], plan: Plan) -> list[LockedArtifact]:
    """Draw what stands in the place of every locked channel and lay out the changed bytes of every file. Writes nothing."""
    with ThreadPoolExecutor(THREADS) as pool:
        locked = start_locking(artifacts, plan, pool)
    for artifact in locked:
        for file in artifact.files:
            file.overlay  # noqa: B018 - raises what went wrong
    return locked


def start_locking(artifacts: Sequence[Artifact], plan: Plan, pool: ThreadPoolExecutor) -> list[LockedArtifact]:
    """Like `lock_artifacts`, but the bytes are drawn in the pool's threads, and whoever needs them waits for them.

    Layers are drawn in the order of the artifacts, so that a file can be written from its beginning meanwhile.
    """
    groups = plan.groups or group_layers(list(artifacts))
    none: list[dict[str, TierMap]] = [{} for _ in artifacts]
    extra = ConsumerLocks(none, none, [{} for _ in artifacts])
    if plan.consumers:
        extra = follow_consumers(artifacts, plan.tier_of, plan.left_alone, groups)
    shared = _shared_parts(artifacts)
    fillings: dict[MappedFile, list[Filling]] = {file: [] for artifact in artifacts for file in artifact.files}
    ranges: dict[MappedFile, list[TierRange]] = {file: [] for file in fillings}
    bias, ticket = RankBias(), None
    for group in groups:
        touched: dict[MappedFile, list[tuple[int, int]]] = {}
        for member in group:
            for file, tier_range in _tier_ranges(member, plan, extra, shared):
                ranges[file].append(tier_range)
                touched.setdefault(file, []).append((tier_range.start, tier_range.stop))
        if touched:
            alike = _by_rows(group, plan, extra)
            ticket = Ticket(bias, ticket, sum(bool(rows.any()) for rows, _ in alike))
            drawn = pool.submit(_fill_group, alike, plan, extra, shared, ticket)
            for file, extents in touched.items():
                fillings[file].append(Filling(file, extents, drawn))
    return [_lay_out(index, artifact, plan, extra, fillings, ranges) for index, artifact in enumerate(artifacts)]


def _tier_ranges(
    member: Member, plan: Plan, extra: ConsumerLocks, shared: set[tuple[MappedFile, int]]
) -> Iterator[tuple[MappedFile, TierRange]]:
    """Where locked channels of a tensor lie, and the tiers that put bytes back there."""
    tensor = member.tensor
    rows = set(_rows(member, plan, extra).tolist()) - {0}
    columns = extra.columns[member.artifact].get(tensor.name)
    for part in tensor.parts:
        tiers = set(rows)
        if part is tensor.weight and columns is not None:
            tiers |= set(columns.tolist()) - {0}
        elif part is not tensor.weight and (part.file, part.offset) in shared:
            continue
        if tiers:
            start, length = part.extent
            yield part.file, TierRange(start, start + length, tiers)


def _shared_parts(artifacts: Sequence[Artifact]) -> set[tuple[MappedFile, int]]:
    """Biases and scales that several tensors share because their bytes are equal: no single channel owns them."""
    seen: set[tuple[MappedFile, int]] = set()
    shared: set[tuple[MappedFile, int]] = set()
    for part in (p for artifact in artifacts for tensor in artifact.tensors for p in tensor.parts[1:]):
        place = (part.file, part.offset)
        (shared if place in seen else seen).add(place)
    return shared


def _by_rows(group: list[Member], plan: Plan, extra: ConsumerLocks) -> list[tuple[TierMap, list[Member]]]:
    """The members of a group by which of their channels are locked: equal tier maps share one draw."""
    alike: dict[bytes, tuple[TierMap, list[Member]]] = {}
    for member in group:
        rows = _rows(member, plan, extra)
        alike.setdefault(rows.tobytes(), (rows, []))[1].append(member)
    return list(alike.values())


def _fill_group(
    alike: list[tuple[TierMap, list[Member]]],
    plan: Plan,
    extra: ConsumerLocks,
    shared: set[tuple[MappedFile, int]],
    ticket: Ticket,
) -> list[FileRuns]:
    """Fill the locked channels of layers with the same weights: the changed bytes of each file."""
    name = alike[0][1][0].tensor.name
    generator = np.random.default_rng(list(hmac.digest(plan.seed, b"fill/" + name.encode(), "sha256")))
    runs: list[FileRuns] = []
    try:
        for rows, members in alike:
            runs += _fill_members(members, rows, plan, extra, shared, generator, ticket)
    finally:
        ticket.end()
    return runs


def _fill_members(
    members: list[Member],
    rows: TierMap,
    plan: Plan,
    extra: ConsumerLocks,
    shared: set[tuple[MappedFile, int]],
    generator: np.random.Generator,
    ticket: Ticket,
) -> list[FileRuns]:
    channels = np.flatnonzero(rows)
    filled: list[Filled] = []
    runs: list[FileRuns] = []
    if channels.size == rows.size:
        name = members[0].tensor.name
        raise LockingError(f"{name}: every channel of it would be locked", hint="Lock fewer channels")
    if channels.size:
        filled = fill_group([m.tensor for m in members], channels, plan.fill, generator, ticket)
    after_rows = generator.bit_generator.state
    for place, member in enumerate(members):
        tensor = member.tensor
        contents = filled[place].parts if filled else [[] for _ in tensor.parts]
        columns = extra.columns[member.artifact].get(tensor.name)
        if columns is not None and columns.any():
            locked = np.flatnonzero(columns)
            generator.bit_generator.state = after_rows
            inputs = fill_inputs(tensor, locked, plan.fill, generator)
            crossing = crossing_runs(
                tensor,
                rows,
                dict(zip(channels.tolist(), contents[0], strict=False)),
                columns,
                dict(zip(locked.tolist(), inputs, strict=True)),
            )
            runs += [(tensor.weight.file, part_runs) for part_runs in crossing]
            contents = [[], *contents[1:]]
        for part, data in zip(tensor.parts, contents, strict=True):
            if len(data) and (part is tensor.weight or (part.file, part.offset) not in shared):
                runs += [(part.file, part_runs) for part_runs in _runs_of_part(part, channels, rows[channels], data)]
    return runs


def _runs_of_part(part: Part | SparsePart, channels: Indices, tiers: TierMap, data: Rows) -> list[LockedRuns]:
    if isinstance(part, Part):
        return [LockedRuns.of_part(part, channels, tiers, np.asarray(data))]
    runs = [part.run(channel) for channel in channels.tolist()]
    return [LockedRuns.of_run(r, int(t), d) for r, t, d in zip(runs, tiers, data, strict=True) if r is not None]


def _rows(member: Member, plan: Plan, extra: ConsumerLocks) -> TierMap:
    name, none = member.tensor.name, np.zeros(member.tensor.channels, np.uint8)
    return np.maximum(plan.tier_of[member.artifact].get(name, none), extra.rows[member.artifact].get(name, none))


def _lay_out(
    index: int,
    artifact: Artifact,
    plan: Plan,
    extra: ConsumerLocks,
    fillings: dict[MappedFile, list[Filling]],
    ranges: dict[MappedFile, list[TierRange]],
) -> LockedArtifact:
    names: dict[MappedFile, list[Name]] = {file: [] for file in artifact.files}
    for identity in artifact.identities:
        states = _identity_states(identity, ranges, plan, b"name/%d/" % index)
        if states[0] != states[-1]:
            names[identity.file] += [Name(offset, states) for offset in identity.copies]
    return LockedArtifact(
        artifact,
        [LockedFile(file, fillings[file], names[file]) for file in artifact.files],
        sum(int(np.count_nonzero(_rows(Member(index, t), plan, extra))) for t in artifact.tensors),
        sum(t.channels for t in artifact.tensors),
        sum(part.size for t in artifact.tensors for part in t.parts),
        extra.not_followed[index],
    )


def _identity_states(
    identity: Identity, ranges: dict[MappedFile, list[TierRange]], plan: Plan, label: bytes
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


def state_digest(locked: LockedFile, state: int) -> bytes:
    """SHA-256 of the whole file in the state of a tier.

    Raises FileAccessError when the original cannot be read, or is shorter than it was.
    """
    sha256 = hashlib.sha256()
    for start, block in _blocks(locked.file, 1):
        locked.apply(start, block, state)
        sha256.update(block.data)
    return sha256.digest()


def write_locked_file(locked: LockedFile, target: Path, progress: Callable[[int], None] = lambda size: None) -> bytes:
    """Write the file in the state of tier 0 and return its SHA-256. Raises FileAccessError like `state_digest`."""
    sha256 = hashlib.sha256()
    waiting: deque[tuple[int, list[Future[None]]]] = deque()

    def finish() -> None:
        size, steps = waiting.popleft()
        for step in steps:
            step.result()
        progress(size)

    with target.open("wb", buffering=0) as out, ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as writing:
        for start, block in _blocks(locked.file, AHEAD + 1):
            locked.apply(start, block, 0)
            waiting.append(
                (block.size, [hashing.submit(sha256.update, block.data), writing.submit(_write_all, out, block)])
            )
            if len(waiting) > AHEAD - 1:
                finish()
        while waiting:
            finish()
    return sha256.digest()


def _blocks(file: MappedFile, buffers: int) -> Iterator[tuple[int, Bytes]]:
    """The file in blocks that may be changed, each with its offset; a block is valid until `buffers` more are asked for."""
    memory = [np.frombuffer(read_buffer(min(BLOCK, len(file))), np.uint8) for _ in range(buffers)]
    # Read, not mapped: threads that map and release pages contend for the address space.
    with file.path.open("rb", buffering=0) as source:
        for number, start in enumerate(range(0, len(file), BLOCK)):
            yield start, _read_block(source, memory[number % buffers], start, file)


def _read_block(source: RawIOBase, buffer: Bytes, start: int, file: MappedFile) -> Bytes:
    block = buffer[: len(file) - start]
    done = 0
    while done < block.size:
        size = source.readinto(block[done:].data)
        if not size:
            raise FileAccessError(f"{file.path}: was shortened while it was locked")
        done += size
    return block


def _write_all(out: RawIOBase, block: Bytes) -> None:
    done = 0
    while done < block.size:
        done += out.write(block[done:].data) or 0
    # What was written goes to the disk now and then leaves the page cache, whose memory the next block takes. Otherwise a large
    # file pushes everything else out, and on a virtual machine fresh memory takes several times as long as the copy.
    if out.tell() > CACHED and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def tier_patch(locked: LockedFile, tier: int) -> TierPatch | None:
    """The patch of a tier, or None when the tier changes nothing in this file."""
    changes = [chunk for change in locked.overlay.changes(tier) for chunk in change.chunks()]
    if not changes:
        return None
    locked_ends: list[Bytes] = []
    restored_ends: list[Bytes] = []

    def pieces() -> Iterator[Bytes]:
        released = 0
        for runs, rows, after in changes:
            restored = runs.original(locked.file.data, rows) if after is None else after
            locked_ends.append(piece_ends(runs.data[rows], runs.length))
            # A copy, for what is yielded may be a view of the mapped file.
            restored_ends.append(piece_ends(restored.reshape(rows.size, -1), runs.length).copy())
            yield restored
            reached = int(runs.offsets[rows[0]])
            if reached - released > RESIDENT:
                locked.file.release(released, reached - released)
                released = reached

    table = np.concatenate([runs.table(rows) for runs, rows, _ in changes])
    encoded = Patch.gather(table, pieces(), len(locked.file))
    size = len(locked.file)
    return TierPatch(
        encoded,
        total_size(table),
        sample_of(size, _windows(locked, 0), locked_ends),
        sample_of(size, _windows(locked, tier), restored_ends),
    )


def _windows(locked: LockedFile, state: int) -> Iterator[Bytes]:
    """The windows of a sample of the file in the state of a tier."""
    for start, length in window_places(len(locked.file)):
        block = locked.file.data[start : start + length].copy()
        locked.apply(start, block, state)
        yield block


def copy_rest(locked: LockedArtifact, target: Path) -> list[Path]:
    """Copy what the lock leaves as it is into the folder `target`, without what leaks names.

    Returns the paths that the artifact has there once its locked files are written too.
    """
    artifact = locked.artifact
    root, changed = artifact.path, {file.file.name for file in locked.files}
    if root.is_dir():
        copy = target / root.name
        shutil.copytree(root, copy, ignore=lambda folder, names: [
            n for n in names if (r := (Path(folder) / n).relative_to(root).as_posix()) in changed or r in artifact.strip
        ])  # fmt: skip
        return [copy]
    if root.name not in changed:
        shutil.copyfile(root, target / root.name)  # the index of a sharded checkpoint
    return [target / name for name in sorted({root.name, *changed})]
