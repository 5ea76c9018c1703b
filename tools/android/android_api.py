"""Checks calls of the Android API without an SDK, and makes a jar of its classes that runs on JDK 17.

    android_api.py check TYPES MIN_SDK CLASSES..      calls in compiled classes that are hidden, or newer than the level that
                                                      they run on at least
    android_api.py constants TYPES MIN_SDK FOLDER..   constants in Kotlin sources that are newer: compilers copy them
    android_api.py jar ANDROID_ALL OUT PREFIX..       the classes with these prefixes, for tests on the host

TYPES is `android-platform-*-merged.d.ts` of the npm package @nativescript/types-android, which names for each member the level
since which it is public. An instruction runs on MIN_SDK, or on what @RequiresApi says of its class, or on what the method has
compared SDK_INT with by then (class_files.py); who uses a class with @RequiresApi has to run on its level. Overloads are told
apart by their number of parameters alone.
"""

import re
import struct
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from class_files import ClassFile, Key, Use

_OPEN = re.compile(
    r"^\s*(?:declare |export )+(?:(?P<module>module) (?P<package>\S+) \{|(?:abstract )?(?:class|interface) "
    r"(?P<name>\w+)(?P<rest>.*)\{)\s*$"
)
_SINCE = re.compile(r"@since (\d+)")
_MEMBER = re.compile(r"^\s*(?:public |protected )+(?:static |abstract )*(?P<name>\w+)\s*(?P<kind>\(|:)(?P<rest>.*)")
_PLATFORM = re.compile(r"^(android|java|javax|dalvik|org/json|org/xml|org/w3c)/")
_DECLARED = re.compile(r"(?:\w+ )*(?:class|object|interface|fun)\b")
_REQUIRES = re.compile(r"@RequiresApi\((\d+)\)")
_CONSTANT = re.compile(r"\b([A-Z]\w*)\.([A-Z][A-Z0-9_]+)\b")
# Android's build tools rewrite these.
_DESUGARED = {
    "java/lang/invoke/LambdaMetafactory",
    "java/lang/invoke/StringConcatFactory",
    "java/lang/invoke/MethodHandles$Lookup",
}
_JDK_17 = 61


class Class(NamedTuple):
    """A public class: since which level, its supertypes, and since when each member."""

    since: int
    parents: list[str]
    members: dict[Key, int]


def read_types(path: Path) -> dict[str, Class]:
    """The public classes by their binary name."""
    found: dict[str, Class] = {}
    open_blocks: list[str] = []
    since = 0
    for line in path.read_text("utf-8").splitlines():
        if match := _OPEN.match(line):
            outer = open_blocks[-1] if open_blocks else ""
            name = (match["package"] or match["name"]).replace(".", "/")
            full = outer + ("$" if outer in found else "/" if outer else "") + name
            if not match["module"]:
                plain = re.sub(r"<[^<>]*>", "", re.sub(r"<[^<>]*>", "", match["rest"])).split("/*")[0]
                found[full] = Class(since, re.findall(r"[\w.]+\.\w+", plain), {})
            open_blocks.append(full)
            since = 0
        elif line.strip() == "}":
            if open_blocks:
                open_blocks.pop()
        elif match := _SINCE.search(line):
            since = int(match[1])
        elif match := _MEMBER.match(line):
            name = "<init>" if match["name"] == "constructor" else match["name"]
            key = (name, _parameters(match["rest"]) if match["kind"] == "(" else None)
            if open_blocks and (owner := found.get(open_blocks[-1])):
                owner.members[key] = min(since, owner.members.get(key, since))
            since = 0
    names = {name.replace("/", ".").replace("$", "."): name for name in found}
    for entry in found.values():
        entry.parents[:] = [names[parent] for parent in entry.parents if parent in names]
    return found


def _parameters(signature: str) -> int:
    """The number of parameters of a TypeScript signature, from behind its first parenthesis."""
    depth, commas, any_text = 0, 0, False
    for index, character in enumerate(signature):
        if character == ")" and depth == 0:
            break
        if character in "(<[{":
            depth += 1
        elif character in ")]}" or (character == ">" and signature[index - 1] != "="):
            depth -= 1
        elif character == "," and depth == 0:
            commas += 1
        any_text = any_text or not character.isspace()
    return commas + any_text


def since(api: dict[str, Class], owner: str, key: Key | None) -> int | None:
    """Since which level a member is public, in the class or what it inherits from; None when it is not."""
    entry = api.get(owner)
    if entry is None:
        return None
    if key is None:
        return entry.since
    parents = entry.parents + ([] if owner == "java/lang/Object" else ["java/lang/Object"])
    levels = [level for parent in parents if (level := since(api, parent, key)) is not None]
    if key in entry.members:
        levels.append(max(entry.since, entry.members[key]))
    return min(levels, default=None)


def check(api: dict[str, Class], min_sdk: int, folders: Iterable[Path]) -> list[str]:
    """What is wrong in compiled classes, a line each."""
    files = [ClassFile(path.read_bytes()) for folder in folders for path in sorted(folder.rglob("*.class"))]
    annotated = {file.name: file.requires for file in files if file.requires is not None}
    own = {file.name: required(annotated, file.name) for file in files}
    wrong = set()
    for file in files:
        base = max(min_sdk, own[file.name])
        for use in (*(Use(parent, None, base) for parent in file.parents), *file.uses(base)):
            name = use.owner if use.key is None else f"{use.owner}.{use.key[0]}"
            if use.owner in own:
                level: int | None = own[use.owner]
            elif (
                not _PLATFORM.match(use.owner)
                or use.owner in _DESUGARED
                or use.owner.startswith("java/lang/invoke/MethodHandle")
            ):
                continue
            else:
                level = since(api, use.owner, use.key)
            if level is None or level > use.level:
                wrong.add(
                    f"{file.name}: {name}: {'not public' if level is None else f'since {level}, used on {use.level}'}"
                )
    return sorted(wrong)


def required(annotated: dict[str, int], name: str) -> int:
    """The level that @RequiresApi asks for, on a class or on one around it; 0 without."""
    around = [name[: match.start()] for match in re.finditer(r"\$", name)]
    return max((annotated.get(outer, 0) for outer in (*around, name)), default=0)


def check_constants(api: dict[str, Class], min_sdk: int, folders: Iterable[Path]) -> list[str]:
    """Constants in sources that are newer than what the declaration around them requires, a line each."""
    levels: dict[tuple[str, str], int] = {}
    for owner, entry in api.items():
        for (name, count), level in entry.members.items():
            if count is None:
                key = (re.split(r"[/$]", owner)[-1], name)
                levels[key] = min(max(level, entry.since), levels.get(key, 99))
    wrong = []
    for file in [path for folder in folders for path in sorted(folder.rglob("*.kt"))]:
        allowed = announced = min_sdk
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            if requires := _REQUIRES.match(line):
                announced = int(requires[1])
            elif _DECLARED.match(line):
                allowed, announced = announced, min_sdk
            for key in _CONSTANT.findall(line):
                # What SDK_INT is compared with.
                if key[0] != "VERSION_CODES" and levels.get(key, 0) > allowed:
                    wrong.append(f"{file.name}:{number}: {key[0]}.{key[1]}: since {levels[key]}")
    return wrong


def write_jar(android_all: Path, out: Path, prefixes: tuple[str, ...]) -> None:
    """Classes of android-all whose class file version JDK 17 takes."""
    with zipfile.ZipFile(android_all) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if name.endswith(".class") and name.startswith(prefixes):
                data = source.read(name)
                newer = struct.unpack_from(">H", data, 6)[0] > _JDK_17
                target.writestr(name, data[:6] + struct.pack(">H", _JDK_17) + data[8:] if newer else data)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["jar", android_all, out, *prefixes]:
            write_jar(Path(android_all), Path(out), tuple(prefixes))
            return 0
        case ["check" | "constants" as what, types, min_sdk, *folders]:
            run = check if what == "check" else check_constants
            wrong = run(read_types(Path(types)), int(min_sdk), [Path(folder) for folder in folders])
            print("\n".join(wrong))
            return bool(wrong)
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
