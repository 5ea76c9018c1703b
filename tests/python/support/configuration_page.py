"""docs/configuration.md, as the tests that compare it with the code read it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/configuration.md"


def section(title: str) -> str:
    """The text below the heading `## title`, up to the next one of that level."""
    text = PAGE.read_text("utf-8").split(f"\n## {title}\n")
    assert len(text) == 2, title
    return re.split(r"^## ", text[1], maxsplit=1, flags=re.M)[0]


def rows(text: str, columns: int) -> dict[str, list[str]]:
    """The other cells of each row of the tables in a text, by the name in its first cell; no cell is empty."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"\| `([^`]+)` \|", line):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == columns, line
            assert all(cells), line
            assert match[1] not in found, line
            found[match[1]] = cells[1:]
    return found
