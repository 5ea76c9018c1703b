"""What a public base gives away of a model that was tuned from it, and the lock that answers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import corelocker
import numpy as np
import numpy.typing as npt
import pytest
import torch
from corelocker.artifacts import Artifact, open_artifact
from corelocker.bundle.keystore import Keystore
from corelocker.cli.app import run
from corelocker.errors import BaseRevealsError, ConfigError, MalformedArtifactError, NotMeasuredError, WeakLockError
from corelocker.locking import lock as locking
from corelocker.locking.base import BaseLayer, compare_with_base, locked_signs, most_changed, opened_base, pair_layers
from corelocker.locking.base_states import Guessed, guessed_state
from corelocker.locking.choose import choose_channels
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import LayerSize
from corelocker.locking.requirement import BaseMeasurement, Measurement, Requirement, TierAgreement, check_base
from support.models import export_factories, exports, nets
from support.small_artifacts import Builder, quantized_layer, trained_like, write_safetensors

SHAPES = {"a.weight": (16, 3, 3, 3), "b.weight": (32, 16, 3, 3), "c.weight": (32, 32, 3, 3), "head.weight": (10, 32)}
Weights = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def base() -> Weights:
    rng = np.random.default_rng(3)
    return {name: trained_like(rng, *shape) for name, shape in SHAPES.items()}


def tuned(base: Weights, seed: int = 5) -> Weights:
    """As tuning leaves it: little changed but for four channels of `c`, and a head of its own."""
    rng = np.random.default_rng(seed)
    moved = {n: (w + 0.1 * w.std() * rng.standard_normal(w.shape)).astype(np.float32) for n, w in base.items()}
    moved["c.weight"][:4] *= -0.6  # what changed most is not what is largest
    return moved | {"head.weight": trained_like(rng, *SHAPES["head.weight"])}


def written(folder: Path, weights: Weights, name: str) -> Artifact:
    return open_artifact(write_safetensors(folder / f"{name}.safetensors", weights))


def test_the_signs_that_the_base_has(tmp_path: Path, base: Weights) -> None:
    weights = tuned(base)
    model, public = written(tmp_path, weights, "model"), written(tmp_path, base, "base")
    found = compare_with_base([model], public)
    assert {name for _, name in found.layers} == {"a.weight", "b.weight", "c.weight"}, "the head is no relative"
    for (_, name), layer in found.layers.items():
        same = float((np.signbit(weights[name]) == np.signbit(base[name])).mean())
        assert layer.agreement == pytest.approx(same)
        assert layer.is_known
        wanted = np.linalg.norm((weights[name] - base[name]).reshape(len(weights[name]), -1), axis=1)
        assert layer.changed == pytest.approx(wanted / np.linalg.norm(weights[name]), rel=1e-3)
    plan = choose_channels([model], LockOptions(), b"s")
    share = locked_signs(found, plan, 0)
    assert share == pytest.approx(
        sum(layer.agreeing.sum() for layer in found.layers.values())
        / sum(layer.counted.sum() for layer in found.layers.values())
    )


@pytest.mark.parametrize(
    ("counted", "agreeing", "known"), [(10_000, 5_900, False), (10_000, 6_100, True), (16, 12, False), (64, 56, True)]
)
def test_signs_are_known_where_the_base_has_more_than_a_guess(
    tmp_path: Path, base: Weights, counted: int, agreeing: int, known: bool
) -> None:
    """Of 16 signs a guess has 12 in one case of 26."""
    tensor = written(tmp_path, base, "model").tensors[0]
    counts = np.array([counted - 7, 7]), np.array([agreeing - 3, 3])
    assert BaseLayer(tensor, tensor, *counts, np.zeros(2)).is_known == known


def test_weights_of_zero_have_no_sign(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weights = trained_like(rng, 8, 32)
    weights[:, ::2] = 0
    public = np.where(weights == 0, np.float32(1), weights)
    found = compare_with_base(
        [written(tmp_path, {"w": weights}, "model")], written(tmp_path, {"w": 0.01 * public + weights}, "base")
    )
    layer = found.layers[0, "w"]
    assert (layer.counted == 16).all()
    assert (layer.agreeing == 16).all()


def test_the_locked_signs_of_each_artifact_that_the_base_has(tmp_path: Path, base: Weights) -> None:
    weights = tuned(base)
    whole, part = written(tmp_path, weights, "whole"), written(tmp_path, {"a.weight": weights["a.weight"]}, "part")
    found = compare_with_base([whole, part], written(tmp_path, base, "base"))
    assert found.layers[1, "a.weight"] is found.layers[0, "a.weight"], "a copy"
    plan = choose_channels([whole, part], LockOptions(preset="balanced"), b"s")
    for index, names in enumerate((("a.weight", "b.weight", "c.weight"), ("a.weight",))):
        same = [(np.signbit(weights[n]) == np.signbit(base[n]))[plan.tier_of[index][n] > 0].reshape(-1) for n in names]
        assert locked_signs(found, plan, index) == pytest.approx(float(np.concatenate(same).mean()))
    values = choose_channels([whole, part], LockOptions(unit="value", include_io=True), b"s")
    assert locked_signs(found, values, 0) is None


def test_the_default_takes_by_value_what_tuning_changed_most(tmp_path: Path, base: Weights) -> None:
    model, public = written(tmp_path, tuned(base), "model"), written(tmp_path, base, "base")
    found = compare_with_base([model], public)
    plans = [choose_channels([model], LockOptions(), b"s", attempt=attempt, base=found) for attempt in range(3)]
    locked = [{n: set(np.flatnonzero(m).tolist()) for n, m in plan.tier_of[0].items()} for plan in plans]
    assert {0, 1, 2, 3} <= locked[0]["c.weight"]
    assert (
        plans[0].signs[0]["a.weight"]
        == f"the base has {100 * found.layers[0, 'a.weight'].agreement:.1f} % of its signs"
    )
    assert not isinstance(plans[0].signs[0]["head.weight"], str)
    assert locked[0]["head.weight"] == set(range(10)), "what the base has not is locked by sign, all of it"
    sizes = {t.name: t.weight.size / t.channels for t in model.tensors}
    known = sum(t.weight.size for t in model.tensors if t.name != "head.weight")
    for attempt, taken in enumerate(locked):
        spent = sum(len(taken[n]) * sizes[n] for n in ("a.weight", "b.weight", "c.weight"))
        assert 0.9 * 0.125 * 2**attempt * known < spent <= 0.125 * 2**attempt * known
    assert all(locked[0][n] <= locked[1][n] <= locked[2][n] for n in locked[0])


def test_only_layers_that_the_base_tells_are_ranked_by_what_changed(tmp_path: Path, base: Weights) -> None:
    weights = tuned(base)
    weights["b.weight"][::2] *= -1  # the same layer, but no sign is known
    model, public = written(tmp_path, weights, "model"), written(tmp_path, base, "base")
    found = compare_with_base([model], public)
    tensors = {t.name: t for t in model.tensors}
    rank = found.rank(lambda tensor: np.full(tensor.channels, 7.0))
    assert np.array_equal(rank(tensors["c.weight"]), found.layers[0, "c.weight"].changed)
    assert (0, "b.weight") in found.layers
    assert all((rank(tensors[name]) == 7).all() for name in ("b.weight", "head.weight"))
    assert {name for _, name in found.withheld()} == {"a.weight", "c.weight"}
    seen: list[str] = []

    def other(sizes: Any) -> dict[str, int]:
        seen.extend(size.name for size in sizes)
        return {size.name: 1 for size in sizes}

    sizes = [LayerSize(t.name, t.channels, t.weight.size) for t in model.tensors]
    counts = found.spread(0.25, other)(sizes)
    assert seen == ["b.weight", "head.weight"], "the others' budget is their own"
    assert counts["head.weight"] == 1
    assert counts["c.weight"] >= 4


def test_other_options_stay_as_they_are(tmp_path: Path, base: Weights) -> None:
    model, public = written(tmp_path, tuned(base), "model"), written(tmp_path, base, "base")
    found = compare_with_base([model], public)
    with_base = choose_channels([model], LockOptions(preset="balanced"), b"s", base=found)
    assert not any(isinstance(signs, str) for signs in with_base.signs[0].values())


def test_most_changed_leaves_a_channel_and_keeps_to_its_budget() -> None:
    sizes = [LayerSize("a", 4, 400), LayerSize("b", 2, 20)]
    changed = [np.array([0.4, 0.1, 0.3, 0.2]), np.array([0.2, 0.0])]
    assert most_changed(changed, sizes, 0.03) == {"a": 0, "b": 1}
    assert most_changed(changed, sizes, 0.3) == {"a": 1, "b": 1}
    assert most_changed(changed, sizes, 1.0) == {"a": 3, "b": 1}
    assert most_changed([], [], 0.5) == {}
    # By what it changed of the sum of squares, not of the norm.
    assert most_changed([changed[0], np.array([0.1, 0.0])], sizes, 0.25) == {"a": 1, "b": 0}


def test_layers_are_paired_by_likeness_where_names_differ(tmp_path: Path, base: Weights) -> None:
    weights = tuned(base)
    renamed = {f"net.{len(SHAPES) - place}.weight": w for place, w in enumerate(base.values())}
    twin = trained_like(np.random.default_rng(77), *SHAPES["c.weight"])
    model = written(tmp_path, weights, "model")
    public = written(tmp_path, {"z.weight": twin} | renamed, "base")
    found = pair_layers(model.tensors, public.tensors)
    names = {t.name: None if b is None else b.name for t, b in zip(model.tensors, found, strict=True)}
    assert names == {
        "a.weight": "net.4.weight",
        "b.weight": "net.3.weight",
        "c.weight": "net.2.weight",
        "head.weight": None,
    }


def test_of_layers_that_resemble_each_other_the_name_decides_and_then_the_likeness(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    weight = trained_like(rng, 16, 40)

    def near(much: float) -> npt.NDArray[np.float32]:
        return (weight + much * weight.std() * rng.standard_normal(weight.shape)).astype(np.float32)

    def paired(model: Weights, base: Weights) -> dict[str, str | None]:
        own, public = written(tmp_path, model, "model").tensors, written(tmp_path, base, "base").tensors
        found = pair_layers(own, public)
        return {t.name: None if b is None else b.name for t, b in zip(own, found, strict=True)}

    assert paired({"x": weight}, {"x": near(0.8), "y": near(0.1)}) == {"x": "x"}
    assert paired({"x": weight}, {"y": near(0.8), "z": near(0.1)}) == {"x": "z"}
    assert paired({"x": weight}, {"y": near(0.1), "z": near(0.8)}) == {"x": "y"}
    assert paired({"x": near(0.4), "z": near(0.1)}, {"y": weight}) == {"x": None, "z": "y"}


def test_a_folded_batchnorm_is_folded_in_the_base_too(tmp_path: Path) -> None:
    """Its gamma may be negative: then the folded signs are the base's turned around."""
    network = nets.build("resnet")[0]
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight[::2] *= -1
    from corelocker.artifacts.torch_module import open_state, plain_state

    state = plain_state(network)
    public = open_state(state, tmp_path / "base.safetensors")
    folded: Weights = {}
    for tensor in public.tensors:
        if (gamma := tensor.part("gamma")) is not None and (variance := tensor.part("variance")) is not None:
            scale = gamma.read()[:, 0] / np.sqrt(variance.read()[:, 0] + 1e-5)
            folded[tensor.name] = (tensor.read() * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    model = written(tmp_path, folded, "folded")
    found = compare_with_base([model], public)
    assert len(found.layers) == len(folded) > 3
    for layer in found.layers.values():
        assert layer.agreement == 1
        assert layer.changed.max() < 1e-5


def test_a_pte_beside_its_checkpoint() -> None:
    model = open_artifact(exports.exported("resnet", "xnnpack"))
    found = compare_with_base([model], open_artifact(exports.exported("resnet", "portable")))
    assert len(found.layers) == sum(t.role != "norm" for t in model.tensors)
    assert all(layer.agreement > 0.999 for layer in found.layers.values())


@pytest.mark.parametrize("bits", [8, 4])
def test_guesses_in_the_place_of_what_is_locked(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(1)
    weight = trained_like(rng, 8, 32)
    public = weight + 0.5 * weight.std() * rng.standard_normal(weight.shape).astype(np.float32)
    builder = Builder(tmp_path / "m.bin")
    artifact = builder.artifact([quantized_layer(builder, "w", weight, bits=bits)])
    base = written(tmp_path, {"w": public.astype(np.float32)}, "base").tensors[0]
    (tensor,) = artifact.tensors
    locked = np.arange(8) % 2 == 0
    before, wanted = tensor.read(), base.read()

    def after(guess: Any, by_sign: bool) -> npt.NDArray[np.float32]:
        state = guessed_state(artifact, {"w": Guessed(base, locked, by_sign)}, guess)
        copy = tmp_path / "guess.bin"
        copy.write_bytes(state["m.bin"].tobytes())
        again = Builder(copy)
        again._data = bytearray(copy.read_bytes())
        return again.artifact([lambda file: _moved(tensor, file)]).tensors[0].read()

    found = after("signs", True)
    assert np.array_equal(found[~locked], before[~locked])
    unpaired = bits == 4 and (before < -7 * np.abs(before).max(axis=1, keepdims=True) / 8)
    alike = (
        np.isclose(found[locked], np.copysign(before, wanted)[locked]) | np.broadcast_to(unpaired, before.shape)[locked]
    )
    assert alike.all()
    for guess, by_sign in (("signs", False), ("values", True)):
        found = after(guess, by_sign)
        step = np.abs(before).max(axis=1, keepdims=True) / (127 if bits == 8 else 7)
        inside = np.abs(wanted) <= np.abs(before).max(axis=1, keepdims=True)
        near = (np.abs(found - wanted) <= step) | ~inside
        assert near[locked].all()
        assert np.array_equal(found[~locked], before[~locked])
    assert not np.array_equal(after("base", True)[~locked], before[~locked])


def _moved(tensor: Any, file: Any) -> Any:
    from dataclasses import replace

    return replace(tensor, parts=tuple(replace(part, file=file) for part in tensor.parts))


def agreement(value: float, chance: float = 0.1) -> TierAgreement:
    return TierAgreement("x", "classes", value, chance, 0.01, 0.0)


def beside(base: float, signs: float, values: float) -> BaseMeasurement:
    return BaseMeasurement("m", {"a": 0.97}, 0.97, agreement(base), agreement(signs), agreement(values))


@pytest.mark.parametrize(
    ("found", "requirement", "refused"),
    [
        (beside(0.3, 0.9, 0.3), "collapse", "still works"),
        (beside(0.3, 0.2, 0.9), "collapse", "still works"),
        (beside(0.3, 0.35, 0.3), "collapse", None),
        (beside(0.3, 0.37, 0.3), "collapse", "still works"),
        (beside(0.05, 0.12, 0.1), "collapse", None),
        (beside(0.3, 0.6, 0.3), "at-most=0.6", None),
        (beside(0.3, 0.62, 0.3), "at-most=0.6", "still works"),
        (beside(0.92, 0.92, 0.92), "collapse", "alone answers like the model"),
        (beside(0.92, 0.92, 0.92), "none", None),
        (BaseMeasurement("m", {"a": 0.97}, 0.97, *(agreement(0.93, 0.92) for _ in range(3))), "collapse", None),
        (BaseMeasurement("m", {}, None), "collapse", None),
        (BaseMeasurement("m", {"a": 0.97}, 0.97, reason="no torch"), "collapse", "97.0 % of the signs"),
    ],
)
def test_what_a_base_may_give_away(found: BaseMeasurement, requirement: str, refused: str | None) -> None:
    if refused is None:
        check_base([found], Requirement.parse(requirement))
    else:
        with pytest.raises(BaseRevealsError, match=refused):
            check_base([found], Requirement.parse(requirement))


def test_values_that_were_not_measured_are_not_taken_to_hold() -> None:
    with pytest.raises(NotMeasuredError, match="no torch"):
        check_base([BaseMeasurement("m", {"a": 0.97}, None, reason="no torch")], Requirement())


def test_what_torch_saved(tmp_path: Path, base: Weights) -> None:
    state = {name: torch.from_numpy(w) for name, w in base.items()}
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": w for n, w in state.items()}}, tmp_path / "base.pth")
    with opened_base(tmp_path / "base.pth") as public:
        assert {t.name: t.read().shape for t in public.tensors} == SHAPES
        assert np.array_equal(next(t for t in public.tensors if t.name == "b.weight").read(), base["b.weight"])
    torch.save({"x": 3}, tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"no pickle")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("none.pt", "broken.pt", "module.pt"):
        with pytest.raises(MalformedArtifactError), opened_base(tmp_path / name):
            pass


def test_another_model_is_no_base(tmp_path: Path, base: Weights) -> None:
    other = {n: trained_like(np.random.default_rng(11), *s) for n, s in SHAPES.items()}
    with pytest.raises(ConfigError, match="has no layer of"):
        compare_with_base([written(tmp_path, base, "model")], written(tmp_path, other, "other"))


# --- `lock` ----------------------------------------------------------------------------------------------------------


WEAK, SILENT = (
    Measurement("m", (TierAgreement("free", "classes", value, 0.1, 0.01, 0.0),), "noise", 30) for value in (0.3, 0.1)
)


@pytest.mark.parametrize(
    ("reveals", "weak", "draws", "refused"),
    [
        (False, 7, 8, None),
        (False, 8, 8, WeakLockError),
        (True, 0, 4, BaseRevealsError),  # another draw of the largest lock hides no more of what the base has
    ],
)
def test_the_largest_lock_is_drawn_anew(
    tmp_path: Path,
    base: Weights,
    monkeypatch: pytest.MonkeyPatch,
    reveals: bool,
    weak: int,
    draws: int,
    refused: type[Exception] | None,
) -> None:
    """Three plans lock more each time; of the largest, which the fourth is, five draws are tried."""
    model, public = written(tmp_path, tuned(base), "model"), written(tmp_path, base, "base")
    found, drawn = [WEAK] * weak + [SILENT] * (8 - weak), []

    def guessed(*given: Any) -> list[BaseMeasurement]:
        drawn.append(given[1])
        return [beside(0.3, 0.9, 0.3) if reveals else BaseMeasurement("m", {}, None)]

    monkeypatch.setattr(locking, "measure_base", guessed)
    monkeypatch.setattr(locking, "measure_locked", lambda *given, **options: [found.pop(0)])

    def lock_beside_base() -> None:
        corelocker.lock(
            [model.path], tmp_path / "out", model_id="m", model_version=1, options=LockOptions(base=public.path),
            keystore=Keystore.create(tmp_path / "keys.json", b"p"),
        )  # fmt: skip

    if refused is None:
        lock_beside_base()
    else:
        with pytest.raises(refused):
            lock_beside_base()
    sizes = [sum(int((map_ > 0).sum()) for map_ in plan.tier_of[0].values()) for plan in drawn]
    assert len(sizes) == draws
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]
    assert set(sizes[3:]) == {sizes[3]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was tuned from another one: its last convolution changed, the rest hardly."""
    from corelocker.artifacts.torch_module import open_state, plain_state

    folder = tmp_path_factory.mktemp("tuned")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        state = plain_state(export_factories.cnn()[0])
        torch.save(state, folder / "base.pt")
        for name, value in state.items():
            if value.ndim > 1:
                much = 0.9 if name == "features.6.weight" else 0.15
                value += much * value.std() * torch.randn(value.shape)
        network = export_factories.cnn()[0]
        network.load_state_dict(state)
        with torch.no_grad():  # as trained ones do, it answers many inputs differently
            state["classifier.bias"] -= network(torch.randn(256, 3, 32, 32)).mean(0)
    open_state(state, folder / "model.safetensors")
    Keystore.create(folder / "keys.json", b"secret")
    (folder / "passphrase").write_bytes(b"secret")
    return folder


def lock(folder: Path, out: str, **options: Any) -> corelocker.locking.lock.LockResult:
    return corelocker.lock(
        [folder / "model.safetensors"], folder / out, model_id=out, model_version=1,
        keystore=Keystore.open(folder / "keys.json", b"secret"),
        options=LockOptions(base=folder / "base.pt", model="support.models.export_factories:cnn", **options),
    )  # fmt: skip


def test_signs_that_the_base_has_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        ["lock", str(folder / "model.safetensors"), "--out", str(folder / "signs"), "--model-id", "signs", "--model-version", "1",
         "--base", str(folder / "base.pt"), "--preset", "balanced", "--model", "support.models.export_factories:cnn",
         "--keystore", str(folder / "keys.json"), "--passphrase-file", str(folder / "passphrase"), "--json"]
    )  # fmt: skip
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code, error["code"]) == (1, "locking-base")
    assert "--base and without other options" in error["message"]
    assert not (folder / "signs").exists()


def test_the_default_locks_what_the_base_has_not(folder: Path) -> None:
    found = lock(folder, "auto").artifacts[0]
    beside = found.base
    assert beside is not None
    assert beside.base is not None
    assert beside.best is not None
    assert beside.best.value <= beside.base.value + 0.05 + beside.best.error
    assert all("the base has" in reason for reason in found.by_value.values())
    assert found.by_value
    assert found.measured.tiers[0].collapsed
