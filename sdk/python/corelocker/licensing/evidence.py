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
    """The 32-byte answer to a challenge that was sealed to a device key (`device_key.py`): of renewals, and former keys."""

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
    match value.get("format"):
        case Format.ANDROID_KEY:
            _require(value, "chain", optional="integrity_token")
            token = _integrity_token(value["integrity_token"]) if "integrity_token" in value else None
            return AndroidKeyEvidence(_chain(value["chain"]), token)
        case Format.APPLE_APP_ATTEST if "assertion" in value:
            _require(value, "key_id", "assertion")
            return AppAssertEvidence(_bytes(value, "key_id", 32), _bytes(value, "assertion", MAX_OBJECT))
        case Format.APPLE_APP_ATTEST:
            _require(value, "key_id", "attestation")
            return AppAttestEvidence(_bytes(value, "key_id", 32), _bytes(value, "attestation", MAX_OBJECT))
        case Format.DEVELOPMENT:
            _require(value, "certificate", "signature")
            return DevelopmentEvidence(_bytes(value, "certificate", MAX_CERTIFICATE), _bytes(value, "signature", 128))
        case Format.DEVICE_KEY:
            _require(value, "proof")
            return DeviceKeyEvidence(_bytes(value, "proof", 32))
    raise EvidenceError("android-key, apple-app-attest, development or device-key", pointer="/format")


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


def _require(value: Mapping[str, object], *members: str, optional: str | None = None) -> None:
    """The object has these members beside `format`, and no others."""
    for name in members:
        if name not in value:
            raise EvidenceError("this member is missing", pointer=f"/{name}")
    if not value.keys() <= {"format", *members, optional}:
        raise EvidenceError(f"no other members than {', '.join(('format', *members))}")


def _bytes(value: Mapping[str, object], name: str, limit: int) -> bytes:
    return _decoded(value[name], limit, f"/{name}")


def _decoded(text: object, limit: int, pointer: str) -> bytes:
    expected = f"unpadded base64url of at most {limit} bytes"
    if not isinstance(text, str) or len(text) > (limit * 4 + 2) // 3:
        raise EvidenceError(expected, pointer=pointer)
    try:
        return jose.decode_base64url(text)
    except ValueError as error:
        raise EvidenceError(expected, pointer=pointer) from error


def _chain(values: object) -> tuple[bytes, ...]:
    if not isinstance(values, list) or len(values) > MAX_CHAIN:
        raise EvidenceError(f"a list of at most {MAX_CHAIN} certificates", pointer="/chain")
    return tuple(
        # Many phones send the same certificates above their own.
        _shared_certificate(text, index) if index and isinstance(text, str) else _certificate(text, index)
        for index, text in enumerate(values)
    )


def _certificate(text: object, index: int) -> bytes:
    return _decoded(text, MAX_CERTIFICATE, f"/chain/{index}")


_shared_certificate = lru_cache(maxsize=128)(_certificate)


def _integrity_token(value: object) -> str:
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= MAX_INTEGRITY_TOKEN
        or not value.isascii()
        or not value.isprintable()
    ):
        expected = f"a text of 1 to {MAX_INTEGRITY_TOKEN} printable ASCII characters"
        raise EvidenceError(expected, pointer="/integrity_token")
    return value
