"""Inputs that bring out a classifier's other answers.

On synthetic inputs many a classifier gives one answer nearly always, and an agreement on it tells little. So inputs are bred: those
that come closest to a class are crossed with each other and with fresh ones, and the children that come closer are kept. It takes
the outputs alone, no gradients. In the end each class gives about equally many inputs, those it is surest of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_CLASSES = 64  # with more, plain inputs give enough different answers
ENOUGH = 0.75  # of the greatest entropy that the classes could give, from which on nothing is bred
POPULATION, ELITES, CHILDREN, GENERATIONS = 256, 8, 16, 16
Run = Callable[[list[Any]], Tensor]
"""From columns of inputs to the values of the classes (n, classes)."""


def diversified(
    columns: list[Any], run: Run, fresh: Callable[[int, int], list[Any]], count: int, seconds: float
) -> list[Any]:
    """Columns of at most `count` inputs with more different answers.

    Args:
        columns: inputs to begin with, (n, *shape) each, or one value for all.
        fresh: makes new columns from (count, seed).
        seconds: of one core, after which nothing more is bred.
    """
    generator = torch.Generator().manual_seed(0)
    stop = time.process_time() + seconds
    pool, values = columns, run(columns)
    classes = values.shape[1]
    for generation in range(GENERATIONS):
        if _entropy(values) >= ENOUGH * torch.tensor(float(classes)).log2() or time.process_time() > stop:
            break
        margins = _margins(values)
        elites = margins.topk(min(ELITES, len(margins)), dim=0).indices  # (elites, classes)
        children = _children(pool, elites, fresh(CHILDREN * classes, 1000 + generation), generator)
        pool = _joined(pool, children)
        values = torch.cat([values, run(children)])
        kept = _kept(values, max(2 * ELITES, 2 * POPULATION // classes))
        pool, values = _rows(pool, kept), values[kept]
    return _rows(pool, _balanced(values, count))


def _entropy(values: Tensor) -> float:
    share = values.argmax(1).bincount(minlength=values.shape[1]).double() / len(values)
    share = share[share > 0]
    return float(-(share * share.log2()).sum())


def _margins(values: Tensor) -> Tensor:
    """How far each class is before the best of the others, (n, classes)."""
    best = values.topk(2, dim=1)
    others = best.values[:, :1].expand_as(values).clone()
    others.scatter_(1, best.indices[:, :1], best.values[:, 1:2])
    return values - others


def _children(pool: list[Any], elites: Tensor, fresh: list[Any], generator: torch.Generator) -> list[Any]:
    """CHILDREN of each class: an elite with a region of a mate, or a blend of both, in another contrast."""
    count = elites.shape[1] * CHILDREN
    classes = torch.arange(count) % elites.shape[1]
    one = elites[torch.randint(len(elites), (count,), generator=generator), classes]
    two = elites[torch.randint(len(elites), (count,), generator=generator), classes]
    from_fresh = torch.rand(count, generator=generator) < 0.5
    made = []
    for column, new in zip(pool, fresh, strict=True):
        if not torch.is_tensor(column) or column.ndim == 0:
            made.append(column)
            continue
        parent, mate = column[one], column[two].clone()
        mate[from_fresh] = new[from_fresh]
        inside = _region(parent, generator)
        if column.is_floating_point():
            shape = (count, *(1 for _ in column.shape[1:]))
            share = torch.rand(shape, generator=generator)
            blended = parent + share * (mate - parent) * 0.7
            crossed = torch.where(inside, mate, parent)
            child = torch.where(torch.rand(shape, generator=generator) < 0.5, blended, crossed)
            mean = child.flatten(1).mean(1).view(shape)
            gain = torch.exp2(torch.randn(shape, generator=generator) * 0.3)
            made.append(((child - mean) * gain + mean).clamp(float(column.min()), float(column.max())).to(column.dtype))
        else:
            made.append(torch.where(inside, mate, parent))
    return made


def _region(like: Tensor, generator: torch.Generator) -> Tensor:
    """bool, one random box of each input, along its long axes."""
    inside = torch.ones(like.shape, dtype=torch.bool)
    for axis in range(1, like.ndim):
        size = like.shape[axis]
        if size < 5:
            continue
        low = torch.rand(len(like), generator=generator) * 0.8
        high = low + 0.1 + torch.rand(len(like), generator=generator) * 0.6
        place = torch.arange(size) / size
        shape = [1] * like.ndim
        shape[0], shape[axis] = len(like), size
        inside &= ((place >= low[:, None]) & (place < high[:, None])).view(shape)
    return inside


def _joined(one: list[Any], two: list[Any]) -> list[Any]:
    return [torch.cat([a, b]) if torch.is_tensor(a) and a.ndim else a for a, b in zip(one, two, strict=True)]


def _rows(columns: list[Any], rows: Tensor) -> list[Any]:
    return [c[rows] if torch.is_tensor(c) and c.ndim else c for c in columns]


def _kept(values: Tensor, each: int) -> Tensor:
    """The inputs that come closest to each class."""
    return _margins(values).topk(min(each, len(values)), dim=0).indices.flatten().unique()


def _balanced(values: Tensor, count: int) -> Tensor:
    """At most `count` inputs, of each answer about equally many, the surest first."""
    answers, margins = values.argmax(1), _margins(values).amax(1)
    found = answers.unique()
    order = margins.argsort(descending=True)
    rank = torch.zeros(len(values), dtype=torch.int64)  # place of an input among those of its answer
    for answer in found:
        of_answer = order[answers[order] == answer]
        rank[of_answer] = torch.arange(len(of_answer))
    chosen = rank.argsort(stable=True)[:count]
    most = max(1, int(2.0 * count / len(found)))
    return chosen[rank[chosen] < most].sort().values
