"""What `corelocker.lock` refuses before it works."""

from __future__ import annotations

from pathlib import Path

import corelocker
import numpy as np
import pytest
from corelocker.errors import ConfigError, CriterionError, LockingError
from support.small_artifacts import trained_like, write_safetensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = {f"{i}.weight": trained_like(np.random.default_rng(i), 16, 24) for i in range(4)}
    return write_safetensors(tmp_path / "a.safetensors", tensors)


@pytest.fixture
def keystore(tmp_path: Path) -> corelocker.Keystore:
    return corelocker.Keystore.create(tmp_path / "keys.json", b"p")


def test_a_locked_file_is_not_locked_again(model: Path, tmp_path: Path, keystore: corelocker.Keystore) -> None:
    corelocker.lock([model], tmp_path / "dist", model_id="m", model_version=1, keystore=keystore)
    locked = tmp_path / "dist" / model.name
    with pytest.raises(LockingError, match=r"locked already, by m\.clkey"):
        corelocker.lock([locked], tmp_path / "again", model_id="m", model_version=2, keystore=keystore)
    assert not (tmp_path / "again").exists()
    locked.write_bytes(model.read_bytes())  # the original beside a bundle of its own
    corelocker.lock([locked], tmp_path / "again", model_id="m", model_version=2, keystore=keystore)


def test_a_pattern_that_matches_nothing(model: Path, tmp_path: Path, keystore: corelocker.Keystore) -> None:
    options = corelocker.LockOptions(exclude=("0.*", "head.*"))
    with pytest.raises(ConfigError, match=r"'head\.\*' matches no layer"):
        corelocker.lock([model], tmp_path / "dist", model_id="m", model_version=1, keystore=keystore, options=options)
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("given", ["the model", "the source"])
def test_batch_norms_of_other_names(given: str, model: Path, tmp_path: Path, keystore: corelocker.Keystore) -> None:
    """Nothing was folded: the names do not tell which layer a BatchNorm follows."""
    vectors = {leaf: np.ones(16, np.float32) for leaf in ("weight", "bias", "running_mean", "running_var")}
    weights = {
        "a.weight": trained_like(np.random.default_rng(0), 16, 24),
        **{f"scaling.{k}": v for k, v in vectors.items()},
    }
    other = write_safetensors(tmp_path / "other.safetensors", weights)
    path, source = (other, None) if given == "the model" else (model, other)
    options = corelocker.LockOptions(criterion="bn-scale", source=source)
    with pytest.raises(CriterionError, match="by the names of the checkpoint no BatchNorm follows any of its layers"):
        corelocker.lock([path], tmp_path / "dist", model_id="m", model_version=1, keystore=keystore, options=options)
