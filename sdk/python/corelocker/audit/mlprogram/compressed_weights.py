"""Constants and the operations that expand compressed weights (`constexpr_*`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from corelocker.audit.mlprogram.arguments import Arguments, operation
from corelocker.audit.mlprogram.packing import unpacked


@operation("const")
def _const(a: Arguments) -> Any:
    return a._values.get("val")


@operation("constexpr_cast")
def _constexpr_cast(a: Arguments) -> Tensor:
    return a.tensor("source_val")


@operation("constexpr_affine_dequantize")
def _affine(a: Arguments) -> Tensor:
    data = a.tensor("quantized_data").float()
    shape = [1] * data.dim()
    shape[a.integer("axis")] = -1

    def along(value: Tensor) -> Tensor:
        return value.float().reshape(shape) if value.numel() > 1 else value.float()

    return (data - along(a.tensor("zero_point"))) * along(a.tensor("scale"))


def _over_blocks(table: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat each entry over its block until the leading dimensions are `shape`."""
    for axis, size in enumerate(shape):
        table = table.repeat_interleave(size // table.shape[axis], axis)
    return table


@operation("constexpr_blockwise_shift_scale")
def _blockwise(a: Arguments) -> Tensor:
    data = a.tensor("data").float()
    offset = a.optional("offset")
    if offset is not None:
        data = data - _over_blocks(offset.float(), data.shape)
    return data * _over_blocks(a.tensor("scale").float(), data.shape)


def _looked_up(indices: Tensor, lut: Tensor, vector_axis: int) -> Tensor:
    """iOS 18 tables (*groups, entries, vector)."""
    table = _over_blocks(lut.float(), indices.shape)
    vector = table.shape[-1]
    picked = table.gather(-2, indices.long()[..., None, None].expand(*indices.shape, 1, vector)).squeeze(-2)
    if vector == 1:
        return picked.squeeze(-1)
    axis = vector_axis % indices.dim()
    return picked.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operation("constexpr_lut_to_dense")
def _palettized(a: Arguments) -> Tensor:
    indices, lut = a.tensor("indices"), a.tensor("lut")
    if "shape" not in a:
        return _looked_up(indices, lut, a.integer("vector_axis"))
    shape = a.integers("shape")
    codes = unpacked(indices.to(torch.uint8).numpy(), math.prod(shape), int(math.log2(lut.numel())))
    return lut.float()[torch.from_numpy(codes).long()].reshape(shape)


def _scattered(values: Tensor, mask: Tensor) -> Tensor:
    dense = torch.zeros(mask.shape)
    dense[mask.bool()] = values.float()
    return dense


@operation("constexpr_sparse_to_dense")
def _pruned(a: Arguments) -> Tensor:
    mask = a.tensor("mask")
    if "shape" in a:
        shape = a.integers("shape")
        mask = torch.from_numpy(unpacked(mask.to(torch.uint8).numpy(), math.prod(shape), 1)).reshape(shape)
    return _scattered(a.tensor("nonzero_data"), mask)


@operation("constexpr_lut_to_sparse")
def _lut_to_sparse(a: Arguments) -> list[Tensor]:
    mask = a.tensor("indices_mask")
    axis = a.integer("vector_axis")
    dense = _looked_up(_scattered(a.tensor("indices_nonzero_data"), mask), a.tensor("lut"), axis)
    mask = mask.repeat_interleave(dense.shape[axis] // mask.shape[axis], axis)
    return [mask, dense[mask.bool()]]


@operation("constexpr_sparse_blockwise_shift_scale")
def _sparse_blockwise(a: Arguments) -> list[Tensor]:
    mask = a.tensor("data_mask")
    dense = _scattered(a.tensor("nonzero_data"), mask)
    offset = a.optional("offset")
    if offset is not None:
        dense = dense - _over_blocks(offset.float(), dense.shape)
    return [mask, (dense * _over_blocks(a.tensor("scale").float(), dense.shape))[mask.bool()]]
