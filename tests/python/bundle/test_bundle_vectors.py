"""The vectors that all languages run: patch, sample, key bundle, tier keys, JWK thumbprint."""

from __future__ import annotations

import base64
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import pytest
from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import tier_keys
from corelocker.bundle.keystore import Keystore
from corelocker.bundle.patch import Patch
from corelocker.bundle.sample import OpenFileSample, sample
from corelocker.errors import BundleError, CoreLockerError, PatchError, RestoreError
from corelocker.runtime import restore

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "vectors"

Vector = dict[str, Any]
T = TypeVar("T")


def vectors(name: str) -> list[Any]:
    found = json.loads((VECTORS / name).read_text())["vectors"]
    return [pytest.param(vector, id=vector["name"]) for vector in found]


def codes_below(kind: type[CoreLockerError]) -> set[str]:
    return {kind.code} | {code for sub in kind.__subclasses__() for code in codes_below(sub)}


def data(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def verdict(run: Callable[[], T]) -> tuple[str, T | None]:
    """ "ok" and what `run` returns, or the code of the error that it raises."""
    try:
        return "ok", run()
    except CoreLockerError as error:
        return error.code, None


@pytest.mark.parametrize("vector", vectors("patch.json"))
def test_patch(vector: Vector) -> None:
    target = bytearray(data(vector["file"])) if "file" in vector else None
    code, patch = verdict(lambda: Patch.parse(data(vector["patch"]), vector["file_size"]))
    assert code == vector["expect"]
    if patch is None:
        assert target is None or target == data(vector["file"])
        return
    assert patch.encode() == data(vector["patch"])
    if target is not None:
        assert sample_of(target, patch) == vector["sample"]
        patch.apply(target)
        assert target == data(vector["restored"])
        assert sample_of(target, patch) == vector["restored_sample"]


def sample_of(file: bytes | bytearray, patch: Patch) -> str:
    return sample(np.frombuffer(bytes(file), np.uint8), patch.table).hex()


@pytest.mark.parametrize("vector", vectors("sample.json"))
def test_sample(vector: Vector, tmp_path: Path) -> None:
    file = data(vector["file"])
    patch = Patch.parse(data(vector["patch"]), len(file))
    assert sample_of(file, patch) == vector["sample"]
    (tmp_path / "file").write_bytes(file)
    with (tmp_path / "file").open("rb") as opened:
        read = OpenFileSample(opened.fileno(), len(file), patch.table)
    assert read.locked.hex() == vector["sample"]
    restored = bytearray(file)
    patch.apply(restored)
    assert read.after(memoryview(restored), [patch.table]) == sample(np.frombuffer(restored, np.uint8), patch.table)


@pytest.mark.parametrize("from_file", [False, True], ids=["bytes", "path"])
@pytest.mark.parametrize("vector", vectors("bundle.json"))
def test_bundle(vector: Vector, from_file: bool, tmp_path: Path) -> None:
    blob = data(vector["bundle"])
    path = tmp_path / "vector.clkey"
    path.write_bytes(blob)
    code, bundle = verdict(lambda: KeyBundle.open(path if from_file else blob, vector.get("publisher")))
    assert code == vector["expect"]
    if bundle is None:
        return
    with bundle:
        for name in ("publisher", "model", "model_version"):
            assert getattr(bundle, name) == vector.get(name, getattr(bundle, name))
        assert str(bundle.id) == vector.get("id", str(bundle.id))
        assert list(bundle.tiers) == vector.get("tiers", list(bundle.tiers))
        for expected in vector.get("sections", ()):
            check_section(bundle, expected)
        for expected in vector.get("restores", ()):
            check_restore(bundle, expected, tmp_path)


def check_section(bundle: KeyBundle, expected: Vector) -> None:
    section = bundle.sections[expected["index"]]
    code, opened = verdict(lambda: bundle.decrypt(section, bytes.fromhex(expected["content_key"])))
    assert code == expected["expect"]
    if opened is not None:
        assert (opened.restored_sample.hex(), opened.file_digest.hex()) == (expected["sample"], expected["file"])
        assert opened.patch == data(expected["patch"])


def check_restore(bundle: KeyBundle, expected: Vector, folder: Path) -> None:
    artifact, tier = bundle.artifacts[expected["artifact"]], expected["tier"]
    file = artifact.files[expected["file"]]
    path = folder / artifact.name / ("" if file.path == artifact.name else file.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data(expected["locked"]))

    def restored() -> bytes:
        key = bytes.fromhex(expected["content_key"])
        with restore(path, bundle, key, tier, key_tier=tier, check=expected["check"]) as mapping:
            return mapping[:]

    code, result = verdict(restored)
    assert code == expected["expect"]
    if result is not None:
        assert result == data(expected["restored"])
    assert path.read_bytes() == data(expected["locked"])


@pytest.mark.parametrize("vector", vectors("tier_keys.json"))
def test_tier_keys(vector: Vector) -> None:
    keys = tier_keys(bytes.fromhex(vector["content_key"]), UUID(vector["bundle"]), vector["tiers"])
    assert [key.hex() for key in keys] == vector["keys"]


@pytest.mark.parametrize("vector", vectors("jwk_thumbprint.json"))
def test_jwk_thumbprint(vector: Vector) -> None:
    if vector["expect"] == "invalid":
        with pytest.raises(ValueError, match=r"JWK|base64url|key"):
            jose.key_of_jwk(vector["jwk"])
        return
    key = jose.key_of_jwk(vector["jwk"])
    assert jose.thumbprint(key) == vector["thumbprint"]
    assert jose.public_jwk(key).items() <= vector["jwk"].items()


@pytest.mark.parametrize("vector", vectors("keystore.json"))
def test_keystore(vector: Vector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("keys.json", vector["file"].encode()), ("kek.bin", bytes.fromhex(vector.get("kek", "")))):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    code, store = verdict(lambda: Keystore.open(tmp_path / "keys.json", vector.get("passphrase", "").encode()))
    assert code == vector["expect"]
    if store is None:
        return
    assert store.publisher == vector["publisher"]
    assert [key.thumbprint for key in store.publisher_keys] == vector["publisher_keys"]
    kept = [
        {
            "bundle": str(key.bundle),
            "model": key.model,
            "model_version": key.model_version,
            "tiers": list(key.tiers),
            "key": jose.encode_base64url(key.key),
            "samples": sorted(sample.hex() for sample in key.samples),
        }
        for key in store.content_keys
    ]
    assert kept == vector["content_keys"]


def test_every_code_has_a_vector() -> None:
    patch = {param.values[0]["expect"] for param in vectors("patch.json")}
    assert patch == codes_below(PatchError) - {"patch"} | {"ok"}
    bundles = [param.values[0] for param in vectors("bundle.json")]
    inner = [entry for vector in bundles for kind in ("sections", "restores") for entry in vector.get(kind, ())]
    reached = {entry["expect"] for entry in [*bundles, *inner]}
    # bundle-mismatch is about what a caller asks for, which no vector does.
    assert codes_below(BundleError) - {"bundle", "bundle-mismatch"} <= reached
    assert codes_below(RestoreError) - {"restore"} <= reached


def test_the_maker_makes_these_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools" / "vectors")
    documents = runpy.run_path(str(ROOT / "tools" / "vectors" / "make_bundle_vectors.py"))["documents"]()
    assert len(documents) == 6
    for name, text in documents.items():
        assert (VECTORS / name).read_text() == text, f"{name} is stale: run tools/vectors/make_bundle_vectors.py"
