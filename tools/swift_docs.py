"""Checks the doc comments of a Swift module in its symbol graphs: prints what lacks one, or an example; the status is then 1.

python tools/swift_docs.py MODULE CoreLocker.symbols.json [..]

Every public declaration needs a doc comment, the codes of errors apart (docs/errors.md has those). Every type needs an example, and
so does each method and initializer of the types that apps call.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TYPES = ("swift.class", "swift.struct", "swift.enum", "swift.protocol")
CALLS = ("swift.method", "swift.init", "swift.type.method", "swift.func")
CALLED = ("CoreLocker", "UnlockClient")
CODES = "ErrorCode"


def own(graph: Path, module: str) -> list[Mapping[str, Any]]:
    """The public declarations of the module's own sources, what the compiler adds apart."""
    return [
        symbol
        for symbol in json.loads(graph.read_text("utf-8"))["symbols"]
        if symbol["accessLevel"] in ("public", "open")
        and "::SYNTHESIZED::" not in symbol["identifier"]["precise"]
        and f"/{module}/" in symbol.get("location", {}).get("uri", "")
    ]


def lacks(symbol: Mapping[str, Any]) -> str | None:
    """What the declaration lacks."""
    path, kind = symbol["pathComponents"], symbol["kind"]["identifier"]
    comment = "\n".join(line["text"] for line in symbol.get("docComment", {}).get("lines", []))
    if not comment:
        return None if kind == "swift.enum.case" and path[0] == CODES else "no doc comment"
    needs_example = kind in TYPES or (kind in CALLS and path[0] in CALLED and len(path) == 2)
    return "no example" if needs_example and "```" not in comment else None


def main(module: str, *graphs: str) -> int:
    symbols = [symbol for graph in graphs for symbol in own(Path(graph), module)]
    found = [f"{module}: {'.'.join(s['pathComponents'])} has {lack}" for s in symbols if (lack := lacks(s))]
    print("\n".join(sorted(found)) or f"{module}: {len(symbols)} public declarations are documented")
    return int(bool(found) or not symbols)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
