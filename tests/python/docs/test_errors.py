"""docs/errors.md lists every error code of the code, and no other."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import corelocker
import pytest
from corelocker.errors import CoreLockerError
from corelocker.service.problems import PROBLEMS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "errors.md"


def import_everything() -> None:
    for module in pkgutil.walk_packages(corelocker.__path__, "corelocker."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)


def classes(base: type[CoreLockerError]) -> Iterator[type[CoreLockerError]]:
    yield base
    for derived in base.__subclasses__():
        if derived.__module__.startswith("corelocker."):
            yield from classes(derived)


def test_every_code_is_on_the_page_once() -> None:
    import_everything()
    header = (ROOT / "sdk/cpp/include/corelocker/corelocker.h").read_text()
    of_c = set(re.findall(r'^ +CORELOCKER_\w+ = [0-9]+, +/\* "([a-z-]+)"', header, re.MULTILINE))
    documented = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(documented) == len(set(documented))
    of_phones = {"attestation-lost", "device-busy", "device-unsupported"}
    assert set(documented) == {error.code for error in classes(CoreLockerError)} | set(PROBLEMS) | of_c | of_phones


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        ("sdk/android/core/src/main/kotlin/org/corelocker/core/Errors.kt", r'^ +[A-Z_]+\("([a-z-]+)"'),
        ("sdk/apple/CoreLocker/ErrorCode.swift", r'^    case (?:\w+ = ")?([a-z-]+)"?$'),
    ],
)
def test_the_phones_use_the_same_codes(source: str, pattern: str) -> None:
    used = set(re.findall(pattern, (ROOT / source).read_text(), re.MULTILINE))
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert used
    assert used <= documented


def test_swift_has_every_code_that_an_app_sees() -> None:
    source = (ROOT / "sdk/apple/CoreLocker/ErrorCode.swift").read_text()
    cases = re.findall(r"^    case (.+)$", source.partition("public struct")[0], re.MULTILINE)
    known = {part.split(" = ")[-1].strip('"') for line in cases for part in line.split(", ")}
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| (.+) \| .* \|$", PAGE.read_text(), re.MULTILINE)
    # The bases of families, which nothing throws in a phone's library.
    families = {"bundle", "error", "licensing", "patch", "restore"}
    assert {code for code, who in rows if "app" in who or who == "all"} - families <= known


def test_every_row_says_who_sees_it_and_what_to_do() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and row[1].endswith(".") for row in rows)
    assert all(set(row[2].split(", ")) <= {"all", "build", "app", "operator"} for row in rows)
