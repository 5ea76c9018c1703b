"""A small task and a small network, trained in a second, for the tests of the attacks."""

from __future__ import annotations

from functools import cache

import torch
from corelocker.artifacts.torch_module import plain_state
from corelocker.audit.attacks import AttackBudget, AttackTarget
from corelocker.audit.data import DataSet
from corelocker.audit.models import Mask, TieredModel
from corelocker.audit.training import TrainingRecipe, seeded, train
from torch import nn

TINY = AttackBudget(
    shares=(0.1,),
    recipe=TrainingRecipe(epochs=6, batch=16, least_steps=40, learning_rates=(0.05,)),
    variants=(("known", "all"),),
    pruned=(0.4,),
    detector_samples=64,
)
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


class Net(nn.Module):
    """Four convolutions with BatchNorm on 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for out, stride in ((12, 1), (16, 2), (24, 2), (24, 1)):
            layers += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


@cache
def task() -> tuple[DataSet, DataSet]:
    """Six classes, each a pair of four textures at places that vary: (train, test). A tenth of the data is too little for it."""
    g = torch.Generator().manual_seed(0)
    textures = torch.randn(4, 1, 8, 8, generator=g)
    y = torch.randint(0, 6, (1200,), generator=g)
    x = 0.3 * torch.randn(1200, 1, 8, 8, generator=g)
    for i, label in enumerate(y.tolist()):
        for texture in PAIRS[label]:
            down, right = torch.randint(0, 4, (2,), generator=g).tolist()
            x[i] += textures[texture].roll((down, right), (1, 2))
    return DataSet("textures", x[:-300], y[:-300]), DataSet("textures", x[-300:], y[-300:])


@cache
def trained() -> Net:
    """The network after training on all of the task."""
    with seeded(1):
        net = Net()
    train(net, task()[0], TrainingRecipe(epochs=12, batch=32), 0.2, 0)
    return net.eval()


def target(locked: TieredModel) -> AttackTarget:
    return AttackTarget.of(trained(), locked, *task())


def altered(state: dict[str, torch.Tensor], elements: dict[str, Mask]) -> AttackTarget:
    """A target whose shipped state is `state`, with every element of `elements` known to be locked."""
    original = plain_state(trained())
    channels = {n: e.reshape(len(e), -1).all(axis=1) for n, e in elements.items() if e.ndim > 1}
    return AttackTarget(trained(), original, state, channels, elements, *task())
