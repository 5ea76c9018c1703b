"""Drawing what stands in the place of every locked channel of a plan. Writes nothing."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from corelocker.artifacts import Artifact, Part
from corelocker.artifacts.weights import Place, SparsePart
from corelocker.errors import LockingError
from corelocker.files import MappedFile
from corelocker.locking.consumers import ConsumerLocks, follow_consumers
from corelocker.locking.fill import fill_group
from corelocker.locking.fill.encode import Filled, Rows
from corelocker.locking.fill.inputs import fill_inputs
from corelocker.locking.fill.ordering import RankBias, Ticket
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.layout import Indices, LockedRuns, TierMap, crossing_runs
from corelocker.locking.locked import FileRuns, Filling, LockedArtifact, LockedFile
from corelocker.locking.plan import Plan
from corelocker.locking.rekey import TierRange, fresh_names
from corelocker.locking.signs.masks import draw_flips

THREADS = 2


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
        once = _once(group)
        by_sign = [member for member in once if plan.signs_of(member)]
        by_value = [member for member in once if not plan.signs_of(member)]
        for members in (by_sign, by_value):
            touched: dict[MappedFile, list[tuple[int, int]]] = {}
            for member in members:
                for file, tier_range in _tier_ranges(member, plan, extra, shared):
                    ranges[file].append(tier_range)
                    touched.setdefault(file, []).append((tier_range.start, tier_range.stop))
            if not touched:
                continue
            if members is by_sign:
                drawn = pool.submit(_flip_members, members, plan)
            else:
                alike = _by_rows(members, plan, extra)
                ticket = Ticket(bias, ticket, sum(bool(rows.any()) for rows, _ in alike))
                drawn = pool.submit(_fill_group, alike, plan, extra, shared, ticket)
            for file, extents in touched.items():
                fillings[file].append(Filling(file, extents, drawn))
    names = fresh_names(artifacts, ranges, plan)
    files = {file: LockedFile(file, found, names.get(file, [])) for file, found in fillings.items()}
    return [_lay_out(index, artifact, plan, extra, files) for index, artifact in enumerate(artifacts)]


def _lay_out(
    index: int,
    artifact: Artifact,
    plan: Plan,
    extra: ConsumerLocks,
    files: dict[MappedFile, LockedFile],
) -> LockedArtifact:
    return LockedArtifact(
        artifact,
        [files[file] for file in artifact.files],
        sum(int(np.count_nonzero(_rows(Member(index, t), plan, extra))) for t in artifact.tensors),
        sum(t.channels for t in artifact.tensors),
        sum(part.size for t in artifact.tensors for part in t.parts),
        extra.not_followed[index],
    )


def _tier_ranges(
    member: Member, plan: Plan, extra: ConsumerLocks, shared: set[tuple[MappedFile, int]]
) -> Iterator[tuple[MappedFile, TierRange]]:
    """Where locked channels of a tensor lie, and the tiers that put bytes back there."""
    tensor = member.tensor
    rows = set(_rows(member, plan, extra).tolist()) - {0}
    columns = extra.columns[member.artifact].get(tensor.name)
    for part in tensor.parts[:1] if plan.signs_of(member) else tensor.parts:
        tiers = set(rows)
        if part is tensor.weight and columns is not None:
            tiers |= set(columns.tolist()) - {0}
        elif part is not tensor.weight and (part.file, part.offset) in shared:
            continue
        if tiers:
            start, length = part.extent
            yield part.file, TierRange(start, start + length, tiers)


def _shared_parts(artifacts: Sequence[Artifact]) -> set[tuple[MappedFile, int]]:
    """Biases and scales that several weights share because their bytes are equal: no single channel owns them."""
    owner: dict[tuple[MappedFile, int], Place] = {}
    shared: set[tuple[MappedFile, int]] = set()
    for tensor in (tensor for artifact in artifacts for tensor in artifact.tensors):
        seen: set[tuple[MappedFile, int]] = set()
        for part in tensor.parts[1:]:
            place = (part.file, part.offset)
            if place in seen or owner.setdefault(place, tensor.place) != tensor.place:
                shared.add(place)
            seen.add(place)
    return shared


def _once(members: Sequence[Member]) -> list[Member]:
    """Of weights that are the same bytes, read by several programs, the first."""
    return list({member.tensor.place: member for member in reversed(members)}.values())[::-1]


def _by_rows(group: list[Member], plan: Plan, extra: ConsumerLocks) -> list[tuple[TierMap, list[Member]]]:
    """The members of a group by which of their channels are locked: equal tier maps share one draw."""
    alike: dict[bytes, tuple[TierMap, list[Member]]] = {}
    for member in group:
        rows = _rows(member, plan, extra)
        alike.setdefault(rows.tobytes(), (rows, []))[1].append(member)
    return list(alike.values())


def _flip_members(members: list[Member], plan: Plan) -> list[FileRuns]:
    """Flip weights of the locked channels of layers: the changed runs of each file. Every copy has a mask of its own."""
    runs: list[FileRuns] = []
    for member in members:
        signs, tensor = plan.signs_of(member), member.tensor
        tiers = plan.tier_of[member.artifact].get(tensor.name)
        if signs is not None and tiers is not None and tiers.any():
            label = b"sign/%d/" % member.artifact + tensor.name.encode()
            runs += [(tensor.weight.file, run) for run in draw_flips(signs, tiers, plan.seed, label)]
            tensor.release()
    return runs


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
                runs += [(part.file, part_runs) for part_runs in runs_of_part(part, channels, rows[channels], data)]
    return runs


def runs_of_part(part: Part | SparsePart, channels: Indices, tiers: TierMap, data: Rows) -> list[LockedRuns]:
    """The given channels (n,) of a part with the tiers (n,) and the new bytes of each."""
    if isinstance(part, Part):
        return [LockedRuns.of_part(part, channels, tiers, np.asarray(data))]
    runs = [part.run(channel) for channel in channels.tolist()]
    return [LockedRuns.of_run(r, int(t), d) for r, t, d in zip(runs, tiers, data, strict=True) if r is not None]


def _rows(member: Member, plan: Plan, extra: ConsumerLocks) -> TierMap:
    name, none = member.tensor.name, np.zeros(member.tensor.channels, np.uint8)
    return np.maximum(plan.tier_of[member.artifact].get(name, none), extra.rows[member.artifact].get(name, none))
