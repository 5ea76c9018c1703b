"""Compares the signatures of Swift stubs with the declarations of Apple's Objective-C API in npm's @nativescript/types-ios.

How Swift imports Objective-C is known: `throws` is a last parameter `error`, `async` a completion handler, an optional a type or
null. Names of parameters count too: the stubs have them from Apple's headers, as the list has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_TYPES = {
    "Data": "NSData",
    "CFData": "NSData",
    "URL": "NSURL",
    "CFDictionary": "NSDictionary<any, any>",
    "String": "string",
    "Bool": "boolean",
    "": "void",
} | dict.fromkeys(("Int", "UInt64", "OSStatus", "NSNumber"), "number")
# Core Foundation's types, which the list does not tell apart.
_ANY = ("Any", "CFTypeRef", "CFAllocator", "SecAccessControl", "CGColorSpace", "CGImage", "CGImageSource")


def typescript_type(swift: str) -> str:
    """The declaration list's word for a Swift type."""
    swift = swift.strip().removeprefix("any ")
    if "Pointer<" in swift:
        return "interop.Pointer"
    if swift.endswith("?"):
        return f"{typescript_type(swift[:-1])} | null"
    if pair := re.fullmatch(r"\[([^\[\]:]+): ([^\[\]]+)\]", swift):
        return f"NSDictionary<{typescript_type(pair[1])}, {typescript_type(pair[2])}>"
    if element := re.fullmatch(r"\[([^\[\]:]+)\]", swift):
        return f"NSArray<{typescript_type(element[1])}>"
    return "any" if swift in _ANY else _TYPES.get(swift, swift)


def _split(text: str) -> list[str]:
    """At commas that are in no bracket."""
    parts, depth = [""], 0
    for previous, character in zip(" " + text, text, strict=False):
        depth += character in "([<{"
        depth -= character in ")]}" or (character == ">" and previous not in "=-")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def swift_signature(declaration: str) -> tuple[list[tuple[str, str]], str] | None:
    """Parameters (name, type) and result as the declaration list should have them; None for what is no function or property."""
    if value := re.search(r"\b(?:var|let) \w+: ([^{=]+)", declaration):
        return [], typescript_type(value[1])
    function = re.search(r"\b(?:func \w+|init\??)\((.*)\)( async)?( throws)?(?: -> ([^{]+?))? *(?:\{.*)?$", declaration)
    if function is None:
        return None
    parameters = []
    for part in _split(function[1]):
        names, _, type_ = part.partition(":")
        parameters.append((names.split()[-1], typescript_type(type_.split(" = ")[0])))
    result = typescript_type(function[4] or "")
    if function[2]:
        handled = f"p1: {result.removesuffix(' | null')} | null, " if result != "void" else ""
        error = "p2" if handled else "p1"
        return [
            *parameters,
            ("*", f"({handled}{error}: NSError | null) => void" if function[3] else f"(p1: {result}) => void"),
        ], "void"
    if function[3]:
        parameters.append(("error", "interop.Reference<NSError>"))
    return parameters, result


def listed_signatures(types: Path) -> Mapping[str, list[tuple[list[tuple[str, str]], str]]]:
    """Of each function, Class.method and Class.property, by all classes of that name."""
    found: dict[str, list[tuple[list[tuple[str, str]], str]]] = {}
    for file in sorted(types.rglob("*.d.ts")):
        owner = ""
        for line in file.read_text("utf-8").splitlines():
            if top := re.match(r"declare (class|const|var|function) (\w+)", line):
                owner = top[2] if top[1] == "class" else ""
            body = re.match(
                r"(?:declare (?:function|const|var)|\t(?:static )?(?:readonly )?) ?(\w+)(\(.*\))?\??: (.*);$", line
            )
            if body:
                parameters = [part.partition(":")[::2] for part in _split((body[2] or "()")[1:-1])]
                signature = ([(name.rstrip("?"), type_.strip()) for name, type_ in parameters], body[3])
                found.setdefault(f"{owner}.{body[1]}" if owner else body[1], []).append(signature)
    return found


def agree(ours: tuple[list[tuple[str, str]], str], theirs: tuple[list[tuple[str, str]], str]) -> bool:
    """Whether two signatures are one. A pointer is any that the list offers. In the list who throws, and C, may return null."""

    def same(own: str, listed: str) -> bool:
        return own == listed or (own == "interop.Pointer" and listed.startswith("interop.Pointer"))

    if len(ours[0]) != len(theirs[0]):
        return False
    for (own_name, own), (name, listed) in zip(ours[0], theirs[0], strict=True):
        if own_name not in ("*", name) or not same(own, listed):
            return False
    may_be_null = ours[1] == "any" or (bool(ours[0]) and ours[0][-1][0] == "error")
    return same(ours[1], theirs[1]) or (may_be_null and theirs[1] == f"{ours[1]} | null")


def declarations(stub: str) -> Iterator[tuple[str, str]]:
    """The name after each "ObjC:", and the declaration that it stands at, on one line."""
    lines = stub.splitlines()
    for number, line in enumerate(lines):
        named = re.search(r"// ObjC: ([\w.]+)", line)
        if named is None:
            continue
        text = line.split("//")[0].strip()
        following = iter(lines[number + 1 :])
        while not text or text.count("(") != text.count(")") or text.startswith("@"):
            text = re.sub(r"@\w+(\([^)]*\))? *$", "", f"{text} {next(following).strip()}".strip()).strip()
        yield named[1], text


def differences(stub: str, listed: Mapping[str, list[tuple[list[tuple[str, str]], str]]]) -> tuple[int, list[str]]:
    """How many signatures were compared, and what is wrong with which. What Swift makes a member of another type is left out."""
    compared, wrong = 0, []
    for name, declaration in declarations(stub):
        theirs = listed.get(name)
        ours = swift_signature(declaration)
        is_own = "." in name or re.search(rf"\b{name}\b", declaration)
        if theirs is None or ours is None or not is_own:
            continue
        if re.match(r"[^(]*\binit\??\(", declaration):
            ours = (ours[0], name.partition(".")[0])
        compared += 1
        if not any(agree(ours, one) for one in theirs):
            wrong.append(f"{name} is {theirs[0]}, the stub has {ours}")
    return compared, wrong
