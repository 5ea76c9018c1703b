"""Elements of less than a byte."""

from __future__ import annotations

from typing import Any

import numpy as np

PACKED = {
    "int4": (4, True),
    "uint4": (4, False),
    "uint6": (6, False),
    "uint3": (3, False),
    "uint2": (2, False),
    "uint1": (1, False),
}


def unpacked(raw: np.ndarray[Any, Any], count: int, bits: int, *, signed: bool = False) -> np.ndarray[Any, Any]:
    """Elements of `bits` bits, packed from the least significant bit on, int32 (count,)."""
    flags = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits).astype(np.int32)
    weights = 1 << np.arange(bits, dtype=np.int32)
    if signed:
        weights[-1] = -weights[-1]
    return flags @ weights
