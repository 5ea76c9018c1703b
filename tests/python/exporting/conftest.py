"""Exports that the tests of this folder share."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from corelocker.exporting import (
    Exported,
    export_executorch,
    load_model,
)
from support.models.export_factories import (
    stem,
)


@pytest.fixture(scope="session")
def source() -> Any:
    return load_model("support.models.export_factories:cnn")


@pytest.fixture(scope="session")
def small() -> Any:
    return load_model("support.models.export_factories:linear")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Exported]]:
    """Load and export once for all tests of this file: (factory, options) -> (source, what was written)."""
    load = functools.cache(lambda factory: load_model(f"support.models.export_factories:{factory.__name__}"))

    @functools.cache
    def make(factory: Callable[[], Any], **options: Any) -> tuple[Any, Exported]:
        folder = tmp_path_factory.mktemp(factory.__name__)
        return load(factory), export_executorch(load(factory), folder / "m.pte", **options)

    return make


@pytest.fixture(scope="session")
def archive() -> bytes:
    """A `.pt2` of Stem with an open batch size of up to 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, args = stem()
    buffer = io.BytesIO()
    program = torch.export.export(module, args, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4)},))
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.fixture
def pt2(tmp_path: Path, archive: bytes) -> Path:
    path = tmp_path / "model.pt2"
    path.write_bytes(archive)
    return path
