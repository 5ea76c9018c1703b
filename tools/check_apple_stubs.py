"""Looks up what the stubs of tests/apple/stubs declare in lists of the real API. Prints what a list lacks; the status is then 1.

python -m tools.check_apple_stubs TYPES_FOLDER [STUBS_FOLDER]

In stubs a comment "ObjC: NAME" names a class, a function, an enumeration, a constant, or Class.member in the declarations of npm's
@nativescript/types-ios, and its signature is compared. "ExecuTorch: NAME" and "RestoredModule: NAME" name a type or a selector in
Objective-C headers. In CoreLockerDevice a comment "ObjC: ENUMERATION.NAME" says what a number is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tools import apple_signatures

ROOT = Path(__file__).resolve().parents[1]
STUBS = ROOT / "tests/apple/stubs"
DEVICE = ROOT / "sdk/apple/CoreLockerDevice"
HEADERS = {
    "ExecuTorch": ROOT / "tests/apple/objc/headers",
    "RestoredModule": ROOT / "sdk/apple/ExecuTorch/RestoredModule/include",
}


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


def declared_in_headers(folder: Path) -> set[str]:
    """Names of types, and selectors, in Objective-C headers."""
    names: set[str] = set()
    for file in sorted(folder.glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", file.read_text("utf-8"), flags=re.DOTALL)
        names |= set(re.findall(r"@interface (\w+)", text)) | set(re.findall(r"NS_ENUM\(\w+, (\w+)\)", text))
        for method in re.findall(r"^ *[-+] *(\([^;]*);", text, flags=re.MULTILINE):
            while "(" in method:
                method = re.sub(r"\([^()]*\)", " ", method)
            names.add("".join(re.findall(r"\w+:", method)) or method.split()[0])
    return names


def wanted(stubs: Path) -> list[tuple[str, str, str]]:
    """The file, the list and the name of each declaration."""
    return [
        (file.name, *found)
        for file in sorted(stubs.rglob("*.swift"))
        for found in re.findall(r"// (ObjC|ExecuTorch|RestoredModule): ([\w.:]+)", file.read_text("utf-8"))
    ]


def enumerators(types: Path) -> dict[str, int]:
    """The numbers of enumerations, as ENUMERATION.NAME."""
    numbers: dict[str, int] = {}
    for file in sorted(types.rglob("*.d.ts")):
        for name, body in re.findall(r"declare const enum (\w+) \{(.*?)\}", file.read_text("utf-8"), flags=re.DOTALL):
            numbers |= {f"{name}.{member}": int(number) for member, number in re.findall(r"(\w+) = (-?\d+)", body)}
    return numbers


def wrong_numbers(types: Path, sources: Path) -> tuple[int, list[str]]:
    """How many numbers of the sources are named, and which have another value than their name."""
    known = enumerators(types)
    named = [
        (file.name, int(number), name)
        for file in sorted(sources.glob("*.swift"))
        for number, name in re.findall(r"(-?\d+)\b.*// ObjC: (\w+\.\w+)$", file.read_text("utf-8"), flags=re.MULTILINE)
    ]
    return len(named), [
        f"{file}: {name} is {known.get(name)}, not {number}"
        for file, number, name in named
        if known.get(name) != number
    ]


def main(types: str, stubs: str | None = None) -> int:
    known = {"ObjC": declared(Path(types))} | {api: declared_in_headers(folder) for api, folder in HEADERS.items()}
    folder = Path(stubs) if stubs else STUBS
    names = wanted(folder)
    wrong = [f"{file}: {api} has no {name}" for file, api, name in names if name not in known[api]]
    listed, compared = apple_signatures.listed_signatures(Path(types)), 0
    for file in sorted(folder.rglob("*.swift")):
        count, differences = apple_signatures.differences(file.read_text("utf-8"), listed)
        compared += count
        wrong += [f"{file.name}: {difference}" for difference in differences]
    numbers, differing = wrong_numbers(Path(types), DEVICE)
    wrong += differing
    print(
        "\n".join(wrong)
        or f"{len(names)} stub declarations are in the real API, {compared} signatures and {numbers} numbers agree"
    )
    return int(bool(wrong) or not compared or not numbers)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
