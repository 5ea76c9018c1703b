"""Writes the attestation vectors that we make ourselves, and those of the canonical request.

    python tools/vectors/make_attestation_vectors.py [FOLDER]      default: tests/vectors/attestation/made

The cases are those that tests/python/support/attestation_cases.py collects. Keys and signatures are deterministic:
the same sources write the same files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "sdk/python"), str(ROOT / "tests/python")]

from corelocker.bundle import jose  # noqa: E402
from corelocker.licensing.attested_request import AttestedRequest  # noqa: E402
from corelocker.licensing.errors import EvidenceError  # noqa: E402
from corelocker.licensing.evidence import Format, evidence_from_json  # noqa: E402
from support.attestation_cases import ANDROID_CASES, APPLE_CASES, DEVELOPMENT_CASES  # noqa: E402
from support.attestation_forge import DEVICE_KEY  # noqa: E402
from support.certificate_writer import key  # noqa: E402

DEVICE = DEVICE_KEY.public_key()
BUNDLE = "6f9b8c0e-1d2a-4f3b-9c4d-5e6f7a8b9c0d"
REQUESTS = [
    ("plain", AttestedRequest("bm9uY2U", "com.example.app", BUNDLE, "full", DEVICE, "token")),
    ("unicode", AttestedRequest("AA", "com.example.größe", "b", "été 日本 😀", key("another").public_key(), "ключ")),
    ("escapes", AttestedRequest('a"b\\c', "a/b", "\u0000\u001f\u007f\u2028", "\t\n\r\b\f", DEVICE, "")),
]


def attestation_vectors(cases: Sequence[Any]) -> list[dict[str, object]]:
    """The cases as JSON, without those that the shape of the JSON already refuses."""
    vectors = []
    for case in cases:
        vector = case.to_json()
        try:
            evidence_from_json(vector["attestation"])
        except EvidenceError:
            continue
        vectors.append(vector)
    return vectors


def request_vectors() -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "challenge": request.challenge,
            "app": request.app,
            "bundle": request.bundle,
            "tier": request.tier,
            "device_key": jose.public_jwk(request.device_key),
            "purchase_token": request.purchase_token,
            "attestations": {
                str(kind): {
                    "canonical": request.canonical(kind).decode(),
                    "sha256": request.digest(kind).hex(),
                }
                for kind in (Format.ANDROID_KEY, Format.APPLE_APP_ATTEST, Format.DEVELOPMENT)
            },
        }
        for name, request in REQUESTS
    ]


def files() -> dict[str, str]:
    """The text of each file by its name."""
    contents = {
        "android_key.json": attestation_vectors(ANDROID_CASES),
        "apple_app_attest.json": attestation_vectors(APPLE_CASES),
        "development.json": attestation_vectors(DEVELOPMENT_CASES),
        "canonical_requests.json": request_vectors(),
    }
    return {name: json.dumps(vectors, indent=1, ensure_ascii=True) + "\n" for name, vectors in contents.items()}


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0]) if arguments else ROOT / "tests/vectors/attestation/made"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
