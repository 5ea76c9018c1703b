"""Small networks in the form that `corelocker export` takes, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)


class TinyCnn(torch.nn.Module):
    """Stem, depthwise, pointwise, each with a BatchNorm whose statistics matter; pooling without a stride; a classifier."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 32, 1, bias=False),
            nn.BatchNorm2d(32),
        )
        self.classifier = nn.Linear(32, 10)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.1)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.nn.functional.max_pool2d(self.features(x), 2).mean((2, 3)))


class TinyTransformer(torch.nn.Module):
    """One causal attention block over token ids; the output layer shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.embedding = nn.Embedding(60, 32)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.up = nn.Linear(32, 40)
        self.down = nn.Linear(40, 32)  # 40 inputs: no whole number of 4-bit groups

    def forward(self, tokens: Any) -> Any:
        x = self.embedding(tokens)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        return torch.nn.functional.linear(x, self.embedding.weight)


class Stem(torch.nn.Module):
    """A convolution and the mean of its outputs over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 10, 3)

    def forward(self, x: Any) -> Any:
        return self.conv(x).relu().mean((2, 3))


class SharedConv(torch.nn.Module):
    """One convolution over two feature maps, as detection heads have."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(4, 4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(x).relu()[..., :8, :8] + self.head(x * 3)[..., :8, :8]


def cnn() -> Any:
    return TinyCnn().eval(), (torch.randn(2, 3, 32, 32),), [(torch.randn(2, 3, 32, 32),) for _ in range(8)]


def transformer() -> Any:
    return TinyTransformer().eval(), (torch.randint(0, 60, (1, 8)),), iter([(torch.randint(0, 60, (1, 8)),)] * 4)


def shared_conv() -> Any:
    return SharedConv().eval(), (torch.randn(1, 4, 10, 10),), ((torch.randn(1, 4, 10, 10),) for _ in range(8))


def stem() -> Any:
    return Stem().eval(), (torch.randn(2, 3, 8, 8),)


def linear() -> Any:
    return torch.nn.Linear(8, 8), (torch.randn(4, 8),), [(torch.randn(4, 8),) for _ in range(8)]


def training_cnn() -> Any:
    return TinyCnn().train(), (torch.randn(2, 3, 32, 32),)


def reference(factory: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """What the eager module computes. Seeded as `load_model` seeds."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return factory()[0](*args)


def run(program: Path, args: tuple[Any, ...], weights: Path | None = None) -> Any:
    from executorch.extension.pybindings import portable_lib

    module = portable_lib._load_for_executorch(str(program), str(weights) if weights is not None else None)
    return module.forward(list(args))[0].clone()


def error(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((found.float() - expected).abs().max() / expected.abs().max())


def contents(path: Path) -> dict[str, bytes]:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p.relative_to(path)): p.read_bytes() for p in files}
