"""The command line. It is thin and has one file for each group of commands.

A command parses, calls one function of a package, and prints. Exit codes: 0 done, 1 refused (a typed error, printed
in one line or as JSON), 2 wrong usage.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Entry point of the `corelocker` script."""
    # OpenMP reads this when torch is loaded. Its threads spin while they wait for each other otherwise, which makes minutes of
    # seconds on a machine that is busy with something else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What is imported stays: looking through it again and again for garbage takes a twentieth of the start-up.
    gc.set_threshold(5_000)
    from corelocker.cli.app import run

    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:  # a full disk, or a reader that has gone; the rest of it cannot be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"corelocker: standard output: {error.strerror or error} [file-access]", file=sys.stderr)
        code = code or 1
    sys.exit(code)
