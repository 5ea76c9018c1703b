"""Canonical JSON, and the bytes of an unlock request that an attestation vouches for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import rfc8785
from corelocker.attestation import Format
from corelocker.bundle import jose
from corelocker.licensing.canonical import AttestedRequest, CanonicalError, canonical_json
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


def test_rfc_8785_section_3_2() -> None:
    """The sample of the RFC, without its numbers beyond 2^53."""
    value = {
        "numbers": [4.50, 2e-3, 1e-27],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    assert canonical_json(value).decode() == (
        '{"literals":[null,true,false],"numbers":[4.5,0.002,1e-27],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_names_are_sorted_by_utf_16() -> None:
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical_json(value))) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_what_is_inside_is_as_canonical_as_the_outside() -> None:
    value: dict[str, object] = {"\U0001f600": 1, "\ufb33": 2, "x": [True, None, 1e21, -0.0, "\x7f"], "e": {}}
    for _ in range(8):
        value = {"a": "a", "b": value}
        assert canonical_json(value) == rfc8785.dumps(value)  # type: ignore[arg-type]
    assert '{"e":{},"x":[true,null,1e+21,0,"\x7f"],"\U0001f600":1,"\ufb33":2}' in canonical_json(value).decode()


@pytest.mark.parametrize(
    "value",
    [
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": 2**53},
        {"a": -(2**53)},
        {"a": {"b": 2**53}},
        {"a": float("nan")},
        {"a": b"bytes"},
        {1: "a"},
        {"a": {None: 1}},
    ],
    ids=repr,
)
def test_values_without_canonical_json(value: dict[str, object]) -> None:
    with pytest.raises(CanonicalError):
        canonical_json(value)


@pytest.mark.parametrize("kind", [list, dict])
def test_values_that_nest_too_deep(kind: type) -> None:
    value: object = "x"
    for _ in range(5000):
        value = [value] if kind is list else {"a": value}
    with pytest.raises(CanonicalError):
        canonical_json({"a": value})


@pytest.mark.parametrize("member", ["challenge", "app", "bundle", "tier", "purchase_token"])
def test_requests_that_are_not_unicode(member: str) -> None:
    with pytest.raises(CanonicalError):
        replace(REQUEST, **{member: "\ud800"}).digest(Format.DEVELOPMENT)


_plain_values = st.recursive(
    st.text() | st.integers(-(2**53) + 1, 2**53 - 1),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=8) | st.from_regex(r"[a-z_\"\\]{0,6}", fullmatch=True), _plain_values, max_size=6)
)
def test_the_quick_way_writes_what_the_library_writes(value: dict[str, object]) -> None:
    try:
        expected: bytes | None = rfc8785.dumps(value)  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        expected = None
    if expected is None:
        with pytest.raises(CanonicalError):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected
