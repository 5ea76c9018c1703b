"""How much work a file may ask of its readers."""

from __future__ import annotations

from corelocker.errors import MalformedArtifactError

# A language model of 80 blocks takes about a fourth of this; using it up takes a few seconds.
MAX_WORK = 2_000_000


class WorkBudget:
    """How many steps of work are left for an artifact.

    All readers of one artifact share a budget, because offsets may point many times at the same bytes: a small file could
    otherwise stand for a huge tree.
    """

    def __init__(self, steps: int = MAX_WORK) -> None:
        self._left = steps

    def spend(self, steps: int = 1) -> None:
        """Raises MalformedArtifactError when the budget is used up."""
        self._left -= steps
        if self._left < 0:
            raise MalformedArtifactError("the file describes more objects than any model has")
