"""`corelocker audit` from beginning to end, on unlocked modules and on locked files of each format."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corelocker.audit import training
from corelocker.audit.evaluators import Evaluator
from corelocker.cli.app import run
from support.json_outputs import assert_documented, documented_paths

MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.bn = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b, self.c, self.fc = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 4)
        for value in (self.bn.weight.data, self.bn.bias.data, self.bn.running_mean, self.bn.running_var):
            value.copy_(torch.rand_like(value) + 0.5)
        self.eval()
        with torch.no_grad():  # or it would say the same of every input
            self.fc.bias.sub_(self(inputs(1, 200)).mean(0))

    def forward(self, x):
        x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.bn(self.a(x)))))))
        return self.fc(x.mean((2, 3)))


def inputs(seed, count):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 3


def net():
    return Net(), (torch.zeros(1, 1, 8, 8),)


def data():
    x = inputs(0, 200)
    with torch.no_grad():
        return x, Net()(x).argmax(1)


def other():
    layers = nn.Sequential(nn.Conv2d(1, 9, 3), nn.ReLU(), nn.Conv2d(9, 7, 3), nn.Flatten(), nn.Linear(112, 4))
    return layers, (torch.zeros(1, 1, 8, 8),)


def not_a_model():
    return 3
"""
LOCK = ("--tiers", "free=0.3,plus=0.1,full=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a network, its data, and the same network locked as a checkpoint, a program and a package."""
    found = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        patch.syspath_prepend(str(found))
        for name in ("PASSPHRASE", "PASSPHRASE_FILE", "KEYSTORE"):
            patch.delenv(f"CORELOCKER_{name}", raising=False)
        (found / "audited_net.py").write_text(MODULE)
        import audited_net
        from safetensors.torch import save_file

        x, y = audited_net.data()
        np.savez(found / "data.npz", x=x.numpy(), y=y.numpy())
        save_file(audited_net.net()[0].state_dict(), found / "net.safetensors")
        assert run(["keystore", "init", "keys.json", "--kek-file", "kek", "--json"]) == 0
        assert run(["export", "audited_net:net", "--out", "exported", "--no-lock", "--json"]) == 0
        yield found
        sys.modules.pop("audited_net", None)


def command(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == code, capsys.readouterr()
    return json.loads(capsys.readouterr().out)


def test_a_module_is_locked_in_memory_and_audited(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("audit", "audited_net:net", "--data", "data.npz", *LOCK, "--quick", "--seed", "5")
    before = {p.name for p in folder.iterdir()}
    found = command(capsys, *arguments, "--out", "one.html", "--work", "work")
    assert {p.name for p in folder.iterdir()} - before - {"__pycache__"} == {"one.html", "work"}
    assert stat.S_IMODE((folder / "one.html").stat().st_mode) == 0o600
    assert documented_paths("audit") <= assert_documented(found, "audit")
    assert found["original"]["value"] == 1.0
    assert found["metric"] == {"name": "top-1", "higher_is_better": True, "proportion": True, "chance": 0.25}
    assert [t["name"] for t in found["tiers"]] == ["free", "plus", "full"]
    assert found["tiers"][-1]["utility"]["value"] == 1.0
    assert found["tiers"][0]["utility"]["value"] < 1.0
    assert found["bit_exact"]
    assert found["agreement"]["samples"] >= 24
    assert found["agreement"]["not_measured"] is None
    agreed = [t["agreement"] for t in found["tiers"]]
    assert agreed[0]["value"] < 0.9
    assert agreed[-1]["value"] == 1.0
    assert all(0 < a["chance"] < 1 for a in agreed)
    assert {p["series"] for p in found["curve"]} == {"l1", "random"}
    names = {a["name"].split("-")[0] for a in found["attacks"]}
    assert {"fine", "imputation", "location", "bn", "pruning", "distillation"} <= names
    assert found["bounds"]["reason"] == ""
    assert all(b["measured"] <= b["upper"] for b in found["bounds"]["layers"])
    assert found["verdict"]["sentences"][0] in (folder / "one.html").read_text()

    # Again from nothing: the same report. Again from the work folder: nothing is trained or evaluated.
    command(capsys, *arguments, "--out", "two.html")
    assert (folder / "two.html").read_bytes() == (folder / "one.html").read_bytes()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("finished work is done again")

    monkeypatch.setattr(Evaluator, "outputs", refuse)
    monkeypatch.setattr("corelocker.audit.attacks.bench.train", refuse)
    assert training.train is not refuse
    command(capsys, *arguments, "--out", "three.html", "--work", "work")
    assert (folder / "three.html").read_bytes() == (folder / "one.html").read_bytes()


def test_another_seed_is_another_audit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("audit", "audited_net:net", "--data", "audited_net:data", *LOCK, "--quick", "--no-attacks")
    one, two = (command(capsys, *arguments, "--seed", seed, "--out", f"seed{seed}.html") for seed in ("1", "2"))
    assert one["model"]["sha256"] != two["model"]["sha256"]
    assert one["verdict"]["level"] in ("open", "weak")


def test_locked_files_are_audited_with_their_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = sorted(p.name for p in (folder / "exported").iterdir())
    artifacts = ["net.safetensors", *(f"exported/{name}" for name in exported)]
    locked = command(
        capsys, "lock", *artifacts, "--out", "dist", "--model-id", "m", "--model-version", "1", *LOCK,
        "--keystore", "keys.json", "--require", "none",
    )  # fmt: skip
    for entry in locked["artifacts"]:
        quick = () if entry["format"] == "executorch" else ("--no-attacks",)
        found = command(
            capsys, "audit", f"dist/{entry['name']}", "--bundle", "dist/m.clkey", "--keystore", "keys.json",
            "--data", "data.npz", "--model", "audited_net:net", "--quick", "--out", f"{entry['name']}.html", *quick,
            "--published", "net.safetensors",
        )  # fmt: skip
        assert_documented(found, "audit")
        together = next(a for a in found["attacks"] if a["name"] == "published-together")
        assert together["details"]["open_together"] > 0.99, "the original was published"
        assert together["recovered"] == found["original"]["value"]
        assert together["details"]["agreement"]["value"] > 0.95
        assert "lock-alike" in {step["action"] for step in found["verdict"]["next_steps"]}
        assert found["original"]["value"] > 0.98, entry["name"]
        assert found["tiers"][-1]["utility"] == found["original"]
        assert found["tiers"][0]["locked_bytes"] == entry["locked_bytes"]
        assert sum(sum(t > 0 for t in layer["tier_of"]) for layer in found["layers"]) == entry["locked_channels"]
        assert found["lock"]["fill"] == "decoy"
        # The torch side has the same channels locked, found by their weights.
        assert found["bounds"]["layers"][-1]["measured"] > 0
        assert (len(found["attacks"]) > 1) == (not quick)
        if not quick:
            zeros = next(a for a in found["attacks"] if a["name"] == "imputation-zeros")
            assert zeros["locked"] < zeros["original"]
    assert not list(folder.glob("**/corelocker-audit-*"))


def test_a_lock_by_sign_is_audited_with_the_attacks_on_signs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signs = ("--unit", "sign", "--tiers", "free=1,full=0", "--include-io")
    program = next((folder / "exported").glob("*.pte"))
    locked = command(
        capsys, "lock", "net.safetensors", str(program), "--out", "signs", "--model-id", "s", "--model-version", "1", *signs,
        "--keystore", "keys.json", "--require", "none",
    )  # fmt: skip
    for entry in locked["artifacts"]:
        found = command(
            capsys, "audit", f"signs/{entry['name']}", "--bundle", "signs/s.clkey", "--keystore", "keys.json",
            "--data", "data.npz", "--model", "audited_net:net", "--base", "net.safetensors", "--quick",
            "--out", f"signs-{entry['name']}.html",
        )  # fmt: skip
        assert_documented(found, "audit")
        assert found["lock"]["unit"] == "sign"
        assert found["bit_exact"]
        assert found["tiers"][0]["locked_bytes"] == entry["locked_bytes"]
        attacks = {a["name"]: a for a in found["attacks"]}
        assert {"signs-soft", "signs-straight-through", "signs-base", "membership", "unlocked-answers"} <= set(attacks)
        assert attacks["signs-base"]["details"]["signs_that_agree"] == 1
        assert found["verdict"]["level"] == "weak", "the base is the model itself"


def test_a_zero_fill_is_recognized(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(
        capsys, "lock", "net.safetensors", "--out", "zero", "--model-id", "z", "--model-version", "1", *LOCK,
        "--fill", "zero", "--keystore", "keys.json", "--require", "none",
    )  # fmt: skip
    found = command(
        capsys, "audit", "zero/net.safetensors", "--bundle", "zero/z.clkey", "--keystore", "keys.json", "--data", "data.npz",
        "--model", "audited_net:net", "--quick", "--no-attacks", "--out", "zero.html",
    )  # fmt: skip
    assert found["lock"]["fill"] == "zero"


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        (("audited_net:net", "--data", "missing.npz"), "file-access", 1),
        (("audited_net:nothing", "--data", "data.npz"), "config", 2),
        (("audited_net:not_a_model", "--data", "data.npz"), "config", 2),
        (("missing.pte", "--data", "data.npz"), "file-access", 1),
        (("net.safetensors", "--data", "data.npz"), "config", 2),
        (("net.safetensors", "--data", "data.npz", "--model", "audited_net:other"), "config", 2),
        (("audited_net:net", "--data", "data.npz", "--metric", "top-9"), "config", 2),
        (("audited_net:net", "--data", "data.npz", "--metric", "os:sep"), "config", 2),
        (("audited_net:net", "--data", "data.npz", "--quick", "--base", "missing.safetensors"), "file-access", 1),
        (("audited_net:net", "--data", "data.npz", "--quick", "--base", "data.npz"), "artifact-unknown-format", 1),
        (("audited_net:net", "--data", "data.npz", "--tiers", "free=2"), "locking-tiers", 2),
        (("audited_net:net", "--data", "data.npz", "--out", "no/such/folder.html"), "file-access", 1),
        (("audited_net:net", "--data", "data.npz", "--out", "data.npz"), "output-exists", 1),
        (("net.safetensors", "--data", "data.npz", "--bundle", "net.safetensors"), "bundle-magic", 1),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], error: str, code: int
) -> None:
    found = command(capsys, "audit", *arguments, code=code)
    assert found["error"]["code"] == error, found
    assert not (folder / "audit.html").exists()


def test_a_preset_is_audited_as_lock_would_lock_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = command(
        capsys, "audit", "audited_net:net", "--data", "data.npz", "--preset", "balanced", "--quick", "--no-attacks",
        "--out", "balanced.html",
    )  # fmt: skip
    assert found["lock"]["unit"] == "sign"
    assert {p["series"] for p in found["curve"]} == {"l1", "random"}
    locked = command(
        capsys, "lock", "net.safetensors", "--out", "balanced", "--model-id", "balanced", "--model-version", "1",
        "--preset", "balanced", "--model", "audited_net:net", "--keystore", "keys.json", "--require", "none",
    )  # fmt: skip
    assert found["tiers"][0]["locked_bytes"] == pytest.approx(locked["artifacts"][0]["locked_bytes"], rel=0.05)


def test_people_get_a_table_and_the_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert (
        run(
            ["audit", "audited_net:net", "--data", "data.npz", *LOCK, "--quick", "--no-attacks", "--out", "people.html"]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "free" in text
    assert "a blind guess reaches 25.0 %" in text
    assert "report: people.html" in text
