"""Everything that the core of the unlock service refuses, one test a threat, and what it does when all is well."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.bundle import jose
from corelocker.bundle.content_keys import tier_keys
from corelocker.errors import ConfigError
from corelocker.licensing import errors
from corelocker.purchases.google_play import GooglePlay
from corelocker.service import admin
from corelocker.service import errors as refusals
from corelocker.service.core import UnlockService
from corelocker.service.keys import KeystoreKeys
from corelocker.service.messages import MAX_REQUEST_SIZE, ChallengeRequest, RenewRequest, UnlockRequest
from corelocker.service.storage import PurchaseKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support import attestation_forge as forge
from support.full_service import (
    APP,
    DAY,
    NOW,
    OTHER_APP,
    TIERS,
    Device,
    FullService,
    full_service,
    push_token,
)
from support.play_server import Call, error_reply, hang, http_server, json_reply

TOKEN = "opaque-token.AO-J1OwA_abcdefgh"
TOKEN_ID = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FullService]:
    with full_service(tmp_path) as made:
        yield made


@pytest.fixture
def any_world(tmp_path: Path, database_url: str) -> Iterator[FullService]:
    """On SQLite and on PostgreSQL, for tests whose outcome depends on the database."""
    with full_service(tmp_path, database_url) as made:
        yield made


def one_time(**changes: Any) -> dict[str, Any]:
    return {
        "productLineItem": [{"productId": "full", "productOfferDetails": {"quantity": 1, "refundableQuantity": 1}}],
        "purchaseStateContext": {"purchaseState": "PURCHASED"},
        "testPurchaseContext": {"fopType": "TEST"},
        "acknowledgementState": "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED",
    } | changes


def subscription(expiry: str, **changes: Any) -> dict[str, Any]:
    return {
        "subscriptionState": "SUBSCRIPTION_STATE_ACTIVE",
        "lineItems": [{"productId": "full", "expiryTime": expiry}],
        "acknowledgementState": "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED",
        "testPurchase": {},
    } | changes


def outcome(world: FullService) -> tuple[str, str]:
    row = world.storage.audit_rows(limit=1)[0]
    return row.event, row.outcome


def reason(refused: pytest.ExceptionInfo[refusals.AttestationRefusedError]) -> Reason:
    return refused.value.reason


def no_license(world: FullService) -> bool:
    return world.storage.list_licenses() == []


# --- all is well ---------------------------------------------------------------------------------


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


# --- challenges ----------------------------------------------------------------------------------


def test_a_request_counts_once(world: FullService) -> None:
    body = world.unlock_body(Device.new())
    world.service.unlock(UnlockRequest.from_json(body))
    with pytest.raises(refusals.ChallengeUsedError):
        world.service.unlock(UnlockRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 1
    assert outcome(world) == ("unlock", "challenge-used")


def test_identical_requests_in_parallel_give_one_license(any_world: FullService) -> None:
    request = UnlockRequest.from_json(any_world.unlock_body(Device.new()))
    assert sorted(in_parallel(20, lambda _: any_world.service.unlock(request))) == ["challenge-used"] * 19 + ["ok"]
    assert len(any_world.storage.list_licenses()) == 1


def in_parallel(count: int, action: Callable[[int], object]) -> list[str]:
    results: list[str] = []
    start = threading.Barrier(count)

    def run(index: int) -> None:
        start.wait()
        try:
            action(index)
            results.append("ok")
        except errors.LicensingError as error:
            results.append(error.code)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_challenge_counts_for_unlock_or_renewal_once(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device)
    body = world.renew_body(device, first.license_id)
    world.service.renew(first.license_id, RenewRequest.from_json(body))
    for _ in range(2):
        with pytest.raises(refusals.ChallengeUsedError):
            world.service.renew(first.license_id, RenewRequest.from_json(body))
    with pytest.raises(refusals.ChallengeUsedError):
        world.unlock(device, challenge=body["challenge"])


def test_a_challenge_expires(world: FullService) -> None:
    device = Device.new()
    late, in_time = world.unlock_body(device), world.unlock_body(device)
    world.clock.now += 299
    world.service.unlock(UnlockRequest.from_json(in_time))
    world.clock.now += 1
    with pytest.raises(refusals.ChallengeExpiredError):
        world.service.unlock(UnlockRequest.from_json(late))


@pytest.mark.parametrize("bend", [lambda c: c[:-1], lambda c: c + "A", lambda c: "A" * 54, lambda c: "~" * 54,
                                  lambda c: c[:20] + ("B" if c[20] != "B" else "C") + c[21:],
                                  lambda c: ("A" if c[10] != "A" else "B").join((c[:10], c[11:]))])  # fmt: skip
def test_a_challenge_has_to_be_ours(world: FullService, bend: Callable[[str], str]) -> None:
    with pytest.raises(refusals.ChallengeError) as refused:
        world.unlock(Device.new(), challenge=bend(world.challenge()))
    assert refused.value.code == "challenge-malformed"


def test_a_challenge_of_another_service_is_none_of_ours(world: FullService, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with full_service(other) as stranger, pytest.raises(refusals.ChallengeError):
        world.unlock(Device.new(), challenge=stranger.challenge())


def test_used_challenges_are_forgotten_when_they_have_expired(world: FullService) -> None:
    body = world.unlock_body(Device.new())
    world.service.unlock(UnlockRequest.from_json(body))
    world.clock.now += 200
    assert world.storage.purge_challenges(int(world.clock.now)) == 0
    world.clock.now += 101
    assert world.service.maintain() == []
    assert world.storage.purge_challenges(int(world.clock.now)) == 0
    with pytest.raises(refusals.ChallengeExpiredError):
        world.service.unlock(UnlockRequest.from_json(body))


# --- relay: a proof is for one device key, app, bundle, tier and purchase --------------------------

RELAYS: dict[str, Callable[[FullService], dict[str, Any]]] = {
    "app": lambda world: {"app": OTHER_APP},
    "bundle": lambda world: {"bundle": world.second},
    "tier": lambda world: {"tier": "plus"},
    "purchase": lambda world: {"token": world.grant("order-2")["token"]},
    "challenge": lambda world: {"challenge": world.challenge()},
}


@pytest.mark.parametrize("proof", ["development", "android", "app-attest"])
@pytest.mark.parametrize("part", RELAYS)
def test_a_proof_for_something_else_is_refused(world: FullService, proof: str, part: str) -> None:
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof=proof, attested=RELAYS[part](world))
    assert reason(refused) in (Reason.SIGNATURE, Reason.WRONG_CHALLENGE)
    assert no_license(world)
    assert outcome(world) == ("unlock", "attestation-refused")


@pytest.mark.parametrize(("proof", "expected"), [("development", Reason.SIGNATURE), ("android", Reason.DEVICE_KEY),
                                                 ("app-attest", Reason.WRONG_CHALLENGE)])  # fmt: skip
def test_a_proof_of_another_device_key_is_refused(world: FullService, proof: str, expected: Reason) -> None:
    thief = Device.new()
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof=proof, device_key=jose.public_jwk(thief.key.public_key()))
    assert reason(refused) is expected
    assert no_license(world)


def test_a_proof_of_an_unlock_is_none_of_a_renewal(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device)
    grant = world.grant()
    for token in (grant["token"], first.license_id, "renew:" + str(uuid.uuid4())):
        with pytest.raises(refusals.AttestationRefusedError):
            world.renew(device, first.license_id, token=token)
    # Nor the other way around: a purchase token that reads like a renewal is no purchase.
    with pytest.raises(errors.PurchaseFormatError):
        world.unlock(device, {"provider": "grant", "token": f"renew:{first.license_id}"})


def test_why_a_proof_was_refused_is_for_the_operator_alone(world: FullService) -> None:
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android", attested={"tier": "plus"})
    assert str(refused.value) == "the proof of the device was refused"
    row = world.storage.audit_rows(limit=1)[0]
    assert row.detail is not None
    assert row.detail.startswith("wrong-challenge")


# --- what there is -------------------------------------------------------------------------------


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
        world.service.unlock(UnlockRequest.from_json(body))


def test_a_device_key_proof_never_unlocks(world: FullService) -> None:
    device = Device.new()
    sealed = world.service.challenge(ChallengeRequest(device.key.public_key()))
    body = world.unlock_body(device, challenge=sealed.challenge)
    proof = world.renew_body(device, str(uuid.uuid4()), "device-key")["attestation"]
    with pytest.raises(refusals.FormatNotAllowedError):
        world.service.unlock(UnlockRequest.from_json(body | {"attestation": proof}))


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


# --- the environment -----------------------------------------------------------------------------


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
        with pytest.raises(refusals.AttestationRefusedError) as refused:
            world.unlock(Device.new(), grant, proof)
        assert reason(refused) is Reason.UNTRUSTED_ROOT
    assert storage.list_licenses() == []
    storage.close()


def test_an_app_attest_instance_of_the_other_environment(world: FullService) -> None:
    text = (world.folder / "service.toml").read_text()
    changed = text.replace(f'app_id = "{forge.APP_ID}"', f'app_id = "{forge.APP_ID}"\nenvironment = "production"')
    (world.folder / "service.toml").write_text(changed)
    world.service = world.open()
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="app-attest")
    assert reason(refused) is Reason.WRONG_ENVIRONMENT


def test_a_database_belongs_to_one_environment(world: FullService) -> None:
    with world.storage.transaction() as transaction:
        transaction.set_setting("environment", "production")
    with pytest.raises(ConfigError, match="another environment"):
        world.open()


# --- the purchase --------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "refusal"), [
    ({"environment": "production"}, errors.PurchaseEnvironmentError),
    ({"app": OTHER_APP}, errors.PurchaseAppError),
    ({"issuer": "another shop"}, errors.PurchaseSignatureError),
    ({"issued_at": NOW - 7200}, errors.PurchaseExpiredError),
    ({"issued_at": NOW + 3600}, errors.PurchaseNotYetValidError),
    ({"until": NOW}, errors.PurchaseExpiredError),
    ({"product": "unheard-of"}, errors.PurchaseProductError),
    ({"product": "plus"}, errors.PurchaseProductError),
])  # fmt: skip
def test_a_grant_that_does_not_count(world: FullService, changes: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        world.unlock(Device.new(), world.grant(**changes))
    assert no_license(world)


def test_a_grant_of_another_signer(world: FullService) -> None:
    from corelocker.licensing.tokens import SoftwareSigner

    world.backend = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(errors.PurchaseSignatureError):
        world.unlock(Device.new())


def test_an_app_store_purchase(world: FullService) -> None:
    device = Device.new()
    issued = world.unlock(device, world.transaction(), "app-attest")
    assert world.renew(device, issued.license_id, "app-assert").expires_at == NOW + 30 * DAY


@pytest.mark.parametrize(("changes", "refusal"), [
    ({"bundleId": "com.example.else"}, errors.PurchaseAppError),
    ({"environment": "Production"}, errors.PurchaseEnvironmentError),
    ({"environment": "Xcode"}, errors.PurchaseEnvironmentError),
    ({"productId": "plus"}, errors.PurchaseProductError),
    ({"revocationDate": NOW * 1000}, errors.PurchaseRevokedError),
    ({"type": "Auto-Renewable Subscription", "expiresDate": NOW * 1000}, errors.PurchaseExpiredError),
])  # fmt: skip
def test_a_transaction_that_does_not_count(
    world: FullService, changes: dict[str, Any], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        world.unlock(Device.new(), world.transaction(**changes))
    assert no_license(world)


def test_a_google_play_purchase(world: FullService) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN), "android")
    world.renew(device, issued.license_id, "device-key")
    stored = world.storage.entitlement(PurchaseKey("google-play", APP, TOKEN_ID))
    assert stored is not None
    assert len(stored.entitlement.places) == 1


@pytest.mark.parametrize(("answer", "refusal"), [
    (one_time(testPurchaseContext=None), errors.PurchaseEnvironmentError),
    (one_time(purchaseStateContext={"purchaseState": "PENDING"}), errors.PurchasePendingError),
    (one_time(purchaseStateContext={"purchaseState": "CANCELLED"}), errors.PurchaseRevokedError),
    (one_time(productLineItem=[{"productId": "plus"}]), errors.PurchaseProductError),
    (None, errors.PurchaseNotFoundError),
])  # fmt: skip
def test_a_google_play_purchase_that_does_not_count(
    world: FullService, answer: dict[str, Any] | None, refusal: type[Exception]
) -> None:
    if answer is not None:
        world.play.products[TOKEN] = {name: value for name, value in answer.items() if value is not None}
    with pytest.raises(refusal):
        world.unlock(Device.new(), world.google(TOKEN))
    assert no_license(world)


# --- entitlement sharing -------------------------------------------------------------------------


def test_one_device_more_than_the_purchase_allows(world: FullService) -> None:
    for _ in range(2):
        world.unlock(Device.new())
    with pytest.raises(errors.DeviceLimitError) as refused:
        world.unlock(Device.new())
    assert refused.value.retry_at == NOW + 30 * DAY
    assert len(world.storage.list_licenses()) == 2
    assert outcome(world) == ("unlock", "device-limit")
    # Another purchase has places of its own.
    world.unlock(Device.new(), world.grant("order-2"))


def test_many_devices_at_once_do_not_get_more_places(any_world: FullService) -> None:
    requests = [UnlockRequest.from_json(any_world.unlock_body(Device.new())) for _ in range(12)]
    results = in_parallel(12, lambda index: any_world.service.unlock(requests[index]))
    assert sorted(results) == ["device-limit"] * 10 + ["ok"] * 2


def test_places_change_hands_slowly(world: FullService) -> None:
    lost, used = Device.new(), Device.new()
    first = world.unlock(lost)
    world.unlock(used)
    newcomer = Device.new()
    world.clock.now += 29 * DAY
    world.unlock(used)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(newcomer)
    world.clock.now += DAY
    world.unlock(newcomer)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(Device.new())
    # Who lost the place is not renewed.
    with pytest.raises(errors.DeviceInactiveError):
        world.renew(lost, first.license_id)


def test_a_released_place_cools_down(world: FullService) -> None:
    devices = [Device.new() for _ in range(2)]
    licenses = [world.unlock(device) for device in devices]
    key = PurchaseKey("grant", APP, "sub:order-1")
    admin.release_device(world.storage, key, devices[0].thumbprint, clock=world.clock)
    with pytest.raises(errors.DeviceInactiveError):
        world.renew(devices[0], licenses[0].license_id)
    with pytest.raises(errors.DeviceLimitError):
        world.unlock(Device.new())
    admin.release_device(world.storage, key, devices[0].thumbprint, at_once=True, clock=world.clock)
    world.unlock(Device.new())


# --- App Attest ----------------------------------------------------------------------------------


def test_an_assertion_before_any_attestation(world: FullService) -> None:
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="app-assert")
    assert reason(refused) is Reason.KEY_ID


def test_an_app_attest_key_counts_in_its_app(world: FullService) -> None:
    device = Device.new()
    world.unlock(device, proof="app-attest")
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(device, world.grant(app=OTHER_APP), "app-assert", app=OTHER_APP)
    assert reason(refused) is Reason.KEY_ID


@pytest.mark.parametrize("counter", [0, 6, 7])
def test_a_counter_never_falls(any_world: FullService, counter: int) -> None:
    device = Device.new()
    any_world.unlock(device, proof="app-attest")
    any_world.unlock(device, proof="app-assert", counter=7)
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        any_world.unlock(device, proof="app-assert", counter=counter)
    assert reason(refused) is Reason.COUNTER
    any_world.unlock(device, proof="app-assert", counter=8)


def test_attesting_again_does_not_bring_the_counter_back(world: FullService) -> None:
    device = Device.new()
    world.unlock(device, proof="app-attest")
    world.unlock(device, proof="app-assert", counter=7)
    world.unlock(device, proof="app-attest")
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(device, proof="app-assert", counter=7)
    assert reason(refused) is Reason.COUNTER


def test_a_counter_that_races_itself(any_world: FullService) -> None:
    """Assertions with one counter, each with a challenge of its own: one counts, whoever has read the old counter."""
    device = Device.new()
    any_world.unlock(device, proof="app-attest")
    requests = [UnlockRequest.from_json(any_world.unlock_body(device, proof="app-assert", counter=5)) for _ in range(8)]
    read, seen = threading.Barrier(8), any_world.storage.attest_key

    def attest_key(key_id: bytes) -> Any:
        found = seen(key_id)
        read.wait(10)
        return found

    any_world.storage.attest_key = attest_key  # type: ignore[method-assign]
    results = in_parallel(8, lambda index: any_world.service.unlock(requests[index]))
    assert sorted(results) == ["attestation-refused"] * 7 + ["ok"]
    key = seen(device.key_id)
    assert key is not None
    assert key.counter == 5


def test_a_refusal_in_the_last_moment_takes_no_place(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter moves on between the check of an assertion and the transaction; a new device key asks with it."""
    device = Device.new()
    world.unlock(device, proof="app-attest")
    stale = world.storage.attest_key(device.key_id)
    world.unlock(device, proof="app-assert", counter=5)
    monkeypatch.setattr(world.storage, "attest_key", lambda key_id: stale)
    newcomer = Device(ec.generate_private_key(ec.SECP256R1()), device.app_key)
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(newcomer, proof="app-assert", counter=5)
    assert reason(refused) is Reason.COUNTER
    stored = world.storage.entitlement(PurchaseKey("grant", APP, "sub:order-1"))
    assert stored is not None
    assert [place.device for place in stored.entitlement.places] == [device.thumbprint]


def test_a_renewal_is_signed_by_the_key_of_the_first_unlock(world: FullService) -> None:
    device, other = Device.new(), Device.new()
    first = world.unlock(device, proof="app-attest")
    world.unlock(other, world.grant("order-2"), "app-attest")
    device.app_key = other.app_key
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.renew(device, first.license_id, "app-assert", counter=9)
    assert reason(refused) is Reason.KEY_ID


# --- Android's revocation list -------------------------------------------------------------------


def test_no_revocation_list_no_android_device(world: FullService) -> None:
    world.revocation.unlink()
    world.service = world.open()
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_MISSING
    with pytest.raises(refusals.NotReadyError):
        world.service.ready()


def test_a_stale_revocation_list(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device, proof="android")
    world.revoke((), age=DAY + 1)
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.renew(device, first.license_id, "device-key")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE
    with pytest.raises(refusals.NotReadyError):
        world.service.ready()
    world.revoke((), age=DAY)
    world.service.ready()
    world.renew(device, first.license_id, "device-key")


def test_a_revocation_list_that_is_fetched(world: FullService) -> None:
    answers = [error_reply(503)]
    calls: list[Call] = []

    def answer(call: Call) -> Any:
        calls.append(call)
        return answers[-1]

    with http_server(answer) as url:
        text = (world.folder / "service.toml").read_text()
        changed = text.replace('revocation_list = "revocation.json"', f'revocation_url = "{url}/status"')
        (world.folder / "service.toml").write_text(changed)
        world.service = world.open()
        for _ in range(3):
            with pytest.raises(refusals.AttestationRefusedError) as refused:
                world.unlock(Device.new(), proof="android")
            assert reason(refused) is Reason.REVOCATION_LIST_MISSING
        # A source that fails is not asked with every request.
        assert len(calls) == 1
        answers.append(json_reply({"entries": {}}))
        world.clock.now += 60
        world.unlock(Device.new(), world.grant("order-1"), "android")
        world.unlock(Device.new(), world.grant("order-2"), "android")
        assert len(calls) == 2
        answers.append(json_reply({"entries": {f"{77:x}": {"status": "REVOKED"}}}))
        world.clock.now += 3600
        world.service.maintain()
        assert len(calls) == 3
        with pytest.raises(refusals.AttestationRefusedError) as refused:
            world.unlock(Device.new(), proof="android")
        assert reason(refused) is Reason.CERTIFICATE_REVOKED
    # The address is gone: the list that was fetched counts for a day.
    world.clock.now += DAY
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED
    world.clock.now += 1
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE


def test_a_damaged_revocation_list_leaves_the_last_good_one(world: FullService) -> None:
    world.unlock(Device.new(), proof="android")
    world.revocation.write_text("{")
    world.unlock(Device.new(), proof="android")
    world.clock.now += DAY + 1
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.REVOCATION_LIST_STALE


@pytest.mark.parametrize("serial", [77, 0x388266760658996857D, 0xF92000], ids=["leaf", "factory", "root"])
def test_a_chain_that_is_revoked_after_the_first_unlock(world: FullService, serial: int) -> None:
    device = Device.new()
    first = world.unlock(device, proof="android")
    world.clock.now += 1
    world.revoke((serial,))
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.renew(device, first.license_id, "device-key")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.unlock(Device.new(), proof="android")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED


def test_a_chain_that_is_revoked_after_a_renewal(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device, proof="android")
    second = world.renew(device, first.license_id, "device-key")
    world.clock.now += 1
    world.revoke((77,))
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.renew(device, second.license_id, "device-key")
    assert reason(refused) is Reason.CERTIFICATE_REVOKED


# --- renewals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "then"), [("android", "development"), ("android", "app-attest"),
                                             ("android", "android"), ("app-attest", "device-key"),
                                             ("app-attest", "development"), ("app-attest", "app-attest"),
                                             ("development", "android"), ("development", "app-attest")])  # fmt: skip
def test_a_renewal_takes_the_proof_that_fits_the_first_one(world: FullService, first: str, then: str) -> None:
    device = Device.new()
    issued = world.unlock(device, proof=first)
    with pytest.raises(refusals.FormatNotAllowedError):
        world.renew(device, issued.license_id, then)


@pytest.mark.parametrize("proof", ["development", "device-key"])
def test_a_renewal_by_another_device_key(world: FullService, proof: str) -> None:
    owner, thief = Device.new(), Device.new()
    issued = world.unlock(owner)
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.renew(thief, issued.license_id, proof)
    assert reason(refused) is Reason.SIGNATURE


@pytest.mark.parametrize("part", ["app", "bundle", "tier", "challenge"])
def test_a_device_key_proof_is_for_one_renewal(world: FullService, part: str) -> None:
    device = Device.new()
    issued = world.unlock(device, proof="android")
    with pytest.raises(refusals.AttestationRefusedError):
        world.renew(device, issued.license_id, "device-key", **RELAYS[part](world))
    body = world.renew_body(device, issued.license_id, "device-key")
    with pytest.raises(refusals.AttestationRefusedError):
        world.service.renew(issued.license_id, RenewRequest.from_json(body | {"challenge": world.challenge()}))


@pytest.mark.parametrize(
    "license_id", ["", "x", "../..", "0" * 36, "A" * 5000, "8c7f0a52-3d1e-4b69-9a40-5e2f6c1d7b83", "\0", "'; --"]
)
def test_a_license_that_was_never_issued(world: FullService, license_id: str) -> None:
    with pytest.raises(refusals.LicenseUnknownError):
        world.renew(Device.new(), license_id)


def test_a_license_can_be_renewed_for_a_while_after_its_end(world: FullService) -> None:
    device = Device.new()
    issued = world.unlock(device)
    world.clock.now = NOW + 210 * DAY - 1
    world.renew(device, issued.license_id, "device-key")
    world.clock.now += 1
    with pytest.raises(errors.LicenseExpiredError):
        world.renew(device, issued.license_id, "device-key")


def test_a_revoked_license_is_not_renewed_and_its_device_gets_no_other(any_world: FullService) -> None:
    device, other = Device.new(), Device.new()
    first = any_world.unlock(device)
    renewed = any_world.renew(device, first.license_id)
    spared = any_world.unlock(other)
    assert admin.revoke_license(any_world.storage, first.license_id, reason="lost", clock=any_world.clock) == 2
    for license_id in (first.license_id, renewed.license_id):
        with pytest.raises(errors.LicenseRevokedError):
            any_world.renew(device, license_id)
    with pytest.raises(errors.LicenseRevokedError):
        any_world.unlock(device)
    any_world.renew(other, spared.license_id)
    key = PurchaseKey("grant", APP, "sub:order-1")
    admin.allow_device(any_world.storage, key, device.thumbprint, clock=any_world.clock)
    any_world.unlock(device)
    with pytest.raises(errors.LicenseRevokedError):
        any_world.renew(device, first.license_id)


def test_a_license_that_is_revoked_after_it_was_read(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewal has read the license; it is revoked, and the device let in again, before the renewal decides."""
    device = Device.new()
    first = world.unlock(device)
    stale = world.storage.license(first.license_id)
    admin.revoke_license(world.storage, first.license_id, clock=world.clock)
    admin.allow_device(world.storage, PurchaseKey("grant", APP, "sub:order-1"), device.thumbprint, clock=world.clock)
    monkeypatch.setattr(world.storage, "license", lambda jti: stale)
    with pytest.raises(errors.LicenseRevokedError):
        world.renew(device, first.license_id)
    assert len(world.storage.list_licenses()) == 1


def test_a_closed_purchase_unlocks_nothing_for_anybody(world: FullService) -> None:
    device, other = Device.new(), Device.new()
    first, spared = world.unlock(device), world.unlock(other)
    admin.revoke_license(world.storage, first.license_id, purchase=True, clock=world.clock)
    for refused in (lambda: world.renew(other, spared.license_id), lambda: world.unlock(Device.new())):
        with pytest.raises(errors.PurchaseRevokedError):
            refused()


def test_a_license_of_an_app_that_is_gone(world: FullService) -> None:
    device = Device.new()
    issued = world.unlock(device, proof="android")
    text = (world.folder / "service.toml").read_text()
    start, end = text.index("[apps.android]"), text.index("[apps.apple]")
    (world.folder / "service.toml").write_text(text[:start] + text[end:])
    world.service = world.open()
    with pytest.raises(refusals.FormatNotAllowedError):
        world.renew(device, issued.license_id, "device-key")


# --- refunds -------------------------------------------------------------------------------------


def test_a_refund_at_the_app_store_ends_renewals_and_unlocks(any_world: FullService) -> None:
    device, bought = Device.new(), any_world.transaction()
    issued = any_world.unlock(device, bought)
    any_world.clock.now += 60
    any_world.service.app_store_notice(
        APP, any_world.apple_notice("REFUND", revocationDate=int(any_world.clock.now * 1000))
    )
    with pytest.raises(errors.PurchaseRevokedError):
        any_world.renew(device, issued.license_id)
    # The transaction that was signed before the refund still verifies; it does not count any more.
    with pytest.raises(errors.PurchaseRevokedError):
        any_world.unlock(device, bought)


def test_a_refund_that_is_told_before_the_purchase_is_shown(world: FullService) -> None:
    bought = world.transaction()
    world.clock.now += 60
    world.service.app_store_notice(APP, world.apple_notice("REFUND", revocationDate=int(world.clock.now * 1000)))
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(Device.new(), bought)


def test_notices_replayed_and_out_of_order(world: FullService) -> None:
    device = Device.new()
    bought = world.apple_notice("ONE_TIME_CHARGE")
    world.clock.now += 60
    refunded = world.apple_notice("REFUND", revocationDate=int(world.clock.now * 1000))
    world.clock.now += 60
    reversed_ = world.apple_notice("REFUND_REVERSED")
    for notice in (refunded, bought, refunded, bought):
        world.service.app_store_notice(APP, notice)
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(device, world.transaction(signedDate=int(world.clock.now * 1000) - 90_000))
    for notice in (reversed_, refunded, bought):
        world.service.app_store_notice(APP, notice)
    world.unlock(device, world.transaction())


def test_a_notice_about_something_that_is_not_sold_here_keeps_nothing(world: FullService) -> None:
    world.service.app_store_notice(APP, world.apple_notice("REFUND", productId="coins"))
    assert world.storage.entitlement(PurchaseKey("app-store", APP, "1000")) is None
    assert outcome(world) == ("notice", "ok")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"signedPayload": 1}', b'{"signedPayload": "a.b.c"}'])
def test_a_notice_that_apple_did_not_sign(world: FullService, body: bytes) -> None:
    with pytest.raises(errors.LicensingError) as refused:
        world.service.app_store_notice(APP, body)
    assert refused.value.code in ("request-malformed", "purchase-format", "purchase-signature")
    assert outcome(world) == ("notice", refused.value.code)


@pytest.mark.parametrize("app", ["com.example.nobody", OTHER_APP])
def test_notices_for_an_app_that_takes_none(world: FullService, app: str) -> None:
    with pytest.raises((refusals.AppUnknownError, refusals.ProviderNotAllowedError)):
        world.service.app_store_notice(app, world.apple_notice("REFUND"))
    with pytest.raises((refusals.AppUnknownError, refusals.ProviderNotAllowedError)):
        world.service.google_play_notice(app, push_token(NOW), b"{}")


def google_notice(**content: Any) -> bytes:
    notice = {"version": "1.0", "packageName": APP, "eventTimeMillis": str(NOW * 1000 + 1)} | content
    data = base64.b64encode(json.dumps(notice).encode()).decode()
    return json.dumps({"message": {"data": data, "messageId": "1"}, "subscription": "s"}).encode()


VOIDED = {"voidedPurchaseNotification": {"purchaseToken": TOKEN, "orderId": "1", "productType": 2, "refundType": 1}}
CHANGED = {"oneTimeProductNotification": {"purchaseToken": TOKEN, "notificationType": 2, "version": "1.0"}}


def test_a_refund_at_google_play_is_asked_for_at_renewal(world: FullService) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN))
    world.clock.now += 60
    world.play.products[TOKEN] = one_time(purchaseStateContext={"purchaseState": "CANCELLED"})
    with pytest.raises(errors.PurchaseRevokedError):
        world.renew(device, issued.license_id)
    assert outcome(world) == ("renew", "purchase-revoked")
    # What the store said is kept although nothing was issued.
    stored = world.storage.entitlement(PurchaseKey("google-play", APP, TOKEN_ID))
    assert stored is not None
    assert [known.status for known in stored.entitlement.purchases] == ["revoked"]


@pytest.mark.parametrize(
    "order", [(VOIDED,), (VOIDED, CHANGED), (CHANGED, VOIDED, VOIDED)], ids=["once", "then", "twice"]
)
def test_a_voided_order_at_google_play_stays_void(world: FullService, order: tuple[dict[str, Any], ...]) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN))
    for content in order:
        world.service.google_play_notice(APP, push_token(NOW), google_notice(**content))
    world.clock.now += 60
    # Google's answer may go on saying PURCHASED.
    with pytest.raises(errors.PurchaseRevokedError):
        world.renew(device, issued.license_id)
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(device, world.google(TOKEN))


def test_a_voided_order_that_no_notice_told(world: FullService) -> None:
    world.play.products[TOKEN] = one_time()
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN))
    world.play.voided = [{"purchaseToken": TOKEN, "voidedTimeMillis": str(NOW * 1000 + 5)},
                         {"purchaseToken": "never-shown-here", "voidedTimeMillis": "1"}]  # fmt: skip
    world.clock.now += 60
    assert world.service.maintain() == []
    with pytest.raises(errors.PurchaseRevokedError):
        world.renew(device, issued.license_id)
    asked = [call for call in world.play.calls if call.path.endswith("voidedpurchases")]
    assert world.service.maintain() == []
    assert len([call for call in world.play.calls if call.path.endswith("voidedpurchases")]) == len(asked)


@pytest.mark.parametrize(("authorization", "content"), [
    (None, CHANGED), ("Bearer x.y.z", CHANGED), (push_token(NOW, aud="https://else"), CHANGED),
    (push_token(NOW, email="else@x"), CHANGED), (push_token(NOW - 9000), CHANGED),
    (push_token(NOW), CHANGED | {"packageName": "com.example.else"}),
])  # fmt: skip
def test_a_notice_that_google_did_not_send(
    world: FullService, authorization: str | None, content: dict[str, Any]
) -> None:
    with pytest.raises(errors.PurchaseNoticeError):
        world.service.google_play_notice(APP, authorization, google_notice(**content))
    assert outcome(world) == ("notice", "purchase-notice")


def test_a_notice_about_a_purchase_that_nobody_has_shown(world: FullService) -> None:
    world.service.google_play_notice(APP, push_token(NOW), google_notice(**VOIDED))
    assert world.storage.entitlement(PurchaseKey("google-play", APP, TOKEN_ID)) is None


def test_a_subscription_is_renewed_by_the_store_and_then_ends(world: FullService) -> None:
    world.play.subscriptions[TOKEN] = subscription("2026-03-11T12:00:00Z")
    device = Device.new()
    issued = world.unlock(device, world.google(TOKEN, kind="subscription"))
    assert issued.expires_at == NOW + 10 * DAY
    world.clock.now += 11 * DAY
    world.play.subscriptions[TOKEN] = subscription("2026-03-21T12:00:00Z")
    renewed = world.renew(device, issued.license_id)
    assert renewed.expires_at == NOW + 20 * DAY
    world.clock.now += 10 * DAY
    with pytest.raises(errors.PurchaseExpiredError):
        world.renew(device, renewed.license_id)


def test_an_upgrade_takes_the_devices_along(any_world: FullService) -> None:
    any_world.play.subscriptions[TOKEN] = subscription("2026-03-11T12:00:00Z")
    devices = [Device.new() for _ in range(2)]
    licenses = [any_world.unlock(device, any_world.google(TOKEN, kind="subscription")) for device in devices]
    newer = "newer-" + TOKEN
    any_world.play.subscriptions[newer] = subscription("2026-03-31T12:00:00Z", linkedPurchaseToken=TOKEN)
    # The places are taken: switching plans gives no fresh ones.
    with pytest.raises(errors.DeviceLimitError):
        any_world.unlock(Device.new(), any_world.google(newer, kind="subscription"))
    any_world.unlock(devices[0], any_world.google(newer, kind="subscription"))
    for device, license_ in zip(devices, licenses, strict=True):
        with pytest.raises(errors.PurchaseSupersededError):
            any_world.renew(device, license_.license_id)


def test_the_app_store_is_asked_at_renewal_where_it_can_be(world: FullService) -> None:
    """No notification came; Apple's own answer tells of the refund, and where it gives none, nothing is issued."""
    answers: list[Any] = []
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (world.folder / "api.p8").write_bytes(private)
    with http_server(lambda call: answers[-1]) as url:
        text = (world.folder / "service.toml").read_text()
        api = f'[apps.app_store.api]\nissuer_id = "i"\nkey_id = "k"\nprivate_key_file = "api.p8"\nbase_url = "{url}"\n'
        (world.folder / "service.toml").write_text(text.replace("[apps.google_play]", api + "[apps.google_play]"))
        world.service = world.open()
        device = Device.new()
        issued = world.unlock(device, world.transaction())
        answers.append(json_reply({"signedTransactionInfo": world.transaction()["transaction"]}))
        world.renew(device, issued.license_id)
        world.clock.now += 60
        answers.append(error_reply(500))
        with pytest.raises(errors.PurchaseUpstreamError):
            world.renew(device, issued.license_id)
        refunded = world.transaction(revocationDate=int(world.clock.now * 1000))["transaction"]
        answers.append(json_reply({"signedTransactionInfo": refunded}))
        with pytest.raises(errors.PurchaseRevokedError):
            world.renew(device, issued.license_id)
    # The refund is known from now on, also without Apple.
    with pytest.raises(errors.PurchaseRevokedError):
        world.unlock(device, world.transaction(signedDate=NOW * 1000))


# --- acknowledging -------------------------------------------------------------------------------


def test_a_purchase_is_acknowledged_once_it_was_delivered(any_world: FullService) -> None:
    any_world.play.products[TOKEN] = one_time(acknowledgementState="ACKNOWLEDGEMENT_STATE_PENDING")
    any_world.unlock(Device.new(), any_world.google(TOKEN))
    assert len(any_world.storage.unacknowledged()) == 1
    any_world.play.failures[":acknowledge"] = lambda call: error_reply(503)
    assert [error.code for error in any_world.service.maintain()] == ["purchase-upstream"]
    assert len(any_world.storage.unacknowledged()) == 1
    any_world.play.failures.clear()
    assert any_world.service.maintain() == []
    assert any_world.play.products[TOKEN]["acknowledgementState"] == "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED"
    assert any_world.storage.unacknowledged() == []
    calls = len(any_world.play.calls)
    any_world.service.maintain()
    assert len(any_world.play.calls) == calls


def test_a_purchase_that_was_not_delivered_is_not_acknowledged(world: FullService) -> None:
    pending = one_time(acknowledgementState="ACKNOWLEDGEMENT_STATE_PENDING")
    world.play.products[TOKEN] = pending
    with pytest.raises(errors.PurchaseProductError):
        world.unlock(Device.new(), world.google(TOKEN, product="else"))
    world.play.products[TOKEN] = pending | {"productLineItem": [{"productId": "plus"}]}
    with pytest.raises(errors.PurchaseProductError):
        world.unlock(Device.new(), world.google(TOKEN, product="plus"))
    assert world.storage.unacknowledged() == []
    world.service.maintain()
    assert not [call for call in world.play.calls if call.path.endswith(":acknowledge")]


# --- the stores fail -----------------------------------------------------------------------------

FAILURES: dict[str, Callable[[Call], Any]] = {
    "429": lambda call: error_reply(429, headers={"Retry-After": "7"}),
    "500": lambda call: error_reply(500),
    "503": lambda call: error_reply(503),
    "not JSON": lambda call: (200, {}, b"<html>"),
    "another shape": lambda call: json_reply({"productLineItem": "full"}),
    "hangs up": lambda call: lambda out: None,
    "hangs": hang(3.0),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_store_that_cannot_be_asked_releases_nothing(world: FullService, failure: str) -> None:
    world.play.products[TOKEN] = one_time()
    be_impatient(world)
    device = Device.new()
    body = world.unlock_body(device, world.google(TOKEN))
    world.play.failures["tokens"] = FAILURES[failure]
    for _ in range(2):
        with pytest.raises(errors.PurchaseUpstreamError) as refused:
            world.service.unlock(UnlockRequest.from_json(body))
    assert refused.value.retryable
    assert refused.value.retry_after == (7 if failure == "429" else None)
    assert no_license(world)
    # Nothing was decided: the same request counts when the store answers again, once.
    world.play.failures.clear()
    issued = world.service.unlock(UnlockRequest.from_json(body))
    with pytest.raises(refusals.ChallengeUsedError):
        world.service.unlock(UnlockRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 1
    body = world.renew_body(device, issued.license_id)
    world.play.failures["tokens"] = FAILURES[failure]
    with pytest.raises(errors.PurchaseUpstreamError):
        world.service.renew(issued.license_id, RenewRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 1
    world.play.failures.clear()
    world.service.renew(issued.license_id, RenewRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 2


def be_impatient(world: FullService) -> None:
    from dataclasses import replace

    app = world.service._apps[APP]
    assert app.google_play is not None
    play = GooglePlay(replace(app.google_play._config, timeout=1.0), app.google_play._api.credentials)
    world.service = UnlockService(
        world.service._config,
        world.storage,
        KeystoreKeys(world.keystore),
        clock=world.clock,
        verifiers={**world.service._apps, APP: replace(app, google_play=play)},
    )


def test_a_store_that_refuses_our_credentials(world: FullService) -> None:
    world.play.failures["tokens"] = lambda call: error_reply(403, "permissionDenied")
    with pytest.raises(errors.PurchaseUpstreamDeniedError):
        world.unlock(Device.new(), world.google(TOKEN))
    assert no_license(world)


# --- keys and storage fail -----------------------------------------------------------------------


def test_a_signer_that_fails_leaves_nothing_behind(world: FullService) -> None:
    class Broken:
        public_key = world.backend.public_key

        def sign(self, data: bytes) -> bytes:
            raise RuntimeError("the HSM is gone")

    body = world.unlock_body(Device.new())
    keys, signer = KeystoreKeys(world.keystore), KeystoreKeys(world.keystore)._signer
    broken = UnlockService(world.service._config, world.storage, keys, clock=world.clock)
    keys._signer = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        broken.unlock(UnlockRequest.from_json(body))
    assert no_license(world)
    assert world.storage.entitlement(PurchaseKey("grant", APP, "sub:order-1")) is None
    keys._signer = signer
    broken.unlock(UnlockRequest.from_json(body))


def test_decided_together_as_if_alone(any_world: FullService) -> None:
    """A batch of first unlocks, an assertion, a renewal, a used challenge and more devices than there are places."""
    world, service = any_world, any_world.service
    known, app = Device.new(), Device.new()
    issued = world.unlock(known, world.grant("renewed"))
    world.unlock(app, world.grant("asserted"), "app-attest")
    many = [Device.new() for _ in range(4)]
    bodies = [world.unlock_body(device, world.grant("crowded")) for device in many]
    bodies.append(world.unlock_body(app, world.grant("asserted"), "app-assert"))
    cases = [service.check_unlock(UnlockRequest.from_json(body)) for body in bodies]
    renewal = RenewRequest.from_json(world.renew_body(known, issued.license_id))
    cases.append(service.check_renewal(issued.license_id, renewal))
    cases.append(service.check_unlock(UnlockRequest.from_json(bodies[4])))
    outcomes = service.decide(cases)
    found = [getattr(outcome, "code", "license") for outcome in outcomes]
    assert sorted(found[:4]) == ["device-limit", "device-limit", "license", "license"]
    assert sorted((found[4], found[6])) == ["challenge-used", "license"]
    assert found[5] == "license"
    stored = world.storage.entitlement(PurchaseKey("grant", APP, "sub:crowded"))
    assert stored is not None
    assert {place.device for place in stored.entitlement.places} == {
        device.thumbprint for device, outcome in zip(many, found, strict=False) if outcome == "license"
    }
    for case, outcome in zip(cases, outcomes, strict=True):
        if not isinstance(outcome, Exception):
            assert world.read(outcome).device == case.device
            license_ = world.storage.license(outcome.license_id)
            assert license_ is not None
            assert license_.device == case.device
    rows = world.storage.audit_rows(limit=7)
    assert [row.outcome for row in reversed(rows)] == [code.replace("license", "ok") for code in found]
    assert {row.license_id for row in rows if row.outcome == "ok" and row.event == "unlock"} < {
        getattr(outcome, "license_id", None) for outcome in outcomes
    }
    replaced = world.storage.license(issued.license_id)
    assert replaced is not None
    assert replaced.replaced_by == getattr(outcomes[5], "license_id", "")


def test_what_is_wrong_with_one_stays_with_it(any_world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider has lost the key of one tier: the others of the batch get their licenses, and that one no place."""
    world, content_key = any_world, any_world.service._keys.content_key

    def lost(bundle: str, tier: str) -> bytes:
        if tier == "plus":
            raise RuntimeError("the HSM is gone")
        return content_key(bundle, tier)

    monkeypatch.setattr(world.service._keys, "content_key", lost)
    devices = [Device.new() for _ in range(5)]
    tiers = ["full", "full", "plus", "full", "full"]
    cases = [
        world.service.check_unlock(
            UnlockRequest.from_json(world.unlock_body(device, world.grant(f"order-{index}"), tier=tier))
        )
        for index, (device, tier) in enumerate(zip(devices, tiers, strict=True))
    ]
    outcomes = world.service.decide(cases)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Issued", "Issued", "RuntimeError", "Issued", "Issued"]
    assert len(world.storage.list_licenses()) == 4
    assert world.storage.entitlement(PurchaseKey("grant", APP, "sub:order-2")) is None
    assert [row.outcome for row in world.storage.audit_rows(limit=10)] == ["ok"] * 4
    # Its challenge was not used up either.
    monkeypatch.undo()
    (outcome,) = world.service.decide([cases[2]])
    assert not isinstance(outcome, Exception)


def test_a_batch_is_as_durable_as_its_most_important_case(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    committed: list[bool] = []
    transaction = world.storage.transaction

    @contextmanager
    def spy(*, durable: bool = True) -> Iterator[Any]:
        with transaction(durable=durable) as opened:
            yield opened
        committed.append(durable)

    monkeypatch.setattr(world.storage, "transaction", spy)
    old, new, app = Device.new(), Device.new(), Device.new()
    world.unlock(old, world.grant("old"))
    world.unlock(app, world.grant("app"), "app-attest")

    def case(device: Device, order: str, proof: str = "development") -> Any:
        body = world.unlock_body(device, world.grant(order), proof)
        return world.service.check_unlock(UnlockRequest.from_json(body))

    def decided(*cases: Any) -> list[bool]:
        committed.clear()
        assert not any(isinstance(outcome, Exception) for outcome in world.service.decide(cases))
        return list(committed)

    assert decided(case(old, "old"), case(app, "app", "app-assert")) == [False]
    assert decided(case(old, "old"), case(new, "new")) == [True]
    # An assertion is expected of an app that has its place; this one comes with another purchase.
    assert decided(case(old, "old"), case(app, "another", "app-assert")) == [True]


def test_a_database_that_is_gone(world: FullService) -> None:
    body = world.unlock_body(Device.new())
    world.service.ready()
    world.storage.close()
    for name in ("unlock.sqlite", "unlock.sqlite-wal", "unlock.sqlite-shm"):
        (world.folder / name).unlink(missing_ok=True)
    (world.folder / "unlock.sqlite").mkdir()
    with pytest.raises(refusals.StorageError) as refused:
        world.service.unlock(UnlockRequest.from_json(body))
    assert refused.value.retryable
    with pytest.raises(refusals.StorageError):
        world.service.ready()


def test_what_must_not_be_forgotten_is_committed_durably(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that is given away, a refund that is told: before the answer leaves. A device in its place: not."""
    committed: list[bool] = []
    transaction = world.storage.transaction

    @contextmanager
    def spy(*, durable: bool = True) -> Iterator[Any]:
        with transaction(durable=durable) as opened:
            yield opened
        committed.append(durable)

    monkeypatch.setattr(world.storage, "transaction", spy)

    def last(action: Callable[[], object]) -> bool:
        committed.clear()
        try:
            action()
        except errors.LicensingError:
            assert outcome(world)[1] != "ok"
        assert len(committed) == 1
        return committed[0]

    world.play.products[TOKEN] = one_time()
    for proof in ("development", "android", "app-attest"):
        device = Device.new()
        assert last(lambda: world.unlock(device, world.grant(proof), proof))  # noqa: B023
    device = Device.new()
    assert last(lambda: world.unlock(device, world.google(TOKEN)))
    assert not last(lambda: world.unlock(device, world.google(TOKEN)))
    license_id = world.storage.list_licenses(device=device.thumbprint)[0].jti
    assert not last(lambda: world.renew(device, license_id))
    world.play.products[TOKEN] = one_time(purchaseStateContext={"purchaseState": "CANCELLED"})
    world.clock.now += 1
    assert last(lambda: world.renew(device, license_id))
    assert not last(lambda: world.renew(device, license_id))
    assert last(lambda: world.service.app_store_notice(APP, world.apple_notice("REFUND")))


# --- what leaks ----------------------------------------------------------------------------------


def test_the_audit_log_and_reprs_hold_no_secret(world: FullService) -> None:
    device = Device.new()
    world.play.products[TOKEN] = one_time()
    bodies = [world.unlock_body(device, world.google(TOKEN)), world.unlock_body(device)]
    bodies.append(world.unlock_body(device, attested={"tier": "plus"}))
    requests = [UnlockRequest.from_json(body) for body in bodies]
    issued = [world.service.unlock(request) for request in requests[:2]]
    with pytest.raises(refusals.AttestationRefusedError) as refused:
        world.service.unlock(requests[2])
    text = repr(world.storage.audit_rows()) + repr(issued) + repr(world.service._config) + repr(world.storage)
    text += repr(requests) + repr(refused.value)
    text += repr(world.storage.list_licenses())
    for secret in (TOKEN, TOKEN_ID, "sub:order-1", *(body["purchase"]["token"] for body in bodies), issued[0].license):
        assert secret not in text
    assert world.storage.secret().hex() not in text


# --- requests ------------------------------------------------------------------------------------


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
    sealed = [world.service.challenge(request) for _ in range(2)]
    secrets = {
        device.software.open(jose.decode_base64url(challenge.sealed or ""), b"corelocker proof v1")
        for challenge in sealed
    }
    assert len(secrets) == 2
    assert "sealed" not in world.service.challenge(ChallengeRequest()).to_json()
