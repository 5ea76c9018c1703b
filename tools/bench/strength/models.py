"""The models of the bench: public checkpoints where they lie on this machine, the demo's, and small ones of tools/research."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from corelocker.audit.data import DataSet
from corelocker.audit.training import seeded, train, untrained
from torch import Tensor, nn

from tools.demo_model.fashion_mobilenet import trained
from tools.research import char_gpt
from tools.research.resnet_cifar import CIFAR100, load, load_wide, normalize
from tools.research.small_nets import ADAMW, NETS, VisionTransformer

ROOT = Path(__file__).resolve().parents[3]
TRANSFORMER_EPOCHS = 10
CHARACTERS_SEQUENCES, CHARACTERS_EPOCHS = 6250, 2


@dataclass(frozen=True)
class Subject:
    """A trained model with test inputs (n, ...) and labels, of each input (n,) or of each of its places (n, places); `quantize` how
    it is exported."""

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
        return float(self.y.flatten().bincount().max()) / self.y.numel()


def subjects(data: Path | None, nets: Path | None, images: int) -> Iterator[tuple[str, Callable[[], Subject]]]:
    """Names and makers of all models that there is data for.

    Args:
        data: folder with `checkpoints`, `cifar10` and `cifar100`.
        nets: folder with state dicts NAME-10.pt of `tools.research.small_nets`, trained on CIFAR-10. A transformer for CIFAR-10
            and a small language model are trained first, minutes each, and kept there.
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
    if nets is not None:
        kept = nets / "transformer.pt"
        yield (
            "transformer",
            partial(_subject, "transformer", partial(_transformer, kept, data), data / "cifar10", images),
        )
        yield "characters", partial(_characters, nets / "characters.pt", images)


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


def _transformer(path: Path, data: Path) -> nn.Module:
    """On patches of 8 x 8, a sixteenth of the work that patches of 4 x 4 are in attention; trained on 10,000 images."""
    with seeded(0):
        net = VisionTransformer(10, patch=8)
    if not path.exists():
        with np.load(data / "cifar10" / "train10k.npz") as found:
            images = DataSet("train", normalize(torch.from_numpy(found["x"])), torch.from_numpy(found["y"]).long())
        recipe = replace(ADAMW, epochs=TRANSFORMER_EPOCHS, batch=64)
        train(net, images, recipe, recipe.learning_rates[0], 0)
        torch.save(net.state_dict(), path)
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]


def _characters(path: Path, images: int) -> Subject:
    """A language model; `images` sequences of 64 characters, at each place of which the next character is the label."""
    train_set, test = char_gpt.text()
    module = untrained(char_gpt.CharGpt(), 0)
    if not path.exists():
        recipe = replace(char_gpt.ORIGINAL, epochs=CHARACTERS_EPOCHS)
        train(module, train_set.take(slice(CHARACTERS_SEQUENCES)), recipe, recipe.learning_rates[0], 0)
        torch.save(module.state_dict(), path)
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    chosen = np.linspace(0, len(test) - 1, min(images, len(test))).astype(np.int64)
    return Subject("characters", module.eval(), test.x[chosen], test.y[chosen])
