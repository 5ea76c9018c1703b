"""The cases: each takes a valid proof, bends one thing and names the reason that the verifier must give.

`tools/vectors/make_attestation_vectors.py` writes them to `tests/vectors/attestation`; the tests run them from here and
from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from corelocker.attestation.android_key import AndroidKeyPolicy, verify_android_key
from corelocker.attestation.apple_app_attest import (
    AppAttestPolicy,
    verify_app_assertion,
    verify_app_attestation,
)
from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.development import verify_development
from corelocker.attestation.key_description import SecurityLevel
from corelocker.attestation.revocation import RevocationList
from corelocker.attestation.verdict import Reason, Verdict
from corelocker.bundle import jose
from corelocker.licensing.development import signed_bytes
from corelocker.licensing.evidence import (
    AndroidKeyEvidence,
    AppAssertEvidence,
    AppAttestEvidence,
    DevelopmentEvidence,
    Evidence,
    evidence_to_json,
)
from cryptography.hazmat.primitives.asymmetric import ec

from support.attestation_forge import (
    AGREE_KEY,
    ANCHORS,
    APP_ID,
    APP_KEY,
    APPLE_ANCHORS,
    APPLE_CA_KEY,
    APPLE_NONCE,
    BASIC_CONSTRAINTS,
    CA,
    CHALLENGE,
    CLIENT_DATA_HASH,
    DEVELOPMENT_AAGUID,
    DEVICE_KEY,
    ECDSA_SHA256,
    FACTORY_ISSUER,
    IOS_27,
    KEY_DESCRIPTION,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    NOW,
    NULL,
    REMOTE_ISSUER,
    ROOT,
    ROOT_KEY,
    ROOT_NAME,
    SIGN,
    SIGNER,
    VERIFY,
    Cert,
    android_chain,
    android_policy,
    apple_policy,
    application_id,
    assertion_data,
    assertion_object,
    attestation_object,
    authenticator_data,
    basic_constraints,
    boolean,
    cbor,
    cose,
    ctx,
    described,
    ecdsa,
    extension,
    factory,
    integer,
    key,
    key_description,
    key_usage,
    leaf,
    name,
    octets,
    oid,
    point,
    remote,
    root_of_trust,
    seq,
    set_of,
    spki,
    tlv,
)


def status_list(*serials: str, status: str = "REVOKED") -> bytes:
    return json.dumps({"entries": {serial: {"status": status} for serial in serials}}).encode()


CLEAN_LIST = status_list("dead")


@dataclass(frozen=True)
class AndroidCase:
    """One chain, everything it is judged by, and the verdict."""

    name: str
    reason: Reason
    chain: tuple[bytes, ...]
    challenge: bytes = CHALLENGE
    device_key: ec.EllipticCurvePublicKey = field(default_factory=DEVICE_KEY.public_key)
    policy: AndroidKeyPolicy = field(default_factory=android_policy)
    anchors: TrustAnchors = ANCHORS
    revocation: bytes | None = CLEAN_LIST
    fetched_at: datetime = NOW
    now: datetime = NOW
    integrity_token: str | None = None

    def verdict(self) -> Verdict[Any]:
        revocation = None if self.revocation is None else RevocationList.parse(self.revocation, self.fetched_at)
        return verify_android_key(
            AndroidKeyEvidence(self.chain, self.integrity_token),
            challenge=self.challenge,
            device_key=self.device_key,
            policy=self.policy,
            anchors=self.anchors,
            revocation=revocation,
            now=self.now,
        )

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "reason": self.reason,
            "attestation": evidence_to_json(AndroidKeyEvidence(self.chain, self.integrity_token)),
            "challenge": jose.encode_base64url(self.challenge),
            "device_key": jose.public_jwk(self.device_key),
            "policy": {
                **asdict(self.policy),
                "signer_digests": [digest.hex() for digest in sorted(self.policy.signer_digests)],
                "purposes": sorted(self.policy.purposes),
                "max_revocation_age": int(self.policy.max_revocation_age.total_seconds()),
            },
            "anchors": [jose.encode_base64url(item) for item in self.anchors.keys],
            "revocation": None if self.revocation is None else json.loads(self.revocation),
            "revocation_fetched_at": self.fetched_at.isoformat(),
            "now": self.now.isoformat(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], evidence: Evidence) -> AndroidCase:
        assert isinstance(evidence, AndroidKeyEvidence)
        policy = {
            **value["policy"],
            "signer_digests": frozenset(bytes.fromhex(item) for item in value["policy"]["signer_digests"]),
            "purposes": frozenset(value["policy"]["purposes"]),
            "minimum_security_level": SecurityLevel(value["policy"]["minimum_security_level"]),
            "max_revocation_age": timedelta(seconds=value["policy"]["max_revocation_age"]),
        }
        return cls(
            value["name"],
            Reason(value["reason"]),
            evidence.chain,
            jose.decode_base64url(value["challenge"]),
            jose.key_of_jwk(value["device_key"]),
            AndroidKeyPolicy(**policy),
            TrustAnchors(tuple(map(jose.decode_base64url, value["anchors"]))),
            None if value["revocation"] is None else json.dumps(value["revocation"]).encode(),
            datetime.fromisoformat(value["revocation_fetched_at"]),
            datetime.fromisoformat(value["now"]),
            evidence.integrity_token,
        )


def _case(label: str, reason: Reason, chain: tuple[bytes, ...] | None = None, **settings: Any) -> AndroidCase:
    return AndroidCase(label, reason, android_chain() if chain is None else chain, **settings)


def _kd(label: str, reason: Reason, policy: AndroidKeyPolicy | None = None, **bent: Any) -> AndroidCase:
    return _case(label, reason, described(**bent), policy=policy or android_policy())


def _damaged(label: str, description: bytes) -> AndroidCase:
    return _case(f"malformed-{label}", Reason.MALFORMED, android_chain(description=description))


def _leaf(label: str, reason: Reason, **bent: Any) -> AndroidCase:
    return _case(label, reason, android_chain(**bent))


def _issuer(label: str, reason: Reason, *extensions: bytes) -> AndroidCase:
    """A factory attestation key with these extensions."""
    return _case(label, reason, android_chain(factory(extensions=extensions)))


def _above(label: str, reason: Reason, *above: Cert, **settings: Any) -> AndroidCase:
    return _case(label, reason, android_chain(list(above)), **settings)


def _revoked(label: str, listed: str, serial: int = 0xABC, status: str = "REVOKED") -> AndroidCase:
    """A factory attestation key of this serial number, and a list with this entry."""
    chain = android_chain(factory(serial=serial))
    return _case(label, Reason.CERTIFICATE_REVOKED, chain, revocation=status_list(listed, status=status))


LEAF_EXTENSIONS = (key_usage(4), extension(KEY_DESCRIPTION, key_description()))
NO_CA_BELOW = (basic_constraints(True, 0), key_usage(5))
NOT_CA_MARKED = (
    basic_constraints(False),
    key_usage(0),
    extension(NAME_CONSTRAINTS, seq(ctx(0, seq(tlv(0x82, b"invalid"))))),
)
# 1952 octets: ML-DSA-65 (FIPS 204), 2.16.840.1.101.3.4.3.18.
ML_DSA = "2.16.840.1.101.3.4.3.18"
ML_DSA_KEY = seq(seq(oid(ML_DSA)), tlv(0x03, b"\0" + hashlib.shake_128(b"ml-dsa").digest(1952)))


def _rsa(bits: int) -> bytes:
    """An RSA key that nobody has the private half of."""
    modulus = int.from_bytes(hashlib.shake_128(b"n").digest(bits // 8)) | 1 << (bits - 1) | 1
    return seq(seq(oid("1.2.840.113549.1.1.1"), NULL), tlv(0x03, b"\0" + seq(integer(modulus), integer(65537))))


def _extra_ca(above: list[Cert]) -> list[Cert]:
    """One CA more between the attestation key and what issued it."""
    issuer, parent, *rest = above
    middle = name(cn="one more")
    signer = issuer.signer
    extra = replace(issuer, subject=middle, public=spki(key("one more")), serial=77)
    below = replace(issuer, issuer=middle, signer=key("one more"), algorithm=ECDSA_SHA256, digest=None)
    return [below, replace(extra, signer=signer), parent, *rest]


def _extended(above: list[Cert] | None = None, **first: Any) -> tuple[bytes, ...]:
    """A chain whose attested leaf (bent by `first`) issued a second leaf for a key of the attacker's choice."""
    above = factory() if above is None else above
    app_key = key("attest key of the app")
    signer = FACTORY_ISSUER if above[0].public == spki(FACTORY_ISSUER) else REMOTE_ISSUER
    attested = leaf(above[0].subject, signer, subject=name(cn="of the app"), public=spki(app_key))
    attested = replace(attested, **first)
    fake = leaf(attested.subject, app_key)
    return (fake.der(), attested.der(), *(cert.der() for cert in above))


def _cut(chain: tuple[bytes, ...], index: int, data: bytes) -> tuple[bytes, ...]:
    return (*chain[:index], data, *chain[index + 1 :])


def _android() -> list[AndroidCase]:
    valid = android_chain()
    top_only = factory()[:2]
    old = android_policy(minimum_os_patch=202602, minimum_vendor_patch=202602, minimum_boot_patch=202602)
    strongbox = android_policy(minimum_security_level=SecurityLevel.STRONGBOX)
    sign = android_policy(purposes=frozenset({SIGN, VERIFY}))
    past = NOW - timedelta(days=60)
    other = key("somebody else")
    other_root = replace(ROOT, public=spki(other), signer=other, algorithm=ECDSA_SHA256, digest=None)
    description = key_description()
    return [
        # --- accepted ---
        _case("factory", Reason.OK),
        _case("remote", Reason.OK, android_chain(remote())),
        _case("root-left-out", Reason.OK, valid[:-1]),
        # The chain's verdict does not depend on the token, which the service judges by itself.
        _case("beside-an-integrity-token", Reason.OK, integrity_token="eyJhbGciOiJBMjU2S1cifQ.a.b.c.d"),
        _case("root-renewed", Reason.OK, _cut(valid, 3, replace(ROOT, serial=5, not_after=NOW - timedelta(1)).der())),
        _case(
            "strongbox",
            Reason.OK,
            android_chain(factory("StrongBox"), key_description(level=2, keymint_level=2)),
            policy=strongbox,
        ),
        _leaf("null-ecdsa-parameters", Reason.OK, parameters=NULL),
        _kd("unsorted-set", Reason.OK, sign, hardware={1: set_of(integer(VERIFY), integer(SIGN))}),
        _leaf("leaf-dated-in-the-future", Reason.OK, not_before=NOW + timedelta(1), not_after=NOW + timedelta(2)),
        _kd("unknown-tag", Reason.OK, hardware={9999: octets(b"of the future")}),
        # Genuine phones write TRUE as 01.
        _kd("locked-is-01", Reason.OK, hardware={704: root_of_trust(tlv(1, b"\1"))}),
        _kd("locked-is-80", Reason.OK, hardware={704: root_of_trust(tlv(1, b"\x80"))}),
        _kd("deep-unknown-tag", Reason.OK, hardware={9999: tlv(0x30, bytes.fromhex("3080") * 2000)}),
        _kd("version-500", Reason.OK, version=500),
        _kd("version-2-without-boot-hash", Reason.OK, version=2, hardware={704: root_of_trust(boot_hash=b"")}),
        _kd("at-the-patch-floor", Reason.OK, old),
        _issuer("issuer-without-key-usage", Reason.OK, basic_constraints(True)),
        _issuer("first-keyboxes", Reason.OK, *NOT_CA_MARKED),
        # --- the bytes ---
        _case("malformed-no-chain", Reason.MALFORMED, ()),
        _case("malformed-truncated", Reason.MALFORMED, _cut(valid, 0, valid[0][:-1])),
        _case("malformed-empty", Reason.MALFORMED, _cut(valid, 1, b"")),
        _case("malformed-trailing", Reason.MALFORMED, _cut(valid, 0, valid[0] + b"\0")),
        _case("malformed-huge-length", Reason.MALFORMED, _cut(valid, 0, b"\x30\x84\xff\xff\xff\xff" + valid[0])),
        _case("malformed-indefinite", Reason.MALFORMED, _cut(valid, 0, b"\x30\x80" + valid[0][4:] + b"\0\0")),
        _case("malformed-long-form", Reason.MALFORMED, _cut(valid, 0, b"\x30\x83\0" + valid[0][2:])),
        _leaf("malformed-version-1", Reason.MALFORMED, version=ctx(0, integer(0))),
        _leaf("malformed-version-and-more", Reason.MALFORMED, version=ctx(0, integer(2), NULL)),
        _leaf("malformed-negative-serial", Reason.MALFORMED, serial=-5),
        _leaf("malformed-padded-serial", Reason.MALFORMED, version=ctx(0, tlv(2, b"\0\2"))),
        _leaf("malformed-three-times", Reason.MALFORMED, validity_tail=NULL),
        _leaf("malformed-two-extension-lists", Reason.MALFORMED, extensions_tail=seq()),
        _leaf(
            "malformed-field-in-extension",
            Reason.MALFORMED,
            extensions=(*LEAF_EXTENSIONS, seq(oid("1.2.3.4"), octets(b""), NULL)),
        ),
        _leaf("malformed-rsa-parameters", Reason.MALFORMED, algorithm="1.2.840.113549.1.1.11", parameters=octets(b"")),
        _leaf("malformed-field-after-extensions", Reason.MALFORMED, signed_tail=NULL),
        _leaf("malformed-field-after-signature", Reason.MALFORMED, tail=NULL),
        _leaf("malformed-two-algorithms", Reason.MALFORMED, outer_algorithm=seq(oid(ECDSA_SHA256), NULL)),
        _leaf("malformed-parameters-twice", Reason.MALFORMED, parameters=NULL + NULL),
        _leaf("malformed-extension-twice", Reason.MALFORMED, extensions=LEAF_EXTENSIONS + LEAF_EXTENSIONS[1:]),
        _leaf("malformed-parameters", Reason.MALFORMED, parameters=octets(b"")),
        _leaf("malformed-key", Reason.MALFORMED, public=spki(DEVICE_KEY)[:-1] + b"\0"),
        _leaf(
            "malformed-basic-constraints",
            Reason.MALFORMED,
            extensions=(*LEAF_EXTENSIONS, extension(BASIC_CONSTRAINTS, seq(boolean(True), integer(0), NULL))),
        ),
        _case(
            "malformed-key-usage",
            Reason.MALFORMED,
            android_chain(factory(extensions=(basic_constraints(True), extension(KEY_USAGE, tlv(3, b"\x08\x04"))))),
        ),
        _above(
            "malformed-name",
            Reason.MALFORMED,
            factory()[0],
            replace(factory()[1], subject=seq(tlv(0x31, b"\x30\x05"))),
            ROOT,
        ),
        _damaged("description-empty", b""),
        _damaged("description-trailing", description + b"\0"),
        _damaged("description-field-more", key_description(tail=NULL)),
        _damaged("boolean-empty", key_description(hardware={704: root_of_trust(tlv(1, b""))})),
        _leaf(
            "malformed-boolean-elsewhere",
            Reason.MALFORMED,
            extensions=(*LEAF_EXTENSIONS, extension(BASIC_CONSTRAINTS, seq(tlv(1, b"\1")))),
        ),
        _damaged("boolean-long", key_description(hardware={704: root_of_trust(tlv(1, b"\xff\xff"))})),
        _damaged(
            "tag-order",
            description.replace(ctx(2, integer(3)) + ctx(3, integer(256)), ctx(3, integer(256)) + ctx(2, integer(3))),
        ),
        # Of the same length each, so that nothing but the tag is wrong.
        _damaged("tag-twice", description.replace(ctx(3, integer(256)), ctx(2, integer(256)))),
        _damaged("tag-universal", description.replace(ctx(1, set_of(integer(AGREE_KEY))), set_of(integer(1), NULL))),
        _damaged("tag-0", description.replace(ctx(1, set_of(integer(AGREE_KEY))), tlv(0, bytes(5)))),
        _damaged("boot-state-field-more", key_description(hardware={704: root_of_trust(boot_hash=octets(b"") + NULL)})),
        _damaged("app-id-field-more", key_description(software={709: application_id(inner_tail=NULL)})),
        _damaged("package-field-more", key_description(software={709: application_id(package_tail=NULL)})),
        _damaged("nested", key_description(hardware={1: set_of(set_of(integer(AGREE_KEY)))})),
        _damaged("flag-with-content", key_description(hardware={503: tlv(5, b"\0")})),
        _damaged("field-trailing", key_description(hardware={702: integer(0) + NULL})),
        _damaged("app-id-trailing", key_description(software={709: application_id(tail=b"\0")})),
        _damaged("app-name", description.replace(b"com.example.app", b"com.example.\xff\xff\xff")),
        _damaged("boot-state", key_description(hardware={704: root_of_trust(state=4)})),
        _damaged("level", key_description(level=3)),
        _case("too-large", Reason.TOO_LARGE, _cut(valid, 0, valid[0] + bytes(16 << 10))),
        _leaf("mldsa-signature", Reason.UNSUPPORTED_ALGORITHM, algorithm=ML_DSA),
        _leaf("sha1-signature", Reason.UNSUPPORTED_ALGORITHM, algorithm="1.2.840.10045.4.1"),
        _leaf("mldsa-key", Reason.UNSUPPORTED_ALGORITHM, public=ML_DSA_KEY),
        _case(
            "mldsa-key-of-an-unlocked-phone",
            Reason.UNSUPPORTED_ALGORITHM,
            android_chain(
                description=key_description(hardware={704: root_of_trust(boolean(False))}), public=ML_DSA_KEY
            ),
        ),
        _leaf("key-on-secp256k1", Reason.UNSUPPORTED_ALGORITHM, public=spki(key("device", ec.SECP256K1()))),
        _leaf("rsa-1024-key", Reason.UNSUPPORTED_ALGORITHM, public=_rsa(1024)),
        _kd("version-0", Reason.UNSUPPORTED_VERSION, version=0),
        _kd("version-5", Reason.UNSUPPORTED_VERSION, version=5),
        _kd("version-150", Reason.UNSUPPORTED_VERSION, version=150),
        _kd("version-600", Reason.UNSUPPORTED_VERSION, version=600),
        # --- the chain ---
        _case("untrusted-root", Reason.UNTRUSTED_ROOT, _cut(valid, 3, other_root.der())),
        _case("untrusted-root-left-out", Reason.UNTRUSTED_ROOT, valid[:-1], anchors=TrustAnchors((spki(other),))),
        _case("self-signed", Reason.UNTRUSTED_ROOT, (leaf(name(cn="me"), DEVICE_KEY, subject=name(cn="me")).der(),)),
        _case("chain-of-7", Reason.CHAIN_TOO_LONG, valid[:1] + valid[1:2] * 6),
        _case("factory-one-ca-more", Reason.CHAIN_TOO_LONG, android_chain(_extra_ca(factory()))),
        _above(
            "remote-one-ca-more",
            Reason.CHAIN_TOO_LONG,
            *(_extra_ca(remote())[:3]),
            replace(remote()[2], extensions=CA),
            ROOT,
        ),
        _leaf("leaf-of-another-issuer", Reason.CHAIN_NAMES, issuer=name(cn="another")),
        _above(
            "top-of-another-issuer",
            Reason.CHAIN_NAMES,
            top_only[0],
            replace(top_only[1], issuer=name(cn="another")),
            ROOT,
        ),
        _leaf("leaf-signed-by-another", Reason.CHAIN_SIGNATURE, signer=other),
        _case(
            "issuer-signed-by-another", Reason.CHAIN_SIGNATURE, android_chain(factory(signer=key("x", ec.SECP384R1())))
        ),
        _above(
            "top-signed-by-another",
            Reason.CHAIN_SIGNATURE,
            top_only[0],
            replace(top_only[1], signer=key("x", ec.SECP384R1())),
            ROOT,
        ),
        _case(
            "extended-by-attest-key",
            Reason.CHAIN_EXTENDED,
            _extended(extensions=(*CA, extension(KEY_DESCRIPTION, key_description(hardware={1: set_of(integer(7))})))),
        ),
        _case("extended-by-sign-key", Reason.CHAIN_EXTENDED, _extended()),
        # The server's certificate allows two CAs below it: its path length is broken as well.
        _case("extended-beyond-the-path-length", Reason.CHAIN_EXTENDED, _extended(remote())),
        _case(
            "extended-under-no-ca",
            Reason.CHAIN_EXTENDED,
            _extended(factory(extensions=(basic_constraints(False), key_usage(0)))),
        ),
        _case("extended-under-a-path-length", Reason.CHAIN_EXTENDED, _extended(factory(extensions=NO_CA_BELOW))),
        _case("extended-by-non-ca", Reason.ISSUER_NOT_CA, _extended(extensions=(key_usage(0),))),
        _issuer("issuer-with-name-constraints-alone", Reason.ISSUER_NOT_CA, NOT_CA_MARKED[2]),
        _issuer(
            "malformed-basic-constraints-twice",
            Reason.MALFORMED,
            extension(BASIC_CONSTRAINTS, seq(boolean(True)) + NULL, critical=True),
        ),
        _issuer(
            "malformed-key-usage-twice",
            Reason.MALFORMED,
            basic_constraints(True),
            extension(KEY_USAGE, tlv(3, b"\x02\x04") + NULL, critical=True),
        ),
        _issuer("issuer-without-constraints", Reason.ISSUER_NOT_CA, key_usage(5)),
        _issuer("issuer-not-ca", Reason.ISSUER_NOT_CA, basic_constraints(False), key_usage(5)),
        _issuer("issuer-may-not-certify", Reason.ISSUER_NOT_CA, basic_constraints(True), key_usage(0)),
        _above(
            "path-length",
            Reason.ISSUER_NOT_CA,
            remote()[0],
            remote()[1],
            replace(remote()[2], extensions=(basic_constraints(True, 1), key_usage(5))),
            ROOT,
        ),
        _case(
            "remote-non-ca-with-name-constraints", Reason.ISSUER_NOT_CA, android_chain(remote(extensions=NOT_CA_MARKED))
        ),
        _above(
            "factory-ca-with-name-constraints",
            Reason.ISSUER_NOT_CA,
            top_only[0],
            replace(top_only[1], extensions=NOT_CA_MARKED),
            ROOT,
        ),
        _above(
            "short-factory-non-ca-with-name-constraints",
            Reason.ISSUER_NOT_CA,
            replace(top_only[0], issuer=ROOT_NAME, signer=ROOT_KEY, extensions=NOT_CA_MARKED),
            ROOT,
        ),
        _leaf("leaf-is-ca", Reason.LEAF_IS_CA, extensions=(*LEAF_EXTENSIONS, basic_constraints(True))),
        _leaf(
            "critical-extension",
            Reason.CRITICAL_EXTENSION,
            extensions=(*LEAF_EXTENSIONS, extension("1.2.3.4", NULL, critical=True)),
        ),
        _case(
            "critical-extension-above",
            Reason.CRITICAL_EXTENSION,
            android_chain(factory(extensions=(*CA, extension(NAME_CONSTRAINTS, seq(), critical=True)))),
        ),
        _case(
            "remote-issuer-expired", Reason.CERTIFICATE_EXPIRED, android_chain(remote()), now=NOW + timedelta(days=6)
        ),
        _above(
            "remote-server-expired",
            Reason.CERTIFICATE_EXPIRED,
            remote()[0],
            replace(remote()[1], not_after=NOW - timedelta(seconds=1)),
            *remote()[2:],
        ),
        _case("remote-not-yet", Reason.CERTIFICATE_NOT_YET_VALID, android_chain(remote()), now=NOW - timedelta(days=6)),
        _case("factory-not-yet", Reason.CERTIFICATE_NOT_YET_VALID, now=past, fetched_at=past),
        # --- revocation ---
        _revoked("revoked-hex", "d71dfb3563e5d9cb46dd12c1ba226c39", 0xD71DFB3563E5D9CB46DD12C1BA226C39),
        _revoked("revoked-digits-are-hex", "17102468407102977850", 0x17102468407102977850),
        _revoked("revoked-small-digits-are-hex", "6681152659205225093", 0x6681152659205225093),
        _revoked("revoked-small-digits-are-decimal", "6681152659205225093", 6681152659205225093),
        _revoked("revoked-odd-length", "abc"),
        _revoked("revoked-padded", "0abc"),
        _revoked("revoked-upper-case", "ABC"),
        _revoked("suspended", "abc", status="SUSPENDED"),
        _revoked("status-of-the-future", "abc", status="RETIRED"),
        _case("revoked-ca", Reason.CERTIFICATE_REVOKED, revocation=status_list("388266760658996857d")),
        _case("revoked-leaf", Reason.CERTIFICATE_REVOKED, revocation=status_list("1")),
        _case("no-revocation-list", Reason.REVOCATION_LIST_MISSING, revocation=None),
        _case("stale-revocation-list", Reason.REVOCATION_LIST_STALE, fetched_at=NOW - timedelta(hours=24, seconds=1)),
        _case("revocation-list-of-the-future", Reason.REVOCATION_LIST_STALE, fetched_at=NOW + timedelta(hours=1)),
        # --- what the proof says ---
        _leaf("no-attestation", Reason.ATTESTATION_MISSING, extensions=(key_usage(4),)),
        _kd("other-challenge", Reason.WRONG_CHALLENGE, challenge=hashlib.sha256(b"another request").digest()),
        _kd("empty-challenge", Reason.WRONG_CHALLENGE, challenge=b""),
        # --- the device ---
        _kd("software-attestation", Reason.SECURITY_LEVEL, level=0),
        _kd("software-key", Reason.SECURITY_LEVEL, keymint_level=0),
        _case(
            "remote-but-software",
            Reason.SECURITY_LEVEL,
            android_chain(remote(), key_description(level=0, keymint_level=0)),
        ),
        _kd("tee-where-strongbox-is-asked", Reason.SECURITY_LEVEL, strongbox),
        _kd("strongbox-attested-by-tee", Reason.SECURITY_LEVEL, strongbox, level=1, keymint_level=2),
        _kd("strongbox-claimed-by-tee-chain", Reason.SECURITY_LEVEL, strongbox, level=2, keymint_level=2),
        _case(
            "strongbox-claimed-by-leaf-name",
            Reason.SECURITY_LEVEL,
            android_chain(description=key_description(level=2, keymint_level=2), subject=name(cn="StrongBox")),
            policy=strongbox,
        ),
        _kd("no-boot-state", Reason.BOOT_STATE_MISSING, hardware={704: None}),
        _kd("boot-state-by-software", Reason.BOOT_STATE_MISSING, hardware={704: None}, software={704: root_of_trust()}),
        _kd("unlocked", Reason.DEVICE_UNLOCKED, hardware={704: root_of_trust(boolean(False))}),
        _kd("self-signed-boot", Reason.BOOT_NOT_VERIFIED, hardware={704: root_of_trust(state=1)}),
        _kd("unverified-boot", Reason.BOOT_NOT_VERIFIED, hardware={704: root_of_trust(state=2)}),
        _kd("failed-boot", Reason.BOOT_NOT_VERIFIED, hardware={704: root_of_trust(state=3)}),
        _kd("old-system", Reason.PATCH_LEVEL, old, hardware={706: integer(202601)}),
        _kd("old-vendor", Reason.PATCH_LEVEL, old, hardware={718: integer(20260131)}),
        _kd("old-boot", Reason.PATCH_LEVEL, old, hardware={719: integer(202512)}),
        _kd("no-patch-level", Reason.PATCH_LEVEL, old, hardware={706: None}),
        _kd("patch-level-0", Reason.PATCH_LEVEL, old, hardware={706: integer(0)}),
        _kd("patch-level-no-month", Reason.PATCH_LEVEL, old, hardware={706: integer(202613)}),
        _kd("patch-level-huge", Reason.PATCH_LEVEL, old, hardware={706: integer(2026021500)}),
        # --- the app ---
        _kd("all-applications", Reason.KEY_ALL_APPLICATIONS, hardware={600: NULL}),
        _kd("all-applications-by-software", Reason.KEY_ALL_APPLICATIONS, software={600: NULL}),
        _kd("other-app", Reason.WRONG_APP, software={709: application_id(("com.example.other",))}),
        _kd("two-apps", Reason.WRONG_APP, software={709: application_id(("com.example.app", "com.example.other"))}),
        _kd("no-app", Reason.WRONG_APP, software={709: None}),
        _kd("app-by-hardware", Reason.WRONG_APP, software={709: None}, hardware={709: application_id()}),
        _kd("no-package", Reason.WRONG_APP, software={709: application_id(())}),
        _kd("other-signer", Reason.WRONG_SIGNER, software={709: application_id(digests=(bytes(32),))}),
        _kd("signer-added", Reason.WRONG_SIGNER, software={709: application_id(digests=(SIGNER, bytes(32)))}),
        _kd("no-signer", Reason.WRONG_SIGNER, software={709: application_id(digests=())}),
        # --- the key ---
        _kd("rsa-key", Reason.KEY_TYPE, hardware={2: integer(1)}),
        _kd("key-of-384-bits", Reason.KEY_TYPE, hardware={3: integer(384)}),
        _kd("key-on-curve-25519", Reason.KEY_TYPE, hardware={10: integer(4)}),
        _leaf("leaf-on-p384", Reason.KEY_TYPE, public=spki(key("device", ec.SECP384R1()))),
        _kd("signing-key", Reason.KEY_PURPOSE, hardware={1: set_of(integer(SIGN))}),
        _kd("key-that-also-signs", Reason.KEY_PURPOSE, hardware={1: set_of(integer(SIGN), integer(AGREE_KEY))}),
        _kd("no-purpose", Reason.KEY_PURPOSE, hardware={1: None}),
        _kd("purpose-by-software", Reason.KEY_PURPOSE, hardware={1: None}, software={1: set_of(integer(AGREE_KEY))}),
        _kd("imported-key", Reason.KEY_ORIGIN, hardware={702: integer(2)}),
        _kd("securely-imported-key", Reason.KEY_ORIGIN, hardware={702: integer(4)}),
        _kd("origin-by-software", Reason.KEY_ORIGIN, hardware={702: None}, software={702: integer(0)}),
        _case("other-device-key", Reason.DEVICE_KEY, device_key=other.public_key()),
    ]


# --- apple-app-attest ----------------------------------------------------------------------------


@dataclass(frozen=True)
class AppleCase:
    """One attestation object or assertion, everything it is judged by, and the verdict."""

    name: str
    reason: Reason
    attestation: bytes | None = None
    assertion: bytes | None = None
    key_id: bytes = hashlib.sha256(point(APP_KEY)).digest()
    client_data_hash: bytes = CLIENT_DATA_HASH
    public_key: bytes = point(APP_KEY)
    last_counter: int = 4
    policy: AppAttestPolicy = field(default_factory=apple_policy)
    anchors: TrustAnchors = APPLE_ANCHORS
    now: datetime = NOW

    @property
    def evidence(self) -> AppAttestEvidence | AppAssertEvidence:
        if self.attestation is not None:
            return AppAttestEvidence(self.key_id, self.attestation)
        assert self.assertion is not None
        return AppAssertEvidence(self.key_id, self.assertion)

    def verdict(self) -> Verdict[Any]:
        evidence = self.evidence
        if isinstance(evidence, AppAttestEvidence):
            return verify_app_attestation(
                evidence,
                client_data_hash=self.client_data_hash,
                policy=self.policy,
                anchors=self.anchors,
                now=self.now,
            )
        return verify_app_assertion(
            evidence,
            client_data_hash=self.client_data_hash,
            public_key=self.public_key,
            last_counter=self.last_counter,
            policy=self.policy,
        )

    def to_json(self) -> dict[str, object]:
        categories = self.policy.validation_categories
        return {
            "name": self.name,
            "reason": self.reason,
            "attestation": evidence_to_json(self.evidence),
            "client_data_hash": jose.encode_base64url(self.client_data_hash),
            "public_key": jose.encode_base64url(self.public_key),
            "last_counter": self.last_counter,
            "policy": {
                **asdict(self.policy),
                "validation_categories": None if categories is None else sorted(categories),
            },
            "anchors": [jose.encode_base64url(item) for item in self.anchors.keys],
            "now": self.now.isoformat(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], evidence: Evidence) -> AppleCase:
        assert isinstance(evidence, AppAttestEvidence | AppAssertEvidence)
        categories = value["policy"]["validation_categories"]
        policy = {**value["policy"], "validation_categories": None if categories is None else frozenset(categories)}
        return cls(
            value["name"],
            Reason(value["reason"]),
            evidence.attestation if isinstance(evidence, AppAttestEvidence) else None,
            evidence.assertion if isinstance(evidence, AppAssertEvidence) else None,
            evidence.key_id,
            jose.decode_base64url(value["client_data_hash"]),
            jose.decode_base64url(value["public_key"]),
            value["last_counter"],
            AppAttestPolicy(**policy),
            TrustAnchors(tuple(map(jose.decode_base64url, value["anchors"]))),
            datetime.fromisoformat(value["now"]),
        )


def _attest(label: str, reason: Reason, attestation: bytes | None = None, **settings: Any) -> AppleCase:
    return AppleCase(
        label, reason, attestation=attestation_object() if attestation is None else attestation, **settings
    )


def _data(label: str, reason: Reason, policy: AppAttestPolicy | None = None, **bent: Any) -> AppleCase:
    return _attest(label, reason, attestation_object(authenticator_data(**bent)), policy=policy or apple_policy())


def _ca_with(*extensions: bytes) -> bytes:
    return attestation_object(ca={"extensions": extensions})


def _nonce(label: str, value: bytes) -> AppleCase:
    """A leaf whose nonce extension has this value."""
    return _attest(label, Reason.MALFORMED, attestation_object(leaf={"extensions": (extension(APPLE_NONCE, value),)}))


def _statement(chain: list[object]) -> bytes:
    return attestation_object(members={"attStmt": {"x5c": chain, "receipt": b""}})


def _assert(label: str, reason: Reason, assertion: bytes | None = None, **settings: Any) -> AppleCase:
    return AppleCase(label, reason, assertion=assertion_object() if assertion is None else assertion, **settings)


def _asserted(label: str, reason: Reason, policy: AppAttestPolicy | None = None, **bent: Any) -> AppleCase:
    return _assert(label, reason, assertion_object(assertion_data(**bent)), policy=policy or apple_policy())


def _apple() -> list[AppleCase]:
    development = apple_policy(environment="development")
    store = apple_policy(validation_categories=frozenset({2, 4}))
    strict = replace(store, require_validation_category=True)
    testflight = cbor({"apple_validation_category_01": b"\2\0\0\0"})
    enterprise = cbor({"apple_validation_category_01": b"\5\0\0\0"})
    other = key("somebody else")
    valid = attestation_object()
    deep = b"\x81" * 20000 + b"\0"
    apple_ca_key = dict.fromkeys(("signer",), key("x", ec.SECP384R1()))
    return [
        _attest("attestation", Reason.OK),
        _attest(
            "short-client-data-hash",
            Reason.OK,
            attestation_object(nonce=hashlib.sha256(authenticator_data() + b"raw").digest()),
            client_data_hash=b"raw",
        ),
        _data("development", Reason.OK, development, aaguid=DEVELOPMENT_AAGUID),
        _data("ios-27-flag-unset", Reason.OK, store, tail=IOS_27),
        _data("ios-27-flag-set", Reason.OK, store, flags=0xC0, tail=IOS_27),
        _data("ios-27-category-as-integer", Reason.OK, store, tail=cbor({"apple_validation_category_01": 4})),
        _data("ios-27-any-category", Reason.OK, tail=IOS_27),
        _data("ios-27-unknown-member", Reason.OK, tail=cbor({"apple_else_02": [1, {"x": b"y"}]})),
        _data("testflight", Reason.OK, strict, tail=testflight),
        _attest("before-ios-27", Reason.OK, policy=store),
        # --- the bytes ---
        _attest("malformed-empty", Reason.MALFORMED, b""),
        _attest("malformed-truncated", Reason.MALFORMED, valid[:-1]),
        _attest("malformed-trailing", Reason.MALFORMED, valid + b"\0"),
        _attest("malformed-huge-string", Reason.MALFORMED, b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff"),
        _attest("malformed-huge-array", Reason.MALFORMED, b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff"),
        _attest("malformed-huge-map", Reason.MALFORMED, b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff"),
        _attest("malformed-deep", Reason.MALFORMED, deep),
        _attest("malformed-indefinite", Reason.MALFORMED, b"\xbf" + valid[1:] + b"\xff"),
        _attest("malformed-tag", Reason.MALFORMED, b"\xc1" + valid),
        _attest("malformed-float", Reason.MALFORMED, b"\xf9\x3c\x00"),
        _attest("malformed-key-twice", Reason.MALFORMED, b"\xa4" + valid[1:] + cbor("fmt") + cbor("apple-appattest")),
        _attest("malformed-not-utf-8", Reason.MALFORMED, valid.replace(b"cfmt", b"c\xff\xff\xff")),
        _attest("malformed-other-format", Reason.MALFORMED, attestation_object(members={"fmt": "apple"})),
        _attest("malformed-no-chain", Reason.MALFORMED, _statement([])),
        _attest("malformed-text-in-chain", Reason.MALFORMED, _statement(["x"])),
        _attest("malformed-receipt", Reason.MALFORMED, attestation_object(receipt="text")),
        _attest("malformed-short-data", Reason.MALFORMED, attestation_object(b"x" * 36)),
        _nonce("malformed-nonce-trailing", seq(ctx(1, octets(bytes(32)))) + NULL),
        _nonce("malformed-nonce-two-fields", seq(ctx(1, octets(bytes(32))), NULL)),
        _nonce("malformed-nonce-twice", seq(ctx(1, octets(bytes(32)), NULL))),
        _nonce("malformed-nonce-tag", seq(ctx(2, octets(bytes(32))))),
        _data("malformed-no-credential", Reason.MALFORMED, flags=0),
        _attest("malformed-credential-length", Reason.MALFORMED, attestation_object(authenticator_data()[:60])),
        _data("malformed-cose", Reason.MALFORMED, credential_key=b"\xff"),
        _data("malformed-extension-missing", Reason.MALFORMED, flags=0xC0),
        _data("malformed-extension-no-map", Reason.MALFORMED, tail=cbor([1])),
        _data("malformed-extension-trailing", Reason.MALFORMED, tail=IOS_27 + b"\0"),
        _data("malformed-category", Reason.MALFORMED, tail=cbor({"apple_validation_category_01": b"\4"})),
        _data("malformed-bundle-version", Reason.MALFORMED, tail=cbor({"apple_bundle_version_01": 1})),
        _attest("too-large", Reason.TOO_LARGE, attestation_object(receipt=bytes(64 << 10))),
        # --- the chain ---
        _attest("untrusted-root", Reason.UNTRUSTED_ROOT, anchors=ANCHORS),
        _attest("ca-signed-by-another", Reason.UNTRUSTED_ROOT, attestation_object(ca=apple_ca_key)),
        _attest("leaf-signed-by-another", Reason.CHAIN_SIGNATURE, attestation_object(leaf=apple_ca_key)),
        _attest("leaf-of-another-issuer", Reason.CHAIN_NAMES, attestation_object(leaf={"issuer": name(cn="x")})),
        _attest("ca-not-ca", Reason.ISSUER_NOT_CA, _ca_with(basic_constraints(False))),
        _attest("non-ca-with-name-constraints", Reason.ISSUER_NOT_CA, _ca_with(*NOT_CA_MARKED)),
        _attest("leaf-is-ca", Reason.LEAF_IS_CA, attestation_object(leaf={"extensions": CA})),
        _attest("leaf-expired", Reason.CERTIFICATE_EXPIRED, now=NOW + timedelta(days=3)),
        _attest("leaf-not-yet", Reason.CERTIFICATE_NOT_YET_VALID, now=NOW - timedelta(days=2)),
        _attest("ca-expired", Reason.CERTIFICATE_EXPIRED, attestation_object(ca={"not_after": NOW - timedelta(1)})),
        _attest("leaf-with-rsa", Reason.KEY_TYPE, attestation_object(leaf={"public": _rsa(2048)})),
        _attest("leaf-on-p384", Reason.KEY_TYPE, attestation_object(leaf={"public": spki(APPLE_CA_KEY)})),
        # --- what the proof says ---
        _attest("no-nonce", Reason.ATTESTATION_MISSING, attestation_object(with_nonce=False)),
        _attest("other-client-data", Reason.WRONG_CHALLENGE, client_data_hash=bytes(32)),
        _attest(
            "other-authenticator-data",
            Reason.WRONG_CHALLENGE,
            attestation_object(members={"authData": authenticator_data(tail=IOS_27)}),
        ),
        _attest("other-key-id", Reason.KEY_ID, key_id=hashlib.sha256(b"x").digest()),
        _attest("other-key-attested", Reason.KEY_ID, attestation_object(leaf={"public": spki(other)})),
        _data("other-credential-id", Reason.KEY_ID, credential_id=bytes(32)),
        _data("other-cose-key", Reason.KEY_TYPE, credential_key=cose(other)),
        _data("cose-key-of-another-curve", Reason.KEY_TYPE, credential_key=cose(APP_KEY, {-1: 2})),
        _data("other-app", Reason.WRONG_APP, app_id="1234567890.com.example.other"),
        _data("other-team", Reason.WRONG_APP, app_id=APP_ID.replace("1234567890", "0987654321")),
        _data("counter-of-a-new-key", Reason.COUNTER, counter=1),
        _data("development-in-production", Reason.WRONG_ENVIRONMENT, aaguid=DEVELOPMENT_AAGUID),
        _data("production-in-development", Reason.WRONG_ENVIRONMENT, development),
        _data("unknown-aaguid", Reason.WRONG_ENVIRONMENT, aaguid=bytes(16)),
        _data("enterprise-build", Reason.VALIDATION_CATEGORY, store, tail=enterprise),
        _attest("before-ios-27-where-it-is-asked", Reason.VALIDATION_CATEGORY, policy=strict),
        # --- assertions ---
        _assert("assertion", Reason.OK),
        _assert("first-assertion", Reason.OK, assertion_object(assertion_data(counter=1)), last_counter=0),
        _asserted("assertion-ios-27-flag-unset", Reason.OK, strict, tail=IOS_27),
        _asserted("assertion-ios-27-flag-set", Reason.OK, strict, flags=0x80, tail=IOS_27),
        _assert("assertion-malformed-empty", Reason.MALFORMED, b""),
        _assert("assertion-malformed-trailing", Reason.MALFORMED, assertion_object() + b"\0"),
        _assert("assertion-malformed-no-signature", Reason.MALFORMED, cbor({"authenticatorData": assertion_data()})),
        _assert("assertion-malformed-text", Reason.MALFORMED, assertion_object(members={"signature": "text"})),
        _asserted("assertion-malformed-extension", Reason.MALFORMED, tail=b"\0"),
        _assert("assertion-malformed-short", Reason.MALFORMED, assertion_object(bytes(36))),
        _assert("assertion-too-large", Reason.TOO_LARGE, bytes((64 << 10) + 1)),
        _assert("assertion-other-client-data", Reason.SIGNATURE, client_data_hash=bytes(32)),
        _assert("assertion-by-another-key", Reason.SIGNATURE, assertion_object(private=other)),
        _assert("assertion-bad-signature", Reason.SIGNATURE, assertion_object(members={"signature": b"\x30\0"})),
        _assert("assertion-other-key-id", Reason.KEY_ID, key_id=bytes(32)),
        _asserted("assertion-other-app", Reason.WRONG_APP, app_id="1234567890.com.example.other"),
        _assert("assertion-replayed", Reason.COUNTER, last_counter=5),
        _assert("assertion-counter-falls", Reason.COUNTER, last_counter=6),
        _asserted("assertion-counter-0", Reason.COUNTER, counter=0),
        _asserted("assertion-enterprise", Reason.VALIDATION_CATEGORY, store, tail=enterprise),
        _assert("assertion-before-ios-27-where-it-is-asked", Reason.VALIDATION_CATEGORY, policy=strict),
    ]


# --- development ---------------------------------------------------------------------------------

DEVELOPMENT_ROOT = key("development root")
DEVELOPMENT_KEY = key("development key")
DEVELOPMENT_ANCHORS = TrustAnchors((spki(DEVELOPMENT_ROOT),))
REQUEST_DIGEST = hashlib.sha256(b"the canonical request of an emulator").digest()


@dataclass(frozen=True)
class DevelopmentCase:
    """One development attestation, everything it is judged by, and the verdict."""

    name: str
    reason: Reason
    evidence: DevelopmentEvidence
    request_digest: bytes = REQUEST_DIGEST
    environment: str = "development"
    anchors: TrustAnchors = DEVELOPMENT_ANCHORS
    now: datetime = NOW

    def verdict(self) -> Verdict[Any]:
        return verify_development(
            self.evidence,
            request_digest=self.request_digest,
            environment=self.environment,  # type: ignore[arg-type]
            anchors=self.anchors,
            now=self.now,
        )

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "reason": self.reason,
            "attestation": evidence_to_json(self.evidence),
            "request_digest": jose.encode_base64url(self.request_digest),
            "environment": self.environment,
            "anchors": [jose.encode_base64url(item) for item in self.anchors.keys],
            "now": self.now.isoformat(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], evidence: Evidence) -> DevelopmentCase:
        assert isinstance(evidence, DevelopmentEvidence)
        return cls(
            value["name"],
            Reason(value["reason"]),
            evidence,
            jose.decode_base64url(value["request_digest"]),
            value["environment"],
            TrustAnchors(tuple(map(jose.decode_base64url, value["anchors"]))),
            datetime.fromisoformat(value["now"]),
        )


def development_evidence(
    *, private: ec.EllipticCurvePrivateKey = DEVELOPMENT_KEY, signed: bytes | None = None, **bent: Any
) -> DevelopmentEvidence:
    certificate = Cert(
        name(o="CoreLocker development", cn="emulator"),
        name(o="CoreLocker development", cn="root"),
        spki(DEVELOPMENT_KEY),
        DEVELOPMENT_ROOT,
        (basic_constraints(False), key_usage(0)),
    )
    data = signed_bytes(REQUEST_DIGEST) if signed is None else signed
    return DevelopmentEvidence(replace(certificate, **bent).der(), ecdsa(private, data))


def _dev(label: str, reason: Reason, settings: Mapping[str, Any] | None = None, **bent: Any) -> DevelopmentCase:
    return DevelopmentCase(label, reason, development_evidence(**bent), **(settings or {}))


def _development() -> list[DevelopmentCase]:
    other = key("somebody else")
    return [
        _dev("development", Reason.OK),
        _dev("in-production", Reason.WRONG_ENVIRONMENT, {"environment": "production"}),
        _dev("untrusted-root", Reason.UNTRUSTED_ROOT, signer=other),
        _dev("root-of-android", Reason.UNTRUSTED_ROOT, {"anchors": ANCHORS}),
        _dev("expired", Reason.CERTIFICATE_EXPIRED, {"now": NOW + timedelta(days=31)}),
        _dev("not-yet", Reason.CERTIFICATE_NOT_YET_VALID, {"now": NOW - timedelta(days=31)}),
        _dev("a-ca", Reason.LEAF_IS_CA, extensions=CA),
        _dev("on-p384", Reason.KEY_TYPE, public=spki(key("x", ec.SECP384R1()))),
        _dev("other-request", Reason.SIGNATURE, {"request_digest": bytes(32)}),
        _dev("other-key", Reason.SIGNATURE, private=other),
        _dev("without-domain", Reason.SIGNATURE, signed=REQUEST_DIGEST),
        DevelopmentCase("malformed", Reason.MALFORMED, DevelopmentEvidence(b"\x30", b"")),
        DevelopmentCase("no-signature", Reason.SIGNATURE, replace(development_evidence(), signature=b"")),
    ]


ANDROID_CASES = _android()
APPLE_CASES = _apple()
DEVELOPMENT_CASES = _development()
