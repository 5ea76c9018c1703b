"""The models of the bench: public checkpoints where they lie on this machine, the demo's, and small ones of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.demo_model.fashion_mobilenet import trained
from tools.research.resnet_cifar import load, normalize
from tools.research.small_nets import NETS

ROOT = Path(__file__).resolve().parents[3]
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@dataclass(frozen=True)
class Subject:
    """A trained model with test inputs (n, ...) and labels (n,); `quantize` how it is exported."""

    name: str
    module: nn.Module
    x: Tensor
    y: Tensor
    quantize: str | None = None

    @property
    def example(self) -> tuple[Tensor]:
        return (self.x[:1],)

    @property
    def chance(self) -> float:
        """Share of the largest class of the labels."""
        return float(self.y.bincount().max()) / len(self.y)


class Block(nn.Module):
    """Of `Wide`."""

    def __init__(self, inputs: int, outputs: int, stride: int, last: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.last = last
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)
        return functional.relu(x) if self.last else x


class Wide(nn.Module):
    """The ResNet-20 of the public CIFAR-100 checkpoint: a stem of 64 channels, pooling to 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, width = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), 64
        for stage, out in enumerate((16, 32, 64), 1):
            rows = [Block(width if i == 0 else out, out, 2 if stage > 1 and i == 0 else 1, i == 2) for i in range(3)]
            setattr(self, f"layer{stage}", nn.Sequential(*rows))
            width = out
        self.linear = nn.Linear(256, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 2).flatten(1))
        return logits


def subjects(data: Path | None, nets: Path | None, images: int) -> Iterator[Callable[[], Subject]]:
    """Makers of all models that there is data for.

    Args:
        data: folder with `checkpoints`, `cifar10` and `cifar100`.
        nets: folder with state dicts NAME.pt of `tools.research.small_nets`, trained on CIFAR-10.
    """

    def demo(quantize: str | None) -> Subject:
        with np.load(ROOT / "tools" / "demo_model" / "data" / "fashion_test_2000.npz") as found:
            chosen = np.linspace(0, len(found["y"]) - 1, min(images, len(found["y"]))).astype(np.int64)
            x, y = torch.from_numpy(found["x"][chosen][:, None]).float() / 255, found["y"][chosen].astype(np.int64)
        return Subject(f"demo {quantize or 'fp32'}", trained()[0], x, torch.from_numpy(y), quantize)

    yield lambda: demo(None)
    yield lambda: demo("int8")
    if data is not None:

        def cifar(name: str) -> tuple[Tensor, Tensor]:
            with np.load(data / name / "test.npz") as found:
                return torch.from_numpy(found["x"][:images]), torch.from_numpy(found["y"][:images]).long()

        for path in sorted((data / "checkpoints").glob("*.th")):
            yield lambda path=path: Subject(
                path.stem.partition("-")[0], load(path), normalize(cifar("cifar10")[0]), cifar("cifar10")[1]
            )
        if (path := data / "checkpoints" / "resnet20_cifar100.pth").exists():

            def wide() -> Subject:
                net = Wide()
                net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
                x, y = cifar("cifar100")
                mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in CIFAR100)
                return Subject("resnet20, 100 classes", net.eval(), (x.float() / 255 - mean) / std, y)

            yield wide
        for path in sorted(nets.glob("*.pt")) if nets is not None else []:

            def small(path: Path = path) -> Subject:
                net = NETS[path.stem][0](10)
                net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
                x, y = cifar("cifar10")
                return Subject(path.stem, net.eval(), normalize(x), y)

            yield small
