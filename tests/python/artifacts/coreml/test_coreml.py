"""The Core ML adapter: every variant that coremltools makes, byte by byte and value by value."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts import Artifact, Edge, SparsePart, WeightTensor, open_artifact
from corelocker.artifacts.coreml.package import open_compiled, open_package, read_program
from corelocker.audit.mlprogram import MlProgramEvaluator
from corelocker.errors import NothingToLockError, UnsupportedLayoutError
from corelocker.files import MappedFile
from support.models import coreml_models as models
from support.models.mil_writer import write_compiled

DATA = Path(__file__).resolve().parents[3] / "data" / "coreml"
REFUSED = {"lut2-vector": "vector palettization", "pruned-lut4": "4 bits and straddle bytes"}
READABLE = [v for v in models.VARIANTS if v not in REFUSED]
# Where a weight does not lie as (out, in, ...): the transposition from the program's constant to the logical order.
TURNED = {"up_w": (1, 0, 2, 3), "right_w": (1, 0)}
WEIGHT_FILE = Path("Data/com.apple.CoreML/weights/weight.bin")
COMPRESSIONS = [v for v in READABLE if models.VARIANTS[v][2] is not None]


def packages() -> list[tuple[str, Callable[[], Path]]]:
    found = [(f"cnn-{v}", lambda v=v: models.package("cnn", v)) for v in READABLE]
    found += [(n, lambda n=n: models.package(n, "fp16")) for n in ("mobilenet", "transformer", "recurrent")]
    found += [("mobilenet-lut8", lambda: models.package("mobilenet", "lut8-ios16"))]
    found += [(n, lambda n=n: models.built(n)) for n in ("layouts", "tied")]
    return [*found, ("published", lambda: DATA / "unified_palette_4bit.mlpackage")]


PACKAGES = packages()
every_package = pytest.mark.parametrize("make", [m for _, m in PACKAGES], ids=[n for n, _ in PACKAGES])


def expanded(program: MlProgramEvaluator, tensor: WeightTensor) -> np.ndarray:
    """What the evaluator, which has its own expansion, makes of a tensor, in logical order."""
    return program.constant(tensor.name).permute(TURNED.get(tensor.name, tuple(range(len(tensor.shape))))).numpy()


def overwrite(
    data: bytearray, artifact: Artifact, runs: list[tuple[MappedFile, object]], change: Callable[[bytes], bytes]
) -> None:
    for file, run in runs:
        assert file in artifact.files
        for piece in range(run.count):
            place = slice(run.offset + piece * run.stride, run.offset + piece * run.stride + run.length)
            data[place] = change(bytes(data[place]))


def flip(raw: bytes) -> bytes:
    """Other bytes that mean other finite numbers in every element type: the lowest bits."""
    return bytes(b ^ 1 for b in raw)


@every_package
def test_read_gives_what_the_program_expands_to(make: Callable[[], Path]) -> None:
    artifact, program = open_package(make()), MlProgramEvaluator(make())
    assert [t.order for t in artifact.tensors] == list(range(len(artifact.tensors)))
    for tensor in artifact.tensors:
        np.testing.assert_allclose(
            tensor.read(), expanded(program, tensor), rtol=1.5e-3, atol=1e-4, err_msg=tensor.name
        )
        np.testing.assert_array_equal(tensor.read([1, 0]), tensor.read()[[1, 0]]) if tensor.channels > 1 else None


@pytest.mark.parametrize("variant", COMPRESSIONS)
def test_read_gives_what_coremltools_decompresses(variant: str) -> None:
    artifact, reference = (
        open_package(models.package("cnn", variant)),
        open_package(models.decompressed("cnn", variant)),
    )
    assert len(artifact.tensors) == len(reference.tensors) == 5
    for tensor, wanted in zip(artifact.tensors, reference.tensors, strict=True):
        assert wanted.quantization is None
        np.testing.assert_allclose(tensor.read(), wanted.read(), rtol=1.5e-3, atol=1e-4, err_msg=tensor.name)


@every_package
def test_a_channels_runs_are_its_own(make: Callable[[], Path]) -> None:
    """Other bytes in the runs of a channel change that channel of the weights and nothing else in the program."""
    path = make()
    artifact, program = open_package(path), MlProgramEvaluator(path)
    original = (path / WEIGHT_FILE).read_bytes()
    before = {t.name: expanded(program, t) for t in artifact.tensors}
    for tensor in artifact.tensors:
        channel = tensor.channels // 2
        data = bytearray(original)
        overwrite(data, artifact, tensor.runs(channel), flip)
        changed = program.with_weights(bytes(data))
        for other in artifact.tensors:
            rows = np.flatnonzero(
                (expanded(changed, other) != before[other.name]).reshape(other.channels, -1).any(axis=1)
            )
            assert rows.tolist() == ([channel] if other is tensor else []), (tensor.name, other.name)


@every_package
def test_an_input_channels_run_is_a_column(make: Callable[[], Path]) -> None:
    path = make()
    artifact, program = open_package(path), MlProgramEvaluator(path)
    original = (path / WEIGHT_FILE).read_bytes()
    for tensor in artifact.tensors:
        if tensor.inputs is None:
            continue
        assert tensor.inputs.channels == tensor.shape[1]
        column = tensor.shape[1] // 2
        data = bytearray(original)
        overwrite(data, artifact, [(tensor.inputs.file, tensor.inputs.run(column))], flip)
        differs = expanded(program.with_weights(bytes(data)), tensor) != expanded(program, tensor)
        columns = np.flatnonzero(np.moveaxis(differs, 1, 0).reshape(tensor.shape[1], -1).any(axis=1))
        assert columns.tolist() == [column], tensor.name


def without_channel(artifact: Artifact, index: int, channel: int, silent: np.ndarray) -> torch.nn.Module:
    """The CNN in torch with the package's weights, and `silent` in place of one channel's; its bias is 0."""
    net = models.Cnn().eval()
    net.bn1, net.bn2 = torch.nn.Identity(), torch.nn.Identity()  # the converter has folded them
    layers = (net.conv1, net.conv2, net.conv3, net.hidden, net.head)
    with torch.no_grad():
        for place, (layer, tensor) in enumerate(zip(layers, artifact.tensors, strict=True)):
            bias = tensor.part("bias")
            assert bias is not None
            layer.weight.copy_(torch.from_numpy(tensor.read().copy()))
            layer.bias.copy_(torch.from_numpy(bias.read()[:, 0].copy()))
            if place == index:
                layer.weight[channel] = torch.from_numpy(silent)
                layer.bias[channel] = 0
    return net


@pytest.mark.parametrize("variant", READABLE)
@pytest.mark.parametrize("index", [1, 3])
def test_zeroed_runs_are_a_zeroed_channel_in_torch(variant: str, index: int) -> None:
    path = models.package("cnn", variant)
    artifact = open_package(path)
    tensor, channel = artifact.tensors[index], 5
    data = bytearray((path / WEIGHT_FILE).read_bytes())
    overwrite(data, artifact, tensor.runs(channel), lambda raw: bytes(len(raw)))
    # Zero bytes are the weight 0, or the first entry of a look-up table, or minus a zero point that is not the channel's own.
    silent = np.zeros(tensor.shape[1:], np.float32)
    quantization = tensor.quantization
    if quantization is not None and (quantization.lut is not None or quantization.scale is not None):
        codes = np.zeros((1, tensor.weight.elements), np.int32)
        values = tensor.dequantize(codes, None, None, np.asarray([channel]))
        if isinstance(tensor.weight, SparsePart):
            values = np.where(tensor.weight.mask[[channel]], values, 0)
        silent = values.reshape(tensor.shape[1:])
    x = models.inputs("cnn", 6)
    with torch.no_grad():
        wanted = without_channel(artifact, index, channel, silent)(x)
        original = without_channel(artifact, -1, 0, silent)(x)
    found = MlProgramEvaluator(path, bytes(data)).batch({"x": x})
    difference = (next(iter(found.values())) - wanted).abs().max()
    assert difference < (1e-5 if models.VARIANTS[variant][0] == "FLOAT32" else 2e-3)
    assert (original - wanted).abs().max() > 10 * difference


@pytest.mark.parametrize(("name", "variant"), [("cnn", "fp32"), ("mobilenet", "fp16")])
def test_both_ways_of_conversion_give_the_same_layers(name: str, variant: str) -> None:
    traced, exported = (open_package(models.package(name, variant, route)) for route in ("trace", "export"))
    assert [(t.role, t.shape) for t in traced.tensors] == [(t.role, t.shape) for t in exported.tensors]
    for a, b in zip(traced.tensors, exported.tensors, strict=True):
        np.testing.assert_allclose(a.read(), b.read(), rtol=1e-3, atol=1e-6)


def test_names_that_leak_are_stripped() -> None:
    assert open_package(models.package("cnn", "fp32", "export")).strip == ("executorch_debug_handle_mapping.json",)
    assert open_package(models.package("cnn", "fp32")).strip == ()


def test_roles_shapes_and_parts() -> None:
    layouts = {t.name: t for t in open_package(models.built("layouts")).tensors}
    seen = {
        n: (t.role, t.shape, [p.kind for p in t.parts], t.inputs.channels if t.inputs else None)
        for n, t in layouts.items()
    }
    assert seen == {
        "first_weight_0": ("conv", (12, 8, 3, 3), ["weight", "bias"], 8),
        "up_w": ("conv", (16, 12, 2, 2), ["weight", "bias"], 12),
        "grouped_w": ("conv", (24, 4, 3, 3), ["weight"], None),
        "twice_w": ("depthwise", (48, 1, 3, 3), ["weight", "gamma", "beta", "mean", "variance"], None),
        "left_w": ("linear", (20, 48), ["weight"], 48),
        "right_w": ("linear", (14, 12), ["weight"], 12),
        "rows_w": ("linear", (16, 20), ["weight"], 20),
        "turned_w": ("linear", (18, 16), ["weight"], 16),
    }
    gamma = layouts["twice_w"].part("gamma")
    assert gamma is not None
    np.testing.assert_array_equal(gamma.read()[:, 0], models.array(48, 1)[:, 0])
    mobilenet = open_package(models.package("mobilenet", "fp16"))
    assert sum(t.role == "depthwise" for t in mobilenet.tensors) == 3
    transformer = open_package(models.package("transformer", "fp16"))
    assert [t.role for t in transformer.tensors].count("norm") == 5
    assert transformer.tensors[0].role == "embedding"


def test_quantized_parts_and_public_rest() -> None:
    def parts(variant: str) -> list[str]:
        return [p.kind for p in open_package(models.package("cnn", variant)).tensors[3].parts]

    assert parts("int8-ios16") == ["weight", "scale", "zero_point", "bias"]
    assert parts("int8-ios18") == parts("int4-block") == parts("pruned-int8") == ["weight", "scale", "bias"]
    assert parts("uint4-affine") == ["weight", "scale", "zero_point", "bias"]
    assert parts("lut4-grouped") == parts("pruned-ios16") == ["weight", "bias"]
    shared = open_package(models.package("cnn", "int8-tensor"))
    assert shared.tensors[0].quantization is not None
    assert shared.tensors[0].quantization.scale is not None
    assert [s.reason for s in shared.skipped] == [
        "is locked, but its scale is stored in the program and stays public"
    ] * 5
    groups = {t.name: t.dtype for t in open_package(models.package("cnn", "int4-block")).tensors}
    assert groups["hidden_weight_to_fp16_quantized"] == "int4 group 8"
    tied = open_package(models.built("tied"))
    assert [t.name for t in tied.tensors] == [
        "table",
        "blocks_w",
        "halves_w",
    ]  # one table, read by gather and by linear


def test_functions_share_their_tensors() -> None:
    artifact = open_package(models.multifunction())
    assert [t.name for t in artifact.tensors] == [
        "const_0", "const_2", "conv3_weight", "hidden_weight", "head_weight", "adapted/head_weight",
    ]  # fmt: skip
    assert artifact.outputs == {"head_weight", "adapted/head_weight"}
    assert artifact.edges["hidden_weight"] == (Edge("head_weight"), Edge("adapted/head_weight"))
    for function, head in (("main", "head_weight"), ("adapted", "adapted/head_weight")):
        program = MlProgramEvaluator(models.multifunction(), function=function)
        tensor = next(t for t in artifact.tensors if t.name == head)
        np.testing.assert_array_equal(tensor.read(), program.constant("head_weight").numpy())


def same(a: Artifact, b: Artifact) -> None:
    """Everything that locking sees, but for the names of the files."""
    assert [(t.name, t.order, t.role, t.shape, t.dtype) for t in a.tensors] == [
        (t.name, t.order, t.role, t.shape, t.dtype) for t in b.tensors
    ]
    for left, right in zip(a.tensors, b.tensors, strict=True):
        for channel in range(left.channels):
            assert [run for _, run in left.runs(channel)] == [run for _, run in right.runs(channel)]
        np.testing.assert_array_equal(left.read(), right.read())
    assert (a.edges, a.untraced, a.inputs, a.outputs, a.skipped) == (
        b.edges,
        b.untraced,
        b.inputs,
        b.outputs,
        b.skipped,
    )
    assert [bytes(f.data) for f in a.files] == [bytes(f.data) for f in b.files]


def test_the_published_pair_is_read_alike() -> None:
    package, compiled = (open_artifact(DATA / f"unified_palette_4bit.{form}") for form in ("mlpackage", "mlmodelc"))
    assert (package.format, compiled.format) == ("coreml", "coreml-compiled")
    same(package, compiled)
    assert [t.name for t in package.tensors] == [
        "stft_forward_basis_to_fp16_palettized", "encoder_layers_2_weight_to_fp16_palettized",
        "encoder_layers_4_weight_to_fp16_palettized", "encoder_layers_6_weight_to_fp16_palettized", "concat_1_palettized",
        "concat_2_palettized", "decoder_final_conv_weight_to_fp16",
    ]  # fmt: skip
    left_alone = {s.name: s.reason for s in package.skipped}
    assert "387 elements of 4 bits, which straddle bytes" in left_alone["encoder_layers_0_weight_to_fp16_palettized"]
    assert package.inputs == {"stft_forward_basis_to_fp16_palettized"}
    assert package.outputs == {"decoder_final_conv_weight_to_fp16"}
    assert package.edges["encoder_layers_2_weight_to_fp16_palettized"] == (
        Edge("encoder_layers_4_weight_to_fp16_palettized"),
    )


@pytest.mark.skipif(
    "CORELOCKER_COREML_PAIRS" not in os.environ, reason="CORELOCKER_COREML_PAIRS names no folder of pairs"
)
def test_other_published_pairs_are_read_alike() -> None:
    folder = Path(os.environ["CORELOCKER_COREML_PAIRS"])
    compiled = {p.stem: p for p in folder.rglob("*.mlmodelc")}
    pairs = [(p, compiled[p.stem]) for p in folder.rglob("*.mlpackage") if p.stem in compiled]
    assert pairs
    for package, other in pairs:
        same(open_package(package), open_compiled(other))


@pytest.mark.parametrize("modern", [False, True], ids=["classic", "modern"])
@every_package
def test_mil_text_is_read_like_the_protobuf(make: Callable[[], Path], modern: bool, tmp_path: Path) -> None:
    if make().stem.startswith("recurrent"):
        pytest.skip("how the compiler writes nested blocks is not known")
    same(open_package(make()), open_artifact(write_compiled(make(), tmp_path, modern=modern)))


@pytest.mark.parametrize("variant", REFUSED)
def test_layouts_that_cannot_be_locked_are_refused_by_name(variant: str) -> None:
    with pytest.raises(UnsupportedLayoutError, match=f"const_0_to_fp16_[a-z]+ cannot be locked: .*{REFUSED[variant]}"):
        open_package(models.package("cnn", variant))


def test_rows_that_straddle_bytes_are_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedLayoutError, match="odd_w cannot be locked: a channel has pieces of 27 elements of 4 bits"
    ):
        open_package(models.built("odd-columns"))


def test_weights_in_the_program_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedLayoutError, match="tiny_w cannot be locked: is stored in the program"):
        open_package(models.built("in-program"))


def test_nothing_to_lock() -> None:
    with pytest.raises(NothingToLockError, match="no layer with weights"):
        open_package(models.built("nothing"))


def test_an_embedded_program_is_read_at_any_place(tmp_path: Path) -> None:
    """As inside a `.pte`, where the weight file begins at no round offset and other bytes follow."""
    path = models.package("cnn", "int8-ios18")
    spec, weights = (path / "Data/com.apple.CoreML/model.mlmodel").read_bytes(), (path / WEIGHT_FILE).read_bytes()
    (tmp_path / "model.pte").write_bytes(b"x" * 1001 + weights + b"y" * 77)
    file = MappedFile(tmp_path / "model.pte", "model.pte")
    for size in (None, len(weights)):
        found = read_program(memoryview(spec), file, 1001, "delegate/", size)
        whole = open_package(path)
        assert [t.name for t in found.tensors] == [f"delegate/{t.name}" for t in whole.tensors]
        assert set(found.edges) == {t.name for t in found.tensors}
        assert found.inputs == {f"delegate/{n}" for n in whole.inputs}
        for inner, outer in zip(found.tensors, whole.tensors, strict=True):
            np.testing.assert_array_equal(inner.read(), outer.read())
            assert [r.offset - 1001 for _, r in inner.runs(2)] == [r.offset for _, r in outer.runs(2)]


def test_the_adapter_needs_neither_torch_nor_coremltools() -> None:
    """`corelocker lock` on a machine with the base install."""
    script = f"""
import sys
sys.path.insert(0, {str(DATA.parents[3] / "sdk" / "python")!r})
from pathlib import Path
from corelocker.artifacts.coreml.package import open_package
open_package(Path({str(DATA / "unified_palette_4bit.mlpackage")!r}))
print(sorted({{"torch", "coremltools", "google.protobuf", "executorch"}} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "sdk/python"},
    )
    assert found.stdout.strip() == "[]"
