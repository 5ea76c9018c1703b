"""Restoring block by block: the same bytes and refusals as in memory, in memory that does not grow with the file."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from corelocker.bundle.flips import Flip
from corelocker.bundle.patch_blocks import PatchBlocks
from corelocker.bundle.patch_runs import WIDTHS, Kind
from corelocker.bundle.sample import BlockSample, sample
from corelocker.errors import AlreadyRestoredError, ReplacedBytesError, RestoredBytesError
from corelocker.files import Bytes
from corelocker.raw_files import read_buffer
from corelocker.runs import Run, single
from corelocker.runtime import streamed
from corelocker.runtime.streamed import check_restored, restore_to_file
from hypothesis import given, settings
from hypothesis import strategies as st
from support.locked_files import KEY, Locked, bundle_bytes, bundle_of, lock

SIZE = 20_000


def random_bytes(size: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def flip(run: Run, kind: Kind, width: int) -> Flip:
    reverse = bytes(range((1 << width) - 1, -1, -1)) if kind == Kind.PERMUTE else b""
    mask = bytearray(random_bytes(-(-run.size // width)).tobytes())
    used = run.size * 8 // width % 8
    mask[-1] &= (1 << used) - 1 if used else 0xFF
    return Flip(run, kind, width, bytes(mask), 3 if kind == Kind.NEGATE else 0, reverse)


def every_kind() -> Locked:
    """A file with a single, an adjacent and a strided run of every kind, at offsets that no element divides."""
    forms = [(kind, width) for kind, widths in WIDTHS.items() if kind != Kind.REPLACE for width in widths]
    places = [
        run
        for at in range(101, SIZE - 900, 950)
        for run in (single(at, 300), Run(at + 301, 8, 8, 20), Run(at + 502, 12, 30, 14))
    ]
    flips = [flip(run, *forms[i // 3 % len(forms)]) for i, run in enumerate(places[: 3 * len(forms)])]
    return lock(random_bytes(SIZE), [places[3 * len(forms) :]], flips=[flips])


@settings(max_examples=40, deadline=None)
@given(block=st.integers(1, SIZE + 1))
def test_any_blocks_give_the_whole(block: int) -> None:
    file = every_kind()
    (patch,) = file.patches
    blocks, found, restored = PatchBlocks(patch), BlockSample(SIZE, patch.table), file.states[0].copy()
    for start in range(0, SIZE, block):
        blocks.apply(start, restored[start : start + block])
        found.add(start, restored[start : start + block])
    assert np.array_equal(restored, file.states[1])
    assert found.digest() == sample(file.states[1], patch.table)


def test_what_devices_refuse_is_refused(tmp_path: Path) -> None:
    file, path, out = every_kind(), tmp_path / "model.pte", tmp_path / "out.pte"
    bundle = bundle_of([file], KEY)
    file.states[0].tofile(path)
    check_restored(path, bundle, KEY)
    for wrong in ("restored_sample", "file_digest"):
        with pytest.raises(RestoredBytesError):
            restore_to_file(path, bundle_of([file], KEY, **{wrong: bytes(32)}), KEY, out)
    file.states[1].tofile(path)
    with pytest.raises(AlreadyRestoredError):
        restore_to_file(path, bundle, KEY, out)
    random_bytes(SIZE, 1).tofile(path)
    with pytest.raises(ReplacedBytesError):
        restore_to_file(path, bundle, KEY, out)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wrong", [{}, {"file_digest": bytes(32)}])
def test_nothing_restored_stays_in_memory(
    wrong: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, path, used = every_kind(), tmp_path / "model.pte", list[memoryview]()
    file.states[0].tofile(path)
    monkeypatch.setattr(streamed, "read_buffer", lambda size: used.append(read_buffer(size)) or used[-1])
    with nullcontext() if not wrong else pytest.raises(RestoredBytesError):
        check_restored(path, bundle_of([file], KEY, **wrong), KEY)
    assert [any(buffer) for buffer in used] == [False]


PEAK = """
import os, sys
from pathlib import Path
from corelocker.bundle.clkey import KeyBundle
from corelocker.runtime.whole import restore_to_files, verify

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) >> 10

path, bundle, key = Path(sys.argv[1]), KeyBundle.open(sys.argv[2]), bytes.fromhex(os.environ["KEY"])
verify(Path(sys.argv[3]), KeyBundle.open(sys.argv[4]), key)  # what is imported late and the buffers are there now
before = peak()
verify(path, bundle, key)
verified = peak()
restore_to_files(path, bundle, key, path.with_name("restored.pte"))
print(verified - before, peak() - verified)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The signs of all weights touch every page of the file; of 64 MB only the patch (2 MB) may be held, and its checks."""
    arguments = []
    for name, size in (("large", 64 << 20), ("small", 1 << 20)):
        original = random_bytes(size)
        file = lock(original, [[]], f"{name}.pte", f"{name}.pte", flips=[[flip(single(0, size), Kind.XOR_TOP, 32)]])
        file.states[0].tofile(tmp_path / f"{name}.pte")
        (tmp_path / f"{name}.clkey").write_bytes(bundle_bytes([file], KEY))
        arguments += [str(tmp_path / f"{name}.pte"), str(tmp_path / f"{name}.clkey")]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments],
        env=os.environ | {"KEY": KEY.hex()},
        capture_output=True,
        text=True,
        check=True,
    )
    verifying, restoring = map(int, done.stdout.split())
    assert verifying < 24
    assert restoring < 24
