"""Edges, inputs and outputs of Core ML programs, by name and by what the evaluator computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts import Artifact, Edge
from corelocker.artifacts.coreml.channel_moves import Channels, reshaped
from corelocker.artifacts.coreml.package import open_package
from corelocker.audit.mlprogram import MlProgramEvaluator
from support.models import coreml_models as models

WEIGHT_FILE = Path("Data/com.apple.CoreML/weights/weight.bin")


def edges(artifact: Artifact) -> dict[str, list[tuple[str, int, int]]]:
    return {name: [(e.consumer, e.block, e.first) for e in found] for name, found in artifact.edges.items()}


def test_convolutions_pooling_and_flattening() -> None:
    artifact = open_package(models.package("cnn", "fp32"))
    assert edges(artifact) == {
        "const_0": [("const_2", 1, 0)],
        "const_2": [("conv3_weight", 1, 0)],
        "conv3_weight": [("hidden_weight", 16, 0)],  # flattened: 4 x 4 columns a channel
        "hidden_weight": [("head_weight", 1, 0)],
        "head_weight": [],
    }
    assert (artifact.untraced, artifact.inputs, artifact.outputs) == ({}, {"const_0"}, {"head_weight"})


def test_depthwise_layers_and_shortcuts() -> None:
    artifact = open_package(models.package("mobilenet", "fp32"))
    names = [t.name for t in artifact.tensors]
    stem, expand1, depthwise1, project1, expand2, depthwise2, project2, expand3, depthwise3, project3, last, head = (
        names
    )
    assert artifact.edges == {
        stem: (Edge(expand1),),
        expand1: (Edge(depthwise1),),
        depthwise1: (Edge(project1),),
        project1: (Edge(expand2), Edge(expand3)),  # past block 2 by its shortcut
        expand2: (Edge(depthwise2),),
        depthwise2: (Edge(project2),),
        project2: (Edge(expand3),),
        expand3: (Edge(depthwise3),),
        depthwise3: (Edge(project3),),
        project3: (Edge(last),),
        last: (Edge(head),),
        head: (),
    }
    assert (artifact.inputs, artifact.outputs) == ({stem}, {head})


def test_transformer() -> None:
    artifact = open_package(models.package("transformer", "fp16"))
    short = {t.name: t.name.removesuffix("_weight_to_fp16") for t in artifact.tensors}
    found = {short[n]: [short[e.consumer] for e in es] for n, es in artifact.edges.items()}
    rest = ["blocks_1_qkv", "blocks_1_up", "head"]
    assert found == {
        "blocks_0_out": ["blocks_0_up", *rest],
        "blocks_0_up": ["blocks_0_down"],
        "blocks_0_down": rest,
        "blocks_1_out": ["blocks_1_up", "head"],
        "blocks_1_up": ["blocks_1_down"],
        "blocks_1_down": ["head"],
        "head": [],
    }
    assert {short[n] for n in artifact.untraced} == {"embedding", "blocks_0_qkv", "blocks_1_qkv"}
    assert "reshape" in artifact.untraced["blocks_0_qkv_weight_to_fp16"]
    assert {short[n] for n in artifact.inputs} == {"embedding"}
    assert {short[n] for n in artifact.outputs} == {"head"}


def test_joined_padded_gated_and_branching_channels() -> None:
    artifact = open_package(models.built("graph"))
    assert edges(artifact) == {
        "stem": [("left", 1, 0), ("right", 1, 0)],
        "left": [("inner", 1, 0), ("gate", 1, 0), ("then", 1, 0), ("otherwise", 1, 0)],
        "right": [("inner", 1, 6), ("gate", 1, 6), ("then", 1, 6), ("otherwise", 1, 6)],
        "inner": [("gate", 1, 2), ("then", 1, 2), ("otherwise", 1, 2)],
        "gate": [("then", 1, 0), ("otherwise", 1, 0)],
        "shared_w": [("shared_w", 1, 0), ("last", 1, 0)],
        "last": [],
    }
    assert set(artifact.untraced) == {"then", "otherwise"}
    assert all("slice_by_index" in reason for reason in artifact.untraced.values())
    assert (artifact.inputs, artifact.outputs) == ({"stem"}, {"last"})


def test_matrices_on_either_side() -> None:
    artifact = open_package(models.built("layouts"))
    assert edges(artifact) == {
        "first_weight_0": [("up_w", 1, 0)],
        "up_w": [("grouped_w", 1, 0)],
        "grouped_w": [("twice_w", 2, 0)],  # a depthwise layer with two outputs for each input
        "twice_w": [("left_w", 1, 0)],
        "left_w": [("rows_w", 1, 0)],
        "right_w": [],
        "rows_w": [("turned_w", 1, 0)],
        "turned_w": [],
    }
    assert artifact.outputs == {"turned_w"}


def test_recurrent_layers_say_why_they_are_not_followed() -> None:
    artifact = open_package(models.package("recurrent", "fp16"))
    gates = [t.name for t in artifact.tensors if t.shape[0] == 64]
    assert len(gates) == 4
    assert all("gates of a recurrent layer" in artifact.untraced[name] for name in gates)
    assert artifact.inputs == set(gates)


@pytest.mark.parametrize(("name", "variant"), [("cnn", "fp32"), ("mobilenet", "fp32"), ("layouts", "")])
def test_columns_of_a_silent_channel_have_no_effect(name: str, variant: str) -> None:
    """The columns that the edges name, and no others, can be anything once the producer's channel is silent."""
    path = models.package(name, variant) if variant else models.built(name)
    artifact, program = open_package(path), MlProgramEvaluator(path)
    tensors = {t.name: t for t in artifact.tensors}
    original = (path / WEIGHT_FILE).read_bytes()
    generator = np.random.default_rng(3)
    torch.manual_seed(4)
    x = {n: torch.randn([2, *(kind.shape[1:])]) for n, kind in program.inputs.items() if kind is not None}
    checked = 0
    for producer, found in artifact.edges.items():
        channel = tensors[producer].channels // 3
        silent = bytearray(original)
        for _, run in tensors[producer].runs(channel):
            for piece in range(run.count):
                start = run.offset + piece * run.stride
                silent[start : start + run.length] = bytes(run.length)
        for edge in found:
            consumer = tensors[edge.consumer]
            if consumer.inputs is None or producer in ("const_6", "const_12"):
                continue  # a shortcut adds another layer's channel
            read = {(edge.first + channel * edge.block + i) for i in range(edge.block)}
            outputs = []
            for columns in (set(), read, set(range(consumer.inputs.channels)) - read):
                data = bytearray(silent)
                for column in columns:
                    run = consumer.inputs.run(column)
                    for piece in range(run.count):
                        start = run.offset + piece * run.stride
                        other = generator.standard_normal(run.length // 4, np.float32)
                        data[start : start + run.length] = other.tobytes()
                outputs.append(next(iter(program.with_weights(bytes(data)).batch(x).values())))
            plain, inside, beside = outputs
            torch.testing.assert_close(inside, plain, rtol=0, atol=1e-6)
            assert (beside - plain).abs().max() > 1e-4, (producer, edge)
            checked += 1
    assert checked >= 4


@pytest.mark.parametrize(
    ("old", "axis", "new", "wanted"),
    [
        ((1, 24, 4, 4), 1, (1, 384), (1, 16)),
        ((1, 24, 1, 1), 1, (1, 24), (1, 1)),
        ((None, 24, 4, 4), 1, (None, 384), (1, 16)),
        ((1, 8, 32), 2, (8, 32), (1, 1)),
        ((1, 24, 4, 4), 1, (1, 24, 16), (1, 1)),
        ((2, 24, 4), 1, (2, 48, 2), (1, 2)),
        ((1, 8, 32), 2, (1, 8, 4, 8), None),  # heads split the channels
        ((1, 8, 32), 2, (1, 256), None),  # tokens in front of the channels
        ((1, 24, 4, 4), 1, (1, 4, 96), None),
        ((1, 24, None, None), 1, (1, None), None),
        ((1, 0, 4), 1, (1, 0), None),
    ],
)
def test_reshape(
    old: tuple[int | None, ...], axis: int, new: tuple[int | None, ...], wanted: tuple[int, int] | None
) -> None:
    found = reshaped(Channels("p", axis, 1, 0), old, new)
    assert (found and (found.axis, found.block)) == wanted
