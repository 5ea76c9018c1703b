"""The whole flow with the service as a process and devices that talk to it over HTTP, as an app would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from corelocker.bundle.clkey import KeyBundle
from corelocker.cli.device import read_public_key
from corelocker.device.errors import NotUnlockedError, ServiceUnreachableError
from corelocker.device.software import SoftwareDevice
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.errors import (
    AttestationError,
    DeviceInactiveError,
    DeviceLimitError,
    LicenseExpiredError,
    LicenseRevokedError,
    PurchaseExpiredError,
    PurchaseProductError,
    PurchaseRevokedError,
    PurchaseSignatureError,
)
from corelocker.licensing.http_client import RetryPolicy
from support.unlock_world import ServiceProcess, World, free_port

DAY = 86400


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, ServiceProcess]]:
    """A service of either kind, for all tests of this module; each test has purchases and devices of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'unlock.sqlite'}"
    else:
        url = request.getfixturevalue("postgres").new_database()
    world = World(folder, url)
    world.migrate()
    with world.start() as service:
        yield world, service


@pytest.fixture
def world(running: tuple[World, ServiceProcess]) -> World:
    return running[0]


@pytest.fixture
def bundle(world: World) -> Iterator[KeyBundle]:
    with world.bundle() as opened:
        yield opened


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of the test's purchase, and the beginning of its devices' names."""
    return str(request.node.name).split("[")[0]


def buy(world: World, purchase: str, **terms: Any) -> dict[str, str]:
    return {"provider": "grant", "token": world.grant(purchase, **terms)}


def test_unlock_restore_renew(world: World, bundle: KeyBundle, name: str) -> None:
    device = world.device(name)
    first = device.unlock(bundle, "full", buy(world, name)).license
    assert first.expires_at is not None
    assert 29 * DAY < first.expires_at - time.time() <= 30 * DAY
    with device.restore(world.locked_path, bundle, check="always") as restored:
        assert bytes(restored) == world.original
    second = device.renew(bundle).license
    third = device.renew(bundle, by_device_key=True).license
    assert len({first.license_id, second.license_id, third.license_id}) == 3
    with SoftwareDevice(device.folder.path).restore(world.locked_path, bundle) as restored:
        assert bytes(restored) == world.original
    licenses, entitlement = world.stored(name)
    assert [place.device for place in entitlement.places] == [device.thumbprint]
    replaced = {entry.jti: entry.replaced_by for entry in licenses}
    assert replaced == {
        first.license_id: second.license_id, second.license_id: third.license_id, third.license_id: None,
    }  # fmt: skip


def test_lower_tier(world: World, bundle: KeyBundle, name: str) -> None:
    """A product for "plus" unlocks "plus", and "full" only for who has bought that."""
    device = world.device(name)
    plus = buy(world, name, product="plus")
    with pytest.raises(PurchaseProductError):
        device.unlock(bundle, "full", plus)
    device.unlock(bundle, "plus", plus)
    with device.restore(world.locked_path, bundle) as restored:
        state = bytes(restored)
    assert state not in (world.original, world.locked_path.read_bytes())
    device.unlock(bundle, "full", buy(world, f"{name}-upgrade"))
    with device.restore(world.locked_path, bundle, "plus") as restored:
        assert bytes(restored) == state
    with device.restore(world.locked_path, bundle) as restored:
        assert bytes(restored) == world.original


def test_device_limit(world: World, bundle: KeyBundle, name: str) -> None:
    devices = [world.device(f"{name}-{number}") for number in range(4)]
    for device in devices[:3]:
        device.unlock(bundle, "full", buy(world, name))
    with pytest.raises(DeviceLimitError) as refused:
        devices[3].unlock(bundle, "full", buy(world, name))
    assert 29 * DAY < refused.value.retry_at - time.time() <= 30 * DAY
    with pytest.raises(NotUnlockedError):
        devices[3].restore(world.locked_path, bundle)
    world.release(name, devices[0].thumbprint)
    devices[3].unlock(bundle, "full", buy(world, name))
    with pytest.raises(DeviceInactiveError):
        devices[0].renew(bundle)
    with pytest.raises(NotUnlockedError):
        devices[0].current(bundle)
    with pytest.raises(DeviceLimitError):
        devices[0].unlock(bundle, "full", buy(world, name))


def test_what_was_paid_for_ends(world: World, bundle: KeyBundle, name: str) -> None:
    device = world.device(name)
    until = int(time.time()) + 3
    license_ = device.unlock(bundle, "full", buy(world, name, until=until)).license
    assert license_.expires_at == until
    device.restore(world.locked_path, bundle).close()
    time.sleep(max(0.0, until - time.time()))
    with pytest.raises(LicenseExpiredError):
        device.restore(world.locked_path, bundle)
    with pytest.raises(PurchaseExpiredError):
        device.renew(bundle)
    # The customer pays for more of the same purchase: the license that has ended can be renewed or bought anew.
    device.unlock(bundle, "full", buy(world, name, until=until + 3600))
    device.restore(world.locked_path, bundle).close()


def test_revoked_license(world: World, bundle: KeyBundle, name: str) -> None:
    lost, kept = world.device(f"{name}-lost"), world.device(f"{name}-kept")
    license_ = lost.unlock(bundle, "full", buy(world, name)).license
    kept.unlock(bundle, "full", buy(world, name))
    world.revoke(license_.license_id, purchase=False)
    with pytest.raises(LicenseRevokedError):
        lost.renew(bundle)
    with pytest.raises(NotUnlockedError):
        lost.restore(world.locked_path, bundle)
    with pytest.raises(LicenseRevokedError):
        lost.unlock(bundle, "full", buy(world, name))
    assert kept.renew(bundle).state == "valid"


def test_revoked_purchase(world: World, bundle: KeyBundle, name: str) -> None:
    device = world.device(name)
    license_ = device.unlock(bundle, "full", buy(world, name)).license
    world.revoke(license_.license_id)
    with pytest.raises((LicenseRevokedError, PurchaseRevokedError)):
        device.renew(bundle)
    with pytest.raises(PurchaseRevokedError):
        world.device(f"{name}-other").unlock(bundle, "full", buy(world, name))


def test_strangers(world: World, bundle: KeyBundle, name: str, tmp_path: Path) -> None:
    """A device of another root, and a grant of another shop."""
    stranger = World(tmp_path, "sqlite:///nowhere.sqlite")
    device = SoftwareDevice.create(tmp_path / "device", world.app_config(), stranger.attestation_key)
    with pytest.raises(AttestationError):
        device.unlock(bundle, "full", buy(world, name))
    with pytest.raises(PurchaseSignatureError):
        world.device(name).unlock(bundle, "full", buy(stranger, name))


@contextmanager
def losing_line(service: ServiceProcess) -> Iterator[tuple[int, list[requests.Response]]]:
    """A line to the service that delivers every request, and hangs up instead of the first license."""
    lost: list[requests.Response] = []

    class Line(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(service.url + self.path, body, headers={"Content-Type": "application/json"})
            if self.path == "/v1/licenses" and not lost:
                lost.append(answer)
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: Any) -> None:
            pass

    line = ThreadingHTTPServer(("127.0.0.1", 0), Line)
    threading.Thread(target=line.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield line.server_address[1], lost
    finally:
        line.shutdown()
        line.server_close()


def test_lost_answer(running: tuple[World, ServiceProcess], bundle: KeyBundle, name: str) -> None:
    """The license was issued but never came: the device asks again by itself and takes no second place."""
    world, service = running
    with losing_line(service) as (port, lost):
        device = world.device(name, port=port)
        verified = device.unlock(bundle, "full", buy(world, name))
    (answer,) = lost
    assert answer.status_code == 201
    assert answer.json()["license_id"] != verified.license.license_id
    licenses, entitlement = world.stored(name)
    assert len(licenses) == 2
    assert {answer.json()["license_id"], verified.license.license_id} == {entry.jti for entry in licenses}
    assert [place.device for place in entitlement.places] == [device.thumbprint]


def test_offline(world: World, bundle: KeyBundle, name: str) -> None:
    device = world.device(name)
    device.unlock(bundle, "full", buy(world, name))
    config = world.app_config(port=free_port())
    (device.folder.path / "corelocker.json").write_bytes(config.to_json())
    away = SoftwareDevice(device.folder.path, retry=RetryPolicy(attempts=2, sleep=lambda seconds: None))
    with pytest.raises(ServiceUnreachableError):
        away.renew(bundle)
    with away.restore(world.locked_path, bundle) as restored:
        assert bytes(restored) == world.original


# --- the commands --------------------------------------------------------------------------------


class Shell:
    """Runs commands in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Any:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CORELOCKER")}
        done = subprocess.run(
            [sys.executable, "-m", "corelocker", *arguments, "--json"], cwd=self.folder, env=environment,
            capture_output=True, text=True, input=stdin,
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)


def test_commands(tmp_path: Path) -> None:
    """As in the manual: lock a program, set up a service, buy, unlock, renew, restore, run; then what is refused."""
    pytest.importorskip("executorch")
    import torch
    from corelocker.runtime.executorch import RestoredModule
    from support.models.exports import exported
    from support.models.lowering import built

    shell = Shell(tmp_path)
    shutil.copyfile(exported("resnet", "portable"), tmp_path / "resnet.pte")
    inputs = built("resnet")[1]
    expected = RestoredModule((tmp_path / "resnet.pte").read_bytes()).forward(inputs)
    np.save(tmp_path / "input.npy", inputs[0].numpy())

    publisher = shell("keystore", "init", "keys.json", "--kek-file", "kek")["publisher"]
    shell(
        "lock", "resnet.pte", "--model-id", "resnet", "--model-version", "1", "--out", "dist", "--keystore", "keys.json"
    )
    port = free_port()
    shell("service", "init", "unlock", "--app", "com.example.app", "--keystore", "keys.json", "--port", str(port))
    config = tmp_path / "unlock" / "service.toml"
    config.write_text(config.read_text() + "\n[licenses]\ndevices = 1\n")
    order = ("grant", "issue", "--config", "unlock/service.toml", "--product", "full", "--purchase", "order-1")
    grant = shell(*order)["grant"]
    (tmp_path / "grant.jwt").write_text(grant)
    app_config = AppConfig(
        service=f"http://127.0.0.1:{port}", issuer=f"http://127.0.0.1:{port}", app="com.example.app",
        environment="development", license_keys=(read_public_key(tmp_path / "unlock/service-key.pem"),),
        publisher=publisher,
    )  # fmt: skip
    (tmp_path / "corelocker.json").write_bytes(app_config.to_json())
    pins = ("--config", "corelocker.json", "--root", "unlock/development-root-key.pem")
    bundle = ("--bundle", "dist/resnet.clkey")
    for device in ("phone", "other"):
        shell("device", "init", device, *pins)
    assert shell("device", "init", "phone", *pins, code=1)["error"]["code"] == "output-exists"
    locked = ("dist/resnet.pte", *bundle)
    assert shell("device", "restore", "phone", *locked, code=1)["error"]["code"] == "not-unlocked"

    with ServiceProcess(config, port):
        unlocked = shell("device", "unlock", "phone", *bundle, "--grant", "grant.jwt")
        assert (unlocked["tier"], unlocked["state"]) == ("full", "valid")
        refused = shell("device", "unlock", "other", *bundle, "--grant", "-", code=1, stdin=grant)
        assert refused["error"]["code"] == "device-limit"
        renewed = shell("device", "renew", "phone", *bundle)
        again = shell("device", "renew", "phone", *bundle, "--device-key")
        assert len({entry["license_id"] for entry in (unlocked, renewed, again)}) == 3

        (held,) = shell("device", "show", "phone")["licenses"]
        assert held["license_id"] == again["license_id"]
        assert not {"wrapped_key", "info"} & held.keys()
        restored = shell("device", "restore", "phone", *locked)
        assert restored["bytes"] == (tmp_path / "resnet.pte").stat().st_size
        shell("device", "run", "phone", *locked, "--input", "input.npy", "--out", "outputs.npz")
        with np.load(tmp_path / "outputs.npz") as outputs:
            assert torch.equal(torch.from_numpy(outputs["arr_0"]), expected[0])
        # The locked program computes something else, so the license made the difference.
        assert not torch.equal(
            RestoredModule((tmp_path / "dist/resnet.pte").read_bytes()).forward(inputs)[0], expected[0]
        )

        shell("license", "revoke", again["license_id"], "--config", "unlock/service.toml")
        assert shell("device", "renew", "phone", *bundle, code=1)["error"]["code"] == "license-revoked"
    assert shell("device", "run", "phone", *locked, "--input", "input.npy", code=1)["error"]["code"] == "not-unlocked"
    log = (tmp_path / "unlock" / "service.log").read_text()
    assert grant not in log
    for secret in ("unlock/service-keys.kek", "unlock/grant-key.pem", "phone/device-key.pem", "phone/attestation.pem"):
        assert (tmp_path / secret).stat().st_mode & 0o077 == 0, secret


@pytest.mark.parametrize(
    "arguments",
    [
        ("device", "show", "nowhere"),
        ("device", "init", "x", "--config", "http.json", "--root", "root.pem"),
        ("device", "init", "x", "--config", "production.json", "--root", "root.pem"),
        ("device", "init", "x", "--config", "rubbish.pem", "--root", "root.pem"),
        ("device", "init", "x", "--config", "corelocker.json"),
        ("device", "init", "x", "--config", "corelocker.json", "--root", "root.pem", "--attestation-key", "root.pem"),
        ("device", "init", "x", "--config", "corelocker.json", "--root", "rubbish.pem"),
    ],
)  # fmt: skip
def test_commands_that_make_no_sense(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    world = World(tmp_path, "sqlite:///x.sqlite")
    good = world.app_config(service="https://unlock.example.com")
    (tmp_path / "corelocker.json").write_bytes(good.to_json())
    production = replace(good, environment="production").to_json()
    (tmp_path / "production.json").write_bytes(production)
    (tmp_path / "http.json").write_bytes(production.replace(b'"service": "https:', b'"service": "http:'))
    (tmp_path / "root.pem").write_text(world.root.certificate + world.root.private_pem())
    (tmp_path / "rubbish.pem").write_bytes(b"-----BEGIN\xff")
    code = 1 if arguments[1] == "show" else 2
    assert Shell(tmp_path)(*arguments, code=code)["error"]["code"] in ("config", "app-config", "file-access")
    assert not (tmp_path / "x").exists()


def test_commands_without_the_extra(tmp_path: Path) -> None:
    """A Python without site-packages of the service: one line that says what to install."""
    hide = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'requests' else find(name, package)\n"
        "from corelocker.cli import app\n"
        "sys.exit(app.run(['device', 'show', 'nowhere', '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", hide], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "missing-extra"
