"""What in public Kotlin shows no example, a line each: kdoc.py FOLDER..

A public type or top-level function shows one in its KDoc: a block of code, or @sample. A public function of a type is called in
some example, its own or another's; one whose KDoc only points to another (`As [close].`) needs none. What is for the library's own
modules (@CoreLockerInternal) needs none either. detekt finds what has no KDoc at all, properties too.
"""

import re
import sys
from pathlib import Path

# At the start of a line: nested declarations are part of what encloses them.
_DECLARATION = re.compile(
    r"^public (?:(?:sealed|abstract|open|data|fun|enum|value|suspend|inline|operator|infix|external) )*"
    r"(?P<kind>class|interface|object|fun) (?:<[^>]*> )?(?P<name>[\w.]+)",
    re.MULTILINE,
)
_MEMBER = re.compile(
    r"^ +public (?:(?:abstract|open|suspend|inline|operator|infix|external) )*fun (?:<[^>]*> )?(?P<name>\w+)",
    re.MULTILINE,
)
_EXAMPLE = re.compile(r"```(.*?)```", re.DOTALL)
_POINTER = re.compile(r"\s*As \[\w+\]\.\s*")
_KDOC = re.compile(r"/\*\*(?P<text>(?:(?!\*/).)*)\*/\s*(?:@[^\n]*\n\s*|\)\s*)*$", re.DOTALL)


def missing_examples(source: str) -> list[str]:
    """Names of declarations whose KDoc holds no example."""
    missing = []
    for declaration in _DECLARATION.finditer(source):
        kdoc = _KDOC.search(source, 0, declaration.start())
        if kdoc is not None and "@CoreLockerInternal" in kdoc[0]:
            continue
        if kdoc is None or ("```" not in kdoc["text"] and "@sample" not in kdoc["text"]):
            missing.append(declaration["name"])
    return missing


def unshown_members(sources: list[str]) -> list[str]:
    """Names of member functions that no example calls."""
    shown = set(re.findall(r"\w+", " ".join(block for source in sources for block in _EXAMPLE.findall(source))))
    unshown = []
    for source in sources:
        for member in _MEMBER.finditer(source):
            kdoc = _KDOC.search(source, 0, member.start())
            exempt = kdoc is not None and ("@CoreLockerInternal" in kdoc[0] or _POINTER.fullmatch(kdoc["text"]))
            if member["name"] not in shown and not exempt:
                unshown.append(member["name"])
    return unshown


def main(folders: list[str]) -> int:
    sources = {file: file.read_text("utf-8") for folder in folders for file in sorted(Path(folder).rglob("*.kt"))}
    wrong = [
        f"{file}: {name} shows no example" for file, source in sources.items() for name in missing_examples(source)
    ]
    wrong += [f"no example calls {name}" for name in unshown_members(list(sources.values()))]
    print("\n".join(wrong))
    return bool(wrong) or not sources


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
