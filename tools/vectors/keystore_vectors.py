"""The vectors of the keystore file, keystore.json. Nothing of the package is used."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from naive_bundle import BUNDLE_ID, PUBLISHER, STRANGER, TOP_KEY, base64url_of, compact, jwk_of, thumbprint_of
from naive_patch import Vector, sha256

PASSPHRASE = "correct horse"
SALT, NONCE = sha256(b"salt")[:16], sha256(b"nonce")[:12]
KEK, FILE_KEY = sha256(b"kek"), sha256(b"key of the file")
CREATED = "2026-11-29T12:00:00+00:00"
COLUMNS = {"elements": 6, "inputs": 3, "columns": base64url_of(b"\5")}
KEPT = {"elements": 6, "kept": base64url_of(zlib.compress(b"\1\0\0\0\0\0\x20"))}
LAYERS_REFUSED: dict[str, dict[str, Any]] = {
    "record-columns-without-inputs": {"elements": 6, "columns": base64url_of(b"\5")},
    "record-columns-without-elements": {"inputs": 3, "columns": base64url_of(b"\5")},
    "record-columns-beyond-inputs": COLUMNS | {"columns": base64url_of(b"\x08")},
    "record-columns-of-no-channel": COLUMNS | {"elements": 7},
    "record-kept-short": KEPT | {"kept": base64url_of(zlib.compress(bytes(6)))},
    "record-kept-long": KEPT | {"kept": base64url_of(zlib.compress(bytes(8)))},
    "record-kept-and-more": KEPT | {"kept": base64url_of(zlib.compress(bytes(7)) + b"\0")},
    "record-kept-cut-off": KEPT | {"kept": base64url_of(zlib.compress(bytes(7))[:-1])},
}
FILE = {"size": 9, "places": base64url_of(struct.pack("<2Q", 3, 8)), "samples": base64url_of(bytes(64))}
FILES_REFUSED: dict[str, dict[str, Any]] = {
    "record-file-empty": FILE | {"size": 0, "places": base64url_of(bytes(8))},
    "record-file-without-places": FILE | {"places": ""},
    "record-file-places-cut-off": FILE | {"places": base64url_of(bytes(9))},
    "record-file-place-twice": FILE | {"places": base64url_of(struct.pack("<2Q", 3, 3))},
    "record-file-place-behind-the-end": FILE | {"places": base64url_of(struct.pack("<Q", 9))},
    "record-file-places-many": FILE | {"size": 99, "places": base64url_of(struct.pack("<65Q", *range(65)))},
    "record-file-samples-cut-off": FILE | {"samples": base64url_of(bytes(63))},
}


def pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def inner() -> dict[str, Any]:
    return {
        "signing_keys": [
            {"created": CREATED, "public": jwk_of(PUBLISHER), "private": pem_of(PUBLISHER)},
            {"created": CREATED, "public": jwk_of(STRANGER)},
        ],
        "content_keys": [
            {
                "bundle": str(BUNDLE_ID),
                "model": "vectors/small",
                "model_version": 3,
                "tiers": ["free", "plus", "full"],
                "key": base64url_of(TOP_KEY),
                "samples": [sha256(b"sample").hex()],
            }
        ],
    }


def record() -> dict[str, Any]:
    layer = {
        "name": "conv1",
        "channels": 9,
        "fingerprint": base64url_of(bytes(2)),
        "value": base64url_of(b"\1\0"),
        "sign": base64url_of(b"\2\1"),
    }
    return {
        "bundle": str(BUNDLE_ID),
        "model": "vectors/small",
        "model_version": 3,
        "weights": sha256(b"weights").hex(),
        "seed": base64url_of(b"seed"),
        "layers": [layer],
    }


def passphrase_members() -> dict[str, Any]:
    return {"kdf": {"name": "scrypt", "n": 2**15, "r": 8, "p": 1, "salt": base64url_of(SALT)}}


def kek_members() -> dict[str, Any]:
    wrapped = base64url_of(keywrap.aes_key_wrap(KEK, FILE_KEY))
    return {"kek": {"provider": "file", "reference": "kek.bin", "wrapped": wrapped}}


def key_of(members: dict[str, Any]) -> bytes:
    if "kek" in members:
        return FILE_KEY
    kdf = members["kdf"]
    return hashlib.scrypt(PASSPHRASE.encode(), salt=SALT, n=kdf["n"], r=kdf["r"], p=kdf["p"], maxmem=1 << 27, dklen=32)


def sealed(content: bytes, members: dict[str, Any], key: bytes, **more: Any) -> dict[str, Any]:
    """The members of a keystore file. All names and texts are ASCII, so that sorting them is canonical JSON."""
    members = {"format": "corelocker-keystore", "version": 2, **members, "nonce": base64url_of(NONCE)} | more
    bound = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    return {**members, "ciphertext": base64url_of(AESGCM(key).encrypt(NONCE, content, bound))}


def case(name: str, comment: str, file: dict[str, Any] | str, expect: str = "ok", **more: Any) -> Vector:
    text = file if isinstance(file, str) else json.dumps(file)
    vector: Vector = {"name": name, "comment": comment, "file": text, "expect": expect}
    if "kek" in text and '"provider"' in text:
        vector["kek"] = KEK.hex()
    else:
        vector["passphrase"] = PASSPHRASE
    if expect == "ok":
        vector |= {
            "publisher": thumbprint_of(jwk_of(PUBLISHER)),
            "publisher_keys": [thumbprint_of(jwk_of(key)) for key in (PUBLISHER, STRANGER)],
            "content_keys": inner()["content_keys"],
        }
    return vector | more


def keystore_vectors() -> list[Vector]:
    by_passphrase, by_kek = passphrase_members(), kek_members()
    key = key_of(by_passphrase)
    good = sealed(compact(inner()), by_passphrase, key)
    with_kek = sealed(compact(inner()), by_kek, FILE_KEY)

    def outside(name: str, change: Callable[[dict[str, Any]], Any], expect: str = "keystore-format") -> Vector:
        members = json.loads(json.dumps(good))
        change(members)
        return case(name, "", members, expect)

    def inside(name: str, change: Callable[[dict[str, Any]], Any]) -> Vector:
        content = inner()
        change(content)
        return case(name, "inside", sealed(compact(content), by_kek, FILE_KEY), "keystore-format")

    def entry(name: str, **changes: Any) -> Vector:
        return inside(name, lambda content: content["content_keys"][0].update(changes))

    def recorded(name: str, **changes: Any) -> Vector:
        return inside(name, lambda content: content.update(lock_records=[record() | changes]))

    def layer(name: str, **changes: Any) -> Vector:
        return recorded(name, layers=[record()["layers"][0] | changes])

    layers = [record()["layers"][0] | COLUMNS, record()["layers"][0] | KEPT]
    by_weight = sealed(compact(inner() | {"lock_records": [record() | {"layers": layers}]}), by_kek, FILE_KEY)
    with_files = sealed(compact(inner() | {"lock_records": [record() | {"files": [FILE]}]}), by_kek, FILE_KEY)
    with_records = sealed(compact(inner() | {"lock_records": [record()]}), by_kek, FILE_KEY)
    return [
        case("passphrase", "", good),
        case("lock-records", "", with_records),
        case("lock-records-with-files", "by which locked files are known again", with_files),
        case("lock-records-by-weight", "columns, and weights that keep their signs", by_weight),
        case("key-encryption-key", "the provider file: AES key wrap (RFC 3394) under the key in the file", with_kek),
        case("more-members", "they are ignored", {**good, "new": True}),
        case("passphrase-wrong", "", good, "keystore-secret", passphrase="correct horsf"),
        case("passphrase-empty", "", good, "keystore-secret", passphrase=""),
        case("kek-wrong", "", with_kek, "keystore-secret", kek=bytes(32).hex()),
        case("kek-short", "", with_kek, "keystore-secret", kek=bytes(31).hex()),
        case("not-json", "", "{", "keystore-format"),
        case("array", "", "[]", "keystore-format"),
        case("name-twice", "", '{"version":2,' + json.dumps(good)[1:], "keystore-format"),
        outside("format-other", lambda m: m.update(format="corelocker-key-bundle")),
        case("version-1", "", sealed(compact(inner()), by_passphrase, key, version=1), "keystore-format"),
        outside("version-3", lambda m: m.update(version=3)),
        outside("no-protection", lambda m: m.pop("kdf")),
        outside("both-protections", lambda m: m.update(by_kek)),
        outside("kdf-other", lambda m: m["kdf"].update(name="pbkdf2")),
        outside("kdf-weak", lambda m: m["kdf"].update(n=2**14)),
        outside("kdf-no-power-of-two", lambda m: m["kdf"].update(n=2**15 + 1)),
        outside("kdf-beyond-memory", lambda m: m["kdf"].update(n=2**20, r=16)),
        outside("kdf-narrow", lambda m: m["kdf"].update(r=7)),
        outside("kdf-parallel", lambda m: m["kdf"].update(p=17)),
        outside("salt-short", lambda m: m["kdf"].update(salt=base64url_of(bytes(15)))),
        outside("nonce-short", lambda m: m.update(nonce=base64url_of(bytes(11)))),
        outside("ciphertext-missing", lambda m: m.pop("ciphertext")),
        outside("ciphertext-short", lambda m: m.update(ciphertext=base64url_of(bytes(15)))),
        outside("ciphertext-changed", lambda m: m.update(ciphertext="A" * len(m["ciphertext"])), "keystore-secret"),
        outside("salt-changed", lambda m: m["kdf"].update(salt=base64url_of(bytes(16))), "keystore-secret"),
        outside("nonce-changed", lambda m: m.update(nonce=base64url_of(bytes(12))), "keystore-secret"),
        inside("no-signing-key", lambda content: content.update(signing_keys=[])),
        inside("private-of-other-key", lambda content: content["signing_keys"][0].update(private=pem_of(STRANGER))),
        inside("private-no-pem", lambda content: content["signing_keys"][0].update(private="x")),
        inside("created-no-time", lambda content: content["signing_keys"][0].update(created="yesterday")),
        inside("bundle-twice", lambda content: content["content_keys"].append(content["content_keys"][0])),
        entry("bundle-upper-case", bundle=str(BUNDLE_ID).upper()),
        entry("tiers-none", tiers=[]),
        entry("key-short", key=base64url_of(bytes(31))),
        entry("version-negative", model_version=-1),
        entry("sample-short", samples=["00"]),
        entry("sample-upper-case", samples=["AB" * 32]),
        inside("samples-missing", lambda content: content["content_keys"][0].pop("samples")),
        inside("record-twice", lambda content: content.update(lock_records=[record(), record()])),
        recorded("record-weights-short", weights="00"),
        recorded("record-seed-empty", seed=""),
        layer("record-no-channels", channels=0, value="", sign=""),
        layer("record-mask-short", value=base64url_of(b"\1")),
        layer("record-channel-in-both", value=base64url_of(b"\2\0")),
        layer("record-fingerprint-odd", fingerprint=base64url_of(bytes(3))),
        *(layer(name, **changes) for name, changes in LAYERS_REFUSED.items()),
        *(recorded(name, files=[file]) for name, file in FILES_REFUSED.items()),
    ]
