"""Runs that flip: against elements taken one by one, twice is nothing, tiers compose, and what building refuses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from corelocker.bundle import flips as flips_module
from corelocker.bundle.flips import Flip, pack_mask
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import WIDTHS, Kind, part_sizes
from corelocker.errors import PatchKindError, PatchOverlapError, PatchPaddingError, PatchPayloadError, PatchTableError
from corelocker.runs import Run, single
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counting import calls

FLIPPING = (Kind.XOR_TOP, Kind.NEGATE, Kind.PERMUTE)
SIZE = 240


def _naive() -> ModuleType:
    """The model that the vectors are made with."""
    path = Path(__file__).parents[3] / "tools" / "vectors" / "naive_patch.py"
    spec = importlib.util.spec_from_file_location("naive_patch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses and named tuples look their module up
    spec.loader.exec_module(module)
    return module


naive = _naive()


def naively(file: np.ndarray, runs: list[Flip]) -> bytes:
    return bytes(
        naive.with_flips(
            file.tobytes(), [naive.Run(*f.run, int(f.kind), f.width, f.constant, 0, f.table, f.mask) for f in runs]
        )
    )


def elements(run: Run, width: int) -> int:
    return run.size * 8 // width


@st.composite
def one_flip(draw: st.DrawFn, start: int, room: int) -> Flip | None:
    """A flip that lies in `room` bytes from `start` on; None where it does not fit."""
    kind = draw(st.sampled_from(FLIPPING))
    width = draw(st.sampled_from(WIDTHS[kind]))
    unit = max(1, width // 8)
    length, count = draw(st.integers(1, 9)) * unit, draw(st.integers(1, 6))
    stride = length if count == 1 else length + draw(st.integers(0, 7))
    run = Run(start, length, stride, count)
    if run.end > start + room:
        return None
    table = b""
    if kind == Kind.PERMUTE:
        order = draw(st.permutations(range(1 << width)))
        entries = list(range(1 << width))
        for one, two in zip(order[::3], order[1::3], strict=False):
            entries[one], entries[two] = two, one
        table = bytes(entries)
    constant = draw(st.integers(0, (1 << width) - 1)) if kind == Kind.NEGATE else 0
    count_bits = elements(run, width)
    bits = draw(st.lists(st.booleans(), min_size=count_bits, max_size=count_bits))
    return Flip(run, kind, width, pack_mask(np.array(bits)), constant, table)


@st.composite
def flips(draw: st.DrawFn) -> list[Flip]:
    """Flips one behind the other, so that none overlaps; some interleave."""
    found: list[Flip] = []
    start = draw(st.integers(0, 5))
    while start < SIZE - 4 and len(found) < 6:
        flip = draw(one_flip(start, SIZE - start))
        if flip is None:
            break
        found.append(flip)
        gap = flip.run.stride - flip.run.length
        if flip.run.count > 1 and gap and draw(st.booleans()):  # one in the gaps, of the same stride
            inside = Run(start + flip.run.length, gap, flip.run.stride, flip.run.count)
            if inside.end <= SIZE:
                bits = np.array(draw(st.lists(st.booleans(), min_size=inside.size, max_size=inside.size)))
                found.append(Flip(inside, Kind.NEGATE, 8, pack_mask(bits), draw(st.integers(0, 255))))
                start = max(start, inside.end)
        start = max(flip.run.end, start) + draw(st.integers(0, 5))
    return found


def file_of(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.fixture(params=[8, 16, 1 << 15], ids=lambda step: f"step {step}")
def _step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones cut a run in parts."""
    monkeypatch.setattr(flips_module, "_STEP", request.param)


@pytest.mark.usefixtures("_step")
@settings(max_examples=150, deadline=None)
@given(flips(), st.integers(0, 9))
def test_agrees_with_the_elements_one_by_one(runs: list[Flip], seed: int) -> None:
    before = file_of(seed)
    patch = Patch.build([], before, runs)
    assert patch.flips == bool(runs)
    after = before.copy()
    patch.apply(after)
    assert after.tobytes() == naively(before, runs)
    read_back = Patch.parse(patch.encode(), SIZE)
    assert read_back.encode() == patch.encode()
    assert sum(run.part_size for run in read_back.runs) == int(part_sizes(read_back.table).sum()) == len(patch.payload)
    read_back.apply(after)
    assert after.tobytes() == before.tobytes(), "twice is nothing"


@settings(max_examples=150, deadline=None)
@given(st.lists(flips(), min_size=2, max_size=4), st.integers(0, 9))
def test_tiers_compose(tiers: list[list[Flip]], seed: int) -> None:
    """Locking from the last tier to the first, restoring from the first to the last, with bytes put in between."""
    original = file_of(seed)
    states, patches = [original], []
    for number, runs in enumerate(reversed(tiers)):
        state = states[-1].copy()
        free = [p for p in range(SIZE) if all(not _covers(f.run, p) for f in runs)][: 3 * number]
        patch = Patch.build([single(p, 1) for p in free], state, runs)
        patch.apply(state)
        state[free] ^= 255
        states.append(state)
        patches.append(patch)
    state = states[-1].copy()
    for patch, expected in zip(reversed(patches), reversed(states[:-1]), strict=True):
        patch.apply(state)
        assert state.tobytes() == expected.tobytes()
    assert state.tobytes() == original.tobytes()


def _covers(run: Run, place: int) -> bool:
    piece, inside = divmod(place - run.offset, run.stride)
    return 0 <= piece < run.count and inside < run.length


@settings(max_examples=100, deadline=None)
@given(flips(), st.integers(0, 9))
def test_the_mask_between_two_states(runs: list[Flip], seed: int) -> None:
    """An element that its own flip leaves alone needs no bit."""
    before = file_of(seed)
    after = before.copy()
    Patch.build([], before, runs).apply(after)
    found = [Flip.between(f.run, f.kind, f.width, before, after, f.constant, f.table) for f in runs]
    again = before.copy()
    Patch.build([], before, found).apply(again)
    assert again.tobytes() == after.tobytes()
    for made, given_flip in zip(found, runs, strict=True):
        one, other = (np.unpackbits(np.frombuffer(f.mask, np.uint8)) for f in (made, given_flip))
        assert (one <= other).all()


def test_states_that_a_flip_does_not_lead_between() -> None:
    before = np.arange(16, dtype=np.uint8)
    after = before.copy()
    after[5] ^= 1
    for kind, width in ((Kind.XOR_TOP, 32), (Kind.XOR_TOP, 16), (Kind.NEGATE, 8), (Kind.NEGATE, 4)):
        with pytest.raises(ValueError, match="differ"):
            Flip.between(single(4, 8), kind, width, before, after)


@pytest.mark.parametrize(
    ("flip", "error"),
    [
        (Flip(single(0, 6), Kind.XOR_TOP, 32, b"\1"), PatchKindError),
        (Flip(single(0, 4), Kind.XOR_TOP, 8, b"\1"), PatchKindError),
        (Flip(single(0, 4), Kind.NEGATE, 4, b"\1", 16), PatchKindError),
        (Flip(single(0, 4), Kind.REPLACE, 0, b"abc"), PatchPayloadError),
        (Flip(single(0, 4), Kind.XOR_TOP, 32, b"\2"), PatchPaddingError),
        (Flip(single(0, 4), Kind.XOR_TOP, 32, b"\1\0"), PatchPayloadError),
        (Flip(single(0, 4), Kind.PERMUTE, 4, b"\1", table=bytes(16)), PatchTableError),
        (Flip(single(0, 4), Kind.PERMUTE, 4, b"\1", table=bytes(8)), PatchPayloadError),
        (Flip(single(0, 4), Kind.PERMUTE, 4, b"\1\0", table=bytes(15)), PatchPayloadError),
        (Flip(single(6, 4), Kind.NEGATE, 8, b"\1"), PatchOverlapError),
    ],
)
def test_what_building_refuses(flip: Flip, error: type[Exception]) -> None:
    with pytest.raises(error):
        Patch.build([single(8, 4)], bytes(16), [flip])


def test_no_mask_is_shown() -> None:
    flip = Flip(single(0, 6), Kind.NEGATE, 8, b"\x2a", table=b"SECRET")
    assert "SECRET" not in repr(flip)
    assert "2a" not in repr(flip)
    assert "*" not in repr(flip)


def test_many_tables_are_checked_fast() -> None:
    """200,000 runs with a table each, and the last is none."""
    count = 200_000
    table = np.zeros(
        count, [("o", "<u8"), ("l", "<u4"), ("s", "<u4"), ("c", "<u4"), ("k", "u1"), ("w", "u1"), ("z", "<u2")]
    )
    table["o"], table["l"], table["s"], table["c"], table["k"], table["w"] = np.arange(count), 1, 1, 1, 3, 4
    parts = np.zeros((count, 17), np.uint8)
    parts[:, :16] = np.arange(16)
    parts[-1, 0] = 1
    header = b"CLPATCH2" + count.to_bytes(4, "little") + bytes(4) + parts.nbytes.to_bytes(8, "little")
    data = header + table.tobytes() + parts.tobytes()

    def parse() -> Any:
        with pytest.raises(PatchTableError, match=f"run {count - 1} "):
            Patch.parse(data, count)

    assert calls(parse) < 20_000
