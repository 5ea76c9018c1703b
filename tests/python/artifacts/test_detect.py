"""What `open_artifact` says of files that it cannot read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from corelocker.artifacts import open_artifact
from corelocker.errors import UnknownFormatError
from support.models import coreml_models
from support.models.exports import exported
from support.small_artifacts import write_safetensors

POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


@pytest.mark.parametrize("name", ["model.pte", "model.safetensors", "model.safetensors.index.json", "model.mlmodel"])
def test_git_lfs_pointers_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(
        UnknownFormatError, match=r"a Git LFS pointer in the place of the file\. Fetch it with: git lfs pull"
    ):
        open_artifact(tmp_path / name)


@pytest.mark.parametrize("inside", ["model.mlmodel", "weights/weight.bin"])
def test_pointers_inside_a_package_are_named(tmp_path: Path, inside: str) -> None:
    package = tmp_path / "cnn.mlpackage"
    shutil.copytree(coreml_models.package("cnn", "int8-ios18"), package)
    (package / "Data/com.apple.CoreML" / inside).write_bytes(POINTER)
    with pytest.raises(UnknownFormatError, match=f"{inside}: a Git LFS pointer"):
        open_artifact(package)


def test_pointers_in_the_place_of_external_weights_are_named(tmp_path: Path) -> None:
    program = tmp_path / "vgg.pte"
    shutil.copyfile(exported("vgg", "external"), program)
    program.with_suffix(".ptd").write_bytes(POINTER)
    with pytest.raises(UnknownFormatError, match=r"vgg\.ptd: a Git LFS pointer"):
        open_artifact(program)


def test_pointers_in_the_place_of_shards_are_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "one.safetensors", {"a.weight": np.ones((4, 4), np.float32)})
    (tmp_path / "two.safetensors").write_bytes(POINTER)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}}')
    with pytest.raises(UnknownFormatError, match=r"two\.safetensors: a Git LFS pointer"):
        open_artifact(index)


def test_the_form_before_ml_programs_is_named(tmp_path: Path) -> None:
    (tmp_path / "old.mlmodel").write_bytes(b"\x08\x04" + bytes(100))
    with pytest.raises(UnknownFormatError, match=r"a bare \.mlmodel.*convert_to='mlprogram'"):
        open_artifact(tmp_path / "old.mlmodel")
