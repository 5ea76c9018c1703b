"""The measured disparity of every layer, where no graph can be traced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from corelocker.audit import need
from corelocker.audit.bounds.operator_norms import INFINITE
from corelocker.audit.bounds.results import LayerBound, LayerStatistics
from corelocker.audit.bounds.theorems import statistics_of
from corelocker.audit.evaluators import first_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn


def measured_without_graph(networks: Sequence[nn.Module], x: Tensor) -> tuple[list[LayerBound], list[LayerStatistics]]:
    """The measured disparity behind every layer, without a graph: no certificate, no G."""
    torch = need("torch")
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
    seen: list[dict[str, Tensor]] = [{}, {}]
    for network, outputs in zip(networks, seen, strict=True):
        hooks = [
            module.register_forward_hook(partial(_keep, outputs, name))
            for name, module in network.named_modules()
            if isinstance(module, kinds)
        ]
        outputs["output"] = first_tensor(network(x))
        for hook in hooks:
            hook.remove()
    layers, statistics = [], []
    modules = [dict(network.named_modules()) for network in networks]
    for name in [*(n for n in seen[0] if n != "output"), "output"]:
        original, locked = (outputs[name].double().flatten(1) for outputs in seen)
        moved = (original - locked).norm(dim=1)
        layers.append(
            LayerBound(
                name, INFINITE, float(moved.max()), float(moved.mean()), float(original.norm(dim=1).mean()), math.nan
            )
        )
        if name != "output":
            weights = [m[name].weight for m in modules]
            shifts = [torch.zeros(1) if m[name].bias is None else m[name].bias for m in modules]
            statistics.append(statistics_of(name, weights, shifts))
    return layers, statistics


def _keep(outputs: dict[str, Tensor], name: str, _module: Any, _inputs: Any, output: Tensor) -> None:
    outputs.setdefault(name, output.clone())
