"""Delegates of older exporters, whose constants are inside the delegate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts.executorch.pte import open_pte
from corelocker.artifacts.executorch.walk import Walk
from corelocker.artifacts.executorch.xnnpack import XnnpackGraph
from corelocker.artifacts.flow import Tracer
from corelocker.artifacts.layers import Collector, Region
from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import (
    MalformedArtifactError,
)
from corelocker.files import MappedFile
from corelocker.locking.criteria import score
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.planning import make_plan
from corelocker.locking.tiers import parse_tiers
from corelocker.locking.writing import write_locked_file
from support.models.lowering import built, run
from support.models.programs import opened


def older_delegate(*, header: bool = True, transposed: bool = False) -> tuple[bytes, np.ndarray, list[float]]:
    """An XNNPACK graph as exporters once wrote it: constants in the delegate's blob, scales in the graph itself.

    With `header`, the codes lie behind the graph; without, the delegate is the bare graph (and finds no codes at all). A
    `transposed` weight is (in, out).
    """
    from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
        convert_to_flatbuffer,
        serialize_xnnpack_binary,
    )

    codes = np.random.default_rng(0).integers(-127, 128, (4, 8), np.int8)
    scales = [0.5, 0.25, 2.0, 1.0]

    def value(number: int, dims: list[int], external: int, flags: int, constant: int = 0) -> schema.XNNTensorValue:
        datatype = schema.XNNDatatype.xnn_datatype_qcint8 if constant else schema.XNNDatatype.xnn_datatype_fp32
        return schema.XNNTensorValue(
            datatype=datatype,
            num_dims=len(dims),
            dims=dims,
            external_id=external,
            constant_buffer_idx=constant,
            flags=flags,
            id_out=number,
        )

    shape = [8, 4] if transposed else [4, 8]
    quantization = schema.PerChannelQuant(scales, int(transposed), 0, 4)
    weight = schema.XNNQuantizedTensorValue(value(1, shape, 2**32 - 1, 0, 1), quantization)
    graph = schema.XNNGraph(
        version="0",
        xnodes=[schema.XNode(schema.XNNFullyConnected(0, 1, 2**32 - 1, 2, int(transposed)), 0)],
        xvalues=[
            schema.XValue(value(0, [1, 8], 0, 1)),
            schema.XValue(weight),
            schema.XValue(value(2, [1, 4], 1, 2)),
        ],
        num_externs=2,
        input_ids=[0],
        output_ids=[2],
        constant_data=[schema.ConstantDataOffset(0, 0, None), schema.ConstantDataOffset(16, 32, None)],
    )
    stored = codes.T if transposed else codes
    blob = serialize_xnnpack_binary(graph, bytearray(16) + stored.tobytes()) if header else convert_to_flatbuffer(graph)
    return blob, codes, scales


@pytest.mark.parametrize("transposed", [False, True])
def test_constants_inside_the_delegate(transposed: bool, tmp_path: Path) -> None:
    blob, codes, scales = older_delegate(transposed=transposed)
    path = tmp_path / "blob"
    path.write_bytes(b"before" + blob)
    file = MappedFile(path, "blob")
    collector, tracer = Collector(), Tracer(WorkBudget())
    walk = Walk("forward", collector, tracer)

    def nothing(*_: object) -> Region:
        raise AssertionError("there is no named data")

    graph = XnnpackGraph("test", file.read(6, len(blob)), 6, file, nothing, nothing, WorkBudget())
    outputs = graph.run(walk, {0: tracer.entry((1, 8))})
    (tensor,), _ = collector.finish()
    np.testing.assert_array_equal(tensor.read(), codes * np.array(scales, np.float32)[:, None])
    assert (tensor.weight.length, tensor.weight.count) == ((1, 8) if transposed else (8, 1))
    assert (tensor.inputs.length, tensor.inputs.count) == ((4, 1) if transposed else (1, 4))
    assert tensor.part("scale").raw().tobytes() == np.array(scales, "<f4").tobytes()
    assert tracer.inputs == {tensor.name}
    tracer.leave(outputs[1])
    assert tracer.outputs == {tensor.name}


def test_a_graph_without_its_constants(tmp_path: Path) -> None:
    blob, _, _ = older_delegate(header=False)
    path = tmp_path / "blob"
    path.write_bytes(blob)
    file = MappedFile(path, "blob")
    with pytest.raises(MalformedArtifactError, match="no constant 1"):
        XnnpackGraph(
            "test", file.read(0, len(blob)), 0, file, lambda *_: Region(file, 0, 0), lambda *_: None, WorkBudget()
        )


def test_decoys_keep_the_scales_in_step(tmp_path: Path) -> None:
    """The scale of an integer bias tells the scale of its weight; a fill that breaks this shows where it has been."""
    artifact = opened("mobilenet", "int8")
    for fill in ("zero", "decoy"):
        plan = make_plan(
            [artifact],
            parse_tiers("free=0.3,full=0"),
            score("l1", bytes(32), None),
            criterion="l1",
            scope="layer",
            fill=fill,
            seed=bytes(32),
        )
        (locked,) = lock_artifacts([artifact], plan)
        write_locked_file(locked.files[0], tmp_path / f"{fill}.pte", 2)
        for old, new in zip(artifact.tensors, open_pte(tmp_path / f"{fill}.pte").tensors, strict=True):
            factors = [[p.factor for p in t.parts if p.kind == "scale"][1] for t in (old, new)]
            assert factors[0] == factors[1]
            if new.name not in artifact.inputs | artifact.outputs:
                assert (old.part("scale").read() != new.part("scale").read()).any()
        assert torch.isfinite(run(tmp_path / f"{fill}.pte", built("mobilenet")[1])).all()
