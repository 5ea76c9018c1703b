"""Convolutions, matrix products, attention and tables."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from corelocker.audit.mlprogram.arguments import Arguments, operation
from corelocker.audit.mlprogram.padding import padding_of, torch_pad


@operation("conv")
def _conv(a: Arguments) -> Tensor:
    x, weight = a.x, a.tensor("weight")
    n = x.dim() - 2
    strides, dilations = a.integers("strides", [1] * n), a.integers("dilations", [1] * n)
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    x = functional.pad(x, torch_pad(padding_of(a, x.shape[2:], kernel, strides)))
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[n - 1]
    return convolve(x, weight, a.optional("bias"), strides, 0, dilations, a.integer("groups", 1))


@operation("conv_transpose")
def _conv_transpose(a: Arguments) -> Tensor:
    x, weight = a.x, a.tensor("weight")
    n = x.dim() - 2
    strides, dilations = a.integers("strides", [1] * n), a.integers("dilations", [1] * n)
    transpose = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[n - 1]
    whole = transpose(x, weight, a.optional("bias"), strides, 0, 0, a.integer("groups", 1), dilations)
    if a.text("pad_type", "valid") == "custom":
        crop = a.integers("pad", [0] * 2 * n)
    elif a.text("pad_type", "valid") == "valid":
        crop = [0] * 2 * n
    else:
        raise NotImplementedError("conv_transpose with 'same' padding")
    wanted = a.integers("output_shape", [0] * (n + 2))[2:]
    for d in range(n):
        size = wanted[d] or whole.shape[2 + d] - crop[2 * d] - crop[2 * d + 1]
        short = crop[2 * d] + size - whole.shape[2 + d]
        if short > 0:  # output padding: rows that no input reaches
            whole = functional.pad(whole, [0, 0] * (n - 1 - d) + [0, short])
        whole = whole.narrow(2 + d, crop[2 * d], size)
    return whole


@operation("linear")
def _linear(a: Arguments) -> Tensor:
    return functional.linear(a.x, a.tensor("weight"), a.optional("bias"))


@operation("matmul")
def _matmul(a: Arguments) -> Tensor:
    x = a.x.mT if a.flag("transpose_x") else a.x
    y = a.y.mT if a.flag("transpose_y") else a.y
    return x @ y


@operation("einsum")
def _einsum(a: Arguments) -> Tensor:
    return torch.einsum(a.text("equation"), *a.tensors("values"))


@operation("scaled_dot_product_attention")
def _attention(a: Arguments) -> Tensor:
    query, key, value = a.tensor("query"), a.tensor("key"), a.tensor("value")
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    mask = a.optional("attn_mask")
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


@operation("gather")
def _gather(a: Arguments) -> Tensor:
    x, indices = a.x, a.tensor("indices").long()
    axis = a.integer("axis") % x.dim()
    if a.integer("batch_dims"):
        raise NotImplementedError("gather with batch_dims")
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])
