"""Decoys as floats: which remaining channel each imitates, and the best of several candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from corelocker.artifacts.weights import Floats
from corelocker.locking.fill.candidates import WIDE, deviated, mixed, shuffled, wanted_reach
from corelocker.locking.fill.ordering import RankBias, Ticket
from corelocker.locking.fill.statistics import STATISTICS, ranks_among, spread, statistics
from corelocker.locking.layout import Indices

DRAWS = 48  # sets of targets that compete
TRIED = 1 << 19  # numbers that are tried at a time


def draw_decoys(
    values: Floats, shown: Floats, count: int, generator: np.random.Generator, ticket: Ticket
) -> tuple[Floats, Indices]:
    """`count` decoys (count, elements) and for each the row of `values` that it imitates.

    `shown` holds what else can be seen of those rows (`code_statistics`); a decoy takes it over from its target.

    In a wide layer any one candidate has its target's statistics; in a narrow one the nearest of several is taken.
    """
    elements = values.shape[1]
    mean = values.mean(axis=0)
    table = statistics(values, mean)
    sorted_table = np.sort(table, axis=0)
    ranks, reaches = ranks_among(sorted_table, table), table[:, STATISTICS.index("max")]
    shown_ranks = ranks_among(np.sort(shown, axis=0), shown)
    all_ranks = np.concatenate([ranks, shown_ranks], axis=1)

    def misfit(candidates: Floats, of: Indices) -> tuple[Floats, Floats]:
        places = ranks_among(sorted_table, statistics(candidates, mean, values.shape[0]))
        return ((places - ranks[of]) ** 2).sum(axis=1), places

    ways: tuple[Callable[..., Floats], ...] = (shuffled, deviated, mixed)
    if elements >= WIDE:
        with ticket.bias() as bias:
            targets = _targets(all_ranks, count, generator, bias)
            bias.add(all_ranks[targets], all_ranks)
        # Which way suits is a matter of the layer's structure: try them on a few targets, then keep to one. Not `mixed`: with
        # one candidate each, decoys would all have the same kurtosis.
        few, largest = targets[:8], wanted_reach(reaches, targets, generator)
        errors = [float(misfit(way(values, mean, few, largest[:8], generator), few)[0].sum()) for way in ways[:2]]
        return ways[int(np.argmin(errors))](values, mean, targets, largest, generator), targets
    tries = min(2 * WIDE // elements, 16)
    step = max(1, TRIED // (len(ways) * tries * elements))
    with ticket.bias() as bias:
        targets = _targets(all_ranks, count, generator, bias)
        decoys, places = np.empty((count, elements), np.float32), all_ranks[targets]
        for first in range(0, count, step):
            of = np.repeat(targets[first : first + step], tries)
            largest = wanted_reach(reaches, of, generator)
            rivals = np.stack([way(values, mean, of, largest, generator) for way in ways])
            away, found = misfit(rivals.reshape(-1, elements), np.tile(of, len(ways)))
            # (ways, targets, tries) -> the nearest of each target's rivals
            best = np.argmin(away.reshape(len(ways), -1, tries).swapaxes(0, 1).reshape(of.size // tries, -1), axis=1)
            way, trial = np.divmod(best, tries)
            chosen = (way, np.arange(best.size) * tries + trial)
            rows = slice(first, first + best.size)
            decoys[rows] = rivals[chosen]
            places[rows, : found.shape[1]] = found.reshape(*rivals.shape[:2], -1)[chosen]
        bias.add(places, all_ranks)
    return decoys, targets


def _targets(ranks: Floats, count: int, generator: np.random.Generator, bias: RankBias) -> Indices:
    """The rows to imitate: of several random sets the one that leaves the decoys' ranks most like a fair draw."""
    n = ranks.shape[0]
    best, best_cost, expected = np.zeros(count, np.int64), np.inf, spread(ranks)
    step = max(1, TRIED // (count * ranks.shape[1]))
    for first in range(0, DRAWS, step):
        draws = min(step, DRAWS - first)
        if count > n:
            sets = generator.integers(0, n, (draws, count))
        else:
            sets = generator.permuted(np.broadcast_to(np.arange(n), (draws, n)), axis=1)[:, :count]
        off = ranks[sets] - np.float32(0.5)
        lean, crowd = off.sum(axis=1), (np.abs(off) - expected).sum(axis=1)
        costs = ((bias.lean + lean) ** 2 + 4 * (bias.crowd + crowd) ** 2 + lean**2 / count).sum(axis=1)
        least = int(np.argmin(costs))
        if costs[least] < best_cost:
            best, best_cost = sets[least], float(costs[least])
    return best
