"""One strict reader for TOML configuration: each entry is taken by name and type, and what nobody took is refused.

An unknown name is an error, so that a misspelled limit cannot be ignored. Messages name the file, the entry and what
belongs there, never its value: it may be a secret.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from corelocker.errors import ConfigError, FileAccessError

MAX_CONFIG_SIZE = 1 << 20  # bytes
MAX_TEXT = 4096  # characters
_T = TypeVar("_T")


def read_toml(path: Path | str) -> Table:
    """The top table of a TOML file; paths in it are relative to the file's folder.

    Raises FileAccessError when the file cannot be read, ConfigError when it is too large or no TOML.
    """
    path = Path(path).absolute()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_SIZE + 1)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_CONFIG_SIZE:
        raise ConfigError(f"{path}: more than {MAX_CONFIG_SIZE} bytes")
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        # tomllib's messages quote at most the name and the place, never a value.
        raise ConfigError(f"{path}: not TOML: {str(error)[:200]}") from None
    return Table(values, "", path.parent, path.name)


class Table:
    """A TOML table that is read entry by entry; `end` refuses the entries that nobody has read.

    Every reader raises ConfigError for a value of another type or outside its bounds. Readers named `optional_...`
    return None for an entry that is not there; the others raise ConfigError, or take a default.
    """

    def __init__(self, values: dict[str, Any], where: str, folder: Path, file: str) -> None:
        self._values, self._where, self._folder, self._file = values, where, folder, file
        self._read: set[str] = set()

    def refuse(self, name: str, reason: str) -> ConfigError:
        """The error for an entry, to be raised by the caller."""
        return ConfigError(f"{self._file}: {self._where}{name}: {reason}")

    def text(self, name: str) -> str:
        """A text of 1 to 4,096 printable characters."""
        return self.needed(name, self.optional_text(name))

    def optional_text(self, name: str) -> str | None:
        """As `text`."""
        value = self._value(name, str, "a text")
        if value is not None and (not 1 <= len(value) <= MAX_TEXT or not value.isprintable()):
            raise self.refuse(name, f"a text of 1 to {MAX_TEXT} printable characters belongs here")
        return value

    def identifier(self, name: str) -> str:
        """A text of at most 256 characters, which can stand in a claim."""
        value = self.text(name)
        if len(value) > 256:
            raise self.refuse(name, "a text of at most 256 characters belongs here")
        return value

    def choice(self, name: str, *choices: str, default: str | None = None) -> str:
        """One of the choices."""
        value = self.optional_choice(name, *choices) or default
        if value is None:
            raise self.refuse(name, f"one of {', '.join(choices)} belongs here")
        return value

    def optional_choice(self, name: str, *choices: str) -> str | None:
        """As `choice`."""
        value = self.optional_text(name)
        if value is not None and value not in choices:
            raise self.refuse(name, f"one of {', '.join(choices)} belongs here")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._value(name, bool, "true or false")
        return default if value is None else value

    def integer(self, name: str, low: int, high: int, default: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.optional_integer(name, low, high)
        return default if value is None else value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """As `integer`."""
        value = self._value(name, int, "a whole number")
        if value is not None and not low <= value <= high:
            raise self.refuse(name, f"a whole number from {low} to {high} belongs here")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, empty when it is not there."""
        return self._list(name, str, "texts")

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers, empty when it is not there."""
        return self._list(name, int, "whole numbers")

    def path(self, name: str) -> Path:
        """A path, relative to the file's folder."""
        return self.needed(name, self.optional_path(name))

    def optional_path(self, name: str) -> Path | None:
        """As `path`."""
        value = self.optional_text(name)
        return None if value is None else self._folder / value

    def paths(self, name: str) -> tuple[Path, ...]:
        """A list of paths, empty when it is not there."""
        return tuple(self._folder / value for value in self.texts(name))

    def tables(self, name: str) -> Iterator[Table]:
        """The tables of an array, none when it is not there; `end` is called on each when the next one is asked for."""
        for index, value in enumerate(self._list(name, dict, "tables")):
            table = Table(value, f"{self._where}{name}[{index}].", self._folder, self._file)
            yield table
            table.end()

    def optional_table(self, name: str, parse: Callable[[Table], _T], default: _T) -> _T:
        """What `parse` makes of a table, which it has to read as a whole; `default` without one."""
        value = self._value(name, dict, "a table")
        if value is None:
            return default
        table = Table(value, f"{self._where}{name}.", self._folder, self._file)
        result = parse(table)
        table.end()
        return result

    def needed(self, name: str, value: _T | None) -> _T:
        """The value; raises ConfigError for None."""
        if value is None:
            raise self.refuse(name, "missing")
        return value

    def end(self) -> None:
        """Refuse the entries that nobody has read."""
        for name in sorted(self._values.keys() - self._read):
            raise self.refuse(name, f"there is no such setting; there are {', '.join(sorted(self._read))}")

    def _value(self, name: str, kind: type[_T], what: str) -> _T | None:
        self._read.add(name)
        value = self._values.get(name)
        # The type itself, not isinstance: true is no whole number.
        if value is not None and type(value) is not kind:
            raise self.refuse(name, f"{what} belongs here")
        return value

    def _list(self, name: str, kind: type[_T], what: str) -> tuple[_T, ...]:
        values = self._value(name, list, f"a list of {what}") or []
        if any(type(value) is not kind for value in values):
            raise self.refuse(name, f"a list of {what} belongs here")
        return tuple(values)
