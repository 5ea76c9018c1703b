"""safetensors: what is read as a layer, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from corelocker.artifacts import open_artifact
from corelocker.artifacts.safetensors_header import read_header
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
from support.small_artifacts import write_safetensors

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
    index.write_text(json.dumps({"weight_map": {"a.weight": "sub/a.safetensors"}}))
    with pytest.raises(UnsupportedLayoutError, match="another folder"):
        open_artifact(index)
    index.write_text(json.dumps({"weight_map": {"a.weight": "missing.safetensors"}}))
    with pytest.raises(FileAccessError):
        open_artifact(index)


def test_a_batch_norm_that_two_layers_could_claim_belongs_to_none(tmp_path: Path) -> None:
    tensors = {"b.conv1x.weight": f32(8, 8, 1, 1), "b.dw.weight": f32(8, 1, 3, 3), **batch_norm("b.bn", 8)}
    artifact = open_artifact(write_safetensors(tmp_path / "m.safetensors", tensors))
    assert all(t.part("gamma") is None for t in artifact.tensors)


def test_layers_stand_in_the_order_of_computation(tmp_path: Path) -> None:
    """The names are sorted in the file; habits of torchvision, transformers, timm, torch.nn.LSTM and plain numbers."""
    orders = [
        ["conv1", "stage2.0.branch1.0", "stage2.0.branch2.0", "conv5.0", "fc"],
        ["features.0", "features.3", "features.10", "classifier.0", "classifier.3"],
        ["layers.8", "layers.9", "layers.10"],
        ["features.conv0", "features.denseblock1.denselayer1.conv1", "features.denseblock1.denselayer2.conv1",
         "features.transition1.conv", "features.denseblock2.denselayer1.conv1", "classifier"],
        ["conv_stem", "blocks.0.0.conv_dw", "blocks.0.0.conv_pw", "blocks.1.0.conv_pw", "blocks.1.0.conv_dw",
         "blocks.1.0.conv_pwl", "conv_head", "classifier"],
        ["wte", "h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "h.1.attn.c_attn", "lm_head"],
        ["model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj",
         "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.down_proj", "lm_head"],
        ["bert.embeddings.word_embeddings", "bert.encoder.layer.0.attention.self.query",
         "bert.encoder.layer.0.attention.output.dense", "bert.encoder.layer.0.intermediate.dense",
         "bert.encoder.layer.0.output.dense", "bert.pooler.dense", "classifier"],
        ["features.3.squeeze", "features.3.expand1x1", "features.4.squeeze"],
        ["conv_proj", "encoder.layers.0.self_attention.out_proj", "encoder.layers.0.mlp.0", "heads.head"],
    ]  # fmt: skip
    for index, order in enumerate(orders):
        path = write_safetensors(tmp_path / f"{index}.safetensors", {f"{n}.weight": f32(8, 8) for n in sorted(order)})
        artifact = open_artifact(path)
        assert [t.name.removesuffix(".weight") for t in artifact.tensors] == order
        assert [t.order for t in artifact.tensors] == list(range(len(order)))
    names = [f"weight_{gate}_l{layer}" for layer in (0, 1) for gate in ("ih", "hh")]
    biases = {n.replace("weight", "bias"): f32(32) for n in names}
    path = write_safetensors(tmp_path / "lstm.safetensors", {n: f32(32, 8) for n in sorted(names)} | biases)
    assert [t.name for t in open_artifact(path).tensors] == names
    assert all(t.part("bias") for t in open_artifact(path).tensors)


def test_a_stem_that_sees_a_gray_image_is_not_depthwise(tmp_path: Path) -> None:
    tensors = {
        "blocks.0.depthwise.0.weight": f32(48, 1, 3, 3), "blocks.0.expand.0.weight": f32(48, 24, 1, 1),
        "blocks.0.project.0.weight": f32(24, 48, 1, 1), "stem.0.weight": f32(24, 1, 3, 3), "classifier.weight": f32(10, 24),
    }  # fmt: skip
    artifact = open_artifact(write_safetensors(tmp_path / "m.safetensors", tensors))
    roles = {t.name: t.role for t in artifact.tensors}
    assert roles["stem.0.weight"] == "conv"
    assert roles["blocks.0.depthwise.0.weight"] == "depthwise"
    assert artifact.inputs == {"stem.0.weight"}
    assert artifact.outputs == {"classifier.weight"}


def test_edges_of_models_whose_widths_mislead(tmp_path: Path) -> None:
    """Squeeze-and-excitation as wide as the classes, concatenated channels, grouped convolutions, an autoencoder's output."""
    networks: list[tuple[dict[str, tuple[int, ...]], set[str], set[str]]] = [
        (
            {"features.0.0": (16, 3, 3, 3), "features.1.fc1": (10, 40, 1, 1), "features.1.fc2": (40, 10, 1, 1),
             "features.2.0": (40, 16, 1, 1), "features.3.0": (96, 40, 1, 1), "classifier.1": (10, 96)},
            {"features.0.0"}, {"classifier.1"},
        ),
        (
            {"features.conv0": (24, 3, 3, 3), "features.denseblock1.denselayer1.conv1": (48, 24, 1, 1),
             "features.denseblock1.denselayer1.conv2": (12, 48, 3, 3), "features.denseblock1.denselayer2.conv1": (48, 36, 1, 1),
             "features.denseblock1.denselayer2.conv2": (12, 48, 3, 3), "classifier": (10, 60)},
            {"features.conv0"}, {"classifier"},
        ),
        (
            {"conv1": (16, 3, 7, 7), "layer1.0.conv2": (16, 4, 3, 3), "fc": (100, 16)},
            {"conv1"}, {"fc"},
        ),
        ({"encoder.0": (16, 3, 3, 3), "encoder.1": (8, 16, 3, 3), "decoder.0": (16, 24, 3, 3), "decoder.1": (3, 16, 3, 3)},
         {"encoder.0"}, {"decoder.1"}),
        ({"conv1": (8, 1, 5, 5), "fc1": (32, 128), "fc2": (32, 32), "fc3": (10, 32)}, {"conv1"}, {"fc3"}),
        ({"stage0.rbr_1x1.conv": (16, 3, 1, 1), "stage0.rbr_dense.conv": (16, 3, 3, 3), "stage1.rbr_dense.conv": (16, 16, 3, 3),
          "linear": (16, 16)}, {"stage0.rbr_1x1.conv", "stage0.rbr_dense.conv"}, {"linear"}),
    ]  # fmt: skip
    for index, (shapes, inputs, outputs) in enumerate(networks):
        tensors = {f"{name}.weight": f32(*shape) for name, shape in shapes.items()}
        artifact = open_artifact(write_safetensors(tmp_path / f"{index}.safetensors", tensors))
        assert {n.removesuffix(".weight") for n in artifact.inputs} == inputs
        assert {n.removesuffix(".weight") for n in artifact.outputs} == outputs


def test_batch_norms_of_timm_and_of_blocks_that_normalize_first(tmp_path: Path) -> None:
    tensors = {
        "conv_stem.weight": f32(16, 3, 3, 3), **batch_norm("bn1", 16),
        "blocks.0.conv_dw.weight": f32(16, 1, 3, 3), **batch_norm("blocks.0.bn1", 16),
        "blocks.0.conv_pw.weight": f32(16, 16, 1, 1), **batch_norm("blocks.0.bn2", 16),
        "blocks.1.conv_pw.weight": f32(48, 16, 1, 1), **batch_norm("blocks.1.bn1", 48),
        "blocks.1.conv_dw.weight": f32(48, 1, 3, 3), **batch_norm("blocks.1.bn2", 48),
        "blocks.1.conv_pwl.weight": f32(16, 48, 1, 1), **batch_norm("blocks.1.bn3", 16),
        "classifier.weight": f32(10, 16),
    }  # fmt: skip

    def norms(path: Path) -> dict[str, str]:
        artifact = open_artifact(path)
        names = {e.offset: e.name for e in read_header(artifact.files[0])}
        found = {t.name: t.part("gamma") for t in artifact.tensors}
        return {
            n.removesuffix(".weight"): names[p.offset].removesuffix(".weight")
            for n, p in found.items()
            if p is not None
        }

    assert norms(write_safetensors(tmp_path / "timm.safetensors", tensors)) == {
        "conv_stem": "bn1", "blocks.0.conv_dw": "blocks.0.bn1", "blocks.0.conv_pw": "blocks.0.bn2",
        "blocks.1.conv_pw": "blocks.1.bn1", "blocks.1.conv_dw": "blocks.1.bn2", "blocks.1.conv_pwl": "blocks.1.bn3",
    }  # fmt: skip
    early = {
        "conv1.weight": f32(16, 3, 3, 3),
        "layer.0.conv1.weight": f32(16, 16, 3, 3), **batch_norm("layer.0.bn1", 16),
        "layer.0.conv2.weight": f32(16, 16, 3, 3), **batch_norm("layer.0.bn2", 16),
        "layer.1.conv1.weight": f32(32, 16, 3, 3), **batch_norm("layer.1.bn1", 16),
        "layer.1.conv2.weight": f32(32, 32, 3, 3), **batch_norm("layer.1.bn2", 32),
        "fc.weight": f32(10, 32),
    }  # fmt: skip
    assert norms(write_safetensors(tmp_path / "early.safetensors", early)) == {
        "layer.0.conv1": "layer.0.bn2", "layer.1.conv1": "layer.1.bn2",
    }  # fmt: skip


def test_scales_are_no_layers_and_positions_are_embeddings(tmp_path: Path) -> None:
    tensors = {
        "layer_scale": f32(16, 1, 1), "pos": f32(9, 16), "relative_position_bias_table": f32(25, 4),
        "patch_embed.proj.weight": f32(16, 3, 4, 4), "head.weight": f32(10, 16),
    }  # fmt: skip
    artifact = open_artifact(write_safetensors(tmp_path / "m.safetensors", tensors))
    roles = {t.name: t.role for t in artifact.tensors}
    assert roles["pos"] == roles["relative_position_bias_table"] == "embedding"
    assert roles["patch_embed.proj.weight"] == "conv"
    assert [s.name for s in artifact.skipped] == ["layer_scale"]


def header(path: Path, fields: dict, data: bytes = b"\0" * 64) -> Path:
    text = json.dumps(fields).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("codes", "dtype", "expansions"),
    [
        ("weight", "U32", {"scales": (8, 2), "biases": (8, 2)}),  # MLX
        ("qweight", "I32", {"scales": (2, 8)}),  # GPTQ, AWQ
        ("weight", "F8_E4M3", {"weight_scale_inv": (2, 2)}),  # fp8 in blocks
        ("weight_packed", "I32", {"weight_scale": (8, 2)}),  # compressed-tensors
    ],
)
def test_scales_of_packed_codes_are_no_layers(
    tmp_path: Path, codes: str, dtype: str, expansions: dict[str, tuple[int, ...]]
) -> None:
    size = 32 if dtype == "F8_E4M3" else 128
    tensors = {"block.q_proj." + codes: np.zeros((8, size // 8), np.uint8)}
    tensors |= {f"block.q_proj.{name}": np.ones(shape, np.float32) for name, shape in expansions.items()}
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header[f"block.q_proj.{codes}"] |= {"dtype": dtype, "shape": [8, 4]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(UnsupportedLayoutError, match=f"type {dtype} cannot be locked"):
        open_artifact(path)


def test_scales_beside_float_weights_are_layers_as_before(tmp_path: Path) -> None:
    tensors = {name: np.ones((8, 4), np.float32) for name in ("gate.weight", "gate.scales", "head.weight")}
    names = {t.name for t in open_artifact(write_safetensors(tmp_path / "m.safetensors", tensors)).tensors}
    assert names == set(tensors)


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


def test_names_that_are_no_numbers_or_too_long(tmp_path: Path) -> None:
    names = [
        "a.²",
        "a.١٢",
        "a." + "9" * 1000,
        "stem" * 200 + "!",
        "",
        ".",
        "..",
        "_",
        "weight",
        "conv_pw.",
        "weight_ih_l",
    ]
    path = write_safetensors(tmp_path / "m.safetensors", {name: f32(4, 4) for name in names})
    assert {t.name for t in open_artifact(path).tensors} == set(names)
    for length in (1024, 1025, 5000):
        path = header(tmp_path / "long.safetensors", {"9" * length: entry(0, 64, [4, 4])})
        if length > 1024:
            with pytest.raises(MalformedArtifactError, match="name"):
                open_artifact(path)
        else:
            assert len(open_artifact(path).tensors) == 1


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


def test_stacked_experts_of_a_checkpoint_are_layers(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    experts, rows, columns = 4, 8, 12
    tensors = {
        "model.layers.0.mlp.experts.gate_up_proj": (experts, rows, columns),
        "model.layers.0.mlp.experts.gate_up_proj_bias": (experts, columns),
        "model.layers.0.block_sparse_moe.input_linear.weight": (experts, columns, rows),
        "model.layers.0.conv.weight": (experts, rows, 3),
    }
    path = write_safetensors(
        tmp_path / "a.safetensors",
        {name: generator.standard_normal(shape).astype(np.float32) for name, shape in tensors.items()},
    )
    artifact = open_artifact(path)
    assert {tensor.name.rpartition("0.")[2]: (tensor.role, tensor.shape) for tensor in artifact.tensors} == {
        "mlp.experts.gate_up_proj": ("linear", (experts * rows, columns)),
        "block_sparse_moe.input_linear.weight": ("linear", (experts * columns, rows)),
        "conv.weight": ("conv", (experts, rows, 3)),
    }
    assert [left.reason for left in artifact.skipped] == ["biases of stacked layers, no layer"]
