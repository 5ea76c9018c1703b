"""Issuing, renewing and using licenses, and the clock of an offline device."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.bundle.strict_json import parse_object
from corelocker.errors import ConfigError, CoreLockerError, FileAccessError
from corelocker.licensing import errors
from corelocker.licensing.device_clock import CLOCK_TOLERANCE, DeviceClock, FileMarkStore, Mark, Reading, system_reading
from corelocker.licensing.device_key import SoftwareDeviceKey
from corelocker.licensing.license import (
    LICENSE_TYPE,
    Expected,
    Verified,
    check_renewal,
    issue_license,
    license_info,
    read_license,
    verify_license,
)
from corelocker.licensing.tokens import MAX_TOKEN_SIZE, MAX_TRUSTED_KEYS, SoftwareSigner, TrustedKeys, write_token
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

DAY = 86400
ISSUED = 1_800_000_000
END = ISSUED + 30 * DAY
BUNDLE = "4b5d2f0e-6c7a-4d1b-9e3f-0a1b2c3d4e5f"
SERVICE = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
KEYS = TrustedKeys([SERVICE.public_key])
PHONE = SoftwareDeviceKey(ec.generate_private_key(ec.SECP256R1()))
OTHER_PHONE = SoftwareDeviceKey(ec.generate_private_key(ec.SECP256R1()))
CONTENT_KEY = os.urandom(32)
EXPECTED = Expected("unlock", "com.example.camera", "production", BUNDLE, 3, PHONE.thumbprint, ("plus", "full"))


def issued(device: SoftwareDeviceKey = PHONE, content_key: bytes = CONTENT_KEY, **changes: Any) -> str:
    terms: dict[str, Any] = {
        "issuer": "unlock",
        "app": "com.example.camera",
        "environment": "production",
        "bundle": BUNDLE,
        "model_version": 3,
        "tier": "full",
        "issued_at": ISSUED,
        "expires_at": END,
    }
    return issue_license(SERVICE, device.public_key, content_key, **(terms | changes))


@dataclass
class Device:
    """A device with clocks that a test sets, and a mark in memory."""

    wall: int = ISSUED
    ticks: int = 0
    boot: str = "first"
    mark: Mark | None = None
    saved: list[Mark] = field(default_factory=list)

    def load(self) -> Mark | None:
        return self.mark

    def save(self, mark: Mark) -> None:
        self.mark = mark
        self.saved.append(mark)

    def use(self, token: object, expected: Expected = EXPECTED) -> Verified:
        return verify_license(
            token, KEYS, expected, DeviceClock(self, lambda: Reading(self.wall, self.ticks, self.boot))
        )


# --- issuing -------------------------------------------------------------------------------------


def test_round_trip() -> None:
    verified = Device().use(issued())
    assert verified.state == "valid"
    assert verified.now == ISSUED
    assert verified.license.open(PHONE) == CONTENT_KEY
    got = verified.license
    assert (got.issuer, got.app, got.environment, got.bundle) == ("unlock", "com.example.camera", "production", BUNDLE)
    assert (got.issued_at, got.not_before, got.expires_at) == (ISSUED, ISSUED, END)
    assert (got.model_version, got.tier, got.device) == (3, "full", PHONE.thumbprint)


def test_two_licenses_never_share_an_identifier_or_a_wrapped_key() -> None:
    licenses = [read_license(issued(), KEYS) for _ in range(20)]
    assert len({made.license_id for made in licenses}) == len({made.wrapped_key for made in licenses}) == 20


def test_the_caller_may_name_the_license() -> None:
    assert read_license(issued(license_id="mine"), KEYS).license_id == "mine"


def test_the_longest_token() -> None:
    """16 KiB are read, a character more is not; spaces in the header and a long claim make up every length."""
    claims = parse_object(jose.decode_base64url(issued().split(".")[1]))

    def padded(size: int, spaces: int) -> str:
        head = b'{"alg":"ES256","typ":"corelocker-license+jwt"' + b" " * spaces + b"}"
        body = json.dumps(claims | {"note": "x" * size}).encode()
        signing_input = f"{jose.encode_base64url(head)}.{jose.encode_base64url(body)}"
        return f"{signing_input}.{jose.encode_base64url(SERVICE.sign(signing_input.encode()))}"

    tokens = {
        len(token): token for size in range(11_500, 11_800) for spaces in range(3) for token in [padded(size, spaces)]
    }
    assert read_license(tokens[MAX_TOKEN_SIZE], KEYS).tier == "full"
    with pytest.raises(errors.LicenseFormatError, match="at most"):
        read_license(tokens[MAX_TOKEN_SIZE + 1], KEYS)


def test_claims_are_exactly_those_of_the_design() -> None:
    head, body, _ = issued().split(".")
    assert parse_object(jose.decode_base64url(head)) == {
        "alg": "ES256",
        "kid": jose.thumbprint(SERVICE.public_key),
        "typ": "corelocker-license+jwt",
    }
    claims = parse_object(jose.decode_base64url(body))
    names = {"iss", "iat", "nbf", "exp", "jti", "aud", "env", "bundle", "model_version", "tier", "cnf", "wk"}
    assert claims.keys() == names
    perpetual = parse_object(jose.decode_base64url(issued(expires_at=None).split(".")[1]))
    assert perpetual.keys() == names - {"exp"}


@pytest.mark.parametrize(
    "changes",
    [
        {"content_key": bytes(31)},
        {"content_key": bytes(33)},
        {"expires_at": ISSUED},
        {"not_before": END},
        {"app": ""},
        {"tier": "t" * 257},
        {"environment": "staging"},
        {"bundle": BUNDLE.upper()},
        {"bundle": BUNDLE + "\n"},
        {"bundle": "0" + BUNDLE},
        {"bundle": BUNDLE + "0"},
        {"model_version": -1},
        {"model_version": True},
        {"issued_at": -1},
        {"issuer": "\ud800"},
    ],
    ids=str,
)
def test_issues_nothing_that_a_device_would_refuse(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.LicenseFormatError):
        issued(**changes)


def test_secrets_stay_out_of_texts() -> None:
    key = CONTENT_KEY.hex()
    got = read_license(issued(), KEYS)
    for text in (repr(got), repr(Device().use(issued())), repr(PHONE), repr(SERVICE)):
        assert key not in text
        assert got.wrapped_key.hex() not in text
        assert repr(got.wrapped_key) not in text


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = issued()
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.characters(codec="ascii").filter(lambda char: char != token[at]))
    with pytest.raises(errors.LicenseError):
        Device().use(token[:at] + char + token[at + 1 :])


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(), st.binary(), st.none(), st.integers(), st.lists(st.text()), st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*")
    )
)
def test_anything_else_is_refused(token: object) -> None:
    with pytest.raises(errors.LicenseFormatError):
        Device().use(token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["iss", "iat", "nbf", "exp", "jti", "aud", "env", "bundle", "model_version", "tier", "cnf", "wk"]),
    JSON,
)
def test_any_value_of_any_claim_is_typed_or_refused(name: str, value: object) -> None:
    original = parse_object(jose.decode_base64url(issued().split(".")[1]))
    claims = original | {name: value}
    assume(claims != original)
    try:
        token = write_token(claims, LICENSE_TYPE, SERVICE)
    except ValueError:
        return
    with pytest.raises(errors.LicenseError):
        Device().use(token).license.open(PHONE)


# --- renewing ------------------------------------------------------------------------------------


def renewable(token: str, **changes: Any) -> None:
    terms: dict[str, Any] = {
        "device": PHONE.thumbprint,
        "app": "com.example.camera",
        "environment": "production",
        "revoked": False,
        "now": END,
    }
    check_renewal(read_license(token, KEYS), **(terms | changes))


def test_renewal_before_and_after_the_end() -> None:
    for now in (ISSUED, END - 1, END, END + 180 * DAY - 1):
        renewable(issued(), now=now)
    renewable(issued(expires_at=None), now=END + 10_000 * DAY)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"device": OTHER_PHONE.thumbprint}, errors.LicenseDeviceError),
        ({"app": "com.example.camera2"}, errors.LicenseAudienceError),
        ({"environment": "development"}, errors.LicenseEnvironmentError),
        ({"revoked": True}, errors.LicenseRevokedError),
        ({"now": END + 180 * DAY}, errors.LicenseExpiredError),
        ({"now": END + 60, "window": 60}, errors.LicenseExpiredError),
    ],
    ids=["device", "app", "environment", "revoked", "expired", "after grace"],
)
def test_renewal_is_refused(changes: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        renewable(issued(), **changes)


# --- the device ----------------------------------------------------------------------------------


def test_another_device_key_opens_nothing() -> None:
    verified = Device().use(issued())
    with pytest.raises(errors.LicenseDeviceError):
        verified.license.open(OTHER_PHONE)
    with pytest.raises(errors.LicenseWrapError):
        OTHER_PHONE.open(verified.license.wrapped_key, verified.license.info)


def test_the_time_is_kept_before_it_is_judged() -> None:
    device = Device(wall=END)
    with pytest.raises(errors.LicenseExpiredError):
        device.use(issued())
    device.wall = END - 60
    with pytest.raises(errors.LicenseExpiredError):
        device.use(issued())


def test_an_unsaved_mark_unlocks_nothing() -> None:
    class Full(Device):
        def save(self, mark: Mark) -> None:
            raise FileAccessError("disk full")

    with pytest.raises(FileAccessError):
        Full().use(issued())


def test_rollback_and_reboot_offline() -> None:
    """The owner sets the clock back and restarts, over and over: the clock is refused once it is a day behind."""
    device, token = Device(), issued()
    refused = 0
    for step in range(60):
        device.wall, device.ticks, device.boot = ISSUED, 0, f"boot {step}"
        try:
            device.use(token)
        except errors.LicenseClockError:
            refused += 1
            continue
        device.ticks += DAY // 2
        device.wall += DAY // 2
        device.use(token)
    assert device.mark is not None
    assert device.mark.time > ISSUED + CLOCK_TOLERANCE
    assert refused > 50


def test_a_clock_wrong_by_years_does_not_outlive_its_license() -> None:
    device = Device(wall=ISSUED + 3650 * DAY)
    with pytest.raises(errors.LicenseExpiredError):
        device.use(issued())
    device.wall = ISSUED + 31 * DAY
    fresh = issued(issued_at=ISSUED + 31 * DAY, expires_at=ISSUED + 61 * DAY)
    assert device.use(fresh).state == "valid"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, END + 400 * DAY), st.integers(0, 40 * DAY), st.sampled_from("ab"), st.sampled_from([0, 1, 2])
        ),
        max_size=12,
    )
)
def test_time_never_runs_backwards(steps: list[tuple[int, int, str, int]]) -> None:
    """Whatever the clocks read, whichever license is used: the mark never falls, and what has ended stays ended."""
    tokens = [TOKENS[0], TOKENS[1], TOKENS[2]]
    ended: set[int] = set()
    device = Device()
    for wall, ticks, boot, which in steps:
        device.wall, device.ticks, device.boot = wall, ticks, boot
        before = device.mark
        try:
            verified = device.use(tokens[which])
            assert which not in ended
            assert verified.now >= verified.license.issued_at
        except errors.LicenseExpiredError:
            ended.add(which)
        except errors.LicenseClockError:
            pass
        assert device.mark is not None
        assert before is None or device.mark.time >= before.time


TOKENS = [issued(), issued(expires_at=END + 60 * DAY), issued(expires_at=None)]


def test_grace_is_not_counted_into_the_mark_of_others() -> None:
    device = Device(wall=END + DAY)
    assert device.use(issued(), Expected(**{**EXPECTED.__dict__, "offline_grace": 2 * DAY})).state == "grace"
    with pytest.raises(errors.LicenseExpiredError):
        device.use(issued())


def test_mark_file(tmp_path: Path) -> None:
    store = FileMarkStore(tmp_path / "mark.json")
    assert store.load() is None
    store.save(Mark(5, 6, "boot"))
    store.save(Mark(7, 8, "boot"))
    assert store.load() == Mark(7, 8, "boot")
    assert stat.S_IMODE((tmp_path / "mark.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["mark.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"time":1,"ticks":true,"boot":"x"}',
        b'{"time":"1","ticks":1,"boot":"x"}',
        b'{"time":1,"ticks":1,"boot":1}',
    ],
)
def test_a_damaged_mark_is_refused(tmp_path: Path, content: bytes) -> None:
    """It must not count as a device's first start."""
    (tmp_path / "mark.json").write_bytes(content)
    with pytest.raises(errors.LicenseClockError):
        FileMarkStore(tmp_path / "mark.json").load()


def test_an_unreadable_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mark.json").mkdir()
    with pytest.raises(FileAccessError):
        FileMarkStore(tmp_path / "mark.json").load()


def test_this_machine_has_clocks() -> None:
    first, second = system_reading(), system_reading()
    assert first.boot == second.boot or not Path("/proc/sys/kernel/random/boot_id").exists()
    assert 0 <= second.ticks - first.ticks <= 5
    assert 0 <= second.wall - first.wall <= 5


# --- keys and tokens -----------------------------------------------------------------------------


def test_signing_keys_are_on_p256() -> None:
    with pytest.raises(ConfigError):
        SoftwareSigner(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(ConfigError):
        TrustedKeys([ec.generate_private_key(ec.SECP384R1()).public_key()])
    with pytest.raises(ConfigError):
        TrustedKeys.of_jwks([{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}])


def test_there_is_a_bounded_number_of_trusted_keys() -> None:
    with pytest.raises(ConfigError):
        TrustedKeys([])
    many = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(MAX_TRUSTED_KEYS + 1)]
    TrustedKeys(many[:-1])
    with pytest.raises(ConfigError):
        TrustedKeys(many)


def test_a_key_can_be_rotated() -> None:
    new = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    both = TrustedKeys([SERVICE.public_key, new.public_key])
    token = issued()
    assert read_license(token, both).tier == "full"
    with pytest.raises(errors.LicenseSignatureError):
        read_license(token, TrustedKeys([new.public_key]))


def test_json_of_any_shape_is_read_or_refused() -> None:
    assert parse_object(b'{"a":[1,{"b":null}],"c":"\\u00e9","d":-9007199254740991}') == {
        "a": [1, {"b": None}],
        "c": "é",
        "d": -9007199254740991,
    }
    bad = [
        b"",
        b"{",
        b"[1]",
        b"1",
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":Infinity}',
        b'{"a":-9007199254740992}',
    ]
    bad += [
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\udc00"}',
        b'{"\\udc00":1}',
        b"\xef\xbb\xbf{}",
        b'{"a":1}x',
        b'{"a":"\n"}',
    ]
    bad += [b"{" * 100_000, b"[" * 100_000, b'{"a":' * 100_000]
    for data in bad:
        with pytest.raises(ValueError, match=r"."):
            parse_object(data)


def test_depth_is_refused_wherever_it_is_found() -> None:
    """Where the interpreter gives up depends on its stack: every depth about its limit, in a header that is unsigned."""
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit() + 10):
        header = jose.encode_base64url(b'{"x":' + b"[" * depth + b'"\\u0041"' + b"]" * depth + b"}")
        with pytest.raises((errors.LicenseFormatError, errors.LicenseTypeError)):
            read_license(f"{header}.e30.AAAA", KEYS)


def test_refusals_are_corelocker_errors_with_codes_of_their_own() -> None:
    kinds: list[type[CoreLockerError]] = []
    todo: list[type[CoreLockerError]] = [errors.LicensingError]
    while todo:
        kind = todo.pop()
        kinds.append(kind)
        todo += kind.__subclasses__()
    # A subclass without a code of its own is its base, with details for the operator.
    codes = [kind.code for kind in kinds if "code" in vars(kind)]
    assert len(set(codes)) == len(codes)
    assert not any(code == "error" for code in codes)


def test_a_grant_is_no_license() -> None:
    claims = parse_object(jose.decode_base64url(issued().split(".")[1]))
    with pytest.raises(errors.LicenseTypeError):
        read_license(write_token(claims, "corelocker-grant+jwt", SERVICE), KEYS)


def test_info_leaves_out_wk_alone() -> None:
    claims: dict[str, object] = {"wk": "x", "a": 1}
    assert license_info(claims) == license_info({"a": 1})
    assert license_info(claims) != license_info({"a": 1, "wk2": "x"})
    with pytest.raises(errors.LicenseFormatError):
        license_info({"a": 2**60})
