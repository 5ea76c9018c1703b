"""A strict reader for the DER (X.690) that certificates and attestation extensions are made of.

A reader of our own, because no library reads what real devices send and nothing else: cryptography refuses the NULL ECDSA
parameters of a StrongBox leaf, asn1crypto accepts what DER forbids. Input is bounded by the callers
(`MAX_CERTIFICATE`), every length is checked before it is used, and the reader walks one level at a time, so depth costs
nothing: what nobody asks for is skipped by its length. `tests/fuzz/fuzz_attestation.py` fuzzes it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Self

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
ENUMERATED = 0x0A
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

# Serial numbers have at most 20 octets (RFC 5280, 4.1.2.2), and one more for the sign; nothing else is larger.
_INTEGER_OCTETS = 21
_OID_OCTETS = 32


class DerError(ValueError):
    """The bytes are not DER, or not of the type that the schema wants here."""


def context(number: int) -> int:
    """The tag, as `Reader` gives it, of a constructed context-specific field [number] (number < 2**14)."""
    if number < 31:
        return 0xA0 | number
    if number < 128:
        return 0xBF00 | number
    return 0xBF0000 | (0x80 | number >> 7) << 8 | number & 0x7F


def is_context(tag: int) -> bool:
    """Whether the tag is of a constructed context-specific field."""
    return (tag >> 16 or tag >> 8 or tag) >> 5 == 0b101


class Reader:
    """Reads the elements of `data` in order. A tag is the integer of its identifier octets, big-endian.

    Every method raises DerError when the next element is not what it reads.
    """

    __slots__ = ("_at", "_data", "_stop")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stop = len(data)

    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < self._stop

    def end(self) -> None:
        """Refuse trailing data."""
        if self._at < self._stop:
            raise DerError("trailing data")

    def tag(self) -> int | None:
        """The next element's tag, or None at the end; reads nothing."""
        return self._header()[0] if self._at < self._stop else None

    def any(self) -> tuple[int, bytes]:
        """The next element's tag and content."""
        tag, start, stop = self._header()
        self._at = stop
        return tag, self._data[start:stop]

    def content(self, tag: int) -> bytes:
        """The content of the next element, which must have this tag."""
        data, at = self._data, self._at
        # Most elements are short. A tag of several octets is never equal to the first of them.
        if at + 2 <= self._stop and data[at] == tag and (length := data[at + 1]) < 0x80:
            at += 2
            stop = at + length
            if stop > self._stop:
                raise DerError("truncated")
            self._at = stop
            return data[at:stop]
        found, content = self.any()
        if found != tag:
            raise DerError(f"tag {found:#x} where {tag:#x} is expected")
        return content

    def element(self, tag: int) -> bytes:
        """The whole next element, header included, which must have this tag."""
        begin = self._at
        self.content(tag)
        return self._data[begin : self._at]

    def inside(self, tag: int) -> Self:
        """A reader of the next element's content."""
        return type(self)(self.content(tag))

    def boolean(self, *, any_true: bool = False) -> bool:
        """A BOOLEAN; with `any_true` every octet but 00 is TRUE, as in BER (X.690, 8.2.2)."""
        content = self.content(BOOLEAN)
        if len(content) != 1 or (content not in (b"\x00", b"\xff") and not any_true):
            raise DerError("a BOOLEAN is neither 00 nor FF")
        return content != b"\x00"

    def integer(self, tag: int = INTEGER) -> int:
        content = self.content(tag)
        if not 0 < len(content) <= _INTEGER_OCTETS:
            raise DerError("an integer is empty or too long")
        if len(content) > 1 and content[0] in (0x00, 0xFF) and content[0] >> 7 == content[1] >> 7:
            raise DerError("an integer has redundant octets")
        return int.from_bytes(content, signed=True)

    def enumerated(self) -> int:
        return self.integer(ENUMERATED)

    def octets(self) -> bytes:
        return self.content(OCTET_STRING)

    def null(self) -> None:
        if self.content(NULL):
            raise DerError("a NULL has content")

    def bits(self) -> bytes:
        """The octets of a BIT STRING of whole octets."""
        content = self.content(BIT_STRING)
        if content[:1] != b"\x00":
            raise DerError("a BIT STRING does not end on an octet")
        return content[1:]

    def named_bits(self) -> frozenset[int]:
        """The numbers of the bits that are set in a BIT STRING of named bits."""
        content = self.content(BIT_STRING)
        if not content or content[0] > 7 or len(content) > 5 or (content[0] and len(content) == 1):
            raise DerError("a BIT STRING is malformed")
        return frozenset(8 * i + j for i, octet in enumerate(content[1:]) for j in range(8) if octet & (0x80 >> j))

    def oid(self) -> str:
        """An OBJECT IDENTIFIER in dotted form."""
        return _dotted(self.content(OBJECT_IDENTIFIER))

    def time(self) -> datetime:
        """A UTCTime or GeneralizedTime in the forms that RFC 5280, 4.1.2.5 allows, in UTC."""
        tag, content = self.any()
        digits = 12 if tag == UTC_TIME else 14
        if tag not in (UTC_TIME, GENERALIZED_TIME) or not content[:digits].isdigit() or content[digits:] != b"Z":
            raise DerError("not a time in UTC with seconds")
        rest, second = divmod(int(content[:digits]), 100)
        rest, minute = divmod(rest, 100)
        rest, hour = divmod(rest, 100)
        rest, day = divmod(rest, 100)
        year, month = divmod(rest, 100)
        if tag == UTC_TIME:
            year += 1900 if year >= 50 else 2000
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError as error:
            raise DerError("no such time") from error

    def _header(self) -> tuple[int, int, int]:
        """The next element's tag, and where its content starts and stops."""
        data, at, end = self._data, self._at, self._stop
        if at + 2 > end:
            raise DerError("truncated")
        tag = data[at]
        at += 1
        if tag & 0x1F == 0x1F:
            # The high-tag-number form; KeyMint's tags need at most two octets.
            first = data[at]
            if first & 0x80:
                if at + 2 > end:
                    raise DerError("truncated")
                second = data[at + 1]
                if second & 0x80 or first == 0x80:
                    raise DerError("a tag is malformed")
                tag = tag << 16 | first << 8 | second
                at += 2
            else:
                if first < 31:
                    raise DerError("a tag is malformed")
                tag = tag << 8 | first
                at += 1
            if at == end:
                raise DerError("truncated")
        length = data[at]
        at += 1
        if length & 0x80:
            count = length & 0x7F
            octets = data[at : at + count]
            at += count
            length = int.from_bytes(octets)
            if length < 0x80 or octets[0] == 0:
                raise DerError("a length is indefinite or not minimal")
        if length > end - at:
            raise DerError("truncated")
        return tag, at, at + length


@lru_cache(maxsize=256)
def _dotted(content: bytes) -> str:
    if not 0 < len(content) <= _OID_OCTETS or content[-1] & 0x80:
        raise DerError("an OBJECT IDENTIFIER is malformed")
    arcs: list[int] = []
    arc, fresh = 0, True
    for octet in content:
        if fresh and octet == 0x80:
            raise DerError("an OBJECT IDENTIFIER has redundant octets")
        arc = arc << 7 | octet & 0x7F
        fresh = not octet & 0x80
        if fresh:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
