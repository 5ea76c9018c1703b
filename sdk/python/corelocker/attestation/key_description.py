"""The attestation extension of an Android key: KeyDescription, schema versions 1 to 4 (Keymaster) and 100 on (KeyMint).

https://source.android.com/docs/security/features/keystore/attestation gives the schema. Only what a policy looks at is
kept; identifiers of the device (brand, serial number, IMEI, ...) are passed over unread, and so are tags of later
versions. The order of tags is checked: the TEE writes them ascending, forgers do not always. The order within a SET is
not: real devices get it wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TypeVar

from corelocker.attestation.der import OCTET_STRING, SEQUENCE, SET, DerError, Reader, context, is_context
from corelocker.attestation.verdict import Reason, Refusal

KEY_DESCRIPTION = "1.3.6.1.4.1.11129.2.1.17"

T = TypeVar("T")
EnumT = TypeVar("EnumT", bound=IntEnum)


class SecurityLevel(IntEnum):
    """Where a key lives and who describes it; more is better."""

    SOFTWARE = 0
    TRUSTED_ENVIRONMENT = 1
    STRONGBOX = 2


class VerifiedBootState(IntEnum):
    """What the boot loader found out about the system it started."""

    VERIFIED = 0
    SELF_SIGNED = 1
    UNVERIFIED = 2
    FAILED = 3


class Purpose(IntEnum):
    """What a key may do (KeyPurpose)."""

    ENCRYPT = 0
    DECRYPT = 1
    SIGN = 2
    VERIFY = 3
    WRAP_KEY = 5
    AGREE_KEY = 6
    ATTEST_KEY = 7


class Origin(IntEnum):
    """How a key came to be (KeyOrigin)."""

    GENERATED = 0
    DERIVED = 1
    IMPORTED = 2
    RESERVED = 3
    SECURELY_IMPORTED = 4


ALGORITHM_EC = 3
CURVE_P256 = 1


@dataclass(frozen=True, slots=True)
class RootOfTrust:
    """What the boot loader told the secure world."""

    verified_boot_key: bytes
    device_locked: bool
    verified_boot_state: VerifiedBootState
    verified_boot_hash: bytes | None


@dataclass(frozen=True, slots=True)
class ApplicationId:
    """The app that made the key: its packages with their version codes, and the SHA-256 of its signing certificates."""

    packages: tuple[tuple[str, int], ...]
    signature_digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AuthorizationList:
    """The tags that a policy looks at; None or False where the list does not have one.

    Patch levels are as the device writes them: YYYYMM or YYYYMMDD. Times are milliseconds since 1970.
    """

    purposes: frozenset[int] | None = None
    algorithm: int | None = None
    key_size: int | None = None
    digests: frozenset[int] | None = None
    ec_curve: int | None = None
    rsa_public_exponent: int | None = None
    no_auth_required: bool = False
    all_applications: bool = False
    creation_time: int | None = None
    origin: int | None = None
    root_of_trust: RootOfTrust | None = None
    os_version: int | None = None
    os_patch_level: int | None = None
    application_id: ApplicationId | None = None
    vendor_patch_level: int | None = None
    boot_patch_level: int | None = None


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """The extension's value. `software` is what Android says, `hardware` what the secure world enforces."""

    attestation_version: int
    attestation_level: SecurityLevel
    keymint_version: int
    keymint_level: SecurityLevel
    challenge: bytes
    software: AuthorizationList
    hardware: AuthorizationList


def parse_key_description(value: bytes) -> KeyDescription:
    """Read the content of the extension's OCTET STRING. Refuses with MALFORMED."""
    try:
        outer = Reader(value)
        reader = outer.inside(SEQUENCE)
        outer.end()
        attestation_version = reader.integer()
        attestation_level = _member(SecurityLevel, reader.enumerated())
        keymint_version = reader.integer()
        keymint_level = _member(SecurityLevel, reader.enumerated())
        challenge = reader.octets()
        reader.octets()  # uniqueId: a rotating identifier of the device, which nothing here may see
        software = _authorizations(reader.content(SEQUENCE))
        # Most of it is the same on all phones of one model and patch level.
        hardware = _shared_authorizations(reader.content(SEQUENCE))
        reader.end()
    except (DerError, UnicodeDecodeError) as error:
        raise Refusal(Reason.MALFORMED, f"the key description is malformed: {error}") from error
    return KeyDescription(
        attestation_version, attestation_level, keymint_version, keymint_level, challenge, software, hardware
    )


def _authorizations(content: bytes) -> AuthorizationList:
    reader = Reader(content)
    fields: dict[str, object] = {}
    last = 0
    while reader.more():
        tag, content = reader.any()
        if not is_context(tag) or tag <= last:
            raise DerError("authorization tags are not context-specific, or do not ascend")
        last = tag
        field = _FIELDS.get(tag)
        if field is not None:
            inner = Reader(content)
            fields[field[0]] = field[1](inner)
            inner.end()
    return AuthorizationList(**fields)  # type: ignore[arg-type]


_shared_authorizations = lru_cache(maxsize=512)(_authorizations)


def _set_of(reader: Reader, tag: int, item: Callable[[Reader], T]) -> tuple[T, ...]:
    inner = reader.inside(tag)
    items = []
    while inner.more():
        items.append(item(inner))
    return tuple(items)


def _integers(reader: Reader) -> frozenset[int]:
    return frozenset(_set_of(reader, SET, Reader.integer))


def _flag(reader: Reader) -> bool:
    reader.null()
    return True


def _root_of_trust(reader: Reader) -> RootOfTrust:
    inner = reader.inside(SEQUENCE)
    # Genuine phones write TRUE as 01 here, and the platform's own parser takes any value but 0 for it.
    key, locked = inner.octets(), inner.boolean(any_true=True)
    state = _member(VerifiedBootState, inner.enumerated())
    # Since version 3.
    boot_hash = inner.octets() if inner.more() else None
    inner.end()
    return RootOfTrust(key, locked, state, boot_hash)


def _application_id(reader: Reader) -> ApplicationId:
    return _parse_application_id(reader.content(OCTET_STRING))


@lru_cache(maxsize=64)
def _parse_application_id(content: bytes) -> ApplicationId:
    """The OCTET STRING holds a SEQUENCE {SET OF SEQUENCE {name, version}, SET OF digest}."""
    wrapped = Reader(content)
    inner = wrapped.inside(SEQUENCE)
    wrapped.end()
    packages = _set_of(inner, SET, _package)
    digests = _set_of(inner, SET, Reader.octets)
    inner.end()
    return ApplicationId(packages, digests)


def _package(reader: Reader) -> tuple[str, int]:
    inner = reader.inside(SEQUENCE)
    package = inner.octets().decode("utf-8"), inner.integer()
    inner.end()
    return package


def _member(kind: type[EnumT], value: int) -> EnumT:
    try:
        return kind(value)
    except ValueError as error:
        raise DerError(f"an unknown {kind.__name__}") from error


_FIELDS: dict[int, tuple[str, Callable[[Reader], object]]] = {
    context(1): ("purposes", _integers),
    context(2): ("algorithm", Reader.integer),
    context(3): ("key_size", Reader.integer),
    context(5): ("digests", _integers),
    context(10): ("ec_curve", Reader.integer),
    context(200): ("rsa_public_exponent", Reader.integer),
    context(503): ("no_auth_required", _flag),
    context(600): ("all_applications", _flag),
    context(701): ("creation_time", Reader.integer),
    context(702): ("origin", Reader.integer),
    context(704): ("root_of_trust", _root_of_trust),
    context(705): ("os_version", Reader.integer),
    context(706): ("os_patch_level", Reader.integer),
    context(709): ("application_id", _application_id),
    context(718): ("vendor_patch_level", Reader.integer),
    context(719): ("boot_patch_level", Reader.integer),
}
