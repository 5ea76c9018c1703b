"""The JOSE forms that key bundles, licenses and the unlock API share, for the curve P-256 alone.

Everything here takes or gives values of the standards: base64url without padding (RFC 4648 section 5), public JWK (RFC
7517, RFC 7518 section 6.2.1), JWK thumbprint (RFC 7638), and the 64-byte signature r || s of ES256 (RFC 7518 section
3.4). What is not in the one form that they allow is a ValueError, which callers turn into an error of their own format.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# binascii itself: base64's functions around it cost twice as much, and a license takes twenty of them.
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/", b"+/??")
SIGNATURE_SIZE = 64
THUMBPRINT_SIZE = 43


class PointError(ValueError):
    """Coordinates of the right form that belong to no point of the curve."""


def encode_base64url(data: bytes) -> str:
    """`data` in base64url without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """The bytes of `text`. Raises ValueError for padding, other characters or bits that are left over."""
    try:
        padded = text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4)
        data = binascii.a2b_base64(padded, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64url") from None
    # Padding of its own and left-over bits of any value have been read too.
    if encode_base64url(data) != text:
        raise ValueError("not the one base64url form of its bytes")
    return data


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public JWK of a P-256 key: kty, crv, x and y."""
    _require_p256(key)
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {"kty": "EC", "crv": "P-256", "x": encode_base64url(point[1:33]), "y": encode_base64url(point[33:])}


def key_of_jwk(jwk: object) -> ec.EllipticCurvePublicKey:
    """The key of a public P-256 JWK; members beyond kty, crv, x and y are ignored.

    Raises ValueError when it is not one or has a private part, PointError when only the point is not on the curve.
    """
    if not isinstance(jwk, Mapping) or jwk.get("kty") != "EC" or jwk.get("crv") != "P-256":
        raise ValueError("not a JWK of kty EC and crv P-256")
    if "d" in jwk:
        raise ValueError("a private JWK where a public one belongs")
    x, y = (_coordinate(jwk.get(name)) for name in ("x", "y"))
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
    except ValueError:
        raise PointError("the JWK's point is not on the curve") from None


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """The SHA-256 thumbprint of the key's JWK in base64url (RFC 7638): 43 characters."""
    jwk = public_jwk(key)
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
    return encode_base64url(hashlib.sha256(canonical.encode()).digest())


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """The 64-byte ES256 signature of `data`, deterministic (RFC 6979)."""
    _require_p256(key)
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is the key's 64-byte ES256 signature of `data`."""
    _require_p256(key)
    if len(signature) != SIGNATURE_SIZE:
        return False
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        key.verify(der, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _require_p256(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> None:
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"a key of the curve {key.curve.name} where P-256 belongs")


def _coordinate(value: object) -> bytes:
    data = decode_base64url(value) if isinstance(value, str) else b""
    if len(data) != 32:
        raise ValueError("a JWK coordinate that is not 32 bytes in base64url")
    return data
