"""Packages hold the module's weights and compute what it computes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
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
    export_coreml,
    load_model,
)
from support.models.export_factories import (
    error,
    reference,
    transformer,
)


def package_weights(package: Path) -> dict[str, Any]:
    """Constants of two or more dimensions as (MIL data type, shape, raw bytes), and int8 ones with their scales."""
    from coremltools.proto import Model_pb2

    data = package / "Data" / "com.apple.CoreML"
    spec = Model_pb2.Model()
    spec.ParseFromString((data / "model.mlmodel").read_bytes())
    blob = (data / "weights" / "weight.bin").read_bytes()
    function = spec.mlProgram.functions["main"]
    found: dict[str, Any] = {"spec": spec}
    for operation in function.block_specializations[function.opset].operations:
        for name, value in operation.attributes.items():
            if value.WhichOneof("value") == "blobFileValue":
                sentinel, _, size, offset = struct.unpack_from("<IIQQ", blob, value.blobFileValue.offset)
                assert sentinel == 0xDEADBEEF
                shape = [d.constant.size for d in value.type.tensorType.dimensions]
                found[f"{operation.outputs[0].name}.{name}"] = (operation.type, shape, blob[offset : offset + size])
    return found


@pytest.mark.parametrize(
    ("precision", "quantize", "tolerance"), [("fp32", None, 1e-6), ("fp16", None, 2e-3), ("fp16", "int8", 2e-2)]
)
def test_package_holds_the_folded_weights(
    tmp_path: Path, source: Any, precision: Any, quantize: Any, tolerance: float
) -> None:
    exported = export_coreml(source, tmp_path / "m.mlpackage", precision=precision, quantize=quantize)
    names = {str(p.relative_to(exported.path)) for p in exported.path.rglob("*") if p.is_file()}
    data = "Data/com.apple.CoreML"
    assert names == {"Manifest.json", f"{data}/model.mlmodel", f"{data}/weights/weight.bin"}
    weights = package_weights(exported.path)
    spec = weights.pop("spec")
    assert spec.specificationVersion == 7  # iOS 16
    assert not any("date" in key for key in spec.description.metadata.userDefined)
    assert [o.type.multiArrayType.dataType for o in spec.description.output] == [65568]  # float32

    state = source.program.state_dict
    folded = {}
    for conv, norm in ((0, 1), (3, 4), (6, 7)):
        scale = state[f"features.{norm}.weight"] / torch.sqrt(state[f"features.{norm}.running_var"] + 1e-5)
        folded[conv] = (state[f"features.{conv}.weight"] * scale[:, None, None, None]).detach().numpy()
    for weight in (*folded.values(), state["classifier.weight"].detach().numpy()):
        assert any(
            np.abs(stored - weight).max() < tolerance * np.abs(weight).max()
            for stored in dequantized(weights, precision, quantize)
            if stored.shape == weight.shape
        )


def dequantized(weights: dict[str, Any], precision: str, quantize: str | None) -> Iterator[Any]:
    floats = np.float32 if precision == "fp32" else np.float16
    for name, (kind, shape, raw) in weights.items():
        if kind == "const" and quantize is None:
            yield np.frombuffer(raw, floats).reshape(shape).astype(np.float32)
        elif name.endswith(".quantized_data"):
            scale = np.frombuffer(weights[name.replace(".quantized_data", ".scale")][2], floats).astype(np.float32)
            values = np.frombuffer(raw, np.int8).reshape(shape).astype(np.float32)
            yield values * scale.reshape(-1, *[1] * (values.ndim - 1))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_package_computes_what_the_module_computes(tmp_path: Path, precision: Any, tolerance: float) -> None:
    from corelocker.audit.mlprogram import MlProgramEvaluator

    text_source = load_model("support.models.export_factories:transformer")
    exported = export_coreml(text_source, tmp_path / "m.mlpackage", precision=precision)
    (found,) = MlProgramEvaluator(exported.path).run({"tokens": text_source.args[0].int()}).values()
    assert error(found, reference(transformer, text_source.args)) < tolerance


def test_operators_that_coremltools_lacks_are_decomposed(tmp_path: Path, source: Any) -> None:
    module, args = torch.nn.LSTM(8, 16, batch_first=True).eval(), (torch.randn(1, 3, 8),)
    lstm = replace(source, program=torch.export.export(module, args), args=args)
    weights = package_weights(export_coreml(lstm, tmp_path / "m.mlpackage", precision="fp32").path)
    wanted = module.weight_ih_l0.detach().numpy().tobytes()
    assert any(raw == wanted for name, found in weights.items() if name != "spec" for raw in found[2:])


def test_core_ml_names_the_operator_that_it_lacks(tmp_path: Path, source: Any) -> None:
    class Fft(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.fft.rfft(x).abs()

    program = torch.export.export(Fft(), (torch.zeros(1, 8),))
    with pytest.raises(ExportError, match=r"convert to Core ML: .*rfft"):
        export_coreml(replace(source, program=program), tmp_path / "m.mlpackage")
    assert list(tmp_path.iterdir()) == []
