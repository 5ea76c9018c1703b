"""Google's Play Integrity verdict, decoded by Google's API, as an extra signal beside `android-key`.

The service (`service.play_integrity`) sends the app's token to Google's `decodeIntegrityToken` and passes the answer
here; that it came from Google over TLS is what makes it true. It never stands alone: it says nothing of the device key.
https://developer.android.com/google/play/integrity/verdicts is the specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from corelocker.attestation.verdict import Reason, Refusal, Verdict, require_aware, require_environment
from corelocker.bundle import jose
from corelocker.errors import ConfigError
from corelocker.licensing import Environment
from corelocker.licensing.evidence import Format

_SKEW = timedelta(minutes=1)
_ABSENT: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class PlayIntegrityPolicy:
    """What the verdict must say.

    Attributes:
        package: the app's package name.
        certificate_digests: SHA-256 of the certificates that may have signed the app.
        environment: in production an answer that Play was told to give for tests is refused.
        device_verdicts: labels that must all be there, MEETS_STRONG_INTEGRITY for a locked phone with recent updates.
        require_licensed: whether the user must have the app from Play.
        max_age: how long ago the app may have asked for the token.
    """

    package: str
    certificate_digests: frozenset[bytes]
    environment: Environment
    device_verdicts: frozenset[str] = frozenset({"MEETS_DEVICE_INTEGRITY"})
    require_licensed: bool = False
    max_age: timedelta = timedelta(minutes=10)

    def __post_init__(self) -> None:
        require_environment(self.environment)
        if not self.package or not self.certificate_digests or not self.device_verdicts:
            raise ConfigError(
                "a Play Integrity policy needs the package, its signing certificates and a device verdict"
            )


@dataclass(frozen=True, slots=True)
class PlayIntegrityClaims:
    """What an accepted verdict says: the labels of the device, the app's version code, and when the app asked."""

    device_verdicts: frozenset[str]
    app_version: int
    licensed: bool
    requested_at: datetime


def verify_play_integrity(
    answer: Mapping[str, object], *, request_digest: bytes, policy: PlayIntegrityPolicy, now: datetime
) -> Verdict[PlayIntegrityClaims]:
    """Check a decoded verdict.

    Args:
        answer: the JSON of `decodeIntegrityToken`, {"tokenPayloadExternal": {...}}.
        request_digest: the canonical request's digest. The app passes it in unpadded base64url, as `requestHash` of a
            standard request or as `nonce` of a classic one.
        policy: what the verdict must say.
        now: the time, with its zone.
    """
    require_aware(now)
    try:
        claims = _verify(answer, request_digest, policy, now)
    except Refusal as refusal:
        return Verdict.refuse(Format.PLAY_INTEGRITY, refusal)
    return Verdict.accept(Format.PLAY_INTEGRITY, claims)


def _verify(
    answer: Mapping[str, object], request_digest: bytes, policy: PlayIntegrityPolicy, now: datetime
) -> PlayIntegrityClaims:
    payload = _object(answer, "tokenPayloadExternal")
    testing = payload.get("testingDetails")
    if policy.environment != "development" and testing is not None:
        raise Refusal(Reason.WRONG_ENVIRONMENT, "the verdict was made up for a tester")

    request = _object(payload, "requestDetails")
    if request.get("requestPackageName") != policy.package:
        raise Refusal(Reason.WRONG_APP, "the token was requested for another app")
    expected = jose.encode_base64url(request_digest)
    sent = [value for value in (request.get("requestHash"), request.get("nonce")) if value is not None]
    if len(sent) != 1 or not isinstance(sent[0], str) or sent[0].rstrip("=") != expected:
        raise Refusal(Reason.WRONG_CHALLENGE, "the token was requested for other data")
    requested_at = _time(request.get("timestampMillis"))
    if not -_SKEW <= now - requested_at <= policy.max_age:
        raise Refusal(Reason.TIME, "the token was requested too long ago, or in the future")

    app = _object(payload, "appIntegrity")
    if app.get("appRecognitionVerdict") != "PLAY_RECOGNIZED":
        raise Refusal(Reason.APP_NOT_RECOGNIZED, "Play does not know this app")
    if app.get("packageName") != policy.package:
        raise Refusal(Reason.WRONG_APP, "the app is another one")
    digests = {_digest(text) for text in _list(app, "certificateSha256Digest")}
    if not digests or not policy.certificate_digests.issuperset(digests):
        raise Refusal(Reason.WRONG_SIGNER, "the app has another signer")

    labels = frozenset(_list(_object(payload, "deviceIntegrity"), "deviceRecognitionVerdict"))
    if not labels >= policy.device_verdicts:
        raise Refusal(Reason.DEVICE_INTEGRITY, "the device does not meet the integrity that is asked for")
    account = payload.get("accountDetails", _ABSENT)
    licensed = isinstance(account, Mapping) and account.get("appLicensingVerdict") == "LICENSED"
    if policy.require_licensed and not licensed:
        raise Refusal(Reason.NOT_LICENSED, "the user does not have the app from Play")
    return PlayIntegrityClaims(labels, _number(app.get("versionCode", "0")), licensed, requested_at)


def _object(parent: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = parent.get(name)
    if not isinstance(value, Mapping):
        raise Refusal(Reason.MALFORMED, f"the verdict has no {name}")
    return value


def _list(parent: Mapping[str, object], name: str) -> list[str]:
    """A list of texts; Google leaves empty lists out."""
    value = parent.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refusal(Reason.MALFORMED, f"the verdict's {name} is no list of texts")
    return value


def _number(value: object) -> int:
    """A 64-bit integer, which Google's JSON writes as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise Refusal(Reason.MALFORMED, "the verdict has a number that is none")
    return value


def _time(value: object) -> datetime:
    milliseconds = _number(value)
    if milliseconds > 1 << 47:  # the year 6429
        raise Refusal(Reason.MALFORMED, "the verdict has no possible time")
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _digest(text: str) -> bytes:
    try:
        return jose.decode_base64url(text.rstrip("="))
    except ValueError as error:
        raise Refusal(Reason.MALFORMED, "the verdict has a digest that is not base64url") from error
