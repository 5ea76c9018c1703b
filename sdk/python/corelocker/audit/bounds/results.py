"""What is known of each layer of a locked network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerBound:
    """One layer, with its normalization and activation.

    Attributes:
        name: of its module.
        upper: certificate of ||y - y*||; infinite where an operation is not known (`Bounds.reason` says which).
        measured, measured_mean: the largest and the mean disparity over the inputs.
        norm: mean ||y|| of the original, to compare with.
        g: the paper's G(m) = ||y(m) - phi(W(m) y*(m-1))||, mean over the inputs.
    """

    name: str
    upper: float
    measured: float
    measured_mean: float
    norm: float
    g: float


@dataclass(frozen=True)
class Bounds:
    """Bounds of a lock.

    Attributes:
        layers: in order; the last entry is the model's output.
        radius: the largest norm of an input; the certificate holds up to it.
        inputs: how many inputs were measured.
        theorems: what the paper's theorems give for each layer, see `theorems`.
        reason: why the certificate ends before the output, or empty.
    """

    layers: list[LayerBound]
    radius: float
    inputs: int
    theorems: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class LayerStatistics:
    """A layer's weights (its BatchNorm folded in): units, kernel shape (empty for a linear layer), standard deviations of
    weights and shifts, the largest magnitude C_w, and how many weights the lock changed, D_w."""

    name: str
    units: int
    kernel: tuple[int, ...]
    sigma_w: float
    sigma_b: float
    c_w: float
    d_w: int
