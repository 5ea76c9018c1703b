"""What changing the bytes of a channel does in ExecuTorch's runtime."""

from __future__ import annotations

import pytest
import torch
from support.models import nets, reference
from support.models.lowering import built, innermost
from support.models.programs import FLOAT, by_number, opened, run_files, zeroed
from torch import nn


@pytest.mark.parametrize(("name", "variant"), FLOAT, ids=lambda p: p)
def test_zeroing_a_channel_is_zeroing_it_in_the_module(name: str, variant: str) -> None:
    artifact = opened(name, variant)
    model, inputs = built(name)
    with torch.no_grad():
        whole = model(*inputs)
    torch.testing.assert_close(run_files(zeroed(artifact, []), inputs), whole, rtol=1e-4, atol=1e-5)
    layers = reference.layers(model, inputs)
    for tensor, layer in list(zip(artifact.tensors, layers, strict=False)):
        channel = tensor.channels // 2
        found = run_files(zeroed(artifact, tensor.runs(channel)), inputs)
        if isinstance(layer.module, nn.Embedding):
            channel = int(inputs[0][0, 0])
            found = run_files(zeroed(artifact, tensor.runs(channel)), inputs)
            wanted = reference.without_key(model, inputs, layer.module, channel)
        else:
            wanted = reference.silenced(model, inputs, layer, channel)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.equal(found, whole), tensor.name


@pytest.mark.parametrize(
    ("name", "producer", "variant"),
    [
        (n, p, v)
        for n, p in (("vgg", 0), ("vgg", 1), ("vgg", 2), ("unet", 0), ("unet", 2), ("audio", 1))
        for v in ("portable", "xnnpack")
    ],
)
def test_silent_channels_and_their_unread_inputs_are_the_same(name: str, producer: int, variant: str) -> None:
    """What is 0 stays 0 up to the consumers of these layers, so blanking the weights that read it changes as much."""
    artifact = opened(name, variant)
    _, inputs = built(name)
    tensor = by_number(artifact)[producer]
    by_name = {t.name: t for t in artifact.tensors}
    whole = run_files(zeroed(artifact, []), inputs)
    seen = False
    for channel in range(0, tensor.channels, 3):
        reading = []
        for edge in artifact.edges[tensor.name]:
            part = by_name[edge.consumer].inputs
            first = edge.first + channel * edge.block
            reading += [(part.file, part.run(i)) for i in range(first, first + edge.block)]
        assert reading
        at_producer = run_files(zeroed(artifact, tensor.runs(channel)), inputs)
        at_consumers = run_files(zeroed(artifact, reading), inputs)
        torch.testing.assert_close(at_producer, at_consumers, rtol=1e-5, atol=1e-6)
        seen |= not torch.equal(at_producer, whole)
    assert seen


def test_channels_last() -> None:
    artifact = opened("stack", "channels-last")
    model, inputs = built("stack")
    tensor = artifact.tensors[1]
    assert tensor.file_shape == (3, 3, 8)
    found = run_files(zeroed(artifact, tensor.runs(5)), tuple(map(innermost, inputs)))
    wanted = reference.silenced(model, inputs, reference.layers(model, inputs)[1], 5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_second_method() -> None:
    artifact = opened("shared", "methods-xnnpack")
    model, inputs = built("shared")
    tensor = by_number(artifact)[1]
    found = run_files(zeroed(artifact, tensor.runs(3)), inputs, "other")
    wanted = reference.silenced(nets.SharedOther(model).eval(), inputs, reference.layers(model, inputs)[1], 3)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
