"""Exporting a torch model to the files that phones run (extra `export`).

`parse_config` and `ExportTarget` say what a build asks for. `load_model` loads the model. `export_target`,
`export_executorch` and `export_coreml` are the exporters. `export` is the whole build. Exporters are silent and
deterministic. They write all of their files or none. torch, ExecuTorch and coremltools are imported when a function
needs them, never by importing this package.
"""

from corelocker.exporting.build import ExportResult, export
from corelocker.exporting.config import ExportConfig, ExportTarget, parse_config
from corelocker.exporting.result import Exported
from corelocker.exporting.source import ExportSource, load_model
from corelocker.exporting.target import export_target
from corelocker.exporting.to_coreml import export_coreml
from corelocker.exporting.to_executorch import export_executorch

__all__ = [
    "ExportConfig",
    "ExportResult",
    "ExportSource",
    "ExportTarget",
    "Exported",
    "export",
    "export_coreml",
    "export_executorch",
    "export_target",
    "load_model",
    "parse_config",
]
