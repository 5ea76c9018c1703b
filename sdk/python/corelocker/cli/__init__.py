"""The command line: thin, one file a group of commands. Work and checks live in the other packages.

Exit codes: 0 done, 1 refused (a typed error, printed in one line or as JSON), 2 wrong usage.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `corelocker` script."""
    from corelocker.cli.app import run

    sys.exit(run(sys.argv[1:]))
