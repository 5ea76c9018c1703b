"""The vectors of content keys and JWK thumbprints: tier_keys.json and jwk_thumbprint.json."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec
from naive_bundle import BUNDLE_ID, PUBLISHER, TOP_KEY, base64url_of, derived_keys, jwk_of, thumbprint_of
from naive_patch import Vector


def tier_key_vectors() -> list[Vector]:
    cases = [
        ("one-tier", TOP_KEY, BUNDLE_ID, 1),
        ("two-tiers", TOP_KEY, BUNDLE_ID, 2),
        ("three-tiers", TOP_KEY, BUNDLE_ID, 3),
        ("most-tiers", TOP_KEY, BUNDLE_ID, 64),
        ("other-bundle", TOP_KEY, UUID(int=0), 3),
        ("zero-key", bytes(32), BUNDLE_ID, 3),
        ("ones", b"\xff" * 32, UUID(int=2**128 - 1), 3),
    ]
    vectors = []
    for name, top, bundle, tiers in cases:
        keys = [key.hex() for key in derived_keys(top, bundle, tiers)]
        vectors.append({"name": name, "bundle": str(bundle), "content_key": top.hex(), "tiers": tiers, "keys": keys})
    return vectors


def thumbprint_vectors() -> list[Vector]:
    # RFC 7517 appendix A.1
    of_rfc = {
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }
    # A coordinate that begins with a zero byte must keep it: the smallest scalar from 1 with such an x.
    scalar = next(
        d for d in range(1, 10_000) if ec.derive_private_key(d, ec.SECP256R1()).public_key().public_numbers().x < 2**248
    )
    short = jwk_of(ec.derive_private_key(scalar, ec.SECP256R1()))
    stripped = short | {"x": base64url_of(base64.urlsafe_b64decode(short["x"] + "=")[1:])}
    x = of_rfc["x"]

    def good(name: str, comment: str, jwk: dict[str, Any]) -> Vector:
        return {"name": name, "comment": comment, "jwk": jwk, "expect": "ok", "thumbprint": thumbprint_of(jwk)}

    def bad(name: str, jwk: Any) -> Vector:
        return {"name": name, "comment": "", "jwk": jwk, "expect": "invalid"}

    return [
        good("rfc7517", "RFC 7517 appendix A.1", of_rfc),
        good("more-members", "only the required members count", of_rfc | {"kid": "1", "use": "sig", "alg": "ES256"}),
        good("other-order", "the order of members does not count", dict(reversed(of_rfc.items()))),
        good("publisher", "of bundle.json", jwk_of(PUBLISHER)),
        good("leading-zero", "x begins with a zero byte", short),
        bad("leading-zero-stripped", stripped),
        bad("padded", of_rfc | {"x": x + "="}),
        bad("base64-alphabet", of_rfc | {"x": "+" + x[1:]}),
        bad("left-over-bits", of_rfc | {"x": x[:-1] + chr(ord(x[-1]) + 1)}),
        bad("newline", of_rfc | {"x": x + "\n"}),
        bad("off-curve", of_rfc | {"x": of_rfc["y"], "y": x}),
        bad("zero-point", of_rfc | {"x": base64url_of(bytes(32)), "y": base64url_of(bytes(32))}),
        bad("x-beyond-field", of_rfc | {"x": base64url_of(b"\xff" * 32)}),
        bad("missing-y", {k: v for k, v in of_rfc.items() if k != "y"}),
        bad("number", of_rfc | {"x": 7}),
        bad("curve", of_rfc | {"crv": "secp256k1"}),
        bad("kty", of_rfc | {"kty": "OKP"}),
        bad("private", of_rfc | {"d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}),
        bad("text", "EC"),
        bad("null", None),
    ]
