"""The cases of `apple-app-attest`: attestations and assertions, each with one thing bent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from corelocker.attestation.apple_app_attest import (
    AppAttestPolicy,
    verify_app_assertion,
    verify_app_attestation,
)
from corelocker.attestation.chain import TrustAnchors
from corelocker.attestation.verdict import Reason, Verdict
from corelocker.bundle import jose
from corelocker.licensing.evidence import (
    AppAssertEvidence,
    AppAttestEvidence,
    Evidence,
    evidence_to_json,
)
from cryptography.hazmat.primitives.asymmetric import ec

from support.android_case import (
    NOT_CA_MARKED,
    rsa,
)
from support.attestation_forge import (
    ANCHORS,
    APP_ID,
    APP_KEY,
    APPLE_ANCHORS,
    APPLE_CA_KEY,
    CLIENT_DATA_HASH,
    DEVELOPMENT_AAGUID,
    IOS_27,
    apple_policy,
    assertion_data,
    assertion_object,
    attestation_object,
    authenticator_data,
    cbor,
    cose,
)
from support.certificate_writer import (
    APPLE_NONCE,
    CA,
    NOW,
    NULL,
    basic_constraints,
    ctx,
    extension,
    key,
    name,
    octets,
    point,
    seq,
    spki,
)


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


def attestations() -> list[AppleCase]:
    development = apple_policy(environment="development")
    store = apple_policy(validation_categories=frozenset({2, 4}))
    strict = replace(store, require_validation_category=True)
    valid = attestation_object()
    deep = b"\x81" * 20000 + b"\0"
    apple_ca_key = dict.fromkeys(("signer",), key("x", ec.SECP384R1()))
    testflight = cbor({"apple_validation_category_01": b"\2\0\0\0"})
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
        _attest("leaf-with-rsa", Reason.KEY_TYPE, attestation_object(leaf={"public": rsa(2048)})),
        _attest("leaf-on-p384", Reason.KEY_TYPE, attestation_object(leaf={"public": spki(APPLE_CA_KEY)})),
    ]


def attested_data() -> list[AppleCase]:
    development = apple_policy(environment="development")
    store = apple_policy(validation_categories=frozenset({2, 4}))
    strict = replace(store, require_validation_category=True)
    other = key("somebody else")
    enterprise = cbor({"apple_validation_category_01": b"\5\0\0\0"})
    return [
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
    ]


def assertions() -> list[AppleCase]:
    store = apple_policy(validation_categories=frozenset({2, 4}))
    strict = replace(store, require_validation_category=True)
    other = key("somebody else")
    enterprise = cbor({"apple_validation_category_01": b"\5\0\0\0"})
    return [
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
