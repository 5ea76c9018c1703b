"""One target: the exporter that writes it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from corelocker.exporting.config import Backend, ExportTarget, PackageQuantize, Precision
from corelocker.exporting.result import Exported
from corelocker.exporting.source import ExportSource
from corelocker.exporting.to_coreml import export_coreml
from corelocker.exporting.to_executorch import export_executorch
from corelocker.progress import Progress, no_progress


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
