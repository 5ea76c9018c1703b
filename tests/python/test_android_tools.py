"""The Android gates' own checks find what they look for."""

import importlib.util
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools/android"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"android_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


apk, catalog, kdoc = load("apk"), load("catalog"), load("kdoc")


def library(alignment: int) -> bytes:
    """A 64-bit ELF file with one segment to map, as far as the check reads it."""
    header = b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<Q", 64) + bytes(14) + struct.pack("<HH", 56, 1)
    return header.ljust(64, b"\0") + struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 64, 64, alignment)


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[Path, str]]:
    contents = {
        "assets/model.pte": b"model" * 100,
        "assets/model.clkey": b"bundle",
        "lib/arm64-v8a/libcorelocker.so": library(16384),
        "classes.dex": b"dex\n038\0",
    }
    pairs = []
    for index, (name, data) in enumerate(contents.items()):
        (tmp_path / str(index)).write_bytes(data)
        pairs.append((tmp_path / str(index), name))
    with zipfile.ZipFile(tmp_path / "base.apk", "w") as base:
        base.writestr("AndroidManifest.xml", b"manifest" * 50)
        base.writestr("resources.arsc", b"resources")
    return pairs


def test_a_package_is_read_back_as_it_was_packed(tmp_path: Path, files: list[tuple[Path, str]]) -> None:
    apk.pack(tmp_path / "base.apk", tmp_path / "app.apk", files)
    assert apk.check(tmp_path / "app.apk") == []
    with zipfile.ZipFile(tmp_path / "app.apk") as package:
        assert package.testzip() is None
        assert package.read("assets/model.pte") == b"model" * 100
        assert package.getinfo("resources.arsc").compress_type == zipfile.ZIP_STORED


def test_what_a_phone_would_refuse_is_found(tmp_path: Path, files: list[tuple[Path, str]]) -> None:
    with zipfile.ZipFile(tmp_path / "app.apk", "w") as package:
        package.writestr("assets/model.pte", b"model" * 100, zipfile.ZIP_DEFLATED)
        package.writestr("lib/x86_64/libcorelocker.so", library(4096), zipfile.ZIP_STORED)
        package.writestr("classes.dex", b"dex\n035\0")
    wrong = apk.check(tmp_path / "app.apk")
    assert len(wrong) == 5
    for part in ("is compressed", "no multiple of 16384", "not laid out", "no dex file", "no .clkey"):
        assert any(part in line for line in wrong), part


def test_the_catalog_names_what_is_not_resolved() -> None:
    made = {
        "versions": {"one": "1", "spare": "2"},
        "libraries": {name: {"module": f"a:{name}", "version": {"ref": "one"}} for name in ("a-a", "b", "c")},
        "plugins": {"p": {"id": "p", "version": {"ref": "one"}}},
    }
    gates = {"classpath": {"x": ["a-a"]}, "archives": {}, "tools": {}, "elsewhere": {"plugins.p": "a plugin"}}
    wrong = catalog.check(made, gates, ["implementation(libs.a.a)", "libs.plugins.p", "libs.b", "libs.unknown"])
    assert wrong == [
        "b is neither resolved nor named as being elsewhere",
        "c is neither resolved nor named as being elsewhere",
        "libs.unknown is not in the catalog",
        "c is used by nobody",
        "version spare is of nothing",
    ]


def test_kdoc_without_an_example_is_found() -> None:
    example = "/**\n * Text.\n *\n * ```\n * a()\n * ```\n */\n"
    source = (
        f"{example}public class A\n\n/** Text. */\npublic fun b() = 1\n\npublic interface C\n\n"
        f'{example}@Suppress("X")\npublic fun <T> D.e() = 1\n'
    )
    assert kdoc.missing_examples(source) == ["b", "C"]
    assert kdoc.missing_examples("/** Text. */\n@CoreLockerInternal\npublic class A\n") == []
