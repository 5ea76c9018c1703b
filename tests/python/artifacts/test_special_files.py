"""Links, FIFOs and devices among the inputs: refused with a typed error, never followed and never waited for."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corelocker.artifacts.detect import open_artifact
from corelocker.errors import FileAccessError
from corelocker.files import MappedFile

DATA = Path(__file__).parents[2] / "data"


def link(place: Path, target: Path) -> None:
    place.symlink_to(target)


def dangling(place: Path, target: Path) -> None:
    place.symlink_to("/nowhere")


def fifo(place: Path, target: Path) -> None:
    os.mkfifo(place)


def device(place: Path, target: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a device is made by root")
    os.mknod(place, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero


SPECIAL = [link, dangling, fifo, device]


def pte() -> Path:
    return next(DATA.glob("exports/mobilenet-int8/*.pte"))


def package(folder: Path) -> Path:
    copy = folder / "model.mlpackage"
    shutil.copytree(DATA / "coreml/unified_palette_4bit.mlpackage", copy)
    open_artifact(copy)
    return copy


@pytest.mark.parametrize("make", SPECIAL)
def test_an_input(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    place = tmp_path / "model.pte"
    make(place, pte())
    with pytest.raises(FileAccessError):
        open_artifact(place)
    with pytest.raises(FileAccessError):
        MappedFile(place, "model.pte")


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("where", ["Manifest.json", "weight.bin", "more", "folder/more"])
def test_inside_a_package(tmp_path: Path, make: Callable[[Path, Path], None], where: str) -> None:
    model = package(tmp_path)
    place = next(model.rglob(where), model / where)
    place.parent.mkdir(exist_ok=True)
    target = tmp_path / "elsewhere"
    if place.exists():
        place.rename(target)
    else:
        target.write_bytes(b"x")
    make(place, target)
    with pytest.raises(FileAccessError, match=place.name):
        open_artifact(model)


def test_a_folder_that_leads_elsewhere(tmp_path: Path) -> None:
    model = package(tmp_path)
    (model / "Data").rename(tmp_path / "Data")
    (model / "Data").symlink_to(tmp_path / "Data")
    with pytest.raises(FileAccessError, match="symbolic link"):
        open_artifact(model)
    (tmp_path / "link.mlpackage").symlink_to(model)
    with pytest.raises(FileAccessError, match="symbolic link"):
        open_artifact(tmp_path / "link.mlpackage")


def test_a_crash_leaves_no_memory_behind(tmp_path: Path) -> None:
    """A process that holds restored weights dies of a signal: no core file, and nobody else may read its memory."""
    script = (
        "import os, signal, sys\n"
        "from corelocker.core_dumps import no_core_dumps\n"
        "if sys.argv[1] == 'kept': no_core_dumps()\n"
        "print(open('/proc/self/status').read().count('CoreDumping'), os.stat('/proc/self/mem').st_uid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()

    def crash(mode: str) -> list[Path]:
        def limits() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        place = tmp_path / mode
        place.mkdir()
        done = subprocess.run([sys.executable, "-c", script, mode], cwd=place, preexec_fn=limits, capture_output=True)
        assert done.returncode == -11, done.stderr
        return list(place.iterdir())

    if not pattern.startswith(("/", "|")):
        assert crash("lost"), "this machine writes no core files at all"
    assert crash("kept") == []
