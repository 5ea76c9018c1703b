"""What purchases entitle to, and on how many devices."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from corelocker.errors import ConfigError
from corelocker.licensing import errors
from corelocker.purchases.entitlements import (
    Catalog,
    DevicePlace,
    DeviceRules,
    Entitlement,
    Purchase,
    Unlock,
    activate,
    entitled,
    forget_expired,
    license_end,
    observe,
    release,
    renew,
    supersede,
)
from hypothesis import given, settings
from hypothesis import strategies as st

DAY = 86400
NOW = 1_800_000_000
APP = "com.example.camera"
CAMERA, AUDIO = "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f", "5b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f"
CATALOG = Catalog(
    products={
        (APP, "plus"): (Unlock(CAMERA, "plus"),),
        (APP, "pro"): (Unlock(CAMERA, "full"), Unlock(AUDIO, "plus")),
        ("com.example.other", "plus"): (Unlock(CAMERA, "full"),),
    },
    tiers={CAMERA: ("free", "plus", "full"), AUDIO: ("free", "plus", "full")},
)
RULES = DeviceRules(devices=3, cooldown=30 * DAY)


def bought(**changes: Any) -> Purchase:
    fields: dict[str, Any] = {
        "provider": "app-store",
        "app": APP,
        "purchase_id": "1000",
        "transaction_id": "1000",
        "product": "pro",
        "status": "active",
        "expires_at": None,
        "as_of_ms": NOW * 1000,
    }
    return Purchase(**(fields | changes))


def unlocks(purchase: Purchase, bundle: str = CAMERA, tier: str = "full", now: int = NOW, app: str = APP) -> Purchase:
    return entitled(observe(None, purchase), app, bundle, tier, now, CATALOG)


# --- what a purchase unlocks ---------------------------------------------------------------------


def test_a_product_unlocks_its_tier_and_those_below() -> None:
    assert unlocks(bought()) == bought()
    assert unlocks(bought(), tier="plus")
    assert unlocks(bought(), AUDIO, "plus")
    assert unlocks(bought(product="plus"), tier="plus")


@pytest.mark.parametrize(
    ("product", "bundle", "tier"),
    [
        ("plus", CAMERA, "full"),  # a higher tier
        ("plus", AUDIO, "plus"),  # another bundle
        ("pro", AUDIO, "full"),
        ("pro", CAMERA, "free"),  # what ships needs no license
        ("pro", CAMERA, "gold"),  # no such tier
        ("pro", CAMERA.replace("4", "9"), "plus"),  # no such bundle
        ("unknown", CAMERA, "plus"),
        ("PRO", CAMERA, "plus"),
    ],
)
def test_a_product_unlocks_nothing_else(product: str, bundle: str, tier: str) -> None:
    with pytest.raises(errors.PurchaseProductError):
        unlocks(bought(product=product), bundle, tier)


def test_a_purchase_counts_in_its_app_only() -> None:
    with pytest.raises(errors.PurchaseAppError):
        unlocks(bought(), app="com.example.other")
    with pytest.raises(errors.PurchaseProductError):
        unlocks(bought(app="com.example.other", product="pro"), app="com.example.other")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"status": "revoked"}, errors.PurchaseRevokedError),
        ({"status": "pending"}, errors.PurchasePendingError),
        ({"status": "superseded"}, errors.PurchaseSupersededError),
        ({"expires_at": NOW}, errors.PurchaseExpiredError),
        ({"expires_at": NOW - 1, "status": "revoked"}, errors.PurchaseExpiredError),
    ],
)
def test_a_purchase_has_to_be_in_force(changes: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        unlocks(bought(**changes))


def test_time_edges() -> None:
    assert unlocks(bought(expires_at=NOW + 1))
    with pytest.raises(errors.PurchaseExpiredError):
        unlocks(bought(expires_at=NOW))


def test_the_publisher_can_revoke() -> None:
    with pytest.raises(errors.PurchaseRevokedError):
        entitled(replace(observe(None, bought()), closed="revoked"), APP, CAMERA, "full", NOW, CATALOG)


def test_of_several_transactions_the_longest_counts() -> None:
    state = observe(None, bought(transaction_id="1", expires_at=NOW + 5))
    state = observe(state, bought(transaction_id="2", expires_at=NOW + 50))
    state = observe(state, bought(transaction_id="3", expires_at=NOW + 5))
    state = observe(state, bought(transaction_id="4", expires_at=NOW + 500, status="revoked"))
    assert entitled(state, APP, CAMERA, "full", NOW, CATALOG).transaction_id == "2"
    state = observe(state, bought(transaction_id="0"))
    assert entitled(state, APP, CAMERA, "full", NOW, CATALOG).transaction_id == "0"


def test_the_gravest_reason_is_told() -> None:
    state = observe(None, bought(transaction_id="1", status="pending"))
    state = observe(state, bought(transaction_id="2", status="superseded"))
    with pytest.raises(errors.PurchaseSupersededError):
        entitled(state, APP, CAMERA, "full", NOW, CATALOG)
    state = observe(state, bought(transaction_id="3", status="revoked"))
    with pytest.raises(errors.PurchaseRevokedError):
        entitled(state, APP, CAMERA, "full", NOW, CATALOG)


def test_of_two_ends_told_at_the_same_time_the_later_counts() -> None:
    ends = [bought(expires_at=end) for end in (999, 1000, None)]
    for earlier, later in ((ends[0], ends[1]), (ends[1], ends[2])):
        for first, second in ((earlier, later), (later, earlier)):
            assert observe(observe(None, first), second).purchases == (later,)


def test_a_refund_of_an_old_period_leaves_the_present_one() -> None:
    state = observe(None, bought(transaction_id="1", expires_at=NOW - 5))
    state = observe(state, bought(transaction_id="2", expires_at=NOW + 50))
    state = observe(state, bought(transaction_id="1", expires_at=NOW - 5, status="revoked", as_of_ms=NOW * 1000 + 9))
    assert entitled(state, APP, CAMERA, "full", NOW, CATALOG).transaction_id == "2"


def test_a_catalog_has_to_make_sense() -> None:
    for unlock in (Unlock(CAMERA, "gold"), Unlock("other", "full"), Unlock(CAMERA, "free")):
        with pytest.raises(ConfigError):
            Catalog({(APP, "pro"): (unlock,)}, CATALOG.tiers)


def test_a_license_ends_with_what_was_paid() -> None:
    assert license_end(bought(), NOW, None) is None
    assert license_end(bought(), NOW, 60) == NOW + 60
    assert license_end(bought(expires_at=NOW + 5), NOW, 60) == NOW + 5
    assert license_end(bought(expires_at=NOW + 500), NOW, 60) == NOW + 60
    assert license_end(bought(expires_at=NOW + 5), NOW, None) == NOW + 5


# --- statements of the stores --------------------------------------------------------------------

STATEMENTS = st.builds(
    bought,
    transaction_id=st.sampled_from(["1", "2"]),
    status=st.sampled_from(["active", "pending", "revoked", "superseded"]),
    as_of_ms=st.integers(0, 5),
    expires_at=st.sampled_from([None, NOW + 5, NOW - 5]),
    final=st.booleans(),
    product=st.sampled_from(["plus", "pro"]),
    reference=st.sampled_from(["a", "b"]),
)


@settings(max_examples=400)
@given(st.lists(STATEMENTS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_order_and_repetition_of_statements_do_not_matter(statements: list[Purchase], shuffle: random.Random) -> None:
    def after(order: list[Purchase]) -> Entitlement | None:
        state = None
        for statement in order:
            state = observe(state, statement)
        return state

    again = statements + shuffle.choices(statements, k=len(statements))
    shuffle.shuffle(again)
    assert after(again) == after(statements)


@settings(max_examples=200)
@given(st.lists(STATEMENTS, max_size=6), st.integers(0, 5))
def test_what_was_refunded_stays_refunded_until_the_store_says_otherwise(others: list[Purchase], when: int) -> None:
    refund = bought(transaction_id="1", status="revoked", as_of_ms=when, final=True)
    state = observe(None, refund)
    for statement in others:
        state = observe(state, replace(statement, final=False))
    known = {purchase.transaction_id: purchase for purchase in state.purchases}
    assert known["1"].status == "revoked"


def test_a_reversed_refund_counts_and_a_replayed_refund_does_not() -> None:
    first, refund, reversal = (
        bought(as_of_ms=at, status=status) for at, status in ((1, "active"), (2, "revoked"), (3, "active"))
    )
    state = observe(observe(observe(None, first), refund), reversal)
    assert entitled(state, APP, CAMERA, "full", NOW, CATALOG) == reversal
    assert observe(state, refund) == observe(state, first) == state


def test_a_signed_transaction_from_before_the_refund_does_not_help() -> None:
    state = observe(observe(None, bought(as_of_ms=2, status="revoked")), bought(as_of_ms=1))
    with pytest.raises(errors.PurchaseRevokedError):
        entitled(state, APP, CAMERA, "full", NOW, CATALOG)


def test_at_the_same_time_the_refund_counts() -> None:
    for statements in ([bought(), bought(status="revoked")], [bought(status="revoked"), bought()]):
        state = observe(observe(None, statements[0]), statements[1])
        assert state.purchases[0].status == "revoked"


@pytest.mark.parametrize("changes", [{"purchase_id": "2000"}, {"app": "x"}, {"provider": "grant"}])
def test_statements_about_another_purchase_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.PurchaseError):
        observe(observe(None, bought()), bought(**changes))


def test_long_ended_transactions_are_forgotten() -> None:
    state = observe(None, bought(transaction_id="old", expires_at=NOW - 181 * DAY))
    state = observe(state, bought(transaction_id="recent", expires_at=NOW - 179 * DAY, status="revoked"))
    state = observe(state, bought(transaction_id="perpetual", status="revoked"))
    assert [known.transaction_id for known in forget_expired(state, NOW).purchases] == ["perpetual", "recent"]


# --- devices -------------------------------------------------------------------------------------


def places(state: Entitlement) -> list[str]:
    return [place.device for place in state.places]


def full(*devices: str, at: int = NOW) -> Entitlement:
    state = observe(None, bought())
    for device in devices:
        state = activate(state, device, at, RULES)
    return state


def test_one_more_device_than_allowed_is_refused() -> None:
    state = full("a", "b", "c")
    with pytest.raises(errors.DeviceLimitError) as raised:
        activate(state, "d", NOW, RULES)
    assert raised.value.retry_at == NOW + 30 * DAY
    assert places(state) == ["a", "b", "c"]


def test_the_same_device_takes_one_place() -> None:
    state = full("a", "a", "a")
    assert state.places == (DevicePlace("a", NOW, NOW),)
    assert activate(state, "a", NOW + 5, RULES).places == (DevicePlace("a", NOW, NOW + 5),)
    assert activate(state, "a", NOW - 5, RULES).places == (DevicePlace("a", NOW, NOW),)


def test_places_are_kept_while_others_are_free() -> None:
    state, roomy = observe(None, bought()), DeviceRules(6, 0)
    for at, device in enumerate("abcdef"):
        state = activate(state, device, NOW + at, roomy)
    assert places(state) == list("abcdef")


def test_a_place_that_is_not_used_comes_free_slowly() -> None:
    state = full("a", "b", "c")
    state = renew(renew(state, "a", NOW + 5 * DAY), "c", NOW + DAY)
    with pytest.raises(errors.DeviceLimitError) as raised:
        activate(state, "d", NOW + 30 * DAY - 1, RULES)
    assert raised.value.retry_at == NOW + 30 * DAY
    state = activate(state, "d", NOW + 30 * DAY, RULES)
    assert places(state) == ["a", "c", "d"]
    with pytest.raises(errors.DeviceLimitError) as raised:
        activate(state, "e", NOW + 30 * DAY, RULES)
    assert raised.value.retry_at == NOW + 31 * DAY


def test_a_device_in_use_is_never_pushed_out() -> None:
    state = full("a", "b", "c")
    for month in range(1, 12):
        now = NOW + month * 29 * DAY
        for device in "abc":
            state = renew(state, device, now)
        with pytest.raises(errors.DeviceLimitError):
            activate(state, "d", now, RULES)


def test_a_place_given_up_cools_down_too() -> None:
    state = release(renew(full("a", "b", "c"), "a", NOW + 20 * DAY), "a")
    with pytest.raises(errors.DeviceLimitError) as raised:
        activate(state, "d", NOW + 21 * DAY, RULES)
    assert raised.value.retry_at == NOW + 30 * DAY
    assert places(activate(state, "d", NOW + 30 * DAY, RULES)) == ["a", "c", "d"]
    used = renew(renew(state, "b", NOW + 29 * DAY), "c", NOW + 29 * DAY)
    assert places(activate(used, "d", NOW + 30 * DAY, RULES)) == ["b", "c", "d"]


def test_an_operator_can_free_a_place_at_once() -> None:
    state = release(full("a", "b", "c"), "b", at_once=True)
    assert places(activate(state, "d", NOW, RULES)) == ["a", "c", "d"]


def test_a_device_that_gave_up_its_place_has_to_unlock_anew() -> None:
    state = release(full("a"), "a")
    with pytest.raises(errors.DeviceInactiveError):
        renew(state, "a", NOW)
    assert activate(state, "a", NOW + 1, RULES).places == (DevicePlace("a", NOW, NOW + 1),)
    assert renew(activate(state, "a", NOW + 1, RULES), "a", NOW + 2)


def test_a_device_that_lost_its_place_cannot_renew() -> None:
    state = activate(full("a", "b", "c"), "d", NOW + 30 * DAY, RULES)
    with pytest.raises(errors.DeviceInactiveError):
        renew(state, "a", NOW + 30 * DAY)
    with pytest.raises(errors.DeviceInactiveError):
        renew(state, "never", NOW)
    with pytest.raises(errors.DeviceInactiveError):
        release(state, "a")


def test_tightened_rules_let_places_run_out() -> None:
    state, tight = full("a", "b", "c"), DeviceRules(2, 30 * DAY)
    assert renew(state, "a", NOW + 1)
    state = renew(state, "c", NOW + 3 * DAY)
    with pytest.raises(errors.DeviceLimitError) as raised:
        activate(state, "d", NOW + 29 * DAY, tight)
    assert raised.value.retry_at == NOW + 30 * DAY
    assert places(activate(state, "d", NOW + 30 * DAY, tight)) == ["c", "d"]


@pytest.mark.parametrize("rules", [(0, 1), (-1, 1), (1, -1)])
def test_rules_have_to_make_sense(rules: tuple[int, int]) -> None:
    with pytest.raises(ConfigError):
        DeviceRules(*rules)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["activate", "renew", "release"]), st.sampled_from("abcdefgh"), st.integers(0, 12)),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(EVENTS, st.integers(1, 6), st.integers(0, 15))
def test_sharing_is_slow_whatever_happens(events: list[tuple[str, str, int]], devices: int, cooldown: int) -> None:
    """Never more places than devices, and never more new devices in a cool-down than there are places."""
    rules, state, now = DeviceRules(devices, cooldown), observe(None, bought()), 0
    taken: list[int] = []
    for what, device, passed in events:
        now += passed
        before = places(state)
        refused_until = None
        try:
            if what == "activate":
                state = activate(state, device, now, rules)
                if device not in before:
                    taken.append(now)
                assert device in places(state)
            elif what == "renew":
                state = renew(state, device, now)
            else:
                state = release(state, device)
        except errors.DeviceLimitError as refusal:
            refused_until = refusal.retry_at
        except errors.DeviceInactiveError:
            assert what != "activate"
        if refused_until is not None:
            assert len(before) == devices
            assert device not in before
            assert refused_until > now
            assert activate(state, device, refused_until, rules)
        assert len(set(places(state))) == len(places(state)) <= devices
        assert len([at for at in taken if now - cooldown < at]) <= devices


# --- upgrades ------------------------------------------------------------------------------------


def test_an_upgrade_takes_the_devices_along() -> None:
    old = full("a", "b", "c")
    new = observe(None, bought(purchase_id="2000", transaction_id="2000", replaces="1000"))
    new = activate(new, "d", NOW + DAY, RULES)
    old, new = supersede(old, new)
    with pytest.raises(errors.PurchaseSupersededError):
        entitled(observe(old, bought(as_of_ms=NOW * 2000)), APP, CAMERA, "full", NOW, CATALOG)
    assert places(old) == []
    assert places(new) == ["a", "b", "c", "d"]
    with pytest.raises(errors.DeviceLimitError):
        activate(new, "e", NOW + DAY, RULES)
    assert supersede(old, new) == (old, new)
    unknown = Entitlement("app-store", APP, "500")
    assert supersede(unknown, new)[1] == new
    late = observe(supersede(unknown, new)[0], bought(purchase_id="500"))
    with pytest.raises(errors.PurchaseSupersededError):
        entitled(late, APP, CAMERA, "full", NOW, CATALOG)


def test_a_device_of_both_purchases_has_one_place() -> None:
    old, new = full("a", "b"), full("b", "c", at=NOW + DAY)
    moved = supersede(old, new)[1]
    assert [(place.device, place.taken_at) for place in moved.places] == [
        ("a", NOW),
        ("b", NOW + DAY),
        ("c", NOW + DAY),
    ]


def test_a_revoked_purchase_stays_revoked_when_it_is_replaced() -> None:
    old = replace(full("a"), closed="revoked")
    with pytest.raises(errors.PurchaseRevokedError):
        entitled(supersede(old, full())[0], APP, CAMERA, "full", NOW, CATALOG)


def test_switching_plans_gives_no_fresh_places() -> None:
    state = full("a", "b", "c")
    for plan in range(5):
        fresh = observe(None, bought(purchase_id=f"plan {plan}", transaction_id="1"))
        _, state = supersede(state, fresh)
        with pytest.raises(errors.DeviceLimitError):
            activate(state, "d", NOW + plan * DAY, RULES)


def test_references_stay_out_of_texts() -> None:
    assert "secret-token" not in repr(observe(None, bought(reference="product:secret-token")))
