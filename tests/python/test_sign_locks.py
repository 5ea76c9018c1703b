"""The signs of whole models, taken by a lock run from files to files: everything comes back, and what is left is worth nothing."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from corelocker.artifacts import Artifact, open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.patch import Patch
from corelocker.bundle.patch_runs import Kind
from corelocker.files import MappedFile
from corelocker.locking.choose import choose_channels
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.publish import Publication, publish
from corelocker.locking.tiers import parse_tiers
from corelocker.runtime.restored import restore
from cryptography.hazmat.primitives.asymmetric import ec
from support.models import coreml_models, exports
from support.small_artifacts import trained_like, write_safetensors

from tools.demo_model import fashion_mobilenet

KEY = ec.generate_private_key(ec.SECP256R1())
TOP = new_content_key()
DATA = Path(__file__).resolve().parents[1] / "data" / "coreml"
FLOAT, CODES, INDICES, VALUES = Kind.XOR_TOP, Kind.NEGATE, Kind.PERMUTE, Kind.REPLACE
PROGRAMS = [
    ("mobilenet", "portable", {FLOAT}, 32), ("resnet", "portable", {FLOAT}, 32), ("mobilenet", "xnnpack", {FLOAT}, 32),
    ("transformer", "xnnpack", {FLOAT}, 32), ("gated", "half", {FLOAT}, 16), ("mobilenet", "int8", {CODES}, 8),
    ("gated", "int4", {CODES}, 4), ("gated", "int4-per-channel", {CODES}, 4), ("resnet", "xnnpack-external", {FLOAT}, 32),
    ("vgg", "coreml", {FLOAT}, 16),
]  # fmt: skip
PACKAGES = [
    ("fp32", {FLOAT}), ("fp16", {FLOAT}), ("int8-ios16", {CODES}), ("uint8-affine", {CODES, VALUES}), ("int8-ios18", {CODES}),
    ("int4-block", {CODES}), ("uint4-affine", {VALUES}), ("lut4-ios16", {INDICES, VALUES}),
    ("lut6-ios16", {VALUES}), ("lut8-ios16", {INDICES}), ("pruned-ios16", {FLOAT}), ("pruned-ios18", {FLOAT}),
    ("pruned-int8", {CODES}), ("lut4-scaled", {INDICES, VALUES}),
]  # fmt: skip


def locked(path: Path, out: Path, tiers: str = "free=1,full=0") -> tuple[Artifact, Plan, Publication, KeyBundle]:
    artifact = open_artifact(path)
    options = LockOptions(unit="sign", tiers=parse_tiers(tiers, "sign"), include_io=True)
    plan = choose_channels([artifact], options, b"seed")
    made = publish(
        [artifact], plan, out, model="m", model_version=1, bundle_id=uuid4(), signing_key=KEY, content_key=TOP
    )
    return artifact, plan, made, KeyBundle.open(made.bundle, KEY.public_key())


def comes_back(artifact: Artifact, out: Path, bundle: KeyBundle) -> None:
    """Every tier, by the reader with all its checks; the last is the original, and no two are equal."""
    root = out / artifact.path.name if artifact.path.is_dir() else out
    found = []
    for tier in range(len(bundle.tiers)):
        state = b""
        for place, file in enumerate(artifact.files):
            with restore(
                root / file.name, bundle, TOP, tier, key_tier=len(bundle.tiers) - 1, check="always"
            ) as restored:
                state += bytes(restored)
                assert tier < len(bundle.tiers) - 1 or bytes(restored) == file.data.tobytes(), place
        found.append(state)
    assert len(set(found)) == len(found)


def kinds(artifact: Artifact, plan: Plan, bundle: KeyBundle) -> set[int]:
    """The kinds of the runs that lie in weights: a re-keyed name is a run that replaces, too."""
    keys = tier_keys(TOP, bundle.id, len(bundle.tiers))
    weights = [(p.file.name, *p.extent) for t in artifact.tensors for p in t.parts]
    found = set()
    for place, file in enumerate(bundle.artifacts[0].files):
        for section in bundle.sections_of(0, place, len(bundle.tiers) - 1):
            for run in Patch.parse(bundle.decrypt(section, keys[section.tier]).patch, file.size).runs:
                if any(n == file.path and at <= run.offset < at + size for n, at, size in weights):
                    found.add(run.kind)
    return found


def limit(artifact: Artifact, share: int) -> float:
    """Bytes of the bundle's sections that a lock of all signs may take: a bit a weight, and 200 bytes a tensor."""
    return sum(t.weight.size for t in artifact.tensors) / share + 200 * len(artifact.tensors)


@pytest.mark.parametrize(
    ("name", "variant", "expected", "share"), PROGRAMS, ids=[f"{n}-{v}" for n, v, _, _ in PROGRAMS]
)
def test_programs(tmp_path: Path, name: str, variant: str, expected: set[int], share: int) -> None:
    path, out = exports.exported(name, variant), tmp_path / "out"
    artifact, plan, made, bundle = locked(path, out)
    comes_back(artifact, out, bundle)
    assert kinds(artifact, plan, bundle) == expected
    lockable = [t for t in artifact.tensors if t.role != "norm"]
    assert all((plan.tier_of[0][t.name] == 1).all() for t in lockable)
    assert sum(made.key_bytes[0]) + 24 * len(lockable) <= limit(artifact, share) + 200 * len(artifact.identities)
    _, _, _, tiered = locked(path, tmp_path / "tiers", "free=1,plus=0.3,full=0")
    comes_back(artifact, tmp_path / "tiers", tiered)
    for identity in artifact.identities:
        name = bytes(identity.file.read(identity.copies[0], identity.length))
        if any(changed(out / file.name, file, at, size) for file, at, size in identity.covers):
            assert name not in (out / identity.file.name).read_bytes(), (
                "a tensor whose signs are taken gets another name"
            )


def changed(locked: Path, file: MappedFile, at: int, size: int) -> bool:
    return locked.read_bytes()[at : at + size] != bytes(file.read(at, size))


@pytest.mark.parametrize(("variant", "expected"), PACKAGES, ids=[v for v, _ in PACKAGES])
def test_packages(tmp_path: Path, variant: str, expected: set[int]) -> None:
    path, out = coreml_models.package("cnn", variant), tmp_path / "out"
    artifact, plan, _, bundle = locked(path, out, "free=1,plus=0.3,full=0")
    comes_back(artifact, out, bundle)
    assert kinds(artifact, plan, bundle) == expected
    by_value = {name for name, signs in plan.signs[0].items() if isinstance(signs, str)}
    assert bool(by_value) == (VALUES in expected)


def test_published_palettes(tmp_path: Path) -> None:
    artifact, plan, _, bundle = locked(DATA / "unified_palette_4bit.mlpackage", tmp_path / "out")
    comes_back(artifact, tmp_path / "out", bundle)
    assert Kind.PERMUTE in kinds(artifact, plan, bundle) or all(isinstance(s, str) for s in plan.signs[0].values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_checkpoints(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(3)
    weights = {"a.weight": trained_like(rng, 32, 16, 3, 3), "b.weight": trained_like(rng, 10, 32)}
    weights["a.bias"] = np.ones(32, np.float32)
    if dtype == "bfloat16":
        stored = {n: (w.view(np.uint32) >> 16).astype(np.uint16) for n, w in weights.items()}
    else:
        stored = {n: w.astype(dtype) for n, w in weights.items()}
    path = write_safetensors(tmp_path / "m.safetensors", stored, list(stored) if dtype == "bfloat16" else ())
    artifact, plan, made, bundle = locked(path, tmp_path / "out", "free=1,plus=0.5,full=0")
    comes_back(artifact, tmp_path / "out", bundle)
    assert kinds(artifact, plan, bundle) == {FLOAT}
    assert made.artifacts[0].locked_channels == 42


def test_a_trained_classifier_is_at_chance_without_its_signs(tmp_path: Path) -> None:
    """The demo's network: its answers agree with the original's as often as with the original's answers shuffled."""
    locked(fashion_mobilenet.CHECKPOINT, tmp_path)
    with np.load(fashion_mobilenet.CHECKPOINT.parent / "fashion_test_2000.npz") as data:
        images = torch.from_numpy(data["x"][::4].reshape(-1, 1, 28, 28)).float() / 255
    with torch.no_grad():
        before, after = (
            fashion_mobilenet.trained(path)[0](images).argmax(1).numpy()
            for path in (fashion_mobilenet.CHECKPOINT, tmp_path / fashion_mobilenet.CHECKPOINT.name)
        )
    shuffled = [np.mean(np.random.default_rng(seed).permutation(before) == after) for seed in range(20)]
    assert np.mean(before == after) < np.mean(shuffled) + 0.06, "500 images: three standard errors are below 0.05"
    assert len(np.unique(before)) == 10
