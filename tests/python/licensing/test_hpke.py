"""HPKE as licenses use it, against RFC 9180's vectors, Wycheproof's points and another implementation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.licensing.device_key import SoftwareDeviceKey
from corelocker.licensing.errors import LicenseFormatError, LicenseWrapError
from corelocker.licensing.license import issue_license, read_license
from corelocker.licensing.tokens import SoftwareSigner, TrustedKeys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

VECTORS = Path(__file__).parents[3] / "tests/vectors/hpke"
RFC9180 = json.loads((VECTORS / "rfc9180_p256_sha256_aes256gcm.json").read_text())
WYCHEPROOF = json.loads((VECTORS / "wycheproof_ecdh_secp256r1_ecpoint_test.json").read_text())
SUITE = CipherSuite.new(KEMId.DHKEM_P256_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
POINTS = [case for group in WYCHEPROOF["testGroups"] for case in group["tests"]]


def private_key(scalar: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(scalar, 16), ec.SECP256R1())


@pytest.mark.parametrize("text", [b"", b"k" * 32, bytes(1000)])
def test_opens_what_the_rfc_keys_seal(text: bytes) -> None:
    """The RFC's message has AAD, which a single-shot suite does not take: seal under its key and nonce without."""
    vector = next(vector for vector in RFC9180 if vector["mode"] == 0)
    sealed = AESGCM(bytes.fromhex(vector["key"])).encrypt(bytes.fromhex(vector["base_nonce"]), text, None)
    device = SoftwareDeviceKey(private_key(vector["skRm"]))
    assert device.open(bytes.fromhex(vector["enc"]) + sealed, bytes.fromhex(vector["info"])) == text


def test_the_oracle_itself_agrees_with_the_rfc() -> None:
    vector = next(vector for vector in RFC9180 if vector["mode"] == 0)
    recipient = KEMKey.from_pyca_cryptography_key(private_key(vector["skRm"]))
    context = SUITE.create_recipient_context(bytes.fromhex(vector["enc"]), recipient, bytes.fromhex(vector["info"]))
    for message in vector["encryptions"]:
        assert context.open(bytes.fromhex(message["ct"]), bytes.fromhex(message["aad"])) == bytes.fromhex(message["pt"])


def test_opens_no_other_mode() -> None:
    """PSK and authenticated messages do not open in base mode."""
    for vector in RFC9180:
        sealed = AESGCM(bytes.fromhex(vector["key"])).encrypt(bytes.fromhex(vector["base_nonce"]), b"k" * 32, None)
        device = SoftwareDeviceKey(private_key(vector["skRm"]))
        if vector["mode"] != 0:
            with pytest.raises(LicenseWrapError):
                device.open(bytes.fromhex(vector["enc"]) + sealed, bytes.fromhex(vector["info"]))


def dhkem_shared_secret(dh: bytes, enc: bytes, recipient: bytes) -> bytes:
    """RFC 9180, 4.1, ExtractAndExpand for DHKEM(P-256, HKDF-SHA256): the suite under test stays a black box."""
    suite = b"KEM\x00\x10"
    extract = HMAC(bytes(32), hashes.SHA256())
    extract.update(b"HPKE-v1" + suite + b"eae_prk" + dh)
    info = b"\x00\x20HPKE-v1" + suite + b"shared_secret" + enc + recipient
    return HKDFExpand(hashes.SHA256(), 32, info).derive(extract.finalize())


def key_and_nonce(shared_secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180, 5.1, KeySchedule in base mode for our suite."""
    suite = b"HPKE\x00\x10\x00\x01\x00\x02"

    def extract(salt: bytes, label: bytes, value: bytes) -> bytes:
        mac = HMAC(salt or bytes(32), hashes.SHA256())
        mac.update(b"HPKE-v1" + suite + label + value)
        return mac.finalize()

    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared_secret, b"secret", b"")
    expand = {
        label: HKDFExpand(hashes.SHA256(), size, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context).derive(
            secret
        )
        for label, size in ((b"key", 32), (b"base_nonce", 12))
    }
    return expand[b"key"], expand[b"base_nonce"]


def sealed_with(dh: bytes, enc: bytes, recipient: ec.EllipticCurvePrivateKey, info: bytes) -> bytes:
    numbers = recipient.public_key().public_numbers()
    public = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    key, nonce = key_and_nonce(dhkem_shared_secret(dh, enc, public), info)
    return enc + AESGCM(key).encrypt(nonce, b"k" * 32, None)


@pytest.mark.parametrize("case", POINTS, ids=lambda case: f"{case['tcId']}-{case['result']}")
def test_wycheproof_point_as_enc(case: dict[str, Any]) -> None:
    """A valid point opens, with the shared secret that Wycheproof states; every other point is refused."""
    enc, recipient = bytes.fromhex(case["public"]), private_key(case["private"])
    sealed = sealed_with(bytes.fromhex(case["shared"]), enc, recipient, b"info")
    if case["result"] == "valid":
        assert SoftwareDeviceKey(recipient).open(sealed, b"info") == b"k" * 32
    else:
        with pytest.raises(LicenseWrapError):
            SoftwareDeviceKey(recipient).open(sealed, b"info")


@pytest.mark.parametrize(
    "case", [case for case in POINTS if len(case["public"]) == 130], ids=lambda case: str(case["tcId"])
)
def test_wycheproof_point_as_device_key(case: dict[str, Any]) -> None:
    point = bytes.fromhex(case["public"])
    x, y = (jose.encode_base64url(part) for part in (point[1:33], point[33:]))
    jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    if case["result"] == "valid":
        assert jose.public_jwk(jose.key_of_jwk(jwk)) == jwk
    else:
        with pytest.raises(ValueError, match=r"."):
            jose.key_of_jwk(jwk)


def test_interoperates_both_ways() -> None:
    signer = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    for _ in range(20):
        key, content_key = ec.generate_private_key(ec.SECP256R1()), os.urandom(32)
        token = issue_license(
            signer,
            key.public_key(),
            content_key,
            issuer="i",
            app="a",
            environment="development",
            bundle="4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f",
            model_version=1,
            tier="full",
            issued_at=10,
            expires_at=20,
        )
        issued = read_license(token, TrustedKeys([signer.public_key]))
        assert len(issued.wrapped_key) == 113
        recipient = KEMKey.from_pyca_cryptography_key(key)
        context = SUITE.create_recipient_context(issued.wrapped_key[:65], recipient, issued.info)
        assert context.open(issued.wrapped_key[65:]) == content_key
        enc, sender = SUITE.create_sender_context(KEMKey.from_pyca_cryptography_key(key.public_key()), issued.info)
        assert SoftwareDeviceKey(key).open(enc + sender.seal(content_key), issued.info) == content_key


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_seals_to_p256_only(curve: ec.EllipticCurve) -> None:
    signer = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(LicenseFormatError, match="P-256"):
        issue_license(
            signer,
            ec.generate_private_key(curve).public_key(),
            bytes(32),
            issuer="i",
            app="a",
            environment="development",
            bundle="4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f",
            model_version=1,
            tier="full",
            issued_at=10,
            expires_at=20,
        )
