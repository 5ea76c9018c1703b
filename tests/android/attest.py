"""A phone's secure hardware, and the service's verifier of it, for the tests of the Android library.

Answers each line of JSON on its input with one line:
{"do": "chain", "challenge": hex, "key": DER of the public key in hex} gives {"chain": [DER in hex, ..]}, as a genuine phone of the
tests' own authority would certify the key; {"do": "verify", "request": body of POST /v1/licenses} gives {"reason": null or why the
production policy refuses it}; {"do": "parse", "request": the same} gives {"chain": [DER in hex, ..], "level": name,
"challenge": hex}, what the service reads in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/python"))

from corelocker.attestation.android_key import verify_android_key  # noqa: E402 - after the path
from corelocker.attestation.certificates import parse_certificate  # noqa: E402
from corelocker.attestation.key_description import KEY_DESCRIPTION, parse_key_description  # noqa: E402
from corelocker.attestation.revocation import RevocationList  # noqa: E402
from corelocker.licensing.attested_request import AttestedRequest  # noqa: E402
from corelocker.licensing.evidence import AndroidKeyEvidence, Format  # noqa: E402
from corelocker.service.messages import UnlockRequest  # noqa: E402
from support.android_case import CLEAN_LIST  # noqa: E402
from support.attestation_forge import ANCHORS, android_chain, android_policy, key_description  # noqa: E402
from support.certificate_writer import NOW  # noqa: E402


def chain(challenge: bytes, key: bytes) -> dict[str, Any]:
    made = android_chain(description=key_description(challenge=challenge), public=key)
    return {"chain": [certificate.hex() for certificate in made]}


def verify(body: dict[str, Any]) -> dict[str, Any]:
    request = UnlockRequest.from_json(body)
    assert isinstance(request.evidence, AndroidKeyEvidence)
    attested = AttestedRequest(
        request.challenge, request.app, request.bundle, request.tier, request.device_key, request.purchase.token
    )
    verdict = verify_android_key(
        request.evidence,
        challenge=attested.digest(Format.ANDROID_KEY),
        device_key=request.device_key,
        policy=android_policy(),
        anchors=ANCHORS,
        revocation=RevocationList.parse(CLEAN_LIST, NOW),
        now=NOW,
    )
    return {"reason": None if verdict.accepted else str(verdict.reason)}


def parse(body: dict[str, Any]) -> dict[str, Any]:
    evidence = UnlockRequest.from_json(body).evidence
    assert isinstance(evidence, AndroidKeyEvidence)
    leaf = parse_certificate(evidence.chain[0])
    description = parse_key_description(leaf.extensions[KEY_DESCRIPTION].value)
    return {
        "chain": [certificate.hex() for certificate in evidence.chain],
        "level": description.attestation_level.name,
        "challenge": description.challenge.hex(),
    }


for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "chain":
        answer = chain(bytes.fromhex(asked["challenge"]), bytes.fromhex(asked["key"]))
    elif asked["do"] == "parse":
        answer = parse(asked["request"])
    else:
        answer = verify(asked["request"])
    print(json.dumps(answer), flush=True)
