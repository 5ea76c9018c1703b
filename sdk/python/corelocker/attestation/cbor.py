"""A strict reader for the CBOR (RFC 8949) of App Attest objects.

Integers, byte and text strings, arrays and maps of definite length, keys once each: Apple sends nothing else.

A reader of our own, because authenticator data holds items without a length before them (a key, then perhaps a map), so
whoever reads it has to learn where an item ends, and because a general decoder also takes what Apple never sends (tags,
floats, indefinite lengths). Depth is bounded, input by the caller (`MAX_OBJECT`), and a count is checked against the
bytes that are left before anything is allocated. `tests/fuzz/fuzz_attestation.py` fuzzes it.
"""

from __future__ import annotations

from typing import TypeAlias

Item: TypeAlias = "int | bytes | str | list[Item] | dict[int | str, Item]"

_DEPTH = 8


class CborError(ValueError):
    """The bytes are not CBOR of these kinds."""


def decode(data: bytes) -> Item:
    """The one item that `data` is. Raises CborError, also when bytes follow it."""
    item, end = decode_at(data, 0)
    if end != len(data):
        raise CborError("trailing data")
    return item


def decode_at(data: bytes, at: int) -> tuple[Item, int]:
    """The item at offset `at` and the offset after it. Raises CborError."""
    return _item(data, at, _DEPTH)


def _item(data: bytes, at: int, depth: int) -> tuple[Item, int]:
    if depth == 0:
        raise CborError("nested too deeply")
    kind, value, at = _head(data, at)
    if kind == 0:
        return value, at
    if kind == 1:
        return -1 - value, at
    # Each entry takes at least one byte, so that a count beyond the input ends here, before anything is allocated.
    if value > len(data) - at:
        raise CborError("truncated")
    if kind == 2:
        return data[at : at + value], at + value
    if kind == 3:
        try:
            return data[at : at + value].decode("utf-8"), at + value
        except UnicodeDecodeError as error:
            raise CborError("a text string is not UTF-8") from error
    if kind == 4:
        array: list[Item] = []
        for _ in range(value):
            item, at = _item(data, at, depth - 1)
            array.append(item)
        return array, at
    if kind == 5:
        mapping: dict[int | str, Item] = {}
        for _ in range(value):
            key, at = _item(data, at, depth - 1)
            if not isinstance(key, (int, str)) or key in mapping:
                raise CborError("a map key is of another kind, or comes twice")
            mapping[key], at = _item(data, at, depth - 1)
        return mapping, at
    raise CborError("tags, floats and simple values are not used here")


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(data):
        raise CborError("truncated")
    kind, value = data[at] >> 5, data[at] & 0x1F
    at += 1
    if value < 24:
        return kind, value, at
    if value > 27:
        raise CborError("a length is indefinite or reserved")
    width = 1 << (value - 24)
    octets = data[at : at + width]
    if len(octets) != width:
        raise CborError("truncated")
    return kind, int.from_bytes(octets), at + width
