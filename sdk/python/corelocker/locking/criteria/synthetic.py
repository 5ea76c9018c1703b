"""Inputs for a model when there is no data: what its own weights say of the data it was trained on.

Images begin as dead leaves (overlapping shapes of all sizes, Lee, Mumford and Huang 2001), whose statistics are close to natural
images', in the declared mean and spread. Then they are moved a little so that every class is seen and every BatchNorm meets the
mean and variance it remembers (the idea of DeepInversion, Yin et al. 2020). Token models write their own text: each sequence is
sampled from the model. The same seed gives the same inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from corelocker import extras
from corelocker.errors import ConfigError, CriterionError

if TYPE_CHECKING:
    from torch import Tensor, nn

need = partial(extras.need, purpose="the criterion sensitivity", extra="export")

SMALL = 3 * 64 * 64  # elements of an input up to which COUNT inputs are made, and moved STEPS times
COUNT = 64
COUNT_LARGE = 16  # of larger ones, moved half as often: a ResNet-50 takes a second for four
TOKENS = 32  # greatest length of a sampled sequence
SEQUENCES = 16
STEPS = 80  # of moving the inputs
RATE = 0.1  # of Adam, in units of the inputs' spread
STATISTICS = 30.0  # weight of the BatchNorm statistics beside the cross entropy of the classes
SHAPES = 40  # leaves of an image


@dataclass(frozen=True)
class InputStats:
    """What the publisher declares about the model's input: mean and spread, one number or one for each channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, text: str) -> InputStats:
        """`0.485,0.456,0.406/0.229,0.224,0.225` (means / spreads). Raises ConfigError."""
        mean, slash, std = text.partition("/")
        try:
            found = cls(tuple(float(v) for v in mean.split(",")), tuple(float(v) for v in std.split(",")))
        except ValueError:
            found = cls((), ())
        if not slash or not found.mean or not all(map(math.isfinite, found.mean)):
            raise ConfigError(f"input statistics {text!r} are not MEAN[,MEAN...]/STD[,STD...]")
        if not all(math.isfinite(v) and v > 0 for v in found.std):
            raise ConfigError(f"input statistics {text!r}: a spread is not a positive number")
        return found

    @classmethod
    def measure(cls, samples: Iterable[tuple[Any, ...]]) -> InputStats | None:
        """Mean and spread over calibration inputs (the first value of each tuple); None where that is no float tensor."""
        torch = need("torch")
        first = [s[0].float() for s in samples if len(s) and torch.is_tensor(s[0]) and s[0].is_floating_point()]
        if not first or any(v.shape[1:] != first[0].shape[1:] for v in first):
            return None
        batch = torch.cat(first)
        axes = [a for a in range(batch.ndim) if a != 1] if batch.ndim > 2 else list(range(batch.ndim))
        std = batch.std(axes, correction=0).clamp(min=1e-3)
        return cls(tuple(batch.mean(axes).reshape(-1).tolist()), tuple(std.reshape(-1).tolist()))

    def apply(self, values: Tensor) -> Tensor:
        """Standard values (n, channels, ...) to this mean and spread."""
        torch = need("torch")
        for numbers in (self.mean, self.std):
            if len(numbers) not in (1, values.shape[1] if values.ndim > 1 else 1):
                raise ConfigError(f"input statistics of {len(numbers)} channels for inputs of {values.shape[1]}")
        shape = [1, -1, *(1 for _ in values.shape[2:])] if values.ndim > 1 else [1]
        return values * torch.tensor(self.std).view(shape) + torch.tensor(self.mean).view(shape)


def synthesize(
    module: nn.Module,
    example: tuple[Any, ...],
    stats: InputStats | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Any, ...]:
    """Inputs for `module`, in the form of `example` (a tuple whose tensors have a batch dimension of 1 or more).

    Args:
        module: in eval mode.
        stats: of floating-point inputs; mean 0 and spread 1 without.
        count: how many inputs; by default 64, 16 of large ones.
        steps: how often the inputs are moved; by default 80 times, large ones half as often.

    Raises CriterionError when the module takes no tensor or refuses such inputs.
    """
    torch = need("torch")
    generator = torch.Generator().manual_seed(seed)
    tensors = [v for v in example if torch.is_tensor(v)]
    if not tensors:
        raise CriterionError("the model takes no tensor; synthetic inputs cannot be made")
    floats = [v for v in tensors if v.is_floating_point() and v.ndim > 0]
    large = largest_input(example) > SMALL
    if count is None:
        count = SEQUENCES if not floats else COUNT_LARGE if large else COUNT
    if steps is None:
        steps = STEPS // 2 if large else STEPS
    try:
        vocabularies = _vocabularies(module, example)
        made = []
        for place, value in enumerate(example):
            if not torch.is_tensor(value) or value.ndim == 0:
                made.append(value)
            elif value.is_floating_point():
                values = standard_values(count, tuple(value.shape[1:]), generator)
                made.append((stats or InputStats()).apply(values).to(value.dtype))
            elif place in vocabularies:
                length = min(value.shape[1], TOKENS) if len(tensors) == 1 and value.shape[1] > 1 else value.shape[1]
                made.append(torch.randint(vocabularies[place], (count, length), generator=generator).to(value.dtype))
            else:
                made.append(value[:1].expand(count, *value.shape[1:]))
        inputs = tuple(made)
        with torch.no_grad():
            output = flat_output(module(*inputs))
        if floats:
            return _moved(module, inputs, output, steps, generator, progress)
        for place, vocabulary in vocabularies.items():
            inputs = _written(module, inputs, place, vocabulary, generator)
        return inputs
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise CriterionError(
            f"the model does not take a batch of {count} synthetic inputs: {str(error).splitlines()[0][:200]}",
            hint="Its forward must accept any batch size",
        ) from None


def largest_input(inputs: tuple[Any, ...]) -> int:
    """Elements of one sample of the largest floating-point input."""
    torch = need("torch")
    return max((v[0].numel() for v in inputs if torch.is_tensor(v) and v.is_floating_point() and v.ndim), default=0)


def flat_output(output: Any) -> Tensor:
    """A module's output as float32 rows (n, values): the first tensor of a tuple, list or mapping; each position of a sequence
    (n, positions, values) is a row of its own. Raises CriterionError when there is none."""
    torch = need("torch")
    while not torch.is_tensor(output):
        if isinstance(output, dict):
            output = list(output.values())
        elif hasattr(output, "to_tuple"):  # Hugging Face
            output = output.to_tuple()
        if not isinstance(output, (tuple, list)) or not output:
            raise CriterionError(f"the model returns a {type(output).__name__}, not a tensor")
        output = output[0]
    output = output.float()
    return output.reshape(-1, output.shape[-1]) if output.ndim == 3 else output.reshape(output.shape[0], -1)


def _vocabularies(module: nn.Module, example: tuple[Any, ...]) -> dict[int, int]:
    """For each input that goes into an embedding, by its place: the rows of that embedding."""
    torch = need("torch")
    integers = {i: v for i, v in enumerate(example) if torch.is_tensor(v) and v.ndim == 2 and not v.is_floating_point()}
    tables = [m for m in module.modules() if isinstance(m, torch.nn.Embedding)]
    if not integers or not tables:
        return {}
    found: dict[int, int] = {}

    def look(table: Any, args: tuple[Any, ...]) -> None:
        for place, value in integers.items():
            if args and args[0] is value:
                found.setdefault(place, table.num_embeddings)

    hooks = [table.register_forward_pre_hook(look) for table in tables]
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return found or {next(iter(integers)): tables[0].num_embeddings}


def standard_values(count: int, shape: tuple[int, ...], generator: Any) -> Tensor:
    """Values of mean 0 and spread 1: dead leaves for images, smooth noise for signals, plain noise for vectors."""
    torch = need("torch")
    if len(shape) == 3 and min(shape[1:]) >= 8:
        values = torch.stack([_leaves(*shape, generator) for _ in range(count)])
    elif len(shape) >= 2 and shape[-1] >= 8:
        flat = (count, math.prod(shape[:-1]))
        values = sum(
            torch.nn.functional.interpolate(torch.randn(*flat, size, generator=generator), shape[-1], mode="linear")
            for size in sorted({max(2, shape[-1] // 16), max(2, shape[-1] // 4), shape[-1]})
        ).reshape(count, *shape)
    else:
        return torch.randn(count, *shape, generator=generator)
    return (values - values.mean()) / values.std().clamp(min=1e-6)


def _leaves(channels: int, height: int, width: int, generator: Any) -> Tensor:
    """One dead-leaves image (channels, height, width)."""
    torch = need("torch")
    rows = torch.arange(height).view(-1, 1) / max(height, width)
    columns = torch.arange(width).view(1, -1) / max(height, width)
    image = torch.randn(channels, 1, 1, generator=generator).expand(channels, height, width)
    for number in range(SHAPES):
        size, y, x, angle, aspect = torch.rand(5, generator=generator).tolist()
        radius = 0.6 / (1 + 12 * size)
        across = (rows - y) * math.cos(math.pi * angle) + (columns - x) * math.sin(math.pi * angle)
        along = (columns - x) * math.cos(math.pi * angle) - (rows - y) * math.sin(math.pi * angle)
        stretched = along / (0.5 + aspect)
        inside = (
            across.hypot(stretched) < radius if number % 2 else torch.maximum(across.abs(), stretched.abs()) < radius
        )
        gray, slope, tilt = torch.randn(3, generator=generator).tolist()
        color = 0.9 * gray + 0.45 * torch.randn(channels, 1, 1, generator=generator)
        image = torch.where(inside, color + slope * across + tilt * along, image)
    return image


def _moved(
    module: nn.Module,
    inputs: tuple[Any, ...],
    output: Tensor,
    steps: int,
    generator: Any,
    progress: Callable[[int, int], None],
) -> tuple[Any, ...]:
    """The floating-point inputs moved until each row has its own class and the BatchNorms meet their statistics."""
    torch = need("torch")
    free = [v.clone().requires_grad_(True) if torch.is_tensor(v) and v.is_floating_point() else v for v in inputs]
    leaves = [v for v in free if torch.is_tensor(v) and v.requires_grad]
    count, classes = output.shape
    norms = [
        m
        for m in module.modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    target = None
    if classes > 1 and count == leaves[0].shape[0] and classes <= 100_000:
        target = torch.randperm(classes, generator=generator).repeat(math.ceil(count / classes))[:count]
    if not norms:
        steps //= 4  # nothing but the classes pulls, and soon they would be noise made to measure
    if (target is None and not norms) or not steps:
        return inputs
    misses: list[Tensor] = []
    hooks = [norm.register_forward_hook(lambda m, args, out: misses.append(_miss(m, args[0]))) for norm in norms]
    needed = [p for p in module.parameters() if p.requires_grad]
    spreads = [float(v.detach().std().clamp(min=1e-6)) for v in leaves]
    optimizer = torch.optim.Adam(
        [{"params": [v], "lr": RATE * s, "spread": s} for v, s in zip(leaves, spreads, strict=True)], betas=(0.5, 0.9)
    )
    try:
        for parameter in needed:
            parameter.requires_grad_(False)
        for step in range(steps):
            progress(step, steps)
            misses.clear()
            shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
            given = [
                v.roll(shift, (2, 3)) if torch.is_tensor(v) and v.requires_grad and v.ndim == 4 else v for v in free
            ]
            with torch.enable_grad():
                output = flat_output(module(*given))
                loss = torch.zeros(())
                if target is not None:
                    loss = torch.nn.functional.cross_entropy(output, target)
                if misses:
                    loss = loss + STATISTICS * torch.stack(misses).mean()
                optimizer.zero_grad()
                loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = group["spread"] * RATE * (1.05 - step / steps)
            optimizer.step()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in needed:
            parameter.requires_grad_(True)
    return tuple(v.detach() if torch.is_tensor(v) else v for v in free)


def _miss(norm: Any, values: Tensor) -> Tensor:
    """How far a batch is from what a BatchNorm remembers, in units of its spread."""
    axes = [a for a in range(values.ndim) if a != 1]
    variance = norm.running_var + norm.eps
    mean = (values.mean(axes) - norm.running_mean) ** 2 / variance
    spread = ((values.var(axes, correction=0) + norm.eps).sqrt() / variance.sqrt() - 1) ** 2
    return (mean + spread).mean()


def _written(
    module: nn.Module, inputs: tuple[Any, ...], place: int, vocabulary: int, generator: Any
) -> tuple[Any, ...]:
    """With token sequences at `place` that the model samples from itself; as they are where it does not predict tokens."""
    torch = need("torch")
    tokens = inputs[place].clone()
    count, length = tokens.shape
    with torch.no_grad():
        for end in range(1, length):
            output = flat_output(module(*inputs[:place], tokens, *inputs[place + 1 :]))
            if output.shape != (count * length, vocabulary):
                return inputs
            logits = output.view(count, length, -1)[:, end - 1]
            tokens[:, end] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].to(tokens.dtype)
    return (*inputs[:place], tokens, *inputs[place + 1 :])
