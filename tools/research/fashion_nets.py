"""Small members of the paper's three families for 28 x 28 gray images: VGG, ResNet and DenseNet, all with BatchNorm.

The paper's VGG-19, ResNet-164 and DenseNet-40 take days on a CPU; these keep the building blocks and the depth that a CPU can
train in minutes an epoch. Inputs (n, 1, 28, 28) float32, outputs (n, 10) logits.
"""

from __future__ import annotations

import torch
from torch import nn

from tools.research.resnet_cifar import ResNetCifar


class Vgg(nn.Module):
    """Ten 3 x 3 convolutions in four stages (Simonyan and Zisserman 2015), a quarter of VGG's widths."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for stage, (out, count) in enumerate(((16, 2), (32, 2), (64, 3), (128, 3))):
            if stage:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(count):
                layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                width = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class ResNet(nn.Module):
    """ResNet-20 (He et al. 2015, section 4.2); the gray image is given three times."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ResNetCifar(20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x.expand(-1, 3, -1, -1))
        return logits


class DenseLayer(nn.Module):
    """Twelve new channels beside those that come in (Huang et al. 2017, without bottlenecks)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.relu(self.bn(self.conv(x)))], 1)


class DenseNet(nn.Module):
    """Three stages of six dense layers, with convolutions of 1 x 1 that halve the channels between them."""

    def __init__(self, growth: int = 12, layers: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2 * growth, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(2 * growth)
        width, stages = 2 * growth, []
        for stage in range(3):
            for _ in range(layers):
                stages.append(DenseLayer(width, growth))
                width += growth
            if stage < 2:
                conv, norm = nn.Conv2d(width, width // 2, 1, bias=False), nn.BatchNorm2d(width // 2)
                stages.append(nn.Sequential(conv, norm, nn.ReLU(), nn.AvgPool2d(2)))  # type: ignore[arg-type]
                width //= 2
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stages(torch.relu(self.bn(self.stem(x))))
        logits: torch.Tensor = self.classifier(y.mean((2, 3)))
        return logits


NETS = {"VGG": Vgg, "ResNet": ResNet, "DenseNet": DenseNet}
