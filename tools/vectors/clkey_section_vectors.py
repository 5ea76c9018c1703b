"""The vectors of a key bundle's sections, and of restoring files with them, in bundle.json."""

from __future__ import annotations

import itertools
import struct
from typing import Any
from uuid import UUID

from naive_bundle import (
    PTE,
    SMALL,
    TOP_KEY,
    WEIGHTS,
    Draft,
    Model,
    bundle_vector,
    compact,
    derived_keys,
    flipped,
    opened,
)
from naive_patch import (
    NEGATE,
    PERMUTE,
    U32,
    XOR_TOP,
    AnyRun,
    Vector,
    base64_of,
    flip_run,
    patch_bytes,
    places,
)

REVERSED_4 = bytes(reversed(range(16)))
# Tier 1 puts bytes in where tier 2 flips: the elements that tier 2 flips are those of tier 1's state.
FLIPPED = Model(
    160,
    6,
    [
        [(8, 6, 6, 1), flip_run((32, 4, 12, 6), XOR_TOP, 32), (100, 20, 20, 1)],
        [
            flip_run((4, 16, 16, 1), XOR_TOP, 32),
            flip_run((36, 4, 12, 5), NEGATE, 8, constant=6),
            flip_run((96, 30, 30, 1), NEGATE, 4),
            flip_run((130, 8, 8, 1), PERMUTE, 4, table=REVERSED_4),
            (140, 16, 16, 1),
        ],
    ],
)
# Long enough that its windows leave bytes out.
LARGE = Model(
    8000,
    7,
    [[flip_run((1000, 3000, 3000, 1), NEGATE, 8), (5000, 500, 500, 1)], [flip_run((300, 400, 400, 1), XOR_TOP, 32)]],
)

# Tier 1 flips one byte that no sample covers, so its two samples are equal.
UNSAMPLED = Model(
    8000,
    8,
    [[flip_run((1000, 3000, 3000, 1), NEGATE, 8, [i == 1100 for i in range(3000)])], [(5000, 500, 500, 1)]],
)


def section_vectors() -> list[Vector]:
    """Bundles that open, with a section that does not."""
    draft = Draft()
    good = draft.encode()
    start = 12 + len(compact(draft.fields)) + 64
    lengths = [section["length"] for section in draft.fields["sections"]]
    plus, full = (draft.content_keys[tier].hex() for tier in (1, 2))
    other = Draft()
    other.fields["model_version"] = 4
    other_body = other.encode()[-sum(lengths) :]
    other_key = derived_keys(TOP_KEY, UUID(int=1), 3)[1].hex()
    return [
        closed("key-of-higher-tier", "it must be derived first", good, 0, full),
        closed("key-of-lower-tier", "a lower tier's key opens no higher tier", good, 1, plus),
        closed("key-of-other-bundle", "same top key, derived for another bundle id", good, 0, other_key),
        closed("key-zero", "", good, 1, bytes(32).hex()),
        closed("key-31-bytes", "", good, 1, full[2:]),
        closed("key-33-bytes", "", good, 1, full + "00"),
        closed("key-16-bytes", "AES-128 is not in the format", good, 1, full[:32]),
        closed("ciphertext-bit", "", flipped(good, start + 1), 0, plus),
        closed("tag-bit", "", flipped(good, start + lengths[0] - 1, 7), 0, plus),
        closed(
            "ciphertext-of-other-bundle",
            "the same model, key and nonce, another header",
            good[:start] + other_body,
            0,
            plus,
        ),
        closed("sections-swapped", "sections 0 and 2 have one length and tier", with_swapped_sections(), 0, plus),
        *plaintext_vectors(),
    ]


def closed(name: str, comment: str, bundle: bytes, index: int, key: str, expect: str = "bundle-content-key") -> Vector:
    return bundle_vector(name, comment, bundle, sections=[{"index": index, "content_key": key, "expect": expect}])


def with_swapped_sections() -> bytes:
    alike = Draft()
    alike.plain[2] = alike.plain[0]
    alike.place()
    body = alike.encode()
    ends = list(itertools.accumulate(len(plain) + 16 for _, plain in alike.plain))
    parts = [body[len(body) - ends[3] + begin :][: end - begin] for begin, end in itertools.pairwise([0, *ends])]
    return body[: -ends[3]] + parts[2] + parts[1] + parts[0] + parts[3]


def plaintext_vectors() -> list[Vector]:
    """Sections that a good key opens, with a plaintext that is none."""
    after = PTE.after(1)
    text = compact(after)

    def draft_with(plaintext: bytes) -> Draft:
        changed = Draft()
        changed.plain[0] = (1, plaintext)
        changed.place()
        return changed

    def holds(name: str, comment: str, plaintext: bytes) -> Vector:
        changed = draft_with(plaintext)
        return closed(name, comment, changed.encode(), 0, changed.content_keys[1].hex(), "bundle-header")

    longest = draft_with(Draft.sealed(text.ljust(4096), PTE.patch(1)))
    members = draft_with(Draft.sealed({"new": [1, True], **after}, PTE.patch(1)))
    return [
        bundle_vector("json-longest", "4,096 bytes", longest.encode(), sections=opened(longest)[:1]),
        bundle_vector("json-more-members", "they are ignored", members.encode(), sections=opened(members)[:1]),
        holds("plaintext-empty", "", b""),
        holds("json-length-cut", "", b"\0\0\0"),
        holds("json-beyond-section", "longer than the section", struct.pack("<I", 1000) + b"{}"),
        holds("json-too-long", "4,097 bytes", Draft.sealed(text.ljust(4097), PTE.patch(1))),
        holds("json-absurd", "", struct.pack("<I", U32) + b"{}"),
        holds("json-missing", "", Draft.sealed(b"{", b"")),
        holds("json-array", "", Draft.sealed([], b"")),
        holds("json-twice", "", Draft.sealed(text[:-1] + b"," + text[1:], b"")),
        holds("json-without-file", "", Draft.sealed({"sample": after["sample"]}, b"")),
        holds("json-without-sample", "", Draft.sealed({"file": after["file"]}, b"")),
        holds("json-of-version-1", "", Draft.sealed({"puts": after["sample"], "file": after["file"]}, b"")),
        holds("json-upper-case", "", Draft.sealed(after | {"file": after["file"].upper()}, b"")),
    ]


# --- restoring -----------------------------------------------------------------------------------


def attempt(
    draft: Draft,
    locked: bytes,
    tier: int,
    expect: str = "ok",
    restored: bytes | None = None,
    *,
    comment: str = "",
    artifact: int = 0,
    check: str = "off",
) -> Vector:
    vector: Vector = {
        "comment": comment,
        "artifact": artifact,
        "file": 0,
        "tier": tier,
        "content_key": draft.content_keys[tier].hex(),
        "check": check,
        "locked": base64_of(locked),
        "expect": expect,
    }
    return vector if restored is None else {**vector, "restored": base64_of(restored)}


def restore_vectors() -> list[Vector]:
    """Restoring a file with a bundle that opens."""
    return [replacing_restores(), flipping_restores(), large_restores(), unsampled_restores(), *wrong_restores()]


def replacing_restores() -> Vector:
    draft = Draft()
    locked, plus, full = PTE.states
    first, second = (places(PTE.runs[tier])[0] for tier in (0, 1))
    between = next(p for p in range(96) if p not in places(PTE.runs[0]) + places(PTE.runs[1]))
    restores = [
        attempt(draft, locked, 1, restored=plus),
        attempt(draft, locked, 2, restored=full),
        attempt(draft, WEIGHTS.states[0], 1, restored=WEIGHTS.states[1], artifact=1),
        attempt(draft, WEIGHTS.states[0], 2, restored=WEIGHTS.states[2], artifact=1),
        attempt(draft, locked, 0, restored=locked, comment="tier 0 is what ships"),
        *(attempt(draft, locked, tier, restored=PTE.states[tier], check="always") for tier in range(3)),
        attempt(draft, locked[:-1], 1, "restore-size"),
        attempt(draft, locked + b"\0", 1, "restore-size"),
        attempt(draft, b"", 1, "restore-size"),
        attempt(draft, locked[:-1], 0, "restore-size", comment="tier 0 has a size too"),
        attempt(draft, plus, 1, "restore-already"),
        attempt(draft, plus, 2, "restore-already", comment="tier 1 is in already"),
        attempt(draft, full, 2, "restore-already"),
        attempt(
            draft,
            full,
            1,
            "restore-replaced",
            comment="no state that a section up to tier 1 knows, for tier 2 is in as well",
        ),
        attempt(draft, flipped(locked, first), 1, "restore-replaced"),
        attempt(
            draft,
            flipped(locked, second),
            2,
            "restore-replaced",
            comment="in tier 2's runs; nothing of tier 1 may stay",
        ),
        attempt(
            draft, flipped(locked, between), 2, "restore-replaced", comment="a short file is in its samples as a whole"
        ),
        attempt(draft, bytes(96), 1, "restore-replaced"),
        attempt(
            draft, flipped(locked, first), 0, restored=flipped(locked, first), comment="in tier 0 nothing is compared"
        ),
        attempt(draft, flipped(locked, first), 0, "restore-restored", check="always", comment="but by the full check"),
    ]
    return bundle_vector("restores", "", draft.encode(), restores=restores)


def flipping_restores() -> Vector:
    """Kinds that flip, tiers that flip what the tier before has put in."""
    draft = Draft([*SMALL, ("C.safetensors", "safetensors", "C.safetensors", FLIPPED)])
    locked, plus, full = FLIPPED.states

    def attempt_c(file: bytes, tier: int, *rest: Any, **more: Any) -> Vector:
        return attempt(draft, file, tier, *rest, artifact=2, **more)

    flipped_place = places(FLIPPED.runs[1])[0]
    restores = [
        *(
            attempt_c(locked, tier, "ok", FLIPPED.states[tier], check=check)
            for tier in range(3)
            for check in ("off", "always")
        ),
        attempt_c(plus, 1, "restore-already"),
        attempt_c(plus, 2, "restore-already"),
        attempt_c(full, 2, "restore-already", comment="flipped once more it would be locked again"),
        attempt_c(flipped(locked, flipped_place), 2, "restore-replaced", comment="an element that would be flipped"),
        attempt_c(locked[:-1], 2, "restore-size"),
    ]
    return bundle_vector(
        "restores-flips", "tier 2 flips what tier 1 puts in", draft.encode(), sections=opened(draft), restores=restores
    )


def large_restores() -> Vector:
    """Bytes that no sample covers: what the full check is for."""
    draft = Draft([("L.pte", "executorch", "L.pte", LARGE)])
    locked, _, full = LARGE.states
    runs: list[AnyRun] = [*LARGE.runs[0], *LARGE.runs[1]]
    covered = in_windows(8000)
    for offset, length, *_ in runs:
        covered |= {*range(offset, offset + 64), *range(offset + length - 64, offset + length)}
    outside = next(p for p in range(8000) if p not in covered and p not in places(runs))
    inside_flip = next(p for p in places([LARGE.runs[0][0]]) if p not in covered)
    inside_replaced = next(p for p in places([LARGE.runs[0][1]]) if p not in covered)
    window = next(p for p in covered if p not in places(runs))
    end = places([LARGE.runs[1][0]])[0]
    wrong_element = bytearray(full)
    wrong_element[inside_flip] = with_same_flip(locked, full, inside_flip)

    restores = [
        attempt(draft, locked, 2, restored=full),
        attempt(draft, locked, 2, restored=full, check="always"),
        attempt(draft, flipped(locked, window), 2, "restore-replaced", comment="a changed byte in a window"),
        attempt(draft, flipped(locked, end), 2, "restore-replaced", comment="at the end of a run"),
        attempt(
            draft, flipped(locked, outside), 2, restored=flipped(full, outside), comment="elsewhere it is not seen"
        ),
        attempt(draft, flipped(locked, outside), 2, "restore-restored", check="always"),
        attempt(
            draft,
            flipped(locked, inside_flip),
            2,
            restored=bytes(wrong_element),
            comment="a flip is as good as the file",
        ),
        attempt(draft, flipped(locked, inside_flip), 2, "restore-restored", check="always"),
        attempt(
            draft,
            flipped(locked, inside_replaced),
            2,
            restored=full,
            check="always",
            comment="what is put in is authentic",
        ),
    ]
    return bundle_vector("restores-large", "samples leave bytes out", draft.encode(), restores=restores)


def in_windows(size: int) -> set[int]:
    """The bytes of a long file that every sample covers."""
    return {p for i in range(64) for p in range(i * (size - 64) // 63, i * (size - 64) // 63 + 64)}


def unsampled_restores() -> Vector:
    """A section with two equal samples says nothing of a file that is restored already."""
    draft = Draft([("U.pte", "executorch", "U.pte", UNSAMPLED)])
    locked, plus, full = UNSAMPLED.states
    assert UNSAMPLED.sample(0, 1) == UNSAMPLED.sample(1, 1)
    end = next(p for p in range(5499, 5000, -1) if p not in in_windows(8000))
    restores = [
        attempt(draft, locked, 1, restored=plus),
        attempt(draft, locked, 2, restored=full, check="always"),
        attempt(
            draft, flipped(locked, end), 2, "restore-replaced", comment="tier 1's sample alone is the expected one"
        ),
        attempt(draft, full, 2, "restore-already"),
        attempt(draft, plus, 1, restored=locked, comment="no sample sees that tier 1 is in, so it goes out again"),
        attempt(draft, plus, 1, "restore-restored", check="always", comment="the full check sees it"),
    ]
    return bundle_vector(
        "restores-unsampled", "samples that are equal before and after", draft.encode(), restores=restores
    )


def with_same_flip(locked: bytes, full: bytes, place: int) -> int:
    """What the flip of `place`, an 8-bit element negated with constant 0, makes of it when its lowest bit was changed."""
    changed = locked[place] ^ 1
    return changed if locked[place] == full[place] else -changed % 256


def wrong_restores() -> list[Vector]:
    """Sections that open and do not fit: the publisher erred."""
    locked = PTE.states[0]
    zeros = "0" * 64

    def spoiled(name: str, comment: str, after: dict[str, Any], patch: bytes, *restores: tuple[str, str]) -> Vector:
        """`restores` are (check, expect) of tier 1."""
        draft = Draft()
        draft.plain[0] = (1, Draft.sealed(PTE.after(1) | after, patch))
        draft.place()
        tries = [
            attempt(draft, locked, 1, expect, PTE.states[1] if expect == "ok" else None, check=check)
            for check, expect in restores
        ]
        return bundle_vector(name, comment, draft.encode(), restores=tries)

    def broken(name: str, patch: bytes, expect: str) -> Vector:
        return spoiled(name, "inside a section that opens", {}, patch, ("off", expect))

    draft = Draft()
    draft.fields["sections"][1]["sample"] = zeros
    header = [attempt(draft, locked, 1, restored=PTE.states[1]), attempt(draft, locked, 2, "restore-replaced")]
    draft_cut = Draft()
    draft_cut.plain[0] = (1, Draft.sealed(PTE.after(1), PTE.patch(1)[:-1]))
    draft_cut.place()
    first = [attempt(draft_cut, bytes(96), 1, "patch-truncated")]
    return [
        spoiled("sample-after-wrong", "the sample inside a section", {"sample": zeros}, PTE.patch(1), ("off", "restore-restored")),
        spoiled(
            "digest-after-wrong", "the full check finds it", {"file": zeros}, PTE.patch(1),
            ("off", "ok"), ("always", "restore-restored"),
        ),
        bundle_vector("sample-before-wrong", "the sample of section 1 in the header", draft.encode(), restores=header),
        bundle_vector("patch-before-file", "the patch is read before the file is compared", draft_cut.encode(), restores=first),
        broken("patch-cut", PTE.patch(1)[:-1], "patch-truncated"),
        broken("patch-missing", b"", "patch-truncated"),
        broken("patch-old", b"CLPATCH1" + bytes(16), "patch-version"),
        broken("patch-for-larger-file", patch_bytes([(95, 4, 4, 1)], bytes(4)), "patch-bounds"),
        broken("patch-overlapping", patch_bytes([(5, 4, 4, 1), (8, 4, 4, 1)], bytes(8)), "patch-overlap"),
    ]  # fmt: skip
