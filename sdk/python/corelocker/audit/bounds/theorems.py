"""Theorems 1 to 4 of CoreLocker (IEEE S&P 2024), as functions of their constants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corelocker.audit.bounds.operator_norms import INFINITE
from corelocker.audit.bounds.results import LayerBound, LayerStatistics

if TYPE_CHECKING:
    from torch import Tensor


def statistics_of(name: str, weights: Sequence[Tensor], shifts: Sequence[Tensor]) -> LayerStatistics:
    """Statistics of a layer from its (original, locked) weights and shifts."""
    return LayerStatistics(
        name,
        int(weights[0].shape[0]),
        tuple(weights[0].shape[2:]),
        float(weights[0].std(unbiased=False)),
        float(shifts[0].std(unbiased=False)),
        float(weights[0].abs().max()),
        int((weights[0] != weights[1]).sum()),
    )


DEFAULTS = {"L": 1.0, "mu": 1.0, "tau": 2.0, "C_e": 1.0, "C_s": 1.0, "K": 1.0}


def theorems(
    layers: Sequence[LayerStatistics], measured: Sequence[LayerBound], radius: float, constants: Mapping[str, float]
) -> dict[str, Any]:
    """Theorems 1 to 4 for every layer m, as base-10 logarithms where a number may leave the range of floats.

    Args:
        layers: in order.
        measured: for G(m), by name.
        radius: ||x||.
        constants: L (Lipschitz constant of the activation), mu and tau (free in the theorems), C_e and C_s (universal constants
            that the paper leaves open), K (sub-Gaussian norm of a weight in units of its standard deviation). Missing ones are
            those of DEFAULTS.

    The paper's symbols are read so: N is the largest number of units of a layer so far, Q the side of a kernel, C the number of
    its layer's channels, D_w how many weights the lock changed, C_w the largest magnitude of a weight.
    """
    values = DEFAULTS | dict(constants)
    g_of = {layer.name: layer.g for layer in measured}
    lipschitz, mu, tau = values["L"], values["mu"], values["tau"]
    rows = []
    variance = _log(radius**2)
    width = 1
    for place, layer in enumerate(layers, 1):
        width = max(width, layer.units)
        gain = _log(lipschitz**2 * width) + 2 * _log(layer.sigma_w)
        # Theorem 1 as a recursion: each layer multiplies what came before and adds its shift's variance.
        variance = _log_sum(variance + gain, _log(lipschitz**2 * width * layer.sigma_b**2))
        tail = (place - 1) * _log(width) + place * _log(layer.d_w * layer.c_w) - _log(mu)
        g = g_of.get(layer.name, 0.0)
        k = values["K"] * layer.sigma_w
        if layer.kernel:
            side, channels = max(layer.kernel), layer.units
            lam = channels**2 * (math.sqrt(side) + values["C_s"] * k**2 * (math.sqrt(side) + tau))
            exponent = channels**2 * (place - 1)
            miss = 6 * side**2 * values["C_e"] * layer.c_w * math.sqrt(layer.d_w) / mu
        else:
            lam = math.sqrt(width) + values["C_s"] * k**2 * (math.sqrt(width) + tau)
            exponent = place - 1
            miss = 6 * values["C_e"] * layer.c_w * math.sqrt(layer.d_w) / mu
        upper = _log(mu) + place * _log(lipschitz) + exponent * _log(lam) + _log(radius)
        probability = max(0.0, 1 - miss) * (1 - 2 * math.exp(-(tau**2))) ** max(0, exponent)
        rows.append(
            {
                "layer": layer.name,
                "m": place,
                "theorem": 4 if layer.kernel else 3,
                "log10_variance": variance,
                "log10_tail_of_g": min(0.0, tail),
                "log10_upper": _log_sum(_log(g) if g == g else -INFINITE, upper),
                "probability": probability,
            }
        )
    return {"constants": values, "layers": rows}


def _log(value: float) -> float:
    return math.log10(value) if value > 0 else -INFINITE


def _log_sum(a: float, b: float) -> float:
    """log10(10^a + 10^b)."""
    high, low = max(a, b), min(a, b)
    return high if high == -INFINITE else high + math.log10(1 + 10 ** (low - high))
