"""An encoded patch that is made part by part, so that a large one is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from corelocker.bundle.patch import bytes_of, patch_start
from corelocker.bundle.patch_runs import Table, total_size
from corelocker.errors import PatchPayloadError

if TYPE_CHECKING:
    from corelocker.bundle.patch import Data


@dataclass(frozen=True)
class PatchStream:
    """A patch to be written.

    Attributes:
        table: its runs (n,), checked, ascending by offset.
        pieces: makes the payload in run order, cut anywhere; called for each reading.
    """

    table: Table = field(repr=False)
    pieces: Callable[[], Iterable[Data]] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the encoded patch."""
        return len(patch_start(self.table)) + total_size(self.table)

    def parts(self) -> Iterator[memoryview]:
        """The encoded patch. A part counts until the next one is asked for.

        Raises PatchPayloadError when the pieces hold more or less than the runs take.
        """
        yield memoryview(patch_start(self.table))
        left = total_size(self.table)
        for piece in self.pieces():
            part = bytes_of(piece)
            left -= len(part)
            if left < 0:
                break
            yield part
        if left:
            raise PatchPayloadError(
                f"the pieces hold {abs(left)} bytes {'more' if left < 0 else 'less'} than the runs take"
            )
