"""Compiled classes of the JVM, put together by hand (JVM specification, chapter 4)."""

from __future__ import annotations

import struct

RETURN = b"\xb1"


class ClassWriter:
    """A class with one method.

    Args:
        name: binary name, such as `a/B$C`.
        requires: what its @RequiresApi says; none without.
    """

    def __init__(self, name: str, requires: int | None = None) -> None:
        self._name = name
        self._requires = requires
        self._entries: list[bytes] = []

    def get_static(self, owner: str, name: str, kind: str = "I") -> bytes:
        return self._instruction(0xB2, self._member(9, owner, name, kind))

    def call(self, owner: str, name: str, kind: str = "()V") -> bytes:
        return self._instruction(0xB8, self._member(10, owner, name, kind))

    def make(self, owner: str) -> bytes:
        """`new`, and `pop` of what it leaves on the stack."""
        return self._instruction(0xBB, self._class(owner)) + b"\x57"

    def guard(self, level: int, jump: int, opcode: int = 0xA1) -> bytes:
        """Compares SDK_INT with a level, and jumps over `jump` bytes: by default where SDK_INT is lower."""
        read = self.get_static("android/os/Build$VERSION", "SDK_INT")
        return read + bytes([0x10, level, opcode]) + struct.pack(">h", 3 + jump)

    def finish(self, code: bytes, handler: tuple[int, int, int] | None = None) -> bytes:
        """The class, whose method has this code; `handler` is where one begins to catch, where it ends, and goes on."""
        parts = struct.pack(">HHH", 0x21, self._class(self._name), self._class("java/lang/Object")) + bytes(4)
        table = struct.pack(">HHHHH", 1, *handler, 0) if handler else bytes(2)
        body = struct.pack(">HHI", 4, 4, len(code)) + code + table + bytes(2)
        parts += struct.pack(">HHHHH", 1, 9, self._text("m"), self._text("()V"), 1) + self._attribute("Code", body)
        attributes = []
        if self._requires is not None:
            value = struct.pack(">HcH", self._text("value"), b"I", self._add(3, struct.pack(">i", self._requires)))
            kind = self._text("Landroidx/annotation/RequiresApi;")
            attributes.append(self._attribute("RuntimeInvisibleAnnotations", struct.pack(">HHH", 1, kind, 1) + value))
        parts += struct.pack(">H", len(attributes)) + b"".join(attributes)
        pool = struct.pack(">H", len(self._entries) + 1) + b"".join(self._entries)
        return struct.pack(">IHH", 0xCAFEBABE, 0, 61) + pool + parts

    def _instruction(self, opcode: int, index: int) -> bytes:
        return struct.pack(">BH", opcode, index)

    def _attribute(self, name: str, body: bytes) -> bytes:
        return struct.pack(">HI", self._text(name), len(body)) + body

    def _member(self, tag: int, owner: str, name: str, kind: str) -> int:
        both = self._add(12, struct.pack(">HH", self._text(name), self._text(kind)))
        return self._add(tag, struct.pack(">HH", self._class(owner), both))

    def _class(self, name: str) -> int:
        return self._add(7, struct.pack(">H", self._text(name)))

    def _text(self, text: str) -> int:
        return self._add(1, struct.pack(">H", len(text)) + text.encode())

    def _add(self, tag: int, body: bytes) -> int:
        """The place of an entry in the constant pool."""
        entry = bytes([tag]) + body
        if entry not in self._entries:
            self._entries.append(entry)
        return self._entries.index(entry) + 1
