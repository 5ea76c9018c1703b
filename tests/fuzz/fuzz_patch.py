"""Fuzzes the patch reader with atheris.

    PYTHONPATH=sdk/python python tests/fuzz/fuzz_patch.py [corpus folder] [-max_total_time=60 and other libFuzzer options]

Half of the inputs are patches as they are; the other half describe runs, so that the checks behind the structure are reached,
and what the reader says of overlaps is compared with a list of all bytes. Without a corpus it starts from the vectors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["corelocker"]):
    from corelocker.bundle import patch as module
    from corelocker.bundle.patch import Patch
    from corelocker.errors import PatchError, PatchOverlapError

VECTORS = Path(__file__).parents[1] / "vectors" / "patch.json"
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
    assert patch.extract(target) == patch.payload
    assert patch.digest(target) == hashlib.sha256(patch.payload).digest()


def described(provider: atheris.FuzzedDataProvider) -> None:
    """Well-formed runs inside a small file: ascending, of few strides."""
    module._CHUNK = provider.PickValueInList([1, 8, 1 << 20])
    strides = [provider.ConsumeIntInRange(1, 40) for _ in range(3)]
    runs, offset = [], provider.ConsumeIntInRange(0, 20)
    for _ in range(provider.ConsumeIntInRange(0, 16)):
        count = provider.ConsumeIntInRange(1, 16)
        stride = provider.PickValueInList(strides)
        length = provider.ConsumeIntInRange(1, stride)
        if count == 1:
            stride = length
        if offset + (count - 1) * stride + length <= SIZE:
            runs.append((offset, length, stride, count))
        offset += provider.ConsumeIntInRange(1, 40)
    at = [o + k * stride + i for o, length, stride, count in runs for k in range(count) for i in range(length)]
    payload = bytes(1 + place % 255 for place in at)
    header = struct.pack("<8sIIQ", b"CLPATCH1", len(runs), 0, len(payload))
    data = header + b"".join(struct.pack("<QIII", *run) for run in runs) + payload
    try:
        patch = Patch.parse(data, SIZE)
    except PatchOverlapError:
        assert len(set(at)) < len(at), runs
        return
    assert len(set(at)) == len(at), runs
    target = bytearray(SIZE)
    patch.apply(target)
    assert [place for place in range(SIZE) if target[place]] == sorted(at)
    assert all(target[place] == 1 + place % 255 for place in at)


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
