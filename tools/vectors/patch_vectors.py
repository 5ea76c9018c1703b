"""The vectors of the patch, patch.json: structure, runs and sums. Those of flipping runs stand in flip_vectors.py."""

from __future__ import annotations

import struct
from typing import Any

from naive_patch import (
    U32,
    U64,
    AnyRun,
    Vector,
    base64_of,
    before,
    filler,
    patch_bytes,
    patch_to,
    places,
    sample_of,
    with_flips,
)

EXABYTES = 2**62 + 2**10  # a double holds it exactly


def restores(
    name: str,
    comment: str,
    size: int,
    runs: list[AnyRun],
    *,
    fill: int | None = 0,
    original: bytes | None = None,
) -> Vector:
    """A valid patch with a locked file and what comes of it."""
    original = filler(size, len(name)) if original is None else original
    assert len(original) == size, name
    at = places(runs)
    assert len(set(at)) == len(at), name
    locked = before(original, runs, fill)
    assert with_flips(with_flips(locked, runs), runs) == locked, name
    return {
        "name": name,
        "comment": comment,
        "patch": base64_of(patch_to(runs, original)),
        "file_size": size,
        "file": base64_of(locked),
        "expect": "ok",
        "restored": base64_of(original),
        "sample": sample_of(locked, runs).hex(),
        "restored_sample": sample_of(original, runs).hex(),
    }


def parses(name: str, comment: str, patch: bytes, file_size: int, expect: str = "ok") -> Vector:
    return {"name": name, "comment": comment, "patch": base64_of(patch), "file_size": file_size, "expect": expect}


def wrong(expect: str, name: str, comment: str, runs: list[AnyRun], size: int = 64, **changes: Any) -> Vector:
    """A patch with as much payload as the runs say (none where that is absurd), and a file that it must leave alone."""
    total = sum(run[1] * run[3] for run in runs)
    payload = changes.pop("payload", filler(total if total <= 4096 else 0))
    vector = parses(name, comment, patch_bytes(runs, payload, **changes), size, expect)
    if size <= 4096:
        vector["file"] = base64_of(filler(size))
    return vector


def old_patch(runs: list[tuple[int, int, int, int]], payload: bytes) -> bytes:
    """A patch of version 1, whose runs have 20 bytes and no kind."""
    header = struct.pack("<8sIIQ", b"CLPATCH1", len(runs), 0, len(payload))
    return header + b"".join(struct.pack("<QIII", *run) for run in runs) + payload


def good_vectors() -> list[Vector]:
    return [
        restores("empty", "no runs, no payload: nothing changes", 16, []),
        parses("empty-file", "an empty patch fits an empty file", patch_bytes([], b""), 0),
        restores("one-byte", "the smallest run", 16, [(5, 1, 1, 1)]),
        restores("first-and-last-byte", "both ends of the file", 16, [(0, 1, 1, 1), (15, 1, 1, 1)]),
        restores("whole-file", "one run over everything", 33, [(0, 33, 33, 1)]),
        restores("whole-file-in-touching-runs", "runs may touch", 12, [(0, 5, 5, 1), (5, 1, 1, 1), (6, 6, 6, 1)]),
        restores("rows", "three rows of a matrix of 8-byte rows", 64, [(8, 8, 8, 1), (24, 8, 8, 1), (56, 8, 8, 1)]),
        restores("strided", "one depthwise filter: 9 floats, 6 channels", 6 * 4 * 9, [(8, 4, 24, 9)]),
        restores("strided-touching-pieces", "stride = length with count > 1 is a plain range", 32, [(4, 3, 3, 5)]),
        restores("strided-to-the-end", "the last piece ends the file", 50, [(1, 4, 9, 6)]),
        restores("interleaved", "depthwise filters 0, 2, 3 of 5", 180, [(0, 4, 20, 9), (8, 4, 20, 9), (12, 4, 20, 9)]),
        restores("interleaved-all", "every channel, touching", 72, [(i, 2, 8, 9) for i in range(0, 8, 2)]),
        restores(
            "interleaved-around-stride",
            "pieces of the first run reach across multiples of the stride, modulo which the others begin",
            80,
            [(7, 3, 10, 7), (10, 2, 10, 7), (14, 3, 10, 6)],
        ),
        restores(
            "interleaved-strides",
            "strides 6 and 10, pieces never meet (offsets differ by an odd number)",
            70,
            [(0, 1, 6, 10), (3, 1, 10, 6)],
        ),
        restores(
            "single-between-pieces", "a plain run in the gap of a strided one", 64, [(0, 4, 16, 4), (20, 6, 6, 1)]
        ),
        restores("single-fills-gap", "it touches both pieces", 40, [(0, 4, 16, 2), (4, 12, 12, 1)]),
        restores(
            "strided-fills-gap", "a strided run wholly inside one gap", 64, [(0, 2, 40, 2), (3, 3, 5, 6), (33, 4, 4, 1)]
        ),
        restores(
            "same-residue-apart",
            "two runs of one stride on the same columns, rows apart, inside the extent of a third",
            100,
            [(0, 1, 10, 10), (1, 2, 10, 4), (41, 2, 10, 5)],
        ),
        restores(
            "rows-and-columns",
            "columns 0 and 3 of a 6 x 8 matrix, cut where row 2 is taken whole",
            48,
            [(0, 1, 8, 2), (3, 1, 8, 2), (16, 8, 8, 1), (24, 1, 8, 3), (27, 1, 8, 3)],
        ),
        restores("nothing-to-change", "the file holds the payload's bytes already", 32, [(3, 7, 7, 1)], fill=None),
        parses("above-4-gib", "64-bit offsets", patch_bytes([(2**33, 2, 2, 1), (2**40, 1, U32, 2)], b"abcd"), 2**41),
        parses(
            "ends-large-file", "a run ends the file exactly", patch_bytes([(EXABYTES - 1, 1, 1, 1)], b"a"), EXABYTES
        ),
        parses(
            "far-strides-cross",
            "extents of exabytes, few pieces: must not cost time or memory by extent",
            patch_bytes([(i, 1, U32 - 16 * i, 64) for i in range(8)], filler(512)),
            2**50,
        ),
    ]


def structure_vectors() -> list[Vector]:
    one = patch_bytes([(8, 4, 4, 1)], filler(4))
    two = patch_bytes([(8, 4, 4, 1), (16, 2, 6, 3)], filler(10))
    return [
        parses("no-bytes", "", b"", 64, "patch-truncated"),
        parses("magic-alone", "", b"CLPATCH2", 64, "patch-truncated"),
        parses("header-short-by-one", "", patch_bytes([], b"")[:23], 64, "patch-truncated"),
        parses("short-and-wrong-magic", "length comes before magic", b"CLPATCX9", 64, "patch-truncated"),
        parses("runs-missing", "says one run, has none", patch_bytes([], b"", count=1), 64, "patch-truncated"),
        parses("runs-short-by-one", "", two[: 24 + 47], 64, "patch-truncated"),
        parses("runs-absurd", "2^32 - 1 runs: 96 GiB", patch_bytes([], b"", count=U32), 64, "patch-truncated"),
        parses("payload-short-by-one", "", one[:-1], 64, "patch-truncated"),
        parses("payload-missing", "", one[:-4], 64, "patch-truncated"),
        wrong("patch-truncated", "payload-absurd", "2^64 - 1 bytes", [(8, 4, 4, 1)], payload_size=U64),
        wrong("patch-truncated", "truncated-before-run", "length comes before runs", [(8, 0, 0, 0)], payload_size=1),
        parses("magic-lower-case", "", patch_bytes([], b"", magic=b"clpatch2"), 64, "patch-magic"),
        parses("magic-of-bundle", "", patch_bytes([], b"", magic=b"CLKEYB02"), 64, "patch-magic"),
        parses("magic-seventh-byte", "", patch_bytes([], b"", magic=b"CLPATCh2"), 64, "patch-magic"),
        parses("zeros", "24 zero bytes", bytes(24), 64, "patch-magic"),
        parses("magic-before-reserved", "", patch_bytes([], b"", magic=b"X" * 8, reserved=1), 64, "patch-magic"),
        wrong("patch-reserved", "reserved-1", "", [(8, 4, 4, 1)], reserved=1),
        wrong("patch-reserved", "reserved-high-bit", "", [], reserved=2**31),
        parses("reserved-before-runs", "", patch_bytes([], b"", count=9, reserved=1), 64, "patch-reserved"),
        parses("trailing-byte", "", one + b"\0", 64, "patch-trailing"),
        parses("trailing-patch", "a second patch", one + patch_bytes([], b""), 64, "patch-trailing"),
        parses("trailing-empty", "", patch_bytes([], b"") + b"\0", 64, "patch-trailing"),
        parses("trailing-before-run", "", patch_bytes([(8, 0, 0, 0)], b"") + b"\0", 64, "patch-trailing"),
    ]


def version_vectors() -> list[Vector]:
    """What another version wrote: the code says that the model has to be locked again, or the reader is too old."""
    whole = old_patch([(8, 4, 4, 1), (16, 2, 6, 3)], filler(10))
    return [
        parses("version-1", "a whole patch of version 1", whole, 64, "patch-version"),
        parses("version-1-empty", "", old_patch([], b""), 64, "patch-version"),
        parses("version-1-cut", "version comes before the runs", whole[:30], 64, "patch-version"),
        parses("version-1-short", "but behind the length of the header", whole[:23], 64, "patch-truncated"),
        parses("version-3", "", patch_bytes([], b"", magic=b"CLPATCH3"), 64, "patch-version"),
        parses(
            "version-byte-2",
            "the digit 2, not the number",
            patch_bytes([], b"", magic=b"CLPATCH\2"),
            64,
            "patch-version",
        ),
        parses("version-before-reserved", "", patch_bytes([], b"", magic=b"CLPATCH1", reserved=1), 64, "patch-version"),
    ]


def run_vectors() -> list[Vector]:
    return [
        wrong("patch-run", "length-0", "", [(8, 0, 0, 1)]),
        wrong("patch-run", "length-0-strided", "", [(8, 0, 4, 2)]),
        wrong("patch-run", "count-0", "", [(8, 4, 4, 0)]),
        wrong("patch-run", "count-0-outside", "count - 1 must not wrap into another verdict", [(80, 4, 4, 0)]),
        wrong("patch-run", "stride-of-single-larger", "count 1 needs stride = length", [(8, 4, 8, 1)]),
        wrong("patch-run", "stride-of-single-0", "", [(8, 4, 0, 1)]),
        wrong("patch-run", "stride-shorter", "pieces of a run would overlap", [(8, 4, 3, 2)]),
        wrong("patch-run", "stride-0", "", [(8, 4, 0, 2)]),
        wrong("patch-run", "second-run-bad", "", [(8, 4, 4, 1), (16, 4, 2, 2)]),
        wrong("patch-run", "run-before-order", "both in run 1", [(8, 4, 4, 1), (8, 0, 0, 1)]),
        wrong("patch-run", "run-before-overflow", "both in run 0", [(U64, 4, 3, 2)]),
        wrong("patch-run", "run-before-bounds", "both in run 0", [(63, 4, 3, 2)]),
        wrong("patch-order", "same-offset", "", [(8, 4, 4, 1), (8, 4, 4, 1)]),
        wrong("patch-order", "descending", "", [(16, 4, 4, 1), (8, 4, 4, 1)]),
        wrong("patch-order", "third-descends", "", [(1, 1, 1, 1), (8, 4, 4, 1), (4, 1, 1, 1)]),
        wrong("patch-order", "order-before-bounds", "both in run 1", [(8, 4, 4, 1), (4, 100, 100, 1)]),
        wrong("patch-order", "order-in-earlier-run", "run 1 decides", [(8, 4, 4, 1), (4, 1, 1, 1), (9, 0, 0, 1)]),
        wrong("patch-overflow", "offset-2-to-64", "ends at 2^64", [(U64, 1, 1, 1)]),
        wrong("patch-overflow", "length-overflows", "", [(U64 - 7, 16, 16, 1)]),
        wrong("patch-overflow", "stride-overflows", "", [(U64 - U32, 1, 2**31, 3)]),
        wrong("patch-overflow", "all-largest", "every field at its largest", [(U64, U32, U32, U32)]),
        wrong("patch-bounds", "ends-at-2-to-64-less-1", "no overflow yet", [(U64 - 1, 1, 1, 1)]),
        wrong("patch-bounds", "product-largest", "the product of 32-bit fields fits 64 bits", [(0, U32, U32, U32)]),
        wrong("patch-bounds", "past-end-by-one", "", [(61, 4, 4, 1)]),
        wrong("patch-bounds", "begins-at-end", "", [(64, 1, 1, 1)]),
        wrong("patch-bounds", "strided-past-end", "only the last piece", [(0, 4, 21, 4)]),
        wrong("patch-bounds", "empty-file-bounds", "", [(0, 1, 1, 1)], 0),
        wrong(
            "patch-bounds", "product-above-32-bits", "65536 pieces, 65537 apart", [(0, 1, 65537, 65536)], payload=b""
        ),
        wrong("patch-bounds", "bounds-in-earlier-run", "run 0 decides", [(61, 4, 4, 1), (8, 4, 4, 1)]),
        wrong("patch-bounds", "bounds-before-payload", "", [(61, 4, 4, 1)], payload=b"abc"),
    ]


def sum_vectors() -> list[Vector]:
    return [
        wrong("patch-payload", "payload-longer", "", [(8, 4, 4, 1)], payload=filler(5)),
        wrong("patch-payload", "payload-shorter", "", [(8, 4, 4, 1)], payload=filler(3)),
        wrong("patch-payload", "payload-none", "", [(8, 4, 4, 1)], payload=b""),
        wrong("patch-payload", "payload-without-runs", "", [], payload=b"a"),
        wrong("patch-payload", "payload-counts-one-piece", "", [(8, 4, 8, 3)], payload=filler(4)),
        wrong(
            "patch-payload",
            "sum-wraps-to-0",
            "four runs of 2^62 bytes add up to 2^64",
            [(i, 2**31, 2**31, 2**31) for i in range(4)],
            EXABYTES,
            payload=b"",
        ),
        wrong("patch-payload", "payload-before-overlap", "", [(8, 4, 4, 1), (9, 4, 4, 1)], payload=filler(7)),
        wrong("patch-overlap", "overlap-by-one", "", [(8, 4, 4, 1), (11, 4, 4, 1)]),
        wrong("patch-overlap", "inside", "a run inside another", [(8, 20, 20, 1), (10, 2, 2, 1)]),
        wrong(
            "patch-overlap", "not-with-neighbor", "run 2 meets run 0", [(8, 20, 20, 1), (9, 1, 30, 2), (27, 2, 2, 1)]
        ),
        wrong("patch-overlap", "single-on-last-piece", "", [(0, 2, 10, 6), (51, 3, 3, 1)]),
        wrong("patch-overlap", "single-across-gap", "longer than the gap", [(0, 4, 16, 2), (4, 13, 13, 1)]),
        wrong("patch-overlap", "same-stride", "columns meet by one byte", [(0, 3, 10, 6), (2, 2, 10, 6)]),
        wrong(
            "patch-overlap",
            "same-column",
            "a column taken twice, rows meet in one",
            [(0, 2, 10, 6), (50, 2, 10, 2)],
            70,
        ),
        wrong(
            "patch-overlap",
            "around-stride",
            "the last column reaches into the next row",
            [(0, 2, 10, 6), (9, 2, 10, 5)],
        ),
        wrong("patch-overlap", "strides-meet-once", "6i = 1 + 7j first at 36", [(0, 1, 6, 7), (1, 1, 7, 6)]),
        wrong("patch-overlap", "strides-meet-at-last", "strides 9 and 4 meet at 63", [(0, 1, 9, 8), (3, 1, 4, 16)]),
        wrong("patch-overlap", "row-over-column", "a row and a column of a matrix", [(3, 1, 8, 6), (16, 8, 8, 1)]),
        wrong(
            "patch-overlap",
            "second-cluster",
            "apart first, then not",
            [(0, 1, 4, 4), (1, 1, 4, 4), (32, 8, 8, 1), (39, 1, 1, 1)],
        ),
        wrong(
            "patch-overlap",
            "far-strides-meet",
            "extents of terabytes that meet in one byte: 3 (2^32 - 1) = 3 + 3 (2^32 - 2)",
            [(0, 1, U32, 5), (3, 1, U32 - 1, 5)],
            2**40,
        ),
    ]


def patch_vectors() -> list[Vector]:
    """All but those of flipping runs."""
    return [*good_vectors(), *structure_vectors(), *version_vectors(), *run_vectors(), *sum_vectors()]
