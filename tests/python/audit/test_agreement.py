"""How locked files are compared with their originals: scores, inputs, and files of every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corelocker.artifacts import Artifact
from corelocker.artifacts.detect import open_artifact
from corelocker.audit.agreement import examined, smallest
from corelocker.audit.agreement.diverse import diversified
from corelocker.audit.agreement.examined import Examined
from corelocker.audit.agreement.inputs import read_samples, recipes
from corelocker.audit.agreement.runners import Call, CannotRunError, Input, Method
from corelocker.audit.agreement.score import Agreement, Reference, worst
from corelocker.audit.agreement.smallest import find_smallest, silenced
from corelocker.audit.agreement.time_limit import TimeLimit
from corelocker.audit.tier_bytes import shuffled_weights, states_of_plan
from corelocker.errors import CoreLockerError
from corelocker.locking.choose import choose_channels
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.options import LockOptions
from corelocker.locking.planning import given_plan
from corelocker.locking.requirement import PART_ALONG, STILL_ALONG
from corelocker.locking.tiers import Unit
from support.models import exports
from support.small_artifacts import write_safetensors

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(400, 1, 10, generator=GENERATOR)
ONE = Method("forward", (Input("0", (1, 3, 16, 16), torch.float32),))


def test_answers_are_compared_with_chance() -> None:
    reference = Reference(LOGITS)
    assert reference.answers == 10
    same = reference.compare(LOGITS)
    assert (same.kind, same.value, same.along) == ("classes", 1.0, pytest.approx(1.0))
    other = reference.compare(torch.randn(400, 1, 10, generator=GENERATOR))
    assert abs(other.excess) < 0.05
    assert not silenced([[same]], 1)


def test_values_that_keep_their_course_count_although_no_answer_is_right() -> None:
    offset = torch.zeros(10)
    offset[3] = 100
    found = Reference(LOGITS).compare(0.3 * LOGITS + torch.randn(LOGITS.shape, generator=GENERATOR) + offset)
    assert found.excess < 0.01
    assert found.along > 0.2
    assert not silenced([[found]], 1)
    assert silenced([[Reference(LOGITS).compare(torch.randn(LOGITS.shape, generator=GENERATOR) + offset)]], 1)


@pytest.mark.parametrize("answer", range(3))
def test_a_constant_answer_is_worth_nothing(answer: int) -> None:
    values = LOGITS.clone()
    values[:300, 0, 0] += 100  # the original gives one answer three times in four
    constant = torch.zeros_like(values)
    constant[..., answer] = 1
    found = Reference(values).compare(constant)
    assert found.excess == pytest.approx(0, abs=0.005)
    assert found.value > 0.7 or answer


def test_outputs_that_are_no_classes_are_correlated() -> None:
    values = torch.randn(400, 1, 2, generator=GENERATOR)
    reference = Reference(values)
    assert reference.compare(3 * values + 7).value == pytest.approx(1)
    assert reference.compare(-values).value == pytest.approx(1), "turned around it is the original"
    assert reference.compare(values * torch.tensor([1.0, -1.0])).value == pytest.approx(0.5)
    assert reference.compare(torch.randn(400, 1, 2, generator=GENERATOR)).value < 0.15
    assert reference.compare(torch.zeros_like(values)).value == 0
    assert reference.compare(torch.full_like(values, float("nan"))).value == 0


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (torch.ones(50, 1, 10), "same for all inputs"),
        (torch.eye(50, 3)[:, None].repeat(1, 1, 4)[:, :, :10].argmax(-1, keepdim=True), "different answers"),
        (torch.arange(50).view(50, 1, 1), None),
        (torch.randn(50, 1, 1), None),
        (torch.randn(50, 1, 12, 30), None),
        (torch.randn(50, 1, 5, 8, 8), None),
        (torch.randn(50, 1, 1, 5000), None),
    ],
)
def test_what_cannot_be_compared(output: torch.Tensor, reason: str | None) -> None:
    found = Reference(output).reason
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


def test_inputs_are_bred_towards_missing_answers() -> None:
    weights = torch.randn(48, 6, generator=GENERATOR)

    def run(columns: list[torch.Tensor]) -> torch.Tensor:
        return columns[0].flatten(1) @ weights + 25.0 * torch.eye(6)[0]

    def fresh(count: int, seed: int) -> list[torch.Tensor]:
        return [torch.randn(count, 1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))]

    plain = fresh(128, 1)
    before = run(plain).argmax(1).bincount(minlength=6)
    after = run(diversified(plain, run, fresh, 128, 3.0)).argmax(1).bincount(minlength=6)
    assert before.max() > 115
    assert (after > 0).sum() >= 5
    assert after.max() <= 64


@pytest.mark.parametrize(
    "inputs",
    [
        (Input("0", (1, 16), torch.float32),),
        (Input("0", (2, 32, 32, 3), torch.float32),),
        (Input("0", (1, 1, 4000), torch.float16),),
        (Input("0", (1, 8, 8, 3), torch.uint8),),
        (Input("ids", (1, 12), torch.int64), Input("mask", (1, 12), torch.int64), Input("keep", (1, 12), torch.bool)),
        (Input("x", (1, 4, 4), torch.float32), Input("place", (1,), torch.int64), Input("flag", (), torch.int64, 1)),
    ],
)
def test_inputs_fit_the_signature(inputs: tuple[Input, ...]) -> None:
    artifact = open_artifact(exports.exported("transformer", "xnnpack"))
    for recipe in recipes(Method("forward", inputs), artifact):
        for place, column in zip(inputs, recipe.make(3, 0), strict=True):
            if place.fixed is None:
                assert column.shape == (3, *place.shape)
                assert column.dtype == place.dtype
                assert torch.isfinite(column.float()).all()


@pytest.mark.parametrize(("patience", "tried"), [(0.0, 1), (60.0, 6)])
def test_a_slow_model_is_not_tried_on_every_kind_of_inputs(
    monkeypatch: pytest.MonkeyPatch, patience: float, tried: int
) -> None:
    monkeypatch.setattr(examined, "PATIENCE", patience)
    seen = []

    def one(method: str, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        seen.append(inputs)
        return [torch.ones(1, 10)]  # one answer, so that no kind is good enough

    artifact = Examined.__new__(Examined)
    artifact.artifact = SimpleNamespace(tensors=())  # type: ignore[assignment]
    artifact._stats, artifact._kinds = None, 1
    assert artifact._recipes(Call(one), ONE, TimeLimit())
    assert len(seen) == tried * examined.TRIED


def test_a_model_of_spectrograms_is_run_on_decibels() -> None:
    def one(method: str, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.relu(-20 - inputs[0]).flatten(1).unflatten(1, (8, -1)).mean(2)]  # hears nothing above -20

    artifact = Examined.__new__(Examined)
    artifact.artifact = SimpleNamespace(tensors=())  # type: ignore[assignment]
    artifact._stats, artifact._kinds = None, 1
    (found,) = artifact._recipes(Call(one), ONE, TimeLimit())
    assert found.name.endswith(" from -80 to 0")


def test_kinds_of_inputs_are_of_one_range() -> None:
    artifact = Examined.__new__(Examined)
    artifact.artifact = SimpleNamespace(tensors=())  # type: ignore[assignment]
    artifact._stats, artifact._kinds = None, 6

    def one(method: str, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.relu(inputs[0] - 100).flatten(1).unflatten(1, (8, -1)).mean(2)]

    found = artifact._recipes(Call(one), ONE, TimeLimit())
    assert {recipe.far for recipe in found} == {" from 0 to 255"}


def test_samples(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    np.save(tmp_path / "x.npy", images)
    (found,) = read_samples(tmp_path / "x.npy", ONE, None)
    assert found.shape == (5, 1, 3, 16, 16)
    assert torch.allclose(found[2, 0, 1], torch.from_numpy(images[2, :, :, 1]) / 255)
    two = Method("forward", (Input("a", (1, 4), torch.float32), Input("b", (1, 2), torch.int64)))
    np.savez(tmp_path / "two.npz", b=np.ones((3, 2), np.int64), a=np.zeros((3, 4), np.float32))
    a, b = read_samples(tmp_path / "two.npz", two, None)
    assert a.shape == (3, 1, 4)
    assert b.sum() == 6
    for bad in ("none.npy", "two.npz"):
        with pytest.raises(CoreLockerError):
            read_samples(tmp_path / bad, ONE, None)


@pytest.mark.parametrize(
    ("name", "form", "kind"),
    [("transformer", "portable", "classes"), ("audio", "xnnpack", "values"), ("shared", "methods-xnnpack", "classes")],
)
def test_the_default_silences_programs(name: str, form: str, kind: str) -> None:
    artifact = open_artifact(exports.exported(name, form))
    examined = Examined(artifact, seconds=0.3)
    original = examined.compare({f.name: f.data for f in artifact.files})
    assert original.value > 0.99
    assert original.kind == kind
    (locked,) = lock_artifacts([artifact], choose_channels([artifact], LockOptions(), b"s"))
    state = {}
    for file in locked.files:
        state[file.file.name] = file.file.data.copy()
        file.apply(0, state[file.file.name], 0)
    found = examined.compare(state)
    assert found.value < 0.6
    assert found.most_along == STILL_ALONG
    examined = Examined(artifact, seconds=0.3, kinds=2)
    assert examined.compare(state).most_along == PART_ALONG
    assert len(examined.examinations) > len({e.method.name for e in examined.examinations})
    if kind == "values":
        return  # of three outputs of an untrained network, most draws of any lock follow one by luck: see Scores below
    small = find_smallest(examined, ["sign", "value"], (), lambda done, total: None)
    assert small[0]["channels"]
    weights = {t.name: t for t in artifact.tensors}
    assert all(max(c) < weights[n].channels for lock in small for n, c in lock["channels"].items())


class Scores(torch.nn.Module):
    """Three scores of a text, which are no classes. Its inputs have little in common, so a locked network follows by no luck."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.words = torch.nn.Embedding(64, 48)
        self.middle = torch.nn.Linear(16 * 48, 64)
        self.head = torch.nn.Linear(64, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(torch.tanh(self.middle(self.words(tokens).flatten(1))))
        return scores


def scores() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return Scores(), (torch.zeros(1, 16, dtype=torch.int64),)


@pytest.mark.parametrize("unit", ["sign", "value"])
def test_the_smallest_lock_of_a_network_without_classes(unit: Unit, tmp_path: Path) -> None:
    weights = {name: value.detach().numpy() for name, value in Scores().state_dict().items()}
    artifact = open_artifact(write_safetensors(tmp_path / "scores.safetensors", weights))
    examined = Examined(artifact, factory=f"{__name__}:scores", seconds=0.3)
    small = find_smallest(examined, [unit], (), lambda done, total: None)[0]["channels"]
    chosen = {(0, name): tuple(channels) for name, channels in small.items()}
    left = []
    for seed in range(5):  # none of those that the search drew
        plan = given_plan([artifact], chosen, unit=unit, criterion="search", fill="decoy", seed=b"other %d" % seed)
        (agreement,) = {a.kind: a for a in examined.compare_each(states_of_plan(artifact, plan)[0][0].files)}.values()
        assert agreement.kind == "values"
        left.append(agreement.excess)
    assert np.mean(left) < smallest.MOST_ALONG
    assert examined.compare({f.name: f.data for f in artifact.files}).value > 0.99


class Voice(torch.nn.Module):
    """As a voice detector that streams: its recurrent state comes in and goes out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.front = torch.nn.Linear(64, 32)
        self.cell = torch.nn.LSTMCell(32, 24)
        self.head = torch.nn.Linear(24, 1)
        torch.nn.init.normal_(self.head.weight)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h, c = self.cell(torch.relu(self.front(x)), (h, c))
        return torch.sigmoid(self.head(torch.relu(h))), h, c


def voice() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return Voice(), (torch.zeros(1, 64), torch.zeros(1, 24), torch.zeros(1, 24))


def locked_state(artifact: Artifact, options: LockOptions, seed: bytes) -> dict[str, np.ndarray]:
    plan = choose_channels([artifact], options, seed)
    return dict(states_of_plan(artifact, plan)[0][0].files)


def test_what_a_network_passes_on_is_chance(tmp_path: Path) -> None:
    weights = {name: value.detach().numpy() for name, value in Voice().state_dict().items()}
    artifact = open_artifact(write_safetensors(tmp_path / "voice.safetensors", weights))
    examined = Examined(artifact, factory=f"{__name__}:voice")
    hardened = [list(examined.compare_each(locked_state(artifact, LockOptions(), b"%d" % i))) for i in range(5)]
    # One draw in several leaves more than the others; the lock draws again.
    assert sum(all(a.silent for a in draw) for draw in hardened) >= 3
    cell = hardened[0][2]
    assert cell.value > 0.1  # of 24 places
    assert cell.chance > 0.1
    assert cell.passed_on > 0.1
    small = LockOptions(unit="value", exclude=("cell.*",), include_io=True)
    weak = list(examined.compare_each(locked_state(artifact, small, b"s")))
    assert not weak[2].silent
    assert examined.compare({f.name: f.data for f in artifact.files}).value > 0.99


def test_one_silent_draw_of_shuffled_weights_is_enough() -> None:
    """Then what is left of the locked file comes from its weights."""
    loud = Agreement("classes", 0.3, 0.1, 0.01, 0.4, 500)
    silent = Agreement("classes", 0.11, 0.1, 0.01, 0.1, 500)
    assert loud.beside([loud, silent, loud]) == loud
    beside = loud.beside([loud, Agreement("classes", 0.26, 0.1, 0.01, 0.6, 500)])
    assert beside.silent
    assert (beside.chance, beside.passed_on) == (pytest.approx(0.28), pytest.approx(0.5))
    assert not dataclasses.replace(loud, value=0.4).beside([loud, loud]).silent
    assert not dataclasses.replace(loud, along=0.9).beside([loud, loud]).silent


def test_the_worst_output_counts() -> None:
    """A correlation that says nothing must not hide answers that are right too often."""
    values = Agreement("values", 0.12, 0.03, 0.01, 0.12, 500)
    classes = Agreement("classes", 0.16, 0.1, 0.01, 0.2, 500)
    assert values.silent
    assert worst([values, classes]) == classes


@pytest.mark.parametrize(("name", "form"), [("mobilenet", "portable"), ("mobilenet", "int8"), ("gated", "int4")])
def test_shuffled_weights_are_the_same_weights(name: str, form: str) -> None:
    artifact = open_artifact(exports.exported(name, form))
    original = {f.name: f.data for f in artifact.files}
    shuffled = shuffled_weights(artifact, original, 0)
    for tensor in artifact.tensors:
        part = dataclasses.replace(tensor.weight)
        before = part.raw()
        object.__setattr__(part, "file", SimpleNamespace(data=shuffled[part.file.name], name=part.file.name))
        after = part.raw()
        assert not np.array_equal(before, after)
        assert np.array_equal(np.sort(before, axis=None), np.sort(after, axis=None))
    changed = {n: np.flatnonzero(shuffled[n] != original[n]) for n in original}
    inside = {n: np.zeros(d.size, bool) for n, d in original.items()}
    for tensor in artifact.tensors:
        for channel in range(tensor.channels):
            run = tensor.weight.run(channel)
            for piece in range(run.count):
                inside[tensor.weight.file.name][run.offset + piece * run.stride :][: run.length] = True
    assert all(inside[n][places].all() for n, places in changed.items())


def test_what_does_not_run_here_is_said() -> None:
    with pytest.raises(CannotRunError, match="forward"):
        Examined(open_artifact(exports.exported("vgg", "coreml")))
