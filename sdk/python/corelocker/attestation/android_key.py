"""`android-key`: the device key itself, made and described by the phone's KeyMint (Android key attestation).

The chain runs from the device key through keys that Google certified for a phone model (factory) or for this phone
(remotely provisioned) to a Google root; the leaf's extension says what the secure world knows of the key, the app and
the boot state. https://developer.android.com/privacy-and-security/security-key-attestation and
https://source.android.com/docs/security/features/keystore/attestation are the specifications.

An app can sign certificates of its own with an attested key. What keeps them out: only the leaf may have the extension,
every issuer must be a CA, and the leaf must not be one.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from corelocker.attestation.anchors import SOFTWARE_ROOTS
from corelocker.attestation.certificates import fingerprint, name_attributes, p256_key
from corelocker.attestation.chain import Path, TrustAnchors, check_path, find_anchor, parse_chain
from corelocker.attestation.key_description import (
    ALGORITHM_EC,
    CURVE_P256,
    KEY_DESCRIPTION,
    KeyDescription,
    Origin,
    Purpose,
    SecurityLevel,
    VerifiedBootState,
    parse_key_description,
)
from corelocker.attestation.revocation import RevocationList, check_revocation
from corelocker.attestation.verdict import Reason, Refusal, Verdict, require_aware
from corelocker.errors import ConfigError
from corelocker.licensing.evidence import AndroidKeyEvidence, Format

_SERIAL_NUMBER = "2.5.4.5"
# Root, factory CA, attestation key, leaf; a remotely provisioned chain has one server more. Without the root.
_FACTORY_LENGTH = 3
_LONGEST = 4


class Provisioning(StrEnum):
    """How the phone came by its attestation key; it decides whether expiry counts."""

    FACTORY = "factory"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class AndroidKeyPolicy:
    """What a device key must show.

    Attributes:
        package: the app's package name; the key must be this app's alone.
        signer_digests: SHA-256 (32 bytes) of the certificates that may have signed the app. With Play App Signing that
            is Google's certificate for the app.
        purposes: exactly what the key may do.
        minimum_security_level: `STRONGBOX` shuts out phones without a secure element.
        minimum_os_patch, minimum_vendor_patch, minimum_boot_patch: the oldest patch level accepted, as YYYYMM; None
            for no floor. A device that does not say its level is refused where there is a floor.
        newest_attestation_version: the highest schema version accepted. Versions only add tags, so an operator may
            raise it for new phones before a new release does.
        max_revocation_age: how old the revocation list may be.
    """

    package: str
    signer_digests: frozenset[bytes]
    purposes: frozenset[int] = frozenset({Purpose.AGREE_KEY})
    minimum_security_level: SecurityLevel = SecurityLevel.TRUSTED_ENVIRONMENT
    minimum_os_patch: int | None = None
    minimum_vendor_patch: int | None = None
    minimum_boot_patch: int | None = None
    newest_attestation_version: int = 500
    max_revocation_age: timedelta = timedelta(hours=24)

    def __post_init__(self) -> None:
        if not self.package or not self.signer_digests or any(len(digest) != 32 for digest in self.signer_digests):
            raise ConfigError("an Android policy needs the app's package and the SHA-256 of its signing certificates")
        if self.minimum_security_level < SecurityLevel.TRUSTED_ENVIRONMENT:
            raise ConfigError("software keys prove nothing", hint="Use the development format for emulators")
        for floor in (self.minimum_os_patch, self.minimum_vendor_patch, self.minimum_boot_patch):
            if floor is not None and (_month(floor) is None or floor > 999999):
                raise ConfigError("a patch level floor is not of the form YYYYMM")


@dataclass(frozen=True, slots=True)
class AndroidKeyClaims:
    """What an accepted chain shows.

    Attributes:
        public_key: the device key, on P-256.
        security_level: the level that the description and the chain both support.
        provisioning: how the phone came by its attestation key.
        app_version: the version code of the app that made the key.
        description: everything that was read from the extension.
    """

    public_key: ec.EllipticCurvePublicKey
    security_level: SecurityLevel
    provisioning: Provisioning
    app_version: int
    description: KeyDescription


def verify_android_key(
    evidence: AndroidKeyEvidence,
    *,
    challenge: bytes,
    device_key: ec.EllipticCurvePublicKey,
    policy: AndroidKeyPolicy,
    anchors: TrustAnchors,
    revocation: RevocationList | None,
    now: datetime,
) -> Verdict[AndroidKeyClaims]:
    """Check an Android key attestation.

    Args:
        evidence: the certificate chain, the leaf first.
        challenge: the bytes given to `setAttestationChallenge`.
        device_key: the key of the request, which must be the leaf's.
        policy: what the key must show.
        anchors: the roots to trust, `anchors.GOOGLE_ROOTS` in production.
        revocation: the last status list; None refuses.
        now: the time, with its zone.
    """
    require_aware(now)
    try:
        claims = _verify(evidence, challenge, device_key, policy, anchors, revocation, now)
    except Refusal as refusal:
        return Verdict.refuse(Format.ANDROID_KEY, refusal)
    return Verdict.accept(Format.ANDROID_KEY, claims)


def _verify(
    evidence: AndroidKeyEvidence,
    challenge: bytes,
    device_key: ec.EllipticCurvePublicKey,
    policy: AndroidKeyPolicy,
    anchors: TrustAnchors,
    revocation: RevocationList | None,
    now: datetime,
) -> AndroidKeyClaims:
    chain = parse_chain(evidence.chain)
    if fingerprint(chain[-1].spki) in SOFTWARE_ROOTS:
        raise Refusal(Reason.SOFTWARE_ROOT, "the chain ends in the public software root that emulators have")
    path = find_anchor(chain, anchors)
    provisioning = _provisioning(path)
    _check_chain(path, provisioning, now)
    check_revocation(chain, revocation, now, policy.max_revocation_age)

    extension = path.leaf.extensions.get(KEY_DESCRIPTION)
    if extension is None:
        raise Refusal(Reason.ATTESTATION_MISSING, "the leaf has no attestation extension")
    description = parse_key_description(extension.value)
    _check_version(description.attestation_version, policy)
    if not hmac.compare_digest(description.challenge, challenge):
        raise Refusal(Reason.WRONG_CHALLENGE, "the key was made for another challenge")
    level = _security_level(description, path)
    if level < policy.minimum_security_level:
        raise Refusal(Reason.SECURITY_LEVEL, f"the security level is only {level.name}")
    _check_device(description, policy)
    app_version = _check_app(description, policy)
    _check_key(description, policy)
    public_key = p256_key(path.leaf.spki)
    if public_key != device_key:
        raise Refusal(Reason.DEVICE_KEY, "the attested key is not the device key of the request")
    return AndroidKeyClaims(public_key, level, provisioning, app_version, description)


def _provisioning(path: Path) -> Provisioning:
    """Factory CAs, and they alone, are named by a serial number. Whatever else the root issued, its expiry counts."""
    attributes = name_attributes(path.top.subject)
    is_factory = any(oid == _SERIAL_NUMBER for oid, _ in attributes)
    return Provisioning.FACTORY if is_factory else Provisioning.REMOTE


def _check_chain(path: Path, provisioning: Provisioning, now: datetime) -> None:
    factory = provisioning is Provisioning.FACTORY
    check_path(
        path,
        now,
        # A factory key cannot be replaced when its certificate expires. The device's own clock dates the leaf.
        expiry=not factory,
        leaf_validity=False,
        only_in_leaf=KEY_DESCRIPTION,
        non_ca_issuer=factory and len(path.certificates) == _FACTORY_LENGTH,
    )
    if len(path.certificates) > (_FACTORY_LENGTH if factory else _LONGEST):
        raise Refusal(Reason.CHAIN_TOO_LONG, f"a {provisioning} chain has fewer certificates")


def _check_version(version: int, policy: AndroidKeyPolicy) -> None:
    known = 1 <= version <= 4 or (version >= 100 and version % 100 == 0)
    if not known or version > policy.newest_attestation_version:
        raise Refusal(Reason.UNSUPPORTED_VERSION, f"attestation version {version} is not known")


def _security_level(description: KeyDescription, path: Path) -> SecurityLevel:
    """The least of who describes the key, where it lives, and what the chain says of its issuer.

    A chain for StrongBox says so in a name (the title of a factory key, the organization of a remote one), so that a
    key leaked from a TEE cannot pass for a StrongBox.
    """
    level = min(description.attestation_level, description.keymint_level)
    if level is not SecurityLevel.STRONGBOX:
        return level
    names = [text for certificate in path.certificates[1:] for _, text in name_attributes(certificate.subject)]
    return level if any(text.lower() == "strongbox" for text in names) else SecurityLevel.TRUSTED_ENVIRONMENT


def _check_device(description: KeyDescription, policy: AndroidKeyPolicy) -> None:
    hardware = description.hardware
    boot = hardware.root_of_trust
    if boot is None:
        raise Refusal(Reason.BOOT_STATE_MISSING, "the secure world does not tell the boot state")
    if not boot.device_locked:
        raise Refusal(Reason.DEVICE_UNLOCKED, "the boot loader is unlocked")
    if boot.verified_boot_state is not VerifiedBootState.VERIFIED:
        raise Refusal(Reason.BOOT_NOT_VERIFIED, f"the boot state is {boot.verified_boot_state.name}")
    for name, patch, floor in (
        ("system", hardware.os_patch_level, policy.minimum_os_patch),
        ("vendor", hardware.vendor_patch_level, policy.minimum_vendor_patch),
        ("boot", hardware.boot_patch_level, policy.minimum_boot_patch),
    ):
        if floor is not None and (patch is None or (_month(patch) or 0) < floor):
            raise Refusal(Reason.PATCH_LEVEL, f"the {name} patch level is {patch}, less than {floor}")


def _check_app(description: KeyDescription, policy: AndroidKeyPolicy) -> int:
    """The version code of the app that made the key."""
    if description.software.all_applications or description.hardware.all_applications:
        raise Refusal(Reason.KEY_ALL_APPLICATIONS, "every app may use the key")
    app = description.software.application_id
    if app is None or len(app.packages) != 1 or app.packages[0][0] != policy.package:
        raise Refusal(Reason.WRONG_APP, "the key is not of this app alone")
    if not app.signature_digests or not policy.signer_digests.issuperset(app.signature_digests):
        raise Refusal(Reason.WRONG_SIGNER, "the app has another signer")
    return app.packages[0][1]


def _check_key(description: KeyDescription, policy: AndroidKeyPolicy) -> None:
    hardware = description.hardware
    sized = hardware.key_size in (None, 256) and hardware.ec_curve in (None, CURVE_P256)
    if hardware.algorithm != ALGORITHM_EC or not sized:
        raise Refusal(Reason.KEY_TYPE, "the secure world does not describe a P-256 key")
    if hardware.purposes != policy.purposes:
        raise Refusal(Reason.KEY_PURPOSE, f"the key's purposes are {sorted(hardware.purposes or ())}")
    if hardware.origin != Origin.GENERATED:
        raise Refusal(Reason.KEY_ORIGIN, "the key was not made in the secure world")


def _month(patch: int) -> int | None:
    """The YYYYMM of a patch level written as YYYYMM or YYYYMMDD, None where it is neither."""
    month = patch // 100 if patch > 999999 else patch
    return month if 200000 <= month <= 999912 and 1 <= month % 100 <= 12 else None
