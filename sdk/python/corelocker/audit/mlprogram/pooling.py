"""Pooling, reductions and resizing."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from corelocker.audit.mlprogram.arguments import Arguments, operation
from corelocker.audit.mlprogram.padding import padding_of, torch_pad


@operation("avg_pool", "max_pool")
def _pool(a: Arguments) -> Tensor:
    x, kernel = a.x, a.integers("kernel_sizes")
    n = len(kernel)
    strides = a.integers("strides", [1] * n)
    pairs = torch_pad(padding_of(a, x.shape[2:], kernel, strides))
    ceil = a.flag("ceil_mode")
    if a.op.type == "max_pool":
        pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[n - 1]
        return pool(functional.pad(x, pairs, value=-math.inf), kernel, strides, 0, 1, ceil)
    average = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[n - 1]
    pooled = average(functional.pad(x, pairs), kernel, strides, 0, ceil)
    if a.flag("exclude_padding_from_average") and any(pairs):
        return pooled / average(functional.pad(torch.ones(1, 1, *x.shape[2:]), pairs), kernel, strides, 0, ceil)
    return pooled


@operation(
    "reduce_mean",
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_sum_square",
)
def _reduce(a: Arguments) -> Tensor:
    axes, keep = a.integers("axes", range(a.x.dim())), a.flag("keep_dims")
    kind = a.op.type.removeprefix("reduce_")
    if kind in ("mean", "sum"):
        return a.x.mean(axes, keepdim=keep) if kind == "mean" else a.x.sum(axes, keepdim=keep)
    if kind in ("max", "min"):
        return a.x.amax(axes, keepdim=keep) if kind == "max" else a.x.amin(axes, keepdim=keep)
    if kind in ("sum_square", "l2_norm"):
        total = (a.x**2).sum(axes, keepdim=keep)
        return total if kind == "sum_square" else total.sqrt()
    if kind == "l1_norm":
        return a.x.abs().sum(axes, keepdim=keep)
    x = a.x
    for axis in sorted((d % a.x.dim() for d in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


@operation("reduce_argmax", "reduce_argmin")
def _arg(a: Arguments) -> Tensor:
    pick = torch.argmax if a.op.type.endswith("max") else torch.argmin
    return pick(a.x, a.integer("axis", -1), keepdim=a.flag("keep_dims"))


@operation("cumsum")
def _cumsum(a: Arguments) -> Tensor:
    if a.flag("exclusive") or a.flag("reverse"):
        raise NotImplementedError("cumsum that is exclusive or runs backwards")
    return a.x.cumsum(a.integer("axis"))


@operation("upsample_nearest_neighbor", "upsample_bilinear")
def _upsample(a: Arguments) -> Tensor:
    factors = a.number("scale_factor_height", 1), a.number("scale_factor_width", 1)
    size = [int(n * f + 1e-6) for n, f in zip(a.x.shape[-2:], factors, strict=True)]
    if a.op.type == "upsample_nearest_neighbor":
        return functional.interpolate(a.x, size, mode="nearest")
    return functional.interpolate(a.x, size, mode="bilinear", align_corners=a.flag("align_corners", True))


@operation("resize_bilinear")
def _resize_bilinear(a: Arguments) -> Tensor:
    mode = a.text("sampling_mode", "DEFAULT")
    if mode not in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "UNALIGN_CORNERS"):
        raise NotImplementedError(f"resize_bilinear with {mode}")
    size = [a.integer("target_size_height", 1), a.integer("target_size_width", 1)]
    return functional.interpolate(a.x, size, mode="bilinear", align_corners=mode != "UNALIGN_CORNERS")


@operation("resize_nearest_neighbor")
def _resize_nearest(a: Arguments) -> Tensor:
    return functional.interpolate(
        a.x, [a.integer("target_size_height"), a.integer("target_size_width")], mode="nearest"
    )
