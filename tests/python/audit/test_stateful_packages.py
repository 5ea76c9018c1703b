"""ML Programs that keep states, and such that hold stacked matrices: read, and computed as torch does."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from corelocker.artifacts import open_artifact
from corelocker.audit.agreement.runners import PackageRunner
from corelocker.audit.mlprogram import MlProgramEvaluator
from corelocker.exporting._steps import quiet
from corelocker.locking.signs.reading import Signs, read_signs
from torch import nn

WIDTH, STEPS, LENGTH = 16, 4, 12


class Cached(nn.Module):
    """Attention over the last inputs, with experts behind it."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.key.weight, 0, 0.3, generator=generator)
        self.experts = nn.Parameter(torch.randn(3, WIDTH, WIDTH, generator=generator) / 4)
        self.register_buffer("cache", torch.zeros(1, LENGTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cache = torch.cat([self.cache[:, STEPS:], self.key(x)], 1)
        self.cache[:] = cache
        read = (x @ cache.transpose(1, 2) / 4).softmax(-1) @ cache
        return torch.matmul(read, self.experts).sum(0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stateful") / "cached.mlpackage"
    with quiet(), torch.no_grad():
        state = ct.StateType(ct.TensorType(shape=(1, LENGTH, WIDTH), dtype=np.float16), "cache")
        ct.convert(
            torch.jit.trace(Cached().eval(), torch.zeros(1, STEPS, WIDTH)), inputs=[ct.TensorType("x", (1, STEPS, WIDTH))],
            states=[state], minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
        ).save(path)  # fmt: skip
    return path


def test_a_state_goes_from_call_to_call(package: Path) -> None:
    model, program = Cached().eval(), MlProgramEvaluator(package)
    assert (set(program.inputs), program.states) == ({"x"}, {"cache"})
    runner = PackageRunner(open_artifact(package))
    call = runner.load({file.name: file for file in open_artifact(package).files})
    inputs = torch.randn(3, 1, STEPS, WIDTH, generator=torch.Generator().manual_seed(1))
    first = None
    for x in inputs:
        with torch.no_grad():
            wanted = model(x)
        (found,) = program.run({"x": x}).values()
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-2)
        torch.testing.assert_close(call.one("main", [x])[0], found)
        first = found if first is None else first
    assert call.many("main", [inputs]) is None  # one input after the other is what it computes
    (again,) = MlProgramEvaluator(package).run({"x": inputs[0]}).values()
    assert torch.equal(again, first)  # each evaluator begins afresh
    (later,) = program.run({"x": inputs[0]}).values()
    assert not torch.allclose(later, first, atol=2e-2)


COMPRESSED = {
    "float": lambda model: model,
    "int8 per channel": lambda model: quantized(model, dtype="int8", granularity="per_channel"),
    "int8 per tensor": lambda model: quantized(model, dtype="int8", granularity="per_tensor"),
    "int4 in blocks": lambda model: quantized(model, dtype="int4", granularity="per_block", block_size=4),
    "palette": lambda model: cto.palettize_weights(
        model, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, weight_threshold=0))
    ),
}


def quantized(model: ct.models.MLModel, **options: object) -> ct.models.MLModel:
    config = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0, **options)
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(config))


@pytest.mark.parametrize("how", COMPRESSED)
def test_stacked_matrices_are_a_layer(how: str, package: Path, tmp_path: Path) -> None:
    path = tmp_path / "stack.mlpackage"
    with quiet():
        COMPRESSED[how](ct.models.MLModel(str(package), skip_model_load=True)).save(path)
    artifact = open_artifact(path)
    stack = next(tensor for tensor in artifact.tensors if tensor.channels == 3 * WIDTH)
    assert stack.shape == (3 * WIDTH, WIDTH)
    experts = Cached().experts.detach().numpy().reshape(-1, WIDTH)
    coarse = 0.2 if "4" in how or how == "palette" else 1e-2
    np.testing.assert_allclose(stack.read(), experts, atol=coarse)
    assert np.abs(stack.read() - experts).mean() < coarse / 2
    (signs,) = read_signs([artifact])
    assert isinstance(signs[stack.name], Signs) or how == "palette"
