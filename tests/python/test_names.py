"""Names say one thing, and what was left behind stays away."""

from __future__ import annotations

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sdk" / "python" / "corelocker"


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(PACKAGE).as_posix())
    assert len(places) > 300
    assert not {name: files for name, files in places.items() if len(files) > 1}


@pytest.mark.parametrize(
    ("what", "folders"),
    [
        ("DESIGN" + ".md", ["."]),  # a page that is not in the repository; docs/formats.md is the authority
        ("os" + "._exit(", ["sdk/python"]),  # leaves buffers and locks as they are
    ],
)
def test_nothing_speaks_of(what: str, folders: list[str]) -> None:
    found = subprocess.run(
        ["git", "grep", "-lF", what, "--", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1, found.stdout
