"""Exports run: what the ExecuTorch runtime computes from a file is what the module computes."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corelocker.errors import (
    ConfigError,
    CoreLockerError,
    ExportError,
    FileAccessError,
    MissingExtraError,
    OutputExistsError,
    TierError,
)
from corelocker.exporting import (
    Exported,
    ExportTarget,
    export_coreml,
    export_executorch,
    export_target,
    load_model,
    parse_config,
)
from corelocker.locking.options import LockOptions

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "tests" / "data" / "corelocker.toml"


class TinyCnn(torch.nn.Module):
    """Stem, depthwise, pointwise, each with a BatchNorm whose statistics matter; pooling without a stride; a classifier."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 32, 1, bias=False),
            nn.BatchNorm2d(32),
        )
        self.classifier = nn.Linear(32, 10)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.1)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.nn.functional.max_pool2d(self.features(x), 2).mean((2, 3)))


class TinyTransformer(torch.nn.Module):
    """One causal attention block over token ids; the output layer shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.embedding = nn.Embedding(60, 32)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.up = nn.Linear(32, 40)
        self.down = nn.Linear(40, 32)  # 40 inputs: no whole number of 4-bit groups

    def forward(self, tokens: Any) -> Any:
        x = self.embedding(tokens)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        return torch.nn.functional.linear(x, self.embedding.weight)


class Stem(torch.nn.Module):
    """A convolution and the mean of its outputs over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 10, 3)

    def forward(self, x: Any) -> Any:
        return self.conv(x).relu().mean((2, 3))


class SharedConv(torch.nn.Module):
    """One convolution over two feature maps, as detection heads have."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(4, 4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(x).relu()[..., :8, :8] + self.head(x * 3)[..., :8, :8]


def cnn() -> Any:
    return TinyCnn().eval(), (torch.randn(2, 3, 32, 32),), [(torch.randn(2, 3, 32, 32),) for _ in range(8)]


def transformer() -> Any:
    return TinyTransformer().eval(), (torch.randint(0, 60, (1, 8)),), iter([(torch.randint(0, 60, (1, 8)),)] * 4)


def shared_conv() -> Any:
    return SharedConv().eval(), (torch.randn(1, 4, 10, 10),), ((torch.randn(1, 4, 10, 10),) for _ in range(8))


def stem() -> Any:
    return Stem().eval(), (torch.randn(2, 3, 8, 8),)


def linear() -> Any:
    return torch.nn.Linear(8, 8), (torch.randn(4, 8),), [(torch.randn(4, 8),) for _ in range(8)]


def training_cnn() -> Any:
    return TinyCnn().train(), (torch.randn(2, 3, 32, 32),)


def reference(factory: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """What the eager module computes. Seeded as `load_model` seeds."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return factory()[0](*args)


def run(program: Path, args: tuple[Any, ...], weights: Path | None = None) -> Any:
    from executorch.extension.pybindings import portable_lib

    module = portable_lib._load_for_executorch(str(program), str(weights) if weights is not None else None)
    return module.forward(list(args))[0].clone()


def error(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((found.float() - expected).abs().max() / expected.abs().max())


def contents(path: Path) -> dict[str, bytes]:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def source() -> Any:
    return load_model("test_export:cnn")


@pytest.fixture(scope="module")
def small() -> Any:
    return load_model("test_export:linear")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Exported]]:
    """Load and export once for all tests of this file: (factory, options) -> (source, what was written)."""
    load = functools.cache(lambda factory: load_model(f"test_export:{factory.__name__}"))

    @functools.cache
    def make(factory: Callable[[], Any], **options: Any) -> tuple[Any, Exported]:
        folder = tmp_path_factory.mktemp(factory.__name__)
        return load(factory), export_executorch(load(factory), folder / "m.pte", **options)

    return make


@pytest.fixture(scope="module")
def archive() -> bytes:
    """A `.pt2` of Stem with an open batch size of up to 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, args = stem()
    buffer = io.BytesIO()
    program = torch.export.export(module, args, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4)},))
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.fixture
def pt2(tmp_path: Path, archive: bytes) -> Path:
    path = tmp_path / "model.pt2"
    path.write_bytes(archive)
    return path


# --- ExecuTorch ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "options", "tolerance"),
    [
        (cnn, {"backend": "portable"}, 1e-5),
        (cnn, {"backend": "xnnpack"}, 1e-5),
        (cnn, {"backend": "xnnpack", "quantize": "int8"}, 0.04),
        (transformer, {"backend": "portable"}, 1e-5),
        (transformer, {"backend": "xnnpack", "quantize": "int8"}, 0.04),
        (transformer, {"backend": "xnnpack", "quantize": "int4"}, 0.3),
        (shared_conv, {"backend": "xnnpack", "quantize": "int8"}, 0.04),
    ],
    ids=lambda value: (
        value.__name__ if callable(value) else "-".join(value.values()) if isinstance(value, dict) else ""
    ),
)
def test_program_computes_what_the_module_computes(
    made: Callable[..., tuple[Any, Exported]], factory: Callable[[], Any], options: dict[str, Any], tolerance: float
) -> None:
    source, exported = made(factory, **options)
    assert [path.name for path in exported.files] == ["m.pte"]
    difference = error(run(exported.path, source.args), reference(factory, source.args))
    assert difference < tolerance
    assert (difference > 1e-5) == ("quantize" in options), "quantization must show, and nothing else must"


def test_int4_says_what_stays_float(made: Callable[..., tuple[Any, Exported]]) -> None:
    _, plain = made(transformer, backend="portable")
    _, exported = made(transformer, backend="xnnpack", quantize="int4")
    assert exported.notes == ["not quantized, stays float: embedding.weight, down.weight"]
    assert plain.notes == []
    assert exported.path.stat().st_size < 0.8 * plain.path.stat().st_size


@pytest.mark.parametrize("options", [{"backend": "portable"}, {"backend": "xnnpack"}], ids=["portable", "xnnpack"])
def test_external_weights_are_all_outside_and_used(
    made: Callable[..., tuple[Any, Exported]], options: dict[str, Any]
) -> None:
    source, exported = made(cnn, external_weights=True, **options)
    assert [path.name for path in exported.files] == ["m.pte", "m.ptd"]
    _, whole = made(cnn, **options)
    assert torch.equal(run(*exported.files[:1], source.args, exported.files[1]), run(whole.path, source.args))
    # The folded stem filter is in one file, and only there.
    weights, program = exported.files[1].read_bytes(), exported.path.read_bytes()
    state = source.program.state_dict
    filters = state["features.0.weight"].detach()
    if options["backend"] == "xnnpack":
        scale = state["features.1.weight"] / torch.sqrt(state["features.1.running_var"] + 1e-5)
        filters = (filters * scale[:, None, None, None]).detach().permute(0, 2, 3, 1).contiguous()
    wanted = filters[0].flatten()[:4].numpy()

    def holds(data: bytes) -> bool:
        values = np.frombuffer(data[: len(data) // 4 * 4], np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(values, 4)
        return bool(np.isclose(windows, wanted, rtol=1e-5).all(axis=1).any())

    assert holds(weights)
    assert not holds(program)


def test_calibration_inputs_set_the_ranges(tmp_path: Path, small: Any) -> None:
    narrow = replace(small, calibration=[(small.args[0] * 0.01,)])
    assert export_executorch(small, tmp_path / "m.pte", quantize="int8").notes == []
    export_executorch(narrow, tmp_path / "narrow.pte", quantize="int8")
    good, bad = (error(run(tmp_path / n, small.args), reference(linear, small.args)) for n in ("m.pte", "narrow.pte"))
    assert good < 0.1
    assert bad > 0.5


def test_example_inputs_stand_in_for_calibration_inputs(small: Any) -> None:
    inputs, warning = replace(small, calibration=None).calibration_inputs()
    assert inputs == [small.args]
    assert warning is not None
    assert "calibration inputs" in warning
    assert small.calibration_inputs()[1] is None


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "are empty"),
        ([torch.zeros(4, 8)], "input 0 is a Tensor; it must be a tuple of 1"),
        ([(1, 2)], "input 0 is a tuple of 2"),
        ([(torch.zeros(4, 9),)], "calibrate with input 0: RuntimeError"),
    ],
)
def test_bad_calibration_inputs(tmp_path: Path, small: Any, calibration: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export_executorch(replace(small, calibration=calibration), tmp_path / "m.pte", quantize="int8")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_quantize(tmp_path: Path, source: Any) -> None:
    graph = torch.export.export(torch.nn.Linear(20, 4), (torch.zeros(1, 20),))
    with pytest.raises(ExportError, match="multiple of 32"):
        export_executorch(replace(source, program=graph), tmp_path / "m.pte", quantize="int4")
    graph = torch.export.export(torch.nn.Embedding(20, 4), (torch.zeros(1, 2, dtype=torch.int64),))
    embedding = replace(source, program=graph, args=(torch.zeros(1, 2, dtype=torch.int64),), calibration=None)
    with pytest.raises(ExportError, match="no layer that XNNPACK can run in int8"):
        export_executorch(embedding, tmp_path / "m.pte", quantize="int8")


def test_program_that_cannot_run_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from corelocker.exporting import to_executorch

    monkeypatch.setattr(to_executorch, "_unshare", lambda graph: None)  # then XNNPACK refuses the shared bias
    with pytest.raises(ExportError, match=r"cannot run the exported program: .*xnn_status_invalid_parameter"):
        export_executorch(load_model("test_export:shared_conv"), tmp_path / "m.pte", quantize="int8")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


# --- Core ML -------------------------------------------------------------------------------------


def package_weights(package: Path) -> dict[str, Any]:
    """Constants of two or more dimensions as (MIL data type, shape, raw bytes), and int8 ones with their scales."""
    from coremltools.proto import Model_pb2

    data = package / "Data" / "com.apple.CoreML"
    spec = Model_pb2.Model()
    spec.ParseFromString((data / "model.mlmodel").read_bytes())
    blob = (data / "weights" / "weight.bin").read_bytes()
    function = spec.mlProgram.functions["main"]
    found: dict[str, Any] = {"spec": spec}
    for operation in function.block_specializations[function.opset].operations:
        for name, value in operation.attributes.items():
            if value.WhichOneof("value") == "blobFileValue":
                sentinel, _, size, offset = struct.unpack_from("<IIQQ", blob, value.blobFileValue.offset)
                assert sentinel == 0xDEADBEEF
                shape = [d.constant.size for d in value.type.tensorType.dimensions]
                found[f"{operation.outputs[0].name}.{name}"] = (operation.type, shape, blob[offset : offset + size])
    return found


@pytest.mark.parametrize(
    ("precision", "quantize", "tolerance"), [("fp32", None, 1e-6), ("fp16", None, 2e-3), ("fp16", "int8", 2e-2)]
)
def test_package_holds_the_folded_weights(
    tmp_path: Path, source: Any, precision: Any, quantize: Any, tolerance: float
) -> None:
    exported = export_coreml(source, tmp_path / "m.mlpackage", precision=precision, quantize=quantize)
    names = {str(p.relative_to(exported.path)) for p in exported.path.rglob("*") if p.is_file()}
    data = "Data/com.apple.CoreML"
    assert names == {"Manifest.json", f"{data}/model.mlmodel", f"{data}/weights/weight.bin"}
    weights = package_weights(exported.path)
    spec = weights.pop("spec")
    assert spec.specificationVersion == 7  # iOS 16
    assert not any("date" in key for key in spec.description.metadata.userDefined)
    assert [o.type.multiArrayType.dataType for o in spec.description.output] == [65568]  # float32

    state = source.program.state_dict
    folded = {}
    for conv, norm in ((0, 1), (3, 4), (6, 7)):
        scale = state[f"features.{norm}.weight"] / torch.sqrt(state[f"features.{norm}.running_var"] + 1e-5)
        folded[conv] = (state[f"features.{conv}.weight"] * scale[:, None, None, None]).detach().numpy()
    for weight in (*folded.values(), state["classifier.weight"].detach().numpy()):
        assert any(
            np.abs(stored - weight).max() < tolerance * np.abs(weight).max()
            for stored in dequantized(weights, precision, quantize)
            if stored.shape == weight.shape
        )


def dequantized(weights: dict[str, Any], precision: str, quantize: str | None) -> Iterator[Any]:
    floats = np.float32 if precision == "fp32" else np.float16
    for name, (kind, shape, raw) in weights.items():
        if kind == "const" and quantize is None:
            yield np.frombuffer(raw, floats).reshape(shape).astype(np.float32)
        elif name.endswith(".quantized_data"):
            scale = np.frombuffer(weights[name.replace(".quantized_data", ".scale")][2], floats).astype(np.float32)
            values = np.frombuffer(raw, np.int8).reshape(shape).astype(np.float32)
            yield values * scale.reshape(-1, *[1] * (values.ndim - 1))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_package_computes_what_the_module_computes(tmp_path: Path, precision: Any, tolerance: float) -> None:
    from corelocker.audit.mlprogram import MlProgramEvaluator

    text_source = load_model("test_export:transformer")
    exported = export_coreml(text_source, tmp_path / "m.mlpackage", precision=precision)
    (found,) = MlProgramEvaluator(exported.path).run({"tokens": text_source.args[0].int()}).values()
    assert error(found, reference(transformer, text_source.args)) < tolerance


def test_operators_that_coremltools_lacks_are_decomposed(tmp_path: Path, source: Any) -> None:
    module, args = torch.nn.LSTM(8, 16, batch_first=True).eval(), (torch.randn(1, 3, 8),)
    lstm = replace(source, program=torch.export.export(module, args), args=args)
    weights = package_weights(export_coreml(lstm, tmp_path / "m.mlpackage", precision="fp32").path)
    wanted = module.weight_ih_l0.detach().numpy().tobytes()
    assert any(raw == wanted for name, found in weights.items() if name != "spec" for raw in found[2:])


def test_core_ml_names_the_operator_that_it_lacks(tmp_path: Path, source: Any) -> None:
    class Fft(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.fft.rfft(x).abs()

    program = torch.export.export(Fft(), (torch.zeros(1, 8),))
    with pytest.raises(ExportError, match=r"convert to Core ML: .*rfft"):
        export_coreml(replace(source, program=program), tmp_path / "m.mlpackage")
    assert list(tmp_path.iterdir()) == []


# --- both ----------------------------------------------------------------------------------------

TARGETS = (
    ExportTarget("m", "executorch", quantize="int8", external_weights=True),
    ExportTarget("m", "coreml", quantize="int8"),
    ExportTarget("portable", "executorch", backend="portable"),
)


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    """In another process, with another hash seed, in another order. And nothing is printed there."""
    script = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from corelocker.exporting import *\n"
        "source = load_model('test_export:cnn'); import test_export\n"
        f"for target in test_export.TARGETS[::-1]: export_target(source, target, Path({str(tmp_path / 'there')!r}))\n"
    )
    path = os.pathsep.join([str(ROOT / "sdk" / "python"), str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": path}
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    source = load_model("test_export:cnn")
    for target in TARGETS:
        export_target(source, target, tmp_path / "here")
    output, _ = child.communicate(timeout=120)
    assert (child.returncode, output) == (0, "")
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert len(here) == 6
    assert here == there


def test_existing_output_stays(tmp_path: Path, small: Any) -> None:
    (tmp_path / "m.pte").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        export_executorch(small, tmp_path / "m.pte", backend="portable")
    assert (tmp_path / "m.pte").read_bytes() == b"mine"
    export_executorch(small, tmp_path / "m.pte", backend="portable", force=True)
    assert (tmp_path / "m.pte").stat().st_size > 1000


def test_target_folder_that_cannot_be_written(tmp_path: Path, small: Any) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileAccessError):
        export_executorch(small, tmp_path / "file" / "m.pte", backend="portable")


def test_progress_names_every_step(tmp_path: Path, small: Any) -> None:
    seen: list[tuple[str, int, int]] = []
    export_executorch(small, tmp_path / "m.pte", quantize="int8", progress=lambda *step: seen.append(step))
    assert [name for name, done, total in seen if done == total] == [
        "prepare int8",
        *["calibrate"] * 1,
        "convert to int8",
        "torch.export of the quantized graph",
        "lower to XNNPACK",
        "write m.pte",
        "run m.pte",
    ]
    assert ("calibrate", 3, 8) in seen


@pytest.mark.parametrize("module", ["executorch.exir", "coremltools"])
def test_missing_extra(tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    target = ExportTarget("m", "coreml" if module == "coremltools" else "executorch")
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'corelocker[export]'")):
        export_target(source, target, tmp_path)


# --- loading -------------------------------------------------------------------------------------


def test_factory_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corelocker_test_models").mkdir()
    (tmp_path / "corelocker_test_models" / "nets.py").write_text(
        "import torch\nclass Make:\n  @staticmethod\n  def net():\n    return torch.nn.Linear(3, 2).train(), (torch.ones(1, 3),)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    one, two = (load_model("corelocker_test_models.nets:Make.net") for _ in range(2))
    assert one.calibration is None
    assert torch.equal(one.program.state_dict["weight"], two.program.state_dict["weight"]), "seeded"


def test_factory_module_is_put_into_inference_mode(tmp_path: Path) -> None:
    source = load_model("test_export:training_cnn")
    exported = export_executorch(source, tmp_path / "m.pte", backend="portable")
    assert error(run(exported.path, source.args), reference(cnn, source.args)) < 1e-5


FACTORIES = """
import torch
linear, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
class Branch(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
class Drop(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, training=True)
def module_only(): return linear
def one(): return (linear,)
def not_module(): return (lambda x: x), (x,)
def not_tuple(): return linear, x
def no_inputs(): return linear, ()
def tensor_calibration(): return linear, (x,), x
def raises(): raise KeyError("weights")
def exits(): raise SystemExit(3)
def argument(size): return linear, (x,)
def branch(): return Branch(), (x,)
def drop(): return Drop(), (x,)
def shape(): return linear, (torch.ones(1, 4),)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module_only", "returned a Linear, not .module, example_inputs."),
        ("one", "returned a tuple of 1"),
        ("not_module", "first value is a function, not a torch.nn.Module"),
        ("not_tuple", "example_inputs is a Tensor, not a tuple"),
        ("no_inputs", "example_inputs is empty"),
        ("tensor_calibration", "calibration_inputs is a Tensor"),
        ("raises", "the factory failed: KeyError: 'weights'"),
        ("exits", "the factory failed: SystemExit: 3"),
        ("argument", "the factory failed: TypeError: .*missing 1 required"),
        ("branch", "torch.export: .*data-dependent"),
        ("drop", "captured in training mode"),
        ("shape", "torch.export: RuntimeError"),
        ("linear", "is a Linear, not a factory"),
        ("nothing", "cannot be imported: AttributeError"),
    ],
)
def test_bad_factories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "corelocker_test_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("corelocker_test_factories", None)
    with pytest.raises(ExportError, match=message) as raised:
        load_model(f"corelocker_test_factories:{name}")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("spec", ["", "model", "no.such.module:factory", ":f", "m:", "no-such.module:f"])
def test_bad_specs(spec: str) -> None:
    with pytest.raises(ExportError):
        load_model(spec)


# --- .pt2 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_pt2_keeps_its_open_sizes(tmp_path: Path, pt2: Path, quantize: Any) -> None:
    source = load_model(str(pt2))
    exported = export_executorch(source, tmp_path / "m.pte", quantize=quantize)
    assert len(exported.notes) == (quantize is not None), "a .pt2 brings no calibration inputs"
    for batch in (1, 4):
        x = torch.randn(batch, 3, 8, 8)
        found = run(exported.path, (x,))
        assert found.shape == (batch, 10)
        assert error(found, reference(stem, (x,))) < (1e-5 if quantize is None else 0.2)


def rewrite(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change one record of an archive (or add it), leaving the others as they are."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(records)).split("/")[0]
    records[f"{root}/{name}"] = change(records.get(f"{root}/{name}", b""))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, data in records.items():
            archive.writestr(record, data)


def evil_pickle(marker: Path) -> bytes:
    return b"cbuiltins\nexec\n(V" + f"open({str(marker)!r}, 'w').close()".encode() + b"\ntR."


def test_rewritten_archive_still_loads(pt2: Path) -> None:
    rewrite(pt2, "models/model.json", lambda text: text)
    assert load_model(str(pt2)).args[0].shape == (2, 3, 8, 8)


def test_pt2_with_a_pickle_as_example_inputs_runs_nothing(tmp_path: Path, pt2: Path) -> None:
    marker = tmp_path / "ran"
    buffer = tmp_path / "inputs"

    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    torch.save(((Evil(),), {}), buffer)
    rewrite(pt2, "data/sample_inputs/model.pt", lambda _: buffer.read_bytes())
    with pytest.raises(ExportError, match=r"load model\.pt2"):
        load_model(str(pt2))
    assert not marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_pt2_with_a_pickled_constant_runs_nothing(tmp_path: Path, pt2: Path) -> None:
    marker = tmp_path / "ran"
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"x": entry}}).encode()
    rewrite(pt2, "data/constants/model_constants_config.json", lambda _: config)
    rewrite(pt2, "data/constants/opaque_obj_0", lambda _: evil_pickle(marker))
    with pytest.raises(ExportError, match="holds a pickled object"):
        load_model(str(pt2))
    assert not marker.exists()


def test_pt2_with_a_compiled_library_is_refused(pt2: Path) -> None:
    rewrite(pt2, "data/aotinductor/model/model.so", lambda _: b"\x7fELF")
    with pytest.raises(ExportError, match="holds a compiled library"):
        load_model(str(pt2))


@pytest.mark.parametrize("target", ["torch.ops.load_library", "torch.os.system", "_operator.call", "math.__loader__"])
def test_pt2_that_calls_a_function_is_refused(pt2: Path, target: str) -> None:
    rewrite(pt2, "models/model.json", lambda text: text.replace(b"torch.ops.aten.mean.dim", target.encode()))
    with pytest.raises(ExportError, match="which is not an operator"):
        load_model(str(pt2))


@pytest.mark.parametrize(
    "formula",
    ["exec('x')", "Symbol('__import__(1)')", "().__class__", "sympify('s0')", "Symbol", "(" * 5000, "[s for s in s]"],
)
def test_pt2_whose_size_is_code_is_refused(pt2: Path, formula: str) -> None:
    def change(text: bytes) -> bytes:
        changed = re.sub(rb'"expr_str": ?"[^"]*"', b'"expr_str": ' + json.dumps(formula).encode(), text)
        assert changed != text
        return changed

    rewrite(pt2, "models/model.json", change)
    with pytest.raises(ExportError):
        load_model(str(pt2))


def test_formulas_of_torch_are_formulas() -> None:
    from corelocker.exporting.pt2 import _is_formula

    for text in ("Symbol('s77', positive=True, integer=True)", "Mul(Integer(-2), Symbol('s0'))", "FloorDiv(s0, 2)"):
        assert _is_formula(text)


def test_pt2_in_training_mode_is_refused(tmp_path: Path) -> None:
    module, args = training_cnn()
    torch.export.save(torch.export.export(module, args), tmp_path / "m.pt2")
    with pytest.raises(ExportError, match="training mode"):
        load_model(str(tmp_path / "m.pt2"))


def test_damaged_pt2(pt2: Path) -> None:
    data = pt2.read_bytes()
    for damaged in (b"", b"hello", data[: len(data) // 2], data[:-30], b"PK\3\4" + bytes(100)):
        pt2.write_bytes(damaged)
        with pytest.raises(ExportError):
            load_model(str(pt2))
    generator = np.random.default_rng(0)
    for _ in range(10):
        flipped = bytearray(data)
        flipped[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        pt2.write_bytes(flipped)
        with contextlib.suppress(CoreLockerError):  # a flipped weight bit loads
            load_model(str(pt2))
    pt2.unlink()
    with pytest.raises(FileAccessError):
        load_model(str(pt2))


# --- corelocker.toml -----------------------------------------------------------------------------


def test_example_config() -> None:
    config = parse_config(EXAMPLE)
    assert config.factory == "tools.demo_model.fashion_mobilenet:calibrated"
    assert (config.model_id, config.model_version) == ("fashion-classifier", 3)
    assert config.lock is not None
    assert [(tier.name, tier.removed) for tier in config.lock.tiers or ()] == [
        ("free", 0.05),
        ("plus", 0.01),
        ("full", 0),
    ]
    assert (config.lock.exclude, config.lock.seed) == (("*classifier*",), None)
    assert (config.lock.keystore, config.lock.source) == (EXAMPLE.parent / "keys.json", None)
    assert (config.lock.fill, config.lock.scope, config.lock.criterion) == ("decoy", "layer", "l1")
    assert [target.filename for target in config.targets] == [
        "classifier.pte",
        "classifier-int8.pte",
        "classifier-portable.pte",
        "classifier.mlpackage",
    ]
    assert config.targets[1] == ExportTarget("classifier-int8", "executorch", backend="xnnpack", quantize="int8")
    assert config.targets[3].precision == "fp16"


def test_config_of_a_pt2_without_locking(tmp_path: Path) -> None:
    path = tmp_path / "corelocker.toml"
    path.write_text('[model]\nfactory = "m.pt2"\n[[target]]\nname = "m"\nformat = "executorch"\n')
    config = parse_config(path)
    assert config.factory == str(tmp_path / "m.pt2")
    assert config.lock is None
    assert config.targets == (ExportTarget("m", "executorch", backend="xnnpack"),)
    path.write_text(path.read_text().replace("[[target]]", 'id = "a"\nversion = 1\n[lock]\n[[target]]'))
    assert parse_config(path).lock == LockOptions()


MODEL = '[model]\nfactory = "a:b"\nid = "m"\nversion = 1\n'
TARGET = '[[target]]\nname = "m"\nformat = "executorch"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a section .model."),
        ("[model", "not TOML"),
        ("\xff", "not TOML"),
        (MODEL, r"at least one section \[\[target\]\]"),
        ("[model]\n" + TARGET, "needs the key 'factory'"),
        (MODEL + "[extra]\n" + TARGET, r"unknown section 'extra'; allowed are \[model\]"),
        (MODEL + "name = 1\n" + TARGET, r"\[model\]: unknown key 'name'; allowed are factory, id, version"),
        (MODEL.replace("= 1", '= "1"') + TARGET, "version is '1'; it must be a whole number"),
        (MODEL.replace("= 1", "= true") + TARGET, "version is True; it must be a whole number"),
        (MODEL.replace("= 1", "= -1") + TARGET, "version is -1; it must be between 0"),
        (MODEL + "[lock]\nexclude = [1]\n" + TARGET, r"exclude is \[1\]; it must be a list of strings"),
        (MODEL.replace('"m"', '"../m"') + TARGET, "id '../m' is not a name"),
        ("model = 3\n" + TARGET, r"\[model\] is 3, not a section"),
        (MODEL + "target = 3\n", "unknown key 'target'"),
        ("target = [1]\n" + MODEL, r"\[\[target\]\] 1 is 1, not a section"),
        ('[model]\nfactory = "a:b"\n[lock]\n' + TARGET, "needs the key 'id' for locking"),
        (MODEL + '[lock]\ncriterion = "l2"\n' + TARGET, "criterion is 'l2'; allowed are l1, bn-scale, random"),
        (MODEL + "[lock]\nfill = 0\n" + TARGET, "fill is 0; allowed are zero, decoy"),
        (MODEL + "[lock]\nconsumers = 1\n" + TARGET, "consumers is 1; it must be true or false"),
        (MODEL + "[lock]\nseed = 7\n" + TARGET, "seed is 7; it must be a string"),
        (MODEL + '[lock]\ntier = ""\n' + TARGET, r"\[lock\]: unknown key 'tier'; allowed are tiers, criterion"),
        (MODEL + TARGET.replace("executorch", "onnx"), "format is 'onnx'; allowed are executorch, coreml"),
        (MODEL + TARGET.replace('name = "m"\n', ""), "1: needs the key 'name'"),
        (MODEL + TARGET.replace('format = "executorch"\n', ""), r"needs the key 'format' .executorch \| coreml"),
        (MODEL + TARGET.replace('"m"', '"a/b"'), "'a/b' is not a file name"),
        (MODEL + TARGET + 'backend = "vulkan"\n', "backend is 'vulkan'; allowed are portable, xnnpack"),
        (MODEL + TARGET + 'quantize = "int3"\n', "quantize is 'int3'; allowed are int8, int4"),
        (MODEL + TARGET + 'quantize = "int8"\nbackend = "portable"\n', "quantize needs backend xnnpack"),
        (MODEL + TARGET + 'precision = "fp16"\n', "precision is for format coreml"),
        (MODEL + TARGET + "external_weights = 1\n", "external_weights is 1; it must be true or false"),
        (
            MODEL + TARGET.replace("executorch", "coreml") + 'quantize = "int4"\n',
            "quantize is 'int4'; allowed are int8",
        ),
        (MODEL + TARGET.replace("executorch", "coreml") + 'backend = "xnnpack"\n', "backend is for format executorch"),
        (MODEL + TARGET.replace("executorch", "coreml") + "external_weights = true\n", "external_weights is for"),
        (MODEL + TARGET + TARGET.replace('"m"', '"M"'), "2: another target writes M.pte too"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_bad_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "corelocker.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as raised:
        parse_config(path)
    assert str(raised.value).startswith(str(path))


def test_config_with_tiers_that_are_not_nested(tmp_path: Path) -> None:
    path = tmp_path / "corelocker.toml"
    path.write_text(MODEL + '[lock]\ntiers = "free=0.01,full=0.5"\n' + TARGET)
    with pytest.raises(TierError):
        parse_config(path)


def test_config_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError):
        parse_config(tmp_path / "none.toml")
    with pytest.raises(FileAccessError):
        parse_config(tmp_path)
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="larger than"):
        parse_config(tmp_path / "large.toml")


@pytest.mark.parametrize("name", ["m.bin", "m", "m.PTE"])
def test_output_needs_its_suffix(tmp_path: Path, source: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=r"must be named m\.pte"):
        export_executorch(source, tmp_path / name, backend="portable")
