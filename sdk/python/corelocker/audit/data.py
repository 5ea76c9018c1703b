"""Data sets and metrics, the publisher's own or built in."""

from __future__ import annotations

import hashlib
import inspect
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from corelocker.audit import need
from corelocker.errors import ConfigError, FileAccessError
from corelocker.factories import call, call_factory, find_function

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]
IGNORED = -100  # label of a token that does not count, as in torch's cross_entropy
RESAMPLES = 1000
UNEVEN = 1.5  # times a blind guess: from there on it is not the luck of a small sample


# --- data sets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """Inputs as the model takes them, and labels.

    Attributes:
        name: for people.
        x: tensor (n, ...): float32, or int64 for tokens.
        y: int64 tensor (n,) of classes or (n, length) of next tokens; whatever a custom metric takes.
    """

    name: str
    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise ConfigError(f"{self.name}: {len(self.x)} inputs and {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64] | slice) -> DataSet:
        """Those samples, in that order."""
        picked = indices if isinstance(indices, slice) else need("torch").as_tensor(np.asarray(indices, np.int64))
        return DataSet(self.name, self.x[picked], self.y[picked])

    def shuffled(self, seed: int) -> DataSet:
        """All samples in a seeded order; a fraction of it (`take(slice(n))`) contains every smaller fraction."""
        return self.take(np.random.default_rng(seed).permutation(len(self)))

    def fraction(self, share: float, seed: int) -> DataSet:
        """A seeded share of the samples, at least one; smaller shares are inside larger ones."""
        return self.shuffled(seed).take(slice(max(1, round(share * len(self)))))

    def split(self, share: float, seed: int) -> tuple[DataSet, DataSet]:
        """Two disjoint parts, the first with that share. Raises ConfigError when one would be empty."""
        mixed, size = self.shuffled(seed), round(share * len(self))
        if not 0 < size < len(self):
            raise ConfigError(f"{self.name}: {len(self)} samples are too few to split")
        return mixed.take(slice(size)), mixed.take(slice(size, None))

    def digest(self) -> str:
        """SHA-256 of the content as hexadecimal digits, the same in every run."""
        sha256 = hashlib.sha256()
        for tensor in (self.x, self.y):
            array = tensor.numpy()
            sha256.update(f"{array.dtype} {array.shape} ".encode())
            sha256.update(np.ascontiguousarray(array).data)
        return sha256.hexdigest()


def load_data(spec: str, example: Tensor | None = None) -> DataSet:
    """Load a data set.

    Args:
        spec: a `.npz` file, or `package.module:function` that takes nothing and returns (x, y) as tensors or arrays.
        example: an example input of the model (1, ...), to whose shape and type the `.npz` is brought.

    A `.npz` holds `x` (n, ...) and `y` (n, ...), and may hold `mean` and `std` (one number, or one a channel). Images of
    bytes become x / 255, then (x - mean) / std where those are given; gray images get the channel axis that the example has;
    channels that come last go to the front where the example has them there. Arrays of floats are taken as they are.

    Raises FileAccessError, or ConfigError when the file or the function gives something else.
    """
    if ":" in spec and not spec.endswith(".npz"):
        made = call_factory(spec)
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            raise ConfigError(f"{spec}: must return (x, y), not a {type(made).__name__}")
        return _checked(spec, _tensor(spec, made[0]), _tensor(spec, made[1]), example)
    path = Path(spec)
    if path.suffix != ".npz":
        raise ConfigError(f"{spec!r} is neither a .npz file nor package.module:function")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x", "y", "mean", "std") if name in file.files}
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError):
        raise ConfigError(f"{path}: not a .npz of plain arrays, or damaged") from None
    if "x" not in arrays or "y" not in arrays:
        raise ConfigError(f"{path}: needs the arrays x and y, has {', '.join(sorted(arrays)) or 'none of them'}")
    shape = None if example is None else tuple(example.shape)
    x = _images(arrays["x"], arrays.get("mean"), arrays.get("std"), shape, path)
    return _checked(path.name, _tensor(spec, x), _tensor(spec, arrays["y"]), example)


def _tensor(spec: str, value: Any) -> Tensor:
    torch = need("torch")
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"{spec}: holds a {type(value).__name__}, not numbers") from None
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _images(x: npt.NDArray[Any], mean: Any, std: Any, shape: tuple[int, ...] | None, path: Path) -> npt.NDArray[Any]:
    if shape is not None and len(shape) == 4:
        if x.ndim == 3:
            x = x[:, None]
        if x.ndim == 4 and x.shape[1] != shape[1] and x.shape[3] == shape[1]:
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if x.dtype == np.uint8 and (shape is None or len(shape) != 2 or x.ndim > 2):
        x = x.astype(np.float32) / 255
    if mean is not None or std is not None:
        x = x.astype(np.float32)
        channels = (1, -1, *(1 for _ in x.shape[2:]))
        try:
            x = x - np.asarray(0.0 if mean is None else mean, np.float32).reshape(channels)
            x = x / np.asarray(1.0 if std is None else std, np.float32).reshape(channels)
        except ValueError:
            raise ConfigError(f"{path}: mean or std does not fit x of shape {x.shape}") from None
    return x


def _checked(name: str, x: Tensor, y: Tensor, example: Tensor | None) -> DataSet:
    torch = need("torch")
    if x.dim() == 0 or y.dim() == 0:
        raise ConfigError(f"{name}: x and y need an axis of samples")
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise ConfigError(f"{name}: x holds numbers that are not finite")
    if example is not None:
        if x.shape[1:] != example.shape[1:]:
            raise ConfigError(
                f"{name}: inputs of shape {tuple(x.shape[1:])}, the model takes {tuple(example.shape[1:])}",
                hint="Prepare them in a function and pass it as package.module:function",
            )
        x = x.to(example.dtype)
    return DataSet(name, x, y)


# --- metrics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A measured value and the range that holds the true one with the stated confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What one batch gave: for each sample a value and how much it counts, float64 (n,) each; or raw outputs for a metric that
    needs all of them at once."""

    values: Floats
    weights: Floats
    outputs: Any = None
    labels: Any = None


@dataclass(frozen=True)
class Metric:
    """How utility is measured.

    Attributes:
        name: "top-1", "top-5", "perplexity", or the function's.
        higher_is_better: false for perplexity.
        proportion: whether every sample is right or wrong (then intervals are Wilson's).
        identity: of what it computes, for results that are kept: the name, and the source of a custom function.
    """

    name: str
    higher_is_better: bool
    proportion: bool
    identity: str
    _sample: Callable[[Tensor, Tensor], Measured] = field(repr=False)
    _finish: Callable[[Measured], float] = field(repr=False)

    def measure(self, outputs: Tensor, labels: Tensor) -> Measured:
        """Look at one batch: outputs (b, classes) or (b, length, vocabulary), labels (b,) or (b, length)."""
        return self._sample(outputs, labels)

    def value(self, parts: Iterable[Measured]) -> float:
        """The metric over all batches."""
        return self._finish(_joined(parts))

    def interval(self, parts: Iterable[Measured], seed: int = 0, confidence: float = 0.95) -> Interval:
        """The metric and its confidence interval: Wilson's for proportions, else a bootstrap over samples (percentiles)."""
        whole = _joined(parts)
        value = self._finish(whole)
        if self.proportion:
            return Interval(value, *wilson(float(whole.values.sum()), whole.values.size, confidence))
        generator = np.random.default_rng(seed)
        resampled = [self._finish(_resampled(whole, generator)) for _ in range(RESAMPLES)]
        low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(value, float(low), float(high))

    def chance(self, labels: Tensor, outputs: int) -> float | None:
        """What a model gets that knows nothing: a blind guess among `outputs` classes (perplexity: all tokens equally likely);
        None for a custom metric.

        Where some classes are much more frequent than others, always answering those gets more, and that counts.
        """
        if self.name == "perplexity":
            return float(outputs)
        k = {"top-1": 1, "top-5": 5}.get(self.name)
        if k is None:
            return None
        blind = min(1.0, k / max(1, outputs))
        shares = np.sort(np.unique(labels.numpy(), return_counts=True)[1] / max(1, len(labels)))[::-1]
        constant = float(shares[:k].sum())
        return constant if constant > UNEVEN * blind else blind


def _joined(parts: Iterable[Measured]) -> Measured:
    found = list(parts)
    outputs = labels = None
    if found and found[0].outputs is not None:
        torch = need("torch")
        outputs = torch.cat([p.outputs for p in found])
        labels = torch.cat([p.labels for p in found])
    return Measured(
        np.concatenate([p.values for p in found]), np.concatenate([p.weights for p in found]), outputs, labels
    )


def _resampled(whole: Measured, generator: np.random.Generator) -> Measured:
    rows = generator.integers(0, whole.values.size, whole.values.size)
    if whole.outputs is None:
        return Measured(whole.values[rows], whole.weights[rows])
    return Measured(whole.values[rows], whole.weights[rows], whole.outputs[rows], whole.labels[rows])


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, Journal of the American Statistical Association 22)."""
    from statistics import NormalDist

    if trials < 1:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def load_metric(spec: str = "top-1") -> Metric:
    """A built-in metric, or `package.module:function`.

    The function takes (outputs, labels) of the whole set and returns one number, or one for each sample, whose mean counts. A
    function with the attribute `higher_is_better = False` is a loss.

    Raises ConfigError.
    """
    if spec in ("top-1", "top-5"):
        k = int(spec[-1])
        return Metric(spec, True, True, spec, lambda outputs, labels: _top(outputs, labels, k), _mean)
    if spec == "perplexity":
        return Metric(spec, False, False, spec, _token_losses, _perplexity)
    function = find_function(spec)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""  # built in, or made while running
    better = bool(getattr(function, "higher_is_better", True))
    return Metric(
        spec.partition(":")[2], better, False, f"{spec}\n{source}", _kept, lambda whole: _custom(spec, function, whole)
    )


def _top(outputs: Tensor, labels: Tensor, k: int) -> Measured:
    if outputs.dim() != 2 or labels.dim() != 1 or outputs.shape[0] != labels.shape[0]:
        raise ConfigError(
            f"outputs of shape {tuple(outputs.shape)} and labels of shape {tuple(labels.shape)} are no classification",
            hint="Use --metric perplexity or a function of your own",
        )
    # A locked model may give NaN: that sample is wrong, not right by the order of comparison.
    scores = outputs.float().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    right = (best == labels[:, None]).any(dim=1) & ~outputs.isnan().any(dim=1)
    values = np.asarray(right.numpy(), np.float64)
    return Measured(values, np.ones_like(values))


def _token_losses(outputs: Tensor, labels: Tensor) -> Measured:
    torch = need("torch")
    if outputs.dim() != labels.dim() + 1 or outputs.shape[:-1] != labels.shape:
        raise ConfigError(
            f"outputs of shape {tuple(outputs.shape)} do not fit labels of shape {tuple(labels.shape)}; "
            "perplexity needs (n, length, vocabulary) and (n, length)"
        )
    labels = labels.long()
    counted = labels != IGNORED
    if bool(((labels[counted] < 0) | (labels[counted] >= outputs.shape[-1])).any()):
        raise ConfigError(
            f"a label is none of the {outputs.shape[-1]} tokens (use {IGNORED} for those that do not count)"
        )
    losses = torch.nn.functional.cross_entropy(
        outputs.float().reshape(-1, outputs.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, reduction="none"
    ).reshape(labels.shape)
    sums = losses.double().reshape(labels.shape[0], -1).sum(dim=1).numpy()
    weights = np.asarray(counted.reshape(labels.shape[0], -1).sum(dim=1).numpy(), np.float64)
    return Measured(np.asarray(sums, np.float64), weights)


def _kept(outputs: Tensor, labels: Tensor) -> Measured:
    ones = np.ones(len(labels))
    return Measured(ones, ones, outputs.clone(), labels.clone())


def _mean(whole: Measured) -> float:
    return float(whole.values.mean())


def _perplexity(whole: Measured) -> float:
    mean = float(whole.values.sum() / max(1.0, float(whole.weights.sum())))
    return math.exp(mean) if mean < 700 else math.inf


def _custom(spec: str, function: Callable[..., Any], whole: Measured) -> float:
    found = call(spec, function, whole.outputs, whole.labels)
    try:
        value = float(np.asarray(found, np.float64).mean())
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"{spec}: returned a {type(found).__name__}, not numbers") from None
    if math.isnan(value):
        raise ConfigError(f"{spec}: returned no number (NaN)")
    return value
