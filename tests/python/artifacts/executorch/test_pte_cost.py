"""What opening an ExecuTorch program costs."""

from __future__ import annotations

import pytest
from corelocker.artifacts.executorch.pte import open_pte
from support.counting import calls
from support.models.exports import exported


@pytest.mark.parametrize(("name", "variant"), [("transformer", "xnnpack"), ("mobilenet", "int8")])
def test_opening_costs_little(name: str, variant: str) -> None:
    path = exported(name, variant)
    assert calls(lambda: open_pte(path)) < 60_000
