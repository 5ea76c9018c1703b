"""What a public base checkpoint gives away of a model that was tuned from it.

Tuning turns few signs. So the base's signs before the magnitudes that a sign lock ships are nearly the model, and such a lock is
worth nothing. What the base does not have is what tuning changed: channels that changed most are what a lock of such a model takes,
by value. Whoever has the base puts its values in their place and is left with a model that is partly the base again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.detect import open_artifact
from corelocker.artifacts.torch_module import PICKLED, open_state, read_pickled
from corelocker.artifacts.weights import Floats
from corelocker.errors import ConfigError
from corelocker.locking.criteria import Scores, chunks
from corelocker.locking.groups import directions_of, group_layers, squeezed
from corelocker.locking.plan import LayerSize, Plan
from corelocker.locking.requirement import KNOWN_SIGNS
from corelocker.locking.signs.reading import Signs

DEVIATIONS = 4  # more than a guess that a small layer has to have
ALIKE = 0.4  # mean |cosine| of sampled channels, where names do not tell; unrelated ones of 9 elements reach 0.27
EPSILON = 1e-5  # of a BatchNorm that is folded
Counts = npt.NDArray[np.int64]
Rank = Callable[[WeightTensor], Scores]
Spread = Callable[[Sequence[LayerSize]], Mapping[str, int]]


@dataclass(frozen=True, eq=False)
class BaseLayer:
    """A layer of the model beside the same layer of the base.

    Attributes:
        tensor, base: the layer in the model's first artifact, and in the base.
        counted, agreeing: int64 (channels,), weights other than 0, and those of them whose sign is the base's.
        changed: float64 (channels,), the norm of what tuning changed, as a share of the layer's norm.
    """

    tensor: WeightTensor
    base: WeightTensor
    counted: Counts = field(repr=False)
    agreeing: Counts = field(repr=False)
    changed: Scores = field(repr=False)

    @property
    def agreement(self) -> float:
        """Share of the signs that are the base's."""
        return float(self.agreeing.sum() / max(1, self.counted.sum()))

    @property
    def is_known(self) -> bool:
        """Whether the base says so much of the signs that they are no secret."""
        luck = DEVIATIONS * 0.5 / max(1.0, float(self.counted.sum())) ** 0.5
        return bool(self.agreement > max(KNOWN_SIGNS, 0.5 + luck))


@dataclass(frozen=True)
class BaseComparison:
    """A model beside the public base that it was tuned from.

    Attributes:
        path: of the base, in a format that can be opened as an artifact.
        layers: (artifact, tensor) -> its layer, for those that the base has; copies of a layer share one.
    """

    path: Path
    layers: Mapping[tuple[int, str], BaseLayer]

    def withheld(self) -> dict[tuple[int, str], str]:
        """(artifact, tensor) -> why its signs are not worth taking."""
        return {
            place: f"the base has {100 * layer.agreement:.1f} % of its signs"
            for place, layer in self.layers.items()
            if layer.is_known
        }

    def rank(self, other: Rank) -> Rank:
        """Scores of a tensor's channels: what tuning changed where the signs are known, else those of `other`."""
        known = {id(layer.tensor): layer for layer in self.layers.values() if layer.is_known}
        return lambda tensor: known[id(tensor)].changed if id(tensor) in known else other(tensor)

    def spread(self, share: float, other: Spread) -> Spread:
        """How many channels of each layer to lock by value: of layers whose signs are known those that tuning changed most for
        their bytes, up to `share` of the bytes; of others as many as `other` says."""
        known = {(n, layer.changed.size): layer for (_, n), layer in self.layers.items() if layer.is_known}

        def counts(sizes: Sequence[LayerSize]) -> Mapping[str, int]:
            mine = [size for size in sizes if (size.name, size.channels) in known]
            found = dict(other([size for size in sizes if (size.name, size.channels) not in known]))
            return found | most_changed([known[s.name, s.channels].changed for s in mine], mine, share)

        return counts


def most_changed(changed: Sequence[Scores], sizes: Sequence[LayerSize], share: float) -> dict[str, int]:
    """Layer -> how many of its channels are among those that tuning changed most for their bytes, up to `share` of all bytes.

    `changed` is float64 (channels,) for each layer. One channel of each layer stays.
    """
    if not sizes:
        return {}
    ranked = [np.sort(c)[::-1][: s.channels - 1] for c, s in zip(changed, sizes, strict=True)]
    layer = np.repeat(np.arange(len(sizes)), [r.size for r in ranked])
    price = np.array([s.size / s.channels for s in sizes])[layer]
    order = np.argsort(-(np.concatenate(ranked) ** 2) / price, kind="stable")
    taken = order[np.cumsum(price[order]) <= share * sum(s.size for s in sizes)]
    counts = np.bincount(layer[taken], minlength=len(sizes)).tolist()
    return {size.name: count for size, count in zip(sizes, counts, strict=True)}


@contextmanager
def opened_base(path: Path) -> Iterator[Artifact]:
    """The base as an artifact: any format that can be locked, or what `torch.save` wrote.

    Raises what opening an artifact raises; MissingExtraError for a file of torch without it.
    """
    if path.suffix not in PICKLED:
        yield open_artifact(path)
        return
    with tempfile.TemporaryDirectory(prefix="corelocker-base-") as folder:
        yield open_state(read_pickled(path), Path(folder) / "base.safetensors")


def compare_with_base(artifacts: Sequence[Artifact], base: Artifact) -> BaseComparison:
    """Lay the layers of a model beside those of its base. Raises ConfigError when none is in both."""
    found: dict[tuple[int, str], BaseLayer] = {}
    groups = [group for group in group_layers(list(artifacts)) if group[0].tensor.role != "norm"]
    for group, tensor in zip(groups, pair_layers([group[0].tensor for group in groups], base.tensors), strict=True):
        if tensor is not None:
            layer = _compared(group[0].tensor, tensor)
            found |= {(member.artifact, member.tensor.name): layer for member in group}
    if not found:
        raise ConfigError(
            f"{base.path.name} has no layer of {', '.join(a.path.name for a in artifacts)}",
            hint="--base names the public checkpoint that the model was tuned from",
        )
    return BaseComparison(base.path, found)


def pair_layers(layers: Sequence[WeightTensor], base: Sequence[WeightTensor]) -> list[WeightTensor | None]:
    """For each layer the one of the base, of the same shape, that it was tuned from; None where none resembles it.

    Of those that resemble it that of its name, else that which does most.
    """
    by_shape: dict[tuple[int, ...], list[tuple[WeightTensor, Floats]]] = {}
    wanted = {squeezed(tensor.shape) for tensor in layers}
    for tensor in base:
        if tensor.role != "norm" and squeezed(tensor.shape) in wanted:
            by_shape.setdefault(squeezed(tensor.shape), []).append((tensor, directions_of(tensor)))
    pairs: list[tuple[bool, float, int, WeightTensor]] = []
    for place, tensor in enumerate(layers):
        for candidate, directions in by_shape.get(squeezed(tensor.shape), ()):
            alike = float(np.abs(np.einsum("ce,ce->c", directions_of(tensor), directions)).mean())
            if alike > ALIKE:
                pairs.append((candidate.name == tensor.name, alike, place, candidate))
    found: list[WeightTensor | None] = [None] * len(layers)
    taken: set[int] = set()
    for _, _, place, candidate in sorted(pairs, key=lambda pair: pair[:2], reverse=True):
        if found[place] is None and id(candidate) not in taken:
            found[place] = candidate
            taken.add(id(candidate))
    return found


def values_of_base(tensor: WeightTensor, base: WeightTensor, rows: slice) -> Floats:
    """What the base holds of some channels, (n, *shape[1:]) as the tensor would.

    A BatchNorm that is folded into one of them alone is folded into the other's, or taken out of the base's by the tensor's own
    numbers: before these the base's channel does what it did.
    """
    values = base.read(rows).reshape(-1, *tensor.shape[1:])
    own, other = folded_scale(tensor, rows), folded_scale(base, rows)
    if (own is None) == (other is None):
        return values
    scale = other if own is None else 1 / np.where(own == 0, 1, own)
    assert scale is not None  # noqa: S101 - one of the two is not
    return np.asarray(values * scale.reshape(-1, *(1 for _ in tensor.shape[1:])), np.float32)


def folded_scale(tensor: WeightTensor, rows: slice = slice(None)) -> Floats | None:
    """What the BatchNorm behind a layer multiplies its channels by, float32 (n,); None without one."""
    gamma, variance = tensor.part("gamma"), tensor.part("variance")
    if gamma is None:
        return None
    scale = np.asarray(gamma.read(rows), np.float32).reshape(-1)
    if variance is not None:
        scale = scale / np.sqrt(np.asarray(variance.read(rows), np.float32).reshape(-1) + EPSILON)
    return np.asarray(scale, np.float32)


def locked_signs(comparison: BaseComparison, plan: Plan, artifact: int) -> float | None:
    """Of the signs that a plan takes of layers that the base has, the share that the base tells; None where it takes none."""
    agreeing = counted = 0
    for (place, name), layer in comparison.layers.items():
        tiers = plan.tier_of[place].get(name)
        if place == artifact and tiers is not None and plan.signs and isinstance(plan.signs[place][name], Signs):
            agreeing += int(layer.agreeing[tiers > 0].sum())
            counted += int(layer.counted[tiers > 0].sum())
    return agreeing / counted if counted else None


def _compared(tensor: WeightTensor, base: WeightTensor) -> BaseLayer:
    counted, agreeing = np.zeros(tensor.channels, np.int64), np.zeros(tensor.channels, np.int64)
    changed, norm = np.zeros(tensor.channels), 0.0
    for rows in chunks(tensor):
        own, other = (v.reshape(len(v), -1) for v in (tensor.read(rows), values_of_base(tensor, base, rows)))
        alive = own != 0
        counted[rows] = alive.sum(axis=1)
        agreeing[rows] = (alive & (np.signbit(own) == np.signbit(other))).sum(axis=1)
        changed[rows] = np.linalg.norm(own - other, axis=1)
        norm += float((own.astype(np.float64) ** 2).sum())
    base.release()
    return BaseLayer(tensor, base, counted, agreeing, changed / max(norm**0.5, 1e-30))
