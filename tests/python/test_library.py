"""`import corelocker`: what a build script uses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import corelocker
import numpy as np
import pytest
import torch
from support.models import coreml_models, exports, lowering
from support.models.nets import build

ROOT = Path(__file__).resolve().parents[2]


def example() -> str:
    """The code of README's section "From Python"."""
    section = (ROOT / "README.md").read_text().partition("### From Python")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_of_the_readme_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(exports.exported("mobilenet", "xnnpack"), tmp_path / "A.pte")
    shutil.copytree(coreml_models.package("mobilenet", "fp16"), tmp_path / "B.mlpackage")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORELOCKER_PASSPHRASE", "open sesame")
    corelocker.Keystore.create(tmp_path / "keys.json", b"open sesame")
    names: dict[str, object] = {}
    exec(compile(example(), "README.md", "exec"), names)  # the text of this repository
    result, scores = names["result"], names["scores"]
    assert isinstance(result, corelocker.LockResult)
    assert isinstance(scores, torch.Tensor)
    assert [artifact.name for artifact in result.artifacts] == ["A.pte", "B.mlpackage"]
    assert all(0 < artifact.locked_fraction < 1 for artifact in result.artifacts)
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == ["A.pte", "B.mlpackage", "scanner.clkey"]
    assert scores.isfinite().all()
    assert "scanner.clkey" in capsys.readouterr().out


def test_every_name_is_there_and_nothing_heavy_is_loaded_for_it() -> None:
    assert set(corelocker.__all__) <= set(dir(corelocker))
    code = (
        "import sys, corelocker\n"
        "assert not {'numpy', 'cryptography'} & set(sys.modules), 'loaded by the import'\n"
        "for name in corelocker.__all__: getattr(corelocker, name)\n"
        "assert not {'torch', 'executorch', 'coremltools', 'safetensors'} & set(sys.modules), 'loaded for a name'\n"
        "assert callable(corelocker.export)\n"
        "try: corelocker.nothing\n"
        "except AttributeError: pass\n"
        "else: sys.exit('an unknown name is there')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> corelocker.Keystore:
    return corelocker.Keystore.create(tmp_path_factory.mktemp("keys") / "keys.json", b"p")


def test_a_model_with_weights_in_a_file_of_their_own(tmp_path: Path, keystore: corelocker.Keystore) -> None:
    program = exports.exported("resnet", "xnnpack-external")
    stages: set[str] = set()
    result = corelocker.lock(
        [program],
        tmp_path / "dist",
        model_id="m",
        model_version=1,
        keystore=keystore,
        options=corelocker.LockOptions(tiers=corelocker.parse_tiers("free=0.3,plus=0.1,full=0")),
        require="none",
        progress=lambda stage, done, total: stages.add(stage),
    )
    assert {"rank", "write"} <= stages
    model = corelocker.LockedModel.open(tmp_path / "dist" / program.name, result.bundle, publisher=keystore.publisher)
    assert model.tiers == ("free", "plus", "full")
    key = keystore.content_key(model.bundle.id)
    assert model.verify().tiers_restored == ()
    assert model.verify(key).tiers_restored == model.tiers
    images = build("resnet")[1]
    expected = lowering.run(program, images, data=program.with_suffix(".ptd"))
    assert torch.equal(model.load(key, check="always").forward(images)[0], expected)
    assert not torch.equal(model.load(key, "free").forward(images)[0], expected)
    written = model.restore_to(tmp_path / "back.pte", key)
    assert {path.suffix for path in written} == {".pte", ".ptd"}
    for path in written:
        assert path.read_bytes() == program.with_suffix(path.suffix).read_bytes()


def test_what_goes_wrong_changes_nothing(tmp_path: Path, keystore: corelocker.Keystore) -> None:
    program = exports.exported("resnet", "xnnpack")
    before = keystore.path.read_bytes()
    for model_id, paths, options in (
        ("../m", [program], corelocker.LockOptions()),
        ("m", [tmp_path / "missing.pte"], corelocker.LockOptions()),
        ("m", [program], corelocker.LockOptions(criterion="sensitivity")),
        ("m", [program], corelocker.LockOptions(exclude=("*",))),
        ("m", [program], corelocker.LockOptions(save_plan=tmp_path / "no" / "folder" / "plan.json")),
    ):
        with pytest.raises(corelocker.CoreLockerError):
            corelocker.lock(
                paths, tmp_path / "dist", model_id=model_id, model_version=1, keystore=keystore, options=options
            )
        assert list(tmp_path.iterdir()) == []
        assert keystore.path.read_bytes() == before
    with pytest.raises(corelocker.CoreLockerError):
        corelocker.LockedModel.open(program, tmp_path / "missing.clkey")


def test_only_a_program_can_be_loaded(tmp_path: Path, keystore: corelocker.Keystore) -> None:
    from support.small_artifacts import trained_like, write_safetensors

    path = tmp_path / "a.safetensors"
    write_safetensors(path, {f"{i}.weight": trained_like(np.random.default_rng(i), 24, 24) for i in range(4)})
    result = corelocker.lock([path], tmp_path / "dist", model_id="m", model_version=1, keystore=keystore)
    model = corelocker.LockedModel.open(tmp_path / "dist" / path.name, result.bundle)
    key = keystore.content_key(model.bundle.id)
    with pytest.raises(corelocker.CoreLockerError, match=r"only a \.pte"):
        model.load(key)
    (restored,) = model.restore(key)
    with restored:
        assert bytes(restored) == path.read_bytes()
