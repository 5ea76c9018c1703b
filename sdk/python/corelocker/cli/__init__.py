"""The command line. It is thin and has one file for each group of commands.

A command parses, calls one function of a package, and prints. Exit codes: 0 done, 1 refused (a typed error, printed
in one line or as JSON), 2 wrong usage.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corelocker.hashing import FileHashes

SWITCH = 0.0005  # seconds after which a thread that is ready gets the interpreter


def main() -> None:
    """Entry point of the `corelocker` script."""
    # OpenMP reads this when torch is loaded. Its threads spin while they wait for each other otherwise, which makes minutes of
    # seconds on a machine that is busy with something else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Those of NumPy's OpenBLAS do so from its import on, for 2^26 processor cycles; 2^4 is the least.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # What is imported stays: looking through it again and again for garbage takes a twentieth of the start-up.
    gc.set_threshold(100_000)
    with hashes_for(sys.argv[1:]) as hashes:
        from corelocker.cli.app import run

        code = run(sys.argv[1:], hashes)
    try:
        sys.stdout.flush()
    except OSError as error:  # a full disk, or a reader that has gone; the rest of it cannot be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"corelocker: standard output: {error.strerror or error} [file-access]", file=sys.stderr)
        code = code or 1
    gc.freeze()  # the interpreter ends by looking through all of it, too
    sys.exit(code)


def hashes_for(arguments: Sequence[str]) -> AbstractContextManager[FileHashes | None]:
    """The hashing of the files that `lock` is given, already begun: it takes one core as long as start-up takes the other."""
    if arguments[:1] != ["lock"]:
        return nullcontext()
    from corelocker.hashing import FileHashes

    sys.setswitchinterval(SWITCH)  # else the hashing stands still at each of its steps while something is imported
    hashes = FileHashes()
    for argument in takewhile(lambda argument: not argument.startswith("-"), arguments[1:]):
        if os.path.isfile(argument):
            hashes.begin(Path(argument))
    return hashes
