"""docs/configuration.md, section on environment variables: each variable that the code reads is there, and no other."""

from __future__ import annotations

import re
import subprocess

from support.configuration_page import ROOT, rows, section

NAME = r"(CORELOCKER_[A-Z0-9_]+)"
# How each language reads a variable. Macros and CMake options have such names too, and are none.
READS = {
    ".py": rf"""environ(?:\.get\(|\[)["']{NAME}["']""",
    ".sh": rf"\$\{{?{NAME}",
    ".json": rf"\$p?env\{{{NAME}\}}",
    ".cmake": rf"\$ENV\{{{NAME}\}}",
    ".txt": rf"\$ENV\{{{NAME}\}}",
    ".swift": rf"""environment\["{NAME}"\]""",
    ".cpp": rf"""getenv\("{NAME}"\)""",
    ".h": rf"""getenv\("{NAME}"\)""",
    ".kt": rf"""getenv\("{NAME}"\)""",
    ".kts": rf"""(?:getenv|environmentVariable)\("{NAME}"\)""",
    ".yml": rf"\$\{{?{NAME}",
    "Makefile": rf"\$[({{]{NAME}",
}
# The package hands the names to typer and to `read_passphrase`.
IN_THE_PACKAGE = rf"""["']{NAME}["']"""


def read_by_the_code() -> set[str]:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: set[str] = set()
    for name in filter(None, files.split("\0")):
        pattern = READS.get(name.rpartition("/")[2]) or READS.get("." + name.rpartition(".")[2])
        if name.startswith("sdk/python/") and name.endswith(".py"):
            pattern = IN_THE_PACKAGE
        path = ROOT / name
        if pattern is None or not path.is_file():
            continue
        found.update(re.findall(pattern, path.read_text("utf-8", errors="replace")))
    return found


def test_every_variable_is_documented_and_every_documented_variable_is_read() -> None:
    variables = rows(section("Environment variables"), 3).keys()
    assert variables == read_by_the_code()
    assert len(variables) > 10
