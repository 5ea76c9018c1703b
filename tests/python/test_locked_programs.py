"""Every kind of ExecuTorch program, locked: it still loads and runs, without NaN, and every tier restores bit for bit."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from corelocker.artifacts import Artifact, open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key
from corelocker.locking.choose import choose_channels
from corelocker.locking.criteria import score
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.planning import make_plan
from corelocker.locking.publish import publish
from corelocker.locking.tiers import parse_tiers
from corelocker.runtime.restored import restore
from cryptography.hazmat.primitives.asymmetric import ec
from support.models import exports, lowering

KEY = ec.generate_private_key(ec.SECP256R1())
TOP = new_content_key()
CASES = [
    ("mobilenet", "portable"), ("mobilenet", "xnnpack"), ("mobilenet", "int8"), ("resnet", "mixed"), ("gated", "half"),
    ("transformer", "xnnpack"), ("gated", "int4"), ("gated", "int4-per-channel"), ("resnet", "external"),
    ("resnet", "xnnpack-external"), ("shared", "methods-portable"), ("shared", "methods-xnnpack"), ("vgg", "xnnpack"),
    ("vgg", "coreml"), ("shared", "methods-coreml"),
]  # fmt: skip


def method_of(variant: str) -> list[str]:
    return ["forward", "other"] if variant.startswith("methods") else ["forward"]


def lock(path: Path, out: Path, fill: str, consumers: bool) -> tuple[Artifact, KeyBundle]:
    artifact = open_artifact(path)
    plan = make_plan([artifact], parse_tiers("free=0.2,plus=0.1,full=0"), score("l1", b"s", None), criterion="l1", scope="layer",
                     fill=fill, seed=b"s", consumers=consumers)  # type: ignore[arg-type]  # fmt: skip
    return artifact, published(artifact, plan, out)


def published(artifact: Artifact, plan: Plan, out: Path) -> KeyBundle:
    made = publish(
        [artifact], plan, out, model="m", model_version=1, bundle_id=uuid4(), signing_key=KEY, content_key=TOP
    )
    return KeyBundle.open(made.bundle, KEY.public_key())


def names(artifact: Artifact, files: dict[str, bytes]) -> list[bytes]:
    """What stands at each identity, which must be the same in all its copies."""
    found = []
    for identity in artifact.identities:
        copies = {files[identity.file.name][at : at + identity.length] for at in identity.copies}
        assert len(copies) == 1
        found.append(copies.pop())
    return found


@pytest.mark.parametrize(("name", "variant"), CASES, ids=lambda v: v)
@pytest.mark.parametrize("fill", ["zero", "decoy"])
def test_locked_programs(tmp_path: Path, name: str, variant: str, fill: str) -> None:
    path = exports.exported(name, variant)
    artifact, bundle = lock(path, tmp_path / "out", fill, consumers=fill == "decoy")
    original = {f.name: f.data.tobytes() for f in artifact.files}
    states: list[dict[str, bytes]] = []
    for tier in range(3):
        state = {}
        for file in artifact.files:
            with restore(tmp_path / "out" / file.name, bundle, TOP, tier, key_tier=2, check="always") as restored:
                state[file.name] = bytes(restored)
        states.append(state)
    assert states[2] == original
    assert states[0] == {n: (tmp_path / "out" / n).read_bytes() for n in original}
    assert len({tuple(sorted(s.items())) for s in states}) == 3

    changed = [[a != b for a, b in zip(names(artifact, s), names(artifact, original), strict=True)] for s in states]
    for identity, free, plus in zip(artifact.identities, *changed[:2], strict=True):
        for moved, state in ((free, states[0]), (plus, states[1])):
            covered = any(state[f.name][at : at + n] != original[f.name][at : at + n] for f, at, n in identity.covers)
            assert moved or not covered, "content that differs from the original's must not keep its name"
    if artifact.identities:
        assert any(changed[0])

    if variant.endswith("coreml"):
        return  # no Core ML backend on Linux
    inputs = lowering.built(name)[1]
    if variant == "half":
        inputs = tuple(x.half() for x in inputs)
    main, *data = [f.name for f in artifact.files]
    for method in method_of(variant):
        outputs = [
            lowering.run(state[main], inputs, method, *(state[d] for d in data)) for state in (*states, original)
        ]
        assert all(torch.isfinite(o).all() for o in outputs)
        assert torch.equal(outputs[2], outputs[3])
        assert not torch.equal(outputs[0], outputs[3]), "the lock has taken something that matters"


@pytest.mark.parametrize(
    ("name", "variant"), [("resnet", "portable"), ("mobilenet", "xnnpack"), ("branches", "portable")]
)
def test_hardened_with_consumers_takes_more_and_is_restored(tmp_path: Path, name: str, variant: str) -> None:
    """What residuals add up reads channels of many locked layers: of each reader one input channel stays."""
    path = exports.exported(name, variant)
    original, keys = path.read_bytes(), []
    for consumers in (False, True):
        artifact, out = open_artifact(path), tmp_path / str(consumers)
        plan = choose_channels([artifact], LockOptions(preset="cover", consumers=consumers), b"seed", lambda *_: None)
        bundle = published(artifact, plan, out)
        with restore(out / path.name, bundle, TOP, 1, key_tier=1, check="always") as restored:
            assert bytes(restored) == original
        locked = np.frombuffer((out / path.name).read_bytes(), np.uint8)
        keys.append(int((locked != np.frombuffer(original, np.uint8)).sum()))
    assert keys[0] < keys[1]


def test_no_digest_of_a_secret_stays(tmp_path: Path) -> None:
    """XNNPACK names a tensor by the SHA-256 of its bytes: an oracle that a lock must remove."""
    path = exports.exported("mobilenet", "xnnpack")
    artifact, _ = lock(path, tmp_path / "out", "decoy", consumers=False)
    locked = (tmp_path / "out" / path.name).read_bytes()
    original = path.read_bytes()
    oracles = 0
    for identity in artifact.identities:
        name = original[identity.copies[0] : identity.copies[0] + identity.length]
        covered = any(locked[at : at + n] != original[at : at + n] for _, at, n in identity.covers)
        if covered:
            oracles += 1
            assert name not in locked
    assert oracles > 10
