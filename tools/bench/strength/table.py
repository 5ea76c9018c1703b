"""The results of the bench as they stand in docs/audit.md."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

KINDS = ("hardened", "balanced", "cover", "minimal sign", "minimal value", "sensitivity", "l1")
ROWS = Path(__file__).resolve().parents[3] / "docs" / "data" / "strength.json"


def table(document: dict[str, Any]) -> list[str]:
    """The lines of a table: a row for each model, a column for each kind of lock that was run."""
    kinds = [kind for kind in KINDS if any(kind in row["locks"] for row in document.values())]
    lines = ["| model | original | chance | " + " | ".join(kinds) + " |", "|---" * (3 + len(kinds)) + "|"]
    for name, row in document.items():
        cells = [cell(row["locks"].get(kind, {"reason": "not run"})) for kind in kinds]
        lines.append(
            f"| {name} | {100 * row['original']:.1f} % | {100 * row['chance']:.1f} % | " + " | ".join(cells) + " |"
        )
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """For each kind of lock the median and the largest share of the weight bytes, and the models that it missed."""
    lines = []
    for kind in KINDS:
        found = {name: row["locks"][kind] for name, row in document.items() if kind in row["locks"]}
        locks = {name: lock for name, lock in found.items() if "bytes" in lock}
        if not locks:
            continue
        shares = [100 * lock["fraction"] for lock in locks.values()]
        missed = [name for name, lock in locks.items() if lock["missed"]]
        refused = [name for name in found if name not in locks]
        lines.append(
            f"- {kind}, {len(found)} of {len(document)} models: median {statistics.median(shares):.2g} % of the weight bytes, most "
            f"{max(shares):.2g} %; above chance + 2 points: {', '.join(missed) or 'none'}"
            + (f"; refused: {', '.join(refused)}" if refused else "")
        )
    return lines


def cell(lock: dict[str, Any]) -> str:
    """Bytes of the access key and what is left, or why there is none."""
    if "reason" in lock:
        return str(lock["reason"])
    size = f"{lock['bytes']:,} B ({100 * lock['fraction']:.2g} %)"
    return f"{size}, {100 * lock['accuracy']:.1f} %" + (" missed" if lock["missed"] else "")
