"""The demo's ExecuTorch programs as our exporter writes them.

Each takes half a minute of a processor, so `tests/data/demo_exports` keeps them, with a digest of everything that they depend on.
Where that digest is another one the exporter runs again, and `.cache/exports` keeps what it makes. `make exports` makes
`tests/data/demo_exports` anew.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import shutil
from pathlib import Path

from corelocker.exporting import ExportTarget, export_target, load_model

from support.models.exports import CACHE, ROOT
from tools.demo_model.demo import FACTORY

KEPT = ROOT / "tests/data/demo_exports"
DIGEST = KEPT / "digest.txt"
TARGETS = (ExportTarget("fashion_fp32", "executorch"), ExportTarget("fashion_int8", "executorch", quantize="int8"))


def demo_programs() -> Path:
    """The folder that holds `fashion_fp32.pte` and `fashion_int8.pte`."""
    if is_current():
        return KEPT
    folder = CACHE / f"demo-{digest()}"
    _export(folder, [target for target in TARGETS if not (folder / target.filename).exists()])
    return folder


def is_current() -> bool:
    """Whether what is kept was made by this model and this exporter."""
    return DIGEST.exists() and DIGEST.read_text().strip() == digest()


@functools.cache
def digest() -> str:
    """Of everything that an export depends on, 16 hexadecimal digits."""
    sha256 = hashlib.sha256(FACTORY.encode())
    for package in ("torch", "executorch", "torchao"):
        sha256.update(importlib.metadata.version(package).partition("+")[0].encode())  # "+cpu" exports the same
    exporting, model = ROOT / "sdk/python/corelocker/exporting", ROOT / "tools/demo_model"
    for source in (
        Path(__file__), exporting / "source.py", exporting / "to_executorch.py", model / "fashion_mobilenet.py",
        model / "data/fashion_mobilenet.safetensors", model / "data/fashion_calibration_100.npz",
    ):  # fmt: skip
        sha256.update(hashlib.sha256(source.read_bytes()).digest())
    return sha256.hexdigest()[:16]


def _export(folder: Path, targets: list[ExportTarget]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = load_model(FACTORY)
    for target in targets:
        export_target(source, target, folder, force=True)


def main() -> None:
    """Make both anew."""
    shutil.rmtree(KEPT, ignore_errors=True)
    _export(KEPT, list(TARGETS))
    DIGEST.write_text(f"{digest()}\n")


if __name__ == "__main__":
    main()
