"""The search for secrets in logs finds them in every form."""

import base64

import numpy as np
import pytest
from support.leaks import find, restored_pieces

SECRET = bytes(np.random.default_rng(7).integers(0, 256, 32, np.uint8))


@pytest.mark.parametrize(
    "log",
    [
        b"key " + SECRET + b"!",
        SECRET.hex().encode(),
        SECRET.hex().upper().encode(),
        base64.b64encode(SECRET),
        base64.urlsafe_b64encode(b"a" + SECRET + b"b"),
        base64.b64encode(b"ab" + SECRET),
        str(list(SECRET)).encode(),
        str(np.frombuffer(SECRET, np.int8).tolist()).encode(),
    ],
)
def test_a_secret_is_found_in_each_form(log: bytes) -> None:
    assert find(b"before " + log + b" after", {"key": SECRET}) == ["key"]


def test_what_is_not_there_is_not_found() -> None:
    assert find(SECRET[:-1].hex().encode() + bytes(64), {"key": SECRET}) == []


def test_pieces_are_of_the_original_where_it_was_locked() -> None:
    original = bytes(np.random.default_rng(8).integers(0, 256, 4096, np.uint8))
    locked = original[:1000] + bytes(512) + original[1512:]
    pieces = restored_pieces(locked, original)
    assert pieces
    assert all(piece in original and piece not in locked for piece in pieces.values())
    assert restored_pieces(original, original) == {}
