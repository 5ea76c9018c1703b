"""The `sensitivity` criterion: spend key bytes where they take most of the output. Data-free.

Synthetic inputs (`corelocker.audit.synthetic`) run through the publisher's module with some channels replaced by what the lock
puts in their place. How much of the original output is left is one number (`Collapse`); a channel is worth what its replacement
takes from that number for each byte of the access key. Channels are picked one after the other, and after each pick everything is
measured again, because channels stand in for each other: the second of two twins is worth far more once the first is gone. The
gradient gives the worth of all channels at once, so a pick costs one pass forward and one back whatever the number of channels.

Decoys are drawn anew when the real lock is made. What a pick is worth is therefore averaged over several draws, and each round
replaces the channels picked so far by another draw: a pick must not depend on one lucky decoy.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corelocker.artifacts import Artifact, Part, WeightTensor
from corelocker.artifacts.safetensors import read_header
from corelocker.audit import need
from corelocker.audit.models import lock_model, open_state, plain_state
from corelocker.audit.synthetic import SMALL, InputStats, flat_output, largest_input, synthesize
from corelocker.errors import ConfigError, CriterionError
from corelocker.locking.criteria import Scores
from corelocker.locking.groups import Member, group_layers
from corelocker.locking.plan import Fill

if TYPE_CHECKING:
    from torch import Tensor, nn

DRAWS = 3  # of decoys
GROWTH = 0.08  # of the bytes picked so far that one round may add
GROWTH_LARGE = 0.16  # the same where inputs are large and a round takes seconds
COLLAPSED = 0.02  # of the output's signal left: nothing more to measure
STEADY = 3  # rounds in which that holds
BEYOND = 4.0  # how far the ranking by measurement goes on after the collapse, in bytes
MOST_OF_A_LAYER = 0.5  # a smaller part of a layer is no bottleneck
LIMIT = 0.5  # of all bytes, where the ranking by measurement ends at the latest
ROUNDS = 250
CALIBRATION = 256  # calibration inputs whose mean and spread are looked at
SILENCE = 0.3  # weight of the size of the output beside what it says


@dataclass(frozen=True)
class Layer:
    """A layer whose channels can be locked.

    Attributes:
        name: of its weight in the state dict.
        channels: how many.
        cost: bytes of the access key for one channel.
        places: tensor of the state dict -> axis of it along which the channels lie.
        changes: for each draw, tensor -> fill less original, in the tensor's shape.
    """

    name: str
    channels: int
    cost: float
    places: dict[str, int]
    changes: list[dict[str, Tensor]] = field(repr=False)


@dataclass(frozen=True)
class Ranking:
    """The order in which channels are worth locking.

    Attributes:
        scores: layer name -> float64 (channels,), higher is locked first, over all layers.
        costs: layer name -> bytes of the access key for one of its channels.
        picks: the channels that were ranked by measurement, (layer, channel) in order.
        course: before each round, the bytes so far and what was left of the output.
        collapsed: channels after which the output says nothing about the synthetic inputs any more; None if it always does.
    """

    scores: dict[str, Scores]
    costs: dict[str, float]
    picks: list[tuple[str, int]]
    course: list[tuple[float, float]]
    collapsed: int | None


class Collapse:
    """How much of the original output is left: 1 for the original, about 0 when the output says nothing about the input.

    It is the size of the cross-covariance of the outputs with the original ones over the inputs, relative to the original's own
    (the numerator of linear CKA, Kornblith et al. 2019). What is added to all outputs does not count, nor does noise that has
    nothing to do with the original; a permutation of the outputs counts in full; outputs that grew count by direction.

    Decoys keep the outputs large, and then that number has a floor of chance correlations which hides what is left. `signed` asks
    less: how far each output (of a classifier, each class) still goes along with its own original, beyond one standard error of
    chance. One that goes against it counts as nothing left, but does not make up for another, which would still be told.

    Args:
        original: float32 (n, values). Raises CriterionError when it is the same for all inputs, or not finite.
        signed: for decoys.
    """

    def __init__(self, original: Tensor, signed: bool = False) -> None:
        self._signed = signed
        self._signal = original - original.mean(0)
        self._energy = (self._signal**2).sum()
        if not bool(self._energy.isfinite()) or float(self._energy) <= 1e-12 * float((original**2).sum()):
            raise CriterionError("the model gives all synthetic inputs the same output, or one that is not finite")
        self._gram = self._signal @ self._signal.T
        self._own = self._gram.norm()

    def __call__(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """(signal left, size relative to the original), scalars."""
        return self._measured(output, len(output) ** -0.5)

    def _measured(self, output: Tensor, chance: float) -> tuple[Tensor, Tensor]:
        moved = output - output.mean(0)
        energy = (moved**2).sum() / self._energy
        if self._signed:
            along = (moved * self._signal).sum(0) - chance * moved.norm(dim=0) * self._signal.norm(dim=0)
            left = along.clamp(min=0).sum() / self._energy / (1 - chance)
            return left / energy.clamp(min=1).sqrt(), energy.clamp(min=1e-12).sqrt()
        # |M' S| without the (values, values) matrix, which would be large for a vocabulary.
        shared = (moved @ moved.T * self._gram).sum().clamp(min=1e-20).sqrt()
        return shared / self._own / energy.clamp(min=1).sqrt(), energy.clamp(min=1e-12).sqrt()

    def loss(self, output: Tensor) -> Tensor:
        """What a pick makes smaller. The size counts a little: where it shrinks, constants take over."""
        left, size = self._measured(output, 0.0)  # what is within chance may still be made smaller
        return left + SILENCE * size.clamp(max=1)


def rank(
    module: nn.Module,
    inputs: tuple[Any, ...],
    costs: Mapping[str, float],
    fill: Fill,
    *,
    seed: bytes = b"",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ranking:
    """Rank the channels of the layers in `costs` (weight's name in the state dict -> bytes of the access key for a channel).

    Args:
        module: in eval mode; it stays as it is.
        inputs: a batch, from `synthesize`.
        fill: what will stand in the channels' place.
        seed: of the decoys that stand for those of the lock.
        progress: called with (done, total) rounds; the total is a guess.

    Raises CriterionError when no layer is known or the outputs cannot be compared.
    """
    torch = need("torch")
    layers = fillings(module, costs, fill, seed)
    if not layers:
        raise CriterionError("no layer of the model can be measured")
    frozen = [p for p in module.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        return _rank(torch, module, layers, inputs, progress)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _rank(
    torch: Any, module: nn.Module, layers: list[Layer], inputs: tuple[Any, ...], progress: Callable[[int, int], None]
) -> Ranking:
    starts = np.cumsum([0, *(layer.channels for layer in layers)])
    layer_of = np.repeat(np.arange(len(layers)), [layer.channels for layer in layers])
    costs = np.concatenate([np.full(layer.channels, layer.cost) for layer in layers])
    picked = np.zeros(costs.size, bool)
    spare = np.array([layer.channels - 1 for layer in layers])  # one channel of a layer stays
    order: list[int] = []
    course: list[tuple[float, float]] = []
    first = np.zeros(costs.size)
    collapsed: int | None = None
    with torch.no_grad():
        collapse = Collapse(flat_output(module(*inputs)), signed=len(layers[0].changes) > 1)
    spent, goal = 0.0, LIMIT * float(costs.sum())
    growth = GROWTH if largest_input(inputs) <= SMALL else GROWTH_LARGE
    for round_ in range(ROUNDS):
        progress(round_, ROUNDS)
        worth, left = _worth(torch, module, layers, inputs, picked, starts, round_, collapse)
        course.append((spent, left))
        worth = worth / costs
        first = first if order else worth
        if collapsed is None and len(course) >= STEADY and all(value < COLLAPSED for _, value in course[-STEADY:]):
            collapsed, goal = len(order), min(goal, BEYOND * spent)
        budget = growth * spent
        for channel in np.argsort(-np.where(picked, -np.inf, worth), kind="stable"):
            layer = layer_of[channel]
            if picked[channel] or not spare[layer]:
                continue
            if worth[channel] <= 0 or (budget < costs[channel] and order and course[-1][0] < spent):
                break
            picked[channel] = True
            spare[layer] -= 1
            order.append(int(channel))
            spent += float(costs[channel])
            budget -= costs[channel]
        if spent >= goal or course[-1][0] == spent:
            break
    if collapsed is None and course[-1][1] < COLLAPSED:
        collapsed = len(order)
    found = _bottleneck(
        torch,
        module,
        layers,
        inputs,
        first,
        starts,
        float(costs[order[:collapsed]].sum() if collapsed else LIMIT * costs.sum()),
        collapse,
    )
    if found:
        order = found + [channel for channel in order if channel not in set(found)]
        collapsed, picked[found] = len(found), True
    rest = np.argsort(-np.where(picked, -np.inf, first), kind="stable")
    ranked = np.concatenate([np.asarray(order, np.int64), rest[: costs.size - len(order)]])
    places = np.empty(costs.size)
    places[ranked] = np.arange(costs.size, 0, -1)
    return Ranking(
        {layer.name: places[starts[i] : starts[i + 1]] for i, layer in enumerate(layers)},
        {layer.name: layer.cost for layer in layers},
        [(layers[layer_of[c]].name, int(c - starts[layer_of[c]])) for c in order],
        course,
        collapsed,
    )


def _bottleneck(
    torch: Any,
    module: nn.Module,
    layers: Sequence[Layer],
    inputs: tuple[Any, ...],
    worth: Scores,
    starts: Any,
    budget: float,
    collapse: Collapse,
) -> list[int]:
    """The channels of a single layer whose lock collapses the output for fewer bytes than `budget`, best first; or none.

    Where everything passes through a narrow layer, each of its channels is worth little as long as the others are there, and no
    step of the greedy choice leads to taking them all.
    """
    best: list[int] = []
    for i in sorted(range(len(layers)), key=lambda i: layers[i].cost * layers[i].channels):
        layer = layers[i]
        ranked = starts[i] + np.argsort(-worth[starts[i] : starts[i + 1]], kind="stable")
        high = min(layer.channels - 1, int(budget / layer.cost))
        if high < 1 or high * layer.cost < MOST_OF_A_LAYER * layer.channels * layer.cost:
            continue

        def collapsed(count: int, ranked: Any = ranked) -> bool:
            picked = np.zeros(int(starts[-1]), bool)
            picked[ranked[:count]] = True
            # On average over the draws: one decoy of a few may go along with the original by chance.
            left = 0.0
            for draw in range(len(layers[0].changes)):
                now = float(collapse(_output(torch, module, layers, inputs, picked, starts, draw))[0])
                if now >= 2 * COLLAPSED:
                    return False
                left += now
            return left < COLLAPSED * len(layers[0].changes)

        if not collapsed(high):
            continue
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if collapsed(middle) else (middle, high)
        best, budget = [int(channel) for channel in ranked[:high]], high * layer.cost
    return best


def _output(
    torch: Any, module: nn.Module, layers: Sequence[Layer], inputs: tuple[Any, ...], picked: Any, starts: Any, draw: int
) -> Tensor:
    """The output with the picked channels replaced by a draw."""
    state = {name: value.detach() for name, value in [*module.named_parameters(), *module.named_buffers()]}
    for i, layer in enumerate(layers):
        mask = torch.from_numpy(picked[starts[i] : starts[i + 1]]).float()
        for name, axis in layer.places.items() if bool(mask.any()) else ():
            change = layer.changes[draw % len(layer.changes)][name]
            state[name] = state[name] + (mask.view(_along(axis, change.ndim)) * change).to(state[name].dtype)
    with torch.no_grad():
        return flat_output(torch.func.functional_call(module, state, inputs))


def _worth(
    torch: Any,
    module: nn.Module,
    layers: Sequence[Layer],
    inputs: tuple[Any, ...],
    picked: np.ndarray[Any, np.dtype[np.bool_]],
    starts: Any,
    draw: int,
    collapse: Collapse,
) -> tuple[Scores, float]:
    """To first order what the replacement of each channel takes from the loss, float64 (channels,); and what is left now."""
    state = {name: value.detach() for name, value in [*module.named_parameters(), *module.named_buffers()]}
    watched: dict[str, Tensor] = {}
    for i, layer in enumerate(layers):
        mask = torch.from_numpy(picked[starts[i] : starts[i + 1]]).float()
        changes = layer.changes[draw % len(layer.changes)]
        for name, axis in layer.places.items():
            value = state[name]
            if bool(mask.any()):
                value = value + (mask.view(_along(axis, value.ndim)) * changes[name]).to(value.dtype)
            watched[name] = value.detach().requires_grad_(True)
    with torch.enable_grad():
        output = flat_output(torch.func.functional_call(module, state | watched, inputs))
        gradients = torch.autograd.grad(collapse.loss(output), list(watched.values()), allow_unused=True)
    by_name = dict(zip(watched, gradients, strict=True))
    worth = np.zeros(int(starts[-1]))
    for i, layer in enumerate(layers):
        for name, axis in layer.places.items():
            gradient = by_name[name]
            if gradient is not None:
                change = sum(changes[name] for changes in layer.changes) / len(layer.changes)
                axes = [a for a in range(gradient.ndim) if a != axis]
                product = gradient.float() * change
                worth[starts[i] : starts[i + 1]] -= (product.sum(axes) if axes else product).double().numpy()
    return np.nan_to_num(worth), float(collapse(output.detach())[0])


def _along(axis: int, dimensions: int) -> list[int]:
    return [-1 if a == axis else 1 for a in range(dimensions)]


class SensitivityScorer:
    """Scores for `make_plan`, from the module that the artifacts were made of.

    Layers are recognized by their weights, through a BatchNorm fold, another layout and quantization; where that fails, by name.
    Artifacts whose BatchNorms are folded are simulated with a folded module.

    Args:
        module: the torch module; it stays as it is.
        example: its example inputs (with a batch dimension).
        stats: of the inputs, as in `synthesize`.
        fill: what will stand in the place of locked channels.
        seed: of the synthetic inputs.
        progress: called with (stage, done, total).

    Attributes:
        module, example: as given.
        ranking: after `prepare`.
    """

    def __init__(
        self,
        module: nn.Module,
        example: tuple[Any, ...],
        *,
        fill: Fill,
        stats: InputStats | None = None,
        seed: int = 0,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> None:
        self.module = module
        self.example = example
        self._stats = stats
        self._fill = fill
        self._seed = seed
        self._progress = progress
        self._own: dict[int, str] = {}  # id of a tensor -> name of the module's layer
        self._seen: set[int] = set()
        self.ranking: Ranking | None = None

    @classmethod
    def from_factory(
        cls,
        spec: str,
        *,
        fill: Fill,
        stats: InputStats | None = None,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> SensitivityScorer:
        """With what `package.module:factory` returns, as for `corelocker export`: (module, example inputs) or (module, example
        inputs, calibration inputs). Of calibration inputs only mean and spread are used, where `stats` is None.

        Raises ConfigError, or MissingExtraError without torch.
        """
        torch = need("torch")
        from corelocker.audit.data import call_factory

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = call_factory(spec)
        if (
            not isinstance(made, tuple)
            or len(made) not in (2, 3)
            or not isinstance(made[0], torch.nn.Module)
            or not isinstance(made[1], tuple)
        ):
            raise ConfigError(f"{spec}: must return (module, example_inputs), as for `corelocker export`")
        if stats is None and len(made) == 3 and made[2] is not None:
            stats = InputStats.measure(tuple(item) for item in itertools.islice(made[2], CALIBRATION))
        return cls(made[0], made[1], fill=fill, stats=stats, progress=progress)

    def prepare(self, artifacts: Sequence[Artifact], groups: Sequence[list[Member]]) -> None:
        """Rank the channels of all layers in `groups`; the same layers again are not ranked again.

        Raises CriterionError when the module is another model's.
        """
        wanted = {id(m.tensor) for group in groups for m in group}
        if self.ranking is not None and wanted == self._seen:
            return
        module = copy.deepcopy(self.module).eval().to("cpu")
        with tempfile.TemporaryDirectory(prefix="corelocker-") as folder:
            own = open_state(plain_state(module), Path(folder) / "model.safetensors")
            self._own = _recognize(own, artifacts, groups)
            known = {self._own[id(m.tensor)] for group in groups for m in group if id(m.tensor) in self._own}
            if not known:
                raise CriterionError(
                    "no layer of the file holds the weights of the given module",
                    hint="--model must make the module, with its trained weights, that was exported",
                )
            folded = any(t.part("gamma") for t in own.tensors if t.name in known) and not any(
                m.tensor.part("gamma") for group in groups for m in group
            )
        inputs = synthesize(
            module, self.example, self._stats, seed=self._seed,
            progress=lambda done, total: self._progress("inputs", done, total),
        )  # fmt: skip
        if folded:
            _fold(module, inputs)
        costs: dict[str, float] = {}
        for group in groups:
            if names := [self._own[id(m.tensor)] for m in group if id(m.tensor) in self._own]:
                size = sum(part.size / m.tensor.channels for m in group for part in m.tensor.parts)
                costs[names[0]] = costs.get(names[0], 0.0) + size
        self.ranking = rank(
            module, inputs, costs, self._fill, seed=b"%d" % self._seed,
            progress=lambda done, total: self._progress("measure", done, total),
        )  # fmt: skip
        self._seen = wanted

    def __call__(self, tensor: WeightTensor) -> Scores:
        """float64 (channels,). Raises CriterionError for a layer that the module does not have."""
        name = self._own.get(id(tensor))
        if self.ranking is None or name is None or name not in self.ranking.scores:
            raise CriterionError(f"{tensor.name}: the module has no layer with these weights")
        return self.ranking.scores[name]

    def fraction_to_collapse(self, margin: float = 1.0) -> float:
        """The share of all ranked channels that must be locked until nothing is left of the output, for `margin` times the
        bytes. Raises CriterionError before `prepare`, or when the output did not collapse."""
        if self.ranking is None or self.ranking.collapsed is None:
            raise CriterionError(
                "the output does not collapse within half of the weights", hint="Choose the tiers' fractions yourself"
            )
        total = sum(scores.size for scores in self.ranking.scores.values())
        spent = np.cumsum([self.ranking.costs[layer] for layer, _ in self.ranking.picks])
        enough = int(np.searchsorted(spent, margin * spent[self.ranking.collapsed - 1])) + 1
        return min(enough, total - len(self.ranking.scores)) / total


def _recognize(own: Artifact, artifacts: Sequence[Artifact], groups: Sequence[list[Member]]) -> dict[int, str]:
    """id of a tensor in `groups` -> name of the same layer in `own`."""
    names: dict[tuple[int, str], str] = {}
    for group in group_layers([own, *artifacts]):
        leaders = [m.tensor.name for m in group if m.artifact == 0]
        for member in group if leaders else []:
            names[member.artifact - 1, member.tensor.name] = leaders[0]
    sizes = {t.name: t.channels for t in own.tensors}
    found: dict[int, str] = {}
    for group in groups:
        for member in group:
            name = names.get((member.artifact, member.tensor.name))
            if name is None and sizes.get(member.tensor.name) == member.tensor.channels:
                name = member.tensor.name
            if name is not None and sizes[name] == member.tensor.channels:
                found[id(member.tensor)] = name
    return found


def _fold(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Fold every BatchNorm into the convolution or linear layer whose output it reads, in place, as exporters do."""
    torch = need("torch")
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    made: dict[int, tuple[str, Any]] = {}  # id of an output -> who made it; the outputs are kept, or ids would repeat
    pairs: dict[str, str] = {}
    uses: dict[str, int] = {}

    def after(name: str) -> Callable[..., None]:
        def hook(layer: Any, args: tuple[Any, ...], output: Any) -> None:
            uses[name] = uses.get(name, 0) + 1
            if isinstance(layer, kinds):
                made[id(output)] = (name, output)
            elif args and id(args[0]) in made and layer.running_mean is not None:
                pairs[name] = made[id(args[0])][0]

        return hook

    norms = torch.nn.modules.batchnorm._BatchNorm
    hooks = [m.register_forward_hook(after(n)) for n, m in module.named_modules() if isinstance(m, (*kinds, norms))]
    try:
        with torch.no_grad():
            module(*(v[:1] if torch.is_tensor(v) and v.ndim else v for v in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, layer in pairs.items():
        if uses[norm] > 1 or uses[layer] > 1:
            continue
        old, parameters = module.get_submodule(layer), module.get_submodule(norm)
        fusion = need("torch.nn.utils.fusion")
        fuse = fusion.fuse_linear_bn_eval if isinstance(old, torch.nn.Linear) else fusion.fuse_conv_bn_eval
        for name, new in ((layer, fuse(old, parameters)), (norm, torch.nn.Identity())):
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, new)


def fillings(module: nn.Module, costs: Mapping[str, float], fill: Fill, seed: bytes) -> list[Layer]:
    """What the lock may put in the place of every channel of the layers in `costs`.

    Decoys are drawn from the channels that remain, so one half of a layer is filled from the other, then the other half.
    """
    torch = need("torch")
    state = plain_state(module)
    with tempfile.TemporaryDirectory(prefix="corelocker-") as folder:
        artifact = open_state(state, Path(folder) / "model.safetensors")
        first: dict[int, str] = {}  # of the names of a tied parameter the one that gradients go by
        for name, parameter in module.named_parameters(remove_duplicate=False):
            first.setdefault(id(parameter), name)
        tied = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}
        names = {entry.offset: tied.get(entry.name, entry.name) for entry in read_header(artifact.files[0])}
        layers = [
            Layer(
                tensor.name,
                tensor.channels,
                costs[tensor.name],
                {names[p.offset]: int(isinstance(p, Part) and p.count > 1) for p in tensor.parts},
                [],
            )
            for tensor in artifact.tensors
            if tensor.name in costs and tensor.channels > 1 and not _repeats(tensor.name, tied, costs)
        ]
    generator = np.random.default_rng([0, *seed])
    for draw in range(DRAWS if fill == "decoy" else 1):
        chosen = {layer.name: generator.permutation(layer.channels) < layer.channels // 2 for layer in layers}
        one, other = (
            lock_model(
                state,
                tier_of={name: (half == side).astype(np.uint8) for name, half in chosen.items()},
                fill=fill,
                seed=b"%d/" % draw + seed,
            ).shipped.state
            for side in (True, False)
        )
        for layer in layers:
            half = torch.from_numpy(chosen[layer.name])
            changes = {}
            for name, axis in layer.places.items():
                filled = torch.where(half.view(_along(axis, state[name].ndim)), one[name], other[name])
                changes[name] = filled.float() - state[name].float()
            layer.changes.append(changes)
    return [_without_statistics(module, layer) for layer in layers]


def _repeats(name: str, tied: Mapping[str, str], costs: Mapping[str, float]) -> bool:
    """Whether the layer stands in `costs` under the first of its names too."""
    return tied.get(name, name) != name and tied[name] in costs


def _without_statistics(module: nn.Module, layer: Layer) -> Layer:
    """A BatchNorm's mean and variance take no gradient: their change becomes one of its weight and bias that does the same."""
    places = dict(layer.places)
    for name in [n for n in places if n.endswith("running_var")]:
        norm: Any = module.get_submodule(name.rpartition(".")[0])
        weight, bias, mean = (name.replace("running_var", leaf) for leaf in ("weight", "bias", "running_mean"))
        for changes in layer.changes:
            old = (norm.running_var + norm.eps).sqrt()
            new = (norm.running_var + changes.pop(name) + norm.eps).sqrt()
            gain = norm.weight.detach() + changes[weight]
            changes[bias] = changes[bias] - gain * changes.pop(mean) / new
            changes[weight] = gain * old / new - norm.weight.detach()
        del places[name], places[mean]
    return Layer(layer.name, layer.channels, layer.cost, places, layer.changes)
