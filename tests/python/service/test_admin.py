"""What operators do: set a service up, look, revoke, make room; through the commands, and what stays in the audit log."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import stat
import struct
import subprocess
import sys
import termios
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.keystore import FileKek, Kek, Keystore
from corelocker.cli.app import app
from corelocker.errors import ConfigError, KeystoreEntryError, OutputExistsError
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.development import DevelopmentKey, DevelopmentRoot
from corelocker.licensing.device_key import SoftwareDeviceKey
from corelocker.licensing.errors import (
    DeviceInactiveError,
    LicenseRevokedError,
    LicenseUnknownError,
    PurchaseRevokedError,
)
from corelocker.licensing.evidence import Format, evidence_to_json
from corelocker.licensing.license import read_license
from corelocker.licensing.tokens import TrustedKeys
from corelocker.service import admin, setup
from corelocker.service.checks import check_config
from corelocker.service.config_file import load_config
from corelocker.service.core import UnlockService
from corelocker.service.errors import EntitlementUnknownError
from corelocker.service.keys import KeystoreKeys, open_keys
from corelocker.service.messages import ChallengeRequest, Issued, RenewRequest, UnlockRequest
from corelocker.service.records import PurchaseKey
from corelocker.service.storage import Storage
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

APP = "com.example.app"
TIERS = ("free", "plus", "full")


class ServiceFolder:
    """A publisher's keystore and a development service that was set up by the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = str(uuid.uuid4())
        self.publisher = publisher_in(folder)
        self.content_key = new_content_key()
        self.publisher.add_content_key(uuid.UUID(self.bundle), "scanner", 1, TIERS, self.content_key)
        self.made = self.json("service", "init", "unlock", "--app", APP, "--port", "8441")
        self.files = setup.files_of(folder / "unlock")

    def __call__(self, *arguments: str, code: int | None = 0) -> str:
        """What the command prints; with `code` None it may fail with any."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CORELOCKER")}
        done = subprocess.run(
            [sys.executable, "-m", "corelocker", *arguments], cwd=self.folder, env=environment,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code or (code is None and done.returncode > 0), (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int | None = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    def on_service(self, *arguments: str, code: int | None = 0) -> Any:
        return self.json(*arguments, "--config", "unlock/service.toml", code=code)

    def service(self) -> tuple[UnlockService, Storage]:
        config = load_config(self.files.config)
        storage = Storage.open(config.database_url, migrate=True)
        return UnlockService(config, storage, open_keys(config.keys)), storage


class Phone:
    """A device that speaks to the core."""

    def __init__(self, place: ServiceFolder, service: UnlockService) -> None:
        self.place, self.service = place, service
        self.key = SoftwareDeviceKey(ec.generate_private_key(ec.SECP256R1()))
        pem = place.files.development_root.read_text()
        self.attestation: DevelopmentKey = DevelopmentRoot.from_pem(pem, pem).issue("phone", datetime.now(UTC))

    def proof(self, challenge: str, token: str, tier: str) -> dict[str, Any]:
        request = AttestedRequest(challenge, APP, self.place.bundle, tier, self.key.public_key, token)
        return evidence_to_json(self.attestation.attest(request.digest(Format.DEVELOPMENT)))

    def unlock(self, grant: str, tier: str = "full") -> Issued:
        challenge = self.service.challenges.issue(ChallengeRequest()).challenge
        return self.service.decisions.unlock(
            UnlockRequest.from_json(
                {
                    "challenge": challenge,
                    "app": APP,
                    "bundle": self.place.bundle,
                    "tier": tier,
                    "device_key": jose.public_jwk(self.key.public_key),
                    "attestation": self.proof(challenge, grant, tier),
                    "purchase": {"provider": "grant", "token": grant},
                }
            )
        )

    def renew(self, license_id: str) -> Issued:
        challenge = self.service.challenges.issue(ChallengeRequest()).challenge
        proof = self.proof(challenge, renewal_token(license_id), "full")
        return self.service.decisions.renew(
            license_id, RenewRequest.from_json({"challenge": challenge, "attestation": proof})
        )


def publisher_in(folder: Path) -> Keystore:
    FileKek.generate(folder / "kek")
    return Keystore.create(folder / "keys.json", Kek("file", str(folder / "kek")))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> ServiceFolder:
    return ServiceFolder(tmp_path_factory.mktemp("place"))


# --- setting up ------------------------------------------------------------------------------------


def test_a_development_service_is_ready(place: ServiceFolder) -> None:
    config = load_config(place.files.config)
    assert check_config(config) == []
    keys = f"keys: they open; {place.made['service_thumbprint']} signs licenses; bundles with content keys: 1"
    assert place.on_service("service", "check-config") == {
        "config": "unlock/service.toml", "ok": True, "findings": [],
        "trials": [
            {"level": "ok", "code": "keys", "message": keys, "hint": ""},
            {"level": "ok", "code": "database", "message": "database: it is made at the first start", "hint": ""},
        ],
    }  # fmt: skip
    assert (config.environment, config.issuer, config.http.port) == ("development", "http://127.0.0.1:8441", 8441)
    assert {(entry.product, entry.unlock.tier) for entry in config.products} == {("plus", "plus"), ("full", "full")}
    assert place.made["url"] == config.issuer
    for name in ("config", "keys", "kek", "development_root", "grant_key"):
        assert stat.S_IMODE(Path(place.folder, place.made[name]).stat().st_mode) == 0o600, name


def test_the_service_signs_with_a_key_of_its_own(place: ServiceFolder) -> None:
    store = Keystore.open(place.files.keys)
    assert store.publisher != place.publisher.publisher
    assert place.made["service_thumbprint"] == store.publisher
    assert place.files.service_key.read_text() == setup.public_pem(store.signing_key.public_key())
    assert store.content_key(uuid.UUID(place.bundle)) == place.content_key
    # Nothing of the publisher's signing key came along.
    assert {key.thumbprint for key in store.publisher_keys} == {store.publisher}


def test_setting_up_replaces_nothing(place: ServiceFolder) -> None:
    before = {path: path.read_bytes() for path in (place.folder / "unlock").iterdir() if path.is_file()}
    answer = place.json("service", "init", "unlock", "--app", APP, code=1)
    assert answer["error"]["code"] == "output-exists"
    with pytest.raises(OutputExistsError):
        setup.init_development(place.folder / "unlock", place.publisher, APP)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_products_can_be_named(place: ServiceFolder, tmp_path: Path) -> None:
    product = f"pro=1={place.bundle}:full"
    place("service", "init", str(tmp_path / "a"), "--app", APP, "--product", f"pro={place.bundle}:full")
    config = load_config(tmp_path / "a" / "service.toml")
    assert [(entry.product, entry.unlock.tier) for entry in config.products] == [("pro", "full")]
    place("service", "init", str(tmp_path / "b"), "--app", APP, "--product", "pro", code=2)
    place("service", "init", str(tmp_path / "c"), "--app", APP, "--product", product, code=2)


@pytest.mark.parametrize("app", ['a"b', "a\nb", "[x]", "\u00e4\\"])
def test_names_are_quoted(tmp_path: Path, app: str) -> None:
    publisher = publisher_in(tmp_path)
    if not app.isprintable():
        with pytest.raises(ConfigError):
            setup.init_development(tmp_path / "s", publisher, app)
        return
    setup.init_development(tmp_path / "s", publisher, app)
    assert list(load_config(tmp_path / "s" / "service.toml").apps) == [app]


def test_content_keys_of_new_bundles_are_copied(tmp_path: Path) -> None:
    place = ServiceFolder(tmp_path)
    newer, unsold = uuid.uuid4(), uuid.uuid4()
    for bundle in (newer, unsold):
        # As `corelocker lock` does: with the samples of the bundle's header.
        place.publisher.add_content_key(bundle, "scanner", 2, TIERS, new_content_key(), [bundle.bytes * 2])
    assert place.on_service("service", "import-keys", "--bundle", str(newer))["imported"] == [str(newer)]
    assert place.on_service("service", "import-keys", "--bundle", str(newer))["imported"] == []
    place("service", "import-keys", "--config", "unlock/service.toml", "--bundle", "x", code=2)
    assert place.on_service("service", "import-keys", "--bundle", str(uuid.uuid4()), code=1)["error"]["code"]
    keys = open_keys(load_config(place.files.config).keys)
    assert set(keys.bundles) == {place.bundle, str(newer)}
    expected = tier_keys(place.publisher.content_key(newer), newer, 3)
    assert [keys.content_key(str(newer), tier) for tier in TIERS] == list(expected)
    with pytest.raises(KeystoreEntryError):
        keys.content_key(str(newer), "ultra")
    # The same bundle with another key is a mistake that must not pass.
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    other = publisher_in(stranger)
    other.add_content_key(newer, "scanner", 2, TIERS, new_content_key())
    with pytest.raises(KeystoreEntryError):
        setup.import_content_keys(Keystore.open(place.files.keys), other, None)


def test_check_config_finds_and_exits(tmp_path: Path) -> None:
    place = ServiceFolder(tmp_path)
    (tmp_path / "unlock" / "service-keys.json").chmod(0o644)
    answer = place.on_service("service", "check-config", code=1)
    assert (answer["ok"], [finding["code"] for finding in answer["findings"]]) == (False, ["keystore-permission"])
    assert "keystore-permission" in place("service", "check-config", "--config", "unlock/service.toml", code=1)
    assert place.json("service", "check-config", "--config", "none.toml", code=1)["error"]["code"] == "file-access"


def test_a_database_is_made(tmp_path: Path) -> None:
    place = ServiceFolder(tmp_path)
    assert place.on_service("license", "list", code=1)["error"]["code"] == "storage-unavailable"
    assert place.on_service("service", "migrate") == {"version": "0002"}
    assert place.on_service("license", "list") == {"licenses": []}


# --- rotation --------------------------------------------------------------------------------------


def test_the_signing_key_is_rotated_without_a_gap(tmp_path: Path) -> None:
    place = ServiceFolder(tmp_path)
    old = Keystore.open(place.files.keys).publisher
    place("keystore", "rotate", "unlock/service-keys.json", "--signing-key", "--keep-private")
    new = Keystore.open(place.files.keys).publisher
    assert new != old
    text = place.files.config.read_text()
    place.files.config.write_text(text.replace("[keys]", f'[keys]\nsigning_key = "{old}"'))
    shown = place.on_service("service", "keys", "--out", "pins")
    assert (shown["signing"], {key["thumbprint"] for key in shown["keys"]}) == (old, {old, new})
    assert {path.name for path in (tmp_path / "pins").iterdir()} == {f"{old}.pem", f"{new}.pem"}
    pinned = TrustedKeys.of_jwks([key["jwk"] for key in shown["keys"]])
    service, storage = place.service()
    phone = Phone(place, service)
    grant = issue(place)
    assert jose.thumbprint(service._keys.signer.public_key) == old
    first = phone.unlock(grant)
    storage.close()
    place.files.config.write_text(text)
    phone.service, storage = place.service()
    assert jose.thumbprint(phone.service._keys.signer.public_key) == new
    second = phone.renew(first.license_id)
    for issued in (first, second):
        assert read_license(issued.license, pinned).open(phone.key) == place.content_key
    storage.close()
    with pytest.raises(KeystoreEntryError):
        KeystoreKeys(Keystore.open(place.files.keys), "x" * 43)


# --- the app configuration -------------------------------------------------------------------------


def test_an_app_configuration_is_written(place: ServiceFolder, tmp_path: Path) -> None:
    out = tmp_path / "corelocker.json"
    arguments = ("service", "app-config", "--service", "http://127.0.0.1:8441", "--out", str(out))
    answer = place.on_service(*arguments, "--offline-grace", "60")
    read = AppConfig.from_json(out.read_bytes())
    config = load_config(place.files.config)
    assert (read.service, read.app, read.environment) == ("http://127.0.0.1:8441", APP, "development")
    assert (read.issuer, read.offline_grace) == (config.issuer, 60)
    assert read.publisher == place.publisher.publisher
    # The key that signs comes first; the others of the keystore are for its rotation.
    signing = jose.thumbprint(open_keys(config.keys).signer.public_key)
    keys = [jose.thumbprint(key) for key in read.license_keys]
    assert keys[0] == signing
    assert set(keys) == {key.thumbprint for key in Keystore.open(place.files.keys).publisher_keys}
    assert answer["license_keys"] == keys
    before = out.read_bytes()
    assert place.on_service(*arguments, code=1)["error"]["code"] == "output-exists"
    assert out.read_bytes() == before
    place.on_service(*arguments, "--force")
    assert AppConfig.from_json(out.read_bytes()).offline_grace == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--service", "ftp://example.com"), "app-config"),
        (("--service", "https://example.com", "--publisher", "short"), "app-config"),
        (("--service", "https://example.com", "--app", "else"), "config"),
    ],
)
def test_an_app_configuration_that_no_app_would_read(
    place: ServiceFolder, tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    out = tmp_path / "corelocker.json"
    error = place.on_service(
        "service", "app-config", "--out", str(out), *arguments, code=2 if code == "config" else None
    )
    assert error["error"]["code"] == code
    assert not out.exists()


# --- grants ----------------------------------------------------------------------------------------


def issue(place: ServiceFolder, *arguments: str) -> str:
    answer = place.on_service("grant", "issue", "--product", "full", *arguments)
    return str(answer["grant"])


def test_grants_are_issued(place: ServiceFolder) -> None:
    service, storage = place.service()
    phone = Phone(place, service)
    until = int(time.time()) + 1000
    issued = phone.unlock(issue(place, "--purchase", "order-until", "--until", str(until)))
    assert issued.expires_at == until
    assert storage.entitlement(PurchaseKey("grant", APP, "sub:order-until")) is not None
    storage.close()


def test_a_grant_of_perpetual_licenses_says_what_it_costs(
    place: ServiceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting = place.files.config.with_name("perpetual.toml")
    lasting.write_text(place.files.config.read_text() + "\n[licenses]\nperpetual = true\n")
    monkeypatch.chdir(place.folder)
    issue = ["grant", "issue", "--product", "full", "--purchase", "order-for-ever", "--config"]
    said = CliRunner().invoke(app, [*issue, str(lasting)])
    assert said.exit_code == 0
    assert "counts against the purchase's device limit for ever" in said.stderr
    ending = CliRunner().invoke(app, [*issue, str(lasting), "--until", str(int(time.time()) + 1000)])
    assert ending.exit_code == 0
    assert "for ever" not in ending.stderr
    assert place.json(*issue, str(lasting))["perpetual"] is True
    assert place.json(*issue, str(place.files.config))["perpetual"] is False


def test_a_grant_key(place: ServiceFolder, tmp_path: Path) -> None:
    made = place.json("grant", "keygen", str(tmp_path / "key.pem"))
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    public = setup.public_pem(setup.load_signing_key(tmp_path / "key.pem").public_key())
    assert Path(made["public"]).read_text() == public
    assert "PRIVATE" not in public
    assert place.json("grant", "keygen", str(tmp_path / "key.pem"), code=1)["error"]["code"] == "output-exists"
    with pytest.raises(ConfigError):
        setup.load_signing_key(Path(made["public"]))
    for wrong in (("--product", "full", "--app", "else"), ("--product", "gold")):
        assert place.on_service("grant", "issue", *wrong, code=2)["error"]["code"] == "config"


# --- looking and revoking --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sold(place: ServiceFolder) -> Any:
    """Two phones on one purchase, and the service."""
    service, storage = place.service()
    grant = issue(place, "--purchase", "order-1")
    phones = [Phone(place, service) for _ in range(2)]
    yield place, storage, phones, [phone.unlock(grant) for phone in phones], grant
    storage.close()


def test_licenses_are_listed_and_shown(sold: Any) -> None:
    place, _, phones, licenses, grant = sold
    listed = place.on_service("license", "list", "--device", phones[0].key.thumbprint)["licenses"]
    assert [entry["jti"] for entry in listed] == [licenses[0].license_id]
    ids = {entry["jti"] for entry in place.on_service("license", "list", "--app", APP)["licenses"]}
    assert {one.license_id for one in licenses} <= ids
    assert place.on_service("license", "list", "--bundle", str(uuid.uuid4())) == {"licenses": []}
    shown = place.on_service("license", "show", licenses[0].license_id)
    assert (shown["tier"], shown["expires_at"], shown["revoked_at"]) == ("full", licenses[0].expires_at, None)
    text = place("license", "show", licenses[0].license_id, "--config", "unlock/service.toml")
    text += place("license", "list", "--config", "unlock/service.toml") + json.dumps(shown)
    text += json.dumps(place.on_service("entitlement", "show", "--license", licenses[0].license_id))
    # Whole, so that they can be pasted into the next command, on a narrow terminal too.
    listing = on_a_narrow_terminal("license", "list", "--config", str(place.files.config))
    for one, phone in zip(licenses, phones, strict=True):
        assert one.license_id in listing
        assert phone.key.thumbprint in listing
    for secret in (licenses[0].license, grant, "order-1", "sub:"):
        assert secret not in text
    answer = place.on_service("license", "show", str(uuid.uuid4()), code=1)
    assert answer["error"]["code"] == "license-unknown"


def on_a_narrow_terminal(*arguments: str) -> str:
    """What the command prints on one of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen([sys.executable, "-m", "corelocker", *arguments], stdin=theirs, stdout=theirs)
    os.close(theirs)
    printed = b""
    # A terminal whose other end is gone is an error on Linux.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            printed += part
    os.close(ours)
    assert process.wait(60) == 0
    return printed.decode()


def test_an_entitlement_is_shown(sold: Any) -> None:
    place, _, phones, licenses, _ = sold
    by_license = place.on_service("entitlement", "show", "--license", licenses[0].license_id)
    by_name = place.on_service("entitlement", "show", "--purchase", f"grant:{APP}:sub:order-1")
    assert by_license == by_name
    assert {entry["device"] for entry in by_name["places"]} == {phone.key.thumbprint for phone in phones}
    assert by_name["purchases"][0]["product"] == "full"
    place("entitlement", "show", "--license", licenses[0].license_id, "--config", "unlock/service.toml")
    place("entitlement", "show", "--config", "unlock/service.toml", code=2)
    place("entitlement", "show", "--config", "unlock/service.toml", "--purchase", "grant:x", code=2)
    assert place.on_service("entitlement", "show", "--purchase", f"grant:{APP}:none", code=1)["error"]["code"] == (
        "entitlement-unknown"
    )


def test_a_license_is_revoked(sold: Any) -> None:
    place, storage, phones, licenses, grant = sold
    answer = place.on_service("license", "revoke", licenses[0].license_id, "--device-only", "--reason", "lost phone")
    assert (answer["revoked"], answer["purchase_closed"]) == (1, False)
    with pytest.raises(LicenseRevokedError):
        phones[0].renew(licenses[0].license_id)
    with pytest.raises(LicenseRevokedError):
        phones[0].unlock(grant)
    phones[1].renew(licenses[1].license_id)
    row = storage.audit_rows(event="revoke-license")[0]
    assert (row.detail, row.license_id, row.device) == ("lost phone", licenses[0].license_id, phones[0].key.thumbprint)
    place.on_service("entitlement", "allow-device", phones[0].key.thumbprint, "--license", licenses[0].license_id)
    issued = phones[0].unlock(grant)
    # Without the option the purchase is closed: a new device key does not undo it.
    answer = place.on_service("license", "revoke", issued.license_id)
    assert (answer["revoked"], answer["purchase_closed"]) == (1, True)
    with pytest.raises(PurchaseRevokedError):
        Phone(place, phones[0].service).unlock(grant)
    with pytest.raises(PurchaseRevokedError):
        phones[1].renew(licenses[1].license_id)
    place.on_service("entitlement", "allow-device", phones[0].key.thumbprint, "--license", issued.license_id)
    phones[0].unlock(grant)
    phones[1].renew(licenses[1].license_id)
    assert [row.event for row in storage.audit_rows(limit=9) if row.event.startswith("allow")] == ["allow-device"] * 2
    assert storage.audit_rows(event="revoke-purchase")


def test_the_audit_log_is_shown(sold: Any) -> None:
    place, _, phones, licenses, grant = sold
    rows = place.on_service("service", "audit", "--event", "unlock")["rows"]
    assert licenses[1].license_id in {row["license_id"] for row in rows}
    assert {row["event"] for row in rows} == {"unlock"}
    assert len(place.on_service("service", "audit", "--limit", "1")["rows"]) == 1
    text = place("service", "audit", "--config", "unlock/service.toml")
    assert phones[0].key.thumbprint in text
    assert grant not in text


def test_a_device_is_released(sold: Any) -> None:
    place, storage, phones, licenses, _ = sold
    name = phones[1].key.thumbprint
    answer = place.on_service("entitlement", "release-device", name, "--license", licenses[1].license_id, "--at-once")
    assert answer["places"] == 1
    with pytest.raises(DeviceInactiveError):
        phones[1].renew(licenses[1].license_id)
    again = place.on_service("entitlement", "release-device", name, "--license", licenses[1].license_id, code=1)
    assert again["error"]["code"] == "device-inactive"
    assert storage.audit_rows(event="release-device")[0].device == name


@pytest.mark.parametrize("command", ["release-device", "allow-device"])
def test_a_thumbprint_may_begin_with_a_hyphen(place: ServiceFolder, command: str) -> None:
    place.service()[1].close()
    for name in ("-e-Fw98iS", "--json-Fw98iS"):
        answer = place.on_service("entitlement", command, name, "--purchase", f"grant:{APP}:never", code=1)
        assert answer["error"]["code"] == "entitlement-unknown"


def test_what_is_not_there(place: ServiceFolder) -> None:
    _, storage = place.service()
    with pytest.raises(LicenseUnknownError):
        admin.revoke_license(storage, str(uuid.uuid4()))
    key = PurchaseKey("grant", APP, "never")
    with pytest.raises(EntitlementUnknownError):
        admin.release_device(storage, key, "x")
    with pytest.raises(EntitlementUnknownError):
        admin.allow_device(storage, key, "x")
    # Asking changes nothing.
    assert storage.entitlement(key) is None
    with pytest.raises(ConfigError):
        admin.purchase_key(load_config(place.files.config), "grant", "else", "x")
    storage.close()


COMMANDS = [
    ["service", "init", "x", "--app", "a"],
    ["service", "import-keys"],
    ["service", "keys"],
    ["service", "app-config", "--service", "https://example.com"],
    ["service", "check-config"],
    ["service", "migrate"],
    ["service", "audit"],
    ["service", "status"],
    ["service", "run"],
    ["license", "list"],
    ["license", "show", "x"],
    ["license", "revoke", "x"],
    ["entitlement", "show"],
    ["entitlement", "release-device", "x"],
    ["entitlement", "allow-device", "x"],
    ["grant", "keygen"],
    ["grant", "issue", "--product", "x"],
]


def test_a_base_install_says_what_to_install(tmp_path: Path) -> None:
    """In a Python without the packages of the service: what is missing and how to get it, and nothing is written."""
    hide = (
        "import json, sys\n"
        "for name in ('alembic', 'sqlalchemy', 'joserfc', 'rfc8785', 'starlette', 'requests', 'google', 'appstoreserverlibrary'):\n"
        "    sys.modules[name] = None\n"
        "from corelocker.cli import app\n"
        "codes = [app.run(command) for command in json.loads(sys.argv[1])]\n"
        "print(json.dumps(codes))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide, json.dumps(COMMANDS)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1] * len(COMMANDS), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("pip install 'corelocker[service]'") == len(COMMANDS)
    assert list(tmp_path.iterdir()) == []
