"""Restoring a file in memory: bit for bit, read-only, all or nothing, at the cost of the patch."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from corelocker.bundle.clkey import DecryptedSection, KeyBundle
from corelocker.bundle.clkey_header import BundledArtifact, BundledFile
from corelocker.bundle.clkey_write import BundleContents, SectionContents, write_bundle
from corelocker.bundle.content_keys import tier_keys
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import replacing
from corelocker.bundle.patch_stream import PatchStream
from corelocker.bundle.sample import sample
from corelocker.errors import (
    AlreadyRestoredError,
    BundleMismatchError,
    ContentKeyError,
    FileAccessError,
    FileSizeError,
    OutputExistsError,
    PatchBoundsError,
    ReplacedBytesError,
    RestoredBytesError,
    RestoreError,
)
from corelocker.runs import Run, single
from corelocker.runtime import RestoredFile, restore, restore_to_file
from hypothesis import given, settings
from hypothesis import strategies as st
from support.locked_files import KEY, SIGNING_KEY, Locked, bundle_of, decrypted, lock, sha256


def mappings(path: Path) -> list[str]:
    """The permissions of each mapping of the file in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[1] for line in lines if line.endswith(str(path))]


PAGE = mmap.PAGESIZE


@pytest.fixture
def file() -> Locked:
    """40 pages; tier 1 and 2 share a page, interleave, and write some bytes both (as re-keyed names are)."""
    original = np.random.default_rng(1).integers(0, 256, 40 * PAGE + 77, np.uint8)
    plus = [Run(100, 4, 64, 20), single(5 * PAGE - 3, 6), single(20 * PAGE, 2 * PAGE)]
    full = [Run(104, 8, 64, 20), single(5 * PAGE - 1, 1), single(40 * PAGE, 77)]
    return lock(original, [plus, full])


@pytest.fixture
def path(file: Locked, tmp_path: Path) -> Path:
    path = tmp_path / file.name
    path.write_bytes(file.states[0])
    return path


@pytest.fixture
def bundle(file: Locked) -> KeyBundle:
    return bundle_of([file], KEY)


def test_every_tier_is_restored(file: Locked, path: Path, bundle: KeyBundle) -> None:
    for tier in range(3):
        with restore(path, bundle, KEY, tier, key_tier=2, check="always") as restored:
            assert restored[:] == file.states[tier].tobytes()
    with restore(path, bundle, KEY) as restored:
        assert restored[:] == file.states[2].tobytes()
    assert path.read_bytes() == file.states[0].tobytes()


def test_a_key_opens_its_tier_and_those_below(file: Locked, path: Path, bundle: KeyBundle) -> None:
    of_plus = tier_keys(KEY, bundle.id, 3)[1]
    for tier, key_tier in (("plus", None), (1, "plus"), (None, 1)):
        with restore(path, bundle, of_plus, tier, key_tier=key_tier) as restored:
            assert restored[:] == file.states[1].tobytes()
    with restore(path, bundle, of_plus, "free", key_tier="plus") as restored:
        assert restored[:] == file.states[0].tobytes()
    for tier, key_tier in (("full", "plus"), ("full", None), (None, None)):
        with pytest.raises(ContentKeyError):
            restore(path, bundle, of_plus, tier, key_tier=key_tier)
    for tier in ("none", 3, -1):
        with pytest.raises(BundleMismatchError):
            restore(path, bundle, KEY, tier)
    for key in (b"", KEY[:31], KEY + b"\0", bytes(32)):
        with pytest.raises(ContentKeyError):
            restore(path, bundle, key)
    assert mappings(path) == []


def test_is_a_read_only_buffer(path: Path, bundle: KeyBundle) -> None:
    restored = restore(path, bundle, KEY)
    with memoryview(restored) as view:
        assert view.readonly
        assert view.nbytes == len(restored) == path.stat().st_size
    with pytest.raises(TypeError):
        restored[0] = 1
    with pytest.raises(TypeError):
        restored.write(b"a")
    with pytest.raises((TypeError, SystemError)):
        restored.resize(10)
    array = np.frombuffer(restored, np.uint8)
    assert not array.flags.writeable
    del array
    assert set(mappings(path)) == {"r--p"}
    restored.close()
    assert mappings(path) == []


def test_its_memory_cannot_be_written(path: Path, tmp_path: Path) -> None:
    """A store to a patched page and to another one, past Python's checks, ends the process."""
    program = f"""
import ctypes, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
import numpy as np
from support.locked_files import KEY, bundle_of, lock
from corelocker.runtime import restore
from corelocker.runs import single
file = lock(np.arange(40000, dtype=np.uint64).view(np.uint8), [[single(10, 100)]])
path = Path({str(tmp_path / "model.pte")!r})
path.write_bytes(file.states[0])
restored = restore(path, bundle_of([file], KEY), KEY)
address = np.frombuffer(restored, np.uint8).__array_interface__["data"][0]
assert ctypes.string_at(address, len(restored)) == file.states[1].tobytes()
print("restored", flush=True)
ctypes.memset(address + PLACE, 0, 1)
"""
    for place in ("10", "200000"):
        done = subprocess.run([sys.executable, "-c", program.replace("PLACE", place)], capture_output=True, text=True)
        assert done.stdout == "restored\n", done.stderr
        assert done.returncode == -signal.SIGSEGV


def test_only_touched_pages_are_private(path: Path, bundle: KeyBundle) -> None:
    with restore(path, bundle, KEY) as restored:
        assert restored[:]
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        assert any(line.endswith(str(path)) for line in lines)
        copied = next(line for line in lines if line.startswith("Anonymous:"))
        # Pages 0, 4, 5, 20, 21 and 40.
        assert int(copied.split()[1]) * 1024 == 6 * PAGE


def test_two_tiers_at_once(file: Locked, path: Path, bundle: KeyBundle) -> None:
    with (
        restore(path, bundle, KEY, "plus", key_tier="full") as plus,
        restore(path, bundle, KEY, "full") as full,
        restore(path, bundle, KEY, "free", key_tier="full") as free,
    ):
        assert [plus[:], full[:], free[:]] == [file.states[tier].tobytes() for tier in (1, 2, 0)]
    with restore(path, bundle, KEY) as again:
        assert again[:] == file.states[2].tobytes()


def test_threads(file: Locked, path: Path, bundle: KeyBundle) -> None:
    wrong: list[int] = []

    def run(tier: int) -> None:
        for _ in range(50):
            with restore(path, bundle, KEY, tier, key_tier=2) as restored:
                if restored[:] != file.states[tier].tobytes():
                    wrong.append(tier)

    workers = [threading.Thread(target=run, args=(i % 3,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert mappings(path) == []


def test_a_restored_file_is_refused(file: Locked, path: Path, bundle: KeyBundle) -> None:
    for state, tier in ((1, 1), (1, 2), (2, 2)):
        path.write_bytes(file.states[state])
        with pytest.raises(AlreadyRestoredError):
            restore(path, bundle, KEY, tier, key_tier=2)


# The ends of runs, and windows of the file at its beginning, in its middle and at its end.
@pytest.mark.parametrize(
    "place",
    [
        100,
        5 * PAGE + 2,
        20 * PAGE,
        22 * PAGE - 1,
        104,
        40 * PAGE,
        40 * PAGE + 76,
        0,
        (40 * PAGE + 13) // 63,
        31 * (40 * PAGE + 13) // 63 + 63,
    ],
)
def test_a_changed_byte_of_the_sample_is_noticed(file: Locked, path: Path, bundle: KeyBundle, place: int) -> None:
    changed = file.states[0].copy()
    changed[place] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ReplacedBytesError):
        restore(path, bundle, KEY)
    assert mappings(path) == []
    assert path.read_bytes() == changed.tobytes()


def test_a_changed_byte_that_is_replaced_does_no_harm(file: Locked, path: Path, bundle: KeyBundle) -> None:
    """No sample covers it, and what is put in its place is authentic."""
    changed = file.states[0].copy()
    changed[[164 + 3, 20 * PAGE + 2000]] ^= 1
    path.write_bytes(changed)
    with restore(path, bundle, KEY, check="always") as restored:
        assert restored[:] == file.states[2].tobytes()


def test_a_changed_byte_elsewhere_is_noticed_by_the_full_check(file: Locked, path: Path, bundle: KeyBundle) -> None:
    changed = file.states[0].copy()
    changed[10 * PAGE] ^= 1
    path.write_bytes(changed)
    for tier in range(3):
        with restore(path, bundle, KEY, tier, key_tier=2) as restored, pytest.raises(RestoredBytesError):
            restored.verify()
        with pytest.raises(RestoredBytesError):
            restore(path, bundle, KEY, tier, key_tier=2, check="always")
    with pytest.raises(RestoredBytesError):
        RestoredFile.open(path, decrypted(bundle, KEY, 2), check="always")
    assert mappings(path) == []


def test_without_sections_there_is_nothing_to_compare(path: Path) -> None:
    with RestoredFile.open(path, []) as restored, pytest.raises(RestoredBytesError):
        restored.verify()


def test_sizes(file: Locked, path: Path, bundle: KeyBundle) -> None:
    for content in (file.states[0][:-1], np.append(file.states[0], np.uint8(0)), b""):
        path.write_bytes(content)
        with pytest.raises(FileSizeError):
            restore(path, bundle, KEY)
        with pytest.raises(FileSizeError):
            RestoredFile.open(path, decrypted(bundle, KEY, 2))
    with pytest.raises(FileSizeError):
        RestoredFile.open(path, [])


def test_what_is_not_a_file(path: Path, tmp_path: Path, bundle: KeyBundle) -> None:
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "none", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(FileAccessError):
            RestoredFile.open(other, decrypted(bundle, KEY, 2))


def test_no_address_space(path: Path, bundle: KeyBundle, tmp_path: Path) -> None:
    """A file of 1 TiB where the limit is 4 GiB more than now."""
    import resource

    big = tmp_path / "big"
    with big.open("wb") as stream:
        stream.truncate(1 << 40)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 39, before[1]))
    try:
        with pytest.raises((FileAccessError, RestoreError)):
            RestoredFile.open(big, [])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_above_four_gib(tmp_path: Path) -> None:
    """A sparse file of 5 GiB with runs on both sides of 4 GiB."""
    path = tmp_path / "large.pte"
    size = 5 << 30
    with path.open("wb") as stream:
        stream.truncate(size)
    runs = [single(7, 5), Run((4 << 30) - 2, 1, 3, 2), single(size - 4, 4)]
    stream = PatchStream(replacing(runs), lambda: [bytes(range(1, run.size + 1)) for run in runs])
    patch = Patch.parse(b"".join(stream.parts()), size)
    state = np.memmap(path, np.uint8, mode="c")
    locked_sample = sample(state, patch.table)
    patch.apply(state)
    contents = BundleContents(
        uuid4(),
        "m",
        1,
        ("free", "full"),
        (BundledArtifact(path.name, "executorch", (BundledFile(path.name, size, sha256(b"")),)),),
        (SectionContents(0, 0, 1, stream, locked_sample, sample(state, patch.table), sha256(b"")),),
    )
    bundle = KeyBundle.open(write_bundle(contents, SIGNING_KEY, tier_keys(KEY, contents.bundle, 2)))
    with restore(path, bundle, KEY) as restored:
        assert restored[7:12] == bytes([1, 2, 3, 4, 5])
        assert restored[(4 << 30) - 3 : (4 << 30) + 3] == bytes([0, 1, 0, 0, 2, 0])
        assert restored[-5:] == bytes([0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"restored_sample": bytes(32)}, RestoredBytesError),
        ({"locked_sample": bytes(32)}, ReplacedBytesError),
        ({"patch": Patch.build([single(10**6, 1)], bytes(10**6 + 1)).encode()}, PatchBoundsError),
    ],
)
def test_what_the_publisher_got_wrong(
    file: Locked, path: Path, wrong: dict[str, bytes], error: type[Exception]
) -> None:
    with pytest.raises(error):
        restore(path, bundle_of([file], KEY, **wrong), KEY)
    assert mappings(path) == []


def test_a_skipped_tier_is_noticed(path: Path, bundle: KeyBundle) -> None:
    """Tier 2's patch on the locked file: the bytes of tier 1 that its sample covers are not there."""
    with pytest.raises(RestoredBytesError):
        RestoredFile.open(path, decrypted(bundle, KEY, 2)[1:])


def test_sections_may_be_wiped_after(file: Locked, path: Path, bundle: KeyBundle) -> None:
    sections = decrypted(bundle, KEY, 2)
    with RestoredFile.open(path, sections) as restored:
        for section in sections:
            section.wipe()
        assert restored[:] == file.states[2].tobytes()


def test_restore_wipes_the_patches(path: Path, bundle: KeyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[DecryptedSection] = []
    decrypt = KeyBundle.decrypt

    def keep(self: KeyBundle, section: object, key: bytes) -> DecryptedSection:
        opened.append(decrypt(self, section, key))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(KeyBundle, "decrypt", keep)
    restore(path, bundle, KEY).close()
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ReplacedBytesError):
        restore(path, bundle, KEY)
    assert len(opened) == 4
    assert all(not any(section.patch) for section in opened)


def test_the_file_may_be_deleted_or_replaced_while_open(
    file: Locked, path: Path, bundle: KeyBundle, tmp_path: Path
) -> None:
    with restore(path, bundle, KEY) as restored:
        (tmp_path / "other").write_bytes(bytes(len(restored)))
        os.replace(tmp_path / "other", path)
        assert restored[:] == file.states[2].tobytes()


# --- which file of the bundle --------------------------------------------------------------------


def test_files_of_one_size_are_told_apart(tmp_path: Path) -> None:
    """By name where it says it, else by the bytes that the patch replaces."""
    sample = np.random.default_rng(2).integers(0, 256, (3, 5000), np.uint8)
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    files = [
        lock(sample[0], [[single(10, 50)]], "A.mlpackage", weights, 11),
        lock(sample[1], [[single(10, 50)]], "B.mlpackage", weights, 12),
        lock(sample[2], [[Run(20, 5, 9, 7)]], "C.pte", "C.pte", 13),
    ]
    bundle = bundle_of(files, KEY)
    places = {
        "A.mlpackage/Data/com.apple.CoreML/weights/weight.bin": 0,
        "B.mlpackage/Data/com.apple.CoreML/weights/weight.bin": 1,
        "C.pte": 2,
        "B.mlmodelc/weights/weight.bin": 1,
        "A.mlmodelc/weights/weight.bin": 0,
        "renamed.bin": 2,
        "x/A.mlpackage/Data/com.apple.CoreML/weights/weight.bin": 1,
    }
    for name, number in places.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number].states[0])
        with restore(path, bundle, KEY, check="always") as restored:
            assert restored[:] == files[number].states[1].tobytes()
    path.write_bytes(bytes(5000))
    with pytest.raises(ReplacedBytesError):
        restore(path, bundle, KEY)
    (tmp_path / "C.pte").write_bytes(bytes(4999))
    with pytest.raises(FileSizeError):
        restore(tmp_path / "C.pte", bundle, KEY)
    (tmp_path / "D.pte").write_bytes(bytes(4999))
    with pytest.raises(BundleMismatchError, match=r"D\.pte, which has 4999 bytes") as refused:
        restore(tmp_path / "D.pte", bundle, KEY)
    assert "C.pte (5000 bytes)" in str(refused.value)
    with pytest.raises(BundleMismatchError, match="is a folder") as refused:
        restore(tmp_path / "x" / "A.mlpackage", bundle, KEY)
    assert f"{tmp_path}/x/A.mlpackage/Data/com.apple.CoreML/weights/weight.bin" in str(refused.value)


def test_two_locks_of_one_original_are_told_apart(tmp_path: Path) -> None:
    """The bytes that one of them locks are the original's in the other, but that is not a restored file."""
    original = np.random.default_rng(3).integers(0, 256, 500, np.uint8)
    files = [lock(original, [[single(at, 50)]], name, name, at) for at, name in ((10, "A.pte"), (100, "B.pte"))]
    bundle = bundle_of(files, KEY)
    for file in files:
        path = tmp_path / "renamed.pte"
        path.write_bytes(file.states[0])
        with restore(path, bundle, KEY, check="always") as restored:
            assert restored[:] == original.tobytes()
    path.write_bytes(original)
    with pytest.raises(AlreadyRestoredError):
        restore(path, bundle, KEY)


def test_an_empty_patch_does_not_say_that_a_file_is_restored(tmp_path: Path) -> None:
    """Its two samples are one, so that a file that has it may be in any state."""
    file = lock(np.random.default_rng(5).integers(0, 256, 6000, np.uint8), [[single(70, 9)]])  # between two windows
    bundle = bundle_of([file], KEY)
    sections = decrypted(bundle, KEY, 1)
    empty = Patch.build([], bytes(0)).encode()
    windows = sample(file.states[0], Patch.parse(empty, 6000).table)
    assert windows == sample(file.states[1], Patch.parse(empty, 6000).table)
    nothing = replace(sections[0].section, tier=2, locked_sample=windows)
    sections.append(replace(sections[0], section=nothing, patch=memoryview(empty), restored_sample=windows))
    path = tmp_path / file.name
    other = file.states[0].copy()
    other[70] ^= 1
    path.write_bytes(other.tobytes())
    with pytest.raises(ReplacedBytesError):
        RestoredFile.open(path, sections)
    path.write_bytes(file.states[0].tobytes())
    with RestoredFile.open(path, sections) as restored:
        assert restored[:] == file.states[1].tobytes()


def test_a_file_that_no_tier_changes(tmp_path: Path) -> None:
    original = np.arange(100, dtype=np.uint8)
    files = [
        lock(original, [[], []], "A.pte", "A.pte"),
        lock(original[::-1].copy(), [[single(0, 9)], []], "B.pte", "B.pte"),
    ]
    bundle = bundle_of(files, KEY)
    assert len(bundle.sections) == 1
    of_plus = tier_keys(KEY, bundle.id, 3)[1]
    for file in files:
        path = tmp_path / file.name
        path.write_bytes(file.states[0])
        for tier in range(3):
            with restore(path, bundle, KEY, tier, key_tier=2, check="always") as restored:
                assert restored[:] == file.states[tier].tobytes()
        with pytest.raises(ContentKeyError):
            restore(path, bundle, of_plus, "full", key_tier="plus")


# --- to a file -----------------------------------------------------------------------------------


def test_restore_to_file(file: Locked, path: Path, bundle: KeyBundle, tmp_path: Path) -> None:
    out = tmp_path / "restored.pte"
    for tier in range(3):
        restore_to_file(path, bundle, KEY, out, tier, key_tier=2, force=tier > 0)
        assert out.read_bytes() == file.states[tier].tobytes()
    with pytest.raises(OutputExistsError):
        restore_to_file(path, bundle, KEY, out)
    restore_to_file(path, bundle, KEY, path, force=True)
    assert path.read_bytes() == file.states[2].tobytes()


def test_restore_to_file_leaves_nothing_behind(file: Locked, path: Path, bundle: KeyBundle, tmp_path: Path) -> None:
    changed = file.states[0].copy()
    changed[10 * PAGE] ^= 1
    path.write_bytes(changed)
    out = tmp_path / "restored.pte"
    with pytest.raises(RestoredBytesError):
        restore_to_file(path, bundle, KEY, out)
    with pytest.raises(ContentKeyError):
        restore_to_file(path, bundle, bytes(32), out)
    with pytest.raises(FileAccessError):
        restore_to_file(path, bundle, KEY, tmp_path / "none" / "restored.pte")
    assert os.listdir(tmp_path) == [path.name]


# --- any layout ----------------------------------------------------------------------------------


@st.composite
def locked_files(draw: st.DrawFn) -> Locked:
    size = draw(st.sampled_from([1, 50, PAGE, 3 * PAGE + 1]))
    tiers = []
    for _ in range(draw(st.integers(1, 2))):
        taken = np.zeros(size, np.bool_)
        runs = []
        for offset in sorted(draw(st.sets(st.integers(0, size - 1), max_size=8))):
            count = draw(st.integers(1, 5))
            length = draw(st.integers(1, 40))
            stride = length + draw(st.integers(0, 50)) if count > 1 else length
            run = Run(offset, length, stride, count)
            at = [run.offset + k * stride + i for k in range(count) for i in range(length)]
            if run.end <= size and not taken[at].any():
                taken[at] = True
                runs.append(run)
        tiers.append(runs)
    return lock(np.random.default_rng(size).integers(0, 256, size, np.uint8), tiers, seed=draw(st.integers(0, 9)))


@settings(max_examples=150, deadline=None)
@given(file=locked_files())
def test_any_layout(file: Locked, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pte"
    path.write_bytes(file.states[0])
    bundle = bundle_of([replace(file, name="any.pte", path="any.pte")], KEY)
    for tier, state in enumerate(file.states):
        with restore(path, bundle, KEY, tier, key_tier=len(file.states) - 1, check="always") as restored:
            assert restored[:] == state.tobytes()
