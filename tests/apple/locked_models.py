"""The models of the end-to-end tests: the demo model for both runtimes, and a small one for each encoding of weights.

What is exported for Core ML is kept in the build folder until what makes it changes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from corelocker.artifacts import open_artifact
from corelocker.bundle.keystore import Keystore
from corelocker.exporting import ExportTarget, export_target, load_model
from support.models import coreml_models, demo_exports, exports

from tools.demo_model.demo import DATA, FACTORY

ROOT = Path(__file__).resolve().parents[2]
# Each encoding whose signs a lock can take, in either kind of file.
SIGNED = {
    "fp32.pte": ("mobilenet", "xnnpack"),
    "fp16.pte": ("gated", "half"),
    "int8.pte": ("mobilenet", "int8"),
    "int4.pte": ("gated", "int4"),
    "fp32.mlpackage": "fp32",
    "fp16.mlpackage": "fp16",
    "int8.mlpackage": "int8-ios18",
    "int4.mlpackage": "int4-block",
    "lut4.mlpackage": "lut4-ios16",
}
CHECKPOINT = DATA / "fashion_mobilenet.safetensors"
PUBLISHED = ("unified_palette_4bit.mlpackage", "unified_palette_4bit.mlmodelc")
PASSPHRASE = "end-to-end"
IMAGES = 400


def corelocker(*arguments: str, unmeasured: Path) -> None:
    """Runs the command as if ExecuTorch were not installed: what a lock is worth takes minutes to measure, and other tests do."""
    unmeasured.mkdir(exist_ok=True)
    (unmeasured / "sitecustomize.py").write_text('import sys\n\nsys.modules["executorch"] = None\n')
    path = os.pathsep.join((str(unmeasured), str(ROOT / "sdk/python")))
    environment = os.environ | {"CORELOCKER_PASSPHRASE": PASSPHRASE, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-m", "corelocker", *arguments], check=True, env=environment, cwd=ROOT)


def _key() -> str:
    sources = [Path(__file__), *sorted((ROOT / "sdk/python/corelocker/exporting").rglob("*.py"))]
    sources += [*sorted((ROOT / "tools/demo_model").rglob("*.py")), Path(coreml_models.__file__)]
    digest = hashlib.sha256((demo_exports.digest() + importlib.metadata.version("coremltools")).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def originals(folder: Path) -> Path:
    """The folder, with what `lock` locks: a folder for each key bundle."""
    mark = folder / "key"
    if not mark.exists() or mark.read_text() != _key():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "demo").mkdir(parents=True)
        for target in demo_exports.TARGETS:
            shutil.copy(demo_exports.demo_programs() / target.filename, folder / "demo")
        export_target(load_model(FACTORY), ExportTarget("fashion", "coreml"), folder / "demo", force=True)
        (folder / "signs").mkdir()
        for name, variant in SIGNED.items():
            if isinstance(variant, str):
                shutil.copytree(coreml_models.package("cnn", variant), folder / "signs" / name)
            else:
                shutil.copy(exports.exported(*variant), folder / "signs" / name)
        (folder / "dist").mkdir()
        shutil.copy(CHECKPOINT, folder / "dist")
        for name in PUBLISHED:
            shutil.copytree(ROOT / "tests/data/coreml" / name, folder / "coreml" / name)
        mark.write_text(_key())
    return folder


def lock(folder: Path, kept: Path) -> Keystore:
    """Locks what is in each folder of `kept` into the folder of that name in `folder`."""
    keystore = folder / "keys.json"
    unmeasured = folder / "unmeasured"
    corelocker("keystore", "init", str(keystore), unmeasured=unmeasured)
    three = "free=0.045,plus=0.01,full=0"
    for name, model_id, arguments in (
        ("dist", "demo", ["--tiers", three]),
        ("coreml", "palette", ["--tiers", "free=0.5,full=0"]),
        ("demo", "fashion", ["--tiers", three, "--criterion", "bn-scale", "--source", str(CHECKPOINT)]),
        ("signs", "signs", ["--tiers", "free=1,full=0", "--unit", "sign", "--include-io"]),
    ):
        files = [str(path) for path in sorted((kept / name).iterdir())]
        corelocker("lock", *files, "--out", str(folder / name), "--model-id", model_id, "--model-version", "1",
                   "--require", "none", "--keystore", str(keystore), *arguments, unmeasured=unmeasured)  # fmt: skip
    return Keystore.open(keystore, PASSPHRASE.encode())


def write_images(folder: Path) -> None:
    """images.f32 (IMAGES, 1, 28, 28) and labels.u8 for the Swift tests."""
    x, y = images()
    (folder / "images.f32").write_bytes(x.tobytes())
    (folder / "labels.u8").write_bytes(y.tobytes())


def images() -> tuple[np.ndarray, np.ndarray]:
    with np.load(DATA / "fashion_test_2000.npz") as data:
        chosen = np.linspace(0, len(data["y"]) - 1, IMAGES).astype(np.int64)  # they are sorted by their labels
        return data["x"][chosen].astype(np.float32)[:, None] / 255, data["y"][chosen]


def accuracy(package: Path, weights: bytes) -> float:
    """Top-1 in percent of a Core ML package with other weights, by the Linux evaluator."""
    import torch
    from corelocker.audit.mlprogram import MlProgramEvaluator

    torch.set_num_threads(1)
    x, y = images()
    program = MlProgramEvaluator(package, weights)
    (name,) = program.inputs
    (logits,) = program.batch({name: torch.from_numpy(x)}).values()
    return 100 * float((logits.reshape(len(y), -1).argmax(dim=1).numpy() == y).mean())


def weight_files(package: Path) -> list[str]:
    return [file.name for file in open_artifact(package).files]
