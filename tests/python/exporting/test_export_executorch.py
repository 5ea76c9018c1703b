"""Exports run: what the ExecuTorch runtime computes from a file is what the module computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corelocker.errors import (
    ExportError,
)
from corelocker.exporting import (
    Exported,
    export_executorch,
    load_model,
)
from support.models.export_factories import (
    cnn,
    error,
    linear,
    reference,
    run,
    shared_conv,
    transformer,
)


@pytest.mark.parametrize(
    ("factory", "options", "tolerance"),
    [
        (cnn, {"backend": "portable"}, 1e-5),
        (cnn, {"backend": "xnnpack"}, 1e-5),
        (cnn, {"backend": "xnnpack", "quantize": "int8"}, 0.04),
        (transformer, {"backend": "portable"}, 1e-5),
        (transformer, {"backend": "xnnpack", "quantize": "int8"}, 0.04),
        (transformer, {"backend": "xnnpack", "quantize": "int4"}, 0.3),
        (shared_conv, {"backend": "xnnpack", "quantize": "int8"}, 0.04),
    ],
    ids=lambda value: (
        value.__name__ if callable(value) else "-".join(value.values()) if isinstance(value, dict) else ""
    ),
)
def test_program_computes_what_the_module_computes(
    made: Callable[..., tuple[Any, Exported]], factory: Callable[[], Any], options: dict[str, Any], tolerance: float
) -> None:
    source, exported = made(factory, **options)
    assert [path.name for path in exported.files] == ["m.pte"]
    difference = error(run(exported.path, source.args), reference(factory, source.args))
    assert difference < tolerance
    assert (difference > 1e-5) == ("quantize" in options), "quantization must show, and nothing else must"


def test_int4_says_what_stays_float(made: Callable[..., tuple[Any, Exported]]) -> None:
    _, plain = made(transformer, backend="portable")
    _, exported = made(transformer, backend="xnnpack", quantize="int4")
    assert exported.notes == ["not quantized, stays float: embedding.weight, down.weight"]
    assert plain.notes == []
    assert exported.path.stat().st_size < 0.8 * plain.path.stat().st_size


@pytest.mark.parametrize("options", [{"backend": "portable"}, {"backend": "xnnpack"}], ids=["portable", "xnnpack"])
def test_external_weights_are_all_outside_and_used(
    made: Callable[..., tuple[Any, Exported]], options: dict[str, Any]
) -> None:
    source, exported = made(cnn, external_weights=True, **options)
    assert [path.name for path in exported.files] == ["m.pte", "m.ptd"]
    _, whole = made(cnn, **options)
    assert torch.equal(run(*exported.files[:1], source.args, exported.files[1]), run(whole.path, source.args))
    # The folded stem filter is in one file, and only there.
    weights, program = exported.files[1].read_bytes(), exported.path.read_bytes()
    state = source.program.state_dict
    filters = state["features.0.weight"].detach()
    if options["backend"] == "xnnpack":
        scale = state["features.1.weight"] / torch.sqrt(state["features.1.running_var"] + 1e-5)
        filters = (filters * scale[:, None, None, None]).detach().permute(0, 2, 3, 1).contiguous()
    wanted = filters[0].flatten()[:4].numpy()

    def holds(data: bytes) -> bool:
        values = np.frombuffer(data[: len(data) // 4 * 4], np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(values, 4)
        return bool(np.isclose(windows, wanted, rtol=1e-5).all(axis=1).any())

    assert holds(weights)
    assert not holds(program)


def test_calibration_inputs_set_the_ranges(tmp_path: Path, small: Any) -> None:
    narrow = replace(small, calibration=[(small.args[0] * 0.01,)])
    assert export_executorch(small, tmp_path / "m.pte", quantize="int8").notes == []
    export_executorch(narrow, tmp_path / "narrow.pte", quantize="int8")
    good, bad = (error(run(tmp_path / n, small.args), reference(linear, small.args)) for n in ("m.pte", "narrow.pte"))
    assert good < 0.1
    assert bad > 0.5


def test_example_inputs_stand_in_for_calibration_inputs(small: Any) -> None:
    inputs, warning = replace(small, calibration=None).calibration_inputs()
    assert inputs == [small.args]
    assert warning is not None
    assert "calibration inputs" in warning
    assert small.calibration_inputs()[1] is None


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "are empty"),
        ([torch.zeros(4, 8)], "input 0 is a Tensor; it must be a tuple of 1"),
        ([(1, 2)], "input 0 is a tuple of 2"),
        ([(torch.zeros(4, 9),)], "calibrate with input 0: RuntimeError"),
    ],
)
def test_bad_calibration_inputs(tmp_path: Path, small: Any, calibration: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export_executorch(replace(small, calibration=calibration), tmp_path / "m.pte", quantize="int8")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_quantize(tmp_path: Path, source: Any) -> None:
    graph = torch.export.export(torch.nn.Linear(20, 4), (torch.zeros(1, 20),))
    with pytest.raises(ExportError, match="multiple of 32"):
        export_executorch(replace(source, program=graph), tmp_path / "m.pte", quantize="int4")
    graph = torch.export.export(torch.nn.Embedding(20, 4), (torch.zeros(1, 2, dtype=torch.int64),))
    embedding = replace(source, program=graph, args=(torch.zeros(1, 2, dtype=torch.int64),), calibration=None)
    with pytest.raises(ExportError, match="no layer that XNNPACK can run in int8"):
        export_executorch(embedding, tmp_path / "m.pte", quantize="int8")


def test_program_that_cannot_run_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from corelocker.exporting import to_executorch

    monkeypatch.setattr(to_executorch, "_unshare", lambda graph: None)  # then XNNPACK refuses the shared bias
    with pytest.raises(ExportError, match=r"cannot run the exported program: .*xnn_status_invalid_parameter"):
        export_executorch(
            load_model("support.models.export_factories:shared_conv"), tmp_path / "m.pte", quantize="int8"
        )
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""
