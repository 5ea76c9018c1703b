"""Delegates: Core ML packages, unknown ones, and files that are no programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from corelocker.artifacts import Edge
from corelocker.artifacts.executorch.pte import open_pte
from corelocker.errors import (
    MalformedArtifactError,
    NothingToLockError,
    UnknownFormatError,
    UnsupportedLayoutError,
)
from support.models.exports import exported
from support.models.programs import opened, renamed


@pytest.mark.parametrize(("name", "variant"), [("vgg", "coreml"), ("shared", "methods-coreml")])
def test_core_ml_identifier(name: str, variant: str, tmp_path: Path) -> None:
    from executorch.backends.apple.coreml import executorchcoreml

    artifact = opened(name, variant)
    (identity,) = artifact.identities
    files = renamed(artifact)
    old, new = (
        data[identity.copies[0] :][: identity.length] for data in (exported(name, variant).read_bytes(), files[".pte"])
    )
    assert old != new
    assert old not in files[".pte"]
    assert files[".pte"].count(new) == len(identity.copies) == (1 if name == "vgg" else 4)
    _, offset, size = identity.covers[0]
    assert all(offset <= t.weight.offset < offset + size for t in artifact.tensors)
    # ExecuTorch's own reader unpacks the changed package.
    blob = files[".pte"][:offset]
    end = files[".pte"].rfind(b":"[::-1] + b'"sedon"{') + len(b':"sedon"{')
    start = blob.rfind(b'{"inputNames"' if name == "vgg" else b'{"identifier"')
    (tmp_path / "out").mkdir()
    assert executorchcoreml.unflatten_directory_contents(files[".pte"][start:end], str(tmp_path / "out"))
    (metadata,) = (tmp_path / "out").rglob("metadata.json")
    (weights,) = (tmp_path / "out").rglob("weight.bin")
    assert new in metadata.read_bytes()
    assert weights.read_bytes() == files[".pte"][offset : offset + size]


def test_core_ml_graph() -> None:
    artifact = opened("vgg", "coreml")
    number = {tensor.name: tensor.order for tensor in artifact.tensors}
    assert ({number[n] for n in artifact.inputs}, {number[n] for n in artifact.outputs}) == ({0}, {3})
    assert artifact.edges[artifact.tensors[1].name] == (Edge(artifact.tensors[2].name, 16, 0),)


def test_unknown_delegate(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(exported("vgg", "xnnpack").read_bytes().replace(b"XnnpackBackend", b"UnknownBackend"))
    with pytest.raises(UnsupportedLayoutError, match=r"UnknownBackend.*not supported"):
        open_pte(path)


def test_unknown_delegate_among_known_layers(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(exported("resnet", "mixed").read_bytes().replace(b"XnnpackBackend", b"UnknownBackend"))
    artifact = open_pte(path)
    assert [tensor.role for tensor in artifact.tensors] == ["linear"]
    assert any(skipped.reason == "the delegate UnknownBackend is not supported" for skipped in artifact.skipped)
    assert not artifact.inputs  # the delegate stands before it
    assert artifact.outputs == {artifact.tensors[0].name}


def test_nothing_to_lock(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(exported("plain", "portable").read_bytes())
    with pytest.raises(NothingToLockError):
        open_pte(path)


@pytest.mark.parametrize("content", [b"\0" * 4, b"PK\3\4" * 100, b"\x1c\0\0\0ET11" + b"\0" * 100])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(content)
    with pytest.raises((UnknownFormatError, MalformedArtifactError)):
        open_pte(path)


def test_delegates_that_hold_no_weights_say_so(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    names = [len(name).to_bytes(4, "little") + name + b"\0" for name in (b"XnnpackBackend", b"QnnBackend")]
    path.write_bytes(exported("vgg", "xnnpack").read_bytes().replace(names[0], names[1].ljust(len(names[0]), b"\0")))
    with pytest.raises(UnsupportedLayoutError, match=r"QnnBackend is not supported: Qualcomm's compiler"):
        open_pte(path)


def test_weights_of_cortex_m_kernels(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    data = exported("vgg", "portable").read_bytes()
    path.write_bytes(data.replace(b"aten::convolution", b"cortex_m::quantiz").replace(b"aten::addmm", b"cortex_m::x"))
    with pytest.raises(
        UnsupportedLayoutError, match=r"weights for the Cortex-M kernel quantiz, which are not supported"
    ):
        open_pte(path)
