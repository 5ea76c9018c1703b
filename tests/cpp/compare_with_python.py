"""The C++ core and `corelocker.bundle` must say and do the same: the vectors, and random patches near the edges.

Of each patch both give the verdict. Where a patch is valid for a small file, both apply it to a random one and take the
samples before and after.

compare_with_python.py LIBCORELOCKER_CORE [ROUNDS]
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import random
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from corelocker.bundle.patch import Patch
from corelocker.bundle.sample import sample
from corelocker.errors import PatchError

VECTORS = Path(__file__).parents[1] / "vectors" / "patch.json"
LARGEST_FILE = 10_000
FILE_SIZES = (0, 1, 64, 200, 1000, 4096, LARGEST_FILE, 2**32, 2**63, 2**64 - 1)
EDGES = (0, 1, 2, 3, 7, 8, 2**16, 2**31, 2**32 - 1)


Sha256 = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_ubyte * 32)
)


class CorePatch(ctypes.Structure):
    """corelocker_patch."""

    _fields_ = (
        ("bytes", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("locked_sample", ctypes.c_char_p),
        ("restored_sample", ctypes.c_char_p),
        ("restored_sha256", ctypes.c_char_p),
    )


class CoreOptions(ctypes.Structure):
    """corelocker_options."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("patches", ctypes.POINTER(CorePatch)),
        ("patch_count", ctypes.c_size_t),
        ("file_size", ctypes.c_uint64),
        ("sha256", Sha256),
        ("sha256_context", ctypes.c_void_p),
        ("full_check", ctypes.c_int),
        ("locked_sha256", ctypes.c_char_p),
    )


@Sha256
def sha256(_context: int, data: int, size: int, digest: Any) -> int:
    ctypes.memmove(digest, hashlib.sha256(ctypes.string_at(data, size)).digest(), 32)
    return 0


class Core:
    """The C API through ctypes."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.corelocker_open_buffer.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.POINTER(CoreOptions),
            ctypes.POINTER(ctypes.c_void_p),
        )
        self._library.corelocker_close.argtypes = (ctypes.c_void_p,)
        self._library.corelocker_check_patch.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)
        self._library.corelocker_error_name.restype = ctypes.c_char_p

    def verdict(self, patch: bytes, file_size: int) -> str:
        name: bytes = self._library.corelocker_error_name(
            self._library.corelocker_check_patch(patch, len(patch), file_size)
        )
        return name.decode()

    def restore(self, file: bytes, patch: bytes, locked_sample: bytes, restored_sample: bytes, restored: bytes) -> str:
        """ "ok" when the core restores `file` to `restored` and takes these samples, else the error's name."""
        memory = ctypes.create_string_buffer(patch, len(patch))  # it is wiped
        digest = hashlib.sha256(restored).digest()
        address = ctypes.cast(memory, ctypes.c_char_p)
        entry = CorePatch(address, len(patch), locked_sample, restored_sample, digest)
        always = 3
        options = CoreOptions(
            ctypes.sizeof(CoreOptions), 0, ctypes.pointer(entry), 1, len(file), sha256, None, always, None
        )
        buffer, handle = ctypes.create_string_buffer(file, len(file)), ctypes.c_void_p()
        error = self._library.corelocker_open_buffer(buffer, len(file), options, ctypes.byref(handle))
        self._library.corelocker_close(handle)
        expected = file if error else restored
        if buffer.raw != expected or any(memory.raw):
            return "another file"
        name: bytes = self._library.corelocker_error_name(error)
        return name.decode()


def python_verdict(patch: bytes, file_size: int) -> str:
    try:
        Patch.parse(patch, file_size)
    except PatchError as error:
        return error.code
    return "ok"


def compare_restoring(core: Core, patch: bytes, file: bytes) -> str:
    """What the core says of restoring `file` to what Python makes of it."""
    parsed = Patch.parse(patch, len(file))
    before, after = np.frombuffer(file, np.uint8), np.frombuffer(bytearray(file), np.uint8)
    parsed.apply(after)
    samples = (sample(before, parsed.table), sample(after, parsed.table))
    return core.restore(file, patch, *samples, after.tobytes())


def random_shape(source: random.Random, offset: int, element: int) -> tuple[int, int, int, int]:
    if source.random() < 0.03:
        offset = source.choice((0, 2**32, 2**63, 2**64 - 8, 2**64 - 1))
    if source.random() < 0.03:
        return offset, source.choice(EDGES), source.choice(EDGES), source.choice(EDGES)
    length, count = source.randint(1, 6) * (element if source.random() < 0.99 else 1), source.choice((1, 1, 2, 3, 9))
    if source.random() < 0.05:
        length *= 40
    stride = length if count == 1 else source.choice((length, 8, 12, 16, length + source.randint(0, 20)))
    return offset, length, stride, count


def random_part(source: random.Random, kind: int, width: int, size: int) -> bytes:
    """The payload of a run whose pieces have `size` bytes; seldom wrong."""
    if kind == 0 or size > 10_000:
        return source.randbytes(min(size, 4096))
    table = bytearray(range(1 << width)) if kind == 3 else bytearray()
    for _ in range(source.randint(0, 9) if table else 0):
        i, j = source.randrange(len(table)), source.randrange(len(table))
        if table[i] == i and table[j] == j:
            table[i], table[j] = j, i
    if table and source.random() < 0.02:
        table[source.randrange(len(table))] = source.randrange(256)
    elements = size * 8 // width
    bits = source.getrandbits(elements) if elements else 0
    if source.random() < 0.05:
        bits |= 1 << elements
    length = -(-elements // 8)
    return bytes(table) + (bits & ((1 << 8 * length) - 1)).to_bytes(length, "little")


def random_patch(source: random.Random) -> bytes:
    rows, parts, offset = [], [], source.randint(0, 20)
    for _ in range(source.choice((0, 1, 2, 3, 5, 12))):
        kind, width = source.choice(((0, 0), (0, 0), (1, 16), (1, 32), (2, 4), (2, 8), (3, 4), (3, 8)))
        run = random_shape(source, offset, max(1, width // 8))
        constant = source.randrange(1 << width) if kind == 2 else 0
        kind_row = bytearray((kind, width, constant, 0))
        if source.random() < 0.01:
            kind_row[source.randrange(4)] = source.choice((1, 2, 4, 8, 16, 255))
        rows.append(struct.pack("<QIII", *run) + kind_row)
        parts.append(random_part(source, kind, width, run[1] * run[3]))
        offset += source.choice((0, 1, 2, 4, 5, 9, 30)) if source.random() < 0.3 else source.randint(1, 60)
    payload = b"".join(parts)
    stated = len(payload) if source.random() < 0.97 else source.choice((0, len(payload) + 1, 2**64 - 1))
    magic = b"CLPATCH2" if source.random() < 0.99 else b"CLPATCH1"
    patch = bytearray(magic + struct.pack("<IIQ", len(rows), 0, stated) + b"".join(rows) + payload)
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
    restored = 0
    for patch, file_size in cases:
        expected, actual = python_verdict(patch, file_size), core.verdict(patch, file_size)
        if expected != actual:
            sys.exit(f"Python says {expected}, C++ says {actual} for file size {file_size}: {patch.hex()}")
        counts[actual] += 1
        if actual == "ok" and file_size <= LARGEST_FILE:
            said = compare_restoring(core, patch, source.randbytes(file_size))
            if said != "ok":
                sys.exit(f"C++ does not restore as Python does ({said}) for file size {file_size}: {patch.hex()}")
            restored += 1
    print(
        f"{len(cases)} patches, the same verdicts: {dict(counts.most_common())}; {restored} restored to the same files"
    )
    if restored < rounds // 20:
        sys.exit("too few patches were valid")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
