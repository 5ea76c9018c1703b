"""`corelocker export` as a user runs it: from a factory and from a configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.json_outputs import assert_documented


def run(*arguments: str, cwd: Path, code: int = 0) -> Any:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "corelocker", *arguments, "--json"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "factory.py").write_text(
        "import torch\n"
        "def small():\n"
        "    torch.manual_seed(0)\n"
        "    layers = [torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU(),\n"
        "              torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),\n"
        "              torch.nn.Linear(16, 4)]\n"
        "    return torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 1, 12, 12),)\n"
    )
    run("keystore", "init", "keys.json", "--kek-file", "kek", cwd=folder)
    return folder


def test_export_locks_in_the_same_run(folder: Path) -> None:
    result = run("export", "factory:small", "--name", "small", "--model-version", "2", "--out", "dist", cwd=folder)
    assert sorted(p.name for p in (folder / "dist").iterdir()) == ["small.clkey", "small.mlpackage", "small.pte"]
    assert_documented(result, "export")
    channels = {(a["channels"], a["locked_channels"]) for a in result["artifacts"]}
    assert len(channels) == 1, "the same channels in both formats"
    checked = run("verify", "dist/small.mlpackage", "--bundle", "dist/small.clkey", "--full", cwd=folder)
    assert checked["tiers_restored"] == ["free", "full"]
    plain = run("export", "factory:small", "--name", "small", "--no-lock", "--out", "plain", cwd=folder)
    assert_documented(plain, "export")
    assert len(plain["outputs"]) == 2
    run("restore", "dist/small.pte", "--bundle", "dist/small.clkey", "--out", "small.pte", cwd=folder)
    assert (folder / "small.pte").read_bytes() == (folder / "plain" / "small.pte").read_bytes()


def test_export_from_a_configuration(folder: Path) -> None:
    (folder / "corelocker.toml").write_text(
        '[model]\nfactory = "factory:small"\nid = "small"\nversion = 7\n'
        '[lock]\ntiers = "free=0.3,plus=0.1,full=0"\nfill = "zero"\nrequire = "none"\nkeystore = "keys.json"\n'
        '[[target]]\nname = "small"\nformat = "executorch"\nquantize = "int8"\n'
    )
    result = run("export", "--config", "corelocker.toml", "--out", "configured", "--forget-earlier-locks", cwd=folder)
    assert [t["name"] for t in result["tiers"]] == ["free", "plus", "full"]
    assert result["fill"] == "zero"
    assert run("inspect", "configured/small.clkey", cwd=folder)["model_version"] == 7


def test_export_says_what_is_wrong(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    for arguments, code, name in (
        (("nowhere:small", "--model-version", "1"), 1, "export"),
        (("factory:missing", "--model-version", "1"), 1, "export"),
        (("missing.pt2", "--model-version", "1"), 1, "file-access"),
        (("factory:small",), 2, "config"),
        (("factory:small", "--model-version", "1", "--quantize", "int4"), 2, "config"),
    ):
        error = run("export", *arguments, "--out", "bad", cwd=folder, code=code)["error"]
        assert error["code"] == name, error
    (folder / "bad").rmdir() if (folder / "bad").exists() else None
    assert sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts) == [
        p for p in before if "__pycache__" not in p.parts
    ]


def test_a_format_that_fails_does_not_lose_the_others(folder: Path) -> None:
    """coremltools knows no cdist."""
    (folder / "distances.py").write_text(
        "import torch\n"
        "class Distances(torch.nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return super().forward(torch.cdist(x[:, None], x[:, None]).flatten(1) + x)\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return Distances(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8)).eval(), (torch.zeros(1, 8),)\n"
    )
    options = ("export", "distances:net", "--name", "m", "--no-lock")
    result = run(*options, "--out", "part", cwd=folder, code=1)
    assert_documented(result, "export")
    assert [p.name for p in (folder / "part").iterdir()] == ["m.pte"]
    assert list(result["failed"]) == ["m.mlpackage"]
    assert "cdist" in result["failed"]["m.mlpackage"]
    alone = run(*options, "--format", "coreml", "--out", "none", cwd=folder, code=1)
    assert alone["error"]["code"] == "export"
    assert not (folder / "none").exists()
