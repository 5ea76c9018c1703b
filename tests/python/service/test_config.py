"""The configuration file, and what keeps a service from starting."""

from __future__ import annotations

import json
import os
import resource
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from corelocker.attestation.anchors import GOOGLE_ROOTS
from corelocker.bundle import jose
from corelocker.bundle.content_keys import new_content_key
from corelocker.bundle.keystore import FileKek, Kek, Keystore
from corelocker.errors import ConfigError, FileAccessError
from corelocker.licensing.evidence import Format
from corelocker.purchases.app_store import APPLE_ROOT_CA_G3
from corelocker.service.checks import NETWORK_FILE_SYSTEMS, check_config, network_file_system
from corelocker.service.config import PlayIntegritySettings, ServiceConfig
from corelocker.service.config_file import load_config
from corelocker.service.errors import ServiceRefusesToStartError
from corelocker.service.verifiers import build_verifiers
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from support import attestation_forge as forge
from support.play_server import service_account

BUNDLE = str(uuid.UUID(int=7))
APP = "com.example.app"


@dataclass
class Folder:
    """A folder with a sound production configuration, which a test bends."""

    path: Path
    publisher: str

    @property
    def file(self) -> Path:
        return self.path / "service.toml"

    def replace(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert text.count(old) == 1, (old, text.count(old))
        self.file.write_text(text.replace(old, new))

    def append(self, text: str) -> None:
        self.file.write_text(self.file.read_text() + text)

    def write(self, name: str, data: str | bytes, mode: int = 0o600) -> None:
        (self.path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        (self.path / name).chmod(mode)

    def load(self) -> ServiceConfig:
        return load_config(self.file)

    def findings(self) -> dict[str, str]:
        return {finding.code: finding.level for finding in check_config(self.load())}

    def errors(self) -> set[str]:
        return {code for code, level in self.findings().items() if level == "error"}


def pem(key: Any) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def production(tmp_path: Path) -> Folder:
    FileKek.generate(tmp_path / "kek")
    store = Keystore.create(tmp_path / "keys.json", Kek("file", str(tmp_path / "kek")))
    store.add_content_key(uuid.UUID(BUNDLE), "scanner", 3, ("free", "plus", "full"), new_content_key())
    publisher = jose.thumbprint(ec.generate_private_key(ec.SECP256R1()).public_key())
    folder = Folder(tmp_path, publisher)
    api_key = ec.generate_private_key(ec.SECP256R1())
    folder.write("api.p8", api_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    folder.write("account.json", json.dumps(service_account("https://oauth2.googleapis.com")))
    folder.write("backend.pem", pem(api_key.public_key()), 0o644)
    folder.write("backend.jwk", json.dumps(jose.public_jwk(api_key.public_key())), 0o644)
    folder.write("revocation.json", '{"entries": {}}', 0o644)
    folder.write("google.pem", pem(load_der_public_key(GOOGLE_ROOTS.keys[0])), 0o644)
    folder.write("test-root.pem", pem(forge.ROOT_KEY.public_key()), 0o644)
    folder.write("apple.der", APPLE_ROOT_CA_G3, 0o644)
    folder.file.write_text(
        f"""
environment = "production"
issuer = "https://unlock.example.com"
database_url = "sqlite:///unlock.sqlite"

[keys]
keystore = "keys.json"
publishers = ["{publisher}"]

[http]
trusted_proxies = ["127.0.0.1"]

[attestation]
revocation_list = "revocation.json"

[[apps]]
id = "{APP}"
[apps.android]
signer_digests = ["{forge.SIGNER.hex()}"]
[apps.apple]
app_id = "{forge.APP_ID}"
[apps.app_store]
app_apple_id = 1234
[apps.app_store.api]
issuer_id = "57246542-96fe-1a63-e053-0824d011072a"
key_id = "2X9R4HXF34"
private_key_file = "api.p8"
[apps.google_play]
service_account_file = "account.json"
notice_audience = "https://unlock.example.com"
notice_sender = "push@project.iam.gserviceaccount.com"
[apps.grant]
issuer = "shop"
keys = ["backend.pem", "backend.jwk"]

[[products]]
app = "{APP}"
product = "pro"
bundle = "{BUNDLE}"
tier = "full"
"""
    )
    return folder


def test_a_sound_production_configuration(production: Folder) -> None:
    assert check_config(production.load()) == []
    config = production.load()
    assert config.apps[APP].formats == {Format.ANDROID_KEY, Format.APPLE_APP_ATTEST}
    assert config.sqlite_path == production.path / "unlock.sqlite"
    assert config.catalog({BUNDLE: ("free", "plus", "full")}).unlocks(APP, "pro", BUNDLE, "plus")


def test_play_integrity_uses_google_plays_account_unless_it_has_one(production: Folder) -> None:
    production.replace(
        *integrity('device_verdicts = ["MEETS_STRONG_INTEGRITY"]\nrequire_licensed = true\nmax_age = 300')
    )
    assert check_config(production.load()) == []
    android = production.load().apps[APP].android
    assert android is not None
    assert android.play_integrity == PlayIntegritySettings(
        production.path / "account.json", ("MEETS_STRONG_INTEGRITY",), require_licensed=True, max_age=300
    )
    production.write("own.json", json.dumps(service_account("https://oauth2.googleapis.com")))
    production.replace(INTEGRITY, INTEGRITY + 'service_account_file = "own.json"\n')
    android = production.load().apps[APP].android
    assert android is not None
    assert android.play_integrity is not None
    assert android.play_integrity.service_account_file == production.path / "own.json"
    # A service account for Play's purchases alone is not asked for.
    text = production.file.read_text()
    start, end = text.index("[apps.google_play]"), text.index("[apps.grant]")
    production.file.write_text(text[:start] + text[end:])
    assert check_config(production.load()) == []
    production.replace('service_account_file = "own.json"\n', "")
    with pytest.raises(ConfigError, match=r"apps\[0\].android.play_integrity.service_account_file: missing"):
        production.load()


# --- what production refuses -----------------------------------------------------------------------


def development_root(folder: Folder) -> None:
    folder.replace("[apps.grant]", '[apps.development]\nroots = ["test-root.pem"]\n[apps.grant]')


def readable(name: str) -> Callable[[Folder], None]:
    return lambda folder: (folder.path / name).chmod(0o644)


def bend(old: str, new: str) -> Callable[[Folder], None]:
    return lambda folder: folder.replace(old, new)


def database_readable(folder: Folder) -> None:
    folder.write("unlock.sqlite", b"", 0o644)


def passphrase_readable(folder: Folder) -> None:
    folder.write("passphrase", "x", 0o640)
    folder.replace('keystore = "keys.json"', 'keystore = "keys.json"\npassphrase_file = "passphrase"')


def database_password(folder: Folder) -> None:
    folder.replace("sqlite:///unlock.sqlite", "postgresql://unlock:secret@db.example.com/unlock")
    folder.file.chmod(0o644)


def database_file_readable(folder: Folder) -> None:
    folder.write("url", "postgresql://unlock:secret@db.example.com/unlock\n", 0o644)
    folder.replace('database_url = "sqlite:///unlock.sqlite"', 'database_url_file = "url"')


def shared_key(folder: Folder) -> None:
    folder.replace(folder.publisher, Keystore.open(folder.path / "keys.json").publisher)


INTEGRITY = "[apps.android.play_integrity]\n"


def integrity(settings: str) -> tuple[str, str]:
    """A change that asks for Play Integrity's verdict."""
    return "[apps.apple]\n", f"{INTEGRITY}{settings}\n[apps.apple]\n"


def integrity_account(data: str, mode: int) -> Callable[[Folder], None]:
    def change(folder: Folder) -> None:
        folder.write("integrity.json", data, mode)
        folder.replace(*integrity('service_account_file = "integrity.json"'))

    return change


REFUSED: dict[str, tuple[Callable[[Folder], None], str]] = {
    "development roots": (development_root, "development-attestation"),
    "Android roots of a test": (bend("[apps.apple]", 'roots = ["test-root.pem"]\n[apps.apple]'), "attestation-roots"),
    "Apple roots of a test": (
        bend("[apps.app_store]\n", 'roots = ["test-root.pem"]\n[apps.app_store]\n'), "attestation-roots"),
    "App Attest's development environment": (
        bend(f'app_id = "{forge.APP_ID}"', f'app_id = "{forge.APP_ID}"\nenvironment = "development"'),
        "app-attest-environment"),
    "Xcode": (bend("app_apple_id = 1234", 'app_apple_id = 1234\nstore = "Xcode"'), "app-store-environment"),
    "LocalTesting": (bend("app_apple_id = 1234", 'app_apple_id = 1234\nstore = "LocalTesting"'), "app-store-environment"),
    "Sandbox": (bend("app_apple_id = 1234", 'app_apple_id = 1234\nstore = "Sandbox"'), "app-store-environment"),
    "App Store roots": (bend("app_apple_id = 1234", 'app_apple_id = 1234\nroots = ["apple.der"]'), "app-store-roots"),
    "no Apple ID": (bend("app_apple_id = 1234", ""), "app-settings"),
    "another Apple server": (bend('key_id = "2X9R4HXF34"', 'key_id = "x"\nbase_url = "https://x"'), "store-address"),
    "another Google server": (bend("notice_audience", 'base_url = "https://x"\nnotice_audience'), "store-address"),
    "other Google keys": (bend("notice_audience", 'notice_keys_url = "https://x"\nnotice_audience'), "store-address"),
    "another Play Integrity server": (bend(*integrity('base_url = "https://x"')), "store-address"),
    "a readable account for Play Integrity": (integrity_account("{}", 0o644), "secret-file-permission"),
    "no account for Play Integrity": (bend(*integrity('service_account_file = "integrity.json"')), "secret-file"),
    "an account for Play Integrity that is none": (integrity_account("[]", 0o600), "app-settings"),
    "an account for Play Integrity without a key": (integrity_account("{}", 0o600), "app-settings"),
    "no signer of the package": (bend(f'"{forge.SIGNER.hex()}"', ""), "android-signer-missing"),
    "a signer that is no digest": (bend(forge.SIGNER.hex(), "abcd"), "app-settings"),
    "no revocation list": (bend('revocation_list = "revocation.json"', ""), "revocation-source-missing"),
    "a revocation list over http": (
        bend('revocation_list = "revocation.json"', 'revocation_url = "http://x/status"'), "revocation-source-http"),
    "a revocation list that is none": (lambda folder: folder.write("revocation.json", "{}"), "revocation-list"),
    "an issuer over http": (bend('issuer = "https://unlock', 'issuer = "http://unlock'), "issuer-not-https"),
    "a readable keystore": (readable("keys.json"), "keystore-permission"),
    "a readable key-encryption key": (readable("kek"), "keystore-permission"),
    "no keystore": (lambda folder: (folder.path / "keys.json").unlink(), "file-access"),
    "a damaged keystore": (lambda folder: folder.write("keys.json", "{}"), "keystore-format"),
    "a readable passphrase": (passphrase_readable, "secret-file-permission"),
    "a readable service account": (readable("account.json"), "secret-file-permission"),
    "a readable API key": (readable("api.p8"), "secret-file-permission"),
    "a readable database": (database_readable, "secret-file-permission"),
    "a password in a readable file": (database_password, "secret-file-permission"),
    "a readable file with the database's address": (database_file_readable, "secret-file-permission"),
    "no service account": (lambda folder: (folder.path / "account.json").unlink(), "secret-file"),
    "a service account that is none": (lambda folder: folder.write("account.json", "[]"), "app-settings"),
    "a grant key that is none": (lambda folder: folder.write("backend.pem", "x"), "app-settings"),
    "an API key that is none": (lambda folder: folder.write("api.p8", "x"), "app-settings"),
    "the publisher's key signs": (shared_key, "signing-key-shared"),
    "no such folder": (bend("sqlite:///unlock", "sqlite:///no/such/unlock"), "database-folder"),
    "a UNC path": (bend("sqlite:///unlock.sqlite", "sqlite://///server/share/unlock.sqlite"), "sqlite-network"),
    "a product of an unknown bundle": (bend(BUNDLE, str(uuid.UUID(int=8))), "products"),
    "a product of an unknown tier": (bend('tier = "full"', 'tier = "ultra"'), "products"),
    "a product of the tier that ships": (bend('tier = "full"', 'tier = "free"'), "products"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_production_refuses(production: Folder, case: str) -> None:
    change, code = REFUSED[case]
    change(production)
    assert code in production.errors()


@pytest.mark.parametrize(
    "case", ["development roots", "a readable keystore", "a UNC path", "Xcode", "an issuer over http"]
)
def test_the_service_does_not_start(production: Folder, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    from corelocker.service.run import serve

    REFUSED[case][0](production)
    with pytest.raises(ServiceRefusesToStartError):
        serve(production.load())
    assert f"[{REFUSED[case][1]}]" in capsys.readouterr().err


@pytest.mark.parametrize("case", [
    "development roots", "Android roots of a test", "Apple roots of a test", "App Attest's development environment",
    "Xcode", "LocalTesting", "Sandbox", "no Apple ID", "another Apple server", "another Google server", "other Google keys",
    "another Play Integrity server", "an account for Play Integrity that is none", "no signer of the package",
    "a grant key that is none",
])  # fmt: skip
def test_the_verifiers_refuse_too_what_was_not_checked_before(production: Folder, case: str) -> None:
    """Whoever makes a service without `check_config` gets no unsafe one."""
    REFUSED[case][0](production)
    config = production.load()
    with pytest.raises(ConfigError):
        build_verifiers(config, config.apps[APP])


def test_in_development_the_same_is_allowed_or_a_warning(production: Folder) -> None:
    production.replace('environment = "production"', 'environment = "development"')
    for case in ("development roots", "Android roots of a test", "App Attest's development environment",
                 "another Apple server", "a readable service account", "an issuer over http",
                 "no revocation list"):  # fmt: skip
        REFUSED[case][0](production)
    production.replace("app_apple_id = 1234", 'app_apple_id = 1234\nstore = "Sandbox"')
    assert production.findings() == {"secret-file-permission": "warning", "revocation-source-missing": "warning"}
    # The keystore itself is never opened when others can read it.
    (production.path / "keys.json").chmod(0o644)
    assert production.errors() == {"keystore-permission"}


def test_what_is_only_careless_is_a_warning(production: Folder) -> None:
    production.replace(f'publishers = ["{production.publisher}"]', "")
    production.replace('notice_audience = "https://unlock.example.com"\n', "")
    production.replace('notice_sender = "push@project.iam.gserviceaccount.com"\n', "")
    start = production.file.read_text().index("[apps.app_store.api]")
    text = production.file.read_text()
    production.file.write_text(text[:start] + text[text.index("[apps.google_play]") :])
    production.replace("[http]\n", '[http]\nhost = "0.0.0.0"\nmax_connections = 1000\n')
    old = time.time() - 2 * 86400
    os.utime(production.path / "revocation.json", (old, old))
    assert production.findings() == dict.fromkeys(
        ("publishers-missing", "google-play-notices", "app-store-api", "plain-http", "revocation-list-stale"), "warning"
    )


def test_limits_that_would_not_hold_are_a_warning(production: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    production.replace('trusted_proxies = ["127.0.0.1"]\n', "max_connections = 5000\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert production.findings() == {"trusted-proxies-missing": "warning", "file-limit": "warning"}


def test_vendors_own_roots_may_be_named_in_development_only(production: Folder) -> None:
    """Google's own roots as a file change nothing, but nobody can see that at a glance."""
    production.replace("[apps.apple]", 'roots = ["google.pem"]\n[apps.apple]')
    assert production.errors() == {"attestation-roots"}


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export /srv/unlock nfs4 rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
/dev/sdb1 /srv/unlock/local ext4 rw 0 0
tmpfs /over tmpfs rw 0 0
me@host: /over fuse.sshfs rw 0 0
host9 /nine 9p rw 0 0
short
"""


@pytest.mark.parametrize(("path", "kind"), [
    ("/var/lib/unlock.sqlite", None), ("/srv/unlock/x.sqlite", "nfs4"), ("/srv/unlock/local/x.sqlite", None),
    ("/srv/unlocked/x.sqlite", None), ("/mnt/my share/x.sqlite", "cifs"), ("/over/x.sqlite", "fuse.sshfs"),
    ("/nine/a/b/x.sqlite", "9p"), ("//server/share/x.sqlite", "UNC path"), ("\\\\server\\share\\x", "UNC path"),
])  # fmt: skip
def test_network_file_systems(path: str, kind: str | None) -> None:
    class Named(type(Path())):  # type: ignore[misc]
        def __str__(self) -> str:
            return path

    given = Named(path) if path.startswith(("//", "\\\\")) else Path(path)
    assert network_file_system(given, MOUNTS) == kind
    assert kind in (None, "UNC path") or kind in NETWORK_FILE_SYSTEMS


def test_a_link_to_a_network_file_system_is_followed(tmp_path: Path) -> None:
    target = tmp_path / "remote"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    mounts = f"/dev/sda1 / ext4 rw 0 0\nserver:/x {os.path.realpath(target)} nfs rw 0 0\n"
    assert network_file_system(tmp_path / "link" / "unlock.sqlite", mounts) == "nfs"
    assert network_file_system(tmp_path / "unlock.sqlite", mounts) is None
    assert network_file_system(tmp_path / "unlock.sqlite", "") is None


def test_production_refuses_sqlite_on_a_network_file_system(
    production: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = f"/dev/sda1 / ext4 rw 0 0\nserver:/x {os.path.realpath(production.path)} nfs4 rw 0 0\n"
    monkeypatch.setattr("corelocker.service.checks._mounts", lambda: mounts)
    assert production.errors() == {"sqlite-network"}
    production.replace("sqlite:///unlock.sqlite", "postgresql://unlock@db.example.com/unlock")
    assert production.errors() == set()


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "named"), [
    ('environment = "production"', 'environment = "staging"', "environment"),
    ('environment = "production"', "", "environment"),
    ('issuer = "https://unlock.example.com"', "", "issuer"),
    ('issuer = "https://unlock.example.com"', "issuer = 1", "issuer"),
    ('database_url = "sqlite:///unlock.sqlite"', "", "database_url"),
    ("sqlite:///unlock.sqlite", "mysql://x/y", "database_url"),
    ("sqlite:///unlock.sqlite", "sqlite:///", "database_url"),
    ("sqlite:///unlock.sqlite", "sqlite://", "database_url"),
    ("sqlite:///unlock.sqlite", "sqlite:///x?mode=memory", "database_url"),
    ('database_url = "sqlite:///unlock.sqlite"', 'database_url_file = "none"', "database_url_file"),
    ('keystore = "keys.json"', "", "keys.keystore"),
    ('keystore = "keys.json"', 'keystore = "keys.json"\nprovider = "pkcs11"', "keys.pkcs11"),
    ('keystore = "keys.json"', 'keystore = "keys.json"\nprovider = "vault"', "keys.provider"),
    ('keystore = "keys.json"', 'keystore = "keys.json"\nkeystoer = "x"', "keys.keystoer"),
    ("app_apple_id = 1234", 'app_apple_id = "1234"', "apps[0].app_store.app_apple_id"),
    ("app_apple_id = 1234", "app_apple_id = true", "apps[0].app_store.app_apple_id"),
    ("app_apple_id = 1234", "app_apple_id = 1234\nmax_age = 0", "apps[0].app_store.max_age"),
    (f'["{forge.SIGNER.hex()}"]', "[1]", "apps[0].android.signer_digests"),
    ("[apps.android]", "[apps.androit]", "apps[0].androit"),
    (*integrity("max_age = 59"), "apps[0].android.play_integrity.max_age"),
    (*integrity("max_agee = 60"), "apps[0].android.play_integrity.max_agee"),
    (*integrity("require_licensed = 1"), "apps[0].android.play_integrity.require_licensed"),
    (*integrity('device_verdicts = "MEETS_DEVICE_INTEGRITY"'), "apps[0].android.play_integrity.device_verdicts"),
    (*integrity('device_verdicts = ["MEETS_DEVICE"]'), "apps[0].android.play_integrity.device_verdicts"),
    (*integrity("service_account_file = 1"), "apps[0].android.play_integrity.service_account_file"),
    ('notice_sender = "push@project.iam.gserviceaccount.com"', "", "apps[0].google_play.notice_sender"),
    ('product = "pro"', 'product = ""', "products[0].product"),
    ('product = "pro"', 'product = "pro"\nprice = 3', "products[0].price"),
    (f'bundle = "{BUNDLE}"', 'bundle = "x"', "products[0].bundle"),
    (f'app = "{APP}"', 'app = "else"', "products[0].app"),
    ("[attestation]", "[attestation]\nchallenge_lifetime = 0", "attestation.challenge_lifetime"),
    ("[attestation]", '[attestation]\nrevocation_url = "https://x"', "attestation.revocation_list"),
    ("[http]\n", "[http]\nport = 70000\n", "http.port"),
    ('trusted_proxies = ["127.0.0.1"]', 'trusted_proxies = ["x"]', "http.trusted_proxies"),
    ("[attestation]", "[licenses]\nlifetime = 1\n[attestation]", "licenses.lifetime"),
    ("[attestation]", "[licenses]\nlifetime = 99999\nperpetual = true\n[attestation]", "licenses.perpetual"),
    ("[attestation]", "[licenses]\ndevices = 0\n[attestation]", "licenses.devices"),
    ("[attestation]", '[[models]]\nname = "x"\nminimum_version = -1\n[attestation]', "models[0].minimum_version"),
    ("[attestation]", "[unheard]\n[attestation]", "unheard"),
    ('id = "com.example.app"', "", "apps[0].id"),
])  # fmt: skip
def test_an_entry_that_makes_no_sense_is_named(production: Folder, old: str, new: str, named: str) -> None:
    production.replace(old, new)
    with pytest.raises(ConfigError) as raised:
        production.load()
    assert named in str(raised.value)
    assert str(raised.value).startswith("service.toml")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = ", b"[[[[", b"x" * (1 << 20) + b"x", b"a = " + b"[" * 100_000],
                         ids=["bytes", "value", "brackets", "large", "deep"])  # fmt: skip
def test_a_file_that_is_no_toml(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(data)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "x.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="No such file"):
        load_config(tmp_path / "x.toml")


def test_apps_that_cannot_be_told_apart(production: Folder) -> None:
    production.append(f'[[apps]]\nid = "{APP}"\n')
    with pytest.raises(ConfigError, match="twice"):
        production.load()
    production.replace(
        f'[[apps]]\nid = "{APP}"\n[apps.android]', f'[[apps]]\nid = "other"\n[apps.app_store]\nbundle_id = "{APP}"\n'
        f'[[apps]]\nid = "{APP}"\n[apps.android]'
    )  # fmt: skip
    production.replace(f'tier = "full"\n[[apps]]\nid = "{APP}"\n', 'tier = "full"\n')
    with pytest.raises(ConfigError, match="both"):
        production.load()


def test_the_database_address_is_not_shown(production: Folder) -> None:
    database_password(production)
    config = production.load()
    assert config.database_url == "postgresql+psycopg://unlock:secret@db.example.com/unlock"
    assert "secret" not in repr(config)


def test_the_database_address_comes_from_a_file(production: Folder) -> None:
    database_file_readable(production)
    (production.path / "url").chmod(0o600)
    assert production.load().database_url.endswith("@db.example.com/unlock")
    assert production.errors() == set()
