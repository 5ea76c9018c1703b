"""`.pt2` files, hostile ones too."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corelocker.errors import (
    CoreLockerError,
    ExportError,
    FileAccessError,
)
from corelocker.exporting import (
    export_executorch,
    load_model,
)
from support.models.export_factories import (
    error,
    reference,
    run,
    stem,
    training_cnn,
)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_pt2_keeps_its_open_sizes(tmp_path: Path, pt2: Path, quantize: Any) -> None:
    source = load_model(str(pt2))
    exported = export_executorch(source, tmp_path / "m.pte", quantize=quantize)
    assert len(exported.notes) == (quantize is not None), "a .pt2 brings no calibration inputs"
    for batch in (1, 4):
        x = torch.randn(batch, 3, 8, 8)
        found = run(exported.path, (x,))
        assert found.shape == (batch, 10)
        assert error(found, reference(stem, (x,))) < (1e-5 if quantize is None else 0.2)


def rewrite(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change one record of an archive (or add it), leaving the others as they are."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(records)).split("/")[0]
    records[f"{root}/{name}"] = change(records.get(f"{root}/{name}", b""))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, data in records.items():
            archive.writestr(record, data)


def evil_pickle(marker: Path) -> bytes:
    return b"cbuiltins\nexec\n(V" + f"open({str(marker)!r}, 'w').close()".encode() + b"\ntR."


def test_rewritten_archive_still_loads(pt2: Path) -> None:
    rewrite(pt2, "models/model.json", lambda text: text)
    assert load_model(str(pt2)).args[0].shape == (2, 3, 8, 8)


def test_pt2_with_a_pickle_as_example_inputs_runs_nothing(tmp_path: Path, pt2: Path) -> None:
    marker = tmp_path / "ran"
    buffer = tmp_path / "inputs"

    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    torch.save(((Evil(),), {}), buffer)
    rewrite(pt2, "data/sample_inputs/model.pt", lambda _: buffer.read_bytes())
    with pytest.raises(ExportError, match=r"load model\.pt2"):
        load_model(str(pt2))
    assert not marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_pt2_with_a_pickled_constant_runs_nothing(tmp_path: Path, pt2: Path) -> None:
    marker = tmp_path / "ran"
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"x": entry}}).encode()
    rewrite(pt2, "data/constants/model_constants_config.json", lambda _: config)
    rewrite(pt2, "data/constants/opaque_obj_0", lambda _: evil_pickle(marker))
    with pytest.raises(ExportError, match="holds a pickled object"):
        load_model(str(pt2))
    assert not marker.exists()


def test_pt2_with_a_compiled_library_is_refused(pt2: Path) -> None:
    rewrite(pt2, "data/aotinductor/model/model.so", lambda _: b"\x7fELF")
    with pytest.raises(ExportError, match="holds a compiled library"):
        load_model(str(pt2))


@pytest.mark.parametrize("target", ["torch.ops.load_library", "torch.os.system", "_operator.call", "math.__loader__"])
def test_pt2_that_calls_a_function_is_refused(pt2: Path, target: str) -> None:
    rewrite(pt2, "models/model.json", lambda text: text.replace(b"torch.ops.aten.mean.dim", target.encode()))
    with pytest.raises(ExportError, match="which is not an operator"):
        load_model(str(pt2))


@pytest.mark.parametrize(
    "formula",
    ["exec('x')", "Symbol('__import__(1)')", "().__class__", "sympify('s0')", "Symbol", "(" * 5000, "[s for s in s]"],
)
def test_pt2_whose_size_is_code_is_refused(pt2: Path, formula: str) -> None:
    def change(text: bytes) -> bytes:
        changed = re.sub(rb'"expr_str": ?"[^"]*"', b'"expr_str": ' + json.dumps(formula).encode(), text)
        assert changed != text
        return changed

    rewrite(pt2, "models/model.json", change)
    with pytest.raises(ExportError):
        load_model(str(pt2))


def test_formulas_of_torch_are_formulas() -> None:
    from corelocker.exporting.pt2 import _is_formula

    for text in ("Symbol('s77', positive=True, integer=True)", "Mul(Integer(-2), Symbol('s0'))", "FloorDiv(s0, 2)"):
        assert _is_formula(text)


def test_pt2_in_training_mode_is_refused(tmp_path: Path) -> None:
    module, args = training_cnn()
    torch.export.save(torch.export.export(module, args), tmp_path / "m.pt2")
    with pytest.raises(ExportError, match="training mode"):
        load_model(str(tmp_path / "m.pt2"))


def test_damaged_pt2(pt2: Path) -> None:
    data = pt2.read_bytes()
    for damaged in (b"", b"hello", data[: len(data) // 2], data[:-30], b"PK\3\4" + bytes(100)):
        pt2.write_bytes(damaged)
        with pytest.raises(ExportError):
            load_model(str(pt2))
    generator = np.random.default_rng(0)
    for _ in range(10):
        flipped = bytearray(data)
        flipped[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        pt2.write_bytes(flipped)
        with contextlib.suppress(CoreLockerError):  # a flipped weight bit loads
            load_model(str(pt2))
    pt2.unlink()
    with pytest.raises(FileAccessError):
        load_model(str(pt2))
