"""Which channels are chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from corelocker.artifacts import Artifact, open_artifact
from corelocker.errors import CriterionError, LockingError, NothingToLockError, PlanError, TierError
from corelocker.locking.criteria import Checkpoint, bn_scale, check_criterion, l1, score
from corelocker.locking.plan import Plan
from corelocker.locking.planning import make_plan
from corelocker.locking.tiers import Tier, parse_tiers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.small_artifacts import Builder, float_layer, trained_like, write_safetensors

RNG = np.random.default_rng(7)


def make(artifacts: list[Artifact], tiers: str = "free=0.25,full=0", criterion: str = "l1", **options: object) -> Plan:
    defaults = {"scope": "layer", "fill": "zero", "seed": b"seed"} | options
    return make_plan(artifacts, parse_tiers(tiers), score(criterion, b"seed", None), criterion=criterion, **defaults)  # type: ignore[arg-type]


@pytest.fixture
def network(tmp_path: Path) -> Artifact:
    tensors = {
        "conv1.weight": trained_like(RNG, 16, 3, 3, 3), "conv2.weight": trained_like(RNG, 32, 16, 3, 3),
        "conv3.weight": trained_like(RNG, 32, 32, 3, 3), "fc.weight": trained_like(RNG, 10, 32),
    }  # fmt: skip
    return open_artifact(write_safetensors(tmp_path / "net.safetensors", tensors))


def test_tiers() -> None:
    assert parse_tiers("free=0.05, plus=.01,full=0") == (Tier("free", 0.05), Tier("plus", 0.01), Tier("full", 0))
    for text in ("full=0", "free=0.1", "a=0.1,a=0", "a=0.1,b=0.2,c=0", "a=0.1,b=0.1,c=0", "a=1,b=0", "a=x,b=0", "a,b=0",
                 "a=-1,b=0", "a=nan,b=0", "", "../x=0.1,b=0"):  # fmt: skip
        with pytest.raises(TierError):
            parse_tiers(text)


def test_l1_takes_the_largest_channels_of_each_inner_layer(network: Artifact) -> None:
    plan = make([network])
    assert set(plan.tier_of[0]) == {"conv2.weight", "conv3.weight"}
    assert plan.left_alone[0] == {"conv1.weight": "input layer", "fc.weight": "output layer"}
    for tensor in network.tensors[1:3]:
        sums = np.abs(tensor.read()).reshape(tensor.channels, -1).sum(axis=1)
        assert np.allclose(l1(tensor), sums, rtol=1e-5)
        locked = plan.tier_of[0][tensor.name] > 0
        assert locked.sum() == tensor.channels // 4
        assert sums[locked].min() >= sums[~locked].max()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    fractions=st.lists(st.floats(0.001, 0.99), min_size=1, max_size=4, unique=True),
    scope=st.sampled_from(["layer", "global"]),
)
def test_tiers_are_nested_and_leave_a_channel(network: Artifact, fractions: list[float], scope: str) -> None:
    tiers = ",".join(f"t{i}={f!r}" for i, f in enumerate(sorted(fractions, reverse=True))) + ",full=0"
    plan = make([network], tiers, scope=scope)
    total = sum(m.size for m in plan.tier_of[0].values())
    for map_ in plan.tier_of[0].values():
        assert map_.max() <= len(fractions)
        assert (map_ == 0).any()
        if scope == "layer":
            for index, tier in enumerate(plan.tiers[:-1]):
                wanted = int(tier.removed * map_.size + 0.5)
                assert (map_ > index).sum() == min(max(wanted, 1) if index == 0 else wanted, map_.size - 1)
    if scope == "global":
        wanted = int(plan.tiers[0].removed * total + 0.5)
        assert sum(int((m > 0).sum()) for m in plan.tier_of[0].values()) == min(
            max(wanted, 1), total - len(plan.tier_of[0])
        )


def test_random_depends_on_the_seed_only(network: Artifact) -> None:
    a, b = (make([network], criterion="random") for _ in range(2))
    assert all(np.array_equal(a.tier_of[0][n], b.tier_of[0][n]) for n in a.tier_of[0])
    other = make_plan([network], parse_tiers("free=0.25,full=0"), score("random", b"other", None), criterion="random",
                      scope="layer", fill="zero", seed=b"other")  # fmt: skip
    assert any(not np.array_equal(a.tier_of[0][n], other.tier_of[0][n]) for n in a.tier_of[0])


def test_options_widen_and_narrow(network: Artifact) -> None:
    assert set(make([network], include_io=True).tier_of[0]) == {t.name for t in network.tensors}
    assert set(make([network], exclude=["conv2*"]).tier_of[0]) == {"conv3.weight"}
    with pytest.raises(NothingToLockError, match="excluded by name, output layer"):
        make([network], exclude=["conv*"])


def test_copies_share_one_decision(network: Artifact, tmp_path: Path) -> None:
    weights = {t.name: t.read() for t in network.tensors}
    fold = np.exp(RNG.normal(0, 1, 32)).astype(np.float32)
    copy = {"a.weight": weights["conv1.weight"], "b.weight": weights["conv2.weight"] * fold[:, None, None, None],
            "c.weight": weights["conv3.weight"].astype(np.float16), "d.weight": weights["fc.weight"]}  # fmt: skip
    other = open_artifact(write_safetensors(tmp_path / "copy.safetensors", copy))
    plan = make([network, other], tiers="free=0.2,plus=0.1,full=0")
    assert np.array_equal(plan.tier_of[0]["conv2.weight"], plan.tier_of[1]["b.weight"])
    assert np.array_equal(plan.tier_of[0]["conv3.weight"], plan.tier_of[1]["c.weight"])


def test_bn_scale_from_the_file_and_through_the_fold(tmp_path: Path) -> None:
    gamma = RNG.normal(1, 0.5, (2, 24)).astype(np.float32)
    source = {"stem.weight": trained_like(RNG, 24, 3, 3, 3), "head.weight": trained_like(RNG, 5, 24)}
    folded = dict(source)
    for i in range(2):
        weight, variance = trained_like(RNG, 24, 24, 3, 3), RNG.uniform(0.5, 2, 24).astype(np.float32)
        source |= {f"b{i}.conv.weight": weight, f"b{i}.bn.weight": gamma[i], f"b{i}.bn.bias": gamma[i],
                   f"b{i}.bn.running_mean": gamma[i], f"b{i}.bn.running_var": variance}  # fmt: skip
        folded[f"x{1 - i}.weight"] = weight * (gamma[i] / np.sqrt(variance + 1e-5))[:, None, None, None]
    path = write_safetensors(tmp_path / "source.safetensors", source)
    plain = make([open_artifact(path)], criterion="bn-scale")
    for i in range(2):
        locked = plain.tier_of[0][f"b{i}.conv.weight"] > 0
        assert np.abs(gamma[i])[locked].min() >= np.abs(gamma[i])[~locked].max()
    exported = open_artifact(write_safetensors(tmp_path / "exported.safetensors", folded))
    with pytest.raises(CriterionError, match="--source"):
        check_criterion("bn-scale", [exported], None)
    found = Checkpoint(path)
    for i in range(2):
        tensor = next(t for t in exported.tensors if t.name == f"x{1 - i}.weight")
        assert np.allclose(bn_scale(tensor, found), np.abs(gamma[i]))
    with pytest.raises(CriterionError):
        bn_scale(next(t for t in exported.tensors if t.name == "stem.weight"), found)


def test_a_source_without_batch_norm_is_refused(network: Artifact) -> None:
    with pytest.raises(CriterionError, match="no BatchNorm"):
        score("bn-scale", b"", network.path)


def test_l1_of_the_unfolded_source(tmp_path: Path) -> None:
    """The fold turns the ranking of every layer around; with a source the ranking is the checkpoint's."""
    shapes = {"stem": (24, 3, 3, 3), "b0": (24, 24, 1, 1), "b1": (24, 24, 3, 3), "head": (5, 24)}
    source = {f"{name}.weight": trained_like(RNG, *shape) for name, shape in shapes.items()}
    path = write_safetensors(tmp_path / "source.safetensors", source)
    sums = {n: np.abs(w).reshape(len(w), -1).sum(axis=1) for n, w in source.items()}
    folded = {
        f"x.{n}": (w / sums[n].reshape(-1, *(1 for _ in w.shape[1:])) ** 2).astype(np.float32)
        for n, w in source.items()
    }
    folded["x.b0.weight"] = folded["x.b0.weight"].reshape(24, 24)  # a 1 x 1 convolution that became a linear layer
    artifact = open_artifact(write_safetensors(tmp_path / "exported.safetensors", folded))
    for known, best in ((None, np.argmin), (path, np.argmax)):
        plan = make_plan([artifact], parse_tiers("free=0.04,full=0"), score("l1", b"", known), criterion="l1", scope="layer",
                         fill="zero", seed=b"", include_io=True)  # fmt: skip
        for name, sizes in sums.items():
            assert np.flatnonzero(plan.tier_of[0][f"x.{name}"]).tolist() == [best(sizes)], name
    stranger = open_artifact(
        write_safetensors(tmp_path / "y.safetensors", {"y.weight": trained_like(RNG, 24, 24, 3, 3)})
    )
    with pytest.raises(CriterionError, match="does not hold"):
        score("l1", b"", path)(stranger.tensors[0])


def test_saved_plans(network: Artifact, tmp_path: Path) -> None:
    plan = make([network], "free=0.3,plus=0.1,full=0")
    path = tmp_path / "plan.json"
    plan.save(path)
    assert path.stat().st_mode & 0o077 == 0
    again = Plan.load(path, [network])
    assert (again.tiers, again.seed, again.fill) == (plan.tiers, plan.seed, plan.fill)
    assert again.left_alone == plan.left_alone != [{}], "else consumers are followed into the output layer"
    assert all(np.array_equal(plan.tier_of[0][n], again.tier_of[0][n]) for n in plan.tier_of[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(format="x"), lambda d: d.update(version=1), lambda d: d.update(version=3), lambda d: d.pop("seed"),
        lambda d: d.update(seed="zz"), lambda d: d.pop("unit"), lambda d: d.update(unit="bit"),
        lambda d: d.update(fill="noise"), lambda d: d.update(artifacts=[]), lambda d: d.update(tiers=[]),
        lambda d: d["artifacts"][0]["tensors"].update(nowhere={"channels": 4, "tiers": {}}),
        lambda d: d["artifacts"][0]["tensors"]["conv2.weight"].update(channels=31),
        lambda d: d["artifacts"][0]["tensors"]["conv2.weight"].update(tiers={"1": [32]}),
        lambda d: d["artifacts"][0]["tensors"]["conv2.weight"].update(tiers={"1": [-1]}),
        lambda d: d["artifacts"][0]["tensors"]["conv2.weight"].update(tiers={"5": [1]}),
        lambda d: d["artifacts"][0]["tensors"]["conv2.weight"].update(tiers={"1": [[1]]}),
        lambda d: d["artifacts"][0].update(tensors=[1]), lambda d: d["artifacts"][0].update(left_alone=[1]),
    ],
)  # fmt: skip
def test_damaged_plans_are_refused(network: Artifact, tmp_path: Path, damage) -> None:
    path = tmp_path / "plan.json"
    make([network]).save(path)
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises((PlanError, TierError)):
        Plan.load(path, [network])
    path.write_text("{")
    with pytest.raises(PlanError):
        Plan.load(path, [network])


def test_scorers_that_see_all_layers_first(network: Artifact) -> None:
    class Ranked:
        """Every channel of the network in one order, largest weight first, as sensitivity gives it."""

        def prepare(self, artifacts, groups) -> None:
            assert artifacts[0] is network
            self.names = [group[0].tensor.name for group in groups]

        def __call__(self, tensor):
            assert tensor.name in self.names
            return np.arange(tensor.channels) + (100.0 if tensor.name == "conv3.weight" else 0.0)

    scorer = Ranked()
    plan = make_plan([network], lambda: parse_tiers("free=0.25,full=0"), scorer, criterion="sensitivity", scope="global",
                     fill="zero", seed=b"")  # fmt: skip
    assert scorer.names == ["conv2.weight", "conv3.weight"]
    assert np.flatnonzero(plan.tier_of[0]["conv3.weight"]).tolist() == list(
        range(16, 32)
    )  # 16 of 64, all of the last layer
    assert not plan.tier_of[0]["conv2.weight"].any()
    with pytest.raises(CriterionError, match="--model"):
        score("sensitivity", b"", None)


def test_counts_for_each_layer(network: Artifact) -> None:
    seen = []

    def counts(layers):
        seen.extend(layers)
        return {"conv2.weight": 8, "conv3.weight": 99}

    plan = make_plan([network], parse_tiers("free=0.9,plus=0.1,full=0"), l1, criterion="l1", scope="layer", fill="zero",
                     seed=b"", counts=counts)  # fmt: skip
    assert [(layer.name, layer.channels, layer.size) for layer in seen] == [
        (t.name, t.channels, t.weight.size) for t in network.tensors[1:3]
    ]
    free = {name: int((map_ > 0).sum()) for name, map_ in plan.tier_of[0].items()}
    assert free == {"conv2.weight": 8, "conv3.weight": 31}  # one stays
    assert plan.tiers[0].removed == 39 / 64
    plus = {name: int((map_ > 1).sum()) for name, map_ in plan.tier_of[0].items()}
    assert plus == {"conv2.weight": 1, "conv3.weight": 5}
    with pytest.raises(TierError):
        make_plan([network], parse_tiers("free=0.9,plus=0.7,full=0"), l1, criterion="l1", scope="layer", fill="zero",
                  seed=b"", counts=counts)  # fmt: skip


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "m.bin")
    weight = np.ones((4, 4), np.float32)
    weight[1, 1] = np.nan
    with pytest.raises(LockingError, match="finite"):
        make([builder.artifact([float_layer(builder, "w", weight)])])
