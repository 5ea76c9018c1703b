"""What the adapters must find, from the torch module and from ExecuTorch's own readers."""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from support.models import nets

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Floats = npt.NDArray[np.float32]


@dataclass
class Layer:
    """A layer of the torch module, in the order of computation.

    Attributes:
        weight: (out, in / groups, *kernel), the BatchNorm not folded in.
        norm: the BatchNorm that reads its output.
    """

    module: nn.Module
    weight: Floats
    norm: nn.Module | None = None

    @property
    def folded(self) -> Floats:
        """The weight with the BatchNorm in it, as exporters write it."""
        if self.norm is None:
            return self.weight
        scale = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        return self.weight * scale.detach().numpy().reshape(-1, *(1,) * (self.weight.ndim - 1))

    @property
    def last(self) -> nn.Module:
        """The module whose output is the channel's."""
        return self.norm or self.module


def layers(model: nn.Module, inputs: nets.Inputs) -> list[Layer]:
    """The layers with weights, found by running the module."""
    found: list[Layer] = []
    by_output: dict[int, Layer] = {}
    kept: list[Tensor] = []

    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output)  # so that no other tensor gets the same id
        if isinstance(module, NORMS):
            if id(arguments[0]) in by_output:
                by_output[id(arguments[0])].norm = module
        elif all(layer.module is not module for layer in found):
            weight = module.weight.detach().numpy()
            if isinstance(module, nn.ConvTranspose2d):
                weight = weight.swapaxes(0, 1)
            found.append(Layer(module, weight))
            by_output[id(output)] = found[-1]

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, WEIGHTED + NORMS)]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return found


def silenced(model: nn.Module, inputs: nets.Inputs, layer: Layer, channel: int) -> Tensor:
    """The output of the module when one channel of a layer is 0."""

    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output.clone()
        axis = 1 if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d) else -1
        output.select(axis, channel).zero_()
        return output

    handle = layer.last.register_forward_hook(hook)
    with torch.no_grad():
        result: Tensor = model(*inputs)
    handle.remove()
    return result


def without_key(model: nn.Module, inputs: nets.Inputs, embedding: nn.Embedding, entry: int) -> Tensor:
    """The output of the module when one row of its embedding is 0."""
    row = embedding.weight[entry].detach().clone()
    with torch.no_grad():
        embedding.weight[entry] = 0
        result: Tensor = model(*inputs)
        embedding.weight[entry] = row
    return result


# --- ExecuTorch's own readers ------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightPlace:
    """A constant where ExecuTorch finds it: which operand of which operator, its bytes in the file."""

    operator: str
    operand: str
    offset: int
    size: int
    key: str = ""


def parsed(path: Path) -> list[WeightPlace]:
    """Every constant of a `.pte` that an operator reads, as ExecuTorch's own reader and the wheel's flatc see it."""
    from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program

    data = path.read_bytes()
    size, base = (len(data), 0) if data[8:12] != b"eh00" else struct.unpack("<QQ", data[16:32])
    program = _flatbuffer_to_program(data[:size])
    segments = [(base + s.offset, s.size) for s in program.segments]
    named = {n.key: segments[n.segment_index] for n in program.named_data or []}
    places: list[WeightPlace] = []
    for plan in program.execution_plan:
        for chain in plan.chains:
            for instruction in chain.instructions:
                call = instruction.instr_args
                if type(call).__name__ != "KernelCall":
                    continue
                operator = plan.operators[call.op_index].name
                for position, index in enumerate(call.args):
                    tensor = plan.values[index].val
                    if type(tensor).__name__ == "Tensor" and tensor.data_buffer_idx and tensor.allocation_info is None:
                        start = segments[program.constant_segment.segment_index][0]
                        offset = start + program.constant_segment.offsets[tensor.data_buffer_idx]
                        places.append(WeightPlace(operator, str(position), offset, int(np.prod(tensor.sizes)) * 4))
        for delegate in plan.delegates:
            if delegate.id == "XnnpackBackend":
                start, length = segments[delegate.processed.index]
                places += _xnnpack_places(data[start : start + length], named)
    return list(dict.fromkeys(places))


def _xnnpack_places(blob: bytes, named: dict[str, tuple[int, int]]) -> Iterator[WeightPlace]:
    graph = xnnpack_graph(blob)
    values = {}
    for value in graph["xvalues"]:
        union = value["xvalue_union"]
        values[union.get("tensor_value", union)["id_out"]] = union

    def place(index: int, operator: str, operand: str) -> WeightPlace:
        entry = graph["constant_data"][index]
        return WeightPlace(operator, operand, *named[entry["named_key"]], entry["named_key"])

    for node in graph["xnodes"]:
        for operand, number in node["xnode_union"].items():
            if operand not in ("filter_id", "bias_id", "input1_id", "input2_id") or number not in values:
                continue
            union = values[number]
            tensor = union.get("tensor_value", union)
            if tensor.get("constant_buffer_idx"):
                yield place(tensor["constant_buffer_idx"], node["xnode_union_type"], operand)
                scale = union.get("quant_params", {}).get("scale_buffer_idx")
                if scale:
                    yield place(scale, node["xnode_union_type"], f"{operand} scale")


def xnnpack_graph(blob: bytes) -> dict[str, Any]:
    """The graph of an XNNPACK delegate as JSON, by the wheel's flatc."""
    import executorch.backends.xnnpack.serialization as schemas
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    offset, size = struct.unpack("<II", blob[10:18])
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(resources.files(schemas).joinpath("runtime_schema.fbs").read_bytes())
        binary.write_bytes(blob[offset : offset + size])
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        text = Path(folder, "graph.json").read_text()
    graph: dict[str, Any] = json.loads(re.sub(r"(?<=: )(-?)inf\b", r"\1Infinity", text))
    return graph
