"""The software device's folder and configuration."""

from __future__ import annotations

import contextlib
import os

import pytest
from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.device.errors import (
    ServiceError,
)
from corelocker.device.folder import DeviceFolder
from corelocker.device.software import SoftwareDevice
from corelocker.errors import ConfigError, FileAccessError, OutputExistsError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.unlock_server import GRANT, Clock, Server, problem
from support.unlock_world import World


def test_folder(server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock) -> None:
    device.unlock(bundle, "full", GRANT)
    files = sorted(
        path.relative_to(device.folder.path).as_posix() for path in device.folder.path.rglob("*") if path.is_file()
    )
    assert files == [
        "attestation.pem", "clock.json", "corelocker.json", "device-key.pem", f"licenses/{bundle.id}.jws",
    ]  # fmt: skip
    assert all((device.folder.path / name).stat().st_mode & 0o777 == 0o600 for name in files)
    assert device.folder.path.stat().st_mode & 0o777 == 0o700
    again = SoftwareDevice(device.folder.path, read_clocks=clock)
    assert (again.thumbprint, again.config) == (device.thumbprint, device.config)
    assert again.current(bundle) == device.current(bundle)
    assert [entry.bundle for entry in again.licenses()] == [str(bundle.id)]
    with pytest.raises(OutputExistsError):
        SoftwareDevice.create(device.folder.path, device.config, device._attestation_key)


@pytest.mark.parametrize("name", ["corelocker.json", "device-key.pem", "attestation.pem"])
def test_damaged_folders(device: SoftwareDevice, name: str) -> None:
    path = device.folder.path / name
    good = path.read_bytes()
    for damaged in (b"", b"{}", good[: len(good) // 2], b"\xff" * 100, b"[" * 10000, good.replace(b"A", b"B")):
        path.write_bytes(damaged)
        with contextlib.suppress(ConfigError):
            SoftwareDevice(device.folder.path)
    path.write_bytes(b"x" * (1 << 20))
    with pytest.raises(FileAccessError):
        SoftwareDevice(device.folder.path)
    path.unlink()
    with pytest.raises(FileAccessError):
        SoftwareDevice(device.folder.path)


@pytest.mark.parametrize("name", ["corelocker.json", "device-key.pem", "attestation.pem"])
def test_files_that_others_can_read(device: SoftwareDevice, name: str) -> None:
    (device.folder.path / name).chmod(0o640)
    with pytest.raises(FileAccessError, match="chmod 600"):
        SoftwareDevice(device.folder.path)


def test_keys_of_another_curve(device: SoftwareDevice) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    (device.folder.path / "device-key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(ConfigError):
        SoftwareDevice(device.folder.path)


def test_production_is_refused(world: World) -> None:
    config = world.app_config(environment="production", service="https://unlock.example.com")
    folder = world.folder / "production"
    with pytest.raises(ConfigError, match="development"):
        SoftwareDevice.create(folder, config, world.attestation_key)
    assert not folder.exists()
    DeviceFolder(folder).create(config, ec.generate_private_key(ec.SECP256R1()), world.attestation_key)
    with pytest.raises(ConfigError, match="development"):
        SoftwareDevice(folder)


def test_nothing_secret_is_shown(server: Server, device: SoftwareDevice, bundle: KeyBundle, world: World) -> None:
    """Not the grant in an error, not the license in a repr."""
    verified = device.unlock(bundle, "full", GRANT | {"token": "secret.grant.token"})
    assert jose.encode_base64url(verified.license.wrapped_key) not in repr(verified)
    assert "wrapped_key" not in repr(verified)
    server.answers.append(problem("internal-error"))
    with pytest.raises(ServiceError) as refused:
        device.unlock(bundle, "full", GRANT | {"token": "secret.grant.token"})
    assert "secret.grant" not in repr(refused.value) + str(refused.value.__cause__) + str(refused.value.__context__)


def test_proxies_of_the_environment_do_not_see_a_local_service(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:9")
    monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://127.0.0.1:9")
    assert device.unlock(bundle, "full", GRANT).state == "valid"
