"""Tiny networks of the kinds that are locked. Deterministic: a name always gives the same weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, bias: bool = False
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.second = conv_bn(outputs, outputs, 3)
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-like: residual additions, one with a projection."""

    example = staticmethod(lambda: (torch.randn(1, 3, 16, 16),))

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3)
        self.body = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 16, 2))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(F.relu(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, expanded: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(conv_bn(inputs, expanded, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(conv_bn(expanded, expanded, 3, stride, groups=expanded), nn.ReLU6())
        self.project = conv_bn(expanded, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """MobileNetV2-like: depthwise layers and linear bottlenecks."""

    example = staticmethod(lambda: (torch.randn(1, 3, 16, 16),))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU6())
        self.body = nn.Sequential(InvertedResidual(8, 16, 8, 1), InvertedResidual(8, 24, 12, 2))
        self.head = nn.Sequential(conv_bn(12, 32, 1), nn.ReLU6())
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.body(self.stem(x))).mean((2, 3)))


class Vgg(nn.Module):
    """VGG-like: the feature map is flattened into a linear layer."""

    example = staticmethod(lambda: (torch.randn(1, 3, 16, 16),))

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), conv_bn(8, 16, 3, bias=True), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.hidden = nn.Linear(16 * 4 * 4, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.hidden(self.features(x).flatten(1))))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = self.norm1(x)
        q, k, v = (f(y).view(batch, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.o(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Transformer-like: embedding, attention, a feed-forward part, residual stream."""

    example = staticmethod(lambda: (torch.randint(0, 50, (1, 8)),))

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.position = nn.Parameter(torch.randn(1, 8, width))
        self.block = TransformerBlock(width, heads)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.embedding(tokens) + self.position)))


class GatedMlp(nn.Module):
    """The feed-forward part of a language model: products of two branches, no biases but one."""

    example = staticmethod(lambda: (torch.randn(1, 4, 64),))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64, bias=False)
        self.gate = nn.Linear(64, 128, bias=False)
        self.up = nn.Linear(64, 128, bias=False)
        self.down = nn.Linear(128, 64)
        self.head = nn.Linear(64, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class Branches(nn.Module):
    """Concatenation, groups, a depthwise layer with two channels an input, channel attention."""

    example = staticmethod(lambda: (torch.randn(1, 3, 8, 8),))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 6, 1)
        self.right = nn.Conv2d(8, 10, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.multiplied = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.squeeze = nn.Conv2d(32, 4, 1)
        self.excite = nn.Conv2d(4, 32, 1)
        self.last = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = self.multiplied(F.relu(self.grouped(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.last(x * gate)


class UNet(nn.Module):
    """An encoder and a decoder: transposed convolutions and a skip connection."""

    example = staticmethod(lambda: (torch.randn(1, 2, 8, 8),))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 3, 2, 1)
        self.up = nn.ConvTranspose2d(12, 6, 2, 2)
        self.last = nn.Conv2d(14, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.last(torch.cat([self.up(F.relu(self.down(x))), x], 1))


class Audio(nn.Module):
    """One-dimensional convolutions, a permuted linear layer."""

    example = staticmethod(lambda: (torch.randn(1, 4, 32),))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 8, 5, 2, 2)
        self.second = nn.Conv1d(8, 16, 3, padding=1)
        self.project = nn.Linear(16, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        x = F.relu(self.project(x.transpose(1, 2)))
        return self.fc(x.mean(1))


class LastAxisFlatten(nn.Module):
    """Flattens a map whose channels are its last axis: they end up interleaved."""

    example = staticmethod(lambda: (torch.randn(1, 3, 4, 4),))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.conv(x)).permute(0, 2, 3, 1).flatten(1))


class Stack(nn.Module):
    """Two convolutions and a linear layer: the kernels of these run over any memory format."""

    example = staticmethod(lambda: (torch.randn(1, 3, 8, 8),))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.second(F.relu(self.first(x)))).flatten(1))


class Shared(nn.Module):
    """One trunk under two methods."""

    example = staticmethod(lambda: (torch.randn(1, 16),))

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(16, 24)
        self.middle = nn.Linear(24, 20)
        self.head = nn.Linear(20, 4)
        self.other = nn.Linear(20, 6)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.middle(F.relu(self.trunk(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class SharedOther(nn.Module):
    """The second method of `Shared`."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return self.shared.other(self.shared.features(x))


class Plain(nn.Module):
    """No weights at all."""

    example = staticmethod(lambda: (torch.randn(2, 2),))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) + 1


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet": ResNet,
    "mobilenet": MobileNet,
    "vgg": Vgg,
    "transformer": Transformer,
    "gated": GatedMlp,
    "branches": Branches,
    "unet": UNet,
    "audio": Audio,
    "lastaxis": LastAxisFlatten,
    "stack": Stack,
    "shared": Shared,
    "plain": Plain,
}


def build(name: str) -> tuple[nn.Module, Inputs]:
    """The network `name` in eval mode, with BatchNorm statistics like a trained one's, and example inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        model = NETS[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        return model.eval(), model.example()
