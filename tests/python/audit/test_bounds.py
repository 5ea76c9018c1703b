"""Norms against dense matrices, the certificate against random networks, the theorems against numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from corelocker.audit.bounds import LayerBound, LayerStatistics, bounds, conv_norm, linear_norm, theorems
from torch import nn
from torch.nn import functional


def dense_norm(apply: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> float:
    """Largest singular value of a linear map, from its matrix."""
    eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    columns = apply(eye).flatten(1)
    return float(torch.linalg.matrix_norm(columns, 2))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "dilation", "groups"),
    [
        ((3, 5), 3, 1, 1, 1, 1), ((3, 5), 3, 2, 1, 1, 1), ((4, 4), 5, 1, 0, 1, 1), ((4, 4), 3, 1, 2, 2, 1),
        ((4, 6), 3, 1, 1, 1, 2), ((4, 4), 3, 2, 1, 1, 4), ((6, 2), 1, 1, 0, 1, 1), ((2, 6), 2, 2, 0, 1, 1),
    ],
)  # fmt: skip
def test_convolution_norm_is_an_upper_bound_and_close(
    channels: tuple[int, int], kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(kernel * 7 + stride)
    weight = torch.randn(channels[1], channels[0] // groups, kernel, kernel, dtype=torch.float64)
    exact = dense_norm(
        lambda x: functional.conv2d(x, weight, None, stride, padding, dilation, groups), (channels[0], 6, 6)
    )
    bound = conv_norm(weight, (6, 6), (padding, padding), (dilation, dilation), groups)
    assert exact <= bound * (1 + 1e-12)
    if stride == 1:
        assert bound <= 1.5 * exact


def test_expensive_norms_fall_back_to_a_bound_above(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    conv, matrix = torch.randn(6, 4, 3, 3, dtype=torch.float64), torch.randn(7, 9, dtype=torch.float64)
    exact = conv_norm(conv, (8, 8), (1, 1)), linear_norm(matrix)
    assert exact[1] == pytest.approx(float(np.linalg.norm(matrix.numpy(), 2)))
    monkeypatch.setattr("corelocker.audit.bounds.operator_norms.EXACT_COST", 0)
    assert conv_norm(conv, (8, 8), (1, 1)) >= exact[0]
    assert linear_norm(matrix) >= exact[1]


class Block(nn.Module):
    """Random layers of a random kind; may have a shortcut."""

    def __init__(self, generator: np.random.Generator, width: int) -> None:
        super().__init__()
        groups = int(generator.choice([1, 1, width]))
        layers: list[nn.Module] = [
            nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=bool(generator.integers(2)))
        ]
        if generator.integers(2):
            norm = nn.BatchNorm2d(width)
            norm.running_mean.copy_(torch.randn(width))
            norm.running_var.copy_(torch.rand(width) + 0.1)
            layers.append(norm)
        kinds = [
            nn.ReLU(),
            nn.ReLU6(),
            nn.Tanh(),
            nn.Sigmoid(),
            nn.GELU(),
            nn.SiLU(),
            nn.Hardswish(),
            nn.ReLU(inplace=True),
        ]
        layers.append(kinds[int(generator.integers(len(kinds)))])
        self.layers, self.shortcut = nn.Sequential(*layers), bool(generator.integers(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.shortcut else y


class Random(nn.Module):
    """A random small network of convolutions, pools and linear layers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = np.random.default_rng(seed)
        width = int(generator.integers(2, 5))
        self.stem = nn.Conv2d(1, width, 3, stride=int(generator.integers(1, 3)), padding=1)
        self.blocks = nn.Sequential(*(Block(generator, width) for _ in range(generator.integers(1, 4))))
        pools = [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), nn.Identity()]
        self.pool = pools[int(generator.integers(len(pools)))]
        self.average = nn.AdaptiveAvgPool2d(int(generator.integers(1, 3)))
        self.hidden = nn.Linear(width * int(self.average.output_size) ** 2, 4)
        self.last = nn.Linear(4 if generator.integers(2) else 8, 3)
        self.twice = self.last.in_features == 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(self.average(self.pool(self.blocks(self.stem(x)))), 1)
        x = torch.relu(self.hidden(x))
        return self.last(torch.cat([x, 0.5 * x], 1) if self.twice else x)


@torch.no_grad()
def perturbed(state: dict[str, torch.Tensor], generator: np.random.Generator) -> dict[str, torch.Tensor]:
    """Some rows of some tensors are zeroed, redrawn or scaled, as locks do it."""
    found = {name: value.clone() for name, value in state.items()}
    for value in found.values():
        if value.is_floating_point() and value.dim() and generator.random() < 0.6:
            rows = torch.from_numpy(generator.random(value.shape[0]) < 0.4)
            kind = int(generator.integers(3))
            value[rows] = (value[rows] * 0, torch.rand_like(value[rows]), value[rows] * 3)[kind]
    return found


@pytest.mark.parametrize(
    "part", [0, 1, *(pytest.param(n, marks=pytest.mark.thorough) for n in range(2, 10))], ids=lambda part: f"{part}00"
)
def test_certificate_holds_on_a_thousand_random_networks(part: int) -> None:
    finite, ratios = 0, []
    for seed in range(part * 100, part * 100 + 100):
        torch.manual_seed(seed)
        module, generator = Random(seed), np.random.default_rng(seed + 10_000)
        state = {n: v.clone() for n, v in module.state_dict().items()}
        size = float(np.exp(generator.normal(0, 2)))
        found = bounds(module, state, perturbed(state, generator), size * torch.randn(5, 1, 6, 6))
        assert not found.reason
        for layer in found.layers:
            assert layer.measured <= layer.upper * (1 + 1e-9) + 1e-12, (seed, layer)
            assert layer.measured_mean <= layer.measured * (1 + 1e-12)
        last = found.layers[-1]
        finite += math.isfinite(last.upper)
        if last.measured > 0:
            ratios.append(last.upper / last.measured)
    assert finite == 100
    assert min(ratios) < 100  # a bound that is only large would be no achievement


class Attention(nn.Module):
    """One head and a gated MLP; input (n, 5, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.norm = nn.LayerNorm(6)
        nn.init.normal_(self.norm.weight)
        self.up, self.gate, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        scores = torch.softmax(self.q(y) @ self.k(y).transpose(1, 2) / 2.5, -1)
        x = x + self.out(scores @ self.v(y))
        return x + self.down(functional.silu(self.gate(x)) * self.up(x))


def test_certificate_holds_on_attention() -> None:
    for seed in range(60):
        torch.manual_seed(seed)
        module, generator = Attention(), np.random.default_rng(seed)
        state = {n: v.clone() for n, v in module.state_dict().items()}
        found = bounds(module, state, perturbed(state, generator), 3 * torch.randn(4, 5, 6))
        assert not found.reason
        for layer in found.layers:
            assert layer.measured <= layer.upper * (1 + 1e-9) + 1e-12, (seed, layer)
        assert math.isfinite(found.layers[-1].upper)


def test_adversarial_inputs_stay_below_too() -> None:
    """The certificate speaks of every input up to the radius: climb towards the worst one."""
    torch.manual_seed(3)
    module = Random(12).double().eval()
    state = {n: v.clone() for n, v in module.state_dict().items()}
    other = Random(12).double().eval()
    other.load_state_dict(perturbed(state, np.random.default_rng(5)))
    x = torch.randn(8, 1, 6, 6, dtype=torch.float64)
    radius = float(x.flatten(1).norm(dim=1).max())
    upper = bounds(module, state, other.state_dict(), x).layers[-1].upper
    x.requires_grad_(True)
    for _ in range(40):
        moved = (module(x) - other(x)).norm(dim=1).sum()
        (step,) = torch.autograd.grad(moved, x)
        with torch.no_grad():
            x += 0.1 * radius * step / step.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1).clamp_min(1e-12)
            x *= (radius / x.flatten(1).norm(dim=1).clamp_min(1e-12)).reshape(-1, 1, 1, 1).clamp_max(1)
    with torch.no_grad():
        assert float((module(x) - other(x)).norm(dim=1).max()) <= upper


def test_one_linear_layer_is_bounded_exactly() -> None:
    module = nn.Sequential(nn.Linear(4, 3))
    state = {"0.weight": torch.eye(3, 4), "0.bias": torch.zeros(3)}
    locked = {"0.weight": torch.eye(3, 4) * torch.tensor([[1.0], [1.0], [0.0]]), "0.bias": torch.zeros(3)}
    x = torch.tensor([[0.0, 0.0, 2.0, 0.0]])
    (layer, output) = bounds(module, state, locked, x).layers
    assert layer.measured == pytest.approx(2.0)
    assert layer.upper == pytest.approx(2.0)
    assert layer.g == pytest.approx(0.0)  # W y* = W x: nothing was lost before this layer
    assert output.upper == layer.upper


def test_what_is_not_known_ends_the_certificate_and_says_so() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.exp(self.a(x)))

    torch.manual_seed(0)
    module = Odd()
    state = {n: v.clone() for n, v in module.state_dict().items()}
    locked = perturbed(state, np.random.default_rng(1))
    locked["a.weight"] = state["a.weight"] * 2
    found = bounds(module, state, locked, torch.randn(2, 3))
    assert math.isfinite(found.layers[0].upper)
    assert math.isinf(found.layers[-1].upper)
    assert "exp" in found.reason


def test_a_model_that_cannot_be_traced_is_still_measured() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            return self.b(x if float(x.sum()) > 0 else -x)

    torch.manual_seed(0)
    module, x = Branching(), torch.randn(5, 3)
    locked = {n: v.clone() for n, v in module.state_dict().items()}
    locked["b.bias"] = locked["b.bias"] + torch.tensor([3.0, 4.0])
    found = bounds(module, module.state_dict(), locked, x)
    assert [layer.name for layer in found.layers] == ["a", "b", "output"]
    assert [layer.measured for layer in found.layers] == pytest.approx([0, 5, 5])
    assert math.isinf(found.layers[-1].upper)
    assert "traced" in found.reason


def test_nothing_locked_moves_nothing() -> None:
    torch.manual_seed(0)
    module = Random(3)
    state = module.state_dict()
    for layer in bounds(module, state, state, torch.randn(2, 1, 6, 6)).layers:
        assert layer.measured == layer.upper == 0


def test_theorems_by_hand() -> None:
    layers = [LayerStatistics("a", 4, (), 0.5, 0.1, 2.0, 3), LayerStatistics("b", 9, (3, 3), 0.25, 0.0, 1.0, 5)]
    measured = [LayerBound("a", 1, 1, 1, 1, 0.5), LayerBound("b", 1, 1, 1, 1, 2.0)]
    rows = theorems(layers, measured, 10.0, {"mu": 100.0, "tau": 3.0, "L": 1.0, "C_e": 1.0, "C_s": 1.0, "K": 1.0})[
        "layers"
    ]
    first = 100 * 4 * 0.25 + 4 * 0.01
    assert 10 ** rows[0]["log10_variance"] == pytest.approx(first)
    assert 10 ** rows[1]["log10_variance"] == pytest.approx(first * 9 * 0.0625)
    assert 10 ** rows[0]["log10_tail_of_g"] == pytest.approx(3 * 2 / 100)
    # Theorem 3, m = 1: G + mu L ||x||; the probability has no factor of tau yet.
    assert 10 ** rows[0]["log10_upper"] == pytest.approx(0.5 + 100 * 10)
    assert rows[0]["probability"] == pytest.approx(1 - 6 * 2 * math.sqrt(3) / 100)
    # Theorem 4, m = 2: exponent C^2, lambda = C^2 (sqrt Q + K^2 (sqrt Q + tau)).
    lam = 81 * (math.sqrt(3) + 0.0625 * (math.sqrt(3) + 3))
    assert rows[1]["log10_upper"] == pytest.approx(2 + 81 * math.log10(lam) + 1)
    assert rows[1]["theorem"] == 4
