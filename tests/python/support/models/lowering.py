"""What the exporters make of the networks, in the variants that ship. `exports` keeps the bytes."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from support.models import nets

torch.set_num_threads(1)

GROUP = 32


@functools.cache
def built(name: str) -> tuple[nn.Module, nets.Inputs]:
    """The torch module and its inputs; not to be changed."""
    return nets.build(name)


def run(
    program: Path | bytes, inputs: nets.Inputs, method: str = "forward", data: Path | bytes | None = None
) -> torch.Tensor:
    """The first output of a program in the ExecuTorch runtime."""
    from executorch.extension.pybindings import portable_lib as runtime

    program, data = (p.read_bytes() if isinstance(p, Path) else p for p in (program, data))
    if data is None:
        module = runtime._load_for_executorch_from_buffer(program)
    else:
        module = runtime._load_for_executorch_from_buffer(program, data_map_buffer=data)
    return module.run_method(method, inputs)[0].clone()


def _quiet(function: Callable[..., dict[str, bytes]]) -> Callable[..., dict[str, bytes]]:
    """Exporters talk much about what does not matter here."""

    @functools.wraps(function)
    def wrapped(name: str) -> dict[str, bytes]:
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                return function(name)
        finally:
            logging.disable(disabled)

    return wrapped


def _lower(programs: Any, partitioners: Any = None, config: Any = None, **options: Any) -> Any:
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(
        programs, partitioner=partitioners, compile_config=EdgeCompileConfig(_check_ir_validity=False), **options
    )
    return edge.to_executorch(config) if config is not None else edge.to_executorch()


def _export(model: nn.Module, inputs: nets.Inputs) -> Any:
    return torch.export.export(model, inputs, strict=False)


def _partitioner(**options: Any) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return XnnpackPartitioner(**options)


@_quiet
def portable(name: str) -> dict[str, bytes]:
    """fp32, no delegate."""
    return {".pte": bytes(_lower(_export(*nets.build(name))).buffer)}


@_quiet
def channels_last(name: str) -> dict[str, bytes]:
    """fp32, no delegate, convolutions over maps whose channels are the innermost axis."""
    model, inputs = nets.build(name)
    model, inputs = model.to(memory_format=torch.channels_last), tuple(map(innermost, inputs))
    return {".pte": bytes(_lower(_export(model, inputs)).buffer)}


def innermost(x: torch.Tensor) -> torch.Tensor:
    """The same tensor with its channels side by side in memory."""
    return x.to(memory_format=torch.channels_last)


@_quiet
def xnnpack(name: str) -> dict[str, bytes]:
    """fp32 for XNNPACK."""
    return {".pte": bytes(_lower(_export(*nets.build(name)), [_partitioner()]).buffer)}


@_quiet
def half(name: str) -> dict[str, bytes]:
    """fp16 for XNNPACK."""
    model, inputs = nets.build(name)
    halves = tuple(x.half() if x.is_floating_point() else x for x in inputs)
    return {".pte": bytes(_lower(_export(model.half(), halves), [_partitioner()]).buffer)}


@_quiet
def int8(name: str) -> dict[str, bytes]:
    """PT2E, static, per channel."""
    return {
        ".pte": bytes(
            _lower(_export(_quantized(name, is_per_channel=True), nets.build(name)[1]), [_partitioner()]).buffer
        )
    }


@_quiet
def int8_per_tensor(name: str) -> dict[str, bytes]:
    """PT2E, static, one scale for a layer."""
    return {
        ".pte": bytes(
            _lower(_export(_quantized(name, is_per_channel=False), nets.build(name)[1]), [_partitioner()]).buffer
        )
    }


@_quiet
def int8_portable(name: str) -> dict[str, bytes]:
    """PT2E without a delegate: quantized constants that portable kernels expand."""
    import executorch.kernels.quantized  # noqa: F401 - registers the kernels that write to a given place

    return {".pte": bytes(_lower(_export(_quantized(name, is_per_channel=True), nets.build(name)[1])).buffer)}


def _quantized(name: str, **options: Any) -> nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    model, inputs = nets.build(name)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(**options))
    prepared = prepare_pt2e(_export(model, inputs).module(), quantizer)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        prepared(*(torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for x in inputs))
    return convert_pt2e(prepared)


def _dynamic_partitioners() -> list[Any]:
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType

    return [_partitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True), _partitioner()]


@_quiet
def int4(name: str) -> dict[str, bytes]:
    """8da4w: 4-bit weights in groups, activations quantized while the model runs."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    model, inputs = nets.build(name)
    quantize_(model, Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(GROUP)))
    return {".pte": bytes(_lower(_export(model, inputs), _dynamic_partitioners()).buffer)}


@_quiet
def int4_per_channel(name: str) -> dict[str, bytes]:
    """4-bit weights with one scale for a channel."""
    model = _quantized(name, is_per_channel=True, is_dynamic=True, weight_qmin=-8, weight_qmax=7)
    return {".pte": bytes(_lower(_export(model, nets.build(name)[1]), _dynamic_partitioners()).buffer)}


@_quiet
def mixed(name: str) -> dict[str, bytes]:
    """Convolutions in XNNPACK, one delegate each; everything else portable."""
    from executorch.backends.xnnpack.partition.config.gemm_configs import ConvolutionConfig

    return {".pte": bytes(_lower(_export(*nets.build(name)), [_partitioner(configs=[ConvolutionConfig])]).buffer)}


@_quiet
def external(name: str) -> dict[str, bytes]:
    """Constants of portable kernels in a `.ptd`."""
    from executorch.exir import ExecutorchBackendConfig

    program = _lower(_export(*nets.build(name)), config=ExecutorchBackendConfig(external_constants=True))
    return {".pte": bytes(program.buffer), ".ptd": _only(program)}


@_quiet
def xnnpack_external(name: str) -> dict[str, bytes]:
    """Constants of XNNPACK in a `.ptd`."""
    from executorch.exir.passes.external_constants_pass import delegate_external_constants_pass_unlifted

    model, inputs = nets.build(name)
    exported_program = _export(model, inputs)
    module = exported_program.module()
    delegate_external_constants_pass_unlifted(module=module, gen_tag_fn=lambda node: name)
    program = _lower(_export(module, inputs), [_partitioner()])
    return {".pte": bytes(program.buffer), ".ptd": _only(program)}


def _only(program: Any) -> bytes:
    (data,) = program._tensor_data.values()
    return bytes(data)


def _two_methods(name: str, partitioner: Any) -> dict[str, bytes]:
    model, inputs = nets.build(name)
    other = nets.SharedOther(copy.deepcopy(model))
    programs = {"forward": _export(model, inputs), "other": _export(other, inputs)}
    return {".pte": bytes(_lower(programs, partitioner).buffer)}


@_quiet
def methods_portable(name: str) -> dict[str, bytes]:
    """Two methods over one trunk, portable."""
    return _two_methods(name, None)


@_quiet
def methods_xnnpack(name: str) -> dict[str, bytes]:
    """Two methods over one trunk, XNNPACK."""
    return _two_methods(name, [_partitioner()])


def _coreml_partitioner() -> Any:
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(compute_precision=coremltools.precision.FLOAT16)
    return CoreMLPartitioner(compile_specs=specs)


@_quiet
def coreml(name: str) -> dict[str, bytes]:
    """The Core ML delegate, fp16."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        program = _lower(_export(*nets.build(name)), [_coreml_partitioner()])
    return {".pte": bytes(program.buffer)}


@_quiet
def methods_coreml(name: str) -> dict[str, bytes]:
    """Two methods in one Core ML package, which both refer to."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        return _two_methods(name, [_coreml_partitioner()])


VARIANTS: dict[str, Callable[[str], dict[str, bytes]]] = {
    "portable": portable,
    "channels-last": channels_last,
    "xnnpack": xnnpack,
    "half": half,
    "int8": int8,
    "int8-per-tensor": int8_per_tensor,
    "int8-portable": int8_portable,
    "int4": int4,
    "int4-per-channel": int4_per_channel,
    "mixed": mixed,
    "external": external,
    "xnnpack-external": xnnpack_external,
    "methods-portable": methods_portable,
    "methods-xnnpack": methods_xnnpack,
    "coreml": coreml,
    "methods-coreml": methods_coreml,
}
