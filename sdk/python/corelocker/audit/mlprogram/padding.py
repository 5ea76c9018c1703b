"""Padding: ML Programs name (before, after) from the first dimension on, torch from the last."""

from __future__ import annotations

from collections.abc import Sequence

from corelocker.audit.mlprogram.arguments import Arguments


def torch_pad(pairs: Sequence[int]) -> list[int]:
    """(before, after) of each dimension, first to last -> torch's order, last to first."""
    return [v for d in reversed(range(len(pairs) // 2)) for v in (pairs[2 * d], pairs[2 * d + 1])]


def padding_of(a: Arguments, spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """(before, after) of each spatial dimension."""
    kind = a.text("pad_type", "valid")
    if kind == "custom":
        return a.integers("pad", [0] * 2 * len(spatial))
    pairs = []
    for size, reach, stride in zip(spatial, kernel, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0) if kind in ("same", "same_lower") else 0
        small, large = total // 2, total - total // 2
        pairs += [large, small] if kind == "same_lower" else [small, large]
    return pairs
