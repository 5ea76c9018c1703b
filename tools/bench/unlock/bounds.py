"""What the cryptography and the checks of an unlock alone allow, on one core."""

from __future__ import annotations

import itertools
import json
import os
import time
from datetime import UTC, datetime
from typing import Any, cast

from phones import AndroidPhone, ApplePhone, Phone, RenewingPhone, new_key, shared_chain

# isort: split
from corelocker.attestation.android_key import verify_android_key
from corelocker.attestation.apple_app_attest import verify_app_assertion
from corelocker.attestation.development import verify_development
from corelocker.attestation.revocation import RevocationList
from corelocker.attestation.verdict import Verdict
from corelocker.bundle import jose
from corelocker.licensing.attested_request import AttestedRequest, renewal_token
from corelocker.licensing.device_key import seal
from corelocker.licensing.evidence import (
    AndroidKeyEvidence,
    AppAssertEvidence,
    DevelopmentEvidence,
    Format,
    evidence_from_json,
)
from corelocker.licensing.license import issue_license
from corelocker.purchases.grant import issue_grant, verify_grant
from corelocker.service.config_file import load_config
from corelocker.service.verifiers import build_verifiers
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from support.unlock_world import APP, World

SINGLE_USE = ("first", "first-cold")


def bound(kind: str, seconds: float = 1.0) -> float:
    """How many requests a second of one core the cryptography of this kind alone allows."""
    p256, p384 = new_key(), ec.generate_private_key(ec.SECP384R1())
    data = os.urandom(600)
    by_p256, by_p384 = p256.sign(data, ec.ECDSA(SHA256())), p384.sign(data, ec.ECDSA(SHA384()))
    spki_256, spki_384 = (
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (p256, p384)
    )
    device = new_key().public_key()
    # What the service has to verify: chain and purchase. A grant that it has seen before is not verified again.
    verified_256, verified_384 = {"first": (3, 0), "first-cold": (4, 1), "repeat": (1, 0), "renew": (1, 0)}[kind]
    done, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < seconds:
        for _ in range(20):
            for _ in range(verified_256):
                load_der_public_key(spki_256).verify(by_p256, data, ec.ECDSA(SHA256()))  # type: ignore[union-attr, call-arg]
            for _ in range(verified_384):
                load_der_public_key(spki_384).verify(by_p384, data, ec.ECDSA(SHA384()))  # type: ignore[union-attr, call-arg]
            seal(bytes(32), device, data[:54])
            jose.sign(p256, data)
        done += 20
    return done / spent


def checks_bound(kind: str, world: World, seconds: float = 1.0) -> float:
    """The same for the checks as they are, with all their parsing: proof, purchase, license; no HTTP and no database."""
    config = load_config(world.config_path)
    app = build_verifiers(config, config.apps[APP])
    shared, now, signer = shared_chain(), datetime.now(UTC), world.backend
    grant = issue_grant(signer, issuer="shop", app=APP, environment="development", product="full",
                        issued_at=int(now.timestamp()))  # fmt: skip
    cases: list[tuple[Phone, bytes]] = []
    for number in range(200 if kind in SINGLE_USE else 20):
        if kind == "repeat":
            phone: Phone = ApplePhone(APP, world.bundle_id, grant)
        elif kind == "renew":
            phone = RenewingPhone(APP, world.bundle_id, grant, world.attestation_key)
        else:
            phone = AndroidPhone(APP, world.bundle_id, grant, shared, cold=kind == "first-cold")
        cases.append((phone, phone.request(f"challenge {number}")[1]))
    start = time.thread_time()
    for done, (phone, body) in enumerate(itertools.cycle(cases)):
        if (spent := time.thread_time() - start) > seconds or (kind in SINGLE_USE and done == len(cases)):
            return done / spent
        evidence = evidence_from_json(json.loads(body)["attestation"])
        purchase = phone.grant if kind != "renew" else renewal_token("")
        challenge = f"challenge {done % len(cases)}"
        asked = AttestedRequest(challenge, APP, world.bundle_id, "full", phone.key.public_key(), purchase)
        verdict: Verdict[Any]
        if isinstance(evidence, AndroidKeyEvidence):
            assert app.android is not None
            verdict = verify_android_key(
                evidence, challenge=asked.digest(Format.ANDROID_KEY), device_key=asked.device_key, policy=app.android,
                anchors=app.android_roots, revocation=RevocationList(frozenset(), now), now=now,
            )  # fmt: skip
        elif isinstance(evidence, AppAssertEvidence):
            assert app.apple is not None
            public = cast(ApplePhone, phone)._app_key.public_key()
            verdict = verify_app_assertion(
                evidence, client_data_hash=asked.digest(Format.APPLE_APP_ATTEST), last_counter=0, policy=app.apple,
                public_key=public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
            )  # fmt: skip
        else:
            verdict = verify_development(
                cast(DevelopmentEvidence, evidence), request_digest=asked.digest(Format.DEVELOPMENT),
                environment="development", anchors=app.development_roots, now=now,
            )  # fmt: skip
        assert verdict.accepted, verdict
        if kind != "renew":
            assert app.grant is not None
            verify_grant(phone.grant, app.grant, now=int(now.timestamp()))
        issue_license(
            signer, asked.device_key, bytes(32), issuer="https://unlock.example.com", app=APP, environment="development",
            bundle=world.bundle_id, model_version=1, tier="full", issued_at=0, expires_at=1,
        )  # fmt: skip
    raise AssertionError
