"""The ExecuTorch adapter against the torch modules, ExecuTorch's own readers and its runtime."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts import Artifact, Edge, WeightTensor, open_artifact
from corelocker.artifacts.executorch.pte import open_pte
from corelocker.artifacts.executorch.walk import Walk
from corelocker.artifacts.executorch.xnnpack import XnnpackGraph
from corelocker.artifacts.flow import Tracer
from corelocker.artifacts.layers import Collector, Region
from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import (
    FileAccessError,
    MalformedArtifactError,
    NothingToLockError,
    UnknownFormatError,
    UnsupportedLayoutError,
)
from corelocker.files import MappedFile
from corelocker.locking.criteria import score
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.plan import make_plan
from corelocker.locking.tiers import parse_tiers
from corelocker.locking.writing import write_locked_file
from support import calls
from support.models import nets, reference
from support.models.lowering import GROUP, built, exported, innermost, run
from torch import nn

FLOAT = [
    ("resnet", "portable"), ("resnet", "xnnpack"), ("resnet", "mixed"), ("mobilenet", "portable"), ("mobilenet", "xnnpack"),
    ("vgg", "portable"), ("vgg", "xnnpack"), ("vgg", "external"), ("vgg", "xnnpack-external"), ("transformer", "portable"),
    ("transformer", "xnnpack"), ("branches", "portable"), ("branches", "xnnpack"), ("unet", "portable"),
    ("unet", "xnnpack"), ("audio", "portable"), ("audio", "xnnpack"), ("shared", "methods-portable"),
    ("shared", "methods-xnnpack"),
]  # fmt: skip
CODED = [
    ("gated", "half"), ("gated", "int4"), ("mobilenet", "int8"), ("unet", "int8"), ("shared", "int4-per-channel"),
    ("shared", "int8-per-tensor"), ("shared", "int8-portable"), ("stack", "channels-last"), ("vgg", "coreml"),
]  # fmt: skip
UNFOLDED = ("portable", "external", "mixed", "channels-last")

ids = "-".join


def opened(name: str, variant: str) -> Artifact:
    return open_pte(exported(name, variant))


def layers_of(name: str, variant: str) -> list[reference.Layer]:
    """The torch layers in the order in which a program of all methods names them."""
    model, inputs = built(name)
    found = reference.layers(model, inputs)
    if "methods" in variant:
        other = model.other
        found.append(reference.Layer(other, other.weight.detach().numpy()))
    return found


def by_number(artifact: Artifact) -> dict[int, WeightTensor]:
    return {tensor.order: tensor for tensor in artifact.tensors}


# --- what is read ------------------------------------------------------------------------------------


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


# --- what the bytes do -----------------------------------------------------------------------------------


def zeroed(artifact: Artifact, runs: list[tuple[object, object]]) -> dict[str, bytes]:
    """The files of the artifact with these runs blanked, by suffix."""
    changed = {file: bytearray(file.path.read_bytes()) for file in artifact.files}
    for file, piece in runs:
        for i in range(piece.count):
            start = piece.offset + i * piece.stride
            changed[file][start : start + piece.length] = bytes(piece.length)
    return {file.path.suffix: bytes(data) for file, data in changed.items()}


def run_files(files: dict[str, bytes], inputs: nets.Inputs, method: str = "forward") -> torch.Tensor:
    return run(files[".pte"], inputs, method, files.get(".ptd"))


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


# --- the graph ---------------------------------------------------------------------------------------------

Table = dict[int, set[tuple[int, int, int]]]
CHAINS: dict[str, Table] = {
    # layer -> {(who reads it, block, first)}
    "resnet": {
        0: {(1, 1, 0), (3, 1, 0), (5, 1, 0)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0), (5, 1, 0)}, 3: {(4, 1, 0)}, 4: {(6, 1, 0)},
        5: {(6, 1, 0)}, 6: set(),
    },
    "mobilenet": {
        0: {(1, 1, 0), (4, 1, 0)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0)}, 3: {(4, 1, 0)}, 4: {(5, 1, 0)}, 5: {(6, 1, 0)},
        6: {(7, 1, 0)}, 7: {(8, 1, 0)}, 8: set(),
    },
    "vgg": {0: {(1, 1, 0)}, 1: {(2, 16, 0)}, 2: {(3, 1, 0)}, 3: set()},
    "transformer": {
        3: {(4, 1, 0)}, 4: {(5, 1, 0), (7, 1, 0)}, 5: {(6, 1, 0)}, 6: {(7, 1, 0)}, 7: set(),
    },
    "gated": {0: {(1, 1, 0), (2, 1, 0), (4, 1, 0)}, 1: {(3, 1, 0)}, 2: {(3, 1, 0)}, 3: {(4, 1, 0)}, 4: set()},
    "branches": {
        0: {(1, 1, 0), (2, 1, 0)}, 1: {(3, 1, 0)}, 2: {(3, 1, 6)}, 3: {(4, 2, 0)}, 4: {(5, 1, 0), (7, 1, 0)},
        5: {(6, 1, 0)}, 6: {(7, 1, 0)}, 7: set(),
    },
    "unet": {0: {(1, 1, 0), (3, 1, 6)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0)}, 3: set()},
    "audio": {0: {(1, 1, 0)}, 1: {(2, 1, 0)}, 2: {(3, 1, 0)}, 3: set()},
    "stack": {0: {(1, 1, 0)}, 1: {(2, 64, 0)}, 2: set()},
    "shared": {0: {(1, 1, 0)}, 1: {(2, 1, 0)}, 2: set()},
    "shared methods": {0: {(1, 1, 0)}, 1: {(2, 1, 0), (3, 1, 0)}, 2: set(), 3: set()},
    "lastaxis": {0: {(1, 1, 0)}, 2: set()},
}  # fmt: skip
ENDS: dict[str, tuple[set[int], set[int]]] = {
    "resnet": ({0}, {6}), "mobilenet": ({0}, {8}), "vgg": ({0}, {3}), "transformer": ({0}, {7}), "gated": ({0}, {4}),
    "branches": ({0}, {7}), "unet": ({0}, {3}), "audio": ({0}, {3}), "shared": ({0}, {2}), "stack": ({0}, {2}),
    "shared methods": ({0}, {2, 3}), "lastaxis": ({0}, {2}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"), [n for n in FLOAT + CODED if n[1] != "coreml"] + [("lastaxis", "xnnpack")], ids=lambda p: p
)
def test_graph(name: str, variant: str) -> None:
    artifact = opened(name, variant)
    number = {tensor.name: tensor.order for tensor in artifact.tensors}
    found = {
        number[producer]: {(number[e.consumer], e.block, e.first) for e in edges}
        for producer, edges in artifact.edges.items()
    }
    net = f"{name} methods" if "methods" in variant else name
    assert found == CHAINS[net]
    assert ({number[n] for n in artifact.inputs}, {number[n] for n in artifact.outputs}) == ENDS[net]
    assert {number[n] for n in artifact.untraced} == set(number.values()) - set(CHAINS[net])


def test_what_is_not_followed_has_a_reason() -> None:
    transformer = opened("transformer", "xnnpack")
    reasons = [transformer.untraced[transformer.tensors[i].name] for i in (0, 1, 2)]
    assert "entries" in reasons[0]
    assert "summed" in reasons[1]
    assert "summed" in reasons[2]
    last = opened("lastaxis", "xnnpack")
    assert "interleaved" in last.untraced[last.tensors[1].name]
    assert last.tensors[1].name not in last.edges


def test_unknown_constants_are_listed() -> None:
    artifact = opened("transformer", "xnnpack")
    reasons = " ".join(skipped.reason for skipped in artifact.skipped)
    assert "normalization" in reasons
    assert "(1, 8, 64)" in reasons  # the positions
    assert len({skipped.name for skipped in artifact.skipped}) == len(artifact.skipped)


# --- identities ----------------------------------------------------------------------------------------------


def renamed(artifact: Artifact, copies: slice = slice(None)) -> dict[str, bytes]:
    """The files with other names in the place of all identities."""
    generator = np.random.default_rng(0)
    changed = {file: bytearray(file.path.read_bytes()) for file in artifact.files}
    fresh: dict[bytes, bytes] = {}
    for identity in artifact.identities:
        old = bytes(identity.file.read(identity.copies[0], identity.length))
        letters = generator.choice(list(b"0123456789abcdef"), len(old)).astype(np.uint8)
        new = fresh.setdefault(
            old, bytes(n if c in b"0123456789abcdef" else c for n, c in zip(letters, old, strict=True))
        )
        for offset in identity.copies[copies]:
            changed[identity.file][offset : offset + identity.length] = new
    return {file.path.suffix: bytes(data) for file, data in changed.items()}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("resnet", "xnnpack"),
        ("mobilenet", "int8"),
        ("gated", "int4"),
        ("vgg", "xnnpack-external"),
        ("shared", "methods-xnnpack"),
    ],
)
def test_every_key_can_be_renamed(name: str, variant: str) -> None:
    artifact = opened(name, variant)
    _, inputs = built(name)
    files = {file.path.suffix: file.path.read_bytes() for file in artifact.files}
    changed = renamed(artifact)
    assert torch.equal(run_files(changed, inputs), run_files(files, inputs))
    # No digest of anything is left.
    digests = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
    before = {d for data in files.values() for d in digests.findall(data)}
    after = {d for data in changed.values() for d in digests.findall(data)}
    assert before
    assert not before & after


def test_keys_are_needed() -> None:
    artifact = opened("resnet", "xnnpack")
    with pytest.raises(RuntimeError):
        run_files(renamed(artifact, slice(1)), built("resnet")[1])


def test_identities_cover_what_they_name() -> None:
    artifact = opened("mobilenet", "int8")
    covered = {(offset, size) for identity in artifact.identities for _, offset, size in identity.covers}
    for tensor in artifact.tensors:
        for part in tensor.parts:
            assert any(
                offset <= part.offset and part.offset + part.extent[1] <= offset + size for offset, size in covered
            )
        # A cache of packed weights is keyed by the weight's name, and holds its scales.
        mine = [i for i in artifact.identities if i.covers[0][1] == tensor.weight.offset]
        assert len(mine) == 1
        assert tensor.part("scale").offset in [offset for _, offset, _ in mine[0].covers]


def test_names_do_not_come_from_digests() -> None:
    for variant in ("xnnpack", "xnnpack-external"):
        assert not any(re.search("[0-9a-f]{16}", tensor.name) for tensor in opened("vgg", variant).tensors)


# --- external weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["external", "xnnpack-external"])
def test_missing_external_weights_are_named(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "alone.pte"
    path.write_bytes(exported("vgg", variant).read_bytes())
    with pytest.raises(FileAccessError, match=r"alone\.ptd") as caught:
        open_pte(path)
    key = re.search("'(.*)'", str(caught.value)).group(1)
    assert key.encode() in exported("vgg", variant).with_suffix(".ptd").read_bytes()


@pytest.mark.parametrize("variant", ["external", "xnnpack-external"])
def test_external_weights_under_another_name(variant: str, tmp_path: Path) -> None:
    program, data = tmp_path / "a.pte", tmp_path / "b.ptd"
    program.write_bytes(exported("vgg", variant).read_bytes())
    data.write_bytes(exported("vgg", variant).with_suffix(".ptd").read_bytes())
    artifact = open_artifact(program, [data])
    assert [file.name for file in artifact.files] == ["a.pte", "b.ptd"]
    assert "b.ptd" in {tensor.weight.file.name for tensor in artifact.tensors}


def test_names_of_external_constants_are_kept() -> None:
    names = [tensor.name for tensor in opened("vgg", "external").tensors]
    assert names == ["features.0.0.weight", "features.3.0.weight", "hidden.weight", "fc.weight"]


def test_unneeded_external_weights(tmp_path: Path) -> None:
    program, data = tmp_path / "a.pte", tmp_path / "a.ptd"
    program.write_bytes(exported("vgg", "xnnpack").read_bytes())
    data.write_bytes(exported("vgg", "external").with_suffix(".ptd").read_bytes())
    assert [file.name for file in open_pte(program).files] == ["a.pte"]
    with pytest.raises(MalformedArtifactError, match="holds no weights"):
        open_pte(program, [data])


# --- the Core ML delegate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variant"), [("vgg", "coreml"), ("shared", "methods-coreml")])
def test_core_ml_identifier(name: str, variant: str, tmp_path: Path) -> None:
    from executorch.backends.apple.coreml import executorchcoreml

    artifact = opened(name, variant)
    (identity,) = artifact.identities
    files = renamed(artifact)
    old, new = (
        data[identity.copies[0] :][: identity.length] for data in (exported(name, variant).read_bytes(), files[".pte"])
    )
    assert old != new
    assert old not in files[".pte"]
    assert files[".pte"].count(new) == len(identity.copies) == (1 if name == "vgg" else 4)
    _, offset, size = identity.covers[0]
    assert all(offset <= t.weight.offset < offset + size for t in artifact.tensors)
    # ExecuTorch's own reader unpacks the changed package.
    blob = files[".pte"][:offset]
    end = files[".pte"].rfind(b":"[::-1] + b'"sedon"{') + len(b':"sedon"{')
    start = blob.rfind(b'{"inputNames"' if name == "vgg" else b'{"identifier"')
    (tmp_path / "out").mkdir()
    assert executorchcoreml.unflatten_directory_contents(files[".pte"][start:end], str(tmp_path / "out"))
    (metadata,) = (tmp_path / "out").rglob("metadata.json")
    (weights,) = (tmp_path / "out").rglob("weight.bin")
    assert new in metadata.read_bytes()
    assert weights.read_bytes() == files[".pte"][offset : offset + size]


def test_core_ml_graph() -> None:
    artifact = opened("vgg", "coreml")
    number = {tensor.name: tensor.order for tensor in artifact.tensors}
    assert ({number[n] for n in artifact.inputs}, {number[n] for n in artifact.outputs}) == ({0}, {3})
    assert artifact.edges[artifact.tensors[1].name] == (Edge(artifact.tensors[2].name, 16, 0),)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_unknown_delegate(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(exported("vgg", "xnnpack").read_bytes().replace(b"XnnpackBackend", b"UnknownBackend"))
    with pytest.raises(UnsupportedLayoutError, match=r"UnknownBackend.*not supported"):
        open_pte(path)


def test_unknown_delegate_among_known_layers(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(exported("resnet", "mixed").read_bytes().replace(b"XnnpackBackend", b"UnknownBackend"))
    artifact = open_pte(path)
    assert [tensor.role for tensor in artifact.tensors] == ["linear"]
    assert any(skipped.reason == "the delegate UnknownBackend is not supported" for skipped in artifact.skipped)
    assert not artifact.inputs  # the delegate stands before it
    assert artifact.outputs == {artifact.tensors[0].name}


def test_nothing_to_lock(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(exported("plain", "portable").read_bytes())
    with pytest.raises(NothingToLockError):
        open_pte(path)


@pytest.mark.parametrize("content", [b"\0" * 4, b"PK\3\4" * 100, b"\x1c\0\0\0ET11" + b"\0" * 100])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(content)
    with pytest.raises((UnknownFormatError, MalformedArtifactError)):
        open_pte(path)


# --- older programs ------------------------------------------------------------------------------------------------


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


# --- speed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variant"), [("transformer", "xnnpack"), ("mobilenet", "int8")])
def test_opening_costs_little(name: str, variant: str) -> None:
    path = exported(name, variant)
    assert calls(lambda: open_pte(path)) < 60_000
