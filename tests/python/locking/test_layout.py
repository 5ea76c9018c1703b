"""Which bytes change: crossing rows and columns, and applying them block by block."""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from corelocker.files import MappedFile
from corelocker.locking import lock
from corelocker.locking.layout import Cell, Name, Overlay, crossing_cells
from corelocker.runs import Run, single
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Builder, float_layer

HERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)


def written(cells: list[Cell], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tier and byte of every place, by the definition of a run; a byte named twice is an error."""
    tiers, image = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for cell in cells:
        for piece in range(cell.run.count):
            at = cell.run.offset + piece * cell.run.stride
            assert not tiers[at : at + cell.run.length].any()
            tiers[at : at + cell.run.length] = cell.tier
            image[at : at + cell.run.length] = cell.data[piece * cell.run.length :][: cell.run.length]
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

    cells = crossing_cells(tensor, rows, row_data, columns, column_data)

    tiers, image = written(cells, len(tensor.weight.file))
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
    cells: list[Cell] = []
    taken = np.zeros(size, bool)
    for tier in (1, 2, 1, 2, 3):
        count, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
        stride = length + data.draw(st.integers(0, 9)) if count > 1 else length
        start = data.draw(st.integers(0, size - 1))
        run = Run(start, length, stride, count)
        if run.end > size:
            continue
        places = np.concatenate([np.arange(start + i * stride, start + i * stride + length) for i in range(count)])
        if taken[places].any():
            continue
        taken[places] = True
        cells.append(Cell(run, tier, (255 - np.arange(run.size)).astype(np.uint8)))
    free = next((i for i in range(size - 4) if not taken[i : i + 4].any()), None)
    names = [Name(free, (b"aaaa", b"bbbb", b"bbbb", bytes(original[free : free + 4])))] if free is not None else []
    overlay = Overlay(cells, names)
    block_size = data.draw(st.integers(1, size))
    for state in range(4):
        expected = original.copy()
        for cell in cells:
            if cell.tier > state:
                for piece in range(cell.run.count):
                    at = cell.run.offset + piece * cell.run.stride
                    expected[at : at + cell.run.length] = cell.data[piece * cell.run.length :][: cell.run.length]
        for name in names:
            expected[name.offset : name.offset + 4] = np.frombuffer(name.states[state], np.uint8)
        found = []
        for start in range(0, size, block_size):
            block = original[start : start + block_size].copy()
            overlay.apply(start, block, state)
            found.append(block)
        assert np.array_equal(np.concatenate(found), expected)
        if state == 0:
            assert written_as_a_file(original, overlay, block_size) == expected.tobytes()
    assert np.array_equal(expected, original), "the last state is the original"


def written_as_a_file(original: np.ndarray, overlay: Overlay, block_size: int) -> bytes:
    """The bytes that locking a file leaves on disk, whose digest it also computes without that file."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "BLOCK", block_size)
        source, copy = Path(folder, "original"), Path(folder, "copy")
        source.write_bytes(original.tobytes())
        drawn: Future[list[lock.FileCell]] = Future()
        file = MappedFile(source, "original")
        drawn.set_result([(file, cell) for cell in overlay.cells])
        locked = lock.LockedFile(file, [lock.Filling(file, [(0, original.size)], drawn)], overlay.names)
        seen: list[int] = []
        digest = lock.write_locked_file(locked, copy, seen.append)
        assert digest == lock.state_digest(locked, 0) == hashlib.sha256(copy.read_bytes()).digest()
        assert sum(seen) == original.size
        return copy.read_bytes()


def test_patch_entries_are_in_file_order_and_only_of_their_tier() -> None:
    cells = [Cell(single(40, 2), 1, np.zeros(2, np.uint8)), Cell(single(8, 4), 2, np.zeros(4, np.uint8))]
    name = Name(20, (b"one1", b"two2", b"orig"))
    overlay = Overlay(cells, [name])
    assert [run.offset for run, _, _ in overlay.patch_entries(1)] == [20, 40]
    second = overlay.patch_entries(2)
    assert [run.offset for run, _, _ in second] == [8, 20]
    assert second[1][1].tobytes() == b"two2"
    assert second[1][2] is not None
    assert second[1][2].tobytes() == b"orig"


@pytest.mark.parametrize("half", [False, True])
def test_unlocked_rows_keep_their_bytes(tmp_path: Path, half: bool) -> None:
    builder = Builder(tmp_path / "m.bin")
    layer = float_layer(builder, "w", np.ones((4, 3), np.float32), half=half)
    (tensor,) = builder.artifact([layer]).tensors
    cells = crossing_cells(
        tensor,
        np.array([0, 2, 0, 0], np.uint8),
        {1: np.zeros(tensor.weight.run(1).size, np.uint8)},
        np.zeros(3, np.uint8),
        {},
    )
    assert [(c.run, c.tier) for c in cells] == [(tensor.weight.run(1), 2)]
