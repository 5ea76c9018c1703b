"""Files and functions stay short enough to be read at one go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "sdk" / "python" / "corelocker"
MOST_OF_A_FILE = 450
MOST_OF_A_FUNCTION = 60  # lines of its body: a command's signature lists its options, one a line


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.body[0].lineno + 1


def explained(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the docstring gives the reason for its length."""
    return "One function, because" in (ast.get_docstring(function) or "")


def long_functions(path: Path) -> set[str]:
    functions = (
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    name = path.relative_to(ROOT).as_posix()
    return {f"{name}:{f.name}" for f in functions if body_lines(f) > MOST_OF_A_FUNCTION and not explained(f)}


def test_no_file_is_too_long() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {name for name, lines in lengths.items() if lines > MOST_OF_A_FILE}


def test_no_function_is_too_long() -> None:
    assert not set().union(*map(long_functions, ROOT.rglob("*.py")))


@pytest.mark.parametrize(("lines", "long"), [(60, False), (61, True)])
def test_the_count_is_of_the_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, long: bool) -> None:
    monkeypatch.setattr("test_sizes.ROOT", tmp_path)
    path = tmp_path / "a.py"
    path.write_text("def f(\n    a: int,\n    b: int,\n) -> None:\n" + "    pass\n" * lines)
    assert bool(long_functions(path)) == long
