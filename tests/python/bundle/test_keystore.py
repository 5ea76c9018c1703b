"""The keystore: what it keeps, who can open it, and what happens when several processes change it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import corelocker
import pytest
from corelocker.bundle.content_keys import new_content_key
from corelocker.bundle.keystore import FileKek, Kek, Keystore, StagedKey, protection, read_passphrase
from corelocker.errors import (
    FileAccessError,
    KeystoreEntryError,
    KeystoreError,
    KeystoreFormatError,
    KeystorePermissionError,
    KeystoreSecretError,
    OutputExistsError,
    SampleReuseError,
)
from cryptography.hazmat.primitives.asymmetric import ec

PASSPHRASE = b"correct horse"
TIERS = ("free", "plus", "full")


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least work that a reader accepts."""
    monkeypatch.setattr(protection, "_SCRYPT_P", 1)


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    return Keystore.create(tmp_path / "keys.json", PASSPHRASE)


def add(store: Keystore, bundle: UUID | None = None) -> tuple[UUID, bytes]:
    bundle, key = bundle or uuid4(), new_content_key()
    store.add_content_key(bundle, "scanner", 3, TIERS, key)
    return bundle, key


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    members = json.loads(path.read_text())
    change(members)
    path.write_text(json.dumps(members))


def test_keeps_what_it_is_given(store: Keystore) -> None:
    bundle, key = add(store)
    again = Keystore.open(store.path, PASSPHRASE)
    assert again.content_key(bundle) == key
    entry = again.entry(bundle)
    assert (entry.bundle, entry.model, entry.model_version, entry.tiers) == (bundle, "scanner", 3, TIERS)
    assert again.content_keys == (entry,)
    assert again.publisher == store.publisher
    assert again.signing_key.private_numbers() == store.signing_key.private_numbers()


def test_the_file_is_private_and_tells_nothing(store: Keystore) -> None:
    _, key = add(store)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    text = store.path.read_text()
    assert set(json.loads(text)) == {"format", "version", "kdf", "nonce", "ciphertext"}
    assert "scanner" not in text
    assert key.hex() not in text
    assert os.listdir(store.path.parent) == ["keys.json"]


def test_no_secret_is_shown(store: Keystore) -> None:
    bundle, key = add(store)
    secrets = [key, store.signing_key.private_numbers().private_value.to_bytes(32, "big")]
    shown = " ".join(repr(thing) for thing in (store, store.entry(bundle), store.publisher_keys, store._contents))
    for secret in secrets:
        assert repr(secret) not in shown
        assert secret.hex() not in shown


def test_the_passphrase_is_asked_for_only_when_needed(tmp_path: Path, store: Keystore) -> None:
    assert Keystore.open(store.path, lambda: PASSPHRASE).publisher == store.publisher
    FileKek.generate(tmp_path / "kek")
    other = Keystore.create(tmp_path / "other.json", Kek("file", str(tmp_path / "kek")))

    def ask() -> bytes:
        raise AssertionError("asked")

    assert Keystore.open(other.path, ask).publisher == other.publisher


def test_a_key_is_derived_beside_other_work(store: Keystore) -> None:
    asked: list[str] = []

    def ask() -> bytes:
        asked.append(threading.current_thread().name)
        return PASSPHRASE

    with ThreadPoolExecutor(1) as pool:
        opening = Keystore.open_beside(pool, store.path, ask)
        assert asked == [threading.current_thread().name]
        assert opening.result().publisher == store.publisher
        wrong = Keystore.open_beside(pool, store.path, b"another")
        with pytest.raises(KeystoreSecretError):
            wrong.result()
        with pytest.raises(FileAccessError):
            Keystore.open_beside(pool, store.path.with_name("missing"), PASSPHRASE)


@pytest.mark.parametrize("secret", [b"correct horsf", b"", None])
def test_wrong_passphrase(store: Keystore, secret: bytes | None) -> None:
    with pytest.raises(KeystoreSecretError):
        Keystore.open(store.path, secret)


def test_create_leaves_an_existing_file_alone(store: Keystore) -> None:
    before = store.path.read_bytes()
    with pytest.raises(OutputExistsError):
        Keystore.create(store.path, PASSPHRASE)
    assert store.path.read_bytes() == before


def test_create_needs_a_passphrase(tmp_path: Path) -> None:
    with pytest.raises(KeystoreSecretError):
        Keystore.create(tmp_path / "keys.json", b"")
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o620])
def test_a_file_that_others_can_reach_is_refused(store: Keystore, mode: int) -> None:
    store.path.chmod(mode)
    with pytest.raises(KeystorePermissionError):
        Keystore.open(store.path, PASSPHRASE)


def test_a_read_only_file_can_be_read(store: Keystore) -> None:
    store.path.chmod(0o400)
    assert Keystore.open(store.path, PASSPHRASE).publisher == store.publisher


def test_missing_and_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises((FileAccessError, KeystorePermissionError)):
            Keystore.open(path, PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("format"),
        lambda m: m.update(format="corelocker-key-bundle"),
        lambda m: m.update(version=1),
        lambda m: m.update(version=3),
        lambda m: m.update(version=True),
        lambda m: m.pop("kdf"),
        lambda m: m.update(kek={"provider": "file", "reference": "x", "wrapped": "AA"}),
        lambda m: m["kdf"].update(name="pbkdf2"),
        lambda m: m["kdf"].update(n=2**14),
        lambda m: m["kdf"].update(n=2**15 + 1),
        lambda m: m["kdf"].update(n=2**24),
        lambda m: m["kdf"].update(n=2**60),
        lambda m: m["kdf"].update(n=2**20, r=64),
        lambda m: m["kdf"].update(r=0),
        lambda m: m["kdf"].update(r=2**30),
        lambda m: m["kdf"].update(p=2**30),
        lambda m: m["kdf"].update(p=-1),
        lambda m: m["kdf"].update(salt=""),
        lambda m: m["kdf"].update(salt="AAAA"),
        lambda m: m["kdf"].update(n="32768"),
        lambda m: m.pop("nonce"),
        lambda m: m.update(nonce=m["nonce"][:-4]),
        lambda m: m.pop("ciphertext"),
        lambda m: m.update(ciphertext=""),
        lambda m: m.update(ciphertext=m["ciphertext"] + "="),
    ],
)
def test_damaged_outside(store: Keystore, change: Callable[[dict[str, Any]], Any]) -> None:
    edited(store.path, change)
    with pytest.raises(KeystoreFormatError):
        Keystore.open(store.path, PASSPHRASE)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b'{"format": "x", "format": "x"}', b"[" * 5000, b"9" * 5000]
)
def test_not_json(store: Keystore, text: bytes) -> None:
    store.path.write_bytes(text)
    with pytest.raises(KeystoreFormatError):
        Keystore.open(store.path, PASSPHRASE)


def test_too_large(store: Keystore) -> None:
    with store.path.open("r+b") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(KeystoreFormatError):
        Keystore.open(store.path, PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(nonce="A" * 16),
        lambda m: m["kdf"].update(salt="A" * 22),
        lambda m: m["kdf"].update(n=2**16),
        lambda m: m.update(
            ciphertext="A" + m["ciphertext"][1:] if m["ciphertext"][0] != "A" else "B" + m["ciphertext"][1:]
        ),
        lambda m: m.update(ciphertext=m["ciphertext"][:-4]),
    ],
)
def test_changed_cipher(store: Keystore, change: Callable[[dict[str, Any]], Any]) -> None:
    edited(store.path, change)
    with pytest.raises(KeystoreError):
        Keystore.open(store.path, PASSPHRASE)


def test_entries(store: Keystore) -> None:
    bundle, _ = add(store)
    for missing in (lambda: store.content_key(uuid4()), lambda: store.entry(uuid4())):
        with pytest.raises(KeystoreEntryError):
            missing()
    with pytest.raises(KeystoreEntryError):
        add(store, bundle)
    with pytest.raises(KeystoreEntryError):
        store.remove_content_key(uuid4())
    store.remove_content_key(bundle)
    assert Keystore.open(store.path, PASSPHRASE).content_keys == ()


def sampled(store: Keystore, model: str, version: int, *samples: int) -> None:
    store.add_content_key(uuid4(), model, version, TIERS, new_content_key(), [bytes([s] * 32) for s in samples])


def test_a_sample_of_another_version_is_refused(store: Keystore) -> None:
    """Else a file of one version would be taken for one of the other."""
    sampled(store, "scanner", 3, 1, 2)
    before = store.path.read_bytes()
    for use in (sampled, staged_with):
        for version in (2, 4):
            with pytest.raises(SampleReuseError, match="version 3"):
                use(store, "scanner", version, 2, 9)
    assert store.path.read_bytes() == before
    assert os.listdir(store.path.parent) == ["keys.json"]
    sampled(store, "scanner", 3, 1, 2)  # the same version, locked again
    sampled(store, "other", 4, 1, 2)
    sampled(store, "scanner", 4, 3)
    found = Keystore.open(store.path, PASSPHRASE).content_keys
    assert [entry.samples for entry in found[:1]] == [{bytes([1] * 32), bytes([2] * 32)}]
    store.remove_content_key(found[0].bundle)
    store.remove_content_key(found[1].bundle)
    sampled(store, "scanner", 5, 1)


def staged_with(store: Keystore, model: str, version: int, *samples: int) -> None:
    chosen = [bytes([s] * 32) for s in samples]
    store.stage_content_key(uuid4(), model, version, TIERS, new_content_key(), chosen).commit()


def test_a_sample_that_another_process_adds_meanwhile_is_refused(store: Keystore) -> None:
    staged = store.stage_content_key(uuid4(), "scanner", 4, TIERS, new_content_key(), [bytes(32)])
    sampled(Keystore.open(store.path, PASSPHRASE), "scanner", 3, 0)
    with pytest.raises(SampleReuseError):
        staged.commit()
    assert [entry.model_version for entry in Keystore.open(store.path, PASSPHRASE).content_keys] == [3]
    assert os.listdir(store.path.parent) == ["keys.json"]


@pytest.mark.parametrize("sample", [b"", bytes(31), bytes(33)])
def test_a_sample_of_another_length_is_refused(store: Keystore, sample: bytes) -> None:
    with pytest.raises(KeystoreFormatError):
        store.add_content_key(uuid4(), "scanner", 3, TIERS, new_content_key(), [sample])
    assert store.content_keys == ()


@pytest.mark.parametrize(
    ("model", "version", "tiers", "key"),
    [
        ("", 1, TIERS, bytes(32)),
        ("a\n", 1, TIERS, bytes(32)),
        ("a", -1, TIERS, bytes(32)),
        ("a", 2**53, TIERS, bytes(32)),
        ("a", 1, (), bytes(32)),
        ("a", 1, ("",), bytes(32)),
        ("a", 1, TIERS, bytes(31)),
    ],
)
def test_impossible_entries_change_nothing(
    store: Keystore, model: str, version: int, tiers: tuple[str, ...], key: bytes
) -> None:
    before = store.path.read_bytes()
    with pytest.raises(KeystoreFormatError):
        store.add_content_key(uuid4(), model, version, tiers, key)
    assert store.path.read_bytes() == before
    assert store.content_keys == ()
    add(store)


def test_rotation(store: Keystore) -> None:
    bundle, key = add(store)
    first, second = store.publisher, store.rotate_signing_key()
    again = Keystore.open(store.path, PASSPHRASE)
    assert again.publisher == second != first
    assert [entry.thumbprint for entry in again.publisher_keys] == [second, first]
    assert [entry.private is None for entry in again.publisher_keys] == [False, True]
    assert again.content_key(bundle) == key
    again.rotate_signing_key(keep_private=True)
    assert [entry.private is None for entry in again.publisher_keys] == [False, False, True]


def test_change_of_secret(store: Keystore, tmp_path: Path) -> None:
    bundle, key = add(store)
    stale = Keystore.open(store.path, PASSPHRASE)
    store.change_secret(b"another")
    with pytest.raises(KeystoreSecretError):
        Keystore.open(store.path, PASSPHRASE)
    with pytest.raises(KeystoreSecretError, match="meanwhile"):
        add(stale)
    add(store)
    FileKek.generate(tmp_path / "kek")
    store.change_secret(Kek("file", str(tmp_path / "kek")))
    assert Keystore.open(store.path).content_key(bundle) == key
    assert len(Keystore.open(store.path).content_keys) == 2


def test_a_change_that_cannot_be_written_is_not_made(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileAccessError):
        add(store)
    assert store.content_keys == ()
    assert store.path.read_bytes() == before
    assert os.listdir(store.path.parent) == ["keys.json"]


def stage(store: Keystore) -> tuple[StagedKey, UUID, bytes]:
    bundle, key = uuid4(), new_content_key()
    return store.stage_content_key(bundle, "scanner", 3, TIERS, key), bundle, key


def test_a_staged_key_is_there_once_it_is_committed(store: Keystore) -> None:
    before = store.path.read_bytes()
    staged, bundle, key = stage(store)
    assert store.path.read_bytes() == before
    assert store.content_keys == ()
    staged.commit()
    assert store.content_key(bundle) == Keystore.open(store.path, PASSPHRASE).content_key(bundle) == key
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    staged.discard()
    assert os.listdir(store.path.parent) == ["keys.json"]
    with pytest.raises(KeystoreEntryError):
        store.stage_content_key(bundle, "scanner", 3, TIERS, key)


def test_a_staged_key_that_is_discarded_leaves_nothing(store: Keystore) -> None:
    before = store.path.read_bytes()
    staged, _, _ = stage(store)
    staged.discard()
    assert store.path.read_bytes() == before
    assert os.listdir(store.path.parent) == ["keys.json"]


def test_a_staged_key_loses_nothing_that_others_add_meanwhile(store: Keystore) -> None:
    staged, bundle, key = stage(store)
    other, _ = add(Keystore.open(store.path, PASSPHRASE))
    second, again, _ = stage(Keystore.open(store.path, PASSPHRASE))
    staged.commit()
    second.commit()
    found = Keystore.open(store.path, PASSPHRASE)
    assert {entry.bundle for entry in found.content_keys} == {bundle, other, again}
    assert store.content_key(bundle) == found.content_key(bundle) == key
    assert os.listdir(store.path.parent) == ["keys.json"]


def test_a_key_that_cannot_be_staged_or_committed_changes_nothing(
    store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.path.read_bytes()
    staged, _, _ = stage(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(FileAccessError):
            staged.commit()
    staged.discard()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileAccessError):
            stage(store)
    assert store.content_keys == ()
    assert store.path.read_bytes() == before
    assert os.listdir(store.path.parent) == ["keys.json"]


def test_a_symbolic_link_stays_one(store: Keystore, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(store.path)
    bundle, _ = add(Keystore.open(link, PASSPHRASE))
    assert link.is_symlink()
    assert Keystore.open(store.path, PASSPHRASE).content_key(bundle)


def _add_some(path: Path, start: Any, number: int) -> None:
    opened = Keystore.open(path, PASSPHRASE)
    start.wait()
    for _ in range(number):
        add(opened)


def test_concurrent_processes_lose_nothing(store: Keystore) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    workers = [context.Process(target=_add_some, args=(store.path, start, 8)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(Keystore.open(store.path, PASSPHRASE).content_keys) == 32
    assert os.listdir(store.path.parent) == ["keys.json"]


def test_concurrent_threads_lose_nothing(store: Keystore) -> None:
    opened = [store, Keystore.open(store.path, PASSPHRASE)]
    workers = [threading.Thread(target=lambda one=one: [add(one) for _ in range(8)]) for one in opened]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Keystore.open(store.path, PASSPHRASE).content_keys) == 16


# --- key-encryption keys -------------------------------------------------------------------------


def test_file_provider(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    FileKek.generate(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    store = Keystore.create(tmp_path / "keys.json", Kek("file", str(path)))
    add(store)
    assert Keystore.open(store.path).content_keys == store.content_keys
    members = json.loads(store.path.read_text())
    assert members["kek"]["provider"] == "file"
    assert "kdf" not in members
    with pytest.raises(OutputExistsError):
        FileKek.generate(path)


def test_file_provider_refusals(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    FileKek.generate(path)
    key = path.read_bytes()
    store = Keystore.create(tmp_path / "keys.json", Kek("file", str(path)))
    path.chmod(0o644)
    with pytest.raises(KeystorePermissionError):
        Keystore.open(store.path)
    path.chmod(0o600)
    for wrong in (bytes(32), key[:31]):
        path.write_bytes(wrong)
        with pytest.raises(KeystoreSecretError):
            Keystore.open(store.path)
    path.write_bytes(key + b"\n")
    with pytest.raises(KeystoreError):
        Keystore.open(store.path)
    path.unlink()
    with pytest.raises(FileAccessError):
        Keystore.open(store.path)


@pytest.mark.parametrize("wrapped", ["AA", "A" * 64, "A" * 54])
def test_wrapped_key_that_is_not_one(tmp_path: Path, wrapped: str) -> None:
    FileKek.generate(tmp_path / "kek")
    store = Keystore.create(tmp_path / "keys.json", Kek("file", str(tmp_path / "kek")))
    edited(store.path, lambda m: m["kek"].update(wrapped=wrapped))
    with pytest.raises(KeystoreError):
        Keystore.open(store.path)


def test_provider_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution on the path that declares an entry point, as `pip install` leaves it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "vault_kek.py").write_text(
        "class Vault:\n"
        "    def __init__(self, reference):\n"
        "        self.pad = reference.encode().ljust(32, b'.')\n"
        "    def wrap(self, key):\n"
        "        return bytes(a ^ b for a, b in zip(key, self.pad))\n"
        "    unwrap = wrap\n"
    )
    info = tmp_path / "site" / "vault_kek-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vault-kek\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[corelocker.kek_providers]\nvault = vault_kek:Vault\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    store = Keystore.create(tmp_path / "keys.json", Kek("vault", "keys/7"))
    assert Keystore.open(store.path).publisher == store.publisher
    assert json.loads(store.path.read_text())["kek"]["reference"] == "keys/7"
    edited(store.path, lambda m: m["kek"].update(reference="keys/8"))
    with pytest.raises(KeystoreSecretError):
        Keystore.open(store.path)
    edited(store.path, lambda m: m["kek"].update(provider="none"))
    with pytest.raises(KeystoreSecretError):
        Keystore.open(store.path)


# --- passphrases ---------------------------------------------------------------------------------


def test_passphrase_from_file(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.touch(0o600)
    for content, expected in ((b"a b\n", b"a b"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), ("é".encode(), "é".encode())):
        path.write_bytes(content)
        assert read_passphrase(file=path, variable="UNUSED") == expected
    path.write_bytes(b"\n")
    with pytest.raises(KeystoreSecretError):
        read_passphrase(file=path)
    path.write_bytes(b"a")
    path.chmod(0o644)
    assert read_passphrase(file=path) == b"a", "mounted secrets have modes of their own"
    with pytest.raises(FileAccessError):
        read_passphrase(file=tmp_path / "none")


def test_passphrase_from_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORELOCKER_TEST_PASSPHRASE", "pass word ")
    assert read_passphrase(variable="CORELOCKER_TEST_PASSPHRASE") == b"pass word "
    monkeypatch.setenv("CORELOCKER_TEST_PASSPHRASE", "")
    with pytest.raises(KeystoreSecretError):
        read_passphrase(variable="CORELOCKER_TEST_PASSPHRASE")


def test_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORELOCKER_TEST_PASSPHRASE", raising=False)
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(KeystoreSecretError, match="CORELOCKER_TEST_PASSPHRASE"):
            read_passphrase(variable="CORELOCKER_TEST_PASSPHRASE")


def prompted(typed: bytes, confirm: bool) -> bytes:
    """What a process whose terminal gets `typed` prints as hexadecimal, or the code of its error."""
    program = (
        "from corelocker.bundle.keystore import read_passphrase\n"
        "from corelocker.errors import CoreLockerError\n"
        "try:\n"
        f"    print('<' + read_passphrase(confirm={confirm}).hex() + '>')\n"
        "except CoreLockerError as error:\n"
        "    print('<' + error.code + '>')\n"
    )
    process, terminal = pty.fork()
    if process == 0:
        os.environ["PYTHONPATH"] = str(Path(corelocker.__file__).parents[1])
        os.execv(sys.executable, [sys.executable, "-c", program])
    output = b""
    for line in typed.splitlines(keepends=True):
        while not output.endswith(b": "):
            output += os.read(terminal, 1000)
        os.write(terminal, line)
        output += b"\n"
    while b">" not in output:
        output += os.read(terminal, 1000)
    os.waitpid(process, 0)
    os.close(terminal)
    assert typed.splitlines()[0] not in output.replace(b"\r", b"")
    return output[output.index(b"<") + 1 : output.index(b">")]


def test_passphrase_from_the_terminal() -> None:
    assert prompted(b"typed secret\n", confirm=False) == b"typed secret".hex().encode()
    assert prompted(b"typed secret\ntyped secret\n", confirm=True) == b"typed secret".hex().encode()
    assert prompted(b"typed secret\ntyped sekret\n", confirm=True) == b"keystore-secret"


def test_signing_key_is_p256(store: Keystore) -> None:
    assert isinstance(store.signing_key.curve, ec.SECP256R1)
