"""Operations that move, repeat or drop elements."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from corelocker.audit.mlprogram.arguments import Arguments, operation
from corelocker.audit.mlprogram.padding import torch_pad


@operation("reshape")
def _reshape(a: Arguments) -> Tensor:
    shape = a.integers("shape")
    return a.x.reshape([a.x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


@operation("transpose")
def _transpose(a: Arguments) -> Tensor:
    return a.x.permute(a.integers("perm"))


@operation("squeeze")
def _squeeze(a: Arguments) -> Tensor:
    axes = a.integers("axes", [d for d, n in enumerate(a.x.shape) if n == 1])
    x = a.x
    for axis in sorted((d % a.x.dim() for d in axes), reverse=True):
        x = x.squeeze(axis)
    return x


@operation("expand_dims")
def _expand_dims(a: Arguments) -> Tensor:
    x = a.x
    rank = x.dim() + len(a.integers("axes"))
    for axis in sorted(d % rank for d in a.integers("axes")):
        x = x.unsqueeze(axis)
    return x


@operation("concat")
def _concat(a: Arguments) -> Tensor:
    if a.flag("interleave"):
        raise NotImplementedError("concat with interleave")
    return torch.cat(a.tensors("values"), a.integer("axis"))


@operation("stack")
def _stack(a: Arguments) -> Tensor:
    return torch.stack(a.tensors("values"), a.integer("axis"))


@operation("split")
def _split(a: Arguments) -> list[Tensor]:
    axis = a.integer("axis")
    sizes = a.integers("split_sizes") or [a.x.shape[axis] // a.integer("num_splits", 1)] * a.integer("num_splits", 1)
    return list(a.x.split(sizes, axis))


@operation("slice_by_index")
def _slice_by_index(a: Arguments) -> Tensor:
    return _slice(a, a.x)


@operation("slice_update")
def _slice_update(a: Arguments) -> Tensor:
    if any(n < 0 for n in a.integers("stride")):
        raise NotImplementedError("slice_update that runs backwards")
    updated = a.x.clone()
    part = _slice(a, updated)
    part.copy_(a.tensor("update").reshape(part.shape))
    return updated


def _slice(a: Arguments, x: Tensor) -> Tensor:
    """The part of `x` that begin, end, stride and their masks name; a view unless it runs backwards."""
    rank = x.dim()
    begin, end, stride = a.integers("begin"), a.integers("end"), a.integers("stride", [1] * rank)
    open_begin, open_end, single = (a.integers(f"{m}_mask", [0] * rank) for m in ("begin", "end", "squeeze"))
    for d in range(rank):
        if single[d]:
            x = x.narrow(d, begin[d] % x.shape[d], 1)
            continue
        if stride[d] < 0:
            if stride[d] != -1 or not (open_begin[d] and open_end[d]):
                raise NotImplementedError("slice_by_index that runs backwards over a part")
            x = x.flip(d)
            continue
        chosen = slice(None if open_begin[d] else begin[d], None if open_end[d] else end[d], stride[d])
        x = x[(slice(None),) * d + (chosen,)]
    return x.squeeze([d for d in range(rank) if single[d]])


@operation("slice_by_size")
def _slice_by_size(a: Arguments) -> Tensor:
    x = a.x
    for d, (begin, size) in enumerate(zip(a.integers("begin"), a.integers("size"), strict=True)):
        x = x.narrow(d, begin, x.shape[d] - begin if size == -1 else size)
    return x


@operation("pad")
def _pad(a: Arguments) -> Tensor:
    mode = a.text("mode", "constant")
    pairs = a.integers("pad")
    if mode == "constant":
        return functional.pad(a.x, torch_pad(pairs), value=a.number("constant_val"))
    # torch reflects and replicates the last dimensions only, in 2-D or deeper.
    while len(pairs) > 2 and pairs[:2] == [0, 0]:
        pairs = pairs[2:]
    x = a.x
    lead = max(0, len(pairs) // 2 + 2 - x.dim())
    for _ in range(lead):
        x = x.unsqueeze(0)
    x = functional.pad(x, torch_pad(pairs), mode=mode)
    for _ in range(lead):
        x = x.squeeze(0)
    return x


@operation("scatter")
def _scatter(a: Arguments) -> Tensor:
    if a.text("mode", "add") not in ("add", "update"):
        raise NotImplementedError(f"scatter with {a.text('mode')}")
    data, axis = a.tensor("data").clone(), a.integer("axis")
    indices = a.tensor("indices").long().reshape(-1)
    updates = a.tensor("updates").reshape([*data.shape[:axis], indices.numel(), *data.shape[axis + 1 :]])
    if a.text("mode", "add") == "add":
        return data.index_add(axis, indices, updates)
    return data.index_copy(axis, indices, updates)


@operation("tile")
def _tile(a: Arguments) -> Tensor:
    return a.x.repeat(a.integers("reps"))


@operation("reverse")
def _reverse(a: Arguments) -> Tensor:
    return a.x.flip(a.integers("axes", range(a.x.dim())))


@operation("pixel_shuffle")
def _pixel_shuffle(a: Arguments) -> Tensor:
    return functional.pixel_shuffle(a.x, a.integer("upscale_factor"))


@operation("shape")
def _shape(a: Arguments) -> Tensor:
    return torch.tensor(list(a.x.shape))


@operation("fill")
def _fill(a: Arguments) -> Tensor:
    return torch.full(a.integers("shape"), a.number("value"))
