"""FashionMobileNet: the small classifier that the demo exports, locks and restores.

A MobileNetV2 (Sandler et al. 2018, table 2) scaled down to 28 x 28 gray images: a strided stem, fourteen blocks of expansion,
depthwise convolution and projection, a 1 x 1 head and a linear layer. There are no shortcuts: on so easy a data set they would
carry the image around whatever is locked. Deep networks with depthwise layers collapse when a few channels are locked, as the
CoreLocker paper describes; shallow wide networks keep most of their accuracy.

Needs torch, and safetensors for `trained`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CALIBRATION = Path(__file__).resolve().parent / "data" / "fashion_calibration_100.npz"
CHECKPOINT = Path(__file__).resolve().parent / "data" / "fashion_mobilenet.safetensors"

# Every width but the stem's is a multiple of 40: a whole number of SIMD lanes (8), and 5 % of the channels is a whole
# number (20), so the share of the weights in a 5 % tier does not depend on how a fraction is rounded.
STEM_WIDTH = 24
HEAD_WIDTH = 160
STAGES = (  # expanded width, output width, blocks, stride of the first block
    (80, 40, 3, 1),  # 14 x 14
    (120, 40, 5, 2),  # 7 x 7
    (160, 80, 6, 2),  # 4 x 4
)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the image size (up to its stride) and its BatchNorm, which takes the bias's place."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedBottleneck(nn.Module):
    """Expand 1 x 1, depthwise 3 x 3, project 1 x 1 without activation.

    Input (n, inputs, h, w), output (n, outputs, ceil(h / stride), ceil(w / stride)), both floating point.
    """

    def __init__(self, inputs: int, expanded: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(*conv_bn(inputs, expanded, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(*conv_bn(expanded, expanded, 3, stride, groups=expanded), nn.ReLU6())
        self.project = nn.Sequential(*conv_bn(expanded, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return y


class FashionMobileNet(nn.Module):
    """Input (n, 1, 28, 28) float32 in [0, 1] (pixel / 255, no other normalization); output (n, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(1, STEM_WIDTH, 3, stride=2), nn.ReLU6())
        blocks: list[nn.Module] = []
        width = STEM_WIDTH
        for expanded, outputs, count, stride in STAGES:
            for i in range(count):
                blocks.append(InvertedBottleneck(width, expanded, outputs, stride if i == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*conv_bn(width, HEAD_WIDTH, 1), nn.ReLU6())
        self.classifier = nn.Linear(HEAD_WIDTH, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.head(self.blocks(self.stem(x))).mean((2, 3))
        logits: torch.Tensor = self.classifier(features)
        return logits


def trained(checkpoint: Path = CHECKPOINT) -> tuple[FashionMobileNet, tuple[torch.Tensor]]:
    """The trained network in eval mode and its example input (1, 1, 28, 28), the form `corelocker export` asks for.

    Raises FileNotFoundError or safetensors' SafetensorError for a missing or damaged checkpoint, and RuntimeError where
    its tensors do not fit the architecture.
    """
    from safetensors.torch import load_file

    model = FashionMobileNet()
    model.load_state_dict(load_file(checkpoint))
    return model.eval(), (torch.zeros(1, 1, 28, 28),)


def calibrated() -> tuple[FashionMobileNet, tuple[torch.Tensor], list[tuple[torch.Tensor]]]:
    """`trained`, with 100 images of the training set for int8 calibration, each (1, 1, 28, 28)."""
    import numpy as np

    model, example = trained()
    with np.load(CALIBRATION) as data:
        images = torch.from_numpy(data["x"][:, None, None]).float() / 255
    return model, example, [(image,) for image in images]
