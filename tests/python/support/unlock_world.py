"""A publisher, an app and its devices around an unlock service: what the tests of the whole flow share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import requests
from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.clkey_header import BundledArtifact, BundledFile
from corelocker.bundle.clkey_write import BundleContents, SectionContents, write_bundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.bundle.keystore import FileKek, Kek, Keystore
from corelocker.bundle.patch import Patch
from corelocker.bundle.sample import sample
from corelocker.device.software import SoftwareDevice
from corelocker.device.unlock_client import LIMITS
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.attested_request import AttestedRequest
from corelocker.licensing.development import DevelopmentKey, DevelopmentRoot
from corelocker.licensing.device_clock import Reading, system_reading
from corelocker.licensing.evidence import Format, evidence_to_json
from corelocker.licensing.http_client import Limits, RetryPolicy
from corelocker.licensing.tokens import SoftwareSigner
from corelocker.purchases.entitlements import Entitlement
from corelocker.purchases.grant import issue_grant
from corelocker.runs import single
from corelocker.service import admin
from corelocker.service.config_file import load_config
from corelocker.service.core import UnlockService
from corelocker.service.keys import KeystoreKeys
from corelocker.service.messages import ChallengeRequest, Issued, RenewRequest, UnlockRequest
from corelocker.service.records import PurchaseKey, StoredLicense
from corelocker.service.storage import Storage
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

APP = "com.example.camera"
ISSUER = "https://unlock.example.com"
TIERS = ("free", "plus", "full")
NOW = 1_800_000_000
PARALLEL = 50
# Tests refuse on purpose and start again: nobody waits for real.
AT_ONCE = RetryPolicy(attempts=3, sleep=lambda seconds: None)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Phone:
    """The keys of a device, and the members of its requests, for tests that talk to the core without HTTP."""

    def __init__(self, world: World, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.world = world
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.public_key = self.key.public_key()
        self.thumbprint = jose.thumbprint(self.public_key)
        self.attestation_key = world.attestation_key

    def unlock_body(self, challenge: str, grant: str, tier: str = "full") -> dict[str, Any]:
        return {
            "challenge": challenge,
            "app": APP,
            "bundle": self.world.bundle_id,
            "tier": tier,
            "device_key": jose.public_jwk(self.public_key),
            "attestation": self.proof(challenge, grant, tier),
            "purchase": {"provider": "grant", "token": grant},
        }

    def renew_body(self, challenge: str, license_id: str, tier: str = "full") -> dict[str, Any]:
        return {"challenge": challenge, "attestation": self.proof(challenge, f"renew:{license_id}", tier)}

    def proof(self, challenge: str, purchase_token: str, tier: str) -> dict[str, Any]:
        request = AttestedRequest(challenge, APP, self.world.bundle_id, tier, self.public_key, purchase_token)
        return evidence_to_json(self.attestation_key.attest(request.digest(Format.DEVELOPMENT)))

    def unlock(self, service: UnlockService, grant: str, tier: str = "full") -> Issued:
        challenge = service.challenges.issue(ChallengeRequest()).challenge
        return service.decisions.unlock(UnlockRequest.from_json(self.unlock_body(challenge, grant, tier)))

    def renew(self, service: UnlockService, license_id: str, tier: str = "full") -> Issued:
        challenge = service.challenges.issue(ChallengeRequest()).challenge
        return service.decisions.renew(license_id, RenewRequest.from_json(self.renew_body(challenge, license_id, tier)))


class World:
    """A folder with everything: keys, a locked file and its bundle, the service's configuration.

    Args:
        folder: empty; all is written there.
        database_url: of the service.
        devices: places of a purchase.
        settings: TOML tables to add to the configuration.
        bundle, model_version: of the key bundle.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        devices: int = 3,
        settings: str = "",
        bundle: uuid.UUID | None = None,
        model_version: int = 1,
    ) -> None:
        self.folder = folder
        self.database_url = database_url
        self.port = free_port()
        kek = folder / "kek"
        FileKek.generate(kek)
        self.publisher = ec.generate_private_key(ec.SECP256R1())
        self.content_key = new_content_key()
        self._lock(bundle or uuid.uuid4(), model_version)
        self.keystore = Keystore.create(folder / "service-keys.json", Kek("file", str(kek)))
        self.keystore.add_content_key(uuid.UUID(self.bundle_id), "scanner", model_version, TIERS, self.content_key)
        self.root = DevelopmentRoot.create("tests", datetime.now(UTC))
        self.attestation_key: DevelopmentKey = self.root.issue("phone", datetime.now(UTC))
        (folder / "dev-root.pem").write_text(self.root.certificate)
        self.backend = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
        (folder / "backend.pem").write_bytes(
            self.backend.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        self.config_path = folder / "service.toml"
        self.configure(devices=devices, settings=settings)

    def configure(self, *, devices: int = 3, settings: str = "", port: int | None = None, workers: int = 1) -> Path:
        """Write the configuration; the path is for a service on another port."""
        path = self.config_path if port is None else self.folder / f"service-{port}.toml"
        path.write_text(
            f'environment = "development"\nissuer = "{ISSUER}"\ndatabase_url = "{self.database_url}"\n'
            '[keys]\nkeystore = "service-keys.json"\n'
            f"[licenses]\ndevices = {devices}\nrate_limit = 1000000\n"
            f"[http]\nport = {port or self.port}\nworkers = {workers}\nrate_limit = 0\n"
            f'[[apps]]\nid = "{APP}"\n'
            '[apps.development]\nroots = ["dev-root.pem"]\n'
            '[apps.grant]\nissuer = "shop"\nkeys = ["backend.pem"]\n'
            + "".join(
                f'[[products]]\napp = "{APP}"\nproduct = "{tier}"\nbundle = "{self.bundle_id}"\ntier = "{tier}"\n'
                for tier in TIERS[1:]
            )
            + settings
        )
        return path

    def _lock(self, bundle: uuid.UUID, model_version: int) -> None:
        """A file of random bytes in three states, and its bundle."""
        generator = np.random.default_rng()
        state = generator.integers(0, 256, 4096, np.uint8)
        self.original = state.tobytes()
        self.bundle_id = str(bundle)
        steps = []
        for tier, offset in ((2, 1000), (1, 3000)):
            run = [single(offset, 64)]
            patch = Patch.build(run, state)
            locked = state.copy()
            Patch.build(run, generator.integers(0, 256, 4096, np.uint8)).apply(locked)
            steps.append((tier, patch, state))
            state = locked
        sections = [
            SectionContents(
                artifact=0,
                file=0,
                tier=tier,
                patch=patch.encode(),
                locked_sample=sample(state, patch.table),
                restored_sample=sample(after, patch.table),
                file_digest=hashlib.sha256(after).digest(),
            )
            for tier, patch, after in steps
        ]
        self.locked_path = self.folder / "scanner.bin"
        self.locked_path.write_bytes(state.tobytes())
        file = BundledFile("scanner.bin", 4096, hashlib.sha256(state).digest())
        artifact = BundledArtifact("scanner.bin", "safetensors", (file,))
        contents = BundleContents(bundle, "scanner", model_version, TIERS, (artifact,), tuple(reversed(sections)))
        keys = tier_keys(self.content_key, bundle, len(TIERS))
        self.bundle_path = self.folder / "scanner.clkey"
        self.bundle_path.write_bytes(write_bundle(contents, self.publisher, keys))

    def another_host(self, port: int) -> Path:
        """A folder with copies of all files of the service, as on a second machine; the path of its configuration."""
        folder = self.folder / f"host-{port}"
        folder.mkdir()
        for file in self.folder.iterdir():
            if file.suffix in (".json", ".pem", ".der", ".toml"):
                shutil.copy2(file, folder / file.name)
        FileKek.generate(folder / "kek")
        Keystore.open(folder / "service-keys.json").change_secret(Kek("file", str(folder / "kek")))
        config = folder / "service.toml"
        config.write_text(config.read_text().replace(f"port = {self.port}\n", f"port = {port}\n"))
        return config

    # --- the parts -------------------------------------------------------------------------------

    @contextmanager
    def service(
        self, clock: Callable[[], float] = time.time, wrap: Callable[[Any], Any] = lambda part: part
    ) -> Iterator[UnlockService]:
        """The core in this process."""
        config = load_config(self.config_path)
        storage = Storage.open(config.database_url, migrate=True)
        try:
            yield UnlockService(config, wrap(storage), wrap(KeystoreKeys(self.keystore)), clock=clock)
        finally:
            storage.close()

    def grant(
        self,
        purchase: str | None = None,
        *,
        product: str = "full",
        until: int | None = None,
        now: float | None = None,
        lifetime: int = 3600,
    ) -> str:
        """A grant of the publisher's backend; `purchase` names the purchase."""
        return issue_grant(
            self.backend, issuer="shop", app=APP, environment="development", product=product,
            issued_at=int(time.time() if now is None else now), lifetime=lifetime, purchase=purchase, until=until,
        )  # fmt: skip

    def app_config(self, port: int | None = None, **changes: Any) -> AppConfig:
        members: dict[str, Any] = {
            "service": f"http://127.0.0.1:{port or self.port}",
            "issuer": ISSUER,
            "app": APP,
            "environment": "development",
            "license_keys": (self.keystore.signing_key.public_key(),),
            "publisher": jose.thumbprint(self.publisher.public_key()),
        }
        return AppConfig(**(members | changes))

    def device(
        self,
        name: str,
        *,
        port: int | None = None,
        read_clocks: Callable[[], Reading] = system_reading,
        retry: RetryPolicy = AT_ONCE,
        limits: Limits = LIMITS,
        ca_file: Path | None = None,
        **changes: Any,
    ) -> SoftwareDevice:
        """A new device in a folder `name`."""
        return SoftwareDevice.create(
            self.folder / name, self.app_config(port, **changes), self.attestation_key,
            read_clocks=read_clocks, retry=retry, limits=limits, ca_file=ca_file,
        )  # fmt: skip

    def bundle(self) -> KeyBundle:
        return KeyBundle.open(self.bundle_path, self.publisher.public_key())

    @contextmanager
    def storage(self) -> Iterator[Storage]:
        """The database, as another process would open it."""
        storage = Storage.open(self.database_url)
        try:
            yield storage
        finally:
            storage.close()

    def stored(self, purchase: str) -> tuple[list[StoredLicense], Entitlement]:
        """The licenses and the entitlement of a purchase in the database."""
        with self.storage() as storage:
            key = PurchaseKey("grant", APP, f"sub:{purchase}")
            stored = storage.entitlement(key)
            assert stored is not None
            return storage.list_licenses(purchase=key, limit=100_000), stored.entitlement

    def revoke(self, license_id: str, *, purchase: bool = True) -> None:
        """What `corelocker license revoke` does."""
        with self.storage() as storage:
            admin.revoke_license(storage, license_id, purchase=purchase, reason="a test")

    def release(self, purchase: str, device: str) -> None:
        """What `corelocker entitlement release-device --at-once` does."""
        with self.storage() as storage:
            admin.release_device(storage, PurchaseKey("grant", APP, f"sub:{purchase}"), device, at_once=True)

    def migrate(self) -> None:
        """What an operator does before the first start on PostgreSQL."""
        Storage.open(self.database_url, migrate=True).close()

    # --- the service as a process ----------------------------------------------------------------

    def start(self, config: Path | None = None, port: int | None = None) -> ServiceProcess:
        """`corelocker service run` in a process of its own, once it is ready."""
        return ServiceProcess(config or self.config_path, port or self.port)


class ServiceProcess:
    """A running service; a context manager that stops it."""

    def __init__(self, config: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = config.with_suffix(".log")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CORELOCKER")}
        # What a killed service leaves behind goes with the test's folder.
        environment["TMPDIR"] = str(config.parent)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "corelocker", "service", "run", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with requests.Session() as session:
                    session.trust_env = False
                    if session.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                        return
            except (requests.ConnectionError, requests.Timeout):
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.stop()
        raise RuntimeError("the service does not start: " + self.log.read_text("utf-8", "replace")[-2000:])

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM, as an operator stops it; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def post(url: str, body: Mapping[str, Any], session: requests.Session | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one POST, without the retries of a device."""
    with requests.Session() if session is None else closing_nothing(session) as used:
        used.trust_env = False
        answer = used.post(url, json=body, timeout=60)
        return answer.status_code, json.loads(answer.content)


@contextmanager
def closing_nothing(session: requests.Session) -> Iterator[requests.Session]:
    yield session
