"""What `corelocker.lock` refuses before it works."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import corelocker
import numpy as np
import numpy.typing as npt
import pytest
from corelocker.artifacts import open_artifact
from corelocker.audit.calibrate_plan import calibrate_plan
from corelocker.audit.opening import open_audited
from corelocker.audit.options import AuditOptions
from corelocker.bundle.keystore import LockRecord, RecordedFile
from corelocker.bundle.patch_runs import RUN
from corelocker.bundle.sample import sample
from corelocker.bundle.strict_json import Fields
from corelocker.errors import ConfigError, CriterionError, LockingError
from corelocker.files import MappedFile
from corelocker.locking.locked_already import recorded_file, refuse_recorded
from corelocker.locking.tier_patch import TierPatch
from corelocker.progress import no_progress
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


@pytest.mark.parametrize("version", [-1, 2**53])
def test_a_model_version_that_no_bundle_holds_is_refused_before_anything_else(
    version: int, tmp_path: Path, keystore: corelocker.Keystore
) -> None:
    with pytest.raises(ConfigError, match=f"model version {version} is not from 0"):
        corelocker.lock(
            [tmp_path / "none.pte"], tmp_path / "dist", model_id="m", model_version=version, keystore=keystore
        )
    assert not keystore.content_keys


TIERS = ("free", "plus", "full")


@pytest.fixture
def locked(model: Path, tmp_path: Path, keystore: corelocker.Keystore, request: pytest.FixtureRequest) -> Path:
    """The model locked in three tiers by sign or by value."""
    unit = request.param
    options = corelocker.LockOptions(
        unit=unit, tiers=corelocker.parse_tiers("free=0.8,plus=0.3,full=0", unit), include_io=True
    )
    corelocker.lock(
        [model], tmp_path / "dist", model_id="m", model_version=1, keystore=keystore, options=options, require="none"
    )
    return tmp_path / "dist" / model.name


@pytest.mark.parametrize("locked", ["sign", "value"], indirect=True)
@pytest.mark.parametrize("tier", TIERS)
def test_a_locked_file_away_from_its_bundle(
    tier: str, locked: Path, model: Path, tmp_path: Path, keystore: corelocker.Keystore
) -> None:
    """Known by the keystore, under any name, also when it was restored in part."""
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "other.safetensors"
    bundle = corelocker.KeyBundle.open(locked.with_name("m.clkey"))
    corelocker.restore_to_files(locked, bundle, keystore.content_key(bundle.id), moved, tier)
    again = corelocker.Keystore.open(keystore.path, b"p")
    forgetting = corelocker.LockOptions(forget_earlier_locks=True)
    for model_id in ("m", "another"):

        def lock_again(model_id: str = model_id) -> None:
            corelocker.lock(
                [moved], tmp_path / model_id, model_id=model_id, model_version=1, keystore=again, require="none",
                options=forgetting,
            )  # fmt: skip

        if tier == "full":
            lock_again()
            assert moved.read_bytes() == model.read_bytes()
        else:
            with pytest.raises(LockingError, match=rf"locked already, by bundle {bundle.id} \(model m, version 1\)"):
                lock_again()
            assert not (tmp_path / model_id).exists()


@pytest.mark.parametrize("locked", ["sign"], indirect=True)
def test_what_is_trained_on_is_not_taken_for_the_locked_file(
    locked: Path, model: Path, tmp_path: Path, keystore: corelocker.Keystore
) -> None:
    """It has the length and most bytes in common with the original."""
    assert locked.exists()
    data = np.frombuffer(model.read_bytes(), np.uint8).copy()
    data[-4:] = np.frombuffer(np.float32(0.5).tobytes(), np.uint8)
    model.write_bytes(data.tobytes())
    corelocker.lock([model], tmp_path / "next", model_id="m", model_version=2, keystore=keystore, require="none")


@pytest.mark.parametrize("locked", ["sign"], indirect=True)
def test_records_of_before_know_no_files(locked: Path, tmp_path: Path, keystore: corelocker.Keystore) -> None:
    (record,) = keystore.lock_records()
    document = record.to_json()
    assert LockRecord.parse(Fields(document, "here", ConfigError), record.bundle) == record
    del document["files"]
    old = LockRecord.parse(Fields(document, "here", ConfigError), record.bundle)
    assert old == dataclasses.replace(record, files=())
    artifacts = [open_artifact(locked)]
    refuse_recorded(artifacts, [old])
    with pytest.raises(LockingError, match="locked already"):
        refuse_recorded(artifacts, [old, record])


def test_the_original_is_in_no_record(tmp_path: Path) -> None:
    """A byte that two tiers share may be the original's before the last of them is restored."""
    (tmp_path / "m").write_bytes(bytes(8))

    class OneByte:
        file = MappedFile(tmp_path / "m", "m")

        def apply(self, start: int, block: npt.NDArray[np.uint8], state: int) -> None:
            if state == 0 and start <= 3 < start + block.size:
                block[3 - start] = 9

    stream: Any = None
    patches = [TierPatch(stream, 1, b"", b"", (3,))] * 2
    locked: Any = OneByte()
    found = recorded_file(locked, patches)
    table = np.zeros(1, RUN)
    table["offset"], table["length"], table["stride"], table["count"] = 3, 1, 1, 1
    assert found == RecordedFile(8, (3,), (sample(np.array([0, 0, 0, 9, 0, 0, 0, 0], np.uint8), table),))
    assert recorded_file(locked, [None, None]) is None


@pytest.mark.parametrize("locked", ["sign"], indirect=True)
def test_a_locked_file_is_neither_calibrated_nor_audited_as_an_original(locked: Path, tmp_path: Path) -> None:
    options = corelocker.LockOptions()
    with pytest.raises(LockingError, match=r"locked already, by m\.clkey"):
        calibrate_plan(locked, "none.npz", ["free=0.5"], tmp_path / "plan.json", options=options)
    with pytest.raises(LockingError, match=r"locked already, by m\.clkey"):
        open_audited(AuditOptions(str(locked), "none.npz"), None, tmp_path, no_progress)


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
