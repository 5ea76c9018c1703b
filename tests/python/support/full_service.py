"""A service with every kind of proof and purchase configured, stores of the tests' own, and a clock that stands still."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.bundle.content_keys import new_content_key
from corelocker.bundle.keystore import FileKek, Kek, Keystore
from corelocker.licensing import errors
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.development import DevelopmentRoot
from corelocker.licensing.device_key import SoftwareDeviceKey, prove
from corelocker.licensing.evidence import Format, evidence_to_json
from corelocker.licensing.license import License, read_license
from corelocker.licensing.tokens import SoftwareSigner, TrustedKeys
from corelocker.purchases.grant import issue_grant
from corelocker.service.config_file import load_config
from corelocker.service.core import UnlockService
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.keys import KeystoreKeys
from corelocker.service.messages import ChallengeRequest, Issued, RenewRequest, UnlockRequest
from corelocker.service.storage import Storage
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support import attestation_forge as forge
from support.apple_signer import APPLE, transaction
from support.play_server import GOOGLE_KEY, PlayServer, http_server, service_account

APP = forge.PACKAGE
OTHER_APP = "com.example.other"
NOW = int(forge.NOW.timestamp())
DAY = 86400
TIERS = ("free", "plus", "full")
AUDIENCE, SENDER = "https://unlock.example.com/notices", "push@project.iam.gserviceaccount.com"
TOKEN = "opaque-token.AO-J1OwA_abcdefgh"
TOKEN_ID = hashlib.sha256(TOKEN.encode()).hexdigest()


def pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@dataclass
class Device:
    """A device key, and an App Attest key with its counter."""

    key: ec.EllipticCurvePrivateKey
    app_key: ec.EllipticCurvePrivateKey
    counter: int = 0

    @classmethod
    def new(cls) -> Device:
        return cls(ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()))

    @property
    def software(self) -> SoftwareDeviceKey:
        return SoftwareDeviceKey(self.key)

    @property
    def thumbprint(self) -> str:
        return self.software.thumbprint

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(forge.point(self.app_key)).digest()


class FullService:
    """The folder, the parts, and the requests that devices make."""

    def __init__(self, folder: Path, play_url: str, play: PlayServer, database_url: str) -> None:
        self.folder, self.play, self.database_url = folder, play, database_url
        self.clock = Clock()
        self.bundle, self.second = str(uuid.uuid4()), str(uuid.uuid4())
        FileKek.generate(folder / "kek")
        self.keystore = Keystore.create(folder / "keys.json", Kek("file", str(folder / "kek")))
        self.content_key = new_content_key()
        self.keystore.add_content_key(uuid.UUID(self.bundle), "scanner", 1, TIERS, self.content_key)
        self.keystore.add_content_key(uuid.UUID(self.second), "scanner", 2, TIERS, new_content_key())
        self.root = DevelopmentRoot.create("tests", datetime.fromtimestamp(NOW, UTC))
        self.attestation_key = self.root.issue("a phone", datetime.fromtimestamp(NOW, UTC))
        self.backend = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
        self.revocation = folder / "revocation.json"
        self.revoke(())
        for name, text in {
            "development.pem": self.root.certificate,
            "google.pem": pem(forge.ROOT_KEY.public_key()),
            "apple.pem": pem(forge.APPLE_ROOT_KEY.public_key()),
            "backend.pem": pem(self.backend.public_key),
            "account.json": json.dumps(service_account(play_url)),
        }.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        (folder / "store.der").write_bytes(APPLE.root)
        self.play_url = play_url
        self.write()
        self.storage = Storage.open(load_config(folder / "service.toml").database_url, migrate=True)
        self.service = self.open()

    def write(self, *, licenses: str = "", extra: str = "", top: str = "", android: str = "") -> None:
        products = "".join(
            f'[[products]]\napp = "{APP}"\nproduct = "{tier}"\nbundle = "{bundle}"\ntier = "{tier}"\n'
            for tier in TIERS[1:]
            for bundle in (self.bundle, self.second)
        )
        (self.folder / "service.toml").write_text(
            f"""
environment = "development"
issuer = "https://unlock.example.com"
database_url = "{self.database_url}"
{top}
[keys]
keystore = "keys.json"
[licenses]
devices = 2
cooldown = {30 * DAY}
{licenses}
[attestation]
revocation_list = "revocation.json"
[[apps]]
id = "{APP}"
[apps.android]
signer_digests = ["{forge.SIGNER.hex()}"]
roots = ["google.pem"]
{android}
[apps.apple]
app_id = "{forge.APP_ID}"
roots = ["apple.pem"]
[apps.development]
roots = ["development.pem"]
[apps.app_store]
app_apple_id = 1234
roots = ["store.der"]
[apps.google_play]
service_account_file = "account.json"
base_url = "{self.play_url}"
notice_audience = "{AUDIENCE}"
notice_sender = "{SENDER}"
notice_keys_url = "{self.play_url}/certs"
[apps.grant]
issuer = "shop"
keys = ["backend.pem"]
[[apps]]
id = "{OTHER_APP}"
[apps.development]
roots = ["development.pem"]
[apps.apple]
app_id = "{forge.APP_ID}"
roots = ["apple.pem"]
[apps.grant]
issuer = "shop"
keys = ["backend.pem"]
{products}
{extra}
"""
        )

    def open(self) -> UnlockService:
        config = load_config(self.folder / "service.toml")
        return UnlockService(config, self.storage, KeystoreKeys(self.keystore), clock=self.clock)

    def revoke(self, serials: tuple[int, ...], age: float = 0.0) -> None:
        """Write Google's list, `age` seconds old by the tests' clock."""
        entries = {f"{serial:x}": {"status": "REVOKED"} for serial in serials}
        self.revocation.write_text(json.dumps({"entries": entries}))
        os.utime(self.revocation, (self.clock.now - age, self.clock.now - age))

    # --- purchases

    def grant(self, purchase: str = "order-1", product: str = "full", **changes: Any) -> dict[str, Any]:
        members: dict[str, Any] = {
            "issuer": "shop",
            "app": APP,
            "environment": "development",
            "product": product,
            "issued_at": int(self.clock.now),
            "purchase": purchase,
        }
        return {"provider": "grant", "token": issue_grant(self.backend, **(members | changes))}

    def transaction_payload(self, **changes: Any) -> dict[str, Any]:
        now_ms = int(self.clock.now * 1000)
        members = {
            "bundleId": APP,
            "productId": "full",
            "purchaseDate": now_ms - 1000,
            "originalPurchaseDate": now_ms - 1000,
            "signedDate": now_ms - 500,
        }
        return transaction(**(members | changes))

    def transaction(self, **changes: Any) -> dict[str, Any]:
        return {"provider": "app-store", "transaction": APPLE.sign(self.transaction_payload(**changes))}

    def apple_notice(self, kind: str, **changes: Any) -> bytes:
        data = {
            "appAppleId": 1234,
            "bundleId": APP,
            "environment": "Sandbox",
            "signedTransactionInfo": APPLE.sign(self.transaction_payload(**changes)),
        }
        payload = {
            "notificationType": kind,
            "notificationUUID": str(uuid.uuid4()),
            "version": "2.0",
            "signedDate": int(self.clock.now * 1000),
            "data": data,
        }
        return json.dumps({"signedPayload": APPLE.sign(payload)}).encode()

    def google(self, token: str, *, kind: str = "product", product: str = "full") -> dict[str, Any]:
        return {"provider": "google-play", "kind": kind, "product": product, "token": token}

    # --- proofs

    def attested(self, challenge: str, device: Device, token: str, **changes: Any) -> AttestedRequest:
        members = {"app": APP, "bundle": self.bundle, "tier": "full", "device_key": device.key.public_key()}
        return AttestedRequest(challenge=challenge, purchase_token=token, **(members | changes))

    def development(self, request: AttestedRequest) -> dict[str, Any]:
        return evidence_to_json(self.attestation_key.attest(request.digest(Format.DEVELOPMENT)))

    def android(self, request: AttestedRequest, device: Device, **bent: Any) -> dict[str, Any]:
        description = forge.key_description(challenge=request.digest(Format.ANDROID_KEY), **bent)
        chain = forge.android_chain(description=description, public=forge.spki(device.key), serial=77)
        return {"format": "android-key", "chain": [jose.encode_base64url(part) for part in chain]}

    def app_attest(self, request: AttestedRequest, device: Device) -> dict[str, Any]:
        data = forge.authenticator_data(
            aaguid=forge.DEVELOPMENT_AAGUID,
            credential_id=device.key_id,
            credential_key=forge.cose(device.app_key),
        )
        nonce = hashlib.sha256(data + request.digest(Format.APPLE_APP_ATTEST)).digest()
        attestation = forge.attestation_object(data, nonce=nonce, leaf={"public": forge.spki(device.app_key)})
        return self._app_attest(device, attestation=attestation)

    def app_assert(self, request: AttestedRequest, device: Device, counter: int | None = None) -> dict[str, Any]:
        if counter is None:
            device.counter = counter = device.counter + 1
        assertion = forge.assertion_object(
            forge.assertion_data(counter=counter),
            private=device.app_key,
            client_data_hash=request.digest(Format.APPLE_APP_ATTEST),
        )
        return self._app_attest(device, assertion=assertion)

    def _app_attest(self, device: Device, **member: bytes) -> dict[str, Any]:
        encoded = {name: jose.encode_base64url(data) for name, data in member.items()}
        return {"format": "apple-app-attest", "key_id": jose.encode_base64url(device.key_id), **encoded}

    # --- requests

    def challenge(self) -> str:
        return self.service.challenges.issue(ChallengeRequest()).challenge

    def unlock_body(
        self,
        device: Device,
        purchase: Mapping[str, Any] | None = None,
        proof: str = "development",
        *,
        attested: Mapping[str, Any] | None = None,
        counter: int | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        """A request; `members` change it alone, `attested` changes what the proof is made for."""
        purchase = self.grant() if purchase is None else purchase
        challenge = members.get("challenge") or self.challenge()
        token = purchase.get("token") or purchase["transaction"]
        named = {name: members[name] for name in ("app", "bundle", "tier") if name in members}
        changes = {"challenge": challenge, "device": device, "token": token} | named | dict(attested or {})
        request = self.attested(**changes)
        evidence = {
            "development": lambda: self.development(request),
            "android": lambda: self.android(request, device),
            "app-attest": lambda: self.app_attest(request, device),
            "app-assert": lambda: self.app_assert(request, device, counter),
        }[proof]()
        body = {
            "challenge": challenge,
            "app": APP,
            "bundle": self.bundle,
            "tier": "full",
            "device_key": jose.public_jwk(device.key.public_key()),
            "attestation": evidence,
            "purchase": dict(purchase),
        }
        return body | members

    def replacing(
        self, former: Device, device: Device, purchase: dict[str, Any] | None = None, **attested: Any
    ) -> dict[str, Any]:
        """The members of an unlock by which `former` hands its place to `device`; `attested` changes what it proves."""
        sealed = self.service.challenges.issue(ChallengeRequest(former.key.public_key()))
        purchase = purchase or self.grant()
        changes = {"challenge": sealed.challenge, "device": device, "token": purchase["token"]} | attested
        digest = self.attested(**changes).replacement_digest()
        proof = prove(jose.decode_base64url(sealed.sealed or ""), former.software, digest).proof
        former_key = jose.public_jwk(former.key.public_key())
        replaces = {"device_key": former_key, "proof": jose.encode_base64url(proof)}
        return {"challenge": sealed.challenge, "purchase": purchase, "replaces": replaces}

    def unlock(self, device: Device, *arguments: Any, **changes: Any) -> Issued:
        body = self.unlock_body(device, *arguments, **changes)
        return self.service.decisions.unlock(UnlockRequest.from_json(json.dumps(body).encode()))

    def renew_body(
        self, device: Device, license_id: str, proof: str = "development", counter: int | None = None, **attested: Any
    ) -> dict[str, Any]:
        sealed = self.service.challenges.issue(ChallengeRequest(device.key.public_key()))
        changes = {"challenge": sealed.challenge, "device": device, "token": renewal_token(license_id)} | attested
        request = self.attested(**changes)
        evidence = {
            "development": lambda: self.development(request),
            "app-assert": lambda: self.app_assert(request, device, counter),
            "app-attest": lambda: self.app_attest(request, device),
            "android": lambda: self.android(request, device),
            "device-key": lambda: evidence_to_json(
                prove(jose.decode_base64url(sealed.sealed or ""), device.software, request.digest(Format.DEVICE_KEY))
            ),
        }[proof]()
        return {"challenge": sealed.challenge, "attestation": evidence}

    def renew(self, device: Device, license_id: str, *arguments: Any, **changes: Any) -> Issued:
        body = self.renew_body(device, license_id, *arguments, **changes)
        return self.service.decisions.renew(license_id, RenewRequest.from_json(json.dumps(body).encode()))

    def read(self, issued: Issued) -> License:
        return read_license(issued.license, TrustedKeys([self.keystore.signing_key.public_key()]))


@contextmanager
def full_service(folder: Path, database_url: str = "sqlite:///unlock.sqlite") -> Iterator[FullService]:
    play = PlayServer(package=APP)
    with http_server(play.answer) as url:
        world = FullService(folder, url, play, database_url)
        try:
            yield world
        finally:
            world.storage.close()


def push_token(now: float, **changes: Any) -> str:
    """What Pub/Sub authenticates a push with."""
    from joserfc import jws
    from joserfc.jwk import RSAKey

    claims = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": SENDER,
        "email_verified": True,
        "iat": int(now) - 10,
        "exp": int(now) + 3590,
    } | changes
    header = {"alg": "RS256", "kid": "google-1", "typ": "JWT"}
    registry = jws.JWSRegistry(algorithms=["RS256"])
    return "Bearer " + jws.serialize_compact(
        header, json.dumps(claims), RSAKey.import_key(GOOGLE_KEY), registry=registry
    )


# --- what Google answers, and what is left behind


def one_time(**changes: Any) -> dict[str, Any]:
    return {
        "productLineItem": [{"productId": "full", "productOfferDetails": {"quantity": 1, "refundableQuantity": 1}}],
        "purchaseStateContext": {"purchaseState": "PURCHASED"},
        "testPurchaseContext": {"fopType": "TEST"},
        "acknowledgementState": "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED",
    } | changes


def subscription(expiry: str, **changes: Any) -> dict[str, Any]:
    return {
        "subscriptionState": "SUBSCRIPTION_STATE_ACTIVE",
        "lineItems": [{"productId": "full", "expiryTime": expiry}],
        "acknowledgementState": "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED",
        "testPurchase": {},
    } | changes


def outcome(world: FullService) -> tuple[str, str]:
    row = world.storage.audit_rows(limit=1)[0]
    return row.event, row.outcome


def reason(refused: pytest.ExceptionInfo[AttestationRefusedError]) -> Reason:
    return refused.value.reason


def no_license(world: FullService) -> bool:
    return world.storage.list_licenses() == []


# --- what requests are bent in, and many at once

RELAYS: dict[str, Callable[[FullService], dict[str, Any]]] = {
    "app": lambda world: {"app": OTHER_APP},
    "bundle": lambda world: {"bundle": world.second},
    "tier": lambda world: {"tier": "plus"},
    "purchase": lambda world: {"token": world.grant("order-2")["token"]},
    "challenge": lambda world: {"challenge": world.challenge()},
}


def in_parallel(count: int, action: Callable[[int], object]) -> list[str]:
    results: list[str] = []
    start = threading.Barrier(count)

    def run(index: int) -> None:
        start.wait()
        try:
            action(index)
            results.append("ok")
        except errors.LicensingError as error:
            results.append(error.code)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
