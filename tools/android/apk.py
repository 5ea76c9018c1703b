"""Builds and reads Android packages without the Android SDK, for the gate `apk`.

    apk.py manifest OUT APPLICATION_ID VERSION MANIFEST..   one manifest of the app's and its libraries'
    apk.py classes OUT FOLDER_OR_JAR..                      classes for dx: of Java 8's version, ours without invokedynamic
    apk.py pack BASE OUT FILE=ENTRY..                       BASE with more files: stored, each from a 16 KB boundary on
    apk.py check APK                                        what a phone asks of a package

`manifest` leaves out the attributes on its standard input, one a line: the framework here lacks what a newer compileSdk has.
"""

from __future__ import annotations

import re
import struct
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

ANDROID = "{http://schemas.android.com/apk/res/android}"
TOOLS = "{http://schemas.android.com/tools}"
PAGE = 16384
# Of an extra field: says which alignment an entry was given, so that signing keeps it.
ALIGNMENT_ID = 0xD935
STORED = re.compile(r"(\.pte|\.ptd|\.clkey|\.so)$")
_JAVA_8 = 52
_INVOKE_DYNAMIC = 18


def merge_manifests(files: list[Path], application: str, version: str, unknown: set[str]) -> ElementTree.Element:
    """The first manifest with what the others add: permissions, features, and attributes of the application."""
    first, *others = (ElementTree.parse(file).getroot() for file in files)
    first.set("package", application)
    first.set(ANDROID + "versionCode", "1")
    first.set(ANDROID + "versionName", version)
    sdk = ElementTree.SubElement(first, "uses-sdk")
    sdk.set(ANDROID + "minSdkVersion", "26")
    sdk.set(ANDROID + "targetSdkVersion", "36")
    known = {(child.tag, child.get(ANDROID + "name")) for child in first}
    for other in others:
        for child in other:
            mine = first.find("application")
            if child.tag == "application" and mine is not None:
                mine.attrib.update(child.attrib)
                mine.extend(list(child))
            elif (child.tag, child.get(ANDROID + "name")) not in known:
                known.add((child.tag, child.get(ANDROID + "name")))
                first.append(child)
    for element in first.iter():
        for name in list(element.attrib):
            if name.startswith(TOOLS) or name.removeprefix(ANDROID) in unknown:
                del element.attrib[name]
        name = element.get(ANDROID + "name", "")
        if name.startswith("."):
            # Names of classes are relative to the namespace, which AGP knows and the application's id may differ from.
            element.set(ANDROID + "name", f"org.corelocker.demo.app{name}")
    return first


def write_classes(out: Path, sources: list[Path]) -> list[str]:
    """Copy class files for dx. Returns what is wrong with those from folders, which are our own."""
    wrong = []
    for source in sources:
        if source.is_dir():
            entries = {str(file.relative_to(source)): file.read_bytes() for file in sorted(source.rglob("*.class"))}
            wrong += [f"{name} uses invokedynamic" for name, data in entries.items() if uses_invoke_dynamic(data)]
        else:
            with zipfile.ZipFile(source) as jar:
                entries = {name: jar.read(name) for name in jar.namelist() if name.endswith(".class")}
            dynamic = sum(uses_invoke_dynamic(data) for data in entries.values())
            if dynamic:
                print(
                    f"unchecked: {dynamic} classes of {source.name} use invokedynamic, which R8 rewrites and dx does not"
                )
        for name, data in entries.items():
            if name.startswith("META-INF/") or name.endswith("module-info.class"):
                continue
            file = out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            newer = struct.unpack_from(">H", data, 6)[0] > _JAVA_8
            file.write_bytes(data[:6] + struct.pack(">H", _JAVA_8) + data[8:] if newer else data)
    return wrong


def uses_invoke_dynamic(data: bytes) -> bool:
    """Whether the constant pool of a class names a call site (JVM specification, 4.4)."""
    position, index = 10, 1
    while index < struct.unpack_from(">H", data, 8)[0]:
        tag = data[position]
        if tag == _INVOKE_DYNAMIC:
            return True
        sizes = {
            1: 2 + struct.unpack_from(">H", data, position + 1)[0],
            5: 8,
            6: 8,
            7: 2,
            8: 2,
            15: 3,
            16: 2,
            19: 2,
            20: 2,
        }
        position += 1 + sizes.get(tag, 4)
        index += 2 if tag in (5, 6) else 1
    return False


def pack(base: Path, out: Path, files: list[tuple[Path, str]]) -> None:
    """Write a package of what aapt2 has linked and of more files."""
    with zipfile.ZipFile(base) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            info = zipfile.ZipInfo(name)
            # The resource table is mapped as well.
            info.compress_type = zipfile.ZIP_STORED if name == "resources.arsc" else zipfile.ZIP_DEFLATED
            add(target, info, source.read(name), 4)
        for file, name in files:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_STORED if STORED.search(name) else zipfile.ZIP_DEFLATED
            add(target, info, file.read_bytes(), PAGE)


def add(target: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes, alignment: int) -> None:
    """Append an entry; a stored one begins at a multiple of the alignment."""
    if info.compress_type == zipfile.ZIP_STORED:
        header = target.fp.tell() + 30 + len(info.filename.encode())  # type: ignore[union-attr] - it is open
        padding = -(header + 6) % alignment
        info.extra = struct.pack("<HHH", ALIGNMENT_ID, 2 + padding, alignment) + bytes(padding)
    target.writestr(info, data)


def check(package: Path) -> list[str]:
    """What is wrong with a package, a line each: stored entries and their alignment, pages of libraries, dex files."""
    wrong, seen = [], set()
    data = package.read_bytes()
    with zipfile.ZipFile(package) as archive:
        for info in archive.infolist():
            names, extras = struct.unpack_from("<HH", data, info.header_offset + 26)
            start = info.header_offset + 30 + names + extras
            stored = STORED.search(info.filename)
            if stored:
                seen.add(stored[1])
                if info.compress_type != zipfile.ZIP_STORED:
                    wrong.append(f"{info.filename} is compressed")
                elif start % PAGE:
                    wrong.append(f"{info.filename} begins at {start}, which is no multiple of {PAGE}")
            if info.filename.endswith(".so"):
                wrong += check_library(info.filename, archive.read(info))
            if info.filename.endswith(".dex"):
                seen.add(".dex")
                if not archive.read(info).startswith(b"dex\n038\0"):
                    wrong.append(f"{info.filename} is no dex file of version 038")
    return wrong + [f"there is no {kind} in it" for kind in sorted({".pte", ".clkey", ".so", ".dex"} - seen)]


def check_library(name: str, data: bytes) -> list[str]:
    """Segments of a 64-bit library that are not aligned for 16 KB pages (ELF, program headers)."""
    if not data.startswith(b"\x7fELF\x02\x01"):
        return [f"{name} is no 64-bit little-endian ELF file"]
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    loads = [
        header for i in range(count) if (header := struct.unpack_from("<IIQQQQQQ", data, offset + i * size))[0] == 1
    ]
    bad = [header for header in loads if header[7] % PAGE or header[2] % PAGE != header[3] % PAGE]
    return [f"{name} is not laid out for 16 KB pages"] if bad or not loads else []


def report(wrong: list[str]) -> int:
    print("\n".join(wrong), end="\n" if wrong else "")
    return bool(wrong)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["manifest", out, application, version, *files]:
            ElementTree.register_namespace("android", ANDROID.strip("{}"))
            unknown = set(sys.stdin.read().split())
            merged = merge_manifests([Path(file) for file in files], application, version, unknown)
            ElementTree.ElementTree(merged).write(out, "utf-8", xml_declaration=True)
            return 0
        case ["classes", out, *sources]:
            return report(write_classes(Path(out), [Path(source) for source in sources]))
        case ["pack", base, out, *files]:
            pairs = [file.rpartition("=") for file in files]
            pack(Path(base), Path(out), [(Path(file), name) for file, _, name in pairs])
            return 0
        case ["check", package]:
            return report(check(Path(package)))
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
