"""The cases of `android-key` that the chain and its revocation decide."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.verdict import Reason
from cryptography.hazmat.primitives.asymmetric import ec

from support.android_case import (
    LEAF_EXTENSIONS,
    NO_CA_BELOW,
    NOT_CA_MARKED,
    AndroidCase,
    above,
    case,
    cut,
    extended,
    extra_ca,
    issuer_case,
    leaf_case,
    revoked,
    status_list,
)
from support.attestation_forge import (
    DEVICE_KEY,
    ROOT,
    ROOT_KEY,
    ROOT_NAME,
    android_chain,
    factory,
    key_description,
    leaf,
    remote,
)
from support.certificate_writer import (
    BASIC_CONSTRAINTS,
    CA,
    ECDSA_SHA256,
    KEY_DESCRIPTION,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    NOW,
    NULL,
    basic_constraints,
    boolean,
    extension,
    integer,
    key,
    key_usage,
    name,
    seq,
    set_of,
    spki,
    tlv,
)


def chain() -> list[AndroidCase]:
    valid = android_chain()
    top_only = factory()[:2]
    other = key("somebody else")
    other_root = replace(ROOT, public=spki(other), signer=other, algorithm=ECDSA_SHA256, digest=None)
    return [
        # --- the chain ---
        case("untrusted-root", Reason.UNTRUSTED_ROOT, cut(valid, 3, other_root.der())),
        case("untrusted-root-left-out", Reason.UNTRUSTED_ROOT, valid[:-1], anchors=TrustAnchors((spki(other),))),
        case("self-signed", Reason.UNTRUSTED_ROOT, (leaf(name(cn="me"), DEVICE_KEY, subject=name(cn="me")).der(),)),
        case("chain-of-7", Reason.CHAIN_TOO_LONG, valid[:1] + valid[1:2] * 6),
        case("factory-one-ca-more", Reason.CHAIN_TOO_LONG, android_chain(extra_ca(factory()))),
        above(
            "remote-one-ca-more",
            Reason.CHAIN_TOO_LONG,
            *(extra_ca(remote())[:3]),
            replace(remote()[2], extensions=CA),
            ROOT,
        ),
        leaf_case("leaf-of-another-issuer", Reason.CHAIN_NAMES, issuer=name(cn="another")),
        above(
            "top-of-another-issuer",
            Reason.CHAIN_NAMES,
            top_only[0],
            replace(top_only[1], issuer=name(cn="another")),
            ROOT,
        ),
        leaf_case("leaf-signed-by-another", Reason.CHAIN_SIGNATURE, signer=other),
        case(
            "issuer-signed-by-another", Reason.CHAIN_SIGNATURE, android_chain(factory(signer=key("x", ec.SECP384R1())))
        ),
        above(
            "top-signed-by-another",
            Reason.CHAIN_SIGNATURE,
            top_only[0],
            replace(top_only[1], signer=key("x", ec.SECP384R1())),
            ROOT,
        ),
        case(
            "extended-by-attest-key",
            Reason.CHAIN_EXTENDED,
            extended(extensions=(*CA, extension(KEY_DESCRIPTION, key_description(hardware={1: set_of(integer(7))})))),
        ),
        case("extended-by-sign-key", Reason.CHAIN_EXTENDED, extended()),
        # The server's certificate allows two CAs below it: its path length is broken as well.
        case("extended-beyond-the-path-length", Reason.CHAIN_EXTENDED, extended(remote())),
        case(
            "extended-under-no-ca",
            Reason.CHAIN_EXTENDED,
            extended(factory(extensions=(basic_constraints(False), key_usage(0)))),
        ),
        case("extended-under-a-path-length", Reason.CHAIN_EXTENDED, extended(factory(extensions=NO_CA_BELOW))),
        case("extended-by-non-ca", Reason.ISSUER_NOT_CA, extended(extensions=(key_usage(0),))),
    ]


def not_ca() -> list[AndroidCase]:
    top_only = factory()[:2]
    return [
        issuer_case("issuer-with-name-constraints-alone", Reason.ISSUER_NOT_CA, NOT_CA_MARKED[2]),
        issuer_case(
            "malformed-basic-constraints-twice",
            Reason.MALFORMED,
            extension(BASIC_CONSTRAINTS, seq(boolean(True)) + NULL, critical=True),
        ),
        issuer_case(
            "malformed-key-usage-twice",
            Reason.MALFORMED,
            basic_constraints(True),
            extension(KEY_USAGE, tlv(3, b"\x02\x04") + NULL, critical=True),
        ),
        issuer_case("issuer-without-constraints", Reason.ISSUER_NOT_CA, key_usage(5)),
        issuer_case("issuer-not-ca", Reason.ISSUER_NOT_CA, basic_constraints(False), key_usage(5)),
        issuer_case("issuer-may-not-certify", Reason.ISSUER_NOT_CA, basic_constraints(True), key_usage(0)),
        above(
            "path-length",
            Reason.ISSUER_NOT_CA,
            remote()[0],
            remote()[1],
            replace(remote()[2], extensions=(basic_constraints(True, 1), key_usage(5))),
            ROOT,
        ),
        case(
            "remote-non-ca-with-name-constraints", Reason.ISSUER_NOT_CA, android_chain(remote(extensions=NOT_CA_MARKED))
        ),
        above(
            "factory-ca-with-name-constraints",
            Reason.ISSUER_NOT_CA,
            top_only[0],
            replace(top_only[1], extensions=NOT_CA_MARKED),
            ROOT,
        ),
        above(
            "short-factory-non-ca-with-name-constraints",
            Reason.ISSUER_NOT_CA,
            replace(top_only[0], issuer=ROOT_NAME, signer=ROOT_KEY, extensions=NOT_CA_MARKED),
            ROOT,
        ),
    ]


def chain_validity() -> list[AndroidCase]:
    past = NOW - timedelta(days=60)
    return [
        leaf_case("leaf-is-ca", Reason.LEAF_IS_CA, extensions=(*LEAF_EXTENSIONS, basic_constraints(True))),
        leaf_case(
            "critical-extension",
            Reason.CRITICAL_EXTENSION,
            extensions=(*LEAF_EXTENSIONS, extension("1.2.3.4", NULL, critical=True)),
        ),
        case(
            "critical-extension-above",
            Reason.CRITICAL_EXTENSION,
            android_chain(factory(extensions=(*CA, extension(NAME_CONSTRAINTS, seq(), critical=True)))),
        ),
        case("remote-issuer-expired", Reason.CERTIFICATE_EXPIRED, android_chain(remote()), now=NOW + timedelta(days=6)),
        above(
            "remote-server-expired",
            Reason.CERTIFICATE_EXPIRED,
            remote()[0],
            replace(remote()[1], not_after=NOW - timedelta(seconds=1)),
            *remote()[2:],
        ),
        case("remote-not-yet", Reason.CERTIFICATE_NOT_YET_VALID, android_chain(remote()), now=NOW - timedelta(days=6)),
        case("factory-not-yet", Reason.CERTIFICATE_NOT_YET_VALID, now=past, fetched_at=past),
    ]


def revocation() -> list[AndroidCase]:
    return [
        # --- revocation ---
        revoked("revoked-hex", "d71dfb3563e5d9cb46dd12c1ba226c39", 0xD71DFB3563E5D9CB46DD12C1BA226C39),
        revoked("revoked-digits-are-hex", "17102468407102977850", 0x17102468407102977850),
        revoked("revoked-small-digits-are-hex", "6681152659205225093", 0x6681152659205225093),
        revoked("revoked-small-digits-are-decimal", "6681152659205225093", 6681152659205225093),
        revoked("revoked-odd-length", "abc"),
        revoked("revoked-padded", "0abc"),
        revoked("revoked-upper-case", "ABC"),
        revoked("suspended", "abc", status="SUSPENDED"),
        revoked("status-of-the-future", "abc", status="RETIRED"),
        case("revoked-ca", Reason.CERTIFICATE_REVOKED, revocation=status_list("388266760658996857d")),
        case("revoked-leaf", Reason.CERTIFICATE_REVOKED, revocation=status_list("1")),
        case("no-revocation-list", Reason.REVOCATION_LIST_MISSING, revocation=None),
        case("stale-revocation-list", Reason.REVOCATION_LIST_STALE, fetched_at=NOW - timedelta(hours=24, seconds=1)),
        case("revocation-list-of-the-future", Reason.REVOCATION_LIST_STALE, fetched_at=NOW + timedelta(hours=1)),
    ]
