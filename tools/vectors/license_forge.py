"""Licenses for the vectors, good and bent: keys, claims, tokens, the wrapped content key.

Keys, ephemeral keys and signatures are fixed. Tokens and canonical JSON are put together here, HPKE is sealed by pyhpke:
none of it is the package's.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, KEMKeyPair

Vector = dict[str, Any]

DAY = 86400
ISSUED = 1_800_000_000
END = ISSUED + 30 * DAY
BUNDLE = "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f"
OTHER_BUNDLE = "5b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f"
TYPE = "corelocker-license+jwt"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def key(name: str) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(sha256(b"corelocker vector key " + name.encode()), "big") % (ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def jwk(private: ec.EllipticCurvePrivateKey, *, secret: bool = False) -> dict[str, str]:
    numbers = private.private_numbers()
    public = numbers.public_numbers
    form = {"kty": "EC", "crv": "P-256"}
    form |= {"x": base64url(public.x.to_bytes(32, "big")), "y": base64url(public.y.to_bytes(32, "big"))}
    return form | ({"d": base64url(numbers.private_value.to_bytes(32, "big"))} if secret else {})


def thumbprint(private: ec.EllipticCurvePrivateKey) -> str:
    return base64url(sha256(canonical(jwk(private))))


SERVICE, NEXT_SERVICE, STRANGER = key("service"), key("next service"), key("stranger")
PHONE, OTHER_PHONE = key("phone"), key("other phone")
CONTENT_KEY = sha256(b"corelocker vector content key")


def canonical(value: Any) -> bytes:
    """RFC 8785 for everything but fractions, which licenses do not hold."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return b"{" + b",".join(canonical(name) + b":" + canonical(value[name]) for name in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(canonical(item) for item in value) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def info_of(claims: dict[str, Any]) -> bytes:
    others = {name: value for name, value in claims.items() if name != "wk"}
    return b"corelocker license v1" + sha256(canonical(others))


def seal(recipient: ec.EllipticCurvePrivateKey, info: bytes, content_key: bytes = CONTENT_KEY) -> bytes:
    """HPKE's enc || ciphertext with an ephemeral key that follows from the info."""
    suite = CipherSuite.new(KEMId.DHKEM_P256_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    ephemeral = key("ephemeral " + info.hex())
    pair = KEMKeyPair(
        KEMKey.from_pyca_cryptography_key(ephemeral), KEMKey.from_pyca_cryptography_key(ephemeral.public_key())
    )
    enc, context = suite.create_sender_context(
        KEMKey.from_pyca_cryptography_key(recipient.public_key()), info, eks=pair
    )
    return enc + context.seal(content_key)


def claims_of(**changes: Any) -> dict[str, Any]:
    """The claims of a good license with changes; a claim that is None is left out, `wk` is made last unless given."""
    claims: dict[str, Any] = {
        "iss": "https://unlock.example.com",
        "iat": ISSUED,
        "nbf": ISSUED,
        "exp": END,
        "jti": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "aud": "com.example.camera",
        "env": "production",
        "bundle": BUNDLE,
        "model_version": 3,
        "tier": "full",
        "cnf": {"jkt": thumbprint(PHONE)},
    }
    claims |= changes
    claims = {name: value for name, value in claims.items() if value is not None}
    if "wk" not in changes:
        claims["wk"] = base64url(seal(PHONE, info_of(claims)))
    return claims


def signature(private: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    der = private.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token_of(
    claims: dict[str, Any] | bytes,
    *,
    header: dict[str, Any] | bytes | None = None,
    signer: ec.EllipticCurvePrivateKey = SERVICE,
    sealed: bytes | None = None,
) -> str:
    """A compact JWS; `header` and `claims` may be raw bytes, `sealed` a signature to use instead of the true one."""
    if header is None:
        header = {"alg": "ES256", "kid": thumbprint(signer), "typ": TYPE}
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    signing_input = ".".join(base64url(part) for part in parts)
    return f"{signing_input}.{base64url(signature(signer, signing_input.encode()) if sealed is None else sealed)}"


GOOD = token_of(claims_of())


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def vector(name: str, comment: str, token: str, expect: str = "ok", **parts: Any) -> Vector:
    """A license shown to a device; `parts` are changes of expected and clock, the state, and the mark afterwards."""
    expected = {
        "issuer": "https://unlock.example.com",
        "app": "com.example.camera",
        "environment": "production",
        "bundle": BUNDLE,
        "model_version": 3,
        "tiers": ["plus", "full"],
        "offline_grace": 0,
    }
    clock = {"wall": ISSUED + DAY, "ticks": 5000, "boot": "boot-1", "mark": None}
    made: Vector = {
        "name": name,
        "comment": comment,
        "token": token,
        "expected": expected | parts.get("expected", {}),
        "clock": clock | parts.get("clock", {}),
        "expect": expect,
    }
    if expect == "ok":
        made |= {"state": parts.get("state", "valid"), "content_key": CONTENT_KEY.hex()}
    if "mark" in parts:
        made["mark_after"] = parts["mark"]
    return made


def mark(time: int, ticks: int = 5000, boot: str = "boot-1") -> dict[str, Any]:
    return {"time": time, "ticks": ticks, "boot": boot}
