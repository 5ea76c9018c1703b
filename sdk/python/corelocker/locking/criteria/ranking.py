"""The order in which channels are worth locking, measured on the publisher's module with synthetic inputs.

How much of the original output is left is one number (`Collapse`); a channel is worth what its replacement takes from that number
for each byte of the access key. Channels are picked one after the other, and after each pick everything is measured again, because
channels stand in for each other: the second of two twins is worth far more once the first is gone. The gradient gives the worth of
all channels at once, so a pick costs one pass forward and one back whatever the number of channels.

Decoys are drawn anew when the real lock is made. What a pick is worth is therefore averaged over several draws, and each round
replaces the channels picked so far by another draw: a pick must not depend on one lucky decoy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from corelocker.errors import CriterionError
from corelocker.locking.criteria import Scores
from corelocker.locking.criteria.signal import Collapse
from corelocker.locking.criteria.simulation import LockableLayer, fillings, replaced_state
from corelocker.locking.criteria.synthetic import SMALL, flat_output, largest_input, need
from corelocker.locking.options import Fill

if TYPE_CHECKING:
    from torch import Tensor, nn

Picked = npt.NDArray[np.bool_]

GROWTH = 0.08  # of the bytes picked so far that one round may add
GROWTH_LARGE = 0.16  # the same where inputs are large and a round takes seconds
COLLAPSED = 0.02  # of the output's signal left: nothing more to measure
STEADY = 3  # rounds in which that holds
BEYOND = 4.0  # how far the ranking by measurement goes on after the collapse, in bytes
MOST_OF_A_LAYER = 0.5  # a smaller part of a layer is no bottleneck
LIMIT = 0.5  # of all bytes, where the ranking by measurement ends at the latest
ROUNDS = 250


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
    layers = fillings(module, costs, fill, seed)
    if not layers:
        raise CriterionError("no layer of the model can be measured")
    frozen = [p for p in module.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        return _GreedySearch(module, layers, inputs).run(progress)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


class _GreedySearch:
    """A greedy search. Channels are counted through all layers: `starts[i]` is the first of layer i."""

    def __init__(self, module: nn.Module, layers: Sequence[LockableLayer], inputs: tuple[Any, ...]) -> None:
        self._torch = need("torch")
        self._module, self._layers, self._inputs = module, layers, inputs
        sizes = [layer.channels for layer in layers]
        self._starts = np.cumsum([0, *sizes])
        self._layer_of = np.repeat(np.arange(len(layers)), sizes)
        self._costs = np.concatenate([np.full(layer.channels, layer.cost) for layer in layers])
        with self._torch.no_grad():
            self._collapse = Collapse(flat_output(module(*inputs)), signed=len(layers[0].changes) > 1)
        self._spare = np.array(sizes) - 1  # one channel of a layer stays
        self._picked: Picked = np.zeros(self._costs.size, bool)
        self._order: list[int] = []
        self._course: list[tuple[float, float]] = []
        self._spent = 0.0

    def run(self, progress: Callable[[int, int], None]) -> Ranking:
        first, collapsed = self._pick_in_rounds(progress)
        limit = float(self._costs[self._order[:collapsed]].sum() if collapsed else LIMIT * self._costs.sum())
        order, picked = self._order, self._picked
        if found := self._bottleneck(first, limit):
            order = found + [channel for channel in order if channel not in set(found)]
            collapsed, picked[found] = len(found), True
        rest = np.argsort(-np.where(picked, -np.inf, first), kind="stable")
        ranked = np.concatenate([np.asarray(order, np.int64), rest[: picked.size - len(order)]])
        scores = np.empty(picked.size)
        scores[ranked] = np.arange(picked.size, 0, -1)
        layers, starts, layer_of = self._layers, self._starts, self._layer_of
        return Ranking(
            {layer.name: scores[starts[i] : starts[i + 1]] for i, layer in enumerate(layers)},
            {layer.name: layer.cost for layer in layers},
            [(layers[layer_of[c]].name, int(c - starts[layer_of[c]])) for c in order],
            self._course,
            collapsed,
        )

    def _pick_in_rounds(self, progress: Callable[[int, int], None]) -> tuple[Scores, int | None]:
        """Pick until the output has collapsed and some bytes beyond.

        Returns what each channel was worth before anything was picked, and the number of picks at the collapse.
        """
        first = np.zeros(self._costs.size)
        collapsed: int | None = None
        goal = LIMIT * float(self._costs.sum())
        growth = GROWTH if largest_input(self._inputs) <= SMALL else GROWTH_LARGE
        for round_ in range(ROUNDS):
            progress(round_, ROUNDS)
            worth, left = self._worth(round_)
            self._course.append((self._spent, left))
            worth = worth / self._costs
            first = first if self._order else worth
            steady = [value < COLLAPSED for _, value in self._course[-STEADY:]]
            if collapsed is None and len(steady) == STEADY and all(steady):
                collapsed, goal = len(self._order), min(goal, BEYOND * self._spent)
            self._pick(worth, growth * self._spent)
            if self._spent >= goal or self._course[-1][0] == self._spent:
                break
        if collapsed is None and self._course[-1][1] < COLLAPSED:
            collapsed = len(self._order)
        return first, collapsed

    def _pick(self, worth: Scores, budget: float) -> None:
        """Pick the channels that are worth most, for `budget` bytes; at least one."""
        before = self._spent
        for channel in np.argsort(-np.where(self._picked, -np.inf, worth), kind="stable"):
            layer = self._layer_of[channel]
            if self._picked[channel] or not self._spare[layer]:
                continue
            if worth[channel] <= 0 or (budget < self._costs[channel] and self._order and before < self._spent):
                break
            self._picked[channel] = True
            self._spare[layer] -= 1
            self._order.append(int(channel))
            self._spent += float(self._costs[channel])
            budget -= self._costs[channel]

    def _bottleneck(self, worth: Scores, limit: float) -> list[int]:
        """The channels of a single layer whose lock collapses the output for fewer bytes than `limit`, best first; or none.

        Where everything passes through a narrow layer, each of its channels is worth little as long as the others are there, and
        no step of the greedy choice leads to taking them all.
        """
        best: list[int] = []
        for i in sorted(range(len(self._layers)), key=lambda i: self._layers[i].cost * self._layers[i].channels):
            layer, start = self._layers[i], self._starts[i]
            ranked = start + np.argsort(-worth[start : self._starts[i + 1]], kind="stable")
            high = min(layer.channels - 1, int(limit / layer.cost))
            if high < 1 or high * layer.cost < MOST_OF_A_LAYER * layer.channels * layer.cost:
                continue
            if not self._collapses(ranked[:high]):
                continue
            low = 0
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self._collapses(ranked[:middle]) else (middle, high)
            best, limit = [int(channel) for channel in ranked[:high]], high * layer.cost
        return best

    def _collapses(self, channels: npt.NDArray[np.int64]) -> bool:
        """Whether nothing is left of the output without these; on average over the draws, for one decoy of a few may go along
        with the original by chance."""
        picked = np.zeros(self._costs.size, bool)
        picked[channels] = True
        draws, left = len(self._layers[0].changes), 0.0
        for draw in range(draws):
            with self._torch.no_grad():
                now = float(self._collapse(self._output(self._replaced(picked, draw)))[0])
            if now >= 2 * COLLAPSED:
                return False
            left += now
        return left < COLLAPSED * draws

    def _worth(self, draw: int) -> tuple[Scores, float]:
        """To first order what the replacement of each channel takes from the loss, float64 (channels,); and what is left now."""
        torch, layers, starts = self._torch, self._layers, self._starts
        state = self._replaced(self._picked, draw)
        watched = {name: state[name].detach().requires_grad_(True) for layer in layers for name in layer.places}
        with torch.enable_grad():
            output = self._output(state | watched)
            gradients = torch.autograd.grad(self._collapse.loss(output), list(watched.values()), allow_unused=True)
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
        return np.nan_to_num(worth), float(self._collapse(output.detach())[0])

    def _replaced(self, picked: Picked, draw: int) -> dict[str, Tensor]:
        """The module's parameters and buffers with the picked channels replaced by a draw."""
        masks = [picked[self._starts[i] : self._starts[i + 1]] for i in range(len(self._layers))]
        return replaced_state(self._module, self._layers, masks, draw)

    def _output(self, state: Mapping[str, Tensor]) -> Tensor:
        return flat_output(self._torch.func.functional_call(self._module, dict(state), self._inputs))
