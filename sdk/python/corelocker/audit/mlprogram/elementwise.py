"""Operations that work element by element."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from corelocker.audit.mlprogram.arguments import Arguments, operation

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "relu6": functional.relu6, "sigmoid": torch.sigmoid, "silu": functional.silu, "tanh": torch.tanh,
    "softplus": functional.softplus, "softsign": functional.softsign, "exp": torch.exp, "exp2": torch.exp2, "sqrt": torch.sqrt,
    "square": torch.square, "abs": torch.abs, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "identity": lambda x: x,
    "logical_not": torch.logical_not,
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div, "floor_div": torch.floor_divide,
    "mod": torch.remainder, "pow": torch.pow, "maximum": torch.maximum, "minimum": torch.minimum, "equal": torch.eq,
    "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le,
    "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
}  # fmt: skip


@operation(*UNARY)
def _unary(a: Arguments) -> Tensor:
    return UNARY[a.op.type](a.x)


@operation(*BINARY)
def _binary(a: Arguments) -> Tensor:
    return BINARY[a.op.type](a.x, a.y)


@operation("inverse", "rsqrt", "log")
def _with_epsilon(a: Arguments) -> Tensor:
    defaults = {"inverse": 1e-4, "rsqrt": 1e-12, "log": 1e-45}
    moved = a.x + a.number("epsilon", defaults[a.op.type])
    return {"inverse": torch.reciprocal, "rsqrt": torch.rsqrt, "log": torch.log}[a.op.type](moved)


@operation("leaky_relu", "elu", "thresholded_relu")
def _with_alpha(a: Arguments) -> Tensor:
    alpha = a.number("alpha")
    if a.op.type == "leaky_relu":
        return functional.leaky_relu(a.x, alpha)
    return functional.elu(a.x, alpha) if a.op.type == "elu" else torch.where(a.x >= alpha, a.x, torch.zeros_like(a.x))


@operation("prelu")
def _prelu(a: Arguments) -> Tensor:
    alpha = a.tensor("alpha").reshape([1, -1] + [1] * (a.x.dim() - 2))
    return torch.where(a.x > 0, a.x, a.x * alpha)


@operation("clip", "sigmoid_hard", "linear_activation", "scaled_tanh")
def _with_alpha_and_beta(a: Arguments) -> Tensor:
    alpha, beta = a.number("alpha"), a.number("beta")
    if a.op.type == "clip":
        return a.x.clamp(alpha, beta)
    if a.op.type == "scaled_tanh":
        return alpha * torch.tanh(beta * a.x)
    line = alpha * a.x + beta
    return line.clamp(0, 1) if a.op.type == "sigmoid_hard" else line


@operation("gelu")
def _gelu(a: Arguments) -> Tensor:
    mode = a.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return a.x * torch.sigmoid(1.702 * a.x)
    return functional.gelu(a.x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@operation("softmax")
def _softmax(a: Arguments) -> Tensor:
    return a.x.softmax(a.integer("axis", -1))


@operation("cast")
def _cast(a: Arguments) -> Tensor:
    wanted = a.text("dtype")
    if wanted == "bool":
        return a.x.bool()
    return a.x.float() if wanted.startswith("fp") else a.x.long()  # towards zero, as Core ML does


@operation("select")
def _select(a: Arguments) -> Tensor:
    return torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b"))
