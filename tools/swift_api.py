"""Prints the public API of a Swift module from its symbol graphs, a declaration a line, and compares it with a recorded file.

python tools/swift_api.py CoreLocker.symbols.json [..] sdk/apple/api/CoreLocker.api [--accept]
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from pathlib import Path


def declarations(graphs: Sequence[Path]) -> list[str]:
    """The declarations of symbol graphs (swift-docc-symbolkit's format), sorted by their full names."""
    symbols = [symbol for graph in graphs for symbol in json.loads(graph.read_text())["symbols"]]
    lines = {
        (".".join(symbol["pathComponents"]), "".join(part["spelling"] for part in symbol["declarationFragments"]))
        for symbol in symbols
        if symbol["accessLevel"] in ("public", "open")
    }
    return [f"{name}: {' '.join(text.split())}" for name, text in sorted(lines)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs", type=Path, nargs="+")
    parser.add_argument("recorded", type=Path)
    parser.add_argument("--accept", action="store_true", help="write the recorded file anew")
    arguments = parser.parse_args()
    found = declarations(arguments.graphs)
    if arguments.accept:
        arguments.recorded.parent.mkdir(parents=True, exist_ok=True)
        arguments.recorded.write_text("\n".join(found) + "\n")
        return 0
    recorded = arguments.recorded.read_text().splitlines()
    for line in difflib.unified_diff(recorded, found, str(arguments.recorded), "this build", lineterm=""):
        print(line)
    return int(recorded != found)


if __name__ == "__main__":
    raise SystemExit(main())
