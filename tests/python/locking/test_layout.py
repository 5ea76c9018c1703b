"""Which bytes change: crossing rows and columns, and applying them block by block."""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import Future
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from corelocker.bundle.patch import Patch
from corelocker.bundle.sample import sample
from corelocker.errors import LockingError
from corelocker.files import MappedFile
from corelocker.locking import layout, writing
from corelocker.locking.layout import LockedRuns, Name, Overlay, crossing_runs
from corelocker.locking.locked import FileRuns, Filling, LockedFile
from corelocker.locking.tier_patch import tier_patch
from corelocker.locking.writing import write_locked_file
from corelocker.runs import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.small_artifacts import Builder, float_layer

HERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)


def written(runs: list[LockedRuns], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tier and byte of every place, by the definition of a run; a byte named twice is an error."""
    tiers, image = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for run, tier, contents in chain.from_iterable(runs):
        for piece in range(run.count):
            at = run.offset + piece * run.stride
            assert not tiers[at : at + run.length].any()
            tiers[at : at + run.length] = tier
            image[at : at + run.length] = contents[piece * run.length :][: run.length]
    return tiers, image


@HERE
@given(data=st.data())
def test_rows_and_columns_cross_once(tmp_path: Path, data: st.DataObject) -> None:
    outputs, inputs = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 6))
    kernel = data.draw(st.sampled_from([(), (1, 2)]))
    rng = np.random.default_rng(0)
    builder = Builder(tmp_path / "m.bin")
    output_last = not kernel and data.draw(st.booleans())
    layer = float_layer(
        builder, "w", rng.standard_normal((outputs, inputs, *kernel)).astype(np.float32), output_last=output_last
    )
    (tensor,) = builder.artifact([layer]).tensors
    rows = np.array(data.draw(st.lists(st.integers(0, 3), min_size=outputs, max_size=outputs)), np.uint8)
    columns = np.array(data.draw(st.lists(st.integers(0, 3), min_size=inputs, max_size=inputs)), np.uint8)
    row_bytes, column_bytes = tensor.weight.run(0).size, tensor.inputs.run(0).size
    row_data = {i: np.full(row_bytes, 100 + i, np.uint8) for i in np.flatnonzero(rows)}
    column_data = {i: np.full(column_bytes, 200 + i, np.uint8) for i in np.flatnonzero(columns)}

    runs = crossing_runs(tensor, rows, row_data, columns, column_data)

    tiers, image = written(runs, len(tensor.weight.file))
    expected_tiers, expected = np.zeros_like(tiers), np.zeros_like(image)
    for index, part, table, filled in (
        *((i, tensor.inputs, columns, column_data) for i in np.flatnonzero(columns)),
        *((i, tensor.weight, rows, row_data) for i in np.flatnonzero(rows)),
    ):
        run = part.run(int(index))
        for piece in range(run.count):
            place = slice(run.offset + piece * run.stride, run.offset + piece * run.stride + run.length)
            expected_tiers[place] = np.maximum(expected_tiers[place], table[index])
            expected[place] = filled[int(index)][0]
    assert np.array_equal(tiers, expected_tiers)
    assert np.array_equal(image, expected)


@HERE
@given(data=st.data())
def test_blocks_join_to_the_whole_state(data: st.DataObject) -> None:
    size = data.draw(st.integers(60, 200))
    original = np.arange(size, dtype=np.uint8)
    runs: list[LockedRuns] = []
    taken = np.zeros(size, bool)
    for _ in range(4):
        count, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
        stride = length + data.draw(st.integers(0, 9)) if count > 1 else length
        offsets, tiers = [], []
        for start in data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5)):
            if Run(start, length, stride, count).end > size:
                continue
            places = np.concatenate([np.arange(start + i * stride, start + i * stride + length) for i in range(count)])
            if taken[places].any():
                continue
            taken[places] = True
            offsets.append(start)
            tiers.append(data.draw(st.integers(1, 3)))
        contents = (255 - np.arange(len(offsets) * count * length)).astype(np.uint8).reshape(-1, count * length)
        runs.append(LockedRuns(length, stride, count, np.array(offsets, np.int64), np.array(tiers, np.uint8), contents))
    free = next((i for i in range(size - 4) if not taken[i : i + 4].any()), None)
    names = [Name(free, (b"aaaa", b"bbbb", b"bbbb", bytes(original[free : free + 4])))] if free is not None else []
    overlay = Overlay(runs, names)
    block_size = data.draw(st.integers(1, size))
    before = locked = original
    for state in range(4):
        expected = original.copy()
        for run, tier, fill in chain.from_iterable(runs):
            if tier > state:
                for piece in range(run.count):
                    at = run.offset + piece * run.stride
                    expected[at : at + run.length] = fill[piece * run.length :][: run.length]
        for name in names:
            expected[name.offset : name.offset + 4] = np.frombuffer(name.states[state], np.uint8)
        found = []
        for start in range(0, size, block_size):
            block = original[start : start + block_size].copy()
            overlay.apply(start, block, state)
            found.append(block)
        assert np.array_equal(np.concatenate(found), expected)
        if state:
            before = patched(overlay, state, original, before, locked)
        else:
            before = locked = expected
            assert written_as_a_file(original, overlay, block_size, 4) == expected.tobytes()
        assert np.array_equal(before, expected), "each patch leads to the next state"
    assert np.array_equal(expected, original), "the last state is the original"


def patched(overlay: Overlay, tier: int, original: np.ndarray, before: np.ndarray, locked: np.ndarray) -> np.ndarray:
    """What a tier's patch makes of the state before it; `locked` is the state that ships."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "original")
        path.write_bytes(original.tobytes())
        drawn: Future[list[FileRuns]] = Future()
        file = MappedFile(path, "original")
        drawn.set_result([(file, runs) for runs in overlay.runs])
        filling = Filling(file, [(0, original.size)], drawn)
        made = tier_patch(LockedFile(file, [filling], overlay.names), tier)
    after = before.copy()
    if made is not None:
        patch = Patch.parse(b"".join(made.patch.parts()), original.size)
        assert made.payload_size == len(patch.payload)
        assert made.locked_sample == sample(locked, patch.table)
        patch.apply(after)
        assert made.restored_sample == sample(after, patch.table)
    return after


def written_as_a_file(original: np.ndarray, overlay: Overlay, block_size: int, states: int) -> bytes:
    """The bytes that locking a file leaves on disk, and the digests of every state."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "BLOCK", block_size)
        source, copy = Path(folder, "original"), Path(folder, "copy")
        source.write_bytes(original.tobytes())
        drawn: Future[list[FileRuns]] = Future()
        file = MappedFile(source, "original")
        drawn.set_result([(file, runs) for runs in overlay.runs])
        locked = LockedFile(file, [Filling(file, [(0, original.size)], drawn)], overlay.names)
        seen: list[int] = []
        digests = write_locked_file(locked, copy, states, seen.append)
        for state, digest in enumerate(digests):
            image = original.copy()
            overlay.apply(0, image, state)
            assert digest == hashlib.sha256(image.data).digest()
        assert digests[0] == hashlib.sha256(copy.read_bytes()).digest()
        assert sum(seen) == original.size
        return copy.read_bytes()


def test_changes_are_in_file_order_and_only_of_their_tier() -> None:
    offsets, tiers = np.array([8, 16, 40]), np.array([2, 2, 1], np.uint8)
    runs = [LockedRuns(4, 4, 1, offsets, tiers, np.zeros((3, 4), np.uint8))]
    overlay = Overlay(runs, [Name(12, (b"one1", b"two2", b"orig"))])

    def places(tier: int) -> list[list[int]]:
        return [c.runs.offsets[c.rows].tolist() for c in overlay.changes(tier)]

    assert places(1) == [[12], [40]]
    assert places(2) == [[8], [12], [16]]
    name = overlay.changes(2)[1]
    assert name.runs.data.tobytes() == b"one1", "what ships"
    assert name.after is not None
    assert name.after.tobytes() == b"orig"


def test_long_pieces_and_parts_of_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same whatever is copied one by one, and however much at a time."""
    original = np.arange(251, dtype=np.uint8).repeat(4)
    runs = LockedRuns(9, 30, 3, np.array([5, 14, 600]), np.array([1, 1, 1], np.uint8), np.zeros((3, 27), np.uint8))
    states, patches = [], []
    for long, chunk in ((1 << 16, 1 << 20), (8, 1 << 20), (1 << 16, 30)):
        monkeypatch.setattr(layout, "LONG", long)
        monkeypatch.setattr(layout, "CHUNK", chunk)
        block = original.copy()
        Overlay([runs], []).apply(0, block, 0)
        states.append(block.tobytes())
        changes = [part for change in Overlay([runs], []).changes(1) for part in change.chunks()]
        patches.append(b"".join(c.runs.original(original, c.rows).tobytes() for c in changes))
    assert len(set(states)) == len(set(patches)) == 1
    assert states[0] != original.tobytes()


def test_a_run_too_long_for_a_patch_is_refused() -> None:
    runs = LockedRuns(1 << 32, 1 << 32, 1, np.array([0]), np.array([1], np.uint8), np.zeros((1, 0), np.uint8))
    with pytest.raises(LockingError):
        runs.table(np.array([0]))


@pytest.mark.parametrize("half", [False, True])
def test_unlocked_rows_keep_their_bytes(tmp_path: Path, half: bool) -> None:
    builder = Builder(tmp_path / "m.bin")
    layer = float_layer(builder, "w", np.ones((4, 3), np.float32), half=half)
    (tensor,) = builder.artifact([layer]).tensors
    runs = crossing_runs(
        tensor,
        np.array([0, 2, 0, 0], np.uint8),
        {1: np.zeros(tensor.weight.run(1).size, np.uint8)},
        np.zeros(3, np.uint8),
        {},
    )
    assert [(run, tier) for run, tier, _ in chain.from_iterable(runs)] == [(tensor.weight.run(1), 2)]
