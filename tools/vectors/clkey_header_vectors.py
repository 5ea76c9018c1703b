"""The vectors of a key bundle's structure, signature and header, in bundle.json."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from naive_bundle import (
    BUNDLE_ID,
    PUBLISHER,
    STRANGER,
    TIERS,
    Draft,
    base64url_of,
    bundle_vector,
    compact,
    flipped,
    jwk_of,
    opened,
    raw_header,
    setting,
    spoiled,
    thumbprint_of,
)
from naive_patch import U32, Vector, sha256

# The header is the first level of 33.
DEEP_MEMBER = b'"model_version":3,"x":' + b"[" * 32 + b"]" * 32


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
        draft.fields |= {"version": "2.7", "new": {"any": [1, None, "x"]}}
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

    def with_any_uuid(draft: Draft) -> None:
        draft.fields["bundle"] = "00000000-0000-0000-0000-0000000000ff"
        draft.fields["sections"].clear()
        draft.plain.clear()

    for name, comment, change in (
        ("bundle-any-uuid", "of no known version", with_any_uuid),
        ("minor-version-zeros", "any digits, up to six", setting("version", value="2.000007")),
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


def old_bundle() -> bytes:
    """A whole bundle of version 1, but for its patches: other magic, other members."""
    draft = Draft()
    draft.magic = b"CLKEYB01"
    draft.fields["version"] = "1.0"
    for section in draft.fields["sections"]:
        section["replaces"] = section.pop("sample")
    draft.plain = [(tier, plain.replace(b'"sample"', b'"puts"')) for tier, plain in draft.plain]
    draft.place()
    return draft.encode()


def version_vectors() -> list[Vector]:
    """What another version wrote: the code says that the model has to be locked again, or the reader is too old."""
    good, old = Draft().encode(), old_bundle()
    return [
        bundle_vector("format-1", "a whole bundle of version 1", old, "bundle-version"),
        bundle_vector("format-1-cut", "its first twelve bytes", old[:12], "bundle-version"),
        bundle_vector("format-1-short", "version comes behind the length of the start", old[:11], "bundle-truncated"),
        bundle_vector(
            "format-1-magic", "the magic of version 1 before version 2", b"CLKEYB01" + good[8:], "bundle-version"
        ),
        bundle_vector("format-1-header", "version 1 in the header alone", b"CLKEYB02" + old[8:], "bundle-version"),
        bundle_vector("format-3-magic", "", b"CLKEYB03" + good[8:], "bundle-version"),
        bundle_vector("format-before-header-length", "", struct.pack("<8sI", b"CLKEYB01", U32), "bundle-version"),
    ]


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
        bundle_vector("short-and-wrong-magic", "length comes before magic", b"CLKEYX99", "bundle-truncated"),
        cut("no-header", 12),
        cut("header-short-by-one", header_end - 1),
        cut("no-signature", header_end),
        cut("signature-short-by-one", start - 1),
        cut("no-section", start, "the header is good"),
        cut("section-short-by-one", len(good) - 1),
        bundle_vector("magic-of-patch", "", b"CLPATCH2" + good[8:], "bundle-magic"),
        bundle_vector("magic-lower-case", "", b"clkeyb02" + good[8:], "bundle-magic"),
        bundle_vector("magic-sixth-byte", "", b"CLKEYC02" + good[8:], "bundle-magic"),
        bundle_vector(
            "header-too-long",
            "1 MiB and a byte, said only",
            struct.pack("<8sI", b"CLKEYB02", 2**20 + 1),
            "bundle-header",
        ),
        bundle_vector("header-absurd", "4 GiB, said only", struct.pack("<8sI", b"CLKEYB02", U32), "bundle-header"),
        bundle_vector("header-largest", "1 MiB may be", struct.pack("<8sI", b"CLKEYB02", 2**20), "bundle-truncated"),
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
        spoiled("version-3", setting("version", value="3.0"), "bundle-version"),
        spoiled("version-20", setting("version", value="20.0"), "bundle-version", "not 2 and something"),
        spoiled("version-02", setting("version", value="02.0"), "bundle-version", "2 is written in one way"),
        spoiled("version-1-9", setting("version", value="1.9"), "bundle-version"),
        bundle_vector(
            "version-before-signature",
            "a new major version may sign otherwise",
            good.replace(b'"version":"2.0"', b'"version":"3.0"'),
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

    def no_artifacts(draft: Draft) -> None:
        draft.fields |= {"artifacts": [], "sections": []}
        draft.plain.clear()

    def one_tier(draft: Draft) -> None:
        draft.fields |= {"tiers": ["full"], "sections": []}
        draft.plain.clear()

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
        ("header-fraction", raw_header(lambda h: h.replace(b'"model_version":3', b'"model_version":3,"x":1.5'))),
        (
            "header-large-integer",
            raw_header(lambda h: h.replace(b'"model_version":3', b'"model_version":3,"x":9007199254740992')),
        ),
        (
            "header-half-surrogate",
            raw_header(lambda h: h.replace(b'"model_version":3', b'"model_version":3,"x":"\\ud800"')),
        ),
        ("header-too-deep", raw_header(lambda h: h.replace(b'"model_version":3', DEEP_MEMBER))),
        ("header-nested-deep", raw_header(lambda h: h[:-1] + b',"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}")),
        ("header-key-twice", twice),
        ("header-key-twice-inside", twice_inside),
        ("format-other", setting("format", value="corelocker-license")),
        ("format-missing", setting("format", value=...)),
        ("version-missing", setting("version", value=...)),
        ("version-number", setting("version", value=2.0)),
        ("version-one-part", setting("version", value="2")),
        ("version-seven-digits", setting("version", value="2.1000000")),
        ("version-three-parts", setting("version", value="2.0.0")),
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
        ("model-direction-mark", setting("model", value="a\u202eb")),
        ("model-control-character", setting("model", value="a\nb")),
        ("model-too-long", setting("model", value="a" * 257)),
        ("model-version-negative", setting("model_version", value=-1)),
        ("model-version-float", setting("model_version", value=3.0)),
        ("model-version-true", setting("model_version", value=True)),
        ("model-version-text", setting("model_version", value="3")),
        ("model-version-2-to-53", setting("model_version", value=2**53)),
        ("model-version-huge", setting("model_version", value=10**400)),
        ("tiers-one", setting("tiers", value=["full"])),
        ("tiers-one-alone", one_tier),
        ("tiers-same", setting("tiers", value=["free", "full", "full"])),
        ("tiers-65", many_tiers),
        ("tiers-number", setting("tiers", value=["free", 1, "full"])),
        ("tiers-object", setting("tiers", value={"free": 0, "plus": 1, "full": 2})),
        ("artifacts-none", setting("artifacts", value=[])),
        ("artifacts-none-alone", no_artifacts),
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
        ("sample-missing", setting(*section, "sample", value=...)),
        ("sample-short", setting(*section, "sample", value="00")),
        ("sample-upper-case", setting(*section, "sample", value="AB" * 32)),
    ]
    return [spoiled(name, change) for name, change in cases]
