"""When the whole file is compared: off, once, always; and what once remembers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.flips import Flip, pack_mask
from corelocker.bundle.patch_runs import Kind
from corelocker.errors import RestoredBytesError
from corelocker.runs import single
from corelocker.runtime import Check, RestoredFile, checked_files, restore
from support.locked_files import KEY, Locked, bundle_of, lock

OUTSIDE, FLIPPED = 70, 5000  # bytes that no window and no run's end covers; the second lies in a flip


@pytest.fixture
def file() -> Locked:
    """Tier 1 puts bytes in, tier 2 flips."""
    original = np.random.default_rng(1).integers(0, 256, 20_000, np.uint8)
    flip = Flip(single(4000, 2000), Kind.NEGATE, 8, pack_mask(np.ones(2000, np.bool_)))
    return lock(original, [[single(1000, 400)], []], flips=[[], [flip]])


@pytest.fixture
def path(file: Locked, tmp_path: Path) -> Path:
    path = tmp_path / "files" / file.name
    path.parent.mkdir()
    path.write_bytes(file.states[0])
    return path


@pytest.fixture
def bundle(file: Locked) -> KeyBundle:
    return bundle_of([file], KEY)


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files that are read as a whole; nothing is remembered of other tests."""
    monkeypatch.setattr(checked_files, "_of_process", set())
    found: list[int] = []
    verify = RestoredFile.verify

    def counted(self: RestoredFile) -> None:
        found.append(len(self))
        verify(self)

    monkeypatch.setattr(RestoredFile, "verify", counted)
    return found


def opened(path: Path, bundle: KeyBundle, tier: int, check: Check | None = None, **more: Any) -> bytes:
    with restore(path, bundle, KEY, tier, key_tier=2, check=check, **more) as restored:
        return restored[:]


def spoil(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process knows."""
    monkeypatch.setattr(checked_files, "_of_process", set())


@pytest.mark.parametrize("tier", [0, 1, 2])
def test_by_default_a_flip_is_checked_once(
    file: Locked, path: Path, bundle: KeyBundle, reads: list[int], tier: int
) -> None:
    for _ in range(3):
        assert opened(path, bundle, tier) == file.states[tier].tobytes()
    assert len(reads) == (1 if tier == 2 else 0)


def test_always_and_off(file: Locked, path: Path, bundle: KeyBundle, reads: list[int]) -> None:
    for tier in range(3):
        for _ in range(2):
            assert opened(path, bundle, tier, "always") == file.states[tier].tobytes()
    assert len(reads) == 6
    for tier in range(3):
        opened(path, bundle, tier, "off")
    assert len(reads) == 6


@pytest.mark.parametrize("place", [OUTSIDE, FLIPPED])
def test_what_off_lets_pass(file: Locked, path: Path, bundle: KeyBundle, place: int) -> None:
    """A byte that no sample covers: off gives it on, in a flip flipped; the other two refuse it."""
    spoil(path, place)
    result = np.frombuffer(opened(path, bundle, 2, "off"), np.uint8)
    assert np.flatnonzero(result != file.states[2]).tolist() == [place]
    for check in ("once", "always", None):
        with pytest.raises(RestoredBytesError):
            opened(path, bundle, 2, check)  # type: ignore[arg-type]


def test_once_is_for_each_digest(path: Path, bundle: KeyBundle, reads: list[int]) -> None:
    for tier in (0, 1, 2, 0, 1, 2):
        opened(path, bundle, tier, "once")
    assert len(reads) == 3


def test_once_does_not_remember_what_it_refused(path: Path, bundle: KeyBundle, tmp_path: Path) -> None:
    spoil(path, OUTSIDE)
    for _ in range(2):
        with pytest.raises(RestoredBytesError):
            opened(path, bundle, 2, checked=tmp_path / "checked")
    assert not (tmp_path / "checked").exists()


def test_a_file_that_changed_is_checked_again(path: Path, bundle: KeyBundle, reads: list[int], tmp_path: Path) -> None:
    opened(path, bundle, 2)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    opened(path, bundle, 2)
    assert len(reads) == 2
    spoil(path, OUTSIDE)
    with pytest.raises(RestoredBytesError):
        opened(path, bundle, 2)
    spoil(path, OUTSIDE)
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    stamp = path.stat().st_mtime_ns
    os.utime(other, ns=(stamp, stamp))
    os.replace(other, path)  # another inode, of one size and time
    before = len(reads)
    opened(path, bundle, 2)
    assert len(reads) == before + 1


def test_a_file_that_is_written_to_meanwhile_is_not_remembered(
    path: Path, bundle: KeyBundle, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = RestoredFile.verify

    def touched(self: RestoredFile) -> None:
        verify(self)
        os.utime(path, ns=(1, len(reads)))

    monkeypatch.setattr(RestoredFile, "verify", touched)
    for count in (1, 2):
        opened(path, bundle, 2)
        assert len(reads) == count


def test_the_list_outlives_the_process(
    path: Path, bundle: KeyBundle, reads: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "checked"
    for tier in (1, 2):
        opened(path, bundle, tier, "once", checked=memory)
    assert len(reads) == 2
    assert memory.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["checked", "files"]
    for tier in (1, 2, 1):
        forget(monkeypatch)
        opened(path, bundle, tier, "once", checked=memory)
    assert len(reads) == 2
    opened(path, bundle, 0, "once", checked=memory)
    assert len(memory.read_text().splitlines()) == 4
    forget(monkeypatch)
    opened(path, bundle, 2, "once")
    assert len(reads) == 4, "without the list"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[:-1],
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b"files 1", b"files 2"),
        lambda text: text + b"1 2 3\n",
        lambda text: text + b"1 2 3 4 " + b"g" * 64 + b"\n",
        lambda text: text + b"9" * 5000 + b" 2 3 4 " + b"0" * 64 + b"\n",
        lambda text: text + b"\xff\n",
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text + (b"1 2 3 4 " + b"0" * 64 + b"\n") * 20_000,
    ],
)
def test_a_damaged_list_is_an_empty_one(
    path: Path, bundle: KeyBundle, reads: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    memory = tmp_path / "checked"
    opened(path, bundle, 2, checked=memory)
    good = memory.read_bytes()
    memory.write_bytes(damage(good))
    forget(monkeypatch)
    opened(path, bundle, 2, checked=memory)
    assert len(reads) == 2
    assert memory.read_bytes() == good


def test_a_list_that_cannot_be_read_or_written(path: Path, bundle: KeyBundle, reads: list[int], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for memory in (tmp_path, tmp_path / "none" / "checked", tmp_path / "pipe" / "checked"):
        opened(path, bundle, 2, checked=memory)
    assert len(reads) == 1


def test_the_list_does_not_grow_for_ever(tmp_path: Path) -> None:
    memory = tmp_path / "checked"
    old = [checked_files.CheckedFile((1, i, 3, -4), hashlib.sha256(b"%d" % i).digest()) for i in range(4100)]
    lines = [" ".join((*map(str, f.stamp), f.digest.hex())) for f in old[:4096]]
    memory.write_text("\n".join(["corelocker checked files 1", *lines, ""]))
    assert checked_files.was_checked(old[0], memory)
    for file in old[4096:]:
        checked_files.remember(file, memory)
    assert not checked_files.was_checked(old[3], memory)
    assert checked_files.was_checked(old[4], memory)
    assert checked_files.was_checked(old[-1], memory)
    assert len(memory.read_text().splitlines()) == 4097
