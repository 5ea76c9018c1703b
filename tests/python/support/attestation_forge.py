"""Makes attestations, right ones and wrong ones, under a certificate authority of our own (`certificate_writer`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from corelocker.attestation.android_key import AndroidKeyPolicy
from corelocker.attestation.apple_app_attest import AppAttestPolicy
from corelocker.attestation.chain import TrustAnchors
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from support.certificate_writer import (
    APPLE_NONCE,
    CA,
    ECDSA_SHA384,
    KEY_DESCRIPTION,
    NOW,
    NULL,
    Cert,
    basic_constraints,
    boolean,
    ctx,
    ecdsa,
    enumerated,
    extension,
    integer,
    key,
    key_usage,
    name,
    octets,
    point,
    seq,
    set_of,
    spki,
)

# --- android-key ---------------------------------------------------------------------------------

PACKAGE = "com.example.app"
SIGNER = hashlib.sha256(b"the app's signing certificate").digest()
CHALLENGE = hashlib.sha256(b"the canonical request").digest()
SIGN, VERIFY, AGREE_KEY, ATTEST_KEY = 2, 3, 6, 7

ROOT_KEY = key("android root", ec.SECP384R1())
ROOT_NAME = name(serial="f920000000000000")
ANCHORS = TrustAnchors((spki(ROOT_KEY),))
DEVICE_KEY = key("device key")


def application_id(
    packages: tuple[str, ...] = (PACKAGE,),
    digests: tuple[bytes, ...] = (SIGNER,),
    *,
    package_tail: bytes = b"",
    inner_tail: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    entries = [seq(octets(package.encode()), integer(7), package_tail) for package in packages]
    return octets(seq(set_of(*entries), set_of(*map(octets, digests)), inner_tail) + tail)


def root_of_trust(locked: bytes = boolean(True), state: int = 0, boot_hash: bytes = octets(bytes(32))) -> bytes:
    return seq(octets(bytes(32)), locked, enumerated(state), boot_hash)


SOFTWARE: Mapping[int, bytes] = {701: integer(1_770_000_000_000), 709: application_id()}
HARDWARE: Mapping[int, bytes] = {
    1: set_of(integer(AGREE_KEY)),
    2: integer(3),
    3: integer(256),
    10: integer(1),
    503: NULL,
    702: integer(0),
    704: root_of_trust(),
    705: integer(160000),
    706: integer(202602),
    718: integer(20260205),
    719: integer(20260205),
}


def authorizations(tags: Mapping[int, bytes | None]) -> bytes:
    """In the order of the mapping, None left out."""
    return seq(*(ctx(tag, value) for tag, value in tags.items() if value is not None))


def key_description(
    *,
    version: int = 300,
    level: int = 1,
    keymint_level: int = 1,
    challenge: bytes = CHALLENGE,
    software: Mapping[int, bytes | None] | None = None,
    hardware: Mapping[int, bytes | None] | None = None,
    tail: bytes = b"",
) -> bytes:
    return seq(
        integer(version),
        enumerated(level),
        integer(version),
        enumerated(keymint_level),
        octets(challenge),
        octets(b""),
        authorizations(dict(sorted({**SOFTWARE, **(software or {})}.items()))),
        authorizations(dict(sorted({**HARDWARE, **(hardware or {})}.items()))),
        tail,
    )


def leaf(issuer: bytes, signer: ec.EllipticCurvePrivateKey, description: bytes | None = None, **bent: Any) -> Cert:
    """An attested key's certificate; `bent` changes its fields."""
    value = key_description() if description is None else description
    cert = Cert(
        name(cn="Android Keystore Key"),
        issuer,
        spki(DEVICE_KEY),
        signer,
        (key_usage(4), extension(KEY_DESCRIPTION, value)),
        # Devices date leaves as they please.
        not_before=datetime(1970, 1, 1, tzinfo=UTC),
        not_after=datetime(1970, 1, 2, tzinfo=UTC),
    )
    return replace(cert, **bent)


ROOT = Cert(
    ROOT_NAME, ROOT_NAME, spki(ROOT_KEY), ROOT_KEY, CA, serial=0xF92000, algorithm=ECDSA_SHA384, digest=SHA384()
)


def factory(level: str = "TEE", **bent: Any) -> list[Cert]:
    """A factory chain without its leaf: attestation key, factory CA, root. `bent` changes the attestation key."""
    ca_name, issuer_name = name(serial="ca01", title=level), name(serial="ba7c4", title=level)
    ca_key = key("factory ca", ec.SECP384R1())
    ca = Cert(
        ca_name,
        ROOT_NAME,
        spki(ca_key),
        ROOT_KEY,
        CA,
        serial=0x388266760658996857D,
        not_after=NOW - timedelta(days=1),
        algorithm=ECDSA_SHA384,
        digest=SHA384(),
    )
    issuer = Cert(
        issuer_name,
        ca_name,
        spki(key("factory issuer")),
        ca_key,
        CA,
        serial=0x17102468407102977850,
        not_after=NOW - timedelta(days=1),
        algorithm=ECDSA_SHA384,
        digest=SHA384(),
    )
    return [replace(issuer, **bent), ca, ROOT]


def remote(level: str = "TEE", **bent: Any) -> list[Cert]:
    """A remotely provisioned chain without its leaf. `bent` changes the attestation key."""
    ca2, ca3 = name(cn="Droid CA2", o="Google LLC"), name(cn="Droid CA3", o="Google LLC")
    issuer_name = name(cn="d71dfb3563e5d9cb46dd12c1ba226c39", o=level)
    top = Cert(
        ca2,
        ROOT_NAME,
        spki(key("droid ca2")),
        ROOT_KEY,
        (basic_constraints(True, 2), key_usage(5, 6)),
        serial=0xB184CB05EC50FDC985F0EC53297CF823,
        algorithm=ECDSA_SHA384,
        digest=SHA384(),
    )
    middle = Cert(
        ca3, ca2, spki(key("droid ca3")), key("droid ca2"), CA, serial=0x303A8D67C45A0DDA7B0DAFBC092F5A824A02EC
    )
    issuer = Cert(
        issuer_name,
        ca3,
        spki(key("remote issuer")),
        key("droid ca3"),
        CA,
        serial=0xD71DFB3563E5D9CB46DD12C1BA226C39,
        not_before=NOW - timedelta(days=5),
        not_after=NOW + timedelta(days=5),
    )
    return [replace(issuer, **bent), middle, top, ROOT]


FACTORY_ISSUER, REMOTE_ISSUER = key("factory issuer"), key("remote issuer")


def android_chain(above: list[Cert] | None = None, description: bytes | None = None, **bent: Any) -> tuple[bytes, ...]:
    """The DER of a leaf under `above` (a factory chain if not given); `bent` changes the leaf."""
    above = factory() if above is None else above
    signer = FACTORY_ISSUER if above[0].public == spki(FACTORY_ISSUER) else REMOTE_ISSUER
    bottom = replace(leaf(above[0].subject, signer, description), **bent)
    return (bottom.der(), *(cert.der() for cert in above))


def android_policy(**bent: Any) -> AndroidKeyPolicy:
    return replace(AndroidKeyPolicy(PACKAGE, frozenset({SIGNER})), **bent)


def described(**bent: Any) -> tuple[bytes, ...]:
    """A valid chain but for the key description."""
    return android_chain(description=key_description(**bent))


# --- CBOR ----------------------------------------------------------------------------------------


def cbor_head(kind: int, value: int) -> bytes:
    if value < 24:
        return bytes([kind << 5 | value])
    for info, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * width:
            return bytes([kind << 5 | info]) + value.to_bytes(width)
    raise ValueError(value)


def cbor(value: object) -> bytes:
    match value:
        case int():
            return cbor_head(0, value) if value >= 0 else cbor_head(1, -1 - value)
        case bytes():
            return cbor_head(2, len(value)) + value
        case str():
            return cbor_head(3, len(value.encode())) + value.encode()
        case list():
            return cbor_head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return cbor_head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())
    raise TypeError(type(value))


# --- apple-app-attest ----------------------------------------------------------------------------

APP_ID = "1234567890.com.example.app"
APP_KEY = key("app attest key")
APPLE_ROOT_KEY = key("apple root", ec.SECP384R1())
APPLE_CA_KEY = key("apple ca", ec.SECP384R1())
APPLE_ANCHORS = TrustAnchors((spki(APPLE_ROOT_KEY),))
CLIENT_DATA_HASH = hashlib.sha256(b"the canonical request of an iPhone").digest()
PRODUCTION_AAGUID, DEVELOPMENT_AAGUID = b"appattest" + bytes(7), b"appattestdevelop"
IOS_27 = cbor({"apple_bundle_version_01": "1", "apple_validation_category_01": (4).to_bytes(4, "little")})


def cose(private: ec.EllipticCurvePrivateKey, bent: Mapping[int, object] | None = None) -> bytes:
    encoded = point(private)
    return cbor({1: 2, 3: -7, -1: 1, -2: encoded[1:33], -3: encoded[33:]} | dict(bent or {}))


def authenticator_data(
    *,
    app_id: str = APP_ID,
    flags: int = 0x40,
    counter: int = 0,
    aaguid: bytes = PRODUCTION_AAGUID,
    credential_id: bytes | None = None,
    credential_key: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    """Authenticator data with an attested credential."""
    identifier = hashlib.sha256(point(APP_KEY)).digest() if credential_id is None else credential_id
    return (
        hashlib.sha256(app_id.encode()).digest()
        + bytes([flags])
        + counter.to_bytes(4)
        + aaguid
        + len(identifier).to_bytes(2)
        + identifier
        + (cose(APP_KEY) if credential_key is None else credential_key)
        + tail
    )


def apple_chain(nonce: bytes | None, leaf_bent: Mapping[str, Any], ca_bent: Mapping[str, Any]) -> list[bytes]:
    ca_name = name(cn="App Attestation CA 1")
    leaf_extensions = [basic_constraints(False), key_usage(0, 1, 2, 3)]
    if nonce is not None:
        leaf_extensions.append(extension(APPLE_NONCE, seq(ctx(1, octets(nonce)))))
    bottom = Cert(
        name(cn="a key identifier"),
        ca_name,
        spki(APP_KEY),
        APPLE_CA_KEY,
        tuple(leaf_extensions),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=2),
    )
    ca = Cert(
        ca_name,
        name(cn="App Attestation Root CA"),
        spki(APPLE_CA_KEY),
        APPLE_ROOT_KEY,
        (basic_constraints(True, 0), key_usage(5, 6)),
        algorithm=ECDSA_SHA384,
        digest=SHA384(),
    )
    return [replace(bottom, **leaf_bent).der(), replace(ca, **ca_bent).der()]


def attestation_object(
    data: bytes | None = None,
    *,
    nonce: bytes | None = None,
    with_nonce: bool = True,
    leaf: Mapping[str, Any] | None = None,
    ca: Mapping[str, Any] | None = None,
    members: Mapping[str, object] | None = None,
    receipt: object = b"receipt",
) -> bytes:
    data = authenticator_data() if data is None else data
    certified = hashlib.sha256(data + CLIENT_DATA_HASH).digest() if nonce is None else nonce
    chain = apple_chain(certified if with_nonce else None, leaf or {}, ca or {})
    statement = {"x5c": chain, "receipt": receipt}
    return cbor({"fmt": "apple-appattest", "attStmt": statement, "authData": data, **(members or {})})


def apple_policy(**bent: Any) -> AppAttestPolicy:
    return replace(AppAttestPolicy(APP_ID, "production"), **bent)


def assertion_data(app_id: str = APP_ID, flags: int = 0x40, counter: int = 5, tail: bytes = b"") -> bytes:
    return hashlib.sha256(app_id.encode()).digest() + bytes([flags]) + counter.to_bytes(4) + tail


def assertion_object(
    data: bytes | None = None,
    *,
    private: ec.EllipticCurvePrivateKey = APP_KEY,
    client_data_hash: bytes = CLIENT_DATA_HASH,
    members: Mapping[str, object] | None = None,
) -> bytes:
    data = assertion_data() if data is None else data
    signature = ecdsa(private, hashlib.sha256(data + client_data_hash).digest())
    return cbor({"signature": signature, "authenticatorData": data, **(members or {})})
