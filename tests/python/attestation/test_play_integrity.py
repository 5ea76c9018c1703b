"""Google's decoded verdict: a good one, and each thing that can be wrong with it."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from corelocker.attestation.play_integrity import PlayIntegrityPolicy, verify_play_integrity
from corelocker.attestation.verdict import Reason
from corelocker.errors import ConfigError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST = hashlib.sha256(b"the canonical request").digest()
SIGNER = hashlib.sha256(b"the app's signing certificate").digest()
POLICY = PlayIntegrityPolicy("com.example.app", frozenset({SIGNER}), "production")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


GOOD: dict[str, Any] = {
    "tokenPayloadExternal": {
        "requestDetails": {
            "requestPackageName": "com.example.app",
            "requestHash": _base64url(DIGEST),
            "timestampMillis": str(int((NOW - timedelta(minutes=1)).timestamp() * 1000)),
        },
        "appIntegrity": {
            "appRecognitionVerdict": "PLAY_RECOGNIZED",
            "packageName": "com.example.app",
            "certificateSha256Digest": [_base64url(SIGNER)],
            "versionCode": "42",
        },
        "deviceIntegrity": {"deviceRecognitionVerdict": ["MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY"]},
        "accountDetails": {"appLicensingVerdict": "LICENSED"},
    }
}


def _judge(bend: Callable[[dict[str, Any]], object], policy: PlayIntegrityPolicy = POLICY) -> Reason:
    answer = copy.deepcopy(GOOD)
    bend(answer["tokenPayloadExternal"])
    return verify_play_integrity(answer, request_digest=DIGEST, policy=policy, now=NOW).reason


def _set(part: str, **values: object) -> Callable[[dict[str, Any]], object]:
    """None takes a member out."""

    def bend(payload: dict[str, Any]) -> None:
        payload.setdefault(part, {}).update(values)
        payload[part] = {name: value for name, value in payload[part].items() if value is not None}

    return bend


def _at(offset: timedelta) -> str:
    return str(int((NOW + offset).timestamp() * 1000))


REQUEST, APP, DEVICE, ACCOUNT = "requestDetails", "appIntegrity", "deviceIntegrity", "accountDetails"


def test_a_good_verdict() -> None:
    verdict = verify_play_integrity(GOOD, request_digest=DIGEST, policy=POLICY, now=NOW)
    assert verdict.accepted
    assert verdict.claims is not None
    assert verdict.claims.device_verdicts == {"MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY"}
    assert (verdict.claims.app_version, verdict.claims.licensed) == (42, True)
    assert verdict.claims.requested_at == NOW - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("reason", "bend"),
    [
        (Reason.OK, _set(REQUEST, requestHash=None, nonce=_base64url(DIGEST) + "=")),
        (Reason.OK, _set(ACCOUNT, appLicensingVerdict="UNLICENSED")),
        (Reason.OK, lambda payload: payload.pop(ACCOUNT)),
        (Reason.OK, _set(APP, certificateSha256Digest=[_base64url(SIGNER) + "="])),
        (Reason.WRONG_ENVIRONMENT, _set("testingDetails", isTestingResponse=True)),
        (Reason.WRONG_APP, _set(REQUEST, requestPackageName="com.example.other")),
        (Reason.WRONG_APP, _set(APP, packageName="com.example.other")),
        (Reason.WRONG_CHALLENGE, _set(REQUEST, requestHash=_base64url(bytes(32)))),
        (Reason.WRONG_CHALLENGE, _set(REQUEST, requestHash=None)),
        (Reason.WRONG_CHALLENGE, _set(REQUEST, requestHash=7)),
        (Reason.WRONG_CHALLENGE, _set(REQUEST, nonce=_base64url(DIGEST))),
        (Reason.TIME, _set(REQUEST, timestampMillis=_at(timedelta(minutes=-11)))),
        (Reason.TIME, _set(REQUEST, timestampMillis=_at(timedelta(minutes=2)))),
        (Reason.OK, _set(REQUEST, timestampMillis=_at(timedelta(minutes=-10)))),
        (Reason.OK, _set(REQUEST, timestampMillis=_at(timedelta(minutes=1)))),
        (Reason.TIME, _set(REQUEST, timestampMillis=str(1 << 47))),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis=str((1 << 47) + 1))),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis=str((1 << 63) - 1))),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis="soon")),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis="9" * 19)),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis="9" * 5000)),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis=1.5)),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis=-1)),
        (Reason.MALFORMED, _set(REQUEST, timestampMillis=None)),
        (Reason.APP_NOT_RECOGNIZED, _set(APP, appRecognitionVerdict="UNRECOGNIZED_VERSION")),
        (Reason.APP_NOT_RECOGNIZED, _set(APP, appRecognitionVerdict=None)),
        (Reason.WRONG_SIGNER, _set(APP, certificateSha256Digest=[_base64url(bytes(32))])),
        (Reason.WRONG_SIGNER, _set(APP, certificateSha256Digest=[_base64url(SIGNER), _base64url(bytes(32))])),
        (Reason.WRONG_SIGNER, _set(APP, certificateSha256Digest=None)),
        (Reason.MALFORMED, _set(APP, certificateSha256Digest=["*"])),
        (Reason.MALFORMED, _set(APP, certificateSha256Digest=[7])),
        (Reason.MALFORMED, _set(APP, certificateSha256Digest="text")),
        (Reason.OK, _set(APP, versionCode=43)),
        (Reason.OK, _set(APP, versionCode=str((1 << 63) - 1))),
        (Reason.OK, _set(APP, versionCode=None)),
        (Reason.MALFORMED, _set(APP, versionCode="x")),
        (Reason.MALFORMED, _set(APP, versionCode="٤٢")),
        (Reason.MALFORMED, _set(APP, versionCode="")),
        (Reason.MALFORMED, _set(APP, versionCode=True)),
        (Reason.MALFORMED, _set(APP, versionCode=1 << 63)),
        (Reason.MALFORMED, _set(APP, versionCode=10**5000)),
        (Reason.MALFORMED, _set(APP, versionCode=["42"])),
        (Reason.OK, _set(DEVICE, deviceRecognitionVerdict=["MEETS_DEVICE_INTEGRITY"])),
        (Reason.DEVICE_INTEGRITY, _set(DEVICE, deviceRecognitionVerdict=["MEETS_BASIC_INTEGRITY"])),
        (Reason.DEVICE_INTEGRITY, _set(DEVICE, deviceRecognitionVerdict=None)),
        (Reason.MALFORMED, _set(DEVICE, deviceRecognitionVerdict="MEETS_DEVICE_INTEGRITY")),
        (Reason.MALFORMED, lambda payload: payload.pop(REQUEST)),
        (Reason.MALFORMED, lambda payload: payload.pop(APP)),
        (Reason.MALFORMED, lambda payload: payload.pop(DEVICE)),
    ],
)
def test_one_thing_wrong(reason: Reason, bend: Callable[[dict[str, Any]], object]) -> None:
    assert _judge(bend) is reason


def test_the_policy_decides() -> None:
    unlicensed = _set(ACCOUNT, appLicensingVerdict="UNEVALUATED")
    assert _judge(unlicensed, replace(POLICY, require_licensed=True)) is Reason.NOT_LICENSED
    assert _judge(lambda payload: None, replace(POLICY, require_licensed=True)) is Reason.OK
    for account in (None, [], "LICENSED"):
        bent = lambda payload, account=account: payload.update(accountDetails=account)  # noqa: E731
        assert _judge(bent, replace(POLICY, require_licensed=True)) is Reason.NOT_LICENSED
        assert _judge(bent) is Reason.OK
    strong = replace(POLICY, device_verdicts=frozenset({"MEETS_STRONG_INTEGRITY"}))
    assert _judge(lambda payload: None, strong) is Reason.DEVICE_INTEGRITY
    testing = _set("testingDetails", isTestingResponse=True)
    assert _judge(testing, replace(POLICY, environment="development")) is Reason.OK


def test_a_clock_without_a_zone_is_refused() -> None:
    with pytest.raises(ConfigError):
        verify_play_integrity(GOOD, request_digest=DIGEST, policy=POLICY, now=NOW.replace(tzinfo=None))


@pytest.mark.parametrize("answer", [{}, {"tokenPayloadExternal": None}, {"tokenPayloadExternal": {}}])
def test_no_verdict_at_all(answer: dict[str, object]) -> None:
    assert verify_play_integrity(answer, request_digest=DIGEST, policy=POLICY, now=NOW).reason is Reason.MALFORMED
