"""The CIFAR ResNets (He et al. 2015, section 4.2) of the public checkpoints that the audit's tables are made with.

Shortcuts are of option A: where a block halves the image and doubles the width, the input is strided and zero-padded.
Inputs are (n, 3, 32, 32) float32, normalized by MEAN and STD; outputs (n, classes) logits.

As a factory for `corelocker lock --model tools.research.resnet_cifar:from_environment`, the checkpoint's path stands in the
variable RESNET_CIFAR_CHECKPOINT.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))  # mean and deviation for the wide network
BFLOAT16 = torch.cpu._is_avx512_bf16_supported()  # elsewhere torch imitates it, ten times as slow as float32


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without weights."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.added = stride, width - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.added or self.stride > 1:
            half = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))
        return torch.relu(x + y)


class ResNetCifar(nn.Module):
    """Depth 6n + 2: three stages of n blocks with 16, 32 and 64 channels."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {depth} is not 6n + 2")
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, width, stride)
        return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        logits: torch.Tensor = self.linear(y.mean((2, 3)))
        return logits


class ProjectedBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut that projects; ReLU behind the last of a stage only."""

    def __init__(self, inputs: int, outputs: int, stride: int, last: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.last = last
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)
        return F.relu(x) if self.last else x


class WideResNet20(nn.Module):
    """The ResNet-20 of the public CIFAR-100 checkpoint: a stem of 64 channels, pooling to 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, width = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), 64
        for stage, out in enumerate((16, 32, 64), 1):
            rows = [
                ProjectedBlock(width if i == 0 else out, out, 2 if stage > 1 and i == 0 else 1, i == 2)
                for i in range(3)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*rows))
            width = out
        self.linear = nn.Linear(256, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        logits: torch.Tensor = self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return logits


def load(path: Path) -> ResNetCifar:
    """The network of a public checkpoint, in eval mode; depth and classes follow from its tensors."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): tensor for name, tensor in saved.get("state_dict", saved).items()}
    blocks = len({match[1] for name in state if (match := re.match(r"layer1\.(\d+)\.", name))})
    model = ResNetCifar(6 * blocks + 2, state["linear.bias"].numel())
    model.load_state_dict(state, strict=False)  # old checkpoints have no num_batches_tracked
    return model.eval()


def load_wide(path: Path) -> WideResNet20:
    """The network of the public CIFAR-100 checkpoint, in eval mode."""
    model = WideResNet20()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def normalize(images: torch.Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> torch.Tensor:
    """uint8 (n, 3, 32, 32) to the network's input."""
    return (images.float() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def from_environment() -> tuple[ResNetCifar, tuple[torch.Tensor]]:
    """The network of $RESNET_CIFAR_CHECKPOINT and an example input, the form `--model` asks for."""
    return load(Path(os.environ["RESNET_CIFAR_CHECKPOINT"])), (torch.zeros(1, 3, 32, 32),)
