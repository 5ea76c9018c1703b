"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, how much of it is done, and how much there is."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""
