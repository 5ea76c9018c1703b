"""Makes the vectors of the `device-key` proof, by which a device renews a license or hands a place to a new key.

    python tools/vectors/make_proof_vectors.py [--out tests/vectors]

Keys are fixed, so two runs write the same bytes. Nothing here is the package's: HPKE is pyhpke's, HMAC and canonical JSON are
put together here.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from license_forge import BUNDLE, OTHER_PHONE, PHONE, base64url, canonical, jwk, seal, sha256, thumbprint

INFO = b"corelocker proof v1"
SERVICE_SECRET = sha256(b"corelocker vector service secret")
CHALLENGE = base64url((1_800_000_300).to_bytes(8, "big") + sha256(b"random")[:16] + sha256(b"tag")[:16])
LICENSE = "0f8fad5b-d9cb-469f-a165-70867728950e"
PURCHASE_TOKEN = "header.claims.signature"


def secret_of(challenge: str, device: str) -> bytes:
    return hmac.new(SERVICE_SECRET, INFO + b"\0" + challenge.encode() + b"\0" + device.encode(), "sha256").digest()


def request_of(**changes: str) -> dict[str, str]:
    members = {
        "type": "corelocker-request-v1",
        "challenge": CHALLENGE,
        "app": "com.example.camera",
        "bundle": BUNDLE,
        "tier": "full",
        "device_key": thumbprint(PHONE),
        "purchase": base64url(sha256(b"renew:" + LICENSE.encode())),
    }
    return members | changes


def proof_of(secret: bytes, request: dict[str, str]) -> bytes:
    return hmac.new(secret, sha256(canonical(request)), hashlib.sha256).digest()


def vector(name: str, comment: str, expect: str = "ok", **parts: Any) -> dict[str, Any]:
    secret = secret_of(CHALLENGE, thumbprint(PHONE))
    made = {
        "name": name,
        "comment": comment,
        "challenge": CHALLENGE,
        "app": "com.example.camera",
        "bundle": BUNDLE,
        "tier": "full",
        "license_id": LICENSE,
        "secret": secret.hex(),
        "sealed": base64url(seal(PHONE, INFO, secret)),
        "digest": sha256(canonical(request_of())).hex(),
        "proof": base64url(proof_of(secret, request_of())),
        "expect": expect,
    }
    return made | parts


def vectors() -> list[dict[str, Any]]:
    secret = secret_of(CHALLENGE, thumbprint(PHONE))
    sealed = seal(PHONE, INFO, secret)
    made = [vector("good", "open `sealed`, prove, be accepted")]
    refused = {
        "another-challenge": request_of(challenge="A" * 54),
        "another-app": request_of(app="com.example.else"),
        "another-bundle": request_of(bundle="00000000-0000-0000-0000-000000000000"),
        "another-tier": request_of(tier="plus"),
        "another-device-key": request_of(device_key=thumbprint(OTHER_PHONE)),
        "another-license": request_of(purchase=base64url(sha256(b"renew:another"))),
        "a-purchase": request_of(purchase=base64url(sha256(LICENSE.encode()))),
    }
    for name, request in refused.items():
        proof = base64url(proof_of(secret, request))
        made.append(vector(name, "the proof is for something else", "signature", proof=proof))
    secrets = {
        "secret-of-another-challenge": secret_of("A" * 54, thumbprint(PHONE)),
        "secret-of-another-device": secret_of(CHALLENGE, thumbprint(OTHER_PHONE)),
        "secret-of-zeros": bytes(32),
    }
    for name, other in secrets.items():
        proof = base64url(proof_of(other, request_of()))
        made.append(vector(name, "made with another secret", "signature", proof=proof))
    lengths = {"empty-proof": b"", "short-proof": proof_of(secret, request_of())[:31], "digest-as-proof": bytes(32)}
    for name, proof_bytes in lengths.items():
        made.append(vector(name, "no HMAC of the digest", "signature", proof=base64url(proof_bytes)))
    spoiled = {
        "sealed-to-another-key": seal(OTHER_PHONE, INFO, secret),
        "sealed-for-a-license": seal(PHONE, b"corelocker license v1" + sha256(b"claims"), secret),
        "sealed-changed": sealed[:-1] + bytes([sealed[-1] ^ 1]),
        "sealed-cut": sealed[:-1],
        "sealed-empty": b"",
    }
    for name, data in spoiled.items():
        made.append(vector(name, "a device refuses to open it", "license-wrap", sealed=base64url(data), proof=None))
    return made


def replacement_of(**changes: str) -> dict[str, str]:
    """What the former key PHONE proves, so that its place goes to OTHER_PHONE."""
    members = {
        "type": "corelocker-replacement-v1",
        "device_key": thumbprint(OTHER_PHONE),
        "purchase": base64url(sha256(PURCHASE_TOKEN.encode())),
    }
    return request_of(**(members | changes))


def replacements() -> list[dict[str, Any]]:
    def made(name: str, comment: str, expect: str, proof: bytes) -> dict[str, Any]:
        return {
            "name": name,
            "comment": comment,
            "challenge": CHALLENGE,
            "app": "com.example.camera",
            "bundle": BUNDLE,
            "tier": "full",
            "purchase_token": PURCHASE_TOKEN,
            "new_device_key": jwk(OTHER_PHONE),
            "secret": secret.hex(),
            "sealed": base64url(seal(PHONE, INFO, secret)),
            "digest": sha256(canonical(replacement_of())).hex(),
            "proof": base64url(proof),
            "expect": expect,
        }

    secret = secret_of(CHALLENGE, thumbprint(PHONE))
    refused = {
        "another-challenge": replacement_of(challenge="A" * 54),
        "another-app": replacement_of(app="com.example.else"),
        "another-bundle": replacement_of(bundle="00000000-0000-0000-0000-000000000000"),
        "another-tier": replacement_of(tier="plus"),
        "another-new-key": replacement_of(device_key=thumbprint(PHONE)),
        "another-purchase": replacement_of(purchase=base64url(sha256(b"another token"))),
        "the-attested-request": replacement_of(type="corelocker-request-v1"),
    }
    of_new_key = secret_of(CHALLENGE, thumbprint(OTHER_PHONE))
    return [
        made("good", "open `sealed`, prove, be accepted", "ok", proof_of(secret, replacement_of())),
        *(
            made(name, "the proof is for something else", "signature", proof_of(secret, request))
            for name, request in refused.items()
        ),
        made("by-the-new-key", "not the former key's secret", "signature", proof_of(of_new_key, replacement_of())),
        made("short-proof", "no HMAC of the digest", "signature", proof_of(secret, replacement_of())[:31]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/vectors"))
    out: Path = parser.parse_args().out
    content = {
        "description": (
            "The `device-key` proof of a renewal (docs/formats.md, Proofs). "
            "A device opens `sealed` (base64url of HPKE enc || ciphertext, the suite of "
            'licenses, info "corelocker proof v1", no AAD) with `device_key` to `secret` (hex), and answers `proof`: base64url '
            "of HMAC-SHA256 of `digest` (hex; SHA-256 of the canonical request, whose purchase is the SHA-256 of "
            '"renew:" and the license id) under the secret. A service derives the secret: HMAC-SHA256 under `service_secret` of '
            '"corelocker proof v1", a zero byte, the challenge, a zero byte, the thumbprint of the device key. '
            "`expect` is ok, signature (the service refuses the proof) or license-wrap (the device cannot open). "
            "`replacements` are the same proof by the former key `device_key` for an unlock with the key `new_device_key` "
            "and a purchase of the token `purchase_token` (Replaced key)."
        ),
        "service_secret": SERVICE_SECRET.hex(),
        "device_key": jwk(PHONE, secret=True),
        "device": thumbprint(PHONE),
        "vectors": vectors(),
        "replacements": replacements(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "device_key_proof.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
