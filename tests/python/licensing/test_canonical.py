"""Canonical JSON, and the bytes of an unlock request that an attestation vouches for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import rfc8785
from corelocker.bundle import jose
from corelocker.licensing.attested_request import AttestedRequest
from corelocker.licensing.canonical import canonical_json
from corelocker.licensing.errors import CanonicalError
from corelocker.licensing.evidence import Format
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

VECTORS = Path(__file__).resolve().parents[3] / "tests/vectors/attestation/made/canonical_requests.json"
KEY, OTHER = (ec.derive_private_key(scalar, ec.SECP256R1()).public_key() for scalar in (2, 3))
REQUEST = AttestedRequest("nonce", "com.example.app", "bundle", "full", KEY, "token")
FORMATS = (Format.ANDROID_KEY, Format.APPLE_APP_ATTEST, Format.DEVELOPMENT)


def test_the_members_of_a_request() -> None:
    members = json.loads(REQUEST.canonical(Format.APPLE_APP_ATTEST))
    assert members == {
        "app": "com.example.app",
        "bundle": "bundle",
        "challenge": "nonce",
        "device_key": jose.thumbprint(KEY),
        "purchase": jose.encode_base64url(hashlib.sha256(b"token").digest()),
        "tier": "full",
        "type": "corelocker-request-v1",
    }
    assert list(members) == sorted(members)
    del members["device_key"]
    assert json.loads(REQUEST.canonical(Format.ANDROID_KEY)) == members


@pytest.mark.parametrize("kind", FORMATS)
def test_every_member_changes_the_digest(kind: Format) -> None:
    digests = {REQUEST.digest(kind)}
    for member in ("challenge", "app", "bundle", "tier", "purchase_token"):
        digests.add(replace(REQUEST, **{member: "another"}).digest(kind))
    assert len(digests) == 6
    # The certificate holds the device key on Android; everywhere else the digest is what binds it.
    assert (replace(REQUEST, device_key=OTHER).digest(kind) in digests) is (kind is Format.ANDROID_KEY)


def test_the_committed_vectors() -> None:
    for vector in json.loads(VECTORS.read_text(encoding="utf-8")):
        members = {name: vector[name] for name in ("challenge", "app", "bundle", "tier", "purchase_token")}
        request = AttestedRequest(**members, device_key=jose.key_of_jwk(vector["device_key"]))
        assert set(vector["attestations"]) == {str(kind) for kind in FORMATS}
        for kind, expected in vector["attestations"].items():
            assert request.canonical(Format(kind)).decode() == expected["canonical"]
            assert request.digest(Format(kind)).hex() == expected["sha256"]


def test_the_string_of_rfc_8785_section_3_2() -> None:
    value = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f"}
    assert canonical_json(value).decode() == '{"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'


def test_the_example_of_the_formats_page() -> None:
    text = (VECTORS.parents[4] / "docs/formats.md").read_text("utf-8")
    written = canonical_json({"b": "é\n", "a": {"z": -1, "Z": 0}})
    assert len(written) == 31
    assert f"{written.decode()}      {written.hex(' ')}\n" in text


def test_every_escape() -> None:
    escaped = {code: f"\\u{code:04x}" for code in range(32)}
    escaped |= {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
    for code in (*range(0x250), 0x2028, 0x2029, 0xFFFD, 0xFFFF, 0x1F600):
        expected = escaped.get(code, chr(code))
        assert canonical_json({"x": chr(code)}).decode() == f'{{"x":"{expected}"}}'


def test_names_are_sorted_by_their_bytes() -> None:
    names = ["", "\r", '"', "1", "10", "Z", "a", "a b", "aa", "~", "\x7f"]
    assert list(json.loads(canonical_json(dict.fromkeys(reversed(names), 0)))) == names


@pytest.mark.parametrize(
    "value",
    [
        {"a": "\ud800"},
        {"a": 2**53},
        {"a": -(2**53)},
        {"a": {"b": 2**53}},
        {"a": 1.0},
        {"a": float("nan")},
        {"a": b"bytes"},
        {"a": True},
        {"a": None},
        {"a": []},
        {"ä": 1},
        {"a": {"ä": 1}},
        {"\udfff": 1},
        {1: "a"},
        {"a": {None: 1}},
    ],
    ids=repr,
)
def test_values_without_canonical_json(value: dict[str, object]) -> None:
    with pytest.raises(CanonicalError):
        canonical_json(value)


def test_values_that_nest_too_deep() -> None:
    value: dict[str, object] = {}
    for level in range(2, 5001):
        value = {"a": value}
        if level <= 32:
            assert canonical_json(value) == rfc8785.dumps(value)  # type: ignore[arg-type]
        elif level in (33, 5000):
            with pytest.raises(CanonicalError):
                canonical_json(value)


@pytest.mark.parametrize("member", ["challenge", "app", "bundle", "tier", "purchase_token"])
def test_requests_that_are_not_unicode(member: str) -> None:
    with pytest.raises(CanonicalError):
        replace(REQUEST, **{member: "\ud800"}).digest(Format.DEVELOPMENT)


_names = st.text([chr(code) for code in range(128)], max_size=6)
_values = st.recursive(
    st.text() | st.integers(-(2**53) + 1, 2**53 - 1),
    lambda inner: st.dictionaries(_names, inner, max_size=4),
    max_leaves=12,
)


def _written(value: object) -> str:
    """The page of docs/formats.md, as a language without a library would write it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_written(name)}:{_written(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, int):
        return str(value)
    short = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(short.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in str(value)) + '"'


@given(st.dictionaries(_names, _values, max_size=6))
def test_the_library_writes_what_the_page_says(value: dict[str, object]) -> None:
    assert canonical_json(value).decode() == _written(value)
