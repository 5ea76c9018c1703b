"""Key bundles: what is written is read back, and nothing that was changed is."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from corelocker.bundle import clkey, jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.clkey_header import BundledArtifact, BundledFile
from corelocker.bundle.clkey_write import BundleContents, SectionContents, bundle_parts, write_bundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.errors import (
    BundleError,
    BundleHeaderError,
    BundleMismatchError,
    BundlePublisherError,
    BundleTruncatedError,
    ContentKeyError,
    FileAccessError,
)
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

PUBLISHER = ec.generate_private_key(ec.SECP256R1())
BUNDLE = uuid4()
KEYS = tier_keys(new_content_key(), BUNDLE, 3)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def contents(**changes: Any) -> BundleContents:
    sections = tuple(
        SectionContents(artifact, file, tier, bytes(size), digest("l"), digest("r"), digest("f"))
        for artifact, file, tier, size in ((0, 0, 1, 50), (0, 0, 2, 0), (1, 0, 2, 200_000), (1, 1, 1, 65536 - 180))
    )
    fields: dict[str, Any] = {
        "bundle": BUNDLE,
        "model": "m",
        "model_version": 1,
        "tiers": ("free", "plus", "full"),
        "artifacts": (
            BundledArtifact("A.pte", "executorch", (BundledFile("A.pte", 100, digest("a")),)),
            BundledArtifact(
                "B", "safetensors", (BundledFile("1", 2**40, digest("1")), BundledFile("x/2", 0, digest("2")))
            ),
        ),
        "sections": sections,
    }
    return BundleContents(**{**fields, **changes})


@pytest.fixture(scope="module")
def blob() -> bytes:
    return write_bundle(contents(), PUBLISHER, KEYS)


def test_round_trip(blob: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.clkey"
    path.write_bytes(blob)
    wanted = contents()
    for source in (blob, bytearray(blob), memoryview(blob), path, str(path)):
        with KeyBundle.open(source, PUBLISHER.public_key()) as bundle:
            assert (bundle.id, bundle.model, bundle.model_version) == (BUNDLE, "m", 1)
            assert bundle.tiers == wanted.tiers
            assert bundle.artifacts == wanted.artifacts
            assert bundle.publisher == jose.thumbprint(PUBLISHER.public_key())
            assert bundle.publisher_key == PUBLISHER.public_key()
            for section, put_in in zip(bundle.sections, wanted.sections, strict=True):
                opened = bundle.decrypt(section, KEYS[section.tier])
                assert opened.patch == put_in.patch
                assert (opened.restored_sample, opened.file_digest) == (put_in.restored_sample, put_in.file_digest)
                assert section.locked_sample == put_in.locked_sample
                assert opened.file_size == wanted.artifacts[section.artifact].files[section.file].size


def test_parts_are_the_bundle(blob: bytes) -> None:
    """Nonces are random, so of two bundles only the layout is alike."""
    parts = list(bundle_parts(contents(), PUBLISHER, KEYS))
    assert len(b"".join(parts)) == len(blob)
    assert max(map(len, parts)) <= 1 << 16
    first, second = (KeyBundle.open(source) for source in (b"".join(parts), blob))
    nonces = {section.nonce for bundle in (first, second) for section in bundle.sections}
    assert len(nonces) == 8


def test_sections_of(blob: bytes) -> None:
    bundle = KeyBundle.open(blob)
    assert [s.index for s in bundle.sections_of(0, 0, 2)] == [0, 1]
    assert [s.index for s in bundle.sections_of(0, 0, 1)] == [0]
    assert [s.index for s in bundle.sections_of(1, 0, 1)] == []
    assert bundle.sections_of(0, 0, 0) == ()


def test_tier_by_name_or_index(blob: bytes) -> None:
    bundle = KeyBundle.open(blob)
    assert [bundle.tier(tier) for tier in ("free", "plus", "full", 0, 1, 2)] == [0, 1, 2, 0, 1, 2]
    for tier in ("", "Full", "1", 3, -1):
        with pytest.raises(BundleMismatchError):
            bundle.tier(tier)


def test_publisher(blob: bytes) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for pinned in (other, jose.thumbprint(other), "", "x" * 43):
        with pytest.raises(BundlePublisherError):
            KeyBundle.open(blob, pinned)
    assert KeyBundle.open(blob, jose.thumbprint(PUBLISHER.public_key())).id == BUNDLE


def test_nothing_public_depends_on_what_is_put_in() -> None:
    """Two bundles that differ in the restored bytes alone have the same header but for the nonces."""
    headers = []
    for after, file, byte in (("p", "f", 0), ("q", "g", 1)):
        sections = tuple(
            SectionContents(
                s.artifact, s.file, s.tier, bytes([byte]) * len(s.patch), s.locked_sample, digest(after), digest(file)
            )
            for s in contents().sections
        )
        header = json.loads(KeyBundle.open(write_bundle(contents(sections=sections), PUBLISHER, KEYS)).header)
        for section in header["sections"]:
            del section["nonce"]
        headers.append(header)
        assert digest(after).hex() not in json.dumps(header)
        assert digest(file).hex() not in json.dumps(header)
    assert headers[0] == headers[1]


def test_no_secret_is_shown() -> None:
    given = SectionContents(0, 0, 1, b"SECRET" * 10, digest("l"), digest("r"), digest("f"))
    bundle = KeyBundle.open(write_bundle(contents(sections=(given,)), PUBLISHER, KEYS))
    opened = bundle.decrypt(bundle.sections[0], KEYS[1])
    assert opened.patch == b"SECRET" * 10
    assert "SECRET" not in f"{given!r} {opened!r} {bundle!r}"
    with pytest.raises(ContentKeyError) as caught:
        bundle.decrypt(bundle.sections[0], KEYS[2])
    assert KEYS[2].hex() not in str(caught.value)


def test_wipe(blob: bytes) -> None:
    sections = (SectionContents(0, 0, 1, b"secret" * 10, digest("l"), digest("r"), digest("f")),)
    bundle = KeyBundle.open(write_bundle(contents(sections=sections), PUBLISHER, KEYS))
    opened = bundle.decrypt(bundle.sections[0], KEYS[1])
    assert opened.patch == b"secret" * 10
    opened.wipe()
    assert opened.patch == bytes(60)


def test_a_section_that_does_not_open_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """AES-GCM decrypts before it knows that a byte was changed; what it wrote must not stay."""
    sections = (SectionContents(0, 0, 1, b"SECRET" * 1000, digest("l"), digest("r"), digest("f")),)
    blob = bytearray(write_bundle(contents(sections=sections), PUBLISHER, KEYS))
    blob[-1] ^= 1
    buffers: list[bytearray] = []

    def kept(size: int) -> bytearray:
        buffers.append(bytearray(size))
        return buffers[-1]

    monkeypatch.setattr(clkey, "bytearray", kept, raising=False)
    bundle = KeyBundle.open(blob)
    with pytest.raises(ContentKeyError):
        bundle.decrypt(bundle.sections[0], KEYS[1])
    assert len(buffers[0]) > 6000
    assert not any(buffers[0])


@pytest.mark.parametrize("tier", [1, 2])
def test_keys_open_their_own_tier_only(blob: bytes, tier: int) -> None:
    bundle = KeyBundle.open(blob)
    others = [
        *tier_keys(KEYS[2], uuid4(), 3)[:2],
        *tier_keys(new_content_key(), BUNDLE, 3),
        *KEYS[:tier],
        *KEYS[tier + 1 :],
    ]
    for section in bundle.sections:
        if section.tier == tier:
            bundle.decrypt(section, KEYS[tier])
            for key in others:
                with pytest.raises(ContentKeyError):
                    bundle.decrypt(section, key)


# --- changed bundles -----------------------------------------------------------------------------


def small() -> bytes:
    sections = (
        SectionContents(0, 0, 1, b"patch one", digest("l"), digest("r"), digest("f")),
        SectionContents(0, 0, 2, b"patch two", digest("l"), digest("r"), digest("f")),
    )
    return write_bundle(contents(sections=sections), PUBLISHER, KEYS)


def opens(blob: bytes) -> bool:
    """Whether the bundle and all its sections open. Only typed errors may keep them from it."""
    try:
        bundle = KeyBundle.open(blob, PUBLISHER.public_key())
        return all(bundle.decrypt(section, KEYS[section.tier]) for section in bundle.sections)
    except BundleError:
        return False


def test_every_changed_bit_is_noticed() -> None:
    blob = small()
    assert opens(blob)
    for place in range(len(blob)):
        for bit in (0, 3, 7):
            changed = bytearray(blob)
            changed[place] ^= 1 << bit
            assert not opens(bytes(changed)), f"bit {bit} of byte {place}"


def test_every_cut_is_noticed() -> None:
    blob = small()
    for length in range(len(blob)):
        with pytest.raises(BundleTruncatedError):
            KeyBundle.open(blob[:length])


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_splices_are_noticed(data: st.DataObject) -> None:
    """Bytes of one bundle at any place of another one of the same publisher, model and keys."""
    one, two = small(), small()
    start = data.draw(st.integers(0, len(one) - 1))
    stop = data.draw(st.integers(start + 1, len(one)))
    spliced = one[:start] + two[start:stop] + one[stop:]
    assert opens(spliced) == (spliced in (one, two))


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_noise(noise: bytes) -> None:
    for blob in (noise, b"CLKEYB02" + noise, b"CLKEYB02" + struct.pack("<I", len(noise)) + noise + bytes(64)):
        with pytest.raises(BundleError):
            KeyBundle.open(blob)


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3))


def members(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [inner for key, child in value.items() for inner in members(child, (*path, key))]
    if isinstance(value, list):
        found += [inner for index, child in enumerate(value) for inner in members(child, (*path, index))]
    return found


def signed(header: bytes) -> bytes:
    start = struct.pack("<8sI", b"CLKEYB02", len(header)) + header
    return start + jose.sign(PUBLISHER, start)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_a_signed_header_opens_or_is_refused(data: st.DataObject) -> None:
    blob = small()
    header = KeyBundle.open(blob).header
    fields = json.loads(header)
    path = data.draw(st.sampled_from(members(fields)))
    at = fields
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = data.draw(json_values())
    changed = signed(json.dumps(fields).encode()) + blob[12 + len(header) + 64 :]
    try:
        bundle = KeyBundle.open(changed)
    except BundleError:
        return
    for section in bundle.sections:
        assert section.offset >= 0
        with pytest.raises(BundleError):
            bundle.decrypt(section, KEYS[1])


def test_sections_cannot_be_swapped() -> None:
    """Both sections have one length; the other's bytes in a section's place do not open, with either key."""
    blob = small()
    bundle = KeyBundle.open(blob)
    length = bundle.sections[0].length
    assert bundle.sections[1].length == length
    head, first, second = blob[: -2 * length], blob[-2 * length : -length], blob[-length:]
    swapped = KeyBundle.open(head + second + first)
    for section in swapped.sections:
        for key in KEYS:
            with pytest.raises(ContentKeyError):
                swapped.decrypt(section, key)


# --- files ---------------------------------------------------------------------------------------


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.clkey", tmp_path):
        with pytest.raises(FileAccessError):
            KeyBundle.open(path)


def test_a_file_that_is_cut_while_open(blob: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.clkey"
    path.write_bytes(blob)
    with KeyBundle.open(path) as bundle:
        with path.open("r+b") as file:
            file.truncate(len(blob) // 2)
        with pytest.raises(BundleTruncatedError):
            bundle.decrypt(bundle.sections[3], KEYS[1])


def test_a_failed_open_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.clkey"
    path.write_bytes(b"CLKEYB02" + bytes(100))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(BundleHeaderError):
        KeyBundle.open(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_huge_length_costs_nothing(blob: bytes) -> None:
    """The longest section that the format allows, in a header that says so; the file has it not."""
    fields = json.loads(KeyBundle.open(blob).header)
    fields["sections"][3]["length"] = 2**36 - 16
    with pytest.raises(BundleTruncatedError):
        KeyBundle.open(signed(json.dumps(fields).encode()))


def test_a_section_beyond_the_memory(blob: bytes, tmp_path: Path) -> None:
    """A sparse file of 60 GiB."""
    fields = json.loads(KeyBundle.open(blob).header)
    del fields["sections"][1:]
    fields["sections"][0]["length"] = 60 << 30
    path = tmp_path / "large.clkey"
    start = signed(json.dumps(fields).encode())
    path.write_bytes(start)
    os.truncate(path, len(start) + (60 << 30))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (50 << 30, before[1]))
    try:
        with KeyBundle.open(path) as bundle, pytest.raises(BundleError, match="memory"):
            bundle.decrypt(bundle.sections[0], KEYS[1])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# --- what cannot be written ----------------------------------------------------------------------


def many_artifacts() -> tuple[BundledArtifact, ...]:
    return tuple(BundledArtifact(f"{i}", "executorch", (BundledFile("f" * 1000, 1, digest("")),)) for i in range(1000))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": ""}, BundleHeaderError),
        ({"model_version": -1}, BundleHeaderError),
        ({"tiers": ("free", "full", "full")}, BundleHeaderError),
        ({"artifacts": ()}, BundleHeaderError),
        ({"artifacts": many_artifacts(), "sections": ()}, BundleHeaderError),
        ({"sections": contents().sections[1::-1]}, BundleHeaderError),
        ({"sections": (SectionContents(0, 0, 3, b"", digest(""), digest(""), digest("")),)}, BundleHeaderError),
        ({"tiers": ("free", "full")}, BundleMismatchError),
    ],
)
def test_what_a_reader_refuses_is_not_written(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        write_bundle(contents(**changes), PUBLISHER, KEYS)


@pytest.mark.parametrize("keys", [KEYS[:2], (*KEYS, KEYS[0]), (*KEYS[:2], KEYS[2][:31]), ()])
def test_keys_must_be_one_a_tier(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(BundleMismatchError):
        write_bundle(contents(), PUBLISHER, keys)


@pytest.mark.parametrize("tiers", [0, -1, 65])
def test_tier_keys_refuses(tiers: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        tier_keys(bytes(32), BUNDLE, tiers)
    with pytest.raises(ValueError, match="32 bytes"):
        tier_keys(bytes(31), BUNDLE, 2)


def test_tier_keys_chain() -> None:
    """From any tier's key follow the same keys below it."""
    top = new_content_key()
    keys = tier_keys(top, BUNDLE, 5)
    assert len(set(keys)) == 5
    for tiers in range(1, 6):
        assert tier_keys(keys[tiers - 1], BUNDLE, tiers) == keys[:tiers]
    assert tier_keys(top, UUID(int=BUNDLE.int ^ 1), 5)[0] != keys[0]


def test_other_curves_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    uses: list[Callable[[], object]] = [
        lambda: jose.sign(key, b""),
        lambda: jose.public_jwk(key.public_key()),
        lambda: jose.verify(key.public_key(), bytes(64), b""),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="P-256"):
            use()


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_base64url(data: bytes) -> None:
    text = jose.encode_base64url(data)
    assert jose.decode_base64url(text) == data
    for wrong in (text + "=", text + "\n", " " + text, text + "é", text + "+"):
        with pytest.raises(ValueError, match="base64url"):
            jose.decode_base64url(wrong)


def test_signatures() -> None:
    signature = jose.sign(PUBLISHER, b"data")
    public = PUBLISHER.public_key()
    assert len(signature) == 64
    assert jose.sign(PUBLISHER, b"data") == signature
    assert jose.verify(public, signature, b"data")
    for wrong in (signature[:63], signature + b"\0", b"", bytes(64), b"\xff" * 64):
        assert not jose.verify(public, wrong, b"data")
    assert not jose.verify(public, signature, b"Data")


def test_a_signature_has_one_form() -> None:
    """Without the zero byte that s happens to begin with, the numbers are the same and the signature is not."""
    signatures = (jose.sign(PUBLISHER, b"%d" % number) for number in range(100_000))
    number, signature = next((n, s) for n, s in enumerate(signatures) if s[32] == 0)
    public = PUBLISHER.public_key()
    assert jose.verify(public, signature, b"%d" % number)
    assert not jose.verify(public, signature[:32] + signature[33:], b"%d" % number)
    assert not jose.verify(public, signature[:32] + b"\0" + signature[32:], b"%d" % number)
