"""The software device: everything that a phone does around a license, step by step and in its order.

    unlock      challenge -> what the attestation covers -> attestation -> POST /v1/licenses -> verify -> store
    renew       the same with the license's id in place of a purchase
    current     read the stored license and verify it again, offline
    restore     open the content key with the device key, decrypt the patches, apply them in memory

It is the reference for Kotlin and Swift, and runs the whole flow on one machine. Its keys lie in files and its
attestation is the development one, so only a service in the development environment issues licenses to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.device.errors import NotUnlockedError, ServiceProtocolError
from corelocker.device.folder import DeviceFolder
from corelocker.device.unlock_client import LIMITS, UnlockClient
from corelocker.errors import BundlePublisherError, ConfigError
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.development import DevelopmentKey
from corelocker.licensing.device_clock import DeviceClock, Reading, system_reading
from corelocker.licensing.device_key import SEALED_SIZE, SoftwareDeviceKey, prove
from corelocker.licensing.errors import (
    DeviceInactiveError,
    LicenseClockError,
    LicenseRevokedError,
    PurchaseRevokedError,
    PurchaseSupersededError,
)
from corelocker.licensing.evidence import Format, evidence_to_json
from corelocker.licensing.http_client import Limits, RetryPolicy
from corelocker.licensing.license import Expected, License, Verified, read_license, verify_license
from corelocker.runtime.restored import Check, RestoredFile, restore

_MAX_CHALLENGE = 256
# The member of a purchase that proves it and that the attested request covers, by provider.
_PURCHASE_TOKEN = {"grant": "token", "app-store": "transaction", "google-play": "token"}
# Answers to a renewal that say that the right to the model is gone.
_RIGHT_GONE = (LicenseRevokedError, PurchaseRevokedError, PurchaseSupersededError, DeviceInactiveError)


class SoftwareDevice:
    """A device that lives in a folder (`DeviceFolder`).

    Attributes:
        folder: its files.
        config: what its app pins.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        read_clocks: Callable[[], Reading] = system_reading,
        retry: RetryPolicy | None = None,
        limits: Limits = LIMITS,
        ca_file: Path | None = None,
    ) -> None:
        """Open the device in `folder`.

        Args:
            folder: that `create` has made.
            read_clocks: the clocks of the device.
            retry: how long it keeps asking the service.
            limits: of each request to the service.
            ca_file: PEM file of the certificate authorities to trust instead of the system's.

        Raises FileAccessError when others can read its keys, ConfigError when it is damaged.
        """
        self.folder = DeviceFolder(folder)
        self.config = self.folder.config()
        _require_development(self.config)
        key = self.folder.device_key()
        self._public_key = key.public_key()
        self._device_key = SoftwareDeviceKey(key)
        self._attestation_key = self.folder.attestation_key()
        self._license_keys = self.config.trusted_keys()
        self._clock = DeviceClock(self.folder.marks, read_clocks)
        self._client = UnlockClient(self.config.service, retry, limits, ca_file)

    @classmethod
    def create(
        cls,
        folder: Path | str,
        config: AppConfig,
        attestation_key: DevelopmentKey,
        *,
        read_clocks: Callable[[], Reading] = system_reading,
        retry: RetryPolicy | None = None,
        limits: Limits = LIMITS,
        ca_file: Path | None = None,
    ) -> Self:
        """Make a device with a new key pair in `folder`, and open it.

        Raises OutputExistsError when one is there, ConfigError for the production environment, FileAccessError.
        """
        _require_development(config)
        DeviceFolder(folder).create(config, ec.generate_private_key(ec.SECP256R1()), attestation_key)
        return cls(folder, read_clocks=read_clocks, retry=retry, limits=limits, ca_file=ca_file)

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
        BundlePublisherError, BundleMismatchError, what `UnlockClient.exchange` raises, or a License*Error when the
        service's answer is no license for this device; then an older license stays.
        """
        bundle.tier(tier)
        token_name = _PURCHASE_TOKEN.get(purchase.get("provider", ""), "")
        if token_name not in purchase:
            raise ConfigError("a purchase names its provider (grant, app-store or google-play) and its token")
        expected = self._expected(bundle, (tier,))

        def body(issued: Mapping[str, Any]) -> dict[str, Any]:
            challenge = _challenge(issued)
            digest = self._digest(challenge, bundle, tier, purchase[token_name], Format.DEVELOPMENT)
            return {
                "challenge": challenge,
                "app": self.config.app,
                "bundle": str(bundle.id),
                "tier": tier,
                "device_key": jose.public_jwk(self._public_key),
                "attestation": evidence_to_json(self._attestation_key.attest(digest)),
                "purchase": dict(purchase),
            }

        answer = self._client.exchange("/v1/licenses", body, {})
        read_license(answer.get("license"), self._license_keys)
        self._drop_damaged_mark()
        return self._store(answer, expected)

    def renew(self, bundle: KeyBundle, *, by_device_key: bool = False) -> Verified:
        """Get the next license for the one that is stored, which may have ended, and store it in its place.

        The renewal is the new truth: its tier may be lower and its end earlier than what the device holds.

        With `by_device_key` the device key itself answers, which is how Android renews: an agreement key there is
        attested when it is made, and only then.

        Raises NotUnlockedError without a license, and what `unlock` raises. When the service says that the right is gone
        (revoked, refunded, replaced, or the place given to another device), the stored license goes too.
        """
        stored = read_license(self._stored(bundle), self._license_keys)
        expected = self._expected(bundle)
        proof = Format.DEVICE_KEY if by_device_key else Format.DEVELOPMENT

        def body(issued: Mapping[str, Any]) -> dict[str, Any]:
            challenge = _challenge(issued)
            # A proof for an unlock is none for a renewal: the license takes the place of the purchase.
            digest = self._digest(challenge, bundle, stored.tier, renewal_token(stored.license_id), proof)
            if by_device_key:
                evidence = evidence_to_json(prove(_sealed(issued), self._device_key, digest))
            else:
                evidence = evidence_to_json(self._attestation_key.attest(digest))
            return {"challenge": challenge, "attestation": evidence}

        asked = {"device_key": jose.public_jwk(self._public_key)} if by_device_key else {}
        path = f"/v1/licenses/{quote(stored.license_id, safe='')}/renew"
        try:
            answer = self._client.exchange(path, body, asked)
        except _RIGHT_GONE:
            self.forget(bundle)
            raise
        return self._store(answer, expected)

    def current(self, bundle: KeyBundle) -> Verified:
        """The stored license, verified as if it had just come; needs no network.

        Raises NotUnlockedError without one, or the License*Error that says why it cannot be used now.
        """
        return verify_license(self._stored(bundle), self._license_keys, self._expected(bundle), self._clock)

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
        return [read_license(token, self._license_keys) for token in self.folder.licenses()]

    def forget(self, bundle: KeyBundle) -> None:
        """Remove the license of the bundle from the device, if there is one."""
        self.folder.remove_license(str(bundle.id))

    def _expected(self, bundle: KeyBundle, tiers: tuple[str, ...] | None = None) -> Expected:
        """What a license for the bundle has to say; without `tiers`, any tier of the bundle that needs a license."""
        if bundle.publisher != self.config.publisher:
            raise BundlePublisherError("the key bundle is signed by another publisher than the app expects")
        return Expected(
            issuer=self.config.issuer,
            app=self.config.app,
            environment=self.config.environment,
            bundle=str(bundle.id),
            model_version=bundle.model_version,
            device=self.thumbprint,
            tiers=tuple(bundle.tiers[1:]) if tiers is None else tiers,
            offline_grace=self.config.offline_grace,
        )

    def _digest(self, challenge: str, bundle: KeyBundle, tier: str, purchase_token: str, proof: Format) -> bytes:
        """What the proof of an unlock or a renewal covers."""
        request = AttestedRequest(challenge, self.config.app, str(bundle.id), tier, self._public_key, purchase_token)
        return request.digest(proof)

    def _store(self, answer: Mapping[str, Any], expected: Expected) -> Verified:
        """Keep the license in the answer, once it is known to be good and to open on this device."""
        token = answer.get("license")
        verified = verify_license(token, self._license_keys, expected, self._clock)
        verified.license.open(self._device_key)
        self.folder.store_license(verified.license.bundle, str(token))
        return verified

    def _drop_damaged_mark(self) -> None:
        """Drop a damaged mark of the clock; the time at which the new license was issued begins another.

        Only once the service has signed a license: offline, whoever damages the mark must not turn the clock back with it.
        """
        try:
            self.folder.marks.load()
        except LicenseClockError:
            self.folder.remove_mark()

    def _stored(self, bundle: KeyBundle) -> str:
        token = self.folder.license(str(bundle.id))
        if token is None:
            raise NotUnlockedError("this device holds no license for the key bundle", hint="Unlock it first")
        return token


def _require_development(config: AppConfig) -> None:
    if config.environment != "development":
        raise ConfigError(
            "a software device is for the development environment", hint="Its attestation exists nowhere else"
        )


def _challenge(answer: Mapping[str, Any]) -> str:
    challenge = answer.get("challenge")
    if not isinstance(challenge, str) or not 1 <= len(challenge) <= _MAX_CHALLENGE:
        raise ServiceProtocolError("the service's answer holds no challenge")
    return challenge


def _sealed(answer: Mapping[str, Any]) -> bytes:
    try:
        sealed = jose.decode_base64url(str(answer.get("sealed")))
    except ValueError:
        sealed = b""
    if len(sealed) != SEALED_SIZE:
        raise ServiceProtocolError("the service's answer holds no secret that is sealed to the device key")
    return sealed
