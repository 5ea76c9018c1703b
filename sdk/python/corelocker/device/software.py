"""A device in software: everything that a phone SDK does around a license, step by step and in its order.

    unlock      challenge -> what the attestation signs -> attestation -> POST /v1/licenses -> verify -> store
    renew       the same with the license's id in place of a purchase
    current     read the stored license and verify it again, offline
    restore     open the content key with the device key, decrypt the patches, apply them in memory

It is the reference for Kotlin and Swift, and runs the whole flow on one machine. Its keys lie in files and its
attestation is the development one, so only a service in the development environment issues licenses to it.

A folder is a device:

    device.json         what an app is built with: service, pinned keys, app, publisher (`DeviceConfig`)
    device-key.pem      the agreement key, which a phone keeps in its secure hardware
    attestation.pem     the development attestation key and its certificate
    licenses/ID.jws     the license of each key bundle
    clock.json          the latest time that was seen (`license.DeviceClock`)
"""

from __future__ import annotations

import json
import os
import random
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlsplit

import requests
import urllib3
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.strict_json import MAX_INTEGER, Fields
from corelocker.errors import BundlePublisherError, ConfigError, FileAccessError, OutputExistsError
from corelocker.files import write_atomically
from corelocker.licensing import Environment
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.development import DevelopmentKey
from corelocker.licensing.device_clock import DeviceClock, FileMarkStore, Reading, system_reading
from corelocker.licensing.device_key import SEALED_SIZE, SoftwareDeviceKey, prove
from corelocker.licensing.errors import (
    AttestationError,
    DeviceInactiveError,
    DeviceLimitError,
    LicenseClockError,
    LicenseRevokedError,
    LicensingError,
    PurchaseRevokedError,
    PurchaseSupersededError,
)
from corelocker.licensing.evidence import Format, evidence_to_json
from corelocker.licensing.license import Expected, License, Verified, read_license, verify_license
from corelocker.licensing.tokens import TrustedKeys
from corelocker.runtime.restored import Check, RestoredFile, restore
from corelocker.service.errors import AttestationRefusedError

# What a service answers is small: a license has 16 KiB at most.
_MAX_ANSWER = 64 << 10
_MAX_CHALLENGE = 256
_MAX_PRIVATE_FILE = 16 << 10
_PROBLEM = "urn:corelocker:problem:"
# The proof of a purchase, as the attestation covers it, by provider.
_PURCHASE_TOKEN = {"grant": "token", "app-store": "transaction", "google-play": "token"}


class NotUnlockedError(LicensingError):
    """The device holds no license for this key bundle."""

    code = "not-unlocked"


class ServiceError(LicensingError):
    """The service refused for a reason that this version does not know."""

    code = "service"


class ServiceProtocolError(ServiceError):
    """What answered does not speak the unlock service's protocol (a proxy, a captive portal, another program)."""

    code = "service-protocol"


class ServiceUnreachableError(ServiceError):
    """No answer: no network, no server, a broken connection or a time-out."""

    code = "service-unreachable"
    retryable = True


class ServiceBusyError(ServiceError):
    """The service, or something in front of it, asks to come back later."""

    code = "service-busy"
    retryable = True


# --- what an app is built with -------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceConfig:
    """What an app pins at build time; nothing of it comes from the network.

    Attributes:
        service: base URL of the unlock service; https, or http on this machine.
        service_keys: public JWKs of the keys that sign its licenses.
        issuer: the claim `iss` of its licenses.
        app: the app's identifier.
        publisher: JWK thumbprint of the publisher's key, which signs the key bundles.
        offline_grace: seconds after its end in which a license still counts.
        ca_file: PEM file of the certificate authorities to trust instead of the system's, for https.
    """

    service: str
    service_keys: tuple[Mapping[str, str], ...]
    issuer: str
    app: str
    publisher: str
    offline_grace: int = 0
    ca_file: str | None = None

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.service)
            trusted = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.hostname))
        except ValueError:  # half an IPv6 address
            trusted = False
        if not trusted:
            raise ConfigError(f"{self.service!r} is no address of a service", hint="Use https; http only on loopback")
        if not self.issuer or not self.app or len(self.publisher) != jose.THUMBPRINT_SIZE or self.offline_grace < 0:
            raise ConfigError("a device needs an issuer, an app, the publisher's thumbprint and a grace of 0 s or more")
        TrustedKeys.of_jwks(self.service_keys)

    def to_json(self) -> bytes:
        """The content of device.json."""
        members = {**vars(self), "service_keys": list(self.service_keys)}
        return json.dumps({name: value for name, value in members.items() if value is not None}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The inverse of `to_json`. Raises ConfigError."""
        fields = Fields.parse(data, "device.json", ConfigError)
        return cls(
            service=fields.text("service", 1024),
            service_keys=tuple(entry.values for entry in fields.objects("service_keys")),
            issuer=fields.text("issuer", 256),
            app=fields.text("app", 256),
            publisher=fields.text("publisher", jose.THUMBPRINT_SIZE),
            offline_grace=fields.integer("offline_grace", 0, MAX_INTEGER),
            ca_file=fields.text("ca_file", 4096) if "ca_file" in fields else None,
        )


def _is_loopback(host: str | None) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


# --- talking to the service ----------------------------------------------------------------------


@dataclass(frozen=True)
class Patience:
    """How long a device keeps trying.

    Attributes:
        attempts: tries before it gives up.
        first_wait: seconds before the second try; doubled for each further one, and drawn at random from the upper half
            so that a fleet of devices does not come back at once.
        longest_wait: seconds that it waits at most, also when the service asks for more; then it gives up.
        connect, answer: seconds to connect, and for the whole answer.
        sleep: waits so many seconds.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 30
    connect: float = 5
    answer: float = 20
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)


class _TryAgain(Exception):  # noqa: N818 - not an error yet
    def __init__(self, error: LicensingError, wait: float | None) -> None:
        super().__init__()
        self.error = error
        self.wait = wait


class ServiceClient:
    """The unlock API (`/openapi.json`) over HTTP: one exchange is a challenge and the request that uses it."""

    def __init__(self, config: DeviceConfig, patience: Patience | None = None) -> None:
        self._base = config.service.rstrip("/")
        self._patience = patience or Patience()
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.verify = config.ca_file or True
        # A proxy of the environment does not lead back to this machine.
        self._session.trust_env = not _is_loopback(urlsplit(self._base).hostname)

    def exchange(
        self, path: str, body: Callable[[Mapping[str, Any]], Mapping[str, Any]], challenge: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Ask for a challenge, then POST to `path` what `body` makes of the answer; returns the answer to that.

        Where the service is busy or the line breaks, all of it is done again: whether a challenge was used up then is not
        known, so none is sent twice. A license whose answer got lost is no loss, the device keeps its place.

        Args:
            path: of the second request.
            body: makes its members from those of the challenge's answer.
            challenge: members of the first request.

        Raises the error whose `code` the service's problem names, ServiceError for one that is not known here,
        ServiceUnreachableError or ServiceProtocolError.
        """
        wait = self._patience.first_wait
        for attempt in range(1, self._patience.attempts + 1):
            try:
                return self._post(path, body(self._post("/v1/challenges", challenge)))
            except _TryAgain as again:
                # Retry-After is when the service wants to be asked at the earliest.
                pause = max(again.wait or 0, wait * random.uniform(0.5, 1))  # noqa: S311 - not a secret
                if attempt == self._patience.attempts or pause > self._patience.longest_wait:
                    raise again.error from None
            self._patience.sleep(pause)
            wait *= 2
        raise ConfigError(f"{self._patience.attempts} attempts make no sense")

    def _post(self, path: str, members: Mapping[str, Any]) -> Mapping[str, Any]:
        patience = self._patience
        deadline = time.monotonic() + patience.answer
        try:
            with self._session.post(
                self._base + path, json=members, timeout=(patience.connect, patience.answer),
                allow_redirects=False, stream=True,
            ) as answer:  # fmt: skip
                data = b""
                # Not `iter_content`, which waits for whole chunks: a byte now and then would hold the device for hours.
                while part := answer.raw.read1(16 << 10, decode_content=False):
                    data += part
                    if len(data) > _MAX_ANSWER:
                        raise ServiceProtocolError(f"the service's answer is larger than {_MAX_ANSWER} bytes")
                    if time.monotonic() > deadline:
                        raise requests.Timeout
        except requests.exceptions.SSLError:
            raise ServiceUnreachableError("the service's certificate is not trusted") from None
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError):
            raise _TryAgain(ServiceUnreachableError("the service cannot be reached"), None) from None
        except requests.RequestException as error:
            raise ServiceProtocolError(f"the request failed: {type(error).__name__}") from None
        if answer.status_code == 201:
            return Fields.parse(data, "the service's answer", ServiceProtocolError).values
        raise self._refusal(answer, data)

    @staticmethod
    def _refusal(answer: requests.Response, data: bytes) -> Exception:
        """What a status other than 201 means; 429, 503 and a challenge that is too old or used up are tried again."""
        asked = answer.headers.get("Retry-After", "")
        wait = float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None
        busy = answer.status_code in (429, 503)
        try:
            error = error_of_problem(data)
        except ServiceProtocolError as unclear:
            # A proxy in front of the service answers in its own words.
            error = unclear
        if busy and type(error) in (ServiceError, ServiceProtocolError):
            error = ServiceBusyError(f"the service answers with status {answer.status_code}")
        if busy or error.code in ("challenge-used", "challenge-expired"):
            return _TryAgain(error, wait)
        return error


def error_of_problem(data: bytes) -> LicensingError:
    """The typed error for a problem document (RFC 9457). Raises ServiceProtocolError when it is not one of the service."""
    problem = Fields.parse(data, "the service's answer", ServiceProtocolError)
    kind, title = problem.text("type", 128), problem.text("title", 256)
    if not kind.startswith(_PROBLEM):
        raise problem.refuse("a problem of another program")
    message = problem.text("detail", 512) if "detail" in problem else title
    code = kind.removeprefix(_PROBLEM)
    if code == DeviceLimitError.code:
        retry_at = problem.integer("retry_at", 0, MAX_INTEGER) if "retry_at" in problem else 0
        return DeviceLimitError(message, retry_at=retry_at)
    if code == AttestationRefusedError.code:
        return AttestationError(message)  # what was wrong with the proof is told to the operator alone
    known = _errors_by_code().get(code)
    return known(message) if known is not None else ServiceError(f"{message} ({code})")


def _errors_by_code() -> dict[str, type[LicensingError]]:
    def all_of(kind: type[LicensingError]) -> Iterator[type[LicensingError]]:
        yield kind
        for more in kind.__subclasses__():
            yield from all_of(more)

    return {kind.code: kind for kind in all_of(LicensingError)}


# --- the device ----------------------------------------------------------------------------------


class SoftwareDevice:
    """A device that lives in a folder; see the module's description.

    Attributes:
        folder: where its files are.
        config: what its app is built with.
    """

    # A development attestation exists in no other environment.
    ENVIRONMENT: ClassVar[Environment] = "development"

    def __init__(
        self,
        folder: Path,
        config: DeviceConfig,
        device_key: ec.EllipticCurvePrivateKey,
        attestation_key: DevelopmentKey,
        read_clocks: Callable[[], Reading],
        patience: Patience | None,
    ) -> None:
        self.folder = folder
        self.config = config
        self._public_key = device_key.public_key()
        self._device_key = SoftwareDeviceKey(device_key)
        self._attestation_key = attestation_key
        self._service_keys = TrustedKeys.of_jwks(config.service_keys)
        self._marks = FileMarkStore(folder / "clock.json")
        self._clock = DeviceClock(self._marks, read_clocks)
        self._client = ServiceClient(config, patience)

    @classmethod
    def create(
        cls,
        folder: Path | str,
        config: DeviceConfig,
        attestation_key: DevelopmentKey,
        *,
        read_clocks: Callable[[], Reading] = system_reading,
        patience: Patience | None = None,
    ) -> Self:
        """Make a device with a new key pair in `folder`. Raises OutputExistsError when one is there, FileAccessError."""
        folder = Path(folder)
        if (folder / "device.json").exists():
            raise OutputExistsError(f"{folder} is a device already", hint="Choose another folder")
        try:
            (folder / "licenses").mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise FileAccessError(f"{folder}: {error.strerror or error}") from None
        key = ec.generate_private_key(ec.SECP256R1())
        # device.json last: without it the folder is not a device.
        for name, data in (
            ("device-key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
            ("attestation.pem", attestation_key.to_pem().encode()),
            ("device.json", config.to_json()),
        ):
            with write_atomically(folder / name, force=True, mode=0o600) as file:
                file.write(data)
        return cls(folder, config, key, attestation_key, read_clocks, patience)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        read_clocks: Callable[[], Reading] = system_reading,
        patience: Patience | None = None,
    ) -> Self:
        """The device in `folder`. Raises FileAccessError when others can read its keys, ConfigError when it is damaged."""
        folder = Path(folder)
        config = DeviceConfig.from_json(_read_private(folder / "device.json"))
        try:
            key = load_pem_private_key(_read_private(folder / "device-key.pem"), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"{folder / 'device-key.pem'} is not a P-256 private key")
        attestation_key = DevelopmentKey.from_pem(_read_private(folder / "attestation.pem").decode("ascii", "replace"))
        return cls(folder, config, key, attestation_key, read_clocks, patience)

    @property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint of the device key."""
        return self._device_key.thumbprint

    def open_bundle(self, path: Path | str) -> KeyBundle:
        """The key bundle at `path`, signed by the publisher that the app pins. Raises one of the Bundle*Errors."""
        return KeyBundle.open(path, self.config.publisher)

    def unlock(self, bundle: KeyBundle, tier: str, purchase: Mapping[str, str]) -> Verified:
        """Get a license for a tier of the bundle, and store it.

        `purchase` is the request's member of that name: `provider`, and what proves the purchase there. Raises
        BundlePublisherError, BundleMismatchError, what `ServiceClient.exchange` raises, or a License*Error when the
        service's answer is no license for this device; then an older license stays.
        """
        bundle.tier(tier)
        token_name = _PURCHASE_TOKEN.get(purchase.get("provider", ""), "")
        if token_name not in purchase:
            raise ConfigError("a purchase names its provider (grant, app-store or google-play) and its token")
        expected = self._expected(bundle, tier)

        def body(issued: Mapping[str, Any]) -> dict[str, Any]:
            challenge = _challenge(issued)
            digest = self._digest(challenge, bundle, tier, purchase[token_name], Format.DEVELOPMENT)
            return {
                "challenge": challenge,
                "app": self.config.app,
                "bundle": str(bundle.id),
                "tier": tier,
                "device_key": jose.public_jwk(self._public_key),
                "attestation": self._attest(digest),
                "purchase": dict(purchase),
            }

        answer = self._client.exchange("/v1/licenses", body, {})
        self._repair_clock()
        return self._store(answer, expected)

    def renew(self, bundle: KeyBundle, *, by_device_key: bool = False) -> Verified:
        """Get the next license for the one that is stored, which may have ended.

        With `by_device_key` the device key itself answers (`attestation.device_key`), which is how Android renews: an
        agreement key there is attested when it is made, and only then.

        Raises NotUnlockedError without a license, and what `unlock` raises. When the service says that the right is gone
        (revoked, refunded, replaced, or the place given to another device), the stored license goes too.
        """
        stored = read_license(self._stored(bundle), self._service_keys)
        expected = self._expected(bundle, stored.tier)

        def body(issued: Mapping[str, Any]) -> dict[str, Any]:
            challenge = _challenge(issued)
            # A proof for an unlock is none for a renewal: the license takes the place of the purchase.
            digest = self._digest(challenge, bundle, stored.tier, renewal_token(stored.license_id), proof)
            if by_device_key:
                return {"challenge": challenge, "attestation": self._answer(issued, digest)}
            return {"challenge": challenge, "attestation": self._attest(digest)}

        proof = Format.DEVICE_KEY if by_device_key else Format.DEVELOPMENT
        asked = {"device_key": jose.public_jwk(self._public_key)} if by_device_key else {}
        path = f"/v1/licenses/{quote(stored.license_id, safe='')}/renew"
        try:
            answer = self._client.exchange(path, body, asked)
        except (LicenseRevokedError, PurchaseRevokedError, PurchaseSupersededError, DeviceInactiveError):
            self.forget(bundle)
            raise
        return self._store(answer, expected)

    def current(self, bundle: KeyBundle) -> Verified:
        """The stored license, verified as if it had just come; needs no network.

        Raises NotUnlockedError without one, or the License*Error that says why it cannot be used now.
        """
        return verify_license(self._stored(bundle), self._service_keys, self._expected(bundle), self._clock)

    def restore(
        self, path: Path | str, bundle: KeyBundle, tier: str | None = None, *, check: Check | None = None
    ) -> RestoredFile:
        """The locked file at `path`, restored in memory to `tier` (default: that of the license).

        `check` says when the whole file is compared, as in `runtime.restored.restore`. The content key lives for
        this call only. Raises what `current`, `License.open` and `runtime.restored.restore` raise.
        """
        license_ = self.current(bundle).license
        key = license_.open(self._device_key)
        return restore(path, bundle, key, tier, key_tier=license_.tier, check=check)

    def licenses(self) -> list[License]:
        """All stored licenses, of any state. Raises LicenseSignatureError for one that no pinned key has signed."""
        files = sorted((self.folder / "licenses").glob("*.jws"))
        return [read_license(_read_private(path).decode("ascii", "replace"), self._service_keys) for path in files]

    def forget(self, bundle: KeyBundle) -> None:
        """Remove the license of the bundle from the device, if there is one."""
        self._license_file(bundle).unlink(missing_ok=True)

    def _expected(self, bundle: KeyBundle, tier: str | None = None) -> Expected:
        if bundle.publisher != self.config.publisher:
            raise BundlePublisherError("the key bundle is signed by another publisher than the app expects")
        return Expected(
            issuer=self.config.issuer,
            app=self.config.app,
            environment=self.ENVIRONMENT,
            bundle=str(bundle.id),
            model_version=bundle.model_version,
            device=self.thumbprint,
            tier=tier,
            offline_grace=self.config.offline_grace,
        )

    def _digest(self, challenge: str, bundle: KeyBundle, tier: str, purchase_token: str, proof: Format) -> bytes:
        """What the proof of an unlock or a renewal covers."""
        request = AttestedRequest(challenge, self.config.app, str(bundle.id), tier, self._public_key, purchase_token)
        return request.digest(proof)

    def _attest(self, digest: bytes) -> dict[str, object]:
        return evidence_to_json(self._attestation_key.attest(digest))

    def _answer(self, issued: Mapping[str, Any], digest: bytes) -> dict[str, object]:
        try:
            sealed = jose.decode_base64url(str(issued.get("sealed")))
        except ValueError:
            sealed = b""
        if len(sealed) != SEALED_SIZE:
            raise ServiceProtocolError("the service's answer holds no secret that is sealed to the device key")
        return evidence_to_json(prove(sealed, self._device_key, digest))

    def _store(self, answer: Mapping[str, Any], expected: Expected) -> Verified:
        """Keep the license in the answer, once it is known to be good and to open on this device."""
        token = answer.get("license")
        verified = verify_license(token, self._service_keys, expected, self._clock)
        verified.license.open(self._device_key)
        path = self.folder / "licenses" / f"{verified.license.bundle}.jws"
        with write_atomically(path, force=True, mode=0o600) as file:
            file.write(str(token).encode("ascii"))
        return verified

    def _repair_clock(self) -> None:
        """Drop a damaged record of the time; that at which the new license was issued takes its place.

        Only after the service has answered: offline, whoever damages the record must not turn the clock back with it.
        """
        try:
            self._marks.load()
        except LicenseClockError:
            (self.folder / "clock.json").unlink(missing_ok=True)

    def _stored(self, bundle: KeyBundle) -> str:
        path = self._license_file(bundle)
        if not path.exists():
            raise NotUnlockedError("this device holds no license for the key bundle", hint="Unlock it first")
        return _read_private(path).decode("ascii", "replace")

    def _license_file(self, bundle: KeyBundle) -> Path:
        return self.folder / "licenses" / f"{bundle.id}.jws"


def _challenge(answer: Mapping[str, Any]) -> str:
    challenge = answer.get("challenge")
    if not isinstance(challenge, str) or not 1 <= len(challenge) <= _MAX_CHALLENGE:
        raise ServiceProtocolError("the service's answer holds no challenge")
    return challenge


def _read_private(path: Path) -> bytes:
    """A small file that only its owner may read."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise FileAccessError(f"{path} can be read by others", hint=f"Run: chmod 600 {path}")
            data = file.read(_MAX_PRIVATE_FILE + 1)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if len(data) > _MAX_PRIVATE_FILE:
        raise FileAccessError(f"{path} has more than {_MAX_PRIVATE_FILE} bytes")
    return data
