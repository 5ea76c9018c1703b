"""Looks up every "ObjC: NAME" of tests/apple/stubs in the type declarations of npm's @nativescript/types-ios.

python tools/check_apple_stubs.py TYPES_FOLDER [STUBS_FOLDER]

NAME is a class, a function, an enumeration, a constant, or Class.member. Prints what Apple's API lacks; the status is then 1.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STUBS = Path(__file__).resolve().parents[1] / "tests/apple/stubs"


def declared(types: Path) -> set[str]:
    """Names in the declarations: top-level ones, and Class.member."""
    names: set[str] = set()
    for file in sorted(types.rglob("*.d.ts")):
        owner = None
        for line in file.read_text("utf-8").splitlines():
            if top := re.match(r"declare (?:class|const enum|function|var|const) (\w+)", line):
                owner = top[1]
                names.add(owner)
            elif owner and (member := re.match(r"\t(?:static )?(?:readonly )?(\w+)[(:?]", line)):
                names.add(f"{owner}.{member[1]}")
    return names


def wanted(stubs: Path) -> list[tuple[str, str]]:
    return [
        (file.name, name)
        for file in sorted(stubs.glob("*.swift"))
        for name in re.findall(r"ObjC: ([\w.]+)", file.read_text("utf-8"))
    ]


def main(types: str, stubs: str | None = None) -> int:
    known = declared(Path(types))
    names = wanted(Path(stubs) if stubs else STUBS)
    missing = [f"{file}: Apple's API has no {name}" for file, name in names if name not in known]
    print("\n".join(missing) or f"{len(names)} stub declarations are in Apple's API")
    return int(bool(missing) or not names)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
