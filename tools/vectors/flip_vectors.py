"""The vectors of patches with flipping runs, in patch.json."""

from __future__ import annotations

import struct

from naive_patch import (
    NEGATE,
    PERMUTE,
    U32,
    XOR_TOP,
    Run,
    Vector,
    all_bits,
    base64_of,
    filler,
    flip_run,
    patch_bytes,
    with_flips,
)
from patch_vectors import parses, restores, wrong

EVERY_BYTE = bytes(range(256))
REVERSED_8, REVERSED_4 = bytes(reversed(range(256))), bytes(reversed(range(16)))
SWAPPED_4 = bytes([1, 0, *range(2, 14), 15, 14])
CYCLE_8 = bytes([1, 2, 0, *range(3, 256)])
FLOATS = (0.0, -0.0, 1.5, -2.25, float("inf"), float("-inf"), 1e-45, 3e38)


def flip_vectors() -> list[Vector]:
    """All of them."""
    return [*float_vectors(), *integer_vectors(), *mixed_vectors(), *kind_vectors(), *part_vectors()]


def float_vectors() -> list[Vector]:
    nan = struct.pack("<I", 0x7FC00123)
    singles = struct.pack("<8f", *FLOATS) + nan
    halves = struct.pack("<8e", 0.0, -0.0, 1.5, -2.25, float("inf"), float("-inf"), 6e-8, 65504.0)
    return [
        restores(
            "fp32-signs", "every element, zeros, infinities and NaN too: only the top bit changes", 36,
            [all_bits((0, 36, 36, 1), XOR_TOP, 32)], original=singles,
        ),
        restores("fp32-some", "the first and third of three, as in docs/formats.md", 16,
                 [(2, 2, 2, 1), flip_run((4, 12, 12, 1), XOR_TOP, 32, [1, 0, 1])]),
        restores("fp32-none", "a mask of zeros changes nothing", 24, [flip_run((4, 16, 16, 1), XOR_TOP, 32, [0] * 4)]),
        restores("fp32-one-element", "the smallest run", 8, [flip_run((4, 4, 4, 1), XOR_TOP, 32, [1])]),
        restores("fp32-eight-elements", "no padding bits", 40, [flip_run((4, 32, 32, 1), XOR_TOP, 32)]),
        restores("fp32-nine-elements", "a second byte of the mask with seven padding bits", 40,
                 [flip_run((4, 36, 36, 1), XOR_TOP, 32, [0] * 8 + [1])]),
        restores("fp32-unaligned", "elements begin at odd offsets", 50, [flip_run((3, 44, 44, 1), XOR_TOP, 32)]),
        restores("fp32-whole-file", "", 64, [flip_run((0, 64, 64, 1), XOR_TOP, 32)]),
        restores("fp32-many", "more than a vector register and a mask byte at a time", 4 * 1031,
                 [flip_run((0, 4 * 1031, 4 * 1031, 1), XOR_TOP, 32)]),
        restores("fp16-signs", "", 16, [all_bits((0, 16, 16, 1), XOR_TOP, 16)], original=halves),
        restores("bf16-some", "bf16 has its sign where fp16 has it", 70, [flip_run((1, 66, 66, 1), XOR_TOP, 16)]),
        restores("fp32-strided", "one depthwise filter: 9 floats, 6 channels; the mask runs on from piece to piece", 216,
                 [flip_run((8, 4, 24, 9), XOR_TOP, 32)]),
        restores("fp32-strided-pairs", "two elements in a piece, 11 pieces", 240, [flip_run((4, 8, 20, 11), XOR_TOP, 32)]),
        restores("fp32-odd-stride", "the stride is no multiple of the element", 60, [flip_run((1, 4, 7, 8), XOR_TOP, 32)]),
        restores("fp32-touching-pieces", "stride = length", 48, [flip_run((4, 8, 8, 5), XOR_TOP, 32)]),
        restores("fp16-strided", "three elements in a piece", 100, [flip_run((2, 6, 10, 9), XOR_TOP, 16)]),
        restores("fp32-interleaved", "channels 0 and 2 of 3, under masks of their own", 108,
                 [flip_run((0, 4, 12, 9), XOR_TOP, 32, seed=1), flip_run((8, 4, 12, 9), XOR_TOP, 32, seed=2)]),
    ]  # fmt: skip


def integer_vectors() -> list[Vector]:
    def every(name: str, comment: str, kind: int, width: int, constant: int = 0, table: bytes = b"") -> Vector:
        """Every element with every value, all flipped."""
        run = all_bits((0, 256, 256, 1), kind, width, constant=constant, table=table)
        return restores(name, comment, 256, [run], original=EVERY_BYTE)

    return [
        every("int8-0", "two's complement: 0 and -128 are their own negatives", NEGATE, 8),
        every("int8-1", "", NEGATE, 8, 1),
        every("int8-128", "zero point 64", NEGATE, 8, 128),
        every("int8-254", "zero point 127 or 255", NEGATE, 8, 254),
        every("int8-255", "the largest constant", NEGATE, 8, 255),
        every("int4-0", "value + 8: nibble 8 is zero, nibble 0 its own partner", NEGATE, 4),
        every("int4-1", "", NEGATE, 4, 1),
        every("int4-8", "zero point 4", NEGATE, 4, 8),
        every("int4-15", "the largest constant", NEGATE, 4, 15),
        every("table8-reversed", "a palette in reverse", PERMUTE, 8, table=REVERSED_8),
        every("table8-identity", "nothing changes", PERMUTE, 8, table=EVERY_BYTE),
        every("table8-swaps", "two pairs change, the others stay", PERMUTE, 8,
              table=bytes([9, *range(1, 9), 0, *range(10, 254), 255, 254])),
        every("table4-reversed", "", PERMUTE, 4, table=REVERSED_4),
        every("table4-identity", "", PERMUTE, 4, table=bytes(range(16))),
        every("table4-swaps", "", PERMUTE, 4, table=SWAPPED_4),
        restores("int8-some", "", 30, [flip_run((3, 21, 21, 1), NEGATE, 8, constant=6)]),
        restores("int8-one", "", 3, [flip_run((1, 1, 1, 1), NEGATE, 8, [1])]),
        restores("int8-strided", "three elements in a piece, 7 pieces", 60, [flip_run((2, 3, 8, 7), NEGATE, 8)]),
        restores("int8-zero-points", "a run for each zero point, interleaved", 48,
                 [all_bits((c, 1, 4, 12), NEGATE, 8, constant=2 * c) for c in range(4)]),
        restores("int4-low-nibble", "the first element is the low nibble of the first byte", 4,
                 [flip_run((1, 2, 2, 1), NEGATE, 4, [1, 0, 0, 0])]),
        restores("int4-high-nibble", "the second element is the high nibble", 4,
                 [flip_run((1, 2, 2, 1), NEGATE, 4, [0, 1, 0, 0])]),
        restores("int4-odd-length", "six elements, two padding bits", 8, [flip_run((2, 3, 3, 1), NEGATE, 4)]),
        restores("int4-strided", "pieces of one byte, two elements each", 40, [flip_run((1, 1, 3, 13), NEGATE, 4, constant=7)]),
        restores("int4-many", "", 700, [flip_run((5, 691, 691, 1), NEGATE, 4, constant=2)]),
        restores("int8-many", "", 700, [flip_run((5, 691, 691, 1), NEGATE, 8, constant=77)]),
        restores("table8-some", "", 90, [flip_run((1, 83, 83, 1), PERMUTE, 8, table=REVERSED_8)]),
        restores("table4-some", "", 90, [flip_run((1, 83, 83, 1), PERMUTE, 4, table=SWAPPED_4)]),
        restores("table4-strided", "", 90, [flip_run((1, 3, 11, 8), PERMUTE, 4, table=REVERSED_4)]),
    ]  # fmt: skip


def mixed_vectors() -> list[Vector]:
    return [
        restores("kinds-in-turn", "one run of each kind", 120,
                 [(0, 5, 5, 1), flip_run((8, 16, 16, 1), XOR_TOP, 32), flip_run((24, 9, 9, 1), NEGATE, 8, constant=4),
                  flip_run((40, 9, 9, 1), NEGATE, 4), flip_run((50, 30, 30, 1), PERMUTE, 8, table=REVERSED_8),
                  flip_run((90, 30, 30, 1), PERMUTE, 4, table=SWAPPED_4)]),
        restores("replace-between-flips", "a name in the gap of a strided flip", 64,
                 [flip_run((0, 4, 16, 4), XOR_TOP, 32), (20, 6, 6, 1), flip_run((28, 4, 4, 1), NEGATE, 8)]),
        restores("flips-between-replaced", "", 64, [(0, 4, 16, 4), flip_run((4, 8, 16, 4), XOR_TOP, 16)]),
        restores("kinds-interleaved", "four runs of one stride, a kind each", 96,
                 [(0, 3, 12, 8), flip_run((3, 4, 12, 8), XOR_TOP, 32), flip_run((7, 2, 12, 8), NEGATE, 4, constant=3),
                  flip_run((9, 3, 12, 8), PERMUTE, 8, table=REVERSED_8)]),
        restores("flip-beside-element", "a byte before and behind an element", 12,
                 [(3, 1, 1, 1), flip_run((4, 4, 4, 1), XOR_TOP, 32, [1]), (8, 1, 1, 1)]),
        parses("flip-above-4-gib", "", patch_bytes([Run(2**33, 4, 4, 1, XOR_TOP, 32), Run(2**40, 1, U32, 2, NEGATE, 8)],
                                                   b"\x01\x03"), 2**41),
        twice("twice-is-nothing", [flip_run((1, 24, 24, 1), XOR_TOP, 32), flip_run((30, 20, 20, 1), NEGATE, 4, constant=9)]),
    ]  # fmt: skip


def twice(name: str, runs: list[Run]) -> Vector:
    """The restored file goes back to the locked one with the same patch."""
    restored = filler(64, len(name))
    locked = with_flips(restored, runs)
    vector = restores(name, "from the restored file back to the locked one", 64, list(runs), original=locked)
    assert vector["file"] == base64_of(restored)
    return vector


def kind_vectors() -> list[Vector]:
    def kind(name: str, run: Run, comment: str = "") -> Vector:
        return wrong("patch-kind", name, comment, [run], payload=filler(4))

    return [
        kind("kind-4", Run(8, 4, 4, 1, 4, 8)),
        kind("kind-255", Run(8, 4, 4, 1, 255)),
        kind("replace-width-8", Run(8, 4, 4, 1, 0, 8)),
        kind("replace-constant", Run(8, 4, 4, 1, 0, 0, 1)),
        kind("replace-reserved", Run(8, 4, 4, 1, 0, 0, 0, 1)),
        kind("xor-top-width-0", Run(8, 4, 4, 1, XOR_TOP, 0)),
        kind("xor-top-width-4", Run(8, 4, 4, 1, XOR_TOP, 4)),
        kind("xor-top-width-8", Run(8, 4, 4, 1, XOR_TOP, 8)),
        kind("xor-top-width-24", Run(8, 6, 6, 1, XOR_TOP, 24)),
        kind("xor-top-width-64", Run(8, 8, 8, 1, XOR_TOP, 64)),
        kind("xor-top-constant", Run(8, 4, 4, 1, XOR_TOP, 32, 1)),
        kind("xor-top-reserved", Run(8, 4, 4, 1, XOR_TOP, 32, 0, 255)),
        kind("xor-top-32-half-element", Run(8, 6, 6, 1, XOR_TOP, 32)),
        kind("xor-top-32-one-byte", Run(8, 1, 1, 1, XOR_TOP, 32)),
        kind("xor-top-16-odd", Run(8, 3, 3, 1, XOR_TOP, 16)),
        kind("xor-top-across-pieces", Run(8, 2, 4, 2, XOR_TOP, 32), "a piece holds whole elements, not only the run"),
        kind("negate-width-0", Run(8, 4, 4, 1, NEGATE, 0)),
        kind("negate-width-2", Run(8, 4, 4, 1, NEGATE, 2)),
        kind("negate-width-16", Run(8, 4, 4, 1, NEGATE, 16)),
        kind("negate-4-constant-16", Run(8, 4, 4, 1, NEGATE, 4, 16)),
        kind("negate-4-constant-255", Run(8, 4, 4, 1, NEGATE, 4, 255)),
        kind("negate-reserved", Run(8, 4, 4, 1, NEGATE, 8, 0, 1)),
        kind("permute-width-0", Run(8, 4, 4, 1, PERMUTE, 0)),
        kind("permute-width-16", Run(8, 4, 4, 1, PERMUTE, 16)),
        kind("permute-constant", Run(8, 4, 4, 1, PERMUTE, 8, 1)),
        wrong("patch-kind", "kind-in-second-run", "", [(8, 4, 4, 1), Run(16, 4, 4, 1, 7)]),
        wrong("patch-kind", "kind-before-order", "both in run 1", [(8, 4, 4, 1), Run(8, 4, 4, 1, 7)]),
        wrong("patch-kind", "kind-before-bounds", "both in run 0", [Run(63, 4, 4, 1, 7)]),
        wrong("patch-run", "run-before-kind", "both in run 0", [Run(8, 0, 0, 1, 7)]),
        wrong("patch-order", "order-before-kind", "run 1 decides", [(8, 4, 4, 1), (4, 1, 1, 1), Run(9, 4, 4, 1, 7)]),
        wrong("patch-bounds", "flip-past-end", "", [Run(62, 4, 4, 1, XOR_TOP, 32)], payload=b"\x01"),
        wrong("patch-overflow", "flip-overflows", "", [Run(2**64 - 4, 4, 4, 1, XOR_TOP, 32)], payload=b"\x01"),
    ]


def part_vectors() -> list[Vector]:
    """Masks and tables that are not what they have to be."""
    floats = Run(8, 36, 36, 1, XOR_TOP, 32)
    bytes_ = Run(48, 9, 9, 1, PERMUTE, 8)
    nibbles = Run(48, 3, 3, 1, PERMUTE, 4)

    def table(name: str, comment: str, run: Run, content: bytes, mask: bytes) -> Vector:
        return wrong("patch-table", name, comment, [run], payload=content + mask)

    def padding(name: str, comment: str, run: Run, mask: bytes) -> Vector:
        return wrong("patch-padding", name, comment, [run], payload=mask)

    return [
        wrong("patch-payload", "mask-short-by-one", "nine elements need two bytes", [floats], payload=b"\x01"),
        wrong("patch-payload", "mask-long-by-one", "", [floats], payload=b"\x01\0\0"),
        wrong("patch-payload", "mask-of-bytes", "as long as a replacement would be", [floats], payload=filler(36)),
        wrong("patch-payload", "table-missing", "a mask alone", [bytes_], payload=b"\x01\0"),
        wrong("patch-payload", "table4-as-table8", "", [nibbles], payload=REVERSED_8 + b"\x01"),
        wrong("patch-payload", "mask-absurd", "a run of 2^63 bytes", [Run(0, 2**31, 2**31, U32, XOR_TOP, 32)], 2**63,
              payload=b"\x01"),
        wrong("patch-overlap", "flip-over-replaced", "the flip changes the top byte only, but takes the whole element",
              [Run(8, 4, 4, 1, XOR_TOP, 32), (9, 1, 1, 1)], payload=b"\x01x"),
        wrong("patch-overlap", "flip-over-flip", "masks that flip different elements overlap all the same",
              [Run(8, 8, 8, 1, XOR_TOP, 32), Run(12, 4, 4, 1, NEGATE, 8)], payload=b"\x01\x0f"),
        wrong("patch-overlap", "overlap-before-table", "", [nibbles, Run(50, 1, 1, 1)], payload=bytes(16) + b"\0x"),
        wrong("patch-overlap", "overlap-before-padding", "", [Run(8, 4, 4, 1, XOR_TOP, 32), (9, 1, 1, 1)],
              payload=b"\xffx"),
        table("table8-cycle", "three entries lead round", bytes_, CYCLE_8, b"\0\0"),
        table("table8-constant", "", bytes_, bytes(256), b"\0\0"),
        table("table8-shift", "", bytes_, bytes([*range(1, 256), 0]), b"\0\0"),
        table("table8-last-entry", "only the last entry is wrong", bytes_, bytes([*range(255), 0]), b"\0\0"),
        table("table4-cycle", "", nibbles, bytes([1, 2, 0, *range(3, 16)]), b"\0"),
        table("table4-entry-16", "", nibbles, bytes([16, *range(1, 16)]), b"\0"),
        table("table4-entry-255", "", nibbles, bytes([*range(15), 255]), b"\0"),
        table("table-before-padding", "both in run 0", nibbles, bytes(16), b"\xff"),
        wrong("patch-table", "table-before-later-padding", "run 0 decides", [nibbles, Run(60, 1, 1, 1, NEGATE, 8)],
              payload=bytes(16) + b"\0\xff"),
        wrong("patch-padding", "padding-before-later-table", "run 0 decides", [Run(8, 4, 4, 1, XOR_TOP, 32), nibbles],
              payload=b"\x02" + bytes(16) + b"\0"),
        padding("padding-fp32", "the second bit of one element's byte", Run(8, 4, 4, 1, XOR_TOP, 32), b"\x03"),
        padding("padding-fp32-top", "", Run(8, 4, 4, 1, XOR_TOP, 32), b"\x80"),
        padding("padding-second-byte", "", floats, b"\0\x02"),
        padding("padding-fp16", "", Run(8, 14, 14, 1, XOR_TOP, 16), b"\x80"),
        padding("padding-int8", "", Run(8, 3, 3, 1, NEGATE, 8), b"\x0f"),
        padding("padding-int4", "", Run(8, 3, 3, 1, NEGATE, 4), b"\x40"),
        padding("padding-strided", "", Run(8, 4, 8, 5, XOR_TOP, 32), b"\x20"),
        wrong("patch-padding", "padding-table8", "", [bytes_], payload=REVERSED_8 + b"\0\x02"),
        wrong("patch-padding", "padding-table4", "", [nibbles], payload=SWAPPED_4 + b"\x40"),
        wrong("patch-padding", "padding-in-second-run", "", [Run(8, 4, 4, 1, XOR_TOP, 32), Run(16, 1, 1, 1, NEGATE, 8)],
              payload=b"\x01\x02"),
    ]  # fmt: skip
