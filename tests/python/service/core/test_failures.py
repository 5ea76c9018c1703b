"""Stores, keys and the database fail: nothing is released, nothing is lost, nothing leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from corelocker.licensing import errors
from corelocker.licensing import errors as refusals
from corelocker.purchases.google_play import GooglePlay
from corelocker.service.core import UnlockService
from corelocker.service.errors import AttestationRefusedError
from corelocker.service.keys import KeystoreKeys
from corelocker.service.messages import RenewRequest, UnlockRequest
from corelocker.service.records import PurchaseKey
from support.full_service import (
    APP,
    TOKEN,
    TOKEN_ID,
    Device,
    FullService,
    no_license,
    one_time,
    outcome,
)
from support.play_server import Call, error_reply, hang, json_reply

# --- the stores fail ------------------------------------------------------------------------------


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
            world.service.decisions.unlock(UnlockRequest.from_json(body))
    assert refused.value.retryable
    assert refused.value.retry_after == (7 if failure == "429" else None)
    assert no_license(world)
    # Nothing was decided: the same request counts when the store answers again, once.
    world.play.failures.clear()
    issued = world.service.decisions.unlock(UnlockRequest.from_json(body))
    with pytest.raises(refusals.ChallengeUsedError):
        world.service.decisions.unlock(UnlockRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 1
    body = world.renew_body(device, issued.license_id)
    world.play.failures["tokens"] = FAILURES[failure]
    with pytest.raises(errors.PurchaseUpstreamError):
        world.service.decisions.renew(issued.license_id, RenewRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 1
    world.play.failures.clear()
    world.service.decisions.renew(issued.license_id, RenewRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 2


def be_impatient(world: FullService) -> None:
    from dataclasses import replace

    app = world.service.apps[APP]
    assert app.google_play is not None
    play = GooglePlay(replace(app.google_play._config, timeout=1.0), app.google_play._api.credentials)
    world.service = UnlockService(
        world.service.config,
        world.storage,
        KeystoreKeys(world.keystore),
        clock=world.clock,
        verifiers={**world.service.apps, APP: replace(app, google_play=play)},
    )


def test_a_store_that_refuses_our_credentials(world: FullService) -> None:
    world.play.failures["tokens"] = lambda call: error_reply(403, "permissionDenied")
    with pytest.raises(errors.PurchaseUpstreamDeniedError):
        world.unlock(Device.new(), world.google(TOKEN))
    assert no_license(world)


# --- keys and storage fail ------------------------------------------------------------------------


def test_a_signer_that_fails_leaves_nothing_behind(world: FullService) -> None:
    class Broken:
        public_key = world.backend.public_key

        def sign(self, data: bytes) -> bytes:
            raise RuntimeError("the HSM is gone")

    body = world.unlock_body(Device.new())
    keys, signer = KeystoreKeys(world.keystore), KeystoreKeys(world.keystore)._signer
    broken = UnlockService(world.service.config, world.storage, keys, clock=world.clock)
    keys._signer = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        broken.decisions.unlock(UnlockRequest.from_json(body))
    assert no_license(world)
    assert world.storage.entitlement(PurchaseKey("grant", APP, "sub:order-1")) is None
    keys._signer = signer
    broken.decisions.unlock(UnlockRequest.from_json(body))


def test_a_database_that_is_gone(world: FullService) -> None:
    body = world.unlock_body(Device.new())
    world.service.ready()
    world.storage.close()
    for name in ("unlock.sqlite", "unlock.sqlite-wal", "unlock.sqlite-shm"):
        (world.folder / name).unlink(missing_ok=True)
    (world.folder / "unlock.sqlite").mkdir()
    with pytest.raises(refusals.StorageError) as refused:
        world.service.decisions.unlock(UnlockRequest.from_json(body))
    assert refused.value.retryable
    with pytest.raises(refusals.StorageError):
        world.service.ready()


def test_a_decision_is_committed_durably_before_it_leaves(world: FullService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that changes nothing is not: who has no purchase cannot make the disk flush."""
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
    device = Device.new()
    for proof in ("development", "android", "app-attest", "app-assert"):
        assert last(lambda: world.unlock(device, world.google(TOKEN), proof))  # noqa: B023
    license_id = next(known.jti for known in world.storage.list_licenses() if known.attest_key == device.key_id)
    assert last(lambda: world.renew(device, license_id, "app-assert"))
    assert not last(lambda: world.renew(Device.new(), license_id, "app-assert"))
    assert not last(lambda: world.unlock(device, world.grant(product="else"), attested={"tier": "plus"}))
    world.play.products[TOKEN] = one_time(purchaseStateContext={"purchaseState": "CANCELLED"})
    world.clock.now += 1
    assert last(lambda: world.renew(device, license_id, "app-assert"))
    assert last(lambda: world.service.notices.app_store(APP, world.apple_notice("REFUND")))


# --- what leaks -----------------------------------------------------------------------------------


def test_the_audit_log_and_reprs_hold_no_secret(world: FullService) -> None:
    device = Device.new()
    world.play.products[TOKEN] = one_time()
    bodies = [world.unlock_body(device, world.google(TOKEN)), world.unlock_body(device)]
    bodies.append(world.unlock_body(device, attested={"tier": "plus"}))
    requests = [UnlockRequest.from_json(body) for body in bodies]
    issued = [world.service.decisions.unlock(request) for request in requests[:2]]
    with pytest.raises(AttestationRefusedError) as refused:
        world.service.decisions.unlock(requests[2])
    text = repr(world.storage.audit_rows()) + repr(issued) + repr(world.service.config) + repr(world.storage)
    text += repr(requests) + repr(refused.value)
    text += repr(world.storage.list_licenses())
    for secret in (TOKEN, TOKEN_ID, "sub:order-1", *(body["purchase"]["token"] for body in bodies), issued[0].license):
        assert secret not in text
    assert world.storage.secret().hex() not in text
