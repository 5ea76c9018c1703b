"""The parts of the verifiers: readers, lists, policies, JSON, and what accepted claims say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from corelocker.attestation.android_key import AndroidKeyClaims, AndroidKeyPolicy, Provisioning
from corelocker.attestation.apple_app_attest import AppAttestPolicy
from corelocker.attestation.cbor import CborError, decode, decode_at
from corelocker.attestation.certificates import fingerprint, name_attributes, parse_certificate
from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.der import DerError, Reader, context, is_context
from corelocker.attestation.development import verify_development
from corelocker.attestation.key_description import (
    Purpose,
    RootOfTrust,
    SecurityLevel,
    VerifiedBootState,
    parse_key_description,
)
from corelocker.attestation.play_integrity import PlayIntegrityPolicy
from corelocker.attestation.revocation import MAX_LIST, RevocationList, RevocationListError
from corelocker.attestation.verdict import Reason, Refusal, Verdict
from corelocker.errors import ConfigError
from corelocker.licensing.development import DevelopmentKey, DevelopmentRoot
from corelocker.licensing.errors import EvidenceError
from corelocker.licensing.evidence import MAX_INTEGRITY_TOKEN, DevelopmentEvidence, evidence_from_json, evidence_to_json
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support.android_case import AndroidCase
from support.apple_cases import AppleCase
from support.attestation_cases import ANDROID_CASES, APPLE_CASES, DEVELOPMENT_CASES
from support.attestation_forge import (
    PACKAGE,
    ROOT,
    ROOT_KEY,
    SIGNER,
    android_chain,
    android_policy,
    cbor,
    factory,
    key_description,
    remote,
    root_of_trust,
)
from support.certificate_writer import NOW, boolean, ctx, integer, octets, oid, seq, set_of, spki, time, tlv
from support.development_cases import DevelopmentCase

# --- DER -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "",
        "30",
        "3001",  # content missing
        "3080",  # indefinite
        "30810100",  # a length below 128 in the long form
        "3082007f" + "00" * 127,  # a length with a leading zero
        "3085010000000000",  # a length of five octets
        "3084ffffffff00",
        "30ff00",
        "1f00",  # tag number 0 in the high form
        "1f1e00",  # 30 in the high form
        "1f800100",  # a leading zero in a tag number
        "1f8181010000",  # a tag number of three octets
        "1f",
        "1f81",
        "1f8101",
    ],
)
def test_der_headers_that_are_refused(data: str) -> None:
    with pytest.raises(DerError):
        Reader(bytes.fromhex(data)).any()


def test_der_tags() -> None:
    for number in (0, 1, 30, 31, 127, 128, 704, 9999):
        data = ctx(number, integer(5))
        assert Reader(data).tag() == context(number)
        assert Reader(data).inside(context(number)).integer() == 5
        assert is_context(context(number))
    assert not any(is_context(tag) for tag in (0x30, 0x02, 0x81, 0x61, 0x9F8148, 0x7F21))


def test_der_reads_in_order() -> None:
    reader = Reader(seq(integer(1), boolean(True)) + octets(b"x"))
    inner = reader.inside(0x30)
    assert inner.integer() == 1
    with pytest.raises(DerError):
        inner.end()
    assert inner.boolean() is True
    inner.end()
    assert reader.element(0x04) == octets(b"x")
    assert not reader.more()
    assert reader.tag() is None


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, -1, -128, -129, 2**64, 2**159])
def test_der_integers(value: int) -> None:
    assert Reader(integer(value)).integer() == value


@pytest.mark.parametrize("content", ["", "0001", "ff80", "00" * 22, "7f" * 22])
def test_der_integers_that_are_refused(content: str) -> None:
    with pytest.raises(DerError):
        Reader(tlv(2, bytes.fromhex(content))).integer()


@pytest.mark.parametrize(
    "dotted", ["2.5.29.19", "1.2.840.113635.100.8.2", "0.9.2342", "1.2.16384", "2.999.3", "1.3.6.1.4.1.11129.2.1.17"]
)
def test_der_object_identifiers(dotted: str) -> None:
    assert Reader(oid(dotted)).oid() == dotted


@pytest.mark.parametrize("content", ["", "80", "2a80", "2a81", "2a8001", "2a" * 33])
def test_der_object_identifiers_that_are_refused(content: str) -> None:
    with pytest.raises(DerError):
        Reader(tlv(6, bytes.fromhex(content))).oid()


@pytest.mark.parametrize("year", [1950, 1969, 1999, 2000, 2049, 2050, 9999])
def test_der_times(year: int) -> None:
    moment = datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert Reader(time(moment)).time() == moment


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (0x17, b"260301120000"),
        (0x17, b"260301120000+"),
        (0x17, b"2603011200Z"),
        (0x17, b"26030112000aZ"),
        (0x17, b"261301120000Z"),
        (0x17, b"260230120000Z"),
        (0x18, b"260301120000Z"),
        (0x18, b"20260301120000.5Z"),
        (0x18, b"00000101000000Z"),
        (0x16, b"20260301120000Z"),
    ],
)
def test_der_times_that_are_refused(tag: int, content: bytes) -> None:
    with pytest.raises(DerError):
        Reader(tlv(tag, content)).time()


@pytest.mark.parametrize("content", ["", "0801", "01", "000000000000", "07"])
def test_der_named_bits_that_are_refused(content: str) -> None:
    with pytest.raises(DerError):
        Reader(tlv(3, bytes.fromhex(content))).named_bits()


def test_der_bits() -> None:
    assert Reader(tlv(3, b"\x02\x04")).named_bits() == {5}
    assert Reader(tlv(3, b"\x00")).named_bits() == set()
    assert Reader(tlv(3, b"\x00ab")).bits() == b"ab"
    for content in (b"", b"\x01\x02"):
        with pytest.raises(DerError):
            Reader(tlv(3, content)).bits()


# --- CBOR ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [0, 23, 24, 255, 65536, 2**64 - 1, -1, -500, b"", b"x" * 300, "é", [], [[1], b""], {1: 2, "k": {-3: "v"}}]
)
def test_cbor_reads_back(value: object) -> None:
    assert decode(cbor(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        "",
        "18",
        "1901",
        "1c" + "00" * 16,  # reserved
        "5f" + "00" * 128,
        "5f4100ff",  # indefinite
        "42aa",
        "61ff",  # not UTF-8
        "8201",
        "a101",
        "a201020103",  # a key twice
        "a1410102",  # a key of bytes
        "a18001",  # a key that is an array
        "c001",  # a tag
        "c0",
        "c10000",
        "e0",  # a simple value
        "f5",  # true
        "f97e00",  # a float
        "0000",
        "81" * 8 + "00",
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "5bffffffffffffffff00",
    ],
)
def test_cbor_that_is_refused(data: str) -> None:
    with pytest.raises(CborError):
        decode(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["18", "1901", "45616263", "65616263", "8200", "a100"])
def test_cbor_does_not_read_past_the_end(data: str) -> None:
    with pytest.raises(CborError):
        decode_at(bytes.fromhex(data), 0)


def test_cbor_says_where_an_item_ends() -> None:
    data = b"xx" + cbor({1: 2}) + b"rest"
    assert decode_at(data, 2) == ({1: 2}, 5)


# --- certificates --------------------------------------------------------------------------------


def test_certificates_read_as_cryptography_reads_them() -> None:
    for data in android_chain(remote()):
        ours, theirs = parse_certificate(data), x509.load_der_x509_certificate(data)
        assert ours.serial == theirs.serial_number
        assert ours.issuer == theirs.issuer.public_bytes()
        assert ours.subject == theirs.subject.public_bytes()
        assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
        assert ours.signature == theirs.signature
        assert ours.signed == theirs.tbs_certificate_bytes
        assert ours.signature_algorithm == theirs.signature_algorithm_oid.dotted_string
        assert list(ours.extensions) == [item.oid.dotted_string for item in theirs.extensions]
        assert [item.critical for item in ours.extensions.values()] == [item.critical for item in theirs.extensions]


def test_names() -> None:
    assert name_attributes(remote()[0].subject) == [
        ("2.5.4.3", "d71dfb3563e5d9cb46dd12c1ba226c39"),
        ("2.5.4.10", "TEE"),
    ]


def test_trust_anchors_from_certificates_and_keys() -> None:
    certificate = x509.load_der_x509_certificate(ROOT.der())
    pem = certificate.public_bytes(Encoding.PEM).decode()
    public = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert TrustAnchors.from_pem(pem, public).keys == (spki(ROOT_KEY),)
    assert (TrustAnchors.from_pem(pem) + TrustAnchors.from_pem(public)).keys == (spki(ROOT_KEY),)
    assert len(fingerprint(spki(ROOT_KEY))) == 64
    for bad in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", public.replace("M", "N")):
        with pytest.raises(ConfigError):
            TrustAnchors.from_pem(bad)


# --- what accepted claims say --------------------------------------------------------------------


def _android(name: str) -> AndroidCase:
    return next(case for case in ANDROID_CASES if case.name == name)


def _claims(case: AndroidCase) -> AndroidKeyClaims:
    verdict: Verdict[AndroidKeyClaims] = case.verdict()
    assert verdict.claims is not None, verdict.detail
    return verdict.claims


def test_android_claims() -> None:
    claims = _claims(_android("remote"))
    assert claims.public_key == _android("remote").device_key
    assert claims.provisioning is Provisioning.REMOTE
    assert claims.security_level is SecurityLevel.TRUSTED_ENVIRONMENT
    assert claims.app_version == 7
    assert claims.description.hardware.purposes == {Purpose.AGREE_KEY}
    assert claims.description.hardware.root_of_trust == RootOfTrust(
        bytes(32), True, VerifiedBootState.VERIFIED, bytes(32)
    )
    assert _claims(_android("factory")).provisioning is Provisioning.FACTORY


def test_strongbox_counts_only_where_the_chain_says_so() -> None:
    description = key_description(level=2, keymint_level=2)
    for above, level in (
        (factory("StrongBox"), SecurityLevel.STRONGBOX),
        (remote("StrongBox"), SecurityLevel.STRONGBOX),
        (factory("TEE"), SecurityLevel.TRUSTED_ENVIRONMENT),
        (remote("TEE"), SecurityLevel.TRUSTED_ENVIRONMENT),
    ):
        case = replace(_android("factory"), chain=android_chain(above, description))
        assert _claims(case).security_level is level


def test_every_authorization_that_is_kept() -> None:
    description = parse_key_description(
        key_description(
            version=4,
            hardware={
                5: set_of(integer(4), integer(2)),
                200: integer(65537),
                600: tlv(5, b""),
                704: root_of_trust(boolean(False), 2, b""),
                705: integer(0),
            },
        )
    )
    hardware = description.hardware
    assert (description.attestation_version, description.keymint_version) == (4, 4)
    assert (hardware.algorithm, hardware.key_size, hardware.ec_curve) == (3, 256, 1)
    assert hardware.digests == {2, 4}
    assert hardware.rsa_public_exponent == 65537
    assert hardware.no_auth_required
    assert hardware.all_applications
    assert not description.software.all_applications
    assert hardware.root_of_trust == RootOfTrust(bytes(32), False, VerifiedBootState.UNVERIFIED, None)
    assert (hardware.os_version, hardware.os_patch_level) == (0, 202602)
    assert (hardware.vendor_patch_level, hardware.boot_patch_level) == (20260205, 20260205)
    assert description.software.creation_time == 1_770_000_000_000
    assert description.software.application_id is not None
    assert description.software.application_id.packages == ((PACKAGE, 7),)
    assert description.software.application_id.signature_digests == (SIGNER,)


def test_app_attest_claims() -> None:
    case = next(case for case in APPLE_CASES if case.name == "ios-27-flag-unset")
    claims = case.verdict().claims
    assert claims is not None
    assert (claims.key_id, claims.public_key, claims.receipt) == (case.key_id, case.public_key, b"receipt")
    assert (claims.validation_category, claims.bundle_version) == (4, "1")


def test_verdict_details_hold_no_secrets() -> None:
    for case in (*ANDROID_CASES, *APPLE_CASES, *DEVELOPMENT_CASES):
        detail = case.verdict().detail
        assert len(detail) < 120
        assert detail.isprintable()
        assert PACKAGE not in detail


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        lambda: AndroidKeyPolicy("", frozenset({SIGNER})),
        lambda: AndroidKeyPolicy(PACKAGE, frozenset()),
        lambda: AndroidKeyPolicy(PACKAGE, frozenset({b"short"})),
        lambda: android_policy(minimum_security_level=SecurityLevel.SOFTWARE),
        lambda: android_policy(minimum_os_patch=202613),
        lambda: android_policy(minimum_vendor_patch=20260205),
        lambda: android_policy(minimum_boot_patch=0),
        lambda: AppAttestPolicy("com", "production"),
        lambda: AppAttestPolicy(".com.example", "production"),
        lambda: AppAttestPolicy("1234567890.com.example", "staging"),  # type: ignore[arg-type]
        lambda: PlayIntegrityPolicy("", frozenset({SIGNER}), "production"),
        lambda: PlayIntegrityPolicy(PACKAGE, frozenset(), "production"),
        lambda: PlayIntegrityPolicy(PACKAGE, frozenset({SIGNER}), "production", frozenset()),
        lambda: PlayIntegrityPolicy(PACKAGE, frozenset({SIGNER}), "test"),  # type: ignore[arg-type]
    ],
)
def test_policies_that_make_no_sense(policy: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        policy()


@pytest.mark.parametrize(
    "case", [ANDROID_CASES[0], APPLE_CASES[0], DEVELOPMENT_CASES[0]], ids=lambda case: type(case).__name__
)
def test_a_clock_without_a_zone_is_refused(case: AndroidCase | AppleCase | DevelopmentCase) -> None:
    with pytest.raises(ConfigError):
        replace(case, now=datetime(2026, 3, 1, 12)).verdict()


# --- the revocation list -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"entries": []}',
        b'{"entries": {"abc": "REVOKED"}}',
        b'{"entries": {"abc": {}}}',
        b'{"entries": {"abc": {"status": 1}}}',
        b'{"entries": {"xyz": {"status": "REVOKED"}}}',
        b'{"entries": {"-1": {"status": "REVOKED"}}}',
        b'{"entries": {"0x1": {"status": "REVOKED"}}}',
        b'{"entries": {"": {"status": "REVOKED"}}}',
        b'{"entries": {"' + b"1" * 65 + b'": {"status": "REVOKED"}}}',
        b'{"entries": {"abc": {"status": "REVOKED"}}',
        b'{"entries": ' + b"[" * 200_000,
        b"\xff\xfe",
        b'{"entries": {}}' + b" " * MAX_LIST,
    ],
)
def test_lists_that_are_refused(data: bytes) -> None:
    with pytest.raises(RevocationListError):
        RevocationList.parse(data, NOW)


def test_a_list_reads_digits_both_ways() -> None:
    data = b'{"entries": {"123": {"status": "REVOKED"}, "0aB": {"status": "SUSPENDED", "comment": "x"}}}'
    assert RevocationList.parse(data, NOW).serials == {123, 0x123, 0xAB}
    assert RevocationList.parse(b'{"entries": {}}', NOW).serials == frozenset()
    with pytest.raises(ConfigError):
        RevocationList.parse(data, datetime(2026, 3, 1))


def test_a_list_is_fresh_for_as_long_as_the_policy_says() -> None:
    case = replace(_android("factory"), policy=android_policy(max_revocation_age=timedelta(hours=1)))
    for age, reason in (
        (timedelta(hours=1), Reason.OK),
        (timedelta(hours=1, seconds=1), Reason.REVOCATION_LIST_STALE),
        (timedelta(minutes=-5), Reason.OK),
        (timedelta(minutes=-5, seconds=-1), Reason.REVOCATION_LIST_STALE),
    ):
        assert replace(case, fetched_at=NOW - age).verdict().reason is reason


# --- the JSON of evidence ------------------------------------------------------------------------


def test_evidence_survives_its_json() -> None:
    for case in (ANDROID_CASES[0], APPLE_CASES[0], DEVELOPMENT_CASES[0]):
        vector = case.to_json()["attestation"]
        assert isinstance(vector, dict)
        assert evidence_to_json(evidence_from_json(vector)) == vector


def test_an_integrity_token_beside_the_chain() -> None:
    token = "~ e" + "y" * (MAX_INTEGRITY_TOKEN - 4)
    vector = {"format": "android-key", "chain": ["AAAA"], "integrity_token": token}
    evidence = evidence_from_json(vector)
    assert evidence_to_json(evidence) == vector
    assert "eyy" not in repr(evidence)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"format": "android-key"},
        {"format": "android-key", "chain": "AAAA"},
        {"format": "android-key", "chain": ["AAAA"], "more": 1},
        {"format": "android-key", "chain": ["AAAA"], "integrity_token": "x", "more": 1},
        *(
            {"format": "android-key", "chain": ["AAAA"], "integrity_token": token}
            for token in (None, "", 5, b"x", "ä", "a\nb", "\x7f", "\ud800", "x" * (MAX_INTEGRITY_TOKEN + 1))
        ),
        {"format": "android-key", "integrity_token": "x"},
        {"format": "android-key", "chain": [5]},
        {"format": "android-key", "chain": ["AA=="]},
        {"format": "android-key", "chain": ["AA+A"]},
        {"format": "android-key", "chain": ["AB"]},  # left-over bits
        {"format": "android-key", "chain": ["A"]},
        {"format": "android-key", "chain": ["\ud800"]},
        {"format": "android-key", "chain": ["AAAA"] * 7},
        {"format": "android-key", "chain": ["A" * 22000]},
        {"format": "apple-app-attest", "attestation": "AAAA"},
        {"format": "apple-app-attest", "key_id": "AAAA", "attestation": "AAAA", "assertion": "AAAA"},
        {"format": "apple-app-attest", "key_id": "A" * 44, "attestation": "AAAA"},
        {"format": "apple-app-attest", "key_id": "AAAA", "attestation": "AAAA", "more": 1},
        {"format": "apple-app-attest", "key_id": "AAAA", "assertion": "AAAA", "more": 1},
        {"format": "development", "certificate": "AAAA", "signature": "AAAA", "more": 1},
        {"format": "development", "certificate": "AAAA", "signature": None},
        {"format": "development", "certificate": "AAAA", "signature": "A" * 180},
        {"format": "play-integrity", "token": "AAAA"},
        {"format": ["android-key"], "chain": []},
    ],
)
def test_evidence_that_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(EvidenceError):
        evidence_from_json(value)


def test_refusals_are_not_for_callers() -> None:
    """A verifier gives a verdict; the exception that carries a refusal inside never leaves it."""
    assert str(Refusal(Reason.MALFORMED, "why")) == "why"
    case = replace(DEVELOPMENT_CASES[0], evidence=DevelopmentEvidence(b"", b""))
    try:
        verdict = case.verdict()
    except Refusal:
        pytest.fail("a refusal left its verifier")
    assert verdict.reason is Reason.MALFORMED


# --- the development root's issuing side ---------------------------------------------------------

DIGEST = b"d" * 32


def _judge_development(
    evidence: DevelopmentEvidence, root: DevelopmentRoot, now: datetime = NOW, environment: str = "development"
) -> Reason:
    return verify_development(
        evidence,
        request_digest=DIGEST,
        environment=environment,  # type: ignore[arg-type]
        anchors=TrustAnchors.from_pem(root.certificate),
        now=now,
    ).reason


def test_a_development_root_issues_keys_that_attest() -> None:
    root = DevelopmentRoot.create("Example publisher", NOW)
    signer = root.issue("ci runner", NOW)
    evidence = signer.attest(DIGEST)
    assert _judge_development(evidence, root) is Reason.OK
    assert _judge_development(evidence, root, environment="production") is Reason.WRONG_ENVIRONMENT
    assert _judge_development(evidence, DevelopmentRoot.create("Example publisher", NOW)) is Reason.UNTRUSTED_ROOT
    assert _judge_development(evidence, root, NOW + timedelta(days=91)) is Reason.CERTIFICATE_EXPIRED
    assert _judge_development(evidence, root, NOW - timedelta(days=1)) is Reason.CERTIFICATE_NOT_YET_VALID
    assert _judge_development(signer.attest(b"e" * 32), root) is Reason.SIGNATURE
    claims = verify_development(
        evidence,
        request_digest=DIGEST,
        environment="development",
        anchors=TrustAnchors.from_pem(root.certificate),
        now=NOW,
    ).claims
    assert claims is not None
    assert claims.name == "ci runner"
    assert claims.serial == x509.load_der_x509_certificate(signer.certificate).serial_number


def test_the_root_itself_does_not_attest() -> None:
    root = DevelopmentRoot.create("Example publisher", NOW)
    certificate = x509.load_pem_x509_certificate(root.certificate.encode()).public_bytes(Encoding.DER)
    evidence = DevelopmentKey(root.key, certificate).attest(DIGEST)
    assert _judge_development(evidence, root) is Reason.LEAF_IS_CA


def test_development_keys_survive_pem() -> None:
    root = DevelopmentRoot.create("Example publisher", NOW)
    again = DevelopmentRoot.from_pem(root.private_pem(), root.certificate)
    signer = DevelopmentKey.from_pem(again.issue("emulator", NOW).to_pem())
    assert _judge_development(signer.attest(DIGEST), root) is Reason.OK
    for bad in ("", root.private_pem(), root.certificate):
        with pytest.raises(ConfigError):
            DevelopmentKey.from_pem(bad)
    for wrong in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        pem = wrong.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        with pytest.raises(ConfigError):
            DevelopmentRoot.from_pem(pem, root.certificate)
    for key, certificate in (("", root.certificate), (root.private_pem(), ""), (root.certificate, root.certificate)):
        with pytest.raises(ConfigError):
            DevelopmentRoot.from_pem(key, certificate)
