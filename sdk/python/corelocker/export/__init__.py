"""Exporting a torch model to the files that phones run (extra `export`).

Owns loading the model (`load_model`), the two exporters (`export_executorch`, `export_coreml`), and what a build asks for
(`ExportTarget`, `parse_config`). Exporters are silent and deterministic, and write all of their files or none. torch,
ExecuTorch and coremltools are imported when a function needs them, never by importing this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from corelocker.export._steps import Progress, no_progress
from corelocker.export.config import (
    Backend,
    ExportConfig,
    ExportTarget,
    LockOptions,
    PackageQuantize,
    Precision,
    parse_config,
)
from corelocker.export.result import Exported
from corelocker.export.source import ExportSource, load_model
from corelocker.export.to_coreml import export_coreml
from corelocker.export.to_executorch import export_executorch

__all__ = [
    "ExportConfig",
    "ExportSource",
    "ExportTarget",
    "Exported",
    "LockOptions",
    "Progress",
    "export_coreml",
    "export_executorch",
    "export_target",
    "load_model",
    "parse_config",
]


def export_target(
    source: ExportSource, target: ExportTarget, folder: Path, *, force: bool = False, progress: Progress = no_progress
) -> Exported:
    """Write one target into `folder` under its own file name. Raises what the exporters raise."""
    out = folder / target.filename
    if target.format == "coreml":
        precision, package_quantize = cast(Precision, target.precision), cast(PackageQuantize | None, target.quantize)
        return export_coreml(
            source, out, precision=precision, quantize=package_quantize, force=force, progress=progress
        )
    return export_executorch(
        source,
        out,
        backend=cast(Backend, target.backend),
        quantize=target.quantize,
        external_weights=target.external_weights,
        force=force,
        progress=progress,
    )
