"""The one reader for JSON that somebody else wrote (docs/formats.md, "JSON")."""

from __future__ import annotations

import json

import pytest
from corelocker.bundle.strict_json import Fields, is_plain_text, parse_object
from corelocker.errors import ConfigError
from hypothesis import given
from hypothesis import strategies as st


def nested(levels: int, kind: str) -> bytes:
    """Objects or lists that nest so deep; the outermost object is the first level."""
    begin, end = ('{"a":', "}") if kind == "object" else ("[", "]")
    return f'{{"a":{begin * (levels - 1)}1{end * (levels - 1)}}}'.encode()


@pytest.mark.parametrize("kind", ["object", "list"])
def test_depth(kind: str) -> None:
    assert parse_object(nested(32, kind))
    for levels in (33, 34, 100, 5000, 100_000):
        with pytest.raises(ValueError, match="deep"):
            parse_object(nested(levels, kind))


def test_width_is_no_depth() -> None:
    assert len(parse_object(b'{"a": [' + b",".join([b"[{}]"] * 1000) + b"]}")["a"]) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "1", '"x"', "[]", "{", "{}x", "{} {}", "\ufeff{}", "{'a': 1}", '{"a": 1,}', '{"a": 01}',
        '{"a": +1}', '{"a": .5}', '{"a": 1.0}', '{"a": 1e2}', '{"a": 1E2}', '{"a": NaN}', '{"a": -Infinity}',
        '{"a": 9007199254740992}', '{"a": -9007199254740992}', '{"a": ' + "9" * 5000 + "}", '{"a": "\t"}',
        '{"a": "\\x41"}', '{"a": "\\ud800"}', '{"a": "\\udc00\\ud800"}', '{"\\ud800": 1}', '{"a": 1, "a": 1}',
        '{"a": 1, "\\u0061": 1}', '{"b": [{"a": 1, "a": 2}]}', '{"a": 1} // x', "\u00a0{}",
    ],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Fields.parse(text.encode(), "a file", ConfigError)


@pytest.mark.parametrize(
    "data", [b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\xc0\x80"}', '{"a":1}'.encode("utf-16")]
)
def test_what_is_not_utf8(data: bytes) -> None:
    with pytest.raises(ConfigError):
        Fields.parse(data, "a file", ConfigError)


def test_what_is_read() -> None:
    text = ' \t\r\n{"a": -0, "b": [true, false, null, "\\ud83d\\ude00", "\\u0000"], "": 9007199254740991, "é": -1}\n'
    value = parse_object(text.encode())
    assert value == {"a": 0, "b": [True, False, None, "\U0001f600", "\0"], "": 2**53 - 1, "é": -1}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(), lambda inner: st.lists(inner)
    )
)
def test_everything_in_bounds_is_read(value: object) -> None:
    for ascii_only in (True, False):
        assert parse_object(json.dumps({"a": value}, ensure_ascii=ascii_only).encode()) == {"a": value}


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    try:
        value = parse_object(data)
    except ValueError:
        return
    assert value == json.loads(data)


def test_plain_text() -> None:
    assert is_plain_text("größe \U0001f511", 7)
    assert is_plain_text("\U0001f511" * 256, 256)
    assert not is_plain_text("\U0001f511" * 257, 256)
    for bad in ("", None, 5, b"x", "a\nb", "\x7f", "\x85", "\u200e", "\u2028", "\u202e", "\u2066"):
        assert not is_plain_text(bad, 256)


def test_messages_show_no_content() -> None:
    for data in (b'{"secret": "hunter2', b'{"hunter2": 1, "hunter2": 2}', b'{"a": "hunter2\xff"}', b'{"a": 1.25}'):
        with pytest.raises(ConfigError) as refused:
            Fields.parse(data, "a file", ConfigError)
        assert "hunter2" not in str(refused.value)
        assert "1.25" not in str(refused.value)
        assert refused.value.__cause__ is None
