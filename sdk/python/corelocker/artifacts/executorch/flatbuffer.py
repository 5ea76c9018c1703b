"""Reading FlatBuffers from files that nobody vouches for.

Only the few tables that the adapters need are read, by field number, in place: no schema compiler, no copy. The reader is our own
because the `flatbuffers` package has no verifier in Python and follows whatever offset it finds. Here every offset is checked
against the buffer, and all readers of one artifact share a `WorkBudget`. `tests/fuzz/fuzz_pte.py` fuzzes it.

Format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import MalformedArtifactError

_U8 = struct.Struct("<B")
_I8 = struct.Struct("<b")
_U16 = struct.Struct("<H")
_I16 = struct.Struct("<h")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_F32 = struct.Struct("<f")
_F64 = struct.Struct("<d")


class FlatBuffer:
    """A FlatBuffer inside a file.

    Attributes:
        name: what it is, for error messages.
        data: its bytes.
        base: where they begin in the file, bytes.
    """

    def __init__(self, name: str, data: memoryview, base: int, budget: WorkBudget) -> None:
        self.name = name
        self.data = data
        self.base = base
        self.budget = budget

    def fail(self, what: str) -> MalformedArtifactError:
        """The error to raise when `what` is wrong."""
        return MalformedArtifactError(f"{self.name}: {what}")

    def number(self, codec: struct.Struct, at: int) -> int:
        """The number at byte `at` of the buffer."""
        if at < 0 or at + codec.size > len(self.data):
            raise self.fail(f"a field lies at {at}, outside the {len(self.data)} bytes of the buffer")
        value: int = codec.unpack_from(self.data, at)[0]
        return value

    @property
    def identifier(self) -> bytes:
        """The four bytes that say which schema the buffer follows."""
        return bytes(self.data[4:8])

    def root(self) -> FlatTable:
        """The table that the buffer begins with."""
        return FlatTable(self, self.number(_U32, 0))

    def follow(self, at: int) -> int:
        """Where the offset at byte `at` points."""
        return at + self.number(_U32, at)

    def sized(self, at: int, width: int) -> tuple[int, int]:
        """(first byte, count) of the vector at byte `at`, whose elements are `width` bytes each."""
        count = self.number(_U32, at)
        if at + 4 + count * width > len(self.data):
            raise self.fail(f"a vector of {count} elements at {at} does not fit the buffer")
        return at + 4, count


class FlatTable:
    """One table. Fields are named by their number in the schema; a union takes two, its type and its value."""

    __slots__ = ("_at", "_buffer", "_fields", "_vtable")

    def __init__(self, buffer: FlatBuffer, at: int) -> None:
        buffer.budget.spend()
        self._buffer = buffer
        self._at = at
        self._vtable = at - buffer.number(_I32, at)
        self._fields = (buffer.number(_U16, self._vtable) - 4) // 2
        if self._fields < 0 or self._vtable + 4 + 2 * self._fields > len(buffer.data):
            raise buffer.fail(f"the table at {at} has no proper list of fields")

    def _place(self, field: int) -> int:
        """Byte of the buffer where the field is, 0 when it is absent."""
        if field >= self._fields:
            return 0
        offset = self._buffer.number(_U16, self._vtable + 4 + 2 * field)
        return self._at + offset if offset else 0

    def _number(self, codec: struct.Struct, field: int, default: int = 0) -> int:
        at = self._place(field)
        return self._buffer.number(codec, at) if at else default

    def u8(self, field: int) -> int:
        return self._number(_U8, field)

    def i8(self, field: int) -> int:
        return self._number(_I8, field)

    def i16(self, field: int) -> int:
        return self._number(_I16, field)

    def u32(self, field: int, default: int = 0) -> int:
        return self._number(_U32, field, default)

    def i32(self, field: int) -> int:
        return self._number(_I32, field)

    def u64(self, field: int) -> int:
        return self._number(_U64, field)

    def i64(self, field: int) -> int:
        return self._number(_I64, field)

    def f32(self, field: int) -> float:
        return float(self._number(_F32, field))

    def f64(self, field: int) -> float:
        return float(self._number(_F64, field))

    def has(self, field: int) -> bool:
        """Whether the field is present."""
        return bool(self._place(field))

    def table(self, field: int) -> FlatTable | None:
        at = self._place(field)
        return FlatTable(self._buffer, self._buffer.follow(at)) if at else None

    def union(self, field: int) -> tuple[int, FlatTable | None]:
        """(type, value) of the union whose type is field `field`."""
        kind = self.u8(field)
        return kind, self.table(field + 1) if kind else None

    def span(self, field: int, width: int = 1) -> tuple[int, int]:
        """(offset in the file, count) of a vector or a string; (0, 0) when it is absent or empty."""
        at = self._place(field)
        if not at:
            return 0, 0
        first, count = self._buffer.sized(self._buffer.follow(at), width)
        return (self._buffer.base + first, count) if count else (0, 0)

    def _vector(self, field: int, codec: str, width: int) -> tuple[int, ...]:
        start, count = self.span(field, width)
        self._buffer.budget.spend(count)
        return struct.unpack_from(f"<{count}{codec}", self._buffer.data, start - self._buffer.base) if count else ()

    def bytes_(self, field: int) -> bytes:
        """A vector of bytes or a string, copied."""
        start, count = self.span(field)
        self._buffer.budget.spend(count >> 6)
        return bytes(self._buffer.data[start - self._buffer.base : start - self._buffer.base + count])

    def text(self, field: int) -> str:
        """A string; bytes that are not UTF-8 become lone surrogates, so that different strings stay different."""
        return self.bytes_(field).decode("utf-8", "surrogateescape")

    def u8s(self, field: int) -> tuple[int, ...]:
        return self._vector(field, "B", 1)

    def i32s(self, field: int) -> tuple[int, ...]:
        return self._vector(field, "i", 4)

    def u32s(self, field: int) -> tuple[int, ...]:
        return self._vector(field, "I", 4)

    def u64s(self, field: int) -> tuple[int, ...]:
        return self._vector(field, "Q", 8)

    def i64s(self, field: int) -> tuple[int, ...]:
        return self._vector(field, "q", 8)

    def tables(self, field: int) -> Iterator[FlatTable]:
        """The tables of a vector, one by one."""
        buffer = self._buffer
        at = self._place(field)
        if at:
            first, count = buffer.sized(buffer.follow(at), 4)
            for index in range(count):
                yield FlatTable(buffer, buffer.follow(first + 4 * index))
