"""Lowering to an ExecuTorch `.pte`: portable kernels or the XNNPACK delegate, float32, int8 or 4-bit."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

from corelocker.errors import ExportError
from corelocker.exporting._steps import need, step
from corelocker.exporting.config import Backend, ExportTarget, PteQuantize
from corelocker.exporting.result import Exported, check_output, kept_float, write_outputs
from corelocker.exporting.source import ExportSource
from corelocker.progress import Progress, no_progress

GROUP = 32  # weights of a row that share a 4-bit scale


def export_executorch(
    source: ExportSource,
    out: Path,
    *,
    backend: Backend = "xnnpack",
    quantize: PteQuantize | None = None,
    external_weights: bool = False,
    force: bool = False,
    progress: Progress = no_progress,
) -> Exported:
    """Write a model as an ExecuTorch program. The same source gives the same bytes.

    Args:
        source: from `load_model`.
        out: the `.pte`; with `external_weights` a `.ptd` of the same stem lies beside it.
        backend: "portable" (the reference kernels) or "xnnpack" (delegated where XNNPACK has the operator).
        quantize: needs XNNPACK. "int8": weights symmetric per channel, activations per tensor with ranges from the
            calibration inputs (PyTorch 2 export quantization). "int4": the weights of linear layers in groups of 32 along
            the input, symmetric, activations quantized to 8 bits while running (8da4w); every other layer stays float.
        external_weights: keep the weights outside the program.
        force: replace outputs that exist.
        progress: called at each step.

    Returns the files and what the user should know: layers that stay float, missing calibration inputs.

    Raises MissingExtraError, ConfigError for options that exclude each other, ExportError naming the step that failed,
    OutputExistsError, FileAccessError.
    """
    target = ExportTarget(out.stem, "executorch", backend=backend, quantize=quantize, external_weights=external_weights)
    check_output(out, target.filename, force=force)
    for module in ("torch", "executorch.exir"):
        need(module)
    notes: list[str] = []
    program = source.program
    if quantize == "int8":
        program = _requantized(source, _int8(source, notes, progress), progress)
    elif quantize == "int4":
        program = _requantized(source, _int4(source, notes, progress), progress)
    lowered = _lower(program, backend, out.stem if external_weights else None, progress)

    def write(folder: Path) -> None:
        with open(folder / out.name, "wb") as file:
            lowered.write_to_file(file)
        lowered.write_tensor_data_to_file(str(folder))

    def check(folder: Path) -> None:
        _check_runs(folder / out.name, source, progress)

    return Exported(write_outputs(out, write, check=check, force=force, progress=progress), notes)


def _lower(program: Any, backend: Backend, weights_file: str | None, progress: Progress) -> Any:
    need("executorch.exir")
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    partitioners = []
    if backend == "xnnpack":
        partitioners = [need("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()]
    with step(f"lower to {'XNNPACK' if backend == 'xnnpack' else 'portable kernels'}", progress):
        config = EdgeCompileConfig(_check_ir_validity=False)
        edge = to_edge_transform_and_lower(program, partitioner=partitioners, compile_config=config)
        if weights_file is None:
            return edge.to_executorch()
        # ExecuTorch's own way of tagging a delegate's weights works on the graph before lowering and so misses every
        # convolution that a BatchNorm is folded into afterwards. What the delegates hold by now is all of it.
        store = edge._named_data_store
        store.external_data.setdefault(weights_file, {}).update(store.pte_data)
        store.pte_data = {}
        return edge.to_executorch(ExecutorchBackendConfig(external_constants=lambda node: weights_file))


def _check_runs(program: Path, source: ExportSource, progress: Progress) -> None:
    """Run the file once on the example inputs: XNNPACK refuses some programs only when they are loaded."""
    import torch
    from torch.utils import _pytree as pytree

    runtime = need("executorch.extension.pybindings.portable_lib")
    weights = program.with_suffix(".ptd")
    inputs = pytree.tree_leaves((source.args, source.kwargs))
    with step(f"run {program.name}", progress) as held, torch.no_grad():
        try:
            runtime._load_for_executorch(str(program), str(weights) if weights.exists() else None).forward(inputs)
        except RuntimeError as error:
            reason = next((line for line in held.lines if "cpuinfo" not in line), str(error))
            raise ExportError(f"run {program.name}: ExecuTorch cannot run the exported program: {reason}") from error


def _int8(source: ExportSource, notes: list[str], progress: Progress) -> Any:
    """The program's graph with fixed int8 quantization around every operator that XNNPACK has in int8."""
    import torch

    xnnpack = need("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    pt2e = need("torchao.quantization.pt2e.quantize_pt2e")
    inputs, warning = source.calibration_inputs()
    if warning is not None:
        notes.append(warning)
    with step("prepare int8", progress), torch.no_grad():
        quantizer = xnnpack.XNNPACKQuantizer()
        quantizer.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
        graph = source.program.module(check_guards=False)
        _unshare(graph)
        graph = pt2e.prepare_pt2e(graph, quantizer)
    for index, args in enumerate(inputs):
        with step(f"calibrate with input {index}"), torch.no_grad():
            graph(*args, **source.kwargs)
        progress("calibrate", index + 1, len(inputs))
    with step("convert to int8", progress), torch.no_grad():
        graph = pt2e.convert_pt2e(graph)
    quantized = {
        torch.ops.quantized_decomposed.dequantize_per_channel.default,
        torch.ops.quantized_decomposed.dequantize_per_tensor.default,
    }
    if not any(node.target in quantized and node.args[0].op == "get_attr" for node in graph.graph.nodes):
        raise ExportError("convert to int8: the model has no layer that XNNPACK can run in int8")
    notes += kept_float(_float_weights(graph))
    return graph


def _unshare(graph: Any) -> None:
    """Give every layer its own copy of a shared weight or bias.

    A bias is quantized with the scale of the layer's input. One that two layers share cannot have both scales, and XNNPACK
    refuses the program. Equal tensors are stored once, whatever their names.
    """
    for node in [n for n in graph.graph.nodes if n.op == "get_attr"]:
        layers = [user for user in list(node.users)[1:] if str(user.target).startswith(("aten.conv", "aten.linear"))]
        for index, user in enumerate(layers):
            value = reduce(getattr, node.target.split("."), graph)
            name = f"{node.target.replace('.', '_')}_use_{index + 2}"
            graph.register_buffer(name, value.detach().clone())
            with graph.graph.inserting_before(user):
                copy = graph.graph.get_attr(name)
            copy.meta = dict(node.meta)
            user.replace_input_with(node, copy)
    graph.recompile()


def _int4(source: ExportSource, notes: list[str], progress: Progress) -> Any:
    """The program's graph with the weight of every linear layer replaced by a 4-bit one, where groups of 32 fit its rows."""
    import torch

    with step("quantize to 4 bits", progress), torch.no_grad():
        graph = source.program.module(check_guards=False)
        quantized: dict[str, str] = {}
        for node in list(graph.graph.nodes):
            if node.target is not torch.ops.aten.linear.default or node.args[1].op != "get_attr":
                continue
            name = node.args[1].target
            weight = reduce(getattr, name.split("."), graph)
            if weight.shape[1] % GROUP:
                continue
            if name not in quantized:
                quantized[name] = f"int4_{len(quantized)}"
                graph.register_parameter(quantized[name], _four_bits(weight))
            with graph.graph.inserting_before(node):
                node.update_arg(1, graph.graph.get_attr(quantized[name]))
            node.target = torch.nn.functional.linear  # the form that torchao's quantized tensors take part in
        graph.graph.eliminate_dead_code()
        graph.delete_all_unused_submodules()
        graph.recompile()
    if not quantized:
        raise ExportError(
            f"quantize to 4 bits: the model has no linear layer whose number of inputs is a multiple of {GROUP}"
        )
    notes += kept_float(_float_weights(graph))
    return graph


def _four_bits(weight: Any) -> Any:
    """A float (outputs, inputs) weight as torchao's 4-bit tensor with 8-bit activations."""
    import torch

    config = need("torchao.quantization").Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4, weight_granularity=need("torchao.quantization.granularity").PerGroup(GROUP)
    )
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
    need("torchao.quantization").quantize_(layer, config)
    return layer.weight


def _float_weights(graph: Any) -> list[str]:
    """Names of the floating-point tensors of two or more dimensions that the graph still reads."""
    import torch

    names = []
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.users:
            value = reduce(getattr, node.target.split("."), graph)
            plain = type(value) in (torch.Tensor, torch.nn.Parameter)
            if plain and value.is_floating_point() and value.dim() >= 2 and node.target not in names:
                names.append(node.target)
    return names


def _requantized(source: ExportSource, graph: Any, progress: Progress) -> Any:
    """Capture the quantized graph again, with the sizes left open that were open before."""
    import torch

    with step("torch.export of the quantized graph", progress), torch.no_grad():
        return torch.export.export(
            graph, source.args, source.kwargs, dynamic_shapes=_open_sizes(source.program), strict=False
        )


def _open_sizes(program: Any) -> tuple[Any, ...] | None:
    """The `dynamic_shapes` argument that says which input sizes of a captured program vary, and within which bounds."""
    from torch.utils import _pytree as pytree

    names = program.graph_signature.user_inputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    leaves = [_open_dims(program, values.get(name)) for name in names]
    if not any(leaves):
        return None
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    return (*args, *kwargs.values())


def _open_dims(program: Any, value: Any) -> dict[int, Any] | None:
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    dims: dict[int, Any] = {}
    for index, size in enumerate(value.shape):
        if isinstance(size, torch.SymInt):
            bounds = program.range_constraints.get(size.node.expr)
            low, high = (bounds.lower, bounds.upper) if bounds is not None else (None, None)
            dims[index] = torch.export.Dim.AUTO(min=_number(low), max=_number(high))
    return dims or None


def _number(bound: Any) -> int | None:
    """A bound as a number, None when it is infinite or unknown."""
    return int(bound) if bound is not None and bound.is_finite else None
