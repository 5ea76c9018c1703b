"""The models of the bench: public checkpoints where they lie on this machine, the demo's, and small ones of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.demo_model.fashion_mobilenet import trained
from tools.research.resnet_cifar import CIFAR100, load, load_wide, normalize
from tools.research.small_nets import NETS

ROOT = Path(__file__).resolve().parents[3]


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


def subjects(data: Path | None, nets: Path | None, images: int) -> Iterator[tuple[str, Callable[[], Subject]]]:
    """Names and makers of all models that there is data for.

    Args:
        data: folder with `checkpoints`, `cifar10` and `cifar100`.
        nets: folder with state dicts NAME-10.pt of `tools.research.small_nets`, trained on CIFAR-10.
    """
    yield "demo, fp32", lambda: demo("demo, fp32", None, images)
    yield "demo, int8", lambda: demo("demo, int8", "int8", images)
    if data is None:
        return
    for path in sorted((data / "checkpoints").glob("*.th")):
        name = path.stem.partition("-")[0]
        yield name, partial(_subject, name, partial(load, path), data / "cifar10", images)
    if (path := data / "checkpoints" / "resnet20_cifar100.pth").exists():
        name = "resnet20, 100 classes"
        yield name, partial(_subject, name, partial(load_wide, path), data / "cifar100", images, *CIFAR100)
    for path in sorted(nets.glob("*-10.pt")) if nets is not None else []:
        name = path.stem.removesuffix("-10")
        yield name, partial(_subject, name, partial(_small, name, path), data / "cifar10", images)


def demo(name: str, quantize: str | None, images: int) -> Subject:
    """The demo's model on images that are kept with it."""
    with np.load(ROOT / "tools" / "demo_model" / "data" / "fashion_test_2000.npz") as found:
        chosen = np.linspace(0, len(found["y"]) - 1, min(images, len(found["y"]))).astype(np.int64)
        x, y = torch.from_numpy(found["x"][chosen][:, None]).float() / 255, found["y"][chosen].astype(np.int64)
    return Subject(name, trained()[0], x, torch.from_numpy(y), quantize)


def _subject(name: str, module: Callable[[], nn.Module], data: Path, images: int, *norm: Sequence[float]) -> Subject:
    with np.load(data / "test.npz") as found:
        x, y = torch.from_numpy(found["x"][:images]), torch.from_numpy(found["y"][:images]).long()
    return Subject(name, module(), normalize(x, *norm), y)


def _small(name: str, path: Path) -> nn.Module:
    net = NETS[name][0](10)
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()
