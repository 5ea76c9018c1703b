"""The rule behind the `hardened` preset."""

from __future__ import annotations

import itertools

import pytest
from corelocker.locking.hardened import LayerSize, cover, hardened_channels
from hypothesis import given
from hypothesis import strategies as st

LAYERS = st.lists(st.tuples(st.integers(2, 64), st.integers(1, 500)), min_size=1, max_size=9).map(
    lambda found: [LayerSize(f"layer{i}", c, c * e) for i, (c, e) in enumerate(found)]
)


@given(LAYERS)
def test_the_cover_is_the_cheapest(layers: list[LayerSize]) -> None:
    def covers(taken: tuple[bool, ...]) -> bool:
        return all(a or b for a, b in itertools.pairwise(taken))

    best = min(
        sum(layer.size for layer, t in zip(layers, taken, strict=True) if t)
        for taken in itertools.product((False, True), repeat=len(layers))
        if covers(taken)
    )
    chosen = cover(layers)
    assert sum(layer.size for layer in chosen) == best
    assert covers(tuple(layer in chosen for layer in layers))


@given(LAYERS, st.floats(0, 1))
def test_the_key_is_at_most_the_share_and_one_channel_stays(layers: list[LayerSize], share: float) -> None:
    counts = hardened_channels(layers, share)
    assert set(counts) == {layer.name for layer in layers}
    assert all(0 <= counts[layer.name] <= layer.channels - 1 for layer in layers)
    total = sum(layer.size for layer in layers)
    assert sum(counts[layer.name] * layer.size / layer.channels for layer in layers) <= share * total * (1 + 1e-9)


@given(LAYERS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_locks_no_channel_less(layers: list[LayerSize], a: float, b: float) -> None:
    low, high = hardened_channels(layers, min(a, b)), hardened_channels(layers, max(a, b))
    assert all(low[name] <= high[name] for name in low)


def test_small_layers_go_whole_and_large_ones_equally() -> None:
    sizes = [(8, 80), (8, 90), (16, 1600), (16, 3200), (32, 6400), (32, 9999)]
    layers = [LayerSize(str(i), c, s) for i, (c, s) in enumerate(sizes)]
    assert [layer.name for layer in cover(layers)] == ["0", "2", "4"] or [layer.name for layer in cover(layers)] == [
        "1",
        "2",
        "4",
    ]
    counts = hardened_channels(layers, 0.15)
    assert counts["2"] == 15
    assert counts["4"] * 6400 / 32 == pytest.approx(1600, abs=200)
    assert counts["3"] == counts["5"] == 0
    everything = hardened_channels(layers, 1)
    assert all(everything[layer.name] == layer.channels - 1 for layer in layers)
    assert not any(hardened_channels(layers, 0).values())
