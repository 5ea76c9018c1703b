"""Patch and sample as docs/formats.md says them, bit by bit: what the vectors are made and checked with.

Nothing of the package is used.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Vector = dict[str, Any]

U32 = 2**32 - 1
U64 = 2**64 - 1
REPLACE, XOR_TOP, NEGATE, PERMUTE = range(4)


class Run(NamedTuple):
    """A run with its payload part: bytes to put in are the restored file's, a flip brings its table and mask."""

    offset: int
    length: int
    stride: int
    count: int  # type: ignore[assignment]  # the tuple method of that name is not used
    kind: int = REPLACE
    width: int = 0
    constant: int = 0
    reserved: int = 0
    table: bytes = b""
    mask: bytes = b""

    @property
    def elements(self) -> int:
        return self.length * self.count * 8 // self.width


AnyRun = Run | tuple[int, int, int, int]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def filler(size: int, seed: int = 0) -> bytes:
    """Bytes that repeat late and are never 0, so that a zeroed place shows."""
    return bytes(1 + (i * 167 + i // 255 + seed * 29) % 255 for i in range(size))


def some_bits(count: int, seed: int = 0) -> list[int]:
    """Bits without a short period."""
    return [sha256(b"bit %d %d" % (i, seed))[0] & 1 for i in range(count)]


def packed(bits: Sequence[int]) -> bytes:
    """Bit i at bit i mod 8 of byte i / 8."""
    mask = bytearray(-(-len(bits) // 8))
    for i, bit in enumerate(bits):
        mask[i // 8] |= bit << i % 8
    return bytes(mask)


def flip_run(
    place: tuple[int, int, int, int],
    kind: int,
    width: int,
    bits: Sequence[int] | None = None,
    *,
    constant: int = 0,
    table: bytes = b"",
    seed: int = 0,
) -> Run:
    """A flipping run; without `bits`, some of its elements are flipped."""
    run = Run(*place, kind, width, constant, 0, table)
    return run._replace(mask=packed(some_bits(run.elements, seed) if bits is None else bits))


def all_bits(place: tuple[int, int, int, int], kind: int, width: int, **more: Any) -> Run:
    """A flipping run that flips every element."""
    _, length, _, count = place
    return flip_run(place, kind, width, [1] * (length * count * 8 // width), **more)


def places(runs: Iterable[AnyRun]) -> list[int]:
    """Every byte that the runs name, in run order."""
    found = []
    for given in runs:
        offset, length, stride, count, *_ = given
        found += [offset + piece * stride + i for piece in range(count) for i in range(length)]
    return found


def patch_bytes(
    runs: Sequence[AnyRun],
    payload: bytes,
    *,
    magic: bytes = b"CLPATCH2",
    count: int | None = None,
    reserved: int = 0,
    payload_size: int | None = None,
) -> bytes:
    """The encoded patch, or one with a wrong field."""
    count = len(runs) if count is None else count
    payload_size = len(payload) if payload_size is None else payload_size
    header = struct.pack("<8sIIQ", magic, count, reserved, payload_size)
    return header + b"".join(struct.pack("<QIIIBBBB", *Run(*run)[:8]) for run in runs) + payload


def patch_to(runs: Sequence[AnyRun], restored: bytes) -> bytes:
    """The patch that leads to the file `restored`."""
    parts = []
    for given in runs:
        run = Run(*given)
        at = places([run])
        parts.append(bytes(restored[i] for i in at) if run.kind == REPLACE else run.table + run.mask)
    return patch_bytes(runs, b"".join(parts))


def flipped_element(run: Run, element: int) -> int:
    if run.kind == XOR_TOP:
        return element ^ 1 << run.width - 1
    if run.kind == NEGATE:
        return (run.constant - element) % (1 << run.width)
    return run.table[element]


def with_flips(file: bytes, runs: Iterable[AnyRun]) -> bytes:
    """The file with the flipping runs applied, element by element."""
    changed = bytearray(file)
    for given in runs:
        run = Run(*given)
        if run.kind == REPLACE:
            continue
        at = places([run])
        for i in range(run.elements):
            if not run.mask[i // 8] >> i % 8 & 1:
                continue
            if run.width == 4:
                place, shift = at[i // 2], 4 * (i % 2)
                old = changed[place] >> shift & 15
                changed[place] ^= (old ^ flipped_element(run, old)) << shift
            else:
                size = run.width // 8
                where = at[i * size : (i + 1) * size]
                old = int.from_bytes(bytes(changed[p] for p in where), "little")
                new = flipped_element(run, old).to_bytes(size, "little")
                for p, byte in zip(where, new, strict=True):
                    changed[p] = byte
    return bytes(changed)


def before(restored: bytes, runs: Sequence[AnyRun], fill: int | None = 0) -> bytes:
    """A file that the patch with these runs restores: flipped, and with `fill` in the place of bytes that are put in."""
    locked = bytearray(with_flips(restored, runs))
    for place in places(run for run in runs if Run(*run).kind == REPLACE):
        if fill is not None:
            locked[place] = fill
    return bytes(locked)


def sample_of(file: bytes, runs: Iterable[AnyRun]) -> bytes:
    """The sample of a file with the runs of a patch."""
    size = len(file)
    data = b"corelocker sample v1" + struct.pack("<Q", size)
    if size <= 4096:
        data += file
    else:
        for i in range(64):
            start = i * (size - 64) // 63
            data += file[start : start + 64]
    for given in runs:
        offset, length, stride, count, *_ = given
        data += file[offset : offset + min(length, 64)]
        if count > 1 or length > 64:
            end = offset + (count - 1) * stride + length
            data += file[end - min(length, 64) : end]
    return sha256(data)
