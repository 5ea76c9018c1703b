"""Element types: every code survives a round trip, floats round to the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from corelocker.artifacts import elements
from corelocker.artifacts.elements import BFLOAT16, FLOAT16, FLOAT32, ElementType
from hypothesis import given
from hypothesis import strategies as st

CODES = [e for e in vars(elements).values() if isinstance(e, ElementType) and not e.is_float]


@pytest.mark.parametrize("element", CODES, ids=lambda e: e.name)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5))
def test_codes_survive(element: ElementType, seed: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    codes = generator.integers(element.low, element.high, (rows, 8 * 3), np.int64, endpoint=True)
    raw = element.encode(codes.astype(np.int64))
    assert raw.dtype == np.uint8
    assert raw.shape == (rows, 24 * element.bits // 8)
    assert np.array_equal(element.decode(raw), codes)


@pytest.mark.parametrize("element", CODES, ids=lambda e: e.name)
def test_codes_out_of_range_are_clipped(element: ElementType) -> None:
    wide = np.full((1, 8), 1e6, np.float32)
    assert set(element.decode(element.encode(wide)).ravel().tolist()) == {min(element.high, 10**6)}
    assert element.decode(element.encode(-wide)).min() == max(element.low, -(10**6))


def test_sub_byte_codes_fill_a_byte_from_its_low_end() -> None:
    assert elements.UINT4.encode(np.array([[1, 2]])).tolist() == [[0x21]]
    assert elements.INT4.encode(np.array([[-8, 7]])).tolist() == [[0x78]]
    assert elements.UINT2.encode(np.array([[3, 0, 0, 1]])).tolist() == [[0b01000011]]
    assert elements.UINT6.decode(np.array([[0x41, 0x30, 0x00]], np.uint8)).tolist() == [[1, 1, 3, 0]]


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_floats(values: list[float]) -> None:
    numbers = np.array([values], np.float32)
    assert np.array_equal(FLOAT32.decode(FLOAT32.encode(numbers)), numbers)
    half = FLOAT16.decode(FLOAT16.encode(numbers))
    assert np.isfinite(half).all()
    brain = BFLOAT16.decode(BFLOAT16.encode(numbers))
    assert np.isfinite(brain).all()
    assert np.all(np.abs(brain - numbers) <= np.abs(numbers) * 2**-8 + 1e-38)


def test_bfloat16_rounds_to_even() -> None:
    halfway = np.array([[0x3F808000, 0x3F818000]], np.uint32).view(np.float32)
    assert BFLOAT16.encode(halfway).view("<u2").tolist() == [[0x3F80, 0x3F82]]
