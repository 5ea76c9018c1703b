"""What the groups of one plan share: how far their decoys' ranks lean so far, and who may use that next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from corelocker.artifacts.weights import Floats
from corelocker.locking.fill.statistics import CODE_STATISTICS, STATISTICS, spread


@dataclass
class RankBias:
    """Running sums over all layers of how far the decoys' ranks lie from those of a fair draw.

    For each statistic the first sum sees decoys that tend to be large or small, the second decoys that crowd the middle.
    """

    lean: Floats = field(default_factory=lambda: np.zeros(len(STATISTICS + CODE_STATISTICS), np.float32))
    crowd: Floats = field(default_factory=lambda: np.zeros(len(STATISTICS + CODE_STATISTICS), np.float32))

    def add(self, places: Floats, ranks: Floats) -> None:
        """Take in the ranks of decoys, (n, len(STATISTICS + CODE_STATISTICS)), and for comparison those of all their pool."""
        self.lean += (places - 0.5).sum(axis=0)
        self.crowd += (np.abs(places - 0.5) - spread(ranks)).sum(axis=0)


class Ticket:
    """A group's place in the order in which groups use the bias of all groups (as in a ticket lock).

    Groups are filled side by side in threads, but they aim one after the other, so a plan always gives the same decoys.

    Args:
        bias: shared by all groups.
        before: the ticket of the group before.
        draws: how often this group will take the bias.
    """

    def __init__(self, bias: RankBias, before: Ticket | None = None, draws: int = 1) -> None:
        self._bias = bias
        self._before = before
        self._draws = draws
        self._over = threading.Event()

    @contextmanager
    def bias(self) -> Iterator[RankBias]:
        """The bias, once every group before has had it."""
        if self._before is not None:
            self._before._over.wait()
            self._before = None
        yield self._bias
        self._draws -= 1
        if self._draws <= 0:
            self.end()

    def end(self) -> None:
        """Let the next group go on; also when this one failed."""
        self._over.set()
