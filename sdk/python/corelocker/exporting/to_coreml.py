"""Converting to a Core ML `.mlpackage` (mlprogram)."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from corelocker.exporting._steps import need, step
from corelocker.exporting.config import ExportTarget, PackageQuantize, Precision
from corelocker.exporting.result import Exported, check_output, kept_float, write_outputs
from corelocker.exporting.source import ExportSource
from corelocker.progress import Progress, no_progress

AUTHOR = "com.apple.CoreML"
CONVERSION_DATE = "com.github.apple.coremltools.conversion_date"
ITEMS = uuid.UUID("6e0c3a6e-2f55-5a3e-9c41-6d1f0b7a52c8")  # namespace of the identifiers in Manifest.json
WEIGHTED = {  # operator -> the input that holds its weight
    "conv": "weight",
    "conv_transpose": "weight",
    "linear": "weight",
    "matmul": "y",
    "gather": "x",
}


def export_coreml(
    source: ExportSource,
    out: Path,
    *,
    precision: Precision = "fp16",
    quantize: PackageQuantize | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Exported:
    """Write a model as a Core ML mlprogram package for iOS 16 and macOS 13 or later. The same source gives the same bytes.

    Args:
        source: from `load_model`.
        out: the `.mlpackage` folder.
        precision: of weights and computation. Floating-point outputs are float32 either way.
        quantize: "int8": weights symmetric per output channel; activations stay as `precision` says.
        force: replace an output that exists.
        progress: called at each step.

    Returns the package and what the user should know: weights that stay float.

    Raises MissingExtraError, ConfigError, ExportError naming the step that failed, OutputExistsError, FileAccessError.
    """
    target = ExportTarget(out.stem, "coreml", precision=precision, quantize=quantize)
    check_output(out, target.filename, force=force)
    need("coremltools")
    notes: list[str] = []
    with step("convert to Core ML", progress):
        model = _convert(source.program, precision)
    if quantize is not None:
        with step("quantize to int8", progress):
            model = _int8(model, notes)
    spec = model.get_spec()
    spec.description.metadata.userDefined.pop(CONVERSION_DATE, None)
    weights = Path(model.weights_dir) / "weight.bin" if model.weights_dir else None

    def write(folder: Path) -> None:
        _write_package(folder / out.name, spec.SerializeToString(deterministic=True), weights)

    return Exported(write_outputs(out, write, force=force, progress=progress), notes)


def _convert(program: Any, precision: Precision) -> Any:
    """Convert the graph with as few decompositions as possible: that keeps whole layers, which Core ML runs best.

    Where coremltools lacks an operator (RMSNorm, LSTM) the graph in core operators may still pass.
    """
    try:
        return _convert_graph(program.run_decompositions({}), precision)
    except (NotImplementedError, ValueError, RuntimeError):
        try:
            return _convert_graph(program.run_decompositions(), precision)
        except (NotImplementedError, ValueError, RuntimeError):
            pass  # about operators that the user has never heard of
        raise


def _convert_graph(program: Any, precision: Precision) -> Any:
    import coremltools
    import numpy as np

    _complete_pooling(program)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    outputs = []
    for name in program.graph_signature.user_outputs:
        is_float = getattr(values.get(name), "is_floating_point", lambda: False)()
        outputs.append(coremltools.TensorType(dtype=np.float32) if is_float else coremltools.TensorType())
    return coremltools.convert(
        program,
        convert_to="mlprogram",
        outputs=outputs,
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT16 if precision == "fp16" else coremltools.precision.FLOAT32,
        skip_model_load=True,
    )


def _complete_pooling(program: Any) -> None:
    """coremltools wants a stride in every max_pool; torch leaves it out where it is the kernel size."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.name.startswith("aten::max_pool"):
            kernel, *given = node.args[1:]
            if not given or not given[0]:
                node.args = (node.args[0], kernel, kernel, *given[1:])


def _int8(model: Any, notes: list[str]) -> Any:
    """Quantize the weights of layers by name: a size threshold alone would take biases and norms along, and miss small layers."""
    optimize = need("coremltools.optimize.coreml")
    weights, others = _stored_weights(model.get_spec())
    config = optimize.OptimizationConfig()
    settings = optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0
    )
    for name in weights:
        config.set_op_name(name, settings)
    notes += kept_float(others)
    return optimize.linear_quantize_weights(model, config=config)


def _stored_weights(spec: Any) -> tuple[list[str], list[str]]:
    """Names of the constants in weight.bin with two or more dimensions: those that are a layer's weight, and the others."""
    stored: dict[str, None] = {}
    weights: dict[str, None] = {}
    for operation in _operations(spec):
        if operation.type == "const":
            value = operation.attributes["val"]
            if value.WhichOneof("value") == "blobFileValue" and len(value.type.tensorType.dimensions) >= 2:
                stored[operation.outputs[0].name] = None
        elif operation.type in WEIGHTED:
            for argument in operation.inputs[WEIGHTED[operation.type]].arguments:
                weights[argument.name] = None
    return [name for name in stored if name in weights], [name for name in stored if name not in weights]


def _operations(spec: Any) -> Iterator[Any]:
    """Every operation of every block, in order."""
    for function in spec.mlProgram.functions.values():
        todo = list(function.block_specializations.values())
        while todo:
            block = todo.pop()
            for operation in block.operations:
                yield operation
                todo += operation.blocks


def _write_package(package: Path, spec: bytes, weights: Path | None) -> None:
    """Lay out an .mlpackage. coremltools would add random identifiers and a table of the network's debug handles."""
    data = package / "Data" / AUTHOR
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(spec)
    items = {"model.mlmodel": "CoreML Model Specification"}
    if weights is not None and weights.exists():
        (data / "weights").mkdir()
        shutil.copyfile(weights, data / "weights" / "weight.bin")
        items["weights"] = "CoreML Model Weights"
    model = sha256(spec).hexdigest()  # of the public part: nothing here depends on a weight
    identifiers = {name: str(uuid.uuid5(ITEMS, f"{model}/{name}")) for name in items}
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[name]: {"author": AUTHOR, "description": description, "name": name, "path": f"{AUTHOR}/{name}"}
            for name, description in items.items()
        },
        "rootModelIdentifier": identifiers["model.mlmodel"],
    }
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n")
