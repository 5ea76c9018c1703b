"""Normalizations."""

from __future__ import annotations

import torch
from torch import Tensor

from corelocker.audit.mlprogram.arguments import Arguments, operation


@operation("batch_norm")
def _batch_norm(a: Arguments) -> Tensor:
    shape = [1, -1] + [1] * (a.x.dim() - 2)
    gamma, beta = a.optional("gamma"), a.optional("beta")
    values = (a.x - a.tensor("mean").reshape(shape)) * torch.rsqrt(
        a.tensor("variance").reshape(shape) + a.number("epsilon", 1e-5)
    )
    values = values if gamma is None else values * gamma.reshape(shape)
    return values if beta is None else values + beta.reshape(shape)


def _normalized(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) * torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)


@operation("layer_norm")
def _layer_norm(a: Arguments) -> Tensor:
    gamma, beta = a.optional("gamma"), a.optional("beta")
    values = _normalized(a.x, a.integers("axes", [-1]), a.number("epsilon", 1e-5))
    values = values if gamma is None else values * gamma
    return values if beta is None else values + beta


@operation("instance_norm")
def _instance_norm(a: Arguments) -> Tensor:
    shape = [1, -1] + [1] * (a.x.dim() - 2)
    gamma, beta = a.optional("gamma"), a.optional("beta")
    values = _normalized(a.x, list(range(2, a.x.dim())), a.number("epsilon", 1e-5))
    values = values if gamma is None else values * gamma.reshape(shape)
    return values if beta is None else values + beta.reshape(shape)


@operation("l2_norm")
def _l2_norm(a: Arguments) -> Tensor:
    return a.x * torch.rsqrt((a.x**2).sum([-3, -2, -1], keepdim=True) + a.number("epsilon", 1e-6))
