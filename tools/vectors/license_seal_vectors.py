"""The vectors of the wrapped content key, in license.json and hpke_wrap.json."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from license_forge import (
    CONTENT_KEY,
    END,
    OTHER_PHONE,
    PHONE,
    Vector,
    base64url,
    canonical,
    claims_of,
    info_of,
    seal,
    token_of,
    vector,
)


def wrap_vectors() -> list[Vector]:
    good = claims_of()
    wrapped = base64.urlsafe_b64decode(good["wk"] + "=")
    compressed = PHONE.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def carrying(name: str, comment: str, wk: bytes, **changes: Any) -> Vector:
        return vector(name, comment, token_of(claims_of(wk=base64url(wk), **changes)), "license-wrap")

    return [
        carrying("wk-of-another-license", "wk of the license with another jti", wrapped, jti="another"),
        carrying("wk-with-longer-exp", "the same wk, exp moved", wrapped, exp=END + 1),
        carrying("wk-with-higher-tier", "the same wk, another tier", wrapped, tier="plus"),
        carrying("wk-with-extra-claim", "the same wk, a claim more", wrapped, extra="x"),
        carrying("wk-for-another-phone", "sealed to another phone's key", seal(OTHER_PHONE, info_of(good))),
        carrying("wk-enc-changed", "one bit of enc: not on the curve", bytes([4, wrapped[1] ^ 1]) + wrapped[2:]),
        carrying("wk-enc-infinity", "enc is zero", bytes(65) + wrapped[65:]),
        carrying("wk-enc-compressed", "enc begins with a compressed point", compressed + wrapped[33:]),
        carrying(
            "wk-ciphertext-changed", "one bit of the ciphertext", wrapped[:65] + bytes([wrapped[65] ^ 1]) + wrapped[66:]
        ),
        carrying("wk-tag-changed", "one bit of the tag", wrapped[:-1] + bytes([wrapped[-1] ^ 0x80])),
    ]


def sealing_vectors() -> list[Vector]:
    """Claims, their canonical JSON and info, and the sealed key, step by step for other implementations."""

    def sealing(name: str, comment: str, claims: dict[str, Any]) -> Vector:
        info = info_of(claims)
        return {
            "name": name,
            "comment": comment,
            "claims": json.dumps(claims, ensure_ascii=True),
            "canonical": canonical({name: value for name, value in claims.items() if name != "wk"}).decode(),
            "info": info.hex(),
            "wk": base64url(seal(PHONE, info)),
            "content_key": CONTENT_KEY.hex(),
            "expect": "ok",
        }

    plain = claims_of(wk="AA")
    good = sealing("plain", "wk is not part of the info", plain)
    return [
        good,
        sealing("perpetual", "no exp", claims_of(wk=None, exp=None)),
        sealing(
            "escapes",
            "texts that JSON writes in several ways",
            plain | {"tier": '\u20ac$\u000f\u000aA\'B"\\\\"/\u007f\u2028'},
        ),
        sealing(
            "unicode",
            "beyond the basic plane, and not normalized",
            plain | {"aud": "\U0001f600 Gro\u0308\u00dfe", "iss": "\ufb33"},
        ),
        sealing(
            "order",
            "names are sorted by their bytes: 'a' before 'aa' and after 'Z'",
            plain | {"aa": 3, "a": 4, "Z": 5, "": 6, "1": 8, "10": 9, "\r": 10, "~": 11, "a b": 12, '"': 13},
        ),
        sealing(
            "values",
            "integers and objects",
            plain
            | {"x": {"low": -9007199254740991, "high": 9007199254740991, "zero": 0, "b": {}, "a": {"d": {}, "c": ""}}},
        ),
    ]


def spoiled_seal_vectors(good: Vector) -> list[Vector]:
    """What does not open, made of the good vector."""
    wrapped = base64.urlsafe_b64decode(good["wk"] + "=")
    info = bytes.fromhex(good["info"])
    spoiled = {
        "info-changed": (info[:-1] + bytes([info[-1] ^ 1]), wrapped),
        "info-empty": (b"", wrapped),
        "other-recipient": (info, seal(OTHER_PHONE, info)),
        "enc-off-curve": (info, bytes([4, wrapped[1] ^ 1]) + wrapped[2:]),
        "enc-hybrid-form": (info, bytes([6 + wrapped[64] % 2]) + wrapped[1:]),
        "tag-changed": (info, wrapped[:-1] + bytes([wrapped[-1] ^ 1])),
        "truncated": (info, wrapped[:-1]),
        "no-ciphertext": (info, wrapped[:65]),
        "nothing": (info, b""),
        "extended": (info, wrapped + b"\0"),
    }
    return [
        {
            "name": name,
            "comment": "does not open",
            "info": its_info.hex(),
            "wk": base64url(wk),
            "expect": "license-wrap",
        }
        for name, (its_info, wk) in spoiled.items()
    ]
