"""Ways to make a channel that has the statistics of another one."""

from __future__ import annotations

import numpy as np

from corelocker.artifacts.weights import Floats
from corelocker.locking.layout import Indices

WIDE = 1024  # elements of a channel from which on one candidate has its target's statistics
JITTER = 0.02  # greatest relative noise, so that no decoy repeats the numbers of its target


def wanted_reach(reaches: Floats, targets: Indices, generator: np.random.Generator) -> Floats:
    """The largest magnitude that each decoy is to have, (targets, 1).

    It lies between its target's and the next larger or smaller one of the pool's `reaches` (n,), on the target's half: of the
    same rank among them, and no repetition.
    """
    order = np.argsort(reaches)
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    beside = rank[targets] + generator.choice((-1, 1), targets.size)
    own, next_ = reaches[targets], reaches[order[np.clip(beside, 0, order.size - 1)]]
    return np.asarray(own + generator.random(targets.size, np.float32) / 2 * (next_ - own), np.float32)[:, None]


def jittered(candidates: Floats, generator: np.random.Generator, largest: Floats | None = None) -> Floats:
    """Candidates (n, elements) moved by up to JITTER, and less where that led over `largest` (n, 1); one element is that large."""
    moved = generator.random(candidates.shape, np.float32)
    moved -= 0.5
    moved *= 2 * JITTER
    moved += 1
    moved *= candidates
    if largest is not None:
        magnitudes = np.abs(moved)
        beyond = np.flatnonzero(magnitudes > largest)
        if beyond.size:
            rows, places = np.divmod(beyond, moved.shape[1])
            numbers, most = candidates[rows, places], largest[rows, 0]
            room = np.minimum(most / np.abs(numbers) - 1, JITTER)
            draws = generator.random(rows.size, np.float32)
            inside = np.where(room > 0, np.abs(numbers) * (1 + room * (2 * draws - 1)), most * (1 - JITTER * draws))
            moved[rows, places] = np.copysign(inside, numbers)
        each, top = np.arange(len(moved)), magnitudes.argmax(axis=1)
        moved[each, top] = np.copysign(largest[:, 0], moved[each, top])
    return moved


def shuffled(values: Floats, mean: Floats, targets: Indices, largest: Floats, generator: np.random.Generator) -> Floats:
    """The targets' elements in another order."""
    return jittered(_permuted(values[targets], generator), generator, largest)


def deviated(values: Floats, mean: Floats, targets: Indices, largest: Floats, generator: np.random.Generator) -> Floats:
    """The targets' deviations from the mean channel in another order."""
    return jittered(mean + _permuted(values[targets] - mean, generator), generator, largest)


def _permuted(rows: Floats, generator: np.random.Generator) -> Floats:
    """Each row (n, elements) in an order of its own.

    Wide rows by one order that begins at another place for each. Narrow ones, where that would repeat itself, by 16-bit keys, which
    numpy sorts by radix. Generator.permuted takes longer and holds the interpreter meanwhile, which the threads that hash and write
    need.
    """
    count, elements = rows.shape
    if elements >= WIDE:
        order = np.tile(generator.permutation(elements), 2)
        permuted = np.empty_like(rows)
        starts = generator.integers(0, elements, (count,)).tolist()
        for row, start in enumerate(starts):
            rows[row].take(order[start : start + elements], out=permuted[row], mode="clip")
        return permuted
    keys = generator.integers(0, 1 << 16, rows.shape, np.uint16).argsort(axis=1, kind="stable")
    keys += np.arange(count)[:, None] * elements
    return rows.reshape(-1).take(keys)


def mixed(values: Floats, mean: Floats, targets: Indices, largest: Floats, generator: np.random.Generator) -> Floats:
    """Each element from another channel, brought to the target's size."""
    rows = values[generator.integers(0, values.shape[0], (targets.size, mean.size)), np.arange(mean.size)]
    wanted, size = (np.sqrt((r * r).mean(axis=1, keepdims=True)) for r in (values[targets], rows))
    return jittered(rows * (wanted / np.maximum(size, 1e-30)), generator, largest)
