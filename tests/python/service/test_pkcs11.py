"""Keys in a token, with SoftHSM: each test has a token of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from corelocker.bundle import jose
from corelocker.bundle.content_keys import tier_keys
from corelocker.bundle.keystore import Kek, Keystore
from corelocker.errors import ConfigError, CoreLockerError, KeystoreAwayError, KeystoreEntryError, KeystoreSecretError
from corelocker.licensing.device_key import SoftwareDeviceKey
from corelocker.licensing.errors import NotReadyError
from corelocker.licensing.license import issue_license, read_license
from corelocker.licensing.tokens import TrustedKeys
from corelocker.service.checks import check_config
from corelocker.service.config import Pkcs11Config, ServiceConfig
from corelocker.service.config_file import load_config
from corelocker.service.limits import Limiters
from corelocker.service.setup import init_development
from corelocker.service.worker import TRY_AGAIN, work
from cryptography.hazmat.primitives.asymmetric import ec

MODULES = [Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")]
MODULE = next((path for path in MODULES if path.exists()), MODULES[0])
if not MODULE.exists() or shutil.which("softhsm2-util") is None:
    pytest.skip("SoftHSM is not installed (Debian: softhsm2)", allow_module_level=True)

import pkcs11  # noqa: E402
from corelocker.service import pkcs11 as ours  # noqa: E402
from corelocker.service.pkcs11 import Pkcs11Kek, Pkcs11Keys  # noqa: E402

PIN, LABEL, SIGNING, WRAPPING = "5678", "unlock test", "license signer", "keystore key"
BUNDLE = UUID("0b5aa3d2-7a52-4c19-8d5d-3a1d1f0a7c01")
TIERS = ("free", "plus", "full")


class Hsm:
    """A SoftHSM token with a signing key pair and an AES key."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        settings = folder / "softhsm2.conf"
        settings.write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        monkeypatch.setenv("SOFTHSM2_CONF", str(settings))
        self.pin_file = folder / "pin"
        self.pin_file.write_text(PIN + "\n")
        arguments = ["--init-token", "--free", "--label", LABEL, "--so-pin", "1234", "--pin", PIN]
        subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)
        self.module = ours._initialize(MODULE, again=True)
        with self.session() as session:
            self.add_pair(session, SIGNING)
            session.generate_key(pkcs11.KeyType.AES, 256, label=WRAPPING, store=True)
        self.config = Pkcs11Config(MODULE, LABEL, self.pin_file, SIGNING)
        self.reference = self.reference_to(WRAPPING)

    def session(self) -> Any:
        self.module.reinitialize()  # ends what others have open: a process logs in once
        return self.module.get_token(token_label=LABEL).open(rw=True, user_pin=PIN)

    @staticmethod
    def add_pair(session: Any, label: str, curve: str = "secp256r1") -> None:
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC,
            {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters(curve)},
            local=True,
        )
        parameters.generate_keypair(label=label, store=True)

    def reference_to(self, label: str) -> str:
        label = label.replace(" ", "%20")
        token = LABEL.replace(" ", "%20")
        return f"token={token};object={label}?module-path={MODULE}&pin-source=file:{self.pin_file}"


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hsm:
    """A token, and the provider as the package's installation registers it."""

    def installed(group: str, name: str) -> list[SimpleNamespace]:
        assert group == "corelocker.kek_providers"
        return [SimpleNamespace(load=lambda: Pkcs11Kek)] if name == "pkcs11" else []

    monkeypatch.setattr("importlib.metadata.entry_points", installed)
    return Hsm(tmp_path, monkeypatch)


@pytest.fixture
def keystore(hsm: Hsm, tmp_path: Path) -> Keystore:
    """The service's keystore, under the token's AES key, opened again from its file."""
    created = Keystore.create(tmp_path / "service-keys.json", Kek("pkcs11", hsm.reference))
    created.add_content_key(BUNDLE, "scanner", 3, TIERS, bytes(range(32)))
    return Keystore.open(tmp_path / "service-keys.json")


def test_a_license_is_signed_in_the_token(hsm: Hsm, keystore: Keystore) -> None:
    keys = Pkcs11Keys(hsm.config, keystore)
    keys.check()
    assert keys.bundles[str(BUNDLE)].model_version == 3
    device = SoftwareDeviceKey(ec.generate_private_key(ec.SECP256R1()))
    now = int(time.time())
    token = issue_license(
        keys.signer, device.public_key, keys.content_key(str(BUNDLE), "plus"), issuer="https://unlock.example.com",
        app="com.example.app", environment="production", bundle=str(BUNDLE), model_version=3, tier="plus",
        issued_at=now, expires_at=now + 3600,
    )  # fmt: skip
    license_ = read_license(token, TrustedKeys([keys.signer.public_key]))
    assert license_.open(device) == tier_keys(bytes(range(32)), BUNDLE, 3)[1]
    with pytest.raises(KeystoreEntryError):
        keys.content_key(str(uuid4()), "plus")


def test_the_private_keys_cannot_be_read_from_the_token(hsm: Hsm) -> None:
    with hsm.session() as session:
        private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=SIGNING)
        secret = session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=WRAPPING)
        for key in (private, secret):
            with pytest.raises(pkcs11.AttributeSensitive):
                key[pkcs11.Attribute.VALUE]


def test_the_keystore_does_not_open_with_another_key_of_the_token(hsm: Hsm, keystore: Keystore) -> None:
    with hsm.session() as session:
        session.generate_key(pkcs11.KeyType.AES, 256, label="other key", store=True)
    wrapped = Pkcs11Kek(hsm.reference).wrap(bytes(32))
    assert Pkcs11Kek(hsm.reference).unwrap(wrapped) == bytes(32)
    with pytest.raises(KeystoreSecretError):
        Pkcs11Kek(hsm.reference_to("other key")).unwrap(wrapped)
    with pytest.raises(KeystoreEntryError):
        Pkcs11Kek(hsm.reference_to("no such key")).unwrap(wrapped)


@pytest.mark.parametrize("at", [0, 11, 12, 43, 44, 59])
def test_a_changed_wrapped_key_is_refused(hsm: Hsm, at: int) -> None:
    kek = Pkcs11Kek(hsm.reference)
    wrapped = bytearray(kek.wrap(os.urandom(32)))
    wrapped[at] ^= 1
    with pytest.raises(KeystoreSecretError):
        kek.unwrap(bytes(wrapped))


@pytest.mark.parametrize("size", [0, 12, 59, 61, 8192])
def test_a_wrapped_key_of_another_size_is_refused(hsm: Hsm, size: int) -> None:
    with pytest.raises(KeystoreSecretError):
        Pkcs11Kek(hsm.reference).unwrap(bytes(size))


def test_no_wrapping_is_like_another(hsm: Hsm) -> None:
    kek = Pkcs11Kek(hsm.reference)
    assert len({kek.wrap(bytes(32)) for _ in range(20)}) == 20


def test_many_threads_sign(hsm: Hsm, keystore: Keystore) -> None:
    signer = Pkcs11Keys(hsm.config, keystore).signer
    messages = [os.urandom(40) for _ in range(400)]
    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(signer.sign, messages))
    assert all(jose.verify(signer.public_key, made, data) for made, data in zip(signatures, messages, strict=True))


def test_a_lost_session_is_opened_again(hsm: Hsm, keystore: Keystore) -> None:
    signer = Pkcs11Keys(hsm.config, keystore).signer
    losses: list[Callable[[], object]] = [
        lambda: signer._token._session.close(),  # type: ignore[attr-defined]
        lambda: hsm.module.finalize(),
        lambda: hsm.module.reinitialize(),
    ]
    for lose in losses:
        lose()
        assert jose.verify(signer.public_key, signer.sign(b"after"), b"after")


def test_a_session_that_is_lost_under_many_threads(hsm: Hsm, keystore: Keystore) -> None:
    signer = Pkcs11Keys(hsm.config, keystore).signer

    def sign(number: int) -> bool:
        if number % 20 == 7:
            with ours._lock:
                hsm.module.reinitialize()
        data = b"%d" % number
        return jose.verify(signer.public_key, signer.sign(data), data)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sign, range(200)))


def test_a_token_that_is_away_and_comes_back(hsm: Hsm, keystore: Keystore) -> None:
    keys = Pkcs11Keys(hsm.config, keystore)
    away = hsm.tokens.with_name("away")
    hsm.tokens.rename(away)
    hsm.tokens.mkdir()
    hsm.module.reinitialize()
    with pytest.raises(NotReadyError):
        keys.check()
    with pytest.raises(NotReadyError):
        keys.signer.sign(b"data")
    hsm.tokens.rmdir()
    away.rename(hsm.tokens)
    keys.check()


def test_a_service_whose_token_is_away_is_tried_again(hsm: Hsm, keystore: Keystore, tmp_path: Path) -> None:
    """Its keystore cannot be opened meanwhile; a worker says so by its exit status, and check-config by a line."""
    publisher = Keystore.create(tmp_path / "keys.json", Kek("pkcs11", hsm.reference))
    files = init_development(tmp_path / "service", publisher, "com.example.app")
    Keystore.open(files.keys).change_secret(Kek("pkcs11", hsm.reference))
    hsm.pin_file.chmod(0o600)
    hsm.tokens.rename(hsm.tokens.with_name("away"))
    hsm.tokens.mkdir()
    hsm.module.reinitialize()
    with pytest.raises(KeystoreAwayError, match="cannot be used"):
        Keystore.open(files.keys)
    config = load_config(files.config)
    (found,) = (each for each in check_config(config) if each.level == "error")
    assert found.code == "keystore-secret"
    assert start_worker(config) == TRY_AGAIN
    hsm.module.reinitialize()


def start_worker(config: ServiceConfig) -> int | None:
    """The exit status of a worker that cannot start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (config, listener, Limiters.of(config), multiprocessing.Pipe()[1])
        worker = multiprocessing.get_context("fork").Process(target=work, args=arguments)
        worker.start()
        worker.join(60)
    return worker.exitcode


def test_the_last_try_is_left_to_the_operator(hsm: Hsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that one more wrong PIN would lock is not logged in to."""
    logins: list[str] = []
    token = SimpleNamespace(flags=pkcs11.TokenFlag.USER_PIN_FINAL_TRY, open=lambda user_pin: logins.append(user_pin))
    module = SimpleNamespace(get_token=lambda token_label: token)
    monkeypatch.setattr(ours, "_initialize", lambda path, again=False: module)
    for _ in range(3):
        with pytest.raises(KeystoreSecretError, match="one more wrong PIN"):
            Pkcs11Kek(hsm.reference).wrap(bytes(32))
    token.flags = pkcs11.TokenFlag.USER_PIN_COUNT_LOW
    with pytest.raises(AttributeError):
        Pkcs11Kek(hsm.reference).wrap(bytes(32))
    assert logins == [PIN]


def test_a_provider_whose_packages_are_not_installed(tmp_path: Path) -> None:
    """In a base install, the command line says what is missing."""
    hide = "import sys\nsys.modules['pkcs11'] = None\nfrom corelocker.cli import app\nsys.exit(app.run(sys.argv[1:]))\n"
    kek = "pkcs11:token=t;object=k?module-path=/m&pin-source=/p"
    command = [sys.executable, "-c", hide, "keystore", "init", str(tmp_path / "keys.json"), "--kek", kek]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done
    assert "'pkcs11' needs pkcs11, which is not installed. pip install 'corelocker[service]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_pin_is_tried_once(hsm: Hsm, keystore: Keystore) -> None:
    keys = Pkcs11Keys(hsm.config, keystore)
    hsm.pin_file.write_text("0000")
    hsm.module.reinitialize()
    for _ in range(20):
        with pytest.raises(KeystoreSecretError, match="refused the PIN") as refusal:
            keys.check()
        assert "0000" not in str(refusal.value)
    # SoftHSM locks nobody out; that it was asked once is to be seen in that a right PIN is not tried either.
    hsm.pin_file.write_text(PIN)
    with pytest.raises(KeystoreSecretError):
        keys.check()
    Pkcs11Keys(hsm.config, keystore).check()


def test_keys_that_cannot_sign_licenses(hsm: Hsm, keystore: Keystore) -> None:
    with hsm.session() as session:
        hsm.add_pair(session, "p384", "secp384r1")
        hsm.add_pair(session, "mixed")
        session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label="mixed").destroy()
        hsm.add_pair(session, "mixed 2")
        public = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label="mixed 2")
        public.copy({pkcs11.Attribute.LABEL: "mixed"})
        hsm.add_pair(session, "twice")
        hsm.add_pair(session, "twice")
    for label, said in (("no", "NoSuchKey"), ("p384", "P-256"), ("mixed", "no pair"), ("twice", "Multiple")):
        config = Pkcs11Config(MODULE, LABEL, hsm.pin_file, label)
        with pytest.raises(KeystoreEntryError, match=said):
            Pkcs11Keys(config, keystore)


def test_what_is_not_there(hsm: Hsm, keystore: Keystore, tmp_path: Path) -> None:
    cases: list[tuple[Pkcs11Config, type[CoreLockerError]]] = [
        (Pkcs11Config(tmp_path / "no-module.so", LABEL, hsm.pin_file, SIGNING), ConfigError),
        (Pkcs11Config(hsm.pin_file, LABEL, hsm.pin_file, SIGNING), ConfigError),
        (Pkcs11Config(MODULE, "another token", hsm.pin_file, SIGNING), NotReadyError),
    ]
    for config, refusal in cases:
        with pytest.raises(refusal):
            Pkcs11Keys(config, keystore)


def test_a_worker_process_has_a_session_of_its_own(hsm: Hsm, keystore: Keystore) -> None:
    signer = Pkcs11Keys(hsm.config, keystore).signer
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if jose.verify(signer.public_key, signer.sign(b"child"), b"child") else 2
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert jose.verify(signer.public_key, signer.sign(b"parent"), b"parent")


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "token=t;object=k",
        "token=t;object=k?module-path=/m",
        "token=t;object=k?module-path=/m&pin-source=/p&pin-value=1234",
        "token=t;token=t;object=k?module-path=/m&pin-source=/p",
        "token=;object=k?module-path=/m&pin-source=/p",
        "object=k?module-path=/m&pin-source=/p",
    ],
)
def test_a_reference_that_is_no_uri_of_a_key(reference: str) -> None:
    with pytest.raises(ConfigError, match="token, object, module-path and pin-source"):
        Pkcs11Kek(reference)
