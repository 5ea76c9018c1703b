"""Requests of another shape than the API's are refused before anything is decided."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.licensing import errors as refusals
from corelocker.service.messages import MAX_REQUEST_SIZE, ChallengeRequest, RenewRequest, UnlockRequest
from support import attestation_forge as forge
from support.full_service import (
    Device,
    FullService,
)


def mutations() -> list[tuple[str, Any]]:
    proof = {"format": "development", "certificate": "AA", "signature": "AA"}
    return [
        ("challenge", 1), ("challenge", ""), ("challenge", "a" * 257), ("challenge", "\n"), ("challenge", None),
        ("app", ["x"]), ("app", "a\0b"), ("bundle", {}), ("tier", 0.0), ("tier", True),
        ("device_key", None), ("device_key", "x"), ("device_key", {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        ("device_key", {"kty": "RSA"}), ("device_key", {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        ("device_key", jose.public_jwk(forge.key("x").public_key()) | {"d": "AA"}),
        ("device_key", {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}),
        ("attestation", None), ("attestation", {}), ("attestation", {"format": "none"}), ("attestation", []),
        ("attestation", proof | {"more": 1}), ("attestation", proof | {"certificate": "A="}),
        ("attestation", proof | {"signature": "A" * 500}),
        ("attestation", {"format": "android-key", "chain": ["AA"] * 7}),
        ("attestation", {"format": "device-key", "proof": "A" * 64}),
        ("attestation", {"format": "play-integrity", "token": "x"}),
        ("purchase", None), ("purchase", []), ("purchase", {"provider": "grant"}), ("purchase", {"provider": "x", "token": "y"}),
        ("purchase", {"provider": "grant", "token": ""}), ("purchase", {"provider": "grant", "token": "\u00e4"}),
        ("purchase", {"provider": "grant", "token": "a b\n"}), ("purchase", {"provider": "grant", "token": "x", "more": 1}),
        ("purchase", {"provider": "grant", "token": "x" * (128 * 1024 + 1)}),
        ("purchase", {"provider": "app-store", "token": "x"}),
        ("purchase", {"provider": "google-play", "token": "x", "kind": "else", "product": "p"}),
        ("purchase", {"provider": "google-play", "token": "x", "kind": "product", "product": ""}),
        ("purchase", {"provider": "google-play", "token": "x", "kind": "product"}),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), mutations())
def test_a_request_of_another_shape(world: FullService, name: str, value: Any) -> None:
    body = world.unlock_body(Device.new())
    with pytest.raises(refusals.RequestError):
        UnlockRequest.from_json(json.dumps(body | {name: value}).encode())
    without = {key: member for key, member in body.items() if key != name}
    with pytest.raises(refusals.RequestError):
        UnlockRequest.from_json(without)


@pytest.mark.parametrize(("change", "pointer"), [
    (None, ""), ([], ""), ({"more": 1}, ""), ({"proof": None}, "/proof"), ({"proof": "A="}, "/proof"),
    ({"proof": "A" * 44}, "/proof"), ({"device_key": {"kty": "RSA"}}, "/device_key"),
    ({"device_key": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}}, "/device_key"),
])  # fmt: skip
def test_a_former_key_of_another_shape(world: FullService, change: Any, pointer: str) -> None:
    device = Device.new()
    body = world.unlock_body(device, **world.replacing(Device.new(), device))
    assert UnlockRequest.from_json(body).replaces is not None
    body["replaces"] = body["replaces"] | change if isinstance(change, dict) else change
    with pytest.raises(refusals.RequestError) as refused:
        UnlockRequest.from_json(body)
    assert refused.value.pointer == "#/replaces" + pointer


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff", b'{"challenge": "a", "challenge": "b"}', b"[" * 100_000,
                                  b'{"a": NaN}', b" " * (MAX_REQUEST_SIZE + 1), b'{"challenge": "\\ud800"}'],
                         ids=range(9))  # fmt: skip
def test_a_request_that_is_no_json_of_ours(data: bytes) -> None:
    for kind in (UnlockRequest, RenewRequest, ChallengeRequest):
        with pytest.raises(refusals.RequestError):
            kind.from_json(data)


def test_members_that_nobody_knows(world: FullService) -> None:
    body = world.unlock_body(Device.new())
    with pytest.raises(refusals.RequestError):
        UnlockRequest.from_json(body | {"environment": "development"})
    with pytest.raises(refusals.RequestError):
        RenewRequest.from_json({"challenge": "x", "attestation": {}, "more": 1})
    with pytest.raises(refusals.RequestError):
        ChallengeRequest.from_json({"more": 1})
    assert ChallengeRequest.from_json(b"{}") == ChallengeRequest()


def test_a_challenge_seals_a_secret_of_its_own(world: FullService) -> None:
    device = Device.new()
    request = ChallengeRequest.from_json({"device_key": jose.public_jwk(device.key.public_key())})
    sealed = [world.service.challenges.issue(request) for _ in range(2)]
    secrets = {
        device.software.open(jose.decode_base64url(challenge.sealed or ""), b"corelocker proof v1")
        for challenge in sealed
    }
    assert len(secrets) == 2
    assert "sealed" not in world.service.challenges.issue(ChallengeRequest()).to_json()
