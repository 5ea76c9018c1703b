"""What the software device does without a service."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest
from corelocker.bundle.clkey import KeyBundle
from corelocker.device.errors import (
    NotUnlockedError,
)
from corelocker.device.software import SoftwareDevice
from corelocker.errors import BundlePublisherError, FileAccessError
from corelocker.licensing.errors import (
    LicenseClockError,
    LicenseDeviceError,
    LicenseError,
    LicenseExpiredError,
    LicenseSignatureError,
    PurchaseProductError,
)
from support.unlock_server import DAY, GRANT, Clock, Server, problem, signer, stored
from support.unlock_world import NOW, World


def test_without_a_license(world: World, device: SoftwareDevice, bundle: KeyBundle) -> None:
    for action in (lambda: device.current(bundle), lambda: device.renew(bundle),
                   lambda: device.restore(world.locked_path, bundle)):  # fmt: skip
        with pytest.raises(NotUnlockedError):
            action()
    device.forget(bundle)
    assert device.licenses() == []


def test_time_passes(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock) -> None:
    device.unlock(bundle, "full", GRANT)
    clock.wall += 20 * DAY
    assert device.current(bundle).state == "renew"
    clock.wall = NOW + 30 * DAY
    with pytest.raises(LicenseExpiredError):
        device.restore(world.locked_path, bundle)
    # Turned back by its owner: the mark on disk remembers, also after a restart of the program.
    clock.wall, clock.boot = NOW, "second"
    again = SoftwareDevice(device.folder.path, read_clocks=clock)
    with pytest.raises(LicenseClockError):
        again.current(bundle)
    clock.wall = NOW + 31 * DAY
    server.answers.append(lambda body: server.issue(body, issued_at=NOW + 31 * DAY, expires_at=NOW + 61 * DAY))
    assert device.renew(bundle).state == "valid"


def test_storage_that_is_set_back_with_the_clock(
    world: World, device: SoftwareDevice, bundle: KeyBundle, clock: Clock, tmp_path: Path
) -> None:
    """No device can notice that offline; SECURITY.md says so, and that a renewal ends it."""
    device.unlock(bundle, "full", GRANT)
    before = tmp_path / "before"
    shutil.copytree(device.folder.path, before)
    clock.wall = NOW + 40 * DAY
    with pytest.raises(LicenseExpiredError):
        device.current(bundle)
    shutil.rmtree(device.folder.path)
    shutil.copytree(before, device.folder.path)
    clock.wall, clock.boot = NOW + DAY, "second"
    again = SoftwareDevice(device.folder.path, read_clocks=clock)
    assert again.current(bundle).state == "valid"
    words = " ".join((Path(__file__).parents[3] / "SECURITY.md").read_text().split())
    assert "**An offline device can be set back.**" in words
    assert "for as long as the device stays offline" in words


def test_a_damaged_record_of_the_time(server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock) -> None:
    """Offline it makes the license useless, whatever the clock says; only a new unlock mends it."""
    device.unlock(bundle, "full", GRANT)
    (device.folder.path / "clock.json").write_bytes(b"{")
    clock.wall = NOW - 400 * DAY
    with pytest.raises(LicenseClockError):
        device.current(bundle)
    server.answers.append(problem("purchase-product"))
    with pytest.raises(PurchaseProductError):
        device.unlock(bundle, "full", GRANT)
    server.answers.append(lambda body: server.issue(body, signer=signer()))
    with pytest.raises(LicenseSignatureError):
        device.unlock(bundle, "full", GRANT)
    with pytest.raises(LicenseClockError):
        device.current(bundle)
    clock.wall = NOW
    device.unlock(bundle, "full", GRANT)
    assert device.current(bundle).state == "valid"
    clock.wall = NOW - 400 * DAY
    with pytest.raises(LicenseClockError):
        device.current(bundle)


def test_offline_grace(world: World, server: Server, bundle: KeyBundle, clock: Clock) -> None:
    name = f"device-{uuid.uuid4()}"
    device = world.device(name, port=server.port, read_clocks=clock, offline_grace=2 * DAY)
    device.unlock(bundle, "full", GRANT)
    clock.wall = NOW + 31 * DAY
    assert device.current(bundle).state == "grace"
    clock.wall = NOW + 32 * DAY
    with pytest.raises(LicenseExpiredError):
        device.current(bundle)


def test_a_license_of_another_device_is_of_no_use(
    world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle, clock: Clock
) -> None:
    other = world.device(f"device-{uuid.uuid4()}", port=server.port, read_clocks=clock)
    device.unlock(bundle, "full", GRANT)
    (path,) = stored(device)
    (other.folder.path / "licenses" / path.name).write_bytes(path.read_bytes())
    (other.folder.path / "licenses" / path.name).chmod(0o600)
    with pytest.raises(LicenseDeviceError):
        other.current(bundle)


def test_a_damaged_license(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    device.unlock(bundle, "full", GRANT)
    (path,) = stored(device)
    good = path.read_bytes()
    for damaged in (b"", b"x", good[:-1], good[:100], bytes([good[0] ^ 1]) + good[1:], b"\xff\xfe", b"a" * 20000):
        path.write_bytes(damaged)
        with pytest.raises((LicenseError, FileAccessError)):
            device.current(bundle)
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(LicenseError):
            device.current(bundle)


def test_a_bundle_of_another_publisher(device: SoftwareDevice, tmp_path: Path) -> None:
    stranger = World(tmp_path, "sqlite:///x.sqlite")
    with pytest.raises(BundlePublisherError):
        device.open_bundle(stranger.bundle_path)
    with stranger.bundle() as opened, pytest.raises(BundlePublisherError):
        device.unlock(opened, "full", GRANT)
