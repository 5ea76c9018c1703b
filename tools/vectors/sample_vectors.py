"""The vectors of the sample, sample.json."""

from __future__ import annotations

from naive_patch import NEGATE, XOR_TOP, AnyRun, Vector, base64_of, filler, flip_run, patch_to, sample_of


def case(name: str, comment: str, size: int, runs: list[AnyRun]) -> Vector:
    """A file, a patch for it, and the sample of the file as it is."""
    file = filler(size, len(name))
    return {
        "name": name,
        "comment": comment,
        "patch": base64_of(patch_to(runs, file)),
        "file": base64_of(file),
        "sample": sample_of(file, runs).hex(),
    }


def sample_vectors() -> list[Vector]:
    return [
        case("empty-file", "the size alone", 0, []),
        case("one-byte", "", 1, []),
        case("short", "a short file is taken whole", 100, []),
        case("4095-bytes", "", 4095, []),
        case("4096-bytes", "the longest that is taken whole", 4096, []),
        case("4097-bytes", "windows touch or overlap", 4097, []),
        case("windows-apart", "", 20_011, []),
        case("one-byte-run", "ends of a run that is in the whole file already count again", 100, [(7, 1, 1, 1)]),
        case("run-of-64", "a single piece of 64 bytes is taken once", 200, [(9, 64, 64, 1)]),
        case("run-of-65", "one of 65 bytes at both ends, which overlap", 200, [(9, 65, 65, 1)]),
        case("run-of-500", "", 600, [(9, 500, 500, 1)]),
        case("strided-short", "pieces of 4 bytes: the first and the last piece whole", 200, [(9, 4, 10, 7)]),
        case("strided-two", "two pieces", 200, [(9, 4, 10, 2)]),
        case("strided-long", "the beginning of the first piece and the end of the last", 700, [(9, 100, 150, 4)]),
        case("strided-touching", "stride = length is several pieces still", 200, [(9, 30, 30, 4)]),
        case("run-at-both-ends", "runs at the ends of the file", 5000, [(0, 70, 70, 1), (4990, 10, 10, 1)]),
        case("whole-file", "", 5000, [(0, 5000, 5000, 1)]),
        case(
            "kinds",
            "the kind of a run does not count",
            5000,
            [(3, 64, 64, 1), flip_run((100, 400, 400, 1), XOR_TOP, 32), flip_run((600, 3, 7, 50), NEGATE, 4)],
        ),
        case("many-runs", "", 9000, [(10 + 17 * i, 1 + i % 9, 1 + i % 9, 1) for i in range(500)]),
    ]
