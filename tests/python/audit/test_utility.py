"""Data sets, metrics, intervals, and utility through every runtime."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts.detect import open_artifact
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.audit.data import DataSet, load_data, load_metric, wilson
from corelocker.audit.evaluators import Evaluator, load_state, measure_module
from corelocker.audit.result_cache import ResultCache
from corelocker.audit.tier_bytes import State, layer_maps, original_state, states_of_plan
from corelocker.audit.utility import Subject
from corelocker.errors import ConfigError, CoreLockerError, FileAccessError
from corelocker.exporting import ExportTarget, export_target
from corelocker.exporting.source import capture
from corelocker.locking.criteria import l1
from corelocker.locking.planning import make_plan
from corelocker.locking.tiers import parse_tiers
from torch import nn


class Net(nn.Module):
    """Input (n, 1, 8, 8), output (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.fc = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)
        with torch.no_grad():  # or it would say the same of every input
            logits = self(torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 3)
            self.fc.bias.sub_(logits.mean(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))).mean((2, 3)))


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Labels are what the network says itself, so that the original is always right."""
    x = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        return DataSet("synthetic", x, Net().eval()(x).argmax(1))


@pytest.fixture
def subject(tmp_path: Path, data: DataSet) -> Subject:
    artifact = open_state(plain_state(Net()), tmp_path / "model.safetensors")
    return Subject(artifact, Evaluator(artifact, Net()), data, load_metric())


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_wilson_against_published_values() -> None:
    # Brown, Cai, DasGupta 2001 and every textbook since: 0 of 10, 8 of 10.
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_covers_what_it_promises() -> None:
    generator = np.random.default_rng(0)
    hits = generator.binomial(200, 0.9, 4000)
    covered = [low <= 0.9 <= high for low, high in (wilson(h, 200) for h in hits)]
    assert 0.93 < np.mean(covered) < 0.97


def test_top_k_counts_and_nan_is_wrong() -> None:
    outputs = torch.tensor([[3.0, 2, 1, 0, -1, -2], [0, 1, 2, 3, 4, 5], [math.nan, 0, 0, 0, 0, 0]])
    labels = torch.tensor([0, 1, 0])
    top1, top5 = load_metric("top-1"), load_metric("top-5")
    assert top1.value([top1.measure(outputs, labels)]) == pytest.approx(1 / 3)
    assert top5.value([top5.measure(outputs, labels)]) == pytest.approx(2 / 3)
    even = torch.arange(6)
    assert (top1.chance(even, 6), top5.chance(even, 6)) == (pytest.approx(1 / 6), pytest.approx(5 / 6))


def test_a_frequent_class_is_the_better_guess() -> None:
    labels = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    assert load_metric().chance(labels, 3) == pytest.approx(0.8)
    assert load_metric().chance(labels, 2) == pytest.approx(0.8)
    even = torch.arange(1000) % 10
    assert load_metric().chance(even, 10) == pytest.approx(0.1)
    assert load_metric("top-5").chance(even, 10) == pytest.approx(0.5)


def test_perplexity_weighs_tokens_not_rows() -> None:
    torch.manual_seed(0)
    outputs, labels = torch.randn(3, 7, 11), torch.randint(0, 11, (3, 7))
    labels[0, 2:] = -100
    metric = load_metric("perplexity")
    value = metric.value([metric.measure(outputs[:1], labels[:1]), metric.measure(outputs[1:], labels[1:])])
    expected = torch.nn.functional.cross_entropy(outputs.reshape(-1, 11), labels.reshape(-1)).exp()
    assert value == pytest.approx(float(expected), rel=1e-5)
    found = metric.interval([metric.measure(outputs, labels)], seed=1)
    assert found.low <= found.value <= found.high
    assert found == metric.interval([metric.measure(outputs, labels)], seed=1)


def test_own_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metric.py").write_text(
        "import torch\n"
        "def share(outputs, labels): return (outputs.argmax(1) == labels).float()\n"
        "def loss(outputs, labels): return torch.nn.functional.cross_entropy(outputs, labels)\n"
        "loss.higher_is_better = False\n"
        "def broken(outputs, labels): return outputs.no_such_thing\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    outputs, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    share, loss, broken = (load_metric(f"my_metric:{n}") for n in ("share", "loss", "broken"))
    assert share.value([share.measure(outputs, labels)]) == pytest.approx(0.75)
    assert not loss.higher_is_better
    assert share.interval([share.measure(outputs, labels)]).low < 0.75
    with pytest.raises(ConfigError, match="failed"):
        broken.value([broken.measure(outputs, labels)])


@pytest.mark.parametrize("spec", ["top-2", "nothing:here", "os:nothing", "os:sep"])
def test_no_metric(spec: str) -> None:
    with pytest.raises(ConfigError):
        load_metric(spec)


def test_outputs_that_do_not_fit_the_metric() -> None:
    with pytest.raises(ConfigError):
        load_metric("top-1").measure(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(ConfigError):
        load_metric("perplexity").measure(torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(ConfigError):
        load_metric("perplexity").measure(torch.zeros(2, 3, 4), torch.full((2, 3), 4))


# --- data ------------------------------------------------------------------------------------------------------------


def test_images_are_brought_to_the_example(tmp_path: Path) -> None:
    gray = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "gray.npz", x=gray, y=np.array([0, 1]))
    found = load_data(str(tmp_path / "gray.npz"), torch.zeros(1, 1, 4, 4))
    assert found.x.shape == (2, 1, 4, 4)
    assert float(found.x[1, 0, 3, 3]) == pytest.approx(31 / 255)
    color = np.full((2, 4, 4, 3), 255, np.uint8)
    np.savez(tmp_path / "color.npz", x=color, y=np.array([0, 1], np.uint8), mean=[0.5, 0.0, 1.0], std=[0.5, 1.0, 0.25])
    found = load_data(str(tmp_path / "color.npz"), torch.zeros(1, 3, 4, 4))
    assert found.x[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert found.y.dtype == torch.int64


def test_splits_are_disjoint_nested_and_repeatable(data: DataSet) -> None:
    one, two = data.split(0.25, 7)
    assert (len(one), len(two)) == (15, 45)
    rows = {tuple(r.reshape(-1).tolist()) for r in one.x}
    assert not rows & {tuple(r.reshape(-1).tolist()) for r in two.x}
    small, large = data.fraction(0.1, 3), data.fraction(0.5, 3)
    assert torch.equal(small.x, large.x[: len(small)])
    assert data.split(0.25, 7)[0].digest() == one.digest() != data.split(0.25, 8)[0].digest()
    with pytest.raises(ConfigError):
        data.take(slice(1)).split(0.5, 0)


def test_data_that_cannot_be_used(tmp_path: Path) -> None:
    np.savez(tmp_path / "no_y.npz", x=np.zeros((2, 3)))
    np.savez(tmp_path / "lengths.npz", x=np.zeros((2, 3)), y=np.zeros(3))
    np.savez(tmp_path / "nan.npz", x=np.full((2, 3), np.nan), y=np.zeros(2))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}]), y=np.zeros(2))
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "nan.npz").read_bytes()[:100])
    (tmp_path / "text.npz").write_text("hello")
    for name in ("no_y", "lengths", "nan", "objects", "damaged", "text"):
        with pytest.raises(ConfigError):
            load_data(str(tmp_path / f"{name}.npz"))
    with pytest.raises(FileAccessError):
        load_data(str(tmp_path / "missing.npz"))
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 3), np.float32), y=np.zeros(2, np.int64))
    with pytest.raises(ConfigError, match="shape"):
        load_data(str(tmp_path / "other.npz"), torch.zeros(1, 4))
    with pytest.raises(ConfigError):
        load_data("data.csv")


# --- utility ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_measured_in_its_module(subject: Subject, data: DataSet) -> None:
    metric = load_metric()
    assert subject.utility(original_state(subject.artifact)).value == 1.0
    assert subject.chance == pytest.approx(float((data.y == data.y.mode().values).float().mean()))
    plan = make_plan(
        [subject.artifact], parse_tiers("free=0.3,full=0"), l1, criterion="l1", scope="layer", fill="zero", seed=b"s"
    )
    tiers, coverage, _ = states_of_plan(subject.artifact, plan)
    found = subject.tiers(tiers)
    module = Net()
    module.load_state_dict(Evaluator.state_dict(tiers[0].files))
    assert found[0].utility.value == metric.value(measure_module(module, data, metric)) < 1.0
    assert found[1].utility.value == 1.0
    maps = {m.name: m for m in layer_maps(subject.artifact, coverage)}
    assert (maps["b.weight"].tier_of == plan.tier_of[0]["b.weight"]).all()
    assert found[0].locked_bytes == found[1].patch_bytes == int(sum((c > 0).sum() for c in coverage.values()))


def test_one_name_of_tied_weights_is_enough() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
            self.head.weight = self.embed.weight

    state = {"embed.weight": torch.randn(7, 5)}
    for name in ("embed.weight", "head.weight"):
        assert torch.equal(load_state(Tied(), {name: state["embed.weight"]}).head.weight, state["embed.weight"])
    with pytest.raises(ConfigError, match="does not fit"):
        load_state(Tied(), {"other.weight": state["embed.weight"]})


def test_a_module_keeps_its_mode_and_weights(data: DataSet) -> None:
    module = Net().train()
    measure_module(module, data, load_metric())
    assert module.training


@pytest.mark.parametrize(("batch", "backend"), [(1, "xnnpack"), (7, "portable")])
def test_a_program_is_measured_in_executorch(tmp_path: Path, data: DataSet, batch: int, backend: str) -> None:
    source = capture("net", (Net().eval(), (torch.zeros(batch, 1, 8, 8),)))
    path = export_target(source, ExportTarget("net", "executorch", backend=backend), tmp_path).path  # type: ignore[arg-type]
    artifact = open_artifact(path)
    assert Subject(artifact, Evaluator(artifact), data, load_metric()).utility(original_state(artifact)).value == 1.0
    wrong = DataSet("wrong", torch.zeros(3, 1, 5, 5), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match="ExecuTorch"):
        Subject(artifact, Evaluator(artifact), wrong, load_metric()).utility(original_state(artifact))


def test_a_checkpoint_needs_its_module_and_the_right_one(subject: Subject, data: DataSet) -> None:
    with pytest.raises(ConfigError, match="--model"):
        Evaluator(subject.artifact)
    other = Subject(subject.artifact, Evaluator(subject.artifact, nn.Linear(3, 3)), data, load_metric())
    with pytest.raises(ConfigError, match="does not fit"):
        other.utility(original_state(subject.artifact))


def test_the_curve_falls_and_its_key_grows(subject: Subject) -> None:
    points = subject.curve((0.05, 0.25, 0.5), l1, criterion="l1", fill="zero")
    assert [p.removed for p in points] == [0.05, 0.25, 0.5]
    sizes = [p.locked_bytes for p in points]
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    assert points[-1].utility.value < 1.0
    draws = subject.curve((0.25,), l1, criterion="random", fill="zero", repeats=3)
    assert draws[0].repeats == 3
    assert draws[0].utility.low <= draws[0].utility.value <= draws[0].utility.high
    assert draws == subject.curve((0.25,), l1, criterion="random", fill="zero", repeats=3)


def test_finished_work_is_not_done_again_and_damaged_work_is(
    tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = open_state(plain_state(Net()), tmp_path / "model.safetensors")
    runs: list[int] = []
    outputs = Evaluator.outputs

    def counted(self: Evaluator, state: State, *rest: object) -> object:
        runs.append(1)
        return outputs(self, state, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "outputs", counted)

    def measured(metric: str = "top-1") -> float:
        work = ResultCache(tmp_path / "work")
        subject = Subject(artifact, Evaluator(artifact, Net()), data, load_metric(metric), work=work)
        value = subject.utility(original_state(artifact)).value
        assert subject.chance is not None
        return value

    assert measured() == measured() == 1.0
    assert len(runs) == 1
    measured("top-5")
    assert len(runs) == 2
    for file in (tmp_path / "work").iterdir():
        file.write_text(json.dumps({"value": 1})[:-2])
    assert measured() == 1.0
    assert len(runs) == 3


def test_a_work_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CoreLockerError):
        ResultCache(tmp_path / "file" / "work")
