"""The strict TOML reader: every entry has a type and bounds, and an unknown one is refused by its full name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corelocker.configuration import MAX_CONFIG_SIZE, Table, read_toml
from corelocker.errors import ConfigError, FileAccessError


def table(folder: Path, text: str) -> Table:
    (folder / "x.toml").write_text(text)
    return read_toml(folder / "x.toml")


def test_values(tmp_path: Path) -> None:
    top = table(
        tmp_path,
        'name = "a"\nflag = true\nnumber = 7\npath = "b/c"\nfiles = ["d"]\nkinds = [1, 2]\n[inner]\nx = 1\n'
        "[[list]]\nx = 2\n[[list]]\nx = 3\n",
    )
    assert (top.text("name"), top.flag("flag", False), top.integer("number", 0, 7, 1)) == ("a", True, 7)
    assert (top.path("path"), top.paths("files"), top.integers("kinds")) == (
        tmp_path / "b/c",
        (tmp_path / "d",),
        (1, 2),
    )
    assert top.optional_table("inner", lambda own: own.integer("x", 0, 9, 0), None) == 1
    assert [own.integer("x", 0, 9, 0) for own in top.tables("list")] == [2, 3]
    assert (top.optional_text("none"), top.texts("none"), top.flag("none", True)) == (None, (), True)
    assert top.optional_table("none", lambda own: 1, 2) == 2
    top.end()


@pytest.mark.parametrize(
    ("text", "read", "entry"),
    [
        ("x = 1", lambda top: top.text("x"), "x"),
        ('x = ""', lambda top: top.text("x"), "x"),
        ('x = "a\\u0007"', lambda top: top.text("x"), "x"),
        (f'x = "{"a" * 257}"', lambda top: top.identifier("x"), "x"),
        ("", lambda top: top.text("x"), "x"),
        ("x = true", lambda top: top.integer("x", 0, 9, 0), "x"),
        ("x = 10", lambda top: top.integer("x", 0, 9, 0), "x"),
        ("x = 1.0", lambda top: top.integer("x", 0, 9, 0), "x"),
        ("x = 1", lambda top: top.flag("x", False), "x"),
        ('x = "c"', lambda top: top.choice("x", "a", "b"), "x"),
        ('x = ["a", 1]', lambda top: top.texts("x"), "x"),
        ('x = "a"', lambda top: top.texts("x"), "x"),
        ("x = 1", lambda top: top.optional_table("x", lambda own: own, None), "x"),
        ("[x]\ny = 1", lambda top: top.optional_table("x", lambda own: None, None), "x.y"),
        ("[[x]]\ny = 1", lambda top: list(top.tables("x")), "x[0].y"),
        ("x = 1", lambda top: top.end(), "x"),
    ],
)
def test_refusals_name_the_entry(tmp_path: Path, text: str, read: Callable[[Table], Any], entry: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(table(tmp_path, text))
    assert str(raised.value).startswith(f"x.toml: {entry}: ")


@pytest.mark.parametrize("data", [b"x = ", b"\xff", b"x = " + b"[" * 5000, b"#" * (MAX_CONFIG_SIZE + 1)])
def test_a_file_that_is_no_toml(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(data)
    with pytest.raises(ConfigError):
        read_toml(tmp_path / "x.toml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(FileAccessError):
            read_toml(path)
