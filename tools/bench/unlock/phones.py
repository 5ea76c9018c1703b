"""Phones for the benchmark: each makes the proofs that its kind of phone makes, under roots of the benchmark's own.

What does not depend on the challenge is made beforehand, so that the generator of the load needs little of the machine.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [
    str(ROOT / "sdk/python"),
    str(ROOT / "tests/python"),
]

import support.attestation_forge as forge  # noqa: E402
from corelocker.bundle import jose  # noqa: E402
from corelocker.licensing.attested_request import AttestedRequest, renewal_token  # noqa: E402
from corelocker.licensing.development import DevelopmentKey  # noqa: E402
from corelocker.licensing.evidence import Format, evidence_to_json  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

APPLE_APP = "1234567890.com.example.camera"
PACKAGE = "com.example.camera"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def shared_chain() -> list[forge.Cert]:
    """Attestation key, intermediate, top and root of a remotely provisioned chain that is valid today."""
    now = datetime.now(UTC).replace(microsecond=0)
    above = forge.remote()
    return [replace(cert, not_before=now - timedelta(days=5), not_after=now + timedelta(days=5)) for cert in above]


class AndroidPhone:
    """A phone with an attestation key of its own, as remote provisioning gives it, that unlocks for the first time.

    With `cold` every certificate of its chain is new, down from the root.
    """

    def __init__(self, app: str, bundle: str, grant: str, shared: list[forge.Cert], *, cold: bool = False) -> None:
        self.app, self.bundle, self.grant = app, bundle, grant
        self.key, issuer_key = new_key(), new_key()
        if cold:
            top_key, middle_key = new_key(), new_key()
            top = replace(shared[2], public=forge.spki(top_key))
            middle = replace(shared[1], public=forge.spki(middle_key), signer=top_key)
            issuer = replace(shared[0], public=forge.spki(issuer_key), signer=middle_key)
            above = [issuer, middle, top, shared[3]]
        else:
            above = [replace(shared[0], public=forge.spki(issuer_key)), *shared[1:]]
        self._above = [jose.encode_base64url(cert.der()) for cert in above]
        self._leaf = forge.leaf(above[0].subject, issuer_key)
        self._jwk = jose.public_jwk(self.key.public_key())

    def request(self, challenge: str) -> tuple[str, bytes]:
        """Path and body of the first unlock."""
        asked = AttestedRequest(challenge, self.app, self.bundle, "full", self.key.public_key(), self.grant)
        software = {709: forge.application_id((PACKAGE,))}
        description = forge.key_description(challenge=asked.digest(Format.ANDROID_KEY), software=software)
        extensions = (forge.key_usage(4), forge.extension(forge.KEY_DESCRIPTION, description))
        leaf = replace(self._leaf, public=forge.spki(self.key), extensions=extensions)
        chain = [jose.encode_base64url(leaf.der()), *self._above]
        return "/v1/licenses", _body(self, challenge, {"format": "android-key", "chain": chain})

    def answered(self, answer: dict[str, Any]) -> None:
        """A first unlock happens once."""


class ApplePhone:
    """A phone whose App Attest key was attested; it unlocks again with assertions."""

    def __init__(self, app: str, bundle: str, grant: str) -> None:
        self.app, self.bundle, self.grant = app, bundle, grant
        self.key, self._app_key, self._counter = new_key(), new_key(), 0
        self._key_id = hashlib.sha256(forge.point(self._app_key)).digest()
        self._jwk = jose.public_jwk(self.key.public_key())

    def first(self, challenge: str) -> tuple[str, bytes]:
        """Path and body of the unlock that attests the key."""
        digest = self._digest(challenge)
        data = forge.authenticator_data(
            app_id=APPLE_APP,
            aaguid=forge.DEVELOPMENT_AAGUID,
            credential_id=self._key_id,
            credential_key=forge.cose(self._app_key),
        )
        now = datetime.now(UTC).replace(microsecond=0)
        times = {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=2)}
        attestation = forge.attestation_object(
            data,
            nonce=hashlib.sha256(data + digest).digest(),
            leaf={"public": forge.spki(self._app_key), **times},
            ca=times,
        )
        return "/v1/licenses", self._proven(challenge, "attestation", attestation)

    def request(self, challenge: str) -> tuple[str, bytes]:
        """Path and body of an unlock with an assertion."""
        self._counter += 1
        data = forge.assertion_data(app_id=APPLE_APP, counter=self._counter)
        digest = self._digest(challenge)
        assertion = forge.assertion_object(data, private=self._app_key, client_data_hash=digest)
        return "/v1/licenses", self._proven(challenge, "assertion", assertion)

    def answered(self, answer: dict[str, Any]) -> None:
        """The next unlock is like this one."""

    def _digest(self, challenge: str) -> bytes:
        asked = AttestedRequest(challenge, self.app, self.bundle, "full", self.key.public_key(), self.grant)
        return asked.digest(Format.APPLE_APP_ATTEST)

    def _proven(self, challenge: str, name: str, data: bytes) -> bytes:
        proof = {"format": "apple-app-attest", "key_id": jose.encode_base64url(self._key_id)}
        return _body(self, challenge, {**proof, name: jose.encode_base64url(data)})


class RenewingPhone:
    """A phone in development that renews its license again and again."""

    def __init__(self, app: str, bundle: str, grant: str, attestation_key: DevelopmentKey) -> None:
        self.app, self.bundle, self.grant = app, bundle, grant
        self.key, self._attestation_key = new_key(), attestation_key
        self._license_id = ""
        self._jwk = jose.public_jwk(self.key.public_key())

    def first(self, challenge: str) -> tuple[str, bytes]:
        """Path and body of the first unlock."""
        return "/v1/licenses", _body(self, challenge, self._proof(challenge, self.grant))

    def request(self, challenge: str) -> tuple[str, bytes]:
        """Path and body of a renewal of the last license."""
        proof = self._proof(challenge, renewal_token(self._license_id))
        body = {"challenge": challenge, "attestation": proof}
        return f"/v1/licenses/{self._license_id}/renew", json.dumps(body).encode()

    def answered(self, answer: dict[str, Any]) -> None:
        """The next renewal is of the license that came."""
        self._license_id = answer["license_id"]

    def _proof(self, challenge: str, purchase: str) -> dict[str, object]:
        asked = AttestedRequest(challenge, self.app, self.bundle, "full", self.key.public_key(), purchase)
        return evidence_to_json(self._attestation_key.attest(asked.digest(Format.DEVELOPMENT)))


Phone = AndroidPhone | ApplePhone | RenewingPhone


def _body(phone: Phone, challenge: str, attestation: dict[str, object]) -> bytes:
    return json.dumps(
        {
            "challenge": challenge,
            "app": phone.app,
            "bundle": phone.bundle,
            "tier": "full",
            "device_key": phone._jwk,
            "attestation": attestation,
            "purchase": {"provider": "grant", "token": phone.grant},
        }
    ).encode()
