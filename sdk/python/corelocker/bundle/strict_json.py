"""The one reader for JSON that somebody else wrote (docs/formats.md, "JSON").

`parse_object` closes what JSON leaves open; `Fields` then takes each member by name, type and range, or raises the typed
error of the format at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self, TypeVar

from corelocker.bundle import jose
from corelocker.errors import CoreLockerError

# The largest integer that every JSON reader keeps exactly (RFC 8259 section 6).
MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 32

_T = TypeVar("_T")

# Controls, line separators, and marks that turn the direction of writing.
_NOT_PLAIN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_BRACKETS = re.compile(rb"[\[{]")


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data` (UTF-8).

    I-JSON (RFC 7493) and stricter: names occur once, numbers are integers below 2^53, texts have no lone surrogates,
    objects and lists nest at most `MAX_DEPTH` deep. Raises ValueError for anything else.
    """
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("JSON that nests too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if len(_BRACKETS.findall(data)) > MAX_DEPTH:
        _check_depth(value)
    if b"\\u" in data:
        # A lone surrogate has no UTF-8.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def is_plain_text(value: object, longest: int) -> bool:
    """Whether the value is a text of 1 to `longest` characters without controls, line separators and direction marks."""
    return type(value) is str and 1 <= len(value) <= longest and _NOT_PLAIN.search(value) is None


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
        """Read what `parse_object` reads; what that refuses is the error of the format."""
        try:
            return cls(parse_object(data), where, error)
        except ValueError as reason:
            raise error(f"{where}: not a JSON object in the form that is read ({_summary(reason)})") from None

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
        """A plain text (`is_plain_text`) of 1 to `longest` characters."""
        return self._plain(name, self._typed(name, str), longest)

    def texts(self, name: str, longest: int) -> tuple[str, ...]:
        """A list of plain texts of 1 to `longest` characters."""
        return tuple(self._plain(f"an entry of {name}", value, longest) for value in self._typed(name, list))

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

    def _plain(self, what: str, value: object, longest: int) -> str:
        if not is_plain_text(value, longest):
            raise self.refuse(f"{what} is not 1 to {longest} characters of plain text")
        return str(value)


def _check_depth(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        nested: list[Any] = []
        for item in level:
            members = item.values() if isinstance(item, dict) else item
            nested += [member for member in members if isinstance(member, dict | list)]
        if not nested:
            return
        level = nested
    raise ValueError("JSON that nests too deep")


def _summary(reason: ValueError) -> str:
    """What was wrong, without the data that `json` and the codec put into their messages: it may be secret."""
    if isinstance(reason, UnicodeError):
        return "not valid Unicode"
    return reason.msg if isinstance(reason, json.JSONDecodeError) else str(reason)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _integer(digits: str) -> int:
    # Sixteen digits and a sign: Python refuses very long numbers by itself, and converts long ones slowly.
    value = int(digits) if len(digits) <= 17 else MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise ValueError("an integer beyond 2^53 - 1")
    return value


def _no_number(_: str) -> NoReturn:
    raise ValueError("a number that is not an integer")


# json.loads makes a decoder anew for every call that has options.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_no_number, parse_constant=_no_number
)
