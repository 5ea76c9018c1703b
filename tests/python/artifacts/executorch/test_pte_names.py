"""Names by which the runtime recognizes content, and weights in a `.ptd`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from corelocker.artifacts import open_artifact
from corelocker.artifacts.executorch.pte import open_pte
from corelocker.errors import (
    FileAccessError,
    MalformedArtifactError,
)
from support.models.exports import exported
from support.models.lowering import built
from support.models.programs import opened, renamed, run_files


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("resnet", "xnnpack"),
        ("mobilenet", "int8"),
        ("gated", "int4"),
        ("vgg", "xnnpack-external"),
        ("shared", "methods-xnnpack"),
    ],
)
def test_every_key_can_be_renamed(name: str, variant: str) -> None:
    artifact = opened(name, variant)
    _, inputs = built(name)
    files = {file.path.suffix: file.path.read_bytes() for file in artifact.files}
    changed = renamed(artifact)
    assert torch.equal(run_files(changed, inputs), run_files(files, inputs))
    # No digest of anything is left.
    digests = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
    before = {d for data in files.values() for d in digests.findall(data)}
    after = {d for data in changed.values() for d in digests.findall(data)}
    assert before
    assert not before & after


def test_keys_are_needed() -> None:
    artifact = opened("resnet", "xnnpack")
    with pytest.raises(RuntimeError):
        run_files(renamed(artifact, slice(1)), built("resnet")[1])


def test_identities_cover_what_they_name() -> None:
    artifact = opened("mobilenet", "int8")
    covered = {(offset, size) for identity in artifact.identities for _, offset, size in identity.covers}
    for tensor in artifact.tensors:
        for part in tensor.parts:
            assert any(
                offset <= part.offset and part.offset + part.extent[1] <= offset + size for offset, size in covered
            )
        # A cache of packed weights is keyed by the weight's name, and holds its scales.
        mine = [i for i in artifact.identities if i.covers[0][1] == tensor.weight.offset]
        assert len(mine) == 1
        assert tensor.part("scale").offset in [offset for _, offset, _ in mine[0].covers]


def test_names_do_not_come_from_digests() -> None:
    for variant in ("xnnpack", "xnnpack-external"):
        assert not any(re.search("[0-9a-f]{16}", tensor.name) for tensor in opened("vgg", variant).tensors)


@pytest.mark.parametrize("variant", ["external", "xnnpack-external"])
def test_missing_external_weights_are_named(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "alone.pte"
    path.write_bytes(exported("vgg", variant).read_bytes())
    with pytest.raises(FileAccessError, match=r"alone\.ptd") as caught:
        open_pte(path)
    key = re.search("'(.*)'", str(caught.value)).group(1)
    assert key.encode() in exported("vgg", variant).with_suffix(".ptd").read_bytes()


@pytest.mark.parametrize("variant", ["external", "xnnpack-external"])
def test_external_weights_under_another_name(variant: str, tmp_path: Path) -> None:
    program, data = tmp_path / "a.pte", tmp_path / "b.ptd"
    program.write_bytes(exported("vgg", variant).read_bytes())
    data.write_bytes(exported("vgg", variant).with_suffix(".ptd").read_bytes())
    artifact = open_artifact(program, [data])
    assert [file.name for file in artifact.files] == ["a.pte", "b.ptd"]
    assert "b.ptd" in {tensor.weight.file.name for tensor in artifact.tensors}


def test_names_of_external_constants_are_kept() -> None:
    names = [tensor.name for tensor in opened("vgg", "external").tensors]
    assert names == ["features.0.0.weight", "features.3.0.weight", "hidden.weight", "fc.weight"]


def test_unneeded_external_weights(tmp_path: Path) -> None:
    program, data = tmp_path / "a.pte", tmp_path / "a.ptd"
    program.write_bytes(exported("vgg", "xnnpack").read_bytes())
    data.write_bytes(exported("vgg", "external").with_suffix(".ptd").read_bytes())
    assert [file.name for file in open_pte(program).files] == ["a.pte"]
    with pytest.raises(MalformedArtifactError, match="holds no weights"):
        open_pte(program, [data])
