"""The proofs of a device as the unlock API carries them (docs/formats.md, "Proofs"): shapes and bounds, and no verdict.

The phone's side makes them, `corelocker.attestation` judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from corelocker.bundle import jose
from corelocker.licensing.errors import EvidenceError

# What evidence may hold; real evidence is at most a third of it.
MAX_CHAIN = 6
MAX_CERTIFICATE = 16 << 10
MAX_OBJECT = 64 << 10
MAX_INTEGRITY_TOKEN = 8 << 10


class Format(StrEnum):
    """The kinds of proof, as the unlock API names them."""

    ANDROID_KEY = "android-key"
    APPLE_APP_ATTEST = "apple-app-attest"
    DEVELOPMENT = "development"
    DEVICE_KEY = "device-key"
    PLAY_INTEGRITY = "play-integrity"


@dataclass(frozen=True, slots=True)
class AndroidKeyEvidence:
    """`KeyStore.getCertificateChain()`: DER certificates, the attested key's first; the root may be left out.

    `integrity_token` is Play Integrity's, as the app got it, for apps whose service asks for it (`play_integrity.py`).
    """

    chain: tuple[bytes, ...]
    integrity_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AppAttestEvidence:
    """`DCAppAttestService.attestKey`: the CBOR attestation object and the 32-byte key identifier."""

    key_id: bytes
    attestation: bytes


@dataclass(frozen=True, slots=True)
class AppAssertEvidence:
    """`DCAppAttestService.generateAssertion`: the CBOR assertion and the 32-byte identifier of the key that made it."""

    key_id: bytes
    assertion: bytes


@dataclass(frozen=True, slots=True)
class DevelopmentEvidence:
    """A DER certificate issued by a development root, and its key's signature (`development.py` says of what)."""

    certificate: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class DeviceKeyEvidence:
    """The 32-byte answer to a challenge that was sealed to the device key (`device_key.py`); renewals only."""

    proof: bytes


Evidence = AndroidKeyEvidence | AppAttestEvidence | AppAssertEvidence | DevelopmentEvidence | DeviceKeyEvidence


def evidence_from_json(value: Mapping[str, object]) -> Evidence:
    """The evidence in the `attestation` member of an unlock request; all bytes are unpadded base64url.

        {"format": "android-key", "chain": [leaf, ..., root]}                 with "integrity_token": text, or without
        {"format": "apple-app-attest", "key_id": ..., "attestation": ...}     first unlock of an install
        {"format": "apple-app-attest", "key_id": ..., "assertion": ...}       every later one
        {"format": "development", "certificate": ..., "signature": ...}
        {"format": "device-key", "proof": ...}                                renewals only

    Raises EvidenceError.
    """
    match value:
        case {"format": Format.ANDROID_KEY, "chain": list(chain)} if len(value) == 2 and len(chain) <= MAX_CHAIN:
            return AndroidKeyEvidence(_chain(chain))
        case {"format": Format.ANDROID_KEY, "chain": list(chain), "integrity_token": token} if (
            len(value) == 3 and len(chain) <= MAX_CHAIN
        ):
            return AndroidKeyEvidence(_chain(chain), _integrity_token(token))
        case {"format": Format.APPLE_APP_ATTEST, "key_id": key_id, "attestation": data} if len(value) == 3:
            return AppAttestEvidence(_bytes(key_id, 32), _bytes(data, MAX_OBJECT))
        case {"format": Format.APPLE_APP_ATTEST, "key_id": key_id, "assertion": data} if len(value) == 3:
            return AppAssertEvidence(_bytes(key_id, 32), _bytes(data, MAX_OBJECT))
        case {"format": Format.DEVELOPMENT, "certificate": data, "signature": signature} if len(value) == 3:
            return DevelopmentEvidence(_bytes(data, MAX_CERTIFICATE), _bytes(signature, 128))
        case {"format": Format.DEVICE_KEY, "proof": proof} if len(value) == 2:
            return DeviceKeyEvidence(_bytes(proof, 32))
    raise EvidenceError("the attestation has an unknown format, or other members than its format has")


def evidence_to_json(evidence: Evidence) -> dict[str, object]:
    """The inverse of `evidence_from_json`."""
    match evidence:
        case AndroidKeyEvidence(chain, token):
            encoded = [jose.encode_base64url(item) for item in chain]
            integrity = {} if token is None else {"integrity_token": token}
            return {"format": str(Format.ANDROID_KEY), "chain": encoded, **integrity}
        case AppAttestEvidence(key_id, data):
            return {
                "format": str(Format.APPLE_APP_ATTEST),
                "key_id": jose.encode_base64url(key_id),
                "attestation": jose.encode_base64url(data),
            }
        case AppAssertEvidence(key_id, data):
            return {
                "format": str(Format.APPLE_APP_ATTEST),
                "key_id": jose.encode_base64url(key_id),
                "assertion": jose.encode_base64url(data),
            }
        case DevelopmentEvidence(data, signature):
            return {
                "format": str(Format.DEVELOPMENT),
                "certificate": jose.encode_base64url(data),
                "signature": jose.encode_base64url(signature),
            }
        case DeviceKeyEvidence(proof):
            return {"format": str(Format.DEVICE_KEY), "proof": jose.encode_base64url(proof)}


def _bytes(value: object, limit: int) -> bytes:
    if not isinstance(value, str) or len(value) > (limit * 4 + 2) // 3:
        raise EvidenceError("the attestation holds a value that is no text, or too long")
    try:
        return jose.decode_base64url(value)
    except ValueError as error:
        raise EvidenceError("the attestation holds a value that is not unpadded base64url") from error


def _chain(values: list[object]) -> tuple[bytes, ...]:
    return (*(_bytes(item, MAX_CERTIFICATE) for item in values[:1]), *map(_issuer, values[1:]))


def _integrity_token(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_INTEGRITY_TOKEN:
        raise EvidenceError("the integrity token is no text, empty or too long")
    if not value.isascii() or not value.isprintable():
        raise EvidenceError("the integrity token has other characters than printable ASCII")
    return value


@lru_cache(maxsize=128)
def _shared_certificate(text: str) -> bytes:
    return _bytes(text, MAX_CERTIFICATE)


def _issuer(value: object) -> bytes:
    """A certificate above the leaf; many phones send the same."""
    return _shared_certificate(value) if isinstance(value, str) else _bytes(value, MAX_CERTIFICATE)
