"""The unit `sign`: what is flipped, in every encoding, that it comes back exactly, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from corelocker.artifacts import Artifact, Part, Quantization, WeightTensor, open_artifact
from corelocker.artifacts.elements import BFLOAT16, FLOAT16, FLOAT32, INT4, INT8, UINT4, UINT6, UINT8, ElementType
from corelocker.artifacts.weights import SparsePart
from corelocker.bundle import flips
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import Kind
from corelocker.bundle.patch_stream import PatchStream
from corelocker.errors import ConfigError, TierError
from corelocker.files import MappedFile
from corelocker.locking.choose import choose_channels
from corelocker.locking.criteria import score
from corelocker.locking.flipped import FlippedRun
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.planning import make_plan
from corelocker.locking.publish import Publication, publish
from corelocker.locking.signs import places
from corelocker.locking.signs.masks import draw_flips
from corelocker.locking.signs.reading import Signs, signs_of
from corelocker.locking.tiers import Tier, parse_tiers
from corelocker.runtime.restored import restore
from cryptography.hazmat.primitives.asymmetric import ec
from support.small_artifacts import Builder, float_layer, quantized_layer, trained_like, write_safetensors

KEY = ec.generate_private_key(ec.SECP256R1())
TOP = new_content_key()
ALL = "free=1,full=0"


def plan_of(artifacts: list[Artifact], tiers: str = ALL, **options: object) -> Plan:
    settings = {"scope": "layer", "fill": "decoy", "seed": b"s", "include_io": True, "unit": "sign"} | options
    return make_plan(artifacts, parse_tiers(tiers, "sign"), score("l1", b"s", None), criterion="l1", **settings)  # type: ignore[arg-type]


def published(artifacts: list[Artifact], plan: Plan, out: Path) -> tuple[Publication, KeyBundle]:
    made = publish(
        artifacts, plan, out, model="m", model_version=1, bundle_id=uuid4(), signing_key=KEY, content_key=TOP
    )
    return made, KeyBundle.open(made.bundle, KEY.public_key())


def patches(bundle: KeyBundle) -> list[list[Patch]]:
    """Of the files of the first artifact, tier by tier."""
    keys = tier_keys(TOP, bundle.id, len(bundle.tiers))
    return [
        [
            Patch.parse(bundle.decrypt(section, keys[section.tier]).patch, file.size)
            for section in bundle.sections_of(0, place, len(bundle.tiers) - 1)
        ]
        for place, file in enumerate(bundle.artifacts[0].files)
    ]


def states(artifact: Artifact, bundle: KeyBundle, out: Path) -> list[bytes]:
    """The first file in each tier's state, by the product's reader with all its checks."""
    found, last = [], len(bundle.tiers) - 1
    for tier in range(last + 1):
        with restore(out / artifact.files[0].name, bundle, TOP, tier, key_tier=last, check="always") as restored:
            found.append(bytes(restored))
    return found


def one_tensor(
    path: Path, element: ElementType, codes: np.ndarray, quantization: Quantization | None, *, columns: bool = False
) -> WeightTensor:
    """Codes (channels, elements) as a file behind 3 bytes, so that nothing is aligned; channel by channel, or side by side."""
    raw = element.encode(codes.T if columns else codes)
    path.write_bytes(b"\1\2\3" + raw.tobytes() + b"\4\5")
    file = MappedFile(path, path.name)
    channels, elements = codes.shape
    width = element.bits
    if columns:
        part = Part("weight", element, file, 3, channels, width // 8, width // 8, channels * width // 8, elements)
    else:
        row = elements * width // 8
        part = Part("weight", element, file, 3, channels, row, row, row)
    return WeightTensor("t", "linear", codes.shape, element.name, 0, (part,), (elements,), (0,), quantization)


def artifact_of(tensor: WeightTensor) -> Artifact:
    file = tensor.weight.file
    return Artifact("safetensors", file.path, (file,), (tensor,))


SCALE = np.full((1, 1), 0.1, np.float32)
SYMMETRIC_PALETTE = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 16)
RNG = np.random.default_rng(7)


def gaussian(channels: int = 24, elements: int = 48) -> np.ndarray:
    return RNG.standard_normal((channels, elements)).astype(np.float32)


def codes(low: int, high: int, channels: int = 24, elements: int = 48) -> np.ndarray:
    return RNG.integers(low, high + 1, (channels, elements)).astype(np.int32)


def by_rows(zero_points: list[int]) -> np.ndarray:
    return np.repeat(np.array(zero_points, np.float32), 24 // len(zero_points))[:, None]


ENCODINGS: dict[str, tuple[ElementType, np.ndarray, Quantization | None, Kind]] = {
    "float32": (FLOAT32, gaussian(), None, Kind.XOR_TOP),
    "float16": (FLOAT16, gaussian(), None, Kind.XOR_TOP),
    "bfloat16": (BFLOAT16, gaussian(), None, Kind.XOR_TOP),
    "int8": (INT8, codes(-127, 127), Quantization(SCALE), Kind.NEGATE),
    "int4": (INT4, codes(-7, 7), Quantization(SCALE), Kind.NEGATE),
    "nibbles": (UINT4, codes(1, 15), Quantization(SCALE, np.full((1, 1), 8, np.float32)), Kind.NEGATE),
    "affine": (UINT8, codes(1, 251), Quantization(SCALE, np.full((1, 1), 126, np.float32)), Kind.NEGATE),
    "zero points": (INT8, codes(-120, 120), Quantization(SCALE, by_rows([0, 2, -1, 3])), Kind.NEGATE),
    "palette": (UINT4, codes(0, 15), Quantization(lut=SYMMETRIC_PALETTE), Kind.PERMUTE),
    "large palette": (UINT8, codes(0, 255), Quantization(lut=np.sort(RNG.standard_normal(256)).astype(np.float32)[None, None]),
                      Kind.PERMUTE),
}  # fmt: skip


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_flipped_in_place_and_comes_back(tmp_path: Path, encoding: str, columns: bool) -> None:
    element, numbers, quantization, kind = ENCODINGS[encoding]
    if columns and (element.bits == 4 or encoding == "zero points"):
        pytest.skip("nibbles of channels side by side are no runs of whole bytes")
    tensor = one_tensor(tmp_path / "t.bin", element, numbers, quantization, columns=columns)
    artifact = artifact_of(tensor)
    plan = plan_of([artifact], "free=1,plus=0.4,full=0")
    made, bundle = published([artifact], plan, tmp_path / "out")
    found = states(artifact, bundle, tmp_path / "out")
    original = tensor.weight.file.path.read_bytes()
    assert found[2] == original
    assert len(set(found)) == 3
    for tier in patches(bundle)[0]:
        assert {run.kind for run in tier.runs} == {kind}
    assert made.artifacts[0].locked_channels == 24

    values = tensor.values()
    for index, state in enumerate(found[:2]):
        path = tmp_path / f"{index}.bin"
        path.write_bytes(state)
        locked = one_values(tensor, path)
        open_rows = plan.tier_of[0]["t"] <= index
        assert np.array_equal(locked[open_rows], values[open_rows])
        if encoding != "large palette":  # its entries have no exact negatives
            np.testing.assert_allclose(np.abs(locked), np.abs(values), rtol=1e-6)
        flipped = (locked != values)[~open_rows]
        assert 0.4 < flipped.mean() < 0.6, "a weight flips with probability 1/2"


def one_values(tensor: WeightTensor, path: Path) -> np.ndarray:
    """The weights of the same tensor in another file."""
    file = MappedFile(path, path.name)
    return replace(tensor, parts=tuple(replace(part, file=file) for part in tensor.parts)).values()


def test_a_pruned_tensor_gives_the_signs_of_its_stored_weights(tmp_path: Path) -> None:
    mask = RNG.random((20, 30)) < 0.4
    mask[3] = False
    stored = RNG.standard_normal(int(mask.sum())).astype(np.float16)
    path = tmp_path / "t.bin"
    path.write_bytes(b"\0" * 5 + stored.tobytes())
    file = MappedFile(path, path.name)
    part = SparsePart("weight", FLOAT16, file, 5, np.concatenate([[0], np.cumsum(mask.sum(axis=1))]), mask)
    tensor = WeightTensor("t", "linear", (20, 30), "float16, pruned", 0, (part,), (30,), (0,))
    artifact = artifact_of(tensor)
    plan = plan_of([artifact], "free=1,plus=0.5,full=0")
    _, bundle = published([artifact], plan, tmp_path / "out")
    found = states(artifact, bundle, tmp_path / "out")
    assert found[2] == path.read_bytes()
    locked = np.frombuffer(found[0], np.float16, offset=5)
    assert np.array_equal(np.abs(locked), np.abs(stored))
    assert 0.3 < (locked != stored).mean() < 0.7


def test_one_channel_gives_its_signs(tmp_path: Path) -> None:
    """Of values one channel stays, so a layer of one is left alone; of signs none has to stay."""
    artifact = artifact_of(one_tensor(tmp_path / "t.bin", FLOAT32, gaussian(1, 64), None))
    plan = plan_of([artifact])
    assert plan.tier_of[0]["t"].tolist() == [1]
    _, bundle = published([artifact], plan, tmp_path / "out")
    assert states(artifact, bundle, tmp_path / "out")[1] == artifact.path.read_bytes()


def kept(tensor: WeightTensor) -> Signs:
    found = signs_of(tensor)
    assert isinstance(found, Signs)
    return found


def test_zeros_and_weights_without_a_negative_stay(tmp_path: Path) -> None:
    numbers = codes(-127, 127, 16, 64)
    numbers[:, :8], numbers[0, 8:20] = 0, -128
    tensor = one_tensor(tmp_path / "t.bin", INT8, numbers, Quantization(SCALE))
    signs = kept(tensor)
    assert signs.zeros == pytest.approx((numbers == 0).mean())
    assert signs.unpaired == pytest.approx(12 / (numbers != 0).sum())
    (flipped,) = draw_flips(signs, np.ones(16, np.uint8), b"seed", b"t")
    bits = np.unpackbits(np.frombuffer(flipped.part, np.uint8), bitorder="little")[: numbers.size].reshape(
        numbers.shape
    )
    assert not bits[(numbers == 0) | (numbers == -128)].any()
    assert bits.any()


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("zeros", [0, 5])
def test_places_that_are_remembered_are_those_that_are_read(
    tmp_path: Path, encoding: str, columns: bool, zeros: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    element, numbers, quantization, _ = ENCODINGS[encoding]
    if columns and (element.bits == 4 or encoding == "zero points"):
        pytest.skip("nibbles of channels side by side are no runs of whole bytes")
    numbers = numbers.copy()
    numbers[3, 7 : 7 + zeros] = 0
    signs = kept(one_tensor(tmp_path / "t.bin", element, numbers, quantization, columns=columns))
    assert signs.keeping
    monkeypatch.setattr(places, "CHUNK", 40)  # a part of a row of columns
    tiers = np.ones(24, np.uint8)
    remembered, read = (draw_flips(s, tiers, b"seed", b"t") for s in (signs, replace(signs, keeping={})))
    assert [(run.place, run.part) for run in remembered] == [(run.place, run.part) for run in read]


@pytest.mark.parametrize(("unpaired", "by_value"), [(0.04, False), (0.06, True)])
def test_values_are_taken_where_too_many_weights_keep_their_sign(
    tmp_path: Path, unpaired: float, by_value: bool
) -> None:
    numbers = codes(1, 100, 10, 100)
    numbers.reshape(-1)[: round(numbers.size * unpaired)] = -128
    found = signs_of(one_tensor(tmp_path / "t.bin", INT8, numbers, Quantization(SCALE)))
    assert isinstance(found, str) == by_value


BY_VALUE: dict[str, tuple[ElementType, np.ndarray, Quantization | None]] = {
    "odd width": (UINT6, codes(0, 63), Quantization(lut=np.linspace(-1, 1, 64, dtype=np.float32)[None, None])),
    "float offset": (UINT8, codes(0, 255), Quantization(SCALE, np.full((1, 1), 127.25, np.float32))),
    "skewed palette": (UINT4, codes(0, 15), Quantization(lut=np.linspace(0, 1, 16, dtype=np.float32)[None, None])),
    "skewed zero point": (UINT8, codes(0, 255), Quantization(SCALE, np.full((1, 1), 60, np.float32))),
    "changing palettes": (
        UINT4,
        codes(0, 15),
        Quantization(
            lut=np.stack([RNG.permutation(SYMMETRIC_PALETTE.reshape(-1)) for _ in range(24 * 6)]).reshape(24, 6, 16)
        ),
    ),
}


@pytest.mark.parametrize("case", BY_VALUE)
def test_what_cannot_be_flipped_is_taken_by_value(tmp_path: Path, case: str) -> None:
    element, numbers, quantization = BY_VALUE[case]
    artifact = artifact_of(one_tensor(tmp_path / "t.bin", element, numbers, quantization))
    plan = plan_of([artifact])
    assert isinstance(plan.signs[0]["t"], str)
    assert int((plan.tier_of[0]["t"] > 0).sum()) == 23, "of values one channel stays"
    _, bundle = published([artifact], plan, tmp_path / "out")
    assert {run.kind for run in patches(bundle)[0][0].runs} == {Kind.REPLACE}
    assert states(artifact, bundle, tmp_path / "out")[1] == artifact.path.read_bytes()


@pytest.mark.parametrize("case", BY_VALUE)
def test_the_presets_take_an_eighth_of_a_single_layer_without_signs(tmp_path: Path, case: str) -> None:
    element, numbers, quantization = BY_VALUE[case]
    artifact = artifact_of(one_tensor(tmp_path / "t.bin", element, numbers, quantization))
    for attempt, count in enumerate((3, 6, 12, 23)):
        plan = choose_channels([artifact], LockOptions(), b"s", attempt=attempt)
        assert int((plan.tier_of[0]["t"] > 0).sum()) == count, f"attempt {attempt}"
        assert not plan.left_alone[0]


def test_a_layer_whose_share_is_less_than_a_channel_is_said_to_be_left_alone(tmp_path: Path) -> None:
    element, numbers, quantization = BY_VALUE["skewed palette"]
    small = one_tensor(tmp_path / "t.bin", element, numbers[:4], quantization)
    builder = Builder(tmp_path / "m.bin")
    rest = builder.artifact([float_layer(builder, "a", gaussian())])
    artifact = Artifact("safetensors", rest.path, (*rest.files, small.weight.file), (*rest.tensors, small))
    plan = choose_channels([artifact], LockOptions(), b"s")
    assert not plan.tier_of[0]["t"].any()
    assert "less than a channel" in plan.left_alone[0]["t"]


def test_groups_of_one_zero_point_each_take_a_run_for_each(tmp_path: Path) -> None:
    zero = np.tile(np.array([0, 1], np.float32), (4, 1))
    tensor = one_tensor(
        tmp_path / "t.bin", INT8, codes(-120, 120, 4, 1024), Quantization(np.ones((4, 2), np.float32), zero)
    )
    artifact = artifact_of(tensor)
    _, bundle = published([artifact], plan_of([artifact]), tmp_path / "out")
    assert [run.constant for run in patches(bundle)[0][0].runs] == [0, 2] * 4
    assert states(artifact, bundle, tmp_path / "out")[1] == artifact.path.read_bytes()


@pytest.mark.parametrize("seed", range(40))
def test_random_tensors_in_random_tiers(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies where, in blocks of any size: every state follows from the one above, and the patches lead back."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(places, "CHUNK", int(rng.choice([8, 64, places.CHUNK])))
    monkeypatch.setattr(flips, "_STEP", int(rng.choice([8, 64, 1 << 16])))
    name = list(ENCODINGS)[seed % len(ENCODINGS)]
    element, _, quantization, _ = ENCODINGS[name]
    channels, elements = 24, 8 * int(rng.integers(1, 40))
    numbers = rng.standard_normal((channels, elements)).astype(np.float32) * (rng.random((channels, elements)) < 0.9)
    if not element.is_float:
        numbers = rng.integers(element.low, element.high + 1, numbers.shape).astype(np.int32)
    columns = element.bits != 4 and name != "zero points" and rng.random() < 0.5
    tensor = one_tensor(tmp_path / "t.bin", element, numbers, quantization, columns=columns)
    found = signs_of(tensor)
    if isinstance(found, str):
        assert element.bits == 4
        return
    tiers = rng.integers(0, 4, channels).astype(np.uint8)
    runs = draw_flips(found, tiers, b"seed", b"t")
    original = tensor.weight.file.data
    state = original.copy()
    for tier in (2, 1, 0):
        above = state.copy()
        blocks, start = [], 0
        while start < above.size:
            block = above[start : start + int(rng.integers(1, 200))].copy()
            for run in runs:
                run.apply(start, block, tier, tier + 1)
            blocks.append(block)
            start += block.size
        state = np.concatenate(blocks)
        at_once = original.copy()
        for run in runs:
            run.apply(0, at_once, tier, 255)
        assert np.array_equal(state, at_once)
        back = state.copy()
        patch_of([r for r in runs if r.tier == tier + 1], back.size).apply(back)
        assert np.array_equal(back, above)
    changed = tensor_rows(tensor, state) != tensor_rows(tensor, original)
    assert not changed[tiers == 0].any()


@pytest.mark.parametrize("columns", [False, True])
def test_parts_of_a_run_know_whose_their_weights_are(
    tmp_path: Path, columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a part, which may end in the middle of a channel, or of a row of channels side by side."""
    element, numbers, quantization, _ = ENCODINGS["float32"]
    tensor = one_tensor(tmp_path / "t.bin", element, numbers, quantization, columns=columns)
    signs = replace(kept(tensor), keeping={})
    tiers = np.resize(np.array([1, 0, 0, 1, 1], np.uint8), tensor.channels)
    tiers[-1] = 1  # one run from the first channel to the last
    made = []
    for size in (8, 40, 1 << 16):
        monkeypatch.setattr(places, "CHUNK", size)
        made.append([(run.place, run.part) for run in draw_flips(signs, tiers, b"seed", b"t")])
    assert len(made[0]) == 1
    assert made[0] == made[1] == made[2]


def tensor_rows(tensor: WeightTensor, data: np.ndarray) -> np.ndarray:
    """The bytes of each channel in `data`, a state of the file."""
    part = tensor.weight
    assert isinstance(part, Part)
    rows = [np.concatenate([data[r.offset + i * r.stride : r.offset + i * r.stride + r.length] for i in range(r.count)])
            for r in (part.run(c) for c in range(part.channels))]  # fmt: skip
    return np.stack(rows)


def patch_of(runs: list[FlippedRun], size: int) -> Patch:
    ordered = sorted(runs, key=lambda run: run.place.offset)
    table = np.concatenate([run.table(np.zeros(1, np.int64)) for run in ordered])
    return Patch.parse(b"".join(PatchStream(table, lambda: [run.part for run in ordered]).parts()), size)


@pytest.mark.parametrize(("half", "share"), [(False, 32), (True, 16)])
def test_all_signs_cost_one_bit_a_weight(tmp_path: Path, half: bool, share: int) -> None:
    builder = Builder(tmp_path / "m.bin")
    rng = np.random.default_rng(1)
    layers = [
        float_layer(builder, "a", trained_like(rng, 32, 16, 3, 3), 0, half=half),
        float_layer(builder, "b", trained_like(rng, 64, 1, 3, 3), 1, half=half, depthwise=True),
        float_layer(builder, "c", trained_like(rng, 40, 64), 2, half=half, output_last=True),
    ]
    artifact = builder.artifact(layers)
    _, bundle = published([artifact], plan_of([artifact]), tmp_path / "out")
    weights = sum(t.weight.size for t in artifact.tensors)
    (section,) = bundle.sections_of(0, 0, 1)
    assert section.length <= weights / share + 200 * len(layers)
    assert len(patches(bundle)[0][0].runs) == len(layers)


def test_a_lock_by_sign_touches_no_bias_and_no_scale(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "m.bin")
    layer = quantized_layer(builder, "q", trained_like(np.random.default_rng(2), 16, 64), bits=8)
    artifact = builder.artifact([layer])
    published([artifact], plan_of([artifact]), tmp_path / "out")
    locked = np.frombuffer((tmp_path / "out" / "m.bin").read_bytes(), np.uint8)
    changed = np.flatnonzero(locked != artifact.files[0].data)
    start, length = artifact.tensors[0].weight.extent
    assert changed.size
    assert changed.min() >= start
    assert changed.max() < start + length


def test_two_locks_of_a_model_have_masks_of_their_own(tmp_path: Path) -> None:
    numbers = gaussian(16, 256)
    artifacts = [artifact_of(one_tensor(tmp_path / f"{n}.bin", FLOAT32, numbers, None)) for n in "ab"]
    published(artifacts, plan_of(artifacts), tmp_path / "out")
    first, second = ((tmp_path / "out" / f"{n}.bin").read_bytes() for n in "ab")
    agree = np.mean([x == y for x, y in zip(first[6::4], second[6::4], strict=False)])
    assert 0.45 < agree < 0.55
    other = plan_of(artifacts, seed=b"another")
    published(artifacts, other, tmp_path / "other")
    assert (tmp_path / "other" / "a.bin").read_bytes() != first
    published(artifacts, plan_of(artifacts), tmp_path / "same")
    assert (tmp_path / "same" / "a.bin").read_bytes() == first, "a seed makes the lock repeatable"


def test_a_plan_of_signs_is_saved_and_replayed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_safetensors(tmp_path / "m.safetensors", {f"l{i}.weight": trained_like(rng, 12, 12) for i in range(2)})
    artifact = open_artifact(path)
    plan = plan_of([artifact])
    plan.save(tmp_path / "plan.json")
    published([artifact], plan, tmp_path / "a")
    again = Plan.load(tmp_path / "plan.json", [open_artifact(path)])
    assert again.unit == "sign"
    published([open_artifact(path)], again, tmp_path / "b")
    assert (tmp_path / "a" / path.name).read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    "options", [{"preset": "cover"}, {"consumers": True}, {"fill": "zero"}], ids=lambda o: next(iter(o))
)
def test_what_is_for_values_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"a.weight": gaussian()})
    with pytest.raises(ConfigError, match=next(iter(options))):
        choose_channels([open_artifact(path)], LockOptions(unit="sign", **options), b"s")  # type: ignore[arg-type]


def test_all_channels_are_for_signs_alone(tmp_path: Path) -> None:
    assert parse_tiers(ALL, "sign") == (Tier("free", 1.0), Tier("full", 0.0))
    with pytest.raises(TierError, match="--unit sign"):
        parse_tiers(ALL)
    with pytest.raises(TierError):
        parse_tiers("free=1.01,full=0", "sign")
    path = write_safetensors(tmp_path / "m.safetensors", {"a.weight": gaussian()})
    with pytest.raises(TierError, match="--unit sign"):
        plan_of([open_artifact(path)], unit="value")
