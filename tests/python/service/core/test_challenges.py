"""Challenges count once, for a while, at the service that made them; requests that race with one get one license."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from corelocker.licensing import errors as refusals
from corelocker.service.messages import RenewRequest, UnlockRequest
from support.full_service import (
    Device,
    FullService,
    full_service,
    in_parallel,
    outcome,
)


def test_a_request_counts_once(world: FullService) -> None:
    body = world.unlock_body(Device.new())
    world.service.decisions.unlock(UnlockRequest.from_json(body))
    with pytest.raises(refusals.ChallengeUsedError):
        world.service.decisions.unlock(UnlockRequest.from_json(body))
    assert len(world.storage.list_licenses()) == 1
    assert outcome(world) == ("unlock", "challenge-used")


def test_identical_requests_in_parallel_give_one_license(any_world: FullService) -> None:
    request = UnlockRequest.from_json(any_world.unlock_body(Device.new()))
    assert sorted(in_parallel(20, lambda _: any_world.service.decisions.unlock(request))) == ["challenge-used"] * 19 + [
        "ok"
    ]
    assert len(any_world.storage.list_licenses()) == 1


def test_a_challenge_counts_for_unlock_or_renewal_once(world: FullService) -> None:
    device = Device.new()
    first = world.unlock(device)
    body = world.renew_body(device, first.license_id)
    world.service.decisions.renew(first.license_id, RenewRequest.from_json(body))
    for _ in range(2):
        with pytest.raises(refusals.ChallengeUsedError):
            world.service.decisions.renew(first.license_id, RenewRequest.from_json(body))
    with pytest.raises(refusals.ChallengeUsedError):
        world.unlock(device, challenge=body["challenge"])


def test_a_challenge_expires(world: FullService) -> None:
    device = Device.new()
    late, in_time = world.unlock_body(device), world.unlock_body(device)
    world.clock.now += 299
    world.service.decisions.unlock(UnlockRequest.from_json(in_time))
    world.clock.now += 1
    with pytest.raises(refusals.ChallengeExpiredError):
        world.service.decisions.unlock(UnlockRequest.from_json(late))


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
    world.service.decisions.unlock(UnlockRequest.from_json(body))
    world.clock.now += 200
    assert world.storage.purge_challenges(int(world.clock.now)) == 0
    world.clock.now += 101
    assert world.service.maintenance.run() == []
    assert world.storage.purge_challenges(int(world.clock.now)) == 0
    with pytest.raises(refusals.ChallengeExpiredError):
        world.service.decisions.unlock(UnlockRequest.from_json(body))
