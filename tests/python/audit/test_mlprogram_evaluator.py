"""The evaluator in demo/: it must compute what torch computes, or the demo's table would mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts.coreml.mlprogram import Operation, TensorType
from corelocker.audit.mlprogram import MlProgramEvaluator
from corelocker.audit.mlprogram.arguments import OPERATIONS, Arguments
from corelocker.audit.mlprogram.packing import unpacked
from support.models import coreml_models as models
from torch.nn import functional

WEIGHT_FILE = Path("Data/com.apple.CoreML/weights/weight.bin")


@pytest.mark.parametrize(
    ("name", "variant", "route", "tolerance"),
    [
        ("cnn", "fp32", "trace", 1e-5),
        ("cnn", "fp32", "export", 1e-5),
        ("mobilenet", "fp16", "export", 2e-3),
        ("transformer", "fp16", "trace", 5e-3),
        ("recurrent", "fp32", "trace", 1e-5),
    ],
)
def test_matches_torch(name: str, variant: str, route: str, tolerance: float) -> None:
    program = MlProgramEvaluator(models.package(name, variant, route))
    x = models.inputs(name, 5)
    with torch.no_grad():
        wanted = models.net(name)(x)
    (input_name,) = program.inputs
    (found,) = program.batch({input_name: x}, chunk=2).values()
    assert found.shape == wanted.shape
    assert wanted.abs().max() > 20 * tolerance
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
    (single,) = program.run({input_name: x[:1]}).values()
    torch.testing.assert_close(single, found[:1], rtol=0, atol=1e-5)


def test_other_weights_take_the_place_of_the_files() -> None:
    path = models.package("cnn", "fp32")
    program, x = MlProgramEvaluator(path), models.inputs("cnn", 2)
    data = bytearray((path / WEIGHT_FILE).read_bytes())
    (before,) = program.batch({"x": x}).values()
    data[4096:8192] = bytes(4096)
    (after,) = program.with_weights(bytes(data)).batch({"x": x}).values()
    (again,) = MlProgramEvaluator(path, bytes(data)).batch({"x": x}).values()
    (still,) = program.batch({"x": x}).values()
    assert (before - after).abs().max() > 1e-3
    assert torch.equal(after, again)
    assert torch.equal(before, still)


def test_branches() -> None:
    program = MlProgramEvaluator(models.built("graph"))
    x = torch.randn(1, 4, 8, 8)
    names = list(program.inputs)
    yes, no = (
        next(iter(program.run({names[0]: x, names[1]: torch.tensor([flag])}).values())) for flag in (True, False)
    )
    assert (yes - no).abs().max() > 1e-3


def test_what_it_does_not_know_is_said() -> None:
    program = MlProgramEvaluator(models.package("cnn", "fp32"))
    with pytest.raises(ValueError, match="inputs that were not given: x"):
        program.run({})
    with pytest.raises(ValueError, match="no blob at 64"):
        MlProgramEvaluator(models.package("cnn", "fp32"), bytes(1 << 20))
    spared = OPERATIONS.pop("gelu")
    try:
        with pytest.raises(NotImplementedError, match="operation gelu"):
            program.run({"x": models.inputs("cnn", 1)})
    finally:
        OPERATIONS["gelu"] = spared


def compute(kind: str, /, **values: object) -> torch.Tensor:
    given = {k: torch.tensor(v) if isinstance(v, (int, float, list, bool)) else v for k, v in values.items()}
    result = OPERATIONS[kind](Arguments(given, Operation(kind, {}, (("y", TensorType("fp32", ())),))))
    return result if isinstance(result, torch.Tensor) else result[0]


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [
        ("conv", {"pad_type": "same", "strides": [2, 2]},
         lambda x, w: functional.conv2d(functional.pad(x, (0, 1, 0, 1)), w, stride=2)),
        ("conv", {"pad_type": "same_lower", "strides": [2, 2]},
         lambda x, w: functional.conv2d(functional.pad(x, (1, 0, 1, 0)), w, stride=2)),
        ("conv", {"pad_type": "custom", "pad": [1, 2, 0, 3]}, lambda x, w: functional.conv2d(functional.pad(x, (0, 3, 1, 2)), w)),
        ("conv", {"dilations": [2, 2], "pad_type": "valid"}, lambda x, w: functional.conv2d(x, w, dilation=2)),
        ("conv_transpose", {"strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
         lambda x, w: functional.conv_transpose2d(x, w, stride=2, padding=1)),
        ("conv_transpose", {"strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1], "output_shape": [1, 6, 16, 16]},
         lambda x, w: functional.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)),
    ],
)  # fmt: skip
def test_convolutions(kind: str, values: dict[str, object], wanted: object) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 6, 8, 8), torch.randn(6, 6, 3, 3)
    torch.testing.assert_close(compute(kind, x=x, weight=weight, **values), wanted(x, weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [
        ("avg_pool", {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
         lambda x: functional.avg_pool2d(x, 3, 2, 1)),
        ("avg_pool", {"kernel_sizes": [3, 3], "pad_type": "custom", "pad": [1, 1, 1, 1], "exclude_padding_from_average": True},
         lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        ("max_pool", {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
         lambda x: functional.max_pool2d(x, 3, 2, 1)),
        ("reduce_mean", {"axes": [-1, -2], "keep_dims": True}, lambda x: x.mean([2, 3], keepdim=True)),
        ("reduce_l2_norm", {"axes": [1], "keep_dims": False}, lambda x: x.norm(dim=1)),
        ("reduce_max", {"axes": [1, 2], "keep_dims": False}, lambda x: x.amax([1, 2])),
        ("slice_by_index", {"begin": [0, 1, 0, 2], "end": [0, -1, 0, 0], "begin_mask": [True, False, True, False],
                            "end_mask": [True, False, True, True], "squeeze_mask": [True, False, False, False]},
         lambda x: x[0, 1:-1, :, 2:]),
        ("slice_by_index", {"begin": [0, 0, 0, 0], "end": [1, 6, 8, 8], "stride": [1, 2, 3, 1]}, lambda x: x[:, ::2, ::3]),
        ("slice_by_size", {"begin": [0, 2, 1, 0], "size": [1, 3, -1, 8]}, lambda x: x[:, 2:5, 1:]),
        ("pad", {"pad": [0, 0, 0, 0, 2, 1, 3, 0], "mode": "reflect"}, lambda x: functional.pad(x, (3, 0, 2, 1), mode="reflect")),
        ("pad", {"pad": [1, 2], "mode": "constant", "constant_val": 2.0}, lambda x: functional.pad(x, (1, 2), value=2.0)),
        ("upsample_nearest_neighbor", {"scale_factor_height": 2.0, "scale_factor_width": 3.0},
         lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3)),
        ("upsample_bilinear", {"scale_factor_height": 2.0, "scale_factor_width": 2.0, "align_corners": False},
         lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear")),
        ("instance_norm", {"epsilon": 1e-5}, lambda x: functional.instance_norm(x)),
        ("sigmoid_hard", {"alpha": 1 / 6, "beta": 0.5}, functional.hardsigmoid),
        ("gelu", {"mode": "TANH_APPROXIMATION"}, lambda x: functional.gelu(x, approximate="tanh")),
        ("leaky_relu", {"alpha": 0.1}, lambda x: functional.leaky_relu(x, 0.1)),
        ("elu", {"alpha": 0.5}, lambda x: functional.elu(x, 0.5)),
        ("clip", {"alpha": -0.5, "beta": 0.25}, lambda x: x.clamp(-0.5, 0.25)),
        ("softmax", {"axis": 1}, lambda x: x.softmax(1)),
        ("squeeze", {}, lambda x: x.squeeze(0)),
        ("expand_dims", {"axes": [0, -1]}, lambda x: x[None, ..., None]),
        ("reshape", {"shape": [0, -1, 16]}, lambda x: x.reshape(1, 24, 16)),
        ("tile", {"reps": [2, 1, 1, 3]}, lambda x: x.repeat(2, 1, 1, 3)),
        ("reverse", {"axes": [1]}, lambda x: x.flip(1)),
        ("cumsum", {"axis": 2}, lambda x: x.cumsum(2)),
        ("reduce_argmax", {"axis": 1, "keep_dims": False}, lambda x: x.argmax(1)),
    ],
)  # fmt: skip
def test_operations(kind: str, values: dict[str, object], wanted: object) -> None:
    torch.manual_seed(1)
    x = torch.randn(1, 6, 8, 8)
    torch.testing.assert_close(compute(kind, x=x, **values), wanted(x), rtol=1e-4, atol=1e-4)


def test_gather_takes_negative_indices() -> None:
    x, indices = torch.randn(4, 5), torch.tensor([[0, -1], [2, -5]])
    torch.testing.assert_close(compute("gather", x=x, indices=indices, axis=1), x[:, indices])


def test_packed_elements() -> None:
    raw = np.frombuffer(b"\xf0\x8f\x01", np.uint8)
    assert unpacked(raw, 5, 4, signed=True).tolist() == [0, -1, -1, -8, 1]
    assert unpacked(raw, 4, 6).tolist() == [48, 63, 24, 0]
    assert unpacked(raw, 8, 3).tolist() == [0, 6, 7, 7, 0, 3, 0, 0]
