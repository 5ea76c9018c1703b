"""App Attest of a made-up phone, under roots that a test makes its service trust."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import attestation_forge as forge
from support.certificate_writer import point

APP_ID = forge.APP_ID
ROOT = forge.APPLE_ROOT_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class ForgedAppAttest:
    """What `DCAppAttestService` gives, in production's form: one key, whose counter rises with each assertion."""

    def __init__(self) -> None:
        self._counter = 0

    def answer(self, path: str) -> bytes:
        """The result of `generate`, `attest/HASH` or `assert/HASH`, in base64; HASH is clientDataHash in hexadecimal."""
        call, _, digest = path.partition("/")
        if call == "generate":
            return base64.b64encode(hashlib.sha256(point(forge.APP_KEY)).digest())
        client_data_hash = bytes.fromhex(digest)
        if call == "attest":
            return base64.b64encode(self._attest(client_data_hash))
        self._counter += 1
        data = forge.assertion_data(counter=self._counter)
        return base64.b64encode(forge.assertion_object(data, client_data_hash=client_data_hash))

    def _attest(self, client_data_hash: bytes) -> bytes:
        data = forge.authenticator_data()
        now = datetime.now(UTC).replace(microsecond=0)
        validity = {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=2)}
        nonce = hashlib.sha256(data + client_data_hash).digest()
        return forge.attestation_object(data, nonce=nonce, leaf=validity, ca=validity)
