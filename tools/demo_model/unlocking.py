"""The second half of the demo: the unlock service on this machine, and devices that it serves or refuses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from corelocker.cli.device import read_public_key
from corelocker.errors import CoreLockerError

if TYPE_CHECKING:
    import requests
    from corelocker.bundle.keystore import Keystore
    from corelocker.device.software import SoftwareDevice
    from corelocker.service.setup import DevelopmentFiles

APP = "com.example.fashion"
# Long enough to be unlocked on a busy machine, short enough to wait for.
_TRIAL_SECONDS = 3


@dataclass(frozen=True)
class Step:
    """What was tried, what came of it, and whether that is what should."""

    what: str
    outcome: str
    as_expected: bool


def unlocking(
    folder: Path,
    publisher: Keystore,
    bundle_path: Path,
    locked: Path,
    original: Path,
    accuracy: Callable[[bytes], float],
    expected_accuracy: float,
) -> list[Step]:
    """Run a service that allows one device a purchase, and show who gets the model and who does not.

    Args:
        folder: for the service's and the devices' files.
        publisher: the keystore of the lock run.
        bundle_path, locked, original: the key bundle, a locked `.pte` and what it was.
        accuracy: of a `.pte` in memory, in percent; `expected_accuracy` is that of the original.
    """
    from corelocker.service import admin, setup
    from corelocker.service.config_file import load_config
    from corelocker.service.storage import Storage

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = setup.init_development(folder / "service", publisher, APP, port=port)
    with files.config.open("a") as config:
        config.write("\n[licenses]\ndevices = 1\n")
    tier = publisher.content_keys[0].tiers[-1]
    phone, second, trial = (_device(folder / name, files, publisher, port) for name in ("phone", "second", "trial"))
    steps: list[Step] = []

    with phone.open_bundle(bundle_path) as bundle, _service(files.config, port) as started:
        steps.append(Step("start the unlock service", f"ready on loopback after {started:.1f} s", True))
        ends = int(time.time()) + _TRIAL_SECONDS
        trial.unlock(bundle, tier, _buy(files.grant_key, tier, "order-2", ends))

        grant = _buy(files.grant_key, tier, "order-1")
        begin = time.perf_counter()
        license_ = phone.unlock(bundle, tier, grant).license
        took = (time.perf_counter() - begin) * 1e3
        steps.append(Step("buy, attest, unlock", f"license for tier {license_.tier} after {took:.0f} ms", True))
        begin = time.perf_counter()
        with phone.restore(locked, bundle) as restored:
            took = (time.perf_counter() - begin) * 1e3
            state = bytes(restored)
        exact, reached = state == original.read_bytes(), accuracy(state)
        outcome = f"{reached:.2f} % after {took:.1f} ms, {'bit-exact' if exact else 'NOT bit-exact'}"
        steps.append(Step("restore in memory, run", outcome, exact and reached == expected_accuracy))

        steps.append(_refused("the same purchase on a second device", "device-limit",
                              lambda: second.unlock(bundle, tier, grant)))  # fmt: skip
        time.sleep(max(0.0, ends - time.time()))
        steps.append(_refused("a license that has ended", "license-expired", lambda: trial.restore(locked, bundle)))
        storage = Storage.open(load_config(files.config).database_url)
        admin.revoke_license(storage, license_.license_id, reason="demo")
        storage.close()
        steps.append(_refused("renewal of a revoked license", "license-revoked", lambda: phone.renew(bundle)))
        steps.append(_refused("the model after that", "not-unlocked", lambda: phone.restore(locked, bundle)))
    return steps


def _refused(what: str, code: str, action: Callable[[], object]) -> Step:
    try:
        action()
    except CoreLockerError as error:
        return Step(what, f"refused: {error} [{error.code}]", error.code == code)
    return Step(what, "NOT REFUSED", False)


def _device(folder: Path, files: DevelopmentFiles, publisher: Keystore, port: int) -> SoftwareDevice:
    """A device with an attestation key of the service's development root, and all that its app pins."""
    from corelocker.device.software import SoftwareDevice
    from corelocker.licensing.app_config import AppConfig
    from corelocker.licensing.development import DevelopmentRoot

    pem = files.development_root.read_text()
    url = f"http://127.0.0.1:{port}"
    config = AppConfig(
        service=url,
        issuer=url,
        app=APP,
        environment="development",
        license_keys=(read_public_key(files.service_key),),
        publisher=publisher.publisher,
    )
    return SoftwareDevice.create(folder, config, DevelopmentRoot.from_pem(pem, pem).issue("demo", datetime.now(UTC)))


def _buy(grant_key: Path, product: str, order: str, until: int | None = None) -> dict[str, str]:
    """What the publisher's shop gives a customer; `until` is the end of what was paid for."""
    from corelocker.licensing.tokens import SoftwareSigner
    from corelocker.purchases.grant import issue_grant
    from corelocker.service.setup import GRANT_ISSUER, load_signing_key

    token = issue_grant(
        SoftwareSigner(load_signing_key(grant_key)), issuer=GRANT_ISSUER, app=APP, environment="development",
        product=product, issued_at=int(time.time()), purchase=order, until=until,
    )  # fmt: skip
    return {"provider": "grant", "token": token}


@contextmanager
def _service(config: Path, port: int) -> Iterator[float]:
    """`corelocker service run` in a process of its own; yields the seconds until it was ready."""
    import requests
    from corelocker.service.errors import ServiceRefusesToStartError

    begin = time.monotonic()
    log_path = config.with_suffix(".log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "corelocker", "service", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        with requests.Session() as session:
            session.trust_env = False
            while not _ready(session, port):
                if process.poll() is not None or time.monotonic() - begin > 30:
                    text = log_path.read_text("utf-8", "replace")[-1000:]
                    raise ServiceRefusesToStartError(f"the unlock service does not start: {text}")
                time.sleep(0.05)
        yield time.monotonic() - begin
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(session: requests.Session, port: int) -> bool:
    import requests

    try:
        return session.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False
