"""The attacks on small networks: they take back what was never taken, and nothing where nothing is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts.torch_module import plain_state
from corelocker.audit.attacks import FULL, AttackBench, AttackBudget, AttackTarget, run_attacks, suited
from corelocker.audit.data import DataSet, Measured, load_metric
from corelocker.audit.evaluators import measure_module
from corelocker.audit.imputation import METHODS
from corelocker.audit.models import Mask, lock_model
from corelocker.audit.results import AttackResult
from corelocker.audit.training import TrainingRecipe, recalibrate, seeded, train, untrained
from corelocker.errors import ConfigError
from support.attack_subjects import TINY, altered, target, task, trained
from torch import nn

CHANCE = 1 / 6


def by_name(results: list[AttackResult]) -> dict[str, AttackResult]:
    return {r.name: r for r in results}


def everything() -> dict[str, Mask]:
    return {n: np.ones(tuple(v.shape), np.bool_) for n, v in plain_state(trained()).items() if v.is_floating_point()}


# --- weak and strong locks -------------------------------------------------------------------------------------------


def test_a_lock_that_takes_nothing_is_recovered() -> None:
    results = run_attacks(altered(plain_state(trained()), {}), TINY)
    found = by_name(results)
    original = results[0].original
    assert original > 0.85
    for method in METHODS:
        assert found[f"imputation-{method}"].details["plain"] == original
    assert found["bn-recalibration"].recovered > original - 0.1
    assert found["fine-tune-known"].recovered > original - 0.1
    assert (found["fine-tune-known"].leaked or 0) > 0.2
    assert not any(name.startswith("location") for name in found)


def test_a_lock_that_only_spoils_statistics_is_recovered() -> None:
    state = plain_state(trained())
    elements = {n: np.ones(tuple(v.shape), np.bool_) for n, v in state.items() if "running" in n}
    for name in elements:
        state[name] = torch.rand(state[name].shape, generator=torch.Generator().manual_seed(3)) * 3
    (result,) = run_attacks(altered(state, elements), TINY, only=["bn-recalibration"])
    assert result.locked < 0.5
    assert result.recovered > result.original - 0.05
    assert (result.leaked or 0) > 0.4


def test_what_a_public_base_holds_is_recovered() -> None:
    locked = lock_model(trained(), tiers="free=0.5,full=0")
    results = run_attacks(
        replace(target(locked), base=plain_state(trained())), TINY, only=["base-imputation", "location-unlike"]
    )
    found = by_name(results)
    assert found["base-imputation"].locked < 0.6
    assert found["base-imputation"].details["plain"] == found["base-imputation"].original
    assert found["base-imputation"].details["found_in_base"] == 1
    assert found["base-imputation-fine-tune"].recovered > found["base-imputation"].original - 0.1


def test_a_model_that_was_drawn_anew_is_not_recovered() -> None:
    state = plain_state(untrained(trained(), 77))
    results = run_attacks(altered(state, everything()), replace(TINY, variants=(("known", "all"), ("none", "all"))))
    for result in results:
        assert result.recovered < 0.6, result.name
        if result.name.startswith(("imputation", "bn-", "pruning")) and result.name != "pruning-regrow":
            assert result.recovered < CHANCE + 0.15, result.name
    found = by_name(results)
    assert found["fine-tune-known"].leaked == 0, "nothing is left: it is training from scratch"
    assert abs(found["fine-tune-none"].leaked or 0) < 0.12
    assert found["fine-tune-known"].original - found["fine-tune-known"].recovered > 0.3


def test_a_larger_key_leaks_less() -> None:
    leaks = []
    for share in (0.05, 0.8):
        locked = lock_model(trained(), tiers=f"free={share},full=0", include_io=True)
        (result,) = run_attacks(target(locked), TINY, only=["fine-tune"])
        assert result.baseline is not None
        leaks.append(result.recovered - result.baseline)
    assert leaks[0] > leaks[1] + 0.15


def test_distillation_of_an_unlocked_tier_teaches_a_new_network() -> None:
    results = run_attacks(altered(plain_state(trained()), {}), TINY, only=["distillation"])
    found = by_name(results)
    assert found["distillation"].budget["labels"] == 0
    assert found["distillation"].recovered > 0.6
    assert found["distillation"].baseline == found["distillation"].original
    labels = found["distillation-with-labels"]
    assert labels.recovered > (labels.baseline or 0) - 0.05


def test_every_result_states_budget_and_baseline() -> None:
    locked = lock_model(trained(), tiers="free=0.1,full=0")
    variants = (
        ("known", "mostly-locked"), ("known", "locked"), ("known-readers", "all"), ("guessed", "all"), ("none", "all"),
    )  # fmt: skip
    results = run_attacks(target(locked), replace(TINY, variants=variants))
    names = {r.name for r in results}
    assert "fine-tune-known-readers" in names
    assert {"fine-tune-known-mostly-locked", "fine-tune-known-locked", "fine-tune-guessed", "fine-tune-none"} <= names
    assert {"pruning", "pruning-regrow", "distillation", "distillation-with-labels", "location-l1"} <= names
    for result in results:
        assert result.baseline is not None, result.name
        assert result.baseline_name, result.name
        assert "data" in result.budget, result.name
        assert AttackResult.from_json(json.loads(json.dumps(result.to_json()))) == result


# --- the machinery ---------------------------------------------------------------------------------------------------


def test_finished_pieces_are_kept_and_damaged_ones_made_again(tmp_path: Path) -> None:
    subject = target(lock_model(trained(), tiers="free=0.1,full=0"))
    only = ["fine-tune", "pruning"]
    first = run_attacks(subject, TINY, work=tmp_path, only=only)
    assert [replace(r, seconds=0) for r in first] == [
        replace(r, seconds=0) for r in run_attacks(subject, TINY, only=only)
    ], "the same seed gives the same results"
    pieces = sorted(tmp_path.glob("*.json"))
    assert pieces
    for piece in pieces:
        document = json.loads(piece.read_bytes())
        document["utility"] = 0.125
        piece.write_text(json.dumps(document))
    assert {r.recovered for r in run_attacks(subject, TINY, work=tmp_path, only=only)} == {0.125}
    for piece in pieces:
        piece.write_bytes(piece.read_bytes()[:9])
    again = run_attacks(subject, TINY, work=tmp_path, only=only)
    assert [r.recovered for r in again] == [r.recovered for r in first]
    other = run_attacks(subject, TINY, work=tmp_path, only=["fine-tune"], seed=5)
    assert other[0].recovered != first[-1].recovered or other[0].baseline != first[-1].baseline


def test_smaller_shares_are_inside_larger_ones() -> None:
    bench = AttackBench(target(lock_model(trained(), tiers="free=0.1,full=0")), TINY)
    small, large = bench.samples(0.05), bench.samples(0.5)
    assert len(small) == 45
    assert torch.equal(small.x, large.x[:45])
    assert len(AttackBench(bench.target, replace(TINY, most=20)).samples(1.0)) == 20


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_elements_keep_every_bit(optimizer: str) -> None:
    net = untrained(trained(), 0)
    before = plain_state(net)
    speed = {n: torch.zeros(p.shape) for n, p in net.named_parameters()}
    speed["features.0.weight"][3] = 1
    speed["features.3.weight"][:, 2] = 0.1
    recipe = TrainingRecipe(epochs=1, batch=16, optimizer=optimizer, weight_decay=0.1)  # type: ignore[arg-type]
    train(net, task()[0].take(slice(64)), recipe, 0.05, 0, speed=speed)
    for name, parameter in net.named_parameters():
        same = parameter.detach() == before[name]
        assert bool(same[speed[name] == 0].all()), name
        assert not bool(same[speed[name] > 0].any()), name
        assert parameter.requires_grad


def test_training_is_repeatable_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    states = []
    for _ in range(2):
        net = untrained(trained(), 4)
        train(net, task()[0].take(slice(64)), TrainingRecipe(epochs=1, augmentation="shift-flip"), 0.05, 9)
        states.append(plain_state(net))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not torch.equal(states[0]["features.0.weight"], plain_state(untrained(trained(), 4))["features.0.weight"])


def test_untrained_forgets_every_weight() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.full((1, 4), 9.0))
            self.linear = nn.Linear(4, 4)

    odd = Odd()
    fresh, again, other = (plain_state(untrained(odd, seed)) for seed in (1, 1, 2))
    for name, value in plain_state(odd).items():
        assert not torch.equal(fresh[name], value)
        assert torch.equal(fresh[name], again[name])
        assert not torch.equal(fresh[name], other[name])


def test_recalibration_measures_the_inputs() -> None:
    norm = nn.Sequential(nn.BatchNorm2d(2))
    x = torch.randn(300, 2, 4, 4) * 3 + 5
    recalibrate(norm, DataSet("noise", x, torch.zeros(300, dtype=torch.int64)), batch=100)
    stored = norm[0]
    assert isinstance(stored, nn.BatchNorm2d)
    assert stored.running_mean is not None
    assert stored.running_var is not None
    assert torch.allclose(stored.running_mean, x.mean((0, 2, 3)), atol=1e-3)
    assert torch.allclose(stored.running_var, x.var((0, 2, 3)), rtol=2e-2)
    assert stored.momentum == 0.1
    assert not norm.training


def test_a_language_model_is_attacked_by_perplexity() -> None:
    class Bigram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(12, 16)
            self.hidden = nn.Linear(16, 32)
            self.head = nn.Linear(32, 12)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(torch.relu(self.hidden(self.embedding(tokens))))
            return logits

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 12, (400, 8), generator=generator)
    data = DataSet("cycle", x, (x + 5) % 12)
    recipe = TrainingRecipe(epochs=10, batch=32, learning_rates=(0.02,), optimizer="adamw")
    with seeded(0):
        model = Bigram()
    train(model, data.take(slice(300)), recipe, 0.02, 0)
    locked = lock_model(model.eval(), tiers="free=0.5,full=0")
    subject = AttackTarget.of(
        model, locked, data.take(slice(300)), data.take(slice(300, None)), load_metric("perplexity")
    )
    found = by_name(run_attacks(subject, replace(TINY, recipe=replace(recipe, epochs=2, least_steps=60))))
    tuned = found["fine-tune-known"]
    assert tuned.original < 1.5 < tuned.locked
    assert tuned.recovered < tuned.locked
    assert tuned.gained > 0
    assert tuned.baseline is not None
    assert tuned.leaked == pytest.approx(tuned.baseline - tuned.recovered)
    assert "bn-recalibration" not in found


def test_budgets_that_cannot_be() -> None:
    with pytest.raises(ConfigError):
        TrainingRecipe(learning_rates=())
    with pytest.raises(ConfigError):
        TrainingRecipe(learning_rates=(0.0,))
    with pytest.raises(ConfigError):
        TrainingRecipe(batch=0)
    assert TrainingRecipe(epochs=2, batch=10, least_steps=50).steps(41) == 50
    assert TrainingRecipe(epochs=20, batch=10).steps(41) == 100
    assert AttackBudget().shares == (0.01, 0.05, 0.1, 1.0)


def test_a_model_without_classes_is_attacked_without_training() -> None:
    data = [DataSet("angles", d.x[:60], torch.rand(60, 6)) for d in task()]
    net = trained()
    locked = lock_model(net, tiers="free=0.3,full=0")
    metric = replace(load_metric(), name="error", higher_is_better=False, proportion=False, _sample=_squares)
    found = by_name(run_attacks(AttackTarget.of(net, locked, data[0], data[1], metric), TINY))
    assert {"imputation-low-rank", "bn-recalibration", "location-l1"} <= set(found)
    assert not any(name.startswith(("fine-tune", "distillation", "location-gradient")) for name in found)
    assert found["imputation-zeros"].leaked == pytest.approx(
        (found["imputation-zeros"].baseline or 0) - found["imputation-zeros"].recovered
    )


def _squares(outputs: torch.Tensor, labels: torch.Tensor) -> Measured:
    errors = ((outputs - labels) ** 2).mean(dim=1).double().numpy()
    return Measured(errors, np.ones_like(errors))


def test_data_without_classes_is_refused_for_training() -> None:
    x, y = task()[0].x[:32], torch.zeros(32, 6)
    with pytest.raises(ConfigError):
        train(untrained(trained(), 0), DataSet("soft", x, y), TrainingRecipe(epochs=1), 0.1, 0)


class Tied(nn.Module):
    """(n, 6) tokens to (n, 6, 20) logits, with one matrix for both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(20, 16), nn.LayerNorm(16), nn.Linear(16, 20, bias=False)
        self.mlp = nn.Linear(16, 16)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(torch.relu(self.mlp(self.embed(tokens)))))
        return logits


def test_checkpoints_hold_tied_weights_once() -> None:
    """As transformers writes them: what is missing is the other name of something, not an untrained matrix."""
    torch.manual_seed(0)
    module = Tied().eval()
    tokens = torch.randint(0, 20, (40, 6))
    data = DataSet("tokens", tokens, module(tokens).argmax(-1))
    state = {n: v for n, v in plain_state(module).items() if n != "head.weight"}
    bench = AttackBench(AttackTarget(module, state, state, {}, {}, data, data, load_metric("perplexity")), TINY)
    assert bench.original == pytest.approx(
        load_metric("perplexity").value(measure_module(module, data, load_metric("perplexity")))
    )
    with torch.no_grad():
        assert torch.equal(bench.module(state)(tokens), module(tokens))


def test_transformers_are_tuned_with_adamw() -> None:
    assert suited(FULL, trained()) is FULL
    for module in (Tied(), nn.LSTM(4, 8), nn.TransformerEncoderLayer(8, 2, 16)):
        recipe = suited(FULL, module).recipe
        assert recipe.optimizer == "adamw"
        assert recipe.learning_rates == pytest.approx((0.002, 0.0004))
        assert recipe.epochs == FULL.recipe.epochs
