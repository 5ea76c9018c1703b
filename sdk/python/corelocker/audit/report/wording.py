"""Numbers, sizes and differences as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lower_first(text: str) -> str:
    """A title inside a sentence."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def points(difference: float, metric: Mapping[str, Any], as_worth: bool = False) -> str:
    """A difference of the metric; `as_worth` says how much it is worth, else which of both is better."""
    if metric["proportion"]:
        text, better, worse = f"{abs(100 * difference):.1f} points", "more", "less"
    else:
        text, better, worse = f"{abs(difference):.3g} of {metric['name']}", "better", "worse"
    if as_worth:
        return "nothing" if difference <= 0 else text
    return f"{text} {better if difference >= 0 else worse}"


def number(value: float | None, metric: Mapping[str, Any]) -> str:
    """A value of the metric as people read it."""
    if value is None:
        return "—"
    return f"{100 * value:.1f} %" if metric["proportion"] else f"{value:.4g}"


def size(count: int) -> str:
    """Bytes as people read them."""
    if count < 1000:
        return f"{count} bytes"
    value, named = float(count), "bytes"
    for unit in ("kB", "MB", "GB"):
        value, named = value / 1000, unit
        if value < 999.5:
            break
    return f"{value:.3g} {named}"


def percent_of_weights(share: float) -> str:
    """A share as people read it; small ones keep two digits."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"


def percent_of_gap(share: float | None) -> str:
    """The share of the gap that was regained, as people read it; an attacker who does worse than afresh regains nothing."""
    return "—" if share is None else f"{100 * max(0.0, share):.0f} %"


def plain_value(value: Any) -> str:
    """A value of a budget as people read it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def signed(value: float, metric: Mapping[str, Any]) -> str:
    """A difference of the metric with its sign."""
    return f"{100 * value:+.1f}" if metric["proportion"] else f"{value:+.3g}"
