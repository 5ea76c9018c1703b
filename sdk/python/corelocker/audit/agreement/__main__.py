"""The process that measures: one request on standard input, its answer as lines of JSON on standard output.

The request is a line of JSON, and behind it the bytes of the patches that it names: they never lie on the disk. An answer is a line
{"progress": [done, total]}, and at the end {"result": ...} or {"missing": what is not installed}.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from typing import Any, BinaryIO

NEEDED = ("torch", "executorch", "safetensors")


def main() -> int:
    """Read, measure, answer."""
    begun = time.monotonic()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries print what they like
    line = sys.stdin.buffer.readline()
    request = json.loads(line)
    patches = sys.stdin.buffer.read()
    sys.path[:0] = [entry for entry in request["path"] if entry not in sys.path]
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _answer(answers, {"missing": missing[0]})
        return 0
    from corelocker.audit.agreement import runners, tasks
    from corelocker.audit.agreement.time_limit import TimeLimit

    runners.use_one_thread()
    task = {"measure": tasks.measure, "smallest": tasks.smallest, "base": tasks.beside_base}[request["task"]]
    limit = TimeLimit(request["seconds"] - (time.monotonic() - begun))  # importing torch counts
    result = task(request, patches, limit, lambda done, total: _answer(answers, {"progress": [done, total]}))
    _answer(answers, {"result": result})
    return 0


def _answer(stream: BinaryIO | Any, document: dict[str, Any]) -> None:
    stream.write(json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
