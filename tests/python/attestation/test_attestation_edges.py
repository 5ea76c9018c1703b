"""The edges of each check: the last value that passes beside the first that does not, and bytes that another check hides."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from corelocker.attestation.certificates import parse_certificate
from corelocker.attestation.chain import parse_chain
from corelocker.attestation.der import DerError, Reader
from corelocker.attestation.revocation import MAX_LIST, RevocationList, RevocationListError
from corelocker.attestation.verdict import Reason, Refusal
from corelocker.errors import ConfigError
from corelocker.licensing.evidence import MAX_CERTIFICATE, MAX_CHAIN, MAX_OBJECT
from support.android_case import LEAF_EXTENSIONS, NOT_CA_MARKED
from support.attestation_cases import ANDROID_CASES, APPLE_CASES, DEVELOPMENT_CASES
from support.attestation_forge import (
    APP_KEY,
    CLIENT_DATA_HASH,
    IOS_27,
    ROOT,
    ROOT_NAME,
    android_chain,
    android_policy,
    apple_chain,
    apple_policy,
    assertion_data,
    assertion_object,
    attestation_object,
    authenticator_data,
    cbor,
    cose,
    described,
    factory,
    key_description,
    remote,
    root_of_trust,
)
from support.certificate_writer import (
    NOW,
    Cert,
    basic_constraints,
    boolean,
    extension,
    integer,
    key,
    key_usage,
    name,
    octets,
    oid,
    seq,
    tlv,
)
from support.development_cases import development_evidence

ANDROID = next(case for case in ANDROID_CASES if case.name == "factory")
ATTESTATION = next(case for case in APPLE_CASES if case.name == "attestation")
ASSERTION = next(case for case in APPLE_CASES if case.name == "assertion")


def android(chain: tuple[bytes, ...], **settings: Any) -> Reason:
    return replace(ANDROID, chain=chain, **settings).verdict().reason


def attested(data: bytes | None = None, **settings: Any) -> Reason:
    return replace(ATTESTATION, attestation=attestation_object(data), **settings).verdict().reason


# --- Android -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3, 4, 100, 200, 300, 400, 500])
def test_every_version_of_the_schema(version: int) -> None:
    # The hash of the boot image comes with version 3, sizes and curves may be left to the certificate.
    boot = root_of_trust(boot_hash=b"") if version < 3 else root_of_trust()
    assert android(described(version=version, hardware={704: boot})) is Reason.OK
    assert android(described(version=version, hardware={3: None, 10: None, 704: boot})) is Reason.OK


@pytest.mark.parametrize("version", [-100, -1, 0, 5, 41, 99, 101, 250, 501, 600, 2**40])
def test_versions_that_do_not_exist(version: int) -> None:
    assert android(described(version=version)) is Reason.UNSUPPORTED_VERSION


def test_an_operator_may_accept_a_later_version() -> None:
    policy = android_policy(newest_attestation_version=600)
    assert android(described(version=600), policy=policy) is Reason.OK
    assert android(described(version=700), policy=policy) is Reason.UNSUPPORTED_VERSION


def test_tags_of_later_versions_are_passed_over() -> None:
    later = {11: integer(1), 723: octets(b"imei"), 724: octets(bytes(32)), 750: boolean(True)}
    assert android(described(version=400, hardware=later)) is Reason.OK


@pytest.mark.parametrize("patch", [202602, 202603, 202612, 999912, 20260200, 20260201, 99991231])
def test_patch_levels_that_are_new_enough(patch: int) -> None:
    policy = android_policy(minimum_vendor_patch=202602)
    assert android(described(hardware={718: integer(patch)}), policy=policy) is Reason.OK


@pytest.mark.parametrize("patch", [-202602, 12, 202601, 202600, 202700, 202713, 20270031, 1000001, 2027020100])
def test_patch_levels_that_are_old_or_no_month(patch: int) -> None:
    policy = android_policy(minimum_vendor_patch=202602)
    assert android(described(hardware={718: integer(patch)}), policy=policy) is Reason.PATCH_LEVEL


@pytest.mark.parametrize("floor", [-1, 12, 199912, 200000, 202600, 202613, 1000001, 20260201, 2026020100])
def test_floors_that_are_no_month(floor: int) -> None:
    with pytest.raises(ConfigError):
        android_policy(minimum_os_patch=floor)


def test_floors_that_are_months() -> None:
    for floor in (200001, 202601, 202612, 999912):
        android_policy(minimum_os_patch=floor)


def test_the_first_keyboxes_are_factory_made() -> None:
    """A remotely provisioned chain as short as theirs gets no exception from the rule that CAs issue."""
    issuer, _, top, root = remote()
    short = replace(issuer, issuer=top.subject, signer=key("droid ca2"))
    assert android(android_chain([short, top, root])) is Reason.OK
    marked = replace(short, extensions=NOT_CA_MARKED)
    assert android(android_chain([marked, top, root])) is Reason.ISSUER_NOT_CA


def test_a_certificate_counts_through_its_last_second() -> None:
    issuer = remote()[0]
    for now, reason in (
        (issuer.not_before - timedelta(seconds=1), Reason.CERTIFICATE_NOT_YET_VALID),
        (issuer.not_before, Reason.OK),
        (issuer.not_after, Reason.OK),
        (issuer.not_after + timedelta(seconds=1), Reason.CERTIFICATE_EXPIRED),
    ):
        assert android(android_chain(remote()), now=now, fetched_at=now) is reason


def test_defaults_that_are_written_out() -> None:
    """DER leaves a FALSE that is the default out; some phones write it."""
    plain, described_key = LEAF_EXTENSIONS
    written = seq(oid("1.3.6.1.4.1.11129.2.1.17"), boolean(False), octets(key_description()))
    assert android(android_chain(extensions=(plain, written))) is Reason.OK
    for constraints in (seq(), seq(boolean(False))):
        bent = (plain, described_key, extension("2.5.29.19", constraints))
        assert android(android_chain(extensions=bent)) is Reason.OK


@pytest.mark.parametrize("malformed", [b"\1", b"\x7f", b"", b"\xff\xff", b"\0\0"], ids=bytes.hex)
def test_a_boolean_has_two_forms_wherever_it_is(malformed: bytes) -> None:
    bad = tlv(1, malformed)
    critical = seq(oid("1.3.6.1.4.1.11129.2.1.17"), bad, octets(key_description()))
    assert android(android_chain(extensions=(LEAF_EXTENSIONS[0], critical))) is Reason.MALFORMED
    assert android(android_chain(factory(extensions=(extension("2.5.29.19", seq(bad)),)))) is Reason.MALFORMED
    # deviceLocked alone: genuine phones write TRUE as 01, and the platform's own parser takes any value but 0 for it.
    locked = Reason.OK if len(malformed) == 1 else Reason.MALFORMED
    assert android(described(hardware={704: root_of_trust(bad)})) is locked


@pytest.mark.parametrize(
    "algorithm", ["1.2.840.113549.1.1.10", "1.2.840.10045.4.3.1", "1.3.101.112", "2.16.840.1.101.3.4.3.17"]
)
def test_algorithms_with_parameters_of_their_own(algorithm: str) -> None:
    """RSASSA-PSS, ECDSA with SHA-224, Ed25519 and ML-DSA-44: unknown whatever their parameters are."""
    for parameters in (b"", tlv(5, b""), seq(integer(32)), octets(b"x")):
        chain = android_chain(algorithm=algorithm, parameters=parameters)
        assert android(chain) is Reason.UNSUPPORTED_ALGORITHM


def test_a_leaf_without_any_extension() -> None:
    assert android(android_chain(extensions=())) is Reason.ATTESTATION_MISSING


def test_serial_numbers() -> None:
    for serial in (0, 1, 127, 128, 2**159 - 1):
        assert android(android_chain(serial=serial)) is Reason.OK
    for serial in (-1, 2**168):
        assert android(android_chain(serial=serial)) is Reason.MALFORMED


def test_the_same_app_named_twice_is_not_it_alone() -> None:
    twice = octets(seq(tlv(0x31, seq(octets(b"com.example.app"), integer(7)) * 2), tlv(0x31, octets(bytes(32)))))
    assert android(described(software={709: twice})) is Reason.WRONG_APP


# --- DER -----------------------------------------------------------------------------------------


def test_der_lengths_about_the_long_form() -> None:
    for size in (0, 1, 127, 128, 129, 255, 256, 65535, 65536):
        data = octets(bytes(size))
        assert Reader(data).octets() == bytes(size)
        assert Reader(data).any() == (0x04, bytes(size))
    # Neither of the two ways to read an element takes an indefinite length for one of 128.
    indefinite = b"\x04\x80" + bytes(200)
    for read in (Reader.octets, Reader.any):
        with pytest.raises(DerError):
            read(Reader(indefinite))


def test_der_named_bits_of_up_to_four_octets() -> None:
    assert Reader(tlv(3, b"\0\x80\0\0\1")).named_bits() == {0, 31}
    with pytest.raises(DerError):
        Reader(tlv(3, b"\0\x80\0\0\0\1")).named_bits()


# --- limits --------------------------------------------------------------------------------------


def _certificate_of(size: int) -> bytes:
    """A certificate of exactly this size; of the lengths that a DER signature has, one fits."""
    for filler in range(size - 410, size - 370):
        extensions = (basic_constraints(False), extension("1.2.3.4", bytes(filler)))
        for serial in (1, 2, 3):
            data = Cert(ROOT_NAME, ROOT_NAME, ROOT.public, ROOT.signer, extensions, serial).der()
            if len(data) == size:
                return data
    raise AssertionError(size)


def test_the_largest_certificate() -> None:
    assert parse_certificate(_certificate_of(MAX_CERTIFICATE)).serial in (1, 2, 3)
    with pytest.raises(Refusal) as caught:
        parse_certificate(_certificate_of(MAX_CERTIFICATE + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_longest_chain() -> None:
    assert len(parse_chain([ROOT.der()] * MAX_CHAIN)) == MAX_CHAIN
    with pytest.raises(Refusal) as caught:
        parse_chain([ROOT.der()] * (MAX_CHAIN + 1))
    assert caught.value.reason is Reason.CHAIN_TOO_LONG


def test_the_largest_app_attest_object() -> None:
    room = MAX_OBJECT - len(attestation_object(receipt=bytes(300))) + 300
    for size, reason in ((room, Reason.OK), (room + 1, Reason.TOO_LARGE)):
        data = attestation_object(receipt=bytes(size))
        assert len(data) == MAX_OBJECT + (reason is not Reason.OK)
        assert replace(ATTESTATION, attestation=data).verdict().reason is reason


def test_the_largest_revocation_list() -> None:
    assert RevocationList.parse(b'{"entries": {}}'.ljust(MAX_LIST), NOW).serials == frozenset()
    with pytest.raises(RevocationListError):
        RevocationList.parse(b'{"entries": {}}'.ljust(MAX_LIST + 1), NOW)


# --- App Attest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stranger", ["a text", 5, [b""], {}])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_chain_holds_certificates_alone(stranger: object, at: int) -> None:
    chain: list[object] = list(apple_chain(b"", {}, {}))
    chain.insert(at, stranger)
    data = attestation_object(members={"attStmt": {"x5c": chain, "receipt": b""}})
    assert replace(ATTESTATION, attestation=data).verdict().reason is Reason.MALFORMED


def test_authenticator_data_cut_anywhere() -> None:
    """Certified by Apple at each length, so that the nonce does not hide what the reader does."""
    data = authenticator_data(flags=0xC0, tail=IOS_27)
    assert attested(data) is Reason.OK
    for size in range(len(data)):
        assert attested(data[:size]) in (Reason.MALFORMED, Reason.KEY_ID), size
    signed = assertion_data(flags=0x80, tail=IOS_27)
    for size in range(len(signed)):
        case = replace(ASSERTION, assertion=assertion_object(signed[:size]))
        assert case.verdict().reason is Reason.MALFORMED


def test_the_map_of_ios_27_in_all_forms() -> None:
    store = apple_policy(validation_categories=frozenset({2, 4}), require_validation_category=True)
    category = {"apple_validation_category_01": (4).to_bytes(4, "little")}
    others = {"apple_bundle_version_01": "1.2.3", "apple_code_01": {"type": 2, "hash": bytes(32)}, "new": [1, -1]}
    for tail, reason in (
        (cbor(category), Reason.OK),
        (cbor({**others, **category}), Reason.OK),
        (cbor({**category, **others}), Reason.OK),
        (b"\xa0", Reason.VALIDATION_CATEGORY),
        (cbor(others), Reason.VALIDATION_CATEGORY),
        (cbor({"apple_validation_category_01": (3).to_bytes(4, "little")}), Reason.VALIDATION_CATEGORY),
        # Big-endian: another number.
        (cbor({"apple_validation_category_01": (4).to_bytes(4)}), Reason.VALIDATION_CATEGORY),
        (cbor(category) * 2, Reason.MALFORMED),
        (cbor({"apple_validation_category_01": "4"}), Reason.MALFORMED),
    ):
        for flags in (0x40, 0xC0):
            assert attested(authenticator_data(flags=flags, tail=tail), policy=store) is reason
        for flags in (0x00, 0x40, 0x80, 0xC0):
            data = assertion_object(assertion_data(flags=flags, tail=tail))
            assert replace(ASSERTION, assertion=data, policy=store).verdict().reason is reason


def test_the_root_and_more_members_may_be_there() -> None:
    root = Cert(
        name(cn="App Attestation Root CA"),
        name(cn="App Attestation Root CA"),
        ATTESTATION.anchors.keys[0],
        APP_KEY,
        (basic_constraints(True), key_usage(5)),
    )
    nonce = hashlib.sha256(authenticator_data() + CLIENT_DATA_HASH).digest()
    chain = [*apple_chain(nonce, {}, {}), root.der()]
    data = attestation_object(members={"attStmt": {"x5c": chain, "receipt": b"", "more": 1}, "more": b""})
    assert replace(ATTESTATION, attestation=data).verdict().reason is Reason.OK
    more = assertion_object(members={"more": 1})
    assert replace(ASSERTION, assertion=more).verdict().reason is Reason.OK


def test_a_credential_key_holds_these_members_alone() -> None:
    assert attested(authenticator_data(credential_key=cose(APP_KEY, {99: 1}))) is Reason.KEY_TYPE
    for bent in ({1: 1}, {3: -8}, {-1: 2}, {-2: bytes(32)}, {-3: bytes(32)}):
        assert attested(authenticator_data(credential_key=cose(APP_KEY, bent))) is Reason.KEY_TYPE


def test_the_counter_is_of_32_bits() -> None:
    data = assertion_object(assertion_data(counter=2**32 - 1))
    assert replace(ASSERTION, assertion=data, last_counter=2**32 - 2).verdict().reason is Reason.OK
    assert replace(ASSERTION, assertion=data, last_counter=2**32 - 1).verdict().reason is Reason.COUNTER


# --- development ---------------------------------------------------------------------------------


def test_a_development_certificate_without_a_name() -> None:
    case = replace(DEVELOPMENT_CASES[0], evidence=development_evidence(subject=name(o="CoreLocker development")))
    verdict = case.verdict()
    assert verdict.claims is not None
    assert verdict.claims.name == ""
