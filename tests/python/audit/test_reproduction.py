"""The tools behind the published tables: they go on where they stopped and show what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.audit.data import DataSet
from corelocker.audit.models import lock_model

from tools.reproduce_paper import Notebook, page, removals, top1
from tools.research.fashion_nets import NETS
from tools.research.hardened import tiers_of
from tools.research.resnet_cifar import ResNetCifar


def test_a_number_is_computed_once(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path / "work" / "results.json")
    assert notebook.once("a", lambda: [1, 2]) == [1, 2]
    again = Notebook(tmp_path / "work" / "results.json")
    assert again.once("a", lambda: pytest.fail("computed twice")) == [1, 2]


def test_every_network_is_measured_and_shown() -> None:
    numbers = {}
    x = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    data = DataSet("noise", x, torch.arange(20) % 10)
    for name, make in NETS.items():
        torch.manual_seed(0)
        jobs = dict(removals(make().eval(), data))
        for key in ("original", "l1/layer/0.05", "bn-scale/global/0.05", "l1/decoy/0.05"):
            if (name, key) != ("DenseNet", "original"):
                numbers[f"Fashion-MNIST/{name}/{key}"] = jobs[key]()
    numbers["Fashion-MNIST/DenseNet/original"] = {"top1": top1(NETS["DenseNet"]().eval(), data), "key": 0.0}
    text = page(numbers)
    for name in NETS:
        row = next(line for line in text.splitlines() if line.startswith(f"| Fashion-MNIST, {name} |"))
        assert "not run" in row
        assert row.count("|") == 9
        assert 0 < numbers[f"Fashion-MNIST/{name}/l1/layer/0.05"]["key"] < 20
    assert "*paper:*" in text


def test_rules_name_the_channels() -> None:
    state = ResNetCifar(20).state_dict()
    plan = tiers_of("layer1.0.conv1+layer2.*@0.5", state)
    assert plan["layer1.0.conv1.weight"].sum() == 15, "one channel stays"
    assert plan["layer2.1.conv2.weight"].sum() == 16
    assert plan["layer3.0.conv1.weight"].sum() == 0
    sums = state["layer2.1.conv2.weight"].abs().flatten(1).sum(1).numpy()
    assert set(np.argsort(-sums)[:16]) == set(np.flatnonzero(plan["layer2.1.conv2.weight"]))
    locked = lock_model(ResNetCifar(20), tier_of=tiers_of("hardened@0.15", state))
    assert 0.14 < locked.shipped.locked_fraction < 0.155
