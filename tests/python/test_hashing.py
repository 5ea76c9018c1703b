"""`corelocker.hashing`: the SHA-256 of files beside other work."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corelocker import cli, hashing
from corelocker.errors import FileAccessError
from corelocker.hashing import FileHashes
from corelocker.raw_files import file_stamp


def test_digests_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "STEP", 4096)
    paths = [tmp_path / str(size) for size in (0, 1, 4096, 10000)]
    for path in paths:
        path.write_bytes(os.urandom(int(path.name)))
    with FileHashes() as hashes:
        for path in (*paths, paths[0]):
            hashes.begin(path)
        for path in reversed(paths):
            assert hashes.digest(path, file_stamp(path.stat())) == hashlib.sha256(path.read_bytes()).digest()


def test_another_file_than_the_one_that_was_hashed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(b"before")
    with FileHashes() as hashes:
        hashes.begin(path)
        hashes.digest(path, file_stamp(path.stat()))
        path.write_bytes(b"behind it")
        with pytest.raises(FileAccessError, match="was changed while it was in use"):
            hashes.digest(path, file_stamp(path.stat()))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with FileHashes() as hashes:
        hashes.begin(tmp_path / "none")
        with pytest.raises(FileAccessError, match=r"none: No such file"):
            hashes.digest(tmp_path / "none", (0, 0, 0, 0))


def test_leaving_the_block_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gave a wrong option does not wait until a large file is hashed."""
    monkeypatch.setattr(hashing, "STEP", 4096)
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # would take minutes
    with FileHashes() as hashes:
        hashes.begin(path)
        hashes.begin(tmp_path / "next")


def test_it_begins_before_the_large_imports() -> None:
    script = "import sys; from corelocker.hashing import FileHashes; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_command_line_begins_with_the_files_before_the_first_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option may name a large file too, which needs no digest."""
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    model, base = tmp_path / "model.pte", tmp_path / "base.safetensors"
    model.write_bytes(b"model")
    base.write_bytes(b"base")
    with cli.hashes_for(["lock", str(model), str(tmp_path), "none", "--base", str(base)]) as hashes:
        assert hashes is not None
        assert hashes.digest(model, file_stamp(model.stat())) == hashlib.sha256(b"model").digest()
        for path in (tmp_path, Path("none"), base):
            with pytest.raises(KeyError):
                hashes.digest(path, file_stamp(base.stat()))
    with cli.hashes_for(["verify", str(model)]) as nothing:
        assert nothing is None


def test_a_wrong_option_does_not_wait_for_the_hash(tmp_path: Path) -> None:
    large = tmp_path / "large.pte"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # would take minutes
    command = [sys.executable, "-m", "corelocker", "lock", str(large), "--nonsense"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "--nonsense" in done.stderr
