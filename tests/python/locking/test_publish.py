"""A lock run from files to files: what is written restores exactly, tier by tier, and nothing is left behind on failure."""

from __future__ import annotations

import hashlib
import mmap
import os
import subprocess
from functools import partial
from itertools import chain
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from corelocker.artifacts import Artifact, Edge, Identity, open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.keystore import FileKek, Kek, Keystore, RecordedFile, StagedKey
from corelocker.errors import FileAccessError, OutputExistsError, SampleReuseError
from corelocker.files import reserve
from corelocker.locking.criteria import score
from corelocker.locking.planning import make_plan
from corelocker.locking.publish import Publication, publish
from corelocker.locking.tiers import parse_tiers
from corelocker.raw_files import read_buffer
from corelocker.runtime.restored import RestoredFile, restore
from cryptography.hazmat.primitives.asymmetric import ec
from support.small_artifacts import Builder, float_layer, quantized_layer, trained_like, write_safetensors

KEY = ec.generate_private_key(ec.SECP256R1())
TOP = new_content_key()
TIERS = "free=0.3,plus=0.1,full=0"


def run(artifacts: list[Artifact], out: Path, **options: object) -> Publication:
    extra = {k: options.pop(k) for k in ("force", "before_commit", "stage_key", "model_version") if k in options}
    settings = {"scope": "layer", "fill": "decoy", "seed": b"s", "include_io": True} | options
    plan = make_plan(artifacts, parse_tiers(TIERS), score("l1", b"s", None), criterion="l1", **settings)  # type: ignore[arg-type]
    return publish(
        artifacts,
        plan,
        out,
        model="m",
        **{"model_version": 1, "bundle_id": uuid4(), "signing_key": KEY, "content_key": TOP} | extra,
    )  # type: ignore[arg-type]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    tensors = {f"l{i}.weight": trained_like(rng, 40, 40, 3, 3) for i in range(4)} | {"l1.bias": np.ones(40, np.float32)}
    return write_safetensors(tmp_path / "model.safetensors", tensors)


def test_room_is_taken_at_once_or_refused(tmp_path: Path) -> None:
    probe = subprocess.run(["fallocate", "--length", "4096", tmp_path / "probe"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"this file system takes no room in advance: {probe.stderr.decode().strip()}")
    with (tmp_path / "locked").open("wb", buffering=0) as file:
        reserve(file, 1 << 20)
        status = os.fstat(file.fileno())
        assert status.st_size == 1 << 20
        assert status.st_blocks * 512 >= 1 << 20
        with pytest.raises(OSError, match=r"too large|No space"):
            reserve(file, 1 << 62)


def test_where_no_room_can_be_taken_in_advance_nothing_happens() -> None:
    with Path(os.devnull).open("wb") as nothing:
        reserve(nothing, 1 << 20)


@pytest.mark.parametrize("size", [1, 4096, 4 << 20])
def test_what_files_are_read_into_begins_a_page(size: int) -> None:
    buffer = np.frombuffer(read_buffer(size), np.uint8)
    assert buffer.size == size
    assert buffer.flags.writeable
    assert not buffer.any()
    assert buffer.ctypes.data % mmap.PAGESIZE == 0


@pytest.mark.parametrize("change", ["shortened", "written to", "replaced", "gone"])
def test_an_original_that_changes_after_it_was_opened_is_refused(checkpoint: Path, tmp_path: Path, change: str) -> None:
    artifact = open_artifact(checkpoint)
    content = checkpoint.read_bytes()
    if change in ("replaced", "gone"):
        checkpoint.unlink()
    if change == "replaced":
        checkpoint.write_bytes(content)
    elif change == "written to":
        with open(checkpoint, "r+b") as file:
            file.write(content[:8])
    elif change == "shortened":
        os.truncate(checkpoint, len(content) - 1)
    out = tmp_path / "out"
    with pytest.raises(FileAccessError, match=r"changed|shortened|No such file"):
        run([artifact], out)
    assert not out.exists()


def test_every_tier_restores_exactly(checkpoint: Path, tmp_path: Path) -> None:
    original = checkpoint.read_bytes()
    publication = run([open_artifact(checkpoint)], tmp_path / "out")
    locked = tmp_path / "out" / checkpoint.name
    assert locked.stat().st_size == len(original)
    assert checkpoint.read_bytes() == original
    bundle = KeyBundle.open(publication.bundle, KEY.public_key())
    keys = tier_keys(TOP, bundle.id, 3)
    states = []
    for tier in range(3):
        with restore(locked, bundle, keys[tier], tier, check="always") as restored:
            states.append(bytes(restored))
    assert states[0] == locked.read_bytes() != original
    assert states[2] == original
    layers = [
        [t.read() for t in open_artifact(_write(tmp_path / f"s{i}.safetensors", s)).tensors]
        for i, s in enumerate(states)
    ]
    for free, plus, full in zip(*layers, strict=True):
        changed = [{c for c in range(40) if not np.array_equal(a[c], full[c])} for a in (free, plus)]
        assert len(changed[0]) == 12
        assert len(changed[1]) == 4
        assert changed[1] < changed[0]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_nothing_public_tells_of_a_secret_byte(checkpoint: Path, tmp_path: Path) -> None:
    publication = run([open_artifact(checkpoint)], tmp_path / "out")
    public = (tmp_path / "out" / checkpoint.name).read_bytes() + publication.bundle.read_bytes()
    original = checkpoint.read_bytes()
    digest = hashlib.sha256(original)
    assert digest.digest() not in public
    assert digest.hexdigest().encode() not in public
    for file in publication.artifacts[0].files:
        for place, _, _ in chain.from_iterable(file.overlay.runs):
            secret = original[place.offset : place.offset + place.length]
            if len(secret) > 16:
                assert secret not in public
                assert hashlib.sha256(secret).hexdigest().encode() not in public


def test_identities_change_with_every_state_of_what_they_cover(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    builder = Builder(tmp_path / "m.safetensors")
    key = hashlib.sha256(b"content").hexdigest().encode()
    copies = builder.add(key), builder.add(key)
    other = builder.add(b"f" * 64)
    describe = [
        float_layer(builder, "a", trained_like(rng, 40, 16)),
        quantized_layer(builder, "b", trained_like(rng, 40, 32), 1),
    ]
    artifact = builder.artifact(
        describe,
        identities=[
            lambda file: Identity(file, copies, 64, ((file, *artifact_extent(file, 0)),)),
            lambda file: Identity(file, (other,), 64, ((file, 0, 16),)),
        ],
    )
    publication = run([artifact], tmp_path / "out")
    bundle = KeyBundle.open(publication.bundle)
    states = []
    for tier in range(3):
        with restore(tmp_path / "out" / "m.safetensors", bundle, TOP, tier, key_tier=2) as restored:
            states.append(bytes(restored))
    names = [[s[at : at + 64] for at in copies] for s in states]
    assert all(a == b for a, b in names)
    assert len({a for a, _ in names}) == 3, "two states of one tensor never share a key"
    assert names[2][0] == key
    assert all(set(a) <= set(b"0123456789abcdef") for a, _ in names)
    assert all(s[other : other + 64] == b"f" * 64 for s in states), "nothing that it covers is locked"


def artifact_extent(file, number: int) -> tuple[int, int]:
    return 16 + 2 * 64 + 64, 40 * 16 * 4


@pytest.mark.parametrize("fill", ["zero", "decoy"])
def test_consumers_are_locked_and_restored(tmp_path: Path, fill: str) -> None:
    rng = np.random.default_rng(2)
    builder = Builder(tmp_path / "m.safetensors")
    describe = [
        float_layer(builder, "a", trained_like(rng, 20, 3, 3, 3), 0),
        float_layer(builder, "dw", trained_like(rng, 20, 1, 3, 3), 1, depthwise=True),
        float_layer(builder, "b", trained_like(rng, 30, 20, 1, 1), 2),
        quantized_layer(builder, "c", trained_like(rng, 10, 120), 3),
    ]
    edges = {"a": (Edge("dw"),), "dw": (Edge("b"),), "b": (Edge("c", block=4),)}
    original = builder.artifact(describe, edges=edges, untraced={"c": "end"})
    before = original.path.read_bytes()
    publication = run([original], tmp_path / "out", fill=fill, consumers=True)
    assert publication.artifacts[0].not_followed == {"c": "end"}
    after = Builder(tmp_path / "locked.bin")
    after._data = bytearray((tmp_path / "out" / "m.safetensors").read_bytes())
    tensors = {t.name: t.read() for t in after.artifact(describe).tensors}
    intact = {t.name: t.read() for t in original.tensors}
    rows = {n: {c for c in range(v.shape[0]) if not np.array_equal(v[c], intact[n][c])} for n, v in tensors.items()}
    assert rows["a"] <= rows["dw"]
    for column in rows["dw"]:
        assert not np.allclose(tensors["b"][:, column], intact["b"][:, column])
    free = sorted(set(range(20)) - rows["dw"])
    kept = sorted(
        set(range(30)) - {c for c in range(30) if not np.array_equal(tensors["b"][c, free], intact["b"][c, free])}
    )
    assert len(kept) == 21
    for column in (4 * c + k for c in set(range(30)) - set(kept) for k in range(4)):
        assert not np.array_equal(tensors["c"][:, column], intact["c"][:, column])
    if fill == "zero":
        assert not tensors["b"][:, sorted(rows["dw"])].any()
    with restore(
        tmp_path / "out" / "m.safetensors", KeyBundle.open(publication.bundle), TOP, check="always"
    ) as restored:
        assert bytes(restored) == before


def test_shards_and_their_index_are_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name in "ab":
        write_safetensors(tmp_path / f"{name}.safetensors", {f"{name}.weight": trained_like(rng, 20, 20)})
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"a.weight": "a.safetensors", "b.weight": "b.safetensors"}}')
    publication = run([open_artifact(index)], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "m.clkey",
        index.name,
    ]
    bundle = KeyBundle.open(publication.bundle)
    for name in "ab":
        with restore(tmp_path / "out" / f"{name}.safetensors", bundle, TOP, check="always") as restored:
            assert bytes(restored) == (tmp_path / f"{name}.safetensors").read_bytes()


def test_failure_leaves_the_folder_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([open_artifact(checkpoint)], out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(OutputExistsError):
        run([open_artifact(checkpoint)], out)

    def full_disk() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FileAccessError, match="No space"):
        run([open_artifact(checkpoint)], out, force=True, before_commit=full_disk)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    with pytest.raises(OutputExistsError, match="original"):
        run([open_artifact(checkpoint)], checkpoint.parent, force=True)
    copy = tmp_path / "twice" / checkpoint.name
    copy.parent.mkdir()
    copy.write_bytes(checkpoint.read_bytes())
    with pytest.raises(OutputExistsError, match="two outputs"):
        run([open_artifact(checkpoint), open_artifact(copy)], tmp_path / "new")


@pytest.mark.parametrize("out", ["/proc/corelocker-out", "inside a file"])
def test_a_folder_that_cannot_be_made_is_refused(checkpoint: Path, out: str) -> None:
    with pytest.raises(FileAccessError, match="cannot be written"):
        run([open_artifact(checkpoint)], checkpoint / out)


def test_a_restored_file_is_a_read_only_buffer(checkpoint: Path, tmp_path: Path) -> None:
    publication = run([open_artifact(checkpoint)], tmp_path / "out")
    with restore(tmp_path / "out" / checkpoint.name, KeyBundle.open(publication.bundle), TOP) as restored:
        assert isinstance(restored, RestoredFile)
        assert memoryview(restored).readonly


def test_a_version_that_looks_like_another_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The same seed, fill and weights give the same locked bytes, whatever the version is called."""
    FileKek.generate(tmp_path / "kek")
    store = Keystore.create(tmp_path / "keys.json", Kek("file", str(tmp_path / "kek")))

    def keep(version: int, samples: frozenset[bytes], files: tuple[RecordedFile, ...]) -> StagedKey:
        assert len(files) == 1
        return store.stage_content_key(uuid4(), "m", version, ("free", "plus", "full"), TOP, samples)

    def lock(version: int, out: str, seed: bytes) -> Publication:
        keep_this = partial(keep, version)
        return run([open_artifact(checkpoint)], tmp_path / out, stage_key=keep_this, model_version=version, seed=seed)

    published = lock(1, "one", b"s")
    in_header = {section.locked_sample for section in KeyBundle.open(published.bundle).sections}
    assert [entry.samples for entry in store.content_keys] == [in_header]
    assert len(in_header) == 2
    with pytest.raises(SampleReuseError):
        lock(2, "two", b"s")
    assert not (tmp_path / "two").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kek", "keys.json", checkpoint.name, "one"]
    lock(2, "two", b"t")
    lock(1, "again", b"s")
    assert [entry.model_version for entry in store.content_keys] == [1, 2, 1]


def test_a_lock_that_fails_leaves_no_key(checkpoint: Path, tmp_path: Path) -> None:
    FileKek.generate(tmp_path / "kek")
    store = Keystore.create(tmp_path / "keys.json", Kek("file", str(tmp_path / "kek")))

    def keep(samples: frozenset[bytes], files: tuple[RecordedFile, ...]) -> StagedKey:
        return store.stage_content_key(uuid4(), "m", 1, ("free", "plus", "full"), TOP, samples)

    def full_disk() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FileAccessError, match="No space"):
        run([open_artifact(checkpoint)], tmp_path / "out", stage_key=keep, before_commit=full_disk)
    assert Keystore.open(store.path).content_keys == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kek", "keys.json", checkpoint.name]
