"""`corelocker calibrate --recovered` from beginning to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.cli.app import run
from support.attack_subjects import task, trained
from support.json_outputs import assert_documented, documented_paths

FACTORY = """
import torch
from support.attack_subjects import trained

def net():
    return trained(), (torch.zeros(1, 1, 8, 8),)
"""
COMMAND = ("calibrate", "net.safetensors", "--data", "test.npz", "--out", "plan.json", "--seed", "s")
ATTACKER = ("--train-data", "train.npz", "--model", "recovery_factory:net", "--quick", "--include-io", "--work", "work")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    open_state(plain_state(trained()), tmp_path / "net.safetensors")
    for name, data in zip(("train", "test"), task(), strict=True):
        np.savez(tmp_path / f"{name}.npz", x=data.x.numpy(), y=data.y.numpy())
    (tmp_path / "recovery_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = run([*COMMAND, *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_smallest_lock_that_holds_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = call(capsys, *ATTACKER, "--unit", "sign", "--recovered", "0.3")
    assert code == 0, found
    assert documented_paths("calibrate --recovered") <= assert_documented(found, "calibrate --recovered")
    shares = [point["regained"] for point in found["curve"]]
    assert found["curve"][0]["removed"] == 1
    assert [p["removed"] for p in found["curve"]] == sorted((p["removed"] for p in found["curve"]), reverse=True)
    assert all(share <= 0.3 for share in shares[:-1])
    for point in found["curve"]:
        gap = point["original"] - point["scratch"]
        assert point["regained"] == pytest.approx((point["recovered"] - point["scratch"]) / gap)
    held = [p for p in found["curve"] if p["regained"] <= 0.3][-1]
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["unit"] == "sign"
    assert plan["tiers"][0]["removed"] == held["removed"]
    # What was trained is in the work folder: the same question is answered from there.
    assert call(capsys, *ATTACKER, "--unit", "sign", "--recovered", "0.3", "--force") == (0, found)


def test_no_lock_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = call(capsys, *ATTACKER, "--recovered", "0")
    assert code == 1
    assert not found["held"]
    assert found["plan"] is None
    assert found["curve"][-1]["regained"] > 0
    assert not (folder / "plan.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--recovered", "0.1"),
        ("--recovered", "2", *ATTACKER),
        ("--recovered", "0.1", "--target", "free=0.5", *ATTACKER),
        ("--recovered", "0.1", *ATTACKER, "--metric", "top-9"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, found = call(capsys, *arguments)
    assert code == 2
    assert found["error"]["code"] == "config"
    assert not (folder / "plan.json").exists()


@pytest.mark.parametrize("more", [("--recovered", "0.1", "--model", "none:net"), ("--target", "free=0.5")])
@pytest.mark.parametrize(("out", "code"), [("taken.json", "output-exists"), ("no/plan.json", "file-access")])
def test_where_nothing_can_be_written_nothing_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], out: str, code: str
) -> None:
    """Not even the model and the data are looked for."""
    (tmp_path / "taken.json").touch()
    arguments = ("calibrate", "none.pte", "--data", "none.npz", *more, "--out", str(tmp_path / out), "--json")
    assert run(list(arguments)) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code
    assert out in error["message"]
