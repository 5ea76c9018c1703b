"""Play Integrity beside `android-key`: its verdict decides with the key's, and one that cannot be had decides nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.licensing import errors
from corelocker.licensing import errors as refusals
from corelocker.licensing.evidence import Format
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.messages import UnlockRequest
from corelocker.service.play_integrity import PlayIntegrity
from corelocker.service.problems import PREFIX
from corelocker.service.records import PurchaseKey
from support import attestation_forge as forge
from support.full_service import APP, NOW, Device, FullService, full_service
from support.http_server import serving
from support.play_server import Call, error_reply, hang, json_reply

TOKEN = "eyJhbGciOiJBMjU2S1ciLCJlbmMiOiJBMjU2R0NNIn0.integrity"
ADDRESS = f"/v1/{APP}:decodeIntegrityToken"
Bend = Callable[[dict[str, Any]], object]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FullService]:
    with full_service(tmp_path) as made:
        configure(made)
        yield made


def configure(world: FullService, settings: str = "") -> None:
    world.write(android=f'[apps.android.play_integrity]\nbase_url = "{world.play_url}/"\n{settings}')
    world.service = world.open()


def integrity(world: FullService) -> Any:
    found = world.service.apps[APP].play_integrity
    assert isinstance(found, PlayIntegrity)
    return found


def unlock_body(world: FullService, device: Device, bend: Bend = lambda verdict: None) -> dict[str, Any]:
    """A request with a token, and Google's verdict of it as `bend` leaves it."""
    body = world.unlock_body(device, proof="android")
    request = world.attested(body["challenge"], device, body["purchase"]["token"])
    verdict: dict[str, Any] = {
        "requestDetails": {
            "requestPackageName": APP,
            "requestHash": jose.encode_base64url(request.digest(Format.ANDROID_KEY)),
            "timestampMillis": str(NOW * 1000 - 90_000),
        },
        "appIntegrity": {
            "appRecognitionVerdict": "PLAY_RECOGNIZED",
            "packageName": APP,
            "certificateSha256Digest": [jose.encode_base64url(forge.SIGNER)],
            "versionCode": "42",
        },
        "deviceIntegrity": {"deviceRecognitionVerdict": ["MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY"]},
        "accountDetails": {"appLicensingVerdict": "UNLICENSED"},
    }
    bend(verdict)
    world.play.verdicts[TOKEN] = verdict
    body["attestation"]["integrity_token"] = TOKEN
    return body


def unlock(world: FullService, body: dict[str, Any]) -> str:
    return world.service.decisions.unlock(UnlockRequest.from_json(json.dumps(body).encode())).license_id


def asked(world: FullService) -> list[Call]:
    return [call for call in world.play.calls if call.path == ADDRESS]


def nothing_happened(world: FullService) -> bool:
    entitlement = world.storage.entitlement(PurchaseKey("grant", APP, "sub:order-1"))
    return entitlement is None and world.storage.list_licenses() == []


def test_a_good_verdict(world: FullService) -> None:
    device = Device.new()
    stored = world.storage.license(unlock(world, unlock_body(world, device)))
    assert stored is not None
    assert (stored.format, stored.device) == ("android-key", device.thumbprint)
    (call,) = asked(world)
    assert (call.method, json.loads(call.body)) == ("POST", {"integrityToken": TOKEN})
    # One sign-in serves many requests, and a renewal shows the device key alone.
    unlock(world, unlock_body(world, device))
    world.renew(device, stored.jti, "device-key")
    assert len(asked(world)) == 2
    assert len([call for call in world.play.calls if call.path == "/token"]) == 1


def weak(verdict: dict[str, Any]) -> None:
    verdict["deviceIntegrity"] = {"deviceRecognitionVerdict": ["MEETS_BASIC_INTEGRITY"]}


REFUSED: dict[str, tuple[Reason, str, Bend]] = {
    "another request's token": (
        Reason.WRONG_CHALLENGE, "", lambda verdict: verdict["requestDetails"].update(requestHash="A" * 43)),
    "another app's token": (
        Reason.WRONG_APP, "", lambda verdict: verdict["requestDetails"].update(requestPackageName="com.example.other")),
    "another signer": (
        Reason.WRONG_SIGNER, "", lambda verdict: verdict["appIntegrity"].update(certificateSha256Digest=["A" * 43])),
    "a weak device": (Reason.DEVICE_INTEGRITY, "", weak),
    "not strong enough": (
        Reason.DEVICE_INTEGRITY, 'device_verdicts = ["MEETS_STRONG_INTEGRITY"]', lambda verdict: None),
    "not from Play": (Reason.NOT_LICENSED, "require_licensed = true", lambda verdict: None),
    "too old": (Reason.TIME, "max_age = 60", lambda verdict: None),
    "no verdict": (Reason.MALFORMED, "", lambda verdict: verdict.clear()),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_verdict_that_is_refused(world: FullService, case: str) -> None:
    reason, settings, bend = REFUSED[case]
    configure(world, settings)
    body = unlock_body(world, Device.new(), bend)
    with pytest.raises(AttestationRefusedError) as refused:
        unlock(world, body)
    assert refused.value.reason is reason
    assert nothing_happened(world)
    (row,) = world.storage.audit_rows(limit=1)
    assert (row.event, row.outcome) == ("unlock", "attestation-refused")
    assert str(row.detail).startswith(f"{reason}: ")


def test_no_token(world: FullService) -> None:
    body = unlock_body(world, Device.new())
    del body["attestation"]["integrity_token"]
    with pytest.raises(AttestationRefusedError) as refused:
        unlock(world, body)
    assert refused.value.reason is Reason.ATTESTATION_MISSING
    assert nothing_happened(world)
    assert asked(world) == []
    # The challenge was not used up: the app can ask for a token and send the same proof with it.
    unlock(world, body | {"attestation": body["attestation"] | {"integrity_token": TOKEN}})


def test_a_token_that_is_none(world: FullService) -> None:
    body = unlock_body(world, Device.new())
    world.play.verdicts.clear()
    with pytest.raises(AttestationRefusedError) as refused:
        unlock(world, body)
    assert refused.value.reason is Reason.MALFORMED
    assert nothing_happened(world)


def test_a_verdict_made_up_for_testers(world: FullService) -> None:
    body = unlock_body(world, Device.new(), lambda verdict: verdict.update(testingDetails={"isTestingResponse": True}))
    found = integrity(world)
    development = found._policy
    found._policy = replace(development, environment="production")
    with pytest.raises(AttestationRefusedError) as refused:
        unlock(world, body)
    assert refused.value.reason is Reason.WRONG_ENVIRONMENT
    assert nothing_happened(world)
    found._policy = development
    unlock(world, body)


def test_google_is_asked_only_about_genuine_keys(world: FullService) -> None:
    body = unlock_body(world, Device.new())
    stranger = jose.public_jwk(Device.new().key.public_key())
    with pytest.raises(AttestationRefusedError) as refused:
        unlock(world, body | {"device_key": stranger})
    assert refused.value.reason is Reason.DEVICE_KEY
    assert asked(world) == []


def test_where_it_is_not_asked_for_a_token_is_ignored(world: FullService) -> None:
    world.write()
    world.service = world.open()
    unlock(world, unlock_body(world, Device.new(), weak))
    assert asked(world) == []


def test_other_proofs_need_no_token(world: FullService) -> None:
    for proof in ("development", "app-attest"):
        world.unlock(Device.new(), world.grant(proof), proof)
    assert asked(world) == []


FAILURES: dict[str, tuple[str, Callable[[Call], Any]]] = {
    "429": (ADDRESS, lambda call: error_reply(429, headers={"Retry-After": "7"})),
    "quota": (ADDRESS, lambda call: error_reply(403, "quotaExceeded")),
    "500": (ADDRESS, lambda call: error_reply(500)),
    "not JSON": (ADDRESS, lambda call: (200, {}, b"<html>")),
    "another shape": (ADDRESS, lambda call: json_reply([])),
    "hangs up": (ADDRESS, lambda call: lambda out: None),
    "hangs": (ADDRESS, hang(3.0)),
    "no sign-in": ("^/token", lambda call: error_reply(503)),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_verdict_that_cannot_be_had_decides_nothing(world: FullService, failure: str) -> None:
    integrity(world)._api._timeout = 1.0
    body = unlock_body(world, Device.new())
    path, answer = FAILURES[failure]
    world.play.failures[path] = answer
    for _ in range(2):
        with pytest.raises(errors.PurchaseUpstreamError) as failed:
            unlock(world, body)
    assert failed.value.retryable
    assert failed.value.retry_after == (7 if failure == "429" else None)
    assert nothing_happened(world)
    (row,) = world.storage.audit_rows(limit=1)
    assert row.outcome == "purchase-upstream"
    assert str(row.detail).startswith("Play Integrity: ")
    # The same request counts when Google answers again, once.
    world.play.failures.clear()
    unlock(world, body)
    with pytest.raises(refusals.ChallengeUsedError):
        unlock(world, body)
    assert len(world.storage.list_licenses()) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_operator_has_to_mend(world: FullService, status: int) -> None:
    """Google refuses the account, or does not know the app."""
    world.play.failures[ADDRESS] = lambda call: error_reply(status, "permissionDenied")
    with pytest.raises(errors.PurchaseUpstreamDeniedError, match="Play Integrity"):
        unlock(world, unlock_body(world, Device.new()))
    assert nothing_happened(world)


def test_over_http(world: FullService) -> None:
    around: Any = SimpleNamespace(config_path=world.folder / "service.toml", service=lambda: nullcontext(world.service))
    with serving(around) as server:
        assert server.post("/v1/licenses", unlock_body(world, Device.new())).status_code == 201
        body = unlock_body(world, Device.new())
        world.play.failures[ADDRESS] = FAILURES["429"][1]
        answer = server.post("/v1/licenses", body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
        assert answer.json()["type"] == PREFIX + "purchase-upstream"
        world.play.failures.clear()
        assert server.post("/v1/licenses", body).status_code == 201

        body = unlock_body(world, Device.new(), weak)
        said = []
        for attestation in (body["attestation"], {**body["attestation"], "integrity_token": "x"}):
            answer = server.post("/v1/licenses", body | {"attestation": attestation})
            assert answer.status_code == 401
            said.append({**answer.json(), "request_id": ""})
        # Which check failed helps nobody but an attacker.
        assert said[0] == said[1]
        assert said[0]["type"] == PREFIX + "attestation-refused"
        broken = body["attestation"] | {"integrity_token": "x" * 16385}
        assert server.post("/v1/licenses", body | {"attestation": broken}).status_code == 400
        assert server.lines()
        assert TOKEN not in server.log_text.getvalue()
