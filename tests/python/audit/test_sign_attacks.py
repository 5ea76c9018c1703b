"""Attacks on locks by sign, and what paying users and the training data give away."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts.torch_module import plain_state
from corelocker.audit.attacks import AttackTarget, run_attacks
from corelocker.audit.data import DataSet
from corelocker.audit.models import TieredModel, lock_model
from corelocker.audit.results import AttackResult
from corelocker.audit.training import TrainingRecipe, seeded, train
from support.attack_subjects import TINY, Net, altered, target, task, trained
from torch import nn


def test_a_work_folder_keeps_what_needs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("membership", "signs-first-layer")
    first = run_attacks(target(signless()), TINY, work=tmp_path, only=names)
    assert {r.name for r in first} >= {"membership", "signs-smoothness", "signs-batchnorm"}

    def refuse(*arguments: object) -> None:
        raise AssertionError("finished work is done again")

    monkeypatch.setattr("corelocker.audit.attacks.queries._losses", refuse)
    monkeypatch.setattr("corelocker.audit.attacks.signs._descended", refuse)
    again = run_attacks(target(signless()), TINY, work=tmp_path, only=names)
    assert [replace(r, seconds=0) for r in again] == [replace(r, seconds=0) for r in first]
    with pytest.raises(AssertionError, match="done again"):
        run_attacks(target(signless()), TINY, seed=1, work=tmp_path, only=names)


def by_name(results: list[AttackResult]) -> dict[str, AttackResult]:
    return {r.name: r for r in results}


@cache
def signless() -> TieredModel:
    """All signs of the trained network are locked."""
    return lock_model(trained(), tiers="free=1,full=0", include_io=True, unit="sign")


def test_the_shipped_state_has_the_magnitudes_and_not_the_signs() -> None:
    locked = signless()
    assert locked.shipped.signs
    for name, mask in locked.shipped.elements.items():
        shipped, original = locked.shipped.state[name], locked.original[name]
        assert torch.equal(shipped.abs(), original.abs())
        assert mask.all()
    flipped = torch.cat([
        (locked.shipped.state[n] != locked.original[n]).flatten() for n in locked.shipped.elements
    ]).float()  # fmt: skip
    assert 0.45 < float(flipped.mean()) < 0.55
    weights = sum(locked.original[n].numel() for n in locked.shipped.elements)
    assert weights / 8 <= locked.shipped.locked_bytes <= weights / 8 + 64


def test_several_files_under_independent_masks_give_nothing_away_together() -> None:
    """Of each pattern of signs over four published files, the original's sign is as likely as over all weights."""
    files = [
        lock_model(trained(), tiers="free=1,full=0", include_io=True, unit="sign", seed=f"file {i}") for i in range(4)
    ]
    original = files[0].original
    names = sorted(files[0].shipped.elements)
    truth = torch.cat([original[n].flatten() > 0 for n in names]).numpy()
    seen = np.stack([torch.cat([f.shipped.state[n].flatten() > 0 for n in names]).numpy() for f in files])
    patterns = np.packbits(seen, axis=0, bitorder="little")[0]
    assert set(patterns.tolist()) == set(range(16))
    for pattern in range(16):
        chosen = truth[patterns == pattern]
        assert abs(chosen.mean() - truth.mean()) < 4.5 * np.sqrt(0.25 / chosen.size), pattern
    # A lock of a part beside one of everything is another matter: what it leaves open is known.
    part = lock_model(trained(), tiers="free=0.5,full=0", include_io=True, unit="sign", seed="part")
    open_ = torch.cat([~torch.from_numpy(part.shipped.elements[n]).flatten() for n in names]).numpy()
    known = torch.cat([part.shipped.state[n].flatten() > 0 for n in names]).numpy()
    assert (known[open_] == truth[open_]).all()


def test_signs_of_the_public_base_give_a_tuned_model_away() -> None:
    base = {n: v + 0.01 * v.std() if v.is_floating_point() else v for n, v in plain_state(trained()).items()}
    results = run_attacks(replace(target(signless()), base=base), TINY, only=["signs-base"])
    found = by_name(results)
    assert found["signs-base"].details["signs_that_agree"] > 0.95
    assert found["signs-base"].recovered > found["signs-base"].original - 0.1
    other = replace(
        target(signless()), base={n: torch.randn(v.shape) if v.is_floating_point() else v for n, v in base.items()}
    )
    assert by_name(run_attacks(other, TINY, only=["signs-base"]))["signs-base"].recovered < 0.5


def test_training_the_signs_is_an_attack_that_works_where_few_are_locked() -> None:
    (only_head,) = [n for n in plain_state(trained()) if n == "classifier.weight"]
    locked = lock_model(trained(), tiers="free=1,full=0", include_io=True, unit="sign", layers=[only_head])
    results = by_name(run_attacks(target(locked), TINY, only=["signs-soft", "signs-straight"]))
    assert set(results) == {"signs-soft", "signs-straight-through"}
    soft = results["signs-soft"]
    assert soft.locked < 0.6
    assert soft.recovered > soft.original - 0.25
    assert (soft.regained or 0) > 0.3
    assert results["signs-straight-through"].recovered > soft.locked


def test_training_the_signs_of_everything_regains_little() -> None:
    for result in run_attacks(target(signless()), TINY, only=["signs-soft", "signs-straight"]):
        assert result.original - result.recovered > 0.2, result.name


def test_locks_by_value_have_no_sign_attacks() -> None:
    locked = lock_model(trained(), tiers="free=0.5,full=0")
    assert run_attacks(target(locked), TINY, only=["signs"]) == []


# --- the first layer -------------------------------------------------------------------------------------------------


class Smooth(nn.Module):
    """A first layer of smooth filters with a BatchNorm behind it, as trained vision models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 5, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 6)
        place = torch.arange(5.0)
        with torch.no_grad():
            for i in range(12):
                wave = torch.cos(0.35 * (1 + i % 3) * place + i) + 0.1
                self.conv.weight[i, 0] = torch.outer(wave, torch.cos(0.3 * place + 0.4 * i))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return logits


def test_signs_of_smooth_filters_are_found_and_statistics_tell_some() -> None:
    module = Smooth()
    x, y = task()[0].x.cumsum(2).cumsum(3) / 8, task()[0].y  # images have correlated pixels too
    data = DataSet("smooth", x, y)
    with seeded(0):
        train(module, data, TrainingRecipe(epochs=1, batch=64, learning_rates=(0.01,)), 0.01, 0)
    module.eval()
    locked = lock_model(module, tiers="free=1,full=0", include_io=True, unit="sign", layers=["conv.weight"])
    subject = AttackTarget.of(module, locked, data, DataSet("smooth", x[:200], y[:200]))
    found = by_name(run_attacks(subject, TINY, only=["signs-first"]))
    assert set(found) == {"signs-smoothness", "signs-batchnorm"}
    smooth = found["signs-smoothness"].details
    assert smooth["signs_found"] > smooth["blind_guess"] + 0.1
    assert found["signs-batchnorm"].details["signs_found"] > found["signs-batchnorm"].details["blind_guess"] + 0.03


def test_signs_of_rough_filters_are_not_found() -> None:
    module = Smooth()
    with torch.no_grad():
        module.conv.weight.normal_(generator=torch.Generator().manual_seed(5))
    locked = lock_model(module, tiers="free=1,full=0", include_io=True, unit="sign", layers=["conv.weight"])
    subject = AttackTarget.of(module.eval(), locked, *task())
    details = by_name(run_attacks(subject, TINY, only=["signs-first"]))["signs-smoothness"].details
    assert abs(details["signs_found"] - details["blind_guess"]) < 0.1


# --- paying users, training data -------------------------------------------------------------------------------------


def test_answers_of_an_unlocked_app_teach_with_or_without_the_file() -> None:
    (found,) = run_attacks(target(signless()), TINY, only=["unlocked-answers"])
    assert found.budget["samples"] == len(task()[0]) // 10
    assert found.baseline is not None
    assert found.baseline_name == "a new network taught by the same answers"
    assert (found.leaked or 0) < 0.2, "the locked file adds little to the answers"
    open_ = altered(plain_state(trained()), {})
    (found,) = run_attacks(open_, TINY, only=["unlocked-answers"])
    assert (found.leaked or 0) > 0.2, "an open file adds much"


def test_a_model_that_knows_its_samples_by_heart_tells_them() -> None:
    train_data, test_data = task()
    few = train_data.take(slice(64))
    with seeded(2):
        net = Net()
    train(net, few, TrainingRecipe(epochs=60, batch=16), 0.05, 0)
    net.eval()
    opened = lock_model(net, tiers="free=0.05,full=0")
    subject = AttackTarget.of(net, opened, few, test_data)
    state = replace(subject, state=subject.original)
    (found,) = run_attacks(state, TINY, only=["membership"])
    assert found.recovered > 0.7
    everything = lock_model(net, tiers="free=1,full=0", include_io=True, unit="sign")
    (found,) = run_attacks(AttackTarget.of(net, everything, few, test_data), TINY, only=["membership"])
    assert abs(found.recovered - 0.5) < 4 * found.details["standard_error_of_a_blind_guess"]
    assert found.original > 0.7
    assert np.isclose(found.baseline or 0, 0.5)
