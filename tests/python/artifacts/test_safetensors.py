"""safetensors: what is read as a layer, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from corelocker.artifacts import open_artifact
from corelocker.errors import (
    CoreLockerError,
    FileAccessError,
    MalformedArtifactError,
    NothingToLockError,
    UnknownFormatError,
    UnsupportedLayoutError,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import write_safetensors

RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def batch_norm(name: str, channels: int) -> dict[str, np.ndarray]:
    vectors = {leaf: f32(channels) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.{leaf}": v for leaf, v in vectors.items()} | {f"{name}.num_batches_tracked": np.array(3, np.int64)}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    tensors = {
        "stem.conv.weight": f32(16, 3, 3, 3), **batch_norm("stem.bn", 16),
        "layer1.0.conv1.weight": f32(16, 16, 3, 3), **batch_norm("layer1.0.bn1", 16),
        "layer1.0.conv2.weight": f32(32, 16, 3, 3), **batch_norm("layer1.0.bn2", 32),
        "layer1.0.downsample.0.weight": f32(32, 16, 1, 1), **batch_norm("layer1.0.downsample.1", 32),
        "dw.weight": f32(32, 1, 3, 3), "dw.bias": f32(32),
        "fc.weight": f32(10, 32), "fc.bias": f32(10),
    }  # fmt: skip
    return write_safetensors(tmp_path / "net.safetensors", tensors)


def test_layers_and_what_belongs_to_a_channel(network: Path) -> None:
    artifact = open_artifact(network)
    kinds = {t.name: [p.kind for p in t.parts] for t in artifact.tensors}
    folded = ["weight", "gamma", "beta", "mean", "variance"]
    assert kinds["layer1.0.conv1.weight"] == folded
    assert kinds["layer1.0.conv2.weight"] == folded
    assert kinds["layer1.0.downsample.0.weight"] == folded
    assert kinds["dw.weight"] == ["weight", "bias"]
    assert {t.name: t.role for t in artifact.tensors}["dw.weight"] == "depthwise"
    assert artifact.inputs == {"stem.conv.weight"}
    assert artifact.outputs == {"fc.weight"}


def test_values_and_bytes_are_those_of_the_file(network: Path) -> None:
    artifact, raw = open_artifact(network), network.read_bytes()
    for tensor in artifact.tensors:
        rows = tensor.read()
        for channel in (0, tensor.channels - 1):
            run = tensor.weight.run(channel)
            assert raw[run.offset : run.end] == rows[channel].tobytes()
        if tensor.inputs is not None:
            run = tensor.inputs.run(1)
            pieces = b"".join(raw[run.offset + i * run.stride :][: run.length] for i in range(run.count))
            assert pieces == rows[:, 1].tobytes()


def test_half_and_bfloat16(tmp_path: Path) -> None:
    values = f32(8, 16)
    brain = (values.view(np.uint32) >> 16).astype(np.uint16)
    path = write_safetensors(
        tmp_path / "m.safetensors", {"a.weight": values.astype(np.float16), "b.weight": brain}, bfloat16=["b.weight"]
    )
    half, bf16 = open_artifact(path).tensors
    assert (half.dtype, bf16.dtype) == ("float16", "bfloat16")
    assert np.array_equal(half.read(), values.astype(np.float16).astype(np.float32))
    assert np.array_equal(bf16.read(), (brain.astype(np.uint32) << 16).view(np.float32))


def test_transposed_linear_is_seen_by_its_bias(tmp_path: Path) -> None:
    weight = f32(8, 24)
    path = write_safetensors(tmp_path / "gpt.safetensors", {"h.0.c_attn.weight": weight, "h.0.c_attn.bias": f32(24)})
    (tensor,) = open_artifact(path).tensors
    assert tensor.shape == (24, 8)
    assert np.array_equal(tensor.read(), weight.T)


def test_shards_are_one_artifact(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"a.weight": f32(8, 4)})
    write_safetensors(tmp_path / "b.safetensors", {"b.weight": f32(8, 8)})
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {"a.weight": "a.safetensors", "b.weight": "b.safetensors"}})
    )
    artifact = open_artifact(index)
    assert [f.name for f in artifact.files] == ["a.safetensors", "b.safetensors"]
    assert {t.name for t in artifact.tensors} == {"a.weight", "b.weight"}
    index.write_text(json.dumps({"weight_map": {"a.weight": "../a.safetensors"}}))
    with pytest.raises(MalformedArtifactError, match="outside"):
        open_artifact(index)
    index.write_text(json.dumps({"weight_map": {"a.weight": "missing.safetensors"}}))
    with pytest.raises(FileAccessError):
        open_artifact(index)


def test_a_batch_norm_that_two_layers_could_claim_belongs_to_none(tmp_path: Path) -> None:
    tensors = {"b.conv1x.weight": f32(8, 8, 1, 1), "b.dw.weight": f32(8, 1, 3, 3), **batch_norm("b.bn", 8)}
    artifact = open_artifact(write_safetensors(tmp_path / "m.safetensors", tensors))
    assert all(t.part("gamma") is None for t in artifact.tensors)


def header(path: Path, fields: dict, data: bytes = b"\0" * 64) -> Path:
    text = json.dumps(fields).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "fields",
    [
        {"a": entry(0, 64, [4, 5])},
        {"a": entry(0, 128, [8, 4])},
        {"a": entry(0, 32, [2, 4]), "b": entry(40, 64, [2, 3])},
        {"a": entry(0, 32, [2, 4]), "b": entry(16, 64, [3, 4])},
        {"a": entry(0, 32, [2, 4])},
        {"a": entry(0, 64, [-4, -4])},
        {"a": entry(0, 64, [4, 4], "F31")},
        {"a": {"dtype": "F32", "shape": [4, 4]}},
        {"a": entry(0, 64, [True, 16])},
        {"a": [1, 2]},
    ],
    ids=["shape", "beyond", "hole", "overlap", "unclaimed", "negative", "dtype", "no offsets", "bool", "list"],
)
def test_contradictions_are_refused(tmp_path: Path, fields: dict) -> None:
    with pytest.raises(MalformedArtifactError):
        open_artifact(header(tmp_path / "m.safetensors", fields))


def test_bad_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for raw in (
        b"",
        b"\1",
        (2**63).to_bytes(8, "little") + b"{}",
        b"\2" + bytes(7) + b"[]",
        b"\2" + bytes(7) + b"{\xff",
    ):
        path.write_bytes(raw)
        with pytest.raises(MalformedArtifactError):
            open_artifact(path)
    twice = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    path.write_bytes(len(twice).to_bytes(8, "little") + twice + bytes(8))
    with pytest.raises(MalformedArtifactError, match="twice"):
        open_artifact(path)


def test_nothing_to_lock(tmp_path: Path) -> None:
    with pytest.raises(NothingToLockError):
        open_artifact(write_safetensors(tmp_path / "m.safetensors", {"bias": f32(8)}))
    with pytest.raises(UnsupportedLayoutError, match=r"a\.weight.*I8"):
        open_artifact(write_safetensors(tmp_path / "m.safetensors", {"a.weight": np.zeros((8, 8), np.int8)}))
    with pytest.raises(UnknownFormatError):
        open_artifact(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless(network: Path, tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(network.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for _ in range(data.draw(st.integers(1, 4))):
        if raw:
            place = data.draw(st.integers(0, min(len(raw) - 1, 3000)))
            raw[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(raw)
    try:
        artifact = open_artifact(path)
    except CoreLockerError:
        return
    for tensor in artifact.tensors:
        assert tensor.values().shape[0] == tensor.channels
