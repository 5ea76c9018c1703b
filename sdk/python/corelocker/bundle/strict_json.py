"""Reading JSON that somebody else wrote: each member is taken by name, type and range, or a typed error is raised."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from corelocker.bundle import jose
from corelocker.errors import CoreLockerError

# The largest integer that every JSON reader keeps exactly (RFC 8259 section 6).
MAX_INTEGER = 2**53 - 1

_T = TypeVar("_T")


@dataclass(frozen=True)
class Fields:
    """A JSON object.

    Attributes:
        values: its members; those that nobody asks for are ignored. Not shown, for they may be secret.
        where: words that name its place in messages.
        error: what is raised when a member is missing or wrong.
    """

    values: dict[str, Any] = field(repr=False)
    where: str
    error: type[CoreLockerError]

    @classmethod
    def parse(cls, data: bytes, where: str, error: type[CoreLockerError]) -> Self:
        """Read UTF-8 JSON; keys that appear twice, NaN, infinities and deep nesting are refused."""
        try:
            values = json.loads(data.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise error(f"{where}: not JSON in UTF-8, or a key appears twice") from None
        if type(values) is not dict:
            raise error(f"{where}: not a JSON object")
        return cls(values, where, error)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def refuse(self, reason: str) -> CoreLockerError:
        """The error to raise for `reason`."""
        return self.error(f"{self.where}: {reason}")

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._typed(name, int)
        if not low <= value <= high:
            raise self.refuse(f"{name} is not between {low} and {high}")
        return value

    def text(self, name: str, longest: int) -> str:
        """1 to `longest` printable characters."""
        return self._printable(name, self._typed(name, str), longest)

    def texts(self, name: str, longest: int) -> tuple[str, ...]:
        """A list of texts of 1 to `longest` printable characters."""
        return tuple(self._printable(f"an entry of {name}", value, longest) for value in self._typed(name, list))

    def sha256(self, name: str) -> bytes:
        """A digest in 64 lower-case hexadecimal digits."""
        text = self._typed(name, str)
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise self.refuse(f"{name} is not a SHA-256 in lower-case hexadecimal")
        return bytes.fromhex(text)

    def base64url(self, name: str, shortest: int, longest: int | None = None) -> bytes:
        """`shortest` to `longest` (or exactly `shortest`) bytes in base64url."""
        try:
            data = jose.decode_base64url(self._typed(name, str))
        except ValueError:
            raise self.refuse(f"{name} is not base64url") from None
        if not shortest <= len(data) <= (shortest if longest is None else longest):
            raise self.refuse(f"{name} has {len(data)} bytes")
        return data

    def child(self, name: str) -> Fields:
        """An object inside this one."""
        return Fields(self._typed(name, dict), f"{self.where}: {name}", self.error)

    def objects(self, name: str) -> Iterator[Fields]:
        """The objects of a list."""
        for index, value in enumerate(self._typed(name, list)):
            if type(value) is not dict:
                raise self.refuse(f"{name}[{index}] is not an object")
            yield Fields(value, f"{self.where}: {name}[{index}]", self.error)

    def _typed(self, name: str, kind: type[_T]) -> _T:
        value = self.values.get(name)
        # Not isinstance: true is an int in Python, but not in JSON.
        if type(value) is not kind:
            raise self.refuse(f"{name} is missing or not of type {kind.__name__}")
        return value

    def _printable(self, what: str, value: object, longest: int) -> str:
        if type(value) is not str or not 1 <= len(value) <= longest or not value.isprintable():
            raise self.refuse(f"{what} is not 1 to {longest} printable characters")
        return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
