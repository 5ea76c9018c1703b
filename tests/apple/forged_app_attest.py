"""App Attest of a made-up phone, under roots that a test makes its service trust."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import attestation_forge as forge
from support.certificate_writer import point, spki

APP_ID = forge.APP_ID
ROOT = forge.APPLE_ROOT_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class ForgedAppAttest:
    """What `DCAppAttestService` gives, in production's form: keys, each with a counter that rises with its assertions."""

    def __init__(self) -> None:
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._counters: Counter[str] = Counter()

    def answer(self, path: str) -> bytes:
        """The result of `generate`, `attest/KEY/HASH` or `assert/KEY/HASH` in base64; KEY and HASH, clientDataHash, are in hex."""
        if path == "generate":
            private = ec.generate_private_key(ec.SECP256R1())
            key_id = hashlib.sha256(point(private)).digest()
            self._keys[key_id.hex()] = private
            return base64.b64encode(key_id)
        call, key_id, digest = path.split("/")
        made = self._attested if call == "attest" else self._asserted
        return base64.b64encode(made(key_id, bytes.fromhex(digest)))

    def _attested(self, key_id: str, client_data_hash: bytes) -> bytes:
        private = self._keys[key_id]
        data = forge.authenticator_data(credential_id=bytes.fromhex(key_id), credential_key=forge.cose(private))
        now = datetime.now(UTC).replace(microsecond=0)
        validity = {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=2)}
        nonce = hashlib.sha256(data + client_data_hash).digest()
        return forge.attestation_object(data, nonce=nonce, leaf=validity | {"public": spki(private)}, ca=validity)

    def _asserted(self, key_id: str, client_data_hash: bytes) -> bytes:
        self._counters[key_id] += 1
        data = forge.assertion_data(counter=self._counters[key_id])
        return forge.assertion_object(data, private=self._keys[key_id], client_data_hash=client_data_hash)
