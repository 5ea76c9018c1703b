"""Compares a string catalog (.xcstrings) with the Swift sources that use it.

Every key that the sources use is there in every language, with the same format specifiers, and every key of the catalog is used.
Keys are literals: the first argument of SwiftUI's own types and modifiers that take a `LocalizedStringKey`, and of `Message`.
A literal with an interpolation has a key that only the compiler knows, so it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_USES = re.compile(
    r"(?:\b(?:Message|Text|Label|Button|Section|Picker|LabeledContent)|\.(?:value|navigationTitle|confirmationDialog|alert))"
    r'\(\s*"((?:[^"\\]|\\.)*)"'
)
# A key after a condition, as in Text(isOn ? "On" : "Off"), is none of the above.
_CONDITIONAL = re.compile(r'\b(?:Message|Text|Label|Button|Section|Picker|LabeledContent)\([^"()]*\?\s*"')
_SPECIFIER = re.compile(r"%(?:(\d+)\$)?(@|lld|lf|%)")


def used_keys(source: str) -> list[str]:
    """The keys in a Swift source, escapes resolved, in their order."""
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("//"))
    return [re.sub(r"\\(.)", r"\1", key) if "\\(" not in key else key for key in _USES.findall(code)]


def specifiers(text: str) -> list[tuple[int, str]]:
    """Which argument each specifier takes, and its kind; in the order of the arguments."""
    found, following = [], 1
    for place, kind in _SPECIFIER.findall(text):
        if kind != "%":
            found.append((int(place) if place else following, kind))
            following += 1
    return sorted(set(found))


def texts(localization: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """State and value of each text of a language: one, or one for each plural form."""
    if unit := localization.get("stringUnit"):
        yield unit["state"], unit["value"]
    plural = localization.get("variations", {}).get("plural", {})
    for form in plural.values():
        yield from texts(form)
    if plural and "other" not in plural:
        yield "new", ""


def check_strings(catalog: Path, sources: Iterable[Path], languages: Iterable[str]) -> Iterator[str]:
    """What is wrong with the catalog or with the sources' use of it."""
    strings = json.loads(catalog.read_bytes())["strings"]
    used: dict[str, str] = {}
    for path in sources:
        source = path.read_text("utf-8")
        if _CONDITIONAL.search(source):
            yield f"{path.name}: a key that depends on a condition; choose between two views or messages"
        for key in used_keys(source):
            used.setdefault(key, path.name)
    for key, file in sorted(used.items()):
        if "\\(" in key:
            yield f"{file}: an interpolation in {key!r}: only the compiler knows its key"
        elif key not in strings:
            yield f"{catalog.name}: no {key!r}, which {file} uses"
    for key in sorted(set(strings) - set(used)):
        yield f"{catalog.name}: nothing uses {key!r}"
    for key, entry in strings.items():
        for language in languages:
            found = list(texts(entry.get("localizations", {}).get(language, {})))
            if not found or any(state != "translated" or not value.strip() for state, value in found):
                yield f"{catalog.name}: {key!r} is not translated to {language}"
            for _, value in found:
                if specifiers(value) != specifiers(key):
                    yield f"{catalog.name}: {key!r} and {value!r} ({language}) have other format specifiers"
