"""`apple-app-attest`: Apple vouches for a key of an app instance; that key then signs every unlock request.

https://developer.apple.com/documentation/devicecheck/validating-apps-that-connect-to-your-server and the attestation
object validation guide beside it are the specifications. The key that Apple attests can only sign, so the device key is
bound through `client_data_hash`, the digest of the canonical request that names it. Apple proves that a genuine
instance of the app vouched for the device key, not that the device key is in the Secure Enclave.

`client_data_hash` is a parameter and may have any length: Apple's documented samples pass the raw challenge there.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from corelocker.attestation import cbor
from corelocker.attestation.certificates import Certificate, p256_key, point
from corelocker.attestation.chain import TrustAnchors, check_path, find_anchor, parse_chain
from corelocker.attestation.der import SEQUENCE, DerError, Reader, context
from corelocker.attestation.verdict import Reason, Refusal, Verdict, require_aware, require_environment
from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.evidence import MAX_OBJECT, AppAssertEvidence, AppAttestEvidence, Format

_NONCE = "1.2.840.113635.100.8.2"
_AAGUID: dict[Environment, bytes] = {
    "production": b"appattest\0\0\0\0\0\0\0",
    "development": b"appattestdevelop",
}
_HEADER = 37  # SHA-256 of the App ID, flags, u32 counter
_ATTESTED_CREDENTIAL = 0x40
_EXTENSIONS = 0x80
# COSE_Key (RFC 9053): kty EC2, alg ES256, crv P-256, then x and y.
_COSE_P256: dict[int | str, object] = {1: 2, 3: -7, -1: 1}
_VALIDATION_CATEGORY = "apple_validation_category_01"
_BUNDLE_VERSION = "apple_bundle_version_01"
_ECDSA = ec.ECDSA(SHA256())


@dataclass(frozen=True, slots=True)
class AppAttestPolicy:
    """Which app is expected.

    Attributes:
        app_id: the App ID, prefix and bundle identifier, as in "1234567890.com.example.app".
        environment: production accepts App Store and TestFlight installs, development those run from Xcode.
        validation_categories: since iOS 27 an app says how it was distributed (2 TestFlight, 3 development, 4 App
            Store, 5 enterprise). None accepts any; with a set, an instance that says another is refused.
        require_validation_category: refuse an instance that does not say; that is every one before iOS 27.
    """

    app_id: str
    environment: Environment
    validation_categories: frozenset[int] | None = None
    require_validation_category: bool = False

    def __post_init__(self) -> None:
        require_environment(self.environment)
        prefix, _, bundle = self.app_id.partition(".")
        if not prefix or not bundle:
            raise ConfigError("an App ID is the team's prefix, a point and the bundle identifier")


@dataclass(frozen=True, slots=True)
class AppAttestClaims:
    """What an accepted attestation shows; the service stores the key with counter 0.

    Attributes:
        key_id: SHA-256 of the public key, 32 bytes.
        public_key: the attested key, 65 bytes (X9.62, uncompressed). It signs assertions; it is not the device key.
        receipt: Apple's receipt for its fraud metric, unchecked.
        validation_category, bundle_version: what an instance since iOS 27 says of itself.
    """

    key_id: bytes
    public_key: bytes
    receipt: bytes
    validation_category: int | None
    bundle_version: str | None


@dataclass(frozen=True, slots=True)
class AppAssertClaims:
    """What an accepted assertion shows. The service stores `counter`, if it still is higher than the stored one."""

    counter: int
    validation_category: int | None
    bundle_version: str | None


def verify_app_attestation(
    evidence: AppAttestEvidence,
    *,
    client_data_hash: bytes,
    policy: AppAttestPolicy,
    anchors: TrustAnchors,
    now: datetime,
) -> Verdict[AppAttestClaims]:
    """Check the attestation of a new App Attest key.

    Args:
        evidence: the attestation object and the key identifier.
        client_data_hash: what the app passed to `attestKey`; the canonical request's digest.
        policy: the app and the environment.
        anchors: `anchors.APPLE_ROOTS`.
        now: the time, with its zone; Apple's leaf certificates live for three days.
    """
    require_aware(now)
    try:
        claims = _verify_attestation(evidence, client_data_hash, policy, anchors, now)
    except Refusal as refusal:
        return Verdict.refuse(Format.APPLE_APP_ATTEST, refusal)
    return Verdict.accept(Format.APPLE_APP_ATTEST, claims)


def verify_app_assertion(
    evidence: AppAssertEvidence,
    *,
    client_data_hash: bytes,
    public_key: bytes,
    last_counter: int,
    policy: AppAttestPolicy,
) -> Verdict[AppAssertClaims]:
    """Check an assertion by a key that was attested before, in the same environment.

    Args:
        evidence: the assertion and the identifier of its key.
        client_data_hash: what the app passed to `generateAssertion`; the canonical request's digest.
        public_key: `AppAttestClaims.public_key` of that key.
        last_counter: the counter of the key's last accepted assertion, 0 before the first.
        policy: the app.
    """
    try:
        claims = _verify_assertion(evidence, client_data_hash, public_key, last_counter, policy)
    except Refusal as refusal:
        return Verdict.refuse(Format.APPLE_APP_ATTEST, refusal)
    return Verdict.accept(Format.APPLE_APP_ATTEST, claims)


def _verify_attestation(
    evidence: AppAttestEvidence, client_data_hash: bytes, policy: AppAttestPolicy, anchors: TrustAnchors, now: datetime
) -> AppAttestClaims:
    chain, receipt, data = _attestation_object(evidence.attestation)
    path = find_anchor(parse_chain(chain), anchors)
    check_path(path, now)
    public_key = point(p256_key(path.leaf.spki))

    nonce = hashlib.sha256(data + client_data_hash).digest()
    if not hmac.compare_digest(_certified_nonce(path.leaf), nonce):
        raise Refusal(Reason.WRONG_CHALLENGE, "the certificate is for other data")
    if hashlib.sha256(public_key).digest() != evidence.key_id:
        raise Refusal(Reason.KEY_ID, "the key identifier is of another key")

    header = _header(data, policy)
    if header.counter != 0:
        raise Refusal(Reason.COUNTER, "a new key's counter is not 0")
    aaguid, credential_id, at = _credential_id(data, header)
    if aaguid != _AAGUID[policy.environment]:
        raise Refusal(Reason.WRONG_ENVIRONMENT, f"the app instance is not of the {policy.environment} environment")
    if credential_id != evidence.key_id:
        raise Refusal(Reason.KEY_ID, "the credential identifier is of another key")
    cose, at = _decode_at(data, at)
    if cose != {**_COSE_P256, -2: public_key[1:33], -3: public_key[33:]}:
        raise Refusal(Reason.KEY_TYPE, "the authenticator data holds another key than the certificate")
    category, version = _distribution(data, at, header, policy)
    return AppAttestClaims(evidence.key_id, public_key, receipt, category, version)


def _verify_assertion(
    evidence: AppAssertEvidence, client_data_hash: bytes, public_key: bytes, last_counter: int, policy: AppAttestPolicy
) -> AppAssertClaims:
    match _decode(evidence.assertion):
        case {"signature": bytes(signature), "authenticatorData": bytes(data)}:
            pass
        case _:
            raise Refusal(Reason.MALFORMED, "not an assertion")
    if hashlib.sha256(public_key).digest() != evidence.key_id:
        raise Refusal(Reason.KEY_ID, "the key identifier is of another key")
    nonce = hashlib.sha256(data + client_data_hash).digest()
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
        key.verify(signature, nonce, _ECDSA)
    except InvalidSignature as error:
        raise Refusal(Reason.SIGNATURE, "the assertion is not this key's, or of other data") from error
    header = _header(data, policy)
    if header.counter <= last_counter:
        raise Refusal(Reason.COUNTER, f"the counter {header.counter} does not rise above {last_counter}")
    # The flags of an assertion say "attested credential" although there is none; what follows is the map of iOS 27.
    category, version = _distribution(data, _HEADER, header, policy)
    return AppAssertClaims(header.counter, category, version)


# --- the attestation object ----------------------------------------------------------------------


def _attestation_object(data: bytes) -> tuple[list[bytes], bytes, bytes]:
    """The chain, the receipt and the authenticator data."""
    match _decode(data):
        case {
            "fmt": "apple-appattest",
            "attStmt": {"x5c": list(chain), "receipt": bytes(receipt)},
            "authData": bytes(authenticator_data),
        }:
            certificates = [item for item in chain if isinstance(item, bytes)]
            if len(certificates) == len(chain):
                return certificates, receipt, authenticator_data
    raise Refusal(Reason.MALFORMED, "not an App Attest object")


def _certified_nonce(leaf: Certificate) -> bytes:
    """SEQUENCE {[1] EXPLICIT OCTET STRING} in Apple's extension of the leaf."""
    extension = leaf.extensions.get(_NONCE)
    if extension is None:
        raise Refusal(Reason.ATTESTATION_MISSING, "the certificate has no nonce")
    try:
        outer = Reader(extension.value)
        sequence = outer.inside(SEQUENCE)
        outer.end()
        field = sequence.inside(context(1))
        sequence.end()
        nonce = field.octets()
        field.end()
    except DerError as error:
        raise Refusal(Reason.MALFORMED, f"the nonce is malformed: {error}") from error
    return nonce


# --- authenticator data (WebAuthn, 6.1) ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Header:
    flags: int
    counter: int


def _header(data: bytes, policy: AppAttestPolicy) -> _Header:
    if len(data) < _HEADER:
        raise Refusal(Reason.MALFORMED, "the authenticator data is too short")
    if data[:32] != hashlib.sha256(policy.app_id.encode()).digest():
        raise Refusal(Reason.WRONG_APP, "the app instance is of another app")
    return _Header(data[32], int.from_bytes(data[33:_HEADER]))


def _credential_id(data: bytes, header: _Header) -> tuple[bytes, bytes, int]:
    """The AAGUID, the credential identifier, and the offset of the key after it."""
    at = _HEADER + 18
    length = int.from_bytes(data[at - 2 : at])
    if not header.flags & _ATTESTED_CREDENTIAL or len(data) < at + length:
        raise Refusal(Reason.MALFORMED, "the authenticator data has no attested credential")
    return data[_HEADER : at - 2], data[at : at + length], at + length


def _distribution(data: bytes, at: int, header: _Header, policy: AppAttestPolicy) -> tuple[int | None, str | None]:
    """The validation category and bundle version in the map that ends the authenticator data since iOS 27.

    Apple's sample appends the map with the extension flag unset, devices set it: the bytes count, not the flag.
    """
    extensions: object = {}
    if at < len(data) or header.flags & _EXTENSIONS:
        extensions, at = _decode_at(data, at)
    if not isinstance(extensions, dict) or at != len(data):
        raise Refusal(Reason.MALFORMED, "the authenticator data does not end in one map")
    category, version = extensions.get(_VALIDATION_CATEGORY), extensions.get(_BUNDLE_VERSION)
    if isinstance(category, bytes) and len(category) == 4:
        category = int.from_bytes(category, "little")
    if not isinstance(category, (int, type(None))) or not isinstance(version, (str, type(None))):
        raise Refusal(Reason.MALFORMED, "the authenticator data says its distribution in another form")
    if category is None and policy.require_validation_category:
        raise Refusal(Reason.VALIDATION_CATEGORY, "the app does not say how it was distributed")
    allowed = policy.validation_categories
    if category is not None and allowed is not None and category not in allowed:
        raise Refusal(Reason.VALIDATION_CATEGORY, f"the app's validation category is {category}")
    return category, version


def _decode(data: bytes) -> cbor.Item:
    if len(data) > MAX_OBJECT:
        raise Refusal(Reason.TOO_LARGE, "the App Attest object is too large")
    try:
        return cbor.decode(data)
    except cbor.CborError as error:
        raise Refusal(Reason.MALFORMED, f"the App Attest object is malformed: {error}") from error


def _decode_at(data: bytes, at: int) -> tuple[cbor.Item, int]:
    try:
        return cbor.decode_at(data, at)
    except cbor.CborError as error:
        raise Refusal(Reason.MALFORMED, f"the authenticator data is malformed: {error}") from error
