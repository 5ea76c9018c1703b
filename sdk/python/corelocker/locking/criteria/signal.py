"""How much of a model's output is left when some of its channels are replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corelocker.errors import CriterionError

if TYPE_CHECKING:
    from torch import Tensor

SILENCE = 0.3  # weight of the size of the output beside what it says


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
