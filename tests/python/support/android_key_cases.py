"""The cases of `android-key` that are accepted, malformed, or refused for what the key description says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

from corelocker.attestation.key_description import SecurityLevel
from corelocker.attestation.verdict import Reason
from cryptography.hazmat.primitives.asymmetric import ec

from support.android_case import (
    LEAF_EXTENSIONS,
    ML_DSA,
    ML_DSA_KEY,
    NOT_CA_MARKED,
    AndroidCase,
    above,
    case,
    cut,
    damaged,
    issuer_case,
    kd,
    leaf_case,
    rsa,
)
from support.attestation_forge import (
    AGREE_KEY,
    DEVICE_KEY,
    ROOT,
    SIGN,
    SIGNER,
    VERIFY,
    android_chain,
    android_policy,
    application_id,
    factory,
    key_description,
    remote,
    root_of_trust,
)
from support.certificate_writer import (
    BASIC_CONSTRAINTS,
    ECDSA_SHA256,
    KEY_USAGE,
    NOW,
    NULL,
    basic_constraints,
    boolean,
    ctx,
    extension,
    integer,
    key,
    key_usage,
    name,
    octets,
    oid,
    seq,
    set_of,
    spki,
    tlv,
)


def accepted() -> list[AndroidCase]:
    valid = android_chain()
    old = android_policy(minimum_os_patch=202602, minimum_vendor_patch=202602, minimum_boot_patch=202602)
    sign = android_policy(purposes=frozenset({SIGN, VERIFY}))
    strongbox = android_policy(minimum_security_level=SecurityLevel.STRONGBOX)
    return [
        # --- accepted ---
        case("factory", Reason.OK),
        case("remote", Reason.OK, android_chain(remote())),
        case("root-left-out", Reason.OK, valid[:-1]),
        # The chain's verdict does not depend on the token, which the service judges by itself.
        case("beside-an-integrity-token", Reason.OK, integrity_token="eyJhbGciOiJBMjU2S1cifQ.a.b.c.d"),
        case("root-renewed", Reason.OK, cut(valid, 3, replace(ROOT, serial=5, not_after=NOW - timedelta(1)).der())),
        case(
            "strongbox",
            Reason.OK,
            android_chain(factory("StrongBox"), key_description(level=2, keymint_level=2)),
            policy=strongbox,
        ),
        leaf_case("null-ecdsa-parameters", Reason.OK, parameters=NULL),
        kd("unsorted-set", Reason.OK, sign, hardware={1: set_of(integer(VERIFY), integer(SIGN))}),
        leaf_case("leaf-dated-in-the-future", Reason.OK, not_before=NOW + timedelta(1), not_after=NOW + timedelta(2)),
        kd("unknown-tag", Reason.OK, hardware={9999: octets(b"of the future")}),
        # Genuine phones write TRUE as 01.
        kd("locked-is-01", Reason.OK, hardware={704: root_of_trust(tlv(1, b"\1"))}),
        kd("locked-is-80", Reason.OK, hardware={704: root_of_trust(tlv(1, b"\x80"))}),
        kd("deep-unknown-tag", Reason.OK, hardware={9999: tlv(0x30, bytes.fromhex("3080") * 2000)}),
        kd("version-500", Reason.OK, version=500),
        kd("version-2-without-boot-hash", Reason.OK, version=2, hardware={704: root_of_trust(boot_hash=b"")}),
        kd("at-the-patch-floor", Reason.OK, old),
        issuer_case("issuer-without-key-usage", Reason.OK, basic_constraints(True)),
        issuer_case("first-keyboxes", Reason.OK, *NOT_CA_MARKED),
    ]


def malformed() -> list[AndroidCase]:
    valid = android_chain()
    description = key_description()
    return [
        # --- the bytes ---
        case("malformed-no-chain", Reason.MALFORMED, ()),
        case("malformed-truncated", Reason.MALFORMED, cut(valid, 0, valid[0][:-1])),
        case("malformed-empty", Reason.MALFORMED, cut(valid, 1, b"")),
        case("malformed-trailing", Reason.MALFORMED, cut(valid, 0, valid[0] + b"\0")),
        case("malformed-huge-length", Reason.MALFORMED, cut(valid, 0, b"\x30\x84\xff\xff\xff\xff" + valid[0])),
        case("malformed-indefinite", Reason.MALFORMED, cut(valid, 0, b"\x30\x80" + valid[0][4:] + b"\0\0")),
        case("malformed-long-form", Reason.MALFORMED, cut(valid, 0, b"\x30\x83\0" + valid[0][2:])),
        leaf_case("malformed-version-1", Reason.MALFORMED, version=ctx(0, integer(0))),
        leaf_case("malformed-version-and-more", Reason.MALFORMED, version=ctx(0, integer(2), NULL)),
        leaf_case("malformed-negative-serial", Reason.MALFORMED, serial=-5),
        leaf_case("malformed-padded-serial", Reason.MALFORMED, version=ctx(0, tlv(2, b"\0\2"))),
        leaf_case("malformed-three-times", Reason.MALFORMED, validity_tail=NULL),
        leaf_case("malformed-two-extension-lists", Reason.MALFORMED, extensions_tail=seq()),
        leaf_case(
            "malformed-field-in-extension",
            Reason.MALFORMED,
            extensions=(*LEAF_EXTENSIONS, seq(oid("1.2.3.4"), octets(b""), NULL)),
        ),
        leaf_case(
            "malformed-rsa-parameters", Reason.MALFORMED, algorithm="1.2.840.113549.1.1.11", parameters=octets(b"")
        ),
        leaf_case("malformed-field-after-extensions", Reason.MALFORMED, signed_tail=NULL),
        leaf_case("malformed-field-after-signature", Reason.MALFORMED, tail=NULL),
        leaf_case("malformed-two-algorithms", Reason.MALFORMED, outer_algorithm=seq(oid(ECDSA_SHA256), NULL)),
        leaf_case("malformed-parameters-twice", Reason.MALFORMED, parameters=NULL + NULL),
        leaf_case("malformed-extension-twice", Reason.MALFORMED, extensions=LEAF_EXTENSIONS + LEAF_EXTENSIONS[1:]),
        leaf_case("malformed-parameters", Reason.MALFORMED, parameters=octets(b"")),
        leaf_case("malformed-key", Reason.MALFORMED, public=spki(DEVICE_KEY)[:-1] + b"\0"),
        leaf_case(
            "malformed-basic-constraints",
            Reason.MALFORMED,
            extensions=(*LEAF_EXTENSIONS, extension(BASIC_CONSTRAINTS, seq(boolean(True), integer(0), NULL))),
        ),
        case(
            "malformed-key-usage",
            Reason.MALFORMED,
            android_chain(factory(extensions=(basic_constraints(True), extension(KEY_USAGE, tlv(3, b"\x08\x04"))))),
        ),
        above(
            "malformed-name",
            Reason.MALFORMED,
            factory()[0],
            replace(factory()[1], subject=seq(tlv(0x31, b"\x30\x05"))),
            ROOT,
        ),
        damaged("description-empty", b""),
        damaged("description-trailing", description + b"\0"),
        damaged("description-field-more", key_description(tail=NULL)),
        damaged("boolean-empty", key_description(hardware={704: root_of_trust(tlv(1, b""))})),
        leaf_case(
            "malformed-boolean-elsewhere",
            Reason.MALFORMED,
            extensions=(*LEAF_EXTENSIONS, extension(BASIC_CONSTRAINTS, seq(tlv(1, b"\1")))),
        ),
        damaged("boolean-long", key_description(hardware={704: root_of_trust(tlv(1, b"\xff\xff"))})),
        damaged(
            "tag-order",
            description.replace(ctx(2, integer(3)) + ctx(3, integer(256)), ctx(3, integer(256)) + ctx(2, integer(3))),
        ),
        # Of the same length each, so that nothing but the tag is wrong.
        damaged("tag-twice", description.replace(ctx(3, integer(256)), ctx(2, integer(256)))),
        damaged("tag-universal", description.replace(ctx(1, set_of(integer(AGREE_KEY))), set_of(integer(1), NULL))),
        damaged("tag-0", description.replace(ctx(1, set_of(integer(AGREE_KEY))), tlv(0, bytes(5)))),
        damaged("boot-state-field-more", key_description(hardware={704: root_of_trust(boot_hash=octets(b"") + NULL)})),
        damaged("app-id-field-more", key_description(software={709: application_id(inner_tail=NULL)})),
        damaged("package-field-more", key_description(software={709: application_id(package_tail=NULL)})),
        damaged("nested", key_description(hardware={1: set_of(set_of(integer(AGREE_KEY)))})),
        damaged("flag-with-content", key_description(hardware={503: tlv(5, b"\0")})),
        damaged("field-trailing", key_description(hardware={702: integer(0) + NULL})),
        damaged("app-id-trailing", key_description(software={709: application_id(tail=b"\0")})),
        damaged("app-name", description.replace(b"com.example.app", b"com.example.\xff\xff\xff")),
        damaged("boot-state", key_description(hardware={704: root_of_trust(state=4)})),
        damaged("level", key_description(level=3)),
    ]


def unsupported() -> list[AndroidCase]:
    valid = android_chain()
    return [
        case("too-large", Reason.TOO_LARGE, cut(valid, 0, valid[0] + bytes(16 << 10))),
        leaf_case("mldsa-signature", Reason.UNSUPPORTED_ALGORITHM, algorithm=ML_DSA),
        leaf_case("sha1-signature", Reason.UNSUPPORTED_ALGORITHM, algorithm="1.2.840.10045.4.1"),
        leaf_case("mldsa-key", Reason.UNSUPPORTED_ALGORITHM, public=ML_DSA_KEY),
        case(
            "mldsa-key-of-an-unlocked-phone",
            Reason.UNSUPPORTED_ALGORITHM,
            android_chain(
                description=key_description(hardware={704: root_of_trust(boolean(False))}), public=ML_DSA_KEY
            ),
        ),
        leaf_case("key-on-secp256k1", Reason.UNSUPPORTED_ALGORITHM, public=spki(key("device", ec.SECP256K1()))),
        leaf_case("rsa-1024-key", Reason.UNSUPPORTED_ALGORITHM, public=rsa(1024)),
        kd("version-0", Reason.UNSUPPORTED_VERSION, version=0),
        kd("version-5", Reason.UNSUPPORTED_VERSION, version=5),
        kd("version-150", Reason.UNSUPPORTED_VERSION, version=150),
        kd("version-600", Reason.UNSUPPORTED_VERSION, version=600),
    ]


def device() -> list[AndroidCase]:
    old = android_policy(minimum_os_patch=202602, minimum_vendor_patch=202602, minimum_boot_patch=202602)
    strongbox = android_policy(minimum_security_level=SecurityLevel.STRONGBOX)
    return [
        # --- what the proof says ---
        leaf_case("no-attestation", Reason.ATTESTATION_MISSING, extensions=(key_usage(4),)),
        kd("other-challenge", Reason.WRONG_CHALLENGE, challenge=hashlib.sha256(b"another request").digest()),
        kd("empty-challenge", Reason.WRONG_CHALLENGE, challenge=b""),
        # --- the device ---
        kd("software-attestation", Reason.SECURITY_LEVEL, level=0),
        kd("software-key", Reason.SECURITY_LEVEL, keymint_level=0),
        case(
            "remote-but-software",
            Reason.SECURITY_LEVEL,
            android_chain(remote(), key_description(level=0, keymint_level=0)),
        ),
        kd("tee-where-strongbox-is-asked", Reason.SECURITY_LEVEL, strongbox),
        kd("strongbox-attested-by-tee", Reason.SECURITY_LEVEL, strongbox, level=1, keymint_level=2),
        kd("strongbox-claimed-by-tee-chain", Reason.SECURITY_LEVEL, strongbox, level=2, keymint_level=2),
        case(
            "strongbox-claimed-by-leaf-name",
            Reason.SECURITY_LEVEL,
            android_chain(description=key_description(level=2, keymint_level=2), subject=name(cn="StrongBox")),
            policy=strongbox,
        ),
        kd("no-boot-state", Reason.BOOT_STATE_MISSING, hardware={704: None}),
        kd("boot-state-by-software", Reason.BOOT_STATE_MISSING, hardware={704: None}, software={704: root_of_trust()}),
        kd("unlocked", Reason.DEVICE_UNLOCKED, hardware={704: root_of_trust(boolean(False))}),
        kd("self-signed-boot", Reason.BOOT_NOT_VERIFIED, hardware={704: root_of_trust(state=1)}),
        kd("unverified-boot", Reason.BOOT_NOT_VERIFIED, hardware={704: root_of_trust(state=2)}),
        kd("failed-boot", Reason.BOOT_NOT_VERIFIED, hardware={704: root_of_trust(state=3)}),
        kd("old-system", Reason.PATCH_LEVEL, old, hardware={706: integer(202601)}),
        kd("old-vendor", Reason.PATCH_LEVEL, old, hardware={718: integer(20260131)}),
        kd("old-boot", Reason.PATCH_LEVEL, old, hardware={719: integer(202512)}),
        kd("no-patch-level", Reason.PATCH_LEVEL, old, hardware={706: None}),
        kd("patch-level-0", Reason.PATCH_LEVEL, old, hardware={706: integer(0)}),
        kd("patch-level-no-month", Reason.PATCH_LEVEL, old, hardware={706: integer(202613)}),
        kd("patch-level-huge", Reason.PATCH_LEVEL, old, hardware={706: integer(2026021500)}),
    ]


def app_and_key() -> list[AndroidCase]:
    other = key("somebody else")
    return [
        # --- the app ---
        kd("all-applications", Reason.KEY_ALL_APPLICATIONS, hardware={600: NULL}),
        kd("all-applications-by-software", Reason.KEY_ALL_APPLICATIONS, software={600: NULL}),
        kd("other-app", Reason.WRONG_APP, software={709: application_id(("com.example.other",))}),
        kd("two-apps", Reason.WRONG_APP, software={709: application_id(("com.example.app", "com.example.other"))}),
        kd("no-app", Reason.WRONG_APP, software={709: None}),
        kd("app-by-hardware", Reason.WRONG_APP, software={709: None}, hardware={709: application_id()}),
        kd("no-package", Reason.WRONG_APP, software={709: application_id(())}),
        kd("other-signer", Reason.WRONG_SIGNER, software={709: application_id(digests=(bytes(32),))}),
        kd("signer-added", Reason.WRONG_SIGNER, software={709: application_id(digests=(SIGNER, bytes(32)))}),
        kd("no-signer", Reason.WRONG_SIGNER, software={709: application_id(digests=())}),
        # --- the key ---
        kd("rsa-key", Reason.KEY_TYPE, hardware={2: integer(1)}),
        kd("key-of-384-bits", Reason.KEY_TYPE, hardware={3: integer(384)}),
        kd("key-on-curve-25519", Reason.KEY_TYPE, hardware={10: integer(4)}),
        leaf_case("leaf-on-p384", Reason.KEY_TYPE, public=spki(key("device", ec.SECP384R1()))),
        kd("signing-key", Reason.KEY_PURPOSE, hardware={1: set_of(integer(SIGN))}),
        kd("key-that-also-signs", Reason.KEY_PURPOSE, hardware={1: set_of(integer(SIGN), integer(AGREE_KEY))}),
        kd("no-purpose", Reason.KEY_PURPOSE, hardware={1: None}),
        kd("purpose-by-software", Reason.KEY_PURPOSE, hardware={1: None}, software={1: set_of(integer(AGREE_KEY))}),
        kd("imported-key", Reason.KEY_ORIGIN, hardware={702: integer(2)}),
        kd("securely-imported-key", Reason.KEY_ORIGIN, hardware={702: integer(4)}),
        kd("origin-by-software", Reason.KEY_ORIGIN, hardware={702: None}, software={702: integer(0)}),
        case("other-device-key", Reason.DEVICE_KEY, device_key=other.public_key()),
    ]
