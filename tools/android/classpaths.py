"""Resolves the class paths of the Android gates by Maven: one file FOLDER/<name>.cp for each entry of gates.toml.

Usage: classpaths.py CATALOG GATES FOLDER. CATALOG is Gradle's version catalog, which rules all versions. Where to fetch
from is the business of the machine's Maven configuration. Nothing is done when all files are there and up to date.
"""

import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Coordinates = tuple[str, str, str]
# Only its "all" jar runs by itself; the others come in pieces.
WHOLE_JARS = {"com.pinterest.ktlint:ktlint-cli": ("jar", "all")}


def libraries(catalog: dict[str, Any], replacements: dict[str, str]) -> dict[str, Coordinates]:
    """Group, name and version of each library of the catalog by alias, and of each plugin's marker by `plugins.` and alias."""
    found = {}
    for alias, entry in catalog["libraries"].items():
        group, name = entry["module"].split(":")
        version = catalog["versions"][entry["version"]["ref"]]
        found[alias] = (group, replacements.get(entry["module"], name), version)
    for alias, entry in catalog["plugins"].items():
        version = catalog["versions"][entry["version"]["ref"]]
        found[f"plugins.{alias}"] = (entry["id"], f"{entry['id']}.gradle.plugin", version)
    return found


def dependency(coordinates: Coordinates, alone_as: str = "") -> str:
    """The element of a POM; `alone_as` is the type of one that is taken without what it depends on."""
    group, name, version = (escape(part) for part in coordinates)
    kind = WHOLE_JARS.get(f"{group}:{name}")
    more = f"<type>{kind[0]}</type><classifier>{kind[1]}</classifier>" if kind else ""
    more = f"<type>{alone_as}</type>" if alone_as else more
    # The other dependencies of a whole jar are inside of it.
    alone = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
    alone = alone if more else ""
    return f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version>{more}{alone}</dependency>"  # noqa: E501 - one element


def project(name: str, content: str, parent: bool) -> str:
    """A POM."""
    above = (
        "<parent><groupId>gates</groupId><artifactId>all</artifactId><version>1</version></parent>" if parent else ""
    )
    return (
        f"<project><modelVersion>4.0.0</modelVersion>{above}<groupId>gates</groupId><artifactId>{name}</artifactId>"
        f"<version>1</version>{content}</project>\n"
    )


def write_poms(folder: Path, gates: dict[str, Any], known: dict[str, Coordinates]) -> None:
    """One module for each class path, under a parent that builds them all."""
    # Maven takes the nearest version where Gradle takes the newest: the catalog's are pinned for indirect ones too.
    pinned = {library for alias, library in known.items() if alias != "ktlint-cli" and not alias.startswith("plugins.")}
    pins = "".join(dependency(library) for library in sorted(pinned))
    managed = f"<dependencyManagement><dependencies>{pins}</dependencies></dependencyManagement>"
    modules = ""
    for kind, head, alone_as in (
        ("classpath", managed, ""),
        ("archives", "", "aar"),
        ("poms", "", "pom"),
        ("tools", "", ""),
    ):
        for name, aliases in gates[kind].items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            needed = "".join(dependency(known[alias], alone_as) for alias in aliases)
            content = f"{head}<dependencies>{needed}</dependencies>"
            (folder / name / "pom.xml").write_text(project(name, content, parent=True))
            modules += f"<module>{name}</module>"
    (folder / "pom.xml").write_text(
        project("all", f"<packaging>pom</packaging><modules>{modules}</modules>", parent=False)
    )


def classes_of(archive: Path, folder: Path) -> str:
    """The path of the classes of an Android archive, which are taken out of it."""
    folder.mkdir(exist_ok=True)
    jar = folder / f"{archive.stem}.jar"
    with zipfile.ZipFile(archive) as content:
        jar.write_bytes(content.read("classes.jar"))
    return str(jar)


def main(catalog_file: Path, gates_file: Path, folder: Path) -> int:
    gates = tomllib.loads(gates_file.read_text())
    names = [*gates["classpath"], *gates["archives"], *gates["tools"]]
    inputs = b"".join(path.read_bytes() for path in (catalog_file, gates_file, Path(__file__)))
    key, stamp = hashlib.sha256(inputs).hexdigest(), folder / ".key"
    if stamp.exists() and stamp.read_text() == key:
        jars = [jar for name in names for jar in (folder / f"{name}.cp").read_text().split(":")]
        if all(os.path.exists(jar) for jar in jars):
            return 0
    write_poms(folder / "pom", gates, libraries(tomllib.loads(catalog_file.read_text()), gates["replace"]))
    command = ["mvn", "-q", "-B", "-f", str(folder / "pom/pom.xml"), "dependency:build-classpath"]
    run = subprocess.run([*command, "-Dmdep.outputFile=classpath.txt"], check=False)
    if run.returncode:
        return run.returncode
    for name in names:
        found = (folder / "pom" / name / "classpath.txt").read_text().strip().split(":")
        jars = [classes_of(Path(jar), folder / "archives") if jar.endswith(".aar") else jar for jar in found]
        (folder / f"{name}.cp").write_text(":".join(jars))
    stamp.write_text(key)
    return 0


if __name__ == "__main__":
    sys.exit(main(*(Path(argument) for argument in sys.argv[1:])))
