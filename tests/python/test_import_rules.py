"""Which package may import which. What is not listed here fails."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "sdk" / "python" / "corelocker"

SHARED = {"core_dumps", "errors", "extras", "factories", "files", "hashing", "progress", "raw_files", "runs"}
"""Modules beside the packages: they import each other only, and everybody may import them."""

MAY_IMPORT: dict[str, set[str]] = {
    # Model files, and what is done to them.
    "artifacts": set(),
    "bundle": set(),
    "locking": {"artifacts", "bundle"},
    "exporting": {"locking", "bundle", "configuration"},
    "audit": {"artifacts", "locking", "exporting", "bundle", "runtime", "__version__"},
    # A device restores; it never locks and never serves.
    "runtime": {"bundle"},
    "licensing": {"bundle"},
    "device": {"licensing", "bundle", "runtime"},
    # The unlock service.
    "configuration": set(),
    "attestation": {"licensing", "bundle"},
    "purchases": {"licensing"},
    "service": {"licensing", "bundle", "attestation", "purchases", "configuration"},
    # What people and build scripts use.
    "cli": {
        "artifacts", "audit", "bundle", "device", "exporting", "licensing", "locking", "purchases", "runtime", "service",
        "__version__",
    },
    "__init__": {"artifacts", "bundle", "exporting", "locking", "runtime"},
    "__main__": {"cli"},
}  # fmt: skip

SOURCES = sorted(ROOT.rglob("*.py"))
# What only files need must not load what only training needs.
HEAVY = {
    "torch",
    "executorch",
    "coremltools",
    "torchao",
    "safetensors",
    "fastapi",
    "sqlalchemy",
    "uvicorn",
    "matplotlib",
    "boto3",
    "botocore",
}
LIGHT = {"artifacts", "bundle", "configuration", "exporting", "licensing", "locking", "runtime", "cli"} | SHARED
BUNDLED_WITH_TORCH = {"exporting/pt2.py"}  # imported by a function, like torch itself


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that a file imports, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            if node.module == "corelocker":
                yield from (f"corelocker.{name.name}" for name in node.names)
            elif node.module:
                yield node.module


def at_import(tree: ast.Module) -> Iterator[str]:
    """Names of the modules that are imported when the file is, outside `if TYPE_CHECKING`."""
    for node in tree.body:
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module


def test_every_package_has_its_rule() -> None:
    assert {package_of(path) for path in SOURCES} == set(MAY_IMPORT) | SHARED


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_in_the_allowed_directions(package: str) -> None:
    allowed = MAY_IMPORT[package] | SHARED | {package}
    wrong = []
    for path in (path for path in SOURCES if package_of(path) == package):
        for name in imported(ast.parse(path.read_text())):
            first, _, rest = name.partition(".")
            if first == "corelocker" and rest.partition(".")[0] not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


@pytest.mark.parametrize("module", sorted(SHARED))
def test_shared_modules_import_each_other_only(module: str) -> None:
    names = imported(ast.parse((ROOT / f"{module}.py").read_text()))
    assert {name.split(".")[1] for name in names if name.startswith("corelocker.")} <= SHARED


def test_the_rules_allow_no_circle() -> None:
    def reached(package: str, seen: frozenset[str] = frozenset()) -> set[str]:
        assert package not in seen, package
        below = MAY_IMPORT.get(package, set())
        return below.union(*(reached(name, seen | {package}) for name in below))

    for package in MAY_IMPORT:
        assert package not in reached(package)


def test_what_only_files_need_loads_no_framework() -> None:
    wrong = []
    for path in SOURCES:
        if package_of(path) in LIGHT and path.relative_to(ROOT).as_posix() not in BUNDLED_WITH_TORCH:
            for name in at_import(ast.parse(path.read_text())):
                if name.partition(".")[0] in HEAVY:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong
