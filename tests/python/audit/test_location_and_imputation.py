"""Finding locked channels, and filling them from what is left."""

from __future__ import annotations

import itertools
from copy import deepcopy

import numpy as np
import pytest
import torch
from corelocker.artifacts.torch_module import plain_state
from corelocker.audit import location
from corelocker.audit.imputation import METHODS, from_base, impute
from corelocker.audit.location import (
    ObservedLayer,
    auc,
    auc_error,
    elements_of,
    guess,
    read_layers,
    search,
    weight_detectors,
    with_readers,
)
from corelocker.audit.models import lock_model, trace_graph
from support.attack_subjects import task, trained


def test_auc_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(0)
    scores, locked = generator.integers(0, 6, 40).astype(float), generator.random(40) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[locked], scores[~locked])]
    assert auc(scores, locked) == pytest.approx(np.mean(pairs))
    assert auc(locked.astype(float), locked) == 1
    assert auc(np.zeros(40), locked) == 0.5


def test_zero_fill_is_found_and_chance_is_not() -> None:
    layers = read_layers(plain_state(trained()))
    generator = np.random.default_rng(1)
    for detector, scores in weight_detectors(layers).items():
        areas = []
        for _ in range(20):
            labels = {n: generator.permutation(len(la.values)) < len(la.values) // 4 for n, la in layers.items()}
            hit = search(scores, labels)
            assert hit is not None
            areas.append(hit[0])
        error = auc_error(hit[1], hit[2]) / np.sqrt(20)
        assert abs(np.mean(areas) - 0.5) < 5 * error, detector
    locked = lock_model(trained(), tiers="free=0.1,full=0", fill="zero")
    silent = weight_detectors(read_layers(locked.shipped.state))["silent"]
    hit = search(silent, locked.shipped.channels)
    assert hit is not None
    assert hit[0] == 1


def test_channels_whose_statistics_cannot_be_are_found_with_data() -> None:
    state = plain_state(trained())
    broken = {"features.3.weight": np.arange(16) % 5 == 0}
    for index in np.flatnonzero(broken["features.3.weight"]):
        state["features.4.running_mean"][index] += 7
    net = trained()
    layers = read_layers(state)
    copy = type(net)()
    copy.load_state_dict(state)
    found = location.data_detectors(copy, layers, task()[0].take(slice(64)))
    hit = search(found["statistics-that-do-not-fit"], broken)
    assert hit is not None
    assert hit[0] == 1
    assert set(found["gradient"]) == set(layers)


def test_layers_with_one_kind_of_channel_say_nothing() -> None:
    scores = {"a": np.arange(4.0), "b": np.arange(3.0)}
    assert search(scores, {"a": np.ones(4, np.bool_), "b": np.zeros(3, np.bool_)}) is None
    assert search(scores, {}) is None


def test_a_guess_finds_silent_channels_and_names_what_belongs_to_them() -> None:
    state = plain_state(trained())
    state["features.3.weight"][[2, 5]] = 0
    layers = read_layers(state)
    chosen = guess(layers, {"features.3.weight": 2, "features.6.weight": 1})
    assert np.flatnonzero(chosen["features.3.weight"]).tolist() == [2, 5]
    assert chosen["features.6.weight"].sum() == 1
    assert not chosen["classifier.weight"].any()
    elements = elements_of(layers, chosen)
    locked = lock_model(trained(), tier_of={n: c.astype(np.uint8) for n, c in chosen.items()})
    assert set(elements) == set(locked.shipped.elements)
    for name, mask in locked.shipped.elements.items():
        assert (elements[name] == mask).all(), name


def test_readers_of_locked_channels_are_the_consumers_that_the_product_locks() -> None:
    tier_of = {f"features.{i}.weight": np.arange(n) % 3 == 1 for i, n in ((0, 12), (3, 16), (9, 24))}
    plan = {name: mask.astype(np.uint8) for name, mask in tier_of.items()}
    alone = lock_model(trained(), tier_of=plan).shipped
    plain = deepcopy(trained()).to(memory_format=torch.contiguous_format)
    both = lock_model(trained(), tier_of=plan, consumers=True, graph=trace_graph(plain, (task()[1].x[:1],))).shipped
    found = with_readers(alone.elements, read_layers(alone.state), alone.channels)
    assert set(found) == set(both.elements) > set(alone.elements)
    for name, mask in both.elements.items():
        assert (found[name] == mask).all(), name


@pytest.mark.parametrize("transposed", [False, True])
def test_readers_may_be_depthwise_or_stored_by_input(transposed: bool) -> None:
    layers = {
        "a": ObservedLayer("a", np.zeros((3, 4)), {}, {}, False, (3, 4), "b"),
        "b": ObservedLayer("b", np.zeros((3, 9)), {}, {}, False, (3, 1, 3, 3), "c"),
        "c": ObservedLayer("c", np.zeros((5, 3)), {}, {}, transposed, (3, 5) if transposed else (5, 3), ""),
    }
    locked = {"a": np.array([False, True, False]), "b": np.array([True, False, False]), "c": np.zeros(5, np.bool_)}
    found = with_readers({}, layers, locked)
    assert set(found) == {"b", "c"}
    assert found["b"].reshape(3, 9).tolist() == [[m] * 9 for m in locked["a"]]
    assert (found["c"] if transposed else found["c"].T).tolist() == [[m] * 5 for m in locked["b"]]


def test_a_guess_finds_a_channel_that_resembles_no_other() -> None:
    generator = torch.Generator().manual_seed(5)
    family = torch.randn(3, 9, generator=generator)
    weight = family[torch.arange(30) % 3] * torch.rand(30, 1, generator=generator).add(0.5)
    weight += 0.2 * torch.randn(30, 9, generator=generator)
    weight[[4, 11]] = torch.randn(2, 9, generator=generator)
    layers = read_layers({"a.weight": weight, "b.weight": torch.randn(5, 30, generator=generator)})
    assert np.flatnonzero(guess(layers, {"a.weight": 2})["a.weight"]).tolist() == [4, 11]


@pytest.mark.parametrize("method", METHODS)
def test_imputation_touches_nothing_else(method: str) -> None:
    locked = lock_model(trained(), tiers="free=0.3,full=0")
    state, elements = locked.shipped.state, locked.shipped.elements
    new = impute(state, elements, method)  # type: ignore[arg-type]
    assert set(new) == set(state)
    for name, value in state.items():
        mask = torch.from_numpy(elements.get(name, np.zeros(tuple(value.shape), np.bool_)))
        assert torch.equal(new[name][~mask], value[~mask]), name
        assert bool(torch.isfinite(new[name].float()).all()), name
        if name.endswith("running_var"):
            assert bool((new[name] > 0).all())
    changed = sum(int((new[n] != state[n]).sum()) for n in state)
    assert changed > 0


def _chain(rank: int) -> dict[str, torch.Tensor]:
    """Two linear layers whose middle channels are all mixtures of `rank` patterns, on both sides."""
    generator = torch.Generator().manual_seed(2)
    mixture = torch.randn(40, rank, generator=generator)
    first = mixture @ torch.randn(rank, 9, generator=generator)
    second = (mixture @ torch.randn(rank, 25, generator=generator)).T
    return {"first.weight": first.contiguous(), "second.weight": second.contiguous(),
            "last.weight": torch.randn(5, 25, generator=generator)}  # fmt: skip


@pytest.mark.parametrize(("method", "tolerance"), [("least-squares", 0.1), ("low-rank", 0.1)])
def test_channels_that_follow_from_their_readers_are_filled(method: str, tolerance: float) -> None:
    state = _chain(2)
    truth = state["first.weight"].clone()
    mask = np.zeros((40, 9), np.bool_)
    mask[[3, 17, 30]] = True
    state["first.weight"][torch.from_numpy(mask)] = 0
    error = {}
    for name in (method, "layer-mean", "zeros"):
        filled = impute(state, {"first.weight": mask}, name)["first.weight"]  # type: ignore[arg-type]
        error[name] = float((filled - truth).norm() / truth[[3, 17, 30]].norm())
    assert error[method] < tolerance
    assert error["layer-mean"] > 0.5
    assert error["zeros"] == pytest.approx(1)


def test_readers_that_are_locked_too_tell_nothing() -> None:
    state = _chain(2)
    rows, columns = np.zeros((40, 9), np.bool_), np.zeros((25, 40), np.bool_)
    rows[[3, 17]] = True
    columns[:, [3, 17]] = True
    filled = impute(state, {"first.weight": rows, "second.weight": columns}, "least-squares")
    mean = state["first.weight"][torch.from_numpy(~rows.any(axis=1))].mean(0)
    assert torch.allclose(filled["first.weight"][3], mean, atol=1e-5)


def test_the_base_fills_what_fits() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    elements = {"a": np.array([[True] * 3, [False] * 3]), "b": np.ones(4, np.bool_)}
    filled, share = from_base(state, elements, {"a": torch.ones(2, 3), "b": torch.ones(5)})
    assert filled["a"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert not filled["b"].any()
    assert share == pytest.approx(3 / 7)
    assert not state["a"].any()
