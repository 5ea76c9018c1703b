"""The `--json` outputs in docs/configuration.md, and documents compared with them.

A row's name is the path of a member: `.name` goes into an object, `[]` to each entry of a list, `*` to each member of an
object whose names are free. The type is one or more of the words below; `object` and `list` without rows for what is inside
may hold anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from support.configuration_page import rows, section

KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "whole number": (int,),
    "number": (int, float),
    "true or false": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "list": (list,),
}


@dataclass
class Member:
    """A documented member. `kinds` is empty where only what is inside has rows."""

    kinds: set[type] = field(default_factory=set)
    optional: bool = False
    inside: dict[str, Member] = field(default_factory=dict)


def commands() -> dict[str, str]:
    """The subsection of each command, without `corelocker`, and of each kind of document where a command has several."""
    text = section("`--json` outputs")
    parts = re.split(r"^### (?:corelocker )?(.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def table(command: str) -> Member:
    """The documented members of a command's document."""
    text = commands()[command]
    top = Member({dict})
    # A command may print another one's document with members of its own; that of a step that can be left out is optional.
    for other, optional in re.findall(r"all members of `corelocker ([a-z -]+)`( where)?", text, flags=re.I):
        for name, member in table(other).inside.items():
            top.inside[name] = Member(member.kinds, member.optional or bool(optional), member.inside)
    for path, (kind, _unit, _meaning) in rows(text, 4).items():
        member, named = top, top
        for name in re.findall(r"[^.\[\]]+|\[\]", path):
            member = member.inside.setdefault(name, Member())
            # A list that may be missing, and not its entries.
            named = named if name in ("[]", "*") else member
        words, comma, more = kind.partition(", ")
        assert not comma or more == "optional", kind
        named.optional = named.optional or bool(comma)
        # "true or false" is one word of the table.
        for word in re.split(r" or (?!false)", words):
            member.kinds.update(KINDS[word])
    return top


def assert_documented(document: Any, command: str) -> set[str]:
    """Compare what a command printed with the page; returns the paths of the members that were seen."""
    seen: set[str] = set()
    _compare(document, table(command), command, "", seen)
    return seen


def documented_paths(command: str) -> set[str]:
    """The paths of all members that are not optional and not inside of optional ones."""
    found: set[str] = set()

    def walk(member: Member, path: str) -> None:
        for name, inner in member.inside.items():
            if not inner.optional:
                found.add(below := _below(path, name))
                walk(inner, below)

    walk(table(command), "")
    return found


def _compare(value: Any, member: Member, command: str, path: str, seen: set[str]) -> None:
    where = f"corelocker {command}: {path or 'the document'}"
    if member.kinds:
        # The type itself: true is no number.
        assert type(value) in member.kinds, (
            f"{where} is {type(value).__name__}, which docs/configuration.md does not say"
        )
    else:
        assert type(value) in (dict, list), f"{where} is {type(value).__name__} and has no row in docs/configuration.md"
    if not member.inside or value is None:
        return
    if isinstance(value, list):
        assert member.inside.keys() == {"[]"}, f"{where} is a list"
        children = [("[]", entry) for entry in value]
    elif member.inside.keys() == {"*"}:
        children = [("*", entry) for entry in value.values()]
    else:
        assert isinstance(value, dict), where
        unknown = value.keys() - member.inside.keys()
        assert not unknown, f"{where} has {sorted(unknown)}, which docs/configuration.md does not know"
        missing = {name for name, inner in member.inside.items() if not inner.optional} - value.keys()
        assert not missing, f"{where} has no {sorted(missing)}, which docs/configuration.md describes"
        children = list(value.items())
    for name, entry in children:
        seen.add(below := _below(path, name))
        _compare(entry, member.inside[name], command, below, seen)


def _below(path: str, name: str) -> str:
    return path + name if name == "[]" or not path else f"{path}.{name}"
