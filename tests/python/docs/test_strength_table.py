"""What docs/audit.md says of the presets on real inputs is what the bench found."""

from __future__ import annotations

import json
from pathlib import Path

from tools.bench.strength.table import ROWS, summary, table

PAGE = Path(__file__).parents[3] / "docs" / "audit.md"


def test_the_page_has_the_figures_of_the_bench() -> None:
    found, page = json.loads(ROWS.read_bytes()), PAGE.read_text()
    for line in (*table(found), *summary(found)):
        assert line in page.splitlines()
    assert [
        line for line in page.splitlines() if " B (" in line and line.split(" | ")[0].removeprefix("| ") in found
    ] == [line for line in table(found) if " B (" in line]
