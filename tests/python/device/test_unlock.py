"""What the software device sends."""

from __future__ import annotations

import os

import pytest
from corelocker.attestation.device_key import proof_secret, seal_secret, verify_device_key
from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import tier_keys
from corelocker.device.errors import (
    ServiceProtocolError,
)
from corelocker.device.software import SoftwareDevice
from corelocker.errors import ConfigError, CoreLockerError
from corelocker.licensing.attested_request import AttestedRequest
from corelocker.licensing.errors import (
    LicenseWrapError,
)
from corelocker.licensing.evidence import DeviceKeyEvidence, Format, evidence_from_json
from support.unlock_server import GRANT, Server, accepted, created, stored
from support.unlock_world import APP, NOW, World


def test_unlock(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    verified = device.unlock(bundle, "full", GRANT)
    assert verified.state == "valid"
    ((path, body),) = server.requests
    assert path == "/v1/licenses"
    assert sorted(body) == ["app", "attestation", "bundle", "challenge", "device_key", "purchase", "tier"]
    assert (body["app"], body["bundle"], body["tier"], body["purchase"]) == (APP, world.bundle_id, "full", GRANT)
    assert body["challenge"] == server.challenges[0]
    key = jose.key_of_jwk(body["device_key"])
    assert jose.thumbprint(key) == device.thumbprint == verified.license.device
    assert accepted(world, body, GRANT["token"], key)
    assert not accepted(world, body, "another.grant", key)
    with device.restore(world.locked_path, bundle, check="always") as restored:
        assert bytes(restored) == world.original


def test_renewal(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    first = device.unlock(bundle, "full", GRANT).license
    second = device.renew(bundle).license
    assert second.license_id != first.license_id
    path, body = server.requests[-1]
    assert path == f"/v1/licenses/{first.license_id}/renew"
    assert sorted(body) == ["attestation", "challenge"]
    key = server.device_key
    assert accepted(world, body, f"renew:{first.license_id}", key)
    assert not accepted(world, body, GRANT["token"], key), "a proof for an unlock is none for a renewal"
    assert device.current(bundle).license == second
    assert len(stored(device)) == 1


def test_renewal_by_the_device_key(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    first = device.unlock(bundle, "full", GRANT).license
    challenge, service_secret = "a challenge", os.urandom(32)
    secret = proof_secret(service_secret, challenge, device.thumbprint)
    sealed = jose.encode_base64url(seal_secret(secret, server.device_key))
    server.challenge_answers.append(created({"challenge": challenge, "expires_at": NOW, "sealed": sealed}))
    second = device.renew(bundle, by_device_key=True).license
    assert second.license_id != first.license_id
    assert server.challenge_requests[-1] == {"device_key": jose.public_jwk(server.device_key)}
    body = server.requests[-1][1]
    evidence = evidence_from_json(body["attestation"])
    assert isinstance(evidence, DeviceKeyEvidence)
    request = AttestedRequest(challenge, APP, world.bundle_id, "full", server.device_key, f"renew:{first.license_id}")
    digest = request.digest(Format.DEVICE_KEY)
    assert verify_device_key(evidence, request_digest=digest, device_key=server.device_key, secret=secret).accepted


@pytest.mark.parametrize("sealed", [None, 5, "", "x" * 151, "!" * 151])
def test_bad_sealed_secrets(server: Server, device: SoftwareDevice, bundle: KeyBundle, sealed: object) -> None:
    device.unlock(bundle, "full", GRANT)
    server.challenge_answers.append(created({"challenge": "a", "expires_at": NOW, "sealed": sealed}))
    with pytest.raises((ServiceProtocolError, LicenseWrapError)):
        device.renew(bundle, by_device_key=True)
    assert len(server.requests) == 1


def test_license_id_with_a_slash_stays_in_its_place(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    server.answers.append(lambda body: server.issue(body, license_id="../a?b"))
    device.unlock(bundle, "full", GRANT)
    device.renew(bundle)
    assert server.requests[-1][0] == "/v1/licenses/..%2Fa%3Fb/renew"


@pytest.mark.parametrize("tier", ["plus", "full"])
def test_lower_tiers(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle, tier: str) -> None:
    keys = tier_keys(world.content_key, bundle.id, 3)
    key = keys[bundle.tier(tier)]
    server.answers.append(lambda body: server.issue(body, tier=tier, content_key=key))
    device.unlock(bundle, tier, GRANT)
    with device.restore(world.locked_path, bundle) as restored:
        assert (bytes(restored) == world.original) == (tier == "full")
        assert bytes(restored) != world.locked_path.read_bytes()
    with device.restore(world.locked_path, bundle, "plus") as restored:
        assert bytes(restored) != world.original
    if tier == "plus":
        with pytest.raises(CoreLockerError) as refused:
            device.restore(world.locked_path, bundle, "full")
        assert refused.value.code == "bundle-content-key"


def test_purchases_of_stores(world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    """What the attestation covers is the token, whatever the provider calls it."""
    for purchase, token in (
        ({"provider": "app-store", "transaction": "t.t.t"}, "t.t.t"),
        ({"provider": "google-play", "kind": "product", "product": "full", "token": "play"}, "play"),
    ):
        device.unlock(bundle, "full", purchase)
        assert server.requests[-1][1]["purchase"] == purchase
        assert accepted(world, server.requests[-1][1], token, server.device_key)
    for purchase in ({"provider": "grant"}, {"token": "x"}, {"provider": "other", "token": "x"}):
        with pytest.raises(ConfigError):
            device.unlock(bundle, "full", purchase)
