"""Canonical JSON: the one form of the objects whose bytes are hashed (docs/formats.md, "Canonical JSON").

RFC 8785 over texts, integers below 2^53 and objects of them, with names in ASCII. The domain is small so that a language
without a library writes it in a page; here the library `rfc8785` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import rfc8785

from corelocker.bundle.strict_json import MAX_DEPTH, MAX_INTEGER
from corelocker.licensing.errors import CanonicalError


def canonical_json(value: Mapping[str, object]) -> bytes:
    """The canonical JSON of an object, UTF-8. Raises CanonicalError."""
    _check_domain(value, MAX_DEPTH)
    try:
        return rfc8785.dumps(cast(Any, value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        raise CanonicalError("a text is not valid Unicode") from None


def _check_domain(value: Mapping[str, object], levels: int) -> None:
    if levels == 0:
        raise CanonicalError("the value nests too deep")
    for name, item in value.items():
        if type(name) is not str or not name.isascii():
            raise CanonicalError("a name is not ASCII")
        if type(item) is str:
            continue
        # bool is an int to Python, not to JSON.
        if type(item) is int:
            if abs(item) > MAX_INTEGER:
                raise CanonicalError("an integer is beyond 2^53 - 1")
        elif isinstance(item, Mapping):
            _check_domain(item, levels - 1)
        else:
            raise CanonicalError("a value is neither a text nor an integer nor an object")
