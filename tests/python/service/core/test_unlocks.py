"""First unlocks: what a device gets, and what the service does not know or take."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle.content_keys import tier_keys
from corelocker.errors import ConfigError
from corelocker.licensing import errors as refusals
from corelocker.service.core import UnlockService
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.keys import KeystoreKeys
from corelocker.service.messages import ChallengeRequest, UnlockRequest
from corelocker.service.records import PurchaseKey
from support import attestation_forge as forge
from support.full_service import (
    APP,
    DAY,
    NOW,
    OTHER_APP,
    TIERS,
    TOKEN,
    Device,
    FullService,
    no_license,
    outcome,
    reason,
)

# --- all is well ----------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", ["development", "android", "app-attest"])
def test_a_device_unlocks(world: FullService, proof: str) -> None:
    device = Device.new()
    issued = world.unlock(device, proof=proof)
    license_ = world.read(issued)
    assert license_.open(device.software) == world.content_key
    assert (license_.app, license_.bundle, license_.tier) == (APP, world.bundle, "full")
    assert (license_.environment, license_.model_version) == ("development", 1)
    assert (license_.license_id, license_.expires_at, license_.renew_at) == (
        issued.license_id,
        issued.expires_at,
        issued.renew_at,
    )
    assert issued.expires_at == NOW + 30 * DAY
    stored = world.storage.license(issued.license_id)
    assert stored is not None
    assert stored.format == {"development": "development", "android": "android-key"}.get(proof, "apple-app-attest")
    assert outcome(world) == ("unlock", "ok")


def test_a_lower_tier_gets_the_lower_key(world: FullService) -> None:
    device = Device.new()
    license_ = world.read(world.unlock(device, world.grant(product="plus"), tier="plus"))
    assert license_.open(device.software) == tier_keys(world.content_key, uuid.UUID(world.bundle), 3)[1]
    assert license_.tier == "plus"


@pytest.mark.parametrize(("proof", "renewing"), [("development", "development"), ("development", "device-key"),
                                                 ("android", "device-key"), ("app-attest", "app-assert")])  # fmt: skip
def test_a_license_is_renewed(world: FullService, proof: str, renewing: str) -> None:
    device = Device.new()
    first = world.unlock(device, proof=proof)
    world.clock.now += 20 * DAY
    world.revoke(())
    second = world.renew(device, first.license_id, renewing)
    assert world.read(second).open(device.software) == world.content_key
    assert second.expires_at == NOW + 50 * DAY
    old = world.storage.license(first.license_id)
    assert old is not None
    assert old.replaced_by == second.license_id
    # And the next one after that: what a renewal needs to know went from license to license.
    assert world.renew(device, second.license_id, renewing).license_id != second.license_id


def test_an_answer_that_was_lost_is_asked_for_again(any_world: FullService) -> None:
    device = Device.new()
    first = any_world.unlock(device)
    again = any_world.unlock(device)
    assert first.license_id != again.license_id
    renewed = [any_world.renew(device, first.license_id).license_id for _ in range(2)]
    assert len(set(renewed)) == 2
    stored = any_world.storage.entitlement(PurchaseKey("grant", APP, "sub:order-1"))
    assert stored is not None
    assert [place.device for place in stored.entitlement.places] == [device.thumbprint]


def test_an_iphone_asserts_after_it_has_attested_once(world: FullService) -> None:
    device = Device.new()
    world.unlock(device, proof="app-attest")
    for _ in range(3):
        world.unlock(device, proof="app-assert")
    key = world.storage.attest_key(device.key_id)
    assert key is not None
    assert key.counter == 3


def test_a_license_ends_with_what_was_paid(world: FullService) -> None:
    issued = world.unlock(Device.new(), world.grant(until=NOW + 5 * DAY))
    assert (issued.expires_at, issued.renew_at) == (NOW + 5 * DAY, NOW + 5 * DAY * 2 // 3)


def test_a_perpetual_license(world: FullService) -> None:
    world.write(licenses="perpetual = true")
    world.service = world.open()
    issued = world.unlock(Device.new())
    assert (issued.expires_at, issued.renew_at) == (None, None)
    assert world.read(issued).expires_at is None


# --- what there is --------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "refusal"), [
    ({"app": "com.example.nobody"}, refusals.AppUnknownError),
    ({"bundle": "00000000-0000-0000-0000-000000000000"}, refusals.BundleUnknownError),
    ({"bundle": "full"}, refusals.BundleUnknownError),
    ({"tier": "ultra"}, refusals.TierUnknownError),
    ({"tier": TIERS[0]}, refusals.TierUnknownError),
])  # fmt: skip
def test_unknown_names(world: FullService, members: dict[str, str], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        world.unlock(Device.new(), **members)
    assert no_license(world)
    assert outcome(world)[0] == "unlock"


def test_an_app_takes_its_formats_only(world: FullService) -> None:
    body = world.unlock_body(Device.new(), world.grant(app=OTHER_APP), "android", app=OTHER_APP)
    with pytest.raises(refusals.FormatNotAllowedError):
        world.service.decisions.unlock(UnlockRequest.from_json(body))


def test_a_device_key_proof_never_unlocks(world: FullService) -> None:
    device = Device.new()
    sealed = world.service.challenges.issue(ChallengeRequest(device.key.public_key()))
    body = world.unlock_body(device, challenge=sealed.challenge)
    proof = world.renew_body(device, str(uuid.uuid4()), "device-key")["attestation"]
    with pytest.raises(refusals.FormatNotAllowedError):
        world.service.decisions.unlock(UnlockRequest.from_json(body | {"attestation": proof}))


def test_an_app_takes_its_providers_only(world: FullService) -> None:
    with pytest.raises(refusals.ProviderNotAllowedError):
        world.unlock(Device.new(), world.google(TOKEN), app=OTHER_APP)


def test_an_old_model_is_not_unlocked_or_renewed(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device)
    world.write(extra='[[models]]\nname = "scanner"\nminimum_version = 2\n')
    world.service = world.open()
    with pytest.raises(refusals.BundleRetiredError):
        world.unlock(device)
    with pytest.raises(refusals.BundleRetiredError):
        world.renew(device, first.license_id)
    license_ = world.read(world.unlock(device, bundle=world.second))
    assert (license_.bundle, license_.model_version) == (world.second, 2)
    with pytest.raises(Exception, match="does not open"):
        # The old model's wrapped key does not become the new one's.
        device.software.open(world.read(first).wrapped_key, license_.info)


# --- the environment ------------------------------------------------------------------------------


def test_a_service_in_production_takes_no_development_proof(world: FullService, tmp_path: Path) -> None:
    (tmp_path / "service.toml").write_text(
        f"""
environment = "production"
issuer = "https://unlock.example.com"
database_url = "sqlite:///production.sqlite"
[keys]
keystore = "keys.json"
[attestation]
revocation_list = "revocation.json"
[[apps]]
id = "{APP}"
[apps.android]
signer_digests = ["{forge.SIGNER.hex()}"]
[apps.apple]
app_id = "{forge.APP_ID}"
[apps.grant]
issuer = "shop"
keys = ["backend.pem"]
[[products]]
app = "{APP}"
product = "full"
bundle = "{world.bundle}"
tier = "full"
"""
    )
    from corelocker.service.config_file import load_config
    from corelocker.service.storage import Storage

    config = load_config(tmp_path / "service.toml")
    storage = Storage.open(config.database_url, migrate=True)
    production = UnlockService(config, storage, KeystoreKeys(world.keystore), clock=world.clock)
    world.service = production
    grant = world.grant(environment="production")
    with pytest.raises(refusals.FormatNotAllowedError):
        world.unlock(Device.new(), grant)
    # Roots of the tests, and an app that was run from Xcode, do not count either.
    for proof in ("android", "app-attest"):
        with pytest.raises(AttestationRefusedError) as refused:
            world.unlock(Device.new(), grant, proof)
        assert reason(refused) is Reason.UNTRUSTED_ROOT
    assert storage.list_licenses() == []
    storage.close()


def test_an_app_attest_instance_of_the_other_environment(world: FullService) -> None:
    text = (world.folder / "service.toml").read_text()
    changed = text.replace(f'app_id = "{forge.APP_ID}"', f'app_id = "{forge.APP_ID}"\nenvironment = "production"')
    (world.folder / "service.toml").write_text(changed)
    world.service = world.open()
    with pytest.raises(AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="app-attest")
    assert reason(refused) is Reason.WRONG_ENVIRONMENT


def test_a_database_belongs_to_one_environment(world: FullService) -> None:
    with world.storage.transaction() as transaction:
        transaction.set_setting("environment", "production")
    with pytest.raises(ConfigError, match="another environment"):
        world.open()
