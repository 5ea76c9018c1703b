"""What published files of one model leave open together, and what that is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from corelocker.artifacts import Artifact, open_artifact
from corelocker.audit.opening import AuditedModel
from corelocker.audit.published import put_together
from corelocker.audit.report import html, verdict
from corelocker.audit.results import AttackResult
from corelocker.audit.tier_bytes import states_of_plan
from corelocker.errors import ConfigError
from corelocker.locking.criteria import l1, score
from corelocker.locking.options import CriterionName
from corelocker.locking.plan import Plan
from corelocker.locking.planning import make_plan
from corelocker.locking.tiers import Unit, parse_tiers
from support.models import exports
from support.small_artifacts import trained_like, write_safetensors

SHAPES = {"a.weight": (16, 3, 3, 3), "b.weight": (32, 16, 3, 3), "c.weight": (10, 32)}


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    rng = np.random.default_rng(3)
    weights = {name: trained_like(rng, *shape) for name, shape in SHAPES.items()}
    return open_artifact(write_safetensors(tmp_path / "net.safetensors", weights))


def planned(artifact: Artifact, fraction: float, unit: Unit = "value", criterion: CriterionName = "l1", seed: str = "s",
            consumers: bool = False) -> Plan:  # fmt: skip
    return make_plan(
        [artifact], parse_tiers(f"free={fraction},full=0", unit), score(criterion, seed.encode(), None), criterion=criterion,
        scope="layer", fill="decoy", seed=seed.encode(), include_io=True, unit=unit, consumers=consumers,
    )  # fmt: skip


def audited(artifact: Artifact, plan: Plan) -> AuditedModel:
    tiers, coverage, _ = states_of_plan(artifact, plan)
    return AuditedModel("net", artifact, tiers, coverage, {}, "decoy", l1)


def shipped(artifact: Artifact, plan: Plan, folder: Path) -> Artifact:
    """The file that a plan publishes."""
    folder.mkdir()
    tiers, _, _ = states_of_plan(artifact, plan)
    for file in artifact.files:
        (folder / file.name).write_bytes(tiers[0].files[file.name].tobytes())
    return open_artifact(folder / artifact.path.name)


def locked(plan: Plan, name: str) -> npt.NDArray[np.bool_]:
    return plan.tier_of[0][name] > 0


def read(artifact: Artifact, state: object, folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    folder.mkdir()
    for name, data in state.items():  # type: ignore[attr-defined]
        (folder / name).write_bytes(data.tobytes())
    return {t.name: t.read() for t in open_artifact(folder / artifact.path.name).tensors}


def test_what_one_file_hides_and_the_other_shows_is_back(model: Artifact, tmp_path: Path) -> None:
    first, second = planned(model, 0.25), planned(model, 0.25, criterion="random")
    state, layers = put_together(audited(model, second), [shipped(model, first, tmp_path / "first")])
    found = read(model, state, tmp_path / "together")
    for tensor, layer in zip(model.tensors, layers, strict=True):
        in_both = locked(first, tensor.name) & locked(second, tensor.name)
        assert layer.as_shipped == pytest.approx(1 - locked(second, tensor.name).mean())
        assert layer.together == pytest.approx(1 - in_both.mean())
        back = (found[tensor.name] == tensor.read()).reshape(tensor.channels, -1).all(axis=1)
        assert np.array_equal(back, ~in_both)


def test_signs_of_all_under_two_masks_stay_hidden(model: Artifact, tmp_path: Path) -> None:
    """A weight that a mask leaves as it is equals the original's; nobody can tell which these are."""
    first, second = planned(model, 1, "sign"), planned(model, 1, "sign", seed="t")
    now = audited(model, second)
    state, layers = put_together(now, [shipped(model, first, tmp_path / "first")])
    assert {(layer.as_shipped, layer.together) for layer in layers} == {(0.0, 0.0)}
    assert all(np.array_equal(state[name], data) for name, data in now.tiers[0].files.items())


def test_signs_beside_values(model: Artifact, tmp_path: Path) -> None:
    first, second = planned(model, 0.5), planned(model, 1, "sign")
    _, layers = put_together(audited(model, second), [shipped(model, first, tmp_path / "first")])
    for tensor, layer in zip(model.tensors, layers, strict=True):
        assert layer.as_shipped == 0
        assert layer.together == pytest.approx(1 - locked(first, tensor.name).mean())


def test_each_further_file_counts(model: Artifact, tmp_path: Path) -> None:
    plans = [planned(model, 0.5, criterion="random", seed=str(i)) for i in range(3)]
    files = [shipped(model, plan, tmp_path / f"v{i}") for i, plan in enumerate(plans[1:])]
    now = audited(model, plans[0])
    one, both = put_together(now, files[:1])[1], put_together(now, files)[1]
    assert all(a.together < b.together for a, b in zip(one, both, strict=True))


@pytest.mark.parametrize(("published", "now"), [("portable", "int8"), ("int8", "portable")])
def test_integers_beside_floats(published: str, now: str, tmp_path: Path) -> None:
    """Rounding is no lock, and a decoy in 8 bits is none of the original's channels."""
    forms = {"portable": ("resnet", "portable"), "int8": ("resnet", "int8")}
    files = {name: open_artifact(exports.exported(*form)) for name, form in forms.items()}
    plan = planned(files[now], 0.5, criterion="random", seed="now")
    _, layers = put_together(audited(files[now], plan), [files[published]])
    known = [layer for layer in layers if layer.together > layer.as_shipped]
    assert known
    assert all(layer.together > 0.95 for layer in known)
    assert sum(layer.weights for layer in known) > 0.5 * sum(layer.weights for layer in layers)


def test_files_of_other_models_are_refused(model: Artifact, tmp_path: Path) -> None:
    other = open_artifact(write_safetensors(tmp_path / "o.safetensors", {"x": np.ones((3, 7), np.float32)}))
    with pytest.raises(ConfigError, match="no layer of the model"):
        put_together(audited(model, planned(model, 0.25)), [other])


def test_the_report_says_what_earlier_files_add_and_what_to_do() -> None:
    from audit.test_report import document

    def together(recovered: float) -> dict[str, object]:
        return AttackResult(
            "published-together", "This file put together", "free", "top-1", {"samples": 0, "labels": 0.0, "files": ["v1.pte"]},
            0.1, recovered, 0.9, baseline=0.1, baseline_name="the better of the files alone",
            details={"open_as_shipped": 0.5, "open_together": 0.75, "agreement": {"value": 0.8, "chance": 0.11},
                     "layers": {"conv1": {"as_shipped": 0.2, "together": 0.9}}},
        ).to_json()  # fmt: skip

    opened, held = document(attacks=[together(0.8)]), document(attacks=[together(0.11)])
    page = html(opened)
    for words in ("v1.pte", "50.0 %", "75.0 %", "conv1 90 %", "80.0 % (chance 11.0 %)"):
        assert words in page
    assert "lock-alike" in [step["action"] for step in verdict(opened)["next_steps"]]
    assert verdict(opened)["level"] == "weak"
    assert "lock-alike" not in [step["action"] for step in verdict(held)["next_steps"]]
