"""Training as an attacker does it: a fixed budget, a few learning rates, deterministic for a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from corelocker.audit import need
from corelocker.audit.data import IGNORED, DataSet
from corelocker.audit.evaluators import first_tensor
from corelocker.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Augmentation = Literal["none", "shift", "shift-flip"]


@dataclass(frozen=True)
class TrainingRecipe:
    """A budget of training: one-cycle learning rate (Smith and Topin 2019), weight decay, and the learning rates tried.

    Attributes:
        epochs, batch: over the samples that the attacker has.
        least_steps: more epochs are run where the samples are so few that `epochs` would be fewer steps than this.
        learning_rates: peaks; every one is tried and the attacker keeps the best, judged on the test set (in their favor).
        weight_decay: decoupled for "adamw".
        optimizer: "sgd" (Nesterov momentum 0.9) or "adamw".
        augmentation: of images; "shift" moves each batch by up to an eighth of its side, "shift-flip" also mirrors images.
        bfloat16: run convolutions and matrix products in bfloat16: faster on recent processors.
    """

    epochs: int = 15
    batch: int = 32
    least_steps: int = 0
    learning_rates: tuple[float, ...] = (0.05, 0.01)
    weight_decay: float = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    augmentation: Augmentation = "none"
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or not self.learning_rates or min(self.learning_rates) <= 0:
            raise ConfigError("a training budget needs epochs, a batch and learning rates above 0")

    def steps(self, samples: int) -> int:
        """Optimizer steps for that many samples."""
        return max(self.epochs * math.ceil(samples / self.batch), self.least_steps)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at `seed`, and back to what it was afterwards."""
    torch = need("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def untrained(module: nn.Module, seed: int) -> nn.Module:
    """A copy with fresh weights: every submodule initializes its own; parameters that none owns are drawn with deviation 0.02.

    Convolutions are drawn as in He et al. 2015 (deviation sqrt(2 / fan-in)), not by torch's narrower default: on a public
    ResNet-20 that gives training from scratch two points more, and an attacker eight.
    """
    torch = need("torch")
    fresh = deepcopy(module)
    with seeded(seed), torch.no_grad():
        owned: set[int] = set()
        for part in fresh.modules():
            reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
            if callable(reset):
                reset()
                owned |= {id(p) for p in part.parameters()}
        for part in fresh.modules():
            if isinstance(part, torch.nn.modules.conv._ConvNd):
                torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        for parameter in fresh.parameters():
            if id(parameter) not in owned:
                parameter.normal_(0, 0.02)
    return fresh


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of (n, classes) and (n,), or of (n, length, classes) and (n, length)."""
    functional = need("torch.nn.functional")
    if outputs.dim() != labels.dim() + 1:
        raise ConfigError(
            f"cannot train on outputs of shape {tuple(outputs.shape)} and labels of shape {tuple(labels.shape)}",
            hint="Training attacks need classes or next tokens",
        )
    loss: Tensor = functional.cross_entropy(
        outputs.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="mean"
    )
    return loss


def train(
    module: nn.Module,
    data: DataSet,
    recipe: TrainingRecipe,
    learning_rate: float,
    seed: int,
    *,
    speed: Mapping[str, Tensor] | None = None,
    teacher: Callable[[Tensor], Tensor] | None = None,
    labels: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train `module` in place; it stays in training mode.

    Args:
        speed: parameter name -> factor on every update of its elements, of the parameter's shape: 0 freezes, 1 is full speed.
            Parameters that are not named move at full speed.
        teacher: gives soft targets (n, classes) for inputs; the loss is `labels` x cross-entropy + (1 - labels) x divergence.
        labels: weight of the true labels beside a teacher's.

    A run whose loss is no longer finite stops there.
    """
    torch = need("torch")
    generator = torch.Generator().manual_seed(seed)
    total = recipe.steps(len(data))
    parameters = dict(module.named_parameters())
    factors = _factors(parameters, speed or {})
    frozen = {n for n, f in factors.items() if not bool(f.any())}
    held = {n: f for n, f in factors.items() if n not in frozen}
    moving = [p for n, p in parameters.items() if n not in frozen]
    if not moving:
        return
    optimizer = _optimizer(recipe, moving, learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(2, total))
    images = data.x.dim() == 4 and data.x.is_floating_point()
    if images:
        module.to(memory_format=torch.channels_last)
    module.train()
    with seeded(seed), _frozen([parameters[name] for name in frozen]):  # seeded for dropout
        for step, picked in _batches(len(data), recipe.batch, total, generator):
            x = data.x[picked]
            if images:
                x = _augmented(x, recipe.augmentation, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                outputs = first_tensor(module(x))
            loss = _loss(outputs, x, data.y[picked], teacher, labels)
            if not bool(torch.isfinite(loss)):
                break
            optimizer.zero_grad()
            loss.backward()
            before = {n: parameters[n].detach().clone() for n in held}
            optimizer.step()
            with torch.no_grad():
                for name, factor in held.items():
                    # On the update, not on the gradient: momentum and weight decay count too.
                    parameters[name].copy_(before[name].lerp(parameters[name], factor))
            schedule.step()
            progress(step + 1, total)


def _factors(parameters: Mapping[str, Tensor], speed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors that change anything, in the types of their parameters."""
    return {n: f.to(parameters[n].dtype) for n, f in speed.items() if n in parameters and not bool((f == 1).all())}


@contextmanager
def _frozen(parameters: list[Tensor]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _optimizer(recipe: TrainingRecipe, moving: list[Tensor], learning_rate: float) -> Optimizer:
    torch = need("torch")
    found: Optimizer
    if recipe.optimizer == "sgd":
        found = torch.optim.SGD(moving, learning_rate, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True)
    else:
        found = torch.optim.AdamW(moving, learning_rate, weight_decay=recipe.weight_decay)
    return found


def _batches(samples: int, batch: int, steps: int, generator: object) -> Iterator[tuple[int, Tensor]]:
    """(step, indices of its samples), a new order for each epoch; one sample alone is passed over, as a BatchNorm cannot train
    on it."""
    torch = need("torch")
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if not len(order):
            order = torch.randperm(samples, generator=generator)
        picked, order = order[:batch], order[batch:]
        if len(picked) >= 2 or samples < 2:
            yield step, picked


def _loss(outputs: Tensor, x: Tensor, y: Tensor, teacher: Callable[[Tensor], Tensor] | None, labels: float) -> Tensor:
    """Cross-entropy of the labels and divergence from the teacher's answers, weighted by `labels`."""
    loss = outputs.new_zeros((), dtype=need("torch").float32)
    if teacher is None or labels > 0:
        loss = loss + (1.0 if teacher is None else labels) * cross_entropy(outputs, y)
    if teacher is not None and labels < 1:
        loss = loss + (1 - labels) * _divergence(outputs, teacher(x))
    return loss


def recalibrate(module: nn.Module, data: DataSet, batch: int = 128) -> nn.Module:
    """Measure the statistics of every BatchNorm anew on the inputs of `data` (labels are not used), in place."""
    torch = need("torch")
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an even average over all batches
        norm.train()
    with torch.no_grad():
        for start in range(0, len(data), batch):
            x = data.x[start : start + batch]
            if len(x) > 1:
                module(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module.eval()


def _divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    functional = need("torch.nn.functional")
    found: Tensor = functional.kl_div(
        outputs.float().flatten(0, -2).log_softmax(-1),
        wanted.float().flatten(0, -2).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    return found


def _augmented(x: Tensor, how: Augmentation, generator: object) -> Tensor:
    torch = need("torch")
    if how == "none":
        return x
    reach = [max(1, side // 8) for side in x.shape[2:]]
    top, left = (int(torch.randint(0, 2 * r + 1, (), generator=generator)) for r in reach)
    padded = torch.nn.functional.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    x = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    if how == "shift-flip":
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x
