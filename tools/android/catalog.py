"""Checks Gradle's version catalog without Gradle: catalog.py CATALOG GATES FOLDER..

Each library is among what Maven resolves for the gates (tools/android/gates.toml), or named there with the reason why it is
not; so is each plugin. What the Gradle files in the folders ask of the catalog is in it, and nothing that nobody asks for.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_ACCESSOR = re.compile(r"\blibs\.(?!versions\b)((?:\w+\.)*\w+)")


def check(catalog: dict[str, Any], gates: dict[str, Any], scripts: list[str]) -> list[str]:
    """What is wrong, a line each."""
    resolved = {
        alias
        for part in ("classpath", "archives", "poms", "tools")
        for aliases in gates[part].values()
        for alias in aliases
    }
    elsewhere = gates["elsewhere"]
    known = set(catalog["libraries"]) | {f"plugins.{alias}" for alias in catalog["plugins"]}
    wrong = [
        f"{alias} is neither resolved nor named as being elsewhere"
        for alias in sorted(known - resolved - set(elsewhere))
    ]
    wrong += [f"{alias} is resolved and named as being elsewhere" for alias in sorted(resolved & set(elsewhere))]
    wrong += [f"{alias} is not in the catalog" for alias in sorted((resolved | set(elsewhere)) - known)]
    # Gradle makes an accessor of each alias, with a point for each dash.
    accessors = {alias.replace("-", "."): alias for alias in known}
    asked = {accessor for script in scripts for accessor in _ACCESSOR.findall(script)}
    wrong += [f"libs.{accessor} is not in the catalog" for accessor in sorted(asked - set(accessors))]
    used = {accessors[accessor] for accessor in asked & set(accessors)} | resolved
    wrong += [f"{alias} is used by nobody" for alias in sorted(known - used)]
    for kind in ("libraries", "plugins"):
        for alias, entry in catalog[kind].items():
            if entry["version"]["ref"] not in catalog["versions"]:
                wrong.append(f"{alias} is of a version that the catalog does not name")
    versions = {entry["version"]["ref"] for kind in ("libraries", "plugins") for entry in catalog[kind].values()}
    return wrong + [f"version {name} is of nothing" for name in sorted(set(catalog["versions"]) - versions)]


def main(catalog: str, gates: str, *folders: str) -> int:
    scripts = [file.read_text("utf-8") for folder in folders for file in sorted(Path(folder).rglob("*.gradle.kts"))]
    wrong = check(tomllib.loads(Path(catalog).read_text()), tomllib.loads(Path(gates).read_text()), scripts)
    for alias, reason in tomllib.loads(Path(gates).read_text())["elsewhere"].items():
        print(f"not resolved here: {alias}: {reason}")
    print("\n".join(wrong))
    return bool(wrong) or not scripts


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
