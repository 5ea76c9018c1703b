"""Parallel requests to the core, in threads, on SQLite and PostgreSQL: exactly one license, exactly N places."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from corelocker.licensing.errors import DeviceInactiveError, DeviceLimitError, LicenseRevokedError, LicensingError
from corelocker.licensing.license import License, read_license
from corelocker.licensing.tokens import TrustedKeys
from corelocker.service.messages import ChallengeRequest, Issued, RenewRequest, UnlockRequest
from support.unlock_world import PARALLEL, Phone, World

T = TypeVar("T")


def at_once(actions: Sequence[Callable[[], T]]) -> list[T | LicensingError]:
    """Run every action in a thread of its own, all released at one moment; what each returned or raised."""
    gate = threading.Barrier(len(actions))
    results: list[T | LicensingError | None] = [None] * len(actions)

    def run(index: int) -> None:
        gate.wait()
        try:
            results[index] = actions[index]()
        except LicensingError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    found = [result for result in results if result is not None]
    assert len(found) == len(actions), "a thread died of another error, or hangs"
    return found


def codes(results: Sequence[object]) -> Counter[str]:
    return Counter(result.code if isinstance(result, LicensingError) else "license" for result in results)


def test_identical_unlocks(world: World) -> None:
    """The same bytes 50 times: one license, 49 times the same refusal, one place."""
    phone, grant = Phone(world), world.grant("p")
    with world.service() as service:
        challenge = service.challenges.issue(ChallengeRequest()).challenge
        request = UnlockRequest.from_json(phone.unlock_body(challenge, grant))
        results = at_once([lambda: service.decisions.unlock(request)] * PARALLEL)
    assert codes(results) == {"license": 1, "challenge-used": PARALLEL - 1}
    licenses, entitlement = world.stored("p")
    (issued,) = [result for result in results if isinstance(result, Issued)]
    assert [entry.jti for entry in licenses] == [issued.license_id]
    assert [place.device for place in entitlement.places] == [phone.thumbprint]


@pytest.mark.parametrize("places", [1, 7])
def test_many_devices(world: World, places: int) -> None:
    """50 devices want a purchase with N places at one moment: exactly N get one, and keep it."""
    world.configure(devices=places)
    phones, grant = [Phone(world) for _ in range(PARALLEL)], world.grant("p")
    with world.service() as service:
        requests = [
            UnlockRequest.from_json(phone.unlock_body(service.challenges.issue(ChallengeRequest()).challenge, grant))
            for phone in phones
        ]
        results = at_once([lambda request=request: service.decisions.unlock(request) for request in requests])  # type: ignore[misc]
        assert codes(results) == {"license": places, "device-limit": PARALLEL - places}
        winners = [phone for phone, result in zip(phones, results, strict=True) if isinstance(result, Issued)]
        for phone in winners:
            assert phone.unlock(service, grant).license
        loser = next(phone for phone in phones if phone not in winners)
        with pytest.raises(DeviceLimitError):
            loser.unlock(service, grant)
    licenses, entitlement = world.stored("p")
    assert {place.device for place in entitlement.places} == {phone.thumbprint for phone in winners}
    assert len(entitlement.places) == places
    assert {entry.device for entry in licenses} == {phone.thumbprint for phone in winners}
    assert len(licenses) == 2 * places
    keys = TrustedKeys([world.keystore.signing_key.public_key()])
    for result in results:
        if isinstance(result, Issued):
            license_: License = read_license(result.license, keys)
            assert license_.device in {phone.thumbprint for phone in winners}


def test_one_device_many_times(world: World) -> None:
    """One device that asks 20 times at once, each time properly, takes one place."""
    phone, grant = Phone(world), world.grant("p")
    with world.service() as service:
        results = at_once([lambda: phone.unlock(service, grant)] * 20)
    assert codes(results) == {"license": 20}
    licenses, entitlement = world.stored("p")
    assert len(entitlement.places) == 1
    assert len({entry.jti for entry in licenses}) == 20


def test_identical_renewals(world: World) -> None:
    phone, grant = Phone(world), world.grant("p")
    with world.service() as service:
        first = phone.unlock(service, grant)
        challenge = service.challenges.issue(ChallengeRequest()).challenge
        request = RenewRequest.from_json(phone.renew_body(challenge, first.license_id))
        results = at_once([lambda: service.decisions.renew(first.license_id, request)] * PARALLEL)
    assert codes(results) == {"license": 1, "challenge-used": PARALLEL - 1}
    licenses, _ = world.stored("p")
    assert len(licenses) == 2


def test_one_challenge_for_an_unlock_and_a_renewal(world: World) -> None:
    """Whoever comes first has it."""
    phone, grant = Phone(world), world.grant("p")
    with world.service() as service:
        first = phone.unlock(service, grant)
        challenge = service.challenges.issue(ChallengeRequest()).challenge
        unlock = UnlockRequest.from_json(phone.unlock_body(challenge, grant))
        renew = RenewRequest.from_json(phone.renew_body(challenge, first.license_id))
        results = at_once(
            [lambda: service.decisions.unlock(unlock), lambda: service.decisions.renew(first.license_id, renew)] * 10
        )
    assert codes(results) == {"license": 1, "challenge-used": 19}


def test_renewals_while_the_license_is_revoked(world: World) -> None:
    """After the revocation has come back, nothing is renewed; before, everything may be."""
    phone, grant = Phone(world), world.grant("p")
    with world.service() as service:
        first = phone.unlock(service, grant)
        done = threading.Event()

        def renew() -> str:
            late = done.is_set()
            try:
                phone.renew(service, first.license_id)
            except (LicenseRevokedError, DeviceInactiveError):
                return "refused"
            return "late" if late else "renewed"

        def revoke() -> str:
            world.revoke(first.license_id)
            done.set()
            return "revoked"

        results = at_once([*[renew] * 20, revoke, *[renew] * 20])
        assert "late" not in results
        assert results.count("revoked") == 1
        with pytest.raises((LicenseRevokedError, DeviceInactiveError)):
            phone.renew(service, first.license_id)


def test_two_purchases_do_not_wait_for_each_other_in_a_circle(world: World) -> None:
    """Unlocks, releases and renewals of the same two purchases from many threads: no deadlock, no error of the database."""
    phones = [Phone(world) for _ in range(4)]
    grants = [world.grant("a"), world.grant("b")]
    with world.service() as service:
        results = at_once([
            lambda phone=phone, grant=grant: phone.unlock(service, grant)  # type: ignore[misc]
            for _ in range(5) for phone in phones[:3] for grant in grants
        ])  # fmt: skip
    assert codes(results) == {"license": 30}
