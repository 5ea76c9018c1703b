"""The vectors of licenses that are accepted, and of the clock, in license.json."""

from __future__ import annotations

import json

from license_forge import (
    DAY,
    END,
    GOOD,
    ISSUED,
    NEXT_SERVICE,
    TYPE,
    Vector,
    claims_of,
    mark,
    nested,
    token_of,
    vector,
)


def good_vectors() -> list[Vector]:
    return [
        vector("valid", "one day old, ends in 29 days", GOOD, mark=mark(ISSUED + DAY)),
        vector("perpetual", "no exp", token_of(claims_of(exp=None)), mark=mark(ISSUED)),
        vector("no-kid", "the header may leave out kid", token_of(claims_of(), header={"alg": "ES256", "typ": TYPE})),
        vector("next-key", "signed with the second pinned key", token_of(claims_of(), signer=NEXT_SERVICE)),
        vector(
            "no-kid-next-key",
            "no kid: every pinned key is tried",
            token_of(claims_of(), signer=NEXT_SERVICE, header={"alg": "ES256", "typ": TYPE}),
        ),
        vector(
            "unknown-claims",
            "claims of a later version are ignored, but belong to the HPKE info",
            token_of(claims_of(zone="eu", seats=-9007199254740991, extra={"b": "ß", "a": -1, "": {}})),
        ),
        vector(
            "minus-zero",
            "-0 is 0, also in the canonical JSON",
            token_of(json.dumps(claims_of(seats=0)).replace('"seats": 0', '"seats": -0').encode()),
        ),
        vector("deepest", "objects that nest 32 deep", token_of(claims_of(extra=nested(31)))),
        vector(
            "spaces-in-json",
            "white space in header and claims is the issuer's choice",
            token_of(
                json.dumps(claims_of(), indent=1).encode(), header=json.dumps({"typ": TYPE, "alg": "ES256"}).encode()
            ),
        ),
        vector("longest-text", "a text of 256 characters", token_of(claims_of(jti="j" * 256))),
        vector("longest-text-astral", "256 code points, 512 UTF-16 units", token_of(claims_of(jti="\U0001f511" * 256))),
        vector("longest-text-marks", "256 code points, fewer graphemes", token_of(claims_of(jti="a\u0308" * 128))),
        vector(
            "smallest-numbers",
            "iat, nbf and model_version are 0",
            token_of(claims_of(iat=0, nbf=0, model_version=0)),
            expected={"model_version": 0},
            state="renew",
        ),
        vector(
            "largest-numbers",
            "exp and model_version are 2^53 - 1",
            token_of(claims_of(exp=2**53 - 1, model_version=2**53 - 1)),
            expected={"model_version": 2**53 - 1},
        ),
        vector("exact-tier", "the app asks for exactly this tier", GOOD, expected={"tiers": ["full"]}),
        vector(
            "text-not-plain",
            "a claim is any text, also one with controls and U+202E",
            token_of(claims_of(jti="a\n\u007f\u202eb\0")),
        ),
        vector(
            "bundle-any-uuid",
            "a UUID of no known version",
            token_of(claims_of(bundle="00000000-0000-0000-0000-0000000000ff")),
            expected={"bundle": "00000000-0000-0000-0000-0000000000ff"},
        ),
    ]


def state_vectors() -> list[Vector]:
    first_light = {"wall": ISSUED}
    short = token_of(claims_of(exp=ISSUED + 100))
    return [
        vector("first-second", "now = iat = nbf", GOOD, clock=first_light, mark=mark(ISSUED)),
        vector("before-renewal", "a second before two thirds of the time", GOOD, clock={"wall": ISSUED + 20 * DAY - 1}),
        vector(
            "renewal-due", "two thirds of the time are over", GOOD, clock={"wall": ISSUED + 20 * DAY}, state="renew"
        ),
        vector("renewal-rounded", "two thirds of 100 s are 66 s", short, clock={"wall": ISSUED + 66}, state="renew"),
        vector("before-rounded-renewal", "a second before that", short, clock={"wall": ISSUED + 65}),
        vector("last-second", "now = exp - 1", GOOD, clock={"wall": END - 1}, state="renew", mark=mark(END - 1)),
        vector(
            "grace-begins",
            "now = exp, the app grants a day",
            GOOD,
            expected={"offline_grace": DAY},
            clock={"wall": END},
            state="grace",
        ),
        vector(
            "grace-last-second",
            "now = exp + grace - 1",
            GOOD,
            expected={"offline_grace": DAY},
            clock={"wall": END + DAY - 1},
            state="grace",
            mark=mark(END + DAY - 1),
        ),
        vector(
            "slow-clock",
            "the clock is an hour behind the issue: the time is that of the issue",
            GOOD,
            clock={"wall": ISSUED - 3600},
            mark=mark(ISSUED),
        ),
    ]


def mark_vectors() -> list[Vector]:
    return [
        vector(
            "clock-tolerance",
            "exactly a day behind the mark: accepted, the mark is the time",
            GOOD,
            clock={"wall": ISSUED + 4 * DAY, "boot": "boot-2", "mark": mark(ISSUED + 5 * DAY)},
            mark=mark(ISSUED + 5 * DAY, 5000, "boot-2"),
        ),
        vector(
            "perpetual-dead-clock",
            "a perpetual license needs no clock",
            token_of(claims_of(exp=None)),
            clock={"wall": 0, "mark": mark(ISSUED + 9 * DAY)},
            mark=mark(ISSUED + 9 * DAY),
        ),
        vector(
            "perpetual-keeps-ticks",
            "a perpetual license moves the mark by the time since start-up too",
            token_of(claims_of(exp=None)),
            clock={"wall": ISSUED, "ticks": 7000, "mark": mark(ISSUED + 9 * DAY)},
            mark=mark(ISSUED + 9 * DAY + 2000, 7000),
        ),
        vector(
            "ticks-of-another-boot",
            "ticks count only within one start-up",
            GOOD,
            clock={"wall": ISSUED + DAY, "ticks": 9_000_000, "boot": "boot-2", "mark": mark(ISSUED + DAY, 0)},
            mark=mark(ISSUED + DAY, 9_000_000, "boot-2"),
        ),
        vector(
            "ticks-backwards",
            "ticks that ran backwards count as none",
            GOOD,
            clock={"wall": ISSUED + DAY, "ticks": 10, "mark": mark(ISSUED + DAY, 5000)},
            mark=mark(ISSUED + DAY, 10),
        ),
        vector(
            "ticks-backwards-keep-the-mark",
            "the mark does not fall with them, not even while the wall clock is behind it",
            GOOD,
            clock={"wall": ISSUED + DAY - 100, "ticks": 10, "mark": mark(ISSUED + DAY, 5000)},
            mark=mark(ISSUED + DAY, 10),
        ),
    ]


def time_vectors() -> list[Vector]:
    later = token_of(claims_of(nbf=ISSUED + 2 * DAY))
    return [
        vector("ends-now", "now = exp", GOOD, "license-expired", clock={"wall": END}, mark=mark(END)),
        vector(
            "grace-over",
            "now = exp + grace",
            GOOD,
            "license-expired",
            expected={"offline_grace": DAY},
            clock={"wall": END + DAY},
            mark=mark(END + DAY),
        ),
        vector(
            "clock-years-ahead",
            "ended; the mark goes no further than the end, so the next license works",
            GOOD,
            "license-expired",
            clock={"wall": END + 3650 * DAY},
            mark=mark(END),
        ),
        vector("not-before", "now = nbf - 1", later, "license-not-yet-valid", clock={"wall": ISSUED + 2 * DAY - 1}),
        vector("not-before-reached", "now = nbf", later, clock={"wall": ISSUED + 2 * DAY}),
        vector(
            "not-before-by-mark",
            "the mark counts as the time",
            later,
            clock={"wall": ISSUED + 2 * DAY - 1, "mark": mark(ISSUED + 2 * DAY)},
        ),
    ]


def rollback_vectors() -> list[Vector]:
    return [
        vector(
            "rollback-after-end",
            "set back an hour after the end: the mark remembers",
            GOOD,
            "license-expired",
            clock={"wall": END - 3600, "mark": mark(END)},
            mark=mark(END),
        ),
        vector(
            "rollback",
            "a day and a second behind the mark",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED + 4 * DAY - 1, "boot": "boot-2", "mark": mark(ISSUED + 5 * DAY)},
            mark=mark(ISSUED + 5 * DAY, 5000, "boot-2"),
        ),
        vector(
            "rollback-to-1970",
            "an empty battery, or an owner who tries",
            GOOD,
            "license-clock",
            clock={"wall": 0, "boot": "boot-2", "mark": mark(ISSUED + 5 * DAY)},
        ),
        vector(
            "clock-before-issue",
            "more than a day before the signed time of issue, on the first start",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED - DAY - 1},
            mark=mark(ISSUED),
        ),
        vector(
            "clock-before-issue-with-older-mark",
            "the same with a mark from before the issue",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED - DAY - 1, "mark": mark(ISSUED - 20 * DAY)},
            mark=mark(ISSUED),
        ),
        vector(
            "frozen-clock",
            "the clock was set back each time, but the device was up until after the end",
            GOOD,
            "license-expired",
            clock={"wall": END - DAY // 4, "ticks": 5000 + 2 * DAY, "mark": mark(END - DAY - DAY // 2, 5000)},
            mark=mark(END + DAY // 2, 5000 + 2 * DAY),
        ),
        vector(
            "frozen-clock-far",
            "the same, more than a day back",
            GOOD,
            "license-clock",
            clock={"wall": ISSUED, "ticks": 5000 + 2 * DAY, "mark": mark(ISSUED, 5000)},
            mark=mark(ISSUED + 2 * DAY, 5000 + 2 * DAY),
        ),
    ]
