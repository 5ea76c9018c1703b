"""Reads compiled classes (JVM specification, chapter 4): what each instruction names, and the API level that it runs on at least.

A level comes from @RequiresApi on the class or one around it, or from a comparison of Build.VERSION.SDK_INT with a constant on
every way to the instruction. Nothing else raises it: an unusual form of the comparison counts as none.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

Key = tuple[str, int | None]  # a member's name and its number of parameters, None for a field

_REQUIRES = "Landroidx/annotation/RequiresApi;"
_SDK_INT = ("android/os/Build$VERSION", ("SDK_INT", None))
# Bytes of each instruction with its operands; 0 where they say it themselves.
_LENGTHS = (
    [1] * 16 + [2, 3, 2, 3, 3] + [2] * 5 + [1] * 28 + [2] * 5 + [1] * 73 + [3] + [1] * 20 + [3] * 16 + [2, 0, 0]
    + [1] * 6 + [3] * 7 + [5, 5, 3, 2, 3, 1, 1, 3, 3, 1, 1, 0, 4, 3, 3, 5, 5]
)  # fmt: skip
_TABLESWITCH, _LOOKUPSWITCH, _WIDE, _IINC = 0xAA, 0xAB, 0xC4, 0x84
# What `if_icmp..` says of SDK_INT, compared with a constant: whether it holds where it jumps to or behind it, and what to add.
_COMPARISONS = {0xA1: (False, 0), 0xA2: (True, 0), 0xA3: (True, 1), 0xA4: (False, 1)}
_BRANCHES = {*range(0x99, 0xA9), 0xC6, 0xC7}
_WIDE_BRANCHES = {0xC8, 0xC9}
_NO_NEXT = {0xA7, 0xC8, 0xA9, _TABLESWITCH, _LOOKUPSWITCH, *range(0xAC, 0xB2), 0xBF}
_NAMES_MEMBER = range(0xB2, 0xBA)
_NAMES_CLASS = {0xBB, 0xBD, 0xC0, 0xC1, 0xC5}
_LOADS_CONSTANT = {0x12, 0x13}


class Use(NamedTuple):
    """A class, or a member of it, that an instruction names, and the level on which the instruction runs at least."""

    owner: str
    key: Key | None
    level: int


class ClassFile:
    """A compiled class.

    Attributes:
        name: binary name, such as `android/os/Build$VERSION`.
        requires: level that @RequiresApi names, None without it.
        parents: superclass, interfaces and the classes that it catches: they are loaded before any instruction runs.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pool: dict[int, Any] = {}
        at = self._read_pool()
        self.name = self._class(self._u2(at + 2))
        count = self._u2(at + 6)
        self.parents = [
            self._class(self._u2(at + 4 + 2 * i)) for i in range(count + 2) if i != 1 and self._u2(at + 4 + 2 * i)
        ]
        self._codes: list[tuple[bytes, list[tuple[int, int, int]]]] = []
        at += 8 + 2 * count
        for _ in range(2):  # fields, then methods
            members = self._u2(at)
            at += 2
            for _ in range(members):
                at = self._read_attributes(at + 6)
        self.requires: int | None = None
        self._read_attributes(at)

    def uses(self, base: int) -> Iterator[Use]:
        """What its instructions name, where the class itself runs on level `base` at least."""
        for code, handlers in self._codes:
            steps = dict(_instructions(code))
            for at, level in self._levels(code, steps, handlers, base).items():
                if named := self._named(code, at):
                    yield Use(*named, level)

    def _u2(self, at: int) -> int:
        return int.from_bytes(self._data[at : at + 2], "big")

    def _u4(self, at: int) -> int:
        return int.from_bytes(self._data[at : at + 4], "big")

    def _read_pool(self) -> int:
        at, index, count = 10, 1, self._u2(8)
        while index < count:
            tag, at = self._data[at], at + 1
            if tag == 1:
                length = self._u2(at)
                self._pool[index] = self._data[at + 2 : at + 2 + length].decode("utf-8", "replace")
                at += 2 + length
            elif tag == 3:
                self._pool[index] = struct.unpack_from(">i", self._data, at)[0]
                at += 4
            elif tag in (7, 8, 16, 19, 20):
                self._pool[index] = (tag, self._u2(at))
                at += 2
            elif tag in (5, 6):
                at, index = at + 8, index + 1
            elif tag == 15:
                at += 3
            else:
                self._pool[index] = (tag, self._u2(at), self._u2(at + 2))
                at += 4
            index += 1
        return at

    def _class(self, index: int) -> str:
        return str(self._pool[self._pool[index][1]]).lstrip("[").removeprefix("L").rstrip(";")

    def _read_attributes(self, at: int) -> int:
        """Those of the class, a field or a method; returns where they end."""
        count, at = self._u2(at), at + 2
        for _ in range(count):
            name, size = self._pool[self._u2(at)], self._u4(at + 2)
            if name == "Code":
                self._read_code(at + 6)
            elif name == "RuntimeInvisibleAnnotations":
                self._read_annotations(at + 6)
            at += 6 + size
        return at

    def _read_code(self, at: int) -> None:
        length = self._u4(at + 4)
        table = at + 8 + length
        handlers = []
        for entry in range(table + 2, table + 2 + 8 * self._u2(table), 8):
            handlers.append((self._u2(entry), self._u2(entry + 2), self._u2(entry + 4)))
            if caught := self._u2(entry + 6):
                self.parents.append(self._class(caught))
        self._codes.append((self._data[at + 8 : at + 8 + length], handlers))

    def _read_annotations(self, at: int) -> None:
        count, at = self._u2(at), at + 2
        for _ in range(count):
            found: list[int] = []
            kind = self._pool[self._u2(at)]
            at = self._read_annotation(at, found)
            if kind == _REQUIRES:
                self.requires = max(found)

    def _read_annotation(self, at: int, integers: list[int]) -> int:
        pairs, at = self._u2(at + 2), at + 4
        for _ in range(pairs):
            at = self._read_element(at + 2, integers)
        return at

    def _read_element(self, at: int, integers: list[int]) -> int:
        tag = chr(self._data[at])
        if tag == "[":
            count, at = self._u2(at + 1), at + 3
            for _ in range(count):
                at = self._read_element(at, integers)
            return at
        if tag == "@":
            return self._read_annotation(at + 1, integers)
        if tag == "I":
            integers.append(self._pool[self._u2(at + 1)])
        return at + (5 if tag == "e" else 3)

    def _named(self, code: bytes, at: int) -> tuple[str, Key | None] | None:
        opcode = code[at]
        if opcode in _NAMES_MEMBER:
            _, owner, both = self._pool[int.from_bytes(code[at + 1 : at + 3], "big")]
            _, name, kind = self._pool[both]
            descriptor, count = self._pool[kind], None
            if descriptor[0] == "(":
                count = len(re.findall(r"\[*(?:L[^;]*;|[ZBCSIJFD])", descriptor[1 : descriptor.index(")")]))
            return self._class(owner), (self._pool[name], count)
        if opcode in _NAMES_CLASS:
            return self._class(int.from_bytes(code[at + 1 : at + 3], "big")), None
        if opcode in _LOADS_CONSTANT:
            index = int.from_bytes(code[at + 1 : at + (2 if opcode == 0x12 else 3)], "big")
            match self._pool.get(index):
                case (7, int()):
                    return self._class(index), None
        return None

    def _levels(
        self, code: bytes, steps: dict[int, int], handlers: list[tuple[int, int, int]], base: int
    ) -> dict[int, int]:
        """For each instruction that is reached: the lowest level on any way to it."""
        jumps = {at: _targets(code, at) for at in steps}
        guards = self._guards(code, steps, {target for targets in jumps.values() for target in targets})
        levels, waiting = {0: base}, [0]
        while waiting:
            at = waiting.pop()
            ways = [(target, guards.get((at, target), 0)) for target in jumps[at]]
            if code[at] not in _NO_NEXT:
                ways.append((steps[at], guards.get((at, steps[at]), 0)))
            ways += [(handler, 0) for start, end, handler in handlers if start <= at < end]
            for target, least in ways:
                level = max(levels[at], least)
                if level < levels.get(target, level + 1):
                    levels[target] = level
                    waiting.append(target)
        return levels

    def _guards(self, code: bytes, steps: dict[int, int], targets: set[int]) -> dict[tuple[int, int], int]:
        """The level behind each side of `SDK_INT < constant` and the like: the way from the comparison, and its level."""
        found = {}
        for read, push in steps.items():
            if self._named(code, read) != _SDK_INT or push not in steps or targets & {push, steps[push]}:
                continue
            compare, constant = steps[push], _constant(code, push)
            if constant is None or code[compare] not in _COMPARISONS:
                continue
            jumps, more = _COMPARISONS[code[compare]]
            found[compare, _targets(code, compare)[0] if jumps else steps[compare]] = constant + more
        return found


def _constant(code: bytes, at: int) -> int | None:
    """The integer that an instruction pushes: `bipush` and `sipush`, which levels take."""
    match code[at]:
        case 0x10:
            return code[at + 1]
        case 0x11:
            return int.from_bytes(code[at + 1 : at + 3], "big")
    return None


def _instructions(code: bytes) -> Iterator[tuple[int, int]]:
    """Where each instruction begins, and the one behind it."""
    at = 0
    while at < len(code):
        opcode, start = code[at], at
        if opcode == _WIDE:
            at += 6 if code[at + 1] == _IINC else 4
        elif opcode in (_TABLESWITCH, _LOOKUPSWITCH):
            first, count = _switch(code, at)
            at = first + count
        else:
            at += _LENGTHS[opcode]
        yield start, at


def _switch(code: bytes, at: int) -> tuple[int, int]:
    """Where the operands of a switch begin, and their number of bytes."""
    first = at + 4 - at % 4
    if code[at] == _TABLESWITCH:
        low, high = struct.unpack_from(">ii", code, first + 4)
        return first, 12 + 4 * (high - low + 1)
    return first, 8 + 8 * struct.unpack_from(">i", code, first + 4)[0]


def _targets(code: bytes, at: int) -> list[int]:
    """Where an instruction may jump to."""
    opcode = code[at]
    if opcode in _BRANCHES:
        return [at + struct.unpack_from(">h", code, at + 1)[0]]
    if opcode in _WIDE_BRANCHES:
        return [at + struct.unpack_from(">i", code, at + 1)[0]]
    if opcode in (_TABLESWITCH, _LOOKUPSWITCH):
        first, count = _switch(code, at)
        table = opcode == _TABLESWITCH
        places = range(first + 12, first + count, 4) if table else range(first + 12, first + count, 8)
        return [at + struct.unpack_from(">i", code, place)[0] for place in (first, *places)]
    return []
