"""`make demo`, on fewer images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_demo_collapses_and_restores() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo_model.demo", "--images", "200", "--json"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    assert [Path(row["name"]).suffix for row in result["artifacts"]] == [".pte", ".pte", ".mlpackage"]
    for row in result["artifacts"]:
        free, full = (row["accuracy"][tier] for tier in result["tiers"])
        assert row["bit_exact"]
        assert full == row["accuracy"]["original"] >= 88
        assert free <= 17, "200 images: three standard errors above the 10 % of a guess"
        assert row["agreement"] <= row["chance"] + 0.1
    assert [round(row["locked_fraction"], 2) for row in result["artifacts"]] == [0.03, 0.1, 0.06]
    steps = {step["what"]: step["outcome"] for step in result["unlocking"]}
    assert all(step["as_expected"] for step in result["unlocking"]), steps
    assert f"{result['artifacts'][0]['accuracy']['original']:.2f} %" in steps["restore in memory, run"]
    codes = [outcome.partition("[")[2].rstrip("]") for outcome in steps.values() if outcome.startswith("refused")]
    assert codes == ["device-limit", "license-expired", "license-revoked", "not-unlocked"]
