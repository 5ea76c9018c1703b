"""Small members of five more families for CIFAR-10, with the module names that public checkpoints have.

MobileNetV2 (Sandler et al. 2018), ShuffleNetV2 (Ma et al. 2018) and VGG (Simonyan and Zisserman 2015) as torchvision names them,
RepVGG before its branches are merged (Ding et al. 2021), a vision transformer (Dosovitskiy et al. 2021) as timm names it. Inputs
(n, 3, 32, 32) float32, normalized; outputs (n, classes) logits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from corelocker.audit.data import DataSet
from corelocker.audit.training import TrainingRecipe, seeded, train
from torch import nn

SGD = TrainingRecipe(epochs=60, batch=32, learning_rates=(0.05, 0.1), augmentation="shift-flip")
ADAMW = TrainingRecipe(
    epochs=60, batch=32, learning_rates=(0.001, 0.003), weight_decay=0.05, optimizer="adamw", augmentation="shift-flip"
)
OWNER_EPOCHS = 30  # on 10,000 images


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Widen by 1 x 1, filter each channel by 3 x 3, narrow by 1 x 1; beside it the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand > 1:
            layers.append(nn.Sequential(*_conv(inputs, hidden, 1), nn.ReLU6()))
        layers.append(nn.Sequential(*_conv(hidden, hidden, 3, stride, hidden), nn.ReLU6()))
        self.conv = nn.Sequential(*layers, *_conv(hidden, outputs, 1))
        self.beside = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.beside else y


class MobileNetV2(nn.Module):
    """Eight blocks, widths 16 to 64."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        features: list[nn.Module] = [nn.Sequential(*_conv(3, 16, 3, 2), nn.ReLU6()), InvertedResidual(16, 16, 1, 1)]
        width = 16
        for outputs, count, stride in ((24, 2, 1), (32, 3, 2), (64, 3, 2)):
            for number in range(count):
                features.append(InvertedResidual(width, outputs, stride if number == 0 else 1, 4))
                width = outputs
        features.append(nn.Sequential(*_conv(width, 160, 1), nn.ReLU6()))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(160, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class ShuffleUnit(nn.Module):
    """Half of the channels pass by, the others go through three convolutions; then both are interleaved."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        if stride > 1:
            self.branch1 = nn.Sequential(*_conv(inputs, inputs, 3, stride, inputs), *_conv(inputs, half, 1), nn.ReLU())
        self.branch2 = nn.Sequential(
            *_conv(inputs if stride > 1 else half, half, 1), nn.ReLU(),
            *_conv(half, half, 3, stride, half), *_conv(half, half, 1), nn.ReLU(),
        )  # fmt: skip
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passing, other = (self.branch1(x), x) if self.stride > 1 else x.chunk(2, 1)
        y = torch.stack([passing, self.branch2(other)], 2)
        return y.flatten(1, 2)


class ShuffleNetV2(nn.Module):
    """Three stages, widths 48 to 192."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_conv(3, 24, 3), nn.ReLU())
        width = 24
        for number, (outputs, count) in enumerate(((48, 3), (96, 5), (192, 3)), 2):
            first = ShuffleUnit(width, outputs, 2)
            rest = (ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1))
            setattr(self, f"stage{number}", nn.Sequential(first, *rest))
            width = outputs
        self.conv5 = nn.Sequential(*_conv(width, 256, 1), nn.ReLU())
        self.fc = nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stage4(self.stage3(self.stage2(self.conv1(x))))  # type: ignore[operator]
        logits: torch.Tensor = self.fc(self.conv5(y).mean((2, 3)))
        return logits


class RepBlock(nn.Module):
    """A 3 x 3 and a 1 x 1 convolution and, where shapes agree, the input, each behind a BatchNorm, are added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        conv, norm = _conv(inputs, outputs, 3, stride)
        self.rbr_dense = nn.Sequential()
        self.rbr_dense.add_module("conv", conv)
        self.rbr_dense.add_module("bn", norm)
        conv, norm = _conv(inputs, outputs, 1, stride)
        self.rbr_1x1 = nn.Sequential()
        self.rbr_1x1.add_module("conv", conv)
        self.rbr_1x1.add_module("bn", norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            y = y + self.rbr_identity(x)
        return y.relu()


class RepVgg(nn.Module):
    """Nine blocks, widths 16 to 64."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stage0 = RepBlock(3, 16, 1)
        width = 16
        for number, (outputs, count) in enumerate(((16, 2), (32, 3), (64, 3)), 1):
            blocks = [RepBlock(width if n == 0 else outputs, outputs, 2 if n == 0 else 1) for n in range(count)]
            setattr(self, f"stage{number}", nn.Sequential(*blocks))
            width = outputs
        self.linear = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stage3(self.stage2(self.stage1(self.stage0(x))))  # type: ignore[operator]
        logits: torch.Tensor = self.linear(y.mean((2, 3)))
        return logits


class Vgg(nn.Module):
    """Eight convolutions, widths 16 to 64, nothing beside them."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for outputs, count in ((16, 2), (32, 2), (64, 4)):
            for _ in range(count):
                layers += [*_conv(width, outputs), nn.ReLU()]
                width = outputs
            layers.append(nn.MaxPool2d(2))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class Attention(nn.Module):
    """Four heads of 16 over all patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        mixed: torch.Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return mixed


class TransformerBlock(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        y: torch.Tensor = x + self.mlp(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """Six blocks of width 64 on square patches."""

    def __init__(self, classes: int = 10, width: int = 64, patch: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, (32 // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        logits: torch.Tensor = self.head(self.norm(self.blocks(y)).mean(1))
        return logits


NETS: dict[str, tuple[Callable[[int], nn.Module], TrainingRecipe]] = {
    "mobilenetv2": (MobileNetV2, SGD),
    "shufflenetv2": (ShuffleNetV2, SGD),
    "repvgg": (RepVgg, SGD),
    "vgg": (Vgg, SGD),
    "vit": (VisionTransformer, ADAMW),
}


def turned(data: DataSet) -> DataSet:
    """Four times the images, by quarters of a full turn, each a class of its own: (4 n, 3, 32, 32), 40 classes.

    Many classes with few images each, as in CIFAR-100. Trained without mirroring, which confuses a turn to the left with one to the
    right."""
    x = torch.stack([data.x.rot90(turns, (2, 3)) for turns in range(4)], 1)
    y = torch.stack([4 * data.y + turns for turns in range(4)], 1)
    return DataSet(f"{data.name} in four rotations", x.flatten(0, 1), y.flatten())


def trained(name: str, data: DataSet, recipe: TrainingRecipe, work: Path) -> nn.Module:
    """The network `name` after training on `data`; kept in `work`."""
    kind, classes = NETS[name][0], int(data.y.max()) + 1
    kept = work / f"{name}-{classes}.pt"
    with seeded(0):
        module, fresh = kind(classes), kind(classes)
    if not kept.exists():
        train(module, data, recipe, recipe.learning_rates[0], 0)
        work.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), kept)
    # Training leaves its memory format behind, by which later sums differ: the first run, too, goes on from the file.
    fresh.load_state_dict(torch.load(kept, weights_only=True))
    return fresh.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]
