"""The weights of ExecuTorch programs against the torch modules and ExecuTorch's own readers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from corelocker.artifacts import WeightTensor
from corelocker.artifacts.executorch.pte import open_pte
from support.models import reference
from support.models.exports import exported
from support.models.lowering import GROUP
from support.models.programs import CODED, FLOAT, UNFOLDED, layers_of, opened


@pytest.mark.parametrize(("name", "variant"), FLOAT + CODED, ids=lambda p: p)
def test_weights_are_those_of_the_module(name: str, variant: str) -> None:
    artifact = opened(name, variant)
    wanted = layers_of(name, variant)
    assert len(artifact.tensors) == len(wanted)
    assert [tensor.order for tensor in artifact.tensors] == list(range(len(wanted)))
    assert len({tensor.name for tensor in artifact.tensors}) == len(wanted)
    for tensor, layer in zip(artifact.tensors, wanted, strict=True):
        weight = layer.weight if variant in UNFOLDED else layer.folded
        values = tensor.read()
        assert values.shape == tensor.shape
        assert [n for n in tensor.shape if n > 1] == [n for n in weight.shape if n > 1]
        assert tensor.shape[0] == weight.shape[0]
        values = values.reshape(weight.shape)
        if tensor.quantization is None and tensor.dtype == "float32":
            np.testing.assert_allclose(values, weight, rtol=1e-5, atol=1e-7)
            if layer.norm is None or variant in UNFOLDED:
                np.testing.assert_array_equal(values, weight)
        elif tensor.quantization is None:
            assert tensor.dtype == "float16"
            np.testing.assert_allclose(values, weight, rtol=2e-3, atol=1e-6)
        else:
            steps = step_sizes(tensor)
            # An exporter may clip 4-bit codes, which range from -8 to 7, by one.
            assert (np.abs(values - weight) <= steps * (1.05 if tensor.weight.element.bits == 4 else 0.51)).all()
        picked = [tensor.channels - 1, 0]
        np.testing.assert_array_equal(tensor.read(picked), tensor.read()[picked])


def step_sizes(tensor: WeightTensor) -> np.ndarray:
    """The distance between neighboring codes of each weight."""
    part = tensor.part("scale")
    scale = part.read() if part is not None else tensor.quantization.scale
    scale = np.broadcast_to(scale, (tensor.channels, scale.shape[1]))
    width = int(np.prod(tensor.shape[1:]))
    return np.repeat(scale, width // scale.shape[1], axis=1).reshape(tensor.shape)


@pytest.mark.parametrize(
    ("name", "variant", "dtype"),
    [
        ("resnet", "xnnpack", "float32"),
        ("gated", "half", "float16"),
        ("gated", "int4", f"int4 group {GROUP}"),
        ("shared", "int4-per-channel", "int4 per channel"),
        ("mobilenet", "int8", "int8 per channel"),
        ("shared", "int8-per-tensor", "int8 per tensor"),
        ("shared", "int8-portable", "int8 per channel"),
        ("vgg", "coreml", "float16"),
    ],
)
def test_types_are_named(name: str, variant: str, dtype: str) -> None:
    assert {tensor.dtype for tensor in opened(name, variant).tensors} == {dtype}


def test_roles() -> None:
    roles = [tensor.role for tensor in opened("mobilenet", "xnnpack").tensors]
    assert roles == ["conv", "conv", "depthwise", "conv", "conv", "depthwise", "conv", "conv", "linear"]
    assert opened("transformer", "xnnpack").tensors[0].role == "embedding"


@pytest.mark.parametrize("variant", ["portable", "xnnpack"])
def test_strided_filters(variant: str) -> None:
    depthwise = opened("mobilenet", variant).tensors[2]
    assert depthwise.shape == (16, 1, 3, 3)
    part = depthwise.weight
    if variant == "portable":
        assert (part.length, part.count) == (36, 1)
    else:
        assert (part.length, part.count, part.stride, part.channel_stride) == (4, 9, 64, 4)


@pytest.mark.parametrize("variant", ["portable", "external", "mixed"])
def test_batch_norm_belongs_to_its_convolution(variant: str) -> None:
    name = "resnet" if variant == "mixed" else "vgg"
    artifact = opened(name, variant)
    checked = 0
    for tensor, layer in zip(artifact.tensors, layers_of(name, variant), strict=True):
        if layer.norm is None:
            assert tensor.part("gamma") is None
            continue
        kinds = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
        for kind, attribute in kinds.items():
            part = tensor.part(kind)
            wanted = getattr(layer.norm, attribute).detach().numpy()
            np.testing.assert_array_equal(part.read()[:, 0], wanted)
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize(("name", "variant"), [("vgg", "portable"), ("vgg", "xnnpack"), ("mobilenet", "int8")])
def test_biases_belong_to_their_channels(name: str, variant: str) -> None:
    for tensor, layer in zip(opened(name, variant).tensors, layers_of(name, variant), strict=True):
        module, norm = layer.module, layer.norm
        bias = module.bias.detach().numpy() if module.bias is not None else np.zeros(tensor.channels, np.float32)
        if variant == "portable":
            if module.bias is None:
                assert tensor.part("bias") is None
                continue
        elif norm is not None:
            scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
            bias = norm.bias.detach().numpy() + (bias - norm.running_mean.numpy()) * scale
        part = tensor.part("bias")
        found = part.read()[:, 0]
        if part.element.is_float:
            np.testing.assert_allclose(found, bias, rtol=1e-5, atol=1e-6)
        else:
            steps = [p for p in tensor.parts if p.kind == "scale"][1].read()[:, 0]
            assert (np.abs(found * steps - bias) <= 0.51 * steps).all()


def test_scales_of_biases_follow_from_those_of_weights() -> None:
    for tensor in opened("mobilenet", "int8").tensors:
        first, second = (part for part in tensor.parts if part.kind == "scale")
        assert first.factor is None
        assert second.factor is not None
        np.testing.assert_array_equal(second.read(), first.read() * np.float32(second.factor))


@pytest.mark.parametrize(("name", "variant"), [n for n in FLOAT + CODED if "external" not in n[1] and n[1] != "coreml"])
def test_places_are_those_of_executorch(name: str, variant: str) -> None:
    path = exported(name, variant)
    artifact = open_pte(path)
    places = reference.parsed(path)
    weights = {p.offset for p in places if p.operand == "filter_id"}
    biases = {p.offset for p in places if p.operand == "bias_id"}
    scales = {p.offset for p in places if p.operand in ("filter_id scale", "bias_id scale")}
    portable = {p.offset for p in places if p.operand.isdigit()}
    found = {
        kind: {p.offset for t in artifact.tensors for p in t.parts if p.kind == kind}
        for kind in ("weight", "bias", "scale")
    }
    assert weights <= found["weight"] <= weights | portable
    assert biases <= found["bias"] <= biases | portable
    assert scales <= found["scale"] <= scales | portable
    sizes = {p.offset: p.size for p in places}
    for tensor in artifact.tensors:
        if tensor.weight.offset in weights:
            assert tensor.weight.extent[1] == sizes[tensor.weight.offset]


@pytest.mark.parametrize(("name", "variant"), [("branches", "xnnpack"), ("branches", "portable"), ("gated", "int4")])
def test_no_byte_belongs_to_two_channels(name: str, variant: str) -> None:
    artifact = opened(name, variant)
    owned = np.zeros(len(artifact.files[0]), np.uint8)
    for tensor in artifact.tensors:
        for channel in range(tensor.channels):
            for _, piece in tensor.runs(channel):
                for i in range(piece.count):
                    start = piece.offset + i * piece.stride
                    owned[start : start + piece.length] += 1
    assert owned.max() == 1
