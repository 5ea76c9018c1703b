"""Core ML input that is damaged or made to do harm: a typed error, at once, and nothing else."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corelocker.artifacts.coreml.constant_resolver import ConstantResolver
from corelocker.artifacts.coreml.mil_constants import TableMemory
from corelocker.artifacts.coreml.mil_graph import ChannelGraph, LayerOperation, follow
from corelocker.artifacts.coreml.mil_text import read_mil
from corelocker.artifacts.coreml.mlprogram import read_model
from corelocker.artifacts.coreml.package import open_compiled, open_package, read_program
from corelocker.artifacts.coreml.weight_bin import WeightFile
from corelocker.errors import (
    ArtifactError,
    FileAccessError,
    MalformedArtifactError,
    UnknownFormatError,
)
from corelocker.files import MappedFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import coreml_models as models
from support.models.mil_writer import write_compiled

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
VARIANTS = ["int8-ios16", "int4-block", "lut4-scaled", "pruned-lut8"]
many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    path = tmp_path / "cnn.mlpackage"
    shutil.copytree(models.package("cnn", "int8-ios18"), path)
    return path


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def put(offset: int, form: str, *values: int) -> Callable[[bytearray], object]:
    return lambda data: struct.pack_into(form, data, offset, *values)


# --- the weight file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(0, "<I", 0), "is blob 1, the header counts 0"),
        (put(0, "<I", 1 << 31), "blobs do not fit into"),
        (put(64, "<I", 0xDEADBEE0), "the blob at 64 does not begin with the sentinel"),
        (put(68, "<I", 99), "the blob at 64 has the unknown data type 99"),
        (put(68, "<I", 2), "the program wants .* elements of int8"),
        (put(72, "<Q", 1 << 63), "the blob at 64 puts 9223372036854775808 bytes at 128"),
        (put(72, "<Q", 0), "the blob at 64 puts 0 bytes at 128"),
        (put(72, "<Q", 1151), "the blob at 64 has 1151 of int8"),
        (put(80, "<Q", 129), "the blob at 64 puts 1152 bytes at 129"),
        (put(80, "<Q", 64), "the blob at 64 puts 1152 bytes at 64"),
        (put(80, "<Q", (1 << 64) - 64), "the blob at 64 puts 1152 bytes at 18446744073709551552"),
        (put(80, "<Q", 192), "overlaps the one at 64"),
    ],
)
def test_metadata_is_checked(package: Path, change: Callable[[bytearray], object], message: str) -> None:
    edit(package / WEIGHTS, change)
    with pytest.raises(MalformedArtifactError, match=message):
        open_package(package)


@pytest.mark.parametrize("left", [8, 0x5EED, 1 << 63])
def test_what_whole_elements_do_not_need_is_not_read(package: Path, left: int) -> None:
    """coremltools 7 leaves these bytes uninitialised before iOS 18."""
    before = open_package(package)
    edit(package / WEIGHTS, put(88, "<Q", left))
    after = open_package(package)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        np.testing.assert_array_equal(old.read(), new.read())


@pytest.mark.parametrize(("padding", "count"), [(0, 32), (4, 31), (1, None), (8, None), (1 << 63, None)])
def test_padding_of_packed_elements_is_checked(tmp_path: Path, padding: int, count: int | None) -> None:
    int4 = 8
    metadata = struct.pack("<IIQQQ", 0xDEADBEEF, int4, 16, 128, padding).ljust(64, b"\0")
    path = tmp_path / "weight.bin"
    path.write_bytes(struct.pack("<II", 1, 2).ljust(64, b"\0") + metadata + bytes(16))
    file = WeightFile(MappedFile(path, path.name))
    if count is not None:
        assert file.blob(64).count == count
    else:
        with pytest.raises(MalformedArtifactError, match="the blob at 64 holds"):
            file.blob(64)


def test_another_version_of_the_format_is_refused(package: Path) -> None:
    edit(package / WEIGHTS, put(4, "<I", 3))
    with pytest.raises(UnknownFormatError, match="weight file version 3; this release reads version 2"):
        open_package(package)


@pytest.mark.parametrize("size", [1, 63, 64, 100, 127, 128, 5000, -64, -1])
def test_a_short_weight_file_is_refused(package: Path, size: int) -> None:
    edit(package / WEIGHTS, lambda data: data.__delitem__(slice(size, None)))
    with pytest.raises(MalformedArtifactError):
        open_package(package)


def test_an_offset_between_blobs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weight.bin").write_bytes(models.package("cnn", "fp32").joinpath(WEIGHTS).read_bytes())
    for offset in (0, 1, 65, 128, 1 << 40, -64, (1 << 64) - 64):
        with pytest.raises(MalformedArtifactError):
            WeightFile(MappedFile(tmp_path / "weight.bin", "weight.bin")).blob(offset)
    with pytest.raises(MalformedArtifactError, match="too short"):
        WeightFile(MappedFile(tmp_path / "weight.bin", "weight.bin"), base=1 << 40)
    with pytest.raises(MalformedArtifactError, match="too short"):
        WeightFile(MappedFile(tmp_path / "weight.bin", "weight.bin"), size=1 << 40)


# --- the folder ----------------------------------------------------------------------------------


def test_missing_files_are_named(package: Path) -> None:
    for part in (WEIGHTS, MODEL, Path("Manifest.json")):
        (package / part).unlink()
        with pytest.raises(FileAccessError, match=part.name):
            open_package(package)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"[]",
        b'{"rootModelIdentifier": "a"}',
        b'{"rootModelIdentifier": ["a"], "itemInfoEntries": {}}',
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": 3}}}',
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../secret"}}}',
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "/etc/passwd"}}}',
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": ""}}}',
        b"[" * 100_000,
        b"\xff\xfe",
        b" " * (1 << 20) + b"{}",
    ],
)
def test_a_bad_manifest_is_refused(package: Path, manifest: bytes) -> None:
    (package / "Manifest.json").write_bytes(manifest)
    with pytest.raises(MalformedArtifactError):
        open_package(package)


def test_the_manifest_says_where_the_model_is(package: Path) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "com.apple.CoreML/Detector.mlmodel"
    (package / "Manifest.json").write_text(json.dumps(manifest))
    (package / MODEL).rename(package / MODEL.with_name("Detector.mlmodel"))
    assert len(open_package(package).tensors) == 5


@pytest.mark.parametrize("name", ["../weights/weight.bin", "/etc/hosts", "@model_path/../x", "@model_path/"])
def test_a_weight_file_outside_the_model_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    compiled = write_compiled(package, tmp_path, modern=True)
    text = (compiled / "model.mil").read_text()
    (compiled / "model.mil").write_text(text.replace("@model_path/weights/weight.bin", name))
    with pytest.raises(MalformedArtifactError, match="names a file outside the model"):
        open_compiled(compiled)


@pytest.mark.parametrize(
    ("field", "error"), [(500, "no ML Program"), (202, "a pipeline of models"), (403, "no ML Program")]
)
def test_other_kinds_of_model_are_refused(package: Path, field: int, error: str) -> None:
    (package / MODEL).write_bytes(b"\x08\x07" + varint(field << 3 | 2) + b"\x00")
    with pytest.raises(UnknownFormatError, match=error):
        open_package(package)


def test_a_compiled_network_without_a_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.mlmodelc").mkdir()
    (tmp_path / "old.mlmodelc" / "model.espresso.net").write_text("{}")
    with pytest.raises(UnknownFormatError, match=r"holds no model\.mil"):
        open_compiled(tmp_path / "old.mlmodelc")


# --- the program ---------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(number: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(body)) + body


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def specification(*operations: bytes) -> bytes:
    block = message(2, b"y") + b"".join(message(3, op) for op in operations)
    function = message(2, b"ios18") + message(3, message(1, b"ios18"), message(2, block))
    return message(502, message(2, message(1, b"main"), message(2, function)))


def tensor_type(dtype: int, *shape: int) -> bytes:
    return message(1, number(1, dtype), *(message(3, message(1, number(1, n))) for n in shape))


def operation(kind: str, output: bytes, arguments: dict[str, bytes]) -> bytes:
    """Arguments are names, or values when they begin with a message."""
    named = [message(2, message(1, k.encode()), message(2, message(1, v))) for k, v in arguments.items()]
    return message(1, kind.encode()) + b"".join(named) + message(3, output)


def value(kind: bytes, offset: int) -> bytes:
    return message(2, message(2, kind), message(5, message(1, b"@model_path/w.bin"), number(2, offset)))


def immediate(kind: bytes, raw: bytes) -> bytes:
    return message(2, message(2, kind), message(3, message(1, message(7, message(1, raw)))))


LINEAR = operation("linear", message(1, b"z"), {"weight": message(1, b"y")})
HALF, FLOAT, INT32, UINT8 = 10, 11, 23, 31


@pytest.mark.parametrize(
    "spec",
    [
        b"",
        b"\x00",
        b"\xff" * 20,
        message(502, message(2, message(1, b"main"))),
        message(502, message(2, message(1, b"\xff\xfe"))),
        varint(502 << 3 | 2) + varint(1 << 62),
        varint(502 << 3) + b"\x01",
        specification(operation("conv", message(1, b"y"), {"weight": immediate(tensor_type(FLOAT, 1 << 62, 1 << 62), b"")})),
        specification(operation("conv", message(1, b"y"), {"weight": immediate(tensor_type(FLOAT, 0, 1 << 62, 1 << 62), b"")})),
        specification(operation("conv", message(1, b"y"), {"weight": immediate(tensor_type(FLOAT, 3), b"1234")})),
        specification(operation("linear", message(1, b"y"), {"weight": message(1, b"y")})),
        specification(operation("identity", message(1, b"y"), {"x": message(1, b"y")}), LINEAR),
        specification(operation("constexpr_lut_to_dense", message(1, b"y"), {}), LINEAR),
    ],
)  # fmt: skip
def test_a_bad_program_is_refused(package: Path, spec: bytes) -> None:
    (package / MODEL).write_bytes(spec)
    with pytest.raises(ArtifactError):
        open_package(package)


def test_nested_blocks_and_types_are_bounded(package: Path) -> None:
    block = message(2, b"y")
    kind = tensor_type(FLOAT, 1)
    for _ in range(200):
        block = message(3, message(1, b"cond"), message(4, block))
        kind = message(5, message(1, kind))
    nested = message(
        502,
        message(2, message(1, b"main"), message(2, message(2, b"i"), message(3, message(1, b"i"), message(2, block)))),
    )
    for spec in (nested, specification(operation("add", message(1, b"y") + message(2, kind), {}))):
        with pytest.raises(MalformedArtifactError, match="nested deeper than 32"):
            read_model(spec)
    with pytest.raises(MalformedArtifactError, match="nested deeper than 32"):
        read_mil("program(1.0) { func main<i>() { " + "int32 x = cond()[] { " * 50)
    with pytest.raises(MalformedArtifactError, match="nested deeper than 32"):
        read_mil("program(1.0) { func main<i>(" + "state<" * 50)


def weight_file(*blobs: tuple[int, bytes]) -> bytes:
    out = bytearray(struct.pack("<II", len(blobs), 2).ljust(64, b"\0"))
    for dtype, raw in blobs:
        out += b"\0" * (-len(out) % 64)
        out += struct.pack("<IIQQQ", 0xDEADBEEF, dtype, len(raw), len(out) + 64, 0).ljust(64, b"\0") + raw
    return bytes(out)


def test_small_files_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    """200 tensors of 8 KB that share a look-up table of 64 KB: spelled out for each channel it would be 8 MB a tensor."""
    codes = [(3, bytes(64 * 64 * 2))] * 200
    weights = weight_file((1, bytes(64 * 2 * 256 * 2)), *codes)
    (tmp_path / "w.bin").write_bytes(weights)
    places = [i for i in range(64, len(weights), 64) if weights[i : i + 4] == b"\xef\xbe\xad\xde"]
    operations = []
    for i, place in enumerate(places[1:]):
        name, kind = f"w{i}".encode(), message(2, tensor_type(FLOAT, 64, 64, 2))
        arguments = {
            "indices": value(tensor_type(UINT8, 64, 64, 2), place),
            "lut": value(tensor_type(HALF, 64, 1, 2, 256, 1), 64),
        }
        operations.append(operation("constexpr_lut_to_dense", message(1, name) + kind, arguments))
        operations.append(operation("conv", message(1, b"y" + name), {"weight": message(1, name)}))
    spec = specification(*operations)
    tracemalloc.start()
    found = read_program(memoryview(spec), MappedFile(tmp_path / "w.bin", "w.bin"), 0, "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.tensors) == 16
    assert len(found.refused) == 184
    assert found.refused[0].reason == "its scales or look-up tables are too many to be spelled out"
    assert peak < 200 << 20


def test_paths_that_branch_without_end_are_given_up() -> None:
    """Concatenations of a value with itself: the places of one channel double with each."""
    weights = immediate(tensor_type(FLOAT, 4, 4, 1), bytes(64))
    shape = message(2, tensor_type(FLOAT, 1, 4, 1))
    operations = [operation("conv", message(1, b"v0") + shape, {"weight": weights, "x": message(1, b"input")})]
    for i in range(40):
        half = message(1, message(1, f"v{i}".encode()))
        both = message(2, message(1, b"values"), message(2, half, half))
        axis = message(2, message(1, b"axis"), message(2, message(1, immediate(tensor_type(INT32), b"\1\0\0\0"))))
        kind = message(2, tensor_type(FLOAT, 1, 4 << i + 1, 1))
        operations.append(message(1, b"concat") + both + axis + message(3, message(1, f"v{i + 1}".encode()) + kind))
    program = read_model(specification(*operations))
    function = program.functions[0]
    conv = function.block.operations[0]
    graph = ChannelGraph()
    follow(
        function,
        {id(conv): LayerOperation(("w",), (("x", 1),), 1)},
        ConstantResolver(function.block.operations, None, TableMemory()),
        graph,
    )
    assert graph.untraced["w"].startswith("too many layers meet at v1")


@pytest.mark.parametrize("variant", VARIANTS)
@given(data=st.data())
@many
def test_damaged_bytes_give_typed_errors(variant: str, data: st.DataObject) -> None:
    """Flips and cuts of the program and of the metadata; what still opens can be read to the end."""
    source = models.package("cnn", variant)
    spec, weights = bytearray((source / MODEL).read_bytes()), bytearray((source / WEIGHTS).read_bytes())
    target = data.draw(st.sampled_from([spec, weights]))
    for _ in range(data.draw(st.integers(1, 4))):
        # Metadata lies on multiples of 64; anything else is a weight and may have any value.
        place = data.draw(st.integers(0, len(target) - 1))
        place = place // 64 * 64 + place % 40 if target is weights else place
        target[min(place, len(target) - 1)] = data.draw(st.integers(0, 255))
    del target[data.draw(st.one_of(st.just(len(target)), st.integers(1, len(target)))) :]
    path = models._folder() / "damaged.bin"
    path.write_bytes(weights)
    try:
        found = read_program(memoryview(bytes(spec)), MappedFile(path, "weight.bin"), 0, "")
    except ArtifactError:
        return
    for tensor in found.tensors:
        tensor.read()
        [tensor.runs(channel) for channel in range(tensor.channels)]


@given(data=st.data())
@many
def test_damaged_text_gives_typed_errors(data: st.DataObject) -> None:
    text = (Path(__file__).parents[3] / "data/coreml/unified_palette_4bit.mlmodelc/model.mil").read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 30))
        text = text[:start] + data.draw(st.text('[](){}<>,;="\\x0pabfi1-.?\n ', max_size=8)) + text[start + length :]
    with contextlib.suppress(MalformedArtifactError):
        read_mil(text)
