"""What all exports have in common: the same bytes every time, all files or none, progress, missing extras."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from corelocker.errors import (
    ConfigError,
    FileAccessError,
    MissingExtraError,
    OutputExistsError,
)
from corelocker.exporting import (
    ExportTarget,
    export_executorch,
    export_target,
    load_model,
)
from support.models.export_factories import (
    contents,
)

ROOT = Path(__file__).resolve().parents[3]
TARGETS = (
    ExportTarget("m", "executorch", quantize="int8", external_weights=True),
    ExportTarget("m", "coreml", quantize="int8"),
    ExportTarget("portable", "executorch", backend="portable"),
)


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    """In another process, with another hash seed, in another order. And nothing is printed there."""
    script = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from corelocker.exporting import *\n"
        "source = load_model('support.models.export_factories:cnn'); import test_export_outputs\n"
        f"for target in test_export_outputs.TARGETS[::-1]: export_target(source, target, Path({str(tmp_path / 'there')!r}))\n"
    )
    path = os.pathsep.join([str(ROOT / "sdk" / "python"), str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": path}
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    source = load_model("support.models.export_factories:cnn")
    for target in TARGETS:
        export_target(source, target, tmp_path / "here")
    output, _ = child.communicate(timeout=120)
    assert (child.returncode, output) == (0, "")
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert len(here) == 6
    assert here == there


def test_existing_output_stays(tmp_path: Path, small: Any) -> None:
    (tmp_path / "m.pte").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        export_executorch(small, tmp_path / "m.pte", backend="portable")
    assert (tmp_path / "m.pte").read_bytes() == b"mine"
    export_executorch(small, tmp_path / "m.pte", backend="portable", force=True)
    assert (tmp_path / "m.pte").stat().st_size > 1000


def test_target_folder_that_cannot_be_written(tmp_path: Path, small: Any) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileAccessError):
        export_executorch(small, tmp_path / "file" / "m.pte", backend="portable")


def test_progress_names_every_step(tmp_path: Path, small: Any) -> None:
    seen: list[tuple[str, int, int]] = []
    export_executorch(small, tmp_path / "m.pte", quantize="int8", progress=lambda *step: seen.append(step))
    assert [name for name, done, total in seen if done == total] == [
        "prepare int8",
        *["calibrate"] * 1,
        "convert to int8",
        "torch.export of the quantized graph",
        "lower to XNNPACK",
        "write m.pte",
        "run m.pte",
    ]
    assert ("calibrate", 3, 8) in seen


@pytest.mark.parametrize("module", ["executorch.exir", "coremltools"])
def test_missing_extra(tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    target = ExportTarget("m", "coreml" if module == "coremltools" else "executorch")
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'corelocker[export]'")):
        export_target(source, target, tmp_path)


@pytest.mark.parametrize("name", ["m.bin", "m", "m.PTE"])
def test_output_needs_its_suffix(tmp_path: Path, source: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=r"must be named m\.pte"):
        export_executorch(source, tmp_path / name, backend="portable")
