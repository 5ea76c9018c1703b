"""Public types and top-level functions of Kotlin sources whose KDoc shows no example, a line each: kdoc.py FOLDER..

An example is a block of code, or @sample. Members are shown by the example of their type. What is for the library's own modules
(@CoreLockerInternal) needs none. detekt finds what has no KDoc at all.
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


def main(folders: list[str]) -> int:
    sources = sorted(file for folder in folders for file in Path(folder).rglob("*.kt"))
    wrong = [
        f"{file}: {name} shows no example" for file in sources for name in missing_examples(file.read_text("utf-8"))
    ]
    print("\n".join(wrong))
    return bool(wrong) or not sources


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
