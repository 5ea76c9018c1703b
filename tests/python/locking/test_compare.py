"""`corelocker compare`: what two published files of one model reveal together, weight by weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import corelocker
import numpy as np
import numpy.typing as npt
import pytest
from corelocker.artifacts import Artifact, open_artifact
from corelocker.bundle.keystore import LockRecord, RecordedLayer
from corelocker.cli.app import run
from corelocker.locking.compare import SAME, SIGNS, VALUES, compare, differences, exposure
from corelocker.locking.shown import OPEN, SIGN, VALUE
from support.small_artifacts import Builder, quantized_layer, trained_like, write_safetensors

CHANNELS, ELEMENTS = 16, 24
Array = npt.NDArray[np.float32]


def network(path: Path, **weights: Array) -> Artifact:
    return open_artifact(write_safetensors(path.with_suffix(".safetensors"), {f"{n}.w": w for n, w in weights.items()}))


@pytest.fixture
def weight() -> Array:
    return np.asarray(trained_like(np.random.default_rng(5), CHANNELS, ELEMENTS), np.float32)


def turned(weight: Array, seed: int) -> Array:
    """With the signs of a random half turned."""
    mask = np.random.default_rng(seed).integers(0, 2, weight.shape) == 1
    return np.where(mask, -weight, weight)


def levels(first: Artifact, second: Artifact) -> npt.NDArray[np.uint8]:
    (a,), (b,) = first.tensors, second.tensors
    return differences(a, b, np.arange(a.channels))


# --- from the files alone ------------------------------------------------------------------------


def test_each_weight_counts(tmp_path: Path, weight: Array) -> None:
    """A channel by sign, one by value, input channels by value in all others, and one weight of the last that is turned."""
    other, rng = weight.copy(), np.random.default_rng(6)
    other[0] = turned(weight, 1)[0]
    other[1] = rng.permutation(weight[2])
    other[2:, :6] = rng.standard_normal((CHANNELS - 2, 6)) * weight.std() + 5 * weight.std()
    other[-1, 9] = -np.abs(weight).max()
    weight = weight.copy()
    weight[-1, 9] = np.abs(weight).max()
    found = levels(network(tmp_path / "a", x=weight), network(tmp_path / "b", x=other))
    assert (found[0] == SIGNS).all()
    assert (found[1] == VALUES).all()
    assert (found[2:, :6] == VALUES).all()
    rest = found[2:, 6:]
    assert rest[-1, 3] == SIGNS
    assert (rest == SAME).sum() == rest.size - 1


@pytest.mark.parametrize("scale", [1.0, 3.7])
def test_a_channels_scale_is_no_difference(scale: float, tmp_path: Path, weight: Array) -> None:
    """Of a BatchNorm that is folded into one of the files; also where input channels are locked, or signs."""
    scales = np.linspace(0.2, 1, CHANNELS, dtype=np.float32)[:, None] * np.float32(scale)
    columns = (weight * scales).copy()
    columns[:, :8] = 9 * weight.std()
    first = network(tmp_path / "a", x=weight)
    assert (levels(first, network(tmp_path / "b", x=weight * scales)) == SAME).all()
    found = levels(first, network(tmp_path / "c", x=columns))
    assert (found[:, 8:] == SAME).all()
    assert (found[:, :8] == VALUES).all()
    assert (levels(first, network(tmp_path / "d", x=turned(weight, 2) * scales)) == SIGNS).all()


def test_integers_beside_floats(tmp_path: Path, weight: Array) -> None:
    builder = Builder(tmp_path / "m.bin")
    integers = builder.artifact([quantized_layer(builder, "x.w", weight)])
    assert (levels(network(tmp_path / "a", x=weight), integers) == SAME).all()
    assert (levels(network(tmp_path / "b", x=turned(weight, 3)), integers) != VALUES).all()
    decoys = np.random.default_rng(8).permutation(weight.reshape(-1)).reshape(weight.shape)
    assert (levels(network(tmp_path / "c", x=decoys), integers) == VALUES).mean() > 0.9


def test_empty_channels_are_the_same(tmp_path: Path, weight: Array) -> None:
    weight = weight.copy()
    weight[3] = 0
    found = compare(network(tmp_path / "a", x=weight), network(tmp_path / "b", x=weight))
    assert [(layer.weights, layer.same) for layer in found] == [(weight.size, weight.size)]


def test_large_layers_are_read_in_parts(tmp_path: Path, weight: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    files = network(tmp_path / "a", x=weight, y=weight), network(tmp_path / "b", x=turned(weight, 4), y=weight)
    whole = compare(*files)
    monkeypatch.setattr("corelocker.locking.compare.BLOCK", 3 * ELEMENTS)
    assert compare(*files) == whole


# --- from the records of both locks --------------------------------------------------------------


def record(layers: dict[str, list[int]], columns: bytes = b"") -> LockRecord:
    """A record of layers of CHANNELS x ELEMENTS, each with the levels of its channels."""

    def mask(shown: list[int], level: int) -> bytes:
        return np.packbits(np.array(shown) == level, bitorder="little").tobytes()

    made = [
        RecordedLayer(
            name, CHANNELS, np.random.default_rng(i).standard_normal(8 * ELEMENTS).astype("<f2").tobytes(),
            mask(shown, VALUE), mask(shown, SIGN), ELEMENTS if columns else 0, 8 if columns else 0, columns,
        )
        for i, (name, shown) in enumerate(layers.items())
    ]  # fmt: skip
    return LockRecord(uuid4(), "m", 1, bytes(32), b"s", tuple(made))


def test_mixtures_of_units(tmp_path: Path, weight: Array) -> None:
    """All nine combinations, a different number of channels each, in two layers; the second file hides input channels besides."""
    first = [OPEN] * 4 + [SIGN] * 5 + [VALUE] * 7
    second = [OPEN, OPEN, SIGN, VALUE, OPEN, SIGN, SIGN, VALUE, VALUE, OPEN, OPEN, OPEN, SIGN, SIGN, VALUE, VALUE]
    net = network(tmp_path / "a", x=weight, y=weight)
    layers = {"x.w": first, "y.w": [SIGN] * CHANNELS}
    others = {"x.w": second, "y.w": [SIGN] * CHANNELS}
    plain = exposure(record(layers), record(others), net.tensors)
    assert [(layer.name, layer.weights, layer.bits) for layer in plain] == [("x.w", 384, 32), ("y.w", 384, 32)]
    assert (plain[0].counts // ELEMENTS).tolist() == [[2, 1, 1], [1, 2, 2], [3, 2, 2]]
    assert plain[1].counts[SIGN, SIGN] == 384, "independent masks of the same weights reveal nothing"
    with_columns = exposure(record(layers), record(others, columns=b"\x01"), net.tensors)
    per_column = ELEMENTS // 8
    moved = with_columns[0].counts - plain[0].counts
    assert (moved[:, VALUE] // per_column).tolist() == [3, 3, 5]
    assert with_columns[1].counts[SIGN, VALUE] == CHANNELS * per_column


def test_layers_with_the_names_of_another_file(tmp_path: Path, weight: Array) -> None:
    """A lock of several files names its layers after the first of them."""
    net = network(tmp_path / "a", x=weight, y=weight)
    layers = {"first": [OPEN] * CHANNELS, "y.w": [VALUE] * CHANNELS}
    found = exposure(record(layers), record(layers), net.tensors)
    assert [(layer.name, layer.weights) for layer in found] == [("first", 384), ("y.w", 384)]


@pytest.fixture
def published(tmp_path: Path, weight: Array, monkeypatch: pytest.MonkeyPatch) -> Path:
    """one: all signs; two: half of the channels by value; three: all signs again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORELOCKER_PASSPHRASE", "p")
    monkeypatch.setenv("CORELOCKER_KEYSTORE", "keys.json")
    store = corelocker.Keystore.create(tmp_path / "keys.json", b"p")
    net = network(tmp_path / "net", x=weight, y=weight[::-1].copy()).path
    half = corelocker.LockOptions(unit="value", include_io=True, tiers=corelocker.parse_tiers("free=0.5,full=0"))
    for out, options in (("one", None), ("two", half), ("three", None)):
        corelocker.lock(
            [net], tmp_path / out, model_id=out, model_version=1, keystore=store, options=options, require="none"
        )
    return tmp_path


def compared(first: str, second: str, capsys: pytest.CaptureFixture[str]) -> Any:
    files = [f"{name}/net.safetensors" for name in (first, second)]
    bundles = [f"--bundle={name}/{name}.clkey" for name in (first, second)]
    assert run(["compare", *files, *bundles, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["exposure"]


def test_the_weakest_combination_is_named(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert published
    found = compared("one", "two", capsys)
    half = CHANNELS * ELEMENTS
    assert (found["weights"], found["bytes"], found["open_bytes"]) == (2 * half, 8 * half, 4 * half)
    assert found["first"] == {"open": 0, "sign": 2 * half, "value": 0}
    assert found["second"] == {"open": half, "sign": 0, "value": half}
    assert found["together"] == {"open": half, "sign": half, "value": 0}
    weakest = found["weakest"]
    assert (weakest["first"], weakest["second"], weakest["together"]) == ("sign", "open", "open")
    assert (weakest["weights"], weakest["bytes"]) == (half, 4 * half)
    assert [row["together"]["open"] for row in found["layers"]] == [half // 2, half // 2]
    mirrored = compared("two", "one", capsys)
    assert (mirrored["weakest"]["first"], mirrored["weakest"]["second"]) == ("open", "sign")
    same_unit = compared("one", "three", capsys)
    assert same_unit["weakest"] is None
    assert same_unit["together"] == {"open": 0, "sign": 2 * half, "value": 0}


def test_the_words(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert published
    files, bundles = (
        ["one/net.safetensors", "two/net.safetensors"],
        ["--bundle=one/one.clkey", "--bundle=two/two.clkey"],
    )
    assert run(["compare", *files, *bundles]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "Weakest combination: locked by sign in the first file and open in the second: nothing of them stays hidden"
        in said
    )
    assert "has 384 of 768 weights (50.0 %, 1.5 kB), and of 50.0 % all but the signs" in said
    assert run(["compare", "one/net.safetensors", "three/net.safetensors"]) == 0
    assert "Pass both bundles with --bundle for exact figures" in " ".join(capsys.readouterr().out.split())


def test_bundles_in_the_other_order(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert published
    files, bundles = (
        ["one/net.safetensors", "two/net.safetensors"],
        ["--bundle=two/two.clkey", "--bundle=one/one.clkey"],
    )
    assert run(["compare", *files, *bundles, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "restore-replaced"
