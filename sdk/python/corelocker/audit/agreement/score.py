"""Comparing the outputs of two states of one model.

Outputs that choose among classes are compared by their answers, the index of the largest value; integers are answers as they are.
The agreement is the share of equal answers. Outputs that are no classes are compared value by value: the agreement is the mean of
Pearson's correlation over the inputs, where a value that goes against its original counts as 0. An output that goes against its
original as a whole says as much as the original, for whoever turns it around: of both directions the better counts. Chance is
what is left of either when the original's answers are shuffled over the inputs. Some networks pass on what they read, whatever
their weights are: the state of a recurrent layer, the picture of a denoiser. There chance is what the same network is worth with
its weights shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from corelocker.locking.requirement import STILL_ALONG, TierAgreement

FEWEST_ANSWERS = 4  # of the original; with fewer, agreement tells nothing
MOST_VALUES = 2048  # of an output's values that are compared, picked at random
WAVEFORM = 4096  # values in one row from which on it is a signal, not a choice
SHUFFLES = 8
Kind = Literal["classes", "values"]


@dataclass(frozen=True)
class Agreement:
    """How far one output agrees with the original's.

    Attributes:
        kind: how it was compared.
        value, chance: agreement, and what shuffled answers give; 0 to 1.
        error: standard error of `value`.
        along: for classes, the mean correlation of their values with the original's: near 0 where nothing is left.
        inputs: that were compared.
        signal: root mean square of the values' correlations, beyond what noise gives. Unlike `along` it sees classes whose values
            were turned around.
        spread: standard deviation of `chance` from one draw of shuffled weights to the next, which `error` holds too; 0 where
            answers were shuffled.
        passed_on: of `along`, what shuffled weights leave.
        most_along: of it, where answers at chance say too little.
    """

    kind: Kind
    value: float
    chance: float
    error: float
    along: float
    inputs: int
    signal: float = 0.0
    spread: float = 0.0
    passed_on: float = 0.0
    most_along: float = STILL_ALONG

    @property
    def silent(self) -> bool:
        """Whether the output says nothing about the inputs, by the bounds of `--require collapse`."""
        return TierAgreement(
            "", self.kind, self.value, self.chance, self.error, self.along, self.passed_on, self.most_along
        ).collapsed

    def beside(self, shuffled: Sequence[Agreement]) -> Agreement:
        """The same, with chance from draws of the network with shuffled weights, where none of those is silent."""
        if any(draw.silent for draw in shuffled):
            return self
        values = [draw.value for draw in shuffled]
        spread = float(np.std(values, ddof=1))
        return replace(
            self,
            chance=max(self.chance, float(np.mean(values))),
            error=float(np.hypot(self.error, spread)),
            spread=spread,
            passed_on=max(0.0, float(np.mean([draw.along for draw in shuffled]))),
        )

    @property
    def excess(self) -> float:
        """What is left beyond chance; more than 0 even of noise, by `error`."""
        return self.value - self.chance


class Reference:
    """An output of the original on n inputs, to compare others with.

    Args:
        output: (n, ...) of any type; `batch` whether the axis behind n is a batch, whose rows are inputs too.
    """

    def __init__(self, output: Tensor, batch: int = 1) -> None:
        self._batch = batch
        rows = self._rows(output)
        self._axis = _class_axis(rows)
        self._generator = np.random.default_rng(0)
        self._answers = self._pick_answers(rows)
        self._places: Tensor | None = None
        values = self._values(rows)
        moved = values - values.mean(0)
        size = moved.norm(dim=0)
        self._alive = size > 1e-6 * (values.norm(dim=0) + 1e-30)
        self._moved, self._size = moved[:, self._alive], size[self._alive]

    @property
    def reason(self) -> str | None:
        """Why nothing can be compared with it; None where something can."""
        if not bool(self._alive.any()):
            return "it is the same for all inputs"
        if self._axis is not None and self.answers < FEWEST_ANSWERS:
            return f"the original gives {self.answers} different answers, and {FEWEST_ANSWERS} are needed"
        return None

    @property
    def answers(self) -> int:
        """How many different answers the original gives; of outputs that are no classes, how many inputs there are."""
        return len(self._moved) if self._answers is None else int(self._answers.unique().numel())

    @property
    def entropy(self) -> float:
        """In bits, how different the answers are."""
        if self._answers is None:
            return float(np.log2(max(1, len(self._moved)))) if bool(self._alive.any()) else 0.0
        share = self._answers.reshape(-1).unique(return_counts=True)[1].double() / self._answers.numel()
        return float(-(share * share.log2()).sum())

    def compare(self, output: Tensor) -> Agreement:
        """The agreement of the same output in another state."""
        rows = self._rows(output)
        values = self._values(rows)[:, self._alive]
        correlation, chance, error = self._correlation(values)
        along = float(correlation.mean())
        noise = 1 / max(1, len(rows) - 1)
        signal = float(((correlation**2).mean() - noise).clamp(min=0).sqrt())
        answers = self._pick_answers(rows)
        if self._answers is None or answers is None:
            return Agreement("values", _either_way(correlation), chance, error, along, len(rows), signal)
        equal = (self._answers == answers).double()
        value = float(equal.mean())
        spread = float(equal.mean(1).std()) if len(equal) > 1 else 1.0
        chance = _shuffled(self._answers, answers)
        return Agreement("classes", value, chance, spread / len(equal) ** 0.5, along, len(rows), signal)

    def _rows(self, output: Tensor) -> Tensor:
        """(inputs, ...)."""
        if self._batch > 1 and output.ndim > 1 and output.shape[1] == self._batch:
            return output.flatten(0, 1)
        return output.squeeze(1) if output.ndim > 1 and output.shape[1] == 1 else output

    def _pick_answers(self, rows: Tensor) -> Tensor | None:
        """int64 (inputs, places), or None for values."""
        if self._axis is None:
            return None
        answers = rows if self._axis < 0 else rows.float().nan_to_num(0.0, 0.0, 0.0).argmax(self._axis)
        return self._some(answers.reshape(len(answers), -1).long())

    def _values(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(len(rows), -1).float().nan_to_num(0.0, 0.0, 0.0).clamp(-1e6, 1e6)
        return self._some(flat).double()

    def _some(self, flat: Tensor) -> Tensor:
        if flat.shape[1] <= MOST_VALUES:
            return flat
        places = np.sort(np.random.default_rng(flat.shape[1]).choice(flat.shape[1], MOST_VALUES, replace=False))
        return flat[:, torch.from_numpy(places)]

    def _correlation(self, values: Tensor) -> tuple[Tensor, float, float]:
        """Correlation (values,), and mean and spread of what it is worth when the original is shuffled."""
        moved = values - values.mean(0)
        size = moved.norm(dim=0)
        ours = moved / size.clamp(min=1e-30)
        ours[:, size <= 1e-9 * (values.norm(dim=0) + 1e-30)] = 0
        original = self._moved / self._size
        order = np.random.default_rng(1)
        shuffled = [
            _either_way((original[torch.from_numpy(order.permutation(len(original)))] * ours).sum(0))
            for _ in range(SHUFFLES)
        ]
        return (original * ours).sum(0), float(np.mean(shuffled)), float(np.std(shuffled))


def _either_way(correlation: Tensor) -> float:
    """Mean of correlations (values,) with negative ones as 0, or of their negatives where that is more."""
    return max(float((sign * correlation).clamp(min=0).mean()) for sign in (1, -1))


def _class_axis(rows: Tensor) -> int | None:
    """The axis of `rows` (inputs, ...) that holds classes; -1 for answers as they are, None for values."""
    if not rows.is_floating_point():
        return -1
    shape = rows.shape[1:]
    if len(shape) == 1:
        return 1 if shape[0] >= FEWEST_ANSWERS else None
    if len(shape) == 2:
        if shape[1] < FEWEST_ANSWERS or (shape[0] == 1 and shape[1] >= WAVEFORM):
            return None
        return 2
    if len(shape) == 3:
        axis = 3 if shape[0] == shape[1] != shape[2] else 1
        return axis if rows.shape[axis] >= FEWEST_ANSWERS else None
    return None


def _shuffled(one: Tensor, other: Tensor) -> float:
    """Mean agreement of the answers (inputs, places) at a place with those that another input got there."""
    count = len(one)
    if count < 2:
        return 1.0
    total = 0.0
    for place in range(one.shape[1]):
        a, b = one[:, place], other[:, place]
        _, both = torch.cat([a, b]).unique(return_inverse=True)
        classes = int(both.max()) + 1
        pairs = (both[:count].bincount(minlength=classes) * both[count:].bincount(minlength=classes)).sum()
        total += float(pairs - (a == b).sum()) / (count * (count - 1))
    return float(total / one.shape[1])


def worst(found: Sequence[Agreement]) -> Agreement:
    """The output of which most is left; one that is not silent before all that are."""
    return max(found, key=lambda agreement: (not agreement.silent, agreement.excess))
