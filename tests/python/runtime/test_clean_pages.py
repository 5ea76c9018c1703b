"""Reading a large private mapping: what was written stays, and what was not leaves memory."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from corelocker.runtime.clean_pages import PART, parts

SIZE = 3 * PART + 5 * mmap.PAGESIZE + 17


def resident_file_pages() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssFile")) * 1024


@pytest.mark.parametrize("written", [[], [0], [PART - 1, PART], [SIZE - 1], list(range(100, SIZE, 100_000))])
def test_what_was_written_stays(tmp_path: Path, written: list[int]) -> None:
    path = tmp_path / "file"
    original = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    original.tofile(path)
    expected = original.copy()
    expected[written] ^= 0xFF
    descriptor = os.open(path, os.O_RDONLY)
    with mmap.mmap(descriptor, SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        os.close(descriptor)
        for place in written:
            mapping[place] ^= 0xFF
        before = resident_file_pages() if sys.platform == "linux" else 0
        for _ in range(2):
            assert b"".join(bytes(part) for part in parts(mapping)) == expected.tobytes()
        if sys.platform == "linux":
            assert resident_file_pages() - before < PART
    assert path.read_bytes() == original.tobytes()
