"""Files and functions stay short enough to be read at one go, in every language."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("sdk", "android_demo", "ios_demo")
MOST_OF_A_FILE = 450
MOST_OF_A_TEST_FILE = 600
MOST_OF_A_FUNCTION = 60  # lines of its body: a command's signature lists its options, one a line

# The first line of a function, without its indentation. What follows belongs to it as long as it is indented deeper:
# formatters see to that in these languages.
_KOTLIN = re.compile(r"(?:[a-z@]\S* )*(?:fun\b|init \{|constructor\()")
_SWIFT = re.compile(r"(?:[a-z@]\S* )*(?:func\b|init[?(<]|deinit\b|var body)")
_C = re.compile(
    r"(?!if|for|while|switch|else|do|namespace|class|struct|enum|union|extern|return|catch|@|\})[\w:~<][^;=]*\([^;]*\{$|[-+] \("
)
BEGINS = {".kt": _KOTLIN, ".swift": _SWIFT, ".c": _C, ".cpp": _C, ".h": _C, ".mm": _C}


def sources(*folders: str) -> list[Path]:
    """The tracked source files below the folders, but for those of others that are kept as they came."""
    tracked = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in tracked.stdout.splitlines() if not name.startswith("tests/apple/objc/headers/"))
    return [path for path in paths if path.suffix in {".py", *BEGINS} and path.exists()]


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines of each body, but for functions whose docstring gives the reason for its length."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if "One function, because" not in (ast.get_docstring(node) or ""):
                yield node.name, node.end_lineno - node.body[0].lineno + 1


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def functions(text: str, suffix: str) -> Iterator[tuple[str, int]]:
    """First line and lines of the body of each function."""
    if suffix == ".py":
        yield from python_functions(text)
        return
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if BEGINS[suffix].match(line.lstrip()):
            inside, blank = 0, 0
            for later in lines[number + 1 :]:
                if not later.strip():
                    blank += 1
                elif indentation(later) > indentation(line):
                    inside, blank = inside + blank + 1, 0
                elif not later.lstrip().startswith((")", "{")):
                    break
            yield line.strip(), inside


@pytest.mark.parametrize(
    ("folders", "most"), [((*PRODUCT, "tools"), MOST_OF_A_FILE), (("tests",), MOST_OF_A_TEST_FILE)]
)
def test_no_file_is_too_long(folders: tuple[str, ...], most: int) -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in sources(*folders)}
    assert len(lengths) > 50
    assert not {name: lines for name, lines in lengths.items() if lines > most}


@pytest.mark.parametrize(
    ("suffix", "least"), [(".py", 2000), (".kt", 300), (".swift", 250), (".cpp", 100), (".mm", 10)]
)
def test_no_function_is_too_long(suffix: str, least: int) -> None:
    found = [
        (f"{path.relative_to(ROOT)}: {name}", lines)
        for path in sources(*PRODUCT)
        if path.suffix == suffix
        for name, lines in functions(path.read_text(), suffix)
    ]
    assert len(found) >= least, "the functions of this language are not recognized any more"
    assert not {name: lines for name, lines in found if lines > MOST_OF_A_FUNCTION}


@pytest.mark.parametrize(
    ("suffix", "begin", "line", "end"),
    [
        (".py", "def f(\n    a: int,\n    b: int,\n) -> None:\n", "    pass\n", ""),
        (".kt", "class A {\n    private fun f(\n    ): Int {\n", "        a()\n", "    }\n    fun g() = 1\n}\n"),
        (".kt", "internal fun f(a: Int) =\n", "    a +\n", "\nclass B\n"),
        (".swift", "struct A {\n    public func f() throws {\n", "        a()\n", "    }\n    let b = 1\n}\n"),
        (".swift", "struct A {\n    init?(a: Int) {\n", "        b()\n", "    }\n}\n"),
        (".cpp", "namespace {\n\nbool A::f(int a) {\n", "  a();\n", "}\n\n}  // namespace\n"),
        (".mm", "@implementation A\n- (BOOL)f:(int)a {\n", "  a();\n", "}\n@end\n"),
    ],
)
def test_the_count_is_of_the_body(suffix: str, begin: str, line: str, end: str) -> None:
    for lines in (60, 61):
        assert next(n for _, n in functions(begin + line * lines + end, suffix)) == lines
