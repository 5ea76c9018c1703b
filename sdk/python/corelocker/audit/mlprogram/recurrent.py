"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from corelocker.audit.mlprogram.arguments import Arguments, operation

GATE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda v: v,
}


def _recurrent(
    a: Arguments, ending: str, state: tuple[Tensor, ...], *, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of an LSTM (gates input, forget, output, cell) or a GRU (reset, output, update)."""
    inner = GATE_ACTIVATIONS[a.text("recurrent_activation", "sigmoid")]
    outer = GATE_ACTIVATIONS[a.text("activation", "tanh")]
    cell = GATE_ACTIVATIONS[a.text("cell_activation", "tanh")]
    x, ih, hh = a.x, a.tensor(f"weight_ih{ending}"), a.tensor(f"weight_hh{ending}")
    bias = a.optional(f"bias{ending}")
    into = functional.linear(x, ih, bias)
    steps = []
    for t in reversed(range(x.shape[0])) if reverse else range(x.shape[0]):
        if a.op.type == "lstm":
            i, f, o, z = (into[t] + functional.linear(state[0], hh)).chunk(4, -1)
            c = inner(f) * state[1] + inner(i) * cell(z)
            state = (inner(o) * outer(c), c)
        else:
            ir, io, iz = into[t].chunk(3, -1)
            hr, ho, hz = functional.linear(state[0], hh).chunk(3, -1)
            r, z = inner(ir + hr), inner(iz + hz)
            state = ((1 - z) * outer(io + r * ho) + z * state[0],)
        steps.append(state[0])
    return torch.stack(steps[::-1] if reverse else steps), state


@operation("lstm", "gru")
def _recurrent_layer(a: Arguments) -> list[Tensor]:
    if "peephole" in a or "clip" in a:
        raise NotImplementedError("lstm with peephole or clip")
    names = ("initial_h", "initial_c") if a.op.type == "lstm" else ("initial_h",)
    direction = a.text("direction", "forward")
    if direction == "bidirectional":
        halves = [a.tensor(n).chunk(2, -1) for n in names]
        runs = [_recurrent(a, e, tuple(h[i] for h in halves), reverse=bool(i)) for i, e in enumerate(("", "_back"))]
        sequence = torch.cat([r[0] for r in runs], -1)
        state = tuple(torch.cat([r[1][i] for r in runs], -1) for i in range(len(names)))
    else:
        sequence, state = _recurrent(a, "", tuple(a.tensor(n) for n in names), reverse=direction == "reverse")
    return [sequence if a.flag("output_sequence") else state[0].unsqueeze(0), *state]
