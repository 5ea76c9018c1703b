"""Weights that lie together in one constant: experts, parts of a matrix, tables of packed codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts import open_artifact
from corelocker.locking.signs.reading import Signs, read_signs
from corelocker.runtime.executorch import RestoredModule
from executorch.exir.passes import _quant_patterns_and_replacements as _  # noqa: F401 - makes embedding_4bit known
from support.models.lowering import _export, _lower, _partitioner
from torch import nn

EXPERTS, WIDTH, INNER, WORDS = 4, 16, 32, 50


class Experts(nn.Module):
    """A mixture of experts over an embedding; `how` says how the experts' matrices are read."""

    def __init__(self, how: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.how = how
        self.embedding, self.gate, self.head = (
            nn.Embedding(WORDS, WIDTH),
            nn.Linear(WIDTH, EXPERTS),
            nn.Linear(WIDTH, WORDS),
        )
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER, generator=generator))
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH, generator=generator))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)[0]
        weights = self.gate(x).softmax(-1)
        if self.how == "batched":
            inner = torch.bmm(x.expand(EXPERTS, -1, -1), self.up).relu()
            out = (torch.bmm(inner, self.down) * weights.t()[..., None]).sum(0)
        elif self.how == "einsum":
            inner = torch.einsum("ti,eih->teh", x, self.up).relu()
            out = (torch.einsum("teh,ehi->tei", inner, self.down) * weights[..., None]).sum(1)
        elif self.how == "picked":
            best, chosen = torch.topk(weights, 2)
            inner = torch.einsum("ti,taih->tah", x, self.up[chosen]).relu()
            out = (torch.einsum("tah,tahi->tai", inner, self.down[chosen]) * best[..., None]).sum(1)
        else:
            out = sum(weights[:, e : e + 1] * ((x @ self.up[e]).relu() @ self.down[e]) for e in range(EXPERTS))
        return self.head(x + out)


@pytest.mark.parametrize("backend", ["portable", "xnnpack"])
@pytest.mark.parametrize("how", ["batched", "einsum", "picked", "one by one"])
def test_stacked_experts_are_layers(tmp_path: Path, how: str, backend: str) -> None:
    model = Experts(how).eval()
    path = tmp_path / "experts.pte"
    exported = _export(model, (torch.zeros(1, 8, dtype=torch.int64),))
    path.write_bytes(_lower(exported, [_partitioner()] if backend == "xnnpack" else None).buffer)
    artifact = open_artifact(path)
    found = {np.sort(tensor.read().ravel()).tobytes(): tensor for tensor in artifact.tensors}
    for experts in (model.up, model.down):
        stack = found[np.sort(experts.detach().numpy().ravel()).tobytes()]
        assert stack.channels in (EXPERTS * WIDTH, EXPERTS * INNER)
    assert artifact.lockable_bytes / artifact.stored_bytes > 0.99
    assert not artifact.skipped


@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_stacked_experts_of_int8(tmp_path: Path, axis: int | None) -> None:
    """With a scale for each expert, each input, each output, or one for all."""
    import executorch.kernels.quantized  # noqa: F401 - registers the kernels that write to a given place

    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(-127, 128, (EXPERTS, WIDTH, INNER), generator=generator, dtype=torch.int8)
    count = 1 if axis is None else codes.shape[axis]
    scales = torch.rand(count, generator=generator) + 0.1
    one = float(scales[0])

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", codes)
            self.register_buffer("scales", scales)
            self.register_buffer("zeros", torch.zeros(count, dtype=torch.int64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            of = torch.ops.quantized_decomposed
            if axis is None:
                up = of.dequantize_per_tensor(self.codes, one, 0, -127, 127, torch.int8)
            else:
                up = of.dequantize_per_channel(self.codes, self.scales, self.zeros, axis, -127, 127, torch.int8)
            return torch.bmm(x.expand(EXPERTS, -1, -1), up)

    path = tmp_path / "stack.pte"
    path.write_bytes(_lower(_export(Stack().eval(), (torch.zeros(1, 5, WIDTH),))).buffer)
    artifact = open_artifact(path)
    (stack,) = artifact.tensors
    shape = [1, 1, 1]
    if axis is not None:
        shape[axis] = count
    wanted = (codes * scales.view(shape)).reshape(EXPERTS * WIDTH, INNER)
    np.testing.assert_allclose(stack.read(), wanted.numpy(), rtol=1e-6)
    (signs,) = read_signs([artifact])
    assert isinstance(signs[stack.name], Signs)


@pytest.mark.parametrize("groups", [1, 2])
def test_packed_embedding(tmp_path: Path, groups: int) -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-8, 8, (WORDS, INNER), generator=generator)
    scales = torch.rand(WORDS, groups, generator=generator) + 0.1

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stored = (codes + 8).to(torch.uint8)
            self.register_buffer("table", stored[:, 0::2] << 4 | stored[:, 1::2])
            self.register_buffer("scales", scales if groups > 1 else scales[:, 0])

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.ops.quantized_decomposed.embedding_4bit(self.table, self.scales, None, -8, 7, tokens)

    path = tmp_path / "table.pte"
    path.write_bytes(_lower(_export(Table(), (torch.zeros(1, 8, dtype=torch.int64),))).buffer)
    (table,) = open_artifact(path).tensors
    wanted = (codes.view(WORDS, groups, -1) * scales[..., None]).view(WORDS, INNER)
    assert table.role == "embedding"
    assert np.allclose(table.read(), wanted.numpy())
    tokens = torch.arange(8)[None]
    assert torch.equal(
        RestoredModule(path.read_bytes()).forward([tokens])[0], wanted[tokens]
    )  # the runtime has the kernel
