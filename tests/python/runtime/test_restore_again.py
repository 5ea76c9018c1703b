"""Outputs of a restore that are there already: kept where they are what would be written, refused before any work where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import corelocker
import numpy as np
import pytest
from corelocker.errors import OutputExistsError
from corelocker.files import check_can_be_written, move_into_place, refuse_existing, write_atomically
from corelocker.runtime.streamed import restore_to_file
from support.configuration_page import ROOT
from support.small_artifacts import trained_like, write_safetensors

PACKAGE = ROOT / "tests/data/coreml/unified_palette_4bit.mlpackage"
Files = dict[str, tuple[int, int]]


def shards(folder: Path) -> Path:
    """A checkpoint of two shards; its index."""
    folder.mkdir()
    for i in range(2):
        write_safetensors(
            folder / f"{i}.safetensors", {f"{i}.weight": trained_like(np.random.default_rng(i), 16, 24 + i)}
        )
    index = folder / "net.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"{i}.weight": f"{i}.safetensors" for i in range(2)}}))
    return index


def package(folder: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, folder / PACKAGE.name))


def written(out: Path) -> Files:
    """Which files there are, known again by inode and time."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@dataclass
class Again:
    """Restores a locked model into a folder, and says which files it had to restore."""

    locked: Path
    out: Path
    bundle: corelocker.KeyBundle
    key: bytes
    files: list[str] = field(default_factory=list)

    def __call__(self, tier: str = "full", *, force: bool = False) -> list[Path]:
        self.files.clear()
        to = self.out if self.locked.is_file() else self.out / self.locked.name
        return corelocker.restore_to_files(self.locked, self.bundle, self.key, to, tier, force=force)


@pytest.fixture(params=[shards, package], ids=["shards", "package"])
def restore(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Again:
    store = corelocker.Keystore.create(tmp_path / "keys.json", b"p")
    original = request.param(tmp_path / "original")
    tiers = corelocker.parse_tiers("free=1,plus=0.5,full=0", "sign")
    made = corelocker.lock(
        [original], tmp_path / "dist", model_id="m", model_version=1, keystore=store, require="none",
        options=corelocker.LockOptions(tiers=tiers, unit="sign", include_io=True),
    )  # fmt: skip
    bundle = corelocker.KeyBundle.open(made.bundle)
    again = Again(tmp_path / "dist" / original.name, tmp_path / "out", bundle, store.content_key(bundle.id))

    def counted(path: Path, *args: Any, **options: Any) -> None:
        again.files.append(path.name)
        restore_to_file(path, *args, **options)

    monkeypatch.setattr("corelocker.runtime.whole.restore_to_file", counted)
    return again


def test_what_is_there_already_is_kept(restore: Again, tmp_path: Path) -> None:
    first = restore()
    before = written(tmp_path / "out")
    assert restore() == first
    assert written(tmp_path / "out") == before
    assert restore.files == []
    restore(force=True)
    assert restore.files


def test_other_content_is_refused_before_anything_is_restored(
    restore: Again, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore()
    before = written(tmp_path / "out")
    monkeypatch.setattr("corelocker.runtime.whole.staging_folder", None)
    with pytest.raises(OutputExistsError, match="exists already"):
        restore("plus")
    changed = next(p for p in sorted((tmp_path / "out").rglob("*")) if p.suffix in (".bin", ".safetensors"))
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    with pytest.raises(OutputExistsError, match="exists already"):
        restore()
    assert changed.read_bytes() == data
    assert written(tmp_path / "out").keys() == before.keys()


def test_only_what_is_missing_is_restored(restore: Again, tmp_path: Path) -> None:
    first = restore()
    if len(first) == 1:
        (tmp_path / "out" / PACKAGE.name / "more").touch()  # a package is replaced as a whole, or not at all
        with pytest.raises(OutputExistsError, match=r"mlpackage exists already"):
            restore()
        return
    (tmp_path / "out" / "1.safetensors").unlink()
    before = written(tmp_path / "out")
    assert restore() == first
    assert restore.files == ["1.safetensors"]
    assert before.items() < written(tmp_path / "out").items()


def test_one_text_for_outputs_that_exist(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    source = tmp_path / "source"
    source.mkdir()
    (source / "taken").touch()

    def written_to(path: Path) -> None:
        with write_atomically(path):
            pass

    calls: list[Callable[[], None]] = [
        lambda: refuse_existing(tmp_path / "free", taken),
        lambda: check_can_be_written(taken, force=False),
        lambda: written_to(taken),
        lambda: move_into_place([source / "taken"], tmp_path, force=False),
    ]
    said = set()
    for call in calls:
        with pytest.raises(OutputExistsError) as refused:
            call()
        said.add(str(refused.value))
    assert len(said) == 1
    refuse_existing(taken, force=True)
