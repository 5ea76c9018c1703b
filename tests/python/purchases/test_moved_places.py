"""A place that moves from the former key of a device to its new one."""

from __future__ import annotations

import pytest
from corelocker.licensing import errors
from corelocker.purchases.entitlements import (
    DevicePlace,
    DeviceRules,
    Entitlement,
    activate,
    hold_for_ever,
    move,
    release,
    renew,
)
from hypothesis import given
from hypothesis import strategies as st

RULES = DeviceRules(devices=3, cooldown=30)


def held_by(*devices: str) -> Entitlement:
    state = Entitlement("grant", "com.example.camera", "1")
    for now, device in enumerate(devices):
        state = activate(state, device, now, RULES)
    return state


def test_the_new_key_holds_the_place_with_its_times() -> None:
    moved = move(hold_for_ever(held_by("a", "b"), "a"), "a", "new")
    assert moved.places == (DevicePlace("new", 0, 0, perpetual=True), DevicePlace("b", 1, 1))
    assert renew(moved, "new", 9).places[0] == DevicePlace("new", 0, 9, perpetual=True)
    with pytest.raises(errors.DeviceInactiveError):
        renew(moved, "a", 9)


@pytest.mark.parametrize(("former", "device"), [("nobody", "new"), ("a", "b"), ("a", "a"), ("gone", "new")])
def test_nothing_moves_without_a_place(former: str, device: str) -> None:
    state = release(held_by("a", "b", "gone"), "gone")
    assert move(state, former, device) is state


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["activate", "move", "release"]), st.sampled_from("abcdef"), st.sampled_from("abcdef")
        )
    )
)
def test_moves_make_no_places(events: list[tuple[str, str, str]]) -> None:
    """Whatever happens in no time: a device that moves frees nothing, so three keys at most ever came without one."""
    state, came = held_by(), 0
    for what, device, former in events:
        before = [place.device for place in state.places]
        try:
            if what == "activate":
                state = activate(state, device, 0, RULES)
                came += device not in before
            elif what == "move":
                state = move(state, former, device)
                assert len(state.places) == len(before)
            else:
                state = release(state, device)
        except (errors.DeviceLimitError, errors.DeviceInactiveError):
            pass
        after = [place.device for place in state.places]
        assert len(set(after)) == len(after) <= came <= RULES.devices
