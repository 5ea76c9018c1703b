"""Programs that read the same `.ptd`, locked together: drawn once, restored for each."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any
from uuid import uuid4

import corelocker
import pytest
import torch
from corelocker.artifacts import Artifact, Part
from corelocker.artifacts.detect import open_artifacts
from corelocker.artifacts.external_files import check_shared_weights
from corelocker.bundle.content_keys import new_content_key
from corelocker.errors import LockingError, UnsupportedLayoutError
from corelocker.locking.choose import choose_channels
from corelocker.locking.publish import Publication, publish
from corelocker.locking.tiers import parse_tiers
from corelocker.runtime.executorch import RestoredModule
from cryptography.hazmat.primitives.asymmetric import ec
from torch import nn

KEY = ec.generate_private_key(ec.SECP256R1())
TOP = new_content_key()
EXAMPLE = (torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(3)),)
NAMES = ("a", "b")
OPTIONS = {
    "signs": corelocker.LockOptions(),
    "values": corelocker.LockOptions(unit="value", include_io=True),
    "consumers": corelocker.LockOptions(unit="value", include_io=True, consumers=True),
    "tiers": corelocker.LockOptions(preset="hardened", tiers=parse_tiers("free=1,plus=0.5,full=0", "sign")),
}


class Headed(nn.Module):
    """A head of its own on a trunk that others have too."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 24, 3), nn.ReLU())
        torch.manual_seed(classes)
        setattr(self, f"head{classes}", nn.Linear(24, classes))
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        head: nn.Linear = getattr(self, f"head{self.classes}")
        return head(self.trunk(x).mean((2, 3)))


def export(classes: int, delegated: bool) -> tuple[bytes, bytes]:
    """A program whose weights are all outside, and its external weights."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes.external_constants_pass import delegate_external_constants_pass_unlifted

    exported = torch.export.export(Headed(classes).eval(), EXAMPLE)
    if delegated:
        module = exported.module()
        delegate_external_constants_pass_unlifted(module=module, gen_tag_fn=lambda node: "weights")
        exported = torch.export.export(module, EXAMPLE)
    edge = to_edge_transform_and_lower(
        exported,
        partitioner=[XnnpackPartitioner()] if delegated else [],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    program = edge.to_executorch(ExecutorchBackendConfig(external_constants=lambda node: "weights"))
    (data,) = program._tensor_data.values()
    return bytes(program.buffer), bytes(data)


def merged(files: list[bytes]) -> bytes:
    """One `.ptd` with the data of several; what has the same name is the same."""
    from executorch.exir._serialize._cord import Cord
    from executorch.exir._serialize.data_serializer import DataPayload
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorConfig, FlatTensorSerializer

    serializer = FlatTensorSerializer(FlatTensorConfig())
    buffers: list[Any] = []
    named: dict[str, Any] = {}
    for payload in (serializer.deserialize(Cord(file)) for file in files):
        for key, entry in payload.named_data.items():
            if key not in named:
                entry.buffer_index, index = len(buffers), entry.buffer_index
                buffers.append(payload.buffers[index])
                named[key] = entry
    return bytes(serializer.serialize(DataPayload(buffers=buffers, named_data=named)))


@pytest.fixture(scope="module", params=["portable", "xnnpack"])
def originals(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pte and b.pte, which share the trunk in weights.ptd; their heads are there too."""
    folder = tmp_path_factory.mktemp(request.param)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        made = [export(classes, request.param == "xnnpack") for classes in (10, 7)]
        (folder / "weights.ptd").write_bytes(merged([data for _, data in made]))
    logging.disable(logging.NOTSET)
    for name, (program, _) in zip(NAMES, made, strict=True):
        (folder / f"{name}.pte").write_bytes(program)
    return folder


def given(folder: Path) -> list[Path]:
    return [folder / file for name in NAMES for file in (f"{name}.pte", "weights.ptd")]


def outputs(folder: Path) -> list[torch.Tensor]:
    """What the programs compute; raises RuntimeError where a program does not find its weights."""
    data = (folder / "weights.ptd").read_bytes()
    return [RestoredModule((folder / f"{n}.pte").read_bytes(), data).forward(EXAMPLE)[0].clone() for n in NAMES]


def locked(artifacts: list[Artifact], options: corelocker.LockOptions, out: Path) -> Publication:
    plan = choose_channels(artifacts, options, b"s")
    return publish(
        artifacts, plan, out, model="m", model_version=1, bundle_id=uuid4(), signing_key=KEY, content_key=TOP
    )


@pytest.mark.parametrize("how", OPTIONS)
def test_locked_and_restored(how: str, originals: Path, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    made = locked(open_artifacts(given(originals)), OPTIONS[how], dist)
    assert sorted(p.name for p in dist.iterdir()) == ["a.pte", "b.pte", "m.clkey", "weights.ptd"]
    expected = outputs(originals)
    for broken, original in zip(outputs(dist), expected, strict=True):
        assert not torch.allclose(broken, original, atol=0.02)
    for place, name in enumerate(NAMES):
        model = corelocker.LockedModel.open(dist / f"{name}.pte", made.bundle)
        assert model.verify(TOP).tiers_restored == model.tiers
        for tier in model.tiers[1:]:
            found = model.load(TOP, tier).forward(EXAMPLE)[0]
            assert torch.equal(found, expected[place]) == (tier == "full")
        for path in model.restore_to(tmp_path / name / f"{name}.pte", TOP):
            assert path.read_bytes() == (originals / path.name).read_bytes()


def test_what_only_the_other_program_reads_is_no_weight_of_this_one(originals: Path) -> None:
    for artifact, classes in zip(open_artifacts(given(originals)), (10, 7), strict=True):
        weights = sum(4 * value.numel() for value in Headed(classes).parameters())
        assert weights <= artifact.stored_bytes < 1.02 * weights


def test_every_weight_is_flipped_once(originals: Path, tmp_path: Path) -> None:
    artifacts = open_artifacts(given(originals))
    made = locked(artifacts, OPTIONS["signs"], tmp_path / "dist")
    weights = sum(w.numel() for classes in (10, 7) for w in Headed(classes).parameters() if w.dim() > 1)
    trunk = sum(w.numel() for w in Headed(10).trunk.parameters() if w.dim() > 1)
    taken = [artifact.locked_bytes for artifact in made.artifacts]
    assert taken[0] == taken[1]  # of the whole file, for each program
    assert taken[0] * 8 == weights - trunk


def test_a_bias_of_one_weight_is_locked_with_it(originals: Path, tmp_path: Path) -> None:
    """Read by two programs, it is still of one layer only."""
    artifacts = open_artifacts(given(originals))
    made = locked(artifacts, OPTIONS["values"], tmp_path / "dist")
    changed = {run.offset for file in made.artifacts[0].files for found in file.overlay.runs for run, _, _ in found}
    for tensor in artifacts[0].tensors:
        (bias,) = tensor.companions
        assert changed & {bias.run(channel).offset for channel in range(bias.channels)}


def test_one_program_alone(originals: Path, tmp_path: Path) -> None:
    """What only the other one reads stays as it is."""
    artifacts = open_artifacts(given(originals)[:2])
    locked(artifacts, OPTIONS["signs"], tmp_path / "dist")
    (other,) = open_artifacts(given(originals)[2:])
    head = next(t for t in other.tensors if t.role == "linear").weight
    start, length = head.extent
    for file in ("weights.ptd", "b.pte"):
        path = tmp_path / "dist" / file
        if path.exists():
            original = (originals / file).read_bytes()[start : start + length]
            assert path.read_bytes()[start : start + length] == original


@pytest.mark.parametrize("originals", ["xnnpack"], indirect=True)
def test_the_whole_command(originals: Path, tmp_path: Path) -> None:
    keystore = corelocker.Keystore.create(tmp_path / "keys.json", b"p")
    dist = tmp_path / "dist"
    result = corelocker.lock(given(originals), dist, model_id="m", model_version=1, keystore=keystore, require="none")
    assert [artifact.name for artifact in result.artifacts] == ["a.pte", "b.pte"]
    key = keystore.content_key(corelocker.KeyBundle.open(result.bundle).id)
    for name, expected in zip(NAMES, outputs(originals), strict=True):
        model = corelocker.LockedModel.open(tmp_path / "dist" / f"{name}.pte", result.bundle)
        assert torch.equal(model.load(key).forward(EXAMPLE)[0], expected)
        # The second program finds the weights that it shares restored already.
        for path in model.restore_to(tmp_path / "back" / f"{name}.pte", key):
            assert path.read_bytes() == (originals / path.name).read_bytes()
    locked_files = [tmp_path / "dist" / path.name for path in given(originals)]
    with pytest.raises(LockingError, match="locked already"):
        corelocker.lock(locked_files, tmp_path / "again", model_id="m", model_version=2, keystore=keystore)


def test_in_two_forms(originals: Path) -> None:
    one, other = open_artifacts(given(originals))
    tensor = other.tensors[0]
    weight = tensor.weight
    assert isinstance(weight, Part)
    step = weight.channel_stride
    later = dataclasses.replace(weight, offset=weight.offset + step, channels=weight.channels - 1)
    other.tensors = (dataclasses.replace(tensor, parts=(later, *tensor.parts[1:])), *other.tensors[1:])
    with pytest.raises(UnsupportedLayoutError, match="from the same bytes, but in different forms"):
        check_shared_weights([one, other])
