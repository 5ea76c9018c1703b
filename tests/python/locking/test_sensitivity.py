"""The sensitivity criterion and its synthetic inputs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corelocker.artifacts import Artifact, open_artifact
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.audit.models import lock_model
from corelocker.errors import ConfigError, CriterionError
from corelocker.locking.criteria import random_scores
from corelocker.locking.criteria.ranking import rank
from corelocker.locking.criteria.sensitivity import SensitivityScorer
from corelocker.locking.criteria.signal import Collapse
from corelocker.locking.criteria.simulation import fillings, fold_batch_norms, replaced_state
from corelocker.locking.criteria.synthetic import InputStats, flat_output, synthesize
from corelocker.locking.groups import group_layers
from corelocker.locking.planning import make_plan
from corelocker.locking.tiers import parse_tiers
from support.attack_subjects import task, trained
from torch import nn

EXAMPLE = (torch.zeros(1, 1, 8, 8),)


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor]:
    return synthesize(trained(), EXAMPLE, steps=30)  # type: ignore[return-value]


def costs_of(module: nn.Module, folder: Path, inner: bool = True) -> dict[str, float]:
    artifact = open_state(plain_state(module), folder / "costs.safetensors")
    outer = artifact.inputs | artifact.outputs if inner else frozenset()
    return {t.name: sum(p.size for p in t.parts) / t.channels for t in artifact.tensors if t.name not in outer}


def test_a_class_that_goes_along_is_not_made_up_for_by_one_that_goes_against() -> None:
    original = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    collapse = Collapse(original, signed=True)
    assert float(collapse(original)[0]) == pytest.approx(1)
    assert float(collapse(-original)[0]) == 0
    assert float(collapse(original * torch.tensor([1.0, -1.0]))[0]) > 0.3
    assert float(collapse.loss(original * torch.tensor([1.0, -1.0]))) > float(collapse.loss(-original)) + 0.3


def test_chance_correlations_of_large_outputs_count_as_collapsed() -> None:
    generator = torch.Generator().manual_seed(1)
    collapse = Collapse(torch.randn(64, 100, generator=generator), signed=True)
    left = [float(collapse(torch.randn(64, 100, generator=generator))[0]) for _ in range(20)]
    assert sum(left) / len(left) < 0.02


def test_inputs_match_what_the_model_remembers(inputs: tuple[torch.Tensor]) -> None:
    again = synthesize(trained(), EXAMPLE, steps=30)
    assert torch.equal(inputs[0], again[0])
    assert not torch.equal(inputs[0], synthesize(trained(), EXAMPLE, steps=30, seed=1)[0])
    with torch.no_grad():
        classes = trained()(inputs[0]).argmax(1).bincount(minlength=6)
    assert classes.min() >= len(inputs[0]) // 12
    assert all(p.requires_grad for p in trained().parameters())

    def distance(x: torch.Tensor) -> float:
        """Of the first BatchNorm's input from its memory, in its spreads."""
        conv, norm = trained().features[0], trained().features[1]
        with torch.no_grad():
            return float(((conv(x).mean((0, 2, 3)) - norm.running_mean).abs() / norm.running_var.sqrt()).mean())

    assert distance(inputs[0]) < distance(torch.rand(64, 1, 8, 8) * 4)


def test_declared_statistics() -> None:
    stats = InputStats.parse("0.5,-1,0/0.1,2,1")
    x = synthesize(nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 32, 32),), stats, count=40, steps=0)[0]
    assert x.shape == (40, 3, 32, 32)
    assert torch.allclose(x.mean((0, 2, 3)), torch.tensor(stats.mean), atol=0.5)
    assert (x.std((0, 2, 3)) / torch.tensor(stats.std) - 1).abs().max() < 0.4
    measured = InputStats.measure([(x[:20],), (x[20:],)])
    assert measured is not None
    assert np.allclose(measured.mean, x.mean((0, 2, 3)))
    assert InputStats.measure([(torch.zeros(1, 4, dtype=torch.long),)]) is None
    for text in ("", "1", "1/0", "1/-1", "x/1", "1/x", "nan/1", "/1", "1/", "1/inf"):
        with pytest.raises(ConfigError):
            InputStats.parse(text)
    with pytest.raises(ConfigError):
        synthesize(nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 32, 32),), InputStats((1.0, 2.0), (1.0,)))


def test_what_is_left_of_the_output() -> None:
    original = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    collapse = Collapse(original)

    def left(output: torch.Tensor) -> float:
        return float(collapse(output)[0])

    assert left(original) == pytest.approx(1, abs=1e-5)
    assert left(original + 7) == pytest.approx(1, abs=1e-5)  # a constant says nothing
    assert left(original[:, [3, 1, 2, 0, 5, 4]]) == pytest.approx(1, rel=0.2)  # nor does it hide to exchange outputs
    assert left(100 * original) == pytest.approx(1, abs=1e-4)
    assert left(0.1 * original) == pytest.approx(0.1, abs=1e-4)
    assert left(torch.ones(40, 6)) < 1e-6
    assert left(torch.randn(40, 6)) < 0.6
    for useless in (torch.ones(40, 6), torch.full((40, 6), float("nan"))):
        with pytest.raises(CriterionError):
            Collapse(useless)


@pytest.mark.parametrize("fill", ["zero", "decoy"])
def test_the_simulation_is_the_lock(tmp_path: Path, inputs: tuple[torch.Tensor], fill: str) -> None:
    """BatchNorm statistics are folded into its weight for the gradient's sake: the outputs are those of the locked file."""
    module = trained()
    layers = fillings(module, costs_of(module, tmp_path, inner=False), fill, b"s")  # type: ignore[arg-type]
    assert sum(layer.channels for layer in layers) == 12 + 16 + 24 + 24 + 6
    generator = np.random.default_rng([0, *b"s"])
    halves = {layer.name: generator.permutation(layer.channels) < layer.channels // 2 for layer in layers}
    locked = lock_model(
        module,
        tier_of={n: h.astype(np.uint8) for n, h in halves.items()},
        fill=fill,
        seed=b"0/s",  # type: ignore[arg-type]
    )
    other = deepcopy(module)
    other.load_state_dict(locked.shipped.state)
    state = replaced_state(module, layers, [halves[layer.name] for layer in layers], 0)
    with torch.no_grad():
        found = flat_output(torch.func.functional_call(module, state, inputs))
        assert torch.allclose(found, other(inputs[0]), atol=1e-4)


@pytest.mark.parametrize("fill", ["zero", "decoy"])
def test_fewer_bytes_than_l1(tmp_path: Path, inputs: tuple[torch.Tensor], fill: str) -> None:
    """On real data, not on the inputs it was chosen by."""
    module, test = deepcopy(trained()), task()[1]
    ranking = rank(module, inputs, costs_of(module, tmp_path), fill, seed=b"r")  # type: ignore[arg-type]
    total = sum(scores.size for scores in ranking.scores.values())
    assert ranking.collapsed is not None
    assert ranking.course[0] == (0.0, pytest.approx(1, abs=1e-4))
    assert sorted(np.concatenate(list(ranking.scores.values())).tolist()) == list(range(1, total + 1))
    original = plain_state(module)

    def bytes_to(accuracy: float, **how: object) -> int:
        for count in range(2, 70, 4):
            locked = lock_model(original, tiers=f"free={count / total},full=0", fill=fill, **how)  # type: ignore[arg-type]
            module.load_state_dict(locked.shipped.state)
            with torch.no_grad():
                if float((module(test.x).argmax(1) == test.y).float().mean()) < accuracy:
                    return locked.shipped.locked_bytes
        return 10**9

    ours = bytes_to(0.3, criterion="sensitivity", scope="global", scores=ranking.scores)
    assert ours < min(bytes_to(0.3), bytes_to(0.3, scope="global"), bytes_to(0.3, criterion="bn-scale", scope="global"))


def test_a_narrow_layer_is_taken_whole(tmp_path: Path) -> None:
    """No one channel of the narrow layer matters: they say the same; all of them cost less than the wide layers' channels."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(6, 8), nn.Linear(8, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 5)
    )
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight[:1] + 1e-3 * torch.randn(8, 6))
        module[0].bias.zero_()
    given = synthesize(module, (torch.zeros(1, 6),), steps=0)
    costs = {f"{i}.weight": 4.0 * module[i].in_features for i in (0, 1, 3)}
    ranking = rank(module, given, costs, "zero")
    locked = [name for name, _ in sorted(
        ((name, score) for name, scores in ranking.scores.items() for score in scores), key=lambda pair: -pair[1]
    )]  # fmt: skip
    assert locked[:7] == ["0.weight"] * 7
    assert ranking.collapsed is not None


def scored(artifact: Artifact, module: nn.Module, **options: object) -> tuple[SensitivityScorer, dict[str, list[int]]]:
    scorer = SensitivityScorer(module, EXAMPLE, fill="zero")
    plan = make_plan([artifact], parse_tiers("free=0.2,full=0"), scorer, criterion="sensitivity", scope="global", fill="zero",
                     seed=b"", **options)  # type: ignore[arg-type]  # fmt: skip
    return scorer, {n: np.flatnonzero(m).tolist() for n, m in plan.tier_of[0].items()}


def test_layers_are_recognized_through_the_fold(tmp_path: Path, inputs: tuple[torch.Tensor]) -> None:
    module = trained()
    own = open_state(plain_state(module), tmp_path / "own.safetensors")
    scorer, chosen = scored(own, module, include_io=True)
    assert scorer.ranking is not None
    assert 0 < scorer.fraction_to_collapse() <= scorer.fraction_to_collapse(3.0) < 1
    folded = deepcopy(module)
    fold_batch_norms(folded, inputs)
    with torch.no_grad():
        assert torch.allclose(folded(inputs[0]), module(inputs[0]), atol=1e-4)
    state = {f"layer_{9 - i}.{n}": v for i, (n, v) in enumerate(sorted(plain_state(folded).items())) if v.dim() != 2}
    state["z.weight"], state["z.bias"] = (plain_state(folded)[f"classifier.{leaf}"] for leaf in ("weight", "bias"))
    assert not any("running_var" in name for name in state)
    exported = open_state(state, tmp_path / "exported.safetensors")
    _, renamed = scored(exported, module, include_io=True)
    by_shape = {t.shape: renamed[t.name] for t in exported.tensors if t.name in renamed}
    for tensor in own.tensors:
        if tensor.name in chosen:  # the costs differ a little, for a folded channel has no BatchNorm numbers
            assert len(set(chosen[tensor.name]) ^ set(by_shape[tensor.shape])) <= 4
    stranger = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Flatten(), nn.Linear(180, 7))
    with pytest.raises(CriterionError, match="no layer"):
        scored(own, stranger)


class Language(nn.Module):
    """A transformer of one block: fused attention, an MLP, an embedding that is tied to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(37, 24)
        self.norm1, self.qkv, self.out = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)
        self.norm2, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 96), nn.Linear(96, 24)
        self.head = nn.Linear(24, 37, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        q, k, v = (t.unflatten(2, (4, 6)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, 2))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        logits: torch.Tensor = self.head(x + self.down(torch.relu(self.up(self.norm2(x)))))
        return logits


def test_language_models(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = Language().eval()
    example = (torch.zeros(1, 12, dtype=torch.long),)
    tokens = synthesize(module, example)[0]
    assert tokens.shape == (16, 12)
    assert tokens.dtype == torch.long
    assert 0 <= tokens.min() <= tokens.max() < 37
    assert flat_output(module(tokens)).shape == (16 * 12, 37)
    artifact = open_state(plain_state(module), tmp_path / "lm.safetensors")
    assert {"qkv.weight", "out.weight", "up.weight", "down.weight"} <= {t.name for t in artifact.tensors}
    scorer = SensitivityScorer(module, example, fill="decoy")
    plan = make_plan([artifact], parse_tiers("free=0.1,full=0"), scorer, criterion="sensitivity", scope="global", fill="decoy",
                     seed=b"", include_io=True)  # fmt: skip
    assert sum(int(m.any()) for m in plan.tier_of[0].values()) >= 1


def test_models_that_cannot_be_measured(tmp_path: Path) -> None:
    class Fixed(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.reshape(1, 4))

    with pytest.raises(CriterionError, match="batch"):
        synthesize(Fixed(4, 3), (torch.zeros(1, 4),))
    with pytest.raises(CriterionError, match="no tensor"):
        synthesize(nn.Linear(4, 3), (4,))
    for spec, message in (("os:getcwd", "must return"), ("nowhere:net", "imported"), ("x", "module:function")):
        with pytest.raises(ConfigError, match=message):
            SensitivityScorer.from_factory(spec, fill="zero")
    artifact = open_artifact(open_state(plain_state(trained()), tmp_path / "a.safetensors").path)
    scorer = SensitivityScorer(trained(), EXAMPLE, fill="zero")
    with pytest.raises(CriterionError):
        scorer(artifact.tensors[0])
    with pytest.raises(CriterionError):
        scorer.fraction_to_collapse()


class Tied(Language):
    """The head, whose weights are the embedding's, is registered first."""

    def __init__(self) -> None:
        super().__init__()
        embed, head = self.embed, self.head
        del self.embed, self.head
        self.head, self.embed = head, embed
        self.embed.weight = head.weight


class Recurrent(nn.Module):
    """(n, 12, 5) to (n, 4): an LSTM of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 16, 2, batch_first=True)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.lstm(x)[0][:, -1])
        return logits


class Encoder(nn.Module):
    """(n, 3, 16, 16) to (n, 7): patches, and torch's own transformer layer with its packed projection."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.pos = nn.Parameter(torch.randn(16, 24))
        self.layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, norm_first=True)
        self.head = nn.Linear(24, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layer(self.patch(x).flatten(2).transpose(1, 2) + self.pos).mean(1))
        return logits


@pytest.mark.parametrize(
    ("made", "example"),
    [
        (Tied, torch.zeros(1, 12, dtype=torch.long)),
        (Recurrent, torch.zeros(1, 12, 5)),
        (Encoder, torch.zeros(1, 3, 16, 16)),
    ],
)
def test_other_kinds_of_models(made: type[nn.Module], example: torch.Tensor, tmp_path: Path) -> None:
    """What is left of the output, locked by the product, is less than after as many random channels."""
    torch.manual_seed(5)
    module = made().eval()
    inputs = synthesize(module, (example,), steps=4)
    scorer = SensitivityScorer(module, (example,), fill="zero")
    artifact = open_state(plain_state(module), tmp_path / "m.safetensors")

    def left(score: Callable[..., Any], criterion: Any) -> float:
        plan = make_plan([artifact], parse_tiers("free=0.3,full=0"), score, criterion=criterion, scope="global",
                         fill="zero", seed=b"", include_io=True)  # fmt: skip
        locked = lock_model(module, tier_of=plan.tier_of[0], fill="zero", tiers="free=0.3,full=0")
        other = deepcopy(module)
        other.load_state_dict(locked.shipped.state)
        with torch.no_grad():
            return float(Collapse(flat_output(module(*inputs)))(flat_output(other(*inputs)))[0])

    assert left(scorer, "sensitivity") < left(lambda tensor: random_scores(tensor, b"r"), "random")


def test_large_inputs_are_fewer() -> None:
    """A round through a network for photographs takes seconds: fewer of them do."""
    module = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert synthesize(module, (torch.zeros(1, 3, 96, 96),))[0].shape == (16, 3, 96, 96)
    assert synthesize(module, (torch.zeros(1, 3, 64, 64),), steps=1)[0].shape == (64, 3, 64, 64)
    assert synthesize(module, (torch.zeros(1, 3, 96, 96),), count=5, steps=1)[0].shape == (5, 3, 96, 96)


def test_a_module_without_its_weights_is_another_model(tmp_path: Path) -> None:
    """Its layers have the same names and shapes; only values tell."""
    artifact = open_state(plain_state(trained()), tmp_path / "a.safetensors")
    fresh = deepcopy(trained())
    torch.manual_seed(5)
    for layer in fresh.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    with pytest.raises(CriterionError, match="no layer of the file holds the weights"):
        SensitivityScorer(fresh, EXAMPLE, fill="decoy").prepare([artifact], group_layers([artifact]))
