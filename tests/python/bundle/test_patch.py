"""The patch: round trips, an oracle for overlaps, and bounds on what a hostile patch can cost."""

from __future__ import annotations

import resource
import struct
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
from corelocker.bundle import patch as patch_module
from corelocker.bundle import patch_overlap
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import replacing
from corelocker.bundle.patch_stream import PatchStream
from corelocker.errors import (
    PatchBoundsError,
    PatchError,
    PatchOverlapError,
    PatchPayloadError,
    PatchRunError,
    PatchTruncatedError,
)
from corelocker.runs import Run, single
from hypothesis import given, settings
from hypothesis import strategies as st
from support.counting import calls


def places(runs: list[Run]) -> list[int]:
    return [
        offset + piece * stride + i
        for offset, length, stride, count in runs
        for piece in range(count)
        for i in range(length)
    ]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Run], int]:
    """Well-formed runs of different offsets inside a small file, overlapping or not, and the file's size."""
    size = draw(st.sampled_from([16, 64, 300]))
    strides = draw(st.lists(st.integers(1, 24), min_size=1, max_size=3))
    runs: dict[int, Run] = {}
    for _ in range(draw(st.integers(0, 12))):
        offset = draw(st.integers(0, size - 1))
        count = draw(st.integers(1, 20))
        stride = draw(st.sampled_from(strides))
        length = draw(st.integers(1, stride if count > 1 else 24))
        run = Run(offset, length, stride if count > 1 else length, count)
        if run.end <= size:
            runs[offset] = run
    return sorted(runs.values()), size


@st.composite
def apart(draw: st.DrawFn) -> tuple[list[Run], int]:
    """The same without the runs that overlap earlier ones, so that interleaving ones are frequent."""
    runs, size = draw(layouts())
    taken: set[int] = set()
    kept = []
    for run in runs:
        at = places([run])
        if not taken & set(at):
            taken |= set(at)
            kept.append(run)
    return kept, size


@pytest.fixture(params=[1, 16, 1 << 20], ids=lambda chunk: f"chunk {chunk}")
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones make the overlap check cut the file in parts."""
    monkeypatch.setattr(patch_overlap, "_CHUNK", request.param)


@pytest.mark.usefixtures("_chunk")
class TestOverlap:
    @settings(max_examples=400, deadline=None)
    @given(layouts())
    def test_agrees_with_the_oracle(self, layout: tuple[list[Run], int]) -> None:
        runs, size = layout
        at = places(runs)
        if len(set(at)) == len(at):
            Patch.build(runs, bytes(size))
        else:
            with pytest.raises(PatchOverlapError):
                Patch.build(runs, bytes(size))

    def test_a_piece_across_any_cut(self) -> None:
        """A piece of 4 bytes anywhere on a comb of 1-byte teeth that are 6 apart."""
        comb = Run(0, 1, 6, 64)
        for offset in range(1, comb.end):
            overlaps = bool(set(places([comb])) & set(range(offset, offset + 4)))
            try:
                Patch.build([comb, single(offset, 4)], bytes(400))
            except PatchOverlapError:
                assert overlaps
            else:
                assert not overlaps

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**50), st.integers(1, 2**31), st.integers(2, 5), st.integers(2, 40), st.data())
    def test_one_byte_in_far_apart_pieces(
        self, offset: int, stride: int, runs: int, count: int, data: st.DataObject
    ) -> None:
        """Runs of one byte a piece and nearly one stride meet exactly where arithmetic says."""
        found = [Run(offset + i, 1, stride + data.draw(st.integers(0, 3)) + 1, count) for i in range(runs)]
        at = places(found)
        patch = encoded(found, bytes(len(at)))
        if len(set(at)) == len(at):
            Patch.parse(patch, 2**60)
        else:
            with pytest.raises(PatchOverlapError):
                Patch.parse(patch, 2**60)


def encoded(runs: list[Run], payload: bytes) -> bytes:
    header = struct.pack("<8sIIQ", b"CLPATCH2", len(runs), 0, len(payload))
    return header + b"".join(struct.pack("<QIIIxxxx", *run) for run in runs) + payload


@settings(max_examples=400, deadline=None)
@given(apart(), st.randoms(use_true_random=False), st.booleans())
def test_round_trip(layout: tuple[list[Run], int], random: object, shuffle: bool) -> None:
    runs, size = layout
    original = np.random.default_rng(len(runs)).integers(0, 256, size, np.uint8)
    given_runs = list(runs)
    if shuffle:
        random.shuffle(given_runs)  # type: ignore[attr-defined]
    patch = Patch.build(given_runs, original)
    assert [run.place for run in patch.runs] == runs
    assert not patch.flips
    at = places(runs)
    assert bytes(patch.payload) == original[at].tobytes()

    again = Patch.parse(patch.encode(), size)
    assert again.runs == patch.runs
    assert again.encode() == patch.encode() == encoded(runs, original[at].tobytes())
    locked = bytearray(original)
    for place in at:
        locked[place] ^= 0xFF
    before = bytes(locked)
    again.apply(locked)
    assert locked == original.tobytes()
    # Applying the patch of what was replaced takes it back, and so touched no other byte.
    Patch.build(runs, before).apply(locked)
    assert locked == before
    stream = PatchStream(replacing(runs), lambda: [original[places([run])] for run in runs])
    assert b"".join(stream.parts()) == patch.encode()
    assert stream.size == len(patch.encode())


@settings(max_examples=500, deadline=None)
@given(apart(), st.data())
def test_a_changed_byte_gives_a_patch_or_a_typed_error(layout: tuple[list[Run], int], data: st.DataObject) -> None:
    runs, size = layout
    patch = bytearray(Patch.build(runs, bytes(size)).encode())
    patch[data.draw(st.integers(0, len(patch) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = Patch.parse(patch, size)
    except PatchError:
        return
    at = places([run.place for run in changed.runs])
    assert len(set(at)) == len(at)
    assert sum(run.part_size for run in changed.runs) == len(changed.payload)
    assert all(place < size for place in at)
    changed.apply(bytearray(size))


@settings(max_examples=300, deadline=None)
@given(apart(), st.data())
def test_truncated(layout: tuple[list[Run], int], data: st.DataObject) -> None:
    patch = Patch.build(layout[0], bytes(layout[1])).encode()
    with pytest.raises(PatchTruncatedError):
        Patch.parse(patch[: data.draw(st.integers(0, len(patch) - 1))], layout[1])


@given(st.binary(max_size=200), st.integers(0, 2**64))
def test_noise(noise: bytes, size: int) -> None:
    for data in (noise, b"CLPATCH2" + noise, b"CLPATCH2\1\0\0\0\0\0\0\0" + noise):
        try:
            Patch.parse(data, size)
        except PatchError:
            continue


def test_the_payload_is_not_copied() -> None:
    data = bytearray(Patch.build([single(0, 4)], b"abcd").encode())
    patch = Patch.parse(data, 4)
    data[-4:] = b"wxyz"
    assert patch.payload == b"wxyz"


def test_a_shorter_buffer_is_refused_and_left_alone() -> None:
    patch = Patch.build([single(0, 4), single(10, 4)], bytes(range(14)))
    target = bytearray(b"." * 13)
    with pytest.raises(PatchBoundsError):
        patch.apply(target)
    assert target == b"." * 13
    patch.apply(longer := bytearray(20))
    assert longer[10:14] == bytes(range(10, 14))


def test_a_read_only_buffer_is_not_written() -> None:
    patch = Patch.build([single(0, 2), Run(4, 1, 2, 3)], bytes(range(1, 11)))
    target = bytes(10)
    with pytest.raises((TypeError, ValueError)):
        patch.apply(target)
    assert target == bytes(10)


def test_writes_through_any_buffer() -> None:
    patch = Patch.build([Run(1, 2, 4, 3)], bytes(range(20)))
    words = np.zeros(5, np.uint32)
    patch.apply(words)
    assert np.flatnonzero(words.view(np.uint8)).tolist() == [1, 2, 5, 6, 9, 10]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 16, 100, 65535, 65536, 65537])
def test_piece_lengths(length: int) -> None:
    """The pieces of a run are copied in one way up to 64 KiB and in another beyond it."""
    run = Run(3, length, length + 5, 4)
    original = np.random.default_rng(0).integers(0, 256, run.end + 3, np.uint8)
    patch = Patch.build([run], original)
    at = places([run])
    assert bytes(patch.payload) == original[at].tobytes()
    target = np.zeros_like(original)
    patch.apply(target)
    expected = np.zeros_like(original)
    expected[at] = original[at]
    assert np.array_equal(target, expected)


def test_build_normalizes_the_stride_of_a_single_piece() -> None:
    assert [run.place for run in Patch.build([Run(4, 2, 9, 1)], bytes(8)).runs] == [single(4, 2)]


def test_build_splits_what_does_not_fit_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_module, "U32_MAX", 10)
    original = bytes(range(60))
    runs = [Run(0, 25, 25, 1), Run(30, 2, 14, 3)]
    patch = Patch.build(runs, original)
    made = [run.place for run in patch.runs]
    assert all(max(run.length, run.stride, run.count) <= 10 for run in made)
    assert places(made) == places(runs)
    assert bytes(patch.payload) == bytes(original[place] for place in places(runs))


@pytest.mark.parametrize("run", [Run(0, 0, 0, 1), Run(0, 2, 1, 2), Run(0, 1, 1, 0)])
def test_build_refuses_malformed_runs(run: Run) -> None:
    with pytest.raises(PatchRunError):
        Patch.build([run], bytes(10))


@pytest.mark.parametrize("pieces", [[b"abc"], [b"abcd", b"e"], [b"abcde"], []])
def test_a_stream_checks_the_payload(pieces: list[bytes]) -> None:
    with pytest.raises(PatchPayloadError):
        list(PatchStream(replacing([single(0, 4)]), lambda: pieces).parts())


def test_no_key_byte_is_shown() -> None:
    patch = Patch.build([single(0, 8)], b"SECRET..")
    assert "SECRET" not in repr(patch)


# --- cost ----------------------------------------------------------------------------------------


def test_a_hundred_thousand_runs_parse_fast() -> None:
    """Interleaving filters of a wide depthwise layer: checked by residue, without a list of 900,000 pieces."""
    channels = 200_000
    runs = [Run(c * 4, 4, channels * 4, 9) for c in range(0, channels, 2)]
    data = encoded(runs, bytes(sum(run.size for run in runs)))
    assert calls(lambda: Patch.parse(data, channels * 4 * 9)) < 1000


def hostile() -> Iterator[tuple[str, list[tuple[int, int, int, int]], bool]]:
    """Patches whose extents are huge or tangled, and whether they overlap."""
    yield "sparse", [(0, 1, 4_000_000_000, 2_000_000), (1, 1, 3_999_999_998, 2_000_000)], False
    yield "dense", [(0, 1, 2, 3_000_000), (1, 1, 4, 1_500_000)], False
    yield "late", [(0, 1, 7, 1_000_000), (1, 1, 11, 636_363), (6_999_993, 8, 8, 1)], True
    yield "wide", [(i, 1, 2**31 + 2 * i, 20) for i in range(50_000)], False
    yield "pairs", [r for i in range(50_000) for r in ((i * 100, 1, 50, 2), (i * 100 + 1, 1, 30, 2))], False


@pytest.mark.parametrize(("name", "rows", "overlap"), list(hostile()), ids=[name for name, _, _ in hostile()])
def test_hostile_patches_cost_little(name: str, rows: list[tuple[int, int, int, int]], overlap: bool) -> None:
    data = encoded([Run(*row) for row in rows], bytes(sum(length * count for _, length, _, count in rows)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PatchOverlapError) if overlap else nullcontext():
        assert calls(lambda: Patch.parse(data, 2**60)) < 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
