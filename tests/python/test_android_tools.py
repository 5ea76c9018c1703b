"""The Android gates' own checks find what they look for."""

import importlib.util
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from support.class_files import RETURN, ClassWriter

TOOLS = Path(__file__).parents[2] / "tools/android"
# They are scripts, and import each other as such.
sys.path.append(str(TOOLS))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"android_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


android_api, apk, catalog, kdoc = load("android_api"), load("apk"), load("catalog"), load("kdoc")


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
    gates = {
        "classpath": {"x": ["a-a"]},
        "archives": {},
        "poms": {},
        "tools": {},
        "elsewhere": {"plugins.p": "a plugin"},
    }
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


def test_member_functions_that_no_example_calls_are_found() -> None:
    source = (
        "/**\n * Text.\n *\n * ```\n * a.shown()\n * ```\n */\npublic class A {\n    public fun shown() = 1\n\n"
        "    /** Text. */\n    public suspend fun hidden() = 1\n\n    /** As [shown]. */\n    public fun other() = 1\n\n"
        "    /** Text. */\n    @CoreLockerInternal\n    public fun ours() = 1\n}\n"
    )
    assert kdoc.unshown_members([source]) == ["hidden"]


NEW = "android/new/Thing"
# Thing is there since 31, its method `old` too, `newer` since 33.
API = {
    "java/lang/Object": android_api.Class(1, [], {("<init>", 0): 1}),
    "android/os/Build$VERSION": android_api.Class(1, [], {("SDK_INT", None): 4}),
    NEW: android_api.Class(31, [], {("old", 0): 31, ("newer", 0): 33}),
}


def api_findings(tmp_path: Path, **classes: bytes) -> list[str]:
    """What is wrong with these classes of the package `a` where the oldest Android is 26."""
    for name, data in classes.items():
        (tmp_path / f"{name}.class").write_bytes(data)
    return [line.partition(": ")[2] for line in android_api.check(API, 26, [tmp_path])]


def call(writer: ClassWriter, name: str = "old") -> bytes:
    return writer.call(NEW, name)


def test_a_new_call_needs_a_comparison_on_every_way_to_it(tmp_path: Path) -> None:
    wrong = ["android/new/Thing.old: since 31, used on 26"]
    writer = ClassWriter("a/A")
    skip = len(call(writer))

    def found(code: bytes, handler: tuple[int, int, int] | None = None) -> list[str]:
        return api_findings(tmp_path, A=writer.finish(code + RETURN, handler))

    assert found(call(writer)) == wrong
    assert found(writer.guard(31, skip) + call(writer)) == []
    assert found(writer.guard(30, skip) + call(writer)) == ["android/new/Thing.old: since 31, used on 30"]
    assert found(writer.guard(31, skip) + call(writer, "newer")) == ["android/new/Thing.newer: since 33, used on 31"]
    # Behind the block, both ways have met again.
    assert found(writer.guard(31, skip) + 2 * call(writer)) == wrong
    # SDK_INT >= 31, SDK_INT > 30 and SDK_INT <= 30 that jump.
    assert found(writer.guard(31, 1, 0xA2) + RETURN + call(writer)) == []
    assert found(writer.guard(30, 1, 0xA3) + RETURN + call(writer)) == []
    assert found(writer.guard(30, skip, 0xA4) + call(writer)) == []
    # What catches may be reached from before the comparison.
    guard = writer.guard(31, 1)
    assert found(guard + RETURN + RETURN + call(writer), (0, len(guard), len(guard) + 2)) == wrong
    # A jump to the comparison brings another number.
    jump_in = b"\x03\xa7\x00\x06"
    assert found(jump_in + writer.guard(31, skip) + call(writer)) == wrong


def test_who_uses_a_guarded_class_has_to_run_on_its_level(tmp_path: Path) -> None:
    guarded = ClassWriter("a/New", requires=31)
    inner = ClassWriter("a/New$Inner")
    user = ClassWriter("a/User")
    use = user.make("a/New$Inner")
    classes = {"New": guarded.finish(call(guarded) + RETURN), "Inner": inner.finish(call(inner) + RETURN)}
    assert api_findings(tmp_path, **classes) == []
    assert api_findings(tmp_path, **classes, User=user.finish(use + RETURN)) == ["a/New$Inner: since 31, used on 26"]
    assert api_findings(tmp_path, **classes, User=user.finish(user.guard(31, len(use)) + use + RETURN)) == []
    low = ClassWriter("a/New", requires=30)
    assert (
        api_findings(tmp_path, New=low.finish(call(low) + RETURN), Inner=classes["Inner"])
        == ["android/new/Thing.old: since 31, used on 30"] * 2
    )


def test_constants_of_newer_versions_are_found_in_sources(tmp_path: Path) -> None:
    api = {"android/new/Thing": android_api.Class(26, [], {("NEWER", None): 31})}
    source = "@RequiresApi(31)\nclass A {\n    val a = Thing.NEWER\n}\n\nclass B {\n    val b = Thing.NEWER\n}\n"
    (tmp_path / "A.kt").write_text(source)
    assert android_api.check_constants(api, 26, [tmp_path]) == ["A.kt:7: Thing.NEWER: since 31"]
