"""Decoys: no score of single channels finds them, they never depend on what they hide, and copies agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from corelocker.artifacts import Artifact, Edge, WeightTensor, open_artifact
from corelocker.artifacts.elements import INT8
from corelocker.errors import LockingError
from corelocker.locking.criteria import score
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.fill import fill_group
from corelocker.locking.fill.candidates import WIDE, _permuted
from corelocker.locking.fill.draw import _targets
from corelocker.locking.fill.ordering import RankBias, Ticket
from corelocker.locking.fill.statistics import CODE_STATISTICS, STATISTICS
from corelocker.locking.plan import Plan
from corelocker.locking.planning import make_plan
from corelocker.locking.tiers import parse_tiers
from numpy.typing import NDArray
from support.detectors import detection
from support.small_artifacts import Builder, float_layer, quantized_layer, trained_like, write_safetensors


def lock_in_memory(
    artifacts: list[Artifact], seed: bytes = b"s", tiers: str = "free=0.05,full=0", **options: object
) -> tuple[Plan, list[bytes]]:
    settings = {"scope": "layer", "fill": "decoy", "include_io": True} | options
    plan = make_plan(artifacts, parse_tiers(tiers), score("l1", seed, None), criterion="l1", seed=seed, **settings)  # type: ignore[arg-type]
    return plan, shipped(artifacts, plan)


def shipped(artifacts: list[Artifact], plan: Plan) -> list[bytes]:
    states = []
    for locked in lock_artifacts(artifacts, plan):
        (file,) = locked.files
        block = file.file.data.copy()
        file.overlay.apply(0, block, 0)
        states.append(block.tobytes())
    return states


def touched(artifact: Artifact, describe: list[object], plan: Plan, path: Path) -> NDArray[np.bool_]:
    """Which weights of the last layer the plan's locking changes: (channels, elements)."""
    after = Builder(path)
    after._data = bytearray(shipped([artifact], plan)[0])
    before, locked = (
        a.tensors[-1].weight.read(range(a.tensors[-1].channels)) for a in (artifact, after.artifact(describe))
    )
    return before != locked


SHAPES = [(64, 32, 3, 3), (96, 64, 1, 1), (128, 96), (64, 128), (96, 9), (256, 64)] * 2
WIDE_SHAPES = [(64, 128, 3, 3), (96, 2048), (64, 1024), (256, 1152), (192, 1536)] * 2


def layers(
    builder: Builder, kind: str, shapes: Sequence[tuple[int, ...]] = SHAPES, weights: str = "trained"
) -> list[object]:
    rng = np.random.default_rng(5)
    found: list[object] = []
    for order, (channels, *shape) in enumerate(shapes):
        weight = trained_like(rng, channels, *shape)
        if weights == "untrained":  # torch's default
            weight = rng.uniform(-1, 1, weight.shape).astype(np.float32) / np.sqrt(np.prod(shape), dtype=np.float32)
        name = f"layer{order}"
        if kind in ("int8", "int4"):
            weight = weight.reshape(channels, -1)
            weight = (
                weight[:, : weight.shape[1] // 32 * 32] if weight.shape[1] >= 32 else weight.repeat(4, axis=1)[:, :32]
            )
            found.append(
                quantized_layer(builder, name, weight, order, bits=int(kind[3:]), group=32 if kind == "int4" else None)
            )
        else:
            bias = rng.normal(0, 0.1, channels).astype(np.float32)
            found.append(
                float_layer(builder, name, weight, order, bias=bias, half=kind == "fp16", depthwise=shape == [9])
            )
    return found


@pytest.mark.parametrize("weights", ["trained", "untrained"])
@pytest.mark.parametrize("shapes", [SHAPES, WIDE_SHAPES], ids=["narrow", "wide"])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int4"])
def test_detectors_are_blind(tmp_path: Path, kind: str, shapes: Sequence[tuple[int, ...]], weights: str) -> None:
    builder = Builder(tmp_path / "m.bin")
    describe = layers(builder, kind, shapes, weights)
    artifact = builder.artifact(describe)
    for seed in (b"1", b"2", b"3"):
        plan, (locked,) = lock_in_memory([artifact], seed)
        after = Builder(tmp_path / "locked.bin")
        after._data = bytearray(locked)
        found = detection(after.artifact(describe), plan.tier_of[0])
        assert len(found) >= 5
        assert all(0.40 <= value <= 0.60 for value in found.values()), found


def test_the_detectors_do_see_what_was_there(tmp_path: Path) -> None:
    """Largest channels and zero fill are found at once: the test above can fail."""
    builder = Builder(tmp_path / "m.bin")
    describe = layers(builder, "int8")
    artifact = builder.artifact(describe)
    plan, (zeroed,) = lock_in_memory([artifact], fill="zero")
    assert detection(artifact, plan.tier_of[0])["l1"] > 0.95
    after = Builder(tmp_path / "zero.bin")
    after._data = bytearray(zeroed)
    assert detection(after.artifact(describe), plan.tier_of[0])["l1"] < 0.05


@pytest.mark.parametrize("fill", ["zero", "decoy"])
def test_fill_never_depends_on_a_locked_byte(tmp_path: Path, fill: str) -> None:
    rng = np.random.default_rng(1)
    weight = trained_like(rng, 16, 24)
    channels = np.array([2, 9, 11])
    filled = []
    for change in (1.0, -3.0):
        other = weight.copy()
        other[channels] *= change
        builder = Builder(tmp_path / f"{change}.bin")
        artifact = builder.artifact(
            [float_layer(builder, "a", other, bias=other[:, 0]), quantized_layer(builder, "b", other, group=8, bits=4)]
        )
        for tensor in artifact.tensors:
            (result,) = fill_group([tensor], channels, fill, np.random.default_rng(3), Ticket(RankBias()))  # type: ignore[arg-type]
            filled.append([data.tobytes() for part in result.parts for data in part])
    assert filled[0] == filled[2]
    assert filled[1][:6] == filled[3][:6], "codes and scales; the quantization of the other channels did not change"


def test_zero_fill_is_silent(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    builder = Builder(tmp_path / "m.bin")
    weight = trained_like(rng, 16, 32)
    describe = [
        float_layer(builder, "a", weight, 0, bias=weight[:, 0]),
        quantized_layer(builder, "b", weight[:, ::-1].copy(), 1),
        quantized_layer(builder, "c", weight[::-1].copy(), 2, bits=4, group=16),
    ]
    artifact = builder.artifact(describe)
    plan, (locked,) = lock_in_memory([artifact], fill="zero", tiers="free=0.2,full=0")
    after = Builder(tmp_path / "locked.bin")
    after._data = bytearray(locked)
    for before, tensor in zip(artifact.tensors, after.artifact(describe).tensors, strict=True):
        taken = plan.tier_of[0][tensor.name] > 0
        assert not tensor.values(np.flatnonzero(taken)).any()
        assert np.array_equal(tensor.values(np.flatnonzero(~taken)), before.values(np.flatnonzero(~taken)))
        if bias := tensor.part("bias"):
            assert not bias.read(np.flatnonzero(taken)).any()
        if scale := tensor.part("scale"):
            assert (scale.read() > 0).all()


def test_scales_of_decoys_are_positive_and_codes_in_range(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "m.bin")
    weight = trained_like(np.random.default_rng(3), 64, 64)
    weight[5] = 0  # a dead channel, as pruning leaves them
    describe = [quantized_layer(builder, "a", np.where(weight == 0, 1e-6, weight), bits=4, group=32)]
    artifact = builder.artifact(describe)
    _, (locked,) = lock_in_memory([artifact], tiers="free=0.3,full=0")
    after = Builder(tmp_path / "locked.bin")
    after._data = bytearray(locked)
    (tensor,) = after.artifact(describe).tensors
    scales = tensor.part("scale").read()
    assert np.isfinite(scales).all()
    assert (scales > 0).all()


def test_copies_in_other_formats_agree(tmp_path: Path) -> None:
    """Rows, transposed, half precision and int8: what stands in a locked place tells no more in one copy than in the other."""
    weight = trained_like(np.random.default_rng(4), 64, 96)
    artifacts, describes = [], []
    for number, kind in enumerate(("rows", "columns", "half", "int8")):
        builder = Builder(tmp_path / f"{kind}.bin")
        if kind == "int8":
            describe = [quantized_layer(builder, "w", weight)]
        else:
            describe = [float_layer(builder, f"w{number}", weight, half=kind == "half", output_last=kind == "columns")]
        artifacts.append(builder.artifact(describe))
        describes.append(describe)
    plan, states = lock_in_memory(artifacts)
    read: list[WeightTensor] = []
    for number, (state, describe) in enumerate(zip(states, describes, strict=True)):
        after = Builder(tmp_path / f"locked{number}.bin")
        after._data = bytearray(state)
        read.append(after.artifact(describe).tensors[0])
    assert len({m.tobytes() for maps in plan.tier_of for m in maps.values()}) == 1
    first = read[0].read()
    assert not np.array_equal(first, weight)
    assert np.array_equal(first, read[1].read())
    assert np.allclose(first, read[2].read(), atol=2e-3)
    assert np.abs(first - read[3].read()).max() <= read[3].part("scale").read().max()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "m.safetensors", {f"l{i}.weight": trained_like(np.random.default_rng(i), 32, 32) for i in range(3)}
    )
    runs = [lock_in_memory([open_artifact(path)], seed) for seed in (b"a", b"a", b"b")]
    assert runs[0][1] == runs[1][1]
    assert runs[0][1] != runs[2][1]


def test_asymmetric_codes_reach_both_ends(tmp_path: Path) -> None:
    """Zero points that differ from channel to channel are redrawn with the scale, so codes still use their whole range."""
    from corelocker.artifacts import Part, Quantization
    from corelocker.artifacts.elements import FLOAT32

    rng = np.random.default_rng(8)
    weight = trained_like(rng, 64, 48) + 0.02
    low, high = np.minimum(weight.min(axis=1), 0), np.maximum(weight.max(axis=1), 0)
    scale = ((high - low) / 255).astype(np.float32)
    zero = np.rint(-128 - low / scale)
    codes = np.rint(weight / scale[:, None] + zero[:, None])
    builder = Builder(tmp_path / "m.bin")
    at = [
        builder.add(INT8.encode(codes).tobytes()),
        builder.add(scale.tobytes()),
        builder.add(INT8.encode(zero[None]).tobytes()),
    ]

    def make(file):
        parts = (Part("weight", INT8, file, at[0], 64, 48, 48, 48), Part("scale", FLOAT32, file, at[1], 64, 4, 4, 4),
                 Part("zero_point", INT8, file, at[2], 64, 1, 1, 1))  # fmt: skip
        return WeightTensor("w", "linear", (64, 48), "int8", 0, parts, (48,), (0,), Quantization())

    artifact = builder.artifact([make])
    plan, (locked,) = lock_in_memory([artifact], tiers="free=0.25,full=0")
    after = Builder(tmp_path / "locked.bin")
    after._data = bytearray(locked)
    (tensor,) = after.artifact([make]).tensors
    taken = np.flatnonzero(plan.tier_of[0]["w"])
    decoys = tensor.weight.read(taken)
    assert (decoys.max(axis=1) - decoys.min(axis=1)).min() >= 253
    assert all(0.4 <= v <= 0.6 for v in detection(after.artifact([make]), plan.tier_of[0]).values())


def test_one_input_channel_stays_where_consumers_would_take_them_all(tmp_path: Path) -> None:
    """What was added up reads channels of both: together they are all."""
    builder = Builder(tmp_path / "m.bin")
    rng = np.random.default_rng(0)
    describe = [float_layer(builder, n, trained_like(rng, 8, 8), i) for i, n in enumerate("abc")]
    artifact = builder.artifact(describe, edges={"a": (Edge("c"),), "b": (Edge("c"),)})
    plan, _ = lock_in_memory([artifact], tiers="free=0.5,plus=0.2,full=0")
    plan.tier_of[0] = {
        "a": np.array([1, 1, 1, 2, 0, 0, 0, 0], np.uint8),
        "b": np.array([0, 0, 0, 0, 2, 1, 2, 2], np.uint8),
    }
    plan.consumers = True
    # Of those that tier 1 restores the first stays.
    assert touched(artifact, describe, plan, tmp_path / "locked.bin").any(axis=0).tolist() == [False, *[True] * 7]


@pytest.mark.parametrize("fill", ["zero", "decoy"])
def test_one_channel_of_a_depthwise_layer_stays_where_its_own_and_its_producers_are_all(
    tmp_path: Path, fill: str
) -> None:
    builder = Builder(tmp_path / "m.bin")
    rng = np.random.default_rng(0)
    describe = [
        float_layer(builder, "a", trained_like(rng, 8, 8), 0),
        float_layer(builder, "dw", trained_like(rng, 8, 1, 3, 3), 1, depthwise=True),
    ]
    artifact = builder.artifact(describe, edges={"a": (Edge("dw"),)})
    plan, _ = lock_in_memory([artifact], tiers="free=0.5,full=0", fill=fill)
    plan.tier_of[0] = {
        "a": np.array([1, 1, 1, 1, 0, 0, 0, 0], np.uint8),
        "dw": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.uint8),
    }
    plan.consumers = True
    assert touched(artifact, describe, plan, tmp_path / "locked.bin").any(axis=1).tolist() == [False, *[True] * 7]


def test_every_channel_of_a_layer_in_a_plan_is_an_error(tmp_path: Path) -> None:
    """Nothing would be left to draw decoys from."""
    builder = Builder(tmp_path / "m.bin")
    artifact = builder.artifact([float_layer(builder, "a", trained_like(np.random.default_rng(0), 8, 8), 0)])
    plan, _ = lock_in_memory([artifact], tiers="free=0.5,full=0")
    plan.tier_of[0]["a"][:] = 1
    with pytest.raises(LockingError, match="a: every channel"):
        lock_artifacts([artifact], plan)


@pytest.mark.parametrize("elements", [27, WIDE - 1, WIDE, 2304])
def test_every_row_gets_an_order_of_its_own(elements: int) -> None:
    rows = np.tile(np.arange(elements, dtype=np.float32), (16, 1))
    permuted = _permuted(rows, np.random.default_rng(3))
    assert (np.sort(permuted, axis=1) == rows).all()
    assert len({row.tobytes() for row in permuted}) == len(rows)
    # Nothing stays where it was more often than chance has it, and no two rows agree in more than a few places.
    assert (permuted == rows).mean() < 0.08
    alike = (permuted[:, None] == permuted[None]).mean(axis=2) - np.eye(len(rows))
    assert alike.max() < 0.3


def test_a_number_that_most_channels_share_is_as_common_among_targets() -> None:
    """Scales at an exporter's limit, codes that reach 127: ranks of such numbers do not spread evenly."""
    columns = len(STATISTICS + CODE_STATISTICS)
    ranks = np.full((200, columns), 0.5, np.float32)
    ranks[:, -1] = np.where(np.arange(200) < 40, 0.1, 0.6)  # a fifth has the smaller of two numbers
    balance, generator = RankBias(), np.random.default_rng(1)
    found = []
    for _ in range(6):
        targets = _targets(ranks, 10, generator, balance)
        balance.add(ranks[targets], ranks)
        found += (targets < 40).tolist()
    assert 0.15 <= np.mean(found) <= 0.25
