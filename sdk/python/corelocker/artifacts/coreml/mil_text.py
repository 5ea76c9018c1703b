"""An ML Program read from MIL text: the `model.mil` of a compiled `.mlmodelc`.

Apple documents no grammar. This one is what Core ML's compiler writes (`program(1.0)` with `tensor<string, []>("x")`, and
`program(1.3)` with `string("x")`):

    program   = "program(" version ")" [attributes] "{" function* "}"
    function  = "func" name "<" opset ">" "(" typed names ")" [attributes] block
    block     = "{" statement* "}" "->" "(" names ")" [";"]
    statement = type name ("," type name)* "=" operation "(" arguments ")" [attributes] block* ";"
    argument  = name "=" value ;  value = name | type "(" literal ")" | "BLOBFILE(" path "," offset ")" | literal | "(" values ")"
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from corelocker.artifacts.coreml.mlprogram import (
    MAX_DEPTH,
    NUMPY_TYPES,
    SUB_BYTE,
    Argument,
    BlobReference,
    Block,
    Function,
    MilProgram,
    Operation,
    TensorType,
    Value,
)
from corelocker.errors import MalformedArtifactError

TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>[-+]?(?:
          0[xX][0-9a-fA-F]*\.?[0-9a-fA-F]*(?:[pP][-+]?[0-9]+)?
        | (?:inf|nan)(?![A-Za-z0-9_])
        | [0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?))
    | (?P<name>[A-Za-z_@][A-Za-z0-9_@.$/:]*)
    | (?P<arrow>->)
    | (?P<mark>[^\sA-Za-z0-9_])
    )""",
    re.VERBOSE,
)
MAX_TOKENS = 1 << 24
TYPES = frozenset(NUMPY_TYPES) | frozenset(SUB_BYTE) | {"string", "bf16"}
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def read_mil(text: str) -> MilProgram:
    """The program of a `model.mil`. Raises MalformedArtifactError, naming the line."""
    reader = _MilTextReader(text)
    try:
        return reader.program()
    except (ValueError, OverflowError):
        raise reader.error("a number cannot be read") from None


class _MilTextReader:
    """A recursive descent over tokens; each method takes what its name says and leaves the rest."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._kind = ""
        self._token = ""
        self._start = 0
        self._tokens_left = MAX_TOKENS
        self._next()

    def error(self, what: str) -> MalformedArtifactError:
        line = self._text.count("\n", 0, self._start) + 1
        return MalformedArtifactError(f"model.mil, line {line}: {what}")

    def _next(self) -> str:
        """Step to the next token; returns the one that was there."""
        taken = self._token
        self._tokens_left -= 1
        if self._tokens_left < 0:
            raise self.error(f"more than {MAX_TOKENS} tokens")
        match = TOKEN.match(self._text, self._at)
        if match is None:
            self._kind, self._token, self._start = "end", "", len(self._text)
            if self._text[self._at :].strip():
                raise self.error("a character that MIL has not")
            return taken
        self._kind = match.lastgroup or ""
        self._token = match[self._kind]
        self._start, self._at = match.start(self._kind), match.end()
        return taken

    def _is(self, mark: str) -> bool:
        return self._token == mark and self._kind in ("mark", "arrow", "name")

    def _accept(self, mark: str) -> bool:
        if self._is(mark):
            self._next()
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._accept(mark):
            raise self.error(f"expected {mark!r}, found {self._token[:40]!r}")

    def _name(self) -> str:
        if self._kind != "name":
            raise self.error(f"expected a name, found {self._token[:40]!r}")
        return self._next()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH}")

    def program(self) -> MilProgram:
        self._expect("program")
        self._skip("(", ")")
        if self._is("["):
            self._skip("[", "]")
        self._expect("{")
        functions: dict[str, Function] = {}
        while not self._accept("}"):
            function = self._function()
            functions[function.name] = function
        if self._kind != "end":
            raise self.error("text behind the program")
        return MilProgram.of(functions)

    def _function(self) -> Function:
        self._expect("func")
        name = self._name()
        if self._is("<"):
            self._skip("<", ">")
        inputs = self._parameters()
        if self._is("["):
            self._skip("[", "]")
        block = self._block(tuple(n for n, _ in inputs))
        return Function(name, tuple(inputs), block)

    def _parameters(self) -> list[tuple[str, TensorType | None]]:
        self._expect("(")
        found: list[tuple[str, TensorType | None]] = []
        while not self._accept(")"):
            kind = self._type()
            found.append((self._name(), kind))
            if not self._is(")"):
                self._expect(",")
        return found

    def _block(self, inputs: tuple[str, ...]) -> Block:
        self._deeper()
        self._expect("{")
        operations = []
        while not self._accept("}"):
            operations.append(self._statement())
        self._expect("->")
        self._expect("(")
        outputs = []
        while not self._accept(")"):
            outputs.append(self._name())
            if not self._is(")"):
                self._expect(",")
        self._accept(";")
        self._depth -= 1
        return Block(inputs, tuple(outputs), tuple(operations))

    def _statement(self) -> Operation:
        outputs: list[tuple[str, TensorType | None]] = []
        if self._accept("("):  # an operation without results
            self._expect(")")
        else:
            while True:
                kind = self._type()
                outputs.append((self._name(), kind))
                if not self._accept(","):
                    break
        self._expect("=")
        operation = self._name()
        arguments = self._arguments("(", ")")
        attributes = self._arguments("[", "]") if self._is("[") else {}
        blocks = []
        while not self._accept(";"):
            if self._kind == "name":  # a block may carry a name
                self._next()
            blocks.append(self._block(tuple(n for n, _ in self._parameters()) if self._is("(") else ()))
        return Operation(operation, attributes | arguments, tuple(outputs), tuple(blocks))

    def _arguments(self, opening: str, closing: str) -> dict[str, tuple[Argument, ...]]:
        self._expect(opening)
        found: dict[str, tuple[Argument, ...]] = {}
        while not self._accept(closing):
            name = self._name()
            self._expect("=")
            found[name] = self._values()
            if not self._is(closing):
                self._expect(",")
        return found

    def _values(self) -> tuple[Argument, ...]:
        if not self._is("("):
            return (self._value(),)
        self._expect("(")
        found: list[Argument] = []
        while not self._accept(")"):
            found.append(self._value())
            if not self._is(")"):
                self._expect(",")
        return tuple(found)

    def _value(self) -> Argument:
        if self._kind == "string":
            return Value(TensorType("string", ()), (self._string(),))
        if self._kind == "number":
            number = self._number()
            return Value(TensorType("int32" if isinstance(number, int) else "fp32", ()), _array([number]))
        if self._is("["):  # a list without a type belongs to no tensor
            self._literal()
            return Value(None, None)
        if self._kind != "name":
            raise self.error(f"expected a value, found {self._token[:40]!r}")
        if self._token in ("true", "false"):
            return Value(TensorType("bool", ()), _array([self._next() == "true"]))
        if not self._starts_type():
            return self._name()
        kind = self._type()
        self._expect("(")
        value = self._content(kind)
        self._expect(")")
        return value

    def _content(self, kind: TensorType | None) -> Value:
        if self._accept("BLOBFILE"):
            places = self._arguments("(", ")")
            path, offset = places.get("path", ("",))[0], places.get("offset", ("",))[0]
            place = offset.array() if isinstance(offset, Value) else None
            if not isinstance(path, Value) or path.text is None or place is None or place.size != 1:
                raise self.error("a BLOBFILE without path and offset")
            return Value(kind, BlobReference(path.text, int(place.reshape(-1)[0])))
        if self._kind == "string":
            text = self._string()
            if kind is not None and kind.dtype != "string":  # sub-byte arrays are written as their bytes
                return Value(kind, text.encode("latin-1", "replace"))
            return Value(kind, (text,))
        literal = self._literal()
        if kind is None or literal is None:
            return Value(kind, None)
        flat, strings = literal
        if kind.dtype == "string":
            return Value(kind, tuple(strings))
        return Value(kind, _array(flat))

    def _literal(self) -> tuple[list[Any], list[str]] | None:
        """Numbers and strings of a nested list in order; None for dictionaries and tuples, which are passed over."""
        if self._is("{"):
            self._skip("{", "}")
            return None
        if self._is("("):
            self._skip("(", ")")
            return None
        numbers: list[Any] = []
        strings: list[str] = []
        depth = 0
        while True:
            if self._accept("["):
                depth += 1
            elif self._accept("]"):
                depth -= 1
            elif self._kind == "string":
                strings.append(self._string())
            elif self._kind == "number":
                numbers.append(self._number())
            elif self._is("true") or self._is("false"):
                numbers.append(self._next() == "true")
            elif not (depth and self._accept(",")):
                raise self.error(f"expected a number, found {self._token[:40]!r}")
            if depth < 0:
                raise self.error("a ']' without '['")
            if depth == 0:
                return numbers, strings

    def _starts_type(self) -> bool:
        """Whether the name at hand begins a typed value and is not the name of one."""
        if self._token in ("tensor", "list", "tuple", "dict", "state"):
            return self._text[self._at : self._at + 1] == "<"
        return self._token in TYPES and self._text[self._at : self._at + 1] == "("

    def _type(self) -> TensorType | None:
        """`tensor<fp16, [1, ?]>`, `state<...>` (what it wraps), `fp16` (a scalar); None for lists and dictionaries."""
        name = self._name()
        if name == "tensor":
            self._expect("<")
            dtype = self._name()
            self._expect(",")
            shape = self._shape()
            self._expect(">")
            return TensorType(dtype, shape)
        if name == "state":
            self._deeper()
            self._expect("<")
            inner = self._type()
            self._expect(">")
            self._depth -= 1
            return inner
        if name in ("list", "tuple", "dict"):
            self._skip("<", ">")
            return None
        return TensorType(name, ())

    def _shape(self) -> tuple[int | None, ...]:
        self._expect("[")
        shape: list[int | None] = []
        while not self._accept("]"):
            if self._kind == "number":
                size = self._number()
                if not isinstance(size, int) or size < 0:
                    raise self.error("a dimension is no whole number")
                shape.append(size)
            elif self._accept("?") or (self._kind == "name" and self._next()):
                shape.append(None)
            else:
                raise self.error("expected a dimension")
            if not self._is("]"):
                self._expect(",")
        return tuple(shape)

    def _number(self) -> int | float:
        token = self._next().lower()
        if "inf" in token or "nan" in token:
            return float(token)
        if "x" in token:
            return float.fromhex(token) if "." in token or "p" in token else int(token, 16)
        if len(token) > 64:
            raise self.error("a number is too long")
        return float(token) if "." in token or "e" in token else int(token)

    def _string(self) -> str:
        raw = self._next()[1:-1]
        if "\\" not in raw:
            return raw
        return ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else ESCAPES.get(m[2], m[2]), raw)

    def _skip(self, opening: str, closing: str) -> None:
        """Pass over a bracketed part, brackets inside strings aside."""
        self._expect(opening)
        depth = 1
        while depth:
            if self._kind == "end":
                raise self.error(f"a {opening!r} without {closing!r}")
            depth += self._is(opening) - self._is(closing)
            self._next()


def _array(numbers: list[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """One-dimensional, of the widest kind that the numbers need."""
    if all(isinstance(n, int) and -(1 << 63) <= n < 1 << 63 for n in numbers):
        return np.asarray(numbers, np.int64)
    return np.asarray([float(n) if abs(n) < math.inf else n for n in numbers], np.float64)
