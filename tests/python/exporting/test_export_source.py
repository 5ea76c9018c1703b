"""Factories, good and bad."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from corelocker.errors import (
    ExportError,
)
from corelocker.exporting import (
    export_executorch,
    load_model,
)
from support.models.export_factories import (
    cnn,
    error,
    reference,
    run,
)


def test_factory_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corelocker_test_models").mkdir()
    (tmp_path / "corelocker_test_models" / "nets.py").write_text(
        "import torch\nclass Make:\n  @staticmethod\n  def net():\n    return torch.nn.Linear(3, 2).train(), (torch.ones(1, 3),)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    one, two = (load_model("corelocker_test_models.nets:Make.net") for _ in range(2))
    assert one.calibration is None
    assert torch.equal(one.program.state_dict["weight"], two.program.state_dict["weight"]), "seeded"


def test_factory_module_is_put_into_inference_mode(tmp_path: Path) -> None:
    source = load_model("support.models.export_factories:training_cnn")
    exported = export_executorch(source, tmp_path / "m.pte", backend="portable")
    assert error(run(exported.path, source.args), reference(cnn, source.args)) < 1e-5


FACTORIES = """
import torch
linear, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
class Branch(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
class Drop(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, training=True)
def module_only(): return linear
def one(): return (linear,)
def not_module(): return (lambda x: x), (x,)
def not_tuple(): return linear, x
def no_inputs(): return linear, ()
def tensor_calibration(): return linear, (x,), x
def raises(): raise KeyError("weights")
def exits(): raise SystemExit(3)
def argument(size): return linear, (x,)
def branch(): return Branch(), (x,)
def drop(): return Drop(), (x,)
def shape(): return linear, (torch.ones(1, 4),)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module_only", "returned a Linear, not .module, example_inputs."),
        ("one", "returned a tuple of 1"),
        ("not_module", "first value is a function, not a torch.nn.Module"),
        ("not_tuple", "example_inputs is a Tensor, not a tuple"),
        ("no_inputs", "example_inputs is empty"),
        ("tensor_calibration", "calibration_inputs is a Tensor"),
        ("raises", "failed: KeyError: 'weights'"),
        ("exits", "failed: SystemExit: 3"),
        ("argument", "failed: TypeError: .*missing 1 required"),
        ("branch", "torch.export: .*data-dependent"),
        ("drop", "captured in training mode"),
        ("shape", "torch.export: RuntimeError"),
        ("linear", "is a Linear, not a function"),
        ("nothing", "cannot be imported: AttributeError"),
    ],
)
def test_bad_factories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "corelocker_test_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("corelocker_test_factories", None)
    with pytest.raises(ExportError, match=message) as raised:
        load_model(f"corelocker_test_factories:{name}")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("spec", ["", "model", "no.such.module:factory", ":f", "m:", "no-such.module:f"])
def test_bad_specs(spec: str) -> None:
    with pytest.raises(ExportError):
        load_model(spec)
