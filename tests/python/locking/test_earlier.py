"""What a later lock of the same model owes to earlier ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import corelocker
import numpy as np
import numpy.typing as npt
import pytest
from corelocker.artifacts import Artifact, open_artifact
from corelocker.bundle.keystore import Keystore, LockRecord
from corelocker.cli.app import run
from corelocker.errors import EarlierLockError, LockingError
from corelocker.locking.compare import compare, exposure
from corelocker.locking.consumers import follow_consumers
from corelocker.locking.criteria import score
from corelocker.locking.earlier import hold_to_earlier, record_of, reuse_earlier, seed_of
from corelocker.locking.groups import group_layers
from corelocker.locking.lock import LockResult
from corelocker.locking.options import CriterionName, LockOptions, LockWarning
from corelocker.locking.plan import Plan
from corelocker.locking.planning import make_plan
from corelocker.locking.shown import OPEN, SIGN, VALUE, shown_by_record
from corelocker.locking.tiers import Unit, parse_tiers
from support.models import exports
from support.small_artifacts import Builder, quantized_layer, trained_like, write_safetensors

SHAPES = {"a.weight": (16, 3, 3, 3), "b.weight": (32, 16, 3, 3), "c.weight": (32, 32, 3, 3), "d.weight": (10, 32)}
Weights = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def weights() -> Weights:
    rng = np.random.default_rng(3)
    return {name: trained_like(rng, *shape) for name, shape in SHAPES.items()}


def network(folder: Path, weights: Weights, name: str = "net") -> Artifact:
    return open_artifact(write_safetensors(folder / f"{name}.safetensors", weights))


def planned(
    artifact: Artifact,
    fraction: float,
    unit: Unit = "value",
    criterion: CriterionName = "l1",
    exclude: tuple[str, ...] = (),
    seed: bytes = b"s",
    consumers: bool = False,
) -> Plan:
    return make_plan(
        [artifact], parse_tiers(f"free={fraction},full=0", unit), score(criterion, seed, None), criterion=criterion,
        scope="layer", fill="decoy", seed=seed, include_io=True, exclude=exclude, unit=unit,
        consumers=consumers,
    )  # fmt: skip


def recorded(artifact: Artifact, plan: Plan, version: int = 1) -> LockRecord:
    return record_of([artifact], plan, uuid4(), "net", version)


def locked(plan: Plan) -> dict[str, set[int]]:
    return {name: set(np.flatnonzero(map_).tolist()) for name, map_ in plan.tier_of[0].items()}


def test_a_smaller_lock_grows_to_the_earlier_one(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    first = planned(net, 0.25)
    record = recorded(net, first)
    second = planned(net, 0.1, criterion="random")
    own = locked(second)
    found = reuse_earlier(second, [net], [record])
    assert locked(second) == {name: own[name] | channels for name, channels in locked(first).items()}
    assert found.bundles == (record.bundle,)
    assert found.added_channels == sum(len(c - own[n]) for n, c in locked(first).items())
    assert found.in_vain == sum(len(own[n] - c) for n, c in locked(first).items())
    assert found.locked_channels == sum(len(c) for c in locked(second).values())
    # What was added is restored with the last tier.
    assert all(set(np.unique(map_)) <= {0, 1} for map_ in second.tier_of[0].values())


def test_a_model_that_was_trained_on_is_the_same(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    first = planned(net, 0.25)
    rng = np.random.default_rng(4)
    moved = {n: (w + 0.2 * w.std() * rng.standard_normal(w.shape)).astype(np.float32) for n, w in weights.items()}
    later = network(tmp_path, moved, "later")
    plan = planned(later, 0.1, criterion="random")
    assert reuse_earlier(plan, [later], [recorded(net, first)]).bundles
    assert all(channels <= locked(plan)[name] for name, channels in locked(first).items())


def test_another_model_owes_nothing(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    rng = np.random.default_rng(9)
    other = network(tmp_path, {n: trained_like(rng, *s) for n, s in SHAPES.items()}, "other")
    plan = planned(other, 0.1)
    before = locked(plan)
    assert reuse_earlier(plan, [other], [recorded(net, planned(net, 0.25))]).bundles == ()
    assert locked(plan) == before


def test_signs_after_values_leave_magnitudes(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    record = recorded(net, planned(net, 0.25))
    with pytest.raises(EarlierLockError, match="magnitudes"):
        reuse_earlier(planned(net, 1.0, "sign"), [net], [record])


def test_values_after_signs_of_all_would_be_every_channel(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    record = recorded(net, planned(net, 1.0, "sign"))
    with pytest.raises(EarlierLockError, match="every channel"):
        reuse_earlier(planned(net, 0.25), [net], [record])


def test_signs_of_all_twice_owe_each_other_nothing(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    record = recorded(net, planned(net, 1.0, "sign"))
    found = reuse_earlier(planned(net, 1.0, "sign", seed=b"t"), [net], [record])
    assert (found.added_channels, found.in_vain) == (0, 0)


def test_an_excluded_layer_is_not_locked_behind_ones_back(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    record = recorded(net, planned(net, 0.25))
    with pytest.raises(EarlierLockError, match="excluded"):
        reuse_earlier(planned(net, 0.25, exclude=("b.*",)), [net], [record])


def test_the_most_open_of_all_files_counts(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    small, large = recorded(net, planned(net, 0.1)), recorded(net, planned(net, 0.5))
    found = reuse_earlier(planned(net, 0.5), [net], [small, large])
    assert found.added_channels == 0
    assert found.in_vain == sum(len(c - locked(planned(net, 0.1))[n]) for n, c in locked(planned(net, 0.5)).items()), (
        "what the small lock left open is known"
    )


def test_the_seed_is_kept_but_for_the_same_weights_in_another_version(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    record = recorded(net, planned(net, 0.25), version=1)
    assert seed_of([], [net], 1) is None
    assert seed_of([record], [net], 1) == b"s"
    assert seed_of([record], [net], 2) is None
    other = network(tmp_path, {n: w * 1.01 for n, w in weights.items()}, "trained-on")
    assert seed_of([record], [other], 2) == b"s"


# --- each weight -----------------------------------------------------------------------------------------------------


def test_weights_that_keep_their_signs_are_recorded(tmp_path: Path) -> None:
    """They are 0, or have no negative: a sign lock leaves them open."""
    weight = trained_like(np.random.default_rng(2), 16, 64)
    builder = Builder(tmp_path / "m.bin")
    artifact = builder.artifact([quantized_layer(builder, "w", weight)])
    (tensor,) = artifact.tensors
    zero = tensor.read() == 0
    assert 0 < zero.sum() < 100
    plan = planned(artifact, 1.0, "sign")
    (layer,) = recorded(artifact, plan).layers
    shown = shown_by_record(layer, 64)
    assert np.array_equal(shown.weights(slice(0, 16), 64) == OPEN, zero)
    assert np.array_equal(shown.weights(slice(5, 9), 64) == OPEN, zero[5:9])
    assert shown_by_record(layer, 63).weights(slice(0, 16), 63).min() == SIGN, "a mask for another shape says nothing"
    # The same layer as floats has no zeros; what the integers show of it, it hides in vain.
    floats = network(tmp_path, {"w": np.where(zero, np.float32(1e-3) * weight.std(), tensor.read()).astype(np.float32)})
    found = reuse_earlier(planned(floats, 1.0, "sign"), [floats], [recorded(artifact, plan)])
    assert (found.in_vain, found.in_vain_weights, found.locked_weights) == (0, int(zero.sum()), 16 * 64)


def test_a_record_of_many_weights_that_keep_their_signs_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = trained_like(rng, 256, 4096)
    weight[rng.random(weight.shape) < 0.3] = 0
    pruned = network(tmp_path, {"w": weight})
    record = recorded(pruned, planned(pruned, 1.0, "sign"))
    assert record.layers[0].kept == b"", "its list would be longer than what a record holds"
    assert len(json.dumps(record.to_json())) < 2000


def test_columns_are_recorded_and_asked_for_again() -> None:
    artifact = open_artifact(exports.exported("vgg", "portable"))
    assert artifact.edges
    first = planned(artifact, 0.25, consumers=True)
    record = recorded(artifact, first)
    extra = follow_consumers([artifact], first.tier_of, first.left_alone, group_layers([artifact]))
    layers = {layer.name: layer for layer in record.layers}
    tensors = {tensor.name: tensor for tensor in artifact.tensors}
    assert extra.columns[0]
    for name, columns in extra.columns[0].items():
        elements = int(np.prod(tensors[name].shape[1:]))
        levels = shown_by_record(layers[name], elements).weights(slice(0, tensors[name].channels), elements)
        rows = first.tier_of[0].get(name, np.zeros(tensors[name].channels)) > 0
        wanted = rows[:, None] | np.repeat(columns > 0, elements // columns.size)[None, :]
        assert np.array_equal(levels == VALUE, wanted)
    again = reuse_earlier(planned(artifact, 0.25, consumers=True), [artifact], [record])
    assert (again.in_vain, again.in_vain_weights, again.weakest) == (0, 0, None)
    with pytest.raises(EarlierLockError, match="--consumers"):
        reuse_earlier(planned(artifact, 0.25), [artifact], [record])
    plain = recorded(artifact, planned(artifact, 0.25))
    later = reuse_earlier(planned(artifact, 0.25, consumers=True), [artifact], [plain])
    assert later.in_vain == 0
    assert later.in_vain_weights > 0, "what only the columns hide"
    assert later.weakest == plain.bundle


def test_the_weakest_file_is_named(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    small, large = recorded(net, planned(net, 0.1)), recorded(net, planned(net, 0.4))
    later = planned(net, 0.5)
    with pytest.warns(LockWarning, match=f"% of the locked weights, stand open .* bundle {small.bundle}"):
        found = hold_to_earlier(later, [net], [large, small], 2, redraw=False)
    assert found.weakest == small.bundle
    hidden = {n: len(c) * weights[n][0].size for n, c in locked(later).items()}
    by_small = {n: len(c) * weights[n][0].size for n, c in locked(planned(net, 0.1)).items()}
    assert found.locked_weights == sum(hidden.values())
    assert found.in_vain_weights == sum(hidden.values()) - sum(by_small.values())


def test_values_in_one_artifact_and_signs_in_another(tmp_path: Path, weights: Weights) -> None:
    """The magnitudes are in one of the files: together they show no less than that one."""
    net, twin = network(tmp_path, weights), network(tmp_path, weights, "twin")
    plan = make_plan(
        [net, twin], parse_tiers("free=0.5,full=0"), score("l1", b"s", None), criterion="l1", scope="layer", fill="decoy",
        seed=b"s", include_io=True, unit="sign", withheld={(1, name): "by value" for name in SHAPES},
    )  # fmt: skip
    record = record_of([net, twin], plan, uuid4(), "net", 1)
    for layer in record.layers:
        shown = shown_by_record(layer, 0)
        taken = {name: map_ > 0 for name, map_ in plan.tier_of[1].items()}[layer.name]
        assert set(np.unique(shown.rows[taken])) == {SIGN}
        assert set(np.unique(shown.rows[~taken])) == {OPEN}
    found = reuse_earlier(planned(net, 0.5), [net], [record])
    assert found.in_vain == found.locked_channels, "all its magnitudes are known"


# --- `lock` and `compare` --------------------------------------------------------------------------------------------


def lock(folder: Path, model: Path, version: int, out: str, **options: object) -> LockResult:
    given: dict[str, Any] = {"tiers": parse_tiers("free=0.25,full=0")} | options
    return corelocker.lock(
        [model], folder / out, model_id="net", model_version=version, keystore=Keystore.open(folder / "keys.json", b"secret"),
        options=LockOptions(**given), require="none",
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Keystore.create(tmp_path / "keys.json", b"secret")
    return tmp_path


def test_a_later_lock_is_held_to_the_earlier_one(folder: Path, weights: Weights) -> None:
    net = network(folder, weights).path
    first = lock(folder, net, 1, "one")
    assert first.earlier.bundles == ()
    with pytest.warns(LockWarning, match="stand open"):
        second = lock(folder, net, 2, "two", tiers=parse_tiers("free=0.1,full=0"), criterion="random")
    assert second.earlier.added_channels > 0
    assert second.earlier.in_vain > 0
    with pytest.raises(EarlierLockError, match="forget-earlier-locks"):
        lock(folder, net, 3, "three", tiers=parse_tiers("free=1,full=0", "sign"), unit="sign", include_io=True)
    assert not (folder / "three").exists()
    forgotten = lock(
        folder, net, 3, "three", tiers=parse_tiers("free=1,full=0", "sign"), unit="sign", include_io=True,
        forget_earlier_locks=True,
    )  # fmt: skip
    assert forgotten.earlier.bundles == ()
    assert [r.model_version for r in Keystore.open(folder / "keys.json", b"secret").lock_records("net")] == [3]


def test_the_same_options_owe_nothing_and_warn_of_nothing(folder: Path, weights: Weights) -> None:
    net = network(folder, weights).path
    lock(folder, net, 1, "one")
    with warnings.catch_warnings():
        warnings.simplefilter("error", LockWarning)
        again = lock(folder, net, 2, "two")
    assert len(again.earlier.bundles) == 1
    assert (again.earlier.added_channels, again.earlier.in_vain) == (0, 0)


def test_decoys_of_a_model_that_was_trained_on_are_drawn_as_before(folder: Path, weights: Weights) -> None:
    """Else they would be the only channels that two versions do not have in common."""
    net = network(folder, weights)
    moved = network(folder, {n: (w * 1.02).astype(np.float32) for n, w in weights.items()}, "later")
    first, second = lock(folder, net.path, 1, "one"), lock(folder, moved.path, 2, "two")
    layers = compare(open_artifact(first.artifacts[0].outputs[0]), open_artifact(second.artifacts[0].outputs[0]))
    assert sum(layer.values for layer in layers) <= 0.2 * second.earlier.locked_weights


def test_what_two_files_reveal_together(folder: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    net = network(folder, weights).path
    first = lock(folder, net, 1, "one")
    second = lock(
        folder, net, 2, "two", tiers=parse_tiers("free=0.5,full=0"), criterion="random", forget_earlier_locks=True
    )
    files = [str(result.artifacts[0].outputs[0]) for result in (first, second)]
    keys = ("--keystore", str(folder / "keys.json"), "--passphrase-file", str(folder / "passphrase"))
    (folder / "passphrase").write_bytes(b"secret")
    bundles = ("--bundle", str(first.bundle), "--bundle", str(second.bundle))
    assert run(["compare", *files, *bundles, *keys, "--json"]) == 1, "the record of the first lock was forgotten"
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "keystore-entry"
    assert run(["compare", *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    differing = {name: channels | locked(second.plan)[name] for name, channels in locked(first.plan).items()}
    assert {layer["name"]: layer["values"] for layer in found["layers"] if layer["values"]} == {
        name: len(channels) * weights[name][0].size for name, channels in differing.items()
    }
    assert run(["compare", files[0], str(net), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["share"]["signs"] == 0


def test_signs_that_differ_are_told_from_values(folder: Path, weights: Weights) -> None:
    net = network(folder, weights)
    signs = {"tiers": parse_tiers("free=1,full=0", "sign"), "unit": "sign", "include_io": True}
    one, two = (lock(folder, net.path, version, f"v{version}", **signs) for version in (1, 2))
    assert (two.earlier.added_channels, two.earlier.in_vain) == (0, 0)
    for layer in compare(open_artifact(one.artifacts[0].outputs[0]), open_artifact(two.artifacts[0].outputs[0])):
        assert (layer.same, layer.signs, layer.values) == (0, layer.weights, 0)
    store = Keystore.open(folder / "keys.json", b"secret")
    for exposed in exposure(*store.lock_records("net"), net.tensors):
        assert exposed.counts[SIGN, SIGN] == exposed.weights


def test_files_of_other_models_are_not_compared(folder: Path, weights: Weights) -> None:
    other = open_artifact(write_safetensors(folder / "o.safetensors", {"x": np.ones((3, 7), np.float32)}))
    with pytest.raises(LockingError, match="no layer in common"):
        compare(network(folder, weights), other)


def test_records_survive_the_keystore(tmp_path: Path, weights: Weights) -> None:
    net = network(tmp_path, weights)
    record = recorded(net, planned(net, 0.25))
    store = Keystore.create(tmp_path / "keys.json", b"passphrase")

    def lock(bundle: UUID, record: LockRecord, forget: bool = False) -> None:
        store.stage_content_key(bundle, "net", 1, ("free", "full"), bytes(32), (), record, forget=forget).commit()

    lock(record.bundle, record)
    opened = Keystore.open(store.path, b"passphrase")
    assert opened.lock_records("net") == (record,)
    assert opened.lock_records("another") == ()
    assert opened.lock_record(record.bundle) == record
    later = recorded(net, planned(net, 0.5))
    lock(later.bundle, later, forget=True)
    assert Keystore.open(store.path, b"passphrase").lock_records("net") == (later,)
