"""The C++ core and `corelocker.bundle.patch` must say the same of any patch: the vectors, and random ones near the edges.

compare_with_python.py LIBCORELOCKER_CORE [ROUNDS]
"""

from __future__ import annotations

import base64
import ctypes
import json
import random
import struct
import sys
from collections import Counter
from pathlib import Path

from corelocker.bundle.patch import Patch
from corelocker.errors import PatchError

VECTORS = Path(__file__).parents[1] / "vectors" / "patch.json"
FILE_SIZES = (0, 1, 64, 200, 4096, 2**32, 2**63, 2**64 - 1)
EDGES = (0, 1, 2, 3, 7, 8, 2**16, 2**31, 2**32 - 1)


class Core:
    """The C API through ctypes."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.corelocker_check_patch.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)
        self._library.corelocker_error_name.restype = ctypes.c_char_p

    def verdict(self, patch: bytes, file_size: int) -> str:
        name: bytes = self._library.corelocker_error_name(
            self._library.corelocker_check_patch(patch, len(patch), file_size)
        )
        return name.decode()


def python_verdict(patch: bytes, file_size: int) -> str:
    try:
        Patch.parse(patch, file_size)
    except PatchError as error:
        return error.code
    return "ok"


def random_run(source: random.Random, offset: int) -> tuple[int, int, int, int]:
    if source.random() < 0.03:
        offset = source.choice((0, 2**32, 2**63, 2**64 - 8, 2**64 - 1))
    if source.random() < 0.03:
        return offset, source.choice(EDGES), source.choice(EDGES), source.choice(EDGES)
    length, count = source.randint(1, 6), source.choice((1, 1, 2, 3, 9))
    stride = length if count == 1 else source.choice((length, 8, 12, 16, length + source.randint(0, 20)))
    return offset, length, stride, count


def random_patch(source: random.Random) -> bytes:
    runs, offset = [], source.randint(0, 20)
    for _ in range(source.choice((0, 1, 2, 3, 5, 12))):
        runs.append(random_run(source, offset))
        offset += source.choice((0, 1, 2, 4, 5, 9, 30)) if source.random() < 0.3 else source.randint(1, 12)
    size = sum(length * count for _, length, _, count in runs)
    payload = bytes(min(size, 4096))
    stated = size if source.random() < 0.97 else source.choice((0, size + 1, 2**64 - 1))
    patch = bytearray(b"CLPATCH1" + struct.pack("<IIQ", len(runs), 0, stated & (2**64 - 1)))
    patch += b"".join(struct.pack("<QIII", *run) for run in runs) + payload
    if source.random() < 0.1:
        patch[source.randrange(len(patch))] ^= 1 << source.randrange(8)
    if source.random() < 0.05:
        del patch[source.randrange(len(patch) + 1) :]
    if source.random() < 0.05:
        patch += bytes(source.randint(1, 30))
    return bytes(patch)


def main(library: str, rounds: int) -> None:
    core, source = Core(library), random.Random(3)
    cases = [(base64.b64decode(v["patch"]), v["file_size"]) for v in json.loads(VECTORS.read_text())["vectors"]]
    cases += [(random_patch(source), source.choice(FILE_SIZES)) for _ in range(rounds)]
    counts: Counter[str] = Counter()
    for patch, file_size in cases:
        expected, actual = python_verdict(patch, file_size), core.verdict(patch, file_size)
        if expected != actual:
            sys.exit(f"Python says {expected}, C++ says {actual} for file size {file_size}: {patch.hex()}")
        counts[actual] += 1
    print(f"{len(cases)} patches, the same verdicts: {dict(counts.most_common())}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
