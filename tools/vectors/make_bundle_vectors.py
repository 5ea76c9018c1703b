"""Makes the vectors of the patch, the key bundle, the tier keys and the JWK thumbprint in tests/vectors.

    python tools/vectors/make_bundle_vectors.py [--out tests/vectors]

Keys and nonces are fixed, so two runs write the same bytes; the keys are for tests only. What is expected of a vector
stands here by hand; nothing of the package is used.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Run = tuple[int, int, int, int]
Vector = dict[str, Any]

U32 = 2**32 - 1
U64 = 2**64 - 1
EXABYTES = 2**62 + 2**10  # a double holds it exactly


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sample(size: int, seed: int = 0) -> bytes:
    """Bytes that repeat late and are never 0, so that a zeroed place shows."""
    return bytes(1 + (i * 167 + i // 255 + seed * 29) % 255 for i in range(size))


# --- patch ---------------------------------------------------------------------------------------


def patch_bytes(
    runs: list[Run],
    payload: bytes,
    *,
    magic: bytes = b"CLPATCH1",
    count: int | None = None,
    reserved: int = 0,
    payload_size: int | None = None,
) -> bytes:
    count = len(runs) if count is None else count
    payload_size = len(payload) if payload_size is None else payload_size
    header = struct.pack("<8sIIQ", magic, count, reserved, payload_size)
    return header + b"".join(struct.pack("<QIII", *run) for run in runs) + payload


def places(runs: list[Run]) -> list[int]:
    return [
        offset + piece * stride + i
        for offset, length, stride, count in runs
        for piece in range(count)
        for i in range(length)
    ]


def restores(name: str, comment: str, size: int, runs: list[Run], *, fill: int | None = 0) -> Vector:
    """A valid patch with a locked file and what comes of it."""
    original = sample(size, len(name))
    at = places(runs)
    assert len(set(at)) == len(at), name
    locked = bytearray(original)
    for place in at if fill is not None else ():
        locked[place] = fill  # type: ignore[assignment]
    payload = bytes(original[place] for place in at)
    return {
        "name": name,
        "comment": comment,
        "patch": base64_of(patch_bytes(runs, payload)),
        "file_size": size,
        "file": base64_of(bytes(locked)),
        "expect": "ok",
        "restored": base64_of(original),
        "replaces": sha256(bytes(locked[place] for place in at)).hex(),
        "puts": sha256(payload).hex(),
    }


def parses(name: str, comment: str, patch: bytes, file_size: int, expect: str = "ok") -> Vector:
    return {"name": name, "comment": comment, "patch": base64_of(patch), "file_size": file_size, "expect": expect}


def wrong(expect: str, name: str, comment: str, runs: list[Run], size: int = 64, **changes: Any) -> Vector:
    """A patch with as much payload as the runs say (none where that is absurd), and a file that it must leave alone."""
    total = sum(length * count for _, length, _, count in runs)
    payload = changes.pop("payload", sample(total if total <= 4096 else 0))
    vector = parses(name, comment, patch_bytes(runs, payload, **changes), size, expect)
    if size <= 4096:
        vector["file"] = base64_of(sample(size))
    return vector


def patch_vectors() -> list[Vector]:
    one = patch_bytes([(8, 4, 4, 1)], sample(4))
    two = patch_bytes([(8, 4, 4, 1), (16, 2, 6, 3)], sample(10))
    ok = [
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
            patch_bytes([(i, 1, U32 - 16 * i, 64) for i in range(8)], sample(512)),
            2**50,
        ),
    ]
    structure = [
        parses("no-bytes", "", b"", 64, "patch-truncated"),
        parses("magic-alone", "", b"CLPATCH1", 64, "patch-truncated"),
        parses("header-short-by-one", "", patch_bytes([], b"")[:23], 64, "patch-truncated"),
        parses("short-and-wrong-magic", "length comes before magic", b"CLPATCH9", 64, "patch-truncated"),
        parses("runs-missing", "says one run, has none", patch_bytes([], b"", count=1), 64, "patch-truncated"),
        parses("runs-short-by-one", "", two[: 24 + 39], 64, "patch-truncated"),
        parses("runs-absurd", "2^32 - 1 runs: 80 GiB", patch_bytes([], b"", count=U32), 64, "patch-truncated"),
        parses("payload-short-by-one", "", one[:-1], 64, "patch-truncated"),
        parses("payload-missing", "", one[:-4], 64, "patch-truncated"),
        wrong("patch-truncated", "payload-absurd", "2^64 - 1 bytes", [(8, 4, 4, 1)], payload_size=U64),
        wrong("patch-truncated", "truncated-before-run", "length comes before runs", [(8, 0, 0, 0)], payload_size=1),
        parses("magic-version-2", "", patch_bytes([], b"", magic=b"CLPATCH2"), 64, "patch-magic"),
        parses("magic-lower-case", "", patch_bytes([], b"", magic=b"clpatch1"), 64, "patch-magic"),
        parses("magic-of-bundle", "", patch_bytes([], b"", magic=b"CLKEYB01"), 64, "patch-magic"),
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
    runs = [
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
    sums = [
        wrong("patch-payload", "payload-longer", "", [(8, 4, 4, 1)], payload=sample(5)),
        wrong("patch-payload", "payload-shorter", "", [(8, 4, 4, 1)], payload=sample(3)),
        wrong("patch-payload", "payload-none", "", [(8, 4, 4, 1)], payload=b""),
        wrong("patch-payload", "payload-without-runs", "", [], payload=b"a"),
        wrong("patch-payload", "payload-counts-one-piece", "", [(8, 4, 8, 3)], payload=sample(4)),
        wrong(
            "patch-payload",
            "sum-wraps-to-0",
            "four runs of 2^62 bytes add up to 2^64",
            [(i, 2**31, 2**31, 2**31) for i in range(4)],
            EXABYTES,
            payload=b"",
        ),
        wrong("patch-payload", "payload-before-overlap", "", [(8, 4, 4, 1), (9, 4, 4, 1)], payload=sample(7)),
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
    return ok + structure + runs + sums


# --- key bundle ----------------------------------------------------------------------------------

# Private scalars and content keys for these vectors and nothing else.
PUBLISHER = ec.derive_private_key(0xC0FFEE_0001_7E57_0001, ec.SECP256R1())
STRANGER = ec.derive_private_key(0xC0FFEE_0002_7E57_0002, ec.SECP256R1())
BUNDLE_ID = UUID("6f1d0c3e-9b52-4c7a-8a31-1f6f54a0c2d9")
TOP_KEY = sha256(b"content key of the test vectors")
TIERS = ["free", "plus", "full"]


def base64url_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwk_of(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    x, y = (base64url_of(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def thumbprint_of(jwk: dict[str, str]) -> str:
    """RFC 7638 section 3: the required members in lexicographic order, no whitespace."""
    return base64url_of(sha256('{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}'.format(**jwk).encode()))


def derived_keys(top: bytes, bundle: UUID, tiers: int) -> list[bytes]:
    """HKDF-SHA256 for 32 bytes (RFC 5869): extract with the bundle id, expand once."""
    keys = [top]
    for tier in reversed(range(tiers - 1)):
        pseudorandom = hmac.digest(bundle.bytes, keys[-1], "sha256")
        info = b"corelocker tier v1" + struct.pack("<I", tier)
        keys.append(hmac.digest(pseudorandom, info + b"\x01", "sha256"))
    return keys[::-1]


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Model:
    """The states of a small file, one for each tier, and the patches between them."""

    def __init__(self, size: int, seed: int, runs: list[list[Run]]) -> None:
        whole = sample(size, seed)
        self.runs = runs
        self.states = [whole]
        for tier in reversed(range(len(runs))):
            state = bytearray(self.states[0])
            for place in places(runs[tier]):
                state[place] = (place * 31 + 7 * tier) % 256
            self.states.insert(0, bytes(state))

    def at(self, state: int, tier: int) -> bytes:
        return bytes(self.states[state][place] for place in places(self.runs[tier - 1]))

    def patch(self, tier: int) -> bytes:
        return patch_bytes(self.runs[tier - 1], self.at(tier, tier))


PTE = Model(96, 3, [[(8, 4, 16, 5), (90, 4, 4, 1)], [(12, 2, 16, 5), (88, 6, 6, 1)]])
WEIGHTS = Model(120, 4, [[(64, 8, 8, 1)], [(0, 8, 8, 1), (80, 16, 16, 1)]])


class Draft:
    """A bundle whose every part can be spoiled before it is put together.

    Attributes:
        fields: the header.
        plain: of each section the plaintext and its tier.
        header: bytes that stand in for the encoded fields.
    """

    def __init__(self) -> None:
        models = [("A.pte", "executorch", "A.pte", PTE)]
        models += [("B.mlpackage", "coreml", "Data/com.apple.CoreML/weights/weight.bin", WEIGHTS)]
        self.key = PUBLISHER
        self.content_keys = derived_keys(TOP_KEY, BUNDLE_ID, len(TIERS))
        self.header: bytes | None = None
        self.plain: list[tuple[int, bytes]] = []
        sections: list[dict[str, Any]] = []
        for number, (_, _, _, model) in enumerate(models):
            for tier in (1, 2):
                digests = {"puts": sha256(model.at(tier, tier)).hex(), "file": sha256(model.states[tier]).hex()}
                self.plain.append((tier, self.sealed(digests, model.patch(tier))))
                replaces = sha256(model.at(tier - 1, tier)).hex()
                sections.append({"artifact": number, "file": 0, "tier": tier, "replaces": replaces})
        self.fields: dict[str, Any] = {
            "format": "corelocker-key-bundle",
            "version": "1.0",
            "bundle": str(BUNDLE_ID),
            "model": "vectors/small",
            "model_version": 3,
            "publisher": thumbprint_of(jwk_of(self.key)),
            "publisher_key": jwk_of(self.key),
            "tiers": list(TIERS),
            "artifacts": [
                {
                    "name": name,
                    "format": kind,
                    "files": [{"path": path, "size": len(m.states[0]), "sha256": sha256(m.states[0]).hex()}],
                }
                for name, kind, path, m in models
            ],
            "sections": sections,
        }
        self.place()

    @staticmethod
    def sealed(digests: Any, patch: bytes) -> bytes:
        text = digests if isinstance(digests, bytes) else compact(digests)
        return struct.pack("<I", len(text)) + text + patch

    def place(self) -> None:
        """Write offset, length and nonce of the sections into the header."""
        offset = 0
        for index, (section, (_, plain)) in enumerate(zip(self.fields["sections"], self.plain, strict=True)):
            nonce = base64url_of(sha256(b"nonce %d" % index)[:12])
            section.update(offset=offset, length=len(plain) + 16, nonce=nonce)
            offset += len(plain) + 16

    def encode(self) -> bytes:
        header = compact(self.fields) if self.header is None else self.header
        signed = struct.pack("<8sI", b"CLKEYB01", len(header)) + header
        der = self.key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        ciphertexts = []
        for index, (tier, plain) in enumerate(self.plain):
            nonce = sha256(b"nonce %d" % index)[:12]
            associated = sha256(header) + struct.pack("<I", index)
            ciphertexts.append(AESGCM(self.content_keys[tier]).encrypt(nonce, plain, associated))
        return signed + r.to_bytes(32, "big") + s.to_bytes(32, "big") + b"".join(ciphertexts)


def opened(draft: Draft) -> list[Vector]:
    """What the sections of a good draft hold."""
    found = []
    for index, (tier, plain) in enumerate(draft.plain):
        (length,) = struct.unpack_from("<I", plain)
        digests = json.loads(plain[4 : 4 + length])
        section = {"index": index, "content_key": draft.content_keys[tier].hex(), "expect": "ok"}
        found.append({**section, **digests, "patch": base64_of(plain[4 + length :])})
    return found


def bundle_vector(name: str, comment: str, bundle: bytes, expect: str = "ok", **more: Any) -> Vector:
    return {"name": name, "comment": comment, "bundle": base64_of(bundle), "expect": expect, **more}


def spoiled(name: str, change: Callable[[Draft], Any], expect: str = "bundle-header", comment: str = "") -> Vector:
    """A bundle with a good signature over a header that has been changed."""
    draft = Draft()
    change(draft)
    return bundle_vector(name, comment, draft.encode(), expect)


def setting(*path: str | int, value: Any) -> Callable[[Draft], None]:
    """Sets (or with ... removes) one field of the header."""

    def change(draft: Draft) -> None:
        at: Any = draft.fields
        for step in path[:-1]:
            at = at[step]
        if value is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


def raw_header(edit: Callable[[bytes], bytes]) -> Callable[[Draft], None]:
    def change(draft: Draft) -> None:
        draft.header = edit(compact(draft.fields))

    return change


def flipped(data: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def good_bundles() -> list[Vector]:
    draft = Draft()
    good = draft.encode()
    publisher = draft.fields["publisher"]
    facts = {
        "publisher": publisher,
        "id": str(BUNDLE_ID),
        "model": "vectors/small",
        "model_version": 3,
        "tiers": TIERS,
        "sections": opened(draft),
    }
    vectors = [
        bundle_vector("two-artifacts", "", good, **facts),
        bundle_vector("publisher-not-given", "the signature is checked all the same", good),
        bundle_vector(
            "publisher-other",
            "a good bundle of another publisher",
            good,
            "bundle-publisher",
            publisher=thumbprint_of(jwk_of(STRANGER)),
        ),
    ]

    def with_minor_version(draft: Draft) -> None:
        draft.fields |= {"version": "1.7", "new": {"any": [1.5, None, "x"]}}
        draft.fields["publisher_key"] |= {"kid": "a", "use": "sig"}
        draft.fields["sections"][0]["new"] = True

    def without_sections(draft: Draft) -> None:
        draft.fields["sections"].clear()
        draft.plain.clear()

    def skipping_tier(draft: Draft) -> None:
        del draft.fields["sections"][0], draft.plain[0]
        draft.place()

    def with_names(draft: Draft) -> None:
        draft.fields["model"] = "模型 é 🙂"
        draft.fields["artifacts"][0]["name"] = draft.fields["artifacts"][0]["files"][0]["path"] = "Modèle (1).pte"

    for name, comment, change in (
        ("minor-version", "unknown fields and a higher minor version are ignored", with_minor_version),
        ("no-sections", "nothing to put in", without_sections),
        ("tier-without-change", "a file need not change in every tier", skipping_tier),
        ("names-in-unicode", "characters beyond the basic plane", with_names),
        ("largest-version", "2^53 - 1", setting("model_version", value=2**53 - 1)),
        ("version-0", "", setting("model_version", value=0)),
    ):
        draft = Draft()
        change(draft)
        vectors.append(bundle_vector(name, comment, draft.encode(), sections=opened(draft)))
    draft = Draft()
    draft.header = json.dumps(draft.fields, indent=2, sort_keys=True).encode()
    vectors.append(
        bundle_vector(
            "header-with-whitespace", "and its fields in another order", draft.encode(), sections=opened(draft)
        )
    )
    return vectors


def broken_bundles() -> list[Vector]:
    draft = Draft()
    good = draft.encode()
    header_end = 12 + len(compact(draft.fields))
    start = header_end + 64

    def cut(name: str, size: int, comment: str = "") -> Vector:
        return bundle_vector(name, comment, good[:size], "bundle-truncated")

    def foreign_signature(draft: Draft) -> None:
        draft.key = STRANGER

    signature = "bundle-signature"
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    return [
        cut("no-bytes", 0),
        cut("start-short-by-one", 11),
        bundle_vector("short-and-wrong-magic", "length comes before magic", b"CLKEYB99", "bundle-truncated"),
        cut("no-header", 12),
        cut("header-short-by-one", header_end - 1),
        cut("no-signature", header_end),
        cut("signature-short-by-one", start - 1),
        cut("no-section", start, "the header is good"),
        cut("section-short-by-one", len(good) - 1),
        bundle_vector("magic-version-2", "", good.replace(b"CLKEYB01", b"CLKEYB02"), "bundle-magic"),
        bundle_vector("magic-of-patch", "", b"CLPATCH1" + good[8:], "bundle-magic"),
        bundle_vector(
            "header-too-long",
            "1 MiB and a byte, said only",
            struct.pack("<8sI", b"CLKEYB01", 2**20 + 1),
            "bundle-header",
        ),
        bundle_vector("header-absurd", "4 GiB, said only", struct.pack("<8sI", b"CLKEYB01", U32), "bundle-header"),
        bundle_vector("header-largest", "1 MiB may be", struct.pack("<8sI", b"CLKEYB01", 2**20), "bundle-truncated"),
        bundle_vector("signature-bit-r", "", flipped(good, header_end + 5), signature),
        bundle_vector("signature-bit-s", "", flipped(good, start - 1), signature),
        bundle_vector("signature-zero", "", good[:header_end] + bytes(64) + good[start:], signature),
        bundle_vector(
            "signature-r-is-order",
            "out of range",
            good[:header_end] + order.to_bytes(32, "big") + good[header_end + 32 :],
            signature,
        ),
        bundle_vector(
            "signature-swapped",
            "s || r",
            good[:header_end] + good[header_end + 32 : start] + good[header_end : header_end + 32] + good[start:],
            signature,
        ),
        bundle_vector(
            "header-changed",
            "model_version 3 -> 4",
            good.replace(b'"model_version":3', b'"model_version":4'),
            signature,
        ),
        spoiled("signed-by-other", foreign_signature, signature, "the key in the header is not the one that signed"),
        bundle_vector(
            "signature-before-fields",
            "a bad field behind a bad signature",
            flipped(good.replace(b'"tier":1', b'"tier":9'), header_end),
            signature,
        ),
        bundle_vector("signature-before-length", "", flipped(good, header_end) + b"x", signature),
        spoiled("version-2", setting("version", value="2.0"), "bundle-version"),
        spoiled("version-10", setting("version", value="10.0"), "bundle-version", "not 1 and something"),
        spoiled("version-0-9", setting("version", value="0.9"), "bundle-version"),
        bundle_vector(
            "version-before-signature",
            "a new major version may sign otherwise",
            good.replace(b'"version":"1.0"', b'"version":"2.0"'),
            "bundle-version",
        ),
        bundle_vector("trailing-byte", "", good + b"\0", "bundle-trailing"),
        bundle_vector("trailing-bundle", "", good + good, "bundle-trailing"),
    ]


def header_vectors() -> list[Vector]:
    def twice(draft: Draft) -> None:
        draft.header = compact(draft.fields).replace(b'"model":', b'"model":"other","model":', 1)

    def twice_inside(draft: Draft) -> None:
        draft.header = compact(draft.fields).replace(b'"tier":1', b'"tier":1,"tier":1', 1)

    def swapped_tiers(draft: Draft) -> None:
        draft.fields["sections"][0]["tier"], draft.fields["sections"][1]["tier"] = 2, 1

    def longer_first(draft: Draft) -> None:
        draft.fields["sections"][0]["length"] += 1

    def many_tiers(draft: Draft) -> None:
        draft.fields["tiers"] = [f"t{i}" for i in range(65)]

    wrong_point = jwk_of(PUBLISHER) | {"y": jwk_of(STRANGER)["y"]}
    section, file = ("sections", 0), ("artifacts", 0, "files", 0)
    cases: list[tuple[str, Callable[[Draft], Any]]] = [
        ("header-empty", raw_header(lambda _: b"")),
        ("header-not-utf8", raw_header(lambda h: h.replace(b"small", b"sm\xff\xfe"))),
        ("header-utf16", raw_header(lambda h: h.decode().encode("utf-16-le"))),
        ("header-with-byte-order-mark", raw_header(lambda h: b"\xef\xbb\xbf" + h)),
        ("header-not-json", raw_header(lambda h: h[:-1])),
        ("header-trailing-json", raw_header(lambda h: h + b"{}")),
        ("header-array", raw_header(lambda h: b"[" + h + b"]")),
        ("header-nan", raw_header(lambda h: h.replace(b'"model_version":3', b'"model_version":3,"x":NaN'))),
        ("header-nested-deep", raw_header(lambda h: h[:-1] + b',"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}")),
        ("header-key-twice", twice),
        ("header-key-twice-inside", twice_inside),
        ("format-other", setting("format", value="corelocker-license")),
        ("format-missing", setting("format", value=...)),
        ("version-missing", setting("version", value=...)),
        ("version-number", setting("version", value=1.0)),
        ("version-one-part", setting("version", value="1")),
        ("version-three-parts", setting("version", value="1.0.0")),
        ("publisher-of-other-key", setting("publisher", value=thumbprint_of(jwk_of(STRANGER)))),
        ("publisher-missing", setting("publisher", value=...)),
        ("publisher-key-missing", setting("publisher_key", value=...)),
        ("publisher-key-rsa", setting("publisher_key", "kty", value="RSA")),
        ("publisher-key-p384", setting("publisher_key", "crv", value="P-384")),
        ("publisher-key-off-curve", setting("publisher_key", value=wrong_point)),
        ("publisher-key-private", setting("publisher_key", "d", value=base64url_of(bytes(31) + b"\1"))),
        ("publisher-key-padded", setting("publisher_key", "x", value=jwk_of(PUBLISHER)["x"] + "=")),
        ("publisher-key-short", setting("publisher_key", "x", value=jwk_of(PUBLISHER)["x"][:-1])),
        ("bundle-upper-case", setting("bundle", value=str(BUNDLE_ID).upper())),
        ("bundle-braces", setting("bundle", value="{" + str(BUNDLE_ID)[:34] + "}")),
        ("bundle-number", setting("bundle", value=7)),
        ("model-empty", setting("model", value="")),
        ("model-control-character", setting("model", value="a\nb")),
        ("model-too-long", setting("model", value="a" * 257)),
        ("model-version-negative", setting("model_version", value=-1)),
        ("model-version-float", setting("model_version", value=3.0)),
        ("model-version-true", setting("model_version", value=True)),
        ("model-version-text", setting("model_version", value="3")),
        ("model-version-2-to-53", setting("model_version", value=2**53)),
        ("model-version-huge", setting("model_version", value=10**400)),
        ("tiers-one", setting("tiers", value=["full"])),
        ("tiers-same", setting("tiers", value=["free", "full", "full"])),
        ("tiers-65", many_tiers),
        ("tiers-number", setting("tiers", value=["free", 1, "full"])),
        ("tiers-object", setting("tiers", value={"free": 0, "plus": 1, "full": 2})),
        ("artifacts-none", setting("artifacts", value=[])),
        ("artifacts-null", setting("artifacts", value=None)),
        ("artifact-text", setting("artifacts", 0, value="A.pte")),
        ("artifacts-same-name", setting("artifacts", 1, "name", value="A.pte")),
        ("artifact-name-slash", setting("artifacts", 0, "name", value="dist/A.pte")),
        ("artifact-name-dots", setting("artifacts", 0, "name", value="..")),
        ("files-none", setting("artifacts", 0, "files", value=[])),
        ("path-absolute", setting(*file, "path", value="/A.pte")),
        ("path-dots", setting(*file, "path", value="a/../../A.pte")),
        ("path-backslash", setting(*file, "path", value="..\\A.pte")),
        ("path-empty-part", setting(*file, "path", value="a//A.pte")),
        ("path-nul", setting(*file, "path", value="A.pte\0")),
        ("size-negative", setting(*file, "size", value=-1)),
        ("size-2-to-53", setting(*file, "size", value=2**53)),
        ("sha256-upper-case", setting(*file, "sha256", value=sha256(b"").hex().upper())),
        ("sha256-short", setting(*file, "sha256", value=sha256(b"").hex()[2:])),
        ("sections-null", setting("sections", value=None)),
        ("section-array", setting(*section, value=[])),
        ("section-artifact-2", setting(*section, "artifact", value=2)),
        ("section-artifact-negative", setting(*section, "artifact", value=-1)),
        ("section-file-1", setting(*section, "file", value=1)),
        ("section-tier-0", setting(*section, "tier", value=0)),
        ("section-tier-3", setting("sections", 1, "tier", value=3)),
        ("section-tier-twice", setting("sections", 1, "tier", value=1)),
        ("section-tiers-descend", swapped_tiers),
        ("section-gap", setting("sections", 1, "offset", value=10_000)),
        ("section-overlap", setting("sections", 1, "offset", value=0)),
        ("section-first-not-at-0", setting(*section, "offset", value=1)),
        ("section-length-wrong", longer_first),
        ("section-length-15", setting("sections", 3, "length", value=15)),
        ("section-length-beyond-gcm", setting("sections", 3, "length", value=2**36 - 15)),
        ("section-length-2-to-53", setting("sections", 3, "length", value=2**53)),
        ("nonce-11-bytes", setting(*section, "nonce", value=base64url_of(bytes(11)))),
        ("nonce-padded", setting(*section, "nonce", value=base64url_of(bytes(11)) + "=")),
        ("nonce-base64", setting(*section, "nonce", value="++++////++++////")),
        ("replaces-missing", setting(*section, "replaces", value=...)),
    ]
    return [spoiled(name, change) for name, change in cases]


def section_vectors() -> list[Vector]:
    """Bundles that open, with a section that does not."""
    draft = Draft()
    good = draft.encode()
    start = 12 + len(compact(draft.fields)) + 64
    lengths = [section["length"] for section in draft.fields["sections"]]
    plus, full = (draft.content_keys[tier].hex() for tier in (1, 2))

    def closed(
        name: str, comment: str, bundle: bytes, index: int, key: str, expect: str = "bundle-content-key"
    ) -> Vector:
        return bundle_vector(name, comment, bundle, sections=[{"index": index, "content_key": key, "expect": expect}])

    def with_plaintext(name: str, comment: str, plaintext: bytes, expect: str = "bundle-header") -> Vector:
        changed = Draft()
        changed.plain[0] = (1, plaintext)
        changed.place()
        return closed(name, comment, changed.encode(), 0, plus, expect)

    other = Draft()
    other.fields["model_version"] = 4
    other_body = other.encode()[-sum(lengths) :]
    puts = {"puts": sha256(PTE.at(1, 1)).hex(), "file": sha256(PTE.states[1]).hex()}
    alike = Draft()
    alike.plain[2] = alike.plain[0]
    alike.place()
    body = alike.encode()
    ends = list(itertools.accumulate(len(plain) + 16 for _, plain in alike.plain))
    parts = [body[len(body) - ends[3] + begin :][: end - begin] for begin, end in itertools.pairwise([0, *ends])]
    swapped = body[: -ends[3]] + parts[2] + parts[1] + parts[0] + parts[3]
    return [
        closed("key-of-higher-tier", "it must be derived first", good, 0, full),
        closed("key-of-lower-tier", "a lower tier's key opens no higher tier", good, 1, plus),
        closed(
            "key-of-other-bundle",
            "same top key, derived for another bundle id",
            good,
            0,
            derived_keys(TOP_KEY, UUID(int=1), 3)[1].hex(),
        ),
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
        closed("sections-swapped", "sections 0 and 2 have one length and tier", swapped, 0, plus),
        with_plaintext("plaintext-empty", "", b""),
        with_plaintext("digests-length-cut", "", b"\0\0\0"),
        with_plaintext("digests-too-long", "longer than the section", struct.pack("<I", 1000) + b"{}"),
        with_plaintext("digests-absurd", "", struct.pack("<I", U32) + b"{}"),
        with_plaintext("digests-not-json", "", Draft.sealed(b"{", b"")),
        with_plaintext("digests-array", "", Draft.sealed([], b"")),
        with_plaintext("digests-twice", "", Draft.sealed(compact(puts)[:-1] + b"," + compact(puts)[1:], b"")),
        with_plaintext("digests-without-file", "", Draft.sealed({"puts": puts["puts"]}, b"")),
        with_plaintext("digests-without-puts", "", Draft.sealed({"file": puts["file"]}, b"")),
        with_plaintext("digests-upper-case", "", Draft.sealed(puts | {"file": puts["file"].upper()}, b"")),
    ]


def restore_vectors() -> list[Vector]:
    """Restoring a file with a bundle that opens."""
    draft = Draft()
    good = draft.encode()
    keys = draft.content_keys

    def attempt(
        file: bytes, tier: int, expect: str = "ok", restored: bytes | None = None, comment: str = "", artifact: int = 0
    ) -> Vector:
        vector: Vector = {
            "comment": comment,
            "artifact": artifact,
            "file": 0,
            "tier": tier,
            "content_key": keys[tier].hex(),
        }
        vector |= {"locked": base64_of(file), "expect": expect}
        return vector if restored is None else {**vector, "restored": base64_of(restored)}

    locked, plus, full = PTE.states
    touched = places(PTE.runs[0])[0]
    between = next(p for p in range(96) if p not in places(PTE.runs[0]) + places(PTE.runs[1]))
    second = places(PTE.runs[1])[0]
    good_restores = [
        attempt(locked, 1, restored=plus),
        attempt(locked, 2, restored=full),
        attempt(WEIGHTS.states[0], 1, restored=WEIGHTS.states[1], artifact=1),
        attempt(WEIGHTS.states[0], 2, restored=WEIGHTS.states[2], artifact=1),
        attempt(locked, 0, restored=locked, comment="tier 0 is what ships"),
        attempt(
            flipped(locked, between),
            2,
            restored=flipped(full, between),
            comment="the quick check does not see other bytes",
        ),
        attempt(locked[:-1], 1, "restore-size"),
        attempt(locked + b"\0", 1, "restore-size"),
        attempt(b"", 1, "restore-size"),
        attempt(plus, 1, "restore-already"),
        attempt(plus, 2, "restore-already", comment="tier 1 is in already"),
        attempt(full, 2, "restore-already"),
        attempt(flipped(locked, touched), 1, "restore-replaced"),
        attempt(
            flipped(locked, second), 2, "restore-replaced", comment="only tier 2 sees it; nothing of tier 1 may stay"
        ),
        attempt(bytes(96), 1, "restore-replaced"),
    ]
    draft = Draft()
    bad_puts = {"puts": sha256(b"other").hex(), "file": sha256(PTE.states[1]).hex()}
    draft.plain[0] = (1, Draft.sealed(bad_puts, PTE.patch(1)))
    draft.place()
    cases = [("puts-wrong", draft.encode(), [attempt(locked, 1, "restore-restored", comment="the publisher erred")])]
    for name, patch, expect in (
        ("patch-cut", PTE.patch(1)[:-1], "patch-truncated"),
        ("patch-missing", b"", "patch-truncated"),
        ("patch-for-larger-file", patch_bytes([(95, 4, 4, 1)], bytes(4)), "patch-bounds"),
        ("patch-overlapping", patch_bytes([(5, 4, 4, 1), (8, 4, 4, 1)], bytes(8)), "patch-overlap"),
    ):
        draft = Draft()
        draft.plain[0] = (1, Draft.sealed(json.loads(opened_digests(draft)), patch))
        draft.place()
        cases.append((name, draft.encode(), [attempt(locked, 1, expect)]))
    return [bundle_vector("restores", "", good, restores=good_restores)] + [
        bundle_vector(name, "inside a section that opens", bundle, restores=restores)
        for name, bundle, restores in cases
    ]


def opened_digests(draft: Draft) -> bytes:
    plain = draft.plain[0][1]
    return plain[4 : 4 + struct.unpack_from("<I", plain)[0]]


# --- keys ----------------------------------------------------------------------------------------


def tier_key_vectors() -> list[Vector]:
    cases = [
        ("one-tier", TOP_KEY, BUNDLE_ID, 1),
        ("two-tiers", TOP_KEY, BUNDLE_ID, 2),
        ("three-tiers", TOP_KEY, BUNDLE_ID, 3),
        ("most-tiers", TOP_KEY, BUNDLE_ID, 64),
        ("other-bundle", TOP_KEY, UUID(int=0), 3),
        ("zero-key", bytes(32), BUNDLE_ID, 3),
        ("ones", b"\xff" * 32, UUID(int=2**128 - 1), 3),
    ]
    vectors = []
    for name, top, bundle, tiers in cases:
        keys = [key.hex() for key in derived_keys(top, bundle, tiers)]
        vectors.append({"name": name, "bundle": str(bundle), "content_key": top.hex(), "tiers": tiers, "keys": keys})
    return vectors


def thumbprint_vectors() -> list[Vector]:
    # RFC 7517 appendix A.1
    of_rfc = {
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }
    # A coordinate that begins with a zero byte must keep it: the smallest scalar from 1 with such an x.
    scalar = next(
        d for d in range(1, 10_000) if ec.derive_private_key(d, ec.SECP256R1()).public_key().public_numbers().x < 2**248
    )
    short = jwk_of(ec.derive_private_key(scalar, ec.SECP256R1()))
    stripped = short | {"x": base64url_of(base64.urlsafe_b64decode(short["x"] + "=")[1:])}
    x = of_rfc["x"]

    def good(name: str, comment: str, jwk: dict[str, Any]) -> Vector:
        return {"name": name, "comment": comment, "jwk": jwk, "expect": "ok", "thumbprint": thumbprint_of(jwk)}

    def bad(name: str, jwk: Any) -> Vector:
        return {"name": name, "comment": "", "jwk": jwk, "expect": "invalid"}

    return [
        good("rfc7517", "RFC 7517 appendix A.1", of_rfc),
        good("more-members", "only the required members count", of_rfc | {"kid": "1", "use": "sig", "alg": "ES256"}),
        good("other-order", "the order of members does not count", dict(reversed(of_rfc.items()))),
        good("publisher", "of bundle.json", jwk_of(PUBLISHER)),
        good("leading-zero", "x begins with a zero byte", short),
        bad("leading-zero-stripped", stripped),
        bad("padded", of_rfc | {"x": x + "="}),
        bad("base64-alphabet", of_rfc | {"x": "+" + x[1:]}),
        bad("left-over-bits", of_rfc | {"x": x[:-1] + chr(ord(x[-1]) + 1)}),
        bad("newline", of_rfc | {"x": x + "\n"}),
        bad("off-curve", of_rfc | {"x": of_rfc["y"], "y": x}),
        bad("zero-point", of_rfc | {"x": base64url_of(bytes(32)), "y": base64url_of(bytes(32))}),
        bad("x-beyond-field", of_rfc | {"x": base64url_of(b"\xff" * 32)}),
        bad("missing-y", {k: v for k, v in of_rfc.items() if k != "y"}),
        bad("number", of_rfc | {"x": 7}),
        bad("curve", of_rfc | {"crv": "secp256k1"}),
        bad("kty", of_rfc | {"kty": "OKP"}),
        bad("private", of_rfc | {"d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}),
        bad("text", "EC"),
        bad("null", None),
    ]


# --- writing -------------------------------------------------------------------------------------


def document(description: str, vectors: list[Vector]) -> str:
    names = [vector["name"] for vector in vectors]
    assert len(set(names)) == len(names), "names of vectors repeat"
    return json.dumps({"description": description, "vectors": vectors}, indent=1) + "\n"


def documents() -> dict[str, str]:
    """File name in tests/vectors -> its text."""
    return {
        "patch.json": document(
            "Patches (DESIGN.md, Formats). Read `patch` (base64) for a file of `file_size` bytes; `expect` is ok or "
            "the code of the error. Where a `file` (base64) is given and ok expected: its bytes at the runs, in run "
            "order, have SHA-256 `replaces`, the payload has `puts`, and applying it gives `restored`. Where a `file` "
            "is given and an error expected, it must not change.",
            patch_vectors(),
        ),
        "bundle.json": document(
            "Key bundles (DESIGN.md, Formats). Open `bundle` (base64), where given for the `publisher` with that JWK "
            "thumbprint; `expect` is ok or the code of the error. Then open each of `sections` with its `content_key` "
            "(hex, of the section's tier): `expect` again, and with ok the digests `puts` and `file` (hex) and the "
            "`patch` (base64). Then each of `restores`: bring the file with the bytes `locked` (base64), which is file "
            "`file` of artifact `artifact`, to `tier` with that tier's `content_key`, without a check of the whole "
            "file; with ok the result is `restored`.",
            [*good_bundles(), *broken_bundles(), *header_vectors(), *section_vectors(), *restore_vectors()],
        ),
        "tier_keys.json": document(
            "Content keys (DESIGN.md, Content keys). From `content_key` (hex), the key of tier `tiers` - 1 of the "
            "bundle with the id `bundle`, follow the `keys` of tiers 0, 1, ... `tiers` - 1.",
            tier_key_vectors(),
        ),
        "jwk_thumbprint.json": document(
            "Public P-256 keys as JWK (RFC 7517, RFC 7518 section 6.2.1) and their `thumbprint` (RFC 7638, SHA-256, "
            "base64url without padding). `expect` is ok, or invalid where a reader must refuse the key.",
            thumbprint_vectors(),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests" / "vectors")
    folder: Path = parser.parse_args().out
    for name, text in documents().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
