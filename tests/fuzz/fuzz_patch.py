"""Fuzzes the patch reader with atheris.

    PYTHONPATH=sdk/python python tests/fuzz/fuzz_patch.py [corpus folder] [-max_total_time=60 and other libFuzzer options]

Half of the inputs are patches as they are; the other half describe runs, so that the checks behind the structure are reached.
What the reader says of overlaps is compared with a list of all bytes, and what it flips with the elements one by one. Without a
corpus it starts from the vectors.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.bundle import patch_overlap
    from corelocker.bundle.patch import Patch
    from corelocker.bundle.patch_runs import Kind
    from corelocker.errors import PatchError, PatchOverlapError, PatchTableError

VECTORS = Path(__file__).parents[1] / "vectors" / "patch.json"
WIDTHS = {Kind.REPLACE: [0], Kind.XOR_TOP: [16, 32], Kind.NEGATE: [4, 8], Kind.PERMUTE: [4, 8]}
SIZE = 600


def check(data: bytes, file_size: int) -> None:
    """A patch that is accepted keeps every promise of the format."""
    try:
        patch = Patch.parse(data, file_size)
    except PatchError:
        return
    assert patch.encode() == data
    assert patch.end <= file_size
    if file_size > 1 << 16:
        return
    target = bytearray(file_size)
    patch.apply(target)
    once = bytes(target)
    patch.apply(target)
    assert any(run.kind == Kind.REPLACE for run in patch.runs) or not any(target), "flipped twice"
    patch.apply(target)
    assert target == once


def described(provider: atheris.FuzzedDataProvider) -> None:
    """Well-formed runs inside a small file: ascending, of few strides, of all kinds."""
    patch_overlap._CHUNK = provider.PickValueInList([1, 8, 1 << 20])
    strides = [provider.ConsumeIntInRange(1, 40) for _ in range(3)]
    rows, at, payload, involutions = [], [], b"", True
    before = bytes(1 + place * 37 % 255 for place in range(SIZE))
    expected = bytearray(before)
    offset = provider.ConsumeIntInRange(0, 20)
    for _ in range(provider.ConsumeIntInRange(0, 16)):
        kind = provider.PickValueInList(list(Kind))
        width = provider.PickValueInList(WIDTHS[kind])
        count = provider.ConsumeIntInRange(1, 16)
        stride = provider.PickValueInList(strides)
        unit = max(1, width // 8)
        length = provider.ConsumeIntInRange(1, max(1, stride // unit)) * unit
        stride = length if count == 1 else max(stride, length)
        constant = provider.ConsumeIntInRange(0, (1 << width) - 1) if kind == Kind.NEGATE else 0
        if offset + (count - 1) * stride + length <= SIZE:
            rows.append((offset, length, stride, count, kind, width, constant))
            places = [offset + k * stride + i for k in range(count) for i in range(length)]
            at += places
            part, good = naive(provider, expected, places, rows[-1])
            payload += part
            involutions &= good
        offset += provider.ConsumeIntInRange(1, 40)
    header = struct.pack("<8sIIQ", b"CLPATCH2", len(rows), 0, len(payload))
    data = header + b"".join(struct.pack("<QIIIBBBx", *row) for row in rows) + payload
    try:
        patch = Patch.parse(data, SIZE)
    except PatchOverlapError:
        assert len(set(at)) < len(at), rows
        return
    except PatchTableError:
        assert len(set(at)) == len(at), rows
        assert not involutions, rows
        return
    assert len(set(at)) == len(at), rows
    assert involutions, rows
    target = bytearray(before)
    patch.apply(target)
    assert target == expected, rows


def naive(
    provider: atheris.FuzzedDataProvider, file: bytearray, places: list[int], row: tuple[int, ...]
) -> tuple[bytes, bool]:
    """Draw a run's payload part and apply it to the file; whether its table is its own inverse."""
    kind, width, constant = row[4:]
    if kind == Kind.REPLACE:
        put_in = bytes(255 - place % 256 for place in places)
        for place, byte in zip(places, put_in, strict=True):
            file[place] = byte
        return put_in, True
    table = list(range(1 << width)) if kind == Kind.PERMUTE else []
    for _ in range(provider.ConsumeIntInRange(0, 4)) if table else ():
        one, two = (provider.ConsumeIntInRange(0, len(table) - 1) for _ in range(2))
        table[one], table[two] = table[two], table[one]
    good = all(table[table[e]] == e for e in range(len(table)))
    elements = len(places) * 8 // width
    bits = [provider.ConsumeBool() for _ in range(elements)]
    for i in range(elements if good else 0):
        size = max(1, width // 8)
        where = places[i * size : (i + 1) * size] if width >= 8 else [places[i // 2]]
        old = int.from_bytes(bytes(file[p] for p in where), "little")
        shift = 4 * (i % 2) if width == 4 else 0
        element = old >> shift & ((1 << width) - 1)
        if bits[i]:
            new = element ^ 1 << width - 1 if kind == Kind.XOR_TOP else (
                (constant - element) % (1 << width) if kind == Kind.NEGATE else table[element]
            )  # fmt: skip
            for place, byte in zip(where, (old ^ (element ^ new) << shift).to_bytes(size, "little"), strict=True):
                file[place] = byte
    mask = bytearray(-(-elements // 8))
    for i, bit in enumerate(bits):
        mask[i // 8] |= bit << i % 8
    return bytes(table) + bytes(mask), good


def one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    if data[0] & 1:
        described(atheris.FuzzedDataProvider(data[1:]))
    else:
        check(data[3:], int.from_bytes(data[1:3], "little") << (data[0] >> 1) % 49)


def main() -> None:
    with tempfile.TemporaryDirectory() as seeds:
        for vector in json.loads(VECTORS.read_text())["vectors"]:
            start = b"\0" + struct.pack("<H", min(vector["file_size"], 0xFFFF))
            (Path(seeds) / vector["name"]).write_bytes(start + base64.b64decode(vector["patch"]))
        given = any(not argument.startswith("-") for argument in sys.argv[1:])
        atheris.Setup(sys.argv if given else [*sys.argv, seeds], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
