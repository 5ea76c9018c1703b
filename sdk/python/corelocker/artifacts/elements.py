"""Element types of weights as they lie in files, between bytes and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corelocker.files import Bytes

Numbers = npt.NDArray[np.float32] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class ElementType:
    """How one element is stored, little-endian.

    Attributes:
        name: as in the safetensors and ExecuTorch documentation ("float16", "int4", ...).
        bits: width; below 8 the elements are packed from the least significant bit on.
        is_float: floating point, else an integer code.
        signed: two's complement, for integers.
        high_first: of two 4-bit elements in a byte, the first is in the upper half.
    """

    name: str
    bits: int
    is_float: bool
    signed: bool = True
    high_first: bool = False

    @property
    def low(self) -> int:
        """Smallest integer code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest integer code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def decode(self, raw: Bytes) -> Numbers:
        """uint8 (n, bytes) -> float32 (n, elements) for floats, int32 (n, elements) for codes; may share memory with `raw`."""
        if self.name == "bfloat16":
            widened = raw.view("<u2").astype(np.uint32) << 16
            return widened.view(np.float32)
        if self.is_float:
            return raw.view(f"<f{self.bits // 8}").astype(np.float32, copy=False)
        if self.bits >= 8:
            return raw.view(f"<{'i' if self.signed else 'u'}{self.bits // 8}").astype(np.int32, copy=False)
        if self.bits == 4:
            codes = np.empty((raw.shape[0], raw.shape[1] * 2), np.int32)
            codes[:, int(self.high_first) :: 2] = raw & 15
            codes[:, int(not self.high_first) :: 2] = raw >> 4
        else:
            bits = np.unpackbits(raw, axis=1, bitorder="little").reshape(raw.shape[0], -1, self.bits)
            codes = np.asarray(bits.astype(np.int32) @ (1 << np.arange(self.bits, dtype=np.int32)), np.int32)
        return (codes ^ (1 << (self.bits - 1))) - (1 << (self.bits - 1)) if self.signed else codes

    def encode(self, numbers: Numbers) -> Bytes:
        """(n, elements) -> uint8 (n, bytes); integer codes are clipped to the type's range, floats stay finite."""
        if self.is_float:
            if self.name == "bfloat16":
                bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
                rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
                return np.ascontiguousarray(rounded.astype("<u2")).view(np.uint8)
            limit = np.finfo(f"f{self.bits // 8}").max
            clipped = np.clip(numbers, -float(limit), float(limit))
            return np.ascontiguousarray(clipped, f"<f{self.bits // 8}").view(np.uint8)
        codes = np.clip(np.rint(numbers), self.low, self.high).astype(np.int64)
        if self.bits >= 8:
            kind = "i" if self.signed else "u"
            return np.ascontiguousarray(codes.astype(f"<{kind}{self.bits // 8}")).view(np.uint8)
        if self.high_first:
            codes = codes.reshape(codes.shape[0], -1, 2)[:, :, ::-1].reshape(codes.shape)
        codes &= (1 << self.bits) - 1
        packed = (codes[:, :, None] >> np.arange(self.bits)) & 1
        return np.packbits(packed.astype(np.uint8).reshape(codes.shape[0], -1), axis=1, bitorder="little")


FLOAT32 = ElementType("float32", 32, True)
FLOAT16 = ElementType("float16", 16, True)
BFLOAT16 = ElementType("bfloat16", 16, True)
INT32 = ElementType("int32", 32, False)
INT8 = ElementType("int8", 8, False)
UINT8 = ElementType("uint8", 8, False, signed=False)
INT4 = ElementType("int4", 4, False)
UINT6 = ElementType("uint6", 6, False, signed=False)
UINT4 = ElementType("uint4", 4, False, signed=False)
UINT4_HIGH_FIRST = ElementType("uint4", 4, False, signed=False, high_first=True)
UINT3 = ElementType("uint3", 3, False, signed=False)
UINT2 = ElementType("uint2", 2, False, signed=False)
UINT1 = ElementType("uint1", 1, False, signed=False)
