"""A restored program runs in ExecuTorch and computes what the original computes."""

from __future__ import annotations

import builtins
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corelocker.bundle.content_keys import new_content_key
from corelocker.errors import MalformedArtifactError, MissingExtraError
from corelocker.files import Bytes
from corelocker.runs import single
from corelocker.runtime import restore
from corelocker.runtime.executorch import RestoredModule
from support.models.exports import exported
from support.models.lowering import built
from test_restored import Locked, bundle_of, lock

KEY = new_content_key()


def locked_rows(file: Bytes, name: str, model: str) -> Locked:
    """The first half of the rows of the largest weight of `model` that the file holds as it is."""
    raw = file.tobytes()
    weights = sorted((w for w in built(model)[0].parameters() if w.dim() > 1), key=torch.Tensor.numel, reverse=True)
    places = ((raw.find(weight.detach().numpy().tobytes()), weight) for weight in weights)
    offset, weight = next((place, weight) for place, weight in places if place >= 0)
    row = weight[0].numel() * weight.element_size()
    rows = [single(offset + i * row, row) for i in range(0, weight.shape[0], 2)]
    # The noise must be numbers: small floats.
    noise = np.random.default_rng(0).normal(0, 0.05, weight.numel()).astype(np.float32).view(np.uint8)
    found = lock(file, [rows], name, name)
    for run in rows:
        found.states[0][run.offset : run.end] = noise[run.offset - offset : run.end - offset]
    return found


def outputs(program: Any, inputs: Any, data_map: Any = None) -> torch.Tensor:
    module = RestoredModule(program, data_map)
    gc.collect()
    result: torch.Tensor = module.forward(inputs)[0]
    return result


@pytest.mark.parametrize(
    ("model", "variant"), [("mobilenet", "portable"), ("resnet", "portable"), ("transformer", "xnnpack")]
)
def test_program(model: str, variant: str, tmp_path: Path) -> None:
    original = np.frombuffer(exported(model, variant).read_bytes(), np.uint8)
    file = locked_rows(original, f"{model}.pte", model)
    path = tmp_path / file.name
    path.write_bytes(file.states[0])
    inputs = built(model)[1]
    expected = outputs(original.tobytes(), inputs)
    with restore(path, bundle_of([file], KEY), KEY) as restored:
        module = RestoredModule(restored)
    gc.collect()
    assert module.method_names() == ["forward"]
    assert torch.equal(module.forward(inputs)[0], expected)
    locked = outputs(path.read_bytes(), inputs)
    assert not torch.equal(locked, expected)
    assert torch.isfinite(locked).all()


def test_external_weights(tmp_path: Path) -> None:
    program = exported("vgg", "external").read_bytes()
    original = np.frombuffer(exported("vgg", "external").with_suffix(".ptd").read_bytes(), np.uint8)
    file = locked_rows(original, "vgg.ptd", "vgg")
    path = tmp_path / file.name
    path.write_bytes(file.states[0])
    inputs = built("vgg")[1]
    expected = outputs(program, inputs, original.tobytes())
    with restore(path, bundle_of([file], KEY), KEY) as restored:
        assert torch.equal(outputs(program, inputs, restored), expected)
    assert not torch.equal(outputs(program, inputs, path.read_bytes()), expected)


def test_what_is_not_a_program() -> None:
    with pytest.raises(MalformedArtifactError):
        RestoredModule(b"x" * 100)


def test_without_executorch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("executorch"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError):
        RestoredModule(b"")
