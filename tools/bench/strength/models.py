"""The models of the bench: public checkpoints where they lie on this machine, the demo's, and small ones of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
                x, y = cifar("cifar100")
                return Subject("resnet20, 100 classes", load_wide(path), normalize(x, *CIFAR100), y)

            yield wide
        for path in sorted(nets.glob("*.pt")) if nets is not None else []:

            def small(path: Path = path) -> Subject:
                net = NETS[path.stem][0](10)
                net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
                x, y = cifar("cifar10")
                return Subject(path.stem, net.eval(), normalize(x), y)

            yield small
