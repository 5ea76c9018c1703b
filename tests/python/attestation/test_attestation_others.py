"""Evidence made by others: real phones, Google's and Apple's samples. tests/vectors/attestation/INDEX.md lists them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from corelocker.attestation.anchors import APPLE_ROOTS, GOOGLE_ROOTS, SOFTWARE_ROOTS, require_vendor_roots
from corelocker.attestation.android_key import (
    AndroidKeyClaims,
    AndroidKeyPolicy,
    Provisioning,
    verify_android_key,
)
from corelocker.attestation.apple_app_attest import (
    AppAttestPolicy,
    verify_app_assertion,
    verify_app_attestation,
)
from corelocker.attestation.certificates import fingerprint, parse_certificate
from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.key_description import (
    KEY_DESCRIPTION,
    AuthorizationList,
    Origin,
    Purpose,
    SecurityLevel,
    VerifiedBootState,
    parse_key_description,
)
from corelocker.attestation.play_integrity import PlayIntegrityPolicy, verify_play_integrity
from corelocker.attestation.revocation import RevocationList
from corelocker.attestation.verdict import Reason, Verdict
from corelocker.errors import ConfigError
from corelocker.licensing.evidence import AndroidKeyEvidence, AppAssertEvidence, AppAttestEvidence
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

OTHERS = Path(__file__).resolve().parents[3] / "tests/vectors/attestation/others"
BLUELINE = sorted((OTHERS / "android/android_keyattestation/testdata/blueline/sdk28").glob("*.pem"))
GOOGLE = sorted((OTHERS / "android/google_android_key_attestation/der").iterdir())
WARDEN = json.loads((OTHERS / "warden_supreme/cases.json").read_text())
VEEHAITCH = sorted((OTHERS / "apple_appattest/veehaitch").glob("*.yaml"))
GUIDE = OTHERS / "apple_appattest/apple_guide_2024"

SIGNING = frozenset({Purpose.SIGN, Purpose.VERIFY})
WARDEN_SIGNER = base64.b64decode("NLl2LE1skNSEMZQMV73nMUJYsmQg7+Fqx/cnTw0zCtU=")
WARDEN_POLICY = AndroidKeyPolicy("at.asitplus.attestation_client", frozenset({WARDEN_SIGNER}), purposes=SIGNING)


def _pem_chain(path: Path) -> tuple[bytes, ...]:
    blocks = re.findall("-----BEGIN CERTIFICATE-----(.*?)-----END", path.read_text(), re.DOTALL)
    return tuple(map(base64.b64decode, blocks))


def _judge(
    chain: tuple[bytes, ...],
    now: datetime,
    challenge: bytes,
    *,
    policy: AndroidKeyPolicy = WARDEN_POLICY,
    device_key: ec.EllipticCurvePublicKey | None = None,
    anchors: TrustAnchors = GOOGLE_ROOTS,
    revocation: RevocationList | None = None,
) -> Verdict[AndroidKeyClaims]:
    return verify_android_key(
        AndroidKeyEvidence(chain),
        challenge=challenge,
        device_key=device_key or ec.derive_private_key(1, ec.SECP256R1()).public_key(),
        policy=policy,
        anchors=anchors,
        revocation=revocation or RevocationList(frozenset(), now),
        now=now,
    )


# --- Android -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BLUELINE, ids=lambda path: path.stem)
def test_pixel_3_is_refused_for_its_open_boot_loader(path: Path) -> None:
    # The chain's certificates say 2028; the check in 2035 shows that a factory chain does not expire.
    for year in (2020, 2035):
        verdict = _judge(_pem_chain(path), datetime(year, 1, 1, tzinfo=UTC), b"challenge")
        assert verdict.reason is Reason.DEVICE_UNLOCKED


@pytest.mark.parametrize("path", BLUELINE, ids=lambda path: path.stem)
def test_pixel_3_description_equals_the_golden_one(path: Path) -> None:
    golden = json.loads(path.with_suffix(".json").read_text())
    leaf = parse_certificate(_pem_chain(path)[0])
    description = parse_key_description(leaf.extensions[KEY_DESCRIPTION].value)
    levels = {"TRUSTED_ENVIRONMENT": SecurityLevel.TRUSTED_ENVIRONMENT, "STRONG_BOX": SecurityLevel.STRONGBOX}
    assert description.attestation_version == int(golden["attestationVersion"])
    assert description.attestation_level is levels[golden["attestationSecurityLevel"]]
    assert description.keymint_version == int(golden["keyMintVersion"])
    assert description.keymint_level is levels[golden["keyMintSecurityLevel"]]
    assert description.challenge == base64.b64decode(golden["attestationChallenge"])
    assert _as_golden(description.software) == _read_fields(golden["softwareEnforced"])
    assert _as_golden(description.hardware) == _read_fields(golden["hardwareEnforced"])


def _as_golden(tags: AuthorizationList) -> dict[str, object]:
    """In the form of the golden JSON."""
    numbers = {
        "algorithms": tags.algorithm,
        "keySize": tags.key_size,
        "ecCurve": tags.ec_curve,
        "rsaPublicExponent": tags.rsa_public_exponent,
        "creationDateTime": tags.creation_time,
        "osVersion": tags.os_version,
        "osPatchLevel": tags.os_patch_level,
        "vendorPatchLevel": tags.vendor_patch_level,
        "bootPatchLevel": tags.boot_patch_level,
    }
    out: dict[str, object] = {name: str(value) for name, value in numbers.items() if value is not None}
    for name, values in (("purposes", tags.purposes), ("digests", tags.digests)):
        if values is not None:
            out[name] = sorted(map(str, values))
    if tags.no_auth_required:
        out["noAuthRequired"] = True
    if tags.origin is not None:
        out["origin"] = Origin(tags.origin).name
    if tags.root_of_trust is not None:
        boot = tags.root_of_trust
        out["rootOfTrust"] = {
            "verifiedBootKey": base64.b64encode(boot.verified_boot_key).decode(),
            "deviceLocked": boot.device_locked,
            "verifiedBootState": boot.verified_boot_state.name,
            "verifiedBootHash": base64.b64encode(boot.verified_boot_hash or b"").decode(),
        }
    if tags.application_id is not None:
        out["attestationApplicationId"] = {
            "packages": [{"name": name, "version": str(version)} for name, version in tags.application_id.packages],
            "signatures": [base64.b64encode(item).decode() for item in tags.application_id.signature_digests],
        }
    return out


def _read_fields(golden: dict[str, Any]) -> dict[str, Any]:
    """The golden fields that the product reads: no identifier of the device, not how it recognizes its user."""
    kept = {name: value for name, value in golden.items() if not name.startswith("attestationId")}
    for name in ("userAuthType", "authTimeout", "trustedUserPresenceRequired", "paddings"):
        kept.pop(name, None)
    return kept


@pytest.mark.parametrize("folder", GOOGLE, ids=lambda path: path.name)
def test_google_samples(folder: Path) -> None:
    chain = tuple((folder / f"cert{index}.der").read_bytes() for index in range(4))
    status = (OTHERS / "android/google_android_key_attestation/status.json").read_bytes()
    now = datetime(2019, 1, 1, tzinfo=UTC)
    verdict = _judge(chain, now, b"abc", revocation=RevocationList.parse(status, now))
    expected = Reason.UNTRUSTED_ROOT if folder.name.endswith("StrongBox") else Reason.DEVICE_UNLOCKED
    assert verdict.reason is expected


def test_null_ecdsa_parameters_of_a_real_strongbox() -> None:
    """cryptography cannot read this leaf; where its root is trusted, the verdict is not about its bytes."""
    ec_chain, rsa_chain = (
        tuple(
            (OTHERS / f"android/google_android_key_attestation/der/{name}/cert{i}.der").read_bytes() for i in range(4)
        )
        for name in ("algorithm_EC_SecurityLevel_StrongBox", "algorithm_RSA_SecurityLevel_StrongBox")
    )
    with pytest.raises(ValueError, match="signature_alg"):
        x509.load_der_x509_certificate(ec_chain[0])
    assert parse_certificate(ec_chain[0]).signature_algorithm == "1.2.840.10045.4.3.2"
    anchors = TrustAnchors((parse_certificate(rsa_chain[3]).spki,))
    now = datetime(2019, 1, 1, tzinfo=UTC)
    # The EC leaf names another issuer than the subject of the certificate above it.
    assert _judge(ec_chain, now, b"abc", anchors=anchors).reason is Reason.CHAIN_NAMES
    assert _judge(rsa_chain, now, b"abc", anchors=anchors).reason is Reason.DEVICE_UNLOCKED


def test_google_root_certificates_hold_the_two_anchor_keys() -> None:
    roots = sorted((OTHERS / "android/grapheneos_auditor/google_roots").glob("*.der"))
    keys = [parse_certificate(root.read_bytes()).spki for root in roots]
    assert len(roots) == 5
    assert set(keys) == set(GOOGLE_ROOTS.keys)
    published = json.loads((OTHERS / "android/android_keyattestation/roots.json").read_text())
    assert set(TrustAnchors.from_pem(*published).keys) == set(GOOGLE_ROOTS.keys)
    assert [fingerprint(item)[:8] for item in GOOGLE_ROOTS.keys] == ["feb2ea75", "3ee44512"]


def test_software_roots_are_known() -> None:
    text = (OTHERS / "android/android_keyattestation/software_roots.pem").read_text()
    assert {fingerprint(item) for item in TrustAnchors.from_pem(text).keys} == SOFTWARE_ROOTS


def test_production_trusts_vendors_only() -> None:
    software = TrustAnchors.from_pem((OTHERS / "android/android_keyattestation/software_roots.pem").read_text())
    require_vendor_roots(GOOGLE_ROOTS, GOOGLE_ROOTS)
    require_vendor_roots(TrustAnchors(GOOGLE_ROOTS.keys[:1]), GOOGLE_ROOTS)
    require_vendor_roots(APPLE_ROOTS, APPLE_ROOTS)
    for anchors in (software, GOOGLE_ROOTS + software, APPLE_ROOTS, TrustAnchors(())):
        with pytest.raises(ConfigError):
            require_vendor_roots(anchors, GOOGLE_ROOTS)


def _warden(name: str) -> tuple[tuple[bytes, ...], datetime, bytes, ec.EllipticCurvePublicKey]:
    case = next(case for case in WARDEN if case["name"] == name)
    public = load_der_public_key(base64.b64decode(case["pubKeyB64"]))
    assert isinstance(public, ec.EllipticCurvePublicKey)
    chain = tuple(map(base64.b64decode, case["proof"]))
    return chain, datetime.fromisoformat(case["verify_at"]), base64.b64decode(case["challengeB64"]), public


@pytest.mark.parametrize(
    ("name", "provisioning"), [("Pixel 6", Provisioning.REMOTE), ("Nokia X10", Provisioning.FACTORY)]
)
@pytest.mark.parametrize("with_root", [True, False])
def test_genuine_phones(name: str, provisioning: Provisioning, with_root: bool) -> None:
    chain, now, challenge, public = _warden(name)
    verdict = _judge(chain if with_root else chain[:-1], now, challenge, device_key=public)
    assert verdict.accepted, verdict
    assert verdict.claims is not None
    assert verdict.claims.provisioning is provisioning
    assert verdict.claims.security_level is SecurityLevel.TRUSTED_ENVIRONMENT
    assert verdict.claims.public_key == public
    boot = verdict.claims.description.hardware.root_of_trust
    assert boot is not None
    assert boot.verified_boot_state is VerifiedBootState.VERIFIED


@pytest.mark.parametrize("name", ["Pixel 6", "Nokia X10"])
def test_an_anchor_of_an_unknown_kind_hides_no_other(name: str) -> None:
    """One of the public software roots is of RSA 1024 bits."""
    software = TrustAnchors.from_pem((OTHERS / "android/android_keyattestation/software_roots.pem").read_text())
    chain, now, challenge, public = _warden(name)
    for anchors in (software + GOOGLE_ROOTS, GOOGLE_ROOTS + software, TrustAnchors((b"no key",)) + GOOGLE_ROOTS):
        assert _judge(chain[:-1], now, challenge, device_key=public, anchors=anchors).accepted
        verdict = _judge(chain[:-2], now, challenge, device_key=public, anchors=anchors)
        assert verdict.reason is Reason.UNTRUSTED_ROOT


def test_only_the_remotely_provisioned_phone_expires() -> None:
    chain, now, challenge, public = _warden("Pixel 6")
    late = now + timedelta(days=30)
    assert _judge(chain, late, challenge, device_key=public).reason is Reason.CERTIFICATE_EXPIRED
    chain, now, challenge, public = _warden("Nokia X10")
    late = now + timedelta(days=20 * 365)
    assert _judge(chain, late, challenge, device_key=public).accepted


def test_genuine_phone_for_another_request() -> None:
    chain, now, challenge, public = _warden("Pixel 6")
    assert _judge(chain, now, b"another challenge", device_key=public).reason is Reason.WRONG_CHALLENGE
    assert _judge(chain, now, challenge).reason is Reason.DEVICE_KEY
    agree = AndroidKeyPolicy(WARDEN_POLICY.package, WARDEN_POLICY.signer_digests)
    assert _judge(chain, now, challenge, policy=agree, device_key=public).reason is Reason.KEY_PURPOSE


@pytest.mark.parametrize("trusted", [False, True])
def test_emulator_is_refused_even_where_its_root_is_trusted(trusted: bool) -> None:
    chain, now, challenge, public = _warden("Android Emulator")
    software = TrustAnchors.from_pem((OTHERS / "android/android_keyattestation/software_roots.pem").read_text())
    anchors = GOOGLE_ROOTS + software if trusted else GOOGLE_ROOTS
    assert _judge(chain, now, challenge, device_key=public, anchors=anchors).reason is Reason.SOFTWARE_ROOT
    if trusted:
        # Without the root the known fingerprint is not in the chain; the description still says SOFTWARE.
        assert _judge(chain[:-1], now, challenge, device_key=public, anchors=anchors).reason is Reason.SECURITY_LEVEL


# --- App Attest ----------------------------------------------------------------------------------


def test_apple_anchor_is_the_published_root() -> None:
    pem = (OTHERS / "apple_appattest/Apple_App_Attestation_Root_CA.pem").read_text()
    assert TrustAnchors.from_pem(pem) == APPLE_ROOTS


def test_apple_guide_of_2024() -> None:
    params = json.loads((GUIDE / "params.json").read_text())
    evidence = AppAttestEvidence(
        base64.b64decode(params["keyId"]), base64.b64decode((GUIDE / "test_attestation_object.b64").read_text())
    )
    now = datetime.fromisoformat(params["verify_at"])

    def judge(at: datetime, challenge: bytes, policy: AppAttestPolicy) -> Reason:
        return verify_app_attestation(
            evidence, client_data_hash=challenge, policy=policy, anchors=APPLE_ROOTS, now=at
        ).reason

    policy = AppAttestPolicy(params["appId"], "production")
    challenge = params["challenge"].encode()
    assert judge(now, challenge, policy) is Reason.OK
    assert judge(now + timedelta(days=4), challenge, policy) is Reason.CERTIFICATE_EXPIRED
    assert judge(now, hashlib.sha256(challenge).digest(), policy) is Reason.WRONG_CHALLENGE
    assert judge(now, challenge, AppAttestPolicy(params["appId"], "development")) is Reason.WRONG_ENVIRONMENT
    assert judge(now, challenge, AppAttestPolicy("0352187391.com.example.x", "production")) is Reason.WRONG_APP


@pytest.mark.parametrize("path", VEEHAITCH, ids=lambda path: path.stem)
def test_iphones_of_2020(path: Path) -> None:
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    attested = next(document for document in documents if document["type"] == "attestation")
    asserted = next(document for document in documents if document["type"] == "assertion")
    policy = AppAttestPolicy(f"{attested['teamIdentifier']}.{attested['bundleIdentifier']}", attested["environment"])
    key_id = base64.b64decode(attested["keyIdBase64"])
    verdict = verify_app_attestation(
        AppAttestEvidence(key_id, base64.b64decode(attested["attestationBase64"])),
        client_data_hash=base64.b64decode(attested["clientDataHashSha256Base64"]),
        policy=policy,
        anchors=APPLE_ROOTS,
        now=datetime.fromisoformat(attested["timestamp"]),
    )
    assert verdict.accepted, verdict.detail
    assert verdict.claims is not None
    public = load_pem_public_key(attested["publicKey"].encode())
    assert verdict.claims.public_key == public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert verdict.claims.receipt.startswith(b"\x30\x80")

    def judge(client_data_hash: bytes, last_counter: int) -> Reason:
        assert verdict.claims is not None
        return verify_app_assertion(
            AppAssertEvidence(key_id, base64.b64decode(asserted["assertionBase64"])),
            client_data_hash=client_data_hash,
            public_key=verdict.claims.public_key,
            last_counter=last_counter,
            policy=policy,
        ).reason

    data = base64.b64decode(asserted["clientDataHashSha256Base64"])
    assert judge(data, asserted["counter"] - 1) is Reason.OK
    assert judge(data, asserted["counter"]) is Reason.COUNTER
    assert judge(hashlib.sha256(data).digest(), 0) is Reason.SIGNATURE


def test_iphone_of_2021() -> None:
    case = json.loads((OTHERS / "apple_appattest/bas-d/case.json").read_text())
    policy = AppAttestPolicy(case["appId"], case["env"])
    key_id = base64.b64decode(case["attestation"]["keyID"])
    verdict = verify_app_attestation(
        AppAttestEvidence(key_id, _urlsafe(case["attestation"]["attestationObject"])),
        client_data_hash=hashlib.sha256(_urlsafe(case["attestation"]["clientData"])).digest(),
        policy=policy,
        anchors=APPLE_ROOTS,
        now=datetime.fromisoformat(case["verify_at"]),
    )
    assert verdict.accepted, verdict.detail
    assert verdict.claims is not None
    assert verdict.claims.public_key.hex() == case["publicKeyHex"]
    asserted = verify_app_assertion(
        AppAssertEvidence(key_id, _urlsafe(case["assertion"]["assertion"])),
        client_data_hash=hashlib.sha256(_urlsafe(case["assertion"]["clientData"])).digest(),
        public_key=verdict.claims.public_key,
        last_counter=2,
        policy=policy,
    )
    assert asserted.claims is not None
    assert asserted.claims.counter == 3


def _urlsafe(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- Play Integrity ------------------------------------------------------------------------------


def test_play_integrity_sample() -> None:
    answer = json.loads((OTHERS / "play/example_verdict.json").read_text())
    policy = PlayIntegrityPolicy("com.package.name", frozenset({_urlsafe("amoUdLXLuysapX4Lww")}), "production")
    asked = datetime.fromtimestamp(1675655009.345, UTC)
    verdict = verify_play_integrity(
        answer, request_digest=_urlsafe("aGVsbG8gd29scmQgdGhlcmU"), policy=policy, now=asked + timedelta(minutes=1)
    )
    assert verdict.accepted, verdict.detail
    assert verdict.claims is not None
    assert verdict.claims.app_version == 42
    assert verdict.claims.licensed
    assert verdict.claims.requested_at == asked
