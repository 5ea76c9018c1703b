"""The command line: thin, one file a group of commands. Work and checks live in the other packages.

Exit codes: 0 done, 1 refused (a typed error, printed in one line or as JSON), 2 wrong usage.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

HASHED = (".pte", ".ptd", ".safetensors")


def main() -> None:
    """Entry point of the `corelocker` script."""
    # numpy's BLAS would start a thread for each core, which spin beside the hashing; nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # torch's threads spin while they wait for each other, which takes minutes on a machine that is busy with something else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Importing makes many objects and no garbage: looking for it every 700 objects takes a tenth of the start.
    gc.set_threshold(10_000, 50)
    arguments = sys.argv[1:]
    from corelocker.digests import FileDigests

    # The digest of the original takes a third of a lock's processor time, and needs nothing of what takes long to import.
    with FileDigests(_models(arguments) if arguments[:1] == ["lock"] else ()) as originals:
        from corelocker.cli.app import run

        code = run(arguments, originals)
    try:
        sys.stdout.flush()
    except OSError as error:  # a full disk, or a reader that has gone; the rest of it cannot be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"corelocker: standard output: {error.strerror or error} [file-access]", file=sys.stderr)
        code = code or 1
    if "torch" in sys.modules or "uvicorn" in sys.modules:  # these have something to do at the end
        sys.exit(code)
    # Everything is written and closed; taking the modules apart would take as long as importing numpy.
    sys.stderr.flush()
    os._exit(code)


def _models(arguments: Sequence[str]) -> list[Path]:
    """The arguments that are files to lock; values of options are not."""
    return [
        Path(argument)
        for before, argument in pairwise(arguments)
        if not before.startswith("-") and argument.endswith(HASHED) and os.path.isfile(argument)
    ]
